"""One step against the same step written by hand, and bad steps that leave no trace."""

from __future__ import annotations

import math
from dataclasses import replace
from itertools import chain

import pytest
import torch
from tests.reference import clipping
from tests.reference import training as twin
from tests.training.small import CONTEXT, HORIZON, assert_same_bits, config, make_network, make_task, state_of

from holdfast.gradients import find_roles
from holdfast.networks import batch_loss
from holdfast.training import parse_penalty, train_step
from holdfast.training.loop import make_guard, make_optimizer
from holdfast.windows import Sampler

INNER = ("input", "recurrent", "bias", "other")
CLIPS = ["norm:1.0", "norm:0.01", "none"]  # now and then, always, never
each_optimiser = pytest.mark.parametrize("optimizer", ["adamw", "sgd"])


class Bench:
    """A network in training, step by step."""

    def __init__(self, **options):
        self.task, self.config = make_task(network=make_network(layers=2)), config(**options)
        self.network = self.task.network
        torch.nn.init.normal_(
            self.network.output.weight, generator=torch.Generator().manual_seed(1)
        )  # 0 lets no gradient in
        self.optimizer, self.guard = make_optimizer(self.network, self.config), make_guard(self.network, self.config)
        self.done = 0

    def batch(self, step):
        split = self.task.split
        drawn = Sampler(split.first_n, split.last_n, 8, seed=0).draw(step)
        return self.task.windows.gather(
            *drawn, context_length=CONTEXT, horizon=HORIZON, until_n=torch.from_numpy(split.until_n)
        )

    def step(self, batch=None):
        self.done += 1
        batch = self.batch(self.done) if batch is None else batch
        scale_B = self.task.error_scale_n[batch.series_B]
        penalty = parse_penalty(self.config.penalty)
        return train_step(self.network, batch, scale_B, self.optimizer, self.guard, self.done, penalty)

    def state(self):
        return state_of(self.network, self.optimizer)


@pytest.mark.parametrize("clip", CLIPS)
@each_optimiser
def test_equals_a_step_written_by_hand(optimizer, clip):
    ours, hand = Bench(optimizer=optimizer, clip=clip), Bench(optimizer=optimizer, clip=clip)
    kinds = {"adamw": (torch.optim.AdamW, {"weight_decay": 1e-2}), "sgd": (torch.optim.SGD, {"momentum": 0.9})}
    kind, options = kinds[optimizer]
    plain = kind(hand.network.parameters(), lr=1e-2, foreach=False, fused=False, **options)
    bound = math.inf if clip == "none" else float(clip.removeprefix("norm:"))
    for step in range(1, 6):
        record, batch = ours.step(), hand.batch(step)
        scale_B = hand.task.error_scale_n[batch.series_B]
        loss, total, coef = twin.step_by_hand(hand.network, batch, scale_B, plain, bound)
        assert (record.step, record.lr, record.skipped, record.nonfinite) == (step, 1e-2, False, ())
        assert record.loss == pytest.approx(loss, rel=1e-5)
        assert record.total_norm == pytest.approx(total, rel=1e-4)
        assert record.clip_coef == pytest.approx(coef, rel=1e-4)
        assert record.clipped == (total > bound)
        for (name, a), b in zip(ours.network.named_parameters(), hand.network.parameters(), strict=True):
            torch.testing.assert_close(a, b, rtol=0, atol=1e-6, msg=name)


