"""Calendar arithmetic against pandas, and against itself backwards."""

from __future__ import annotations

from datetime import date, datetime, timedelta

import numpy as np
import pandas as pd
import polars as pl
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from holdfast.errors import DataError, OptionError
from holdfast.series import Freq, calendar_features, infer_freq

# our text, the pandas alias, a start that lies on the grid of both
TWINS = [
    ("1s", "s", datetime(2024, 2, 28, 23, 59, 58)),
    ("250ms", "250ms", datetime(2024, 2, 28, 23, 59, 58)),
    ("15m", "15min", datetime(2024, 2, 28, 23, 30)),
    ("1h", "h", datetime(2023, 12, 31, 20)),
    ("6h", "6h", datetime(2024, 2, 28, 18)),
    ("1d", "D", datetime(2024, 2, 27)),
    ("2d", "2D", datetime(2023, 2, 27, 7, 30)),
    ("1b", "B", datetime(2024, 2, 28)),
    ("1w", "W-WED", datetime(2024, 2, 28)),
    ("2w", "2W-SUN", datetime(2024, 2, 25)),
    ("1mo", "MS", datetime(2023, 11, 1)),
    ("5mo", "5MS", datetime(2023, 11, 1)),
    ("1me", "ME", datetime(2023, 11, 30)),
    ("1me", "ME", datetime(2024, 2, 29)),
    ("1q", "QS-NOV", datetime(2023, 11, 1)),
    ("1qe", "QE-FEB", datetime(2023, 11, 30)),
    ("1y", "YS", datetime(2023, 1, 1)),
    ("1ye", "YE-FEB", datetime(2023, 2, 28)),
    ("1bms", "BMS", datetime(2023, 11, 1)),
    ("1bme", "BME", datetime(2023, 11, 30)),
    ("1bqe", "BQE-DEC", datetime(2023, 12, 29)),
]
# the same for calendars with several slots in a week or month
SLOTS = [
    ("1mo@1+15", "SMS", datetime(2023, 11, 15)),
    ("1mo@15+31", "SME", datetime(2024, 2, 15)),
    ("1h@mon-fri,09:00-16:00", "bh", datetime(2024, 2, 28, 11)),
    ("1d@mon+wed+fri", "C-MWF", datetime(2024, 2, 28)),
    ("1d@mon-sat", "C-MTWTFS", datetime(2024, 3, 1)),
]
ZONES = ["Europe/Berlin", "America/New_York", "Australia/Lord_Howe", "UTC"]


@pytest.fixture(scope="module")
def old_pandas() -> bool:
    return pd.__version__ < "2.2"


def pandas_alias(alias: str, old: bool) -> str:
    if not old:
        return alias
    head, _, tail = alias.partition("-")
    for new, before in (
        ("ME", "M"),
        ("QE", "Q"),
        ("YE", "A"),
        ("YS", "AS"),
        ("min", "T"),
        ("ms", "L"),
        ("h", "H"),
        ("s", "S"),
    ):
        if head.lstrip("0123456789") == new:
            head = head.replace(new, before)
            break
    return head + ("-" + tail if tail else "")


@pytest.mark.parametrize(("text", "alias", "start"), TWINS)
def test_range_equals_pandas(text: str, alias: str, start: datetime, old_pandas: bool) -> None:
    expected = pd.date_range(start, periods=60, freq=pandas_alias(alias, old_pandas)).to_pydatetime().tolist()
    assert Freq.parse(text).range(start, 60).to_list() == expected


@pytest.mark.parametrize(("text", "alias", "start"), SLOTS)
def test_slots_equal_pandas(text: str, alias: str, start: datetime, old_pandas: bool) -> None:
    weekmask = {"C-MWF": "Mon Wed Fri", "C-MTWTFS": "Mon Tue Wed Thu Fri Sat"}.get(alias)
    name = {"SME": "SM", "bh": "BH"}.get(alias, alias) if old_pandas else alias
    offset = name if weekmask is None else pd.offsets.CustomBusinessDay(weekmask=weekmask)
    expected = pd.date_range(start, periods=60, freq=offset).to_pydatetime().tolist()
    assert Freq.parse(text).range(start, 60).to_list() == expected


