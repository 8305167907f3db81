"""Rows at the end of a table that hold no value of any series: they are the future."""

from __future__ import annotations

from datetime import date, datetime

import numpy as np
import polars as pl
import pytest
from tests.series.small import check

from holdfast.errors import DataError
from holdfast.series import Freq, TableOptions

PROMO = TableOptions(future=("promo",), past=("visits",))


def table(name: str = "a", rows: int = 12, ahead: int = 3, freq: str = "1d") -> pl.DataFrame:
    ds = Freq.parse(freq).range(date(2024, 1, 1), rows)
    y = [float(k) if k < rows - ahead else None for k in range(rows)]
    visits = [k if k < rows - ahead else None for k in range(rows)]
    return pl.DataFrame({"unique_id": name, "ds": ds, "y": y, "promo": np.arange(rows) % 5, "visits": visits})


def test_forecasts_start_at_the_first_row_without_a_value_and_use_its_covariates() -> None:
    checked = check(table(), PROMO, horizon=3)
    store = checked.store
    assert store.future_times()["ds"].to_list() == [date(2024, 1, 10), date(2024, 1, 11), date(2024, 1, 12)]
    assert store.lengths.tolist() == [9]
    assert store.known[:, 0].tolist() == [0, 1, 2, 3, 4, 0, 1, 2, 3, 4, 0, 1]
    assert np.isnan(store.past[9:, 0]).all()
    assert store.past[:9, 0].tolist() == list(range(9))
    assert checked.notes == ("no series has a value from 2024-01-10 on: these rows are the future, 3 for each",)


def test_their_number_is_the_horizon_unless_one_is_given() -> None:
    assert check(table(), PROMO).store.horizon == 3
    shorter = check(table(), PROMO, horizon=2).store
    assert shorter.known[9:, 0].tolist() == [4, 0]
    longer = check(table(), PROMO, horizon=5).store
    np.testing.assert_array_equal(longer.known[9:, 0], [4, 0, 1, np.nan, np.nan])


def test_more_rows_than_the_horizon_with_nothing_in_them_are_an_outage() -> None:
    empty = table(ahead=3).select("unique_id", "ds", "y")
    assert check(empty, horizon=2).store.lengths.tolist() == [12]
    assert check(empty, horizon=3).store.lengths.tolist() == [9]


def test_a_tidy_table_holds_them_and_reads_the_same_again() -> None:
    once = check(table(), PROMO, horizon=3)
    assert once.table.height == 12
    twice = check(once.table, PROMO, horizon=3, freq="1d")
    assert twice.store.lengths.tolist() == [9]
    np.testing.assert_array_equal(once.store.known, twice.store.known)


def test_an_outage_of_one_series_is_not_the_future() -> None:
    out = table("b", ahead=8).with_columns(visits=pl.lit(1.0))
    both = pl.concat([table("a", ahead=0).with_columns(pl.col("visits").cast(pl.Float64)), out])
    store = check(both, TableOptions(), horizon=2).store
    assert store.lengths.tolist() == [12, 12]
    assert store.future_times()["ds"].to_list() == [date(2024, 1, 13), date(2024, 1, 14)] * 2


def test_an_outage_before_the_future_is_kept_apart_from_it() -> None:
    both = pl.concat([table("a", ahead=3), table("b", ahead=6)])
    checked = check(both, TableOptions(), horizon=3)
    assert checked.store.lengths.tolist() == [9, 9]
    assert np.isfinite(checked.store.values(1)).tolist() == [True] * 6 + [False] * 3


def test_a_series_that_ended_and_has_no_future_rows_is_forecast_from_its_end() -> None:
    both = pl.concat([table("a"), table("b", rows=7, ahead=0)])
    checked = check(both, PROMO, horizon=3)
    assert checked.store.lengths.tolist() == [9, 7]
    assert "up to 3 in 1 of 2 series" in checked.notes[-1]
    assert checked.store.known[12:, 0][:7].tolist() == [0, 1, 2, 3, 4, 0, 1]
    assert np.isnan(checked.store.known[12 + 7 :, 0]).all()


def test_a_future_table_goes_before_the_rows_of_the_table() -> None:
    future = pl.DataFrame({"unique_id": "a", "ds": Freq("1d").range(date(2024, 1, 10), 3), "promo": [7, 8, 9]})
    assert check(table(), PROMO, horizon=3, future=future).store.known[9:, 0].tolist() == [7, 8, 9]


def test_a_past_covariate_may_be_missing_before_the_future_and_is_noted_without_its_rows() -> None:
    holed = table().with_columns(visits=pl.when(pl.col("visits") == 4).then(None).otherwise("visits"))
    notes = check(holed, PROMO, horizon=3).notes
    assert "column 'visits': missing in 1 rows, where the network reads its mean" in notes


def test_a_gap_before_the_future_is_reported_or_filled() -> None:
    holed = table().drop("visits", "promo").filter(pl.col("ds") != date(2024, 1, 10))
    with pytest.raises(DataError, match="give --fill-gaps"):
        check(holed, horizon=3)
    assert check(holed, horizon=3, fill_gaps=True).store.lengths.tolist() == [10]


def test_a_series_without_any_value_is_still_refused() -> None:
    empty = table("b").with_columns(y=pl.lit(None, dtype=pl.Float64), visits=pl.lit(0))
    with pytest.raises(DataError, match="no value from series 'b'"):
        check(pl.concat([table().with_columns(visits=pl.lit(0)), empty]), TableOptions(), horizon=3)


def test_rows_of_business_days_with_holidays_keep_the_future_times_of_the_table() -> None:
    days = Freq("1b").range(datetime(2024, 1, 1), 30).gather([*range(10), *range(11, 30)])
    y = [1.0] * 25 + [None] * 4
    frame = pl.DataFrame({"ds": days, "y": y, "promo": range(29)})
    store = check(frame, TableOptions(future=("promo",)), horizon=6, freq="rows").store
    ahead = store.future_times()["ds"]
    assert ahead.to_list() == [*days[25:], datetime(2024, 2, 12), datetime(2024, 2, 13)]
    np.testing.assert_array_equal(store.known[25:, 0], [25, 26, 27, 28, np.nan, np.nan])
