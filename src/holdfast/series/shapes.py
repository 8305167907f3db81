"""Shapes of tables: from one column per series to one row per series and time."""

from __future__ import annotations

import polars as pl

from holdfast.errors import DataError
from holdfast.series.findings import Findings
from holdfast.series.options import TableOptions
from holdfast.series.values import read_target, report_missing


def long_table(table: pl.DataFrame, options: TableOptions, findings: Findings) -> pl.DataFrame:
    """The rows of a wide table one below the other, series by series; a long table as it is.

    Args:
        table: A column of times, and one of values per series, whose head is its id.
        options: `wide` tells the two shapes apart.
        findings: Takes problems of the values, and counts rows as they stand in the wide table from then on.

    Returns:
        Columns of ids, times and target.

    Raises:
        DataError: If the column of times, or any other one, is not there.

    Example:
        >>> wide = pl.DataFrame({"ds": [1, 2], "north": [3, 4], "south": [None, 6]})
        >>> long_table(wide, TableOptions(wide=True), Findings("the table")).rows()
        [('north', 1, 3.0), ('north', 2, 4.0), ('south', 1, nan), ('south', 2, 6.0)]
    """
    if not options.wide or table.is_empty():
        return table
    names = [name for name in table.columns if name != options.time_col]
    if options.time_col not in table.columns:
        report_missing(options.time_col, table, "name the column with --time-col", findings)
    elif not names:
        expected, got = "a column of values for each series", f"nothing but the column {options.time_col!r}"
        findings.report("", expected=expected, got=got, fix="add a column per series, or leave --wide out")
    if findings.problems:
        raise DataError(findings.problems)
    values = [read_target(table[name], findings) for name in names]
    findings.height = table.height
    times, refused = table[options.time_col], pl.Series([0.0]).new_from_index(0, table.height)
    return pl.concat(
        pl.DataFrame(
            [
                pl.Series(options.id_name, [name]).new_from_index(0, table.height),
                times,
                (refused if y is None else y).alias(options.target_col),
            ]
        )
        for name, y in zip(names, values, strict=True)
    )
