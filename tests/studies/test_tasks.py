"""Memory tasks: every answer can be read off its inputs, and the baselines are what a model without memory gets."""

from __future__ import annotations

import itertools
import math
from fractions import Fraction

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from tests.reference import tasks as twin

from holdfast.errors import OptionError
from holdfast.studies.tasks import HEADS, TASKS, head_answer, head_loss

TWINS = {"adding": twin.adding, "temporal-order": twin.temporal_order, "copy": twin.copy}
PLACES = {  # first and last step at which each thing may stand, by T
    "adding": lambda T: [(0, T // 2 - 1), (T // 2, T - 1)],
    "temporal-order": lambda T: [(T // 10, 2 * T // 10 - 1), (4 * T // 10, T // 2 - 1)],
    "copy": lambda T: [(T - 4, T - 4)],
}


def drawn(name, B, T, seed=0):
    return TASKS[name].draw(B, T, torch.Generator().manual_seed(seed))


@pytest.mark.parametrize("name", TASKS)
@settings(deadline=None, max_examples=50)
@given(length=st.integers(10, 60), seed=st.integers(0, 1000))
def test_every_answer_stands_in_its_inputs(name, length, seed):
    task, batch = TASKS[name], drawn(name, 4, length, seed)
    assert batch.x_BTD.shape == (4, length, task.inputs)
    for x_TD, y in zip(batch.x_BTD, batch.y, strict=True):
        places, answer = TWINS[name](x_TD)
        torch.testing.assert_close(y, torch.tensor(answer))
        assert y.shape == ((task.answers, task.outputs) if task.answers > 1 else (task.outputs,))
        for place, (first, last) in zip(places, PLACES[name](length), strict=True):
            assert first <= place <= max(first, last)


@pytest.mark.parametrize("name", TASKS)
def test_the_shortest_sequences_still_hold_everything(name):
    task = TASKS[name]
    batch = drawn(name, 50, task.shortest)
    for x_TD, y in zip(batch.x_BTD, batch.y, strict=True):
        places, answer = TWINS[name](x_TD)
        assert len(places) == len(PLACES[name](task.shortest))
        torch.testing.assert_close(y, torch.tensor(answer))
    assert task.shortest == {"adding": 2, "temporal-order": 3, "copy": 7}[name]


@pytest.mark.parametrize(("name", "length"), [("adding", 7), ("temporal-order", 40), ("temporal-order", 30)])
def test_every_place_is_taken_about_as_often(name, length):
    found = [TWINS[name](x_TD)[0] for x_TD in drawn(name, 3000, length).x_BTD]
    for (first, last), places in zip(PLACES[name](length), zip(*found, strict=True), strict=True):
        share = 1 / (last - first + 1)
        counts = [places.count(place) / len(places) for place in range(first, last + 1)]
        assert sum(counts) == pytest.approx(1)
        assert max(abs(count - share) for count in counts) < 5 * math.sqrt(share * (1 - share) / 3000) + 1e-12


@pytest.mark.parametrize(("name", "classes"), [("temporal-order", 4), ("copy", 4)])
def test_classes_and_distractors_are_balanced(name, classes):
    batch = drawn(name, 4000, 20)
    shares = batch.y.reshape(-1, classes).mean(0)
    assert (shares - 1 / classes).abs().max() < 5 * math.sqrt(0.25 * 0.75 / 4000)
    if name == "temporal-order":
        distractors = batch.x_BTD[..., 2:].sum((0, 1))
        assert (distractors / distractors.sum() - 0.25).abs().max() < 0.01


@pytest.mark.parametrize("name", TASKS)
def test_a_generator_gives_the_same_batch_again_and_no_other_source_is_used(name):
    torch.manual_seed(1)
    first = drawn(name, 8, 20)
    torch.manual_seed(2)
    state = torch.get_rng_state()
    again, other = drawn(name, 8, 20), drawn(name, 8, 20, seed=1)
    assert torch.equal(torch.get_rng_state(), state)
    assert torch.equal(first.x_BTD, again.x_BTD) and torch.equal(first.y, again.y)
    assert not torch.equal(first.x_BTD, other.x_BTD)


def test_the_baseline_of_adding_is_the_variance_of_its_answers():
    # Variance of (u + v) / 2 on a grid of n midpoints is (1 - 1/n^2) / 24: exact, without drawing anything.
    n = 12
    middles = [Fraction(2 * k + 1, 2 * n) for k in range(n)]
    sums = [(u + v) / 2 for u, v in itertools.product(middles, middles)]
    mean = sum(sums) / len(sums)
    variance = sum((value - mean) ** 2 for value in sums) / len(sums)
    assert variance / (1 - Fraction(1, n**2)) == Fraction(1, 24)
    assert TASKS["adding"].baseline == pytest.approx(1 / 24)
    y_B1 = drawn("adding", 20000, 10).y
    assert TASKS["adding"].error(torch.full_like(y_B1, 0.5), y_B1) == pytest.approx(1 / 24, rel=0.03)


@pytest.mark.parametrize("name", ["temporal-order", "copy"])
def test_the_baseline_of_classes_is_the_error_of_every_constant_guess(name):
    task = TASKS[name]
    y = drawn(name, 4000, 20).y
    for guess in range(task.outputs):
        answer = torch.zeros_like(y)
        answer[..., guess] = 1.0
        assert task.error(answer, y) == pytest.approx(task.baseline, abs=0.03)
    assert task.baseline == 1 - 1 / task.outputs


@pytest.mark.parametrize("name", TASKS)
def test_errors_of_right_wrong_and_impossible_answers(name):
    task, y = TASKS[name], drawn(name, 16, 20).y
    assert task.error(y, y) == 0 < task.solved < task.baseline
    if task.classes:
        assert task.error(-y, y) == 1
        assert task.error(3 * y + 7, y) == 0  # the largest counts, on any scale
    else:
        assert task.error(y + 2, y) == pytest.approx(4)
    for bad in (math.nan, math.inf):  # argmax would call it a class
        assert math.isnan(task.error(torch.full_like(y, bad), y))


def test_losses_are_those_of_the_formulas():
    generator = torch.Generator().manual_seed(0)
    raw, y = torch.randn(5, 4, generator=generator).double(), torch.rand(5, 4, generator=generator).double()
    flat, targets = raw.flatten().tolist(), y.flatten().tolist()
    for head, slow in (("squared", twin.squared), ("sigmoid", twin.sigmoid)):
        assert head_loss(head, raw, y).item() == pytest.approx(sum(slow(flat, targets)) / 20)
    log_sigma = torch.randn(5, 4, generator=generator).double()
    both = torch.cat([raw, log_sigma], -1)
    expected = sum(twin.gaussian(flat, log_sigma.flatten().tolist(), targets)) / 20
    assert head_loss("gaussian", both, y).item() == pytest.approx(expected)
    torch.testing.assert_close(head_answer("gaussian", both), raw)
    torch.testing.assert_close(head_answer("sigmoid", raw), 1 / (1 + (-raw).exp()))
    assert head_answer("squared", raw) is raw


@settings(deadline=None)
@given(raw=st.floats(-30, 30), target=st.floats(0, 1), log_sigma=st.floats(-3, 3))
def test_gradients_of_losses_are_bounded_or_over_sigma_squared(raw, target, log_sigma):
    a, y = torch.tensor([[raw]], dtype=torch.float64), torch.tensor([[target]], dtype=torch.float64)
    slope = {}
    for head in HEADS:
        value = a.clone().requires_grad_()
        given_raw = torch.cat([value, torch.full_like(a, log_sigma)], -1) if head == "gaussian" else value
        (slope[head],) = torch.autograd.grad(head_loss(head, given_raw, y), value)
    assert abs(slope["sigmoid"].item()) <= 1
    assert slope["squared"].item() == pytest.approx(2 * (raw - target))
    assert slope["gaussian"].item() == pytest.approx((raw - target) * math.exp(-2 * log_sigma))


def test_an_unknown_head_is_refused():
    with pytest.raises(OptionError, match="squared, sigmoid, gaussian"):
        head_loss("softmax", torch.zeros(1, 1), torch.zeros(1, 1))