def test_the_first_step_equals_adamw_in_numbers():
    bench = Bench(clip="none")
    before = {name: p.detach().double().clone() for name, p in bench.network.named_parameters()}
    record = bench.step()
    assert record.clip_coef == 1.0
    for name, p in bench.network.named_parameters():  # after one step the moments are g and g^2
        expected = before[name] * (1 - 1e-2 * 1e-2) - 1e-2 * p.grad.double() / (p.grad.double().abs() + 1e-8)
        torch.testing.assert_close(p.double(), expected, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("clip", CLIPS)
def test_the_record_holds_what_decimals_measure(clip):
    bench, probe = Bench(clip=clip), Bench()
    for step in range(1, 4):
        probe.network.load_state_dict(bench.network.state_dict())
        batch = probe.batch(step)
        loss = batch_loss(probe.network.head, probe.network(batch), batch, probe.task.error_scale_n[batch.series_B])
        probe.optimizer.zero_grad()
        loss.backward()
        record = bench.step()
        assert record.loss == loss.item()
        before, after = by_role(probe.network), by_role(bench.network)
        for role in before:
            assert record.role_norms[role] == pytest.approx(float(clipping.norm(before[role], 2.0)), rel=3e-7)
            clipped = float(clipping.norm(after[role], 2.0))
            assert record.role_clipped_norms[role] == pytest.approx(clipped, rel=1e-5)
            assert record.role_coefs[role] == record.clip_coef
        all_before, all_after = list(chain(*before.values())), list(chain(*after.values()))
        assert record.total_norm == pytest.approx(float(clipping.norm(all_before, 2.0)), rel=3e-7)
        assert record.clipped_norm == pytest.approx(float(clipping.norm(all_after, 2.0)), rel=1e-5)
        assert record.cosine == pytest.approx(clipping.cosine(all_before, all_after), rel=1e-5)
        assert record.seconds > 0


def by_role(network):
    """All gradient values of each role."""
    values = {}
    for name, role in find_roles(network, network.ROLES).items():
        values.setdefault(role, []).extend(clipping.values_of([dict(network.named_parameters())[name].grad]))
    return values


@each_optimiser
def test_measuring_changes_nothing(optimizer):
    ours, plain = Bench(optimizer=optimizer, clip="none"), Bench(optimizer=optimizer)
    for step in range(1, 51):
        ours.step()
        batch = plain.batch(step)
        plain.optimizer.zero_grad()
        scale_B = plain.task.error_scale_n[batch.series_B]
        batch_loss(plain.network.head, plain.network(batch), batch, scale_B).backward()
        plain.optimizer.step()
    assert_same_bits(ours.state(), plain.state())


@each_optimiser
@pytest.mark.parametrize("bad", [math.nan, math.inf, -math.inf, 1e300])
@pytest.mark.parametrize("steps_before", [0, 3])
def test_a_bad_target_costs_one_step(optimizer, bad, steps_before):
    bench = Bench(optimizer=optimizer)
    for _ in range(steps_before):
        bench.step()
    before, batch = bench.state(), bench.batch(9)
    target_BF = batch.target_BF.clone()
    target_BF[3, batch.target_mask_BF[3].nonzero()[0]] = bad
    record = bench.step(replace(batch, target_BF=target_BF))
    assert_same_bits(bench.state(), before)
    assert record.skipped and not record.clipped
    assert record.nonfinite[0] == "loss" and not math.isfinite(record.loss)
    assert bench.guard.bad_in_a_row == 1
    assert not bench.step().skipped and bench.guard.bad_in_a_row == 0


@each_optimiser
@pytest.mark.parametrize("bad", [math.nan, math.inf])
def test_a_bad_gradient_costs_one_step_and_is_named(optimizer, bad):
    bench = Bench(optimizer=optimizer)
    bench.step()
    before = bench.state()
    handle = bench.network.recurrent.weight_hh_l1.register_hook(lambda gradient: gradient * bad)
    record = bench.step()
    handle.remove()
    assert_same_bits(bench.state(), before)
    assert (record.skipped, record.nonfinite) == (True, ("recurrent.weight_hh_l1",))
    assert math.isfinite(record.loss) and not math.isfinite(record.total_norm)
    assert math.isfinite(record.role_norms["input"]) and not math.isfinite(record.role_norms["recurrent"])
    assert not bench.step().skipped


def test_a_batch_without_a_target_teaches_nothing():
    bench = Bench()
    bench.step()
    before, batch = bench.state(), bench.batch(2)
    record = bench.step(replace(batch, target_mask_BF=torch.zeros_like(batch.target_mask_BF)))
    assert_same_bits(bench.state(), before)
    assert record.skipped and record.nonfinite == ("loss",)


def test_clipping_covers_everything():
    bench = Bench(clip="norm:0.001")
    record = bench.step()
    assert twin.norm(bench.network.parameters()) == pytest.approx(1e-3, rel=1e-5)
    assert record.clipped_norm == pytest.approx(1e-3, rel=1e-5)


def test_clipping_covers_the_roles_that_are_named():
    bench = Bench(clip="norm:0.001", clip_roles=INNER)
    record = bench.step()
    inner = [p for name, p in bench.network.named_parameters() if not name.startswith("output.")]
    assert twin.norm(inner) == pytest.approx(1e-3, rel=1e-5)
    assert record.role_coefs["head"] == 1.0
    assert record.role_clipped_norms["head"] == record.role_norms["head"] > 1e-3
