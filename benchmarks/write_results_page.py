"""Write benchmarks/RESULTS.md from the files in benchmarks/results: no figure is typed by hand.

python benchmarks/write_results_page.py
"""

from __future__ import annotations

import statistics
from pathlib import Path
from typing import Any

from common import RESULTS, read_results
from peers.collected.jobs import read_rows
from peers.collected.tables import collection_section
from peers.set_tables import sets_section
from peers.tables import peers_section

PAGE = Path(__file__).parent / "RESULTS.md"
# Published scores: sMAPE, MASE, OWA (Makridakis, Spiliotis, Assimakopoulos 2020, and the competition's repository).
PUBLISHED = {
    "Theta": (18.138, 2.455, 1.006),
    "plain RNN benchmark of the competition": (14.698, 3.048, 1.036),
    "FFORMA (second place)": (11.506, 0.819, 0.484),
    "ES-RNN (winner, an ensemble)": (9.328, 0.893, 0.440),
    "best submission on this part": (8.913, 0.801, 0.410),
}


def machine_line(facts: dict[str, Any]) -> str:
    """The machine in one line."""
    return (
        f"Machine: {facts['cpu']}, {facts['cores']} cores, {facts['threads']} threads, GPU {facts['gpu']}, "
        f"Python {facts['python']}, torch {facts['torch']}, {facts['date']}."
    )


def newest_machine_line(rows: list[dict[str, Any]]) -> str:
    """The machine of the newest row, and the highest load that was seen."""
    machines = [row["machine"] for row in rows if "machine" in row]
    if not machines:
        return ""
    newest, load = max(machines, key=lambda facts: facts["date"]), max(facts["load"] for facts in machines)
    return f"{machine_line(newest)} Load up to {load:.1f}."


def m4_section(facts: dict[str, Any]) -> list[str]:
    """Accuracy on M4 Hourly."""
    lines = [
        "## M4 Hourly: accuracy with the defaults, and with the preset best",
        "",
        "`python benchmarks/m4_hourly.py [--preset best]`: 414 series, horizon 48; only horizon and season length are",
        "given. sMAPE in percent; MASE with season 24; OWA against Naive2; means over the series.",
        "",
        "| | sMAPE | MASE | OWA | 80 % interval | 95 % interval | training, s | steps |",
        "| --- | --- | --- | --- | --- | --- | --- | --- |",
    ]
    for name, scores in facts["baselines"].items():
        lines.append(f"| {name} | {scores['smape']:.3f} | {scores['mase']:.3f} | {scores['owa']:.3f} | | | | |")
    for name, (smape, mase, owa) in PUBLISHED.items():
        lines.append(f"| {name} (published) | {smape:.3f} | {mase:.3f} | {owa:.3f} | | | | |")
    for run in facts["runs"]:
        name = "holdfast, preset best" if run.get("preset") == "best" else "holdfast"
        lines.append(
            f"| **{name}, seed {run['seed']}** | {run['smape']:.3f} | {run['mase']:.3f} | **{run['owa']:.3f}** "
            f"| {100 * run['coverage_level80']:.1f} % | {100 * run['coverage_level95']:.1f} % "
            f"| {run['training_seconds']:.0f} | {run['steps']} |"
        )
    usual = [run["owa"] for run in facts["runs"] if run.get("preset", "default") == "default"]
    mean = f"Mean OWA of the defaults over {len(usual)} seeds: {statistics.mean(usual):.3f}."
    return [*lines, "", f"{mean} {machine_line(facts['machine'])}", ""]


def etth1_section(facts: dict[str, Any]) -> list[str]:
    """Accuracy on ETTh1."""
    lines = [
        "## ETTh1: accuracy with the defaults, and with the preset best",
        "",
        "`python benchmarks/etth1.py [--preset best]`: seven columns as seven series in z-scores, every window of the",
        "test part, none dropped; only the horizon is given. The point forecast is the median, also for the MSE.",
        "",
        "| horizon | | MSE | MAE | 80 % interval | whole fit, s |",
        "| --- | --- | --- | --- | --- | --- |",
    ]
    for horizon, naive in facts["baselines"].items():
        lines += [f"| {horizon} | {name} | {mse:.3f} | {mae:.3f} | | |" for name, (mse, mae) in naive.items()]
        for run in (run for run in facts["runs"] if run["horizon"] == int(horizon)):
            preset = ", preset best" if run["preset"] == "best" else ""
            lines.append(
                f"| {horizon} | **holdfast{preset}, seed {run['seed']}** | **{run['mse']:.3f}** | **{run['mae']:.3f}** "
                f"| {100 * run['coverage_level80']:.1f} % | {run['fit_seconds']:.0f} |"
            )
    return [*lines, "", f"{machine_line(facts['machine'])} Other work ran beside: seconds are upper bounds.", ""]


