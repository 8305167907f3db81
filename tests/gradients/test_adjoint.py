"""Clipping adjoints: against the layers themselves, against a hand-written BPTT, and what the rule promises."""

from __future__ import annotations

import copy
import io
import math
import threading

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from tests.reference import adjoint as twin
from torch import Tensor, nn
from torch.nn.utils import parametrizations
from torch.nn.utils.rnn import pack_sequence

from holdfast.errors import OptionError
from holdfast.gradients.adjoint import ClipAdjoint
from holdfast.gradients.rules import ClipNorm, ClipValue
from holdfast.networks.cells import GRU, LSTM, RNN

HUGE = [ClipNorm(1e300), ClipValue(1e300)]
OURS = ("rnn-tanh", "rnn-relu", "rnn-sigmoid", "rnn-linear", "gru", "lstm")
STOCK = ("rnn-tanh", "rnn-relu", "gru", "lstm")
# B, T, D, N, L: several layers, one step, one window, one of everything, wider than long
SHAPES = [(3, 6, 2, 4, 2), (2, 1, 3, 5, 3), (1, 7, 4, 3, 1), (1, 1, 1, 1, 1), (2, 12, 3, 9, 2)]
# maker, name, options
OWN_LAYERS = [("holdfast", name, {"bias": bias}) for name in OURS for bias in (True, False)]
STOCK_LAYERS = [
    ("torch", name, {"bias": bias, "batch_first": first, "bidirectional": both})
    for name in STOCK
    for bias, first, both in [(True, False, False), (False, True, False), (True, True, True), (False, False, True)]
]
LAYERS = OWN_LAYERS + STOCK_LAYERS

every_layer = pytest.mark.parametrize(
    "spec", LAYERS, ids=lambda s: "-".join([s[0], s[1], *[k for k in s[2] if s[2][k]]])
)
every_shape = pytest.mark.parametrize("shape", SHAPES, ids=str)


@pytest.fixture(autouse=True)
def seed():
    torch.manual_seed(0)


def build(spec, D: int, N: int, L: int = 1) -> nn.Module:
    """A float64 layer with weights that make adjoints of many sizes."""
    maker, name, options = spec
    if name.startswith("rnn-"):
        options = {**options, "nonlinearity": name.removeprefix("rnn-")}
        kind = RNN if maker == "holdfast" else nn.RNN
    else:
        kind = {"holdfast": {"gru": GRU, "lstm": LSTM}, "torch": {"gru": nn.GRU, "lstm": nn.LSTM}}[maker][name]
    layer = kind(D, N, L, **options).double()
    with torch.no_grad():
        for parameter in layer.parameters():
            parameter.add_(0.3 * torch.randn_like(parameter))
    return layer


def parts(state) -> tuple[Tensor, ...]:
    return state if isinstance(state, tuple) else (state,)


def run(module, x, state, wanted=()):
    """Gradients of a loss that every output enters with its own weight; also those weights."""
    h, final = module(x, state)
    results = (h, *parts(final))
    towards = [torch.linspace(-1 - k, 2, r.numel(), dtype=r.dtype).reshape(r.shape) for k, r in enumerate(results)]
    loss = sum((t * r).sum() for t, r in zip(towards, results, strict=True))
    return torch.autograd.grad(loss, [*wanted, *module.parameters()]), towards, results


def inputs(spec, shape):
    B, T, D, N, L = shape
    layers = L * (2 if spec[2].get("bidirectional") else 1)
    first = spec[0] == "holdfast" or spec[2]["batch_first"]
    x = torch.randn(*((B, T) if first else (T, B)), D, dtype=torch.float64, requires_grad=True)
    state = tuple(torch.randn(layers, B, N, dtype=torch.float64, requires_grad=True) for _ in range(2))
    return x, state if spec[1] == "lstm" else state[0]


def close(actual: Tensor, expected: Tensor, rtol: float = 1e-12) -> None:
    """Relative to the largest entry: entries that cancel to nearly nothing have no digits of their own."""
    assert actual.shape == expected.shape
    assert (actual - expected).abs().max() <= rtol * (expected.abs().max() + 1e-300)


