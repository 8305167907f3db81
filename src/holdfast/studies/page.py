"""The page of a study from its rows: the tables, the pictures that fit its kind, and the facts of the machine."""

from __future__ import annotations

import datetime
import os
import platform
from collections.abc import Mapping

import polars as pl
import torch

from holdfast.errors import OptionError
from holdfast.reports import Picture, StudyPage, Table, bound_figure, error_figure, growth_figure
from holdfast.studies.catalogue import Study
from holdfast.studies.statistics import paired, summarise
from holdfast.studies.verdicts import Verdict

MANY = 8  # panels, from which on an overview comes first
DETAILS = ("optimizer", "lr")  # what the overview takes together
SPECTRA = ("scaled_radius", "scaled_norm", "rate", "peak_log_factor", "exponent")
PREDICTORS = {
    "scaled_radius": "spectral radius x steepest slope",
    "scaled_norm": "spectral norm x steepest slope",
    "factor": "exp of the Lyapunov exponent",
}
READING = (
    "The error is that of sequences, or of windows, that training does not see, in units of the error of the best "
    "answer without a memory, or of seasonal naive: 1 means that nothing was learned. A run that diverged counts with "
    "2, and none with more. Intervals hold 95 % of bootstrapped means over runs. Arms of one seed start from the same "
    "weights and see the same data."
)
MEASURING = "Growth is the factor by which the norm of the adjoint changes with each step back, measured along data."


def study_page(study: Study, rows: pl.DataFrame, verdict: Verdict | None, *, full: bool) -> StudyPage:
    """Everything that is said of a study, ready to be written.

    Args:
        study: Which.
        rows: One per run.
        verdict: What they say of the claim, if anything.
        full: Whether it was the full study.

    Returns:
        The page; without pictures where matplotlib is not installed, and it says so.

    Example:
        >>> from holdfast.studies import Trial, find_study
        >>> from holdfast.studies.runner import run_trial
        >>> trial = Trial(study="spectrum", task="spectrum", cell="rnn-tanh", init="normal", hidden_size=4, length=9)
        >>> page = study_page(find_study("spectrum"), pl.DataFrame([run_trial(trial)]), None, full=False)
        >>> page.command, len(page.tables)
        ('holdfast study spectrum --quick --out DIR', 1)
    """
    notes = [MEASURING if study.name == "spectrum" else READING]
    if not full:
        notes.insert(0, "A sketch: a few runs with a few steps. `--full` measures.")
    try:
        pictures = _spectrum_pictures(rows) if study.name == "spectrum" else _error_pictures(study, rows)
    except OptionError as error:  # no matplotlib
        pictures = []
        notes.append(f"Without pictures: {error.problems[0].got}; `{error.problems[0].fix}`.")
    return StudyPage(
        title=f"holdfast study: {study.name}",
        question=study.measured,
        claim=study.claim,
        verdict=str(verdict) if verdict is not None else "No verdict: this study only measures.",
        paragraphs=notes,
        tables=_tables(study, rows),
        pictures=pictures,
        facts=_facts(rows),
        command=f"holdfast study {study.name} {'--full' if full else '--quick'} --out DIR",
    )


def study_table(study: Study, rows: pl.DataFrame) -> pl.DataFrame:
    """Means by group and arm.

    Args:
        study: Which.
        rows: One per run.

    Returns:
        As `summarise`; of the spectrum study what was predicted and measured.
    """
    if study.name != "spectrum":
        return summarise(rows, [*study.by, *study.arm])
    return rows.group_by("cell", "init", "scale", maintain_order=True).agg(*(pl.col(name).mean() for name in SPECTRA))


def _tables(study: Study, rows: pl.DataFrame) -> list[Table]:
    tables = [Table("By group and arm", study_table(study, rows))]
    if study.name != "spectrum":
        first = rows.select(study.arm).row(0)
        less = paired(rows, study.by, study.arm, first)
        tables.append(Table(f"Difference of the error from that of {', '.join(map(str, first))}, paired by seed", less))
    return tables


def _spectrum_pictures(rows: pl.DataFrame) -> list[Picture]:
    figure = growth_figure(rows.with_columns(factor=pl.col("exponent").exp()), PREDICTORS)
    caption = "What three numbers say of a layer, beside what its adjoints do: red is where they are wrong."
    return [Picture.of(figure, caption)]


def _error_pictures(study: Study, rows: pl.DataFrame) -> list[Picture]:
    pictures = []
    if study.name == "threshold":
        groups = [name for name in study.by if name in ("task", "cell")]
        table = summarise(rows, [*groups, "optimizer", *study.arm])
        caption = (
            "Error and share of clipped steps over the bound; a star, and a dotted line across, where auto chose it."
        )
        pictures.append(Picture.of(bound_figure(table, groups, "optimizer"), caption))
    table = summarise(rows, [*study.by, *study.arm])
    if table.select(study.by).n_unique() > MANY:
        groups = [name for name in study.by if name not in DETAILS]
        overview = error_figure(summarise(rows, [*groups, *study.arm]), groups, study.arm, columns=3)
        pictures.append(
            Picture.of(overview, f"Error of each arm, {' and '.join(DETAILS)} taken together; red lost runs.")
        )
    caption = "Error of each arm with its interval, in each group; red lost runs."
    pictures.append(Picture.of(error_figure(table, study.by, study.arm, columns=3), caption))
    return pictures


def _facts(rows: pl.DataFrame) -> Mapping[str, str]:
    facts = {
        "runs": str(rows.height),
        "machine": f"{platform.machine()}, {os.cpu_count()} cores",
        "software": f"Python {platform.python_version()}, torch {torch.__version__}",
        "written": datetime.datetime.now(datetime.timezone.utc).date().isoformat(),
    }
    if "seconds" in rows.columns:
        facts["time of all runs"] = f"{rows['seconds'].sum() / 60:.1f} minutes on one core"
    return facts
