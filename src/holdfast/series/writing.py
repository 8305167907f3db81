"""Tables written to files: whole or not at all, and safe to open in a spreadsheet where asked for."""

from __future__ import annotations

from pathlib import Path
from uuid import uuid4

import polars as pl

from holdfast.series.opening import refused

FORMULA = r"^[=+\-@\t\r]"  # what a spreadsheet takes for the start of a formula (OWASP, CSV injection)


def write_table(frame: pl.DataFrame, path: Path | str, *, safe: bool = False) -> None:
    r"""Write a .csv or .parquet file atomically: a reader sees the old file or the whole new one.

    Args:
        frame: The table.
        path: Where to; the folder must exist.
        safe: Write a CSV that no spreadsheet takes for formulas, as `csv_text` does.

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
        expected, fix = "a file that ends in .csv or .parquet", "change the name of the file"
        raise refused(str(path), expected, repr(path.name), fix)
    part = path.with_name(f".{path.name}.{uuid4().hex}.part")
    try:
        if path.suffix == ".csv":
            _for_csv(frame, safe=safe).write_csv(part)
        else:
            frame.write_parquet(part)
        part.replace(path)
    except OSError as error:
        fix = "create the folder first, or write somewhere else"
        raise refused(str(path), "a place to write to", error.strerror or str(error), fix) from error
    finally:
        part.unlink(missing_ok=True)


def csv_text(frame: pl.DataFrame, *, safe: bool = False) -> str:
    r"""A table as CSV; times on whole seconds are written without a fraction.

    Args:
        frame: The table.
        safe: Put an apostrophe in front of text that a spreadsheet would run as a formula.

    Returns:
        A header line and a line per row.

    Example:
        >>> from datetime import datetime
        >>> csv_text(pl.DataFrame({"ds": [datetime(2024, 1, 9, 8)], "y": [1.5]}))
        'ds,y\n2024-01-09 08:00:00,1.5\n'
        >>> csv_text(pl.DataFrame({"unique_id": ["=1+1", "a-b"], "y": [-1.5, 2.0]}), safe=True)
        "unique_id,y\n'=1+1,-1.5\na-b,2.0\n"
    """
    return _for_csv(frame, safe=safe).write_csv()


def _for_csv(frame: pl.DataFrame, *, safe: bool) -> pl.DataFrame:
    """Times on whole seconds as text without a fraction; with `safe`, text and names that are no formulas."""
    whole = [
        column.dt.to_string("%Y-%m-%d %H:%M:%S" + ("%:z" if column.dtype.time_zone else ""))
        for column in frame
        if isinstance(column.dtype, pl.Datetime) and (column.dt.nanosecond() == 0).all()
    ]
    if safe:
        text = pl.col(pl.String, pl.Categorical, pl.Enum).cast(pl.String)
        frame = frame.with_columns(text.str.replace(FORMULA, "'$0"))
        names = pl.Series(frame.columns, dtype=pl.String)
        frame = frame.rename(dict(zip(names, names.str.replace(FORMULA, "'$0"), strict=True)))
    return frame.with_columns(whole)
