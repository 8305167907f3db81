"""A table as somebody brings it: a file, standard input, or a dataframe of any kind."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import polars as pl

from holdfast.series.findings import Rows
from holdfast.series.frames import Kind, as_polars
from holdfast.series.options import TableOptions
from holdfast.series.reading import read_file


@dataclass(frozen=True, eq=False)
class RawTable:
    """A table that was brought, before it is checked.

    Attributes:
        frame: Its rows, in the order in which they came.
        kind: Kind of dataframe that it came as, and that forecasts come back as.
        source: Its name in errors.
        notes: What was found out while reading it, and should be known.
        rows: How its rows are counted in errors.
        date_format: How its dates are written, where that was given.

    Example:
        >>> RawTable(pl.DataFrame({"ds": [1], "y": [2.0]}), source="sales.csv").frame.height
        1
    """

    frame: pl.DataFrame
    kind: Kind = field(default_factory=Kind)
    source: str = "the table"
    notes: tuple[str, ...] = ()
    rows: Rows = field(default_factory=Rows)
    date_format: str | None = None


def open_table(brought: Any, options: TableOptions | None = None, source: str = "the table") -> RawTable:
    """Read a table, whatever it comes as.

    Args:
        brought: Path of a file, a folder or pattern of Parquet files, "-" for standard input, or a dataframe of any
            kind that `as_polars` takes; a table that is open already stays as it is.
        options: How to read it.
        source: Its name in errors; a file is called by its path.

    Returns:
        The rows as they are; nothing in them is checked yet.

    Raises:
        DataError: If it is not a table.

    Example:
        >>> import pandas as pd
        >>> open_table(pd.DataFrame({"ds": [1, 2], "y": [3.0, 4.0]})).frame.rows()
        [(1, 3.0), (2, 4.0)]
    """
    if isinstance(brought, RawTable):
        return brought
    options = options or TableOptions()
    if isinstance(brought, str | Path):
        found = read_file(brought, options)
        return RawTable(found.frame, Kind(), found.source, tuple(found.notes), found.rows, options.date_format)
    frame, kind, notes = as_polars(brought, options)
    return RawTable(frame, kind, source, notes, date_format=options.date_format)
