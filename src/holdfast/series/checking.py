"""From a table that somebody brings to a `SeriesStore`: everything that is wrong with it is told in one pass."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np
import polars as pl
from numpy.typing import NDArray

from holdfast.errors import DataError
from holdfast.series.building import Placed, build_store, build_table, code_static
from holdfast.series.findings import Findings, listed
from holdfast.series.future import read_future
from holdfast.series.grid import GapRule, Grid, place_rows
from holdfast.series.options import TableOptions, table_options_of
from holdfast.series.store import SeriesStore
from holdfast.series.table import RawTable
from holdfast.series.values import read_values


@dataclass(frozen=True, eq=False)
class Checked:
    """A table that can be forecast.

    Attributes:
        store: The series as arrays.
        table: unique_id, ds, y (null where missing) and covariates, sorted, every row of the grid there.
        notes: What was done to the table and should be known.
        categories: The values of each static text column, sorted: what one-hot coding was made from.

    Example:
        >>> from holdfast.series import open_table
        >>> table = open_table(pl.DataFrame({"ds": [1, 2, 3], "y": [4.0, 5.0, 6.0], "kind": ["new", "new", "new"]}))
        >>> check_table(table, TableOptions(static=("kind",), horizon=1)).categories
        {'kind': ['new']}
    """

    store: SeriesStore
    table: pl.DataFrame
    notes: tuple[str, ...]
    categories: dict[str, list[str]]


def check_table(
    table: RawTable,
    options: TableOptions,
    *,
    future: RawTable | None = None,
    categories: Mapping[str, Sequence[str]] | None = None,
) -> Checked:
    """Check a long table, and turn it into series on a regular grid.

    Rows may come in any order; a missing y (null, nan, empty) is fine. To fit a model, at least one series needs more
    than `horizon + 1` rows, to learn from and to validate on; the others may be as short as one row.

    Args:
        table: Rows of all series.
        options: Which column is what, the calendar step, the horizon.
        future: Future covariates for the `horizon` steps after each series.
        categories: None to fit a model, and `Checked.categories` from then to use it: other values are refused.

    Raises:
        DataError: With every problem of the table.

    Example:
        >>> from holdfast.series import open_table
        >>> frame = pl.DataFrame({"unique_id": ["b", "a", "a", "a"], "ds": [1, 3, 1, 2], "y": [9, 3, 1, None]})
        >>> checked = check_table(open_table(frame), TableOptions(horizon=1))
        >>> checked.table.rows()
        [('a', 1, 1.0), ('a', 2, None), ('a', 3, 3.0), ('b', 1, 9.0)]
        >>> checked.notes
        ('sorted by time (rows that stood below a later one of their series: 1)',)
    """
    findings = Findings(table.source, notes=list(table.notes), rows=table.rows)
    values = read_values(table.frame, _as_written(options, table), findings)
    gaps = GapRule(options.fill_gaps, (*options.future, *options.past))
    grid = place_rows(values.ids, values.times, options.freq, gaps, findings)
    horizon, static, known = options.horizon, None, None
    if grid is not None:
        horizon = horizon or grid.freq.horizon
        if categories is None:
            _check_lengths(grid, horizon, findings)
        _check_observed(grid, values.y, findings)
        static = code_static(grid, values.covariates, options.static, categories, findings)
        known = _read_future(future, options, grid, horizon, findings)
    if findings.problems or grid is None or horizon is None or static is None or values.y is None:
        raise DataError(findings.problems)
    placed = Placed(grid, values.y, values.covariates, horizon)
    store = build_store(placed, options, static, known)
    return Checked(store, build_table(placed, options, table.frame), tuple(findings.notes), static.categories)


def _read_future(
    future: RawTable | None, options: TableOptions, grid: Grid, horizon: int, findings: Findings
) -> NDArray[np.float32] | None:
    """Future covariates of the future rows; None without a table."""
    if future is None:
        return None
    behind = Findings(future.source, rows=future.rows, date_format=findings.date_format)
    known = read_future(future.frame, _as_written(options, future), grid, horizon, behind)
    findings.problems.extend(behind.problems)
    return known


def _as_written(options: TableOptions, table: RawTable) -> TableOptions:
    """The options, with the format of the dates that this table was opened with."""
    return replace(table_options_of(options), date_format=table.date_format or options.date_format)


def _check_lengths(grid: Grid, horizon: int, findings: Findings) -> None:
    """At least one series must be long enough to learn from and to validate on."""
    lengths = np.maximum(grid.lengths, np.diff(grid.first))
    longest = int(lengths.argmax())
    length = int(lengths[longest])
    if length <= horizon + 1:
        expected = f"a series of more than {horizon + 1} rows (horizon {horizon}, and one to learn from)"
        got = f"{length} rows in the longest series, {grid.ids[longest]!r}"
        fix = f"forecast with --horizon {length - 2} or less" if length > 2 else "bring more rows"
        findings.report("length of series", expected=expected, got=got, fix=fix)


def _check_observed(grid: Grid, y: pl.Series | None, findings: Findings) -> None:
    """Every series needs at least one value."""
    if y is None:
        return
    seen = np.add.reduceat(np.isfinite(y.to_numpy()[grid.order]), grid.first[:-1])
    empty = grid.first[:-1][seen == 0].tolist()
    if empty:
        got = f"no value from {listed(empty, lambda i: grid.name_row(i, findings))} on"
        findings.report("values", expected="at least one value in each series", got=got, fix="remove these series")
