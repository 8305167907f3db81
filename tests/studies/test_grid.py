"""Trials and grids: keys that stay, differ with every field, and the order of the product."""

from __future__ import annotations

import subprocess
import sys
from dataclasses import fields, replace

import pytest

from holdfast.studies.grid import Trial, grid

BASE = Trial(study="s", task="adding")


def test_a_key_is_the_same_in_another_process():
    code = "from holdfast.studies.grid import Trial; print(Trial(study='s', task='adding').key)"
    told = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout
    assert told.strip() == BASE.key
    assert len(BASE.key) == 16 and int(BASE.key, 16) >= 0


def test_a_key_differs_with_every_field():
    changed = [
        replace(BASE, **{one.name: {str: "x", int: 7, float: 0.125}[type(getattr(BASE, one.name))]})
        for one in fields(Trial)
    ]
    assert len({BASE.key, *(trial.key for trial in changed)}) == len(fields(Trial)) + 1


@pytest.mark.parametrize(("lr", "scale"), [(1, 1), (1.0, 1), (1, 1.0)])
def test_equal_trials_have_equal_keys_however_a_number_is_written(lr, scale):
    trial, plain = replace(BASE, lr=lr, scale=scale), replace(BASE, lr=1.0, scale=1.0)
    assert trial == plain and trial.key == plain.key


def test_the_last_axis_changes_fastest():
    axes = {"length": [5, 9], "arm": [{"scope": "none"}, {"scope": "all", "rule": "norm:1"}], "seed": range(3)}
    trials = list(grid({"study": "s", "task": "copy", "steps": 4}, axes))
    expected = [
        (length, scope, rule, seed)
        for length in (5, 9)
        for scope, rule in (("none", "none"), ("all", "norm:1"))
        for seed in (0, 1, 2)
    ]
    assert [(trial.length, trial.scope, trial.rule, trial.seed) for trial in trials] == expected
    assert {(trial.study, trial.task, trial.steps) for trial in trials} == {("s", "copy", 4)}
    assert len({trial.key for trial in trials}) == 12


def test_the_later_of_two_axes_holds_and_both_hold_before_what_is_common():
    common = {"study": "s", "task": "adding", "lr": 1.0}
    axes = {"first": [{"lr": 2.0, "steps": 3}], "lr": [4.0, 5.0]}
    assert [(trial.lr, trial.steps) for trial in grid(common, axes)] == [(4.0, 3), (5.0, 3)]
    assert list(grid(common, {})) == [Trial(**common)]
    assert list(grid(common, {"seed": []})) == []


def test_a_field_that_is_none_is_refused():
    with pytest.raises(TypeError, match="rate"):
        list(grid({"study": "s", "task": "adding"}, {"rate": [0.1]}))
