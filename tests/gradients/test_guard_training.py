"""The guard in real training: untouched when it measures, one step lost when a step is bad, counters that resume."""

from __future__ import annotations

import copy
import json
import math

import pytest
import torch
from tests.reference import clipping
from torch import nn

from holdfast.errors import OptionError, TrainingError
from holdfast.gradients import ClipNorm, ClipValue, GradientGuard

OPTIMISERS = {
    "adamw": lambda parameters: torch.optim.AdamW(parameters, lr=1e-2),
    "adamw-fused": lambda parameters: torch.optim.AdamW(parameters, lr=1e-2, fused=True),
    "sgd": lambda parameters: torch.optim.SGD(parameters, lr=1e-2, momentum=0.9),
}
each_optimiser = pytest.mark.parametrize("optimiser", OPTIMISERS.values(), ids=OPTIMISERS.keys())


class Forecaster(nn.Module):
    def __init__(self):
        super().__init__()
        self.rnn = nn.GRU(2, 5, batch_first=True)
        self.head = nn.Linear(5, 1)

    def forward(self, x_BTD):
        return self.head(self.rnn(x_BTD)[0][:, -1])


def make_model():
    torch.manual_seed(7)
    return Forecaster()


def batches(steps):
    generator = torch.Generator().manual_seed(1)
    for _ in range(steps):
        x_BTD = torch.randn(4, 6, 2, generator=generator)
        yield x_BTD, x_BTD.sum((1, 2)).unsqueeze(-1)


def backward(model, batch):
    model.zero_grad()
    loss = nn.functional.mse_loss(model(batch[0]), batch[1])
    loss.backward()
    return loss


def train(model, optimizer, guard, steps):
    results = []
    for batch in batches(steps):
        loss = backward(model, batch)
        results.append(guard.step(optimizer, loss=loss)) if guard else optimizer.step()
    return results


def frozen_state(model, optimizer):
    return copy.deepcopy((model.state_dict(), optimizer.state_dict()))


def assert_same_bits(one, other):
    if isinstance(one, torch.Tensor):
        assert torch.equal(one.flatten().view(torch.uint8), other.flatten().view(torch.uint8))
    elif isinstance(one, dict):
        assert one.keys() == other.keys()
        for key in one:
            assert_same_bits(one[key], other[key])
    elif isinstance(one, list | tuple):
        assert len(one) == len(other)
        for a, b in zip(one, other, strict=True):
            assert_same_bits(a, b)
    else:
        assert one == other


@each_optimiser
@pytest.mark.parametrize(
    "rule", [None, ClipNorm(1e9), ClipNorm(1e9, 3.0), ClipValue(1e9), {"recurrent": ClipNorm(1e9)}]
)
def test_measuring_does_not_change_training(optimiser, rule):
    plain, guarded = make_model(), make_model()
    plain_optimizer, guarded_optimizer = optimiser(plain.parameters()), optimiser(guarded.parameters())
    train(plain, plain_optimizer, None, 20)
    results = train(guarded, guarded_optimizer, GradientGuard(guarded, rule), 20)
    assert_same_bits(frozen_state(plain, plain_optimizer), frozen_state(guarded, guarded_optimizer))
    assert len({result.total_norm for result in results}) == 20


@each_optimiser
def test_clipped_training_is_that_of_torch_up_to_rounding(optimiser):
    ours, theirs = make_model().double(), make_model().double()
    our_optimizer, their_optimizer = optimiser(ours.parameters()), optimiser(theirs.parameters())
    guard = GradientGuard(ours, ClipNorm(0.5))
    for x_BTD, y_B1 in batches(20):
        batch = x_BTD.double(), y_B1.double()
        backward(ours, batch)
        backward(theirs, batch)
        result = guard.step(our_optimizer)
        nn.utils.clip_grad_norm_(theirs.parameters(), 0.5)
        their_optimizer.step()
        assert result.clipped_norm <= 0.5 * (1 + 1e-14)
    assert guard.summary().clip_fraction > 0.5
    for a, b in zip(ours.parameters(), theirs.parameters(), strict=True):
        torch.testing.assert_close(a, b, rtol=1e-4, atol=1e-6)  # torch adds 1e-6 to the norm


