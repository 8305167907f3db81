"""Every error that holdfast raises on purpose, in four parts: where, expected, got, what to do."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass


def printable(text: str, keep: str = "") -> str:
    r"""Text that is safe on a terminal: whatever is not printable is written as an escape.

    Control characters in a table (of a column name, an id, a value) would otherwise move the cursor, hide what was
    written or retitle the window.

    Args:
        text: Any text.
        keep: Characters to leave alone, a line end for instance.

    Returns:
        The text with control and format characters, unusual spaces and lone surrogates escaped as Python writes them.

    Example:
        >>> print(printable("shop\x1b[2J 7"))
        shop\x1b[2J 7
        >>> print(printable("one line\ntwo", keep="\n"))
        one line
        two
    """
    if text.isprintable():
        return text
    return "".join(
        letter if letter.isprintable() or letter in keep else letter.encode("unicode_escape").decode()
        for letter in text
    )


@dataclass(frozen=True)
class Problem:
    """One thing that is wrong, told in four parts.

    Attributes:
        where: The file, row, series, option or function that the problem sits in.
        expected: What holdfast needed there.
        got: What it found.
        fix: What the user can do about it.

    Example:
        >>> print(Problem("option --horizon", "a whole number of at least 1", "-3", "give --horizon 24"))
        option --horizon
          expected: a whole number of at least 1
          got:      -3
          to do:    give --horizon 24
    """

    where: str
    expected: str
    got: str
    fix: str

    def __str__(self) -> str:
        where, expected, got, fix = map(printable, (self.where, self.expected, self.got, self.fix))
        return f"{where}\n  expected: {expected}\n  got:      {got}\n  to do:    {fix}"


class HoldfastError(Exception):
    """The root of the family: carries all problems that were found in one pass.

    Args:
        problems: One problem or several.

    Example:
        >>> error = OptionError(Problem("option --cell", "lstm, gru or rnn-tanh", "'lstn'", "write --cell lstm"))
        >>> error.problems[0].got
        "'lstn'"
        >>> error.exit_code
        1
    """

    exit_code = 1

    def __init__(self, problems: Problem | Iterable[Problem]) -> None:
        self.problems: tuple[Problem, ...] = (problems,) if isinstance(problems, Problem) else tuple(problems)
        super().__init__("\n".join(str(problem) for problem in self.problems))

    def __reduce__(self) -> tuple[type[HoldfastError], tuple[tuple[Problem, ...]]]:
        """Copy and send to other processes by the problems, not by the text that they make."""
        return type(self), (self.problems,)


class DataError(HoldfastError):
    """The user's table cannot be forecast as it is.

    Example:
        >>> raise DataError(Problem("sales.csv, line 7, series 'a'", "a number", "'n/a'", "leave the field empty"))
        Traceback (most recent call last):
        ...
        holdfast.errors.DataError: sales.csv, line 7, series 'a'
          expected: a number
          got:      'n/a'
          to do:    leave the field empty
    """


class OptionError(HoldfastError):
    """An option has a value that cannot work.

    Example:
        >>> OptionError(Problem("option --layers", "1 or more", "0", "give --layers 1")).problems[0].where
        'option --layers'
    """


class RunDirectoryError(HoldfastError):
    """A run directory, or a file in it, is missing, damaged or not one of holdfast's.

    Example:
        >>> RunDirectoryError(Problem("run", "a run directory", "a file", "give the directory of a fit")).exit_code
        1
    """


class TrainingError(HoldfastError):
    """A run failed beyond recovery, for instance because every step was non-finite.

    Example:
        >>> TrainingError(Problem("step 12", "a finite loss", "nan", "give --lr 0.0001")).exit_code
        3
    """

    exit_code = 3


class DataWarning(UserWarning):
    """Something about newer data that makes a forecast less certain, or that was read in a way worth knowing.

    Example:
        >>> import warnings
        >>> with warnings.catch_warnings(record=True) as caught:
        ...     warnings.simplefilter("always", DataWarning)
        ...     warnings.warn("no value in the newest rows", DataWarning)
        >>> str(caught[0].message)
        'no value in the newest rows'
    """
