"""A few data sets of different frequencies: what every forecaster learns from, and its quantiles as one array."""

from __future__ import annotations

import numpy as np
import polars as pl
from numpy.typing import NDArray

from holdfast.series import m4_hourly

from .collected.forecasters import filled
from .collected.sets import DATA, DataSet, data_set, read_set

M4 = "m4_hourly"
SETS = (M4, "hospital", "tourism_quarterly", "nn5_daily")
QUANTILES = (0.1, 0.5, 0.9)


def available() -> list[str]:
    """The sets that are there: all but M4 Hourly may not be bundled."""
    return [name for name in SETS if name == M4 or (DATA / f"{name}.json").exists()]


def read(name: str) -> DataSet:
    """One of the sets."""
    return data_set(M4, m4_hourly("all"), 24, 48) if name == M4 else read_set(DATA, name)


def without_gaps(table: pl.DataFrame, season: int) -> pl.DataFrame:
    """The table for a library that takes no missing values."""

    def each(part: pl.DataFrame) -> pl.DataFrame:
        y = filled(part["y"].to_numpy(), season)
        return part.tail(len(y)).with_columns(pl.Series("y", y))

    return table.group_by("unique_id", maintain_order=True).map_groups(each)


def quantiles_of(table: pl.DataFrame, data: DataSet) -> NDArray[np.float64]:
    """Forecasts of `QUANTILES` from the only cutoff of a set, [series, 1, horizon, quantiles]."""
    expected = len(data.scored) * data.horizon
    if table.height != expected:
        raise ValueError(f"{table.height} forecasts instead of {expected}")
    ordered = table.sort("unique_id", "step").select("low", "point", "high").to_numpy()
    return ordered.reshape(-1, 1, data.horizon, len(QUANTILES))
