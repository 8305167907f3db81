"""Damaged files of every kind: a table whose rows are all there, or an error in four parts; nothing else, ever."""

from __future__ import annotations

import bz2
import csv
import gzip
import io
import random
from datetime import date, timedelta
from pathlib import Path

import polars as pl
import pyarrow as pa
import pytest

from holdfast.errors import HoldfastError
from holdfast.series import TableOptions, describe_table, open_table
from holdfast.series.records import Records, cut

SEPARATORS = ",;\t|"
PACK = {
    "": bytes,
    ".gz": gzip.compress,
    ".bz2": bz2.compress,
    ".zst": lambda data: pa.compress(data, "zstd", asbytes=True),
}
BITS = [
    *(
        b'"',
        b'""',
        b"\n",
        b"\r",
        b"\r\n",
        b",",
        b";",
        b"\t",
        b"|",
        b" ",
        b"\x00",
        b"\xff",
        b"\xef\xbb\xbf",
        b"\xff\xfe",
    ),
    *(
        b"\x1b[2J",
        "\u00fc".encode(),
        b"1,234",
        b"1.234",
        b"-",
        b"nan",
        b"1e999",
        b"9223372036854775808",
        b"'",
        b"{",
        b"}",
    ),
    *(b"[", b"null", b"true", b"\\ud800", b"01/02/2024", b"31.12.2023", b"sep=;\n", b'"a\nb"', b"x" * 140_000),
]


def good_file(rng: random.Random) -> tuple[str, bytes]:
    """A file of some kind and dialect, and its name."""
    rows = rng.randint(0, 40)
    first = date(2024, 1, 1)
    days = [first + timedelta(days=i) for i in range(rows)]
    y = [rng.choice([None, float(rng.randint(0, 3000)), rng.uniform(0, 3000)]) for _ in range(rows)]
    frame = pl.DataFrame(
        {"unique_id": ["a"] * rows, "ds": days, "y": y},
        schema={"unique_id": pl.String, "ds": pl.Date, "y": pl.Float64},
    )
    kind = rng.choice([".csv", ".csv", ".tsv", ".txt", ".jsonl", ".parquet", ".feather", ".arrow"])
    if kind in (".parquet", ".feather", ".arrow"):
        file = io.BytesIO()
        write = {".parquet": frame.write_parquet, ".feather": frame.write_ipc, ".arrow": frame.write_ipc_stream}[kind]
        write(file)
        return f"table{kind}", file.getvalue()
    packing = rng.choice(["", "", "", *PACK])
    if kind == ".jsonl":
        return f"table.jsonl{packing}", PACK[packing](frame.write_ndjson().encode())
    form = rng.choice(["%Y-%m-%d", "%d.%m.%Y", "%m/%d/%Y", "%Y%m%d", "%d %b %Y", "%Y-%m-%d %H:%M:%S"])
    comma = rng.random() < 0.3
    numbers = pl.col("y").round(2).cast(pl.String).str.replace(".", "," if comma else ".", literal=True)
    text = frame.with_columns(pl.col("ds").cast(pl.Datetime).dt.strftime(form), numbers).write_csv(
        separator=rng.choice(SEPARATORS), quote_style=rng.choice(["necessary", "always"])
    )
    data = text.replace("\n", rng.choice(["\n", "\r\n", "\r"])).encode(rng.choice(["utf-8", "utf-8-sig", "utf-16"]))
    return f"table{kind}{packing}", PACK[packing](data)


def damaged(data: bytes, rng: random.Random) -> bytes:
    """The same with a few bytes changed, taken out, put in, doubled or cut off."""
    changed = bytearray(data)
    for _ in range(rng.randint(0, 4)):
        at = rng.randrange(len(changed) + 1)
        match rng.randrange(6):
            case 0:
                changed[at : at + 1] = bytes([rng.randrange(256)])
            case 1 | 2:
                changed[at:at] = rng.choice(BITS)
            case 3:
                del changed[at : at + rng.choice([1, 3, 50])]
            case 4:
                changed[at:at] = changed[at : at + rng.choice([5, 100])]
            case 5:
                del changed[at:]
    return bytes(changed)


def check_one(seed: int, folder: Path) -> str:
    """Read one damaged file: the error, or nothing."""
    rng = random.Random(seed)
    name, data = good_file(rng)
    (folder / name).write_bytes(damaged(data, rng))
    options = TableOptions(horizon=2, max_rows=rng.choice([None, 10**6]), fill_gaps=rng.random() < 0.5)
    try:
        table = open_table(folder / name, options)
        assert table.frame.width == len(set(table.frame.columns))
        describe_table(folder / name, options)
    except HoldfastError as error:
        assert error.problems
        for problem in error.problems:
            assert all((problem.where, problem.expected, problem.got, problem.fix)), problem
        assert str(error).replace("\n", "").isprintable()
        return str(error)
    return ""


@pytest.mark.parametrize("block", range(4))
def test_a_damaged_file_is_a_table_or_an_error_in_four_parts(block: int, tmp_path: Path) -> None:
    errors = [check_one(seed, tmp_path) for seed in range(block * 40, block * 40 + 40)]
    assert 0 < sum(map(bool, errors)) < len(errors)


@pytest.mark.parametrize("block", range(4))
def test_records_are_those_of_the_csv_module(block: int) -> None:
    """The slow twin: one character at a time, in the standard library."""
    agreed = 0
    for seed in range(block * 500, block * 500 + 500):
        rng = random.Random(seed)
        text = "".join(rng.choices(["a", ",", '"', '"', "\n", "\r\n", '""', '","', '"\n"'], k=rng.randint(1, 14)))
        records = cut(text.encode(), ",", "text")
        if not isinstance(records, Records):
            continue
        reader = csv.reader(io.StringIO(text, newline=""), strict=True)
        lines, widths, line = [], [], 1
        for row in reader:
            lines.append(line)
            widths.append(len(row))
            line = reader.line_num + 1
        if text.endswith("\n"):
            lines.append(line)
            widths.append(0)
        assert (records.lines.tolist(), records.fields.tolist()) == (lines, widths), repr(text)
        agreed += 1
    assert agreed > 100
