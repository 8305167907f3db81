"""From checked columns to arrays: one-hot coding, rows put in their places, the tidy table.

Legend: n series, N given rows, R rows with the future, S static features.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TypeVar

import numpy as np
import polars as pl
from numpy.typing import NDArray

from holdfast.series.features import calendar_features
from holdfast.series.findings import Findings, listed
from holdfast.series.grid import Grid
from holdfast.series.options import TableOptions
from holdfast.series.store import SeriesStore
from holdfast.series.wall import Ints

Floats = NDArray[np.float32]
Number = TypeVar("Number", np.float32, np.float64)


@dataclass(frozen=True, eq=False)
class Static:
    """Static features: float32 [n, S], their names, and the categories behind the one-hot ones."""

    values: Floats
    names: tuple[str, ...]
    categories: dict[str, list[str]]


@dataclass(frozen=True, eq=False)
class Placed:
    """Columns whose rows have a place on the grid."""

    grid: Grid
    y: pl.Series
    covariates: pl.DataFrame
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


def code_static(
    grid: Grid,
    covariates: pl.DataFrame,
    names: Sequence[str],
    categories: Mapping[str, Sequence[str]] | None,
    findings: Findings,
) -> Static:
    """Static covariates of each series: numbers as they are, text one-hot."""
    columns: dict[str, Floats] = {}
    found: dict[str, list[str]] = {}
    for name in [name for name in names if name in covariates.columns]:
        rows = covariates[name].gather(grid.order)
        values = rows.gather(grid.first[:-1])
        _check_constant(rows, values, grid, findings)
        as_text = not rows.dtype.is_numeric() if categories is None else name in categories
        if not as_text and not rows.dtype.is_numeric():
            fix = "write numbers, or fit again"
            findings.report(f"column {name!r}", expected="numbers, as in fitting", got=f"{values[0]!r}", fix=fix)
        elif not as_text:
            columns[name] = values.to_numpy()
        else:
            values = values.cast(pl.String)
            known = sorted(values.drop_nulls().unique()) if categories is None else list(categories[name])
            _check_known(values, known, findings)
            columns |= {f"{name}={word}": (values == word).cast(pl.Float32).to_numpy() for word in known}
            found[name] = known
    values_nS = np.empty((len(grid.ids), len(columns)), dtype=np.float32)
    for position, column in enumerate(columns.values()):
        values_nS[:, position] = column
    return Static(values_nS, tuple(columns), found)


def _check_constant(rows: pl.Series, values: pl.Series, grid: Grid, findings: Findings) -> None:
    """Report rows whose value differs from the first one of their series."""
    changed = (rows != values.gather(grid.series)).fill_null(False).arg_true().to_list()
    if changed:
        got = f"a change: {listed(changed, lambda i: f'{rows[i]!r} of {grid.name_row(i, findings)}')}"
        fix = "give it with --future or --past if it varies in time, else correct it"
        findings.report(f"column {rows.name!r}", expected="one value within each series", got=got, fix=fix)


def _check_known(values: pl.Series, known: list[str], findings: Findings) -> None:
    """Report text that one-hot coding has no column for."""
    unknown = [word for word in values.drop_nulls().unique(maintain_order=True) if word not in set(known)]
    if unknown:
        expected = f"a value that the model knows: {listed(known)}"
        fix = "map it to one of these, or fit again"
        findings.report(f"column {values.name!r}", expected=expected, got=listed(unknown), fix=fix)


def build_store(placed: Placed, options: TableOptions, static: Static, future: Floats | None) -> SeriesStore:
    """All arrays of a store; `future` holds the future covariates of the future rows, if they are known."""
    grid, offsets = placed.grid, placed.offsets
    rows = np.diff(offsets)
    steps = np.arange(offsets[-1]) - np.repeat(offsets[:-1], rows)
    known = placed.spread(_matrix(placed, options.future), placed.horizon)
    if future is not None:
        known[steps >= np.repeat(grid.lengths, rows)] = future
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
        past=placed.spread(_matrix(placed, options.past)),
        known=np.concatenate([known, features], axis=1),
        static=static.values,
        past_names=tuple(options.past),
        known_names=(*options.future, *names),
        static_names=static.names,
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


def _matrix(placed: Placed, names: Sequence[str]) -> Floats:
    """Columns side by side, rows as in the table."""
    matrix = np.empty((len(placed.y), len(names)), dtype=np.float32)
    for position, name in enumerate(names):
        matrix[:, position] = placed.covariates[name].to_numpy()
    return matrix
