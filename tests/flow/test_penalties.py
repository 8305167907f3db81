"""Penalties: against explicit Jacobians, against closed forms, and what they do to growth rates and exponents."""

from __future__ import annotations

import copy
import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from tests.flow.problems import rnn, tensor, zeros
from tests.flow.test_adjoints import CASES, OURS, STOCK, Model, parts, starts, trained, weighted
from tests.reference import adjoints as unrolled
from tests.reference import penalties as twin
from torch import nn
from torch.nn.utils import parametrizations
from torch.nn.utils.rnn import pack_padded_sequence, pad_packed_sequence

from holdfast.errors import OptionError
from holdfast.flow import adjoints, flossing, growth, layer_inputs, lyapunov_exponents, omega
from holdfast.networks import ForecastNetwork, NetworkConfig, QuantileHead
from holdfast.networks.cells import GRU, LSTM, RNN
from holdfast.windows import Windows

F64 = torch.float64


@pytest.fixture(autouse=True)
def seed():
    torch.manual_seed(0)


def gradients(penalty, parameters):
    parameters = list(parameters)
    found = torch.autograd.grad(penalty, parameters, allow_unused=True)
    return [torch.zeros_like(p) if g is None else g for p, g in zip(parameters, found, strict=True)]


def same(got, want, atol=1e-10):
    torch.testing.assert_close(got, want, rtol=atol, atol=atol)


# ---------------------------------------------------------------- omega against its twin


def check(model):
    """Value and gradient of omega of a model that returns its own loss."""
    got = omega(model, model)
    other = unrolled.unroll(copy.deepcopy(model))
    want = twin.omega(other, other)
    assert want > 1e-6
    same(got, want)
    for mine, its in zip(gradients(got, model.parameters()), gradients(want, other.parameters()), strict=True):
        same(mine, its)


@pytest.mark.parametrize("case", CASES, ids=str)
def test_equal_to_the_twin(case):
    name, options = case
    started = options["L"] > 1
    layer = {**OURS, **STOCK}[name](**options)
    x = torch.randn(*((2, 3) if getattr(layer, "batch_first", True) else (3, 2)), 3, dtype=F64)
    state = starts(layer, 2) if started else None

    def run(m):
        y, final = m.rnn(x, state)
        return weighted(y, *parts(final)) ** 2 if started else weighted(y**2)

    check(Model(run, rnn=layer))


@pytest.mark.parametrize("kind", [nn.RNNCell, nn.GRUCell, nn.LSTMCell])
def test_cells_in_a_loop(kind):
    x = torch.randn(4, 2, 3, dtype=F64)

    def run(m):
        state, loss = None, 0
        for x_BD in x:
            state = m.cell(x_BD, state)
            loss = loss + weighted(*parts(state)) ** 2
        return loss

    check(Model(run, cell=kind(3, 4)))


@pytest.mark.parametrize("kind", [nn.RNN, nn.GRU, nn.LSTM])
def test_an_encoder_and_a_decoder(kind):
    x, z = torch.randn(2, 3, 2, dtype=F64), torch.randn(2, 2, 4, dtype=F64)

    def run(m):
        y, state = m.encoder(x)
        return weighted(m.decoder(z + torch.tanh(m.mix(y))[:, -2:], state)[0])

    layers = {"encoder": kind(2, 4, batch_first=True), "decoder": kind(4, 4, batch_first=True)}
    check(Model(run, mix=nn.Linear(4, 4), **layers))


@pytest.mark.parametrize("both", [False, True])
def test_padding_counts_nowhere(both):
    x, lengths = torch.randn(4, 3, 3, dtype=F64), torch.tensor([1, 4, 3])

    def run(m):
        y, final = m.rnn(pack_padded_sequence(x, lengths, enforce_sorted=False))
        return weighted(pad_packed_sequence(y)[0] ** 2, *final)

    check(Model(run, rnn=nn.LSTM(3, 4, 2, bidirectional=both)))


