"""Times as a column holds them: read from text, turned into integers for arithmetic, and back."""

from __future__ import annotations

import numpy as np
import polars as pl
from numpy.typing import NDArray


def parse_times(text: pl.Series) -> pl.Series:
    """Read ISO text as whole numbers, dates or datetimes; null where it is none of the kind that most rows are.

    Months ("2024-01") are read as their first day; times with an offset or Z come out in UTC.

    Example:
        >>> parse_times(pl.Series(["2024-01-31 13:00", "2024-01-31T14:00:00"])).to_list()
        [datetime.datetime(2024, 1, 31, 13, 0), datetime.datetime(2024, 1, 31, 14, 0)]
        >>> parse_times(pl.Series(["2024-01", "n/a"])).to_list()
        [datetime.date(2024, 1, 1), None]
    """
    text = text.str.strip_chars().str.replace(r"^(\d{4}-\d\d-\d\d)T", "$1 ")
    sample = text.drop_nulls().head(1000)
    kinds = (_integers, _dates, _naive_datetimes, _zoned_datetimes)
    fewest = min(kinds, key=lambda read: read(sample).null_count())
    parsed = fewest(text)
    if fewest is _dates and parsed.null_count() > text.null_count():
        datetimes = _naive_datetimes(text)  # dates at first, times of day further down
        return datetimes if datetimes.null_count() < parsed.null_count() else parsed
    return parsed


def is_clock_change(times: pl.Series) -> NDArray[np.bool_]:
    """Whether clocks are put forward or back at these times somewhere: on a Sunday night in spring or autumn.

    Only datetimes without a zone can suffer from it.
    """
    if not isinstance(times.dtype, pl.Datetime) or times.dtype.time_zone is not None:
        return np.zeros(len(times), dtype=bool)
    sunday_night = (times.dt.weekday() == 7) & (times.dt.hour() <= 3)
    return np.asarray((sunday_night & times.dt.month().is_in([3, 4, 9, 10, 11])).to_numpy())


def _integers(text: pl.Series) -> pl.Series:
    numbers: pl.Series = text.cast(pl.Int64, strict=False)
    return numbers


def _dates(text: pl.Series) -> pl.Series:
    days = text.str.to_date("%Y-%m-%d", strict=False)
    return days.fill_null((text + "-01").str.to_date("%Y-%m-%d", strict=False)) if days.has_nulls() else days


def _naive_datetimes(text: pl.Series) -> pl.Series:
    parsed = text.str.to_datetime("%Y-%m-%d %H:%M:%S%.f", time_unit="us", strict=False)
    for shorter in ("%Y-%m-%d %H:%M", "%Y-%m-%d"):
        if parsed.null_count() > text.null_count():
            parsed = parsed.fill_null(text.str.to_datetime(shorter, time_unit="us", strict=False))
    return parsed


def _zoned_datetimes(text: pl.Series) -> pl.Series:
    utc = text.str.replace(r"[Zz]$", "+00:00")
    parsed = utc.str.to_datetime("%Y-%m-%d %H:%M:%S%.f%:z", time_unit="us", time_zone="UTC", strict=False)
    if parsed.null_count() > text.null_count():
        parsed = parsed.fill_null(
            utc.str.to_datetime("%Y-%m-%d %H:%M%:z", time_unit="us", time_zone="UTC", strict=False)
        )
    return parsed
