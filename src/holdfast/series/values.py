"""The columns of a table, one by one: ids, times, values and covariates, each read into the type it is used in."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import polars as pl
from numpy.typing import NDArray

from holdfast.series.calendar import ROWS, Freq
from holdfast.series.dates import parse_text_times
from holdfast.series.findings import Findings, column_names, listed
from holdfast.series.options import TableOptions
from holdfast.series.stamps import Stamps, stamps_of
from holdfast.series.wall import in_limits, limits, say_time

TIMES = "ISO dates (2024-01-31), ISO datetimes (2024-01-31 13:00:00) or whole numbers"
ONE_SERIES = "series"
MOST_CATEGORIES = 100  # of a covariate that varies in time: each is a number in every row


def by_option(options: TableOptions) -> list[tuple[str, str]]:
    """The key columns, each with the option that names it."""
    ids = [("--id-col", name) for name in options.id_cols]
    return [*ids, ("--time-col", options.time_col), ("--target-col", options.target_col)]


def used_names(options: TableOptions) -> tuple[str, ...]:
    """All columns that have a use."""
    return (*(name for _, name in by_option(options)), *options.covariates)


@dataclass(frozen=True)
class Values:
    """The columns of a table that could be read, rows as in the table; None where one could not.

    Attributes:
        ids: Key of each row.
        times: Integers, dates or datetimes.
        stamps: How the table writes its times.
        y: float64, nan where missing.
        covariates: Numbers as float32, text (and static booleans) as text; null or nan where missing.
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

    def some(self, names: Sequence[str]) -> list[pl.Series]:
        """Covariates by name; those that could not be read are left out."""
        return [self.covariates[name] for name in names if name in self.covariates.columns]


def read_values(table: pl.DataFrame, options: TableOptions, findings: Findings) -> Values:
    """Read every column that has a use, and report all that cannot be used."""
    _check_names(table, options, findings)
    ids, times, y, stamps = None, None, None, None
    if table.is_empty():
        findings.report("", expected="at least one row", got="no rows", fix="check how the table was made")
        return Values(None, None, None, None, pl.DataFrame())
    if options.id_col == TableOptions.id_col and options.id_col not in table.columns:
        ids = pl.Series("unique_id", [ONE_SERIES]).new_from_index(0, table.height)
        findings.notes.append(f"no column 'unique_id': all rows are one series, called {ONE_SERIES!r}")
    else:
        ids = read_ids(table, options, findings)
    if options.time_col in table.columns:
        times, stamps = read_times(table[options.time_col], options.freq, findings, options.date_format)
    if options.target_col in table.columns:
        y = read_target(table[options.target_col], findings)
    if stamps is not None and stamps.kind:
        keep = "give --freq as a whole number, for instance --freq 1, to keep them as numbers"
        findings.notes.append(f"read column {options.time_col!r} as dates ({stamps.name}); {keep}")
    seen = np.ones(table.height, dtype=bool) if times is None else ~rows_ahead(times, y)
    read = [read_varying(table[name], findings) for name in options.future if name in table.columns]
    read += [read_varying(table[name], findings, gaps=seen) for name in options.past if name in table.columns]
    read += [_read_static(table[name], findings) for name in options.static if name in table.columns]
    return Values(ids, times, stamps, y, pl.DataFrame([column for column in read if column is not None]))


def _check_names(table: pl.DataFrame, options: TableOptions, findings: Findings) -> None:
    """Report columns that are missing, used twice or in the way."""
    for option, name in by_option(options):
        if name not in table.columns and (option, name) != ("--id-col", TableOptions.id_col):
            report_missing(name, table, f"name the column with {option}", findings)
    for name in options.covariates:
        if name not in table.columns:
            report_missing(name, table, "correct its name", findings)
        if name in ("unique_id", "ds", "y") and name not in dict(by_option(options)).values():
            fix = "rename this column"
            findings.report(f"column {name!r}", expected="a name that output does not use", got=repr(name), fix=fix)
    unused = [name for name in table.columns if name not in used_names(options) and name]
    if unused:
        findings.notes.append(f"columns not used: {column_names(unused)}")


def read_ids(table: pl.DataFrame, options: TableOptions, findings: Findings) -> pl.Series | None:
    """The key of each row: its id as it is, or a struct of several, so that no two keys ever look alike."""
    parts = [_read_id(table[name], findings) for name in options.id_cols if name in table.columns]
    whole = [part for part in parts if part is not None]
    if len(whole) < len(options.id_cols):
        return None
    if len(whole) == 1:
        return whole[0]
    key = pl.when(pl.all_horizontal(pl.all().is_not_null())).then(pl.struct(pl.all()))
    return pl.DataFrame(whole).select(key.alias("unique_id")).to_series()


