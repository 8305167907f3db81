"""Tables in and out, whole and unchanged."""

from __future__ import annotations

import gzip
from datetime import date, datetime, timezone
from decimal import Decimal
from pathlib import Path
from typing import Any

import pandas as pd
import polars as pl
import polars.testing
import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from holdfast.errors import DataError
from holdfast.series import Kind, as_polars, like, read_table, write_table


def read(tmp_path: Path, text: str) -> pl.DataFrame:
    (tmp_path / "table.csv").write_bytes(text.encode())
    return read_table(tmp_path / "table.csv")


@pytest.mark.parametrize(
    ("fields", "values"),
    [
        (["1", "-2", ""], [1, -2, None]),
        (["007", "008", "1"], ["007", "008", "1"]),
        (["1.5", "2", "-.5e3"], [1.5, 2.0, -500.0]),
        (["1", "99999999999999999999", "3"], ["1", "99999999999999999999", "3"]),
        (["1", "n/a", "3"], ["1", "n/a", "3"]),
        (["true", "False", ""], [True, False, None]),
        (["2024-01-31", "2024-02-29", ""], [date(2024, 1, 31), date(2024, 2, 29), None]),
        (["2024-01", "2024-02", "2024-03"], [date(2024, 1, 1), date(2024, 2, 1), date(2024, 3, 1)]),
        (["2024-01-31", "2024-01-31 01:00", "2024-01-31T02:00:00.5"],
         [datetime(2024, 1, 31), datetime(2024, 1, 31, 1), datetime(2024, 1, 31, 2, 0, 0, 500_000)]),
        (["2024-01-31T01:00:00Z", "2024-01-31 02:00:00+01:00", "2024-01-31 00:00-02:00"],
         [datetime(2024, 1, 31, hour, tzinfo=timezone.utc) for hour in (1, 1, 2)]),
        (["2024-01-31", "2024-02-30", "2024-02-01"], ["2024-01-31", "2024-02-30", "2024-02-01"]),
        (["", "", ""], [None, None, None]),
    ],
)  # fmt: skip
def test_a_csv_column_becomes_what_all_its_values_are(tmp_path: Path, fields: list[str], values: list[Any]) -> None:
    text = "id,x\n" + "".join(f"{row},{field}\n" for row, field in enumerate(fields))
    assert read(tmp_path, text)["x"].to_list() == values


@pytest.mark.parametrize(
    "text", ["a,b\n1,x\n2,y", "a,b\r\n1,x\r\n2,y\r\n", "\ufeffa,b\n1,x\n2,y\n\n\n", 'a,"b"\n1,x\n2,"y"\n']
)
def test_line_ends_quotes_and_byte_order_marks_do_not_matter(tmp_path: Path, text: str) -> None:
    assert read(tmp_path, text).to_dict(as_series=False) == {"a": [1, 2], "b": ["x", "y"]}


def test_commas_and_line_ends_in_quotes_are_no_ragged_lines(tmp_path: Path) -> None:
    table = read(tmp_path, 'id,y\n"Smith, John",1\n"two\nlines",2\nplain,3\n')
    assert table.rows() == [("Smith, John", 1), ("two\nlines", 2), ("plain", 3)]


def test_a_gzipped_file_reads_like_the_plain_one(tmp_path: Path) -> None:
    text = "unique_id,ds,y\nA,2024-01-01,1.5\n"
    (tmp_path / "table.csv.gz").write_bytes(gzip.compress(text.encode()))
    polars.testing.assert_frame_equal(read_table(tmp_path / "table.csv.gz"), read(tmp_path, text))


FRAMES = st.fixed_dictionaries(
    {
        "unique_id": st.lists(st.text("abc ,\"'é", min_size=1).map(lambda text: "i" + text), min_size=3, max_size=3),
        "ds": st.lists(st.datetimes(datetime(1900, 1, 1), datetime(2100, 1, 1)), min_size=3, max_size=3),
        "y": st.lists(st.floats(allow_nan=False, allow_infinity=False), min_size=3, max_size=3),
        "n": st.lists(st.integers(-(2**63), 2**63 - 1), min_size=3, max_size=3),
    }
)


