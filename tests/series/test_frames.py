"""Dataframes of every kind in and out: the index, the columns and the types of pandas, and what is no dataframe."""

from __future__ import annotations

import datetime as dt
from decimal import Decimal
from typing import Any
from uuid import UUID

import numpy as np
import pandas as pd
import polars as pl
import polars.testing
import pyarrow as pa
import pytest

from holdfast.errors import DataError
from holdfast.series import Freq, Kind, TableOptions, as_polars, check_table, like, open_table
from holdfast.series.frames import Library

DAYS = pd.date_range("2024-01-01", periods=4)
DATES = [dt.datetime(2024, 1, day) for day in (1, 2, 3, 4)]
Y = [1.0, 2.0, 3.0, 4.0]
TABLE = pl.DataFrame(
    {
        "unique_id": pl.Series(["b", "b", "a"], dtype=pl.Categorical),
        "ds": pl.Series(DATES[:3]).dt.replace_time_zone("Asia/Tokyo"),
        "y": [1.5, None, 3.0],
        "n": [1, 2, 3],
        "s": ["x", "y", None],
    }
)


@pytest.mark.parametrize("library", ["polars", "pandas", "pyarrow"])
def test_a_frame_goes_out_as_it_came_in(library: Library) -> None:
    native = like(TABLE, Kind(library))
    assert type(native).__module__.startswith(library)
    table, kind, notes = as_polars(native)
    assert (kind, notes) == (Kind(library), ())
    polars.testing.assert_frame_equal(table, TABLE, check_dtypes=library == "polars", categorical_as_str=True)
    assert type(like(table, kind)) is type(native)


ARROW = TABLE.select("ds", "y").to_arrow()


@pytest.mark.parametrize(
    ("given", "library"),
    [
        (TABLE.lazy().select("ds", "y"), "polars"),
        ({"ds": TABLE["ds"], "y": TABLE["y"]}, "polars"),
        (ARROW.to_batches()[0], "pyarrow"),
        (ARROW.to_reader(), "pyarrow"),
        (pa.table({"ds": pa.chunked_array([ARROW["ds"].chunk(0)]), "y": ARROW["y"]}), "pyarrow"),
    ],
    ids=["lazy", "dict", "batch", "reader", "chunks"],
)
def test_whatever_holds_columns_is_read(given: Any, library: str) -> None:
    table, kind, _ = as_polars(given)
    assert kind.library == library
    polars.testing.assert_frame_equal(table, TABLE.select("ds", "y"))


@pytest.mark.parametrize("value", [None, [1, 2], np.ones((3, 2)), "sales.csv", pl.Series([1.0]), pa.array([1])])
def test_what_is_no_frame_is_refused(value: Any) -> None:
    with pytest.raises(DataError, match="a pandas or polars dataframe, a pyarrow table") as caught:
        as_polars(value)
    assert type(value).__name__ in caught.value.problems[0].got
    assert "make a dataframe of it" in caught.value.problems[0].fix


@pytest.mark.parametrize(
    "frame",
    [
        pd.DataFrame([[1, 2]], columns=["y", "y"]),
        pd.DataFrame([[1, 2, 3]], columns=["y", "x", "y"]),
        pd.DataFrame([[1, 2]], columns=[7, "7"]).rename(columns={7: "y", "7": "y"}),
        pa.table([[1], [2]], names=["y", "y"]),
    ],
)
def test_a_column_name_twice_is_refused_by_name(frame: Any) -> None:
    with pytest.raises(DataError, match=r"got:      'y' more than once"):
        as_polars(frame)


def test_columns_of_unequal_length_are_refused() -> None:
    with pytest.raises(DataError, match="columns that polars can hold"):
        as_polars({"ds": [1, 2], "y": [1]})


