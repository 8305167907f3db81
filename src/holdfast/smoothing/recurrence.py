"""Exponential smoothing of many series with many parameter sets in one pass over the rows.

Shapes: N series, T rows, L parameter sets, F horizon steps, K leads, m season length.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float64]
Ints = NDArray[np.int64]


@dataclass(frozen=True)
class Parameters:
    """L sets of smoothing parameters.

    Attributes:
        alpha_L: Of the level, above 0 and at most 1.
        beta_L: Of the trend, as a share of alpha; 0 keeps the trend of the start.
        gamma_L: Of the season, as a share of 1 - alpha; 0 keeps the season of the start.
        phi_L: What is left of the trend after each step, at most 1.
    """

    alpha_L: Floats
    beta_L: Floats
    gamma_L: Floats
    phi_L: Floats

    def damping(self, horizon: int) -> Floats:
        """The sums of phi, phi^2, ... phi^k for k = 1..F [F, L].

        Example:
            >>> one = np.ones(1)
            >>> Parameters(one, one, one, 0.5 * one).damping(3)[:, 0].tolist()
            [0.5, 0.75, 0.875]
        """
        sums_FL: Floats = np.cumsum(self.phi_L ** np.arange(1, horizon + 1)[:, None], axis=0)
        return sums_FL


@dataclass(frozen=True)
class State:
    """Level, trend and season before a row.

    Attributes:
        level_NL: Level.
        trend_NL: Change per step.
        season_mNL: What each phase adds; the phase of row t is t mod m.
    """

    level_NL: Floats
    trend_NL: Floats
    season_mNL: Floats


def states(y_NT: Floats, start: State, parameters: Parameters) -> Iterator[State]:
    """The state before each row, and after the last one: T + 1 states.

        e_t = y_t - (l + phi b + s_t)
        l  <- l + phi b + alpha e_t,   b <- phi b + alpha beta e_t,   s_t <- s_t + gamma (1 - alpha) e_t

    the additive models A,N,N to A,Ad,A in error-correction form. A missing value leaves level and season as they were
    expected. The arrays of a state are valid until the next one is asked for.

    Args:
        y_NT: Values, nan where missing.
        start: Before the first row; it is not changed.
        parameters: L sets.

    Example:
        >>> one = np.ones((1, 1))
        >>> half = Parameters(*(np.array([value]) for value in (0.5, 0.0, 0.0, 1.0)))
        >>> begin = State(4.0 * one, 0.0 * one, 0.0 * one[None])
        >>> [state.level_NL.item() for state in states(np.array([[8.0, np.nan, 2.0]]), begin, half)]
        [4.0, 6.0, 6.0, 4.0]

    Reference: Hyndman, Koehler, Ord and Snyder, Forecasting with Exponential Smoothing (2008), table 2.1.
    """
    alpha_L, phi_L = parameters.alpha_L, parameters.phi_L
    slope_L, turn_L = alpha_L * parameters.beta_L, parameters.gamma_L * (1 - alpha_L)
    level_NL, trend_NL, season_mNL = start.level_NL, start.trend_NL, start.season_mNL.copy()
    for t in range(y_NT.shape[1] + 1):
        yield State(level_NL, trend_NL, season_mNL)
        if t == y_NT.shape[1]:
            return
        phase = t % len(season_mNL)
        damped_NL = phi_L * trend_NL
        expected_NL = level_NL + damped_NL
        error_NL = np.nan_to_num(y_NT[:, t : t + 1] - expected_NL - season_mNL[phase])
        level_NL = expected_NL + alpha_L * error_NL
        trend_NL = damped_NL + slope_L * error_NL
        season_mNL[phase] += turn_L * error_NL


def ahead(state: State, damping_L: Floats, phase: int) -> Floats:
    """The forecast from a state: level, damped trend, and the season of a phase [N, L]."""
    forecast_NL: Floats = state.level_NL + state.trend_NL * damping_L + state.season_mNL[phase]
    return forecast_NL


def line(y_NT: Floats) -> tuple[Floats, Floats]:
    """Level before the first row and slope per row of a line through the values of each series (least squares).

    Example:
        >>> [part.tolist() for part in line(np.array([[3.0, np.nan, 7.0], [5.0, np.nan, np.nan]]))]
        [[1.0, 5.0], [2.0, 0.0]]
    """
    seen_NT = np.isfinite(y_NT)
    count_N = np.maximum(seen_NT.sum(1), 1)
    row_T = np.arange(1.0, y_NT.shape[1] + 1)
    middle_N, mean_N = (seen_NT * row_T).sum(1) / count_N, np.where(seen_NT, y_NT, 0.0).sum(1) / count_N
    away_NT = np.where(seen_NT, row_T - middle_N[:, None], 0.0)
    square_N = (away_NT**2).sum(1)
    above_NT = np.where(seen_NT, y_NT - mean_N[:, None], 0.0)
    slope_N = np.where(square_N > 0, (away_NT * above_NT).sum(1) / np.where(square_N > 0, square_N, 1.0), 0.0)
    return mean_N - slope_N * middle_N, slope_N


def first_season(y_NT: Floats, season: int, seasons: int) -> Floats:
    """What each phase adds in the first whole seasons, without their trend; sums to 0 [N, m].

    Args:
        y_NT: Values, nan where missing.
        season: m.
        seasons: How many of them to look at, as far as there are so many.

    Example:
        >>> first_season(np.array([[1.0, 5.0, 3.0, 7.0]]), season=2, seasons=3).tolist()
        [[-1.5, 1.5]]
    """
    whole = min(seasons, y_NT.shape[1] // season)
    if season == 1 or not whole:
        return np.zeros((len(y_NT), season))
    y_NKm = y_NT[:, : whole * season].reshape(len(y_NT), whole, season)
    rows_N = np.where(np.isfinite(y_NT), np.arange(1, y_NT.shape[1] + 1), 0).max(1)
    last_K = season * np.arange(1, whole + 1)
    y_NKm = np.where((last_K <= rows_N[:, None])[..., None], y_NKm, np.nan)  # a shorter series has fewer
    slope_N = line(_mean(y_NKm, 2))[1] / season
    row_Km = np.arange(whole * season).reshape(whole, season)
    phase_Nm = np.nan_to_num(_mean(y_NKm - slope_N[:, None, None] * row_Km, 1) - _mean(_mean(y_NKm, 2), 1)[:, None])
    centred_Nm: Floats = phase_Nm - phase_Nm.mean(1, keepdims=True)
    return centred_Nm


def _mean(values: Floats, axis: int) -> Floats:
    """Mean of what is not missing; nan where all is."""
    seen = np.isfinite(values)
    count = seen.sum(axis)
    return np.where(count > 0, np.where(seen, values, 0.0).sum(axis) / np.maximum(count, 1), np.nan)


def product(*choices: Sequence[float]) -> Parameters:
    """All combinations of alpha, beta, gamma and phi.

    Example:
        >>> product((0.1, 0.5), (0.0,), (0.0, 0.3), (1.0,)).gamma_L.tolist()
        [0.0, 0.3, 0.0, 0.3]
    """
    return Parameters(*(grid.ravel().astype(np.float64) for grid in np.meshgrid(*choices, indexing="ij")))
