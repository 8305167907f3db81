"""Dates written as whole numbers (20240131, 202401, time since 1970): read as times, and written as they came."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import polars as pl

from holdfast.series.wall import to_wall

_UNITS = {"s": 1_000_000, "ms": 1_000, "us": 1, "ns": 1}
_EPOCH = (631_152_000, 4_102_444_800)  # seconds from 1970 to 1990 and to 2100
_NAMES = {"days": "20240131", "months": "202401", "s": "seconds since 1970", "ms": "milliseconds since 1970"}
_NAMES |= {"us": "microseconds since 1970", "ns": "nanoseconds since 1970"}


@dataclass(frozen=True)
class Stamps:
    """How a table writes its times.

    Attributes:
        kind: "" as they are; "days" (20240131), "months" (202401), or the unit in which time is counted since 1970.
        dtype: The type of the column.
    """

    kind: str
    dtype: pl.DataType

    @property
    def name(self) -> str:
        """The kind in words."""
        return _NAMES[self.kind]

    def read(self, column: pl.Series) -> pl.Series:
        """The column as times."""
        return column if self.kind == "" else _READ[self.kind](column.cast(pl.Int64))

    def write(self, times: pl.Series) -> pl.Series:
        """Times as the column has them."""
        if self.kind == "":
            return times
        if self.kind in _UNITS:
            count = to_wall(times, local=False) // _UNITS[self.kind] * (1000 if self.kind == "ns" else 1)
            numbers = pl.Series(times.name, count)
        else:
            months = times.dt.year().cast(pl.Int64) * 100 + times.dt.month()
            numbers = months if self.kind == "months" else months * 100 + times.dt.day()
        written: pl.Series = numbers.cast(self.dtype)
        return written


def stamps_of(column: pl.Series, *, whole_numbers: bool) -> Stamps:
    """How a column writes its times: whole numbers are dates if every one of them is.

    Args:
        column: Integers, dates or datetimes.
        whole_numbers: Whether the user says that they are numbers.
    """
    given = column.drop_nulls()
    if whole_numbers or not column.dtype.is_integer() or given.is_empty():
        return Stamps("", column.dtype)
    for kind, (low, high) in _RANGES.items():
        if given.cast(pl.Int64, strict=False).is_between(low, high).fill_null(False).all():
            times = _READ[kind](given.cast(pl.Int64))
            if not times.has_nulls() and _steps_of_milliseconds(times):
                return Stamps(kind, column.dtype)
    return Stamps("", column.dtype)


def _steps_of_milliseconds(times: pl.Series) -> bool:
    """Whether times lie at least a millisecond apart on average: a mere counter of that size does not."""
    wall = to_wall(times.unique().sort(), local=False)
    return len(wall) < 2 or int(wall[-1] - wall[0]) >= 1000 * (len(wall) - 1)


def _days(numbers: pl.Series) -> pl.Series:
    days: pl.Series = numbers.cast(pl.String).str.to_date("%Y%m%d", strict=False)
    return days


def _months(numbers: pl.Series) -> pl.Series:
    return _days(numbers * 100 + 1)


def _since(unit: str) -> Callable[[pl.Series], pl.Series]:
    factor = {"s": 1_000_000, "ms": 1_000}.get(unit, 1)
    return lambda numbers: (numbers * factor).cast(pl.Datetime("ns" if unit == "ns" else "us"))


_READ: dict[str, Callable[[pl.Series], pl.Series]] = {"days": _days, "months": _months}
_READ |= {unit: _since(unit) for unit in _UNITS}
_RANGES = {"months": (190001, 210012), "days": (19000101, 21001231)}
_RANGES |= {unit: (_EPOCH[0] * 1000**k, _EPOCH[1] * 1000**k) for k, unit in enumerate(_UNITS)}
