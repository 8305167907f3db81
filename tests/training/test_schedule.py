"""The learning rate against its closed form, and what a schedule has to do."""

from __future__ import annotations

import math
from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st
from tests.reference import training as twin

from holdfast.training import learning_rate

PLANS = [1, 2, 3, 7, 49, 50, 100, 250, 251, 1200]


@given(st.integers(1, 5000), st.floats(0, 1), st.floats(1e-6, 10.0))
def test_equals_the_closed_form(planned_steps, share, peak):
    step = 1 + round(share * (planned_steps - 1))
    rate = learning_rate(step, planned_steps, peak)
    assert rate == pytest.approx(twin.learning_rate(step, planned_steps, peak), rel=1e-9, abs=1e-12)
    assert 0 <= rate <= peak


@pytest.mark.parametrize("planned_steps", PLANS)
def test_rises_to_the_neighbourhood_of_the_peak_and_falls_to_nothing(planned_steps):
    rates = [learning_rate(step, planned_steps, 1.0) for step in range(1, planned_steps + 1)]
    top = rates.index(max(rates))
    assert max(rates) > 0.89
    assert rates[: top + 1] == sorted(rates[: top + 1])
    assert rates[top:] == sorted(rates[top:], reverse=True)
    assert planned_steps < 50 or rates[-1] < 1e-3
    assert rates[0] > 0


@pytest.mark.parametrize("planned_steps", PLANS)
def test_has_no_jumps(planned_steps):
    rates = [learning_rate(step, planned_steps, 1.0) for step in range(1, planned_steps + 1)]
    steepest = 1 / max(1, min(50, planned_steps / 5)) + math.pi / (2 * planned_steps)
    assert all(abs(a - b) <= steepest for a, b in pairwise(rates))


def test_behind_the_plan_nothing_moves():
    assert learning_rate(11, 10, 1.0) == learning_rate(500, 10, 1.0) == 0.0
