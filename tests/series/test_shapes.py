"""Shapes of tables: ids of several columns, wide tables, and the advice that recognises them."""

from __future__ import annotations

from datetime import date
from typing import Any

import polars as pl
import polars.testing
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from tests.series.small import check

from holdfast.errors import DataError, HoldfastError, OptionError, Problem
from holdfast.series import TableOptions

TWO = TableOptions(id_col=("store", "item"), horizon=2)
WIDE = TableOptions(wide=True, horizon=2)
DAYS = [date(2024, 1, day) for day in range(1, 7)]


def long(*keys: tuple[Any, Any], rows: int = 6) -> pl.DataFrame:
    """Some series of two ids, each with the values 0, 1, 2, ..."""
    return pl.DataFrame(
        [(store, item, day, float(day)) for store, item in keys for day in range(rows)],
        schema=["store", "item", "ds", "y"],
        orient="row",
    )


def problems(frame: pl.DataFrame, options: TableOptions) -> list[Problem]:
    with pytest.raises(DataError) as caught:
        check(frame, options, horizon=2)
    return list(caught.value.problems)


def test_ids_of_several_columns_keep_their_types_and_their_order() -> None:
    frame = long(("b", 10), ("a", 9), ("b", 9)).with_columns(pl.col("item").cast(pl.Int16))
    store = check(frame, TWO).store
    assert store.ids.struct.unnest().rows() == [("a", 9), ("b", 9), ("b", 10)]
    assert store.ids.dtype == pl.Struct({"store": pl.String, "item": pl.Int16})


@settings(max_examples=30, deadline=None)
@given(st.sets(st.tuples(st.text('a,"\\', max_size=3), st.text('a,"\\', max_size=3)), min_size=1, max_size=6))
def test_no_two_keys_look_alike(keys: set[tuple[str, str]]) -> None:
    store = check(long(*keys), TWO).store
    assert store.ids.struct.unnest().rows() == sorted(keys)
    assert store.lengths.tolist() == [6] * len(keys)


def test_categories_sort_by_their_text_whatever_the_type_of_the_other_id() -> None:
    frame = long(("b", 1), ("a", 1)).with_columns(pl.col("store").cast(pl.Categorical))
    assert check(frame, TWO).store.ids.struct.field("store").to_list() == ["a", "b"]


@pytest.mark.parametrize(
    "dtype", [pl.Enum(["b", "a"]), pl.Date, pl.Boolean, pl.Decimal(4, 1), pl.Struct({"x": pl.Int8})]
)
def test_ids_of_any_type_sort_as_they_do_alone(dtype: Any) -> None:
    names = ["b", "a"] if isinstance(dtype, pl.Enum) else [0, 1]
    values = pl.Series([{"x": name} for name in names] if isinstance(dtype, pl.Struct) else names).cast(dtype)
    frame = long((1, 1), (0, 1)).with_columns(store=values.gather([1] * 6 + [0] * 6))
    store = check(frame, TWO).store
    assert store.ids.struct.field("store").to_list() == values.to_list()
    assert store.ids.struct.field("store").dtype == dtype


def test_very_many_columns_make_a_short_message() -> None:
    (problem,) = problems(pl.DataFrame({"ds": DAYS} | {f"s{i}": range(6) for i in range(999)}), TableOptions())
    assert problem.got.endswith(" ... and 980 more")
    assert problem.fix == "give --wide, or name the column with --target-col"


def test_a_series_of_two_ids_reads_naturally_in_errors() -> None:
    frame = long(("a", 1), ("b", 2))
    (gap,) = problems(frame.filter((pl.col("store") == "a") | (pl.col("ds") != 2)), TWO)
    assert "1 after series store 'b', item 2 at 1 (row 7)" in gap.got
    (double,) = problems(pl.concat([frame, frame[:1]]), TWO)
    assert "duplicate rows: series store 'a', item 1 at 0 in row 0 and row 12" in double.got
    (short,) = problems(long(("a", 1), rows=3), TWO)
    assert short.got == "3 rows in the longest, series store 'a', item 1"


