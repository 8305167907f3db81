"""Advice about the options of a table, given only after the table was checked with it."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from difflib import get_close_matches
from itertools import combinations
from shlex import quote
from typing import Any

import polars as pl

from holdfast.errors import HoldfastError, Problem
from holdfast.series.options import TableOptions, flag
from holdfast.series.values import used_names

NAME_TARGET = "name the column with --target-col"
MOST_IDS = 6  # free columns that are tried as ids, one by one and then in pairs: 21 checks at most
Change = dict[str, Any]
Check = Callable[[TableOptions], object]

_SYNONYMS: dict[str, Sequence[str]] = {
    "id_col": ("unique_id", "id", "series", "series_id", "item_id"),
    "time_col": ("ds", "date", "datetime", "time", "timestamp", "month", "day"),
    "target_col": ("y", "value", "target", "sales", "demand", "quantity", "volume"),
}


def advised(problems: Sequence[Problem], table: pl.DataFrame, options: TableOptions, check: Check) -> list[Problem]:
    """The problems of a table; where other options make it pass the check, they are what to do.

    Names of columns that are not there are corrected too if that only gets further, to other problems.

    Args:
        problems: Of the table with the options that it was checked with.
        table: As it was brought.
        options: Those options.
        check: Checks the table with other options, and raises a `HoldfastError`.

    Returns:
        As many problems.

    Example:
        >>> problem = Problem("column 'ds'", "a column 'ds'", "no such column among 'day', 'y'", "name it")
        >>> advised([problem], pl.DataFrame({"day": [1], "y": [1.0]}), TableOptions(), lambda options: None)[0].fix
        'give --time-col day'
    """
    renames = _renames(table, options)
    left = _problems(check, options, renames) if renames else list(problems)
    works = [] if left else [renames]
    works += [change for change in _shapes(table, options, renames) if not _problems(check, options, change)]
    if not works and any("duplicate rows" in problem.got for problem in problems):
        works = _keys(table, options, check)
    if works:
        return [replace(problem, fix=_joined(works, problem)) for problem in problems]
    return [problem if problem in left else replace(problem, fix=_said(renames)) for problem in problems]


def _joined(works: Sequence[Change], problem: Problem) -> str:
    """The advice, and what else it may be: duplicates that are no further series, one target among other columns."""
    other = "duplicate rows" in problem.got or (
        problem.fix == NAME_TARGET and not any("target_col" in c for c in works)
    )
    said = ", or ".join(map(_said, works))
    return f"{said}, or {problem.fix.partition(';')[0]}" if other else said


def _problems(check: Check, options: TableOptions, change: Change) -> Sequence[Problem]:
    try:
        check(replace(options, **change))
    except HoldfastError as error:
        return error.problems
    return ()


def _said(change: Change) -> str:
    """Options as they are typed."""
    if change == {"wide": False}:
        return "leave --wide out"
    words = {name: ",".join(value) if isinstance(value, tuple) else value for name, value in change.items()}
    flags = [f"--{flag(name)}" if value is True else f"--{flag(name)} {quote(value)}" for name, value in words.items()]
    return f"give {' '.join(flags)}"


def _renames(table: pl.DataFrame, options: TableOptions) -> Change:
    """Options with the names that were probably meant, for columns that are not there."""
    one_id = ("id_col",) if len(options.id_cols) == 1 and options.id_col != TableOptions.id_col else ()
    keys = ("time_col",) if options.wide else (*one_id, "time_col", "target_col")
    lacking = [name for name in keys if getattr(options, name) not in table.columns]
    near = {name: _near(name, table, options) for name in lacking}
    change: Change = {name: column for name, column in near.items() if column is not None}
    free = [name for name in table.columns if name not in used_names(options)]
    for name in (*(("id_col",) if len(options.id_cols) > 1 else ()), "static", "future", "past"):
        given = getattr(options, name)
        meant = tuple(column if column in table.columns else _close(column, free) or column for column in given)
        change |= {name: meant} if meant != given and len(set(meant)) == len(meant) else {}
    return change


def _shapes(table: pl.DataFrame, options: TableOptions, renames: Change) -> Iterator[Change]:
    """The other shape, where the table may have it."""
    if options.wide:
        yield {"wide": False}
    elif options.target_col not in table.columns and not options.covariates and len(table.columns) > 2:
        yield {"wide": True} | {name: column for name, column in renames.items() if name == "time_col"}


def _keys(table: pl.DataFrame, options: TableOptions, check: Check) -> list[Change]:
    """The fewest further columns of ids with which no row is there twice; all choices of that many."""
    kinds = (pl.String, pl.Categorical, pl.Enum, pl.Boolean)
    free = [name for name in table.columns if name not in used_names(options) and "," not in name]
    free = [name for name in free if table[name].dtype.is_integer() or table[name].dtype in kinds][:MOST_IDS]
    base = tuple(name for name in options.id_cols if name in table.columns)
    for count in (1, 2):
        changes: list[Change] = [{"id_col": (*base, *names)} for names in combinations(free, count)]
        works = [change for change in changes if not _problems(check, options, change)]
        if works:
            return works
    return []


def _near(name: str, table: pl.DataFrame, options: TableOptions) -> str | None:
    """The column that was probably meant: alike in name, or the only one of the right type."""
    free = [other for other in table.columns if other not in used_names(options)]
    lower = {other.lower(): other for other in free}
    given = str(getattr(options, name))
    for word in (given.lower(), *_SYNONYMS[name]):
        if word in lower:
            return lower[word]
    types = [(other, table[other].dtype) for other in free]
    of_type = [other for other, dtype in types if name == "time_col" and dtype.is_temporal()]
    of_type += [other for other, dtype in types if name == "target_col" and dtype.is_numeric()]
    return _close(given, free) or (of_type[0] if len(of_type) == 1 else None)


def _close(name: str, columns: Sequence[str]) -> str | None:
    """The column that is spelt nearly like a name, in whatever case."""
    lower = {column.lower(): column for column in columns}
    return next((lower[close] for close in get_close_matches(name.lower(), lower, n=1)), None)
