"""Local times, and times moved to a grid."""

from __future__ import annotations

from datetime import date, datetime, timedelta

import numpy as np
import polars as pl
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from tests.series.small import check

from holdfast.errors import DataError
from holdfast.series import Freq, TableOptions
from holdfast.series.snapping import grid_phase


def table(ds: pl.Series, name: str = "a") -> pl.DataFrame:
    return pl.DataFrame({"unique_id": name, "ds": ds, "y": np.arange(len(ds), dtype=float)})


@pytest.mark.parametrize("step", ["1h", "30m", "15m"])
@pytest.mark.parametrize("backwards", [False, True])
@pytest.mark.parametrize(
    ("zone", "first"),
    [
        ("Europe/Vienna", datetime(2024, 10, 26)),
        ("America/New_York", datetime(2024, 11, 2)),
        ("Europe/Vienna", datetime(2024, 3, 30)),
    ],
)
def test_local_times_are_read_as_they_passed(zone: str, first: datetime, step: str, backwards: bool) -> None:
    true = Freq(step).range(pl.Series([first]).dt.replace_time_zone(zone), 250)
    both = pl.concat([table(true.dt.replace_time_zone(None), name) for name in "ab"])
    checked = check(both.reverse() if backwards else both, horizon=2, tz=zone)
    assert checked.store.freq == Freq(step)
    for i in range(2):
        assert checked.store.times(i, 0, 250).to_list() == true.to_list()
        np.testing.assert_array_equal(checked.store.values(i), np.arange(250))


def test_offsets_are_shown_on_the_local_clock() -> None:
    days = Freq("1d").range(pl.Series([datetime(2024, 3, 1)]).dt.replace_time_zone("Europe/Vienna"), 60)
    text = days.dt.strftime("%Y-%m-%d %H:%M:%S%:z")
    store = check(table(text), horizon=2, tz="Europe/Vienna").store
    assert store.freq == Freq("1d")
    assert [f"{day:%m-%d %H}" for day in store.future_times()["ds"]] == ["04-30 00", "05-01 00"]


def test_a_future_table_may_be_local_too() -> None:
    hours = Freq("1h").range(datetime(2024, 3, 30), 24)
    main, future = (table(part).with_columns(x=pl.int_range(pl.len())) for part in (hours[:20], hours[20:]))
    store = check(main, TableOptions(future=("x",)), horizon=4, tz="Europe/Vienna", future=future).store
    assert store.known[20:, 0].tolist() == [0, 1, 2, 3]


def test_a_midnight_that_was_skipped_is_an_hour_later() -> None:
    days = Freq("1d").range(datetime(2024, 4, 20), 12)
    store = check(table(days), horizon=2, tz="Africa/Cairo").store
    assert [day.hour for day in store.times(0, 0, 12)] == [0] * 6 + [1] + [0] * 5


@pytest.mark.parametrize(
    ("ds", "zone", "where", "got"),
    [
        (Freq("1h").range(datetime(2024, 1, 1), 9), "Nowhere/Land", "option --tz", "'Nowhere/Land'"),
        (Freq("1h").range(datetime(2024, 3, 31), 9), "Europe/Vienna", "times", "2024-03-31 02:00:00 in row 2"),
    ],
)
def test_zones_and_times_that_do_not_exist(ds: pl.Series, zone: str, where: str, got: str) -> None:
    with pytest.raises(DataError) as caught:
        check(table(ds), horizon=2, tz=zone)
    (problem,) = caught.value.problems
    assert problem.where == f"the table, {where}"
    assert problem.got == got


def test_dates_have_no_zone() -> None:
    store = check(table(Freq("1d").range(date(2024, 1, 1), 9)), horizon=2, tz="Europe/Vienna").store
    assert store.starts.dtype == pl.Date


@settings(max_examples=60, deadline=None)
@given(
    text=st.sampled_from(["1s", "15s", "1m", "5m", "15m", "1h", "6h", "1d"]),
    part=st.sampled_from([0.0, 0.25, 0.5]),
    seed=st.integers(0, 2**32),
)
def test_snapping_undoes_jitter(text: str, part: float, seed: int) -> None:
    step = float(Freq(text).seconds or 0) * 1e6
    true = Freq(text).range(datetime(2024, 1, 1) + timedelta(microseconds=part * step), 60)
    jitter = np.random.default_rng(seed).integers(-int(step / 50), int(step / 50) + 1, 60)
    checked = check(table(true + pl.Series(jitter).cast(pl.Duration("us"))), horizon=2, snap=True)
    assert checked.store.freq == Freq(text)
    assert checked.store.times(0, 0, 60).to_list() == true.to_list()
    again = check(checked.table, horizon=2, snap=True)
    assert again.notes == ()
    assert again.store.ds.to_list() == checked.store.ds.to_list()


def test_snapping_takes_the_roundest_grid_within_the_jitter() -> None:
    assert grid_phase(np.array([3, 62, 118]), 60) == 0
    assert grid_phase(np.array([31, 89, 152]), 60) == 30
    assert grid_phase(np.array([17, 77, 137]), 60) == 17


def test_snapping_needs_steps_of_one_length() -> None:
    with pytest.raises(DataError, match="steps of fixed length"):
        check(table(Freq("1mo").range(date(2024, 1, 1), 9)), horizon=2, snap=True, freq="1mo")


@pytest.mark.parametrize(
    ("ds", "where", "expected"),
    [
        (pl.Series([-9 * 10**18, 0, 9 * 10**18]), "column 'ds'", "times from -1,000,000,000,000,000,000 to"),
        (pl.Series([2**63 + k for k in range(9)], dtype=pl.UInt64), "column 'ds'", "to 1,000,000,000,000,000,000"),
        (pl.Series([10**18 - 8 + k for k in range(9)]), "times", "forecasts of times up to 1,000,000,000,000,000,000"),
        (pl.Series([120 + k for k in range(8)], dtype=pl.Int8), "times", "forecasts of times up to 127"),
        (Freq("1d").range(date(9999, 12, 20), 10), "times", "forecasts of times up to 9999-12-31"),
        (pl.Series([datetime(2262, 4, d) for d in range(1, 11)]).cast(pl.Datetime("ns")), "times", "up to 2262-04-10"),
    ],
)
def test_times_at_the_end_of_all_times_are_refused(ds: pl.Series, where: str, expected: str) -> None:
    with pytest.raises(DataError) as caught:
        check(table(ds), horizon=4)
    assert caught.value.problems[0].where == f"the table, {where}"
    assert expected in caught.value.problems[0].expected