def twin_gradients(spec, layer, x, state, towards, clip):
    """The hand-written gradients, in the order of `run`, and the adjoints."""
    maker, name, options = spec
    first = maker == "holdfast" or options["batch_first"]
    zero = torch.zeros(layer.weight_hh_l0.shape[0], dtype=torch.float64)
    ends = ("", "_reverse") if options.get("bidirectional") else ("",)
    keys = ("weight_ih", "weight_hh", "bias_ih", "bias_hh")
    layers = [
        [tuple(getattr(layer, f"{key}_l{k}{end}", zero).detach() for key in keys) for end in ends]
        for k in range(layer.num_layers)
    ]
    x_BTD, g_BTN = (x.detach(), towards[0]) if first else (x.detach().transpose(0, 1), towards[0].transpose(0, 1))
    starts = tuple(part.detach() for part in parts(state))
    weights, dx_BTD, dstarts, adjoints = twin.gradients(name, layers, x_BTD, starts, g_BTN, towards[1:], clip)
    if not options["bias"]:
        weights = [grad for at, grad in enumerate(weights) if at % 4 < 2]
    return [dx_BTD if first else dx_BTD.transpose(0, 1), *dstarts, *weights], adjoints


# With a bound that nothing passes: the layer itself


@every_layer
@every_shape
@pytest.mark.parametrize("given_state", [True, False], ids=["state", "no state"])
def test_within_the_bound_every_bit_is_the_layers_own(spec, shape, given_state):
    layer = build(spec, *shape[2:])
    x, state = inputs(spec, shape)
    state = state if given_state else None
    wanted = [x, *(parts(state) if given_state else ())]
    expected, _, results = run(layer, x, state, wanted)
    for rule in HUGE:
        wrapped = ClipAdjoint(layer, rule)
        actual, _, wrapped_results = run(wrapped, x, state, wanted)
        assert all(torch.equal(a, e) for a, e in zip(wrapped_results, results, strict=True))
        assert all(torch.equal(a, e) for a, e in zip(actual, expected, strict=True))
        assert wrapped.last.clip_fraction == 0
        assert wrapped.last.cosine == pytest.approx(1, abs=1e-12) or wrapped.last.exact_norm == 0  # a dead ReLU


@every_layer
@every_shape
def test_the_steps_that_are_clipped_are_the_layers_own(spec, shape):
    """One window is clipped, and has no part in the loss of the others: theirs come from the steps, and agree."""
    layer = build(spec, *shape[2:])
    x, state = inputs(spec, (shape[0] + 1, *shape[1:]))
    dim = 0 if spec[0] == "holdfast" or spec[2]["batch_first"] else 1

    def gradients(module):
        h, _ = module(x, state)
        scale = torch.ones(h.shape[dim], dtype=torch.float64)
        scale[-1] = 1e9
        loss = (h.transpose(0, dim) * scale[:, None, None]).sum()
        dx, *dstate = torch.autograd.grad(loss, [x, *parts(state)])
        return [grad[:-1] for grad in (dx.transpose(0, dim), *(part.transpose(0, 1) for part in dstate))]

    wrapped = ClipAdjoint(layer, ClipNorm(1e8))
    for actual, expected in zip(gradients(wrapped), gradients(layer), strict=True):
        close(actual, expected)
    assert wrapped.last.clip_fraction > 0


# With a bound that binds: a backpropagation written by hand


TWINS = [
    (ClipNorm(0.5), twin.clip_norm(0.5)),
    (ClipNorm(2.0, 1.0), twin.clip_norm(2.0, 1.0)),
    (ClipNorm(0.3, math.inf), twin.clip_norm(0.3, math.inf)),
    (ClipValue(0.25), twin.clip_value(0.25)),
    (ClipNorm(1e-30), twin.clip_norm(1e-30)),
]


@every_layer
@every_shape
def test_equals_a_hand_written_backpropagation(spec, shape):
    """Each layer meets each shape and each rule once, and each shape meets each rule in some layer."""
    rule, clip = TWINS[(LAYERS.index(spec) + SHAPES.index(shape)) % len(TWINS)]
    layer = build(spec, *shape[2:])
    x, state = inputs(spec, shape)
    wrapped = ClipAdjoint(layer, rule)
    actual, towards, _ = run(wrapped, x, state, [x, *parts(state)])
    expected, _ = twin_gradients(spec, layer, x, state, towards, clip)
    for a, e in zip(actual, expected, strict=True):
        close(a, e)
    assert wrapped.last.clip_fraction > 0


