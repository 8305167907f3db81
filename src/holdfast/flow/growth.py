"""How fast adjoints grow or shrink with lag, and how far back they reach: plain numbers from log norms.

B windows, T steps, K lags.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from holdfast.errors import OptionError, Problem


@dataclass(frozen=True)
class Profile:
    """Log norms over the windows, one value per step or per lag.

    Attributes:
        mean: Mean of the natural log norm over the windows whose norm is not zero there; -inf where all are zero, nan
            where there is no window.
        quantiles: For each probability p the log norm of the window that stands at floor(p (B - 1)) in rising order,
            counted from 0, zeros included as -inf: an observed value, never one in between.
        zeros: Share of windows whose norm is exactly zero.

    Example:
        >>> growth(torch.tensor([[-2.0, -1.0], [-4.0, -1.0]])).per_lag.mean
        (-1.0, -3.0)
    """

    mean: tuple[float, ...]
    quantiles: dict[float, tuple[float, ...]]
    zeros: tuple[float, ...]


@dataclass(frozen=True)
class Growth:
    """How the norm of an adjoint goes with lag.

    Attributes:
        per_step: Log norms at t = 1 to T.
        per_lag: Log norms at lag 0, 1, ..., counted window by window from the last step whose norm is not zero: the
            last one that reaches the loss. Steps behind it, masked steps and windows without any are left out.
        windows: Windows that reach the loss.
        rate: Growth rate per step back: exp of the slope of the log norm over the lags, by ordinary least squares in
            each window over the lags where its norm is not zero, then the mean over windows; below 1 it vanishes, above
            1 it explodes. Zero where the norm is zero from lag 1 on; nan where there is but one lag.
        rate_error: Standard error of `rate`, from the spread of the slopes over windows (lags of one window hang
            together and would feign precision); nan for less than two windows.
        memory_length: The first lag at which the mean has fallen below `fraction` of its value at lag 0; None if it
            does not within the context.
        fraction: The share that counts as forgotten.
        zero_lag: The first lag from which on all norms are exactly zero; None if there is none.
        log_factor: Natural logarithm of the total factor over the context: mean at the last lag less that at lag 0.

    Example:
        >>> found = growth(torch.tensor([[-6.0, -4.0, -2.0, 0.0], [-3.0, -2.0, -1.0, 0.0]]), fraction=0.1)
        >>> round(math.log(found.rate), 6), found.memory_length, found.log_factor
        (-1.5, 2, -4.5)
    """

    per_step: Profile
    per_lag: Profile
    windows: int
    rate: float
    rate_error: float
    memory_length: int | None
    fraction: float
    zero_lag: int | None
    log_factor: float


def growth(
    log_norm_BT: Tensor,
    mask_BT: Tensor | None = None,
    *,
    reverse: bool = False,
    fraction: float = 0.01,
    probabilities: Sequence[float] = (0.1, 0.5, 0.9),
) -> Growth:
    """Growth rate, memory length and profiles of adjoint norms over the windows of a batch.

    log ||dL/dh_{T-k}|| = intercept + k log(rate) + noise.

    Args:
        log_norm_BT: Natural logarithms of norms, as in `Adjoints`; -inf is a norm of zero.
        mask_BT: Where there is a step; everywhere by default.
        reverse: Whether the layer runs from t = T to t = 1, so that lags count from t = 1 upwards.
        fraction: Share of the norm at lag 0 below which it counts as forgotten, above 0 and below 1.
        probabilities: Of the quantiles over windows, in [0, 1].

    Returns:
        Plain numbers.

    Raises:
        OptionError: Log norms that are no table of windows and steps, a mask of another shape, a fraction or
            probability outside its range.

    Example:
        >>> log_norm_BT = math.log(0.5) * torch.tensor([[3.0, 2.0, 1.0, 0.0]])
        >>> found = growth(log_norm_BT, fraction=0.3)
        >>> round(found.rate, 6), found.memory_length
        (0.5, 2)
    """
    logs = log_norm_BT.detach().double().cpu()
    mask = torch.ones_like(logs, dtype=torch.bool) if mask_BT is None else mask_BT.detach().bool().cpu()
    _check(logs, mask, fraction, probabilities)
    lagged, there = _lagged(logs, mask, reverse)
    per_lag = _profile(lagged, there, probabilities)
    rate, error = _rate(lagged, there)
    mean = per_lag.mean
    forgotten = [lag for lag, value in enumerate(mean) if value < mean[0] + math.log(fraction)]
    zero = len(mean)
    while zero and mean[zero - 1] == -math.inf:
        zero -= 1
    return Growth(
        per_step=_profile(logs, mask, probabilities),
        per_lag=per_lag,
        windows=len(lagged),
        rate=rate,
        rate_error=error,
        memory_length=forgotten[0] if forgotten else None,
        fraction=fraction,
        zero_lag=zero if zero < len(mean) else None,
        log_factor=mean[-1] - mean[0] if mean else math.nan,
    )


def calendar_time(steps: float, seconds_per_step: float) -> str:
    """A number of steps in words of the calendar, in the largest unit that there is at least one of.

    Args:
        steps: How many steps, at least 0.
        seconds_per_step: Duration of one step, above 0.

    Returns:
        A number of two digits or of all digits before the point, and its unit, from seconds to years of 365.2425 days.

    Raises:
        OptionError: A number outside its range.

    Example:
        >>> calendar_time(77, 3600.0), calendar_time(24, 3600), calendar_time(36, 30 * 86400)
        ('3.2 days', '1 day', '3 years')
    """
    problems = []
    if not 0 <= steps < math.inf:
        problems.append(Problem("steps of calendar_time", "a number of at least 0", repr(steps), "give a lag"))
    if not 0 < seconds_per_step < math.inf:
        fix = "give the duration of one step in seconds, 3600.0 for hourly data"
        problems.append(Problem("seconds_per_step", "a number above 0", repr(seconds_per_step), fix))
    if problems:
        raise OptionError(problems)
    unit, size = _unit(steps * seconds_per_step)
    # Once more: 23.99 hours are 24, and these are a day.
    unit, size = _unit(float(_digits(steps * seconds_per_step / size)) * size)
    text = _digits(steps * seconds_per_step / size)
    return f"{text} {unit}" if text == "1" else f"{text} {unit}s"


def _unit(seconds: float) -> tuple[str, float]:
    """The largest unit that there is at least one of, or a second; and its seconds."""
    units = {"year": 365.2425 * 86400, "day": 86400.0, "hour": 3600.0, "minute": 60.0}
    return next(((unit, size) for unit, size in units.items() if seconds >= size), ("second", 1.0))


def _digits(amount: float) -> str:
    return f"{amount:.0f}" if amount >= 99.5 or amount == 0 else f"{amount:.2g}"


def _check(logs: Tensor, mask: Tensor, fraction: float, probabilities: Sequence[float]) -> None:
    problems = []
    if logs.dim() != 2 or 0 in logs.shape:
        fix = "give Adjoints.log_norm_BT, windows by steps"
        problems.append(Problem("log_norm_BT", "[B, T] with B, T >= 1", str(list(logs.shape)), fix))
    if mask.shape != logs.shape:
        fix = "give Adjoints.mask_BT of the same layer"
        problems.append(Problem("mask_BT", f"the shape {list(logs.shape)}", str(list(mask.shape)), fix))
    if not 0 < fraction < 1:
        problems.append(Problem("fraction", "above 0 and below 1", repr(fraction), "give fraction=0.01"))
    wrong = [probability for probability in probabilities if not 0 <= probability <= 1]
    if wrong:
        fix = "give for instance probabilities=(0.1, 0.5, 0.9)"
        problems.append(Problem("probabilities", "numbers in [0, 1]", repr(wrong), fix))
    if problems:
        raise OptionError(problems)


def _lagged(logs_BT: Tensor, mask_BT: Tensor, reverse: bool) -> tuple[Tensor, Tensor]:
    """Log norms by lag [B, K], of windows that reach the loss, and where there are any."""
    rows = []
    for logs_T, mask_T in zip(logs_BT, mask_BT, strict=True):
        row = logs_T[mask_T] if reverse else logs_T[mask_T].flip(0)
        reaching = (row != -math.inf).nonzero()
        if len(reaching):
            rows.append(row[int(reaching[0]) :])
    if not rows:
        return logs_BT.new_empty(0, 0), mask_BT.new_empty(0, 0)
    lengths = torch.tensor([len(row) for row in rows])
    lagged = torch.nn.utils.rnn.pad_sequence(rows, batch_first=True, padding_value=math.nan)
    return lagged, torch.arange(lagged.shape[1]) < lengths[:, None]


def _profile(logs: Tensor, there: Tensor, probabilities: Sequence[float]) -> Profile:
    """Mean, quantiles and share of zeros of each column."""
    means, zeros, quantiles = [], [], []
    for column, mask in zip(logs.unbind(1), there.unbind(1), strict=True):
        values = column[mask]
        alive = values[values != -math.inf]
        means.append(alive.mean().item() if len(alive) else -math.inf if len(values) else math.nan)
        zeros.append(1 - len(alive) / len(values) if len(values) else math.nan)
        ordered = values.sort().values.tolist()
        finite = not values.isnan().any()
        quantiles.append(
            [ordered[math.floor(p * (len(ordered) - 1))] if ordered and finite else math.nan for p in probabilities]
        )
    by_probability = {p: tuple(row[at] for row in quantiles) for at, p in enumerate(probabilities)}
    return Profile(tuple(means), by_probability, tuple(zeros))


def _rate(lagged: Tensor, there: Tensor) -> tuple[float, float]:
    """Growth rate: exp of the mean slope over windows, and its standard error."""
    slopes = []
    for row, mask in zip(lagged, there, strict=True):
        use = mask & (row != -math.inf)
        lags, values = use.nonzero().flatten().double(), row[use]
        if len(lags) > 1:
            centred = lags - lags.mean()
            slopes.append((centred @ (values - values.mean())) / (centred @ centred))
        elif mask.sum() > 1:  # nothing but lag 0
            slopes.append(row.new_tensor(-math.inf))
    if not slopes:
        return math.nan, math.nan
    alive = torch.stack([slope for slope in slopes if slope != -math.inf] or slopes)
    rate = torch.exp(alive.mean()).item()
    if len(alive) < 2 or rate == 0:
        return rate, math.nan
    return rate, rate * float(alive.std()) / math.sqrt(len(alive))
