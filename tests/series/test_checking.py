"""From a table to a store and back: nothing lost, nothing invented, whatever the order of the rows."""

from __future__ import annotations

from datetime import date, datetime
from typing import Any

import numpy as np
import polars as pl
import polars.testing
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from tests.series.small import check as check_frame

from holdfast.series import Checked, Freq, SeriesStore, TableOptions, calendar_features

COLUMNS = TableOptions(static=("region", "size"), future=("promo",), past=("visits",))
STARTS = {
    "1h": datetime(2024, 3, 30, 5),
    "1d": date(2024, 2, 20),
    "1b": date(2024, 2, 21),
    "1me": date(2024, 1, 31),
    "2w": datetime(2024, 1, 3, 12),
    3: 7,
}


@st.composite
def tables(draw: st.DrawFn) -> tuple[pl.DataFrame, str | int]:
    """Regular series with covariates; some values are missing, but not all of a series."""
    freq = draw(st.sampled_from(list(STARTS)))
    parts = []
    for name in draw(st.sets(st.integers(0, 99), min_size=1, max_size=4)):
        length = draw(st.integers(6, 15))
        shift = draw(st.integers(0, 5))
        y = draw(st.lists(st.none() | st.floats(-1e6, 1e6), min_size=length - 1, max_size=length - 1))
        part = {
            "unique_id": [name] * length,
            "ds": Freq.parse(freq).range(STARTS[freq], length + shift)[shift:],
            "y": pl.Series([*y, 1.0], dtype=pl.Float64),
            "promo": [bool((name + k) % 3) for k in range(length)],
            "visits": [float(name * k) for k in range(length)],
            "region": ["north" if name % 2 else "south"] * length,
            "size": [name / 4] * length,
        }
        parts.append(pl.DataFrame(part))
    return pl.concat(parts), freq


def same(one: SeriesStore, other: SeriesStore) -> None:
    for name in ("offsets", "lengths", "y", "past", "known", "static"):
        np.testing.assert_array_equal(getattr(one, name), getattr(other, name))
    assert (one.ids.to_list(), one.starts.to_list()) == (other.ids.to_list(), other.starts.to_list())
    assert (one.freq, one.known_names, one.static_names) == (other.freq, other.known_names, other.static_names)


@settings(max_examples=25, deadline=None)
@given(case=tables(), horizon=st.integers(1, 4))
def test_a_store_holds_each_given_value_in_its_place(case: tuple[pl.DataFrame, str | int], horizon: int) -> None:
    table, freq = case
    store = check_frame(table, COLUMNS, horizon=horizon, freq=freq).store
    assert store.past_names == ("visits",)
    assert store.known_names[0] == "promo"
    rows = []
    for i in range(store.n_series):  # the slow twin: one row after the other
        times = store.times(i, 0, int(store.lengths[i]))
        features = calendar_features(times, store.freq)[1]
        for k in range(int(store.lengths[i])):
            at = int(store.offsets[i]) + k
            y = None if np.isnan(store.y[at]) else store.y[at]
            region = dict(zip(store.static_names, store.static[i], strict=True))
            north = "north" if region.get("region=north") else "south"
            rows.append(
                (
                    store.ids[i],
                    times[k],
                    y,
                    bool(store.known[at, 0]),
                    store.past[at, 0].item(),
                    north,
                    region["size"].item(),
                )
            )
            np.testing.assert_array_equal(store.known[at, 1:], features[k])
    assert rows == table.sort("unique_id", "ds").rows()


