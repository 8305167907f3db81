"""Dates as people write them: which order of day, month and year reads a whole column, where only one does."""

from __future__ import annotations

import re
from dataclasses import dataclass

import polars as pl

from holdfast.errors import OptionError, Problem
from holdfast.series.findings import Findings
from holdfast.series.times import parse_times

# Every order that is looked for; what follows the date (a time of day, an offset) is read as ISO writes it.
FORMATS = (
    *(form.replace("/", mark) for mark in "/.-" for form in ("%d/%m/%Y", "%m/%d/%Y", "%m/%Y")),
    *("%Y/%m/%d", "%Y.%m.%d", "%Y/%m", "%Y.%m", "%Y%m%d"),
    *(form.replace("/", mark) for mark in "/.-" for form in ("%d/%m/%y", "%m/%d/%y", "%y/%m/%d")),
    *("%d %b %Y", "%d. %b %Y", "%b %d, %Y", "%b %d %Y", "%d-%b-%Y", "%d-%b-%y", "%Y-%b-%d", "%b %Y", "%b-%Y"),
)
_PARTS = {"%d": r"(?P<day>\d{1,2})", "%m": r"(?P<month>\d{1,2})", "%Y": r"(?P<year>\d{4})", "%y": r"(?P<year>\d\d)"}
_PARTS |= dict.fromkeys(("%b", "%B"), r"#(?P<month>\d\d)")
_MONTHS = ("jan", "feb", "mar", "apr", "may", "jun", "jul", "aug", "sep", "oct", "nov", "dec")
_CLOCK = r"(?i)\d\s*[ap]\.?m\.?$"
_SAMPLE = 1000
_AMBIGUOUS = "dates that can be read in one way"


@dataclass(frozen=True)
class Dates:
    """Text read as times.

    Attributes:
        times: Null where it could not be read.
        formats: The formats that read most rows; several only if they read them differently.
    """

    times: pl.Series
    formats: tuple[str, ...]


def read_dates(text: pl.Series, date_format: str | None = None) -> Dates:
    """Read dates that are not in ISO order.

    Args:
        text: A column of text.
        date_format: How to read it, as strftime writes it; a format of the date alone lets an ISO time of day follow.
            None: whatever reads all rows.

    Raises:
        OptionError: If there is no such format.

    Example:
        >>> read_dates(pl.Series(["31.01.2024 8:30", "1.2.2024 9:00"])).times.to_list()
        [datetime.datetime(2024, 1, 31, 8, 30), datetime.datetime(2024, 2, 1, 9, 0)]
        >>> read_dates(pl.Series(["01/02/2024", "02/02/2024"])).formats
        ('%d/%m/%Y', '%m/%d/%Y')
    """
    if date_format is not None:
        return Dates(_read(text, date_format), (date_format,))
    sample = text.drop_nulls().head(_SAMPLE)
    read = _fewest({form: _read(sample, form) for form in FORMATS})
    if len(text) > len(sample):
        read = _fewest({form: _read(text, form) for form in read})
    first, *others = read
    different = [form for form in others if not read[form].equals(read[first], check_dtypes=True)]
    return Dates(read[first].alias(text.name), (first, *different))


def parse_text_times(text: pl.Series, date_format: str | None, findings: Findings) -> pl.Series | None:
    """Times of a text column, null where they cannot be read; None, and a problem, where two readings fit.

    Example:
        >>> findings = Findings("sales.csv")
        >>> parse_text_times(pl.Series("ds", ["01/31/2024", "02/01/2024"]), None, findings).to_list()
        [datetime.date(2024, 1, 31), datetime.date(2024, 2, 1)]
        >>> findings.notes
        ["column 'ds': dates read as %m/%d/%Y, the only order that fits all rows"]
    """
    if date_format is not None:
        return read_dates(text, date_format).times
    times = parse_times(text)
    unread = times.null_count()
    if unread == text.null_count():
        return times
    found = read_dates(text)
    if found.times.null_count() >= unread:
        return times
    if findings.date_format and findings.date_format in found.formats:
        return _read(text, findings.date_format)
    first, *others = found.formats
    if others:
        _report_ambiguous(text, found, findings)
        return None
    findings.date_format = first
    if found.times.null_count() == text.null_count():
        century = ", years from 1970 to 2069" if "%y" in first else ""
        findings.notes.append(
            f"column {text.name!r}: dates read as {first}, the only order that fits all rows{century}"
        )
    return found.times


