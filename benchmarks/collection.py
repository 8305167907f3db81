"""A collection of real data sets: holdfast with its defaults, naive forecasts, and the models of statsforecast.

    make bench-collection                                what is missing, for at most 45 minutes
    python benchmarks/collection.py --list               the jobs that are missing
    python benchmarks/collection.py --only hospital,nn5_daily --models holdfast

One cutoff, the last horizon, for sets of 20 series or more; otherwise five, each a horizon after the one before, or as
many as the shortest series has room for. holdfast is given horizon and season length, fitted once before the first
cutoff, and predicts from each; the peers, which forecast one series at a time, are fitted anew at each. Every finished
job is kept in benchmarks/results/collection/SET.json, and a rerun does what is missing there: delete a file, or rows
of it, to measure anew. Writes the tables of benchmarks/RESULTS.md. Choices are made on earlier parts: --back 1.
"""

from __future__ import annotations

import argparse
import math
import multiprocessing
import os
import time
from functools import partial
from pathlib import Path
from typing import Any

from common import RESULTS, machine_facts
from peers.collected.forecasters import GROUPS
from peers.collected.jobs import Job, all_jobs, keep, measure, read_rows
from peers.collected.sets import DATA, names_of
from peers.runner import THREADS
from write_results_page import write_page

PLACE = RESULTS / "collection"


def run(jobs: list[Job], given: argparse.Namespace) -> None:
    """Measure, some jobs at a time and each on one thread; what is not finished in time is left for the next run."""
    minutes, workers = given.minutes, given.workers
    os.environ.update(dict.fromkeys(THREADS, "1"))
    machine = {**machine_facts(), "threads": 1, "workers": workers}
    started = time.monotonic()
    with multiprocessing.get_context("spawn").Pool(workers) as pool:  # leaving it ends what still runs
        results = pool.imap_unordered(partial(measure, given.data, machine, back=given.back), jobs)
        for number in range(1, len(jobs) + 1):
            try:
                rows = results.next(timeout=max(0.0, started + 60 * minutes - time.monotonic()))
            except multiprocessing.TimeoutError:
                print(f"{minutes:g} minutes are over; {len(jobs) - number + 1} jobs are left: run this again")
                return
            keep(given.results, rows)
            print(f"{number}/{len(jobs)}, {time.monotonic() - started:.0f} s: {said(rows)}", flush=True)


def said(rows: list[dict[str, Any]]) -> str:
    """A job in one line."""
    texts = [
        f"{row['model']}: failed, {row['failed']}"
        if "failed" in row
        else f"{row['model']} {row['relative_mase'] or math.nan:.3f}, WQL {row['wql'] or math.nan:.4f}, "
        f"coverage {row['coverage']:.3f}, {row['seconds']:.1f} s"
        for row in rows
    ]
    return f"{rows[0]['set']}, seed {rows[0]['seed']}: {'; '.join(texts)}"


def arguments() -> argparse.Namespace:
    """What was asked for."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--only", help="sets, separated by commas; default: all")
    parser.add_argument("--models", default=",".join(GROUPS), help="default: %(default)s")
    parser.add_argument("--seeds", type=int, default=3, help="of holdfast")
    parser.add_argument("--minutes", type=float, default=44, help="at most, in all")
    parser.add_argument("--workers", type=int, default=2, help="jobs at a time, each on one thread")
    parser.add_argument("--list", action="store_true", help="say what is missing, and measure nothing")
    parser.add_argument("--back", type=int, default=0, help="test parts to cut off first; give --results too")
    parser.add_argument("--data", type=Path, default=DATA, help="folder of NAME.parquet and NAME.json")
    parser.add_argument("--results", type=Path, default=PLACE, help="folder of the rows; default: that of the page")
    given = parser.parse_args()
    if given.back and given.results == PLACE:
        parser.error("--back measures other parts than those of the page: give --results FOLDER")
    known = names_of(given.data)
    given.only = known if given.only is None else given.only.split(",")
    given.models = given.models.split(",")
    for option, names, allowed in (("--only", given.only, known), ("--models", given.models, GROUPS)):
        if known and not set(names).issubset(allowed):
            parser.error(f"{option} takes some of {', '.join(allowed)}, separated by commas")
    return given


def main() -> None:
    """Measure what is missing, and write the page."""
    given = arguments()
    names = [name for name in names_of(given.data) if name in given.only]
    if not names:
        print(f"skipped: no data sets in {given.data}, and most of them may not be bundled; give --data")
        return
    jobs = list(all_jobs(names, given.models, given.seeds))
    missing = [job for job in jobs if not job.done(read_rows(given.results, job.name))]
    if given.list:
        print("\n".join([*(" ".join(map(str, job)) for job in missing), f"{len(missing)} of {len(jobs)} jobs missing"]))
        return
    run(missing, given)
    if given.results == PLACE:
        write_page()


if __name__ == "__main__":
    main()
