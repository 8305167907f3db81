"""Bad tables and what is said about them: one row per case, the words that must be in each part of the message.

Every case is a CSV file as a person would write it. `where` names the file and the column, rows are lines of the file.
"""

# ruff: noqa: E501 - a case reads best on few lines

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import datetime
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
import pytest
from tests.series.small import check as check_frame

from holdfast.errors import DataError
from holdfast.series import Freq, TableOptions, read_table


@dataclass(frozen=True)
class Case:
    """A table, how it is checked, and the words of the one problem that it has."""

    csv: str
    where: str
    expected: str
    got: str
    fix: str
    columns: TableOptions = field(default_factory=TableOptions)
    options: Mapping[str, Any] = field(default_factory=dict)


def days(*days_of_january: int, series: str = "A", y: str = "1") -> str:
    return "".join(f"{series},2024-01-{day:02d},{y}\n" for day in days_of_january)


def hours(zone: str, first: datetime, count: int = 48) -> str:
    """Hourly rows of one series on the local clock, without saying so."""
    utc = Freq("1h").range(first, count).dt.replace_time_zone("UTC")
    local = utc.dt.convert_time_zone(zone).dt.strftime("%Y-%m-%d %H:%M")
    return "".join(f"A,{moment},1\n" for moment in local)


HEAD = "unique_id,ds,y\n"
WEEK = days(1, 2, 3, 4, 5, 6, 7)
ISO = "ISO dates"
ONE_ROW = "one row for each series and time"
CLOCK = "local time without a zone"

