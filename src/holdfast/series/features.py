"""What a time says about the season: where it lies in the day, the week and the year."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import polars as pl
from numpy.typing import NDArray

from holdfast.series.calendar import MICROSECONDS, MONTHS, RETAIL, Freq
from holdfast.series.wall import DAY, month_of, to_wall, weekday

_CYCLES = {"hour_of_day": 1.0, "day_of_week": 7.0, "day_of_year": 365.25, "month_of_year": 365.25}  # days


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
        >>> from datetime import date
        >>> names = ("day_of_week_sin", "day_of_year_sin")
        >>> unseen_cycles(names, pl.Series([date(2023, 1, 1)]), pl.Series([date(2024, 6, 1)]))
        [False, True]
    """
    days = int(to_wall(last, local=True).max() - to_wall(first, local=True).min()) / DAY if names else 0.0
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
        >>> from datetime import date
        >>> names, features = calendar_features(pl.Series([date(2024, 1, 1), date(2024, 7, 1)]), Freq("1mo"))
        >>> names, features.round(3).tolist()
        (('month_of_year_sin', 'month_of_year_cos'), [[0.0, 1.0], [0.0, -1.0]])
    """
    wall = to_wall(times, local=True)
    phases: dict[str, NDArray[np.float64]] = {}
    if freq.sub_daily and (freq.count * MICROSECONDS[freq.unit]) % DAY:
        phases["hour_of_day"] = (wall % DAY) / DAY
    if freq.sub_daily or freq.unit in ("d", "b"):
        phases["day_of_week"] = weekday(wall // DAY) / 7
    if freq.sub_daily or freq.unit in ("d", "b", "w", RETAIL):
        day = wall // DAY
        phases["day_of_year"] = (day - day.view("M8[D]").astype("M8[Y]").astype("M8[D]").astype(np.int64)) / 365.25
    if MONTHS.get(freq.unit, 12) < 12:
        in_month = 1 if freq.slots is None else len(freq.slots.days)
        slot = month_of(wall) if freq.slots is None else freq.slots.index(wall)
        phases["month_of_year"] = (slot % (12 * in_month)) / (12 * in_month)
    columns = [
        (f"{name}_{f.__name__}", f(2 * np.pi * phase)) for name, phase in phases.items() for f in (np.sin, np.cos)
    ]
    features = np.empty((len(times), len(columns)), dtype=np.float32)
    for position, (_, values) in enumerate(columns):
        features[:, position] = values.round(7)
    return tuple(name for name, _ in columns), features
