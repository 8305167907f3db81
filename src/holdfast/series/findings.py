"""What a check found: problems and notes of one table, with rows named as a person counts them."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import TypeVar

import numpy as np
from numpy.typing import NDArray

from holdfast.errors import HoldfastError, Problem

EXAMPLES = 5
COLUMNS = 20


Item = TypeVar("Item")


def listed(items: Sequence[Item], say: Callable[[Item], str] = repr) -> str:
    """The first few items, and how many more there are.

    Example:
        >>> listed([3, 9, 27, 81, 243, 729, 2187], "line {}".format)
        'line 3; line 9; line 27; line 81; line 243 ... and 2 more'
    """
    shown = "; ".join(say(item) for item in items[:EXAMPLES])
    more = len(items) - EXAMPLES
    return f"{shown} ... and {more} more" if more > 0 else shown


@dataclass(frozen=True, eq=False)
class Rows:
    """How a person counts the rows of a table.

    Attributes:
        word: "line" of a text file, "row" of anything else.
        first: Number of the first row: 2 below a header line, 0 in a dataframe.
        numbers: Number of each row, where they do not follow one another.

    Example:
        >>> Rows("line", 2).name(0), Rows().name(0)
        ('line 2', 'row 0')
    """

    word: str = "row"
    first: int = 0
    numbers: NDArray[np.int64] | None = None

    def name(self, row: int) -> str:
        """The name of the row that has `row` rows above it."""
        return f"{self.word} {row + self.first if self.numbers is None else self.numbers[row]}"


def column_names(names: Sequence[str]) -> str:
    """Columns by name; of very many the first ones.

    Example:
        >>> column_names(["ds", "y"])
        "'ds', 'y'"
    """
    more = len(names) - COLUMNS
    return ", ".join(map(repr, names[:COLUMNS])) + (f" ... and {more} more" if more > 0 else "")


def series_name(key: object) -> str:
    """A series as a person names it, by its key or by the several columns that make it up.

    Example:
        >>> series_name("a"), series_name({"store": "a", "item": 7})
        ("series 'a'", "series store 'a', item 7")
    """
    parts = [f"{name} {value!r}" for name, value in key.items()] if isinstance(key, dict) else [repr(key)]
    return f"series {', '.join(parts)}"


@dataclass
class Findings:
    """Collects everything that is wrong with one table, so that it can be told at once.

    Attributes:
        source: The name of the table.
        problems: What must change.
        notes: What was done and should be known.
        concerns: Those of the notes that bear on how far a forecast can be trusted.
        rows: How its rows are counted.
        date_format: The way of reading its dates, where it had to be found out; chooses for a second table too.
        height: Rows of the table as it was brought, where several series stand side by side in each of them.
    """

    source: str
    problems: list[Problem] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)
    concerns: list[str] = field(default_factory=list)
    rows: Rows = field(default_factory=Rows)
    date_format: str | None = None
    height: int | None = None

    def report(self, what: str, *, expected: str, got: str, fix: str) -> None:
        """Add one problem at `what` (a column, usually) of this table."""
        self.problems.append(Problem(f"{self.source}, {what}" if what else self.source, expected, got, fix))

    def concern(self, note: str) -> None:
        """Add a note that bears on how far a forecast can be trusted."""
        self.notes.append(note)
        self.concerns.append(note)

    def adopt(self, error: HoldfastError) -> None:
        """Add the problems of an error raised further down."""
        self.problems.extend(error.problems)

    def row(self, number: int) -> str:
        """The name of a row that has `number` rows above it."""
        return self.rows.name(number % self.height if self.height else number)