@each_optimiser
@pytest.mark.parametrize("rule", [None, ClipNorm(0.5), ClipValue(0.1), {"head": ClipNorm(1.0)}])
@pytest.mark.parametrize("bad", [math.nan, math.inf, -math.inf])
def test_a_bad_gradient_costs_one_step_and_nothing_else(optimiser, rule, bad):
    model = make_model()
    optimizer = optimiser(model.parameters())
    guard = GradientGuard(model, rule)
    train(model, optimizer, guard, 3)
    before = frozen_state(model, optimizer)
    backward(model, next(batches(1)))
    model.rnn.weight_ih_l0.grad[0, 0] = bad
    gradients = [p.grad.clone() for p in model.parameters()]
    result = guard.step(optimizer)
    assert_same_bits(frozen_state(model, optimizer), before)
    assert_same_bits([p.grad for p in model.parameters()], gradients)
    assert (result.skipped, result.nonfinite) == (True, ("rnn.weight_ih_l0",))
    assert guard.bad_in_a_row == 1
    train(model, optimizer, guard, 1)
    summary = guard.summary()
    assert (summary.steps, summary.skipped, summary.bad_in_a_row) == (5, 1, 0)


@each_optimiser
def test_a_bad_first_step_leaves_the_optimiser_without_state(optimiser):
    model = make_model()
    optimizer = optimiser(model.parameters())
    for parameter in model.parameters():
        parameter.grad = torch.full_like(parameter, torch.nan)
    result = GradientGuard(model, ClipNorm(1.0)).step(optimizer)
    assert result.nonfinite == tuple(name for name, _ in model.named_parameters())
    assert len(optimizer.state) == 0


@pytest.mark.parametrize("loss", [math.nan, math.inf, torch.tensor(math.nan, requires_grad=True)])
def test_a_bad_loss_skips_although_the_gradients_are_finite(loss):
    model = make_model()
    optimizer = OPTIMISERS["adamw"](model.parameters())
    guard = GradientGuard(model, ClipNorm(1e-3))
    train(model, optimizer, guard, 2)
    before = frozen_state(model, optimizer)
    backward(model, next(batches(1)))
    result = guard.step(optimizer, loss=loss)
    assert_same_bits(frozen_state(model, optimizer), before)
    assert (result.skipped, result.clipped, result.nonfinite) == (True, False, ("loss",))
    assert math.isfinite(result.total_norm)  # measured, so kept
    guard.step(optimizer, loss=loss)
    assert guard.bad_in_a_row == 2


def test_raise_raises_before_anything_changes():
    model = make_model()
    optimizer = OPTIMISERS["adamw"](model.parameters())
    guard = GradientGuard(model, ClipNorm(1e-3), nonfinite="raise")
    train(model, optimizer, guard, 2)
    before, counted = frozen_state(model, optimizer), guard.state_dict()
    backward(model, next(batches(1)))
    model.head.bias.grad[0] = math.inf
    gradients = [p.grad.clone() for p in model.parameters()]
    with pytest.raises(TrainingError, match=r"nan or inf in loss, head\.bias"):
        guard.step(optimizer, loss=math.nan)
    assert_same_bits(frozen_state(model, optimizer), before)
    assert_same_bits([p.grad for p in model.parameters()], gradients)
    assert guard.state_dict() == counted


def test_parameters_that_the_guard_does_not_know_are_named_before_anything_changes():
    model, stranger = make_model(), nn.Linear(2, 3)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    optimizer.add_param_group({"params": stranger.parameters()})
    guard = GradientGuard(model, ClipNorm(1e-3))
    backward(model, next(batches(1)))
    before, gradients = frozen_state(model, optimizer), [p.grad.clone() for p in model.parameters()]
    words = r"param_groups\[1\]\['params'\]\[0\] of shape \(3, 2\), param_groups\[1\]\['params'\]\[1\] of shape \(3,\)"
    with pytest.raises(OptionError, match=words):
        guard.step(optimizer)
    assert_same_bits([p.grad for p in model.parameters()], gradients)
    assert_same_bits(frozen_state(model, optimizer), before)
    with pytest.raises(OptionError, match=words):
        guard.update(optimizer, guard.clip(guard.measure()))
    assert_same_bits(frozen_state(model, optimizer), before)
    assert guard.summary().steps == 0
    backward(model, next(batches(1)))
    part = torch.optim.SGD(model.head.parameters(), lr=0.1)  # fewer parameters than the model has are fine
    assert guard.step(part).clipped


