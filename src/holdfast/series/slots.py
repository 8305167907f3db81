"""Calendars with several slots in each week or month: opening hours, working weeks, twice a month, 4-4-5 weeks."""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from functools import cached_property
from itertools import pairwise

import numpy as np

from holdfast.series.wall import DAY, WEEK, Ints, first_day, month_of

DAY_NAMES = ("mon", "tue", "wed", "thu", "fri", "sat", "sun")
QUARTER = 13  # weeks of a 4-4-5 quarter
_MONDAY = 4 * DAY  # 1970-01-05
_TIME = r"\d\d?:\d\d(?::\d\d)?"


@dataclass(frozen=True)
class Slots:
    """The slots of a period; steps count them one after the other.

    Attributes:
        weeks: Weeks in a period, counted from Monday, 1970-01-05; 0 if the period is a month.
        days: Days of the period, from 0 on, ascending; a month that is shorter has its last day instead.
        times: Times of day in microseconds, ascending; empty if a slot is a day, at any time of day.

    Example:
        >>> twice_a_month = Slots(0, (0, 14))
        >>> days = np.array(["2024-01-15", "2024-02-01"], dtype="M8[us]").astype(np.int64)
        >>> np.diff(twice_a_month.index(days)).tolist()
        [1]
    """

    weeks: int
    days: tuple[int, ...]
    times: tuple[int, ...] = ()

    @cached_property
    def offsets(self) -> Ints:
        """Microseconds from the start of a period to each of its slots."""
        times = np.array(self.times or (0,), dtype=np.int64)
        return (np.array(self.days, dtype=np.int64)[:, None] * DAY + times).ravel()

    def index(self, wall: Ints) -> Ints:
        """The number of the last slot that is not after each time."""
        period, m = self._period(wall), len(self.offsets)
        since = wall - self._begin(period)
        if self.weeks:
            return period * m + np.searchsorted(self.offsets, since, side="right") - 1
        slots = np.minimum(self.offsets, self._last(period)[:, None])
        return np.asarray(period * m + (slots <= since[:, None]).sum(1) - 1)

    def wall(self, index: Ints, like: Ints) -> Ints:
        """The time of each slot, with the time of day of `like` where slots are days."""
        period, slot = np.divmod(index, len(self.offsets))
        offset = self.offsets[slot]
        if not self.weeks:
            offset = np.minimum(offset, self._last(period))
        return self._begin(period) + offset + (0 if self.times else like % DAY)

    def _period(self, wall: Ints) -> Ints:
        return (wall - _MONDAY) // (self.weeks * WEEK) if self.weeks else month_of(wall)

    def _begin(self, period: Ints) -> Ints:
        return period * (self.weeks * WEEK) + _MONDAY if self.weeks else first_day(period) * DAY

    def _last(self, month: Ints) -> Ints:
        """Microseconds to the last day of each month."""
        return (first_day(month + 1) - first_day(month) - 1) * DAY


def retail_slots(pattern: Sequence[int], day: int) -> Slots:
    """A quarter of 13 weeks in three parts, the first of which starts on a day (counted from 1970-01-01)."""
    days = (day - 4 + 7 * np.cumsum([0, *pattern[:2]])) % (7 * QUARTER)
    return Slots(QUARTER, tuple(sorted(days.tolist())))


def slot_text(slots: Slots, step: str) -> str:
    """The slots of weeks or months as they are written after the step: 5m@mon-fri,09:00-14:55.

    Example:
        >>> slot_text(Slots(1, (0, 1, 2, 3, 4, 5)), "1d"), slot_text(Slots(0, (0, 14)), "1mo")
        ('1d@mon-sat', '1mo@1+15')
    """
    if not slots.weeks:
        return f"{step}@{'+'.join(str(day + 1) for day in slots.days)}"
    parts = []
    if len(slots.days) < 7:
        runs = [(DAY_NAMES[a], DAY_NAMES[b]) for a, b in _runs(slots.days, 1)]
        parts.append("+".join(a if a == b else f"{a}-{b}" for a, b in runs))
    if slots.times:
        stride = min((b - a for a, b in pairwise(slots.times)), default=1)
        parts.append("+".join(f"{_clock(a)}-{_clock(b)}" for a, b in _runs(slots.times, stride)))
    return f"{step}@{','.join(parts)}"


def parse_slots(step: str, microseconds: int | None, where: str) -> Slots | None:
    """The slots that stand after the @ of a frequency; None if they make no sense.

    Args:
        step: What stands before the @: 1mo, 1d, 5m, 4-4-5.
        microseconds: Duration of the step; None if it has no fixed one.
        where: What stands after it.

    Example:
        >>> parse_slots("1h", 3_600_000_000, "mon-fri,09:00-11:00").offsets.size
        15
    """
    if step in ("4-4-5", "4-5-4", "5-4-4") and re.fullmatch(r"\d{4}-\d\d-\d\d", where):
        try:
            return retail_slots([int(part) for part in step.split("-")], int(np.datetime64(where, "D").astype(int)))
        except ValueError:
            return None
    if step == "1mo" and re.fullmatch(r"\d+(\+\d+)+", where):
        numbers = [int(day) - 1 for day in where.split("+")]
        return Slots(0, tuple(numbers)) if _ascending(numbers, 31) else None
    match = re.fullmatch(rf"(?:([a-z+-]+))?(?:(?:^|,)({_TIME}-{_TIME}(?:\+{_TIME}-{_TIME})*))?", where)
    if microseconds is None or match is None or not where:
        return None
    days = _week(match[1]) if match[1] else list(range(7))
    times = [time for run in match[2].split("+") for time in _span(run, microseconds)] if match[2] else []
    if days is None or bool(times) != (microseconds < DAY) or (not times and microseconds != DAY):
        return None
    return Slots(1, tuple(days), tuple(times)) if _ascending(days, 7) and _ascending(times, DAY) else None


def _ascending(numbers: Sequence[int], end: int) -> bool:
    steps = pairwise(numbers)
    return all(a < b for a, b in steps) and all(0 <= number < end for number in numbers)


def _runs(numbers: Iterable[int], stride: int) -> list[tuple[int, int]]:
    """The first and the last number of each run of neighbours."""
    runs: list[tuple[int, int]] = []
    for number in numbers:
        follows = bool(runs) and number - runs[-1][1] == stride
        runs = [*runs[:-1], (runs[-1][0], number)] if follows else [*runs, (number, number)]
    return runs


def _clock(time: int) -> str:
    seconds = time // 1_000_000
    text = f"{seconds // 3600:02d}:{seconds // 60 % 60:02d}"
    return text if seconds % 60 == 0 else f"{text}:{seconds % 60:02d}"


def _span(run: str, step: int) -> Iterable[int]:
    """The times of day from one to another."""
    first, last = (
        sum(int(part) * size for part, size in zip(time.split(":"), (3600, 60, 1), strict=False)) * 1_000_000
        for time in run.split("-")
    )
    return range(first, last + 1, step)


def _week(text: str) -> list[int] | None:
    """The days of the week that a text such as mon-wed+sat or sun-thu names."""
    days: set[int] = set()
    for run in text.split("+"):
        ends = run.split("-")
        if len(ends) > 2 or any(end not in DAY_NAMES for end in ends):
            return None
        first, last = DAY_NAMES.index(ends[0]), DAY_NAMES.index(ends[-1])
        days |= {(first + k) % 7 for k in range((last - first) % 7 + 1)}
    return sorted(days)
