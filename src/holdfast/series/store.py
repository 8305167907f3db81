"""`SeriesStore`: all series of a table as flat arrays, each followed by the rows of its future."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import polars as pl
from numpy.typing import NDArray

from holdfast.series.calendar import Freq
from holdfast.series.features import calendar_features
from holdfast.series.stamps import Stamps


@dataclass(frozen=True, eq=False)
class SeriesStore:
    """n series in R rows: from `offsets[i]` on the observed rows of series i, then its `horizon` future rows.

    Attributes:
        ids: unique_id of each series, sorted [n].
        starts: Time of the first row of each series [n].
        ds: Time of each row, future ones included [R].
        stamps: How the table writes its times: what people see.
        offsets: Row ranges, future rows included (int64, [n + 1]).
        lengths: Observed rows, from the first to the last given one (int64, [n]).
        y: Values in the units of the data, nan where missing and in future rows (float64, [R]).
        past: Past covariates, nan where missing and in future rows; text one-hot (float32, [R, P]).
        known: Future covariates, text one-hot, then calendar features (float32, [R, K]). Future rows hold nan for
            future covariates as long as no future table was given.
        static: Numbers as they are, text and booleans one-hot (float32, [n, S]).
        past_names: Names of the P past covariates.
        known_names: Names of the K known features.
        static_names: Names of the S static features, such as "region=north".
        freq: Calendar step.
        horizon: Future rows behind each series.

    Example:
        >>> from holdfast.series import TableOptions, check_table, open_table
        >>> table = open_table(pl.DataFrame({"ds": [1, 2, 3, 4], "y": [5.0, 6.0, None, 8.0]}))
        >>> store = check_table(table, TableOptions(horizon=2)).store
        >>> store.offsets.tolist(), store.values(0).tolist(), store.times(0, 3, 6).to_list()
        ([0, 6], [5.0, 6.0, nan, 8.0], [4, 5, 6])
    """

    ids: pl.Series
    starts: pl.Series
    ds: pl.Series
    stamps: Stamps
    offsets: NDArray[np.int64]
    lengths: NDArray[np.int64]
    y: NDArray[np.float64]
    past: NDArray[np.float32]
    known: NDArray[np.float32]
    static: NDArray[np.float32]
    past_names: tuple[str, ...]
    known_names: tuple[str, ...]
    static_names: tuple[str, ...]
    freq: Freq
    horizon: int

    @property
    def n_series(self) -> int:
        """How many series there are."""
        return len(self.lengths)

    @property
    def future_size(self) -> int:
        """How many of the known features are of future covariates; the others are the calendar's."""
        return len(self.known_names) - len(calendar_features(self.starts[:0], self.freq)[0])

    def values(self, i: int) -> NDArray[np.float64]:
        """Observed values of series i, nan where missing (a view, not a copy)."""
        return self.y[self.offsets[i] : self.offsets[i] + self.lengths[i]]

    def times(self, i: int, start: int, stop: int) -> pl.Series:
        """Times of rows `start` to `stop` of series i; rows from `lengths[i]` on lie in the future."""
        return self.stamped(self.offsets[i] + np.arange(start, stop))

    def stamped(self, rows: NDArray[np.int64]) -> pl.Series:
        """Times of some of the R rows, written as in the table."""
        return self.stamps.write(self.ds.gather(rows)).alias("ds")

    def future_times(self) -> pl.DataFrame:
        """unique_id and ds of all future rows, `horizon` for each series, in output order."""
        series = np.repeat(np.arange(self.n_series), self.horizon)
        steps = np.repeat(self.lengths, self.horizon) + np.tile(np.arange(self.horizon), self.n_series)
        return pl.DataFrame({"unique_id": self.ids.gather(series), "ds": self.stamped(self.offsets[series] + steps)})
