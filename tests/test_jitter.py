"""The noise of tests/jitter.py is one unit in the last place, in every step, and the same for the same digits."""

from __future__ import annotations

import pytest
import torch
from tests import jitter

from holdfast import ClipNorm, GradientGuard

DTYPES = list(jitter.LAYOUT)


def some(dtype, count=3000):
    generator = torch.Generator().manual_seed(5)
    return torch.randn(count, generator=generator, dtype=torch.float64).to(dtype)


def ulps(values, others):
    """How many numbers of the type lie between two values of the same sign."""
    kind = jitter.LAYOUT[values.dtype][0]
    return (values.detach().contiguous().view(kind).long() - others.detach().contiguous().view(kind).long()).abs()


@pytest.fixture
def noise():
    """Noise of seed 3, and no other, switched on by calling it."""
    with jitter.paused():
        yield lambda: jitter.start(3)


@pytest.mark.parametrize("dtype", DTYPES)
def test_a_third_goes_up_a_third_goes_down_and_none_further_than_to_its_neighbour(dtype):
    values = some(dtype)
    few_digits = values.view(jitter.LAYOUT[dtype][0]) & (2 ** (jitter.LAYOUT[dtype][1] // 2) - 1) == 0
    after = jitter.moved(values, 3)
    assert after.dtype == dtype and ulps(values, after).max() == 1
    assert torch.equal(after[few_digits], values[few_digits])
    for share in ((after > values), (after < values), (after == values)):
        assert 0.28 < share[~few_digits].double().mean() < 0.38
    assert not torch.equal(jitter.moved(values, 4), after)


@pytest.mark.parametrize("dtype", DTYPES)
def test_what_no_machine_rounds_stays(dtype):
    exact = torch.tensor([0.0, -0.0, 1.0, -0.75, 0.5, torch.inf, -torch.inf], dtype=dtype)
    torch.testing.assert_close(jitter.moved(exact, 3), exact, rtol=0, atol=0)
    assert jitter.moved(torch.tensor(torch.nan, dtype=dtype), 3).isnan()
    largest = torch.tensor(torch.finfo(dtype).max, dtype=dtype)
    assert all(jitter.moved(largest, seed).isfinite() for seed in range(9))
    values = some(dtype)
    values = values[values.abs() > 2.0**-6]  # a quarter of these has as many digits, in half precision too
    assert torch.equal(jitter.moved(-values, 3), -jitter.moved(values, 3))
    assert torch.equal(jitter.moved(values / 4, 3), jitter.moved(values, 3) / 4)


class Late(torch.optim.SGD):
    """Its own step, with that of its base inside."""

    def step(self, closure=None):
        return super().step(closure)


OPTIMIZERS = {
    "plain": lambda weights: torch.optim.AdamW(weights, lr=0.01, foreach=False),
    "foreach": lambda weights: torch.optim.AdamW(weights, lr=0.01, foreach=True),
    "fused": lambda weights: torch.optim.AdamW(weights, lr=0.01, fused=True),
    "subclass": lambda weights: Late(weights, lr=0.01),
    "fused sgd": lambda weights: torch.optim.SGD(weights, lr=0.01, fused=True),
}


def by_itself(model, optimizer):
    return optimizer.step


def guarded(model, optimizer):
    guard = GradientGuard(model, ClipNorm(1e-3))
    return lambda: guard.step(optimizer)


def attached(model, optimizer):
    GradientGuard(model, ClipNorm(1e-3)).attach(optimizer)
    return optimizer.step


def scaled(model, optimizer):
    guard, scaler = GradientGuard(model, ClipNorm(1e-3)), torch.amp.GradScaler("cpu", init_scale=1.0)
    scaler.scale(torch.ones(()))  # makes it look at the gradients
    return lambda: guard.step(optimizer, scaler=scaler)


def take_steps(make, how, steps=1, gradient=1.0):
    """The weights after some steps, each with the same gradients."""
    torch.manual_seed(0)
    model = torch.nn.Linear(40, 30)
    optimizer = make(list(model.parameters()))
    step = how(model, optimizer)
    for _ in range(steps):
        for parameter in model.parameters():
            parameter.grad = parameter.detach().sin() * gradient
        step()
    return torch.cat([parameter.detach().flatten() for parameter in model.parameters()])


@pytest.mark.parametrize("how", [by_itself, guarded, attached, scaled])
@pytest.mark.parametrize("name", OPTIMIZERS)
def test_it_reaches_every_step_of_every_optimiser_and_adds_only_noise(noise, name, how):
    before = take_steps(OPTIMIZERS[name], how)
    random_state = torch.get_rng_state()
    noise()
    after = take_steps(OPTIMIZERS[name], how)
    torch.testing.assert_close(after, jitter.moved(before, 3), rtol=0, atol=0)
    assert (after != before).double().mean() > 0.5
    torch.manual_seed(0)
    torch.nn.Linear(40, 30)
    assert torch.equal(torch.get_rng_state(), random_state)


def test_two_equal_runs_stay_equal_and_differ_from_one_without_noise(noise):
    quiet = take_steps(OPTIMIZERS["fused sgd"], guarded, steps=20)
    noise()
    one, other = (take_steps(OPTIMIZERS["fused sgd"], guarded, steps=20) for _ in range(2))
    assert torch.equal(one, other)
    assert not torch.equal(one, quiet)
    torch.testing.assert_close(one, quiet)


@pytest.mark.parametrize("how", [guarded, attached, scaled])
@pytest.mark.parametrize("name", ["plain", "fused", "fused sgd"])
def test_a_skipped_step_still_changes_nothing(noise, name, how):
    before = take_steps(OPTIMIZERS[name], how, steps=0)
    noise()
    assert torch.equal(take_steps(OPTIMIZERS[name], how, gradient=torch.nan), before)
