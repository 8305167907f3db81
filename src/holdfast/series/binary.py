"""Parquet and Arrow files: how many rows they claim is read before they are unpacked."""

from __future__ import annotations

import io
from pathlib import Path

import polars as pl

from holdfast.series.opening import TableFile, read_bytes, refused, too_many
from holdfast.series.options import MOST_ROWS, TableOptions

# A damaged file can make the parser panic instead of raise.
_DAMAGE = (pl.exceptions.PolarsError, pl.exceptions.PanicException, OSError)


def read_binary(place: TableFile, options: TableOptions) -> pl.DataFrame:
    """A .parquet, .feather or .arrow file.

    Raises:
        DataError: If it is damaged, or claims more rows than the options allow.
    """
    data = io.BytesIO(read_bytes(place, options))
    word = "a Parquet file" if place.kind == ".parquet" else "an Arrow file (Feather version 2)"
    try:
        return _within(_scan(data, place.kind), place.source, options)
    except _DAMAGE as error:
        raise refused(place.source, f"{word}, whole", _first_line(error), "write the file again") from error


def is_set(path: Path) -> bool:
    """Whether a path stands for several files: a folder, or a pattern."""
    return path.is_dir() or (any(mark in str(path) for mark in "*?[") and not path.exists())


def read_set(path: Path, options: TableOptions) -> tuple[pl.DataFrame, list[str]]:
    """All Parquet files of a folder or of a pattern as one table, in order of their names.

    Where the folder holds folders named column=value instead, they give this column.

    Raises:
        DataError: If there are none, or they do not fit together.
    """
    if path.is_dir():
        names = [*path.glob("*.parquet")] or [*path.rglob("*=*/*.parquet")]
    else:
        names = [*Path(path.anchor).glob(str(path.relative_to(path.anchor)))]
    files = sorted(file for file in names if file.is_file())
    wrong = [file for file in files if file.suffix.lower() != ".parquet"]
    if not files or wrong:
        got = f"{wrong[0].name!r} among them" if wrong else "none"
        fix = "give one file, or a folder or a pattern of Parquet files alone"
        raise refused(str(path), "Parquet files in this folder or of this pattern", got, fix)
    try:
        frame = _within(pl.scan_parquet(files, hive_partitioning=path.is_dir()), str(path), options)
    except _DAMAGE as error:
        fix = "write them with the same columns of the same types"
        raise refused(str(path), "whole Parquet files that fit together", _misfit(files, error), fix) from error
    return frame, [f"read {len(files)} files in order of their names, {files[0].name} to {files[-1].name}"]


def _scan(data: io.BytesIO, kind: str) -> pl.LazyFrame:
    if kind == ".parquet":
        return pl.scan_parquet(data)
    if data.getvalue()[:6] == b"ARROW1":
        return pl.scan_ipc(data)
    return pl.read_ipc_stream(data).lazy()


def _within(table: pl.LazyFrame, source: str, options: TableOptions) -> pl.DataFrame:
    rows = table.select(pl.len()).collect().item()
    if rows > (options.max_rows or MOST_ROWS):
        raise too_many(source, options, rows)
    frame: pl.DataFrame = table.collect()
    return frame


def _misfit(files: list[Path], error: BaseException) -> str:
    """Which file differs from the first, and how."""
    for file in files:
        try:
            schema = pl.read_parquet_schema(file)
        except _DAMAGE as damage:
            return f"{file.name}: {_first_line(damage)}"
        first = pl.read_parquet_schema(files[0])
        pairs = ((file, schema), (files[0], first))
        for name in [*first, *schema]:
            if schema.get(name) != first.get(name):
                types = [f"{kind.get(name, 'missing')} in {part.name}" for part, kind in pairs]
                return f"column {name!r} is {' and '.join(types)}"
    return _first_line(error)


def _first_line(error: BaseException) -> str:
    return (str(error).splitlines() or [type(error).__name__])[0]
