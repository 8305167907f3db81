"""From checked columns to arrays: rows put in their places, the tidy table.

Legend: n series, N given rows, R rows with the future.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TypeVar

import numpy as np
import polars as pl
from numpy.typing import NDArray

from holdfast.series.coding import Coding, Features
from holdfast.series.features import calendar_features
from holdfast.series.findings import Findings, listed
from holdfast.series.grid import Grid
from holdfast.series.options import TableOptions
from holdfast.series.store import SeriesStore
from holdfast.series.wall import Ints

Floats = NDArray[np.float32]
Number = TypeVar("Number", np.float32, np.float64)


@dataclass(frozen=True, eq=False)
class Placed:
    """Columns whose rows have a place on the grid: N rows of y, past and future covariates, n of static ones."""

    grid: Grid
    y: pl.Series
    static: Features
    past: Features
    future: Features
    horizon: int

    @property
    def offsets(self) -> Ints:
        """Row ranges of the series in the store, future rows included [n + 1]."""
        return np.append(0, np.cumsum(self.grid.lengths + self.horizon))

    def spread(self, values: NDArray[Number], ahead: int = 0) -> NDArray[Number]:
        """Given rows of a table in their places among the R rows, nan elsewhere.

        Args:
            values: One for each row of the table.
            ahead: So many rows of the future of each series are spread too.
        """
        grid = self.grid
        spread = np.full((int(self.offsets[-1]), *values.shape[1:]), np.nan, dtype=values.dtype)
        kept = grid.steps < grid.lengths[grid.series] + ahead
        spread[(self.offsets[grid.series] + grid.steps)[kept]] = values[grid.order[kept]]
        return spread


def code_static(grid: Grid, covariates: Sequence[pl.Series], coding: Coding, findings: Findings) -> Features:
    """Static covariates of each series: numbers as they are, text one-hot."""
    rows = [column.gather(grid.order) for column in covariates]
    values = [column.gather(grid.first[:-1]) for column in rows]
    for each, value in zip(rows, values, strict=True):
        _check_constant(each, value, grid, findings)
    return coding.features(values, len(grid.ids), findings)


def _check_constant(rows: pl.Series, values: pl.Series, grid: Grid, findings: Findings) -> None:
    """Report rows whose value differs from the first one of their series."""
    changed = (rows != values.gather(grid.series)).fill_null(False).arg_true().to_list()
    if changed:
        got = f"a change: {listed(changed, lambda i: f'{rows[i]!r} of {grid.name_row(i, findings)}')}"
        fix = "give it with --future or --past if it varies in time, else correct it"
        findings.report(f"column {rows.name!r}", expected="one value within each series", got=got, fix=fix)


def build_store(placed: Placed, ahead: Floats | None) -> SeriesStore:
    """All arrays of a store; `ahead` holds the future covariates of the future rows, if they are known."""
    grid, offsets = placed.grid, placed.offsets
    rows = np.diff(offsets)
    steps = np.arange(offsets[-1]) - np.repeat(offsets[:-1], rows)
    known = placed.spread(placed.future.values, placed.horizon)
    if ahead is not None:
        known[steps >= np.repeat(grid.lengths, rows)] = ahead
    times = grid.at(np.repeat(np.arange(len(rows)), rows), steps)
    names, features = calendar_features(times, grid.freq)
    return SeriesStore(
        ids=grid.ids.alias("unique_id"),
        starts=grid.starts.alias("ds"),
        ds=times.alias("ds"),
        stamps=grid.stamps,
        offsets=offsets,
        lengths=grid.lengths,
        y=placed.spread(placed.y.to_numpy()),
        past=placed.spread(placed.past.values),
        known=np.concatenate([known, features], axis=1),
        static=placed.static.values,
        past_names=placed.past.names,
        known_names=(*placed.future.names, *names),
        static_names=placed.static.names,
        freq=grid.freq,
        horizon=placed.horizon,
    )


def build_table(placed: Placed, options: TableOptions, given: pl.DataFrame) -> pl.DataFrame:
    """The tidy table: every row of the grid, those of the future too, covariates as they were given."""
    grid = placed.grid
    series = np.repeat(np.arange(len(grid.ids)), grid.extents)
    first = np.append(0, np.cumsum(grid.extents))
    row = np.full(len(series), -1)
    row[first[grid.series] + grid.steps] = grid.order
    source = pl.Series(row).set(pl.Series(row < 0), None)
    ds = grid.stamps.write(grid.at(series, np.arange(len(series)) - first[series]))
    start = pl.Series(grid.order[grid.first[:-1]][series])  # inserted rows have static covariates too
    return pl.DataFrame(
        [
            grid.ids.gather(series).alias("unique_id"),
            ds.alias("ds"),
            placed.y.fill_nan(None).gather(source).alias("y"),
            *(given[name].gather(start if name in options.static else source) for name in options.covariates),
        ]
    )