def _read_id(ids: pl.Series, findings: Findings) -> pl.Series | None:
    """One column of ids; null and nan are reported (and become null)."""
    if (ids.dtype.is_nested() and not isinstance(ids.dtype, pl.Struct)) or ids.dtype in (pl.Object, pl.Binary):
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
    times: pl.Series, freq: str | int | None, findings: Findings, date_format: str | None = None
) -> tuple[pl.Series, Stamps] | tuple[None, None]:
    """Times as integers, dates or datetimes, and how they were written; bad ones are reported (and become null).

    Whole numbers that are dates (20240131, seconds since 1970) are read as such, unless `freq` counts in whole numbers.
    """
    given = times
    if times.dtype in (pl.String, pl.Categorical, pl.Enum) or (date_format and times.dtype.is_integer()):
        read = parse_text_times(times.cast(pl.String), date_format, findings)
        if read is None:
            return None, None
        times = read
    if not (times.dtype.is_integer() or times.dtype == pl.Date or isinstance(times.dtype, pl.Datetime)):
        fix = "convert the column to dates, datetimes or whole numbers"
        _report(given, findings, TIMES, f"a column of type {given.dtype}", fix)
        return None, None
    bad = _where(times.is_null())
    if bad:
        got = listed(bad, lambda row: f"{_shown(given[row])} in {findings.row(row)}")
        written = date_format or findings.date_format
        expected = f"times written as {written}" if written else TIMES
        option = "correct --date-format, " if date_format else ""
        _report(given, findings, expected, got, f"{option}write the times like this, or remove these rows")
    stamps = stamps_of(times, whole_numbers=freq not in (None, ROWS) and Freq.parse(freq).unit == "")
    times = stamps.read(times)
    low, high = limits(times.dtype)
    far = _where(~in_limits(times))
    if far:
        expected = f"times from {say_time(low, times.dtype)} to {say_time(high, times.dtype)}"
        values = given.to_physical() if given.dtype.is_temporal() else given  # no calendar has these dates
        got = listed(far, lambda row: f"{_shown(values[row])} in {findings.row(row)}")
        _report(given, findings, expected, got, "correct these times, or count them from another origin")
        return None, None
    return times.alias("ds"), stamps


def read_varying(column: pl.Series, findings: Findings, *, gaps: NDArray[np.bool_] | None = None) -> pl.Series | None:
    """A covariate that varies in time, as float32 or text; gaps are noted in the rows `gaps`, else reported."""
    if column.dtype in (pl.String, pl.Categorical, pl.Enum):
        words: pl.Series = column.cast(pl.String)
        numbers: pl.Series = words.str.strip_chars().cast(pl.Float32, strict=False)
        if numbers.is_null().all():
            return _read_words(words, findings, gaps=gaps)
        odd = _where(words.is_not_null() & numbers.is_null())
        if odd:
            got = listed(odd, lambda row: f"{words[row]!r} in {findings.row(row)}")
            fix = "write a number" + (", or leave the field empty if the value is missing" if gaps is not None else "")
            _report(column, findings, "numbers in all rows, or words in all rows", got, fix)
            return None
    elif column.dtype.is_numeric() or column.dtype in (pl.Boolean, pl.Null):
        numbers = column.cast(pl.Float32, strict=False)
    else:
        got, fix = f"a column of type {column.dtype}", "code it as numbers or text"
        _report(column, findings, "numbers, text or booleans", got, fix)
        return None
    missing = numbers.is_nan().fill_null(True)
    if gaps is not None:
        _note_gaps(column, missing.to_numpy()[gaps], findings)
    _report_not_finite(column, numbers if gaps is None else numbers.fill_nan(0.0).fill_null(0.0), findings)
    return numbers


def _read_words(words: pl.Series, findings: Findings, *, gaps: NDArray[np.bool_] | None) -> pl.Series:
    """A covariate of text, for one-hot coding."""
    missing = _where(words.is_null())
    if gaps is not None:
        _note_gaps(words, words.is_null().to_numpy()[gaps], findings)
    elif missing:
        got = f"no value in {listed(missing, findings.row)}"
        _report(words, findings, "a value in every row", got, "fill it in, for instance with 'unknown'")
    if words.n_unique() > MOST_CATEGORIES:
        expected = f"at most {MOST_CATEGORIES} different texts, for one column each"
        _report(words, findings, expected, f"{words.n_unique():,} of them", "code it as numbers, or group its values")
    return words


def _note_gaps(column: pl.Series, missing: NDArray[np.bool_], findings: Findings) -> None:
    """Note the gaps of a past covariate in rows that may have none; one without any value is reported."""
    count = int(missing.sum())
    if count == len(missing):
        _report(column, findings, "at least one value", "nothing in any row", "leave the covariate out")
    elif count:
        findings.concern(f"column {column.name!r}: missing in {count:,} rows, where the network reads its mean")


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


def read_target(column: pl.Series, findings: Findings) -> pl.Series | None:
    """Values as float64, nan where missing; text and infinities are reported."""
    text = column.dtype in (pl.String, pl.Categorical, pl.Enum)
    if column.dtype == pl.Boolean:
        findings.notes.append(f"column {column.name!r}: true is read as 1, false as 0")
    if not (text or column.dtype.is_numeric() or column.dtype in (pl.Null, pl.Boolean)):
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


def _report_not_finite(column: pl.Series, numbers: pl.Series, findings: Findings) -> None:
    bad = _where(~numbers.is_finite().fill_null(False))
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


def report_missing(name: str, table: pl.DataFrame, fix: str, findings: Findings) -> None:
    """Report a column that is not there."""
    got = f"no such column among {column_names(table.columns) or 'none at all'}"
    findings.report(f"column {name!r}", expected=f"a column {name!r}", got=got, fix=fix)