def test_retail_weeks_come_in_fours_and_fives() -> None:
    days = Freq.parse("4-4-5@2024-01-28").range(date(2024, 1, 28), 13)
    assert np.diff(days.to_physical().to_numpy()).tolist() == [28, 28, 35] * 4
    assert Freq.parse("5-4-4@2024-01-28").range(date(2024, 1, 28), 3).to_list()[1] == date(2024, 3, 3)


def test_lunch_breaks_and_weeks_from_sunday_to_thursday() -> None:
    freq = Freq.parse("30m@sun-thu,9:00-10:30+12:00-12:30")
    assert freq.text == "30m@mon-thu+sun,09:00-10:30+12:00-12:30"
    times = freq.range(datetime(2024, 2, 29, 10, 30), 5)  # a Thursday
    assert [f"{time:%a %H:%M}" for time in times] == ["Thu 10:30", "Thu 12:00", "Thu 12:30", "Sun 09:00", "Sun 09:30"]


@pytest.mark.parametrize("zone", ZONES)
@pytest.mark.parametrize(
    "start", [datetime(2024, 3, 29), datetime(2024, 10, 26), datetime(2024, 4, 5), datetime(2024, 11, 2)]
)
@pytest.mark.parametrize(
    ("text", "alias"), [("1h", "h"), ("30m", "30min"), ("1d", "D"), ("1w", "W-{day}"), ("1mo", None)]
)
def test_range_equals_pandas_across_clock_changes(
    zone: str, start: datetime, text: str, alias: str | None, old_pandas: bool
) -> None:
    first = pl.Series([start]).dt.replace_time_zone(zone)
    if alias is None:
        expected = [pd.Timestamp(start, tz=zone) + pd.DateOffset(months=k) for k in range(80)]
    else:
        alias = pandas_alias(alias.format(day=start.strftime("%a").upper()), old_pandas)
        expected = list(pd.date_range(pd.Timestamp(start, tz=zone), periods=80, freq=alias))
    got = Freq.parse(text).range(first, 80)
    assert got.dtype == first.dtype
    assert [moment.timestamp() for moment in got] == [moment.timestamp() for moment in expected]


def test_a_day_without_midnight_starts_an_hour_later() -> None:
    first = pl.Series([datetime(2024, 4, 24)]).dt.replace_time_zone(
        "Africa/Cairo"
    )  # clocks go forward on the 26th at 0:00
    days = Freq.parse("1d").range(first, 4)
    assert [day.hour for day in days] == [0, 0, 1, 0]
    assert Freq.parse("1d").steps(first.new_from_index(0, 4), days).tolist() == [0, 1, 2, 3]


@pytest.mark.parametrize(
    "dtype",
    [
        pl.Date,
        pl.Datetime("ms"),
        pl.Datetime("us"),
        pl.Datetime("ns"),
        pl.Datetime("ms", "Asia/Tokyo"),
        pl.Int32,
        pl.UInt64,
    ],
)
def test_the_type_of_times_is_kept(dtype: pl.DataType) -> None:
    first = (
        pl.Series([7], dtype=pl.Int64).cast(dtype) if dtype.is_integer() else pl.Series([date(2024, 1, 7)]).cast(dtype)
    )
    assert Freq.parse(7 if dtype.is_integer() else "1w").range(first, 5).dtype == dtype


def test_month_ends_that_are_clipped_come_back() -> None:
    got = Freq("1mo").range(date(2023, 12, 31), 5).to_list()
    assert got == [date(2023, 12, 31), date(2024, 1, 31), date(2024, 2, 29), date(2024, 3, 31), date(2024, 4, 30)]


