"""Covariates as numbers: categories, those that are new, and gaps in what is known up to now."""

from __future__ import annotations

from typing import Any

import numpy as np
import polars as pl
import pytest
from tests.series.small import check

from holdfast.errors import DataError
from holdfast.series import TableOptions

NAMES = ["Thu", "Fri", "Sat", "Thu", "Fri", "Sat"]


def table(**columns: Any) -> pl.DataFrame:
    return pl.DataFrame({"ds": range(6), "y": np.ones(6), **columns})


@pytest.mark.parametrize("dtype", [pl.String, pl.Categorical, pl.Enum(["Thu", "Fri", "Sat"])])
@pytest.mark.parametrize("kind", ["future", "past"])
def test_text_becomes_a_column_for_each_of_its_values(kind: str, dtype: Any) -> None:
    options = TableOptions(**{kind: ("day", "price")}, horizon=1)
    checked = check(table(day=pl.Series(NAMES).cast(dtype), price=[1.5, 2, 3, 4, 5, 6]), options)
    store = checked.store
    names, rows = (store.known_names, store.known) if kind == "future" else (store.past_names, store.past)
    assert names == ("day=Fri", "day=Sat", "day=Thu", "price")
    slow = [[float(name == word) for word in ("Fri", "Sat", "Thu")] for name in NAMES]
    assert rows[:6, :3].tolist() == slow
    assert rows[:6, 3].tolist() == [1.5, 2, 3, 4, 5, 6]
    assert np.isnan(rows[6]).all()
    assert checked.categories == {"day": ["Fri", "Sat", "Thu"]}
    assert store.future_size == (4 if kind == "future" else 0)


def test_text_of_the_future_is_coded_as_in_the_fit() -> None:
    options = TableOptions(future=("day",), horizon=2)
    fitted = check(table(day=NAMES), options)
    ahead = pl.DataFrame({"ds": [6, 7], "day": ["Thu", "Sun"]})
    used = check(table(day=["Thu"] * 6), options, future=ahead, categories=fitted.categories)
    assert used.store.known_names == fitted.store.known_names
    assert used.store.known[5:].tolist() == [[0, 0, 1], [0, 0, 1], [0, 0, 0]]
    assert "column 'day': 'Sun' did not occur in the fit, and is read as no category" in used.notes


def test_a_new_category_is_no_category_and_is_noted() -> None:
    options = TableOptions(static=("kind",), horizon=1)
    known = {"kind": ["new", "old"]}
    frame = pl.concat([table(unique_id="a", kind="old"), table(unique_id="b", kind="used")], how="diagonal")
    checked = check(frame, options, categories=known)
    assert checked.store.static.tolist() == [[0, 1], [0, 0]]
    assert checked.notes == ("column 'kind': 'used' did not occur in the fit, and is read as no category",)
    assert check(frame[:6], options, categories=known).notes == ()


def test_categories_that_are_whole_numbers_this_time() -> None:
    options = TableOptions(static=("kind",), horizon=1)
    fitted = check(table(kind="7"), options)
    assert (fitted.categories, fitted.store.static_names) == ({"kind": ["7"]}, ("kind=7",))
    assert check(table(kind=7), options, categories=fitted.categories).store.static.tolist() == [[1]]


def test_numerals_in_text_are_numbers() -> None:
    store = check(table(price=["1", " 2.5", "3", "4", "5", "6"]), TableOptions(future=("price",), horizon=1)).store
    assert store.known[:6].ravel().tolist() == [1, 2.5, 3, 4, 5, 6]


@pytest.mark.parametrize("lost", [None, float("nan")])
def test_a_gap_in_a_past_covariate_is_missing_and_noted(lost: Any) -> None:
    options = TableOptions(past=("price",), horizon=1)
    checked = check(table(price=[1.0, lost, 3, 4, lost, 6]), options)
    np.testing.assert_array_equal(checked.store.past.ravel(), [1, np.nan, 3, 4, np.nan, 6, np.nan])
    assert "column 'price': missing in 2 rows, where the network reads its mean" in checked.notes
    again = check(checked.table.rename({}), options, categories=checked.categories)
    np.testing.assert_array_equal(again.store.past, checked.store.past)
    with pytest.raises(DataError, match="a finite number in every row"):
        check(table(price=[1.0, lost, 3, 4, lost, 6]), TableOptions(future=("price",), horizon=1))


def test_a_gap_in_a_past_covariate_of_text() -> None:
    checked = check(table(day=["Thu", None, *NAMES[2:]]), TableOptions(past=("day",), horizon=1))
    assert np.isnan(checked.store.past[1]).all()
    assert "column 'day': missing in 1 rows, where the network reads its mean" in checked.notes


def test_rows_that_are_inserted_have_no_past_covariates() -> None:
    frame = table(price=[1.0, 2, 3, 4, 5, 6]).filter(pl.col("ds") != 2)
    store = check(frame, TableOptions(past=("price",), fill_gaps=True, horizon=1)).store
    np.testing.assert_array_equal(store.past[:6].ravel(), [1, 2, np.nan, 4, 5, 6])
    with pytest.raises(DataError, match="which cannot be invented"):
        check(frame, TableOptions(future=("price",), fill_gaps=True, horizon=1))
