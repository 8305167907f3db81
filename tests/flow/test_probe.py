"""The probe in a user's loop: when it samples, what it sees, and that training does not notice."""

from __future__ import annotations

import copy
import math
from itertools import pairwise

import pytest
import torch
from hypothesis import example, given, settings
from hypothesis import strategies as st
from torch import nn

from holdfast.errors import OptionError
from holdfast.flow import FlowProbe, adjoints, growth, probe

F64 = torch.float64


@pytest.fixture(autouse=True)
def seed():
    torch.manual_seed(0)


class Clock:
    """Stands still until it is told how much time went by."""

    def __init__(self):
        self.now = 1e6

    def __call__(self):
        return self.now


@pytest.fixture
def clock(monkeypatch):
    clock = Clock()
    monkeypatch.setattr(probe, "_clock", clock)
    return clock


LAYER = nn.RNN(1, 2, batch_first=True)
X_BTD = torch.ones(1, 2, 1)


def run(clock, durations, costs, **options):
    """Steps that were sampled, and the share after each step."""
    watched, sampled, shares = FlowProbe(LAYER, **options), [], []
    costs = iter(costs)

    def loss():
        clock.now += next(costs)
        return LAYER(X_BTD)[0].sum()

    for duration in durations:
        before = clock.now
        sample = watched.step(loss)
        if sample is not None:
            sampled.append(sample.step)
            assert sample.seconds == clock.now - before
        shares.append(watched.share)
        clock.now += duration
    assert watched.samples == len(sampled)
    return sampled, shares


def by_hand(durations, costs, budget):
    """The same steps from all that went before, summed anew at each step."""
    taken = {}
    for step in range(1, len(durations) + 1):
        if step - max(taken, default=0) < 10:
            continue
        spent, passed = sum(taken.values()), sum(durations[: step - 1])
        guess = max(taken.values()) if taken else 4 * passed / (step - 1)
        if spent + guess < budget * (passed + spent + guess):
            taken[step] = costs[len(taken)]
    return list(taken)


@pytest.mark.parametrize(("budget", "cost"), [(0.03, 0.125), (0.03, 0.5), (0.03, 2.0), (0.03, 3.5), (0.2, 3.5)])
def test_a_long_run_never_spends_more_than_its_budget_nor_much_less(clock, budget, cost):
    steps = 1500
    sampled, shares = run(clock, [1.0] * steps, [cost] * steps, budget=budget)
    assert sampled[0] == 1 + math.floor(4 * (1 - budget) / budget) + 1
    assert max(shares) <= budget and shares[sampled[0] - 2] == 0
    gaps = {later - one for one, later in pairwise(sampled)}
    assert min(gaps) >= 10
    if cost / (10 + cost) > budget:
        assert shares[-1] > 0.95 * budget - 2 * cost / steps
        assert max(gaps) <= cost * (1 - budget) / budget + 10
    else:
        assert gaps == {10}
    last = sampled[-1]
    assert shares[last - 1] == pytest.approx(len(sampled) * cost / (last - 1 + len(sampled) * cost))


whole = st.integers(1, 64).map(float)  # sums of these are exact in any order


@settings(max_examples=40, deadline=None)
@given(
    st.sampled_from([0.125, 0.5]),
    st.lists(whole, min_size=60, max_size=200),
    st.lists(st.integers(1, 1024).map(float), min_size=30, max_size=30),
)
@example(0.125, [16.0] * 200, [128.0, *[1.0] * 29])  # each later sample counts as the dear one
@example(0.125, [16.0] * 200, [1.0, 128.0, *[1.0] * 28])
def test_equal_to_sums_by_hand_and_a_dear_sample_is_paid_back(budget, durations, costs):
    with pytest.MonkeyPatch.context() as patch:
        clock = Clock()
        patch.setattr(probe, "_clock", clock)
        sampled, shares = run(clock, durations, costs, budget=budget)
    assert sampled == by_hand(durations, costs, budget)
    longest = 0.0
    for step, cost in zip(sampled, costs, strict=False):
        assert shares[step - 2] < budget
        if 0 < cost <= longest:  # no dearer than was guessed
            assert shares[step - 1] < budget
        longest = max(longest, cost)


