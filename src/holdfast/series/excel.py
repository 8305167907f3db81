"""Excel workbooks, by fastexcel: the sheet that holds the table, read like a text file, numbers to the last bit."""

from __future__ import annotations

import io
import zipfile
from typing import Any

import polars as pl

from holdfast.errors import DataError, Problem
from holdfast.series.findings import Rows, listed
from holdfast.series.opening import FREE_BYTES, MOST_GROWTH, refused, too_many
from holdfast.series.options import MOST_ROWS, TableOptions

INSTALL = "python -m pip install 'holdfast[excel]', or save the sheet as CSV"
_NOT_AVAILABLE = "NA"  # the error value that stands for a missing one


def read_excel(data: bytes, source: str, options: TableOptions) -> tuple[pl.DataFrame, Rows, list[str]]:
    """Read the one sheet that holds a table; all fields as text but for numbers with a fraction.

    Raises:
        DataError: If fastexcel is not installed, the file is damaged, or several sheets could be meant.
    """
    try:
        import fastexcel
    except ModuleNotFoundError as error:
        raise refused(source, "the package fastexcel, which reads .xlsx", "it is not installed", INSTALL) from error
    _check_size(data, source, options)
    try:
        book = fastexcel.read_excel(data)
        sheets = {name: _sheet(book, name) for name in book.sheet_names}
    except fastexcel.FastExcelError as error:
        got = str(error).splitlines()[0]
        raise refused(source, "an Excel workbook (.xlsx)", got, "save it again, or save the sheet as CSV") from error
    name = _choose({name: sheet for name, sheet in sheets.items() if sheet.height}, source, options)
    frame, rows = _headed(sheets[name], source, options)
    return frame, rows, [f"read the sheet {name!r}"] if len(sheets) > 1 else []


def _check_size(data: bytes, source: str, options: TableOptions) -> None:
    try:
        size = sum(part.file_size for part in zipfile.ZipFile(io.BytesIO(data)).infolist())
    except (zipfile.BadZipFile, ValueError, NotImplementedError) as error:
        raise refused(
            source, "an Excel workbook (.xlsx)", str(error), "save it again, or save the sheet as CSV"
        ) from error
    if options.max_rows is None and size > FREE_BYTES and size > MOST_GROWTH * len(data):
        got = f"{len(data):,} bytes that unpack to {size:,}"
        fix = f"save the sheet as CSV, or say how many rows it may have: --max-rows {MOST_ROWS}"
        raise refused(source, f"a workbook that grows less than {MOST_GROWTH} times", got, fix)


def _sheet(book: Any, name: str) -> pl.DataFrame:
    """A sheet from its first row on, as text; null where empty, the name of the error where a formula failed."""
    sheet = book.load_sheet(name, header_row=None, skip_rows=0, dtypes="string")
    if not sheet.total_height:
        return pl.DataFrame()
    batch, errors = sheet.to_arrow_with_errors()
    text: pl.DataFrame = pl.from_arrow(batch)  # type: ignore[assignment]
    text.columns = [str(i) for i in range(text.width)]
    frame = _exact(text, book.load_sheet(name, header_row=None, skip_rows=0, dtypes="float").to_polars())
    failed: dict[str, list[tuple[int, str]]] = {}
    for error in errors.errors if errors else ():
        row, column = error.offset_position
        kind = error.detail.partition("Error(")[2].partition(")")[0]
        if kind != _NOT_AVAILABLE:
            failed.setdefault(str(column), []).append((row, f"error {kind}"))
    for column, cells in failed.items():
        frame = frame.with_columns(frame[column].scatter([row for row, _ in cells], [text for _, text in cells]))
    return frame


def _choose(sheets: dict[str, pl.DataFrame], source: str, options: TableOptions) -> str:
    """The one sheet with anything on it, or with the columns that are asked for."""
    wanted = {options.time_col} if options.wide else {options.time_col, options.target_col}
    named = [name for name, sheet in sheets.items() if wanted <= set(sheet.row(_header_row(sheet)))]
    if len(sheets) == 1 or len(named) == 1:
        return (named or list(sheets))[0]
    got = listed(named or list(sheets)) if sheets else "empty sheets alone"
    fix = "keep one table in the workbook, or save its sheet as CSV"
    raise refused(source, f"one sheet with {' and '.join(sorted(wanted))}", got, fix)


def _header_row(sheet: pl.DataFrame) -> int:
    return int(sheet.select(pl.any_horizontal(pl.all().is_not_null()).arg_max()).item() or 0)


def _headed(sheet: pl.DataFrame, source: str, options: TableOptions) -> tuple[pl.DataFrame, Rows]:
    """The rows below the first that is not empty."""
    top = _header_row(sheet)
    names = [str(name or "").strip() for name in sheet.row(top)]
    body = sheet.slice(top + 1)
    if body.height > (options.max_rows or MOST_ROWS):
        raise too_many(source, options, body.height)
    doubled = sorted({name for name in names if name and names.count(name) > 1})
    unnamed = [i for i, name in enumerate(names) if not name and body[str(i)].null_count() < body.height]
    if doubled or len(unnamed) > 1:
        got = f"{listed(doubled or ['no name'])} more than once in row {top + 1}"
        where = f"{source}, header"
        raise DataError(Problem(where, "a name of its own for each column", got, "rename the columns"))
    kept = [i for i, name in enumerate(names) if name or i in unnamed]
    return body.select(pl.col(str(i)).alias(names[i]) for i in kept), Rows("row", top + 2)


def _exact(text: pl.DataFrame, numbers: pl.DataFrame) -> pl.DataFrame:
    """Numbers to the last bit, where the text of a cell is rounded."""
    columns = []
    for cells, exact in zip(text, numbers, strict=True):
        rounded = (cells.cast(pl.Float64, strict=False) != exact).fill_null(False)
        columns.append(exact.cast(pl.String).zip_with(rounded, cells).alias(cells.name))
    return pl.DataFrame(columns)
