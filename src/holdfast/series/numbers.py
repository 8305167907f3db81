"""Numbers as text: which decimal mark and thousands separator they have, where only one way reads them all."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import product

import polars as pl

from holdfast.errors import DataError, Problem
from holdfast.series.findings import Rows, listed
from holdfast.series.options import TableOptions

DECIMALS = {".": "a decimal point", ",": "a decimal comma"}
THOUSANDS = (",", ".", " ", "'", "\u00a0", "\u202f", "\u2019")
NAMES = {" ": "blanks", "\u00a0": "no-break spaces", "\u202f": "narrow no-break spaces"}
WORDS = r"|^[+-]?(?:inf|nan|NaN|Inf)$"


@dataclass(frozen=True)
class Notation:
    """How numbers are written.

    Attributes:
        decimal: Decimal mark.
        thousands: What stands between groups of three digits; None: nothing.

    Example:
        >>> Notation(",", ".").plain(pl.Series(["1.234,5", "n/a"])).to_list()
        ['1234.5', 'n/a']
    """

    decimal: str = "."
    thousands: str | None = None

    @property
    def pattern(self) -> str:
        """What a number looks like."""
        mark, digits = re.escape(self.decimal), r"\d+"
        if self.thousands:
            digits = rf"(?:\d+|[1-9]\d{{0,2}}(?:{re.escape(self.thousands)}\d{{3}})+)"
        return rf"^[+-]?(?:{digits}(?:{mark}\d*)?|{mark}\d+)(?:[eE][+-]?\d+)?$" + WORDS

    def fits(self, text: pl.Series) -> pl.Series:
        """Where a value is a number in this notation; null where there is none."""
        return text.str.strip_chars().str.contains(self.pattern)

    def plain(self, text: pl.Series) -> pl.Series:
        """Numbers with a decimal point and nothing else; other text as it is."""
        numbers = text.str.strip_chars()
        if self.thousands:
            numbers = numbers.str.replace_all(self.thousands, "", literal=True)
        numbers = numbers.str.replace(self.decimal, ".", literal=True)
        plain: pl.Series = numbers.zip_with(self.fits(text).fill_null(False), text)
        return plain

    def __str__(self) -> str:
        """As a person says it."""
        between = f" and {NAMES.get(self.thousands, repr(self.thousands))} between thousands" if self.thousands else ""
        return DECIMALS[self.decimal] + between


PLAIN = Notation()


def find_notation(columns: Sequence[pl.Series], sep: str, options: TableOptions, rows: Rows, source: str) -> Notation:
    """The one notation that reads most values of all columns, where the options leave it open.

    Args:
        columns: Text that should be numbers.
        sep: What separates fields: ";" leaves the comma free to be a decimal mark.
        options: May name decimal mark and thousands separator.
        rows: How rows are counted in errors.
        source: Name of the file in errors.

    Raises:
        DataError: If two notations read them all, to different numbers.

    Example:
        >>> str(find_notation([pl.Series("y", ["1,5", "2"])], ";", TableOptions(), Rows(), "sales.csv"))
        'a decimal comma'
    """
    bad = _unread(PLAIN, columns)
    if not bad and sep != ";" and not options.decimal and not options.thousands:
        return PLAIN
    texts = [column for column in columns if not PLAIN.fits(column).all() or sep == ";"]
    marks = [mark for mark in THOUSANDS if any(text.str.contains(mark, literal=True).any() for text in texts)]
    between = (options.thousands,) if options.thousands else (None, *marks)
    possible = [
        Notation(decimal, thousands)
        for thousands, decimal in product(between, (options.decimal,) if options.decimal else DECIMALS)
        if decimal != thousands
    ]
    failures = {notation: _unread(notation, columns) for notation in possible}
    fewest = min(failures.values())
    best = [notation for notation in possible if failures[notation] == fewest]
    for other in best[1:]:
        for column in columns:
            differs = (_numbers(best[0], column) != _numbers(other, column)).fill_null(False).arg_true()
            if len(differs):
                raise _ambiguous(best[0], other, column, int(differs[0]), rows, source)
    for column in columns:
        _refuse_mixture(best[0], column, rows, source)
    return best[0]


def _refuse_mixture(notation: Notation, column: pl.Series, rows: Rows, source: str) -> None:
    """A number in plain notation among others would be read as one, and might mean another."""
    plain = (~notation.fits(column) & PLAIN.fits(column)).fill_null(False).arg_true().to_list()
    if plain:
        got = listed(plain, lambda row: f"{column[row]!r} in {rows.name(row)}")
        expected, fix = f"numbers with {notation} in every row", "write all numbers in one way"
        raise DataError(Problem(f"{source}, column {column.name!r}", expected, got, fix))


def _unread(notation: Notation, columns: Sequence[pl.Series]) -> int:
    return sum(int((~notation.fits(column)).sum()) for column in columns)


def _numbers(notation: Notation, column: pl.Series) -> pl.Series:
    numbers: pl.Series = notation.plain(column).cast(pl.Float64, strict=False)
    return numbers


def _ambiguous(one: Notation, other: Notation, column: pl.Series, row: int, rows: Rows, source: str) -> DataError:
    """Two readings of a number, and the options that choose."""
    readings = [f"{_numbers(notation, column)[row]:.10g} with {notation}" for notation in (one, other)]
    got = f"{column[row]!r} in {rows.name(row)}: {' or '.join(readings)}"
    fix = f"give {_choice(one, other)} for the first, {_choice(other, one)} for the second"
    return DataError(Problem(f"{source}, column {column.name!r}", "numbers that can be read in one way", got, fix))


def _choice(notation: Notation, other: Notation) -> str:
    """The options that choose one notation, and not the other."""
    if notation.decimal != other.decimal:
        return f"--decimal {notation.decimal}"
    return f"--thousands '{notation.thousands}'"
