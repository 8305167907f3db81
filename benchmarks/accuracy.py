"""What each part of the accuracy gives, on windows inside the training parts; no test part is read.

    python benchmarks/accuracy.py [--arms "defaults,--cell gru"] [--data ETTh1.csv]

M4 Hourly: a backtest of the last three windows of 48 hours of the training part. ETTh1: horizon 96, fitted to rows
0-8639 and scored on every window of rows 8640-11519. One seed. Writes benchmarks/results/accuracy.json and its tables
in benchmarks/RESULTS.md. The roads in that file were measured so too, one after the other, while the defaults were
made: each row on the code of its day, and on ETTh1 on every fifth window.
"""

from __future__ import annotations

import argparse
import importlib
from pathlib import Path
from typing import Any

import etth1
from common import machine_facts, read_results, write_results
from write_results_page import write_page

from holdfast import Forecaster
from holdfast.forecasting import mean_scores, owa, score_table
from holdfast.series import m4_hourly

M4_HORIZON, M4_SEASON, M4_WINDOWS, ETTH1_HORIZON = 48, 24, 3, 96
ARMS: dict[str, dict[str, Any]] = {
    "defaults": {},
    "--preset best": {"preset": "best"},
    "--cell gru": {"cell": "gru"},
    "--dropout 0.2": {"dropout": 0.2},
    "--context-length 672": {"context_length": 672},
    "--context-length 168": {"context_length": 168},
}
# What no option switches off: a constant of a module, and the value that does it.
SWITCHES: dict[str, tuple[str, str, float]] = {
    "without the linear forecast": ("holdfast.forecasting.anchors", "LONGEST_LINEAR", 0),
    "validation from one cutoff": ("holdfast.training.split", "LEAST_VALIDATED", 1),
    "weights not averaged": ("holdfast.training.average", "DECAY", 0.0),
}


def m4_scores(options: dict[str, Any]) -> dict[str, float]:
    """A backtest inside the training part."""
    train = m4_hourly("train")
    forecaster = Forecaster(horizon=M4_HORIZON, season_length=M4_SEASON, **options)
    scores = mean_scores(score_table(forecaster.backtest(train, M4_WINDOWS), train, M4_SEASON, (80,)))
    mase, smape, inside = (scores[name]["holdfast"] for name in ("mase", "smape", "coverage_level80"))
    return {"owa": owa(smape, mase), "mase": mase, "smape": smape, "coverage_level80": inside}


def measure(arm: str, data: Path) -> dict[str, Any]:
    """Both sets with one arm; ETTh1 only where its file is."""
    options = ARMS.get(arm, {})
    switch = SWITCHES.get(arm)
    if switch is not None:
        module, name, value = importlib.import_module(switch[0]), switch[1], switch[2]
        before = getattr(module, name)
        setattr(module, name, value)
    row: dict[str, Any] = {"m4_hourly": m4_scores(options)}
    if data.exists():
        own = {"horizon": ETTH1_HORIZON, **options}
        row["etth1"] = etth1.run(own, etth1.VALIDATION, *etth1.read_etth1(data))
    if switch is not None:
        setattr(module, name, before)
    return row


def main() -> None:
    """Measure the arms that are asked for."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--arms", default=",".join([*ARMS, *SWITCHES]))
    parser.add_argument("--data", type=Path, default=etth1.DATA)
    given = parser.parse_args()
    for arm in given.arms.split(","):
        facts = read_results("accuracy") or {"roads": []}
        arms = {**facts.get("arms", {}), arm: measure(arm, given.data)}
        print(arm, arms[arm])
        write_results("accuracy", {**facts, "arms": arms, "machine": machine_facts()})
    write_page()


if __name__ == "__main__":
    main()
