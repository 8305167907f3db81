"""The page of a study from its rows: the tables, the pictures that fit its kind, and the facts of the machine."""

from __future__ import annotations

import datetime
import os
import platform
from collections.abc import Mapping

import polars as pl
import torch

from holdfast.errors import OptionError
from holdfast.flow import error_surface
from holdfast.reports import Picture, StudyPage, Table, bound_figure, error_figure, growth_figure, surface_panel
from holdfast.reports.figures import blank_figure
from holdfast.studies.catalogue import Study
from holdfast.studies.statistics import paired, summarise
from holdfast.studies.verdicts import Verdict

MANY = 8  # panels, from which on an overview comes first
DETAILS = ("optimizer", "lr")  # what the overview takes together
TOLD = {
    "runs": ("runs", ""),
    "diverged": ("diverged", ".0%"),
    "error": ("error", "{error:.2f} [{error_low:.2f}, {error_high:.2f}]"),
    "solved": ("solved", ".0%"),
    "solved_step": ("steps to solve", ".0f"),
    "clip_fraction": ("steps clipped", ".0%"),
    "cosine": ("cosine", ".3f"),
    "flipped": ("signs flipped", ".1%"),
    "starved": ("head starved", ".1%"),
    "growth_before": ("growth before", ".3f"),
    "growth_after": ("growth after", ".3f"),
    "memory_before": ("memory before", ".0f"),
    "memory_after": ("memory after", ".0f"),
    "seconds": ("seconds", ".1f"),
}
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


def study_page(study: Study, rows: pl.DataFrame, verdict: Verdict, *, full: bool, options: str = "") -> StudyPage:
    """Everything that is said of a study, ready to be written.

    Args:
        study: Which.
        rows: One per run.
        verdict: What they say of the claim.
        full: Whether it was the full study.
        options: What was typed for a user's own table; empty for the grid of the study.

    Returns:
        The page; without pictures where matplotlib is not installed, and it says so.

    Example:
        >>> from holdfast.studies import Trial, find_study
        >>> from holdfast.studies.runner import run_trial
        >>> from holdfast.studies.verdicts import judge
        >>> trial = Trial(study="spectrum", task="spectrum", cell="rnn-tanh", init="normal", hidden_size=4, length=9)
        >>> rows = pl.DataFrame([run_trial(trial)])
        >>> page = study_page(find_study("spectrum"), rows, judge("spectrum", rows), full=False)
        >>> page.command, len(page.tables)
        ('holdfast study spectrum --quick --out DIR', 1)
    """
    notes = [MEASURING if study.name == "spectrum" else READING]
    if not full:
        notes.insert(0, "A sketch: a few runs with a few steps. `--full` measures.")
    try:
        pictures = _spectrum_pictures(rows) if study.name == "spectrum" else _error_pictures(study, trained(rows))
        pictures += [_surface_picture()] if "surface" in rows["task"] else []
    except OptionError as error:  # no matplotlib
        pictures = []
        notes.append(f"Without pictures: {error.problems[0].got}; `{error.problems[0].fix}`.")
    return StudyPage(
        title=f"holdfast study: {study.name}",
        question=study.measured,
        claim=study.claim,
        verdict=verdict.words(full),
        paragraphs=notes,
        tables=_tables(study, rows),
        pictures=pictures,
        facts=_facts(rows),
        command=f"holdfast study {study.name} {'--full' if full else '--quick'}{options} --out DIR",
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
        return summarise(trained(rows), [*study.by, *study.arm])
    return rows.group_by("cell", "init", "scale", maintain_order=True).agg(*(pl.col(name).mean() for name in SPECTRA))


def trained(rows: pl.DataFrame) -> pl.DataFrame:
    """The rows of runs that trained something.

    Example:
        >>> trained(pl.DataFrame({"task": ["adding", "surface"]}))["task"].to_list()
        ['adding']
    """
    return rows.filter(pl.col("task") != "surface")


def _columns(study: Study, table: pl.DataFrame) -> dict[str, tuple[str, str]]:
    """What is shown of a table: not what no run has, and no share that is zero everywhere."""
    said = {
        name: form for name, form in TOLD.items() if (table[name].cast(pl.Float64).fill_nan(0).fill_null(0) != 0).any()
    }
    return {**{name: (name, "") for name in (*study.by, *study.arm)}, **said}


def _tables(study: Study, rows: pl.DataFrame) -> list[Table]:
    if study.name == "spectrum":
        return [Table("By group and arm", study_table(study, rows))]
    table = study_table(study, rows)
    tables = [Table("By group and arm", table, _columns(study, table))]
    if table.select(study.arm).n_unique() > 1:
        first = rows.select(study.arm).row(0)
        less = paired(trained(rows), study.by, study.arm, first)
        tables.append(Table(f"Difference of the error from that of {', '.join(map(str, first))}, paired by seed", less))
    return tables


def _spectrum_pictures(rows: pl.DataFrame) -> list[Picture]:
    figure = growth_figure(rows.with_columns(factor=pl.col("exponent").exp()), PREDICTORS)
    caption = "What three numbers say of a layer, beside what its adjoints do: red is where they are wrong."
    return [Picture.of(figure, caption)]


def _surface_picture() -> Picture:
    found = error_surface()
    figure = blank_figure((8.0, 5.4))
    surface_panel(found.w_W, found.b_B, found.error_WB, found.gradient_norm_WB)(figure.subplots())
    return Picture.of(figure, "Error of one sigmoid unit after 50 steps: flat land, and a wall in it.")


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
