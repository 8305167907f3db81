"""From the name of a study to its rows, its tables and its verdict, in a directory that can be gone on with."""

from __future__ import annotations

import json
import os
import tempfile
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import polars as pl
import torch

from holdfast.errors import OptionError, Problem, RunDirectoryError
from holdfast.forecasting import Config
from holdfast.studies.catalogue import STUDIES, Study, find_study
from holdfast.studies.grid import Trial
from holdfast.studies.own import advise, check_own, own_options, own_study, own_trials
from holdfast.studies.page import study_page, study_table
from holdfast.studies.runner import Show, run_trial, run_trials
from holdfast.studies.verdicts import Verdict, judge

FACTS, RESULTS, SUMMARY, PAGE = "study.json", "results.parquet", "summary.md", "study.html"
PACED_STEPS = 20  # by which the time of a full study is estimated


@dataclass(frozen=True)
class StudyResult:
    """A study that was run.

    Attributes:
        study: Which.
        rows: One row per run, with every setting and what came of it.
        table: Means by group and arm.
        verdict: What they say of the claim.
        full: Whether it was the full study.

    Example:
        >>> verdict = Verdict("true", "As seen.")
        >>> StudyResult(find_study("cells"), pl.DataFrame(), pl.DataFrame(), verdict, full=True).words
        'An LSTM mostly helps. True. As seen.'
    """

    study: Study
    rows: pl.DataFrame
    table: pl.DataFrame
    verdict: Verdict
    full: bool

    @property
    def words(self) -> str:
        """The claim, and the verdict on it."""
        return f"{self.study.claim} {self.verdict.words(self.full)}"


def run_study(
    name: str,
    out: Path,
    *,
    full: bool = False,
    data: Path | None = None,
    config: Config | None = None,
    workers: int | None = None,
    show: Show | None = None,
    say: Callable[[str], None] = lambda line: None,
) -> StudyResult:
    """Run a study, or go on with one that was stopped, and write results.parquet, summary.md, study.html.

    Args:
        name: One of `STUDIES`.
        out: Directory: new, empty, or that of the same study.
        full: The whole grid rather than a sketch of it.
        data: A user's own table, CSV or Parquet, for a study of fits; the verdict is then the option to use.
        config: Columns, horizon and season of that table.
        workers: Processes; None: one for each core.
        show: Told how many runs are done, and of how many.
        say: Told what is about to be done, and how long it may take.

    Raises:
        OptionError: There is no such study, or it cannot be run on a table.
        DataError: With everything that is wrong with the table.
        RunDirectoryError: The directory holds something else.

    Example:
        >>> run_study("nonsense", Path("there"))
        Traceback (most recent call last):
        ...
        holdfast.errors.OptionError: study
          expected: one of clip-scope, placement, threshold, spectrum, cells, init, pascanu
          got:      'nonsense'
          to do:    see them with: holdfast study list
    """
    study = find_study(name)
    facts: dict[str, Any] = {"study": name, "full": full}
    trials = study.trials(full)
    config = config or Config()
    if data is None and config != Config():
        fix = f"give them with a table: holdfast study {name} --data DATA"
        raise OptionError(Problem("options of a table", "--data beside them", "none", fix))
    if data is not None:
        facts |= check_own(study, data, config)
        study = own_study(study, data)
        trials = own_trials(study, data, config, full)
    _claim_directory(out, facts)
    workers = workers or os.cpu_count() or 1
    say(f"{name}: {study.measured}")
    kind = "the full study" if full else "a sketch, too small for a verdict to rest on"
    say(f"{len(trials)} runs in {workers} processes: {kind}; about {minutes(_expected(trials) / workers)}")
    rows = pl.DataFrame(run_trials(trials, out, workers=workers, show=show), infer_schema_length=None)
    verdict = judge(name, rows) if data is None else advise(rows)
    result = StudyResult(study, rows, study_table(study, rows), verdict, full)
    rows.write_parquet(out / RESULTS)
    own = "" if data is None else own_options(data, config)
    page = study_page(study, rows, verdict, full=full, options=own)
    (out / SUMMARY).write_text(page.to_markdown(), encoding="utf-8")
    (out / PAGE).write_text(page.to_html(), encoding="utf-8")
    return result


def minutes(seconds: float) -> str:
    """A time in words.

    Example:
        >>> minutes(50), minutes(400)
        ('1 minute', '7 minutes')
    """
    count = max(round(seconds / 60), 1)
    return f"{count} minute" + ("" if count == 1 else "s")


def _claim_directory(out: Path, facts: dict[str, Any]) -> None:
    path = out / FACTS
    if path.is_file():
        found = json.loads(path.read_text(encoding="utf-8"))
        if found != facts:
            fix = "choose another --out, or ask for the study that is there"
            raise RunDirectoryError(Problem(str(out), json.dumps(facts), json.dumps(found), fix))
        return
    if out.exists() and (not out.is_dir() or any(out.iterdir())):
        raise RunDirectoryError(Problem(str(out), "a new or empty directory", "one with files", "choose another --out"))
    out.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(facts) + "\n", encoding="utf-8")


def _expected(trials: Sequence[Trial]) -> float:
    """Seconds of all trials one after the other on one thread, from a few steps of one of each kind."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)  # as each of the processes has
    try:
        return _paced(trials)
    finally:
        torch.set_num_threads(threads)


def _paced(trials: Sequence[Trial]) -> float:
    kinds: dict[tuple[str, str, int, str], list[Trial]] = {}
    for trial in trials:
        kinds.setdefault((trial.task, trial.cell, trial.length, trial.placement), []).append(trial)
    total = 0.0
    for each in kinds.values():
        plain = replace(each[0], rule="none", scope="none")
        seconds = []
        for steps in (1, 1, PACED_STEPS):  # the first one warms this process up
            started = time.perf_counter()
            run_trial(replace(plain, steps=steps))
            seconds.append(time.perf_counter() - started)
        per_step = max(seconds[2] - seconds[1], 0.0) / (PACED_STEPS - 1)
        total += sum(seconds[1] + per_step * trial.steps for trial in each)
    return total


def study_lines() -> list[str]:
    """The studies, one per line."""
    return [f"{study.name}: {study.claim}" for study in STUDIES.values()]


def study_place(name: str, out: Path | None) -> Path:
    """The directory that a user named, or a new temporary one."""
    find_study(name)
    return Path(tempfile.mkdtemp(prefix=f"holdfast-{name}-")) if out is None else out