CASES = {
    # columns
    "value column has another name": Case(
        WEEK.join(["unique_id,ds,value\n", ""]), "column 'y'", "a column 'y'", "'value'", "give --target-col value"
    ),
    "time column has another name": Case(
        "unique_id,Date,y\n" + WEEK, "column 'ds'", "a column 'ds'", "'Date'", "give --time-col Date"
    ),
    "a named id column is missing": Case(
        "shop,ds,y\n" + WEEK, "column 'shp'", "a column 'shp'", "'shop'", "--id-col shop", TableOptions(id_col="shp")
    ),
    "a covariate is misspelt": Case(
        "unique_id,ds,y,price\nA,1,1,1\nA,2,1,1\nA,3,1,1\nA,4,1,1\n",
        "column 'prise'", "a column 'prise'", "no such column", "give --future price", TableOptions(future=("prise",)),
    ),
    "a covariate has the name of an output column": Case(
        "unique_id,ds,sales,y\nA,1,1,1\nA,2,1,1\nA,3,1,1\nA,4,1,1\n",
        "column 'y'", "a name that output does not use", "'y'", "rename", TableOptions(target_col="sales", past=("y",)),
    ),
    "only a header": Case(HEAD, "", "at least one row", "no rows", "check how the table was made"),
    # values
    "text among the values": Case(
        HEAD + days(1, 2) + days(3, y="n/a") + days(4, 5) + days(6, y="-"),
        "column 'y'", "numbers", "'n/a' in line 4; '-' in line 7", "leave the field empty",
    ),
    "text among the values, many times": Case(
        HEAD + days(*range(1, 20), y="n/a") + days(20), "column 'y'", "numbers", "... and 14 more", "write a number"
    ),
    "an infinite value": Case(
        HEAD + days(1, 2, 3) + days(4, y="-inf"), "column 'y'", "finite", "-inf in line 5", "true value"
    ),
    "a series without any value": Case(
        HEAD + WEEK + days(1, 2, series="B", y=""), "values", "at least one value", "series 'B'", "remove"
    ),
    # ids
    "a row without an id": Case(
        HEAD + WEEK + days(8, series=""), "column 'unique_id'", "the key of a series", "no id in line 9", "fill in"
    ),
    # times
    "a time that cannot be read": Case(
        HEAD + WEEK + "A,8.1.2024,1\n", "column 'ds'", ISO, "'8.1.2024' in line 9", "write the times like this"
    ),
    "dates that two countries read differently": Case(
        HEAD + "A,01/02/2024,1\nA,02/02/2024,1\nA,03/02/2024,1\n", "column 'ds'", "one way",
        "'01/02/2024' in line 2: 2024-02-01 (read as %d/%m/%Y) or 2024-01-02 (read as %m/%d/%Y)",
        '--date-format "%d/%m/%Y" or --date-format "%m/%d/%Y"'
    ),
    "a row without a time": Case(HEAD + WEEK + "A,,1\n", "column 'ds'", ISO, "nothing in line 9", "remove these rows"),
    "times are fractions": Case(
        HEAD + "A,1.5,1\nA,2.5,1\nA,3.5,1\nA,4.5,1\n", "column 'ds'", ISO, "Float64", "whole numbers"
    ),
    # duplicates
    "the same row twice": Case(
        HEAD + WEEK + days(3), "times", ONE_ROW, "duplicate rows: series 'A' at 2024-01-03 in line 4 and line 9", "keep one row"
    ),
    "several series without an id column": Case(
        "ds,y\n2024-01-01,1\n2024-01-02,1\n2024-01-03,1\n2024-01-04,1\n2024-01-01,2\n2024-01-02,2\n2024-01-03,2\n",
        "times", ONE_ROW, "duplicate rows", "--id-col",
    ),
    "an hour that the clock shows twice in autumn": Case(
        HEAD + hours("Europe/Berlin", datetime(2024, 10, 26, 12)),
        "times", ONE_ROW, "2024-10-27 02:00:00 in line 14 and line 15", CLOCK,
    ),
    # gaps
    "a missing day": Case(
        HEAD + days(1, 2, 3, 6, 7, 8), "times", "one row every 1d",
        "missing rows: 2, in 1 of 1 series: 2 after series 'A' at 2024-01-03 (line 4)", "--fill-gaps",
    ),
    "a missing day in one of two series, rows not sorted": Case(
        HEAD + days(8, 7, 6, 3, 2, 1) + days(1, 2, 3, 4, 5, series="B"), "times", "one row every 1d",
        "in 1 of 2 series: 2 after series 'A' at 2024-01-03 (line 5)", "--fill-gaps",
    ),
    "an hour that the clock skips in spring": Case(
        HEAD + hours("America/New_York", datetime(2024, 3, 10)),
        "times", "one row every 1h", "1 after series 'A' at 2024-03-10 01:00:00 (line 8)", CLOCK,
    ),
    "a gap where covariates would have to be invented": Case(
        "unique_id,ds,y,price\nA,1,1,1\nA,2,1,1\nA,3,1,1\nA,5,1,1\n", "times", "one row every 1", "1 after series 'A' at 3",
        "covariates ('price'), which cannot be invented", TableOptions(future=("price",)), {"fill_gaps": True},
    ),
    "a typing error of 200 years": Case(
        HEAD + WEEK + "A,2204-01-08,1\n", "times", "one row every 1d", "at 2024-01-07 (line 8)",
        "more than a hundred times as many", options={"fill_gaps": True},
    ),
    # frequency
    "a row between the rows": Case(
        HEAD + "A,2024-01-01 00:00,1\nA,2024-01-01 01:00,1\nA,2024-01-01 01:30,1\nA,2024-01-01 02:00,1\n"
        "A,2024-01-01 03:00,1\nA,2024-01-01 04:00,1\nA,2024-01-01 05:00,1\n",
        "times", "step by 1h", "off the grid: series 'A' at 2024-01-01 01:30:00 (line 4)", "correct these times",
    ),
    "a weekly series among daily ones": Case(
        HEAD + WEEK + days(1, 8, 15, 22, series="B"), "times", "one frequency in all series, 1d",
        "1w from series 'B' at 2024-01-01 (line 9) on", "each frequency by itself",
    ),
    "a monthly series among daily ones": Case(
        HEAD + days(*range(1, 31)) + "B,2024-01-01,1\nB,2024-02-01,1\nB,2024-03-01,1\nB,2024-04-01,1\n",
        "times", "one frequency in all series, 1d", "1mo from series 'B' at 2024-01-01 (line 32) on", "each frequency",
    ),
    "a daily series among hourly ones, gaps to be filled": Case(
        HEAD + hours("UTC", datetime(2024, 1, 1)) + "".join(f"B,2024-01-{day:02d} 00:00,1\n" for day in range(1, 15)),
        "times", "one frequency in all series, 1h", "1d from series 'B' at 2024-01-01 00:00:00 (line 50) on", "each frequency",
        options={"fill_gaps": True},
    ),
    "no rhythm at all": Case(
        HEAD + days(1, 2, 5, 11, 13, 20, 28), "times", "one step", "irregular steps", "--freq"
    ),
    "one row": Case(HEAD + days(1), "times", "a frequency", "no series with two different times", "--freq"),
    "hours asked of dates": Case(
        HEAD + WEEK, "times", "datetimes that step by 1h", "dates without a time of day", "leave --freq out",
        options={"freq": "1h"},
    ),
    "days asked of whole numbers": Case(
        HEAD + "A,1,1\nA,2,1\nA,3,1\nA,4,1\n", "times", "times that step by 1d", "whole numbers", "leave --freq out",
        options={"freq": "1d"},
    ),
    # length
    "horizon as long as the data": Case(
        HEAD + WEEK, "length of series", "more than 7 rows", "7 rows in the longest, series 'A'", "--horizon 5 or less",
        options={"horizon": 6},
    ),
    # covariates
    "a future covariate with a hole": Case(
        "unique_id,ds,y,price\nA,1,1,1\nA,2,1,\nA,3,1,1\nA,4,1,1\n",
        "column 'price'", "a finite number in every row", "nothing in line 3", "fill it in", TableOptions(future=("price",)),
    ),
    "an infinite past covariate": Case(
        "unique_id,ds,y,price\nA,1,1,1\nA,2,1,inf\nA,3,1,1\nA,4,1,1\n",
        "column 'price'", "a finite number in every row", "inf in line 3", "fill it in", TableOptions(past=("price",)),
    ),
    "a past covariate without any value": Case(
        "unique_id,ds,y,price\nA,1,1,\nA,2,1,\nA,3,1,\nA,4,1,\n",
        "column 'price'", "at least one value", "nothing in any row", "leave the covariate out", TableOptions(past=("price",)),
    ),
    "a word among the numbers of a covariate": Case(
        "unique_id,ds,y,price\nA,1,1,1\nA,2,1,-\nA,3,1,1\nA,4,1,1\n",
        "column 'price'", "numbers in all rows, or words in all rows", "'-' in line 3", "write a number", TableOptions(future=("price",)),
    ),
    "a future covariate of text with a hole": Case(
        "unique_id,ds,y,day\nA,1,1,mon\nA,2,1,\nA,3,1,wed\nA,4,1,thu\n",
        "column 'day'", "a value in every row", "no value in line 3", "'unknown'", TableOptions(future=("day",)),
    ),
    "a covariate of a text per row": Case(
        "unique_id,ds,y,note\n" + "".join(f"A,{i},1,note {i}\n" for i in range(101)),
        "column 'note'", "at most 100 different texts", "101 of them", "group its values", TableOptions(past=("note",)),
    ),
    "a past covariate of dates": Case(
        "unique_id,ds,y,day\nA,1,1,2024-01-01\nA,2,1,2024-01-02\nA,3,1,2024-01-03\nA,4,1,2024-01-03\n",
        "column 'day'", "numbers, text or booleans", "Date", "code it as numbers or text", TableOptions(past=("day",)),
    ),
    "a static covariate that changes": Case(
        "unique_id,ds,y,region\nA,1,1,north\nA,2,1,north\nA,3,1,south\nA,4,1,north\n",
        "column 'region'", "one value within each series", "'south' of series 'A' at 3 (line 4)", "--future or --past",
        TableOptions(static=("region",)),
    ),
    "a static covariate with a hole": Case(
        "unique_id,ds,y,region\nA,1,1,north\nA,2,1,\nA,3,1,north\nA,4,1,north\n",
        "column 'region'", "a value in every row", "no value in line 3", "'unknown'", TableOptions(static=("region",)),
    ),
    "text where the fit had numbers": Case(
        "unique_id,ds,y,size\nA,1,1,big\nA,2,1,big\nA,3,1,big\nA,4,1,big\n",
        "column 'size'", "numbers, as in fitting", "'big'", "fit again", TableOptions(static=("size",)), {"categories": {}},
    ),
}  # fmt: skip


