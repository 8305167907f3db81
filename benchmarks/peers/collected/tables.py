"""The rows of `collection.py` as tables of markdown."""

from __future__ import annotations

import math
import statistics
import textwrap
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import Any

from ..tables import WIDTH, cell, table
from .forecasters import GROUPS, SEVERAL

NAIVE, SEASONAL = GROUPS["naive"]
ETS, THETA, BOTH = GROUPS["ets-theta"]
PEERS = (ETS, THETA, *GROUPS["ces"], BOTH, *GROUPS["mstl"])
SHOWN = ("holdfast", *PEERS, NAIVE)
TITLES = {BOTH: "mean of ETS and Theta", "holdfast": "**holdfast**"}
CLEARLY_BETTER, WORSE_THAN_NAIVE = 0.97, 1.01
HOW = """
`make bench-collection`: real data sets, one row each. Sets of 20 series or more are forecast from one cutoff, the last
horizon; smaller ones from five, each a horizon after the one before, or from as many as the shortest series has room
for. holdfast is given the horizon, the season length and the levels of the intervals, fitted once before the first
cutoff, and predicts from each; means over its seeds. The peers are those of statsforecast with their defaults and the
season length, fitted anew to every series at each cutoff (MSTL only where there are several seasons); statsforecast's
ETS leaves seasons of more than 24 steps out. Where a peer fails on a series, the seasonal naive forecast stands in.
Missing values are masked for holdfast; for the peers they take the value of one season before. Series are left out if
fewer than two values come before the first cutoff.
"""
MASE = f"""
MASE over that of the seasonal naive forecast, as a geometric mean over the series: below 1 is better than seasonal
naive. Series whose scale (the in-sample error of seasonal naive) is 0 or undefined are left out, and so are those that
one of the two forecasts without error. The interval is that of 80 %; seconds are fit and prediction on one thread, with
other work on the machine at the same time: upper bounds. Both are those of holdfast / {ETS}.
"""
WQL = """
Weighted quantile loss over the quantiles .1, .2, ... .9, as GIFT-Eval has it, over that of the seasonal naive forecast
with the intervals of statsforecast, whose own loss is in the last column.
"""

Row = dict[str, Any]


@dataclass(frozen=True)
class Measured:
    """What there is of one set.

    Attributes:
        name: Of the set.
        rows: Its rows with scores.
    """

    name: str
    rows: Sequence[Row]

    def mean(self, model: str, score: str) -> float | None:
        """Of the seeds of a forecaster; None if there is no score."""
        values = [row[score] for row in self.rows if row["model"] == model and row[score] is not None]
        return statistics.mean(values) if values else None

    def relative_mase(self, model: str) -> float | None:
        """Below 1 is better than seasonal naive."""
        return self.mean(model, "relative_mase")

    def relative_wql(self, model: str) -> float | None:
        """Below 1 is better than seasonal naive."""
        own, naive = self.mean(model, "wql"), self.mean(SEASONAL, "wql")
        return own / naive if own is not None and naive else None

    @property
    def title(self) -> str:
        """Name and size."""
        row = self.rows[0]
        cutoffs = f", {row['cutoffs']} cutoffs" if row["cutoffs"] > 1 else ""
        return f"{self.name}: {row['series']} series, {row['horizon']} steps{cutoffs}"


Score = Callable[[Measured, str], "float | None"]


def sets_of(rows: Iterable[Row]) -> list[Measured]:
    """The sets of which something was measured."""
    good = [row for row in rows if "failed" not in row]
    return [Measured(name, [row for row in good if row["set"] == name]) for name in sorted({r["set"] for r in good})]


def complete(sets: Iterable[Measured], score: Score) -> list[Measured]:
    """The sets in which every forecaster has a score that has one in most sets; MSTL is not for all."""
    sets = list(sets)
    counts = {model: sum(score(each, model) is not None for each in sets) for model in SHOWN}
    needed = [model for model in SHOWN if 2 * counts[model] > max(counts.values())]
    return [each for each in sets if all(score(each, model) is not None for model in needed)]


def claim(sets: Sequence[Measured]) -> str:
    """What the sets say, in sentences; empty without a set that everybody forecast."""
    whole = [each for each in complete(sets, Measured.relative_mase) if each.relative_mase("holdfast") is not None]
    if not whole:
        return ""
    means = {}
    for model in (*SHOWN, SEASONAL):
        values = [value for each in whole if (value := each.relative_mase(model)) is not None]
        if len(values) == len(whole):
            means[model] = statistics.geometric_mean(values)
    peers = ", ".join(f"{TITLES.get(model, model)} {mean:.3f}" for model, mean in means.items() if model in PEERS)
    covered = [each.mean("holdfast", "coverage") for each in whole]
    gap = 100 * statistics.mean(abs(share - 0.8) for share in covered if share is not None)
    return (
        f"On {len(whole)} real data sets, yearly to five minutes, with the defaults: MASE relative to seasonal "
        f"naive {means['holdfast']:.3f} (geometric mean; lower is better), {peers}, the last value "
        f"{means[NAIVE]:.3f}. {verdicts(whole, Measured.relative_mase)} The coverage of 80 % intervals is {gap:.1f} "
        "points off, on average over the sets."
    )


