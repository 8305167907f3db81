"""The bytes of a file, whatever they are packed in; more than a table can have is refused while it is unpacked."""

from __future__ import annotations

import bz2
import gzip
import sys
import zlib
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any, cast

from holdfast.errors import DataError, Problem
from holdfast.series.options import MOST_ROWS, TableOptions

TEXT = (".csv", ".tsv", ".txt", ".jsonl")
BINARY = (".parquet", ".feather", ".arrow", ".xlsx")
PACKED = (".gz", ".bz2", ".zst")
STDIN = "-"

CHUNK = 2**20
FREE_BYTES, MOST_GROWTH = 2**26, 200  # real tables shrink to a twentieth or so


@dataclass(frozen=True)
class TableFile:
    """Where a table lies.

    Attributes:
        path: Path of the file; "-" for standard input.
        kind: Its ending without that of the packing, in lower case.
        packing: .gz, .bz2, .zst or nothing.
    """

    path: Path
    kind: str
    packing: str = ""

    @property
    def source(self) -> str:
        """Its name in errors."""
        return "standard input" if str(self.path) == STDIN else str(self.path)


def place_of(path: Path) -> TableFile:
    """Kind and packing of a file by its name.

    Raises:
        DataError: If tables of this kind are not read.

    Example:
        >>> place_of(Path("SALES.CSV.GZ"))
        TableFile(path=...Path('SALES.CSV.GZ'), kind='.csv', packing='.gz')
    """
    if str(path) == STDIN:
        return TableFile(path, ".csv")
    name = path.name.lower()
    packing = next((ending for ending in PACKED if name.endswith(ending)), "")
    kind = next((ending for ending in (*TEXT, *BINARY) if name.removesuffix(packing).endswith(ending)), None)
    if kind is None or (packing and kind in BINARY):
        expected = f"a file that ends in {', '.join((*TEXT, *BINARY))}; text also with {', '.join(PACKED)} after it"
        raise refused(str(path), expected, f"{path.suffix or 'no ending'!r}", "save the table as CSV or Parquet")
    return TableFile(path, kind, packing)


def read_bytes(place: TableFile, options: TableOptions) -> bytes:
    """All bytes of a file or of standard input, unpacked.

    Raises:
        DataError: If it cannot be read or unpacked, or is larger than the options allow.
    """
    if str(place.path) == STDIN:
        return _bounded(sys.stdin.buffer, place, options, None)
    try:
        size = place.path.stat().st_size
        with place.path.open("rb") as file:
            return _bounded(file, place, options, size)
    except OSError as error:
        got = "no such file" if isinstance(error, FileNotFoundError) else error.strerror or str(error)
        raise refused(place.source, "a file that can be read", got, "check the path") from error


def _bounded(file: IO[bytes], place: TableFile, options: TableOptions, size: int | None) -> bytes:
    """Read in chunks, and stop where there are too many lines or, of a packed file, bytes."""
    most = (options.max_rows or MOST_ROWS) + 1  # the header
    chunks, lines, total = [], 0, 0
    stream = _unpacked(file, place)
    while chunk := _next(stream, place):
        chunks.append(chunk)
        total += len(chunk)
        if place.kind in TEXT:
            lines += chunk.count(b"\n")
        if lines > most:
            raise too_many(place.source, options)
        if place.packing and size and options.max_rows is None and total > max(FREE_BYTES, MOST_GROWTH * size):
            got = f"{size:,} bytes that unpack to more than {total:,}"
            fix = f"unpack it yourself, or say how many rows it may have: --max-rows {MOST_ROWS}"
            raise refused(place.source, f"a packed file that grows less than {MOST_GROWTH} times", got, fix)
    return b"".join(chunks)


def _unpacked(file: IO[bytes], place: TableFile) -> IO[bytes]:
    if place.packing == ".gz":
        return cast(IO[bytes], gzip.GzipFile(fileobj=file))
    if place.packing == ".bz2":
        return cast(IO[bytes], bz2.BZ2File(file))
    if place.packing == ".zst":
        import pyarrow as pa  # the standard library unpacks it from Python 3.14 on

        return cast(IO[bytes], pa.CompressedInputStream(pa.PythonFile(file, mode="r"), "zstd"))
    return file


def _next(stream: Any, place: TableFile) -> bytes:
    try:
        return cast(bytes, stream.read(CHUNK))
    except (OSError, EOFError, zlib.error) as error:
        if not place.packing:
            raise
        expected = f"a file packed as {place.packing}, whole"
        raise refused(place.source, expected, str(error), "pack the file again") from error


def too_many(source: str, options: TableOptions, rows: int | None = None) -> DataError:
    """More rows than the options allow; None: how many is not known, since reading stopped there."""
    most = options.max_rows or MOST_ROWS
    got, enough = (
        (f"more than {most:,}", "a larger --max-rows") if rows is None else (f"{rows:,}", f"--max-rows {rows}")
    )
    return refused(source, f"no more than {most:,} rows", got, f"give {enough}, or bring fewer rows")


def refused(source: str, expected: str, got: str, fix: str) -> DataError:
    """A file that cannot be read."""
    return DataError(Problem(source, expected, got, fix))
