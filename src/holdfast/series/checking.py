"""From a table that somebody brings to a `SeriesStore`: everything that is wrong with it is told in one pass."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial

import numpy as np
import polars as pl
from numpy.typing import NDArray

from holdfast.errors import DataError
from holdfast.series.advice import advised
from holdfast.series.building import Placed, build_store, build_table, code_static
from holdfast.series.coding import Coding
from holdfast.series.findings import Findings, listed, series_name
from holdfast.series.future import read_future
from holdfast.series.grid import Grid
from holdfast.series.options import TableOptions, table_options_of
from holdfast.series.remedies import place_or_advise
from holdfast.series.shapes import long_table
from holdfast.series.store import SeriesStore
from holdfast.series.table import RawTable
from holdfast.series.values import read_values
from holdfast.series.wall import WHOLE, Ints, limits, say_time, to_wall


@dataclass(frozen=True, eq=False)
class Checked:
    """A table that can be forecast.

    Attributes:
        store: The series as arrays.
        table: unique_id, ds, y (null where missing) and covariates, sorted, every row of the grid there.
        notes: What was done to the table and should be known.
        categories: The values of each covariate of text, sorted: what one-hot coding was made from.

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
    concerns: tuple[str, ...] = ()


def check_table(
    table: RawTable,
    options: TableOptions,
    *,
    future: RawTable | None = None,
    categories: Mapping[str, Sequence[str]] | None = None,
) -> Checked:
    """Check a table, and turn it into series on a regular grid.

    Rows may come in any order; a missing y (null, nan, empty) is fine. To fit a model, at least one series needs more
    than `horizon + 1` rows, to learn from and to validate on; the others may be as short as one row.

    Args:
        table: Rows of all series.
        options: Which column is what, the calendar step, the horizon.
        future: Future covariates for the `horizon` steps after each series.
        categories: None to fit a model, and `Checked.categories` from then to use it: other values are noted, and
            coded as none of them.

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
    try:
        return _check(table, options, future, categories)
    except DataError as error:
        if categories is not None:  # the options are those of the fit
            raise
        check = partial(_check, table, future=future, categories=None)
        raise DataError(advised(error.problems, table.frame, options, check)) from error


def _check(
    table: RawTable, options: TableOptions, future: RawTable | None, categories: Mapping[str, Sequence[str]] | None
) -> Checked:
    findings = Findings(table.source, notes=list(table.notes), rows=table.rows)
    frame = long_table(table.frame, options, findings)
    values = read_values(frame, _as_written(options, table), findings)
    coding = Coding.of(values.covariates, categories)
    columns = (values.some(options.past), values.some(options.future))
    past, known = (coding.features(each, frame.height, findings) for each in columns)
    freq = table.kind.freq(options.time_col) if options.freq is None else None
    grid = place_or_advise(values, replace(options, freq=freq.text) if freq else options, findings)
    horizon, static, future_rows = options.horizon, None, None
    if grid is not None:
        ahead = grid.extents - grid.lengths
        horizon = horizon or int(ahead.max()) or grid.freq.horizon
        if ahead.any():
            _note_ahead(grid, ahead, findings)
        _check_reach(grid, horizon, findings)
        if categories is None:
            _check_lengths(grid, horizon, findings)
        _check_observed(grid, values.y, findings)
        static = code_static(grid, values.some(options.static), coding, findings)
        if not findings.problems:
            future_rows = _read_ahead(future, options, coding, grid, horizon, findings)
    if findings.problems or grid is None or horizon is None or static is None or values.y is None:
        raise DataError(findings.problems)
    placed = Placed(grid, values.y, static, past, known, horizon)
    tidy = build_table(placed, options, frame)
    notes, concerns = (tuple(dict.fromkeys(each)) for each in (findings.notes, findings.concerns))
    return Checked(build_store(placed, future_rows), tidy, notes, coding.categories, concerns)


def _read_ahead(
    future: RawTable | None, options: TableOptions, coding: Coding, grid: Grid, horizon: int, findings: Findings
) -> NDArray[np.float32] | None:
    """Future covariates of the future rows; None without a table."""
    if future is None:
        return None
    behind = replace(findings, source=future.source, problems=[], rows=future.rows, height=None)
    rows = read_future(future.frame, _as_written(options, future), coding, grid, horizon, behind)
    findings.problems.extend(behind.problems)
    return rows


def _note_ahead(grid: Grid, ahead: Ints, findings: Findings) -> None:
    """Say which rows were taken for the future."""
    most, series = int(ahead.max()), int(ahead.argmax())
    first = int(
        grid.first[series]
        + np.searchsorted(grid.steps[grid.first[series] : grid.first[series + 1]], grid.lengths[series])
    )
    rows = (
        f"{most} for each" if (ahead == most).all() else f"up to {most} in {(ahead > 0).sum()} of {len(ahead)} series"
    )
    findings.concern(f"no series has a value from {grid.stamp(first)} on: these rows are the future, {rows}")


def _check_reach(grid: Grid, horizon: int, findings: Findings) -> None:
    """The last time of a forecast must be one that the type of the times can hold."""
    written = grid.times.dtype if grid.stamps.kind else grid.stamps.dtype
    seconds = grid.freq.seconds
    step = grid.freq.count if seconds is None else seconds * 1e6
    last, latest = int(to_wall(grid.times, local=False).max()), limits(written)[1]
    if last + int((horizon + 1) * step) > latest:
        at = say_time(last, grid.times.dtype)
        expected = f"forecasts of times up to {say_time(latest, written)}"
        got = f"{horizon} steps of {grid.freq.text} after {at}"
        fix = "correct the times"
        if last + int(2 * step) <= latest:
            fix = f"{fix}, or give a shorter --horizon"
        if written.is_integer() and latest < WHOLE:
            fix = "convert the column to 64-bit integers"
        findings.report("times", expected=expected, got=got, fix=fix)


def _as_written(options: TableOptions, table: RawTable) -> TableOptions:
    """The options, with the format of the dates that this table was opened with."""
    return replace(table_options_of(options), date_format=table.date_format or options.date_format)


def _check_lengths(grid: Grid, horizon: int, findings: Findings) -> None:
    """At least one series must be long enough to learn from and to validate on."""
    given = np.diff(grid.first) - (grid.extents - grid.lengths)
    lengths = np.maximum(grid.lengths, given)
    longest = int(lengths.argmax())
    length = int(lengths[longest])
    if length <= horizon + 1:
        expected = f"a series of more than {horizon + 1} rows (horizon {horizon}, and one to learn from)"
        got = f"{length} rows in the longest, {series_name(grid.ids[longest])}"
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
