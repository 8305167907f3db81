"""Run cases, each in a fresh process, within limits; keep every row as soon as it is there."""

from __future__ import annotations

import json
import math
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from multiprocessing.pool import ThreadPool
from pathlib import Path
from typing import Any

from .jobs import Job, key_of

THREADS = ("OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS", "POLARS_MAX_THREADS")
EVERY = 0.2  # seconds between two looks at a process
Row = dict[str, Any]


@dataclass(frozen=True)
class Limits:
    """What a case may take.

    Attributes:
        minutes: Beyond its own budget of training.
        gb: Of memory.
        threads: Of every numeric library.
        until: Of `time.monotonic`: no case starts later, and one that still runs is stopped without a row.
    """

    minutes: float = 5.0
    gb: float = 12.0
    threads: int = 2
    until: float = math.inf


def read_facts(path: Path) -> dict[str, Any]:
    """What a file of results holds; no rows without a file."""
    return json.loads(path.read_text()) if path.exists() else {"rows": []}


def keep(path: Path, row: Row) -> None:
    """Put a row into a file of results, in the place of an older one of the same case."""
    facts = read_facts(path)
    rows = {key_of(each): each for each in (*facts["rows"], row)}
    path.write_text(json.dumps({**facts, "rows": list(rows.values())}, indent=1) + "\n")


def still_to_do(jobs: Iterable[Job], rows: Iterable[Row]) -> list[Job]:
    """The cases without a row, in their order; one that failed is tried again, one that was cut off is not."""
    done = {key_of(row) for row in rows if "failed" not in row}
    return [job for job in jobs if key_of(job) not in done]


def run_cases(jobs: Iterable[Job], script: Path, limits: Limits, workers: int) -> Iterator[Row]:
    """Some cases at a time: their rows, as they end."""
    with ThreadPool(workers) as pool:
        yield from filter(None, pool.imap_unordered(lambda job: run_case(job, script, limits), jobs))


def run_case(job: Job, script: Path, limits: Limits) -> Row | None:
    """The row of one case: what it measured, or that it was cut off, or why it failed; None if there was no time."""
    if time.monotonic() >= limits.until:
        return None
    with tempfile.TemporaryDirectory() as folder:
        place = Path(folder)
        command = [sys.executable, str(script), "--job", json.dumps(job), "--to", str(place / "row.json")]
        threads = dict.fromkeys(THREADS, str(limits.threads))
        environment = {**os.environ, **threads, "CUDA_VISIBLE_DEVICES": "", "PYTHONWARNINGS": "ignore"}
        with (place / "said").open("w") as said:
            process = subprocess.Popen(command, cwd=folder, env=environment, stdout=said, stderr=subprocess.STDOUT)
            cut = watch(process, limits, float(job.get("seconds") or 0))
        if cut is not None:
            return {**job, "cut_off": cut, "threads": limits.threads} if time.monotonic() < limits.until else None
        if not (place / "row.json").exists():
            lines = [line for line in (place / "said").read_text().splitlines() if line.strip()]
            return {**job, "failed": lines[-1] if lines else f"exit status {process.returncode}"}
        return json.loads((place / "row.json").read_text())


def watch(process: subprocess.Popen[bytes], limits: Limits, budget: float) -> str | None:
    """Wait for the end of a process, or put an end to it; what one that was cut off took."""
    end = min(limits.until, time.monotonic() + budget + 60 * limits.minutes)
    cut = None
    while process.poll() is None and cut is None:
        time.sleep(EVERY)
        if time.monotonic() > end:
            cut = f"more than {limits.minutes:g} minutes"
        elif resident_gb(process.pid) > limits.gb:
            cut = f"more than {limits.gb:g} GB"
    if cut is not None:
        process.kill()
        process.wait()
    return cut


def resident_gb(pid: int) -> float:
    """Memory that a process holds now, in GB; 0 where that cannot be known."""
    try:
        pages = int(Path(f"/proc/{pid}/statm").read_text().split()[1])
    except (OSError, IndexError):
        return 0.0
    return pages * os.sysconf("SC_PAGE_SIZE") / 1e9