@settings(max_examples=60, deadline=None)
@given(
    text=st.sampled_from(
        [text for text, _, _ in (*TWINS, *SLOTS)]
        + ["3mo", "3d", "45m", "12h", "2b", "1bys", "4-4-5@2024-01-28", "1mo@1+11+21", "5m@22:00-22:55", "rows:1b"]
    ),
    start=st.datetimes(datetime(1950, 1, 1), datetime(2100, 1, 1)),
    steps=st.lists(st.integers(-500, 500), min_size=1, max_size=5),
    zone=st.sampled_from([None, "Europe/Berlin", "America/Santiago", "Asia/Kolkata"]),
)
def test_steps_undo_at(text: str, start: datetime, steps: list[int], zone: str | None) -> None:
    freq = Freq.parse(text)
    start = start.replace(microsecond=0)
    if freq.unit == "b":
        start -= timedelta(days=max(0, start.weekday() - 4))
    if freq.slots is not None and zone is not None:
        start = start.replace(hour=12)  # no clock changes at noon, or in opening hours
    first = pl.Series([start])
    if zone is not None:
        first = first.dt.replace_time_zone(zone, non_existent="null", ambiguous="earliest")
        first = first.fill_null(pl.Series([datetime(2024, 5, 1)]).dt.replace_time_zone(zone)[0])
    starts = freq.at(first, np.zeros(1, dtype=np.int64)).new_from_index(0, len(steps))  # month ends: onto the grid
    times = freq.at(starts, np.array(steps))
    assert freq.steps(starts, times).tolist() == steps
    assert freq.at(starts, freq.steps(starts, times)).to_list() == times.to_list()


@settings(max_examples=60, deadline=None)
@given(
    text=st.sampled_from([text for text, _, _ in TWINS]),
    start=st.datetimes(datetime(1990, 1, 1), datetime(2040, 1, 1)),
    missing=st.sets(st.integers(1, 58), max_size=12),
)
def test_a_frequency_is_read_off_its_own_times(text: str, start: datetime, missing: set[int]) -> None:
    start = start.replace(microsecond=0, day=min(start.day, 28))
    if text == "1b":
        start -= timedelta(days=max(0, start.weekday() - 4))
    times = Freq.parse(text).range(start, 60)
    kept = times.filter(~pl.Series(range(60)).is_in(list(missing)))
    inferred = infer_freq(kept)
    assert inferred.range(times.head(1), 60).to_list() == times.to_list()


@settings(max_examples=40, deadline=None)
@given(
    text=st.sampled_from([text for text, _, _ in SLOTS] + ["30m@09:00-11:30+12:30-14:30", "1mo@1+16"]),
    start=st.datetimes(datetime(1990, 1, 1), datetime(2040, 1, 1)),
    missing=st.sets(st.integers(1, 118), max_size=3),
)
def test_slots_are_read_off_their_own_times(text: str, start: datetime, missing: set[int]) -> None:
    times = Freq.parse(text).range(start.replace(microsecond=0), 120)
    kept = times.filter(~pl.Series(range(120)).is_in(list(missing)))
    assert infer_freq(kept) == Freq(text)


def test_retail_weeks_are_read_off_their_own_times() -> None:
    times = Freq.parse("4-5-4@2024-01-28").range(date(2024, 3, 31), 20)
    inferred = infer_freq(times.gather([0, 1, 2, 3, 5, *range(6, 20)]))
    assert inferred.text == "4-4-5@2024-03-31"
    assert inferred.range(times.head(1), 20).to_list() == times.to_list()


def test_a_few_odd_rows_do_not_change_the_calendar() -> None:
    weekdays = Freq("1b").range(date(2024, 1, 1), 60)
    assert infer_freq(weekdays.append(pl.Series([date(2024, 3, 9)])).sort()) == Freq("1b")
    open_hours = Freq.parse("1h@08:00-19:00").range(datetime(2024, 1, 1, 8), 400)
    assert infer_freq(open_hours.append(pl.Series([datetime(2024, 1, 20, 21)])).sort()).text == "1h@08:00-19:00"


def test_inference_reads_each_series_by_itself() -> None:
    ids = pl.Series(["a", "a", "a", "b", "b", "b"])
    assert infer_freq(pl.Series([10, 12, 14, 1, 3, 5]), ids) == Freq(2)
    hours = pl.Series([datetime(2024, 1, 1, hour) for hour in (1, 2, 3, 0, 1, 2)])
    assert infer_freq(hours, ids) == Freq("1h")