def test_the_gradient_goes_through_a_parametrisation():
    x = torch.randn(2, 3, 3, dtype=F64)
    model = Model(lambda m: weighted(m.rnn(x)[0]), rnn=RNN(3, 4))
    parametrizations.orthogonal(model.rnn, "weight_hh_l0")
    original = model.rnn.parametrizations.weight_hh_l0.original
    other = Model(lambda m: weighted(m.rnn(x)[0]), rnn=RNN(3, 4))
    for name in ("weight_hh_l0", "weight_ih_l0", "bias_ih_l0", "bias_hh_l0"):
        getattr(other.rnn, name).data.copy_(getattr(model.rnn, name))
    other = unrolled.unroll(other)
    (towards,) = gradients(twin.omega(other, other), [other.rnn.layer.weight_hh_l0])
    (got,) = gradients(omega(model, model), [original])
    (want,) = torch.autograd.grad(model.rnn.weight_hh_l0, original, towards)
    assert want.norm() > 1e-6
    same(got, want)


# ---------------------------------------------------------------- omega in closed form


def last(layer, x_BTD, state=None):
    """A loss that reaches the last step alone."""
    return lambda: weighted(layer(x_BTD, state)[0][:, -1])


def orthogonal(N):
    return torch.linalg.qr(torch.randn(N, N, dtype=F64))[0]


@pytest.mark.parametrize("factor", [1.0, 2.0, 0.25, 1e-3, 1e3])
def test_a_multiple_of_an_orthogonal_matrix(factor):
    """Over 200 steps of a factor 1000 adjoints would leave every number format."""
    layer, x_BTD = rnn("linear", factor * orthogonal(4)), zeros(200, B=3)
    got = omega(layer, last(layer, x_BTD))
    same(got.item(), (factor - 1) ** 2, 1e-9)
    (grad,) = gradients(got, [layer.weight_hh_l0])
    if factor == 1:
        same(grad, torch.zeros_like(grad))
    else:  # along W itself: d(f - 1)^2 / df = 2 (f - 1)
        W = layer.weight_hh_l0
        same((grad * W).sum().item(), 2 * (factor - 1) * factor, 1e-8)


def test_one_tanh_unit_by_hand():
    w, b, h0 = 1.7, 0.3, 0.2
    layer, T = rnn("tanh", tensor([w]), tensor(b)), 6
    got = omega(layer, last(layer, zeros(T), torch.full((1, 1, 1), h0, dtype=F64)))
    h, value, dw, db = h0, 0.0, 0.0, 0.0
    for _ in range(T):
        before, h = h, math.tanh(w * h + b)
        ratio = w * (1 - h * h)
        value += (ratio - 1) ** 2 / T
        slope = -2 * h * (1 - h * h)  # of 1 - h^2, by w h + b
        dw += 2 * (ratio - 1) * ((1 - h * h) + w * slope * before) / T
        db += 2 * (ratio - 1) * w * slope / T
    same(got.item(), value, 1e-12)
    grads = gradients(got, [layer.weight_hh_l0, layer.bias_ih_l0, layer.bias_hh_l0])
    same([grad.item() for grad in grads], [dw, db, db], 1e-12)


def test_a_negative_weight_counts_by_its_size():
    layer = rnn("linear", tensor([-3.0]))
    got = omega(layer, last(layer, zeros(5)))
    assert got.item() == 4 and gradients(got, [layer.weight_hh_l0])[0].item() == -4  # (|w| - 1)^2


def test_an_lstm_that_only_remembers():
    """Of (h, c) only c goes back, by the forget gate; what h gets from c is half of it, where o = 1/2."""
    layer = LSTM(1, 1).double()
    for weight in layer.parameters():
        nn.init.zeros_(weight)
    layer.bias_ih_l0.data[1] = 2.0
    f = 1 / (1 + math.exp(-2.0))
    got = omega(layer, last(layer, zeros(5)))
    # at t = T the adjoint is (1, 0) and f / 2 of it reaches c; before that it is (0, a) and f a does
    same(got.item(), ((f / 2 - 1) ** 2 + 4 * (f - 1) ** 2) / 5, 1e-12)


