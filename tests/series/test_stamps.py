"""Dates written as whole numbers: read as dates, and written again as they came."""

from __future__ import annotations

from datetime import date, datetime

import polars as pl
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from tests.series.small import check

from holdfast.errors import DataError
from holdfast.series import Freq, TableOptions
from holdfast.series.stamps import stamps_of

DAYS = Freq("1d").range(date(2024, 2, 20), 20)
SECONDS = [1_709_125_200 + 3600 * k for k in range(20)]  # from 2024-02-28 13:00 on
MONTHS = Freq("1mo").range(date(2022, 11, 1), 20)
SINCE = {"s": 1_000_000, "ms": 1_000, "us": 1}


def table(ds: pl.Series | list[int]) -> pl.DataFrame:
    return pl.DataFrame({"ds": ds, "y": [float(k) for k in range(len(ds))]})


def numbers(times: pl.Series, form: str) -> list[int]:
    return [int(time.strftime(form)) for time in times]


@pytest.mark.parametrize(
    ("ds", "freq", "ahead", "words"),
    [
        (numbers(DAYS, "%Y%m%d"), "1d", [20240311, 20240312], "20240131"),
        (numbers(MONTHS, "%Y%m"), "1mo", [202407, 202408], "202401"),
        (SECONDS, "1h", None, "seconds since 1970"),
        ([1000 * k for k in SECONDS], "1h", None, "milliseconds since 1970"),
        ([10**6 * k for k in SECONDS], "1h", None, "microseconds since 1970"),
        ([10**9 * k for k in SECONDS], "1h", None, "nanoseconds since 1970"),
    ],
)
def test_whole_numbers_that_are_dates(ds: list[int], freq: str, ahead: list[int] | None, words: str) -> None:
    checked = check(table(ds), horizon=2)
    assert checked.store.freq.text == freq
    step = ds[1] - ds[0]
    assert checked.store.future_times()["ds"].to_list() == (ahead or [ds[-1] + step, ds[-1] + 2 * step])
    assert checked.table["ds"].to_list() == ds
    assert words in checked.notes[-1]
    assert "--freq 1," in checked.notes[-1]


def test_the_type_of_the_numbers_is_kept_and_so_is_a_second_reading() -> None:
    checked = check(table(pl.Series(numbers(DAYS, "%Y%m%d"), dtype=pl.Int32)), horizon=2)
    again = check(checked.table, horizon=2, freq=checked.store.freq.text)
    for each in (checked, again):
        assert each.store.future_times()["ds"].dtype == each.table["ds"].dtype == pl.Int32
        assert each.store.future_times()["ds"].to_list() == [20240311, 20240312]
        assert each.store.starts.to_list() == [date(2024, 2, 20)]


def test_text_of_digits_is_a_date_too() -> None:
    assert check(table(pl.Series(numbers(DAYS, "%Y%m%d")).cast(pl.String)), horizon=2).store.freq == Freq("1d")


def test_a_whole_number_as_frequency_keeps_numbers() -> None:
    checked = check(table([20240101 + k for k in range(20)]), horizon=2, freq=1)
    assert checked.store.future_times()["ds"].to_list() == [20240121, 20240122]
    assert checked.notes == ("no column 'unique_id': all rows are one series, called 'series'",)


@pytest.mark.parametrize(
    "ds",
    [
        list(range(2001, 2021)),  # years are counted as they are
        list(range(20240120, 20240140)),  # 20240132 is no day
        list(range(200001, 200021)),  # 200013 is no month
        list(range(10**18 - 30, 10**18 - 10)),  # a counter, not time
    ],
)
def test_other_whole_numbers_stay(ds: list[int]) -> None:
    checked = check(table(ds), horizon=2)
    assert checked.store.freq == Freq(1)
    assert checked.store.future_times()["ds"].to_list() == [ds[-1] + 1, ds[-1] + 2]


def test_missing_days_are_named_as_they_were_written() -> None:
    ds = numbers(DAYS, "%Y%m%d")
    with pytest.raises(DataError, match=r"1 after series 'series' at 20240228 \(row 8\)"):
        check(table(ds[:9] + ds[10:]), horizon=2)


def test_a_future_table_is_written_as_the_main_one() -> None:
    main = table(numbers(DAYS, "%Y%m%d")).with_columns(x=1.0)
    future = pl.DataFrame({"ds": [20240312, 20240311], "x": [3.0, 2.0]})
    store = check(main, TableOptions(future=("x",)), horizon=2, future=future).store
    assert store.known[:, 0].tolist() == [1.0] * 20 + [2.0, 3.0]


@settings(max_examples=50, deadline=None)
@given(
    moments=st.lists(st.datetimes(datetime(1990, 1, 2), datetime(2099, 1, 1)), min_size=1, max_size=5),
    kind=st.sampled_from(["days", "months", *SINCE]),
)
def test_writing_undoes_reading(moments: list[datetime], kind: str) -> None:
    if kind in SINCE:
        micros = pl.Series(moments).cast(pl.Datetime("us")).to_physical()
        ds = micros // 1_000_000 * (1_000_000 // SINCE[kind])
    else:
        ds = pl.Series(numbers(pl.Series(moments), "%Y%m%d" if kind == "days" else "%Y%m"))
    stamps = stamps_of(ds, whole_numbers=False)
    assert stamps.kind == kind
    assert stamps.write(stamps.read(ds)).to_list() == ds.to_list()