@settings(max_examples=25, deadline=None)
@given(case=tables(), horizon=st.integers(1, 4))
def test_future_rows_follow_each_series(case: tuple[pl.DataFrame, str | int], horizon: int) -> None:
    table, freq = case
    store = check_frame(table, COLUMNS, horizon=horizon, freq=freq).store
    assert np.array_equal(np.diff(store.offsets), store.lengths + horizon)
    ahead = store.future_times()
    assert ahead.height == store.n_series * horizon
    for i in range(store.n_series):
        length, stop = int(store.lengths[i]), int(store.offsets[i + 1])
        behind = slice(stop - horizon, stop)
        assert np.isnan(store.y[behind]).all()
        assert np.isnan(store.past[behind]).all()
        assert np.isnan(store.known[behind, 0]).all()
        times = store.times(i, length, length + horizon)
        assert times.to_list() == Freq.parse(freq).range(store.times(i, length - 1, length), horizon + 1).to_list()[1:]
        assert ahead[i * horizon : (i + 1) * horizon]["ds"].to_list() == times.to_list()
        np.testing.assert_array_equal(store.known[behind, 1:], calendar_features(times, store.freq)[1])


@settings(max_examples=25, deadline=None)
@given(case=tables(), seed=st.integers(0, 2**32))
def test_the_order_of_rows_and_columns_does_not_matter(case: tuple[pl.DataFrame, str | int], seed: int) -> None:
    table, freq = case
    straight = check_frame(table.sort("unique_id", "ds"), COLUMNS, horizon=2, freq=freq)
    shuffled = check_frame(
        table.sample(fraction=1.0, shuffle=True, seed=seed).select(reversed(table.columns)),
        COLUMNS,
        horizon=2,
        freq=freq,
    )
    same(straight.store, shuffled.store)
    polars.testing.assert_frame_equal(straight.table, shuffled.table)
    assert straight.notes == ()


@settings(max_examples=25, deadline=None)
@given(case=tables())
def test_a_tidy_table_is_its_own_tidy_table(case: tuple[pl.DataFrame, str | int]) -> None:
    table, freq = case
    once = check_frame(table, COLUMNS, horizon=2, freq=freq)
    twice = check_frame(once.table, COLUMNS, horizon=2, freq=once.store.freq.text)
    polars.testing.assert_frame_equal(once.table, twice.table)
    same(once.store, twice.store)


@settings(max_examples=25, deadline=None)
@given(case=tables(), seed=st.integers(0, 2**32))
def test_filled_gaps_are_rows_with_a_missing_value(case: tuple[pl.DataFrame, str | int], seed: int) -> None:
    table, freq = case
    columns = TableOptions(static=("region", "size"))
    whole = check_frame(table, columns, horizon=2, freq=freq)
    first, last = table["unique_id"].is_first_distinct(), table["unique_id"].is_last_distinct()
    lost = ~first & ~last & pl.Series(np.random.default_rng(seed).random(table.height) < 0.3)
    filled = check_frame(table.filter(~lost), columns, horizon=2, freq=freq, fill_gaps=True)
    blank = table.with_columns(y=pl.when(lost).then(None).otherwise("y"))
    same(filled.store, check_frame(blank, columns, horizon=2, freq=freq).store)
    polars.testing.assert_frame_equal(filled.table.drop("y"), whole.table.drop("y"))


def test_a_sparse_series_may_be_evenly_spaced() -> None:
    rows = {"unique_id": ["a"] * 9 + ["b"] * 3, "ds": [*range(9), 0, 4, 8], "y": [1.0] * 12}
    store = check_frame(pl.DataFrame(rows), TableOptions(), horizon=2, fill_gaps=True).store
    assert store.lengths.tolist() == [9, 9]
    assert np.flatnonzero(np.isfinite(store.values(1))).tolist() == [0, 4, 8]


IDS = [
    pl.Series([3, -1, 20]),
    pl.Series([3, 1, 20], dtype=pl.UInt8),
    pl.Series(["b", "a", "ä"]),
    pl.Series(["b", "a", "c"], dtype=pl.Categorical),
    pl.Series(["b", "a", "c"], dtype=pl.Enum(["c", "b", "a"])),
    pl.Series([True, False]),
    pl.Series([date(2024, 1, 2), date(2024, 1, 1)]),
    pl.Series([2.5, -0.5]),
]


