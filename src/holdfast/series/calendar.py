"""Calendar arithmetic: where step k of a series falls, which step a time is, and what a time says about the season.

Sub-daily steps are counted in absolute time (UTC), so that a clock change is no gap; days and longer steps are
counted in local wall time, so that a day of 23 hours is a day.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from datetime import date, datetime

import numpy as np
import polars as pl
from numpy.typing import NDArray

from holdfast.errors import DataError, OptionError, Problem
from holdfast.series.times import Ints, from_wall, to_wall

_HOUR = 3_600_000_000
_DAY = 24 * _HOUR
_WEEK = 7 * _DAY
_MICROSECONDS = {"ms": 1_000, "s": 1_000_000, "m": 60_000_000, "h": _HOUR, "d": _DAY, "w": _WEEK}
_MONTHS = {"mo": 1, "q": 3, "y": 12, "me": 1, "qe": 3, "ye": 12}
_PANDAS = {"L": "ms", "S": "s", "T": "m", "min": "m", "H": "h", "D": "d", "B": "b", "W": "w", "M": "me", "MS": "mo"}
_PANDAS |= {"ME": "me", "Q": "qe", "QS": "q", "QE": "qe", "A": "ye", "AS": "y", "Y": "ye", "YS": "y", "YE": "ye"}
_UNITS = {"b": "b", **{unit: unit for unit in (*_MICROSECONDS, *_MONTHS)}, **_PANDAS}
_LARGER = [("ms", 1000, "s"), ("s", 60, "m"), ("m", 60, "h"), ("d", 7, "w")]
_LARGER += [("mo", 3, "q"), ("q", 4, "y"), ("me", 3, "qe"), ("qe", 4, "ye")]
_HORIZONS = {"d": 14, "b": 10, "w": 13, "mo": 18, "me": 18, "q": 8, "qe": 8, "y": 6, "ye": 6}
_PER_YEAR = {"w": 52, "mo": 12, "me": 12, "q": 4, "qe": 4}
_CYCLES = {"hour_of_day": 1.0, "day_of_week": 7.0, "day_of_year": 365.25, "month_of_year": 365.25}  # days

FREQ_FORMS = "15m, 1h, 1d, 1b (business days), 1w, 1mo, 1me (month ends), 1q, 1y, or a whole number for integer times"


@dataclass(frozen=True)
class Freq:
    """The calendar step of a series; `Freq.parse` makes one from what people write.

    Attributes:
        text: "15m", "1h", "1d", "1b", "1w", "1mo", "1q", "1y" (and "1me", "1qe", "1ye" for month ends), or a whole
            number for integer times. This is what belongs into a JSON file.

    Example:
        >>> Freq.parse("MS"), Freq.parse("60min"), Freq.parse(1)
        (Freq(text='1mo'), Freq(text='1h'), Freq(text=1))
        >>> Freq.parse("15min").seasons, Freq.parse("D").horizon
        ((96, 672), 14)
    """

    text: str | int

    @classmethod
    def parse(cls, text: str | int) -> Freq:
        """Read polars strings ("1mo"), pandas aliases ("MS", "W-SUN", "15min") and whole numbers.

        An anchor such as "-SUN" is not needed: steps count from the first time of each series.

        Raises:
            OptionError: If the text is none of these.

        Example:
            >>> Freq.parse("12mo").text, Freq.parse("W-SUN").text, Freq.parse("2").text
            ('1y', '1w', 2)
        """
        match = re.fullmatch(r"(?=\w)(\d*)([A-Za-z]*)(-[A-Z]{3})?", str(text).strip())
        count, unit = (int(match[1] or 1), match[2]) if match else (0, "")
        if isinstance(text, bool) or count < 1 or (unit not in ("", "i") and unit not in _UNITS):
            raise OptionError(Problem("option --freq", FREQ_FORMS, repr(text), "write for instance --freq 1h"))
        if unit in ("", "i"):
            return cls(count)
        unit = _UNITS[unit]
        for small, times, large in _LARGER:
            if unit == small and count % times == 0:
                count, unit = count // times, large
        return cls(f"{count}{unit}")

    @property
    def count(self) -> int:
        """How many units make a step."""
        return self.text if isinstance(self.text, int) else int(re.sub(r"\D", "", self.text))

    @property
    def unit(self) -> str:
        """The unit of the step; empty for integer times."""
        return "" if isinstance(self.text, int) else re.sub(r"\d", "", self.text)

    @property
    def sub_daily(self) -> bool:
        """Whether steps are counted in absolute time and need a time of day."""
        return self.unit in ("ms", "s", "m", "h")

    @property
    def seasons(self) -> tuple[int, ...]:
        """Usual season lengths in steps, shortest first; none for years and integers.

        Example:
            >>> [Freq.parse(text).seasons for text in ("1h", "1d", "1b", "1w", "1mo", "1y")]
            [(24, 168), (7,), (5,), (52,), (12,), ()]
        """
        if self.unit in _PER_YEAR:
            return _whole(_PER_YEAR[self.unit], self.count)
        if self.unit == "b":
            return _whole(5, self.count)
        if self.unit not in _MICROSECONDS:
            return ()
        step = self.count * _MICROSECONDS[self.unit]
        cycles = (_HOUR, _DAY) if self.unit in ("ms", "s") else (_DAY, _WEEK)
        return tuple(length for cycle in cycles for length in _whole(cycle, step))

    @property
    def horizon(self) -> int:
        """A usual number of steps to forecast.

        Example:
            >>> [Freq.parse(text).horizon for text in ("15m", "1h", "1d", "1w", "1mo", "1q", "1y", 1)]
            [96, 48, 14, 13, 18, 8, 6, 12]
        """
        if self.unit == "":
            return 12
        if self.unit in _HORIZONS:
            return max(1, _HORIZONS[self.unit] // self.count)
        span = {"h": 2 * _DAY, "m": _DAY}.get(self.unit, _HOUR)
        return max(1, span // (self.count * _MICROSECONDS[self.unit]))

    @property
    def seconds(self) -> float | None:
        """Mean duration of a step; None for integer times, which have none.

        A month is a twelfth of 365.2425 days, a business day a fifth of a week.

        Example:
            >>> [Freq.parse(text).seconds for text in ("15m", "1h", "1b", "1q", 1)]
            [900.0, 3600.0, 120960.0, 7889238.0, None]
        """
        if self.unit == "":
            return None
        if self.unit in _MONTHS:
            return self.count * _MONTHS[self.unit] * 365.2425 * 86400 / 12
        return self.count * (_WEEK / 5 if self.unit == "b" else _MICROSECONDS[self.unit]) / 1e6

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
        wall = to_wall(starts, local=not self.sub_daily)
        if self.unit == "":
            moved = wall + steps * self.count
        elif self.unit == "b":
            moved = _from_business(_business(wall) + steps * self.count) * _DAY + wall % _DAY
        elif self.unit in _MONTHS:
            moved = _add_months(wall, steps * self.count * _MONTHS[self.unit], end=self.unit.endswith("e"))
        else:
            moved = wall + steps * (self.count * _MICROSECONDS[self.unit])
        return from_wall(moved, starts.dtype, local=not self.sub_daily)

    def steps(self, starts: pl.Series, times: pl.Series) -> Ints:
        """How many whole steps lie between each start and its time; the inverse of `at` for times on the grid.

        Example:
            >>> starts = pl.Series([date(2024, 1, 31)] * 2)
            >>> Freq.parse("1mo").steps(starts, pl.Series([date(2024, 2, 29), date(2025, 1, 31)])).tolist()
            [1, 12]
        """
        first, wall = (to_wall(series, local=not self.sub_daily) for series in (starts, times))
        if self.unit == "":
            return (wall - first) // self.count
        if self.unit == "b":
            return (_business(wall) - _business(first)) // self.count
        if self.unit in _MONTHS:
            return (_month(wall) - _month(first)) // (self.count * _MONTHS[self.unit])
        return (wall - first) // (self.count * _MICROSECONDS[self.unit])


def infer_freq(times: pl.Series, ids: pl.Series | None = None, source: str = "the table") -> Freq:
    """The most common step between neighbouring times of a series.

    Rows that are missing do not matter as long as most are there; whether all times fit is for `check_table` to say.

    Args:
        times: Times of all series, sorted within each.
        ids: The series of each row, one block per series; None for one series.
        source: The name of the table in errors.

    Raises:
        DataError: If no series has two rows, or no step makes up half of all steps.

    Example:
        >>> infer_freq(pl.Series([date(2024, 1, 31), date(2024, 2, 29), date(2024, 3, 31)]))
        Freq(text='1me')
    """
    local = to_wall(times, local=True)
    ahead = np.ones(len(times) - 1, dtype=bool) if ids is None else (ids != ids.shift(1))[1:].not_().to_numpy()
    ahead &= np.diff(local if times.dtype.is_integer() else to_wall(times, local=False)) > 0
    if not ahead.any():
        got = "no series with two different times"
        raise DataError(Problem(f"{source}, times", "a frequency to read off", got, "give it, for instance --freq 1d"))
    if times.dtype.is_integer():
        return Freq(_most_common(np.diff(local)[ahead], source, lambda step: str(step)))
    _, rows = np.unique(local % _DAY, return_counts=True)
    if rows.max() > 0.6 * len(local):  # 12-hourly data have two times of day; a few odd ones are errors
        return _infer_calendar(local // _DAY, ahead, source)
    step = _most_common(np.diff(to_wall(times, local=False))[ahead], source, lambda step: f"{step / 1e6:g} s")
    unit = next((unit for unit in ("h", "m", "s", "ms") if step % _MICROSECONDS[unit] == 0), None)
    if unit is None:
        got = f"steps of {step} microseconds"
        raise DataError(Problem(f"{source}, times", "steps of whole milliseconds", got, "count time in whole numbers"))
    return Freq.parse(f"{step // _MICROSECONDS[unit]}{unit}")


def unseen_cycles(names: Sequence[str], first: pl.Series, last: pl.Series) -> list[bool]:
    """Which calendar features have a cycle that the data does not pass twice.

    Within one cycle such a feature only says when something happened: what is learned of it does not come again.

    Args:
        names: Of features, as `calendar_features` gives them.
        first: Time of the first row of each series.
        last: Time of the last one.

    Returns:
        True for each feature that is not to be learned from.

    Example:
        >>> names = ("day_of_week_sin", "day_of_year_sin")
        >>> unseen_cycles(names, pl.Series([date(2023, 1, 1)]), pl.Series([date(2024, 6, 1)]))
        [False, True]
    """
    days = int(to_wall(last, local=True).max() - to_wall(first, local=True).min()) / _DAY if names else 0.0
    return [days < 2 * _CYCLES[name.rpartition("_")[0]] for name in names]


def calendar_features(times: pl.Series, freq: Freq) -> tuple[tuple[str, ...], NDArray[np.float32]]:
    """Where each time lies in the day, the week and the year, as sine and cosine.

    Only cycles longer than the step and shorter than forever: months know the year but not the week, integer times
    and years know nothing. Zoned times are read on the local clock.

    Args:
        times: R times without nulls.
        freq: Their calendar step.

    Returns:
        Names, and one column for each (float32, [R, number of names]).

    Example:
        >>> names, features = calendar_features(pl.Series([date(2024, 1, 1), date(2024, 7, 1)]), Freq("1mo"))
        >>> names, features.round(3).tolist()
        (('month_of_year_sin', 'month_of_year_cos'), [[0.0, 1.0], [0.0, -1.0]])
    """
    wall = to_wall(times, local=True)
    phases: dict[str, NDArray[np.float64]] = {}
    if freq.sub_daily and (freq.count * _MICROSECONDS[freq.unit]) % _DAY:
        phases["hour_of_day"] = (wall % _DAY) / _DAY
    if freq.sub_daily or freq.unit in ("d", "b"):
        phases["day_of_week"] = ((wall // _DAY + 3) % 7) / 7  # 1970-01-01 was a Thursday
    if freq.sub_daily or freq.unit in ("d", "b", "w"):
        day = wall // _DAY
        phases["day_of_year"] = (day - day.view("M8[D]").astype("M8[Y]").astype("M8[D]").astype(np.int64)) / 365.25
    if freq.unit in ("mo", "me", "q", "qe"):
        phases["month_of_year"] = (_month(wall) % 12) / 12
    columns = [
        (f"{name}_{f.__name__}", f(2 * np.pi * phase)) for name, phase in phases.items() for f in (np.sin, np.cos)
    ]
    features = np.empty((len(times), len(columns)), dtype=np.float32)
    for position, (_, values) in enumerate(columns):
        features[:, position] = values.round(7)
    return tuple(name for name, _ in columns), features


def _infer_calendar(days: Ints, ahead: NDArray[np.bool_], source: str) -> Freq:
    """The frequency of times that all lie at the same time of day."""
    gaps = np.diff(days)[ahead]
    if np.median(gaps) >= 28:
        midnight = days * _DAY
        months = np.diff(_month(midnight))[ahead]
        day_of_month = days - _first_day(_month(midnight))
        at_end = bool((_month(midnight + _DAY) > _month(midnight)).all())
        if not np.diff(day_of_month)[ahead].any() or at_end:
            unit = "me" if at_end and np.diff(day_of_month)[ahead].any() else "mo"
            return Freq.parse(f"{_most_common(months, source, lambda step: f'{step} months')}{unit}")
    step = _most_common(gaps, source, lambda step: f"{step} days")
    weekend = (days + 3) % 7 >= 5
    if step == 1 and not weekend.any() and (gaps == 3).any():
        return Freq("1b")
    return Freq.parse(f"{step}d")


def _most_common(steps: Ints, source: str, say: Callable[[int], str]) -> int:
    """The step that makes up at least half of all steps."""
    values, counts = np.unique(steps, return_counts=True)
    best = int(counts.argmax())
    if 2 * counts[best] < len(steps):
        share = 100 * counts[best] / len(steps)
        got = f"irregular steps: the most common one, {say(int(values[best]))}, makes up {share:.0f} % of them"
        fix = "give the frequency, for instance --freq 1d, or aggregate the rows to a regular grid first"
        raise DataError(Problem(f"{source}, times", "one step between most neighbouring times", got, fix))
    return int(values[best])


def _whole(cycle: int, step: int) -> tuple[int, ...]:
    """The steps of a cycle, if they are whole and more than one."""
    return (cycle // step,) if cycle % step == 0 and cycle > step else ()


def _business(wall: Ints) -> Ints:
    """Business days since the Monday before 1970; a weekend counts as its Friday."""
    days = wall // _DAY + 3
    return days // 7 * 5 + np.minimum(days % 7, 4)


def _from_business(number: Ints) -> Ints:
    return number // 5 * 7 + number % 5 - 3


def _month(wall: Ints) -> Ints:
    """Months since January 1970."""
    return wall.view("M8[us]").astype("M8[M]").astype(np.int64)


def _first_day(month: Ints) -> Ints:
    """Days from 1970-01-01 to the first of a month."""
    return month.view("M8[M]").astype("M8[D]").astype(np.int64)


def _add_months(wall: Ints, months: Ints, *, end: bool) -> Ints:
    """The same day (or the last, where there is no such day) and time of day, so many months on."""
    month = _month(wall)
    day = wall // _DAY - _first_day(month)
    target = _first_day(month + months)
    last = _first_day(month + months + 1) - 1
    return np.asarray((last if end else np.minimum(target + day, last)) * _DAY + wall % _DAY)