@every_layer
def test_the_hand_written_one_is_exact_without_a_clip(spec):
    shape = SHAPES[0]
    layer = build(spec, *shape[2:])
    x, state = inputs(spec, shape)
    exact, towards, _ = run(layer, x, state, [x, *parts(state)])
    expected, _ = twin_gradients(spec, layer, x, state, towards, lambda a_N: a_N)
    for a, e in zip(exact, expected, strict=True):
        close(a, e)


@every_layer
@pytest.mark.parametrize("max_norm", [0.5, 4.0])
def test_clip_fractions_count_the_adjoints_of_each_layer(spec, max_norm):
    B, T, D, N, L = shape = SHAPES[0]
    layer = build(spec, D, N, L)
    x, state = inputs(spec, shape)
    wrapped = ClipAdjoint(layer, ClipNorm(max_norm))
    _, towards, _ = run(wrapped, x, state)
    seen = []

    def clip(a_N):
        seen.append(a_N.norm().item() > max_norm)
        return twin.clip_norm(max_norm)(a_N)

    twin_gradients(spec, layer, x, state, towards, clip)
    both = 2 if spec[2].get("bidirectional") else 1
    assert len(seen) == B * T * L * both
    assert wrapped.last.clip_fraction == sum(seen) / len(seen)
    names = [f"l{k}{end}" for k in range(L) for end in ("", "_reverse")[:both]]
    assert sorted(wrapped.last.layer_fractions) == names
    # the twin goes window by window and, within each, from the last layer to the first
    rows = torch.tensor(seen).reshape(B, L, both, T).flip(1).double()
    counted = rows.mean((0, 3)).flatten().tolist()
    assert [wrapped.last.layer_fractions[name] for name in names] == pytest.approx(counted)


# What the rule promises: with U = I and phi(a) = a, dL/dx_t is the adjoint itself


def bare(W: Tensor, T: int = 1, B: int = 1):
    """A linear layer h_t = x_t + W h_{t-1}, and inputs."""
    N = len(W)
    layer = RNN(N, N, nonlinearity="linear", bias=False).to(W.dtype)
    with torch.no_grad():
        layer.weight_ih_l0.copy_(torch.eye(N))
        layer.weight_hh_l0.copy_(W)
    return layer, torch.randn(B, T, N, dtype=W.dtype).requires_grad_()


sizes = st.floats(-30, 30).map(lambda exponent: 10**exponent)


@given(
    sizes, st.floats(-25, 25).map(lambda e: 10**e), st.sampled_from([0.5, 1.0, 2.0, 3.0, math.inf]), st.integers(0, 99)
)
@settings(deadline=None)
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64], ids=str)
def test_every_adjoint_is_within_the_bound(dtype, size, bound, norm_type, seed):
    torch.manual_seed(seed)
    layer, x = bare(torch.randn(3, 3, dtype=dtype), T=5, B=2)
    towards = size * torch.randn(2, 5, 3, dtype=dtype)
    for rule in (ClipNorm(bound, norm_type), ClipValue(bound)):
        wrapped = ClipAdjoint(layer, rule)
        (clipped,) = torch.autograd.grad((wrapped(x)[0] * towards).sum(), x)
        p = norm_type if isinstance(rule, ClipNorm) else math.inf
        assert torch.linalg.vector_norm(clipped.double(), p, dim=-1).max() <= bound * (1 + 1e-6)
        assert 0 <= wrapped.last.clip_fraction <= 1
        # the last step has one path only, so what arrives there is known
        last = clipped[:, -1], towards[:, -1]
        norms = torch.linalg.vector_norm(last[1].double(), p, dim=-1)
        if wrapped.last.clip_fraction and isinstance(rule, ClipNorm):
            assert torch.allclose(last[0].double(), last[1].double() * (bound / norms).clamp(max=1)[:, None], 1e-6, 0)
        inside = norms <= bound
        assert torch.equal(last[0][inside], last[1][inside])