@pytest.mark.parametrize("ids", IDS, ids=lambda ids: str(ids.dtype))
def test_the_type_of_ids_is_kept_and_they_are_sorted(ids: pl.Series) -> None:
    rows = ids.gather(np.repeat(np.arange(len(ids)), 5))
    table = pl.DataFrame({"unique_id": rows, "ds": list(range(5)) * len(ids), "y": np.arange(5.0 * len(ids))})
    checked = check_frame(table, TableOptions(), horizon=1)
    assert checked.store.ids.dtype == checked.table["unique_id"].dtype == ids.dtype
    assert checked.store.future_times()["unique_id"].dtype == ids.dtype
    order = ids.cast(pl.String).sort() if ids.dtype == pl.Categorical else ids.sort()
    assert checked.store.ids.cast(order.dtype).to_list() == order.to_list()
    for i, name in enumerate(checked.store.ids):
        assert checked.store.values(i).tolist() == table.filter(rows == name)["y"].to_list()


@pytest.mark.parametrize(
    "dtype", [pl.Date, pl.Datetime("ms"), pl.Datetime("ns"), pl.Datetime("us", "Europe/Berlin"), pl.Int16, pl.UInt64]
)
def test_the_type_of_times_is_kept(dtype: pl.DataType) -> None:
    days = pl.Series(range(10), dtype=pl.Int32).cast(pl.Date if dtype.is_temporal() else pl.Int64).cast(dtype)
    checked = check_frame(pl.DataFrame({"ds": days, "y": np.ones(10)}), TableOptions(), horizon=2)
    assert checked.table["ds"].dtype == checked.store.starts.dtype == checked.store.future_times()["ds"].dtype == dtype
    polars.testing.assert_series_equal(checked.table["ds"], days.alias("ds"))


@pytest.mark.parametrize(
    "y",
    [
        pl.Series([1, 2, None, 4, 5], dtype=pl.Int8),
        pl.Series([1, 2, None, 4, 5], dtype=pl.Float32),
        pl.Series([1.0, 2, float("nan"), 4, 5]),
        pl.Series([1, 2, None, 4, 5], dtype=pl.Decimal(10, 2)),
        pl.Series(["1", " 2", None, "4e0", "5.0"]),
    ],
    ids=lambda y: str(y.dtype),
)
def test_values_of_any_number_type_arrive_as_float64(y: pl.Series) -> None:
    checked = check_frame(pl.DataFrame({"ds": range(5), "y": y}), TableOptions(), horizon=1)
    np.testing.assert_array_equal(checked.store.values(0), [1, 2, np.nan, 4, 5])
    assert checked.table["y"].to_list() == [1, 2, None, 4, 5]


def berlin(first: datetime, text: str, count: int) -> pl.Series:
    return Freq.parse(text).range(pl.Series([first]).dt.replace_time_zone("Europe/Berlin"), count)


@pytest.mark.parametrize(
    ("times", "freq"),
    [
        (berlin(datetime(2024, 3, 30), "1h", 60), "1h"),
        (berlin(datetime(2024, 10, 26), "1h", 60), "1h"),
        (berlin(datetime(2024, 10, 26), "15m", 200), "15m"),
        (berlin(datetime(2024, 3, 1), "1d", 60), "1d"),
        (berlin(datetime(2024, 10, 1, 6), "1d", 60), "1d"),
        (berlin(datetime(2024, 1, 1), "1mo", 14), "1mo"),
    ],
)
def test_a_clock_change_is_no_gap(times: pl.Series, freq: str) -> None:
    checked = check_frame(pl.DataFrame({"ds": times, "y": np.ones(len(times))}), TableOptions(), horizon=3)
    assert checked.store.freq == Freq(freq)
    assert checked.table["ds"].to_list() == times.to_list()


def test_future_covariates_land_behind_their_series() -> None:
    table = pl.DataFrame(
        {"unique_id": ["b"] * 4 + ["a"] * 3, "ds": [1, 2, 3, 4, 5, 6, 7], "y": np.ones(7), "x": np.ones(7)}
    )
    future = pl.DataFrame({"x": [6, 5, 9, 8, 0], "unique_id": ["b", "b", "a", "a", "a"], "ds": [6, 5, 9, 8, 99]})
    store = check_frame(table, TableOptions(future=("x",)), horizon=2, future=future).store
    assert store.known[:, 0].tolist() == [1, 1, 1, 8, 9, 1, 1, 1, 1, 5, 6]