def check(case: Case, folder: Path) -> DataError:
    path = folder / "sales.csv"
    path.write_text(case.csv)
    with pytest.raises(DataError) as caught:
        check_frame(read_table(path), case.columns, source=path.name, **{"horizon": 2, **case.options})
    return caught.value


@pytest.mark.parametrize("case", CASES.values(), ids=CASES.keys())
def test_the_one_problem_of_a_table_is_told_in_four_parts(case: Case, tmp_path: Path) -> None:
    (problem,) = check(case, tmp_path).problems
    assert problem.where.startswith("sales.csv")
    for part in ("where", "expected", "got", "fix"):
        assert getattr(case, part) in getattr(problem, part), part


def test_all_problems_are_told_at_once(tmp_path: Path) -> None:
    csv = "unique_id,ds,y,price,region\nA,1,n/a,1,n\nA,2,1,inf,n\n,3,1,1,n\nA,oops,1,1,s\nB,4,inf,1,s\nB,4,1,1,s\nB,5,1,1,s\nB,6,1,1,s\nB,7,1,1,s\n"
    case = Case(csv, "", "", "", "", TableOptions(past=("price", "missing"), static=("region",)))
    told = [(problem.where.removeprefix("sales.csv, "), problem.got) for problem in check(case, tmp_path).problems]
    assert [where for where, _ in told] == [
        "column 'missing'", "column 'unique_id'", "column 'ds'", "column 'y'", "column 'y'", "column 'price'", "times",
    ]  # fmt: skip
    assert "in line 6 and line 7" in told[-1][1]