def test_what_is_wrong_with_one_of_the_ids_is_told_by_its_name() -> None:
    frame = long(("a", 1), ("b", 2)).with_columns(item=pl.when(pl.col("ds") != 3).then(pl.col("item")))
    (problem,) = problems(frame, TWO)
    assert (problem.where, problem.got) == ("the table, column 'item'", "no id in row 3; row 9")
    (lost,) = problems(frame.drop("item"), TWO)
    assert (lost.where, lost.fix) == ("the table, column 'item'", "name the column with --id-col")


def test_the_future_of_two_ids() -> None:
    frame = long(("a", 1), ("b", 2)).with_columns(price=pl.col("y") * 10)
    future = pl.DataFrame(
        {"item": [2, 2, 1, 1], "store": ["b", "b", "a", "a"], "ds": [7, 6, 6, 7], "price": [4, 3, 1, 2]}
    )
    options = TableOptions(id_col=("store", "item"), horizon=2, future=("price",))
    for ahead in (future, future.cast({"item": pl.Int8})):
        known = check(frame, options, future=ahead).store.known[:, 0].tolist()
        assert (known[6:8], known[14:]) == ([1, 2], [3, 4])
    with pytest.raises(DataError, match="2 steps of series store 'b', item 2 missing, the first at 6"):
        check(frame, options, future=future[2:])
    with pytest.raises(DataError, match="column 'item'"):
        check(frame, options, future=future.drop("item"))
    with pytest.raises(DataError, match="column 'store, item'"):
        check(frame, options, future=future.with_columns(item=pl.format("0{}", "item")))


def wide(**columns: Any) -> pl.DataFrame:
    return pl.DataFrame({"ds": DAYS, **columns})


@pytest.mark.parametrize("rows", [slice(None), slice(None, None, -1)])
def test_a_wide_table_is_the_long_one(rows: slice) -> None:
    frame = wide(b=[1, 2, 3, 4, 5, 6], a=[None, None, 0.5, None, 2.5, None])[rows]
    slow = [(name, day, value) for name in ("b", "a") for day, value in zip(frame["ds"], frame[name], strict=True)]
    tidy = pl.DataFrame(slow, schema=["unique_id", "ds", "y"], orient="row", strict=False)
    got, expected = check(frame, WIDE), check(tidy, TableOptions(horizon=2))
    polars.testing.assert_frame_equal(got.table, expected.table)
    assert got.store.lengths.tolist() == [6, 6]
    assert got.notes == expected.notes


def test_the_columns_of_a_wide_table_may_have_any_names() -> None:
    frame = pl.DataFrame({"day": DAYS, "y": [1.0] * 6, "unique_id": [2.0] * 6})
    options = TableOptions(wide=True, time_col="day", id_col="shop", target_col="sold", horizon=2)
    assert check(frame, options).table["unique_id"].unique().sort().to_list() == ["unique_id", "y"]


def test_problems_of_a_wide_table_name_its_rows_and_columns() -> None:
    text, infinite = problems(wide(a=["1", "2", "3", "-", "5", "6"], b=[1.0, 2, 3, 4, float("inf"), 6]), WIDE)
    assert (text.where, text.got) == ("the table, column 'a'", "'-' in row 3")
    assert (infinite.where, infinite.got) == ("the table, column 'b'", "inf in row 4")
    (empty,) = problems(wide(a=range(6), b=[None] * 6), WIDE)
    assert empty.got == "no value from series 'b' at 2024-01-01 (row 0) on"
    (gap,) = problems(wide(a=range(6), b=range(6)).filter(pl.col("ds") != DAYS[3]), WIDE)
    assert "series 'a' at 2024-01-03 (row 2); 1 after series 'b' at 2024-01-03 (row 2)" in gap.got
    with pytest.raises(DataError, match=r"wide.csv, column 'a'\n.*\n.*'-' in line 5"):
        check(wide(a=["1", "2", "3", "-", "5", "6"]), WIDE, source="wide.csv")
    (none,) = problems(wide(), WIDE)
    assert none.got == "nothing but the column 'ds'"
    (time,) = problems(wide(a=range(6)).rename({"ds": "a day"}), WIDE)
    assert (time.where, time.fix) == ("the table, column 'ds'", "give --time-col 'a day'")


