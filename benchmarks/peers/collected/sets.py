"""The data sets of the collection: what is forecast, from which cutoffs, and what came."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import polars as pl
from numpy.typing import NDArray

from holdfast.forecasting import seasonal_naive

DATA = Path(__file__).parents[4] / "shared" / "data" / "collection"
FEW_SERIES, MOST_CUTOFFS = 20, 5
EVERY = {
    "web_traffic": 4
}  # every so many-th series is scored, for every forecaster: a peer would take too long for all


@dataclass(frozen=True)
class DataSet:
    """One set, without the series that are too short to take part.

    Attributes:
        name: Of its files.
        season: Steps of the season that it is said to have; 1 if none.
        horizon: Steps to forecast.
        cutoffs: From how many cutoffs, each a horizon after the one before; the last horizon ends the series.
        table: Columns `unique_id`, `ds`, `y` (nan where missing), sorted, and `left`: rows from here to the end.
        scored: The series that are forecast and scored; a forecaster may learn from all.
        too_short: Series left out, for fewer than two values come before the first cutoff.
    """

    name: str
    season: int
    horizon: int
    cutoffs: int
    table: pl.DataFrame
    scored: tuple[str, ...]
    too_short: int

    def history(self, cutoff: int) -> pl.DataFrame:
        """What a forecast from a cutoff, counted from 0, may see."""
        hidden = (self.cutoffs - cutoff) * self.horizon
        return self.table.filter(pl.col("left") > hidden).select("unique_id", "ds", "y")

    def histories(self, cutoff: int) -> list[NDArray[np.float64]]:
        """The values of each scored series up to a cutoff."""
        return values_of(self.history(cutoff), self.scored)

    def actual(self) -> NDArray[np.float64]:
        """What came, [series, cutoffs, horizon]."""
        ends = self.table.filter(pl.col("left") <= self.cutoffs * self.horizon)
        return np.stack(values_of(ends, self.scored)).reshape(-1, self.cutoffs, self.horizon)

    def naive(self) -> NDArray[np.float64]:
        """The seasonal naive forecast, [series, cutoffs, horizon]."""
        each = [[seasonal_naive(y, self.season, self.horizon) for y in self.histories(k)] for k in range(self.cutoffs)]
        return np.array(each).swapaxes(0, 1)


def values_of(table: pl.DataFrame, ids: tuple[str, ...]) -> list[NDArray[np.float64]]:
    """The values of these series of a sorted table."""
    parts = table.partition_by("unique_id", as_dict=True, maintain_order=True)
    return [parts[(name,)]["y"].to_numpy() for name in ids]


def cutoffs_of(series: int, shortest: int, season: int, horizon: int) -> int:
    """How many cutoffs a set gets.

    One where there are many series; otherwise five, or as many as leave the shortest series two seasons and two
    horizons, but at least one.
    """
    room = (shortest - 2 * max(season, horizon)) // horizon
    return 1 if series >= FEW_SERIES else max(1, min(MOST_CUTOFFS, room))


def names_of(folder: Path) -> list[str]:
    """The sets in a folder, in the order of what they cost: those whose longest series is short come first."""
    facts = [json.loads(path.read_text()) for path in folder.glob("*.json")]
    facts.sort(key=lambda each: (each["max_length"], each["n_obs"], each["name"]))
    return [each["name"] for each in facts]


def read_set(folder: Path, name: str, back: int = 0) -> DataSet:
    """Read a set from its two files.

    Args:
        folder: Where they are.
        name: Of the set.
        back: So many test parts are cut off the end first: where choices are made, the last one is not looked at.
    """
    facts = json.loads((folder / f"{name}.json").read_text())
    table = pl.read_parquet(folder / f"{name}.parquet", columns=["unique_id", "ds", "y"])
    return data_set(name, table, facts["season_length"], facts["horizon"], back)


def data_set(name: str, table: pl.DataFrame, season: int, horizon: int, back: int = 0) -> DataSet:
    """A set from a long table."""
    table = table.sort("unique_id", "ds").with_columns(
        pl.col("y").fill_null(float("nan")), pl.int_range(pl.len(), 0, -1).over("unique_id").alias("left")
    )
    lengths = table.group_by("unique_id", maintain_order=True).len()["len"]
    cutoffs = cutoffs_of(len(lengths), int(lengths.min()), season, horizon)
    table = table.with_columns(pl.col("left") - back * cutoffs * horizon).filter(pl.col("left") > 0)
    known = pl.col("y").is_finite() & (pl.col("left") > cutoffs * horizon)
    kept = table.filter(known.sum().over("unique_id") >= 2)
    ids = kept["unique_id"].unique(maintain_order=True).to_list()
    scored = tuple(ids[:: EVERY.get(name, 1)])
    return DataSet(name, season, horizon, cutoffs, kept, scored, len(lengths) - len(ids))
