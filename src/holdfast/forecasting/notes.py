"""What a user should know about the series that a forecast starts from."""

from __future__ import annotations

import numpy as np

from holdfast.forecasting.config import Config
from holdfast.forecasting.predict import never_negative
from holdfast.series import SeriesStore

FEW = 3  # series that are named
SMALL_COUNT = 20  # a median of whole numbers up to this looks like counts


def history_notes(store: SeriesStore, context_length: int) -> list[str]:
    """Series whose newest rows are missing, and series with less history than half of the context.

    Args:
        store: The series.
        context_length: Steps that the network reads.

    Returns:
        A sentence for each of the two, if there are such series.

    Example:
        >>> import polars as pl
        >>> from holdfast.series import TableOptions, check_table, open_table
        >>> table = open_table(pl.DataFrame({"ds": range(9), "y": [1.0, 2.0, 3.0] * 2 + [None] * 3}))
        >>> history_notes(check_table(table, TableOptions(horizon=2)).store, context_length=4)
        ["no value in the newest rows of 1 of 1 series ('series': 3 rows): forecasts start from the last values seen,
        with intervals as wide as measured for such an outage"]
    """
    row_R = np.arange(1, len(store.y) + 1) - np.repeat(store.offsets[:-1], np.diff(store.offsets))
    rows_n = np.maximum.reduceat(np.where(np.isfinite(store.y), row_R, 0), store.offsets[:-1])  # up to the newest value
    age_n = store.lengths - rows_n
    notes = []
    if (age_n > 0).any():
        notes.append(
            f"no value in the newest rows of {_named(store, age_n > 0, age_n)}: forecasts start from the last values "
            "seen, with intervals as wide as measured for such an outage"
        )
    if (rows_n < context_length / 2).any():
        notes.append(
            f"less history than half of the context of {context_length} steps in "
            f"{_named(store, rows_n < context_length / 2, rows_n)}: intervals are as wide as measured for so few rows"
        )
    return notes


def target_notes(config: Config, store: SeriesStore) -> list[str]:
    """Whether forecasts stop at 0, and whether the values look like counts.

    Args:
        config: The options.
        store: The series.

    Example:
        >>> import polars as pl
        >>> from holdfast.series import TableOptions, check_table, open_table
        >>> table = open_table(pl.DataFrame({"ds": range(9), "y": [1, 2, 3] * 3}))
        >>> store = check_table(table, TableOptions(horizon=2)).store
        >>> target_notes(Config(), store)
        ['y was never negative: forecasts and intervals stop at 0 (--allow-negative lifts this)',
        'y looks like counts: --head negative-binomial forecasts whole numbers']
    """
    if config.allow_negative or config.head in ("negative-binomial", "sigmoid") or not never_negative(store):
        return []
    name = config.target_col
    notes = [f"{name} was never negative: forecasts and intervals stop at 0 (--allow-negative lifts this)"]
    y = store.y[np.isfinite(store.y)]
    if (y == np.floor(y)).all() and np.median(y) <= SMALL_COUNT:
        notes.append(f"{name} looks like counts: --head negative-binomial forecasts whole numbers")
    return notes


def _named(store: SeriesStore, which_n: np.ndarray[tuple[int], np.dtype[np.bool_]], rows_n: object) -> str:
    """How many series, and the first few with their numbers of rows."""
    chosen = np.flatnonzero(which_n).tolist()
    shown = ", ".join(f"{store.ids[i]!r}: {np.asarray(rows_n)[i]} rows" for i in chosen[:FEW])
    more = ", ..." if len(chosen) > FEW else ""
    return f"{len(chosen)} of {store.n_series} series ({shown}{more})"