@pytest.mark.parametrize("rule", [ClipNorm(1.0), ClipValue(1.0)], ids=str)
def test_windows_are_clipped_each_by_itself(rule):
    layer, x = bare(3 * torch.eye(2, dtype=torch.float64), T=4, B=3)
    towards = torch.randn(3, 4, 2, dtype=torch.float64) * torch.tensor([1e-6, 1.0, 1e6])[:, None, None]
    together = torch.autograd.grad((ClipAdjoint(layer, rule)(x)[0] * towards).sum(), x)[0]
    for b in range(3):
        alone = torch.autograd.grad((ClipAdjoint(layer, rule)(x[b : b + 1])[0] * towards[b]).sum(), x)[0]
        close(together[b], alone[b])
    assert torch.equal(together[0], torch.autograd.grad((layer(x)[0] * towards).sum(), x)[0][0])


def test_an_explosion_is_bounded_and_the_direction_is_lost():
    """Adjoints 27, 9, 3, 1 from the last output alone become 1, 1, 1, 1."""
    layer, _ = bare(torch.tensor([[3.0]]))
    x = torch.tensor([-1.0, 1, 1, 1]).reshape(1, 4, 1).requires_grad_()
    exact = torch.autograd.grad(layer(x)[0][0, -1, 0], [x, layer.weight_ih_l0])
    assert exact[0].flatten().tolist() == [27, 9, 3, 1] and exact[1].item() == -14
    wrapped = ClipAdjoint(layer, ClipNorm(1.0))
    clipped = torch.autograd.grad(wrapped(x)[0][0, -1, 0], [x, layer.weight_ih_l0])
    assert clipped[0].flatten().tolist() == [1, 1, 1, 1] and clipped[1].item() == 2
    # h before each step is 0, -1, -2, -5, so dL/dW goes from -9 - 6 - 5 to -1 - 2 - 5
    assert wrapped.last.clip_fraction == 0.75
    assert wrapped.last.flipped == 0.5
    assert wrapped.last.exact_norm == pytest.approx(math.hypot(14, 20))
    assert wrapped.last.clipped_norm == pytest.approx(math.hypot(2, 8))
    assert wrapped.last.cosine == pytest.approx((14 * -2 + 20 * 8) / math.hypot(14, 20) / math.hypot(2, 8))


@pytest.mark.parametrize("rule", [ClipNorm(1.0), ClipValue(1.0)], ids=str)
def test_an_adjoint_beyond_float32_never_arises(rule):
    """3^100 is; the exact gradient is lost, the clipped one is not, and the record says so."""
    layer, x = bare(3 * torch.eye(2), T=100)
    x = (1e-30 * x).detach().requires_grad_()  # keeps the states themselves in range
    wrapped = ClipAdjoint(layer, rule)
    wrapped(x)[0][:, -1].sum().backward()
    assert x.grad.abs().max() <= 1
    assert layer.weight_ih_l0.grad.isfinite().all()
    assert not math.isfinite(wrapped.last.exact_norm) and math.isnan(wrapped.last.cosine)
    assert math.isfinite(wrapped.last.clipped_norm) and wrapped.last.clip_fraction > 0.9
    assert math.isnan(wrapped.summary().cosine_mean) and wrapped.summary().distorted == 1


@pytest.mark.parametrize("bad", [math.nan, math.inf])
@pytest.mark.parametrize("rule", [ClipNorm(1.0), ClipValue(1.0)], ids=str)
def test_what_is_not_finite_stays_so_and_is_not_counted(rule, bad):
    layer, x = bare(0.5 * torch.eye(2), T=3, B=2)
    wrapped = ClipAdjoint(layer, rule)
    towards = torch.full((2, 3, 2), 5.0)
    towards[0, -1, 0] = bad
    (wrapped(x)[0] * towards).sum().backward()
    assert not x.grad[0, :, 0].isfinite().any() and x.grad[1].isfinite().all()
    assert not layer.weight_hh_l0.grad.isfinite().all()
    assert wrapped.last.clip_fraction == 1.0  # of the other window
    assert math.isnan(wrapped.last.cosine)
    (wrapped(x)[0] * bad).sum().backward()
    assert math.isnan(wrapped.last.clip_fraction)
    assert wrapped.summary().clip_fraction == 1.0 and wrapped.summary().backwards == 2
    wrapped(x)[0].sum().backward()
    assert wrapped.summary().cosine_mean == wrapped.summary().cosine_min == wrapped.last.cosine
    assert wrapped.summary().flipped == wrapped.last.flipped