def seconds_section(facts: dict[str, Any]) -> list[str]:
    """How long whole fits take."""
    cases = list(dict.fromkeys(row["case"] for row in facts["rows"]))
    lines = ["## How long a fit takes", ""]
    lines += [
        "`python benchmarks/fit_seconds.py`: seconds from the table in memory to the forecaster, with the defaults"
    ]
    lines += ["but for a horizon of 12; medians, every fit in a process of its own.", ""]
    lines += ["| table | fit, s | prediction, s | steps |", "| --- | --- | --- | --- |"]
    for case in cases:
        rows = [row for row in facts["rows"] if row["case"] == case]
        texts = [f"{statistics.median(row[name] for row in rows):.1f}" for name in ("fit", "predict")]
        lines.append(f"| {case} | {' | '.join(texts)} | {rows[0]['steps']} |")
    return [*lines, "", machine_line(facts["machine"]), ""]


def accuracy_section(facts: dict[str, Any]) -> list[str]:
    """What each part of the accuracy gives, on windows inside the training parts."""
    lines = [
        "## What was tried for accuracy, on windows inside the training parts",
        "",
        "M4 Hourly: OWA over the last three windows of 48 hours of its training part (where one window is said, the",
        "last); ETTh1: MSE / MAE at horizon 96 on every fifth window of rows 8640-11519. One fit each, some with",
        "different seeds: on M4 a difference of .005 says nothing, on ETTh1 one of .01. Each row is one change, before",
        "and after, on the code of its day.",
        "",
        "| tried | M4 Hourly | ETTh1 | |",
        "| --- | --- | --- | --- |",
    ]
    for road in facts["roads"]:
        m4, ett = road["m4_hourly"], road["etth1"]
        left = f"{m4['before']['owa']:.3f} to {m4['after']['owa']:.3f}" if m4["after"] else ""
        right = " to ".join(f"{ett[k]['mse']:.3f} / {ett[k]['mae']:.3f}" for k in ("before", "after") if ett[k])
        lines.append(f"| {road['road']} | {left} | {right} | {road['verdict']} |")
    if "arms" in facts:
        lines += [
            "",
            "`python benchmarks/accuracy.py`: the same for the code as it is, with every window of ETTh1's rows.",
            "",
            "| | M4 Hourly, OWA | ETTh1, MSE / MAE |",
            "| --- | --- | --- |",
        ]
        for name, row in facts["arms"].items():
            ett = row.get("etth1")
            right = f"{ett['mse']:.3f} / {ett['mae']:.3f}" if ett else ""
            lines.append(f"| {name} | {row['m4_hourly']['owa']:.3f} | {right} |")
    return [*lines, "", machine_line(facts["machine"]), ""]


def step_section(facts: dict[str, Any]) -> list[str]:
    """Cost of a training step."""
    lines = [
        "## The training step",
        "",
        "`python benchmarks/training_step.py`",
        "",
        "| measured | value |",
        "| --- | --- |",
    ]
    lines += [f"| {row['what']} | {row['value']} |" for row in facts["rows"]]
    return [*lines, "", machine_line(facts["machine"]), ""]


def defaults_section(facts: dict[str, Any]) -> list[str]:
    """What each default gives."""
    naive = facts["arms"]["defaults"][0]["naive_owa"]
    lines = [
        "## The defaults before these, one option changed at a time",
        "",
        "`python benchmarks/defaults.py`: a backtest of the last 48 hours of the *training* part of M4 Hourly; the",
        f"test part is not read. Seasonal naive: OWA {naive:.3f}. Means over the seeds; a difference below the spread",
        "between seeds says nothing. Measured before the changes of the section above: dropout .2, fewer anchors,",
        "weights that are not averaged, and a clip that leaves the head out.",
        "",
        "| | OWA | spread of OWA | MASE | sMAPE | 80 % interval | whole backtest, s | seeds |",
        "| --- | --- | --- | --- | --- | --- | --- | --- |",
    ]
    for name, runs in facts["arms"].items():
        mean = {key: statistics.mean(run[key] for run in runs) for key in runs[0]}
        spread = max(run["owa"] for run in runs) - min(run["owa"] for run in runs)
        lines.append(
            f"| {name} | {mean['owa']:.3f} | {spread:.3f} | {mean['mase']:.3f} | {mean['smape']:.2f} "
            f"| {100 * mean['coverage_level80']:.1f} % | {mean['seconds']:.0f} | {len(runs)} |"
        )
    return [*lines, "", machine_line(facts["machine"]), ""]