def test_a_hundred_thousand_bad_rows_make_a_short_message() -> None:
    table = pl.DataFrame({"ds": np.arange(100_000), "y": ["n/a"] * 100_000})
    with pytest.raises(DataError) as caught:
        check_frame(table, TableOptions(), horizon=2)
    assert "... and 99995 more" in str(caught.value)
    assert len(str(caught.value)) < 500


# The table of the future: 3 daily rows of A and B, horizon 2, covariate "price".
FUTURE = {
    "no such column": ("unique_id,ds\nA,2024-01-04\n", "column 'price'", "a column 'price'", "no such column", "add it"),
    "no id column": ("ds,price\n2024-01-04,1\n", "column 'unique_id'", "a column 'unique_id'", "no such column", "add it"),
    "a series is missing": (
        "unique_id,ds,price\nA,2024-01-04,1\nA,2024-01-05,1\n",
        "the future table", "each of the 2 steps", "2 steps of series 'B' missing, the first at 2024-01-04", "add these",
    ),
    "a step is missing": (
        "unique_id,ds,price\nA,2024-01-04,1\nA,2024-01-05,1\nB,2024-01-04,1\n",
        "the future table", "each of the 2 steps", "1 steps of series 'B' missing, the first at 2024-01-05", "add these",
    ),
    "a step is there twice": (
        "unique_id,ds,price\nA,2024-01-04,1\nA,2024-01-04,2\nA,2024-01-05,1\nB,2024-01-04,1\nB,2024-01-05,1\n",
        "the future table", ONE_ROW, "duplicate rows: row 0; row 1", "keep one row",
    ),
    "a value is missing": (
        "unique_id,ds,price\nA,2024-01-04,1\nA,2024-01-05,\nB,2024-01-04,1\nB,2024-01-05,1\n",
        "column 'price'", "a finite number", "nothing in row 1", "fill it in",
    ),
    "times are of another type": (
        "unique_id,ds,price\nA,4,1\nA,5,1\nB,4,1\nB,5,1\n", "column 'ds'", "the type of the main table, Date", "Int64", "as in",
    ),
    "times have hours": (
        "unique_id,ds,price\nA,2024-01-04 06:00,1\nA,2024-01-05 06:00,1\nB,2024-01-04 06:00,1\nB,2024-01-05 06:00,1\n",
        "column 'ds'", "the type of the main table, Date", "Datetime", "as in",
    ),
}  # fmt: skip


