"""Files of every kind, packed or not; those that unpack to more than a table can have."""

from __future__ import annotations

import bz2
import gzip
import io
import sys
import zipfile
from collections.abc import Callable
from datetime import datetime, timedelta
from pathlib import Path
from types import SimpleNamespace

import polars as pl
import pyarrow as pa
import pytest

from holdfast.errors import DataError, Problem
from holdfast.series import RawTable, TableOptions, csv_text, describe_table, excel, open_table, opening, write_table

TABLE = pl.DataFrame({"unique_id": ["a", "a", "b"], "ds": [1, 2, 1], "y": [1.5, None, -3.0]})
TEXT = TABLE.write_csv().encode()


def zst(data: bytes) -> bytes:
    packed: bytes = pa.compress(data, "zstd", asbytes=True)
    return packed


def written(write: str) -> bytes:
    file = io.BytesIO()
    getattr(TABLE, write)(file)
    return file.getvalue()


def refusal(path: Path, **options: int) -> Problem:
    with pytest.raises(DataError) as caught:
        open_table(path, TableOptions(**options))
    (problem,) = caught.value.problems
    return problem


KINDS = {
    "sales.csv": TEXT,
    "SALES.CSV": TEXT,
    "sales.tsv": TEXT.replace(b",", b"\t"),
    "sales.txt": TEXT.replace(b",", b"|"),
    "sales.jsonl": TABLE.write_ndjson().encode(),
    "sales.parquet": written("write_parquet"),
    "sales.Parquet": written("write_parquet"),
    "sales.feather": written("write_ipc"),
    "sales.arrow": written("write_ipc"),
    "stream.arrow": written("write_ipc_stream"),
    "sales.csv.gz": gzip.compress(TEXT[:20]) + gzip.compress(TEXT[20:]),
    "SALES.CSV.GZ": gzip.compress(TEXT),
    "sales.csv.bz2": bz2.compress(TEXT),
    "sales.csv.zst": zst(TEXT),
    "sales.jsonl.zst": zst(TABLE.write_ndjson().encode()),
}


@pytest.mark.parametrize(("name", "data"), KINDS.items(), ids=KINDS.keys())
def test_every_kind_of_file_reads_to_the_same_rows(name: str, data: bytes, tmp_path: Path) -> None:
    (tmp_path / name).write_bytes(data)
    table = open_table(tmp_path / name)
    assert table.frame.rows() == TABLE.rows()
    assert table.frame.columns == TABLE.columns
    assert table.source == str(tmp_path / name)


def test_a_dash_is_standard_input(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "stdin", SimpleNamespace(buffer=io.BytesIO(TEXT)))
    table = open_table("-")
    assert (table.frame.rows(), table.source, table.rows.name(0)) == (TABLE.rows(), "standard input", "line 2")


@pytest.fixture
def parts(tmp_path: Path) -> Path:
    for name, rows in (("b", TABLE[2:]), ("a", TABLE[:2])):
        rows.write_parquet(tmp_path / f"{name}.parquet")
    (tmp_path / "README").write_text("no table")
    return tmp_path


def test_a_folder_of_parquet_files_is_one_table(parts: Path) -> None:
    for place in (parts, parts / "*.parquet", parts / "[ab].parquet"):
        table = open_table(place)
        assert table.frame.rows() == TABLE.rows()
        assert table.notes == ("read 2 files in order of their names, a.parquet to b.parquet",)
    problem = refusal(parts / "*")
    assert "'README'" in problem.got


def test_folders_named_after_a_value_are_a_column(tmp_path: Path) -> None:
    for key in "ba":
        (tmp_path / f"unique_id={key}").mkdir()
        TABLE.filter(unique_id=key).drop("unique_id").write_parquet(tmp_path / f"unique_id={key}" / "0.parquet")
    assert sorted(open_table(tmp_path).frame.select(TABLE.columns).rows(), key=str) == sorted(TABLE.rows(), key=str)


