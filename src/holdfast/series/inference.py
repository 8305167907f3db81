"""Which calendar the times of a table follow: candidates are read off the times, the one that most steps keep wins."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from itertools import pairwise

import numpy as np
import polars as pl

from holdfast.errors import DataError, Problem
from holdfast.series.calendar import MICROSECONDS, ROWS, Freq
from holdfast.series.slots import QUARTER, Slots, slot_text
from holdfast.series.wall import DAY, Ints, first_day, month_of, to_wall, weekday

_PAIRS = 20_000  # neighbours that are looked at
_COMMON, _RARE = 0.5, 0.1  # of the rows of the fullest slot: at least so many make a slot, at most so many an odd row
_LAST = (40, 13)  # rows of each series that tell how it continues


def infer_freq(times: pl.Series, ids: pl.Series | None = None, source: str = "the table") -> Freq:
    """The calendar that most steps between neighbouring times of a series keep.

    Rows that are missing do not matter as long as most are there; whether all times fit is for `check_table` to say.

    Args:
        times: Times of all series, sorted within each.
        ids: The series of each row, one block per series; None for one series.
        source: The name of the table in errors.

    Raises:
        DataError: If no series has two rows, or no calendar is kept by half of all steps.

    Example:
        >>> from datetime import date
        >>> infer_freq(pl.Series([date(2024, 1, 31), date(2024, 2, 29), date(2024, 3, 31)]))
        Freq(text='1me')
    """
    ranked = calendars(times, ids)
    if not ranked:
        fix = "give the calendar step with --freq, for instance --freq 1d"
        got = "no series with two different times"
        raise DataError(Problem(f"{source}, times", "a frequency to read off", got, fix))
    best, share = ranked[0]
    if best is None:
        fix = "count time in whole numbers"
        got = "steps of a fraction of a millisecond"
        raise DataError(Problem(f"{source}, times", "steps of whole milliseconds", got, fix))
    if share < 0.5:
        got = f"irregular steps: the most common one, {best.text}, makes up {100 * share:.0f} % of them"
        fix = "aggregate the rows to a regular grid first"
        raise DataError(Problem(f"{source}, times", "one step between most neighbouring times", got, fix))
    return best


def infer_rows(times: pl.Series, ids: pl.Series, first: Ints) -> Freq:
    """Each row as one step, with the calendar in which the last rows go on, if they follow one.

    Args:
        times: Times of all series, sorted within each.
        ids: The series of each row.
        first: Range of rows of each series [n + 1].
    """
    number = np.arange(len(times)) - np.repeat(first[:-1], np.diff(first))
    if times.dtype.is_integer() and np.array_equal(to_wall(times, local=True), number):
        return Freq(ROWS)  # rows that were numbered before
    best, share = next(iter(calendars(times, ids)), (None, 0.0))
    # A calendar that changed, such as 4-4-5 after a year of 53 weeks, shows in the last rows.
    for rows in _LAST if share < 0.9 else ():
        last = np.concatenate([np.arange(max(a, b - rows), b) for a, b in pairwise(first.tolist())])
        for freq, kept in calendars(times.gather(last), ids.gather(last)):
            if kept > max(share, 0.9):
                best, share = freq, kept
    return Freq(ROWS) if best is None or share < 0.5 else Freq(f"{ROWS}:{best.text}")


def calendars(times: pl.Series, ids: pl.Series | None = None) -> list[tuple[Freq | None, float]]:
    """Candidate calendars with the share of steps that keep them, best first, simple ones before others.

    None stands for steps of less than a millisecond.
    """
    known = _Steps.of(times, ids)
    if not known.before.size:
        return []
    ranked = []
    for text in dict.fromkeys(_candidates(known)):
        freq = None if text is None else Freq.parse(text)
        ranked.append((freq, 0.0 if freq is None else known.share(freq)))
    return sorted(ranked, key=lambda each: -each[1])


@dataclass(frozen=True, eq=False)
class _Steps:
    """Steps between neighbouring rows: the times, the row before each step, and the clock at every row."""

    times: pl.Series
    before: Ints
    wall: Ints

    @classmethod
    def of(cls, times: pl.Series, ids: pl.Series | None) -> _Steps:
        ahead = np.ones(len(times) - 1, dtype=bool) if ids is None else (ids != ids.shift(1))[1:].not_().to_numpy()
        before = np.flatnonzero(ahead & (np.diff(to_wall(times, local=False)) > 0))
        if len(before) > _PAIRS:
            before = before[np.linspace(0, len(before) - 1, _PAIRS).astype(int)]
        return cls(times, before, to_wall(times, local=True))

    def share(self, freq: Freq) -> float:
        """The share of steps that lead to the next time of a calendar."""
        earlier, later = self.times.gather(self.before), self.times.gather(self.before + 1)
        return float((freq.at(earlier, np.ones(len(self.before), dtype=np.int64)) == later).mean())  # type: ignore[arg-type]


def _candidates(known: _Steps) -> Iterator[str | int | None]:
    wall, before = known.wall, known.before
    if known.times.dtype.is_integer():
        yield _most_common(wall[before + 1] - wall[before])
        return
    _, rows = np.unique(wall % DAY, return_counts=True)
    if rows.max() > 0.6 * len(wall):  # 12-hourly data have two times of day; a few odd ones are errors
        yield from _of_days(wall, before)
        return
    absolute = to_wall(known.times, local=False)
    step = _most_common(absolute[before + 1] - absolute[before])
    unit = next((unit for unit in ("h", "m", "s", "ms") if step % MICROSECONDS[unit] == 0), None)
    yield None if unit is None else f"{step // MICROSECONDS[unit]}{unit}"
    hours = _opening_hours(wall, step) if unit in ("h", "m", "s") else None
    days = _working_days(wall, before) if hours is not None else None
    if hours is not None and days is not None and (len(days) < 7 or len(hours) * step < DAY):
        yield slot_text(Slots(1, days, hours), Freq.parse(f"{step // MICROSECONDS[str(unit)]}{unit}").step)


def _of_days(wall: Ints, before: Ints) -> Iterator[str]:
    """Calendars of times that lie at the same time of day."""
    days = wall // DAY
    gaps = days[before + 1] - days[before]
    typical = float(np.median(gaps))
    if typical >= 28:
        month = month_of(wall)
        months = max(1, _most_common(month[before + 1] - month[before]))
        day_of_month = days - first_day(month)
        at_end = bool((month_of(wall + DAY) > month).all()) and len(np.unique(day_of_month)) > 1
        units = ("me", "mo", "bms", "bme") if at_end else ("mo", "me", "bms", "bme")
        yield from (f"{months}{unit}" for unit in units)
    step = _most_common(gaps)
    yield f"{max(1, step)}d"
    if typical >= 28:
        yield from _retail_weeks(days)
    elif typical >= 10:
        yield from _days_of_month(wall)
    else:
        working = _working_days(wall, before)
        if working == (0, 1, 2, 3, 4):
            yield "1b"
        elif working is not None and len(working) < 7:
            yield slot_text(Slots(1, working), "1d")


def _working_days(wall: Ints, before: Ints) -> tuple[int, ...] | None:
    """The days of the week that have rows; all of them in less than three weeks, but for free weekends."""
    days = wall // DAY
    if days.max() - days.min() < 21:
        weekend = weekday(days) >= 5
        free = ((days[before + 1] - days[before] == 3) & (weekday(days[before]) == 4)).any()
        return tuple(range(5)) if free and not weekend.any() else tuple(range(7))
    return _usual(weekday(days))


def _opening_hours(wall: Ints, step: int) -> tuple[int, ...] | None:
    """The times of day that have rows, if they are whole seconds, in steps of a grid, and seen on three days."""
    if len(np.unique(wall // DAY)) < 3 or step > DAY:
        return None
    times = _usual(wall % DAY)
    whole = times is not None and all((time - times[0]) % step == 0 and time % 1_000_000 == 0 for time in times)
    return times if whole else None


def _days_of_month(wall: Ints) -> Iterator[str]:
    """Two to four days of each month; the last one is called 31."""
    days, month = wall // DAY, month_of(wall)
    is_last = month_of(wall + DAY) > month
    usual = _usual(np.where(is_last, 30, days - first_day(month)))
    if usual is not None and 2 <= len(usual) <= 4 and month.max() - month.min() >= 2:
        yield slot_text(Slots(0, usual), "1mo")


def _retail_weeks(days: Ints) -> Iterator[str]:
    """Quarters of 4, 4 and 5 weeks."""
    usual = _usual(days % (7 * QUARTER))
    if usual is None or len(usual) != 3:
        return
    lengths = np.diff([*usual, usual[0] + 7 * QUARTER]).tolist()
    if sorted(lengths) == [28, 28, 35]:
        start = usual[(lengths.index(35) + 1) % 3]  # the first of the two short months
        day = int(days[np.flatnonzero(days % (7 * QUARTER) == start)[0]])
        yield f"4-4-5@{np.datetime64(day, 'D')}"


def _usual(places: Ints) -> tuple[int, ...] | None:
    """The places that have about as many rows as the fullest one; None if others have more than a few."""
    values, rows = np.unique(places, return_counts=True)
    common, rare = rows >= _COMMON * rows.max(), rows <= _RARE * rows.max()
    return tuple(values[common].tolist()) if (common | rare).all() else None


def _most_common(steps: Ints) -> int:
    values, counts = np.unique(steps, return_counts=True)
    return int(values[counts.argmax()])