# What of an index becomes which column, and what is noted.
IDS = ["a", "a", "b", "b"]
LEVELS = [IDS, [*DAYS[:2]] * 2]
INDEXES: dict[str, tuple[pd.Index, list[str], tuple[str, ...]]] = {
    "times without a name": (DAYS, ["ds", "y"], ("column 'ds': read from the index",)),
    "times of that name": (DAYS.rename("ds"), ["ds", "y"], ()),
    "times of another name": (DAYS.rename("day"), ["ds", "y"], ("column 'ds': read from the index 'day'",)),
    "dates as objects": (pd.Index([day.date() for day in DAYS]), ["ds", "y"], ("column 'ds': read from the index",)),
    "whole numbers": (pd.Index([7, 8, 9, 10]), ["y"], ()),
    "ids and times without names": (
        pd.MultiIndex.from_arrays(LEVELS),
        ["unique_id", "ds", "y"],
        ("column 'unique_id': read from the index", "column 'ds': read from the index"),
    ),
    "ids and times of those names": (
        pd.MultiIndex.from_arrays(LEVELS, names=["unique_id", "ds"]),
        ["unique_id", "ds", "y"],
        (),
    ),
    "times and ids of other names": (
        pd.MultiIndex.from_arrays(LEVELS[::-1], names=["day", "shop"]),
        ["ds", "unique_id", "y"],
        ("column 'ds': read from the index 'day'", "column 'unique_id': read from the index 'shop'"),
    ),
    "ids and whole numbers": (pd.MultiIndex.from_arrays([IDS, [1, 2, 1, 2]]), ["y"], ()),
    "two levels of times": (pd.MultiIndex.from_arrays([DAYS, DAYS]), ["y"], ()),
}


@pytest.mark.parametrize(("index", "columns", "notes"), INDEXES.values(), ids=INDEXES.keys())
def test_the_index_of_a_pandas_frame(index: pd.Index, columns: list[str], notes: tuple[str, ...]) -> None:
    frame = pd.DataFrame({"y": Y}, index=index)
    before = frame.copy()
    table, _, said = as_polars(frame)
    assert (table.columns, said) == (columns, notes)
    assert table["y"].to_list() == Y
    if "ds" in columns:
        times = table["ds"].cast(pl.Datetime("us")).to_list()
        assert times == (DATES if index.nlevels == 1 else DATES[:2] * 2)
    if "unique_id" in columns:
        assert table["unique_id"].to_list() == IDS
    pd.testing.assert_frame_equal(frame, before)


def test_an_index_does_not_replace_a_column() -> None:
    frame = pd.DataFrame({"ds": DAYS, "y": Y}, index=pd.date_range("1999-01-01", periods=4))
    assert as_polars(frame)[0]["ds"].to_list() == DATES
    assert as_polars(frame.set_index("ds", drop=False))[0].columns == ["ds", "y"]
    assert as_polars(frame.set_index(DAYS.rename("day")), TableOptions(time_col="day"))[0].columns == ["day", "ds", "y"]


def test_levels_of_an_index_are_several_ids() -> None:
    index = pd.MultiIndex.from_product([["a"], [1, 2], DAYS[:2]])
    table, _, notes = as_polars(pd.Series(Y, index), TableOptions(id_col=("store", "item")))
    assert table.columns == ["store", "item", "ds", "y"]
    assert table.select("store", "item").rows() == [("a", 1), ("a", 1), ("a", 2), ("a", 2)]
    assert len(notes) == 3


@pytest.mark.parametrize("name", [None, "sold"])
def test_a_pandas_series_is_the_target(name: str | None) -> None:
    table, kind, _ = as_polars(pd.Series(Y, DAYS, name=name))
    assert table.rows() == list(zip(DATES, Y, strict=True))
    assert (table.columns, kind) == (["ds", "y"], Kind("pandas"))
    numbered = as_polars(pd.Series(Y, name=name), TableOptions(time_col="t", target_col="v"))[0]
    assert numbered.to_dict(as_series=False) == {"t": [0, 1, 2, 3], "v": Y}


# Frequency, first start and the type on the way back, of periods.
PERIODS = {
    "D": ("1d", DATES[0]),
    "h": ("1h", DATES[0]),
    "15min": ("15m", DATES[0]),
    "B": ("1b", DATES[0]),
    "W-SUN": ("1w", DATES[0]),
    "W-WED": ("1w", dt.datetime(2023, 12, 28)),
    "M": ("1mo", DATES[0]),
    "Q-DEC": ("1q", DATES[0]),
    "2Q-DEC": ("2q", DATES[0]),
    "Q-JAN": ("1q", dt.datetime(2023, 11, 1)),
    "Y-DEC": ("1y", DATES[0]),
}


