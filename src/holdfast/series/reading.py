"""Files of tables: read into polars, and written atomically."""

from __future__ import annotations

import csv
import gzip
import io
import zlib
from collections import Counter
from pathlib import Path
from uuid import uuid4

import numpy as np
import polars as pl

from holdfast.errors import DataError, Problem
from holdfast.series.findings import listed
from holdfast.series.times import parse_times


def read_table(path: Path | str) -> pl.DataFrame:
    r"""Read a CSV (UTF-8, commas, one header line; may be gzipped) or Parquet file.

    Columns of a CSV become whole numbers, numbers, booleans, ISO dates or datetimes if every value of the column is
    one; everything else stays text, ids with leading zeros too. Empty fields are missing.

    Args:
        path: A file that ends in .csv, .csv.gz or .parquet.

    Returns:
        The table, rows in the order of the file.

    Raises:
        DataError: If the file is missing, empty, of another kind, not UTF-8, ragged or damaged.

    Example:
        >>> import tempfile
        >>> folder = Path(tempfile.mkdtemp())
        >>> _ = (folder / "sales.csv").write_text("unique_id,ds,y\n007,2024-01-31,3\n007,2024-02-29,\n")
        >>> read_table(folder / "sales.csv").rows()
        [('007', datetime.date(2024, 1, 31), 3), ('007', datetime.date(2024, 2, 29), None)]
    """
    path = Path(path)
    if path.name.endswith((".csv", ".csv.gz")):
        return _read_csv(path)
    if path.suffix == ".parquet":
        try:
            return pl.read_parquet(io.BytesIO(_read_bytes(path)))
        except pl.exceptions.PolarsError as error:
            raise _refused(path, "a Parquet file", str(error), "write the file again") from error
    expected = "a file that ends in .csv, .csv.gz or .parquet"
    raise _refused(path, expected, f"{path.suffix or 'no ending'!r}", "save the table as CSV or Parquet")


def write_table(frame: pl.DataFrame, path: Path | str) -> None:
    r"""Write a .csv or .parquet file atomically: a reader sees the old file or the whole new one.

    Args:
        frame: The table.
        path: Where to; the folder must exist.

    Raises:
        DataError: If the ending is another one, or the file cannot be written.

    Example:
        >>> import tempfile
        >>> path = Path(tempfile.mkdtemp()) / "forecast.csv"
        >>> write_table(pl.DataFrame({"ds": [1, 2]}), path)
        >>> path.read_text()
        'ds\n1\n2\n'
    """
    path = Path(path)
    if path.suffix not in (".csv", ".parquet"):
        raise _refused(path, "a file that ends in .csv or .parquet", repr(path.name), "change the name of the file")
    part = path.with_name(f".{path.name}.{uuid4().hex}.part")
    try:
        if path.suffix == ".csv":
            _plain_times(frame).write_csv(part)
        else:
            frame.write_parquet(part)
        part.replace(path)
    except OSError as error:
        fix = "create the folder first, or write somewhere else"
        raise _refused(path, "a place to write to", error.strerror or str(error), fix) from error
    finally:
        part.unlink(missing_ok=True)


def csv_text(frame: pl.DataFrame) -> str:
    r"""A table as CSV; times on whole seconds are written without a fraction.

    Args:
        frame: The table.

    Returns:
        A header line and a line per row.

    Example:
        >>> from datetime import datetime
        >>> csv_text(pl.DataFrame({"ds": [datetime(2024, 1, 9, 8)], "y": [1.5]}))
        'ds,y\n2024-01-09 08:00:00,1.5\n'
    """
    return _plain_times(frame).write_csv()


def _plain_times(frame: pl.DataFrame) -> pl.DataFrame:
    """Times on whole seconds as text without a fraction."""
    whole = [
        column.dt.to_string("%Y-%m-%d %H:%M:%S" + ("%:z" if column.dtype.time_zone else ""))
        for column in frame
        if isinstance(column.dtype, pl.Datetime) and (column.dt.nanosecond() == 0).all()
    ]
    return frame.with_columns(whole)


