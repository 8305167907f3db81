"""Files of tables, read into polars: text of any dialect, JSON lines, Parquet, Arrow, Excel."""

from __future__ import annotations

import codecs
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

import polars as pl

from holdfast.errors import OptionError, Problem
from holdfast.series.binary import is_set, read_binary, read_set
from holdfast.series.dialect import SEPARATORS, read_text
from holdfast.series.excel import read_excel
from holdfast.series.findings import Rows
from holdfast.series.jsonl import read_jsonl
from holdfast.series.numbers import PLAIN, Notation, find_notation
from holdfast.series.opening import TEXT, TableFile, place_of, read_bytes, refused
from holdfast.series.options import TableOptions
from holdfast.series.times import parse_times

_WHOLE = r"^-?(0|[1-9]\d*)$"
_FRACTION = r"^[+-]?((0|[1-9]\d*)(\.\d*)?|\.\d+)([eE][+-]?\d+)?$|^[+-]?(inf|nan|NaN|Inf)$"
_MARKS = (codecs.BOM_UTF8, codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE)


@dataclass(frozen=True, eq=False)
class FileTable:
    """A file as a table.

    Attributes:
        frame: Its rows.
        source: Its name in errors.
        rows: How its rows are counted in errors.
        notes: How it was read, where that had to be found out.
    """

    frame: pl.DataFrame
    source: str
    rows: Rows = field(default_factory=Rows)
    notes: Sequence[str] = ()


def read_table(path: Path | str, options: TableOptions | None = None) -> pl.DataFrame:
    r"""Read a file: .csv, .tsv, .txt, .jsonl (also as .gz, .bz2, .zst), .parquet, .feather, .arrow or .xlsx.

    Columns of a text file become whole numbers, numbers, booleans, ISO dates or datetimes if every value of the column
    is one; everything else stays text, ids with leading zeros too. Empty fields are missing. Separator and decimal
    mark are found out where only one reading fits all rows.

    Args:
        path: The file; a folder or a pattern of Parquet files; "-" for CSV from standard input.
        options: Names of the columns, and whatever of the dialect is known.

    Returns:
        The table, rows in the order of the file.

    Raises:
        DataError: If the file is missing, empty, of another kind, ragged, damaged, too large, or can be read in two
            ways.

    Example:
        >>> import tempfile
        >>> folder = Path(tempfile.mkdtemp())
        >>> _ = (folder / "sales.csv").write_text("unique_id;ds;y\n007;2024-01-31;3,5\n007;2024-02-29;\n")
        >>> read_table(folder / "sales.csv").rows()
        [('007', datetime.date(2024, 1, 31), 3.5), ('007', datetime.date(2024, 2, 29), None)]
    """
    return read_file(path, options or TableOptions()).frame


def read_file(path: Path | str, options: TableOptions) -> FileTable:
    """Read a file, and say how."""
    if not str(path) or "\0" in str(path):
        raise refused(repr(str(path)), "the name of a file", "no name that a file can have", "check the path")
    path = Path(path)
    if is_set(path):
        frame, notes = read_set(path, options)
        return FileTable(frame, str(path), notes=notes)
    place = place_of(path)
    if place.kind in TEXT:
        return _read_text_file(place, options)
    if place.kind == ".xlsx":
        frame, rows, notes = read_excel(read_bytes(place, options), place.source, options)
        return _typed_table(frame, place.source, rows, notes, "", options)
    return FileTable(read_binary(place, options), place.source)


def _read_text_file(place: TableFile, options: TableOptions) -> FileTable:
    data, notes = _decoded(read_bytes(place, options), place.source, options)
    data = data.rstrip(b"\r\n")
    if not data.strip():
        fix = "write unique_id,ds,y on the first line"
        raise refused(place.source, "a header line and rows", "an empty file", fix)
    if 0 in data:
        line = data.count(b"\n", 0, data.index(0)) + 1
        got = f"a NUL byte in line {line}: {data.splitlines()[line - 1][:40].decode('utf-8', 'ignore')!r}"
        raise refused(place.source, "a text file", got, "write the file again, or name its --encoding")
    if place.kind == ".jsonl":
        frame, rows = read_jsonl(data, place.source, options)
        return _typed_table(frame, place.source, rows, notes, "", options)
    if b"\n" not in data:
        data = data.replace(b"\r", b"\n")  # as on old Macs
    text = read_text(data, place.source, options)
    return _typed_table(text.frame, place.source, text.rows, [*notes, *text.notes], text.sep, options)


