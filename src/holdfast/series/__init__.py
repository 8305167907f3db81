"""Long tables of time series: reading, checking, calendars, seasons, and the arrays that models are fed from."""

from holdfast.series.calendar import Freq, calendar_features, infer_freq, unseen_cycles
from holdfast.series.checking import Checked, check_table
from holdfast.series.datasets import m4_hourly
from holdfast.series.reading import Kind, as_polars, csv_text, like, read_table, write_table
from holdfast.series.seasons import Season, find_seasons
from holdfast.series.store import SeriesStore
from holdfast.series.values import Columns

__all__ = [
    "Checked",
    "Columns",
    "Freq",
    "Kind",
    "Season",
    "SeriesStore",
    "as_polars",
    "calendar_features",
    "check_table",
    "csv_text",
    "find_seasons",
    "infer_freq",
    "like",
    "m4_hourly",
    "read_table",
    "unseen_cycles",
    "write_table",
]