@pytest.mark.parametrize("size", [1e-250, 1e250])
def test_all_of_float64_can_be_clipped(size):
    layer, x = bare(torch.zeros(2, 2, dtype=torch.float64), T=3)
    wrapped = ClipAdjoint(layer, ClipNorm(5 * size / 10))
    (wrapped(x)[0] * torch.tensor([3 * size, 4 * size], dtype=torch.float64)).sum().backward()
    close(x.grad, torch.tensor([0.3 * size, 0.4 * size], dtype=torch.float64).expand(1, 3, 2))
    assert wrapped.last.clip_fraction == 1 and wrapped.last.cosine == pytest.approx(1)


def test_zero_and_equal_adjoints():
    layer, x = bare(torch.zeros(2, 2), T=3)
    wrapped = ClipAdjoint(layer, ClipNorm(5.0))
    (wrapped(x)[0] * 0).sum().backward()
    assert wrapped.last.clip_fraction == 0 and math.isnan(wrapped.last.cosine) and wrapped.last.exact_norm == 0
    (wrapped(x)[0] * torch.tensor([3.0, 4.0])).sum().backward()  # at the bound
    assert wrapped.last.clip_fraction == 0 and wrapped.last.cosine == pytest.approx(1)
    (wrapped(x)[0] * torch.tensor([6.0, 8.0])).sum().backward()
    assert wrapped.last.clip_fraction == 1 and wrapped.last.cosine == pytest.approx(1)  # all by the same factor


# Records


@every_layer
def test_the_record_equals_two_separate_runs(spec):
    shape = SHAPES[0]
    layer = build(spec, *shape[2:])
    x, state = inputs(spec, shape)
    wrapped = ClipAdjoint(layer, ClipNorm(0.5))
    exact, clipped = (torch.cat([g.flatten() for g in run(m, x, state)[0]]) for m in (layer, wrapped))
    assert wrapped.last.cosine == pytest.approx(torch.cosine_similarity(exact, clipped, dim=0).item(), rel=1e-10)
    assert wrapped.last.cosine < 1
    assert wrapped.last.exact_norm == pytest.approx(exact.norm().item(), rel=1e-10)
    assert wrapped.last.clipped_norm == pytest.approx(clipped.norm().item(), rel=1e-10)
    assert wrapped.last.flipped == ((exact * clipped) < 0).double().mean().item()


def test_the_summary_adds_up():
    layer, x = bare(3 * torch.eye(2), T=4)
    wrapped = ClipAdjoint(layer, ClipNorm(1.0))
    assert math.isnan(wrapped.summary().clip_fraction) and math.isnan(wrapped.summary().cosine_min)
    records = []
    for size in (1e-9, 1.0, 1e9):
        (size * wrapped(x)[0].prod(-1)).sum().backward()
        records.append(wrapped.last)
    summary = wrapped.summary()
    assert (summary.backwards, summary.distorted) == (3, 2)
    assert summary.clip_fraction == pytest.approx(sum(r.clip_fraction for r in records) / 3)
    assert summary.layer_fractions == {"l0": summary.clip_fraction}
    assert summary.cosine_mean == pytest.approx(sum(r.cosine for r in records) / 3)
    assert summary.cosine_min == min(r.cosine for r in records) < 0.999
    assert summary.flipped == pytest.approx(sum(r.flipped for r in records) / 3)
    assert "changes the direction" in str(summary) and "2 of 3 backward passes" in str(summary)


def trained(module, layer, look):
    optimizer = torch.optim.SGD(layer.parameters(), lr=0.1)
    generator = torch.Generator().manual_seed(1)
    for _ in range(5):
        optimizer.zero_grad()
        x = torch.randn(7, 3, 2, generator=generator)
        (module(x)[0] ** 2).sum().backward()
        if look:
            str(module.summary()), module.last, repr(module), module.state_dict()
        optimizer.step()
    return [p.detach().clone() for p in layer.parameters()]


@pytest.mark.parametrize("kind", [nn.RNN, nn.GRU, nn.LSTM])
def test_training_within_the_bound_is_the_bare_layers_bit_for_bit_and_looking_changes_nothing(kind):
    start = kind(2, 4)
    layers = [copy.deepcopy(start) for _ in range(3)]
    bare_weights = trained(layers[0], layers[0], look=False)
    for rule in HUGE:
        layer = copy.deepcopy(start)
        huge = trained(ClipAdjoint(layer, rule), layer, look=True)
        assert all(torch.equal(a, b) for a, b in zip(bare_weights, huge, strict=True))
    tight = trained(ClipAdjoint(layers[1], ClipNorm(0.1)), layers[1], look=False)
    looked_at = trained(ClipAdjoint(layers[2], ClipNorm(0.1)), layers[2], look=True)
    assert all(torch.equal(a, b) for a, b in zip(tight, looked_at, strict=True))
    assert not all(torch.equal(a, b) for a, b in zip(tight, bare_weights, strict=True))


