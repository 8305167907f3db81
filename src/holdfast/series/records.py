"""A text cut into records and fields, where quotes say so: which lines there are, and how many fields each has.

Only counts, in numpy, for all lines at once: the fields themselves are left to the parser. Quotes are those of
RFC 4180, around whole fields and doubled within, so that no two parsers can see different rows.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from holdfast.errors import Problem

Ints = NDArray[np.int64]
NEWLINE, RETURN, QUOTE, SPACE = 10, 13, 34, 32


@dataclass(frozen=True, eq=False)
class Records:
    """The records of a text whose fields one character separates.

    Attributes:
        data: The text in UTF-8, without blanks around quoted fields.
        ends: Where each record ends, in bytes [R].
        lines: Line on which each record starts, from 1 [R].
        fields: Number of fields of each record; 0 of a blank one [R].
    """

    data: bytes
    ends: Ints
    lines: Ints
    fields: Ints

    def text(self, record: int) -> str:
        """One record as it stands."""
        start = int(self.ends[record - 1]) + 1 if record else 0
        return self.data[start : int(self.ends[record])].decode("utf-8").removesuffix("\r")

    @property
    def body(self) -> bytes:
        """Everything below the header."""
        return self.data[int(self.ends[0]) + 1 :]


def cut(data: bytes, sep: str, source: str) -> Records | Problem:
    r"""Cut a text into records.

    Returns:
        The records, or the first problem with a quote or a carriage return.

    Example:
        >>> records = cut(b'id,y\n"a\n,b",1\nc,2', ",", "sales.csv")
        >>> records.lines.tolist(), records.fields.tolist(), records.text(1)
        ([1, 2, 4], [2, 2, 2], '"a\n,b",1')
    """
    raw = np.frombuffer(data + b"\n", dtype=np.uint8)
    breaks = np.flatnonzero(raw == NEWLINE)
    inside = np.bitwise_xor.accumulate((raw == QUOTE).astype(np.uint8)).astype(bool) if b'"' in data else None
    bad = _stray_return(raw, inside) if b"\r" in data else None
    if bad is not None:
        return _problem(source, data, bad, breaks, "one kind of line end", "a carriage return", "remove it")
    if inside is not None:
        padding = _padding(raw, inside, ord(sep))
        if padding is not None:  # blanks in front of a quote and after it are no part of the field
            return cut(raw[~padding][:-1].tobytes(), sep, source)
        bad, opened = _stray_quote(raw, inside, ord(sep))
        if bad is not None:
            since = int(np.searchsorted(breaks, opened)) + 1
            got = (
                "a quote"
                if np.searchsorted(breaks, bad) < since
                else f"a field that opens in line {since}, and a quote"
            )
            expected = "quotes around whole fields, doubled within them"
            fix = 'write the field as "...", with each quote in it twice'
            return _problem(source, data, bad, breaks, expected, got, fix)
    ends = breaks if inside is None else breaks[~inside[breaks]]
    starts = np.append(0, ends[:-1] + 1)
    separators = np.flatnonzero(raw == ord(sep))
    separators = separators if inside is None else separators[~inside[separators]]
    fields = np.diff(np.searchsorted(separators, ends), prepend=0) + 1
    blank = (ends == starts) | ((ends == starts + 1) & (raw[starts] == RETURN))
    lines = np.searchsorted(breaks, starts) + 1
    return Records(data, ends, lines, np.where(blank, 0, fields))


def _stray_return(raw: NDArray[np.uint8], inside: NDArray[np.bool_] | None) -> int | None:
    """Where a carriage return ends no line."""
    at = np.flatnonzero(raw == RETURN)
    stray = raw[at + 1] != NEWLINE if inside is None else (raw[at + 1] != NEWLINE) & ~inside[at]
    return int(at[stray][0]) if stray.any() else None


def _stray_quote(raw: NDArray[np.uint8], inside: NDArray[np.bool_], sep: int) -> tuple[int | None, int]:
    """Where a quote opens or closes anything but a whole field, and the quote before it."""
    at = np.flatnonzero(raw == QUOTE)
    before = np.where(at > 0, raw[at - 1], NEWLINE)
    after = raw[at + 1]
    opens = inside[at]
    good = np.where(opens, np.isin(before, (sep, NEWLINE, QUOTE)), np.isin(after, (sep, NEWLINE, RETURN, QUOTE)))
    if not good.all():
        first = int(np.flatnonzero(~good)[0])
        return int(at[first]), int(at[max(first - 1, 0)])
    return (int(at[-1]) if inside[-1] else None), int(at[-1])  # one that nothing closes


def _padding(raw: NDArray[np.uint8], inside: NDArray[np.bool_], sep: int) -> NDArray[np.bool_] | None:
    """Which blanks stand between a separator and a quote, or a quote and a separator."""
    at = np.flatnonzero(raw == QUOTE)
    edges = np.zeros(len(raw) + 1, dtype=np.int64)
    for quotes, step in ((at[inside[at]], -1), (at[~inside[at]], 1)):
        quotes = quotes[raw[quotes + step] == SPACE]
        place = quotes + step
        while (more := raw[place] == SPACE).any():
            place = place + step * more
        reaches = np.isin(raw[place], (sep, NEWLINE, RETURN))
        first, last = np.sort(np.stack([quotes, place])[:, reaches], axis=0)
        np.add.at(edges, first + 1, 1)
        np.add.at(edges, last, -1)
    padding = np.cumsum(edges[:-1]) > 0
    return padding if sep != SPACE and padding.any() else None


def _problem(source: str, data: bytes, at: int, breaks: Ints, expected: str, got: str, fix: str) -> Problem:
    """A problem with one byte, and the text around it."""
    line = int(np.searchsorted(breaks, at)) + 1
    start = int(breaks[line - 2]) + 1 if line > 1 else 0
    around = data[max(start, at - 20) : min(int(breaks[line - 1]), at + 20)].decode("utf-8", errors="ignore")
    return Problem(source, expected, f"{got} in line {line}: {around!r}", fix)
