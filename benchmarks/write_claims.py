"""Write docs/claims.md from the rows of the studies in benchmarks/results/studies/.

python benchmarks/write_claims.py
"""

from __future__ import annotations

import json
from pathlib import Path

import polars as pl
from common import RESULTS
from write_results_page import machine_line

from holdfast.reports import markdown_table
from holdfast.studies.catalogue import SCOPES, STUDIES, Study
from holdfast.studies.page import TOLD, study_page, trained
from holdfast.studies.statistics import bootstrap_interval, capped, summarise
from holdfast.studies.verdicts import EXPLODES, judge

PAGE = Path(__file__).parent.parent / "docs" / "claims.md"
PICTURES = PAGE.parent / "claims"
OPENING = """# What people say about clipping, measured

Written by `python benchmarks/write_claims.py` from the rows in `benchmarks/results/studies/`, one per run. The
*error* is that of held-out sequences over the error of the best answer without a memory: 1 means that nothing was
learned. A run counts with 2 at most, and with 2 where it diverged, that is where a step was not finite or the error
ended above 2. Intervals, in brackets, are 95 % bootstrap intervals over the runs: with five runs they are too narrow,
and hold the true mean about 83 times in 100. Arms are paired by seed, and see the same data and first weights.

Where the defaults of `fit` come from: one norm of 1 over all gradients, clipped once, right before the update. On
series of your own: `holdfast study clip-scope --data sales.csv --horizon 48 --out study` ends with the option to use.
"""
QUESTIONS = {
    "clip-scope": "Is it right not to clip the output layer?",
    "placement": "Where in the step does clipping belong?",
    "threshold": "Which threshold?",
    "spectrum": "Does the largest eigenvalue decide?",
    "cells": "Does an LSTM help?",
    "init": "Does the start decide?",
    "pascanu": "Does clipping let plain gradient descent learn long dependencies?",
}


def write_page() -> None:
    """Write the page from whatever was measured."""
    found = {name: RESULTS / "studies" / f"{name}.parquet" for name in QUESTIONS}
    rows = {name: pl.read_parquet(path) for name, path in found.items() if path.exists()}
    answers = pl.DataFrame(
        {
            "people say": [STUDIES[name].claim for name in rows],
            "measured": [judge(name, each).answer for name, each in rows.items()],
            "runs": [each.height for each in rows.values()],
        }
    )
    sections = [_section(STUDIES[name], QUESTIONS[name], each) for name, each in rows.items()]
    PAGE.write_text("\n".join([OPENING, markdown_table(answers), "", *sections]), encoding="utf-8")


def _section(study: Study, question: str, rows: pl.DataFrame) -> str:
    facts = json.loads((RESULTS / "studies" / f"{study.name}.json").read_text())
    verdict = judge(study.name, rows)
    lines = [f"## {question}", "", f"People say: *{study.claim}*", ""]
    lines += [f"**{verdict.answer[:1].upper()}{verdict.answer[1:]}.** {verdict.text}", ""]
    tables = {"clip-scope": _scopes, "placement": _placements, "threshold": _thresholds, "spectrum": _spectra}
    tables |= {"cells": _cells, "init": _starts, "pascanu": _orders}
    picture = study_page(study, rows, verdict, full=True).pictures[0]
    PICTURES.mkdir(exist_ok=True)
    (PICTURES / f"{study.name}.png").write_bytes(picture.png)
    lines += [f"![{picture.caption}](claims/{study.name}.png)", "", *tables[study.name](rows), ""]
    lines += [f"{study.measured} {rows.height} runs; `holdfast study {study.name} --full`. {machine_line(facts)}", ""]
    return "\n".join(lines)


def _interval(values: list[float]) -> str:
    low, high = bootstrap_interval(values)
    return f"{sum(values) / len(values):.2f} [{low:.2f}, {high:.2f}]"


def _pivot(rows: pl.DataFrame, by: list[str], arm: str, arms: list[str]) -> list[str]:
    """Error with interval, and how many of the runs diverged, a row per group and a column per arm."""
    found = []
    for key, part in rows.group_by(by, maintain_order=True):
        cells = dict(zip(by, map(str, key), strict=True))
        for name in arms:
            own = part.filter(pl.col(arm) == name)
            lost = f", {own['diverged'].sum()} of {own.height} lost" if own["diverged"].any() else ""
            cells[f"clip {name}" if name in SCOPES else name] = (
                _interval(own.select(capped()).to_series().to_list()) + lost if own.height else ""
            )
        found.append(cells)
    return markdown_table(pl.DataFrame(found)).splitlines()


