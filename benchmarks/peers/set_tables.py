"""The rows of the kind `sets` as a table of markdown: every forecaster on every set, with the same budget."""

from __future__ import annotations

import statistics
import textwrap
from collections.abc import Sequence

from .jobs import FORECASTERS, OF_SETS, SET_SECONDS
from .sets import SETS
from .tables import WIDTH, Row, Score, cell, table, versions

HOW = f"""
`make bench BENCH="--kinds sets"`: {SET_SECONDS} seconds of training for every forecaster on each data set, on one
thread and a CPU. The last horizon of every series is forecast; nothing of it is seen in training. Each library is at
its own defaults except for data, horizon, threads, seed, the budget, and what the data or the scores demand. Scores of
an interval demand the quantiles .1, .5 and .9: for these NeuralForecast and Darts train with their own quantile losses,
because their defaults give a point forecast; those of DeepAR come from its sample paths. holdfast is also given the
season length, and takes no more steps than its defaults say. holdfast and DeepAR mask missing values; for the others a
missing value is replaced by the value of one season before. NeuralForecast pads series that are shorter than its input;
for Darts the first value is repeated in front. Darts is fed three horizons, as NeuralForecast is by default, from
series scaled by its `Scaler`; its default network is a plain RNN of 25 units. A peer's learning rate falls as if it
could take all of its steps.
"""
SCORES = """
Relative MASE: the MASE of the median over that of the seasonal naive forecast, as a geometric mean over the series;
below 1 is better than seasonal naive. WQL: the weighted quantile loss over the quantiles .1, .5 and .9 for everybody,
not over nine as in the collection above. Interval: the share of values in the 80 % interval. OWA: on M4 Hourly, against
Naive2. Means over the seeds; spread is the difference between the highest and the lowest seed. The whole fit includes
reading and checking the table, the search for seasons and scoring on held-out windows, where a library does these.
"""
HEAD = (
    "",
    "",
    "relative MASE",
    "spread",
    "WQL",
    "80 % interval",
    "OWA",
    "whole fit, s",
    "steps",
    "prediction, s",
    "seeds",
)
GOOD = ("relative_mase", "wql")  # lower is better


def scores_on(rows: Sequence[Row], name: str) -> dict[str, Score]:
    """The score of every forecaster on a set."""
    own = [row for row in rows if row["set"] == name]
    return {who: Score(SET_SECONDS, [row for row in own if row["forecaster"] == who]) for who in OF_SETS}


def sets_table(rows: Sequence[Row]) -> list[str]:
    """One line per set and forecaster, the best scores in bold; then the geometric means over the complete sets."""
    found = {name: scores_on(rows, name) for name in SETS if any(row["set"] == name for row in rows)}
    lines = []
    for name, scores in found.items():
        sizes = [
            f"{row['count']} series, {row['horizon']} steps" for row in rows if row["set"] == name and "count" in row
        ]
        titles = [": ".join([name, *sizes[:1]]), *[""] * len(OF_SETS)]
        best = {
            good: min((v for s in scores.values() if (v := s.mean(good)) is not None), default=None) for good in GOOD
        }
        lines += [[title, *line_of(who, scores[who], best)] for title, who in zip(titles, OF_SETS, strict=False)]
    whole = [scores for scores in found.values() if all(s.mean("wql") is not None for s in scores.values())]
    if whole:
        titles = [f"geometric mean of {len(whole)} sets", *[""] * len(OF_SETS)]
        means = {who: {good: geometric_mean(whole, who, good) for good in GOOD} for who in OF_SETS}
        lines += [
            [title, FORECASTERS[who].title, f"{mean['relative_mase']:.3f}", "", f"{mean['wql']:.4f}"]
            for title, (who, mean) in zip(titles, means.items(), strict=False)
        ]
    return table(HEAD, [[*line, *[""] * (len(HEAD) - len(line))] for line in lines])


def geometric_mean(sets: Sequence[dict[str, Score]], who: str, name: str) -> float:
    """Of a score of one forecaster over sets in which it has one."""
    return statistics.geometric_mean(value for scores in sets if (value := scores[who].mean(name)) is not None)


def line_of(who: str, score: Score, best: dict[str, float | None]) -> list[str]:
    """The cells of one forecaster on one set, without the first; the best scores in bold."""
    title = FORECASTERS[who].title
    if score.mean("relative_mase") is None:
        return [title, score.instead("relative_mase")]
    mase, wql = (
        f"**{text}**" if score.mean(name) == best[name] else text
        for name, form in zip(GOOD, (".3f", ".4f"), strict=True)
        for text in [cell(score.mean(name), form)]
    )
    return [
        *(title, mase, score.spread("relative_mase"), wql),
        f"{100 * (score.mean('coverage') or 0):.1f} %",
        cell(score.mean("owa"), ".3f"),
        cell(score.mean("fit_seconds"), ".0f"),
        cell(score.mean("steps"), ".0f"),
        cell(score.mean("predict_seconds"), ".1f"),
        str(sum(run.get("relative_mase") is not None for run in score.runs)),
    ]


def sets_section(rows: Sequence[Row], machine: str) -> list[str]:
    """The section of the page; nothing if nothing was measured."""
    if not rows:
        return []
    return [
        *(f"## Compared with other libraries: {SET_SECONDS} seconds of training on each of {len(SETS)} data sets", ""),
        *(*textwrap.wrap(HOW.strip(), WIDTH), "", *textwrap.wrap(SCORES.strip(), WIDTH), ""),
        *(*sets_table(rows), "", f"{versions(rows)}. {machine}", ""),
    ]
