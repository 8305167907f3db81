"""Trials in processes: each once, kept at once, and a study that was stopped goes on."""

from __future__ import annotations

import json
import math

import pytest
from tests import jitter

from holdfast.studies.grid import Trial
from holdfast.studies.runner import ROWS, read_rows, run_trial, run_trials

SMALL = {"task": "adding", "length": 10, "hidden_size": 4, "steps": 3, "batch_size": 4}


def trials(seeds=3):
    return [Trial(study="s", seed=seed, **SMALL) for seed in range(seeds)]


def told(row):
    """A row without the clock."""
    return {name: repr(value) for name, value in row.items() if name != "seconds"}


def test_rows_come_in_the_order_of_the_trials_and_equal_those_of_one_process(tmp_path):
    shown = []
    rows = run_trials(trials(), tmp_path, workers=2, show=lambda done, of: shown.append((done, of)))
    assert [row["seed"] for row in rows] == [0, 1, 2]
    with jitter.paused():
        assert [told(row) for row in rows] == [told(run_trial(trial)) for trial in trials()]
    assert shown == [(1, 3), (2, 3), (3, 3)]


@pytest.mark.usefixtures("here")
def test_what_is_finished_is_not_run_again(tmp_path):
    first = run_trials(trials(2), tmp_path, workers=1)
    lines = (tmp_path / ROWS).read_text().splitlines()
    again = run_trials(trials(3), tmp_path, workers=1)
    assert (tmp_path / ROWS).read_text().splitlines()[:2] == lines
    assert [told(row) for row in again[:2]] == [told(row) for row in first]
    assert [row["seconds"] for row in again[:2]] == [row["seconds"] for row in first]


@pytest.mark.usefixtures("here")
def test_a_line_that_a_kill_cut_off_is_run_again(tmp_path):
    run_trials(trials(2), tmp_path, workers=1)
    text = (tmp_path / ROWS).read_text()
    (tmp_path / ROWS).write_text(text[:-20])
    assert [row["seed"] for row in read_rows(tmp_path)] == [0]
    rows = run_trials(trials(2), tmp_path, workers=1)
    assert [row["seed"] for row in rows] == [0, 1]
    assert len((tmp_path / ROWS).read_text().splitlines()) == 2


def test_a_damaged_line_in_the_middle_is_not_passed_over(tmp_path):
    (tmp_path / ROWS).write_text("nonsense\n" + json.dumps({"key": "a"}) + "\n")
    with pytest.raises(ValueError, match="Expecting value"):
        read_rows(tmp_path)


@pytest.mark.usefixtures("here")
def test_numbers_that_are_not_finite_come_back_as_they_were(tmp_path):
    (row,) = run_trials(trials(1), tmp_path, workers=1)
    (kept,) = read_rows(tmp_path)
    assert math.isnan(kept["solved_step"])
    assert kept["bound"] == math.inf
    assert told(kept) == told(row)
