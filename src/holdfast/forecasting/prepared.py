"""A table made ready for a fit: checked, its seasons found."""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np
import polars as pl
from numpy.typing import NDArray

from holdfast.errors import DataError, Problem
from holdfast.forecasting.config import Config
from holdfast.series import (
    Checked,
    Kind,
    RawTable,
    Season,
    SeriesStore,
    TableOptions,
    check_table,
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


def check_target(config: Config, store: SeriesStore, source: str) -> None:
    """Refuse values that the head gives no probability: counts below 0 or in parts, values out of bounds.

    Raises:
        DataError: With an example of such a value and its series.
    """
    low, high = config.bounds
    y_R = store.y
    refused: dict[str, tuple[NDArray[np.bool_], str, str]] = {
        "negative-binomial": ((y_R < 0) | (y_R != np.floor(y_R)), "whole counts of at least 0", "--head student-t"),
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
    horizon = checked.store.horizon
    seasons = seasons_of(checked.store, config, holdout=horizon * (kept_back + 1))
    config = replace(config, horizon=horizon, freq=checked.store.freq.text)
    return Prepared(config, checked, seasons, table.kind)


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
