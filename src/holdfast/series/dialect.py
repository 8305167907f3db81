"""How a text file separates its fields: found out where only one way fits all rows, else asked for."""

from __future__ import annotations

import io
import re
from dataclasses import dataclass

import polars as pl

from holdfast.errors import DataError, Problem
from holdfast.series.findings import Rows, listed
from holdfast.series.opening import refused, too_many
from holdfast.series.options import MOST_ROWS, TableOptions
from holdfast.series.records import Records, cut

SEPARATORS = {",": "','", ";": "';'", "\t": "tabs", "|": "'|'"}


@dataclass(frozen=True, eq=False)
class Text:
    """A text file as fields, all of them text; null where empty.

    Attributes:
        frame: The fields, below their names.
        rows: On which line each row starts.
        sep: What separates the fields.
        notes: What was left out.
    """

    frame: pl.DataFrame
    rows: Rows
    sep: str
    notes: list[str]


@dataclass(frozen=True, eq=False)
class _Cut:
    """A text cut at one separator, the names in its header, and how many fields its rows have."""

    sep: str
    records: Records
    names: list[str]
    width: int


def read_text(data: bytes, source: str, options: TableOptions) -> Text:
    r"""Cut a text into fields.

    Raises:
        DataError: If no separator fits all rows, or several do.

    Example:
        >>> text = read_text(b"id;y\na;1,5\nb;2", "sales.csv", TableOptions())
        >>> text.sep, text.frame.rows()
        (';', [('a', '1,5'), ('b', '2')])
    """
    said = re.match(rb"sep=([ -~\t])\r?\n", data)  # Excel's own first line
    if said:
        data = data[said.end() :]
    sep = options.sep or (said[1].decode() if said else None)
    layout = _lay_out(data, sep, source) if sep else _find_layout(data, source, options)
    if isinstance(layout, Problem):
        raise DataError(layout)
    rows = len(layout.records.ends) - 1
    if rows > (options.max_rows or MOST_ROWS):
        raise too_many(source, options, rows)
    lines = layout.records.lines[1:] + bool(said)
    first = 2 + bool(said)
    follow = rows == 0 or int(lines[-1]) == rows - 1 + first
    counted = Rows("line", first, None if follow else lines)
    frame = _fields(layout.records.body, layout.width, layout.sep, source)
    frame, notes = _named(frame, layout, counted, source)
    return Text(frame, counted, layout.sep, notes)


def _find_layout(data: bytes, source: str, options: TableOptions) -> _Cut | Problem:
    """The one separator that fits all rows."""
    header = data.split(b"\n", 1)[0].decode("utf-8")
    tried = {sep: _lay_out(data, sep, source) for sep in SEPARATORS if sep in header} or {
        ",": _lay_out(data, ",", source)
    }
    fits = [layout for layout in tried.values() if isinstance(layout, _Cut)]
    wanted = {options.time_col} if options.wide else {options.time_col, options.target_col}
    named = [layout for layout in fits if wanted <= set(layout.names)]
    if len(named) == 1 or len(fits) == 1:
        return (named or fits)[0]
    if not fits:
        return tried[max(tried, key=lambda sep: (sum(word in header.split(sep) for word in wanted), header.count(sep)))]
    got = listed(fits, lambda layout: f"{layout.width} columns with {SEPARATORS[layout.sep]} between fields")
    fix = " or ".join(f"--sep '{layout.sep}'" for layout in fits).replace("\t", "\\t")
    return Problem(source, "one separator that fits all rows", got, f"give {fix}")


def _lay_out(data: bytes, sep: str, source: str) -> _Cut | Problem:
    """Cut at one separator, and see whether all rows are as wide as the header."""
    records = cut(data, sep, source)
    if isinstance(records, Problem):
        return records
    given = int(records.fields[0])
    header = _fields(records.text(0).encode(), given, sep, source).row(0) if given else ()
    names = [(name or "").strip() for name in header]
    width = int(records.fields[1]) if len(records.fields) > 1 else given
    trailing = given > 1 and not any(names[width:])  # separators at the end of the header alone, or of the rows alone
    if given and (width == given or trailing) and (records.fields[1:] == width).all():
        return _Cut(sep, records, names[:width], width)
    if not given:
        fix = "remove the blank lines above the header"
        return Problem(source, "the names of the columns in the first line", "a blank line 1", fix)
    ragged = ((records.fields != given) | (records.fields == 0)).nonzero()[0].tolist()
    got = listed(ragged, lambda i: f"{records.fields[i]} in line {records.lines[i]}")
    expected = f"{given} fields in every line, as in the header (with {_said(sep)} between fields)"
    return Problem(source, expected, got, "correct these lines, or name the separator with --sep")


def _fields(text: bytes, width: int, sep: str, source: str) -> pl.DataFrame:
    """The fields of records that are all as wide; everything as text, for a parser that guesses turns "007" into 7."""
    schema = {str(i): pl.String for i in range(width)}
    if not text:
        return pl.DataFrame(schema=schema)
    try:
        frame = pl.read_csv(io.BytesIO(text), has_header=False, schema=schema, separator=sep, infer_schema=False)
    except pl.exceptions.PolarsError as error:
        fix = "check the quotes around fields, and write the file again"
        raise refused(source, "separated fields", str(error).splitlines()[0], fix) from error
    return frame.with_columns(pl.all().replace("", None)) if b'""' in text else frame


def _named(frame: pl.DataFrame, layout: _Cut, rows: Rows, source: str) -> tuple[pl.DataFrame, list[str]]:
    """Fields below the names of their columns, without empty columns that have no name."""
    records, names = len(layout.records.ends) - 1, layout.names
    if frame.height != records:
        got = f"{frame.height} rows in {records} records"
        raise refused(source, "a row for each record", got, "write the file again, with plain line ends")
    for extra in frame.columns[len(names) :]:
        long = frame[extra].is_not_null().arg_true().to_list()
        if long:
            got = listed(long, lambda row: f"{layout.width} in {rows.name(row)}")
            raise refused(source, f"{len(names)} fields in every line, as in the header", got, "correct these lines")
    unnamed = [i for i in range(layout.width) if not "".join(names[i : i + 1]) and frame[str(i)].is_null().all()]
    kept = [(str(i), name) for i, name in enumerate(names) if i not in unnamed]
    columns = [name for _, name in kept]
    repeated = {name: [i + 1 for i, other in enumerate(names) if other == name] for name in columns}
    doubled = [f"{name!r} in columns {', '.join(map(str, at))}" for name, at in repeated.items() if len(at) > 1]
    if doubled:
        got = f"{'; '.join(doubled)} of line {rows.first - 1}"
        raise refused(source, "a name of its own for each column", got, "rename the columns in the header line")
    notes = [f"empty columns without a name left out: {len(unnamed)}"] if unnamed else []
    return frame.select(pl.col(key).alias(name) for key, name in kept), notes


def _said(sep: str) -> str:
    return SEPARATORS.get(sep, repr(sep))