def _report_ambiguous(text: pl.Series, found: Dates, findings: Findings) -> None:
    """A row that two formats read differently, and the options that choose."""
    read = [_read(text, form) for form in found.formats]
    row = int((read[0] != read[1]).fill_null(False).arg_true()[0])
    readings = " or ".join(f"{times[row]} (read as {form})" for times, form in zip(read, found.formats, strict=True))
    got = f"{text[row]!r} in {findings.rows.name(row)}: {readings}"
    fix = f"give --date-format {' or --date-format '.join(map(repr, found.formats))}".replace("'", '"')
    findings.report(f"column {text.name!r}", expected=_AMBIGUOUS, got=got, fix=fix)


def _fewest(read: dict[str, pl.Series]) -> dict[str, pl.Series]:
    """Those that leave the fewest rows unread."""
    fewest = min(times.null_count() for times in read.values())
    return {form: times for form, times in read.items() if times.null_count() == fewest}


def _read(text: pl.Series, form: str) -> pl.Series:
    parts = re.split(r"(%[dmYybB])", form)
    if "%" in "".join(parts[::2]) or "%" not in form:
        return _strptime(text, form)
    return _by_parts(text, "".join(_PARTS.get(part, re.escape(part)) for part in parts), form)


def _by_parts(text: pl.Series, pattern: str, form: str) -> pl.Series:
    """Bring the date into ISO order, and leave the rest to the reader of ISO times."""
    text = text.str.strip_chars()
    if "%b" in form.lower() and text.str.contains("[a-zA-Z]").any():
        for number, name in enumerate(_MONTHS, 1):
            text = text.str.replace(rf"(?i)\b{name}[a-z]*\.?", f"#{number:02d}")
    clock = "" if "day" not in pattern else r"[T ,].*"
    parts = text.str.extract_groups(rf"^{pattern}(?P<rest>$|{clock or '$'})").struct.unnest()
    unread = pl.Series(text.name, [None] * len(text), dtype=pl.Date)
    year = parts["year"]
    if year.null_count() == len(text):  # the usual case, while all formats are tried
        return unread
    if "%y" in form:
        year = pl.select(pl.when(year >= "70").then("19" + year).otherwise("20" + year)).to_series()
    day = parts["day"].str.zfill(2) if "day" in parts.columns else "01"
    rest = parts["rest"].str.replace(r"^[T ,]+", " ").str.replace(r"^ (\d):", " 0$1:")
    iso = year + "-" + parts["month"].str.zfill(2) + "-" + day + rest
    times = _on_the_clock(iso) if iso.str.contains(_CLOCK).any() else parse_times(iso)
    return times.alias(text.name) if times.dtype.is_temporal() else unread


def _on_the_clock(iso: pl.Series) -> pl.Series:
    """Times of day with am and pm."""
    iso = iso.str.to_uppercase().str.replace_all(r"\s*([AP])\.?M\.?$", " ${1}M")
    times = iso.str.to_datetime("%Y-%m-%d %I:%M:%S %p", time_unit="us", strict=False)
    return times.fill_null(iso.str.to_datetime("%Y-%m-%d %I:%M %p", time_unit="us", strict=False))


def _strptime(text: pl.Series, form: str) -> pl.Series:
    """A format with a time of day or with unusual parts."""
    text = text.str.strip_chars()
    if not re.search(r"%[dejDFxcvs]", form):  # a month alone is its first day
        text, form = text + " 01", form + " %d"
    zone = "UTC" if re.search(r"%:*z|%#z|%\+", form) else None
    try:
        if re.search(r"%[HIklMSTRXrcsf+.:#3-9]", form):
            return text.str.to_datetime(form, time_unit="us", time_zone=zone, strict=False)
        return text.str.to_date(form, strict=False)
    except pl.exceptions.PolarsError as error:
        got, fix = f"{form!r}: {str(error).splitlines()[0]}", 'give --date-format "%d.%m.%Y", for instance'
        raise OptionError(Problem("option date_format", "a format as strftime has it", got, fix)) from error