def score_lines(sets: Sequence[Measured], score: Score, more: Callable[[Measured], list[str]]) -> list[list[str]]:
    """One line per set, then the geometric means, and how often each was the best.

    The best score of a line is in bold, unless seasonal naive is better than all.
    """
    lines, wins = [], dict.fromkeys(SHOWN, 0)
    whole = complete(sets, score)
    for each in sets:
        scores = {model: score(each, model) for model in SHOWN}
        best = min(value for value in (*scores.values(), score(each, SEASONAL), math.inf) if value is not None)
        texts = [cell(value, ".3f") for value in scores.values()]
        cells = [f"**{text}**" if text and v == best else text for text, v in zip(texts, scores.values(), strict=True)]
        lines.append([each.title, *cells, *more(each)])
        if each in whole:
            wins = {model: wins[model] + (scores[model] == best) for model in SHOWN}
    means = []
    for model in SHOWN:
        values = [value for each in whole if (value := score(each, model)) is not None]
        means.append(f"{statistics.geometric_mean(values):.3f}" if values and len(values) == len(whole) else "")
    space = [""] * len(more(sets[0]))
    lines.append([f"geometric mean of the {len(whole)} sets with all", *means, *space])
    lines.append(["best forecast in how many of them", *(str(wins[model]) for model in SHOWN), *space])
    return lines


def verdicts(sets: Sequence[Measured], score: Score) -> str:
    """Where peers are clearly better, and where holdfast is worse than a naive forecast."""
    beaten, below, compared = [], [], 0
    for each in sets:
        ours, peers = score(each, "holdfast"), [v for model in PEERS if (v := score(each, model)) is not None]
        naive = [v for model in (NAIVE, SEASONAL) if (v := score(each, model)) is not None]
        if ours is None or not peers or not naive:
            continue
        compared += 1
        beaten += [each.name] if min(peers) < CLEARLY_BETTER * ours else []
        below += [each.name] if ours > WORSE_THAN_NAIVE * min(naive) else []
    return (
        f"Of {compared} sets in which holdfast and a peer were measured, the best peer is better by more than 3 % in "
        f"{counted(beaten)}; holdfast is worse than the better naive forecast by more than 1 % in {counted(below)}."
    )


def counted(names: Sequence[str]) -> str:
    """How many, and which."""
    return f"{len(names)} ({', '.join(names)})" if names else "none"


def coverage_line(sets: Sequence[Measured]) -> str:
    """How far the 80 % intervals are off."""
    texts = []
    for model in SHOWN:
        gaps = [abs(share - 0.8) for each in sets if (share := each.mean(model, "coverage")) is not None]
        texts += [f"{model} {100 * statistics.mean(gaps):.1f} ({len(gaps)} sets)"] if gaps else []
    return f"Mean absolute gap of the 80 % interval, in points: {', '.join(texts)}."


def notes(sets: Sequence[Measured]) -> list[str]:
    """What was left out, cut short, replaced, or is missing."""
    few = [f"every {row['every']}th of {each.name}" for each in sets if (row := each.rows[0])["every"] > 1]
    short = [f"{row['too_short']} of {each.name}" for each in sets if (row := each.rows[0])["too_short"]]
    rows = [row for each in sets for row in each.rows]
    cut = [f"{row['model']} {row['newest']} rows of {row['set']}" for row in rows if row.get("newest")]
    failed = [
        f"{row['model']} {row['fallbacks']} of {row['series'] * row['cutoffs']} in {row['set']}"
        for row in rows
        if row.get("fallbacks")
    ]
    missing = []
    for each in sets:
        models = [m for m in SHOWN if each.mean(m, "coverage") is None and (m != "MSTL" or each.name in SEVERAL)]
        missing += [f"{each.name} ({', '.join(models)})"] if models else []
    texts = {
        "Scored": few,
        "Too short": short,
        "Newest part of the history only, where all would take more than five minutes": cut,
        "Seasonal naive instead of a peer that failed": failed,
        "Not measured": missing,
    }
    return [f"{title}: {'; '.join(texts)}." for title, texts in texts.items() if texts]


def paired(each: Measured, score: str, form: str, times: float = 1.0) -> str:
    """A score of holdfast and one of ETS."""
    values = [each.mean(model, score) for model in ("holdfast", ETS)]
    return " / ".join("-" if value is None else format(times * value, form) for value in values)


def collection_section(rows: Sequence[Row], machine: str) -> list[str]:
    """The section of the page; nothing if nothing was measured."""
    sets = sets_of(rows)
    if not sets:
        return []
    wrap = lambda text: textwrap.wrap(text.strip(), WIDTH, break_on_hyphens=False)  # noqa: E731
    head = ["", *(TITLES.get(model, model) for model in SHOWN)]

    def interval_and_seconds(each: Measured) -> list[str]:
        return [paired(each, "coverage", ".0f", 100), paired(each, "seconds", ".1f")]

    def naive_wql(each: Measured) -> list[str]:
        return [cell(each.mean(SEASONAL, "wql"), ".4f")]

    mase_lines = score_lines(sets, Measured.relative_mase, interval_and_seconds)
    wql_lines = score_lines(sets, Measured.relative_wql, naive_wql)
    return [
        *("## A collection of real data sets", ""),
        *(*wrap(HOW), "", *wrap(MASE), ""),
        *table([*head, "80 % interval, %", "seconds"], mase_lines),
        *("", *wrap(verdicts(sets, Measured.relative_mase)), ""),
        *(*wrap(coverage_line(sets)), "", *wrap(WQL), ""),
        *table([*head, "seasonal naive"], wql_lines),
        *("", *wrap(verdicts(sets, Measured.relative_wql)), ""),
        *(line for note in notes(sets) for line in (*wrap(note), "")),
        *(machine, ""),
    ]
