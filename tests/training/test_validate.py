"""Validation against a loop over series and steps."""

from __future__ import annotations

import math
import sys

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from tests.reference import training as twin
from tests.training.small import SEASON, assert_same_bits, make_network, make_task, values

from holdfast.networks import HEADS
from holdfast.training import validate


def score(task, step=0):
    return validate(task.network, task.windows, task.split, task.error_scale_n, step)


def stirred(**options):
    """A network whose outputs are not its anchors any more."""
    network = make_network(**options)
    torch.nn.init.normal_(network.output.weight, std=0.5, generator=torch.Generator().manual_seed(3))
    return network


def expected(task, season=SEASON):
    cutoffs = list(zip(task.split.validated_V.tolist(), task.split.cutoff_V.tolist(), strict=True))
    return twin.validation(task.network, task.windows, cutoffs, task.error_scale_n, season)


def with_gaps(lengths, seed):
    series = values(lengths, seed)
    random = np.random.default_rng(seed)
    for y in series:
        y[random.random(len(y)) < 0.3] = math.nan
        y[0] = 1.0
    return series


@given(st.lists(st.integers(2, 30), min_size=1, max_size=5), st.integers(0, 100), st.sampled_from(HEADS))
@settings(max_examples=25, deadline=None)
def test_equals_a_loop_over_series(lengths, seed, head):
    task = make_task(with_gaps(lengths, seed), stirred(head=head))
    record = score(task, step=7)
    assert record.step == 7
    if not math.isfinite(record.loss):  # no target was observed
        return
    numbers = record.loss, record.error, record.naive_error
    assert numbers == pytest.approx(expected(task), rel=1e-5)
    assert record.naive_error == 0 or record.skill == 1 - record.error / record.naive_error


def test_without_a_season_the_last_value_is_the_naive_forecast():
    task = make_task(network=stirred(seasons=(), anchors=(("last", 1),)))
    assert score(task).naive_error == pytest.approx(expected(task, season=1)[2], rel=1e-9)


@pytest.mark.parametrize("seasons, anchor", [((SEASON,), ("season", SEASON)), ((), ("last", 1))])
def test_a_network_that_is_seasonal_naive_has_no_skill(seasons, anchor):
    record = score(make_task(network=make_network(seasons=seasons, anchors=(anchor,))))
    assert record.skill == pytest.approx(0.0, abs=1e-6)
    assert record.error == pytest.approx(record.naive_error, rel=1e-6)


def test_where_seasonal_naive_is_exact_there_is_no_skill_to_speak_of():
    record = score(make_task([np.resize([1.0, 5.0, 2.0, 4.0], 40)], stirred()))
    assert record.naive_error == 0.0 < record.error
    assert math.isnan(record.skill)


def test_without_an_observed_target_everything_is_nan():
    record = score(make_task([np.append(np.arange(20.0), [math.nan] * 4)]))
    assert all(math.isnan(value) for value in (record.loss, record.error, record.naive_error, record.skill))


def test_dropout_is_off_and_comes_back():
    task = make_task(network=stirred(dropout=0.5, layers=2))
    without = make_task(network=stirred(dropout=0.0, layers=2))
    before = {name: tensor.clone() for name, tensor in task.network.state_dict().items()}
    random_state = torch.get_rng_state()
    records = [score(task), score(task), score(without)]
    assert len({(record.loss, record.error) for record in records}) == 1
    assert all(module.training for module in task.network.modules())
    assert_same_bits(dict(task.network.state_dict()), before)
    assert torch.equal(torch.get_rng_state(), random_state)
    assert all(parameter.grad is None for parameter in task.network.parameters())


@pytest.mark.parametrize("at_once", [1, 2, 7])
def test_the_number_of_windows_at_once_does_not_matter(monkeypatch, at_once):
    task = make_task(values([20, 31, 12, 40, 9, 25, 17]), stirred())
    whole = score(task)
    monkeypatch.setattr(sys.modules["holdfast.training.validate"], "WINDOWS_AT_ONCE", at_once)
    parts = score(task)
    assert (parts.loss, parts.error) == pytest.approx((whole.loss, whole.error), rel=1e-6)


@pytest.mark.parametrize("unit", [2.0**-20, 2.0**20])
def test_scores_do_not_depend_on_the_units(unit):
    one, other = make_task(values(), stirred()), make_task([unit * y for y in values()], stirred())
    assert score(one).error == pytest.approx(score(other).error, rel=1e-6)
    assert score(one).loss == pytest.approx(score(other).loss, rel=1e-6)