def test_a_unit_that_is_out_counts_as_one_and_pulls_nothing():
    layer = rnn("relu", tensor([0.5]), tensor(-1.0))
    got = omega(layer, last(layer, zeros(1)))
    assert got.item() == 1 and gradients(got, [layer.weight_hh_l0])[0].item() == 0


def test_steps_that_no_adjoint_reaches_count_nowhere():
    layer = rnn("linear", tensor([3.0]))
    assert omega(layer, lambda: layer(zeros(9))[0][0, 4, 0]).item() == 4
    nothing = omega(layer, lambda: 0 * layer(zeros(9))[0].sum())
    assert nothing.item() == 0
    nothing.backward()
    assert layer.weight_hh_l0.grad.item() == 0


@pytest.mark.parametrize("cell", ["lstm", "gru", "rnn-sigmoid"])
def test_the_forecasting_network_starts_without(cell):
    windows = Windows.from_arrays([1.0, 4.0, 2.0, 7.0] * 6, offsets=[0, 24], lengths=[21])
    batch = windows.gather([0, 0], [18, 20], context_length=12, horizon=3)
    config = NetworkConfig(horizon=3, context_length=12, segment=3, cell=cell, hidden_size=5, dropout=0.3)
    network = ForecastNetwork(config, QuantileHead((80.0,)))
    for scale in (0.0, 1.0):
        with torch.no_grad():
            network.output.weight.normal_().mul_(scale)
        network.zero_grad()
        penalty = omega(network, lambda: network.head.point(network(batch)).square().mean())
        penalty.backward()
        grads = [parameter.grad for parameter in network.recurrent.parameters()]
        assert all(grad is not None and grad.isfinite().all() for grad in grads)
        assert (penalty.item() > 0) == any(grad.any() for grad in grads) == (scale > 0)
        assert network.output.weight.grad is None


def test_what_is_not_a_number_shows():
    layer = rnn("linear", tensor([0.5]))
    weights = tensor(1.0, math.nan)
    assert omega(layer, lambda: layer(zeros(3, B=2))[0][:, -1, 0] @ weights).isnan()


# ---------------------------------------------------------------- properties of omega


@settings(max_examples=25, deadline=None)
@given(st.floats(-300, 300), st.sampled_from([nn.RNN, nn.GRU, nn.LSTM]), st.integers(0, 100))
def test_the_scale_of_the_loss_does_not_matter(decades, kind, seed):
    torch.manual_seed(seed)
    layer, x_TBD = kind(2, 3, 2).double(), torch.randn(4, 2, 2, dtype=F64)
    one = omega(layer, lambda: weighted(layer(x_TBD)[0]))
    other = omega(layer, lambda: -(10**decades) * weighted(layer(x_TBD)[0]))
    same(other, one)
    for a, b in zip(gradients(other, layer.parameters()), gradients(one, layer.parameters()), strict=True):
        same(a, b)


@settings(max_examples=20, deadline=None)
@given(st.permutations(range(4)), st.integers(1, 3), st.sampled_from([RNN, GRU, LSTM]))
def test_neither_the_order_nor_the_number_of_equal_windows_matters(order, times, kind):
    torch.manual_seed(1)
    layer, x_BTD = kind(2, 3).double(), torch.randn(4, 5, 2, dtype=F64)
    one = omega(layer, lambda: layer(x_BTD)[0].square().mean())
    again = x_BTD[list(order)].repeat(times, 1, 1)
    same(omega(layer, lambda: layer(again)[0].square().mean()), one)


