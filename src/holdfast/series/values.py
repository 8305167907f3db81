"""The columns of a table, one by one: ids, times, values and covariates, each read into the type it is used in."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from difflib import get_close_matches

import numpy as np
import polars as pl
from numpy.typing import NDArray

from holdfast.series.calendar import ROWS, Freq
from holdfast.series.findings import Findings, listed
from holdfast.series.options import TableOptions
from holdfast.series.stamps import Stamps, stamps_of
from holdfast.series.times import parse_times
from holdfast.series.wall import Ints, in_limits, limits, say_time

TIMES = "ISO dates (2024-01-31), ISO datetimes (2024-01-31 13:00:00) or whole numbers"
ONE_SERIES = "series"


def by_option(options: TableOptions) -> dict[str, str]:
    """The three key columns by the option that names them."""
    return {"--id-col": options.id_name, "--time-col": options.time_col, "--target-col": options.target_col}


@dataclass(frozen=True)
class Values:
    """The columns of a table that could be read, rows as in the table; None where one could not.

    Attributes:
        ids: Key of each row.
        times: Integers, dates or datetimes.
        stamps: How the table writes its times.
        y: float64, nan where missing.
        covariates: Numbers as float32, static text and booleans as text.
    """

    ids: pl.Series | None
    times: pl.Series | None
    stamps: Stamps | None
    y: pl.Series | None
    covariates: pl.DataFrame

    @property
    def ahead(self) -> NDArray[np.bool_]:
        """Rows of the future: those after the last time at which any series has a value."""
        return rows_ahead(self.times, self.y)


def read_values(table: pl.DataFrame, options: TableOptions, findings: Findings) -> Values:
    """Read every column that has a use, and report all that cannot be used."""
    _check_names(table, options, findings)
    ids, times, y, stamps = None, None, None, None
    if table.is_empty():
        findings.report("", expected="at least one row", got="no rows", fix="check how the table was made")
        return Values(None, None, None, None, pl.DataFrame())
    if options.id_name in table.columns:
        ids = read_ids(table[options.id_name], findings)
    elif options.id_name == TableOptions.id_col:
        ids = pl.Series("unique_id", [ONE_SERIES]).new_from_index(0, table.height)
        findings.notes.append(f"no column 'unique_id': all rows are one series, called {ONE_SERIES!r}")
    if options.time_col in table.columns:
        times, stamps = read_times(table[options.time_col], options.freq, findings)
    if options.target_col in table.columns:
        y = _read_target(table[options.target_col], findings)
    if stamps is not None and stamps.kind:
        keep = "give --freq as a whole number, for instance --freq 1, to keep them as numbers"
        findings.notes.append(f"read column {options.time_col!r} as dates ({stamps.name}); {keep}")
    seen = None if times is None else np.flatnonzero(~rows_ahead(times, y))
    read = {name: read_numbers(table[name], findings) for name in options.future if name in table.columns}
    read |= {name: read_numbers(table[name], findings, seen) for name in options.past if name in table.columns}
    read |= {name: _read_static(table[name], findings) for name in options.static if name in table.columns}
    return Values(ids, times, stamps, y, pl.DataFrame([column for column in read.values() if column is not None]))


def _check_names(table: pl.DataFrame, options: TableOptions, findings: Findings) -> None:
    """Report columns that are missing, used twice or in the way."""
    for option, name in by_option(options).items():
        if name not in table.columns and (option, name) != ("--id-col", TableOptions.id_col):
            near = _near(name, option, table, options)
            fix = f"did you mean {option} {near}?" if near else f"name the column with {option}"
            _report_missing(name, table, fix, findings)
    for name in options.covariates:
        if name not in table.columns:
            close = get_close_matches(name.lower(), [other.lower() for other in table.columns], n=1)
            near = next((other for other in table.columns if [other.lower()] == close), None)
            _report_missing(name, table, f"did you mean {near!r}?" if near else "correct its name", findings)
        if name in ("unique_id", "ds", "y") and name not in by_option(options).values():
            fix = "rename this column"
            findings.report(f"column {name!r}", expected="a name that output does not use", got=repr(name), fix=fix)
    used = (*by_option(options).values(), *options.covariates)
    unused = [name for name in table.columns if name not in used and name]
    if unused:
        findings.notes.append(f"columns not used: {', '.join(unused)}")


def read_ids(ids: pl.Series, findings: Findings) -> pl.Series | None:
    """Series keys as they are; null and nan are reported (and become null)."""
    if ids.dtype.is_nested() or ids.dtype == pl.Object:
        got = f"a column of type {ids.dtype}"
        _report(ids, findings, "text, categories or whole numbers", got, "make one text of it")
        return None
    if ids.dtype.is_float():
        ids = ids.fill_nan(None)
    missing = _where(ids.is_null())
    if missing:
        got = f"no id in {listed(missing, findings.row)}"
        _report(ids, findings, "the key of a series in every row", got, "fill in the id, or remove these rows")
    return ids


def rows_ahead(times: pl.Series | None, y: pl.Series | None) -> NDArray[np.bool_]:
    """Rows after the last time with a value; none where nothing has one."""
    last = None if times is None or y is None else times.filter(y.is_finite()).max()
    if times is None or last is None:
        return np.zeros(0 if times is None else len(times), dtype=bool)
    return np.asarray((times > last).fill_null(False).to_numpy())


def read_times(
    times: pl.Series, freq: str | int | None, findings: Findings
) -> tuple[pl.Series, Stamps] | tuple[None, None]:
    """Times as integers, dates or datetimes, and how they were written; bad ones are reported (and become null).

    Whole numbers that are dates (20240131, seconds since 1970) are read as such, unless `freq` counts in whole numbers.
    """
    given = times
    if times.dtype in (pl.String, pl.Categorical):
        times = parse_times(times.cast(pl.String))
    if not (times.dtype.is_integer() or times.dtype == pl.Date or isinstance(times.dtype, pl.Datetime)):
        fix = "convert the column to dates, datetimes or whole numbers"
        _report(given, findings, TIMES, f"a column of type {given.dtype}", fix)
        return None, None
    bad = _where(times.is_null())
    if bad:
        got = listed(bad, lambda row: f"{_shown(given[row])} in {findings.row(row)}")
        _report(given, findings, TIMES, got, "write the times like this, or remove these rows")
    stamps = stamps_of(times, whole_numbers=freq not in (None, ROWS) and Freq.parse(freq).unit == "")
    times = stamps.read(times)
    low, high = limits(times.dtype)
    far = _where(~in_limits(times))
    if far:
        expected = f"times from {say_time(low, times.dtype)} to {say_time(high, times.dtype)}"
        got = listed(far, lambda row: f"{_shown(given[row])} in {findings.row(row)}")
        _report(given, findings, expected, got, "correct these times, or count them from another origin")
        return None, None
    return times.alias("ds"), stamps


def read_numbers(column: pl.Series, findings: Findings, rows: Ints | None = None) -> pl.Series | None:
    """A covariate as float32; missing and infinite values are reported (in these rows), text is refused."""
    if not (column.dtype.is_numeric() or column.dtype == pl.Boolean):
        got = f"a column of type {column.dtype}"
        fix = "code it as numbers, or declare it static if it is constant within each series"
        _report(column, findings, "numbers or booleans", got, fix)
        return None
    numbers: pl.Series = column.cast(pl.Float32, strict=False)
    _report_not_finite(column, numbers, findings, rows)
    return numbers.fill_null(float("nan"))


def _read_static(column: pl.Series, findings: Findings) -> pl.Series | None:
    """A static covariate as float32 or, for one-hot coding, as text."""
    if column.dtype.is_nested() or column.dtype in (pl.Object, pl.Binary):
        _report(
            column, findings, "numbers, text or booleans", f"a column of type {column.dtype}", "make one text of it"
        )
        return None
    if column.dtype.is_numeric():
        numbers: pl.Series = column.cast(pl.Float32, strict=False)
        _report_not_finite(column, numbers, findings)
        return numbers
    missing = _where(column.is_null())
    if missing:
        got = f"no value in {listed(missing, findings.row)}"
        fix = "fill it in, for instance with 'unknown'"
        _report(column, findings, "a value in every row", got, fix)
    text: pl.Series = column.cast(pl.String)
    return text


def _read_target(column: pl.Series, findings: Findings) -> pl.Series | None:
    """Values as float64, nan where missing; text and infinities are reported."""
    text = column.dtype in (pl.String, pl.Categorical)
    if not (text or column.dtype.is_numeric() or column.dtype == pl.Null):
        _report(column, findings, "numbers", f"a column of type {column.dtype}", "convert the column to numbers")
        return None
    given = column.cast(pl.String) if text else column
    y: pl.Series = (given.str.strip_chars() if text else given).cast(pl.Float64, strict=False)
    words = _where(y.is_null() & given.is_not_null())
    if words:
        got = listed(words, lambda row: f"{given[row]!r} in {findings.row(row)}")
        _report(column, findings, "numbers", got, "write a number, or leave the field empty if the value is missing")
    infinite = _where(y.is_infinite())
    if infinite:
        got = listed(infinite, lambda row: f"{y[row]} in {findings.row(row)}")
        _report(column, findings, "finite numbers", got, "write the true value, or leave the field empty")
    return None if words or infinite else y.fill_null(float("nan")).alias("y")


def _report_not_finite(column: pl.Series, numbers: pl.Series, findings: Findings, rows: Ints | None = None) -> None:
    finite = numbers.is_finite().fill_null(False)
    bad = _where(~finite) if rows is None else rows[~finite.to_numpy()[rows]].tolist()
    if bad:
        got = listed(bad, lambda row: f"{_shown(column[row])} in {findings.row(row)}")
        fix = "fill it in (holdfast does not invent covariates), or leave the covariate out"
        _report(column, findings, "a finite number in every row", got, fix)


def _where(flags: pl.Series) -> list[int]:
    """Row numbers of what is true."""
    return flags.fill_null(False).arg_true().to_list()


def _shown(value: object) -> str:
    return "nothing" if value is None else repr(value)


def _report(column: pl.Series, findings: Findings, expected: str, got: str, fix: str) -> None:
    findings.report(f"column {column.name!r}", expected=expected, got=got, fix=fix)


def _report_missing(name: str, table: pl.DataFrame, fix: str, findings: Findings) -> None:
    got = f"no such column among {', '.join(repr(column) for column in table.columns) or 'none at all'}"
    findings.report(f"column {name!r}", expected=f"a column {name!r}", got=got, fix=fix)


def _near(name: str, option: str, table: pl.DataFrame, options: TableOptions) -> str | None:
    """The column that was probably meant: alike in name, or the only one of the right type."""
    used = (*by_option(options).values(), *options.covariates)
    free = [other for other in table.columns if other not in used]
    lower = {other.lower(): other for other in free}
    synonyms: dict[str, Sequence[str]] = {
        "--id-col": ("unique_id", "id", "series", "series_id", "item_id"),
        "--time-col": ("ds", "date", "datetime", "time", "timestamp", "month", "day"),
        "--target-col": ("y", "value", "target", "sales", "demand", "quantity", "volume"),
    }
    for word in (name.lower(), *synonyms[option]):
        if word in lower:
            return lower[word]
    for close in get_close_matches(name.lower(), lower, n=1):
        return lower[close]
    types = [(other, table[other].dtype) for other in free]
    of_type = [other for other, dtype in types if option == "--time-col" and dtype.is_temporal()]
    of_type += [other for other, dtype in types if option == "--target-col" and dtype.is_numeric()]
    return of_type[0] if len(of_type) == 1 else None
