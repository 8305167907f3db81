"""The table of the future: covariates that are known ahead, for each step of the horizon."""

from __future__ import annotations

import numpy as np
import polars as pl
from numpy.typing import NDArray

from holdfast.series.coding import Coding
from holdfast.series.findings import Findings, column_names, listed, series_name
from holdfast.series.grid import Grid, sort_key
from holdfast.series.options import TableOptions
from holdfast.series.snapping import snap
from holdfast.series.values import ONE_SERIES, read_ids, read_times, read_varying
from holdfast.series.wall import Ints
from holdfast.series.zones import in_zone


def read_future(
    future: pl.DataFrame, options: TableOptions, coding: Coding, grid: Grid, horizon: int, findings: Findings
) -> NDArray[np.float32] | None:
    """Future covariates of the `horizon` steps behind each series; rows of other times are left alone.

    Returns:
        float32 [n * horizon, features of the future covariates], or None where something is missing.
    """
    if not options.future:
        got, fix = "none named", "name them with --future, or leave the future table out"
        findings.report("", expected="future covariates to read from it", got=got, fix=fix)
        return None
    before = len(findings.problems)
    keys = _read_keys(future, options, grid, findings)
    read = [read_varying(future[name], findings) for name in options.future if name in future.columns]
    features = coding.features([column for column in read if column is not None], future.height, findings)
    if keys is None or len(findings.problems) > before:
        return None
    wanted = _wanted(grid, horizon)
    given = keys.with_row_index("row").join(wanted, on=["id", "ds"], how="inner", maintain_order="left")
    double = given.filter(pl.struct("id", "ds").is_duplicated())
    if double.height:
        got = f"duplicate rows: {listed(double['row'].to_list(), findings.row)}"
        findings.report("", expected="one row for each series and time", got=got, fix="keep one row for each time")
    lacking = wanted.join(given, on=["id", "ds"], how="anti", maintain_order="left")
    if lacking.height:
        _report_lacking(lacking.with_columns(grid.stamps.write(lacking["ds"])), horizon, findings)
    if len(findings.problems) > before:
        return None
    return np.asarray(features.values[given.sort("place")["row"].to_numpy()])


def _read_keys(future: pl.DataFrame, options: TableOptions, grid: Grid, findings: Findings) -> pl.DataFrame | None:
    """Keys of the rows, in the types of the main table."""
    one_series = options.id_name not in future.columns and grid.ids.to_list() == [ONE_SERIES]
    keys = [*(() if one_series else options.id_cols), options.time_col]
    for name in (*keys, *options.future):
        if name not in future.columns:
            got = f"no such column among {column_names(future.columns)}"
            findings.report(f"column {name!r}", expected=f"a column {name!r}", got=got, fix="add it to this table")
    if any(name not in future.columns for name in keys):
        return None
    one = pl.Series([ONE_SERIES]).new_from_index(0, future.height)
    ids = one if one_series else read_ids(future, options, findings)
    times, _ = read_times(future[options.time_col], grid.freq.text, findings, options.date_format)
    if ids is None or times is None:
        return None
    times = in_zone(ids, times, options.tz, findings)
    if times is None:
        return None
    if options.snap and (moved := snap(times, np.zeros(0, np.int64), grid.freq, Findings(""))) is not None:
        times = moved[0]
    ids = _as(sort_key(ids), sort_key(grid.ids).dtype, ", ".join(options.id_cols), findings)
    times = _as(times, grid.times.dtype, options.time_col, findings)
    return pl.DataFrame({"id": ids, "ds": times})


def _as(keys: pl.Series, dtype: pl.DataType, name: str, findings: Findings) -> pl.Series:
    """Keys in the type of the main table; those that would change are reported."""
    if keys.dtype == dtype:
        return keys
    zones = {kind.time_zone for kind in (keys.dtype, dtype) if isinstance(kind, pl.Datetime)}
    whole = keys.dtype.is_temporal() == dtype.is_temporal() and len(zones) < 2
    cast = keys.cast(dtype, strict=False) if whole else keys
    if not whole or not (cast.cast(keys.dtype, strict=False) == keys).fill_null(False).all():
        expected = f"the type of the main table, {dtype}"
        fix = "write this column as in the main table"
        findings.report(f"column {name!r}", expected=expected, got=f"type {keys.dtype}", fix=fix)
    return cast


def _wanted(grid: Grid, horizon: int) -> pl.DataFrame:
    """id, ds, step behind the last row and place in the result of every future row."""
    series = np.repeat(np.arange(len(grid.ids)), horizon)
    step: Ints = np.tile(np.arange(horizon), len(grid.ids))
    ds = grid.at(series, grid.lengths[series] + step)
    ids = sort_key(grid.ids).gather(series)
    return pl.DataFrame({"id": ids, "ds": ds, "place": np.arange(len(series))})


def _report_lacking(lacking: pl.DataFrame, horizon: int, findings: Findings) -> None:
    series = lacking.group_by("id", maintain_order=True).agg(pl.len(), pl.col("ds").first())
    got = listed(series.rows(), lambda row: f"{row[1]} steps of {series_name(row[0])} missing, the first at {row[2]}")
    expected = f"a row for each of the {horizon} steps behind the last row of each series"
    fix = "add these rows, or forecast with a shorter horizon"
    findings.report("", expected=expected, got=got, fix=fix)
