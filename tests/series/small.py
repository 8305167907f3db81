"""A check of a plain frame, with the options of the table by name."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import polars as pl

from holdfast.series import Checked, RawTable, TableOptions, check_table
from holdfast.series.findings import Rows


def check(
    frame: pl.DataFrame,
    options: TableOptions | None = None,
    *,
    source: str = "the table",
    future: pl.DataFrame | None = None,
    categories: Any = None,
    **more: Any,
) -> Checked:
    ahead = None if future is None else RawTable(future, source="the future table")
    options = replace(options or TableOptions(), **more)
    rows = Rows("line", 2) if source.endswith(".csv") else Rows()
    return check_table(RawTable(frame, source=source, rows=rows), options, future=ahead, categories=categories)