@pytest.mark.parametrize("where", ["index", "column"])
@pytest.mark.parametrize("freq", PERIODS)
@pytest.mark.filterwarnings("ignore:Period with BDay freq is deprecated:FutureWarning")
@pytest.mark.filterwarnings(r"ignore:PeriodDtype\[B\] is deprecated:FutureWarning")
def test_periods_are_read_at_their_start_and_come_back(freq: str, where: str) -> None:
    step, start = PERIODS[freq]
    periods = pd.period_range(pd.Period("2024-01-01", freq), periods=40)
    frame = pd.DataFrame({"y": np.arange(40.0)}, index=periods)
    frame = frame if where == "index" else frame.reset_index(names="ds")
    options = TableOptions(horizon=3)
    table = open_table(frame, options)
    checked = check_table(table, options)
    assert checked.store.freq == Freq(step)
    assert checked.store.starts.cast(pl.Datetime("us")).to_list() == [start]
    ahead = like(checked.store.future_times(), table.kind)
    assert ahead["ds"].tolist() == list(pd.period_range(periods[-1] + periods.freq, periods=3))


def test_a_frequency_that_is_given_is_that_of_periods() -> None:
    options = TableOptions(freq="1w", horizon=2)
    frame = pd.DataFrame({"y": range(8)}, index=pd.period_range("2024-01-01", periods=50, freq="D")[::7])
    assert check_table(open_table(frame, options), options).store.freq == Freq("1w")
    assert Kind("pandas", {"ds": "period[us]"}).freq("ds") is None


TYPES: dict[str, tuple[Any, Any]] = {
    "Int64": (pd.array([1, None], "Int64"), [1, None]),
    "Float64": (pd.array([1.5, None], "Float64"), [1.5, None]),
    "boolean": (pd.array([True, None], "boolean"), [True, None]),
    "string": (pd.array(["a", None], "string"), ["a", None]),
    "arrow": (pd.array([1, None], "int64[pyarrow]"), [1, None]),
    "categories of text": (pd.Categorical(["a", None]), ["a", None]),
    "categories of numbers": (pd.Categorical([2, None]), [2, None]),
    "sparse": (pd.arrays.SparseArray([0.0, 1.0]), [0.0, 1.0]),
    "decimals": ([Decimal("1.10"), None], [Decimal("1.10"), None]),
    "numbers as objects": ([1, 2.5], [1.0, 2.5]),
    "dates": ([dt.date(2024, 1, 1), None], [dt.date(2024, 1, 1), None]),
    "dates and datetimes": (
        [dt.date(2024, 1, 1), dt.datetime(2024, 1, 2, 6)],
        ["2024-01-01", "2024-01-02 06:00:00"],
    ),
    "a word among numbers": ([1.5, "-"], ["1.5", "-"]),
    "numbers beyond 64 bits": ([2**70, None], [str(2**70), None]),
}


@pytest.mark.parametrize(("values", "expected"), TYPES.values(), ids=TYPES.keys())
def test_the_types_of_pandas(values: Any, expected: list[Any]) -> None:
    column = pd.Series(values, dtype=object if isinstance(values, list) else None)
    assert as_polars(pd.DataFrame({"y": column}))[0]["y"].to_list() == expected


@pytest.mark.parametrize(
    ("dtype", "ids"),
    [
        ("Int64", [1, 2]),
        ("int32", [1, 2]),
        ("string", ["a", "b"]),
        ("category", ["a", "b"]),
        ("category", [1, 2]),
        ("int64[pyarrow]", [1, 2]),
        ("period[M]", [pd.Period("2024-01"), pd.Period("2024-02")]),
    ],
)
def test_ids_of_pandas_come_back_in_their_type(dtype: str, ids: list[Any]) -> None:
    frame = pd.DataFrame({"unique_id": pd.Series(ids).astype(dtype), "ds": DAYS[:2].astype("datetime64[s]"), "y": 1.0})
    table, kind, _ = as_polars(frame)
    pd.testing.assert_frame_equal(like(table, kind), frame)


