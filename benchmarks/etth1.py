"""ETTh1 with the defaults: seven columns as seven series, every window of the test part, no window dropped.

    python benchmarks/etth1.py [--preset best] [--horizons 96,192,336,720] [--seeds 3] [--data ETTh1.csv]

Rows 0-8639 train, 8640-11519 validate, 11520-14399 test (Zhou et al. 2021); z-scores by mean and population standard
deviation of the training rows; MSE and MAE are means over windows, steps and columns. Only the horizon is given: a fit
gets the rows before 11520 and holds windows at their end out by itself. Nothing here was tuned on the test part.
Writes benchmarks/results/etth1.json and its tables in benchmarks/RESULTS.md. The data may not be handed on (CC BY-ND
4.0): without the file nothing is measured.
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
from common import fit_facts, machine_facts, read_results, write_results
from numpy.typing import NDArray
from write_results_page import write_page

from holdfast import Forecaster
from holdfast.forecasting.predict import predict_windows
from holdfast.series import RawTable, TableOptions, check_table
from holdfast.windows import Windows

DATA = Path(__file__).parents[2] / "shared" / "data" / "etth1" / "ETTh1.csv"
TRAINED, VALIDATED, TESTED = 8640, 11520, 14400  # rows before the end of each part
VALIDATION, TEST = (TRAINED, VALIDATED), (VALIDATED, TESTED)
HORIZONS = (96, 192, 336, 720)
SEASON = 24
CUTOFFS_AT_ONCE = 128
# Computed apart from this code, one window after the other: MSE and MAE of repeat last, seasonal naive, predict 0.
KNOWN = {
    96: {"repeat last": (1.2944, 0.7132), "seasonal naive 24": (0.5122, 0.4333), "predict 0": (1.1099, 0.7960)},
    192: {"repeat last": (1.3249, 0.7331), "seasonal naive 24": (0.5808, 0.4692), "predict 0": (1.1111, 0.7980)},
    336: {"repeat last": (1.3299, 0.7460), "seasonal naive 24": (0.6499, 0.5008), "predict 0": (1.1069, 0.8000)},
    720: {"repeat last": (1.3351, 0.7550), "seasonal naive 24": (0.6554, 0.5141), "predict 0": (1.0972, 0.8017)},
}


def read_etth1(path: Path) -> tuple[pl.DataFrame, NDArray[np.float64]]:
    """The three parts as a long table of z-scores, and the z-scores alone, [columns, rows]."""
    wide = pl.read_csv(path, try_parse_dates=True)[:TESTED]
    names = wide.columns[1:]
    z = [(pl.col(name) - wide[name][:TRAINED].mean()) / wide[name][:TRAINED].std(ddof=0) for name in names]
    wide = wide.select(pl.col("date").alias("ds"), *z)
    table = wide.unpivot(index="ds", variable_name="unique_id", value_name="y").select("unique_id", "ds", "y")
    return table.sort("unique_id", "ds"), wide.select(sorted(names)).to_numpy().T


def cutoffs_of(part: tuple[int, int], horizon: int) -> list[NDArray[np.int64]]:
    """Cutoffs of all windows of a part, some at a time."""
    cutoffs = np.arange(part[0], part[1] - horizon + 1)
    return np.array_split(cutoffs, -(-len(cutoffs) // CUTOFFS_AT_ONCE))


def targets(z_CR: NDArray[np.float64], cutoffs: NDArray[np.int64], horizon: int) -> NDArray[np.float64]:
    """What came, [columns, cutoffs, horizon]."""
    return z_CR[:, cutoffs[:, None] + np.arange(horizon)]


def naive_scores(z_CR: NDArray[np.float64], horizon: int) -> dict[str, tuple[float, float]]:
    """MSE and MAE of forecasts that learn nothing, checked against what is known of them."""
    sums = {name: np.zeros(3) for name in KNOWN[horizon]}
    for cutoffs in cutoffs_of(TEST, horizon):
        y = targets(z_CR, cutoffs, horizon)
        phase = np.arange(horizon) % SEASON - SEASON
        forecasts = {
            "repeat last": z_CR[:, cutoffs - 1, None],
            "seasonal naive 24": z_CR[:, cutoffs[:, None] + phase],
            "predict 0": np.zeros(1),
        }
        for name, forecast in forecasts.items():
            sums[name] += error_sums(y, forecast)
    scores = {name: (float(total[0] / total[2]), float(total[1] / total[2])) for name, total in sums.items()}
    for name, known in KNOWN[horizon].items():
        assert tuple(round(score, 4) for score in scores[name]) == known, (horizon, name, scores[name], known)
    return scores


def error_sums(y: NDArray[np.float64], forecast: NDArray[np.float64]) -> NDArray[np.float64]:
    """Sum of squared errors, of absolute errors, and how many."""
    error = y - forecast
    return np.array([(error**2).sum(), np.abs(error).sum(), error.size])


def model_forecasts(
    forecaster: Forecaster, table: pl.DataFrame, part: tuple[int, int], horizon: int
) -> Iterator[tuple[NDArray[np.int64], NDArray[np.float64], NDArray[np.float64]]]:
    """Cutoffs, point forecasts and borders of the 80 % interval of all windows of a part, some at a time."""
    fitted = forecaster.fitted
    windows = Windows.from_store(check_table(RawTable(table), TableOptions(horizon=horizon)).store)
    series = table["unique_id"].n_unique()
    for cutoffs in cutoffs_of(part, horizon):
        which = np.repeat(np.arange(series), len(cutoffs))
        point, border = predict_windows(fitted.networks, windows, which, np.tile(cutoffs, series), (80,))
        yield cutoffs, point.reshape(series, -1, horizon), border.reshape(series, -1, horizon, 2)


def run(
    options: dict[str, Any], part: tuple[int, int], table: pl.DataFrame, z_CR: NDArray[np.float64]
) -> dict[str, Any]:
    """One fit on the rows before a part, scored on every window of the part."""
    known = table.group_by("unique_id", maintain_order=True).head(part[0])
    started = time.perf_counter()
    forecaster = Forecaster(**options).fit(known)
    fitted = time.perf_counter()
    horizon = forecaster.fitted.network.config.horizon
    sums, inside = np.zeros(3), 0.0
    for cutoffs, point, border in model_forecasts(forecaster, table, part, horizon):
        y = targets(z_CR, cutoffs, horizon)
        sums += error_sums(y, point)
        inside += ((y >= border[..., 0]) & (y <= border[..., 1])).sum()
    metrics = forecaster.fitted.metrics
    return {
        **options,
        "mse": sums[0] / sums[2],
        "mae": sums[1] / sums[2],
        "coverage_level80": inside / sums[2],
        "windows": int(sums[2]) // (len(z_CR) * horizon),
        "fit_seconds": fitted - started,
        **fit_facts(metrics),
    }


def main() -> None:
    """Fit, score, write."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--preset", default="default")
    parser.add_argument("--horizons", default=",".join(map(str, HORIZONS)))
    parser.add_argument("--seeds", type=int, default=1)
    parser.add_argument("--data", type=Path, default=DATA)
    given = parser.parse_args()
    if not given.data.exists():
        print(f"skipped: {given.data} is not there, and ETTh1 may not be bundled; give --data")
        return
    table, z_CR = read_etth1(given.data)
    facts = read_results("etth1") or {"runs": []}
    facts["baselines"] = {str(horizon): naive_scores(z_CR, horizon) for horizon in HORIZONS}
    for seed in range(given.seeds):
        for horizon in map(int, given.horizons.split(",")):
            row = run({"preset": given.preset, "horizon": horizon, "seed": seed}, TEST, table, z_CR)
            print(row)
            same = ("preset", "horizon", "seed")
            others = [old for old in facts["runs"] if any(old[key] != row[key] for key in same)]
            facts |= {"machine": machine_facts(), "runs": [*others, row]}
            write_results("etth1", facts)
    write_page()


if __name__ == "__main__":
    main()
