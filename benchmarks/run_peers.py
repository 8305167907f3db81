"""holdfast beside NeuralForecast, GluonTS and Darts: accuracy within a budget of seconds, speed, memory.

    make bench                                  what is missing, for at most 55 minutes
    python benchmarks/run_peers.py --list       the missing cases, and their training budgets
    python benchmarks/run_peers.py --kinds sets

The kinds, in this order: `sets`, four data sets with one budget, two cases at a time; then, one case at a time, `rate`,
`predict`, `growth` and `accuracy` on M4 Hourly and synthetic series, which take hours. Every case runs in a process of
its own, on the CPU. Peers are at their defaults except for data, horizon, device, threads, seed, quantiles where scores
need them, and a callback of their trainer that ends training when the budget is spent. Every finished case is kept in
benchmarks/results/peers.json, and a rerun does what is missing there: delete rows to measure anew. Writes
benchmarks/RESULTS.md and the pictures in docs/benchmarks.
"""

from __future__ import annotations

import argparse
import json
import logging
import os
import time
from pathlib import Path

from common import RESULTS, machine_facts
from draw_peers import draw
from peers.jobs import Job, all_jobs, measure
from peers.runner import Limits, keep, read_facts, run_cases, still_to_do
from write_results_page import write_page

PLACE = RESULTS / "peers.json"


def run(jobs: list[Job], given: argparse.Namespace) -> None:
    """Measure: the sets first, some cases at a time and each on one thread; the others one at a time."""
    started = time.monotonic()
    until = started + 60 * given.minutes_in_all
    done = 0
    for of_sets in (True, False):
        limits = Limits(given.minutes, given.gb, 1 if of_sets else given.threads, until)
        workers = given.workers if of_sets else 1
        batch = [job for job in jobs if (job["kind"] == "sets") == of_sets]
        for row in run_cases(batch, Path(__file__).resolve(), limits, workers):
            machine = {**machine_facts(), "threads": limits.threads, "workers": workers, "load": os.getloadavg()[0]}
            keep(given.results, {**row, "machine": machine})
            done += 1
            print(f"{done}/{len(jobs)}, {time.monotonic() - started:.0f} s: {row}", flush=True)
    if done < len(jobs):
        print(f"{given.minutes_in_all:g} minutes are over; {len(jobs) - done} cases are left: run this again")


def arguments() -> argparse.Namespace:
    """What was asked for."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    limits = Limits()
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--minutes-in-all", type=float, default=55, help="at most; default: %(default)s")
    parser.add_argument("--workers", type=int, default=2, help="cases of `sets` at a time, each on one thread")
    parser.add_argument("--threads", type=int, default=limits.threads, help="of a case of another kind")
    parser.add_argument("--minutes", type=float, default=limits.minutes, help="a case may take beyond its budget")
    parser.add_argument("--gb", type=float, default=limits.gb, help="of memory that a case may take")
    parser.add_argument("--kinds", default="sets,accuracy,rate,predict,growth", help="default: %(default)s")
    parser.add_argument("--results", type=Path, default=PLACE, help="file of the rows; default: that of the page")
    parser.add_argument("--list", action="store_true", help="print the missing cases, and measure nothing")
    parser.add_argument("--job", help=argparse.SUPPRESS)
    parser.add_argument("--to", type=Path, help=argparse.SUPPRESS)
    return parser.parse_args()


def main() -> None:
    """Measure what is not in the file yet, and write the page."""
    given = arguments()
    if given.job:
        logging.disable(logging.WARNING)
        given.to.write_text(json.dumps(measure(json.loads(given.job))))
        return
    jobs = [job for job in all_jobs(given.seeds) if job["kind"] in given.kinds.split(",")]
    left = still_to_do(jobs, read_facts(given.results)["rows"])
    if given.list:
        hours = sum(job.get("seconds", 0) for job in left) / 3600
        print(
            "\n".join([*map(json.dumps, left), f"{len(left)} of {len(jobs)} cases missing, {hours:.1f} h of training"])
        )
        return
    run(left, given)
    if given.results == PLACE:
        write_page()
        draw()


if __name__ == "__main__":
    main()