@pytest.mark.parametrize(
    ("options", "got"),
    [({"past": ("price",)}, "price"), ({"static": ("kind",)}, "kind"), ({"id_col": ("a", "b")}, "a, b")],
)
def test_what_a_wide_table_has_no_place_for_is_refused(options: dict[str, Any], got: str) -> None:
    with pytest.raises(OptionError, match="option wide") as caught:
        TableOptions(wide=True, **options)
    assert caught.value.problems[0].got.strip("'") == got


# Advice: the table, its options, and what is to be done; each is followed below.
SHOPS = pl.concat([wide(y=range(6)).with_columns(shop=pl.lit(shop)) for shop in "ab"])
PARTS = pl.concat([SHOPS.with_columns(item=pl.lit(item, pl.Int64)) for item in (7, 8)])
ADVICE: dict[str, tuple[pl.DataFrame, TableOptions, str]] = {
    "wide": (wide(a=range(6), b=range(6)), TableOptions(), "give --wide"),
    "wide, and the times called otherwise": (
        wide(a=range(6), b=range(6)).rename({"ds": "Date"}),
        TableOptions(),
        "give --wide --time-col Date",
    ),
    "long, said to be wide": (SHOPS, TableOptions(wide=True, id_col="shop"), "leave --wide out"),
    "all called otherwise": (
        SHOPS.rename({"ds": "Sales day", "y": "sold"}),
        TableOptions(id_col="Shop"),
        "give --id-col shop --time-col 'Sales day' --target-col sold",
    ),
    "an id that was not named": (SHOPS, TableOptions(), "give --id-col shop, or keep one row for each time"),
    "two ids that were not named": (PARTS, TableOptions(), "give --id-col shop,item, or keep one row for each time"),
    "one id of two": (PARTS, TableOptions(id_col="item"), "give --id-col item,shop, or keep one row for each time"),
    "either of two": (
        SHOPS.with_columns(pl.col("shop").alias("place")),
        TableOptions(),
        "give --id-col shop, or give --id-col place, or keep one row for each time",
    ),
    "one id of two called otherwise": (PARTS, TableOptions(id_col=("shop", "itme")), "give --id-col shop,item"),
    "covariates": (
        SHOPS.with_columns(Price=1.0),
        TableOptions(id_col="shop", past=("prices",)),
        "give --past Price",
    ),
}


@pytest.mark.parametrize(("frame", "options", "fix"), ADVICE.values(), ids=ADVICE.keys())
def test_advice_that_was_tried(frame: pl.DataFrame, options: TableOptions, fix: str) -> None:
    assert problems(frame, options)[0].fix.startswith(fix)


UNHELPFUL = {
    "a covariate that is spelt like the id": (
        SHOPS,
        TableOptions(id_col="shop", static=("shops",)),
    ),
    "ids that leave rows twice": (pl.concat([SHOPS, SHOPS]), TableOptions()),
    "ids that are a row each": (
        wide(y=range(6)).with_columns(ds=pl.lit(1), note=pl.Series(list("abcdef"))),
        TableOptions(),
    ),
    "wide, with words": (wide(a=list("abcdef"), b=range(6), c=range(6)), TableOptions()),
    "no column of times": (pl.DataFrame({"a": list("abcd"), "b": list("efgh")}), TableOptions()),
}


@pytest.mark.parametrize(("frame", "options"), UNHELPFUL.values(), ids=UNHELPFUL.keys())
def test_advice_that_would_not_help_is_not_given(frame: pl.DataFrame, options: TableOptions) -> None:
    for problem in problems(frame, options):
        assert "give --" not in problem.fix.replace("give the frequency, for instance --freq 1d", "")


def test_a_name_is_corrected_even_if_something_else_is_wrong() -> None:
    frame = SHOPS.filter(pl.col("shop") == "a", pl.col("ds") != DAYS[2]).rename({"ds": "Date"})
    assert [problem.fix for problem in problems(frame, TableOptions())] == ["give --time-col Date"]
    (gap,) = problems(frame, TableOptions(time_col="Date"))
    assert "--fill-gaps" in gap.fix


@pytest.mark.parametrize("name", ["cutoff", "holdfast", "seasonal_naive", "metric"])
@pytest.mark.parametrize("option", ["id_col", "time_col", "target_col"])
def test_keys_cannot_have_the_names_of_other_columns_of_the_output(option: str, name: str) -> None:
    with pytest.raises(HoldfastError, match="names that output does not use"):
        TableOptions(**{option: name})
