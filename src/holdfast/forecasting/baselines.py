"""The forecast that every score stands beside."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray


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