@settings(max_examples=20, deadline=None)
@given(st.integers(0, 10**6))
def test_it_is_bounded_by_the_singular_values_of_a_linear_layer(seed):
    W = torch.randn(3, 3, dtype=F64, generator=torch.Generator().manual_seed(seed))
    layer, sizes = rnn("linear", W), torch.linalg.svdvals(W)
    low = 0.0 if sizes[-1] <= 1 <= sizes[0] else ((sizes - 1) ** 2).min()
    got = omega(layer, last(layer, zeros(6))).item()
    assert low - 1e-9 <= got <= ((sizes - 1) ** 2).max() + 1e-9


@pytest.mark.parametrize("penalty", ["omega", "flossing", "layer_inputs"])
def test_nothing_of_a_training_changes(penalty):
    def measure(model, x):
        if penalty == "omega":
            torch.autograd.grad(omega(model, lambda: model(x)), list(model.rnn.parameters()))
        elif penalty == "flossing":
            torch.autograd.grad(flossing(model.rnn, x, 2), list(model.rnn.parameters()))
        else:
            assert torch.equal(layer_inputs(model, lambda: (model.eval(), model(x)))["rnn"], x)

    want, found = trained(lambda model, x: None), trained(measure)
    assert all(torch.equal(found[name], value) for name, value in want.items())


@pytest.mark.usefixtures("no_onednn")
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_lower_precision_and_autocast(dtype):
    exact, x_TBD = nn.LSTM(3, 4).double(), torch.randn(5, 2, 3, dtype=F64)
    layer = copy.deepcopy(exact).to(dtype)
    exact.load_state_dict(layer.state_dict())
    x_TBD = x_TBD.to(dtype).double()

    def both(layer, x_TBD):
        loss = lambda: weighted(layer(x_TBD)[0].double())  # noqa: E731
        return omega(layer, loss), flossing(layer, x_TBD.transpose(0, 1), 2)

    want = both(exact, x_TBD)
    with torch.autocast("cpu", torch.bfloat16, enabled=dtype == torch.float32):
        got = both(layer, x_TBD.to(dtype))
    tolerance = 1e-4 if dtype == torch.float32 else 0.05  # of bfloat16 states; autocast lowers those of the kernel
    for mine, its, atol in zip(got, want, (0.05, tolerance), strict=True):
        assert mine.dtype == torch.float32
        same(mine.double(), its, atol)
        grads = gradients(mine, layer.parameters())
        assert all(grad.dtype == dtype and grad.isfinite().all() for grad in grads) and grads[1].any()


# ---------------------------------------------------------------- flossing

LAYERS = {
    "tanh": lambda: RNN(2, 3),
    "sigmoid": lambda: RNN(2, 3, nonlinearity="sigmoid"),
    "linear stack": lambda: RNN(2, 2, 2, nonlinearity="linear"),
    "relu": lambda: nn.RNN(2, 3, nonlinearity="relu"),
    "GRU": lambda: nn.GRU(2, 3, batch_first=True),
    "GRU stack": lambda: GRU(2, 2, 2, dropout=0.5),
    "LSTM": lambda: LSTM(2, 2),
    "LSTM stack": lambda: nn.LSTM(2, 2, 2, bias=False),
}


def draw(name, B=2, T=7):
    layer = LAYERS[name]().double()
    for weight in layer.parameters():
        nn.init.normal_(weight, std=0.8)
    h = torch.randn(layer.num_layers, B, layer.hidden_size, dtype=F64)
    h0 = (h, torch.randn_like(h)) if "LSTM" in name else h
    return layer, torch.randn(B, T, 2, dtype=F64), h0


@pytest.mark.parametrize("k", [1, 2, "all"])
@pytest.mark.parametrize("name", LAYERS)
def test_equal_to_the_exponents_that_are_measured(name, k):
    layer, x_BTD, h0 = draw(name)
    k = sum(part[:, 0].numel() for part in parts(h0)) if k == "all" else k
    k = 1 if name == "relu" else k  # more would be put out
    measured = copy.deepcopy(layer).eval()
    for options in ({}, {"h0": h0, "warmup": 3}, {"warmup": 0}):
        want = lyapunov_exponents(measured, x_BTD, k, **options).values.square().mean()
        same(flossing(layer, x_BTD, k, **options), want, 1e-9)


