"""Text in every dialect: read where one reading fits all rows, refused with the options that choose where two do."""

from __future__ import annotations

from datetime import date
from pathlib import Path
from typing import Any

import polars as pl
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from holdfast.errors import DataError, HoldfastError, OptionError
from holdfast.series import RawTable, TableOptions, describe_table, open_table
from holdfast.series.dialect import read_text
from holdfast.series.findings import Rows
from holdfast.series.numbers import Notation, find_notation

FIRST = date(2024, 1, 1)


def read(tmp_path: Path, text: str | bytes, name: str = "sales.csv", **options: Any) -> RawTable:
    (tmp_path / name).write_bytes(text if isinstance(text, bytes) else text.encode())
    return open_table(tmp_path / name, TableOptions(**options))


def refusal(tmp_path: Path, text: str | bytes, name: str = "sales.csv", **options: Any) -> tuple[str, str, str, str]:
    with pytest.raises(HoldfastError) as caught:
        read(tmp_path, text, name, **options)
    (problem,) = caught.value.problems
    return problem.where.removeprefix(str(tmp_path / name)), problem.expected, problem.got, problem.fix


SEPARATED = {
    "commas": ("id,ds,y\na,1,2.5\n", []),
    "semicolons": ("id;ds;y\na;1;2.5\n", ["read with ';' between fields"]),
    "semicolons and a decimal comma": ("id;ds;y\na;1;2,5\n", ["read with ';' between fields, a decimal comma"]),
    "tabs": ("id\tds\ty\na\t1\t2.5\n", ["read with tabs between fields"]),
    "bars": ("id|ds|y\na|1|2.5\n", ["read with '|' between fields"]),
    "the separator in the first line": ("sep=;\nid;ds;y\na;1;2.5\n", ["read with ';' between fields"]),
    "a decimal comma in quotes": ('id,ds,y\na,1,"2,5"\n', ["read with a decimal comma"]),
    "blanks after separators": ("id, ds, y\na, 1, 2.5\n", []),
    "blanks around quotes": ('"id", "ds" , "y"\n"a" , "1", "2.5"\n', []),
    "separators at the end of every line": (
        "id,ds,y,,\na,1,2.5,,\n", ["empty columns without a name left out: 2"]),
    "separators at the end of the header": ("id,ds,y,\na,1,2.5\n", []),
    "separators at the end of the rows": ("id,ds,y\na,1,2.5,\n", ["empty columns without a name left out: 1"]),
    "line ends of old Macs": ("id,ds,y\ra,1,2.5\r", []),
    "line ends of Windows": ("id,ds,y\r\na,1,2.5\r\n", []),
    "UTF-16 with its mark": ("id,ds,y\na,1,2.5\n".encode("utf-16"), ["read as UTF-16, as its first bytes say"]),
}  # fmt: skip


@pytest.mark.parametrize(("text", "notes"), SEPARATED.values(), ids=SEPARATED.keys())
def test_a_file_that_can_be_read_in_one_way_is(text: str | bytes, notes: list[str], tmp_path: Path) -> None:
    table = read(tmp_path, text)
    assert table.frame.to_dict(as_series=False) == {"id": ["a"], "ds": [1], "y": [2.5]}
    assert list(table.notes) == notes


def test_commas_in_a_name_do_not_hide_the_separator(tmp_path: Path) -> None:
    table = read(tmp_path, "id;ds;sales, EUR\na;1;2,5\n", target_col="sales, EUR")
    assert table.frame.rows() == [("a", 1, 2.5)]


def test_two_separators_that_fit_are_shown_with_the_options_that_choose(tmp_path: Path) -> None:
    text = "a;b,c\n1;2,3\n"
    where, expected, got, fix = refusal(tmp_path, text)
    assert (where, expected) == ("", "one separator that fits all rows")
    assert got == "2 columns with ',' between fields; 2 columns with ';' between fields"
    assert fix == "give --sep ',' or --sep ';'"
    assert read(tmp_path, text, sep=",").frame.columns == ["a;b", "c"]
    assert read(tmp_path, text, sep=";").frame.columns == ["a", "b,c"]


NUMBERS = {
    "thousands and decimals": (["1.234.567,5", "-3", ""], [1234567.5, -3.0, None], "a decimal comma and '.' between"),
    "Swiss": (["1'234.5", "17"], [1234.5, 17.0], "a decimal point and \"'\" between thousands"),
    "blanks": (["1 234,5", "17"], [1234.5, 17.0], "a decimal comma and blanks between thousands"),
    "no-break spaces": (["1\u00a0234,5", "17"], [1234.5, 17.0], "a decimal comma and no-break spaces between"),
    "millions can only be thousands": (["1,234,567", "12"], [1234567, 12], "a decimal point and ',' between thousands"),
    "two decimals can only be decimals": (["1,23", "1,234"], [1.23, 1.234], "a decimal comma"),
    "a point that no thousands have": (["1.23", "1.234"], [1.23, 1.234], None),
    "whole numbers": (["1234", "5"], [1234, 5], None),
    "a leading nought is no group": (["0.123", "0.456"], [0.123, 0.456], None),
}  # fmt: skip


