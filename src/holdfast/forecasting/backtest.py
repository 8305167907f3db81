"""Forecasts from cutoffs inside the data, beside what came and beside seasonal naive."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import polars as pl
from numpy.typing import NDArray

from holdfast.errors import DataError, Problem
from holdfast.forecasting.baselines import seasonal_naive
from holdfast.forecasting.metrics import BASELINE
from holdfast.forecasting.predict import forecast_table
from holdfast.networks import ForecastNetwork
from holdfast.series import SeriesStore
from holdfast.windows import Windows


def rolling_cutoffs(length_n: NDArray[np.int64], horizon: int, n_windows: int) -> list[NDArray[np.int64]]:
    """Rows that each forecast may see, per window and series: the last windows, a horizon apart, oldest first.

    Example:
        >>> [cutoff_n.tolist() for cutoff_n in rolling_cutoffs(np.array([10, 5]), horizon=2, n_windows=2)]
        [[6, 1], [8, 3]]
    """
    return [length_n - horizon * back for back in range(n_windows, 0, -1)]


def check_windows(store: SeriesStore, n_windows: int) -> None:
    """Refuse a backtest that leaves no series with enough rows to learn from before its first cutoff.

    Raises:
        DataError: No series has (n_windows + 1) horizons and two rows more.
    """
    longest, needed = int(store.lengths.max()), store.horizon * (n_windows + 1) + 2
    if longest < needed:
        most = max((longest - 2) // store.horizon - 1, 0)
        fix = f"give --windows {most}" if most else "give a shorter --horizon, or more data"
        raise DataError(
            Problem(
                f"backtest of {n_windows} windows of {store.horizon} steps",
                f"a series of at least {needed} rows (one horizon more, to learn from)",
                f"{longest} rows in the longest series",
                fix,
            )
        )


def backtest_table(
    network: ForecastNetwork,
    store: SeriesStore,
    windows: Windows,
    cutoff_n: NDArray[np.int64],
    levels: Sequence[float],
) -> pl.DataFrame:
    """Forecasts from one cutoff per series, with the values that came and the seasonal naive forecast.

    Args:
        network: The forecaster.
        store: The series.
        windows: The same series as tensors.
        cutoff_n: Rows of each series that its forecast may see; series with less than one are left out.
        levels: Interval levels in percent.

    Returns:
        Columns `unique_id`, `ds`, `cutoff`, `y` (null where missing), `holdfast`, two per level, `seasonal_naive`.
    """
    horizon, season = network.config.horizon, network.config.seasons[0] if network.config.seasons else 1
    clamped_n = np.maximum(cutoff_n, 1)
    table = forecast_table(network, store, windows, levels, clamped_n)
    row_WF = (store.offsets[:-1] + clamped_n)[:, None] + np.arange(horizon)
    naive_WF = np.stack(
        [seasonal_naive(store.values(i)[:cutoff], season, horizon) for i, cutoff in enumerate(clamped_n)]
    )
    last_seen = store.freq.at(store.starts, clamped_n - 1)
    table = table.with_columns(
        last_seen.gather(np.repeat(np.arange(len(cutoff_n)), horizon)).alias("cutoff"),
        pl.Series("y", store.y[row_WF].ravel()).fill_nan(None),
        pl.Series(BASELINE, naive_WF.ravel()),
    )
    first = ["unique_id", "ds", "cutoff", "y"]
    table = table.select(*first, pl.exclude(*first))
    return table.filter(np.repeat(cutoff_n >= 1, horizon))
