"""How much of a forecast is the network's and how much exponential smoothing's: decided on held-out windows.

Shapes: V validation windows, W windows, F horizon steps, S shares.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from torch import Tensor

from holdfast.forecasting.predict import predict_windows, smoothed
from holdfast.networks import ForecastNetwork, NegativeBinomialHead, SigmoidHead
from holdfast.training import Split
from holdfast.windows import Windows

Floats = NDArray[np.float64]

SHARES = tuple(k / 10 for k in range(11))  # of the network that are tried
EVEN = 0.5  # the share where nothing says that another is better
WIDTH_LEVEL = 80.0  # percent; few windows say little about higher levels, and lower ones little about the tails
FEW_SERIES = 20  # with so many, the measured width counts half: many series make quantiles right by themselves
NARROWER = 20  # windows that it takes to make intervals half as much narrower as they measure


@dataclass(frozen=True)
class Blending:
    """What was measured.

    Attributes:
        share: Of the network, from 0 to 1.
        width: Factor of the intervals.
        windows: Held-out windows that decided.
        gain: Share of the network's error that the mixture avoids; 0 where nothing was measured.
    """

    share: float
    width: float
    windows: int
    gain: float

    def __str__(self) -> str:
        """One line for the summary.

        Example:
            >>> print(Blending(0.4, 1.1, 256, 0.063))
            forecasts: 40 % network, 60 % exponential smoothing; errors on 256 held-out windows are 6.3 % smaller than
            the network's
        """
        if not self.windows:
            return "forecasts: half network, half exponential smoothing; nothing could be held out to choose by"
        if self.share == 1:
            return f"forecasts: the network alone, no worse than with exponential smoothing on {self.windows} windows"
        parts = f"{self.share:.0%} network, {1 - self.share:.0%} exponential smoothing".replace("%", " %")
        than = f"{abs(100 * self.gain):.1f} % {'smaller' if self.gain >= 0 else 'larger'} than the network's"
        return f"forecasts: {parts}; errors on {self.windows} held-out windows are {than}"


def can_blend(network: ForecastNetwork) -> bool:
    """Whether the head's forecasts may be mixed with others: not where values are counts or have bounds."""
    return not isinstance(network.head, NegativeBinomialHead | SigmoidHead)


def choose_blend(network_VF: Floats, other_VF: Floats, target_VF: Floats, scale_V: Floats) -> tuple[float, float, int]:
    """The share of the network, by mean scaled absolute error, with a one-standard-error rule.

    Of the shares whose error is within one standard error of the difference to the best, the one nearest to one half:
    few windows leave an even mixture, many decide.

    Args:
        network_VF: Forecasts of the network.
        other_VF: Forecasts of the other kind.
        target_VF: Actual values, nan where missing.
        scale_V: Units of the errors.

    Returns:
        Share, the part of the network's error that it avoids, and the number of windows with a value.

    Example:
        >>> target_VF = np.array([[1.0], [2.0], [3.0], [5.0]])
        >>> share, gain, count = choose_blend(target_VF + 1, target_VF - 3, target_VF, np.ones(4))
        >>> share, round(gain, 2), count
        (0.7, 0.8, 4)
    """
    seen_V = np.isfinite(target_VF).any(1)
    count = int(seen_V.sum())
    if not count:
        return EVEN, 0.0, 0
    network_VF, other_VF, target_VF = network_VF[seen_V], other_VF[seen_V], target_VF[seen_V]
    mixed_SVF = np.stack([share * network_VF + (1 - share) * other_VF for share in SHARES])
    error_SV = np.nanmean(np.abs(mixed_SVF - target_VF), axis=2) / scale_V[seen_V]
    mean_S = error_SV.mean(1)
    best = int(mean_S.argmin())
    away_SV = error_SV - error_SV[best]
    doubt_S = away_SV.std(1, ddof=1) / np.sqrt(count) if count > 1 else np.full(len(SHARES), np.inf)
    near = [share for share, gap, doubt in zip(SHARES, mean_S - mean_S[best], doubt_S, strict=True) if gap <= doubt]
    share = min(near, key=lambda value: abs(value - EVEN))
    alone = float(mean_S[-1])
    return share, 1 - float(mean_S[SHARES.index(share)]) / alone if alone > 0 else 0.0, count


def choose_width(error_VF: Floats, half_VF: Floats, level: float) -> float:
    """The factor with which intervals of a level cover as many of the held-out values as they say.

    The level's quantile of error / half width, with the finite-sample correction of split conformal prediction over
    windows. Intervals become narrower only as far as there are windows that say so.

    Args:
        error_VF: Absolute errors, nan where unknown.
        half_VF: Half widths of the intervals.
        level: In percent.

    Example:
        >>> choose_width(np.arange(1.0, 101)[:, None], np.full((100, 1), 40.5), level=80)
        2.0

    Reference: Lei, G'Sell, Rinaldo, Tibshirani and Wasserman, Distribution-free predictive inference (2018).
    """
    known_VF = np.isfinite(error_VF) & (half_VF > 0)
    count = int(known_VF.any(1).sum())
    if not count:
        return 1.0
    ratio = error_VF[known_VF] / half_VF[known_VF]
    factor = float(np.quantile(ratio, min(level / 100 * (1 + 1 / count), 1.0), method="inverted_cdf"))
    if factor <= 0:
        return 1.0
    return factor if factor >= 1 else factor ** (count / (count + NARROWER))


def measure_blend(
    network: ForecastNetwork, windows: Windows, split: Split, error_scale_n: Tensor, levels: Sequence[float]
) -> Blending:
    """Decide the network's share and the width of its intervals on the validation windows, and set both in it.

    Args:
        network: A trained network; until now its forecasts are its own.
        windows: The series.
        split: Which windows to look at.
        error_scale_n: Units of the errors of each series.
        levels: Interval levels in percent; the one nearest to 80 decides the width.
    """
    network.blend.set()
    series_V, cutoff_V = split.validated_V, split.cutoff_V
    level = min(levels, key=lambda each: abs(each - WIDTH_LEVEL))
    if not can_blend(network):
        return Blending(1.0, 1.0, len(series_V), 0.0)
    horizon = network.config.horizon
    point_VF, border_VFQ = predict_windows([network], windows, series_V, cutoff_V, (level,))
    other_VF = smoothed(windows, series_V, cutoff_V, network.config.seasons, horizon)
    row_VF = (windows.start_n.cpu().numpy()[series_V] + cutoff_V)[:, None] + np.arange(horizon)
    target_VF = windows.y_R.cpu().numpy()[row_VF]
    share, gain, count = choose_blend(point_VF, other_VF, target_VF, error_scale_n.cpu().numpy()[series_V])
    error_VF = np.abs(share * point_VF + (1 - share) * other_VF - target_VF)
    width = choose_width(error_VF, (border_VFQ[..., 1] - border_VFQ[..., 0]) / 2, level)
    trust = FEW_SERIES / (FEW_SERIES + len(np.unique(series_V)))  # one horizon of many series is one anecdote
    blending = Blending(share, width**trust, count, gain)
    network.blend.set(blending.share, blending.width)
    return blending
