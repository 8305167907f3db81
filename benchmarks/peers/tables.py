"""The rows of `run_peers.py` as tables of markdown, and as the points of pictures."""

from __future__ import annotations

import statistics
import textwrap
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from .jobs import COUNTS, FAST, FEW, FORECASTERS, LENGTHS, PEERS, SHORT_SERIES, STEPS
from .task import BATCH, CONTEXT, LAYERS, UNITS, Task

Row = Mapping[str, Any]
WIDTH = 118
HOW = f"""
`make bench BENCH="--kinds accuracy,rate,predict,growth"`: M4 Hourly, horizon {Task.horizon}, as above.
Every fit in a process of its own on the CPU, each library at its own defaults but for data, horizon, threads, seed, and
the budget: training, counted from its first step on, is cut off at the end of the step that passes the budget, by a
callback of the peer's trainer. A peer's learning rate falls as if it could take all of its steps; holdfast plans for
the budget, and takes no more steps than its defaults say. Darts must be told how many steps to feed: three horizons, as
NeuralForecast takes; its `Scaler` scales the series, as in its guides; its default is a plain RNN of 25 units. *Whole
fit* holds reading and checking the table, the search for seasons and scoring on held-out windows, where a library does
these; loading the library is left out. Means over the seeds. *Peak* is the most memory that the process held up to the
forecasts, with the library itself.
"""
FIRST = """
Seconds of the whole fit after which holdfast, run anew with small budgets, first is as good as the peer at its largest
budget:
"""
SPEED = f"""
Speed at equal architecture: LSTM {LAYERS}x{UNITS}, {CONTEXT} steps fed, horizon {Task.horizon}, {BATCH} windows of M4
Hourly per training step. holdfast feeds one season as one recurrent step; *one step at a time* has as many recurrent
steps as the others. Prediction of series of {SHORT_SERIES} steps, from the library's own form of a table to medians
and, where there are some, intervals; building that form does not count.
"""
GROWTH = f"""
A fit of {STEPS} training steps at equal architecture, from the table on, as the data grow: many series of
{SHORT_SERIES} steps, or few long ones. Seconds of the whole fit, peak memory of the process.
"""


@dataclass(frozen=True)
class Score:
    """One forecaster at one budget: means over the seeds that have a score.

    Attributes:
        seconds: The budget.
        runs: The rows.
    """

    seconds: float
    runs: Sequence[Row]

    def mean(self, name: str) -> float | None:
        """Of the runs that have this value."""
        values = [run[name] for run in self.runs if run.get(name) is not None]
        return statistics.mean(values) if values else None

    def spread(self, name: str) -> str:
        """Largest value less the smallest; nothing where there are not two."""
        values = [run[name] for run in self.runs if run.get(name) is not None]
        return f"{max(values) - min(values):.3f}" if len(values) > 1 else ""

    def instead(self, name: str) -> str:
        """What to say where no run has this value."""
        lost = self.mean("nonfinite")
        first = self.runs[0] if self.runs else None
        return f"{lost:.0f} forecasts not finite" if lost else instead(first, name) or ""


def scores_by(rows: Iterable[Row], forecaster: str) -> list[Score]:
    """The budgets of one forecaster, rising."""
    own = [row for row in rows if row["kind"] == "accuracy" and row["forecaster"] == forecaster]
    budgets = sorted({row["seconds"] for row in own})
    return [Score(budget, [row for row in own if row["seconds"] == budget]) for budget in budgets]


def table(head: Sequence[str], lines: Iterable[Sequence[str]]) -> list[str]:
    """Rows of cells as markdown."""
    return [f"| {' | '.join(cells)} |" for cells in (head, ["---"] * len(head), *lines)]


def cell(value: float | None, form: str) -> str:
    """A number, or nothing where there is none."""
    return "" if value is None else format(value, form)


def instead(row: Row | None, name: str) -> str | None:
    """What stands in the place of a value that is not there: cut off, failed or not measured; None if it is there."""
    if row is None:
        return "not measured"
    if "failed" in row:
        return "failed"
    if "cut_off" in row:
        return f"cut off: {row['cut_off']}"
    return None if row.get(name) is not None else "too few steps"


def accuracy_table(rows: Sequence[Row]) -> list[str]:
    """Errors at each budget."""
    lines = []
    for name in ("naive", "holdfast", *PEERS):
        for score in scores_by(rows, name):
            title = FORECASTERS[name].title
            start = [f"**{title}**" if name == "holdfast" else title, "" if name == "naive" else f"{score.seconds:g}"]
            if score.mean("owa") is None:
                lines.append([*start, score.instead("owa")])
                continue
            coverage = score.mean("coverage")
            lines.append(
                [
                    *start,
                    cell(score.mean("smape"), ".3f"),
                    cell(score.mean("mase"), ".3f"),
                    f"**{cell(score.mean('owa'), '.3f')}**",
                    score.spread("owa"),
                    "" if coverage is None else f"{100 * coverage:.1f} %",
                    cell(score.mean("fit_seconds"), ".0f"),
                    cell(score.mean("steps"), ".0f"),
                    cell(score.mean("predict_seconds"), ".1f"),
                    cell(score.mean("peak_gb"), ".2f"),
                    str(len(score.runs)),
                ]
            )
    head = ["", "budget, s", "sMAPE", "MASE", "OWA", "spread of OWA", "80 % interval", "whole fit, s", "steps"]
    return table([*head, "prediction, s", "peak, GB", "seeds"], [[*line, *[""] * (12 - len(line))] for line in lines])