@pytest.mark.parametrize("rule", [ClipNorm(1.2), ClipValue(0.3), {"recurrent": ClipNorm(0.2), "bias": ClipValue(0.1)}])
def test_the_summary_is_that_of_the_steps(rule):
    model = make_model()
    optimizer = OPTIMISERS["adamw"](model.parameters())
    guard = GradientGuard(model, rule)
    results = train(model, optimizer, guard, 30)
    summary = guard.summary()
    assert summary.clip_fraction == sum(result.clipped for result in results) / 30
    assert summary.clip_fraction > 0
    norms = [result.total_norm for result in results]
    for name, q in {"min": 0.0, "p10": 0.1, "p50": 0.5, "p90": 0.9, "p99": 0.99, "max": 1.0}.items():
        assert summary.norms[name] == pytest.approx(clipping.quantile(norms, q), rel=0.0101)
    for role, seen in summary.roles.items():
        assert seen.clip_fraction == sum(result.role_coefs[role] < 1 for result in results) / 30
        exact = clipping.quantile([result.role_norms[role] for result in results], 0.5)
        assert seen.norms["p50"] == pytest.approx(exact, rel=0.0101)


def test_skipped_steps_count_in_no_share_and_no_quantile():
    model = make_model()
    optimizer = OPTIMISERS["sgd"](model.parameters())
    guard = GradientGuard(model, ClipNorm(1e-3))
    assert math.isnan(guard.summary().clip_fraction)
    backward(model, next(batches(1)))
    guard.step(optimizer, loss=math.nan)
    assert math.isnan(guard.summary().clip_fraction) and math.isnan(guard.summary().norms["p50"])
    backward(model, next(batches(1)))
    result = guard.step(optimizer)
    assert guard.summary().clip_fraction == 1.0
    assert guard.summary().norms["max"] == result.total_norm


def test_a_resumed_guard_goes_on_counting():
    whole, first = make_model(), make_model()
    guards = []
    for model, pieces in ((whole, 1), (first, 2)):
        optimizer = OPTIMISERS["adamw"](model.parameters())
        guard = GradientGuard(model, {"recurrent": ClipNorm(0.2), "bias": ClipValue(0.1)})
        for step, batch in enumerate(batches(20)):
            if pieces == 2 and step == 11:
                text = json.dumps(guard.state_dict(), allow_nan=False)
                guard = GradientGuard(model, {"recurrent": ClipNorm(0.2), "bias": ClipValue(0.1)})
                guard.load_state_dict(json.loads(text))
            backward(model, batch)
            guard.step(optimizer, loss=math.nan if step in (9, 10, 18, 19) else None)
        guards.append(guard)
    assert guards[0].summary() == guards[1].summary()
    assert guards[0].state_dict() == guards[1].state_dict()
    assert guards[1].bad_in_a_row == 2


def test_states_of_another_kind_are_refused():
    guard, other = GradientGuard(make_model(), None), GradientGuard(nn.Linear(1, 1), None)
    wrong = [{}, other.state_dict(), {**guard.state_dict(), "schema": 99}, {**guard.state_dict(), "more": 1}]
    for state in wrong:
        with pytest.raises(OptionError, match="state of a GradientGuard"):
            guard.load_state_dict(state)


def test_the_three_calls_are_the_one_call():
    one, three = make_model(), make_model()
    one_optimizer, three_optimizer = OPTIMISERS["adamw"](one.parameters()), OPTIMISERS["adamw"](three.parameters())
    one_guard, three_guard = GradientGuard(one, ClipNorm(0.5)), GradientGuard(three, ClipNorm(0.5))
    results = train(one, one_optimizer, one_guard, 10)
    for batch, expected in zip(batches(10), results, strict=True):
        loss = backward(three, batch)
        measured = three_guard.measure(loss)
        assert three_guard.measure(loss) == measured  # measuring twice is measuring once
        result = three_guard.clip(measured)
        three_guard.update(three_optimizer, result)
        assert result == expected
    assert_same_bits(frozen_state(one, one_optimizer), frozen_state(three, three_optimizer))
    assert three_guard.state_dict() == one_guard.state_dict()


def test_parameters_frozen_and_thawed_between_steps():
    model = make_model()
    model.rnn.requires_grad_(False)
    optimizer = OPTIMISERS["sgd"](model.parameters())
    guard = GradientGuard(model, ClipNorm(1e-3))
    backward(model, next(batches(1)))
    assert guard.step(optimizer).role_norms["recurrent"] == 0.0
    model.rnn.requires_grad_(True)
    backward(model, next(batches(1)))
    assert guard.step(optimizer).role_norms["recurrent"] > 0.0
