"""JSON lines: an object per line, each key a column."""

from __future__ import annotations

import io
import json
import math
import re

import numpy as np
import polars as pl

from holdfast.errors import DataError, Problem
from holdfast.series.findings import Rows
from holdfast.series.opening import refused, too_many
from holdfast.series.options import MOST_ROWS, TableOptions

_SURROGATE = re.compile(rb"\\u[dD][89a-fA-F]")  # the parser would turn a lone half into a NUL
_FIX = "write one JSON object per line, a key with one type of value"


def read_jsonl(data: bytes, source: str, options: TableOptions) -> tuple[pl.DataFrame, Rows]:
    r"""Read JSON lines; blank lines are no rows.

    Raises:
        DataError: If a line is no object, or a key has values that do not go into one column.

    Example:
        >>> frame, rows = read_jsonl(b'{"ds": 1, "y": 2.5}\n\n{"ds": 2}', "sales.jsonl", TableOptions())
        >>> frame.rows(), rows.name(1)
        ([(1, 2.5), (2, None)], 'line 3')
    """
    lines = data.split(b"\n")
    full = np.array([number for number, line in enumerate(lines, 1) if line.strip()], dtype=np.int64)
    if len(full) > (options.max_rows or MOST_ROWS):
        raise too_many(source, options, len(full))
    if _SURROGATE.search(data):
        _examine(lines, source)
    try:
        frame = pl.read_ndjson(io.BytesIO(data), infer_schema_length=None)
    except (pl.exceptions.PolarsError, pl.exceptions.PanicException) as error:
        _examine(lines, source)
        raise refused(source, "JSON lines", str(error).splitlines()[0], _FIX) from error
    if frame.height != len(full):
        _examine(lines, source)
        raise refused(source, "a row per line", f"{frame.height} rows in {len(full)} lines", _FIX)
    return frame, Rows("line", 1, None if len(full) == len(lines) else full)


def _examine(lines: list[bytes], source: str) -> None:
    """Find the line that is at fault, slowly."""
    kinds: dict[str, tuple[str, int]] = {}
    for number, line in enumerate(lines, 1):
        if not line.strip():
            continue
        try:
            row = json.loads(line)
            json.dumps(row, ensure_ascii=False).encode("utf-8")
        except (ValueError, RecursionError) as error:
            got = f"{line[:40].decode('utf-8', 'ignore')!r} in line {number}: {error}"
            raise refused(source, "a JSON object per line", got, _FIX) from error
        if not isinstance(row, dict):
            got = f"{line[:40].decode('utf-8', 'ignore')!r} in line {number}"
            raise refused(source, "a JSON object per line", got, _FIX)
        for key, value in row.items():
            kind = _kind(value)
            if isinstance(value, float) and not math.isfinite(value):
                got = f"{value} in line {number}"
                raise DataError(Problem(f"{source}, column {key!r}", "a number that JSON has, or null", got, _FIX))
            before, since = kinds.setdefault(key, (kind, number)) if kind else (kind, number)
            if kind != before:
                got = f"{value!r:.40} in line {number}, {before} in line {since}"
                raise DataError(Problem(f"{source}, column {key!r}", "values of one type", got, _FIX))


def _kind(value: object) -> str:
    if value is None:
        return ""
    names = {bool: "a boolean", int: "a number", float: "a number", str: "text", list: "a list", dict: "an object"}
    return names[type(value)]
