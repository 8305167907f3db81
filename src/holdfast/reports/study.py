"""Pictures of studies: errors by arm, errors over a bound, and predicted growth beside measured. From plain tables.

Needs the extra `report` (matplotlib); no window is opened, no global state is touched.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import polars as pl
from numpy.typing import NDArray

from holdfast.errors import OptionError, Problem
from holdfast.reports.axes import COLOURS, MARKERS, finish
from holdfast.reports.figures import FORECAST, INK, NAIVE, blank_figure

BASELINE, WORST = 1.0, 2.0  # an answer without a memory; what a run counts with at most
GROWS = 1 + 1e-6  # a factor above it; an orthogonal matrix is not to grow by errors of rounding
SHORT_TITLE = 34  # letters that fit over a panel of errors
BAR = {"elinewidth": 1.6, "capsize": 3, "linestyle": "none", "markersize": 7, "zorder": 3}


def error_figure(table: pl.DataFrame, by: Sequence[str], arm: Sequence[str], *, columns: int = 2) -> Any:
    """Mean errors with their intervals: a panel per group, a row per arm. Arms that lost runs are red and say so.

    Args:
        table: Columns of `by` and `arm`, error, error_low, error_high, diverged (a share) and runs: what
            `holdfast.studies` summarises. Errors are in units of the error without a memory, and 2 at most.
        by: Columns that set the panels apart, in the order of the table.
        arm: Columns that name a row, in the order of the table; panels without an arm leave its row empty.
        columns: How many panels stand side by side.

    Returns:
        A `matplotlib.figure.Figure`.

    Raises:
        OptionError: matplotlib is not installed, or the table is empty.

    Example:
        >>> table = pl.DataFrame({"cell": "gru", "scope": ["none", "all"], "error": [1.5, 0.5], "error_low": [1.0, 0.4],
        ...                       "error_high": [2.0, 0.6], "diverged": [0.5, 0.0], "runs": 4})
        >>> [panel.get_title(loc="left") for panel in error_figure(table, ["cell"], ["scope"]).axes]
        ['gru']
    """
    groups = _groups(table, by)
    names = list(dict.fromkeys(_name(row, arm) for row in table.iter_rows(named=True)))
    columns = min(columns, len(groups))
    rows = math.ceil(len(groups) / columns)
    figure = blank_figure((1.6 + 4.1 * columns, rows * (0.75 + 0.3 * len(names)) + 0.5))
    places = figure.subplots(rows, columns, squeeze=False, sharex=True, sharey=True).flatten()
    for number, (place, (title, part)) in enumerate(zip(places, groups.items(), strict=False)):
        _draw_errors(place, part, arm, names)
        bottom = number >= len(groups) - columns
        finish(place, title, "error (1: learned nothing)" if bottom else "", "")
        place.set_title(title, loc="left", fontsize=11 if len(title) <= SHORT_TITLE else 9)
        place.tick_params(labelbottom=bottom)
    for place in places[len(groups) :]:
        place.set_axis_off()
    return figure


def _draw_errors(panel: Any, part: pl.DataFrame, arm: Sequence[str], names: Sequence[str]) -> None:
    panel.axvline(BASELINE, color=INK, linewidth=0.9, linestyle=(0, (4, 3)), zorder=1)
    for row in part.iter_rows(named=True):
        at, lost = names.index(_name(row, arm)), round(row["diverged"] * row["runs"])
        colour = NAIVE if lost else FORECAST
        marker = "X" if lost else "o"
        panel.errorbar(row["error"], at, xerr=_ends(row), color=colour, marker=marker, clip_on=False, **BAR)
        if lost:
            panel.text(WORST + 0.09, at, f"{lost} of {row['runs']} lost", color=NAIVE, va="center", fontsize=9)
    panel.set_yticks(range(len(names)), names)
    panel.set_ylim(len(names) - 0.5, -0.5)  # the first arm on top
    panel.set_xlim(-0.06, WORST + 0.62)
    panel.set_xticks([0, 0.5, 1, 1.5, 2])
    panel.spines["bottom"].set_bounds(0, WORST)
    panel.grid(axis="y", color=INK, alpha=0.1, linewidth=0.6)
    panel.tick_params(axis="y", length=0)


def bound_figure(table: pl.DataFrame, by: Sequence[str], line: str) -> Any:
    """Error, and below it the share of clipped steps, over the bound on a log axis; beside it without one, and auto.

    Args:
        table: Columns of `by`, `line`, rule (norm:NUMBER, none, auto), error, error_low, error_high and clip_fraction.
            Other rules are left out.
        by: Columns that set apart what stands side by side.
        line: Column with a line for each of its values, as the optimiser. A dotted line carries the error of auto
            across all bounds.

    Returns:
        A `matplotlib.figure.Figure`.

    Raises:
        OptionError: matplotlib is not installed, or no rule of a group is norm:NUMBER.

    Example:
        >>> table = pl.DataFrame({"cell": "gru", "optimizer": "sgd", "rule": ["none", "norm:1", "norm:0.1", "auto"],
        ...     "error": 0.5, "error_low": 0.4, "error_high": 0.6, "clip_fraction": [0.0, 0.1, 0.9, 0.2]})
        >>> bound_figure(table, ["cell"], "optimizer").axes[0].get_lines()[0].get_xdata().tolist()
        [0.1, 1.0]
    """
    groups = _groups(table, by)
    bounds = sorted({bound for rule in table["rule"] if math.isfinite(bound := _bound(rule))})
    if not bounds:
        rules = ", ".join(dict.fromkeys(table["rule"]))
        raise OptionError(Problem("bound_figure", "rules norm:NUMBER", rules or "none", "give the rows of such rules"))
    apart = max(10**0.4, (bounds[-1] / bounds[0]) ** 0.13)
    slots = {"none": bounds[-1] * apart**1.3, "auto": bounds[-1] * apart**2.6}
    figure = blank_figure((1.4 + 4.2 * len(groups), 5.8))
    places = figure.subplots(2, len(groups), squeeze=False, sharex=True, sharey="row", height_ratios=(3, 2))
    lines = list(dict.fromkeys(table[line]))
    for number, (title, part) in enumerate(groups.items()):
        upper, lower = places[:, number]
        for name, own in _groups(part, [line]).items():
            _draw_bounds(upper, lower, own, name, lines.index(own[line][0]), slots)
        for panel in (upper, lower):
            panel.set_xscale("log")
            panel.set_xlim(bounds[0] / apart**0.4, slots["auto"] * apart**0.5)
            panel.axvline(bounds[-1] * apart**0.65, color=INK, linewidth=0.8, alpha=0.4)
            panel.grid(axis="y", color=INK, alpha=0.12, linewidth=0.6)
        upper.axhline(BASELINE, color=INK, linewidth=0.9, linestyle=(0, (4, 3)), zorder=1)
        upper.set_ylim(-0.06, WORST + 0.08)
        upper.set_yticks([0, 0.5, 1, 1.5, 2])
        lower.set_ylim(-0.06, 1.06)
        lower.set_yticks([0, 0.5, 1], ["0 %", "50 %", "100 %"])
        _name_bounds(lower, bounds, slots)
        finish(upper, title, "", "" if number else "error (1: learned nothing)")
        finish(lower, "", "bound on the norm", "" if number else "steps clipped")
    known = {
        label: handle for panel in places[0] for handle, label in zip(*panel.get_legend_handles_labels(), strict=True)
    }
    figure.legend(known.values(), known, loc="outside lower center", ncols=len(known), frameon=False)
    return figure


def _draw_bounds(upper: Any, lower: Any, own: pl.DataFrame, name: str, which: int, slots: Mapping[str, float]) -> None:
    """One line, and what stands beside it for the rules without a bound."""
    colour, marker = COLOURS[which % len(COLOURS)], MARKERS[which % len(MARKERS)]
    at = pl.Series("at", [_bound(rule) for rule in own["rule"]], dtype=pl.Float64)
    curve = own.with_columns(at).filter(at.is_not_nan()).sort("at")
    plain = {"color": colour, "marker": marker, "linewidth": 1.8, "markersize": 5}
    upper.plot(curve["at"], curve["error"], label=name, **plain)
    upper.fill_between(curve["at"], curve["error_low"], curve["error_high"], color=colour, alpha=0.15, linewidth=0)
    lower.plot(curve["at"], curve["clip_fraction"], **plain)
    for row in own.filter(pl.col("rule").is_in(list(slots))).iter_rows(named=True):
        auto, place = row["rule"] == "auto", slots[row["rule"]]
        shape = {"color": colour, **BAR, "marker": "*" if auto else marker, "markersize": 13 if auto else 6}
        # Intervals at one place stand side by side.
        upper.errorbar(place * (1 + 0.3 * (which - 0.5)), row["error"], yerr=_ends(row), **shape)
        lower.plot(place, row["clip_fraction"], marker=shape["marker"], color=colour, markersize=shape["markersize"])
        if auto:
            upper.axhline(row["error"], color=colour, linewidth=1.2, linestyle=":", zorder=1, label=f"{name} with auto")


def _ends(row: Mapping[str, Any]) -> list[list[float]]:
    """Lengths of both arms of an interval; rounding makes none below 0."""
    return [[max(row["error"] - row["error_low"], 0.0)], [max(row["error_high"] - row["error"], 0.0)]]


def _name_bounds(panel: Any, bounds: Sequence[float], slots: Mapping[str, float]) -> None:
    from matplotlib.ticker import FixedLocator, NullLocator

    decades = [bound for bound in bounds if abs(math.log10(bound) - round(math.log10(bound))) < 1e-9] or list(bounds)
    panel.xaxis.set_major_locator(FixedLocator([*decades, *slots.values()]))
    panel.xaxis.set_minor_locator(NullLocator())
    panel.set_xticklabels([*(f"{bound:g}" for bound in decades), *slots])


def growth_figure(
    table: pl.DataFrame, predictors: Mapping[str, str], *, measured: str = "rate", group: str = "cell"
) -> Any:
    """Measured growth over what was predicted, in four quadrants: those where the prediction is wrong are red.

    Args:
        table: One row per layer: the predictors, `measured` and `group`. All of them factors per step back: above 1
            explodes. Zero and infinite growth stand at the edge; rows without a prediction or a growth are left out.
        predictors: Columns with a prediction and their names, one panel each.
        measured: Column with what came.
        group: Column whose values have a colour and a marker each.

    Returns:
        A `matplotlib.figure.Figure`.

    Raises:
        OptionError: matplotlib is not installed, or the table or the predictors are empty.

    Example:
        >>> table = pl.DataFrame({"cell": "rnn-tanh", "radius": [0.5, 1.5, 2.0], "rate": [0.6, 0.9, 1.1]})
        >>> figure = growth_figure(table, {"radius": "spectral radius"})
        >>> sorted(text.get_text().replace(chr(10), " ") for text in figure.axes[0].texts)[-2:]
        ['said to vanish, explodes: 0', 'said to vanish, vanishes: 1']
    """
    if not predictors or not table.height:
        got = f"{len(predictors)} predictors, {table.height} rows"
        raise OptionError(Problem("growth_figure", "a predictor and a row", got, "give the rows of a study"))
    figure = blank_figure((0.8 + 5.0 * len(predictors), 5.6))
    places = figure.subplots(1, len(predictors), squeeze=False, sharey=True)[0]
    groups = _groups(table, [group])
    tall = _limits(table[measured])
    for number, (panel, (column, name)) in enumerate(zip(places, predictors.items(), strict=True)):
        wide = _limits(table[column])
        panel.set(xscale="log", yscale="log", xlim=wide, ylim=tall)
        wrong, known = _quadrants(panel, _numbers(table[column]), _numbers(table[measured]))
        for which, (label, part) in enumerate(groups.items()):
            x, y = np.clip(_numbers(part[column]), *wide), np.clip(_numbers(part[measured]), *tall)
            shape = {"marker": MARKERS[which % len(MARKERS)], "color": COLOURS[which % len(COLOURS)]}
            panel.scatter(x, y, s=24, alpha=0.7, linewidth=0, zorder=3, clip_on=False, label=label, **shape)
        for axis in (panel.xaxis, panel.yaxis):
            axis.set_major_formatter("{x:g}")
        up = "" if number else "measured: growth of the adjoint per step back"
        finish(panel, f"{name}: wrong for {wrong} of {known}", f"predicted: {name}", up)
    handles = places[0].get_legend_handles_labels()
    figure.legend(*handles, loc="outside lower center", ncols=len(groups), frameon=False)
    return figure


def _numbers(values: pl.Series) -> NDArray[np.float64]:
    return np.asarray(values.cast(pl.Float64).fill_null(math.nan), dtype=np.float64)


def _limits(values: pl.Series) -> tuple[float, float]:
    """Around all finite values above 0, and around 1, with room for the names of the quadrants."""
    numbers = _numbers(values)
    known = numbers[np.isfinite(numbers) & (numbers > 0)]
    low, high = float(known.min(initial=0.5)), float(known.max(initial=2.0))
    margin = (high / low) ** 0.17
    return low / margin, high * margin


def _quadrants(panel: Any, predicted: NDArray[np.float64], measured: NDArray[np.float64]) -> tuple[int, int]:
    """Shade and name the four; how many layers lie in the two wrong ones, and how many are known."""
    panel.axhline(1.0, color=INK, linewidth=1)
    panel.axvline(1.0, color=INK, linewidth=1)
    known = ~np.isnan(predicted + measured)  # inf less inf is not asked for: both are 0 or above
    wrong = 0
    for above in (False, True):
        for grows in (False, True):
            right = above == grows
            count = int((known & ((predicted > GROWS) == above) & ((measured > GROWS) == grows)).sum())
            wrong += 0 if right else count
            x, y = (
                (1.0, limits[1]) if beyond else (limits[0], 1.0)
                for limits, beyond in ((panel.get_xlim(), above), (panel.get_ylim(), grows))
            )
            colour = FORECAST if right else NAIVE
            panel.fill_between(x, *y, color=colour, alpha=0.07 if right else 0.17, linewidth=0, zorder=0)
            text = f"said to {'explode' if above else 'vanish'},\n{'explodes' if grows else 'vanishes'}: {count}"
            place = (0.985 if above else 0.015, 0.985 if grows else 0.015)
            at = {"ha": "right" if above else "left", "va": "top" if grows else "bottom", "transform": panel.transAxes}
            look = {"color": INK, "weight": "normal"} if right else {"color": NAIVE, "weight": "bold"}
            panel.text(*place, text, zorder=4, fontsize=10, **at, **look)
    return wrong, int(known.sum())


def _groups(table: pl.DataFrame, by: Sequence[str]) -> dict[str, pl.DataFrame]:
    if not table.height:
        raise OptionError(Problem("picture of a study", "at least one row", "an empty table", "run the study first"))
    if not by:
        return {"": table}
    return {", ".join(map(str, key)): part for key, part in table.group_by(list(by), maintain_order=True)}


def _name(row: Mapping[str, Any], names: Sequence[str]) -> str:
    return ", ".join(str(row[name]) for name in names)


def _bound(rule: str) -> float:
    """The bound of norm:NUMBER; nan for another rule."""
    kind, _, number = rule.partition(":")
    try:
        return float(number) if kind == "norm" else math.nan
    except ValueError:
        return math.nan