def _read_csv(path: Path) -> pl.DataFrame:
    data = _read_bytes(path)
    if path.name.endswith(".gz"):
        try:
            data = gzip.decompress(data)
        except (OSError, EOFError, zlib.error) as error:
            raise _refused(path, "a gzipped CSV file", str(error), "compress the file again") from error
    data = data.removeprefix(b"\xef\xbb\xbf").rstrip(b"\r\n")
    if not data.strip():
        raise _refused(path, "a header line and rows", "an empty file", "write unique_id,ds,y on the first line")
    try:
        data.decode("utf-8")
    except UnicodeDecodeError as error:
        where = f"line {data.count(10, 0, error.start) + 1}"
        got = f"byte 0x{data[error.start]:02x} in {where}"
        raise _refused(path, "text in UTF-8", got, 'save the file as UTF-8 (in Excel: "CSV UTF-8")') from error
    _check_header(path, data)
    _check_ragged(path, data)
    # Everything as text first: a parser that guesses turns "007" into 7 and gives up at the first "n/a".
    try:
        text = pl.read_csv(io.BytesIO(data), infer_schema=False)
    except pl.exceptions.PolarsError as error:
        fix = "check the quotes around fields, and write the file again"
        raise _refused(path, "comma-separated fields", str(error).splitlines()[0], fix) from error
    return text.with_columns([_typed(column) for column in text])


def _check_header(path: Path, data: bytes) -> None:
    names = next(csv.reader(io.StringIO(data.splitlines()[0].decode("utf-8")))) if data[:1] != b"\n" else [""]
    for separator, word in ((";", "semicolons"), ("\t", "tabs")):
        if len(names) == 1 and separator in names[0]:
            raise _refused(path, "fields separated by commas", f"{word}: {names[0]!r}", "save it with commas")
    repeated = [name for name, count in Counter(names).items() if count > 1]
    if repeated:
        got = f"{', '.join(repr(name) for name in repeated)} more than once in line 1"
        raise _refused(path, "a name of its own for each column", got, "rename the columns in the header line")


def _check_ragged(path: Path, data: bytes) -> None:
    """Every line needs as many fields as the header; the parser would fill short lines in silence."""
    raw = np.frombuffer(data + b"\n", dtype=np.uint8)
    ends = np.flatnonzero(raw == ord("\n"))
    commas = np.diff(np.searchsorted(np.flatnonzero(raw == ord(",")), ends), prepend=0)
    blank = bool((np.diff(ends) <= 1).any())
    if (commas == commas[0]).all() and not blank:
        return
    rows = csv.reader(io.StringIO(data.decode("utf-8")))  # knows quotes, and is slow
    width = len(next(rows))
    ragged = [f"{len(row)} in line {rows.line_num}" for row in rows if len(row) != width]
    if ragged:
        expected = f"{width} fields in every line, as in the header"
        raise _refused(path, expected, listed(ragged, str), "correct these lines")


def _typed(text: pl.Series) -> pl.Series:
    """A text column as what all of its values are."""
    given = text.drop_nulls()
    if given.is_empty():
        return text
    if given.str.contains(r"^-?(0|[1-9]\d*)$").all():
        whole = text.cast(pl.Int64, strict=False)
        return whole if whole.null_count() == text.null_count() else text
    if given.str.contains(r"^[+-]?((0|[1-9]\d*)(\.\d*)?|\.\d+)([eE][+-]?\d+)?$|^[+-]?(inf|nan|NaN|Inf)$").all():
        numbers: pl.Series = text.cast(pl.Float64)
        return numbers
    if given.is_in(["true", "false", "True", "False"]).all():
        return text.str.to_lowercase() == "true"
    if given[0][:4].isdigit() and "-" in given[0]:
        times = parse_times(text)
        return times if times.null_count() == text.null_count() and times.dtype.is_temporal() else text
    return text


def _read_bytes(path: Path) -> bytes:
    try:
        return path.read_bytes()
    except OSError as error:
        got = "no such file" if isinstance(error, FileNotFoundError) else error.strerror or str(error)
        raise _refused(path, "a file that can be read", got, "check the path") from error


def _refused(path: Path, expected: str, got: str, fix: str) -> DataError:
    return DataError(Problem(str(path), expected, got, fix))