def test_the_future_of_a_single_series_needs_no_id() -> None:
    table = pl.DataFrame({"ds": Freq("1d").range(date(2024, 1, 1), 5), "y": np.ones(5), "x": np.arange(5)})
    future = pl.DataFrame({"ds": ["2024-01-06", "2024-01-07"], "x": [True, False]})
    store = check_frame(table, TableOptions(future=("x",)), horizon=2, future=future).store
    assert store.known[:, 0].tolist() == [0, 1, 2, 3, 4, 1, 0]


def test_categories_of_fitting_are_those_of_use() -> None:
    def table(*regions: str) -> pl.DataFrame:
        ids = [f"s{i}" for i in range(len(regions)) for _ in range(5)]
        return pl.DataFrame({"unique_id": ids, "ds": [*range(5)] * len(regions), "y": 1.0, "r": np.repeat(regions, 5)})

    fitted = check_frame(table("south", "east", "south"), TableOptions(static=("r",)), horizon=1)
    assert fitted.categories == {"r": ["east", "south"]}
    assert fitted.store.static_names == ("r=east", "r=south")
    assert fitted.store.static.tolist() == [[0, 1], [1, 0], [0, 1]]
    used = check_frame(table("south"), TableOptions(static=("r",)), horizon=4, categories=fitted.categories)
    assert used.store.static.tolist() == [[0, 1]]
    assert used.store.static_names == fitted.store.static_names


def checked(rows: dict[str, Any], **options: Any) -> Checked:
    return check_frame(pl.DataFrame(rows), TableOptions(), horizon=1, **options)


def test_what_was_done_is_noted() -> None:
    assert checked({"ds": [1, 2, 3], "y": [1, 1, 1]}).notes == (
        "no column 'unique_id': all rows are one series, called 'series'",
    )
    sorting = checked({"unique_id": ["a"] * 4, "ds": [1, 3, 2, 4], "y": [1] * 4, "colour": [1] * 4})
    assert sorting.notes == (
        "columns not used: 'colour'",
        "sorted by time (rows that stood below a later one of their series: 1)",
    )
    interleaved = checked({"unique_id": ["b", "a"] * 3, "ds": [1, 1, 2, 2, 3, 3], "y": [1] * 6})
    assert interleaved.notes == ()
    filling = checked({"unique_id": ["a"] * 4, "ds": [1, 2, 3, 6], "y": [1] * 4}, fill_gaps=True)
    assert filling.notes == ("inserted missing rows: 2, in 1 of 1 series; y is missing there",)


def test_the_longest_series_needs_two_rows_more_than_the_horizon() -> None:
    rows = {"unique_id": ["a"] * 4 + ["b"], "ds": [1, 2, 3, 4, 1], "y": [1.0] * 5}
    assert check_frame(pl.DataFrame(rows), TableOptions(), horizon=2).store.lengths.tolist() == [4, 1]
    # a fitted model may forecast from less
    assert check_frame(pl.DataFrame(rows), TableOptions(), horizon=9, categories={}).store.horizon == 9


def test_a_user_s_columns_and_values_are_left_alone() -> None:
    table = pl.DataFrame({"shop": ["b", "a"] * 3, "day": [1, 1, 2, 2, 3, 3], "sold": [1, 2, 3, 4, 5, 6]})
    before = table.clone()
    tidy = check_frame(table, TableOptions(id_col="shop", time_col="day", target_col="sold"), horizon=1).table
    polars.testing.assert_frame_equal(table, before)
    assert tidy.rows() == [("a", 1, 2), ("a", 2, 4), ("a", 3, 6), ("b", 1, 1), ("b", 2, 3), ("b", 3, 5)]
    assert tidy.columns == ["unique_id", "ds", "y"]
