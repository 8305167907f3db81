"""The guard inside the update: attached to an optimiser, riding in a fused step, and waiting for no host."""

from __future__ import annotations

import copy
import json
import math
import pickle
from contextlib import nullcontext

import pytest
import torch
from tests.reference import clipping
from torch import nn
from torch.utils._python_dispatch import TorchDispatchMode

from holdfast.errors import OptionError, TrainingError
from holdfast.gradients import ClipAuto, ClipNorm, ClipPercentile, ClipValue, GradientGuard, device

FUSED = {
    "adamw": lambda parameters: torch.optim.AdamW(parameters, lr=1e-2, fused=True),
    "sgd": lambda parameters: torch.optim.SGD(parameters, lr=1e-2, momentum=0.9, fused=True),
    "adagrad": lambda parameters: torch.optim.Adagrad(parameters, lr=1e-2, fused=True),
}
PLAIN = {
    "adamw": lambda parameters: torch.optim.AdamW(parameters, lr=1e-2),
    "sgd": lambda parameters: torch.optim.SGD(parameters, lr=1e-2, momentum=0.9),
    "adagrad": lambda parameters: torch.optim.Adagrad(parameters, lr=1e-2),
}
RULES = {
    "all": (ClipNorm(0.05), {}),
    "some": (ClipNorm(0.05), {"roles": ("input", "recurrent", "bias")}),
    "by role": ({"recurrent": ClipNorm(0.02), "head": ClipNorm(0.1)}, {}),
    "then cap": ({"recurrent": ClipNorm(0.02)}, {"cap": ClipNorm(0.05)}),
    "cap alone": (None, {"cap": ClipNorm(0.05)}),
    "values": (ClipValue(0.01), {}),
    "tensors": (ClipNorm(0.02, per_tensor=True), {"cap": ClipNorm(0.06)}),
    "history": (ClipPercentile(20.0, warmup=3), {}),
    "nothing": (None, {}),
}


class Net(nn.Module):
    def __init__(self):
        super().__init__()
        self.rnn = nn.GRU(3, 5, batch_first=True)
        self.head = nn.Linear(5, 1)

    def forward(self, x_BTD):
        return self.head(self.rnn(x_BTD)[0][:, -1])


def make_net():
    torch.manual_seed(0)
    return Net()


def batches(steps):
    generator = torch.Generator().manual_seed(1)
    for _ in range(steps):
        yield torch.randn(4, 6, 3, generator=generator), torch.randn(4, 1, generator=generator)


def backward(net, batch, factor=1.0):
    x_BTD, y_B1 = batch
    net.zero_grad()
    loss = factor * (net(x_BTD) - y_B1).square().mean()
    loss.backward()
    return loss


def run(optimizers, rule, options, how, steps=14, bad_at=()):
    """Weights and records after some steps; `how` calls the guard."""
    net = make_net()
    optimizer = optimizers(net.parameters())
    guard = GradientGuard(net, rule, **options)
    tie = guard.attach(optimizer) if how == "attach" else None
    results = []
    for step, batch in enumerate(batches(steps)):
        backward(net, batch, factor=math.nan if step in bad_at else 1.0)
        if how == "step":
            results.append(guard.step(optimizer))
        elif how == "attach":
            optimizer.step()
            results.append(guard.last)
        else:
            results.append(guard.clip(guard.measure()))
            if not results[-1].skipped:
                optimizer.step()
    if tie is not None:
        tie.remove()
    return net, results, guard


def assert_close(net, other, rtol=1e-5):
    for a, b in zip(net.parameters(), other.parameters(), strict=True):
        torch.testing.assert_close(a, b, rtol=rtol, atol=1e-7)


@pytest.mark.parametrize("name", RULES)
@pytest.mark.parametrize("optimiser", FUSED)
def test_the_same_trajectory_folded_and_unfolded(optimiser, name):
    rule, options = RULES[name]
    steps = 50 if name == "all" else 14
    plain, expected, _ = run(PLAIN[optimiser], rule, options, "clip", steps, bad_at=(7, 8))
    for optimizers in (PLAIN[optimiser], FUSED[optimiser]):
        for how in ("step", "attach"):
            net, results, _ = run(optimizers, rule, options, how, steps, bad_at=(7, 8))
            assert_close(net, plain)
            for result, other in zip(results, expected, strict=True):
                assert result.skipped == other.skipped
                assert result.total_norm == pytest.approx(other.total_norm, rel=1e-4, nan_ok=True)
                assert result.role_coefs == pytest.approx(other.role_coefs, rel=1e-4)
                assert result.cosine == pytest.approx(other.cosine, rel=1e-4, nan_ok=True)
    if rule is not None or options:
        assert sum(result.clipped for result in expected) > 5


