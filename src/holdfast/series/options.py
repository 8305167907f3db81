"""Every option that says how to read a table, with its default, checked when made; no torch."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass, fields
from typing import Any

import numpy as np

from holdfast.errors import HoldfastError, OptionError, Problem
from holdfast.series.calendar import Freq

NO_SEASON = "none"
MOST_ROWS = 100_000_000
DIALECT = ("sep", "decimal", "thousands", "date_format", "encoding", "max_rows")  # how one table is written


@dataclass(frozen=True, kw_only=True, repr=False)
class TableOptions:
    """How to read a table, and what to forecast of it.

    Attributes:
        horizon: Steps to forecast. None: the usual number for the frequency (48 hours, 14 days, 18 months, ...).
        season_length: Steps in one season, or several of them; the first is that of the seasonal naive forecast.
            None: the usual ones of the frequency. Further seasons are looked for in the data. 1 (or 0): no usual
            season, but the search still runs; "none": no season at all, and no search.
        id_col: Column that tells series apart, or several of them; a table without it is one series. A column that
            pandas names by a number is named by it here too; forecasts have its text.
        time_col: Column of the timestamps.
        target_col: Column to forecast.
        freq: Calendar step (1h, D, MS, ...), or "rows": each row is one step. None: read off the timestamps.
        static: Columns that are constant within a series.
        future: Columns that are known ahead.
        past: Columns that are known up to now.
        fill_gaps: Insert the rows that are missing between two rows, with a missing value.
        wide: The table has a column per series, named by its head, instead of an id column.
        snap: Round timestamps to the nearest step of the grid.
        tz: Time zone of local timestamps without one (Europe/Vienna); timestamps with offsets are shown in it.
        sep: Character between the fields of a text file. None: found out.
        decimal: Decimal mark of a text file, "." or ",". None: found out.
        thousands: Thousands separator of a text file. None: found out.
        date_format: Format of the timestamps, as strftime writes it (%d.%m.%Y). None: found out.
        encoding: Encoding of a text file. None: UTF-8.
        max_rows: Largest number of rows to read; a larger file is refused before it is unpacked. None: 100 million, and
            no packed file that grows 200 times.

    Raises:
        OptionError: With every option that cannot work.

    Example:
        >>> TableOptions(horizon=48, season_length=24, id_col="shop")
        TableOptions(horizon=48, season_length=(24,), id_col='shop')
        >>> TableOptions(horizon=0)
        Traceback (most recent call last):
        ...
        holdfast.errors.OptionError: option horizon
          expected: a whole number of at least 1
          got:      0
          to do:    give --horizon 1 or more
    """

    horizon: int | None = None
    season_length: int | str | tuple[int, ...] | None = None
    id_col: str | tuple[str, ...] = "unique_id"
    time_col: str = "ds"
    target_col: str = "y"
    freq: str | int | None = None
    static: tuple[str, ...] = ()
    future: tuple[str, ...] = ()
    past: tuple[str, ...] = ()
    fill_gaps: bool = False
    wide: bool = False
    snap: bool = False
    tz: str | None = None
    sep: str | None = None
    decimal: str | None = None
    thousands: str | None = None
    date_format: str | None = None
    encoding: str | None = None
    max_rows: int | None = None

    def __post_init__(self) -> None:
        """Bring lists into tuples and numpy's numbers into Python's, then check everything at once."""
        settle(self)
        refuse(table_problems(self))

    def __repr__(self) -> str:
        """The options that are not at their default, as they were written."""
        values = [(option, getattr(self, option.name)) for option in fields(self)]
        said = [f"{option.name}={value!r}" for option, value in values if option.init and value != option.default]
        return f"{type(self).__name__}({', '.join(said)})"

    @property
    def seasons_given(self) -> tuple[int, ...] | None:
        """The seasons that the user named, none of them 1; empty for no season; None if they are the usual ones."""
        seasons = self.season_length
        if seasons is None:
            return None
        return () if isinstance(seasons, str) else tuple(s for s in _as_tuple(seasons) if s > 1)

    @property
    def look_for_seasons(self) -> bool:
        """Whether seasons are looked for in the data."""
        return self.season_length != NO_SEASON

    @property
    def id_cols(self) -> tuple[str, ...]:
        """The columns that tell series apart."""
        return self.id_col if isinstance(self.id_col, tuple) else (self.id_col,)

    @property
    def id_name(self) -> str:
        """The one column of ids, once several are joined into it."""
        return self.id_col if isinstance(self.id_col, str) else TableOptions.id_col  # type: ignore[return-value]

    @property
    def covariates(self) -> tuple[str, ...]:
        """All covariates: static, future, past."""
        return (*self.static, *self.future, *self.past)


def table_options_of(options: TableOptions) -> TableOptions:
    """The part of larger options that reading a table needs.

    Example:
        >>> table_options_of(TableOptions(horizon=3)).horizon
        3
    """
    return TableOptions(**{option.name: getattr(options, option.name) for option in fields(TableOptions)})


_TUPLES = ("season_length", "levels", "bounds", "clip_roles", "static", "future", "past")
_OPTIONAL = ("season_length", "clip_roles")
_WHOLE = {"horizon": 1, "max_rows": 1}
_OUTPUT = ("cutoff", "metric", "holdfast", "seasonal_naive")


def settle(options: TableOptions) -> None:
    """Bring lists and single values into tuples, numpy's numbers into Python's; for use while options are made."""
    for option in fields(options):
        if not option.init:
            continue
        value = getattr(options, option.name)
        single = (value is None and option.name in _OPTIONAL) or (isinstance(value, str) and value == NO_SEASON)
        several = option.name in _TUPLES or (option.name == "id_col" and isinstance(value, tuple | list))
        object.__setattr__(options, option.name, _as_tuple(value) if several and not single else _as_plain(value))
    if isinstance(options.id_col, tuple) and len(options.id_col) == 1:
        object.__setattr__(options, "id_col", options.id_col[0])
    for name in ("id_col", "time_col", "target_col", "static", "future", "past"):
        value, several = getattr(options, name), name not in ("time_col", "target_col")
        named = tuple(map(_as_name, value)) if several and isinstance(value, tuple) else _as_name(value)
        object.__setattr__(options, name, named)


def refuse(problems: Iterator[Problem]) -> None:
    """Raise all of the problems at once, if there are any."""
    found = list(problems)
    if found:
        raise OptionError(found)


def table_problems(options: TableOptions) -> Iterator[Problem]:
    """Everything that is wrong with the options of a table."""
    for name, least in _WHOLE.items():
        yield from whole_problem(name, getattr(options, name), least, optional=True)
    seasons = options.season_length
    numbers = isinstance(seasons, tuple) and all(is_whole(season) and season >= 0 for season in seasons)
    if seasons not in (None, NO_SEASON) and not numbers:
        fix = "give --season-length 24 or 24,168, or --season-length none"
        yield wrong("season_length", "whole numbers, or none", seasons, fix)
    for name in ("fill_gaps", "wide", "snap"):
        yield from flag_problem(name, getattr(options, name))
    yield from _column_problems(options)
    yield from _text_problems(options)
    if options.freq is not None and options.freq != "rows":
        yield from refusal(Freq.parse, options.freq)


def _column_problems(options: TableOptions) -> Iterator[Problem]:
    names = [*options.id_cols, options.time_col, options.target_col, *options.covariates]
    unnamed = [name for name in names if not isinstance(name, str) or not name]
    if unnamed:
        fix = "give the name of each column; a table of one series needs no id column"
        yield wrong("columns", "names of columns", ", ".join(map(repr, unnamed)), fix)
        return
    taken = [name for name in names[: -len(options.covariates) or None] if name in _OUTPUT]
    if taken:
        yield wrong("columns", "names that output does not use", ", ".join(taken), "rename the column")
    if options.wide and options.covariates:
        fix = "leave them out, or bring a long table: one row per series and time"
        yield wrong("wide", "no covariates: a wide table has no place for them", ", ".join(options.covariates), fix)
    if options.wide and len(options.id_cols) > 1:
        fix = "give one name, or leave --id-col out"
        yield wrong("wide", "one column of ids: the heads of the columns", ", ".join(options.id_cols), fix)
    twice = sorted({name for name in names if names.count(name) > 1})
    if twice:
        yield wrong("columns", "each column in one part only", ", ".join(twice), "name each column once")


def _text_problems(options: TableOptions) -> Iterator[Problem]:
    for name in ("sep", "decimal", "thousands", "date_format", "encoding", "tz"):
        value = getattr(options, name)
        if value is not None and (not isinstance(value, str) or not value):
            yield wrong(name, "text", value, f"leave --{flag(name)} out to have it found out")
            return
    yield from _mark_problems(options)


def _mark_problems(options: TableOptions) -> Iterator[Problem]:
    sep, decimal, thousands = options.sep, options.decimal, options.thousands
    if sep and (len(sep) > 1 or not sep.isascii() or sep in '"\r\n\0'):
        yield wrong("sep", "one ASCII character", sep, "give --sep ';', for instance")
    if decimal and decimal not in (".", ","):
        yield wrong("decimal", "a point or a comma", decimal, "give --decimal ,")
    if thousands and (len(thousands) > 1 or thousands.isalnum() or thousands in f"+-{decimal or ''}"):
        yield wrong("thousands", "one character, but for the decimal mark", thousands, "give --thousands .")


def refusal(parse: Callable[[Any], object], value: Any) -> tuple[Problem, ...]:
    """The problems that a parser raises for a value; none if it reads it."""
    try:
        parse(value)
    except HoldfastError as error:
        return error.problems
    return ()


def whole_problem(name: str, value: object, least: int, *, optional: bool = False) -> Iterator[Problem]:
    """A problem where an option is not a whole number of at least so much."""
    if (value is None and optional) or (is_whole(value) and least <= value < 2**63):  # type: ignore[operator]
        return
    expected = f"a whole number of at least {least}" + (" and below 2^63" if name == "seed" else "")
    yield wrong(name, expected, value, f"give --{flag(name)} {least} or more")


def flag_problem(name: str, value: object) -> Iterator[Problem]:
    """A problem where an option is not True or False."""
    if not isinstance(value, bool):
        yield wrong(name, "True or False", value, f"give --{flag(name)}, or leave it out")


def wrong(name: str, expected: str, got: object, fix: str) -> Problem:
    """The problem of an option."""
    return Problem(f"option {name}", expected, repr(got) if isinstance(got, str) else str(got), fix)


def flag(name: str) -> str:
    """The name of an option in the shell."""
    return name.replace("_", "-")


def is_whole(value: object) -> bool:
    """Whether this is a whole number (a bool is not)."""
    return isinstance(value, int) and not isinstance(value, bool)


def is_number(value: object) -> bool:
    """Whether this is a number, infinity among them; nan and bools are not."""
    return isinstance(value, int | float) and not isinstance(value, bool) and not math.isnan(value)


def _as_tuple(value: Any) -> tuple[Any, ...]:
    several = isinstance(value, tuple | list | np.ndarray)
    return tuple(map(_as_plain, value)) if several else (_as_plain(value),)


def _as_name(value: Any) -> Any:
    """The name of a column as text, also where it is a number or a tuple, as pandas allows."""
    return str(value) if is_whole(value) or isinstance(value, tuple) else value


def _as_plain(value: Any) -> Any:
    return value.item() if isinstance(value, np.generic) else value
