"""Calendar arithmetic: where step k of a series falls, and which step a time is.

Sub-daily steps are counted in absolute time (UTC), so that a clock change is no gap; days and longer steps, and opening
hours, are counted in local wall time, so that a day of 23 hours is a day.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from datetime import date, datetime
from functools import lru_cache

import numpy as np
import polars as pl

from holdfast.errors import OptionError, Problem
from holdfast.series.slots import Slots, parse_slots, slot_text
from holdfast.series.wall import (
    DAY,
    HOUR,
    WEEK,
    WHOLE,
    Ints,
    add_months,
    business,
    from_business,
    from_wall,
    month_of,
    to_wall,
)

ROWS = "rows"
RETAIL = "retail"  # the unit of 4-4-5 weeks
MICROSECONDS = {"ms": 1_000, "s": 1_000_000, "m": 60_000_000, "h": HOUR, "d": DAY, "w": WEEK}
MONTHS = {"mo": 1, "me": 1, "bms": 1, "bme": 1, "q": 3, "qe": 3, "bqs": 3, "bqe": 3}
MONTHS |= {"y": 12, "ye": 12, "bys": 12, "bye": 12}
_PANDAS = {"L": "ms", "S": "s", "T": "m", "min": "m", "H": "h", "D": "d", "B": "b", "W": "w", "M": "me", "MS": "mo"}
_PANDAS |= {"ME": "me", "Q": "qe", "QS": "q", "QE": "qe", "A": "ye", "AS": "y", "Y": "ye", "YS": "y", "YE": "ye"}
_PANDAS |= {"BM": "bme", "BME": "bme", "BMS": "bms", "BQ": "bqe", "BQE": "bqe", "BQS": "bqs"}
_PANDAS |= {"BA": "bye", "BY": "bye", "BYE": "bye", "BAS": "bys", "BYS": "bys"}
_UNITS = {"b": "b", **{unit: unit for unit in (*MICROSECONDS, *MONTHS)}, **_PANDAS}
_WITH_SLOTS = dict.fromkeys(("bh", "BH"), "1h@mon-fri,09:00-16:00")
_WITH_SLOTS |= {"SMS": "1mo@1+15", "SM": "1mo@15+31", "SME": "1mo@15+31"}
_LARGER = [("ms", 1000, "s"), ("s", 60, "m"), ("m", 60, "h"), ("d", 7, "w")]
_LARGER += [("mo", 3, "q"), ("q", 4, "y"), ("me", 3, "qe"), ("qe", 4, "ye")]
_LARGER += [("bms", 3, "bqs"), ("bqs", 4, "bys"), ("bme", 3, "bqe"), ("bqe", 4, "bye")]
_HORIZONS = {"d": 14, "b": 10, "w": 13, RETAIL: 12}
_MONTHS_AHEAD = {1: 18, 3: 24, 12: 72}
_LONGEST = 3000 * 366 * DAY

FREQ_FORMS = (
    "15m, 1h, 1d, 1b (business days), 1w, 1mo, 1me (month ends), 1bme (last working day), 1q, 1y, 1d@mon-sat,"
    " 5m@mon-fri,09:00-14:55, 1mo@1+15 (31 is the last day), 4-4-5@2024-01-29 (weeks, from a first day),"
    " a whole number for integer times, or rows"
)


@dataclass(frozen=True)
class Freq:
    """The calendar step of a series; `Freq.parse` makes one from what people write.

    Attributes:
        text: "15m", "1h", "1d", "1b", "1w", "1mo", "1q", "1y"; "1me", "1qe", "1ye" for month ends and "1bms", "1bme",
            ... for first and last working days; slots after an @; or a whole number for integer times. "rows:1b" takes
            each row as a step, and 1b after the last one; "rows" numbers the rows. This is what belongs into a JSON
            file.

    Example:
        >>> Freq.parse("MS"), Freq.parse("60min"), Freq.parse(1)
        (Freq(text='1mo'), Freq(text='1h'), Freq(text=1))
        >>> Freq.parse("15min").seasons, Freq.parse("D").horizon
        ((96, 672), 14)
    """

    text: str | int

    @classmethod
    def parse(cls, text: str | int) -> Freq:
        """Read polars strings ("1mo"), pandas aliases ("MS", "W-SUN", "15min", "BME") and whole numbers.

        An anchor such as "-SUN" is not needed: steps count from the first time of each series.

        Raises:
            OptionError: If the text is none of these.

        Example:
            >>> Freq.parse("12mo").text, Freq.parse("W-SUN").text, Freq.parse("2").text, Freq.parse("SMS").text
            ('1y', '1w', 2, '1mo@1+15')
        """
        written = "" if isinstance(text, bool) else str(text).strip()
        if written == ROWS:
            return cls(ROWS)
        if written.startswith(f"{ROWS}:") and not written.startswith(f"{ROWS}:{ROWS}"):
            return cls(f"{ROWS}:{cls.parse(written.removeprefix(f'{ROWS}:')).text}")
        found = _canonical(_WITH_SLOTS.get(written, written))
        if found is None:
            raise OptionError(Problem("option --freq", FREQ_FORMS, repr(text), "write for instance --freq 1h"))
        return cls(found)

    @property
    def by_rows(self) -> bool:
        """Whether each row is a step, whatever its time."""
        return isinstance(self.text, str) and self.text.startswith(ROWS)

    @property
    def step(self) -> str:
        """The step without its slots; of rows: the step after the last one."""
        step = str(self.text).removeprefix(ROWS).removeprefix(":").partition("@")[0]
        return step or "1"

    @property
    def count(self) -> int:
        """How many units make a step."""
        return 1 if self.unit == RETAIL else int(re.sub(r"\D", "", self.step))

    @property
    def unit(self) -> str:
        """The unit of the step; empty for integer times."""
        return RETAIL if "-" in self.step else re.sub(r"\d", "", self.step)

    @property
    def slots(self) -> Slots | None:
        """The slots of a week or month, if the steps have some."""
        return _slots(str(self.text).removeprefix(f"{ROWS}:"))

    @property
    def sub_daily(self) -> bool:
        """Whether steps need a time of day."""
        return self.unit in ("ms", "s", "m", "h")

    @property
    def seasons(self) -> tuple[int, ...]:
        """Usual season lengths in steps, shortest first; none for years, integers and rows.

        Example:
            >>> [Freq.parse(text).seasons for text in ("1h", "1d", "1b", "1w", "1mo", "1y", "1d@mon-sat")]
            [(24, 168), (7,), (5,), (52,), (12,), (), (6,)]
        """
        slots = self.slots
        if self.by_rows:
            return ()
        if slots is not None:
            in_day, in_period = len(slots.times), len(slots.offsets)
            if slots.weeks == 1:
                return tuple(length for length in dict.fromkeys((in_day, in_period)) if length > 1)
            return (12,) if slots.weeks else (12 * in_period,)
        if self.unit in MONTHS:
            return _whole(12, self.count * MONTHS[self.unit])
        if self.unit in ("w", "b"):
            return _whole({"w": 52, "b": 5}[self.unit], self.count)
        if self.unit not in MICROSECONDS:
            return ()
        step = self.count * MICROSECONDS[self.unit]
        cycles = (HOUR, DAY) if self.unit in ("ms", "s") else (DAY, WEEK)
        return tuple(length for cycle in cycles for length in _whole(cycle, step))

    @property
    def horizon(self) -> int:
        """A usual number of steps to forecast.

        Example:
            >>> [Freq.parse(text).horizon for text in ("15m", "1h", "1d", "1w", "1mo", "1q", "1y", 1)]
            [96, 48, 14, 13, 18, 8, 6, 12]
        """
        slots = self.slots
        if slots is not None and slots.weeks < 2:
            if self.unit in MONTHS:
                return 12 * len(slots.days)
            if not self.sub_daily:
                return 2 * len(slots.days)
            if self.unit in ("h", "m"):
                return len(slots.times) * (2 if self.unit == "h" else 1)
        if self.unit == "":
            return 12
        if self.unit in MONTHS:
            return max(1, _MONTHS_AHEAD[MONTHS[self.unit]] // (self.count * MONTHS[self.unit]))
        if self.unit in _HORIZONS:
            return max(1, _HORIZONS[self.unit] // self.count)
        span = {"h": 2 * DAY, "m": DAY}.get(self.unit, HOUR)
        return max(1, span // (self.count * MICROSECONDS[self.unit]))

    @property
    def seconds(self) -> float | None:
        """Mean duration of a step; None for integer times, which have none.

        A month is a twelfth of 365.2425 days, a business day a fifth of a week.

        Example:
            >>> [Freq.parse(text).seconds for text in ("15m", "1h", "1b", "1q", 1)]
            [900.0, 3600.0, 120960.0, 7889238.0, None]
        """
        slots = self.slots
        if self.unit == "":
            return None
        if slots is not None and slots.weeks:
            return slots.weeks * WEEK / len(slots.offsets) / 1e6
        if self.unit in MONTHS:
            months = self.count * MONTHS[self.unit] / (1 if slots is None else len(slots.offsets))
            return months * 365.2425 * 86400 / 12
        return self.count * (WEEK / 5 if self.unit == "b" else MICROSECONDS[self.unit]) / 1e6

    def range(self, start: int | date | datetime | pl.Series, periods: int) -> pl.Series:
        """Times of the first `periods` steps.

        Args:
            start: The first time, or a series that holds just it (and with it the type of the result).
            periods: How many times, 0 or more.

        Returns:
            The times, of the type of `start`.

        Example:
            >>> Freq.parse("1mo").range(date(2024, 1, 31), 3).to_list()
            [datetime.date(2024, 1, 31), datetime.date(2024, 2, 29), datetime.date(2024, 3, 31)]
        """
        first = start if isinstance(start, pl.Series) else pl.Series([start])
        return self.at(first.new_from_index(0, periods), np.arange(periods))

    def at(self, starts: pl.Series, steps: Ints) -> pl.Series:
        """The time that lies `steps` steps after each start.

        Args:
            starts: Times without nulls, any length.
            steps: As many step numbers.

        Returns:
            Times of the type of `starts`.

        Example:
            >>> fridays = pl.Series([date(2024, 3, 1), date(2024, 3, 8)])
            >>> Freq.parse("1b").at(fridays, np.array([1, -1])).to_list()
            [datetime.date(2024, 3, 4), datetime.date(2024, 3, 7)]
        """
        slots = self.slots
        wall = to_wall(starts, local=self._local)
        if slots is not None:
            moved = slots.wall(slots.index(wall) + steps, wall)
        elif self.unit == "":
            moved = wall + steps * self.count
        elif self.unit == "b":
            moved = from_business(business(wall // DAY) + steps * self.count) * DAY + wall % DAY
        elif self.unit in MONTHS:
            moved = add_months(wall, steps * self.count * MONTHS[self.unit], self._day_of_month)
        else:
            moved = wall + steps * (self.count * MICROSECONDS[self.unit])
        return from_wall(moved, starts.dtype, local=self._local)

    def steps(self, starts: pl.Series, times: pl.Series) -> Ints:
        """How many whole steps lie between each start and its time; the inverse of `at` for times on the grid.

        Example:
            >>> starts = pl.Series([date(2024, 1, 31)] * 2)
            >>> Freq.parse("1mo").steps(starts, pl.Series([date(2024, 2, 29), date(2025, 1, 31)])).tolist()
            [1, 12]
        """
        slots = self.slots
        first, wall = (to_wall(series, local=self._local) for series in (starts, times))
        if slots is not None:
            return slots.index(wall) - slots.index(first)
        if self.unit == "":
            return (wall - first) // self.count
        if self.unit == "b":
            return (business(wall // DAY) - business(first // DAY)) // self.count
        if self.unit in MONTHS:
            return (month_of(wall) - month_of(first)) // (self.count * MONTHS[self.unit])
        return (wall - first) // (self.count * MICROSECONDS[self.unit])

    @property
    def _local(self) -> bool:
        return not self.sub_daily or self.slots is not None

    @property
    def _day_of_month(self) -> str:
        """Which day of the month `add_months` takes."""
        if self.unit.startswith("b"):
            return f"b{self.unit[-1]}"
        return "e" if self.unit.endswith("e") else ""


def _canonical(text: str) -> str | int | None:
    """The one way to write a frequency; None if it is none."""
    step, at, where = text.partition("@")
    if at and re.fullmatch(r"[45]-[45]-[45]", step):
        return text if parse_slots(step, None, where) is not None else None
    match = re.fullmatch(r"(?=\w)(\d*)([A-Za-z]*)(-[A-Z]{3})?", step)
    count, unit = (int(match[1] or 1), match[2]) if match else (0, "")
    if count < 1 or (unit not in ("", "i") and unit not in _UNITS):
        return None
    if unit in ("", "i"):
        return count if count <= WHOLE and not at else None
    unit = _UNITS[unit]
    for small, times, large in _LARGER:
        if unit == small and count % times == 0:
            count, unit = count // times, large
    size = MICROSECONDS.get(unit, 0)
    if count * (size or DAY * 31 * MONTHS.get(unit, 1)) > _LONGEST:
        return None
    if not at:
        return f"{count}{unit}"
    slots = parse_slots(f"{count}{unit}", size or None, where)
    if slots == Slots(1, (0, 1, 2, 3, 4)):
        return "1b"
    return None if slots is None else slot_text(slots, f"{count}{unit}")


@lru_cache(maxsize=64)
def _slots(text: str) -> Slots | None:
    step, at, where = text.partition("@")
    if not at:
        return None
    match = re.fullmatch(r"(\d+)([a-z]+)", step)
    return parse_slots(
        step, int(match[1]) * MICROSECONDS[match[2]] if match and match[2] in MICROSECONDS else None, where
    )


def _whole(cycle: int, step: int) -> tuple[int, ...]:
    """The steps of a cycle, if they are whole and more than one."""
    return (cycle // step,) if cycle % step == 0 and cycle > step else ()
