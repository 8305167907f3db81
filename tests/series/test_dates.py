"""Dates in every order: read where one order fits all rows, refused with both readings where two do."""

from __future__ import annotations

from datetime import date, datetime, timedelta
from typing import Any

import polars as pl
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from tests.series.small import check

from holdfast.errors import DataError, OptionError
from holdfast.series import TableOptions
from holdfast.series.dates import FORMATS, parse_text_times, read_dates
from holdfast.series.findings import Findings

DAYS = [date(2024, 1, 1) + timedelta(days=i) for i in range(40)]


def frame(texts: list[str]) -> pl.DataFrame:
    return pl.DataFrame({"unique_id": "a", "ds": texts, "y": range(len(texts))}, schema_overrides={"y": pl.Float64})


@pytest.mark.parametrize(
    "form",
    ["%d.%m.%Y", "%m.%d.%Y", "%d/%m/%Y", "%m/%d/%Y", "%d-%m-%Y", "%Y/%m/%d", "%Y.%m.%d", "%d %b %Y", "%b %d, %Y",
     "%d-%b-%Y", "%d-%b-%y", "%Y-%b-%d"],
)  # fmt: skip
@pytest.mark.parametrize("clock", ["", " 08:30", "T08:30:00", " 8:30"])
def test_dates_in_one_order_are_read_and_the_order_is_said(form: str, clock: str) -> None:
    checked = check(frame([day.strftime(form) + clock for day in DAYS]), horizon=2)
    given = DAYS if not clock else [datetime(day.year, day.month, day.day, 8, 30) for day in DAYS]
    assert checked.table["ds"].to_list() == given
    assert any(note.startswith(f"column 'ds': dates read as {form}") for note in checked.notes)


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("January 31, 2024", date(2024, 1, 31)),
        ("31. Sept. 2024", None),
        ("30. Sept. 2024", date(2024, 9, 30)),
        ("1/31/2024 1:05 PM", datetime(2024, 1, 31, 13, 5)),
        ("1/31/2024 12:05:09 am", datetime(2024, 1, 31, 0, 5, 9)),
        ("31.01.2024 13:00:00.25", datetime(2024, 1, 31, 13, 0, 0, 250_000)),
        ("02/2024", date(2024, 2, 1)),
        ("Feb 2024", date(2024, 2, 1)),
        ("20240131 08:00", datetime(2024, 1, 31, 8)),
        ("31-Jan-69", date(2069, 1, 31)),
        ("31-Jan-70", date(1970, 1, 31)),
        ("32.01.2024", None),
        ("30.02.2024", None),
    ],
)
def test_one_date(text: str, value: date | None) -> None:
    assert read_dates(pl.Series([text])).times.to_list() == [value]


@pytest.mark.parametrize("form", ["%d/%m/%Y", "%m/%d/%Y"])
def test_dates_that_can_be_read_in_two_orders_are_refused_and_the_option_chooses(form: str) -> None:
    days = [date(2024, month, 1) for month in range(1, 13)]
    table = frame([day.strftime(form) for day in days])
    with pytest.raises(DataError) as caught:
        check(table, horizon=2)
    (problem,) = caught.value.problems
    assert problem.where == "the table, column 'ds'"
    assert problem.expected == "dates that can be read in one way"
    assert "in row 1: " in problem.got and "2024-02-01" in problem.got and "2024-01-02" in problem.got
    for option in ("%d/%m/%Y", "%m/%d/%Y"):
        assert f'--date-format "{option}"' in problem.fix
    assert check(table, horizon=2, date_format=form).table["ds"].to_list() == days


def test_rows_that_no_order_reads_are_named_by_the_order_of_the_others() -> None:
    with pytest.raises(DataError) as caught:
        check(frame([*(day.strftime("%d.%m.%Y") for day in DAYS), "oops"]), horizon=2)
    (problem,) = caught.value.problems
    assert problem.expected == "times written as %d.%m.%Y"
    assert problem.got == "'oops' in row 40"


def test_dates_that_mean_the_same_in_both_orders_are_read() -> None:
    times = parse_text_times(pl.Series("ds", ["01/01/2024", "02/02/2024"]), None, Findings("x"))
    assert times is not None and times.to_list() == [date(2024, 1, 1), date(2024, 2, 2)]


