"""Advice on how to read times: each option is tried on the table, and named only if it leaves no problem."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from typing import Any

import numpy as np
import polars as pl

from holdfast.errors import OptionError, Problem
from holdfast.series.calendar import ROWS
from holdfast.series.findings import Findings
from holdfast.series.grid import Grid, place_rows
from holdfast.series.inference import calendars
from holdfast.series.options import TableOptions
from holdfast.series.values import Values
from holdfast.series.wall import to_wall
from holdfast.series.zones import zones_for

_MOST, _ZONES = 2, 4  # remedies that one message names, zones that are tried


def place_or_advise(values: Values, options: TableOptions, findings: Findings) -> Grid | None:
    """Place the rows of a table; where that fails, say which options would make it work.

    Returns:
        The grid, or None where ids, times or the frequency cannot be told.
    """
    own = replace(findings, problems=[], notes=[])
    grid = place_rows(values, options, own)
    if own.problems and own.problems[0].where.endswith("times"):
        found: list[str] = []
        for last_resort, changes in _changes(values, options, grid):
            enough = len(found) == _MOST or any("--tz" in each for each in found)
            if not enough and not (found and last_resort):
                found += _trial(values, options, changes, own)
        if found:
            first = own.problems[0]
            own.problems[0] = Problem(first.where, first.expected, first.got, "; or ".join([*found, first.fix]))
    findings.problems.extend(own.problems)
    findings.notes.extend(own.notes)
    return grid


def _changes(values: Values, options: TableOptions, grid: Grid | None) -> Iterator[tuple[bool, dict[str, Any]]]:
    """Changes of options that may help, and whether each is a last resort; the least far-reaching first."""
    if options.freq is not None:
        yield False, {"freq": None}
    if options.tz is None:
        zones = _zones(values, grid)[:_ZONES]
        yield from ((False, {"tz": zone}) for zone in zones)
        yield from ((False, {"tz": zone, "freq": None}) for zone in zones if options.freq is not None)
    if not options.fill_gaps and grid is not None:
        yield False, {"fill_gaps": True}
    if options.freq is None and grid is not None:
        ranked = calendars(grid.times, grid.ids.gather(grid.series))
        yield from ((False, {"freq": freq.text}) for freq, _ in ranked if freq is not None and freq != grid.freq)
    if not options.snap:
        yield False, {"snap": True}
    if options.freq != ROWS and _lasting(values):
        yield False, {"freq": ROWS}
    yield True, {"snap": True, "freq": None}
    yield True, {"snap": True, "freq": None, "fill_gaps": True}
    if options.tz is None:
        yield from ((True, {"tz": zone, "freq": None, "fill_gaps": True}) for zone in zones)


def _trial(values: Values, options: TableOptions, changes: dict[str, Any], before: Findings) -> list[str]:
    """The options to type and what they did; none if they leave a problem, or invent more than they find."""
    after = replace(before, problems=[], notes=[])
    try:
        grid = place_rows(values, replace(options, **changes), after)
    except OptionError:
        return []
    if grid is None or after.problems:
        return []
    missing, given = grid.missing, np.diff(grid.first)
    if missing.sum() >= given.sum() or (missing >= given).mean() > 0.1:
        return []
    notes = [note for note in after.notes if note not in before.notes] or [f"all rows fit steps of {grid.freq.text}"]
    if "tz" in changes:
        notes.append("a zone with the same clock does as well")
    drop = options.freq is not None and "freq" in changes and changes["freq"] is None
    parts = [
        *(["leave --freq out"] if drop else []),
        *(["give " + " ".join(typed)] if (typed := _typed(changes)) else []),
    ]
    return [f"{' and '.join(parts)} (tried: {'; '.join(notes)})"]


def _typed(changes: dict[str, Any]) -> list[str]:
    """Options as they are typed in a shell."""
    given = {f"--{name.replace('_', '-')}": value for name, value in changes.items() if value is not None}
    return [name if value is True else f"{name} {value}" for name, value in given.items()]


def _zones(values: Values, grid: Grid | None) -> list[str]:
    """Zones in which what is odd about the times may be right."""
    times, ids = values.times, values.ids
    if times is None or ids is None or not isinstance(times.dtype, pl.Datetime):
        return []
    if times.dtype.time_zone is not None:
        return zones_for(times, times.head(0))
    rows = pl.DataFrame({"id": ids, "ds": times})
    double = rows.filter(rows.is_duplicated())["ds"].unique()
    if not len(double) and grid is not None and grid.missing.any() and grid.freq.sub_daily and not grid.freq.by_rows:
        after = np.flatnonzero(np.diff(grid.steps) > 1)
        double = grid.at(grid.series[after], grid.steps[after] + 1).unique()
    return zones_for(times, double)


def _lasting(values: Values) -> bool:
    """Whether no single gap makes up half of the time of all rows, as a wrong year would."""
    if values.times is None:
        return False
    wall = np.unique(to_wall(values.times.drop_nulls(), local=False))
    return len(wall) > 2 and 2 * int(np.diff(wall).max()) < int(wall[-1]) - int(wall[0])