@pytest.mark.parametrize(("fields", "values", "said"), NUMBERS.values(), ids=NUMBERS.keys())
def test_marks_in_numbers_are_found_out(
    fields: list[str], values: list[float | None], said: str | None, tmp_path: Path
) -> None:
    table = read(tmp_path, "ds;y\n" + "".join(f"{row};{field}\n" for row, field in enumerate(fields)))
    assert table.frame["y"].to_list() == values
    assert (said or "';' between fields") in table.notes[-1]


@pytest.mark.parametrize(
    ("number", "decimal", "comma", "point"),
    [("1,234", "1.234 with a decimal comma", 1.234, 1234), ("1.234", "1.234 with a decimal point", 1234, 1.234)],
)
def test_numbers_that_can_be_read_in_two_ways_are_refused_with_options_that_choose(
    number: str, decimal: str, comma: float, point: float, tmp_path: Path
) -> None:
    text = f"ds;y\n1;5\n2;{number}\n"
    where, expected, got, fix = refusal(tmp_path, text)
    assert (where, expected) == (", column 'y'", "numbers that can be read in one way")
    assert got.startswith(f"'{number}' in line 3: ") and decimal in got and "1234 with" in got
    assert "--decimal ," in fix and "--decimal ." in fix
    assert read(tmp_path, text, decimal=",").frame["y"].to_list() == [5, comma]
    assert read(tmp_path, text, decimal=".").frame["y"].to_list() == [5, point]
    assert read(tmp_path, text, thousands=number[1]).frame["y"].to_list() == [5, 1234]


def test_ids_times_and_unused_columns_are_not_numbers_to_guess_at(tmp_path: Path) -> None:
    table = read(tmp_path, "unique_id;ds;y;note\n1,5;2024-01-01;2,5;1,234\n", static=("note",))
    assert table.frame.rows() == [("1,5", FIRST, 2.5, 1.234)]
    table = read(tmp_path, "unique_id;ds;y;note\n1,5;2024-01-01;2,5;1,234\n")
    assert table.frame.rows() == [("1,5", FIRST, 2.5, "1,234")]


def test_a_column_per_series_is_read_as_numbers(tmp_path: Path) -> None:
    table = read(tmp_path, "ds;a;b\n1;2,5;3\n2;1.000,5;\n", wide=True)
    assert table.frame.rows() == [(1, 2.5, 3.0), (2, 1000.5, None)]


@pytest.mark.parametrize("options", [{}, {"decimal": ","}])
def test_numbers_in_two_notations_are_refused(options: dict[str, str], tmp_path: Path) -> None:
    where, expected, got, fix = refusal(tmp_path, "ds;y\n1;1,5\n2;2,5\n3;-\n4;1.5\n", **options)
    assert (where, expected) == (", column 'y'", "numbers with a decimal comma in every row")
    assert (got, fix) == ("'1.5' in line 5", "write all numbers in one way")


def test_a_word_among_numbers_with_commas_is_named_alone(tmp_path: Path) -> None:
    (tmp_path / "sales.csv").write_text("ds;y\n1;1,5\n2;2,5\n3;-\n4;3,5\n")
    with pytest.raises(DataError) as caught:
        describe_table(tmp_path / "sales.csv", TableOptions(horizon=1))
    assert [problem.got for problem in caught.value.problems] == ["'-' in line 4"]


@pytest.mark.parametrize(
    ("name", "value"),
    [("sep", ",,"), ("sep", '"'), ("sep", "\u20ac"), ("decimal", ";"), ("thousands", "00"), ("thousands", "1")],
)
def test_marks_that_cannot_separate_are_refused(name: str, value: str) -> None:
    with pytest.raises(OptionError) as caught:
        TableOptions(**{name: value})  # type: ignore[arg-type]
    assert caught.value.problems[0].where == f"option {name}"


NOTATIONS = [Notation(d, t) for d in ".," for t in (None, ",", ".", " ", "'") if d != t]