@pytest.mark.parametrize(("csv", "where", "expected", "got", "fix"), FUTURE.values(), ids=FUTURE.keys())
def test_a_future_table_that_lacks_something(
    csv: str, where: str, expected: str, got: str, fix: str, tmp_path: Path
) -> None:
    (tmp_path / "future.csv").write_text(csv)
    rows = [f"{series},2024-01-0{day},1,{day}" for series in "AB" for day in (1, 2, 3, 3 + 1)][:8]
    (tmp_path / "main.csv").write_text(
        "unique_id,ds,y,price\n" + "\n".join(row for row in rows if "-04" not in row) + "\n"
    )
    with pytest.raises(DataError) as caught:
        check_frame(
            read_table(tmp_path / "main.csv"),
            TableOptions(future=("price",)),
            horizon=2,
            future=read_table(tmp_path / "future.csv"),
            categories={},
        )
    (problem,) = caught.value.problems
    assert "the future table" in problem.where
    for words, part in ((where, problem.where), (expected, problem.expected), (got, problem.got), (fix, problem.fix)):
        assert words in part


def test_a_future_table_without_future_covariates_is_refused() -> None:
    table = pl.DataFrame({"ds": [1, 2, 3, 4], "y": [1.0, 2, 3, 4]})
    with pytest.raises(DataError, match="name them with --future"):
        check_frame(table, TableOptions(), horizon=1, future=pl.DataFrame({"ds": [5]}))


FILES = {
    "missing": ("sales.csv", None, "a file that can be read", "no such file", "check the path"),
    "of another kind": ("sales.ods", b"PK", ".csv, .tsv, .txt, .jsonl, .parquet", "'.ods'", "save the table as CSV"),
    "without an ending": ("sales", b"a,b", "also with .gz, .bz2, .zst", "no ending", "save the table as CSV"),
    "empty": ("sales.csv", b"", "a header line and rows", "an empty file", "unique_id,ds,y"),
    "blank": ("sales.csv", b"\n \n", "a header line and rows", "an empty file", "unique_id,ds,y"),
    "not in UTF-8": ("sales.csv", b"unique_id,ds,y\nM\xfcnchen,1,2\n", "UTF-8", "byte 0xfc in line 2", "UTF-8"),
    "with a name twice": (
        "sales.csv",
        b"ds,y,y\n1,2,3\n",
        "a name of its own",
        "'y' in columns 2, 3 of line 1",
        "rename",
    ),
    "with a long line": ("sales.csv", b"ds,y\n1,2\n2,3,4\n3,4\n", "2 fields in every line", "3 in line 3", "correct"),
    "with a short line": (
        "sales.csv",
        b"ds,y,x\n1,2,3\n2,3,4\n3\n",
        "3 fields in every line",
        "1 in line 4",
        "correct",
    ),
    "with an empty line": ("sales.csv", b"ds,y\n1,2\n\n3,4\n", "2 fields in every line", "0 in line 3", "correct"),
    "not gzipped": ("sales.csv.gz", b"ds,y\n1,2\n", "packed as .gz", "Not a gzipped file", "pack"),
    "not Parquet": ("sales.parquet", b"ds,y\n1,2\n", "a Parquet file", "", "write the file again"),
}


@pytest.mark.parametrize(("name", "data", "expected", "got", "fix"), FILES.values(), ids=FILES.keys())
def test_a_file_that_cannot_be_read(
    name: str, data: bytes | None, expected: str, got: str, fix: str, tmp_path: Path
) -> None:
    if data is not None:
        (tmp_path / name).write_bytes(data)
    with pytest.raises(DataError) as caught:
        read_table(tmp_path / name)
    (problem,) = caught.value.problems
    assert problem.where == str(tmp_path / name)
    for words, part in ((expected, problem.expected), (got, problem.got), (fix, problem.fix)):
        assert words in part