def test_weekdays_only_are_business_days_and_a_single_week_is_not() -> None:
    weekdays = Freq("1b").range(date(2024, 1, 1), 30)
    assert infer_freq(weekdays) == Freq("1b")
    assert infer_freq(weekdays.head(5)) == Freq("1d")


@pytest.mark.parametrize(
    ("times", "got"),
    [
        (pl.Series([3]), "no series with two different times"),
        (pl.Series([1, 4, 5, 11, 13, 20]), "irregular steps"),
        (pl.Series([0, 1, 2]).cast(pl.Datetime("us")), "steps of a fraction of a millisecond"),
    ],
)
def test_what_has_no_frequency_is_refused(times: pl.Series, got: str) -> None:
    with pytest.raises(DataError) as caught:
        infer_freq(times, source="sales.csv")
    (problem,) = caught.value.problems
    assert problem.where.startswith("sales.csv")
    assert got in problem.got
    assert problem.expected
    assert problem.fix


ALIASES = {
    "1h": ["h", "H", "1H", "60m", "60min", "3600s"],
    "15m": ["15min", "15T", "900s"],
    "1d": ["D", "d", "1D"],
    "1b": ["B", "b", "1d@mon-fri"],
    "1w": ["W", "W-SUN", "W-MON", "7d"],
    "1mo": ["MS", "mo"],
    "1me": ["M", "ME"],
    "1q": ["QS", "QS-JAN", "3MS"],
    "1qe": ["Q", "QE", "QE-DEC", "3ME"],
    "1y": ["YS", "AS", "12mo", "4q"],
    "1ye": ["Y", "YE", "A", "YE-DEC", "12ME"],
    "1bms": ["BMS", "bms"],
    "1bme": ["BME", "BM"],
    "1bqs": ["BQS", "3BMS"],
    "1bqe": ["BQE", "BQ", "BQE-DEC"],
    "1bye": ["BYE", "BA", "12BME"],
    "1mo@1+15": ["SMS"],
    "1mo@15+31": ["SME", "SM"],
    "1h@mon-fri,09:00-16:00": ["bh", "BH", "60min@mon-fri,9:00-16:00"],
    "1d@mon-sat": ["D@mon-sat"],
    "4-4-5@2024-01-28": ["4-4-5@2024-01-28"],
    "rows": ["rows"],
    "rows:1b": ["rows:B"],
    1: [1, "1", "1i", "i"],
}


@pytest.mark.parametrize(("text", "alias"), [(text, alias) for text, some in ALIASES.items() for alias in some])
def test_parse_knows_polars_and_pandas(text: str | int, alias: str | int) -> None:
    assert Freq.parse(alias).text == text
    assert Freq.parse(Freq.parse(alias).text) == Freq(text)


@pytest.mark.parametrize(
    "text",
    [
        *("", "-", "0h", "-1", 0, -3, True, "fortnight", "1.5h", "CBMS", "h1", "1h30m", "nan", "99999999999h", 10**19),
        *("1d@", "1d@mon-sut", "1h@mon-fri", "1d@09:00-10:00", "1mo@0+15", "1mo@15+32", "1mo@15", "1w@mon", "3@mon"),
        *("1h@17:00-09:00", "4-4-4@2024-01-28", "4-4-5", "4-4-5@2024-02-30", "rows:", "rows:rows", "rows:x"),
    ],
)
def test_parse_refuses_what_is_no_frequency(text: str | int) -> None:
    with pytest.raises(OptionError, match="option --freq"):
        Freq.parse(text)