@pytest.mark.parametrize("optimiser", FUSED)
def test_after_a_folded_step_the_gradients_are_the_clipped_ones_and_nothing_stays_behind(optimiser):
    net = make_net()
    optimizer = FUSED[optimiser](net.parameters())
    guard = GradientGuard(net, ClipNorm(1e-3))
    backward(net, next(batches(1)))
    before = clipping.values_of([p.grad for p in net.parameters()])
    guard.step(optimizer)
    after = clipping.values_of([p.grad for p in net.parameters()])
    assert after == pytest.approx(clipping.clip_norm(before, 1e-3, 2.0), rel=1e-6)
    assert "grad_scale" not in optimizer.__dict__ and "found_inf" not in optimizer.__dict__


@pytest.mark.parametrize("optimizers", [FUSED["adamw"], PLAIN["adamw"]])
@pytest.mark.parametrize("how", ["step", "attach"])
def test_a_skipped_step_leaves_no_trace(optimizers, how):
    for bad_first in (True, False):
        net = make_net()
        optimizer = optimizers(net.parameters())
        guard = GradientGuard(net, ClipNorm(0.05))
        if how == "attach":
            guard.attach(optimizer)
        if not bad_first:
            backward(net, next(batches(1)))
            optimizer.step() if how == "attach" else guard.step(optimizer)
        before = copy.deepcopy((net.state_dict(), optimizer.state_dict()))
        backward(net, next(batches(1)), factor=math.inf)
        grads = [parameter.grad for parameter in net.parameters()]
        optimizer.step() if how == "attach" else guard.step(optimizer)
        assert guard.last.skipped and set(guard.last.nonfinite) and guard.last.finite == ()
        assert [parameter.grad for parameter in net.parameters()] == grads or all(
            p.grad is g for p, g in zip(net.parameters(), grads, strict=True)
        )
        after = (net.state_dict(), optimizer.state_dict())
        for old, new in zip(before[0].values(), after[0].values(), strict=True):
            assert torch.equal(old, new)
        assert str(before[1]) == str(after[1])


def test_a_closure_is_guarded_where_its_gradients_are_complete():
    net, other = make_net(), make_net()
    optimizer, other_optimizer = PLAIN["adamw"](net.parameters()), PLAIN["adamw"](other.parameters())
    guard, other_guard = GradientGuard(net, ClipNorm(0.05)), GradientGuard(other, ClipNorm(0.05))
    guard.attach(optimizer)
    for number, batch in enumerate(batches(10)):
        factor = math.nan if number == 4 else 1.0
        if number % 2:
            optimizer.step(lambda batch=batch, factor=factor: backward(net, batch, factor))
        else:
            loss = optimizer.step(closure=lambda batch=batch, factor=factor: backward(net, batch, factor))
            assert math.isfinite(loss.item()) == (number != 4)
        assert (
            guard.last == other_guard.step(other_optimizer, loss=backward(other, batch, factor)) or guard.last.skipped
        )
    assert_close(net, other, rtol=0)
    assert guard.summary().skipped == other_guard.summary().skipped == 1


class Wrapper:
    """As Accelerate and Lightning wrap optimisers."""

    def __init__(self, optimizer):
        self.optimizer = optimizer

    def step(self):
        return self.optimizer.step()


def test_attach_looks_into_wrappers_and_step_refuses_them():
    net = make_net()
    optimizer = PLAIN["sgd"](net.parameters())
    guard = GradientGuard(net, ClipNorm(0.05))
    wrapper = Wrapper(Wrapper(optimizer))
    with pytest.raises(OptionError, match="wrapped"):
        guard.step(wrapper)
    guard.attach(wrapper)
    backward(net, next(batches(1)))
    wrapper.step()
    assert guard.last.clipped
    with pytest.raises(OptionError, match=r"torch\.optim"):
        guard.attach(Wrapper(3))


def test_attaching_twice_is_said_also_by_another_guard():
    net = make_net()
    optimizer = PLAIN["sgd"](net.parameters())
    guard = GradientGuard(net, ClipNorm(0.05))
    tie = guard.attach(optimizer)
    for other in (guard, GradientGuard(net, None)):
        with pytest.raises(OptionError, match="has a guard already"):
            other.attach(optimizer)
    with pytest.raises(OptionError, match="attached"):
        guard.step(optimizer)
    tie.remove()
    guard.attach(optimizer).remove()
    backward(net, next(batches(1)))
    optimizer.step()
    assert guard.last is None


