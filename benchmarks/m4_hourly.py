"""M4 Hourly with a preset: fit on the training part, score on the test part as the competition did.

    python benchmarks/m4_hourly.py [--preset best] [--seeds 3]

Only horizon and season length are given. Nothing here was tuned on the test part: defaults were chosen on windows
inside the training part. Writes benchmarks/results/m4_hourly.json and the tables of benchmarks/RESULTS.md.
"""

from __future__ import annotations

import argparse
import time
from typing import Any

import numpy as np
import polars as pl
from common import fit_facts, machine_facts, read_results, write_results
from write_results_page import write_page

from holdfast import Forecaster
from holdfast.forecasting import mean_scores, owa, score_table, seasonal_naive
from holdfast.series import m4_hourly

HORIZON, SEASON = 48, 24


def naive_table(train: pl.DataFrame, test: pl.DataFrame, season: int) -> pl.DataFrame:
    """The test part beside a seasonal naive forecast (season 1 repeats the last value)."""
    history = train.partition_by("unique_id", as_dict=True, maintain_order=True)
    forecasts = [
        seasonal_naive(history[key]["y"].to_numpy(), season, HORIZON)
        for key in test.partition_by("unique_id", as_dict=True, maintain_order=True)
    ]
    cutoffs = train.group_by("unique_id", maintain_order=True).agg(pl.col("ds").max().alias("cutoff"))
    return test.join(cutoffs, on="unique_id", maintain_order="left").with_columns(
        pl.Series("seasonal_naive", np.concatenate(forecasts)), pl.Series("holdfast", np.concatenate(forecasts))
    )


def scores_of(table: pl.DataFrame, train: pl.DataFrame, levels: tuple[float, ...] = ()) -> dict[str, float]:
    """Plain means over the series, as the competition reports them."""
    means = {name: pair["holdfast"] for name, pair in mean_scores(score_table(table, train, SEASON, levels)).items()}
    return {**means, "owa": owa(means["smape"], means["mase"])}


def run(preset: str, seed: int, train: pl.DataFrame, test: pl.DataFrame) -> dict[str, Any]:
    """One fit."""
    started = time.perf_counter()
    forecaster = Forecaster(horizon=HORIZON, season_length=SEASON, seed=seed, preset=preset).fit(train)
    fitted = time.perf_counter()
    forecasts = forecaster.predict().join(test, on=["unique_id", "ds"])
    naive = naive_table(train, test, SEASON).select("unique_id", "ds", "cutoff", "seasonal_naive")
    scores = scores_of(forecasts.join(naive, on=["unique_id", "ds"]), train, forecaster.levels)
    metrics = forecaster.fitted.metrics
    return {
        "preset": preset,
        "seed": seed,
        **scores,
        "training_seconds": metrics["seconds"],
        "fit_seconds": fitted - started,
        **fit_facts(metrics),
    }


def main() -> None:
    """Fit, score, write."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--preset", default="default")
    parser.add_argument("--seeds", type=int, default=3)
    given = parser.parse_args()
    train, test = m4_hourly("train"), m4_hourly("test")
    naive = {
        f"seasonal naive {season}" if season > 1 else "naive": scores_of(naive_table(train, test, season), train)
        for season in (1, SEASON)
    }
    before = (read_results("m4_hourly") or {"runs": []})["runs"]
    runs = [row for row in before if row.get("preset", "default") != given.preset]
    for seed in range(given.seeds):
        runs.append(run(given.preset, seed, train, test))
        print(runs[-1])
        write_results("m4_hourly", {"machine": machine_facts(), "baselines": naive, "runs": runs})
    write_page()


if __name__ == "__main__":
    main()
