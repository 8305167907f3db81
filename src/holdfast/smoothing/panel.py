"""One forecast per series out of all kinds of exponential smoothing.

Shapes: N series, T rows, L parameter sets, F horizon steps, K leads, J kinds, m season length.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TypeVar

import numpy as np
from numpy.typing import NDArray

from holdfast.smoothing.recurrence import Floats, Ints, Parameters, State, ahead, first_season, line, product, states

ALPHAS = (0.05, 0.1, 0.2, 0.35, 0.5, 0.7, 0.9)
GAMMAS = (0.0, 0.1, 0.3)  # of the season
# The kinds of trend: how it starts, and the betas and phis that are tried.
TRENDS: dict[str, tuple[tuple[float, ...], tuple[float, ...]]] = {
    "none": ((0.0,), (1.0,)),
    "theta": ((0.0,), (1.0,)),
    "damped": ((0.1, 0.3), (0.9,)),
    "holt": ((0.05, 0.15), (0.98,)),
}
POWER = 4.0  # a kind whose error is twice as large counts 1/16
FIRST_SEASONS, FIRST_ROWS = 3, 10  # that the start is read from
LOG_RANGE = 2.0  # the largest value over the smallest, from which changes may be in percent
LONGEST, LONGEST_SEASONS = 256, 6  # rows that are looked at, the newest: so many, or so many seasons
T = TypeVar("T", Parameters, State)
FARTHEST = 3.0  # ranges of the series beyond its extremes: no forecast lies farther out


@dataclass(frozen=True)
class Histories:
    """Series up to their cutoffs, first rows first.

    Attributes:
        y_NT: Values; nan where missing, and after the last row of a shorter series.
        rows_N: Rows of each series, at least 1.

    Example:
        >>> histories = Histories(np.array([[1.0, 2.0, 3.0, 4.0], [7.0, 7.0, np.nan, np.nan]]), np.array([4, 2]))
        >>> smoothing_forecasts(histories, season=1, horizon=2).round(1).tolist()
        [[4.9, 5.8], [7.0, 7.0]]
    """

    y_NT: Floats
    rows_N: Ints

    @classmethod
    def before(cls, y_R: Floats, start_N: Ints, cutoff_N: Ints, season: int) -> Histories:
        """The newest rows before each cutoff: 256, or six seasons.

        Args:
            y_R: Values of all series, nan where missing.
            start_N: First row of each series in them.
            cutoff_N: Rows that may be seen, at least 1.
            season: m.

        Example:
            >>> Histories.before(np.arange(9.0), np.array([0, 4]), np.array([3, 2]), season=1).y_NT.tolist()
            [[0.0, 1.0, 2.0], [4.0, 5.0, nan]]
        """
        rows_N = np.minimum(cutoff_N, max(LONGEST, LONGEST_SEASONS * season))
        row_NT = np.arange(rows_N.max(initial=1)) + (start_N + cutoff_N - rows_N)[:, None]
        inside_NT = np.arange(row_NT.shape[1]) < rows_N[:, None]
        return cls(np.where(inside_NT, y_R[np.where(inside_NT, row_NT, 0)], np.nan), rows_N)


def smoothing_forecasts(histories: Histories, season: int, horizon: int) -> Floats:
    """The mean of all kinds of exponential smoothing, those with small errors counting more.

    Kinds are all combinations of a trend (none; half the slope of all rows, as Theta has it; damped; Holt's), a season
    (none; one that is learned) and what changes are measured in (units; percent, for positive series that vary by a
    factor of two). For each kind and series, the smoothing parameters are those of a coarse grid with the smallest mean
    absolute error inside the history, one step and a third of a season ahead. The kinds are averaged with weights in
    proportion to that error to the power of -4.

    Args:
        histories: N series. One without any value is forecast as 0.
        season: m, in steps; 1: none.
        horizon: F.

    Returns:
        forecast_NF, in the units of the data.

    Example:
        >>> y_NT = 100 * 1.02 ** np.arange(36.0)[None] + 10 * (np.arange(36) % 4 == 0)
        >>> histories = Histories(y_NT[:, :32], np.array([32]))
        >>> (smoothing_forecasts(histories, season=4, horizon=4) / y_NT[:, 32:]).round(2).tolist()
        [[1.0, 0.99, 0.98, 0.98]]

    Reference: Hyndman, Koehler, Ord and Snyder (2008); Theta as smoothing with drift: Hyndman and Billah (2003).
    """
    level_N, low_N, high_N = _extremes(histories.y_NT)
    around = Histories(histories.y_NT - level_N[:, None], histories.rows_N)  # a level of 1e12 leaves no digits
    positive_N = (low_N > 0) & (high_N >= LOG_RANGE * low_N)
    errors, forecasts = [], []
    for periods in dict.fromkeys((season, 1)):
        fits_N = histories.rows_N >= 2 * periods + 2 if periods > 1 else np.ones(len(level_N), dtype=bool)
        for logs in (False, True):
            usable_N = fits_N & positive_N if logs else fits_N
            if not usable_N.any():
                continue
            error_JN, forecast_JNF = _best(_log(histories, usable_N) if logs else around, periods, horizon, logs)
            errors.append(np.where(usable_N, error_JN, np.inf))
            forecasts.append(forecast_JNF - level_N[:, None] if logs else forecast_JNF)
    weight_JN = _weights(np.concatenate(errors))
    reach_N1 = FARTHEST * (high_N - low_N)[:, None]
    away_JNF = np.clip(
        np.concatenate(forecasts), (low_N - level_N)[:, None] - reach_N1, (high_N - level_N)[:, None] + reach_N1
    )
    mean_NF: Floats = level_N[:, None] + (weight_JN[..., None] * away_JNF).sum(0)
    return mean_NF


def _extremes(y_NT: Floats) -> tuple[Floats, Floats, Floats]:
    """The newest, the smallest and the largest value of each series; 0 without one."""
    seen_NT = np.isfinite(y_NT)
    newest_N = np.maximum(np.where(seen_NT, np.arange(y_NT.shape[1]), -1).max(1), 0)
    newest = np.take_along_axis(y_NT, newest_N[:, None], 1)[:, 0]
    low_N, high_N = np.where(seen_NT, y_NT, np.inf).min(1), np.where(seen_NT, y_NT, -np.inf).max(1)
    none_N = ~seen_NT.any(1)
    return tuple(np.where(none_N, 0.0, values) for values in (newest, low_N, high_N))  # type: ignore[return-value]


def _log(histories: Histories, usable_N: NDArray[np.bool_]) -> Histories:
    return Histories(np.log(np.where(usable_N[:, None], histories.y_NT, 1.0)), histories.rows_N)


def _best(histories: Histories, season: int, horizon: int, logs: bool) -> tuple[Floats, Floats]:
    """Errors inside the history [J, N] and forecasts [J, N, F] of the best parameters of each kind of trend."""
    y_NT, rows_N = histories.y_NT, histories.rows_N
    grids = [product(ALPHAS, betas, GAMMAS if season > 1 else (0.0,), phis) for betas, phis in TRENDS.values()]
    begin = joined([start(y_NT, trend, season, len(grid.alpha_L)) for trend, grid in zip(TRENDS, grids, strict=True)])
    parameters, last_J = joined(grids), np.cumsum([len(grid.alpha_L) for grid in grids])
    lanes = [slice(last - len(grid.alpha_L), last) for last, grid in zip(last_J.tolist(), grids, strict=True)]
    damping_FL = parameters.damping(max(horizon, season))
    leads = tuple(dict.fromkeys((1, max(min(season, horizon) // 3, 1))))
    back: Callable[[Floats], Floats] = _percent(y_NT) if logs else _same
    error_NL, forecast_JNF = np.zeros(begin.level_NL.shape), np.zeros((len(grids), len(y_NT), horizon))
    warm_N1, count_N1 = np.minimum(season, rows_N // 2)[:, None], np.zeros((len(y_NT), 1))
    for t, state in enumerate(states(y_NT, begin, parameters)):
        for lead in leads:
            if t + lead <= y_NT.shape[1]:
                target_N1 = np.where(t >= warm_N1, y_NT[:, t + lead - 1 : t + lead], np.nan)
                expected_NL = ahead(state, damping_FL[lead - 1], (t + lead - 1) % season)
                error_NL += np.abs(np.nan_to_num(back(target_N1) - back(expected_NL)))
                count_N1 += np.isfinite(target_N1)
        ends_E = np.flatnonzero(rows_N == t)
        if len(ends_E):
            best_EJ = np.stack([each.start + error_NL[ends_E, each].argmin(1) for each in lanes], 1)
            chosen = State(*(part[..., ends_E[:, None], best_EJ] for part in vars(state).values()))
            each_EJ = [ahead(chosen, damping_FL[k, best_EJ], (t + k) % season) for k in range(horizon)]
            forecast_JNF[:, ends_E] = np.stack(each_EJ).transpose(2, 1, 0)
    error_JN = np.stack([error_NL[:, each].min(1) for each in lanes])
    error_JN = np.where(count_N1[:, 0] > 0, error_JN / np.maximum(count_N1[:, 0], 1), np.inf)
    return error_JN, back(forecast_JNF)


def joined(parts: Sequence[T]) -> T:
    """Parameter sets or states one after the other, along the last dimension."""
    fields = (np.concatenate(each, axis=-1) for each in zip(*(vars(part).values() for part in parts), strict=True))
    return type(parts[0])(*fields)


def _same(values: Floats) -> Floats:
    return values


def _percent(log_NT: Floats) -> Callable[[Floats], Floats]:
    """From logarithms back to units, not beyond a few times the largest value of a series."""
    most_N1 = np.nan_to_num(np.where(np.isfinite(log_NT), log_NT, -np.inf).max(1, keepdims=True), neginf=0.0)
    return lambda values: np.exp(np.minimum(values, most_N1 + np.log(1 + FARTHEST)))


def start(y_NT: Floats, trend: str, season: int, count: int) -> State:
    """Where smoothing starts: the season of the first seasons, level and trend without it.

    Args:
        y_NT: Values, nan where missing.
        trend: One of `TRENDS`.
        season: m.
        count: Parameter sets; all start alike.

    Example:
        >>> y_NT = np.array([[2.0, 3.0, 4.0, 5.0, 6.0]])
        >>> [start(y_NT, trend, 1, 1).trend_NL.item() for trend in ("none", "theta", "holt")]
        [0.0, 0.5, 1.0]
    """
    season_Nm = first_season(y_NT, season, FIRST_SEASONS)
    plain_NT = y_NT - season_Nm[:, np.arange(y_NT.shape[1]) % season]
    level_N, slope_N = line(plain_NT[:, : max(FIRST_ROWS, FIRST_SEASONS * season)])
    if trend in ("none", "theta"):
        few_NT = plain_NT[:, : max(season, 3)]
        seen_NT = np.isfinite(few_NT)
        some_N = seen_NT.any(1)
        mean_N = np.where(seen_NT, few_NT, 0.0).sum(1) / np.maximum(seen_NT.sum(1), 1)
        level_N = np.where(some_N, mean_N, level_N)
        slope_N = line(plain_NT)[1] / 2 if trend == "theta" else np.zeros_like(slope_N)
    wide = (len(y_NT), count)
    season_mNL = np.repeat(season_Nm.T[:, :, None], count, axis=2)
    return State(np.broadcast_to(level_N[:, None], wide), np.broadcast_to(slope_N[:, None], wide), season_mNL)


def _weights(error_JN: Floats) -> Floats:
    """Shares in proportion to error ** -4; equal among those without an error, and where none is known."""
    known_JN = np.isfinite(error_JN)
    least_N = np.where(known_JN.any(0), error_JN.min(0, initial=np.finfo(np.float64).max, where=known_JN), 1.0)
    ratio_JN = np.where(error_JN > least_N, least_N / np.where(known_JN & (error_JN > 0), error_JN, 1.0), 1.0)
    share_JN = np.where(known_JN | ~known_JN.any(0), ratio_JN**POWER, 0.0)
    total: Floats = share_JN / share_JN.sum(0)
    return total