def test_ids_and_times_of_pyarrow_come_back_in_their_type() -> None:
    types = [("unique_id", pa.string()), ("ds", pa.timestamp("s")), ("y", pa.float64())]
    given = pa.table({"unique_id": ["a"], "ds": [DATES[0]], "y": [1.0]}, schema=pa.schema(types))
    table, kind, _ = as_polars(given)
    assert like(table, kind).equals(given)
    assert like(table.rename({"ds": "cutoff"}), kind).schema.field("cutoff").type == pa.timestamp("s")


MIXED: dict[str, tuple[str, list[Any], str, TableOptions]] = {
    "ids": ("unique_id", [1, "b", 1, 1], "'b' (str) in row 1", TableOptions()),
    "one of several ids": (
        "item",
        ["x", "y", None, 7],
        "7 (int) in row 3",
        TableOptions(id_col=("ds", "item"), time_col="t"),
    ),
    "a covariate": ("price", [1.5, 2.5, "-", None], "'-' (str) in row 2", TableOptions(past=("price",))),
    "a static one": ("kind", ["x", "x", 3, "x"], "3 (int) in row 2", TableOptions(static=("kind",))),
    "what is no value": ("unique_id", [object] * 4, "<class 'object'> (type) in row 0", TableOptions()),
}


@pytest.mark.parametrize(("name", "values", "got", "options"), MIXED.values(), ids=MIXED.keys())
def test_a_column_of_several_types_is_refused_by_row_and_value(
    name: str, values: list[Any], got: str, options: TableOptions
) -> None:
    frame = pd.DataFrame({"ds": DAYS, "y": Y, name: pd.Series(values, dtype=object)})
    with pytest.raises(DataError) as caught:
        as_polars(frame, options)
    (problem,) = caught.value.problems
    assert problem.where == f"the table, column '{name}'"
    assert problem.got.startswith(got)
    as_polars(frame.assign(**{name: frame[name].astype(str)}), options)  # what the advice says
    assert as_polars(frame, TableOptions(id_col="y", target_col="v"))[0][name].dtype == pl.String  # of no use: no harm


@pytest.mark.parametrize(
    ("name", "got"),
    [("y", "'-' in row 2"), ("ds", "'-' in row 2")],
)
def test_a_word_among_values_or_times_is_named_by_row(name: str, got: str) -> None:
    frame = pd.DataFrame({"ds": [*DAYS], "y": Y}, dtype=object)
    frame.loc[2, name] = "-"
    with pytest.raises(DataError) as caught:
        check_table(open_table(frame), TableOptions(horizon=1))
    assert [(problem.where, problem.got) for problem in caught.value.problems] == [(f"the table, column '{name}'", got)]


def test_ids_of_bytes_are_refused() -> None:
    frame = pd.DataFrame({"unique_id": [UUID(int=number) for number in range(4)], "ds": DAYS, "y": Y})
    # pyarrow knows UUIDs since version 18, and names the column; before, holdfast names the rows
    with pytest.raises(DataError, match=r"make one text of it|make all of it text"):
        check_table(open_table(frame), TableOptions(horizon=1))


def test_booleans_are_ones_and_zeros() -> None:
    checked = check_table(
        open_table(pd.DataFrame({"ds": DAYS, "y": [True, False, True, True]})), TableOptions(horizon=1)
    )
    assert checked.table["y"].to_list() == [1.0, 0.0, 1.0, 1.0]
    assert "column 'y': true is read as 1, false as 0" in checked.notes


@pytest.mark.parametrize("names", [[0, 1], [("a", "t"), ("a", "y")], [np.int64(3), "y"]])
def test_columns_that_are_not_called_by_text(names: list[Any]) -> None:
    frame = pd.DataFrame(dict(zip(names, (DAYS, Y), strict=True)))
    options = TableOptions(time_col=names[0], target_col=names[1], horizon=1)
    assert options.time_col == str(names[0])
    assert check_table(open_table(frame, options), options).table["y"].to_list() == Y