def _scopes(rows: pl.DataFrame) -> list[str]:
    arms = ["none", "all", "all-but-head", "recurrent", "head", "per-role"]
    by = ["task", "cell", "head", "optimizer", "lr"]
    starved = rows.filter(pl.col("scope") == "none")["starved"].drop_nans().mean()
    told = ["runs", "diverged", "error", "solved", "solved_step", "clip_fraction", "cosine"]
    return [
        "All problems together, by whose gradients one norm of 1 is over:",
        "",
        *_summary(rows, ["scope"], told),
        "",
        "Error by problem (for M4 Hourly: MASE over that of seasonal naive):",
        "",
        *_pivot(rows, by, "scope", arms),
        "",
        "A norm over everything would have left a head whose own gradient is below the bound with less than half of "
        f"it in {100 * float(starved):.1f} % of the steps that nothing clipped.",
    ]


def _placements(rows: pl.DataFrame) -> list[str]:
    table = rows.filter(pl.col("rule") != "none").group_by(
        "task", "cell", "optimizer", "rule", "placement", maintain_order=True
    )
    names = ("clip_fraction", "cosine", "flipped")
    means = markdown_table(
        table.agg(
            *(pl.col(name).drop_nans().mean() for name in names),
            pl.col("diverged").sum().alias("lost"),
            pl.len().alias("runs"),
            capped().mean().alias("error"),
        )
    )
    return means.splitlines()


def _thresholds(rows: pl.DataFrame) -> list[str]:
    arms = list(dict.fromkeys(rows["rule"].to_list()))
    return [
        "Error by bound, over all gradients:",
        "",
        *_pivot(rows, ["task", "cell", "optimizer"], "rule", arms),
    ]


def _spectra(rows: pl.DataFrame) -> list[str]:
    exploded = pl.col("peak_log_factor") > EXPLODES
    above = pl.col("scaled_radius") > 1
    table = rows.group_by("cell", "init", maintain_order=True).agg(
        pl.len().alias("layers"),
        (above & exploded).sum().alias("above, explodes"),
        (above & ~exploded).sum().alias("above, does not"),
        (~above & exploded).sum().alias("below, explodes"),
        (~above & ~exploded).sum().alias("below, does not"),
    )
    return [
        "Layers by what the eigenvalue rule says (radius times steepest slope above or below 1) and whether the",
        "adjoint grew more than tenfold. A *chain* is a matrix far from normal: each unit speaks to the next.",
        "",
        *markdown_table(table.rename({"init": "matrix"})).splitlines(),
    ]


def _summary(rows: pl.DataFrame, by: list[str], names: list[str]) -> list[str]:
    columns = {**{name: (name, "") for name in by}, **{name: TOLD[name] for name in names}}
    return markdown_table(summarise(trained(rows), by), columns).splitlines()


FLOW = ["diverged", "growth_before", "growth_after", "memory_before", "memory_after"]


def _cells(rows: pl.DataFrame) -> list[str]:
    return [
        "Without clipping. *Growth* is that of the adjoint per recurrent step back, *memory* the steps over which it",
        "keeps 1 % of its norm. On M4 Hourly the length is the context in hours, fed in segments of 24 where four fit",
        "into it, and the error is MASE over that of seasonal naive: one less it is the skill.",
        "",
        *_summary(rows, ["task", "length", "cell"], ["error", *FLOW]),
    ]


def _starts(rows: pl.DataFrame) -> list[str]:
    return _summary(rows, ["cell", "init"], ["error", "solved", *FLOW])


def _orders(rows: pl.DataFrame) -> list[str]:
    by = ["cell", "init", "length", "scope", "penalty"]
    return [
        "The share of runs that solve the temporal order problem; *omega:1* adds the penalty of the paper:",
        "",
        *_summary(rows, by, ["runs", "solved", "solved_step", "error", "diverged", "memory_after"]),
    ]


if __name__ == "__main__":
    write_page()
