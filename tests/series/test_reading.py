"""Tables in and out, whole and unchanged."""

from __future__ import annotations

import gzip
from datetime import date, datetime, timezone
from pathlib import Path
from typing import Any

import polars as pl
import polars.testing
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from holdfast.errors import DataError
from holdfast.series import read_table, write_table


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