@pytest.mark.parametrize("every", [1, 3, 7])
@pytest.mark.parametrize("cost", [0.0, 50.0])
def test_each_nth_step_exactly_whatever_it_costs(clock, every, cost):
    sampled, shares = run(clock, [1.0] * 30, [cost] * 30, every=every)
    assert sampled == list(range(every, 31, every))
    spent = cost * len(sampled)
    assert shares[-1] == pytest.approx(spent / (29 + spent))


@pytest.mark.parametrize(("duration", "budget"), [(1.0, 0.0), (0.0, 0.03), (0.0, 1.0)])
def test_without_a_budget_or_a_run_time_nothing_is_sampled(clock, duration, budget):
    assert run(clock, [duration] * 300, [], budget=budget) == ([], [0.0] * 300)


def test_the_real_clock_goes_on():
    watched = FlowProbe(LAYER, every=2)
    samples = [watched.step(lambda: LAYER(X_BTD)[0].sum()) for _ in range(4)]
    seconds = [sample.seconds for sample in samples if sample]
    assert len(seconds) == watched.samples == 2 and min(seconds) > 0
    assert 0 < watched.share < 1


class Model(nn.Module):
    """Layers, dropout, running statistics and a head."""

    def __init__(self, kind, **options):
        super().__init__()
        self.rnn = kind(3, 4, 2, dropout=0.4, batch_first=True, **options)
        self.norm = nn.BatchNorm1d(4)
        self.head = nn.Linear(4, 1)

    def forward(self, x_BTD):
        return self.head(nn.functional.dropout(self.norm(self.rnn(x_BTD)[0][:, -1]), 0.3, self.training))


def test_a_sample_is_the_growth_of_the_adjoints():
    model = nn.LSTM(3, 4, 2, bidirectional=True, batch_first=True)
    x_BTD = torch.randn(5, 9, 3)

    def loss():
        return model(x_BTD)[0].square().mean()

    sample = FlowProbe(model, every=1).step(loss)
    expected = {
        name: growth(found.log_norm_BT, found.mask_BT, reverse=name.endswith("reverse"))
        for name, found in adjoints(model, loss).items()
    }
    assert sample.growth == expected and set(expected) == {"l0", "l0_reverse", "l1", "l1_reverse"}


def test_a_rate_that_is_known():
    layer = nn.RNN(1, 3, nonlinearity="relu", bias=False, batch_first=True).double()
    with torch.no_grad():
        layer.weight_ih_l0.fill_(1.0)
        layer.weight_hh_l0.copy_(0.5 * torch.eye(3))
    x_BTD = torch.rand(4, 30, 1, dtype=F64)
    found = FlowProbe(layer, every=1).step(lambda: layer(x_BTD)[0][:, -1].sum()).growth["l0"]
    assert found.rate == pytest.approx(0.5, rel=1e-12) and found.memory_length == 7
    assert found.log_factor == pytest.approx(29 * math.log(0.5), rel=1e-12)


def surroundings(model, optimizer):
    state = copy.deepcopy((model.state_dict(), optimizer.state_dict()))
    modes = [module.training for module in model.modules()]
    grads = [None if p.grad is None else (p.grad.data_ptr(), p.grad.clone()) for p in model.parameters()]
    hooks = [len(module._forward_hooks) for module in model.modules()]
    return state, modes, grads, hooks, torch.get_rng_state(), [id(buffer) for buffer in model.buffers()]


def assert_same(one, other):
    if isinstance(one, torch.Tensor):
        assert torch.equal(one, other)
    elif isinstance(one, dict):
        assert one.keys() == other.keys()
        for key in one:
            assert_same(one[key], other[key])
    elif isinstance(one, list | tuple):
        assert len(one) == len(other)
        for a, b in zip(one, other, strict=True):
            assert_same(a, b)
    else:
        assert one == other