# In the company of the rest of PyTorch


def test_evaluation_and_no_grad_are_the_bare_layer():
    wrapped = ClipAdjoint(nn.LSTM(2, 3), ClipNorm(1e-3))
    x = torch.randn(4, 2, 2)
    with torch.no_grad():
        assert not wrapped(x)[0].requires_grad
    exact = torch.autograd.grad(wrapped.layer(x)[0].sum(), wrapped.layer.weight_hh_l0)[0]
    wrapped.eval()
    assert torch.equal(torch.autograd.grad(wrapped(x)[0].sum(), wrapped.layer.weight_hh_l0)[0], exact)
    assert wrapped.last is None and wrapped.summary().backwards == 0


def test_holds_the_layer_and_nothing_else():
    layer = nn.GRU(2, 3)
    wrapped = ClipAdjoint(layer, ClipValue(1.0))
    assert wrapped.state_dict().keys() == {f"layer.{name}" for name in layer.state_dict()}
    assert [id(p) for p in wrapped.parameters()] == [id(p) for p in layer.parameters()]
    assert "rule=ClipValue(max_value=1.0)" in repr(wrapped)
    h, _ = wrapped(torch.randn(4, 2, 2))
    h.sum().backward()
    for other in (copy.deepcopy(wrapped), through_file(wrapped)):
        assert other.last == wrapped.last and other.summary() == wrapped.summary()
        assert torch.equal(other(torch.ones(4, 2, 2))[0], wrapped(torch.ones(4, 2, 2))[0])


def through_file(module):
    file = io.BytesIO()
    torch.save(module, file)
    file.seek(0)
    return torch.load(file, weights_only=False)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16], ids=str)
@pytest.mark.parametrize("kind", [RNN, GRU, LSTM])
def test_half_precision_follows_float32(kind, dtype):
    layer = kind(2, 4)
    x = torch.randn(3, 6, 2)
    (ClipAdjoint(layer, ClipNorm(0.5))(x)[0] * 3).sum().backward()
    expected = [p.grad for p in layer.parameters()]
    low = copy.deepcopy(layer).to(dtype)
    low.zero_grad()
    wrapped = ClipAdjoint(low, ClipNorm(0.5))
    (wrapped(x.to(dtype))[0] * 3).sum().backward()
    for p, e in zip(low.parameters(), expected, strict=True):
        assert p.grad.dtype == dtype
        close(p.grad.float(), e, 0.05)


def test_an_adjoint_beyond_float16_never_arises():
    layer, x = bare(3 * torch.eye(2).half(), T=30)
    x = (1e-30 * x).detach().requires_grad_()
    wrapped = ClipAdjoint(layer, ClipNorm(1.0))
    wrapped(x)[0][:, -1].sum().backward()
    assert x.grad.dtype == torch.float16 and torch.linalg.vector_norm(x.grad, dim=-1).max() <= 1.001
    assert wrapped.last.exact_norm == 0.0  # x is 0 in float16, but
    assert wrapped.last.clip_fraction == 1.0


@pytest.mark.usefixtures("no_onednn")
@pytest.mark.parametrize("kind", [RNN, GRU, LSTM, nn.LSTM])
def test_autocast(kind):
    layer = kind(2, 4)
    wrapped = ClipAdjoint(layer, ClipNorm(0.5))
    x = torch.randn(3, 6, 2)

    def gradients(enabled, inside):
        with torch.autocast("cpu", dtype=torch.bfloat16, enabled=enabled):
            h = wrapped(x)[0]
            assert torch.equal(h, layer(x)[0])
            loss = (h.float() * 3).sum()
            if inside:
                return torch.autograd.grad(loss, list(layer.parameters()))
        return torch.autograd.grad(loss, list(layer.parameters()))

    expected, outside, inside = gradients(False, False), gradients(True, False), gradients(True, True)
    for e, o, i in zip(expected, outside, inside, strict=True):
        assert o.dtype == torch.float32
        close(o, e, 0.05)
        assert torch.equal(o, i)  # the steps are repeated in float32 wherever backward is called


