"""The grids: paired, distinct, and each within what a fit or a task takes."""

from __future__ import annotations

from dataclasses import replace

import pytest

from holdfast.errors import OptionError
from holdfast.studies.catalogue import STUDIES, find_study
from holdfast.studies.runner import run_trial

NAMES = ("clip-scope", "placement", "threshold", "spectrum", "cells", "init", "pascanu")


def test_the_studies():
    assert tuple(STUDIES) == NAMES


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("full", [False, True])
def test_trials_are_distinct_and_belong_to_their_study(name, full):
    trials = find_study(name).trials(full)
    assert len({trial.key for trial in trials}) == len(trials)
    assert {trial.study for trial in trials} == {name}


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("full", [False, True])
def test_every_arm_of_a_group_has_the_same_seeds(name, full):
    study = find_study(name)
    seeds = {}
    for trial in study.trials(full):
        group = tuple(getattr(trial, field) for field in study.by)
        arm = tuple(getattr(trial, field) for field in study.arm)
        seeds.setdefault(group, {}).setdefault(arm, []).append(trial.seed)
    for arms in seeds.values():
        assert len({tuple(sorted(each)) for each in arms.values()}) == 1
        assert all(len(set(each)) == len(each) for each in arms.values())


@pytest.mark.parametrize("name", NAMES)
def test_every_kind_of_trial_of_a_full_study_runs(name):
    """One trial of each combination of settings but seed, with few steps."""
    seen, kinds = set(), []
    for trial in find_study(name).trials(True):
        kind = (trial.task, trial.cell, trial.init, trial.head, trial.scope, trial.rule.split(":")[0], trial.placement)
        if kind not in seen and trial.task != "m4-hourly":
            seen.add(kind)
            kinds.append(replace(trial, steps=1, length=min(trial.length, 20), hidden_size=4))
    for trial in kinds[:: max(1, len(kinds) // 6)]:
        row = run_trial(trial)
        assert row["key"] == trial.key


def test_an_unknown_study_is_refused_with_the_names():
    with pytest.raises(OptionError, match="clip-scope, placement"):
        find_study("clip")
