"""Forecasts from cutoffs inside the data, next to the actual values and the best naive forecast."""

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
    networks: Sequence[ForecastNetwork],
    store: SeriesStore,
    windows: Windows,
    cutoff_n: NDArray[np.int64],
    levels: Sequence[float],
    *,
    floored: bool = False,
) -> pl.DataFrame:
    """Forecasts from one cutoff per series, with the actual values and the best naive forecast (`baseline_season`).

    Args:
        networks: The forecaster's networks.
        store: The series.
        windows: The same series as tensors.
        cutoff_n: Rows of each series that its forecast may see; series with less than one are left out.
        levels: Interval levels in percent.
        floored: As for `forecast_table`.

    Returns:
        Columns `unique_id`, `ds`, `cutoff`, `y` (null where missing), `holdfast`, two per level, `seasonal_naive`.
    """
    horizon, season = networks[0].config.horizon, networks[0].config.baseline_season
    table = forecast_table(networks, store, windows, levels, cutoff_n, floored=floored)
    series = np.flatnonzero(cutoff_n >= 1)
    cutoff_W = cutoff_n[series]
    row_WF = (store.offsets[series] + cutoff_W)[:, None] + np.arange(horizon)
    naive_WF = np.stack([seasonal_naive(store.values(i)[: cutoff_n[i]], season, horizon) for i in series.tolist()])
    last_seen = store.stamped(store.offsets[series] + cutoff_W - 1)
    table = table.with_columns(
        last_seen.gather(np.repeat(np.arange(len(series)), horizon)).alias("cutoff"),
        pl.Series("y", store.y[row_WF].ravel()).fill_nan(None),
        pl.Series(BASELINE, naive_WF.ravel()),
    )
    first = ["unique_id", "ds", "cutoff", "y"]
    return table.select(*first, pl.exclude(*first))
