"""Times as numbers: microseconds on a clock, days, business days, months, and back."""

from __future__ import annotations

from datetime import timedelta

import numpy as np
import polars as pl
from numpy.typing import NDArray

Ints = NDArray[np.int64]

HOUR = 3_600_000_000
DAY = 24 * HOUR
WEEK = 7 * DAY
WHOLE = 10**18  # the largest time or step in whole numbers: twice as much still fits an int64


def to_wall(times: pl.Series, *, local: bool) -> Ints:
    """Times as integers: as they are, or microseconds since 1970 on the local clock or in UTC."""
    if times.dtype.is_integer():
        return np.asarray(times.cast(pl.Int64).to_numpy())
    if local and isinstance(times.dtype, pl.Datetime) and times.dtype.time_zone is not None:
        times = times.dt.replace_time_zone(None)
    zone = times.dtype.time_zone if isinstance(times.dtype, pl.Datetime) else None
    return np.asarray(times.cast(pl.Datetime("us", zone)).to_physical().to_numpy())


def from_wall(wall: Ints, dtype: pl.DataType, *, local: bool) -> pl.Series:
    """The inverse of `to_wall`."""
    values = pl.Series("ds", wall)
    times: pl.Series
    if dtype.is_integer():
        times = values.cast(dtype)
    elif not isinstance(dtype, pl.Datetime) or dtype.time_zone is None:
        times = values.cast(pl.Datetime("us")).cast(dtype)
    elif not local:
        times = values.cast(pl.Datetime("us", "UTC")).cast(dtype)
    else:
        naive, zone = values.cast(pl.Datetime("us")), dtype.time_zone
        times = naive.dt.replace_time_zone(zone, ambiguous="earliest", non_existent="null")
        if times.has_nulls():  # a day whose midnight the clock skipped starts an hour later
            times = times.fill_null((naive + timedelta(hours=1)).dt.replace_time_zone(zone, ambiguous="earliest"))
        times = times.cast(dtype)
    return times


def limits(dtype: pl.DataType) -> tuple[int, int]:
    """The earliest and the latest time of a type that arithmetic can reach, as `to_wall` counts."""
    if dtype.is_integer():
        bounds = np.iinfo(str(dtype).lower())
        return max(int(bounds.min), -WHOLE), min(int(bounds.max), WHOLE)
    if isinstance(dtype, pl.Datetime) and dtype.time_unit == "ns":
        return -(2**63) // 1000 + DAY, 2**63 // 1000 - DAY
    return tuple(int(np.datetime64(text, "us").astype(np.int64)) for text in ("0001-01-02", "9999-12-31"))  # type: ignore[return-value]


def in_limits(times: pl.Series) -> pl.Series:
    """Which times lie within the limits of their type."""
    low, high = limits(times.dtype)
    if times.dtype.is_integer():
        return times.is_between(low, high)
    # by their numbers: polars has no way to convert a date that no calendar has
    unit = DAY if times.dtype == pl.Date else {"ms": 1000, "us": 1, "ns": 1}[times.dtype.time_unit]  # type: ignore[attr-defined]
    more = 1000 if isinstance(times.dtype, pl.Datetime) and times.dtype.time_unit == "ns" else 1
    inside: pl.Series = times.to_physical().cast(pl.Int64).fill_null(0)
    return inside.is_between(low * more // unit, high * more // unit)


def say_time(wall: int, dtype: pl.DataType) -> str:
    """A limit in words."""
    return f"{wall:,}" if dtype.is_integer() else str(np.datetime64(wall, "us").astype("M8[D]"))


def weekday(days: Ints) -> Ints:
    """0 for Monday to 6 for Sunday; 1970-01-01 was a Thursday."""
    return (days + 3) % 7


def business(days: Ints) -> Ints:
    """Business days since the Monday before 1970; a weekend counts as its Friday."""
    return (days + 3) // 7 * 5 + np.minimum(weekday(days), 4)


def from_business(number: Ints) -> Ints:
    """The day with this number among the business days."""
    return number // 5 * 7 + number % 5 - 3


def month_of(wall: Ints) -> Ints:
    """Months since January 1970."""
    return wall.view("M8[us]").astype("M8[M]").astype(np.int64)


def first_day(month: Ints) -> Ints:
    """Days from 1970-01-01 to the first of a month."""
    return month.view("M8[M]").astype("M8[D]").astype(np.int64)


def add_months(wall: Ints, months: Ints, kind: str) -> Ints:
    """The day and time of day so many months later.

    Args:
        wall: Microseconds on the local clock.
        months: How many, for each of them.
        kind: "" for the same day (or the last, where the month is shorter), "e" for the last day, "bs" and "be" for
            the first and the last working day.
    """
    month = month_of(wall)
    first, last = first_day(month + months), first_day(month + months + 1) - 1
    if kind == "e":
        day = last
    elif kind == "be":
        day = last - np.maximum(weekday(last) - 4, 0)
    elif kind == "bs":
        day = first + np.where(weekday(first) > 4, 7 - weekday(first), 0)
    else:
        day = np.minimum(first + wall // DAY - first_day(month), last)
    return np.asarray(day * DAY + wall % DAY)