def train(kind, steps=6, **options):
    """Two batches accumulate in each step; the probe looks before the second backward: a graph and .grad wait."""
    torch.manual_seed(3)
    model = Model(kind)
    optimizer = torch.optim.AdamW(model.parameters(), lr=0.05)
    x_BTD, y_B1 = torch.randn(2, 8, 7, 3), torch.randn(2, 8, 1)
    watched = FlowProbe(model, **options) if options else None
    seen = []
    for step in range(steps):
        model.train(step != 3)
        for at in range(2):
            loss = (model(x_BTD[at]) - y_B1[at]).square().mean()
            if at and watched:
                before = surroundings(model, optimizer)
                sample = watched.step(lambda: (model(x_BTD[1, :5]) - y_B1[1, :5]).square().mean())
                assert_same(surroundings(model, optimizer), before)
                seen += [sample.growth["rnn.l1"].windows]
            loss.backward()
        optimizer.step()
        optimizer.zero_grad()
    assert seen == ([5] * steps if watched else [])
    return surroundings(model, optimizer)


@pytest.mark.parametrize("kind", [nn.LSTM, nn.GRU, nn.RNN])
def test_training_is_the_same_bit_for_bit(kind):
    (state, modes, _, _, random, _), (other, others, _, _, random_too, _) = train(kind), train(kind, every=1)
    assert_same((state, modes, random), (other, others, random_too))


@pytest.mark.parametrize("bad", [math.nan, math.inf])
@pytest.mark.parametrize("where", ["loss", "weight", "input"])
@pytest.mark.parametrize("kind", [nn.LSTM, nn.GRU, nn.RNN])
def test_what_is_not_finite_is_told_and_ends_nothing(kind, where, bad):
    model, x_BTD = Model(kind).eval(), torch.randn(4, 6, 3)
    watched = FlowProbe(model, every=1)

    def loss(size=1.0):
        return size * model(x_BTD).square().sum()

    if where == "weight":
        with torch.no_grad():
            model.rnn.weight_hh_l1[0, 0] = bad
    if where == "input":
        x_BTD[1, 2, 0] = math.nan
    sample = watched.step(lambda: loss(bad if where == "loss" else 1.0))
    assert set(sample.growth) == {"rnn.l0", "rnn.l1"}
    assert math.isnan(sample.growth["rnn.l0"].rate) and math.isnan(sample.growth["rnn.l0"].log_factor)
    if where == "loss":
        assert math.isfinite(watched.step(loss).growth["rnn.l0"].rate)


def test_an_output_of_zeros_lets_no_gradient_in():
    model = Model(nn.GRU)
    nn.init.zeros_(model.head.weight)
    found = FlowProbe(model, every=1).step(lambda: model(torch.randn(4, 6, 3)).square().mean()).growth["rnn.l0"]
    assert found.windows == 0 and math.isnan(found.rate) and found.per_lag.mean == ()
    assert found.per_step.zeros == (1.0,) * 6


def test_a_device_without_room_for_a_sample_ends_nothing():
    model = Model(nn.LSTM)
    watched, optimizer = FlowProbe(model, every=1), torch.optim.SGD(model.parameters(), lr=0.1)

    def full():
        model.eval()
        model(torch.randn(4, 6, 3))
        raise torch.OutOfMemoryError("no room")

    before = surroundings(model, optimizer)
    assert watched.step(full).growth == {}
    assert_same(surroundings(model, optimizer), before)
    assert watched.step(lambda: model(torch.randn(4, 6, 3)).sum()).step == 2


@pytest.mark.parametrize(
    ("call", "count"),
    [
        (lambda: FlowProbe(nn.Linear(2, 2)), 1),
        (lambda: FlowProbe(LAYER, every=0, budget=-0.1), 2),
        (lambda: FlowProbe(LAYER, every=2.0), 1),
        (lambda: FlowProbe(LAYER, every=True), 1),
        (lambda: FlowProbe(LAYER, budget=3), 1),
        (lambda: FlowProbe(LAYER, budget=math.nan), 1),
        (lambda: FlowProbe(LAYER, every=1).step(lambda: LAYER(X_BTD)[0].sum().item()), 1),
        (lambda: FlowProbe(LAYER, every=1).step(lambda: torch.ones(2).sum()), 2),
    ],
)
def test_refused(call, count):
    with pytest.raises(OptionError) as caught:
        call()
    assert len(caught.value.problems) == count and all(problem.fix for problem in caught.value.problems)


def test_a_sample_cannot_be_changed():
    with pytest.raises(AttributeError):
        FlowProbe(LAYER, every=1).step(lambda: LAYER(X_BTD)[0].sum()).step = 2
