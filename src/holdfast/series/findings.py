"""What a check found: problems and notes of one table, with rows named as a person counts them."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field

from holdfast.errors import HoldfastError, Problem

EXAMPLES = 5


def listed(examples: Sequence[str], total: int) -> str:
    """A handful of examples and how many more there are.

    Example:
        >>> listed(["'n/a' in line 3", "'?' in line 9"], 14)
        "'n/a' in line 3; '?' in line 9 ... and 12 more"
    """
    shown = "; ".join(examples[:EXAMPLES])
    more = total - min(len(examples), EXAMPLES)
    return f"{shown} ... and {more} more" if more else shown


@dataclass
class Findings:
    """Collects everything that is wrong with one table, so that it can be told at once.

    Attributes:
        source: The name of the table. Rows of a CSV file are counted as lines, with the header as line 1; rows of
            anything else are counted from 0.
        problems: What must change.
        notes: What was done and should be known.
    """

    source: str
    problems: list[Problem] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)

    def report(self, what: str, *, expected: str, got: str, fix: str) -> None:
        """Add one problem at `what` (a column, usually) of this table."""
        self.problems.append(Problem(f"{self.source}, {what}" if what else self.source, expected, got, fix))

    def adopt(self, error: HoldfastError) -> None:
        """Add the problems of an error raised further down."""
        self.problems.extend(error.problems)

    def row(self, number: int) -> str:
        """The name of a row that has `number` rows above it."""
        return f"line {number + 2}" if self.source.endswith((".csv", ".csv.gz")) else f"row {number}"

    def rows(self, values: Iterable[object], numbers: Iterable[int], total: int) -> str:
        """Values with their rows."""
        pairs = zip(values, numbers, strict=True)
        return listed([f"{value} in {self.row(int(number))}" for value, number in pairs], total)
