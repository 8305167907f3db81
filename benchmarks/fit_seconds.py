"""How long whole fits of tables take: one series of 144 rows, and 1,000 monthly series of 100 rows.

    python benchmarks/fit_seconds.py [--repeats 3]

From the table in memory to the forecaster, every fit in a process of its own, after the import of the library. Writes
benchmarks/results/fit_seconds.json and its table in benchmarks/RESULTS.md.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import time

import numpy as np
import polars as pl
from common import machine_facts, write_results
from write_results_page import write_page

from holdfast import Forecaster

CASES = {  # series, rows, preset
    "one series of 144 rows": (1, 144, "default"),
    "1,000 series of 100 rows": (1000, 100, "default"),
    "1,000 series of 100 rows, preset fast": (1000, 100, "fast"),
}


def monthly(series: int, rows: int) -> pl.DataFrame:
    """Trend, season and noise, different in every series."""
    rng, t = np.random.default_rng(0), np.arange(rows)
    dates = pl.date_range(pl.date(2000, 1, 1), pl.date(2050, 1, 1), "1mo", eager=True)[:rows]
    parts = []
    for number in range(series):
        level, slope, size = rng.uniform(50, 500), rng.uniform(-0.2, 1.0), rng.uniform(5, 30)
        y = level + slope * t + size * np.sin(2 * np.pi * (t + rng.integers(12)) / 12) + rng.normal(0, 5, rows)
        parts.append(pl.DataFrame({"unique_id": f"s{number}", "ds": dates, "y": y}))
    return pl.concat(parts)


def measure(case: str) -> dict[str, float]:
    """Seconds of fit and prediction."""
    series, rows, preset = CASES[case]
    table = monthly(series, rows)
    begun = time.perf_counter()
    forecaster = Forecaster(horizon=12, preset=preset).fit(table)
    fitted = time.perf_counter()
    forecaster.predict()
    seconds = {"fit": fitted - begun, "predict": time.perf_counter() - fitted}
    return {**seconds, "steps": forecaster.fitted.metrics["steps"]}


def main() -> None:
    """Measure every case some times, in turns."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--case", help=argparse.SUPPRESS)
    given = parser.parse_args()
    if given.case:
        print(json.dumps(measure(given.case)))
        return
    rows = []
    for _ in range(given.repeats):
        for case in CASES:
            command = [sys.executable, __file__, "--case", case]
            done = subprocess.run(command, capture_output=True, text=True, check=True)
            rows.append({"case": case, **json.loads(done.stdout.splitlines()[-1])})
            print(rows[-1], flush=True)
    write_results("fit_seconds", {"machine": machine_facts(), "rows": rows})
    write_page()


if __name__ == "__main__":
    main()
