"""A table made ready for a fit: checked, its seasons found."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
import polars as pl
from numpy.typing import NDArray

from holdfast.errors import DataError, Problem
from holdfast.forecasting.config import Config
from holdfast.forecasting.plan import usual_context
from holdfast.series import (
    LARGEST_CONTEXT,
    Checked,
    Kind,
    RawTable,
    Season,
    SeriesStore,
    TableOptions,
    check_table,
    left_out,
    seasons_of,
    table_options_of,
)
from holdfast.series.findings import series_name


@dataclass(frozen=True)
class Prepared:
    """A checked table with its seasons.

    Attributes:
        config: The options, with the horizon filled in.
        checked: Series and notes.
        seasons: The first is that of the seasonal naive forecast; empty without a season.
        kind: Kind of dataframe that went in.
    """

    config: Config
    checked: Checked
    seasons: tuple[Season, ...]
    kind: Kind

    @property
    def store(self) -> SeriesStore:
        """The series."""
        return self.checked.store


MOST_COUNT = 1e9  # log Gamma of larger counts leaves no digits for what a likelihood compares


def check_target(config: Config, store: SeriesStore, source: str) -> None:
    """Refuse values that the head gives no probability: counts below 0, in parts or too large, values out of bounds.

    Raises:
        DataError: With an example of such a value and its series.
    """
    low, high = config.bounds
    y_R = store.y
    count = (y_R < 0) | (y_R != np.floor(y_R)) | (y_R > MOST_COUNT)
    refused: dict[str, tuple[NDArray[np.bool_], str, str]] = {
        "negative-binomial": (count, f"whole counts from 0 to {MOST_COUNT:g}", "--head student-t"),
        "sigmoid": ((y_R < low) | (y_R > high), f"values from {low:g} to {high:g}", "--bounds LOW,HIGH"),
    }
    if config.head not in refused:
        return
    wrong_R, expected, fix = refused[config.head]
    rows = np.flatnonzero(wrong_R & np.isfinite(y_R))
    if len(rows):
        series = int(np.searchsorted(store.offsets, rows[0], side="right")) - 1
        time = store.times(series, int(rows[0] - store.offsets[series]), int(rows[0] - store.offsets[series]) + 1)[0]
        got = f"{y_R[rows[0]]:g} in {series_name(store.ids[series])} at {time}; {len(rows)} such values"
        where = f"{source}, column {config.target_col} for --head {config.head}"
        raise DataError(Problem(where, expected, got, f"give {fix}, or correct the values"))


def prepare(config: Config, table: RawTable, *, kept_back: int = 0) -> Prepared:
    """Check a table and find its seasons.

    Args:
        config: The options.
        table: As it was brought.
        kept_back: Windows at the end of each series that may not be looked at (a backtest).
    """
    checked = check_table(table, table_options_of(config))
    check_target(config, checked.store, table.source)
    store, horizon = checked.store, checked.store.horizon
    longest = max(LARGEST_CONTEXT, config.context_length or 0)
    seasons = seasons_of(store, config, holdout=horizon * (kept_back + 1), longest=longest)
    bounds = (*left_out(store, config, longest), *_cut_context(config, store, seasons))
    checked = replace(checked, notes=(*checked.notes, *bounds))
    config = replace(config, horizon=horizon, freq=store.freq.text)
    return Prepared(config, checked, seasons, table.kind)


def _cut_context(config: Config, store: SeriesStore, seasons: Sequence[Season]) -> tuple[str, ...]:
    """That seasons and horizon ask for a longer context than the largest one, in words; nothing if they do not."""
    wanted = min(usual_context([season.length for season in seasons], store.horizon), int(store.lengths.max()))
    if config.context_length is not None or wanted <= LARGEST_CONTEXT:
        return ()
    note = f"context: at most {LARGEST_CONTEXT} steps are fed instead of {wanted}; give --context-length to feed more"
    return (note,)


def canonical(config: Config) -> TableOptions:
    """How to read the tidy table of a fit again: the same covariates next to the canonical names."""
    return TableOptions(
        horizon=config.horizon, freq=config.freq, static=config.static, future=config.future, past=config.past
    )


def user_names(config: Config, table: pl.DataFrame) -> pl.DataFrame:
    """A table with the user's own column names instead of the canonical ones."""
    names = {"unique_id": config.id_name, "ds": config.time_col, "y": config.target_col}
    named = table.rename({old: new for old, new in names.items() if old in table.columns})
    return named.unnest(config.id_name) if len(config.id_cols) > 1 else named