def test_parquet_files_that_do_not_fit_together_are_named(parts: Path) -> None:
    TABLE.with_columns(pl.col("ds").cast(pl.String)).write_parquet(parts / "c.parquet")
    assert refusal(parts).got == "column 'ds' is String in c.parquet and Int64 in a.parquet"
    (parts / "c.parquet").write_bytes(b"PAR1")
    assert refusal(parts).got.startswith("c.parquet: ")
    assert refusal(parts / "no*.parquet").got == "none"


@pytest.mark.parametrize("name", ["sales.csv", "sales.jsonl", "sales.parquet", "sales.feather", "stream.arrow"])
def test_more_rows_than_the_option_allows_are_refused(name: str, tmp_path: Path) -> None:
    (tmp_path / name).write_bytes(KINDS[name])
    problem = refusal(tmp_path / name, max_rows=2)
    assert problem.expected == "no more than 2 rows"
    enough = (
        "a larger --max-rows" if name == "sales.csv" else "--max-rows 3"
    )  # lines are counted until they are too many
    assert problem.fix == f"give {enough}, or bring fewer rows"
    assert open_table(tmp_path / name, TableOptions(max_rows=3)).frame.height == 3


def test_parquet_that_claims_more_rows_than_there_can_be_is_refused_unread(tmp_path: Path) -> None:
    rows = 101_000_000
    frame = pl.select(pl.repeat(0, rows, dtype=pl.Int8).alias("y"))
    frame.write_parquet(tmp_path / "bomb.parquet")
    assert (tmp_path / "bomb.parquet").stat().st_size < 2**20
    assert refusal(tmp_path / "bomb.parquet").fix == f"give --max-rows {rows}, or bring fewer rows"