def guard_section(facts: dict[str, Any]) -> list[str]:
    """Clip and update beside torch."""
    small = [row for run in facts["runs"] for row in run["updates"] if row["size"] == "0.2M" and row["clipped"]]
    extra = 1000 * statistics.median(row["guard_ms"] - row["torch_ms"] for row in small)
    lines = [
        "## The gradient guard: clip and update",
        "",
        "`python benchmarks/guard.py`: `clip_grad_norm_` and `optimizer.step()` beside `guard.step(optimizer)`,",
        "which also keeps all norms, coefficients and counts. Equal models (an LSTM of two layers and a head),",
        f"equal gradients, turn by turn in one run; medians, over {len(facts['runs'])} runs, of the guard's time over",
        "torch's. The aim is 0.90 with fused optimisers; it is met where a pass over the gradients weighs something.",
        f"In the smallest model, which fits into the cache, a clipped step takes {extra:.0f} microseconds more than",
        "torch's: records in Python, norms by rows, and in AdamW's kernel a division by `grad_scale` that costs what",
        "the multiplication would.",
        "",
        "| parameters | optimiser | threads | torch, ms | guard / torch, clipped | guard / torch, within the bound |",
        "| --- | --- | --- | --- | --- | --- |",
    ]
    keys = dict.fromkeys((row["size"], row["optimiser"], row["threads"]) for row in facts["runs"][0]["updates"])
    for size, optimiser, threads in keys:
        own = [
            row
            for run in facts["runs"]
            for row in run["updates"]
            if (row["size"], row["optimiser"], row["threads"]) == (size, optimiser, threads)
        ]
        clipped, within = (
            statistics.median(row["ratio"] for row in own if row["clipped"] is which) for which in (True, False)
        )
        torch_ms = statistics.median(row["torch_ms"] for row in own)
        lines.append(f"| {size} | {optimiser} | {threads} | {torch_ms:.2f} | **{clipped:.2f}** | {within:.2f} |")
    lines += ["", "| parameters | threads | norms by role / of one role |", "| --- | --- | --- |"]
    for row in facts["runs"][0]["roles"]:
        own = [
            each["ratio"]
            for run in facts["runs"]
            for each in run["roles"]
            if (each["size"], each["threads"]) == (row["size"], row["threads"])
        ]
        lines.append(f"| {row['size']} | {row['threads']} | {statistics.median(own):.2f} |")
    return [*lines, "", machine_line(facts["machine"]), ""]


def flow_section(facts: dict[str, Any]) -> list[str]:
    """Cost of looking at the flow of gradients."""
    one = facts["seconds"]["training step"]
    lines = [
        "## The flow of gradients: what looking costs",
        "",
        "`python benchmarks/flow.py`: an LSTM of two layers of 128, context 336, batch 128; medians of one run.",
        "",
        "| | seconds | training steps |",
        "| --- | --- | --- |",
    ]
    lines += [f"| {name} | {value:.3f} | {value / one:.2f} |" for name, value in facts["seconds"].items()]
    return [*lines, "", machine_line(facts["machine"]), ""]


def constraint_section(facts: dict[str, Any]) -> list[str]:
    """Cost of constrained recurrent matrices."""
    lines = [
        "## Constrained recurrent matrices: what they cost",
        "",
        "`python benchmarks/constraint.py`: a training step of an LSTM of 128 units, batch 128, and the weights of its",
        "four gates alone, forth and back; medians of one run, in milliseconds.",
        "",
        "| | " + " | ".join(f"{steps} recurrent steps" for steps in facts["training_step"]) + " | weights alone |",
        "| --- |" + " --- |" * (len(facts["training_step"]) + 1),
    ]
    names = dict.fromkeys([*next(iter(facts["training_step"].values())), *facts["weights"]])
    for name in names:
        cells = [each.get(name) for each in (*facts["training_step"].values(), facts["weights"])]
        lines.append(f"| {name} | " + " | ".join("" if cell is None else f"{1e3 * cell:.1f}" for cell in cells) + " |")
    return [*lines, "", machine_line(facts["machine"]), ""]