@settings(max_examples=50, deadline=None)
@given(columns=FRAMES, ending=st.sampled_from([".csv", ".parquet"]))
def test_what_is_written_is_read_back(tmp_path_factory: pytest.TempPathFactory, columns: Any, ending: str) -> None:
    frame = pl.DataFrame(columns, schema_overrides={"ds": pl.Datetime("us")})
    path = tmp_path_factory.mktemp("round") / f"table{ending}"
    write_table(frame, path)
    polars.testing.assert_frame_equal(read_table(path), frame, check_exact=True)


def test_a_write_that_fails_leaves_the_old_file_and_nothing_else(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "forecast.csv"
    path.write_text("old")

    def full_disk(frame: pl.DataFrame, target: Path) -> None:
        target.write_text("half")
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(pl.DataFrame, "write_csv", full_disk)
    with pytest.raises(DataError, match="No space left"):
        write_table(pl.DataFrame({"y": [1]}), path)
    assert [(entry.name, entry.read_text()) for entry in tmp_path.iterdir()] == [("forecast.csv", "old")]


@pytest.mark.parametrize(("name", "got"), [("forecast.txt", "forecast.txt"), ("no/such/forecast.csv", "No such file")])
def test_a_place_that_cannot_be_written_is_refused(tmp_path: Path, name: str, got: str) -> None:
    with pytest.raises(DataError) as caught:
        write_table(pl.DataFrame({"y": [1]}), tmp_path / name)
    assert got in caught.value.problems[0].got


TABLE = pl.DataFrame(
    {
        "unique_id": pl.Series(["b", "b", "a"], dtype=pl.Categorical),
        "ds": pl.Series([datetime(2024, 1, 1), datetime(2024, 1, 2), datetime(2024, 1, 3)]).dt.replace_time_zone(
            "Asia/Tokyo"
        ),
        "y": [1.5, None, 3.0],
        "n": [1, 2, 3],
        "s": ["x", "y", None],
    }
)


@pytest.mark.parametrize("kind", ["polars", "pandas", "pyarrow"])
def test_a_frame_goes_out_as_it_came_in(kind: Kind) -> None:
    native = like(TABLE, kind)
    assert type(native).__module__.startswith(kind)
    table, came_as = as_polars(native)
    assert came_as == kind
    polars.testing.assert_frame_equal(table, TABLE, check_dtypes=kind == "polars", categorical_as_str=True)
    assert type(like(table, came_as)) is type(native)


def test_a_lazy_frame_is_collected() -> None:
    table, kind = as_polars(TABLE.lazy())
    assert kind == "polars"
    polars.testing.assert_frame_equal(table, TABLE)


def test_a_named_pandas_index_becomes_columns_and_an_unnamed_one_does_not() -> None:
    frame = pd.DataFrame({"unique_id": ["a", "a"], "ds": [1, 2], "y": [3.0, 4.0]})
    assert as_polars(frame.set_index(["unique_id", "ds"]))[0].rows() == [("a", 1, 3.0), ("a", 2, 4.0)]
    assert as_polars(frame.set_index("ds", drop=False))[0].columns == ["unique_id", "ds", "y"]
    assert as_polars(frame.set_index(pd.Index([7, 8])))[0].columns == ["unique_id", "ds", "y"]


@pytest.mark.parametrize("value", [None, [1, 2], {"y": [1]}, "sales.csv", pd.Series([1.0]), pa.array([1])])
def test_what_is_no_frame_is_refused(value: Any) -> None:
    with pytest.raises(DataError, match="a pandas or polars dataframe or a pyarrow table"):
        as_polars(value)


@pytest.mark.parametrize("column", [["a", 1, 2.5], pd.period_range("2024-01", periods=3, freq="D")])
def test_columns_without_one_type_and_periods_are_refused(column: Any) -> None:
    with pytest.raises(DataError) as caught:
        as_polars(pd.DataFrame({"x": pd.Series(column)}))
    assert "one type: numbers" in caught.value.problems[0].fix


def test_a_column_name_twice_is_refused() -> None:
    with pytest.raises(DataError, match="its own name"):
        as_polars(pd.DataFrame([[1, 2]], columns=["y", "y"]))


def test_decimals_arrive_as_numbers() -> None:
    table, _ = as_polars(pd.DataFrame({"y": [Decimal("1.10"), Decimal("2.25")]}))
    assert table["y"].dtype.is_numeric()
