"""A study from its name to its files, and from the shell."""

from __future__ import annotations

import json
import sys

import polars as pl
import pytest

from holdfast import OptionError, RunDirectoryError, cli
from holdfast.studies import catalogue
from holdfast.studies.grid import Trial
from holdfast.studies.run import run_study, study_place

TINY = {"task": "spectrum", "length": 20, "hidden_size": 8, "cell": "rnn-tanh", "init": "orthogonal"}


@pytest.fixture
def tiny(monkeypatch):
    """The spectrum study with two trials."""
    trials = [Trial(study="spectrum", scale=scale, **TINY) for scale in (0.5, 3.0)]
    study = catalogue.STUDIES["spectrum"]
    fields = {**vars(study), "trials": lambda full: trials}
    monkeypatch.setitem(catalogue.STUDIES, "spectrum", catalogue.Study(**fields))


@pytest.mark.usefixtures("here")
def test_rows_tables_and_verdict_are_written_and_a_second_run_goes_on(tiny, tmp_path):
    said = []
    result = run_study("spectrum", tmp_path / "out", workers=1, say=said.append)
    rows = pl.read_parquet(tmp_path / "out" / "results.parquet")
    assert rows.height == 2
    assert rows["rate"].to_list() == result.rows["rate"].to_list()
    summary = (tmp_path / "out" / "summary.md").read_text()
    assert result.verdict.words(full=False) in summary
    assert "A sketch" in summary
    assert "| rnn-tanh | orthogonal | 0.5 | 0.5 | 0.5 |" in summary
    page = (tmp_path / "out" / "study.html").read_text()
    assert page.count("data:image/png;base64,") == 1 and "A sketch" in page
    assert "a sketch, too small for a verdict to rest on" in said[1]
    before = (tmp_path / "out" / "rows.jsonl").read_bytes()
    again = run_study("spectrum", tmp_path / "out", workers=1)
    assert again.rows.equals(result.rows)
    assert (tmp_path / "out" / "rows.jsonl").read_bytes() == before


@pytest.mark.usefixtures("here")
def test_a_directory_of_something_else_is_refused(tiny, tmp_path):
    run_study("spectrum", tmp_path / "out", workers=1)
    with pytest.raises(RunDirectoryError, match='"full": true'):
        run_study("spectrum", tmp_path / "out", full=True, workers=1)
    (tmp_path / "notes").mkdir()
    (tmp_path / "notes" / "mine.txt").write_text("mine")
    with pytest.raises(RunDirectoryError, match="new or empty"):
        run_study("spectrum", tmp_path / "notes", workers=1)
    assert [path.name for path in (tmp_path / "notes").iterdir()] == ["mine.txt"]


def test_a_study_has_a_place_of_its_own(tmp_path):
    assert study_place("cells", tmp_path) == tmp_path
    assert study_place("cells", None).is_dir()
    with pytest.raises(OptionError, match="clip-scope"):
        study_place("nonsense", None)


def shell(monkeypatch, capsys, *words):
    monkeypatch.setattr(sys, "argv", ["holdfast", *map(str, words)])
    with pytest.raises(SystemExit) as caught:
        cli.main()
    return caught.value.code or 0, capsys.readouterr()


def test_the_command_lists_and_runs(tiny, tmp_path, monkeypatch, capsys):
    code, said = shell(monkeypatch, capsys, "study", "list")
    assert code == 0
    assert [line.split(":")[0] for line in said.out.splitlines()] == list(catalogue.STUDIES)
    code, said = shell(monkeypatch, capsys, "study", "spectrum", "--out", tmp_path / "out")
    assert code == 0
    assert "the eigenvalue rule was wrong" in said.out
    assert json.loads((tmp_path / "out" / "study.json").read_text()) == {"study": "spectrum", "full": False}
    code, said = shell(monkeypatch, capsys, "study", "nonsense")
    assert code == 1
    assert "holdfast study list" in said.err