def test_optimisers_that_cannot_be_attached():
    net, stranger = make_net(), nn.Linear(1, 1)
    guard = GradientGuard(net, ClipNorm(0.05))
    with pytest.raises(OptionError, match="unknown to the guard"):
        guard.attach(PLAIN["sgd"]([*net.parameters(), *stranger.parameters()]))
    with pytest.raises(OptionError, match="LBFGS"):
        guard.attach(torch.optim.LBFGS(net.parameters()))
    optimizer = PLAIN["sgd"](net.parameters())
    guard.attach(optimizer)
    optimizer.add_param_group({"params": list(stranger.parameters())})
    backward(net, next(batches(1)))
    with pytest.raises(OptionError, match="unknown to the guard"):
        optimizer.step()


def test_an_attached_step_without_gradients_is_said():
    net = make_net()
    optimizer = PLAIN["sgd"](net.parameters())
    guard = GradientGuard(net, ClipNorm(0.05))
    guard.attach(optimizer)
    with pytest.warns(UserWarning, match="none of its parameters has a gradient"):
        optimizer.step()
    assert guard.summary().steps == 0


def test_two_optimisers_over_one_model_are_clipped_each_by_itself():
    net = make_net()
    first, second = PLAIN["sgd"](net.rnn.parameters()), PLAIN["sgd"](net.head.parameters())
    guard = GradientGuard(net, ClipNorm(1e-3))
    guard.attach(first), guard.attach(second)
    backward(net, next(batches(1)))
    head = net.head.weight.grad.clone()
    first.step()
    assert torch.equal(net.head.weight.grad, head)
    assert guard.last.role_norms["head"] == 0.0 and guard.last.clipped_norm == pytest.approx(1e-3)
    second.step()
    assert guard.last.role_norms["recurrent"] == 0.0 and guard.last.clipped_norm == pytest.approx(1e-3)


def test_a_step_that_raises_leaves_the_optimiser_clean():
    net = make_net()
    optimizer = FUSED["adamw"](net.parameters())
    guard = GradientGuard(net, ClipNorm(1e-3))
    guard.attach(optimizer)

    def fail(*ignored):
        raise RuntimeError("boom")

    handle = optimizer.register_step_pre_hook(fail)
    backward(net, next(batches(1)))
    with pytest.raises(RuntimeError, match="boom"):
        optimizer.step()
    handle.remove()
    weights = [parameter.clone() for parameter in net.parameters()]
    backward(net, next(batches(1)))
    optimizer.step()
    assert guard.last.clipped_norm == pytest.approx(1e-3)
    assert "grad_scale" not in optimizer.__dict__
    assert any(not torch.equal(a, b) for a, b in zip(weights, net.parameters(), strict=True))


def test_an_attached_optimiser_is_copied_and_pickled_without_its_guard():
    net = make_net()
    optimizer = PLAIN["adamw"](net.parameters())
    GradientGuard(net, ClipNorm(1e-3)).attach(optimizer)
    for twin in (copy.deepcopy(optimizer), pickle.loads(pickle.dumps(optimizer))):  # noqa: S301
        assert twin.state_dict() == optimizer.state_dict()
        assert not twin._optimizer_step_pre_hooks


def test_clipping_inside_an_accumulation_window_is_said():
    net = make_net()
    optimizer = PLAIN["adamw"](net.parameters())
    guard = GradientGuard(net, ClipNorm(1e-3))
    for _ in range(2):
        for number, (x_BTD, y_B1) in enumerate(batches(3)):
            (net(x_BTD) - y_B1).square().mean().backward()
            if number == 1:
                guard.clip(guard.measure())
        with pytest.warns(UserWarning, match="led to no update"):
            guard.clip(guard.measure())
        optimizer.step()
        optimizer.zero_grad(set_to_none=False)
        backward(net, next(batches(1)))
        guard.clip(guard.measure())  # a new window
        guard.clip(guard.measure())  # looking twice changes nothing
        optimizer.step()
        optimizer.zero_grad(set_to_none=False)


def test_giving_up_names_the_last_steps():
    net = make_net()
    optimizer = PLAIN["adamw"](net.parameters())
    guard = GradientGuard(net, ClipNorm(1.0), give_up_after=3)
    for factor in (math.nan, 1.0, math.nan, math.inf):
        backward(net, next(batches(1)), factor)
        guard.step(optimizer)
    backward(net, next(batches(1)), math.nan)
    weights = copy.deepcopy(net.state_dict())
    with pytest.raises(TrainingError, match=r"3 non-finite steps in a row; 2 steps back: total norm nan, not finite"):
        guard.step(optimizer)
    assert all(torch.equal(a, b) for a, b in zip(weights.values(), net.state_dict().values(), strict=True))
    for bad in (0, -1, 1.5, "3"):
        with pytest.raises(OptionError, match="give_up_after"):
            GradientGuard(net, None, give_up_after=bad)


