"""Where a guard could go wrong in silence: copies, aliases, narrow types, forgotten updates, exceptions."""

from __future__ import annotations

import copy
import gc
import math
import pickle
import warnings
import weakref

import pytest
import torch
from torch import nn

from holdfast.errors import OptionError, TrainingError
from holdfast.gradients import ClipNorm, ClipValue, GradientGuard


def make_net(dtype=torch.float32):
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(3, 4), nn.Linear(4, 2)).to(dtype)


def backward(net, factor=100.0):
    generator = torch.Generator().manual_seed(1)
    x_BD = torch.randn(5, 3, generator=generator, dtype=torch.float64).to(next(net.parameters()).dtype)
    (factor * net(x_BD)).sum().backward()


def moved(net, before):
    return math.hypot(*((a - b).norm().item() for a, b in zip(net.parameters(), before, strict=True)))


def weights(net):
    return [parameter.detach().clone() for parameter in net.parameters()]


def sgd(net, fused=True, lr=1.0):
    return torch.optim.SGD(net.parameters(), lr=lr, fused=fused)


def test_measuring_between_clip_and_update_changes_nothing():
    net = make_net()
    optimizer, guard, before = sgd(net), GradientGuard(net, ClipNorm(1.0)), weights(net)
    backward(net)
    result = guard.clip(guard.measure(), optimizer)
    guard.measure()
    guard.update(optimizer, result)
    assert moved(net, before) == pytest.approx(1.0, rel=1e-5)


def test_two_optimisers_clipped_before_either_is_updated():
    net = make_net()
    optimizers = [sgd(net[0]), sgd(net[1])]
    guard, before = GradientGuard(net, ClipNorm(1.0)), weights(net)
    backward(net)
    results = [guard.clip(guard.measure(optimizer=each), each) for each in optimizers]
    with pytest.raises(OptionError, match="another optimiser"):
        guard.update(optimizers[0], results[1])
    results[1] = guard.clip(guard.measure(optimizer=optimizers[1]), optimizers[1])
    for optimizer, result in zip(optimizers, results, strict=True):
        guard.update(optimizer, result)
    assert moved(net, before) == pytest.approx(math.sqrt(2.0), rel=1e-5)


def test_a_clip_that_was_never_updated_leaves_the_optimiser_alone():
    net = make_net()
    optimizer, guard = sgd(net), GradientGuard(net, ClipNorm(1.0))
    backward(net)
    guard.clip(guard.measure(), optimizer)
    assert "grad_scale" not in optimizer.__dict__


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
@pytest.mark.parametrize("shape", [(300, 300), (1000, 1500)])
def test_half_precision_is_scaled_by_an_unrounded_factor(dtype, shape):
    layer = nn.Linear(shape[1], shape[0], bias=False).to(dtype)
    layer.weight.grad = torch.full(shape, 6e4).to(dtype)
    guard = GradientGuard(layer, ClipNorm(1.0))
    result = guard.clip(guard.measure())
    assert result.clipped_norm == pytest.approx(1.0)
    assert layer.weight.grad.double().norm().item() == pytest.approx(1.0, rel=2 * torch.finfo(dtype).eps)


@pytest.mark.parametrize("fused", [False, True])
@pytest.mark.parametrize("view", [False, True])
def test_one_gradient_on_two_parameters(fused, view):
    net = nn.ParameterList([nn.Parameter(torch.zeros(4)), nn.Parameter(torch.zeros(4))])
    net[0].grad = torch.full((4,), 2.0)
    net[1].grad = net[0].grad.view(4) if view else net[0].grad
    guard = GradientGuard(net, ClipNorm(1.0))
    result = guard.step(torch.optim.SGD(net.parameters(), lr=1.0, fused=fused))
    assert result.total_norm == 4.0
    assert [parameter.tolist() for parameter in net] == [[-0.5] * 4] * 2
    tie = guard.attach(sgd(net, fused))
    net[0].grad[0] = math.nan
    tie._optimizer.step()
    assert guard.last.skipped and [parameter.tolist() for parameter in net] == [[-0.5] * 4] * 2
    assert net[1].grad is not None


def test_gradients_that_grew_after_they_were_measured():
    net = make_net()
    guard = GradientGuard(net, ClipNorm(1.0))
    backward(net)
    measured = guard.measure()
    backward(net)
    with pytest.raises(TrainingError, match="measure again"):
        guard.clip(measured)


def test_loops_that_update_by_hand_are_no_mistake():
    net = make_net()
    guard = GradientGuard(net, ClipNorm(1.0))
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        for _ in range(3):
            backward(net)
            guard.clip(guard.measure())
            with torch.no_grad():
                for parameter in net.parameters():
                    parameter -= 0.1 * parameter.grad
                    parameter.grad.zero_()


def test_a_loss_of_several_numbers_is_refused():
    net = make_net()
    backward(net)
    with pytest.raises(TrainingError, match="one number"):
        GradientGuard(net, None).measure(torch.ones(3))