@pytest.mark.parametrize("name", [name for name in LAYERS if name != "relu"])
def test_value_and_gradient_equal_the_twin(name):
    layer, x_BTD, h0 = draw(name, T=4)
    states = [part.requires_grad_() for part in parts(h0)]
    places = [f"_l{k}" for k in range(layer.num_layers)]
    weights = [unrolled.weights_of(layer, place) for place in places]
    by_window = [[list(part[:, b]) for part in states] for b in range(2)]
    want = twin.flossing(unrolled.step_of(layer), weights, x_BTD.requires_grad_(), 2, 1, by_window)
    got = flossing(layer, x_BTD, 2, h0, warmup=1)
    same(got, want)
    leaves = [*layer.parameters(), x_BTD, *states]
    for mine, its in zip(gradients(got, leaves), gradients(want, leaves), strict=True):
        same(mine, its, 1e-8)


@pytest.mark.parametrize("name", ["tanh", "GRU", "LSTM stack"])
def test_gradcheck(name):
    layer, x_BTD, _ = draw(name, T=3)
    leaves = (*layer.parameters(), x_BTD.requires_grad_())
    assert torch.autograd.gradcheck(lambda *_: flossing(layer, x_BTD, 2, warmup=1), leaves)


def test_flossing_in_closed_form():
    layer = rnn("linear", 2 * orthogonal(3))
    got = flossing(layer, zeros(8), 3)
    same(got.item(), math.log(2) ** 2, 1e-12)
    (grad,) = gradients(got, [layer.weight_hh_l0])
    same((grad * layer.weight_hh_l0).sum().item(), 2 * math.log(2), 1e-10)  # along W: d (log f)^2 / d log f
    still = rnn("linear", orthogonal(3))
    same(gradients(flossing(still, zeros(8), 3), [still.weight_hh_l0])[0], torch.zeros(3, 3, dtype=F64))


@pytest.mark.parametrize(
    "cell", [nn.RNNCell(2, 3, nonlinearity="relu"), nn.GRUCell(2, 3, bias=False), nn.LSTMCell(2, 3)]
)
def test_a_cell_is_a_layer_of_one_step(cell):
    for weight in cell.parameters():  # no unit of the ReLU is to be out
        weight.data.abs_()
    layer = {nn.RNNCell: nn.RNN, nn.GRUCell: nn.GRU, nn.LSTMCell: nn.LSTM}[type(cell)]
    layer = layer(2, 3, bias=cell.bias, **({"nonlinearity": "relu"} if isinstance(cell, nn.RNNCell) else {}))
    layer.load_state_dict({f"{name}_l0": weight for name, weight in cell.state_dict().items()})
    x_BTD = torch.rand(2, 5, 2)
    one, other = flossing(cell, x_BTD, 1), flossing(layer, x_BTD, 1)
    assert torch.equal(one, other)
    for mine, its in zip(gradients(one, cell.parameters()), gradients(other, layer.parameters()), strict=True):
        assert torch.equal(mine, its) and mine.shape == its.shape


def test_what_is_put_out_and_what_is_not_finite():
    assert flossing(rnn("linear", torch.zeros(2, 2)), zeros(5), 1).item() == math.inf
    assert flossing(rnn("linear", tensor([math.nan])), zeros(5), 1).isnan()
    assert flossing(rnn("linear", tensor([2.0])), zeros(5) + math.inf, 1).isnan()


