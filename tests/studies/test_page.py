"""The page of a study: its words, tables and pictures are those of its rows."""

from __future__ import annotations

import math
import sys
from dataclasses import asdict

import polars as pl
import pytest

from holdfast.studies.catalogue import STUDIES
from holdfast.studies.page import study_page, study_table
from holdfast.studies.statistics import MEANS, paired, summarise
from holdfast.studies.verdicts import Verdict

SEEN = Verdict("true", "As seen in 3 runs.")


def rows_of(name, *, full=False):
    """Rows that no run made: the error of a trial is told by its seed and place."""
    found = []
    for place, trial in enumerate(STUDIES[name].trials(full)):
        row = {"key": trial.key, **asdict(trial), "seconds": 6.0}
        if name == "spectrum":
            row |= {"scaled_radius": trial.scale, "scaled_norm": 2 * trial.scale, "rate": 1.5, "peak_log_factor": 1.0}
            row |= {"exponent": math.log(trial.scale)}
        else:
            row |= {"diverged": place % 7 == 0, "relative_error": 0.25 + 0.125 * trial.seed, "solved_step": math.nan}
            row |= dict.fromkeys(MEANS, 0.5)
        if trial.task == "surface":
            row |= dict.fromkeys(("diverged", "relative_error", "solved_step", *MEANS))
        found.append(row)
    return pl.DataFrame(found, infer_schema_length=None)


@pytest.mark.parametrize("name", STUDIES)
def test_every_study_has_a_page(name):
    study, rows = STUDIES[name], rows_of(name)
    page = study_page(study, rows, SEEN, full=False)
    assert page.verdict == "No more than a hint, for this is a sketch: True. As seen in 3 runs."
    assert page.claim == study.claim
    assert page.paragraphs[0].startswith("A sketch") and page.command == f"holdfast study {name} --quick --out DIR"
    assert page.tables[0].frame.equals(study_table(study, rows))
    assert len(page.pictures) == (2 if name in ("threshold", "pascanu") else 1)
    assert page.facts["runs"] == str(rows.height)
    assert page.facts["time of all runs"] == f"{rows.height / 10:.1f} minutes on one core"
    html, markdown = page.to_html(), page.to_markdown()
    assert html.count("data:image/png;base64,") == len(page.pictures)
    for text in (study.measured, "As seen in 3 runs.", *(table.title for table in page.tables)):
        assert text in markdown


def test_the_second_table_is_paired_with_the_first_arm():
    study, rows = STUDIES["clip-scope"], rows_of("clip-scope")
    first, second = study_page(study, rows, SEEN, full=True).tables
    assert first.columns is not None and "cosine" in first.columns and "head_share" not in first.columns
    assert first.frame.equals(summarise(rows, [*study.by, *study.arm]))
    assert second.frame.equals(paired(rows, study.by, study.arm, ["none"]))
    assert second.title == "Difference of the error from that of none, paired by seed"


def test_many_groups_are_seen_together_first():
    page = study_page(STUDIES["clip-scope"], rows_of("clip-scope", full=True), SEEN, full=True)
    assert len(page.pictures) == 2 and "taken together" in page.pictures[0].caption
    assert page.verdict == str(SEEN) and not page.paragraphs[0].startswith("A sketch")
    assert "--full" in page.command


def test_without_matplotlib_there_are_words_and_what_to_install(monkeypatch):
    monkeypatch.setitem(sys.modules, "matplotlib.figure", None)
    page = study_page(STUDIES["cells"], rows_of("cells"), SEEN, full=False)
    assert page.pictures == [] and len(page.tables) == 2
    assert "`pip install 'holdfast[report]'`" in page.paragraphs[-1]


def test_the_spectrum_is_a_table_of_means():
    rows = rows_of("spectrum", full=True)
    table = study_table(STUDIES["spectrum"], rows)
    part = rows.filter((pl.col("cell") == "rnn-tanh") & (pl.col("init") == "chain") & (pl.col("scale") == 3.0))
    (row,) = table.filter(
        (pl.col("cell") == "rnn-tanh") & (pl.col("init") == "chain") & (pl.col("scale") == 3.0)
    ).to_dicts()
    assert row["exponent"] == pytest.approx(part["exponent"].mean()) and row["scaled_norm"] == 6.0
    assert table.height == 4 * 3 * 12
