"""holdfast beside NeuralForecast, GluonTS and Darts: accuracy within a budget of seconds, speed, memory.

    make bench                                  everything; goes on where it was stopped
    python benchmarks/run_peers.py --list       the cases, and how long they take at most
    python benchmarks/run_peers.py --kinds rate,predict,growth

Every case runs in a process of its own, on the CPU, with `--threads` threads. Peers are at their defaults but for data,
horizon, device, threads, seed, and a training that a callback of their trainer ends when the budget is spent. Rows go
to a file, one per line, as they come; from there into benchmarks/results/peers.json, benchmarks/RESULTS.md, and the
pictures in docs/benchmarks.
"""

from __future__ import annotations

import argparse
import json
import logging
import tempfile
import time
from pathlib import Path

from common import machine_facts, write_results
from draw_peers import draw
from peers.jobs import all_jobs, measure
from peers.runner import Limits, append, newest, read_rows, run_case, still_to_do
from write_results_page import write_page


def arguments() -> argparse.Namespace:
    """What was asked for."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    limits = Limits()
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--threads", type=int, default=limits.threads)
    parser.add_argument("--minutes", type=float, default=limits.minutes, help="a case may take beyond its budget")
    parser.add_argument("--gb", type=float, default=limits.gb, help="of memory that a case may take")
    parser.add_argument("--kinds", default="accuracy,rate,predict,growth")
    parser.add_argument("--rows", type=Path, help="default: holdfast-peers-THREADS.jsonl among temporary files")
    parser.add_argument("--list", action="store_true")
    parser.add_argument("--job", help=argparse.SUPPRESS)
    parser.add_argument("--to", type=Path, help=argparse.SUPPRESS)
    given = parser.parse_args()
    given.rows = given.rows or Path(tempfile.gettempdir()) / f"holdfast-peers-{given.threads}.jsonl"
    return given


def main() -> None:
    """Measure what is not in the file yet, and write the page."""
    given = arguments()
    if given.job:
        logging.disable(logging.WARNING)
        given.to.write_text(json.dumps(measure(json.loads(given.job))))
        return
    jobs = [job for job in all_jobs(given.seeds) if job["kind"] in given.kinds.split(",")]
    left = still_to_do(jobs, read_rows(given.rows))
    limits = Limits(given.minutes, given.gb, given.threads)
    for number, job in enumerate(left, start=1):
        if given.list:
            print(json.dumps(job))
            continue
        started = time.monotonic()
        append(given.rows, run_case(job, Path(__file__).resolve(), limits))
        rows = newest(read_rows(given.rows))
        print(f"{number}/{len(left)}, {time.monotonic() - started:.0f} s: {rows[-1]}", flush=True)
        write_results("peers", {"machine": {**machine_facts(), "threads": given.threads}, "rows": rows})
    if given.list:
        budgets = sum(job.get("seconds", 0) for job in left)
        print(f"{len(left)} cases; {budgets / 3600:.1f} h of training budgets, and at most {limits.minutes:g} min each")
    else:
        write_page()
        draw()


if __name__ == "__main__":
    main()
