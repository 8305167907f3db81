"""What is in a table, in words: the answer of `holdfast check`; no torch."""

from __future__ import annotations

from typing import Any

import numpy as np

from holdfast.series.checking import check_table
from holdfast.series.options import TableOptions
from holdfast.series.seasons import left_out, seasons_of
from holdfast.series.table import open_table


def describe_table(brought: Any, options: TableOptions) -> list[str]:
    r"""What is in a table, one thing per line.

    Args:
        brought: Path of a file, or a dataframe.
        options: How to read it.

    Returns:
        Lines of text, the last of which says that a fit can start.

    Raises:
        DataError: With every problem of the table.

    Example:
        >>> import polars as pl
        >>> print(*describe_table(pl.DataFrame({"ds": range(20), "y": [1.0, 2.0] * 10}), TableOptions()), sep="\n")
        1 series, 20 rows; 20 to 20 rows per series
        frequency 1
        missing values: 0
        no column 'unique_id': all rows are one series, called 'series'
        OK: ready to fit
    """
    checked = check_table(open_table(brought, options), options)
    store = checked.store
    seasons = seasons_of(store, options, holdout=store.horizon)
    rows, shortest, longest = int(store.lengths.sum()), int(store.lengths.min()), int(store.lengths.max())
    missing = rows - int(np.isfinite(store.y).sum())
    return [
        f"{store.n_series:,} series, {rows:,} rows; {shortest:,} to {longest:,} rows per series",
        f"frequency {store.freq.text}",
        f"missing values: {missing:,}",
        *(f"season {season.length}: {season.reason}" for season in seasons),
        *checked.notes,
        *left_out(store, options),
        "OK: ready to fit",
    ]