def test_the_future_is_read_in_the_order_of_the_past() -> None:
    past = frame([day.strftime("%d/%m/%Y") for day in DAYS[:31]]).with_columns(price=1.0)
    ahead = pl.DataFrame({"unique_id": "a", "ds": ["01/02/2024", "02/02/2024"], "price": [2.0, 3.0]})
    checked = check(past, TableOptions(future=("price",), horizon=2), future=ahead)
    assert checked.store.known[-2:, 0].tolist() == [2.0, 3.0]


@settings(max_examples=60)
@given(
    days=st.lists(st.dates(date(1970, 1, 1), date(2068, 12, 31)), min_size=1, max_size=8),
    form=st.sampled_from(FORMATS),
)
def test_what_python_writes_is_read_back_or_refused(days: list[date], form: str) -> None:
    """The slow twin is strptime of the standard library (which takes the year 69 for 1969, others for 2069)."""
    texts = pl.Series([day.strftime(form) for day in days])
    twin: list[Any] = [datetime.strptime(text, form).date() for text in texts]
    assert read_dates(texts, form).times.to_list() == twin
    found = read_dates(texts)
    if len(found.formats) == 1 and found.times.null_count() == 0:
        assert found.times.to_list() == twin


@pytest.mark.parametrize(
    ("text", "form", "value"),
    [
        ("2024-02-01", "%Y-%d-%m", date(2024, 1, 2)),
        ("01.02.2024 17h30", "%d.%m.%Y %Hh%M", datetime(2024, 2, 1, 17, 30)),
        ("01.02.2024 17:30", "%d.%m.%Y", datetime(2024, 2, 1, 17, 30)),
        ("2024:7", "%Y:%m", date(2024, 7, 1)),
        ("2024-183", "%Y-%j", date(2024, 7, 1)),
        ("2024-07-01 02:00 +0200", "%Y-%m-%d %H:%M %z", datetime(2024, 7, 1)),
    ],
)
def test_a_format_that_is_given_is_used(text: str, form: str, value: date) -> None:
    (read,) = read_dates(pl.Series([text]), form).times.to_list()
    assert (read.replace(tzinfo=None) if isinstance(read, datetime) else read) == value


def test_whole_numbers_are_dates_where_a_format_says_so() -> None:
    table = pl.DataFrame({"ds": [20240131, 20240201, 20240202, 20240203], "y": [1.0, 2, 3, 4]})
    assert check(table, horizon=1, date_format="%Y%m%d").table["ds"][0] == date(2024, 1, 31)


def test_a_format_that_does_not_fit_is_refused_with_the_rows() -> None:
    with pytest.raises(DataError) as caught:
        check(frame(["2024-01-01", "2024-01-02"]), horizon=1, date_format="%d.%m.%Y")
    (problem,) = caught.value.problems
    assert problem.expected == "times written as %d.%m.%Y"
    assert problem.got == "'2024-01-01' in row 0; '2024-01-02' in row 1"
    assert problem.fix.startswith("correct --date-format")


def test_a_format_that_no_parser_has_is_refused() -> None:
    with pytest.raises((OptionError, DataError), match=r"date_format|written as"):
        check(frame(["2024-01-01", "2024-01-02"]), horizon=1, date_format="%!")


@pytest.mark.parametrize("far", [-9_000_000_000_000_000_000, 9_000_000_000_000_000_000])
def test_whole_numbers_without_room_for_steps_are_refused(far: int) -> None:
    with pytest.raises(DataError) as caught:
        check(pl.DataFrame({"ds": [1, 2, far], "y": [1.0, 2, 3]}), horizon=1)
    (problem,) = caught.value.problems
    assert problem.where == "the table, column 'ds'"
    assert problem.got == f"{far} in row 2"


def test_dates_that_no_calendar_has_are_refused() -> None:
    table = pl.DataFrame({"ds": pl.Series([1, 2, 5_000_000], dtype=pl.Int32).cast(pl.Date), "y": [1.0, 2, 3]})
    with pytest.raises(DataError, match="times from 0001-01-02 to 9999-12-31"):
        check(table, horizon=1)