@pytest.mark.parametrize("fused", [False, True])
@pytest.mark.parametrize("bad", [False, True])
def test_an_exception_inside_an_attached_step(fused, bad):
    net = make_net()
    optimizer, guard = sgd(net, fused), GradientGuard(net, ClipNorm(1.0))
    tie = guard.attach(optimizer)

    def fail(*ignored):
        raise RuntimeError("boom")

    handle = optimizer.register_step_pre_hook(fail)
    backward(net, math.nan if bad else 100.0)
    with pytest.raises(RuntimeError, match="boom"):
        optimizer.step()
    handle.remove()
    optimizer.zero_grad()
    backward(net)
    before = weights(net)
    optimizer.step()
    assert moved(net, before) == pytest.approx(1.0, rel=1e-5)
    assert guard.summary().steps == 1
    handle = optimizer.register_step_pre_hook(fail)
    with pytest.raises(RuntimeError, match="boom"):
        optimizer.step()
    handle.remove()
    tie.remove()
    assert "grad_scale" not in optimizer.__dict__ and all(p.grad is not None for p in net.parameters())


def test_removing_an_old_tie_leaves_the_new_one():
    net = make_net()
    optimizer, guard = sgd(net), GradientGuard(net, ClipNorm(1.0))
    old = guard.attach(optimizer)
    old.remove()
    guard.attach(optimizer)
    old.remove()
    with pytest.raises(OptionError, match="has a guard already"):
        guard.attach(optimizer)
    with pytest.raises(OptionError, match="has a guard already"):
        guard.attach(sgd(net))  # another optimiser over the same weights


def test_a_guarded_optimiser_can_be_forgotten():
    net = make_net()
    optimizer, guard = sgd(net), GradientGuard(net, ClipNorm(1.0))
    guard.attach(optimizer)
    backward(net)
    optimizer.step()
    gone = weakref.ref(optimizer), weakref.ref(net[0].weight)
    del net, optimizer, guard
    gc.collect()
    assert [each() for each in gone] == [None, None]


@pytest.mark.parametrize("twin_of", [copy.deepcopy, lambda pair: pickle.loads(pickle.dumps(pair))])  # noqa: S301
def test_a_model_and_its_guard_are_copied_together(twin_of):
    net = make_net()
    guard = GradientGuard(net, ClipNorm(1.0))
    backward(net)
    guard.clip(guard.measure())
    twin, twin_guard = twin_of((net, guard))
    twin.zero_grad()
    backward(twin)
    before = weights(twin)
    twin_guard.step(sgd(twin))
    assert moved(twin, before) == pytest.approx(1.0, rel=1e-5)


def test_a_wrapper_around_itself_is_refused():
    class Loop:
        pass

    loop = Loop()
    loop.optimizer = loop
    with pytest.raises(OptionError, match=r"torch\.optim"):
        GradientGuard(make_net(), None).attach(loop)


@pytest.mark.parametrize("rule", [ClipNorm(1e-3), ClipValue(1e-4)])
def test_float64_is_clipped_in_float64_also_beside_a_fused_optimiser(rule):
    nets = [make_net(torch.float64), make_net(torch.float64)]
    for net, fused in zip(nets, (True, False), strict=True):
        backward(net)
        GradientGuard(net, rule).step(sgd(net, fused))
    for a, b in zip(*(net.parameters() for net in nets), strict=True):
        torch.testing.assert_close(a, b, rtol=1e-13, atol=0)


def test_flat_parameters_are_refused_by_name():
    flat = type("FullyShardedDataParallel", (nn.Module,), {})
    with pytest.raises(OptionError, match="fully_shard"):
        GradientGuard(nn.Sequential(flat(), nn.Linear(1, 1)), None)


@pytest.mark.parametrize("how", ["step", "measure"])
def test_clipping_before_unscaling_is_said(how):
    net = make_net()
    optimizer, guard = sgd(net, fused=False), GradientGuard(net, ClipNorm(1.0))
    scaler = torch.amp.GradScaler("cpu")
    loss = net(torch.ones(1, 3)).sum()
    scaler.scale(loss).backward()
    with pytest.warns(UserWarning, match=r"guard.step\(optimizer, scaler=scaler\)"):
        guard.step(optimizer) if how == "step" else guard.measure()
    right = GradientGuard(net, ClipNorm(1.0))
    optimizer.zero_grad()
    scaler.scale(net(torch.ones(1, 3)).sum()).backward()
    scaler.unscale_(optimizer)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        right.measure()
        right.clip(right.measure())
    scaler.step(optimizer)
    scaler.update()


def test_an_old_scaler_beside_ordinary_gradients_is_no_mistake():
    scaler = torch.amp.GradScaler("cpu")
    scaler.scale(torch.ones(1))
    for factor in (1.0, math.nan, math.inf):
        net = make_net()
        backward(net, factor)
        with warnings.catch_warnings():
            warnings.simplefilter("error")
            GradientGuard(net, None).measure()
