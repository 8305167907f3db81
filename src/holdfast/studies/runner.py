"""Trials in parallel processes; every finished one is kept at once, so that a study goes on where it was stopped."""

from __future__ import annotations

import json
import math
import multiprocessing
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor, as_completed
from dataclasses import asdict
from pathlib import Path
from typing import Any

import torch

from holdfast.studies.flows import measure_surface, measure_trial
from holdfast.studies.forecasts import forecast_trial
from holdfast.studies.grid import Trial
from holdfast.studies.train import train_trial

ROWS = "rows.jsonl"
FORECASTS = ("m4-hourly", "data")

Show = Callable[[int, int], None]  # done, of how many


def run_trial(trial: Trial) -> dict[str, Any]:
    """One trial in this process: its settings, and what came of it."""
    runs = {"spectrum": measure_trial, "surface": measure_surface}
    runs |= dict.fromkeys(FORECASTS, forecast_trial)
    return {"key": trial.key, **asdict(trial), **runs.get(trial.task, train_trial)(trial)}


def run_trials(trials: Sequence[Trial], out: Path, *, workers: int, show: Show | None = None) -> list[dict[str, Any]]:
    """Run the trials that `out` does not hold yet, and give back the rows of all of them, in their order.

    Args:
        trials: Any number.
        out: Directory that is there; finished rows are appended to rows.jsonl in it.
        workers: Processes, each with one thread.
        show: Told how many trials are done after each.

    Example:
        >>> import tempfile
        >>> out = Path(tempfile.mkdtemp())
        >>> _ = (out / ROWS).write_text('{"key": "%s", "x": 1}' % Trial(study="s", task="adding").key)
        >>> run_trials([Trial(study="s", task="adding")], out, workers=1)[0]["x"]
        1
    """
    kept = {row["key"]: row for row in read_rows(out)}
    wanted = {trial.key: trial for trial in trials}
    left = [trial for key, trial in wanted.items() if key not in kept]
    with (out / ROWS).open("a", encoding="utf-8", buffering=1) as file:
        for row in _finished(left, workers):
            kept[row["key"]] = row
            file.write(json.dumps({name: _plain(value) for name, value in row.items()}) + "\n")
            if show is not None:
                show(sum(key in kept for key in wanted), len(wanted))
    return [kept[key] for key in wanted]


def _finished(trials: Sequence[Trial], workers: int) -> Iterator[dict[str, Any]]:
    if not trials:
        return
    context = multiprocessing.get_context("spawn")
    with ProcessPoolExecutor(workers, mp_context=context, initializer=torch.set_num_threads, initargs=(1,)) as pool:
        running = [pool.submit(run_trial, trial) for trial in trials]
        try:
            for future in as_completed(running):
                yield future.result()
        finally:
            for future in running:
                future.cancel()


def read_rows(out: Path) -> list[dict[str, Any]]:
    """The finished rows of a directory; a last line that a kill cut off is left out, and cut off in the file too."""
    path = out / ROWS
    if not path.exists():
        return []
    lines = path.read_text(encoding="utf-8").splitlines()
    rows: list[dict[str, Any]] = []
    for number, line in enumerate(lines, start=1):
        try:
            rows.append({name: _number(value) for name, value in json.loads(line).items()})
        except ValueError:
            if number < len(lines):
                raise
    path.write_text("".join(f"{line}\n" for line in lines[: len(rows)]), encoding="utf-8")
    return rows


def _plain(value: Any) -> Any:
    return str(value) if isinstance(value, float) and not math.isfinite(value) else value


def _number(value: Any) -> Any:
    return float(value) if value in ("nan", "inf", "-inf") else value