def _decoded(data: bytes, source: str, options: TableOptions) -> tuple[bytes, list[str]]:
    """The text in UTF-8, without a byte order mark."""
    mark = next((mark for mark in _MARKS if data.startswith(mark)), b"")
    encoding = options.encoding or ("utf-16" if mark in _MARKS[1:] else "utf-8")
    notes = ["read as UTF-16, as its first bytes say"] if encoding == "utf-16" and not options.encoding else []
    try:
        text = data.decode("utf-8-sig" if encoding.lower().replace("_", "-") in ("utf-8", "utf8") else encoding)
        return text.encode("utf-8"), notes
    except UnicodeDecodeError as error:
        line = data.count(b"\n", 0, error.start) + 1
        got = f"byte 0x{data[error.start]:02x} in line {line}"
        fix = _encoding_advice(data, line) if encoding == "utf-8" else "name the right one with --encoding"
        raise refused(source, f"text in {encoding.upper()}", got, fix) from error
    except (LookupError, UnicodeError) as error:
        fix = "give --encoding cp1252 or utf-16, for instance"
        raise OptionError(Problem("option encoding", "an encoding of text", repr(encoding), fix)) from error


def _encoding_advice(data: bytes, line: int) -> str:
    """How the line would read in the encoding of Western Windows, if it can be."""
    advice = 'save the file as UTF-8 (in Excel: "CSV UTF-8")'
    try:
        text = data.decode("cp1252").split("\n")[line - 1].strip()
    except UnicodeDecodeError:
        return advice
    return f"{advice}, or give --encoding cp1252 if line {line} is {text[:60]!r}"


def _typed_table(
    frame: pl.DataFrame, source: str, rows: Rows, notes: Sequence[str], sep: str, options: TableOptions
) -> FileTable:
    """Text columns as what their values are, and notes on how they were read."""
    frame, notation = _plain_numbers(frame, source, rows, sep, options)
    said = [f"{SEPARATORS[sep]} between fields"] if sep in SEPARATORS and sep != "," and not options.sep else []
    said += [str(notation)] if notation != PLAIN and not (options.decimal and options.thousands) else []
    keep = (options.time_col,) if options.date_format else ()
    columns = [column if column.dtype != pl.String or column.name in keep else _typed(column) for column in frame]
    return FileTable(
        frame.with_columns(columns), source, rows, [*notes, *([f"read with {', '.join(said)}"] * bool(said))]
    )


def _plain_numbers(
    frame: pl.DataFrame, source: str, rows: Rows, sep: str, options: TableOptions
) -> tuple[pl.DataFrame, Notation]:
    """The columns of numbers in plain notation: those that options name, or all others where they are not there."""
    keys = (*options.id_cols, options.time_col)
    text = [column for column in frame if column.dtype == pl.String and column.name not in keys]
    numbers = (options.target_col, *options.future, *options.past)
    long = not options.wide and options.target_col in frame.columns
    notation = find_notation(
        [column for column in text if not long or column.name in numbers], sep, options, rows, source
    )
    if notation == PLAIN:
        return frame, notation
    written = [
        column
        for column in text
        if not long or column.name in numbers or (column.name in options.static and notation.fits(column).all())
    ]
    return frame.with_columns([notation.plain(column) for column in written]), notation


def _typed(text: pl.Series) -> pl.Series:
    """A text column as what all of its values are."""
    given = text.drop_nulls()
    if given.is_empty():
        return text
    if given.str.starts_with(" ").all():  # blanks after separators
        text = text.str.strip_chars_start(" ")
    given = text.drop_nulls().str.strip_chars(" ")
    if _all(given, _WHOLE):
        whole = text.str.strip_chars(" ").cast(pl.Int64, strict=False)
        return whole if whole.null_count() == text.null_count() else text
    if _all(given, _FRACTION):
        numbers: pl.Series = text.str.strip_chars(" ").cast(pl.Float64)
        return numbers
    if given.is_in(["true", "false", "True", "False"]).all():
        return text.str.strip_chars(" ").str.to_lowercase() == "true"
    if given[0][:4].isdigit() and "-" in given[0]:
        times = parse_times(text)
        return times if times.null_count() == text.null_count() and times.dtype.is_temporal() else text
    return text


def _all(text: pl.Series, pattern: str) -> bool:
    """Whether all values match; the first few mostly tell."""
    return bool(text.head(100).str.contains(pattern).all() and text.str.contains(pattern).all())