def test_rules_by_role_first_and_then_the_cap():
    net = make_net()
    backward(net, next(batches(1)), 100.0)
    before = {name: p.grad.clone() for name, p in net.named_parameters()}
    guard = GradientGuard(net, {"recurrent": ClipNorm(0.5), "head": ClipNorm(2.0)}, cap=ClipNorm(1.0))
    result = guard.clip(guard.measure())
    expected = {}
    for name, grad in before.items():
        values = clipping.values_of([grad])
        expected[name] = clipping.clip_norm(values, 0.5, 2.0) if "weight_hh" in name else values
    head = clipping.clip_norm(clipping.values_of([before["head.weight"], before["head.bias"]]), 2.0, 2.0)
    expected["head.weight"], expected["head.bias"] = head[:-1], head[-1:]
    capped = clipping.clip_norm([value for name in before for value in expected[name]], 1.0, 2.0)
    got = clipping.values_of([p.grad for p in net.parameters()])
    assert got == pytest.approx(capped, rel=1e-5)
    assert result.clipped_norm == pytest.approx(1.0, rel=1e-6)
    flat = [value for grad in before.values() for value in clipping.values_of([grad])]
    assert result.cosine == pytest.approx(clipping.cosine(flat, got), rel=1e-6)
    for cap in (ClipValue(1.0), ClipNorm(1.0, per_tensor=True), 1.0):
        with pytest.raises(OptionError, match="cap"):
            GradientGuard(net, None, cap=cap)
    with pytest.raises(OptionError, match="one norm_type"):
        GradientGuard(net, ClipNorm(1.0), cap=ClipNorm(1.0, 1.0))


@pytest.mark.parametrize("norm_type", [1.0, 2.0, math.inf])
def test_each_tensor_by_itself(norm_type):
    net = make_net()
    backward(net, next(batches(1)), 10.0)
    before = [clipping.values_of([p.grad]) for p in net.parameters()]
    guard = GradientGuard(net, ClipNorm(0.3, norm_type, per_tensor=True))
    result = guard.clip(guard.measure())
    after = [clipping.values_of([p.grad]) for p in net.parameters()]
    for old, new in zip(before, after, strict=True):
        assert new == pytest.approx(clipping.clip_norm(old, 0.3, norm_type), rel=1e-5)
    flat = [value for values in before for value in values]
    assert result.cosine == pytest.approx(clipping.cosine(flat, [v for vs in after for v in vs]), rel=1e-6)
    assert set(result.tensor_norms) == {name for name, _ in net.named_parameters()}


def test_rules_with_history_resume_to_the_bit():
    rules = {"recurrent": ClipPercentile(30.0, warmup=4), "input": ClipAuto(50.0, steps=8)}
    net = make_net()
    optimizer = PLAIN["sgd"](net.parameters())
    guard = GradientGuard(net, rules)
    losses = []
    for step, batch in enumerate(batches(30)):
        losses.append(backward(net, batch))
        guard.step(optimizer)
        if step == 11:
            kept = copy.deepcopy((net.state_dict(), optimizer.state_dict())), json.dumps(guard.state_dict())
    resumed = make_net()
    resumed_optimizer = PLAIN["sgd"](resumed.parameters())
    resumed.load_state_dict(kept[0][0]), resumed_optimizer.load_state_dict(kept[0][1])
    other = GradientGuard(resumed, rules)
    other.load_state_dict(json.loads(kept[1]))
    for step, batch in enumerate(batches(30)):
        if step > 11:
            backward(resumed, batch)
            other.step(resumed_optimizer)
    assert other.state_dict() == guard.state_dict()
    assert_close(net, resumed, rtol=0)
    with pytest.raises(OptionError, match="memories"):
        GradientGuard(net, {**rules, "input": ClipAuto(60.0, steps=8)}).load_state_dict(json.loads(kept[1]))


class NoHost(TorchDispatchMode):
    """Fails where a number is read from a tensor, or made a tensor by a copy: on a GPU both would wait."""

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        assert "_local_scalar_dense" not in str(func), "a number was read"
        assert "lift_fresh" not in str(func), "a number was copied"
        return func(*args, **(kwargs or {}))