@settings(deadline=None)
@given(
    values=st.lists(st.decimals(-(10**9), 10**9, places=3, allow_nan=False), min_size=1, max_size=20),
    notation=st.sampled_from(NOTATIONS),
)
def test_numbers_come_back_from_every_notation(values: list[Any], notation: Notation) -> None:
    """Each is written by the standard library, and is read as it was or is refused; the options always choose it."""
    table = str.maketrans({",": notation.thousands or "", ".": notation.decimal})
    text = pl.Series("y", [f"{value:,f}".translate(table) for value in values])
    options = TableOptions(decimal=notation.decimal, thousands=notation.thousands)
    found = find_notation([text], ";", options, Rows(), "x")
    assert found.plain(text).cast(pl.Float64).to_list() == [float(value) for value in values]
    try:
        found = find_notation([text], ";", TableOptions(), Rows(), "x")
    except DataError as error:
        assert "--decimal" in error.problems[0].fix or "--thousands" in error.problems[0].fix
        return
    assert found.plain(text).cast(pl.Float64).to_list() == [float(value) for value in values]


LINES = {
    "in quotes": ('ds,y\n1,"2\n"\n"3\n3",4\nx,5\n', [2, 4, 6]),
    "below the name of the separator": ("sep=,\nds,y\n1,2\n3,4\n", [3, 4]),
    "plain": ("ds,y\n1,2\n3,4\n", [2, 3]),
}


@pytest.mark.parametrize(("text", "lines"), LINES.values(), ids=LINES.keys())
def test_rows_are_named_by_the_line_on_which_they_start(text: str, lines: list[int]) -> None:
    found = read_text(text.strip("\n").encode(), "x", TableOptions())
    assert [found.rows.name(row) for row in range(found.frame.height)] == [f"line {line}" for line in lines]


REFUSED: dict[str, tuple[str | bytes, str, str, str]] = {
    "a quote within a field": (
        'ds,y\n1,2\n2,5" pipe\n', "quotes around whole fields", "a quote in line 3: '2,5\" pipe'", "twice"),
    "a quote that nothing closes": ('ds,y\n1,"2\n2,3\n', "quotes around whole fields", "a quote in line 2", "twice"),
    "a quote that is closed further down": (
        'ds,y\n1,"2\n2,3\n3,"4"\n', "quotes", "a field that opens in line 2, and a quote in line 4", "twice"),
    "a carriage return within a line": ("ds,y\n1,2\r3\n", "one kind of line end", "in line 2: '1,2\\r3'", "remove it"),
    "a NUL byte": (b"ds,y\n1,\x002\n", "a text file", "a NUL byte in line 2: '1,\\x002'", "--encoding"),
    "half a character": (b"ds,y\n\xed\xa0\x80,1\n", "text in UTF-8", "byte 0xed in line 2", "as UTF-8"),
    "a blank line above the header": ("\nds,y\n1,2\n", "names of the columns", "a blank line 1", "remove"),
    "fields beyond the header": ("ds,y\n1,2,\n2,3,x\n", "2 fields in every line", "3 in line 3", "correct"),
    "names twice": ("ds,y,y\n1,2,3\n", "a name of its own", "'y' in columns 2, 3 of line 1", "rename"),
    "several columns without a name": (",,y\n1,2,3\n", "a name of its own", "'' in columns 1, 2 of line 1", "rename"),
}  # fmt: skip


@pytest.mark.parametrize(("text", "expected", "got", "fix"), REFUSED.values(), ids=REFUSED.keys())
def test_text_that_is_damaged_is_refused_with_its_line(
    text: str | bytes, expected: str, got: str, fix: str, tmp_path: Path
) -> None:
    found = refusal(tmp_path, text)
    for words, part in zip((expected, got, fix), found[1:], strict=True):
        assert words in part


def test_a_field_of_any_length_is_read(tmp_path: Path) -> None:
    long = "x" * 200_000
    assert read(tmp_path, f'ds,y\n{long},1\n"{long}\n,",2\n').frame["ds"].to_list() == [long, f"{long}\n,"]


def test_the_encoding_that_would_read_the_line_is_shown_and_works(tmp_path: Path) -> None:
    text = "unique_id,ds,y\na,1,2\nM\u00fcnchen,1,2\n".encode("cp1252")
    _, expected, got, fix = refusal(tmp_path, text)
    assert (expected, got) == ("text in UTF-8", "byte 0xfc in line 3")
    assert fix.endswith("give --encoding cp1252 if line 3 is 'M\u00fcnchen,1,2'")
    assert read(tmp_path, text, encoding="cp1252").frame["unique_id"].to_list() == ["a", "M\u00fcnchen"]


@pytest.mark.parametrize("encoding", ["no-such", "base64", "rot13"])
def test_what_is_no_encoding_of_text_is_refused(encoding: str, tmp_path: Path) -> None:
    with pytest.raises(OptionError, match="option encoding"):
        read(tmp_path, "ds,y\n1,2\n", encoding=encoding)
