"""Advice about times: it is in the form that a user types, it works, and what would not work is not given."""

from __future__ import annotations

import re
from dataclasses import dataclass
from datetime import date, datetime, timedelta

import numpy as np
import polars as pl
import pytest
from tests.series.small import check

from holdfast.errors import DataError, Problem
from holdfast.series import Freq, TableOptions

SATURDAY = pl.Series([date(2024, 3, 9)])
BUSINESS = Freq("1b").range(date(2024, 1, 1), 60)
DAYS = Freq("1d").range(date(2024, 1, 1), 60)
JITTER = pl.Series(np.random.default_rng(0).integers(-4, 5, 100) * 1_000_000).cast(pl.Duration("us"))
TRADING = Freq.parse("5m@mon-fri,09:00-14:55").range(datetime(2024, 1, 1, 9), 72 * 20)

WEEKS = [*[4, 4, 5] * 3, 4, 4, 6, *[4, 4, 5] * 5]
LEAP = pl.Series([date(2021, 1, 30) + timedelta(weeks=sum(WEEKS[:k])) for k in range(len(WEEKS) + 1)])


def local(zone: str, first: datetime, hours: int = 72) -> pl.Series:
    """Hours on the local clock of a zone, without saying so."""
    utc = Freq("1h").range(first, hours).dt.replace_time_zone("UTC")
    return utc.dt.convert_time_zone(zone).dt.replace_time_zone(None)


def midnights(zone: str) -> pl.Series:
    """Local midnights, as text with an offset becomes: in UTC."""
    return (
        Freq("1d").range(pl.Series([datetime(2024, 2, 1)]).dt.replace_time_zone(zone), 90).dt.convert_time_zone("UTC")
    )


@dataclass(frozen=True)
class Case:
    """Times, options, and the advice that their problem gets: options, and what they are said to do."""

    ds: pl.Series
    advice: tuple[str, ...]
    done: str
    freq: str | int | None = None


CASES = {
    "missing days": Case(DAYS.gather([*range(20), *range(22, 60)]), ("--fill-gaps", "--freq rows"), "missing rows: 2,"),
    "business days read as days": Case(BUSINESS, ("leave --freq out",), "all rows fit steps of 1b", "1d"),
    "days read as business days": Case(DAYS, ("leave --freq out",), "all rows fit steps of 1d", "1b"),
    "holidays": Case(BUSINESS.gather([*range(20), *range(21, 60)]), ("--fill-gaps", "--freq rows"), "steps of 1b"),
    "an odd Saturday": Case(pl.concat([BUSINESS, SATURDAY]).sort(), ("--freq rows",), "steps of 1b"),
    "half a day of trading": Case(
        TRADING.gather([*range(200), *range(216, 1440)]), ("--fill-gaps", "--freq rows"), "5m@mon-fri,09:00-14:55"
    ),
    "jittered minutes": Case(
        Freq("1m").range(datetime(2024, 1, 1), 100) + JITTER, ("--snap",), "moved times by at most 4 s, to steps of 1m"
    ),
    "jittered hours at half past": Case(
        Freq("1h").range(datetime(2024, 1, 1, 0, 30), 100) + JITTER * 10, ("--snap",), "at most 40 s, to steps of 1h"
    ),
    "jittered minutes with holes": Case(
        (Freq("1m").range(datetime(2024, 1, 1), 100) + JITTER).gather([*range(50), *range(53, 100)]),
        ("--freq rows",),
        "took each row as one step",
    ),
    "an hour twice in autumn": Case(local("Europe/Berlin", datetime(2024, 10, 26)), ("--tz Europe/Berlin",), "1h"),
    "an hour skipped in spring": Case(
        local("America/New_York", datetime(2024, 3, 9)), ("--tz America/New_York",), "steps of 1h"
    ),
    "midnights with offsets": Case(midnights("Europe/Berlin"), ("--tz Europe/Berlin",), "all rows fit steps of 1d"),
    "midnights with offsets read as 24 hours": Case(
        midnights("America/New_York"), ("leave --freq out and give --tz America/New_York",), "steps of 1d", "24h"
    ),
    "a leap week in 4-4-5": Case(LEAP, ("--freq rows",), "forecasts continue in steps of 4-4-5@2022-05-07"),
    "no rhythm": Case(pl.Series([1, 4, 5, 11, 13, 20]), ("--freq rows",), "rows and forecasts are numbered"),
}  # fmt: skip


def problem(ds: pl.Series, freq: str | int | None = None, **more: object) -> Problem:
    with pytest.raises(DataError) as caught:
        check(pl.DataFrame({"ds": ds, "y": np.arange(len(ds), dtype=float)}), horizon=2, freq=freq, **more)
    return caught.value.problems[0]


def typed(fix: str) -> list[dict[str, object]]:
    """The options of each piece of advice that was tried, for Python."""
    found = []
    for advice in re.findall(r"(?:^|; or )([^;(]*) \(tried: ", fix):
        options: dict[str, object] = {"freq": None} if "leave --freq out" in advice else {}
        for name, value in re.findall(r"--([a-z-]+)(?: ([^-\s]\S*))?", advice.replace("leave --freq out", "")):
            options[name.replace("-", "_")] = value or True
        found.append(options)
    return found


@pytest.mark.parametrize("case", CASES.values(), ids=CASES.keys())
def test_advice_works(case: Case) -> None:
    told = problem(case.ds, case.freq)
    for words in (*case.advice, case.done):
        assert words in told.fix
    tried = typed(told.fix)
    assert len(tried) >= len(case.advice)
    for options in tried:
        frame = pl.DataFrame({"ds": case.ds, "y": np.arange(len(case.ds), dtype=float)})
        store = check(frame, horizon=2, **{"freq": case.freq, **options}).store
        assert np.isfinite(store.y[: store.lengths[0]]).mean() > 0.5


@pytest.mark.parametrize(
    ("ds", "freq", "advice"),
    [
        (TRADING.gather([*range(200), *range(216, 1440)]), "5m", ["give --freq rows"]),  # most rows would be invented
        (pl.concat([BUSINESS, pl.Series([date(2204, 1, 2)])]), None, []),  # a wrong year
        (pl.concat([BUSINESS, BUSINESS[3:9]]), None, []),
        (midnights("Europe/Berlin"), "1d", ["give --tz Europe/Berlin"]),
    ],
)
def test_what_does_not_help_is_not_advised(ds: pl.Series, freq: str | None, advice: list[str]) -> None:
    assert re.findall(r"(?:^|; or )([^;(]*) \(tried: ", problem(ds, freq).fix) == advice


def test_the_odd_row_is_named_with_its_day() -> None:
    told = problem(pl.concat([BUSINESS, SATURDAY]).sort())
    assert told.got == "off the grid: series 'series' at Saturday 2024-03-09 (row 50)"


def test_a_fill_that_covariates_forbid_is_not_advised() -> None:
    frame = pl.DataFrame({"ds": [1, 2, 3, 5, 6, 7, 8], "y": 1.0, "x": 1.0})
    with pytest.raises(DataError) as caught:
        check(frame, TableOptions(future=("x",)), horizon=2)
    assert "--fill-gaps" not in str(caught.value)
    assert "give --freq rows (tried: took each row as one step" in str(caught.value)