@pytest.mark.parametrize(
    ("layer", "options", "words"),
    [
        (nn.Linear(2, 2), {}, "Linear"),
        (nn.LSTM(2, 3, bidirectional=True), {}, "bidirectional=True"),
        (nn.GRU(3, 3), {}, "D = 3"),
        (nn.GRU(2, 3), {"k": 4}, "1 to 3"),
        (nn.GRU(2, 3), {"k": 0, "warmup": 4}, r"k\n[\s\S]*warmup\n"),
    ],
)
def test_refusals(layer, options, words):
    with pytest.raises(OptionError, match=words):
        flossing(layer, torch.zeros(1, 4, 2), **{"k": 1, **options})


def test_refusals_of_models_and_losses():
    with pytest.raises(OptionError, match="Linear"):
        omega(nn.Linear(1, 1), lambda: None)
    layer = nn.GRU(1, 1)
    for function in (omega, layer_inputs):
        with pytest.raises(OptionError, match="at least one call of a recurrent layer"):
            function(layer, lambda: torch.zeros((), requires_grad=True))
    with pytest.raises(OptionError, match="packed sequence"):
        layer_inputs(layer, lambda: layer(pack_padded_sequence(torch.zeros(3, 1, 1), torch.tensor([2]))))


def test_inputs_are_those_of_each_call():
    low, high = nn.GRU(2, 3, 2, dropout=0.5), LSTM(3, 4)
    model, x_TBD = nn.ModuleDict({"low": low, "high": high}), torch.randn(5, 2, 2)
    seen = []

    def run():
        model.eval()
        y_TBN, _ = low(x_TBD)
        seen.append(y_TBN.transpose(0, 1).detach())
        high(seen[0])
        high(2 * seen[0])

    found = layer_inputs(model, run)
    assert list(found) == ["low", "high", "high#2"] and low.training
    assert torch.equal(found["low"], x_TBD.transpose(0, 1))
    assert torch.equal(found["high"], seen[0]) and torch.equal(found["high#2"], 2 * seen[0])
    assert not any(x_BTD.requires_grad for x_BTD in found.values())


# ---------------------------------------------------------------- what they are for


def scaled(kind, factor, N=16, **options):
    """An orthogonal start, times a factor."""
    layer = kind(2, N, **options).double()
    with torch.no_grad():
        layer.weight_hh_l0.mul_(factor)
    return layer


def descend(layer, penalty, steps=80, lr=1e-2):
    optimizer = torch.optim.Adam(layer.parameters(), lr=lr)
    for _ in range(steps):
        optimizer.zero_grad()
        penalty().backward()
        optimizer.step()


@pytest.mark.parametrize(
    ("make", "explodes"),
    [
        (lambda: scaled(RNN, 2.5, nonlinearity="relu"), True),
        (lambda: scaled(RNN, 0.4), False),
        (lambda: scaled(GRU, 1.0), False),
        (lambda: scaled(LSTM, 1.0), False),
    ],
    ids=["exploding relu", "vanishing tanh", "gru", "lstm"],
)
def test_less_omega_is_a_growth_rate_nearer_to_one(make, explodes):
    layer, x_BTD = make(), torch.randn(4, 15, 2, dtype=F64)
    loss = last(layer, x_BTD)

    def rate():
        return growth(adjoints(layer, loss)["l0"].log_norm_BT).rate

    before = rate()
    descend(layer, lambda: omega(layer, loss))
    assert before > 1.2 if explodes else before < 0.9
    assert abs(math.log(rate())) < abs(math.log(before)) / 2


@pytest.mark.parametrize("factor", [3.0, 0.4], ids=["chaotic", "contracting"])
def test_flossing_brings_the_leading_exponents_nearer_to_zero(factor):
    layer, x_BTD = scaled(RNN, factor), 0.1 * torch.randn(2, 15, 2, dtype=F64)
    before = lyapunov_exponents(layer, x_BTD, 2).values
    descend(layer, lambda: flossing(layer, x_BTD, 2), steps=60)
    after = lyapunov_exponents(layer, x_BTD, 2).values
    assert (before > 0.1).all() if factor > 1 else (before < -0.5).all()
    assert (after.abs() < before.abs() / 3).all()
