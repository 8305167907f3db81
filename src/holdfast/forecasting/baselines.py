"""Forecasts that need no training: the naive one that every score is compared with, and exponential smoothing.

Shapes: W windows, F horizon steps.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from holdfast.networks import NetworkConfig, Others
from holdfast.smoothing import Histories, smoothing_forecasts
from holdfast.training import error_scales
from holdfast.windows import Windows

LONGEST_SEASON = 64  # steps; smoothing learns one number per phase, and the hours of a week are too many
AT_ONCE = 4096  # windows; more of them would take memory and no less time


def seasonal_naive(values: NDArray[np.float64], season: int, horizon: int) -> NDArray[np.float64]:
    """Repeat the last season.

    The forecast of step T + k is the newest observed value at its phase, y_{T + k - m ceil(k / m)} where that is
    observed; a phase that was never observed takes the last observed value, and nan where there is none.

    Args:
        values: [T] history, nan where missing, in the units of the data.
        season: m, in steps; 1 repeats the last value.
        horizon: Steps to forecast.

    Returns:
        [horizon] forecasts.

    Example:
        >>> seasonal_naive(np.array([9.0, 1.0, 2.0, np.nan]), season=2, horizon=3).tolist()
        [2.0, 1.0, 2.0]
    """
    padded = np.concatenate([np.full(-len(values) % season, np.nan), values]).reshape(-1, season)
    seen = np.isfinite(padded)
    newest = len(padded) - 1 - np.argmax(seen[::-1], axis=0) if len(padded) else np.zeros(season, dtype=np.int64)
    last_season = padded[newest, np.arange(season)] if len(padded) else np.full(season, np.nan)
    observed = values[np.isfinite(values)]
    last = observed[-1] if len(observed) else np.nan
    last_season = np.where(np.isfinite(last_season), last_season, last)
    return np.asarray(np.resize(last_season, horizon))


def smoothing_season(seasons: Sequence[int]) -> int:
    """The season that smoothing learns: the longest of at most 64 steps; 1 without one.

    Example:
        >>> smoothing_season((24, 168)), smoothing_season((169,)), smoothing_season(())
        (24, 1, 1)
    """
    return max((season for season in seasons if season <= LONGEST_SEASON), default=1)


def other_forecasts(
    windows: Windows,
    series_W: NDArray[np.int64],
    cutoff_W: NDArray[np.int64],
    config: NetworkConfig,
    *,
    smoothing: bool = True,
) -> Others:
    """What a network's forecasts are mixed with: exponential smoothing and the best naive forecast.

    Args:
        windows: The series.
        series_W: Series numbers.
        cutoff_W: Rows that each forecast may see, at least 1.
        config: Of the network: horizon, seasons, and the season of the best naive forecast.
        smoothing: Whether smoothing is wanted; the naive forecast stands in its place if not, and where the rows that
            smoothing looks at are all missing.
    """
    parts = []
    for start in range(0, max(len(series_W), 1), AT_ONCE):
        some = slice(start, start + AT_ONCE)
        parts.append(_others(windows, series_W[some], cutoff_W[some], config, smoothing))
    if len(parts) == 1:
        return parts[0]
    return Others(*(np.concatenate([getattr(part, name) for part in parts]) for name in Others.__annotations__))


def _others(
    windows: Windows, series_W: NDArray[np.int64], cutoff_W: NDArray[np.int64], config: NetworkConfig, smoothing: bool
) -> Others:
    y_R, start_W = windows.y_R.cpu().numpy(), windows.start_n.cpu().numpy()[series_W]
    scale_W = error_scales(y_R, start_W, cutoff_W, config.naive_season)
    if not len(series_W):
        return Others(np.zeros((0, config.horizon)), np.zeros((0, config.horizon)), scale_W)
    season = smoothing_season(config.seasons)
    ranges = zip(start_W.tolist(), (start_W + cutoff_W).tolist(), strict=True)
    naive = [seasonal_naive(y_R[first:last], config.baseline_season, config.horizon) for first, last in ranges]
    naive_WF = np.nan_to_num(np.stack(naive))  # 0 for a series without any value
    if not smoothing:
        return Others(naive_WF, naive_WF, scale_W)
    recent = Histories.before(y_R, start_W, cutoff_W, season)
    smoothed_WF = smoothing_forecasts(recent, season, config.horizon)
    silent_W1 = ~np.isfinite(recent.y_NT).any(axis=1, keepdims=True)  # an outage longer than smoothing looks back
    return Others(np.where(silent_W1, naive_WF, smoothed_WF), naive_WF, scale_W)
