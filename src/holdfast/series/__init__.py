"""Long tables of time series: reading, checking, calendars, seasons, and the arrays that models are fed from."""

from holdfast.series.calendar import Freq
from holdfast.series.checking import Checked, check_table
from holdfast.series.datasets import m4_hourly
from holdfast.series.describe import describe_table
from holdfast.series.features import calendar_features, unseen_cycles
from holdfast.series.frames import Kind, as_polars, like
from holdfast.series.inference import infer_freq
from holdfast.series.options import DIALECT, TableOptions, table_options_of
from holdfast.series.order import shape_order
from holdfast.series.reading import read_table
from holdfast.series.seasons import LARGEST_CONTEXT, Season, find_seasons, left_out, seasons_of
from holdfast.series.store import SeriesStore
from holdfast.series.table import RawTable, open_table
from holdfast.series.writing import csv_text, write_table

__all__ = [
    "DIALECT",
    "LARGEST_CONTEXT",
    "Checked",
    "Freq",
    "Kind",
    "RawTable",
    "Season",
    "SeriesStore",
    "TableOptions",
    "as_polars",
    "calendar_features",
    "check_table",
    "csv_text",
    "describe_table",
    "find_seasons",
    "infer_freq",
    "left_out",
    "like",
    "m4_hourly",
    "open_table",
    "read_table",
    "seasons_of",
    "shape_order",
    "table_options_of",
    "unseen_cycles",
    "write_table",
]
