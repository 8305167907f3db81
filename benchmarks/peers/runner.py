"""Run one case after the other, each in a fresh process, within limits; keep every row as soon as it is there."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from .jobs import Job, key_of

THREADS = ("OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS", "POLARS_MAX_THREADS")
EVERY = 0.2  # seconds between two looks at a process


@dataclass(frozen=True)
class Limits:
    """What a case may take.

    Attributes:
        minutes: Beyond its own budget of training.
        gb: Of memory.
        threads: Of every numeric library.
    """

    minutes: float = 5.0
    gb: float = 12.0
    threads: int = 2


def read_rows(path: Path) -> list[dict[str, Any]]:
    """The rows of a file with one JSON object per line; none without a file."""
    return [json.loads(line) for line in path.read_text().splitlines()] if path.exists() else []


def still_to_do(jobs: Iterable[Job], rows: list[dict[str, Any]]) -> list[Job]:
    """The cases without a row, in their order; one that failed is tried again, one that was cut off is not."""
    done = {key_of(row) for row in rows if "failed" not in row}
    return [job for job in jobs if key_of(job) not in done]


def run_case(job: Job, script: Path, limits: Limits) -> dict[str, Any]:
    """The row of one case: what it measured, or that it was cut off, or why it failed."""
    with tempfile.TemporaryDirectory() as folder:
        place = Path(folder)
        command = [sys.executable, str(script), "--job", json.dumps(job), "--to", str(place / "row.json")]
        threads = dict.fromkeys(THREADS, str(limits.threads))
        environment = {**os.environ, **threads, "CUDA_VISIBLE_DEVICES": "", "PYTHONWARNINGS": "ignore"}
        with (place / "said").open("w") as said:
            process = subprocess.Popen(command, cwd=folder, env=environment, stdout=said, stderr=subprocess.STDOUT)
            cut = watch(process, limits, float(job.get("seconds") or 0))
        if cut is not None:
            return {**job, **cut, "threads": limits.threads}
        if not (place / "row.json").exists():
            lines = [line for line in (place / "said").read_text().splitlines() if line.strip()]
            return {**job, "failed": lines[-1] if lines else f"exit status {process.returncode}"}
        return json.loads((place / "row.json").read_text())


def watch(process: subprocess.Popen[bytes], limits: Limits, budget: float) -> dict[str, Any] | None:
    """Wait for the end of a process, or put an end to it; what to say of one that was cut off."""
    started, end = time.monotonic(), budget + 60 * limits.minutes
    cut = None
    while process.poll() is None and cut is None:
        time.sleep(EVERY)
        if time.monotonic() - started > end:
            cut = {"cut_off": f"more than {limits.minutes:g} minutes"}
        elif resident_gb(process.pid) > limits.gb:
            cut = {"cut_off": f"more than {limits.gb:g} GB"}
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


def append(path: Path, row: dict[str, Any]) -> None:
    """One more line."""
    with path.open("a") as lines:
        lines.write(json.dumps(row) + "\n")


def newest(rows: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """The last row of each case, for one that failed may have been tried again."""
    return list({key_of(row): row for row in rows}.values())