@pytest.mark.parametrize(("ending", "pack"), [(".gz", gzip.compress), (".bz2", bz2.compress), (".zst", zst)])
def test_a_packed_file_that_grows_without_end_is_refused_on_the_way(
    ending: str, pack: Callable[[bytes], bytes], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(opening, "FREE_BYTES", 2**20)
    path = tmp_path / f"bomb.csv{ending}"
    path.write_bytes(pack(b"ds,y\n" + b"1,2\n" * 2**19))
    problem = refusal(path)
    assert problem.expected == "a packed file that grows less than 200 times"
    assert problem.got == f"{path.stat().st_size:,} bytes that unpack to more than {2**21:,}"
    assert problem.fix.endswith("--max-rows 100000000")
    assert refusal(path, max_rows=1000).got == "more than 1,000"
    assert open_table(path, TableOptions(max_rows=10**8)).frame.height == 2**19


@pytest.mark.parametrize("name", [name for name in KINDS if name.endswith((".gz", ".bz2", ".zst"))])
def test_packed_files_that_are_cut_off_are_refused(name: str, tmp_path: Path) -> None:
    (tmp_path / name).write_bytes(KINDS[name][:-9])
    assert refusal(tmp_path / name).expected.startswith(("a file packed as", "a row per line", "a JSON object"))


LINES = {
    "no JSON": ('{"y":1}\n\nx\n', "", "a JSON object per line", "'x' in line 3: Expecting value"),
    "no object": ("[1]\n", "", "a JSON object per line", "'[1]' in line 1"),
    "two types": ('{"y":1}\n{"y":{"a":1}}\n', ", column 'y'", "values of one type", "{'a': 1} in line 2, a number in"),
    "no number of JSON": ('{"y":1}\n{"y":NaN}\n', ", column 'y'", "a number that JSON has", "nan in line 2"),
    "half a character": ('{"y":1}\n{"y":"\\ud800"}\n', "", "a JSON object per line", "in line 2"),
}


@pytest.mark.parametrize(("text", "where", "expected", "got"), LINES.values(), ids=LINES.keys())
def test_json_lines_that_are_no_rows_are_named(text: str, where: str, expected: str, got: str, tmp_path: Path) -> None:
    (tmp_path / "x.jsonl").write_text(text)
    problem = refusal(tmp_path / "x.jsonl")
    assert problem.where == f"{tmp_path / 'x.jsonl'}{where}"
    assert expected in problem.expected and got in problem.got


@pytest.mark.parametrize("name", ["", "a\0.csv"])
def test_a_name_that_no_file_has_is_refused(name: str) -> None:
    with pytest.raises(DataError, match="the name of a file"):
        open_table(name)


# ---------------------------------------------------------------- Excel


def workbook(path: Path, **sheets: list[list[object]]) -> Path:
    """A workbook as small as can be: inline text, numbers, dates in style 1, errors as exceptions."""

    def cell(value: object, place: str) -> str:
        if isinstance(value, str):
            return f'<c r="{place}" t="inlineStr"><is><t>{value}</t></is></c>'
        if isinstance(value, datetime):
            return f'<c r="{place}" s="1"><v>{(value - datetime(1899, 12, 30)) / timedelta(days=1)!r}</v></c>'
        if isinstance(value, Exception):
            return f'<c r="{place}" t="e"><v>{value}</v></c>'
        return f'<c r="{place}"><v>{value!r}</v></c>'

    kind = "http://schemas.openxmlformats.org/officeDocument/2006/relationships"
    main = 'xmlns="http://schemas.openxmlformats.org/spreadsheetml/2006/main"'
    package = "http://schemas.openxmlformats.org/package/2006"
    links, names = "", ""
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as file:
        for i, (name, rows) in enumerate(sheets.items(), 1):
            links += f'<Relationship Id="r{i}" Type="{kind}/worksheet" Target="worksheets/sheet{i}.xml"/>'
            names += f'<sheet name="{name}" sheetId="{i}" r:id="r{i}"/>'
            body = ""
            for r, row in enumerate(rows, 1):
                cells = (cell(value, f"{chr(64 + c)}{r}") for c, value in enumerate(row, 1) if value is not None)
                body += f'<row r="{r}">{"".join(cells)}</row>'
            file.writestr(f"xl/worksheets/sheet{i}.xml", f"<worksheet {main}><sheetData>{body}</sheetData></worksheet>")
        links += f'<Relationship Id="s" Type="{kind}/styles" Target="styles.xml"/>'
        file.writestr(
            "xl/_rels/workbook.xml.rels", f'<Relationships xmlns="{package}/relationships">{links}</Relationships>'
        )
        file.writestr(
            "xl/styles.xml", f'<styleSheet {main}><cellXfs><xf numFmtId="0"/><xf numFmtId="14"/></cellXfs></styleSheet>'
        )
        file.writestr("xl/workbook.xml", f'<workbook {main} xmlns:r="{kind}"><sheets>{names}</sheets></workbook>')
        main_link = f'<Relationship Id="w" Type="{kind}/officeDocument" Target="xl/workbook.xml"/>'
        file.writestr("_rels/.rels", f'<Relationships xmlns="{package}/relationships">{main_link}</Relationships>')
        file.writestr("[Content_Types].xml", f'<Types xmlns="{package}/content-types"/>')
    return path


HEAD: list[object] = ["unique_id", "ds", "y"]


def days(count: int, y: float = 0.1) -> list[list[object]]:
    return [["007", datetime(2024, 1, day), y * day] for day in range(1, count + 1)]


class TestExcel:
    @pytest.fixture(autouse=True)
    def installed(self) -> None:
        pytest.importorskip("fastexcel", reason="an optional package, installed by the extra `test`")

    def read(self, path: Path, **options: int) -> RawTable:
        return open_table(path, TableOptions(**options))

    def test_a_sheet_is_read_to_the_last_bit(self, tmp_path: Path) -> None:
        rows = [[*row[:2], y] for row, y in zip(days(5), [1 / 3, 1e-12, 1e21, -7, None], strict=True)]
        table = self.read(workbook(tmp_path / "x.xlsx", one=[HEAD, *rows]))
        assert table.frame["y"].to_list() == [1 / 3, 1e-12, 1e21, -7, None]
        assert table.frame["ds"].to_list() == [datetime(2024, 1, day) for day in range(1, 6)]
        assert table.frame["unique_id"].unique().to_list() == ["007"]
        assert "frequency 1d" in describe_table(
            workbook(tmp_path / "x.xlsx", one=[HEAD, *days(9)]), TableOptions(horizon=2)
        )

    def test_rows_are_counted_as_the_sheet_counts_them(self, tmp_path: Path) -> None:
        rows = [[], [], HEAD, *days(2), [], *days(1), ["a", datetime(2024, 1, 3), "-"]]
        with pytest.raises(DataError) as caught:
            describe_table(workbook(tmp_path / "x.xlsx", one=rows), TableOptions(horizon=1))
        assert any(problem.got == "'-' in row 8" for problem in caught.value.problems)
        assert any(problem.got == "no id in row 6" for problem in caught.value.problems)

    def test_formulas_that_failed_are_no_missing_values(self, tmp_path: Path) -> None:
        rows = [
            *days(3),
            ["007", datetime(2024, 1, 4), Exception("#DIV/0!")],
            ["007", datetime(2024, 1, 5), Exception("#N/A")],
        ]
        with pytest.raises(DataError) as caught:
            describe_table(workbook(tmp_path / "x.xlsx", one=[HEAD, *rows]), TableOptions(horizon=1))
        assert caught.value.problems[0].got == "'error Div0' in row 5"

    def test_the_one_sheet_with_the_columns_is_read(self, tmp_path: Path) -> None:
        path = workbook(tmp_path / "x.xlsx", notes=[["made by", "hand"]], data=[HEAD, *days(3)], empty=[])
        table = self.read(path)
        assert (table.frame.height, table.notes) == (3, ("read the sheet 'data'",))
        problem = refusal(workbook(tmp_path / "y.xlsx", a=[HEAD, *days(3)], b=[HEAD, *days(3)]))
        assert problem.got == "'a'; 'b'"
        assert refusal(workbook(tmp_path / "z.xlsx", a=[])).got == "empty sheets alone"

    def test_a_name_twice_and_too_many_rows_are_refused(self, tmp_path: Path) -> None:
        assert (
            "'y' more than once in row 1" in refusal(workbook(tmp_path / "x.xlsx", a=[["ds", "y", "y"], [1, 2, 3]])).got
        )
        assert refusal(workbook(tmp_path / "x.xlsx", a=[HEAD, *days(3)]), max_rows=2).got == "3"

    @pytest.mark.parametrize("data", [b"", b"PK", b"ds,y\n1,2\n"])
    def test_what_is_no_workbook_is_refused(self, data: bytes, tmp_path: Path) -> None:
        (tmp_path / "x.xlsx").write_bytes(data)
        assert refusal(tmp_path / "x.xlsx").expected == "an Excel workbook (.xlsx)"

    def test_a_workbook_that_grows_without_end_is_refused_unread(
        self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr(excel, "FREE_BYTES", 2**20)
        with zipfile.ZipFile(tmp_path / "x.xlsx", "w", zipfile.ZIP_DEFLATED) as file:
            file.writestr("xl/worksheets/sheet1.xml", " " * 2**21)
        assert f"that unpack to {2**21:,}" in refusal(tmp_path / "x.xlsx").got


def test_without_fastexcel_the_command_that_installs_it_is_named(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setitem(sys.modules, "fastexcel", None)
    (tmp_path / "x.xlsx").write_bytes(b"PK")
    assert refusal(tmp_path / "x.xlsx").fix.startswith("python -m pip install 'holdfast[excel]'")


# ---------------------------------------------------------------- for spreadsheets


def test_text_that_a_spreadsheet_would_run_gets_an_apostrophe_where_asked_for(tmp_path: Path) -> None:
    ids = ["=cmd()", "+1+1", "-1", "@x", "\tx", "\rx", "a=b", ""]
    frame = pl.DataFrame({"=id": ids, "y": [-1.5] * 8})
    safe = ["'=cmd()", "'+1+1", "'-1", "'@x", "'\tx", "'\rx", "a=b", ""]
    write_table(frame, tmp_path / "safe.csv", safe=True)
    read = pl.read_csv(tmp_path / "safe.csv")
    assert read.columns == ["'=id", "y"]
    assert read["'=id"].to_list() == safe
    assert read["y"].to_list() == [-1.5] * 8
    assert csv_text(frame, safe=True).encode() == (tmp_path / "safe.csv").read_bytes()
    assert pl.read_csv(io.StringIO(csv_text(frame)))["=id"].to_list() == ids