def cells_section(facts: dict[str, Any]) -> list[str]:
    """RNN and GRU beside torch.nn."""
    rows = facts["rows"]
    ratios = [row["train_cpu_ratio"] for row in rows]
    met = sum(ratio <= 1 / 1.3 for ratio in ratios)
    lines = [
        "## RNN and GRU on a CPU",
        "",
        "`python benchmarks/cells.py`: layers of 128 units and 32 inputs, batch 128, and equal ones of torch.nn in a",
        f"process of their own, turn by turn; medians of {facts['turns']} turns of holdfast's time over torch's, by",
        "the processor and by the clock, which also holds what others did on the machine (load",
        f"{facts['load']:.1f}). Training is forward and backward. The aim is 0.77, that is 1.3 times as fast: by the",
        f"processor {met} of {len(rows)} rows meet it; the median over the rows is {statistics.median(ratios):.2f}.",
        "Most of what is left are matrix products and tanh, which both sides do at the same speed.",
        "",
        "| layer | layers | steps | threads | torch, ms | training | by the clock | forward alone | by the clock |",
        "| --- | --- | --- | --- | --- | --- | --- | --- | --- |",
    ]
    lines += [
        f"| {row['kind']} | {row['layers']} | {row['steps']} | {row['threads']} | {row['train_cpu_torch_ms']:.1f} "
        f"| **{row['train_cpu_ratio']:.2f}** | {row['train_ratio']:.2f} "
        f"| {row['predict_cpu_ratio']:.2f} | {row['predict_ratio']:.2f} |"
        for row in rows
    ]
    return [*lines, "", machine_line(facts["machine"]), ""]


def probe_section(facts: dict[str, Any]) -> list[str]:
    """Cost of looking at the flow while a model trains."""
    lines = [
        "## The flow of gradients while a model trains",
        "",
        f"`python benchmarks/probe.py`: {facts['steps']} steps with the probe and without, in turns; medians over the",
        "turns. The budget is 3 % of the run time, and the first sample comes at step 131. The ratio holds the noise",
        "of the machine, the share does not.",
        "",
        "| | turns | ms per step with | without | ratio | samples | share of the time, by the probe |",
        "| --- | --- | --- | --- | --- | --- | --- |",
    ]
    lines += [
        f"| {name} | {row['turns']} | {row['with_ms']:.1f} | {row['without_ms']:.1f} | {row['ratio']:.3f} "
        f"| {row['samples']:g} | {100 * row['share']:.2f} % |"
        for name, row in facts["rows"].items()
    ]
    return [*lines, "", machine_line(facts["machine"]), ""]


def beside_section(facts: dict[str, Any]) -> list[str]:
    """Beside other libraries."""
    sets, others = ([row for row in facts["rows"] if (row["kind"] == "sets") is which] for which in (True, False))
    lines = sets_section(sets, newest_machine_line(sets))
    if others:
        lines += peers_section(others, newest_machine_line(others) or machine_line(facts["machine"]))
    return lines


SECTIONS = {
    "m4_hourly": m4_section,
    "etth1": etth1_section,
    "fit_seconds": seconds_section,
    "accuracy": accuracy_section,
    "peers": beside_section,
    "defaults": defaults_section,
    "training_step": step_section,
    "guard": guard_section,
    "flow": flow_section,
    "constraint": constraint_section,
    "cells": cells_section,
    "probe": probe_section,
}


def write_page() -> None:
    """Write the page from whatever was measured."""
    lines = ["# Results", "", "Written by `python benchmarks/write_results_page.py` from `benchmarks/results/`.", ""]
    rows = read_rows(RESULTS / "collection")
    lines += collection_section(rows, newest_machine_line(rows))
    for name, section in SECTIONS.items():
        facts = read_results(name)
        if facts is not None:
            lines += section(facts)
    PAGE.write_text("\n".join(lines).rstrip() + "\n")


if __name__ == "__main__":
    write_page()