def test_accumulates_over_backward_passes_and_over_uses_in_one_graph():
    layer = nn.GRU(2, 3)
    wrapped = ClipAdjoint(layer, ClipNorm(0.1))
    x, y = torch.randn(4, 2, 2), torch.randn(4, 2, 2)

    def grads():
        found = [p.grad.clone() for p in layer.parameters()]
        layer.zero_grad()
        return found

    wrapped(x)[0].sum().backward()
    one = grads()
    wrapped(y)[0].sum().backward()
    other = grads()
    (wrapped(x)[0].sum() + wrapped(y)[0].sum()).backward()
    for together, a, b in zip(grads(), one, other, strict=True):
        close(together, a + b, 1e-6)
    loss = wrapped(x)[0].sum()
    loss.backward(retain_graph=True)
    loss.backward()
    for twice, a in zip(grads(), one, strict=True):
        close(twice, 2 * a, 1e-6)
    assert wrapped.summary().backwards == 6


def test_truncated_backpropagation_hands_the_state_on():
    """The last adjoint of the first half holds what the second half sends back through the state."""
    layer, x = bare(3 * torch.eye(2, dtype=torch.float64), T=6)
    wrapped = ClipAdjoint(layer, ClipNorm(1.0))
    whole = torch.autograd.grad(wrapped(x)[0].sum(), x)[0]
    h, state = wrapped(x[:, :2])
    rest, _ = wrapped(x[:, 2:], state)
    close(torch.autograd.grad(h.sum() + rest.sum(), x)[0], whole)


@pytest.mark.parametrize("frozen", ["weight_ih_l0", "weight_hh_l0", "bias_hh_l1", "l0", "all"])
def test_frozen_weights_get_no_gradient_and_the_others_the_same(frozen):
    layer = nn.LSTM(2, 3, 2)
    wrapped = ClipAdjoint(layer, ClipNorm(0.1))
    x = torch.randn(4, 2, 2, requires_grad=True)
    wrapped(x)[0].sum().backward()
    expected = {name: p.grad.clone() for name, p in layer.named_parameters()}
    dx = x.grad.clone()
    layer.zero_grad()
    x.grad = None
    for name, p in layer.named_parameters():
        p.requires_grad_(not (name.endswith(frozen) or frozen == "all"))
    wrapped(x)[0].sum().backward()
    assert torch.equal(x.grad, dx)
    for name, p in layer.named_parameters():
        assert torch.equal(p.grad, expected[name]) if p.requires_grad else p.grad is None
    assert math.isnan(wrapped.last.cosine) == (frozen == "all")
    h, _ = wrapped(x.detach())
    assert h.requires_grad == (frozen != "all")
    if frozen == "l0":
        h.sum().backward()
        assert list(wrapped.last.layer_fractions) == ["l1"]  # no adjoint goes through layer 0


def test_parametrised_weights():
    layer = parametrizations.orthogonal(nn.GRU(2, 3).double(), "weight_hh_l0")
    wrapped = ClipAdjoint(layer, ClipNorm(0.1))
    x = torch.randn(4, 2, 2, dtype=torch.float64)
    plain = nn.GRU(2, 3).double()
    plain.load_state_dict({name: getattr(layer, name) for name in plain.state_dict()})
    (dW,) = torch.autograd.grad(ClipAdjoint(plain, ClipNorm(0.1))(x)[0].sum(), plain.weight_hh_l0)
    (expected,) = torch.autograd.grad(layer.weight_hh_l0, layer.parametrizations.weight_hh_l0.original, dW)
    wrapped(x)[0].sum().backward()
    close(layer.parametrizations.weight_hh_l0.original.grad, expected)


def test_hooks_of_parameters_and_layer_run_once():
    layer = nn.RNN(2, 3)
    wrapped = ClipAdjoint(layer, ClipNorm(0.1))
    x = torch.randn(4, 2, 2)
    wrapped(x)[0].sum().backward()
    expected = 2 * layer.weight_hh_l0.grad
    layer.zero_grad()
    runs = []
    layer.register_forward_hook(lambda *_: runs.append(1))
    layer.weight_hh_l0.register_hook(lambda grad: 2 * grad)
    wrapped(x)[0].sum().backward()
    assert torch.equal(layer.weight_hh_l0.grad, expected) and len(runs) == 1