@dataclass(frozen=True)
class Overtaking:
    """Where holdfast first was as good as a peer at that peer's largest budget.

    Attributes:
        peer: Its name.
        final: The peer's score.
        ours: The score of the smallest budget of holdfast that is not worse; None if none is.
    """

    peer: str
    final: Score
    ours: Score | None


def overtakings(rows: Sequence[Row]) -> list[Overtaking]:
    """One for each peer with a score."""
    ours = [score for score in scores_by(rows, "holdfast") if score.mean("owa") is not None]
    found = []
    for peer in PEERS:
        scores = [score for score in scores_by(rows, peer) if score.mean("owa") is not None]
        if scores:
            final = scores[-1]
            first = next((score for score in ours if score.mean("owa") <= final.mean("owa")), None)
            found.append(Overtaking(peer, final, first))
    return found


def overtaking_table(rows: Sequence[Row]) -> list[str]:
    """Seconds to the accuracy of each peer; all seconds are those of the whole fit."""
    lines = []
    for each in overtakings(rows):
        theirs = each.final.mean("fit_seconds") or 0.0
        start = [FORECASTERS[each.peer].title, cell(each.final.mean("owa"), ".3f"), f"{theirs:.0f}"]
        if each.ours is None:
            lines.append([*start, "never", "", ""])
        else:
            seconds = each.ours.mean("fit_seconds") or 0.0
            ratio = f"{theirs / seconds:.1f}" if seconds else ""
            lines.append([*start, f"**{seconds:.0f}**", cell(each.ours.mean("owa"), ".3f"), ratio])
    head = ["", "its OWA at its largest budget", "its seconds", "holdfast, seconds", "holdfast, OWA"]
    return table([*head, "times as fast"], lines)


def find(rows: Iterable[Row], kind: str, forecaster: str, series: int | None = None, length: int | None = None) -> Any:
    """The row of a case of speed; None if it was not measured."""
    wanted = {"kind": kind, "forecaster": forecaster, "series": series, "length": length}
    return next((row for row in rows if all(row.get(name) == value for name, value in wanted.items())), None)


def speed_table(rows: Sequence[Row]) -> list[str]:
    """Windows per second in training, series per second in prediction."""
    lines = []
    for name in FAST:
        cases = [(find(rows, "rate", name), "windows_per_second")]
        cases += [(find(rows, "predict", name, series), "series_per_second") for series in (COUNTS[0], COUNTS[-1])]
        lines.append([FORECASTERS[name].title, *(instead(*case) or f"{case[0][case[1]]:,.0f}" for case in cases)])
    predicted = [f"prediction, series/s, of {series:,}" for series in (COUNTS[0], COUNTS[-1])]
    return table(["", "training, windows/s", *predicted], lines)


def sizes(rows: Iterable[Row], name: str) -> tuple[list[Any], list[Any]]:
    """The rows of growth of one forecaster: with the number of series, and with their length."""
    rows = list(rows)
    many = [find(rows, "growth", name, series, SHORT_SERIES) for series in COUNTS]
    return many, [find(rows, "growth", name, FEW, length) for length in LENGTHS]


def growth_table(rows: Sequence[Row]) -> list[str]:
    """Seconds and memory of a short fit, as the data grow."""
    lines = []
    for name in FAST:
        cells = [
            instead(row, "fit_seconds") or f"{row['fit_seconds']:.0f} s, {row['peak_gb']:.2f} GB"
            for row in (*sizes(rows, name)[0], *sizes(rows, name)[1])
        ]
        lines.append([FORECASTERS[name].title, *cells])
    head = [f"{series:,} series" for series in COUNTS] + [f"{FEW} series of {length:,}" for length in LENGTHS]
    return table(["", *head], lines)


def versions(rows: Iterable[Row]) -> str:
    """Every library that was measured, with its version."""
    found = {(FORECASTERS[row["forecaster"]].package, row["version"]) for row in rows if "version" in row}
    return ", ".join(f"{package} {number}" for package, number in sorted(found))


def peers_section(rows: Sequence[Row], machine: str) -> list[str]:
    """The section of the page: all kinds but `sets`."""
    return [
        *("## Compared with other libraries on M4 Hourly: other budgets, speed, memory", ""),
        *textwrap.wrap(HOW.strip(), WIDTH),
        *("", *accuracy_table(rows), ""),
        *("![OWA against seconds, one line per forecaster](../docs/benchmarks/peers-error.png)", ""),
        *textwrap.wrap(FIRST.strip(), WIDTH),
        *("", *overtaking_table(rows), ""),
        *textwrap.wrap(SPEED.strip(), WIDTH),
        *("", *speed_table(rows), ""),
        *textwrap.wrap(GROWTH.strip(), WIDTH),
        *("", *growth_table(rows), ""),
        *("![Seconds and memory of a short fit as the data grow](../docs/benchmarks/peers-growth.png)", ""),
        *(f"{versions(rows)}. {machine}", ""),
    ]
