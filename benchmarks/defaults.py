"""How the defaults were chosen: one option changed at a time, scored inside the training part of M4 Hourly.

    python benchmarks/defaults.py [--seeds 2]

A backtest of one window on the training part alone; the test part is never read. Writes
benchmarks/results/defaults.json and the table in benchmarks/RESULTS.md.
"""

from __future__ import annotations

import argparse
import time
from typing import Any

from common import machine_facts, read_results, write_results
from write_results_page import write_page

from holdfast import Forecaster
from holdfast.forecasting import mean_scores, owa, score_table
from holdfast.series import m4_hourly

HORIZON, SEASON = 48, 24
ARMS: dict[str, dict[str, Any]] = {
    "defaults": {},
    "--max-steps 600": {"max_steps": 600},
    "--layers 2": {"layers": 2},
    "--cell gru": {"cell": "gru"},
    "--cell rnn-tanh": {"cell": "rnn-tanh"},
    "--hidden-size 64": {"hidden_size": 64},
    "dropout 0": {"dropout": 0.0},
    "--context-length 168": {"context_length": 168},
    "--clip none": {"clip": "none"},
    "--clip-roles input,recurrent,bias": {"clip_roles": ("input", "recurrent", "bias")},
    "--optimizer sgd": {"optimizer": "sgd"},
}


def run(options: dict[str, Any], seed: int) -> dict[str, float]:
    """One backtest inside the training part."""
    train = m4_hourly("train")
    started = time.perf_counter()
    table = Forecaster(horizon=HORIZON, season_length=SEASON, seed=seed, **options).backtest(train, n_windows=1)
    seconds = time.perf_counter() - started
    means = mean_scores(score_table(table, train, SEASON, (80, 95)))
    scores = {name: pair["holdfast"] for name, pair in means.items()}
    naive = owa(means["smape"]["seasonal_naive"], means["mase"]["seasonal_naive"])
    return {"seed": seed, **scores, "owa": owa(scores["smape"], scores["mase"]), "naive_owa": naive, "seconds": seconds}


def main() -> None:
    """Measure every arm that is not in the results file yet."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--seeds", type=int, default=2)
    seeds = parser.parse_args().seeds
    facts = read_results("defaults") or {"arms": {}}
    facts["machine"] = machine_facts()
    for seed in range(seeds):
        for name, options in ARMS.items():
            runs = facts["arms"].setdefault(name, [])
            if len(runs) <= seed:
                runs.append(run(options, seed))
                print(name, runs[-1])
                write_results("defaults", facts)
    write_page()


if __name__ == "__main__":
    main()