def test_outputs_may_be_changed_in_place_and_only_the_final_state_used():
    layer = nn.LSTM(2, 3)
    wrapped = ClipAdjoint(layer, ClipNorm(0.1))
    x = torch.randn(4, 2, 2)
    h, _ = wrapped(x)
    h.relu_().sum().backward()
    layer.zero_grad()
    _, (_, c) = wrapped(x)
    c.sum().backward()
    exact = torch.autograd.grad(layer(x)[1][1].sum(), layer.weight_hh_l0)[0]
    assert layer.weight_hh_l0.grad.isfinite().all()
    assert torch.cosine_similarity(layer.weight_hh_l0.grad.flatten(), exact.flatten(), dim=0) > 0.5


def test_weights_changed_between_forward_and_backward_are_noticed():
    layer = nn.GRU(2, 3)
    h, _ = ClipAdjoint(layer, ClipNorm(0.1))(torch.randn(4, 2, 2))
    with torch.no_grad():
        layer.weight_hh_l0.mul_(2)
    with pytest.raises(RuntimeError, match="modified by an inplace operation"):
        h.sum().backward()


def test_second_derivatives_are_refused():
    layer = nn.GRU(2, 3)
    h, _ = ClipAdjoint(layer, ClipNorm(0.1))(torch.randn(4, 2, 2))
    (grad,) = torch.autograd.grad((h**2).sum(), layer.weight_hh_l0, create_graph=True)
    with pytest.raises(RuntimeError, match="once_differentiable"):
        grad.sum().backward()


def test_threads_each_get_their_own_gradient():
    wrapped = ClipAdjoint(nn.GRU(2, 3), ClipNorm(0.1))
    batches = [torch.randn(4, 2, 2, requires_grad=True) for _ in range(4)]
    found = {}

    def work(k):
        found[k] = torch.autograd.grad(wrapped(batches[k])[0].sum(), batches[k])[0]

    threads = [threading.Thread(target=work, args=(k,)) for k in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    for k, batch in enumerate(batches):
        assert torch.equal(found[k], torch.autograd.grad(wrapped(batch)[0].sum(), batch)[0])


# Refusals


class OwnForward(nn.LSTM):
    def forward(self, x, state=None):
        return super().forward(2 * x, state)


@pytest.mark.parametrize(
    ("layer", "word"),
    [
        (nn.LSTM(2, 4, proj_size=3), "proj_size"),
        (nn.GRU(2, 4, 2, dropout=0.1), "dropout"),
        (LSTM(2, 4, 2, dropout=0.1), "dropout"),
        (nn.Linear(2, 4), "Linear"),
        (nn.LSTMCell(2, 4), "LSTMCell"),
        (nn.Sequential(nn.LSTM(2, 4)), "Sequential"),
        (ClipAdjoint(nn.LSTM(2, 4), ClipNorm(1.0)), "ClipAdjoint"),
        (OwnForward(2, 4), "OwnForward"),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
def test_other_layers_are_refused_by_name(layer, word):
    with pytest.raises(OptionError) as caught:
        ClipAdjoint(layer, ClipNorm(1.0))
    (problem,) = caught.value.problems
    assert word in problem.got and problem.fix


@pytest.mark.parametrize("rule", [None, 1.0, "norm:1.0", ClipNorm, ClipNorm(1.0, per_tensor=True)], ids=repr)
def test_other_rules_are_refused(rule):
    with pytest.raises(OptionError, match="rule of ClipAdjoint"):
        ClipAdjoint(nn.LSTM(2, 4), rule)


def test_both_mistakes_are_told_at_once():
    with pytest.raises(OptionError) as caught:
        ClipAdjoint(nn.Linear(2, 4), 1.0)
    assert len(caught.value.problems) == 2


def test_packed_and_single_windows_are_refused():
    wrapped = ClipAdjoint(nn.LSTM(2, 4), ClipNorm(1.0))
    with pytest.raises(OptionError, match="PackedSequence"):
        wrapped(pack_sequence([torch.randn(3, 2), torch.randn(2, 2)]))
    with pytest.raises(OptionError, match=r"\[3, 2\]"):
        wrapped(torch.randn(3, 2))