@pytest.mark.parametrize(
    ("text", "seasons", "horizon"),
    [
        ("1s", (3600, 86400), 3600),
        ("15m", (96, 672), 96),
        ("1h", (24, 168), 48),
        ("2h", (12, 84), 24),
        ("5h", (), 9),
        ("24h", (7,), 2),
        ("1d", (7,), 14),
        ("2d", (), 7),
        ("1b", (5,), 10),
        ("1w", (52,), 13),
        ("1mo", (12,), 18),
        ("6mo", (2,), 4),
        ("1me", (12,), 18),
        ("1qe", (4,), 8),
        ("1y", (), 6),
        (1, (), 12),
        ("1bme", (12,), 18),
        ("1bqe", (4,), 8),
        ("1d@mon-sat", (6,), 12),
        ("5m@mon-fri,09:00-14:55", (72, 360), 72),
        ("1h@08:00-19:00", (12, 84), 24),
        ("1mo@1+15", (24,), 24),
        ("4-4-5@2024-01-28", (12,), 12),
        ("rows:1b", (), 10),
        ("rows", (), 12),
    ],
)
def test_usual_seasons_and_horizons(text: str | int, seasons: tuple[int, ...], horizon: int) -> None:
    assert Freq.parse(text).seasons == seasons
    assert Freq.parse(text).horizon == horizon


FEATURES = {
    "15m": ["hour_of_day", "day_of_week", "day_of_year"],
    "24h": ["day_of_week", "day_of_year"],
    "1d": ["day_of_week", "day_of_year"],
    "1b": ["day_of_week", "day_of_year"],
    "1w": ["day_of_year"],
    "1mo": ["month_of_year"],
    "1qe": ["month_of_year"],
    "1y": [],
    "1bme": ["month_of_year"],
    "1d@mon-sat": ["day_of_week", "day_of_year"],
    "1h@08:00-19:00": ["hour_of_day", "day_of_week", "day_of_year"],
    "4-4-5@2024-01-28": ["day_of_year"],
    "rows:1b": ["day_of_week", "day_of_year"],
}


@pytest.mark.parametrize(("text", "cycles"), FEATURES.items())
def test_features_are_the_angles_of_the_calendar(text: str, cycles: list[str]) -> None:
    times = Freq.parse(text).range(datetime(2023, 12, 29), 40)
    names, features = calendar_features(times, Freq.parse(text))
    assert list(names) == [f"{cycle}_{wave}" for cycle in cycles for wave in ("sin", "cos")]
    assert features.dtype == np.float32
    turn = {
        "hour_of_day": lambda t: (t.hour + t.minute / 60) / 24,
        "day_of_week": lambda t: t.weekday() / 7,
        "day_of_year": lambda t: (t.timetuple().tm_yday - 1) / 365.25,
        "month_of_year": lambda t: (t.month - 1) / 12,
    }
    for row, moment in zip(features, times, strict=True):
        angles = [2 * np.pi * turn[cycle](moment) for cycle in cycles]
        slow = [wave(angle) for angle in angles for wave in (np.sin, np.cos)]
        np.testing.assert_allclose(row, slow, atol=2e-7)


def test_features_of_zoned_times_follow_the_local_clock() -> None:
    local = Freq("1h").range(pl.Series([datetime(2024, 3, 30)]).dt.replace_time_zone("Europe/Berlin"), 72)
    naive = local.dt.replace_time_zone(None)
    np.testing.assert_array_equal(calendar_features(local, Freq("1h"))[1], calendar_features(naive, Freq("1h"))[1])


def test_twice_a_month_goes_round_in_a_year() -> None:
    freq = Freq.parse("1mo@1+15")
    _, features = calendar_features(freq.range(date(2024, 1, 1), 25), freq)
    turns = 2 * np.pi * np.arange(25) / 24
    np.testing.assert_allclose(features, np.stack([np.sin(turns), np.cos(turns)], 1), atol=2e-7)


def test_mean_durations_of_slots() -> None:
    assert Freq.parse("1mo@1+15").seconds == Freq.parse("1mo").seconds / 2  # type: ignore[operator]
    assert Freq.parse("1d@mon-sat").seconds == 7 * 86400 / 6
    assert Freq.parse("4-4-5@2024-01-28").seconds == 91 * 86400 / 3


def test_integer_times_have_no_features() -> None:
    names, features = calendar_features(pl.Series([1, 2, 3]), Freq(1))
    assert names == ()
    assert features.shape == (3, 0)