@pytest.mark.parametrize("name", ["all", "some", "by role", "then cap", "cap alone", "nothing"])
@pytest.mark.parametrize("optimiser", FUSED)
def test_a_step_on_a_device_reads_no_number_and_is_the_same_step(monkeypatch, optimiser, name):
    rule, options = RULES[name]
    plain, expected, host_guard = run(PLAIN[optimiser], rule, options, "step", bad_at=(7, 8))
    monkeypatch.setattr(device, "is_far", lambda grad: True)
    net = make_net()
    optimizer = FUSED[optimiser](net.parameters())
    guard = GradientGuard(net, rule, **options)
    results = []
    for step, batch in enumerate(batches(14)):
        backward(net, batch, factor=math.nan if step in (7, 8) else 1.0)
        with NoHost() if step else nullcontext():  # the first step looks whether the gradients are still scaled
            results.append(guard.step(optimizer))
    assert_close(net, plain)
    assert all(result.waiting is not None for result in results[1:])
    assert results[3].total_norm == pytest.approx(expected[3].total_norm, rel=1e-4)  # fetched alone
    assert guard.summary().skipped == host_guard.summary().skipped == 2
    assert guard.summary().clip_fraction == host_guard.summary().clip_fraction
    for result, other in zip(results, expected, strict=True):
        assert result.waiting is None
        assert (result.skipped, result.nonfinite) == (other.skipped, other.nonfinite)
        assert result.role_coefs == pytest.approx(other.role_coefs, rel=1e-4)
        assert result.clipped_norm == pytest.approx(other.clipped_norm, rel=1e-4, nan_ok=True)
    states = [state["step"].item() for state in optimizer.state.values() if "step" in state]
    assert set(states) <= {12.0}


def test_numbers_from_a_device_are_fetched_in_blocks(monkeypatch):
    monkeypatch.setattr(device, "is_far", lambda grad: True)
    net = make_net()
    optimizer = FUSED["sgd"](net.parameters())
    guard = GradientGuard(net, ClipNorm(0.05), give_up_after=5)
    results = []
    with pytest.raises(TrainingError, match="5 non-finite steps in a row"):
        for step, batch in enumerate(batches(200)):
            backward(net, batch, factor=1.0 if step < 61 else math.nan)
            results.append(guard.step(optimizer))
    assert len(results) == 127  # at the end of the second block of 64
    assert sum(result.skipped for result in results) == 66
    assert all(math.isfinite(value) for p in net.parameters() for value in p.flatten().tolist())


def test_a_loss_that_is_not_finite_skips_on_a_device_too(monkeypatch):
    monkeypatch.setattr(device, "is_far", lambda grad: True)
    net = make_net()
    optimizer = FUSED["adamw"](net.parameters())
    guard = GradientGuard(net, ClipNorm(0.05))
    backward(net, next(batches(1)))
    guard.step(optimizer)
    backward(net, next(batches(1)))
    before = copy.deepcopy(net.state_dict())
    loss = torch.tensor(math.inf)
    with NoHost():
        result = guard.step(optimizer, loss=loss)
    assert result.nonfinite == ("loss",) and result.skipped
    assert all(torch.equal(a, b) for a, b in zip(before.values(), net.state_dict().values(), strict=True))


@pytest.mark.parametrize("how", ["step", "attach"])
@pytest.mark.parametrize("unscale_first", [False, True])
def test_a_scaled_step_on_a_device_reads_no_number(monkeypatch, how, unscale_first):
    monkeypatch.setattr(device, "is_far", lambda grad: True)
    nets, guards = [make_net(), make_net()], []
    for net, far in zip(nets, (True, False), strict=True):
        monkeypatch.setattr(device, "is_far", lambda grad, far=far: far)
        optimizer = FUSED["adamw"](net.parameters())
        scaler = torch.amp.GradScaler("cpu", init_scale=2.0**112, growth_interval=1000)
        guard = GradientGuard(net, ClipNorm(0.05))
        if how == "attach":
            guard.attach(optimizer)
        for step, (x_BTD, y_B1) in enumerate(batches(12)):
            net.zero_grad()
            loss = 1e6 * (net(x_BTD) - y_B1).square().mean() * (math.nan if step == 9 else 1.0)
            scaler.scale(loss).backward()
            if unscale_first:
                scaler.unscale_(optimizer)
            with NoHost() if far and how == "attach" else nullcontext():
                guard.step(optimizer, scaler=scaler) if how == "step" else scaler.step(optimizer)
            scaler.update()
        guards.append(guard)
    assert_close(*nets)
    summaries = [guard.summary() for guard in guards]
    assert summaries[0].calibrations == summaries[1].calibrations > 3
    assert summaries[0].skipped == summaries[1].skipped == 0
    assert summaries[0].clip_fraction == summaries[1].clip_fraction > 0.5
