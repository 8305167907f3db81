"""Adjoints through time: against an unrolled twin, against closed forms, and what measuring must leave alone."""

from __future__ import annotations

import copy
import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from tests.reference import adjoints as twin
from torch import nn
from torch.nn.utils import parametrizations
from torch.nn.utils.rnn import pack_padded_sequence, pad_packed_sequence

from holdfast.errors import OptionError
from holdfast.flow.adjoints import adjoints
from holdfast.gradients.adjoint import ClipAdjoint
from holdfast.gradients.rules import ClipNorm
from holdfast.networks import ForecastNetwork, NetworkConfig, QuantileHead
from holdfast.networks.cells import GRU, LSTM, RNN
from holdfast.windows import Windows

F64 = torch.float64


@pytest.fixture(autouse=True)
def seed():
    torch.manual_seed(0)


class Model(nn.Module):
    """Named layers, and a function that makes a loss of them."""

    def __init__(self, run, **layers):
        super().__init__()
        self.run = run
        for name, layer in layers.items():
            self.add_module(name, layer)
        self.double()
        with torch.no_grad():
            for parameter in self.parameters():
                parameter.add_(0.3 * torch.randn_like(parameter))

    def forward(self):
        return self.run(self)


def weighted(*tensors):
    """A sum that every value enters with its own weight."""
    return sum(
        (torch.linspace(-1 - k, 2, t.numel(), dtype=t.dtype).reshape(t.shape) * t).sum() for k, t in enumerate(tensors)
    )


def parts(state):
    return state if isinstance(state, tuple) else (state,)


def check(model, names):
    """`names` tells, for each name of the result, the module, the numbers of its calls and the place."""
    found = adjoints(model, model)
    other = twin.unroll(copy.deepcopy(model))
    want = twin.adjoints(other, other)
    assert set(found) == set(names)
    for name, (module, numbers, place) in names.items():
        windows = len(want[module, numbers[0], place][0])
        for part, (got, logs) in enumerate(
            [(found[name].h_BTN, found[name].log_norm_BT), (found[name].c_BTN, found[name].c_log_norm_BT)]
        ):
            if part == len(want[module, numbers[0], place]):
                assert got is None and logs is None
                continue
            for b in range(windows):
                vectors = [v for number in numbers for v in want[module, number, place][part][b]]
                mask = found[name].mask_BT[b]
                assert mask.sum() == len(vectors)
                expected = torch.stack(vectors)
                torch.testing.assert_close(got[b][mask], expected, rtol=1e-10, atol=1e-13)
                torch.testing.assert_close(logs[b][mask], expected.norm(dim=-1).log(), rtol=1e-10, atol=1e-10)
                assert logs[b][~mask].isnan().all() and (got[b][~mask] == 0).all()


LOSSES = {
    "last output": lambda y, final: weighted(y[:, -1]) if y.dim() == 3 else weighted(y[-1]),
    "all outputs": lambda y, final: weighted(y**2),
    "final state": lambda y, final: weighted(*parts(final)),
    "everything": lambda y, final: weighted(y, *parts(final)).tanh(),
}
OURS = {
    **{
        f"our {phi}": lambda phi=phi, **k: RNN(3, 4, k.pop("L"), nonlinearity=phi, **k)
        for phi in ("tanh", "relu", "sigmoid", "linear")
    },
    "our gru": lambda **k: GRU(3, 4, k.pop("L"), **k),
    "our lstm": lambda **k: LSTM(3, 4, k.pop("L"), **k),
}
STOCK = {
    "tanh": lambda **k: nn.RNN(3, 4, k.pop("L"), **k),
    "relu": lambda **k: nn.RNN(3, 4, k.pop("L"), nonlinearity="relu", **k),
    "gru": lambda **k: nn.GRU(3, 4, k.pop("L"), **k),
    "lstm": lambda **k: nn.LSTM(3, 4, k.pop("L"), **k),
    "projected lstm": lambda **k: nn.LSTM(3, 4, k.pop("L"), proj_size=2, **k),
}
CASES = [(name, {"L": L, "bias": bias}) for name in OURS for L, bias in [(1, True), (2, False)]] + [
    (name, {"L": L, "bias": bias, "bidirectional": both, "batch_first": first})
    for name in STOCK
    for L, bias, both, first in [
        (1, True, False, True),
        (3, False, False, False),
        (2, True, True, True),
        (1, False, True, False),
    ]
]


def starts(layer, B):
    ways = 2 if getattr(layer, "bidirectional", False) else 1
    size = getattr(layer, "proj_size", 0) or layer.hidden_size
    h = torch.randn(layer.num_layers * ways, B, size, dtype=F64)
    return (h, torch.randn(len(h), B, layer.hidden_size, dtype=F64)) if "LSTM" in type(layer).__name__ else h


def places(layer):
    ways = ("", "_reverse") if getattr(layer, "bidirectional", False) else ("",)
    return [f"l{k}{way}" for k in range(layer.num_layers) for way in ways]


@pytest.mark.parametrize("loss", LOSSES)
@pytest.mark.parametrize("case", CASES, ids=str)
def test_equal_to_the_unrolled_twin(case, loss):
    name, options = case
    layer = {**OURS, **STOCK}[name](**options)
    B, T = (3, 5) if loss != "everything" else (1, 1)
    x = torch.randn(*((B, T) if getattr(layer, "batch_first", True) else (T, B)), 3, dtype=F64)
    state = None if loss == "all outputs" else starts(layer, B)
    model = Model(lambda m: LOSSES[loss](*m.rnn(x, state)), rnn=layer)
    check(model, {f"rnn.{place}": ("rnn", [0], place) for place in places(layer)})


@pytest.mark.parametrize("kind", [nn.RNN, nn.GRU, nn.LSTM])
def test_an_encoder_and_a_decoder_and_what_lies_between(kind):
    x, z = torch.randn(3, 6, 2, dtype=F64), torch.randn(3, 4, 4, dtype=F64)

    def run(m):
        y, state = m.encoder(x)
        mixed = torch.tanh(m.mix(y)) * y.mean(0, keepdim=True)  # windows meet here
        other, _ = m.decoder(z + mixed[:, -4:], state)
        return weighted(m.head(other)) + y[0, 2].sum()

    model = Model(
        run,
        encoder=kind(2, 4, 2, batch_first=True),
        mix=nn.Linear(4, 4),
        decoder=kind(4, 4, 2, batch_first=True),
        head=nn.Linear(4, 1),
    )
    check(model, {f"{name}.{place}": (name, [0], place) for name in ("encoder", "decoder") for place in ("l0", "l1")})


def test_the_same_layer_twice_is_two_sequences_unless_the_state_goes_on():
    x, z = torch.randn(4, 2, 3, dtype=F64), torch.randn(5, 2, 3, dtype=F64)
    apart = Model(lambda m: weighted(m.rnn(x)[0][-1] * m.rnn(z)[0][-1]), rnn=nn.LSTM(3, 4))
    check(apart, {"rnn.l0": ("rnn", [0], "l0"), "rnn.l0#2": ("rnn", [1], "l0")})

    def run(m):
        y, state = m.rnn(x)
        return weighted(m.rnn(z + y[-1, :, :3], hx=state)[0])

    check(Model(run, rnn=nn.LSTM(3, 4)), {"rnn.l0": ("rnn", [0, 1], "l0")})
    cut = Model(lambda m: weighted(m.rnn(z, m.rnn(x)[1].detach())[0]), rnn=nn.GRU(3, 4))
    check(cut, {"rnn.l0": ("rnn", [0], "l0"), "rnn.l0#2": ("rnn", [1], "l0")})
    assert adjoints(cut, cut)["rnn.l0"].log_norm_BT.eq(-math.inf).all()


@pytest.mark.parametrize("kind", [nn.RNNCell, nn.GRUCell, nn.LSTMCell])
@pytest.mark.parametrize("bias", [True, False])
def test_cells_in_a_loop(kind, bias):
    x = torch.randn(6, 2, 3, dtype=F64)

    def run(m):
        low = high = None
        loss = 0
        for x_BD in x:
            low = m.low(x_BD, low)
            high = m.high(parts(low)[0], high)
            loss = loss + weighted(parts(high)[0] ** 2)
        return loss

    model = Model(run, low=kind(3, 4, bias=bias), high=kind(4, 2, bias=bias))
    check(model, {f"{name}.l0": (name, list(range(6)), "l0") for name in ("low", "high")})


def test_one_cell_for_two_layers_keeps_two_sequences_apart():
    x = torch.randn(4, 2, 3, dtype=F64)

    def run(m):
        low = high = torch.zeros(2, 3, dtype=F64)
        for x_BD in x:
            low = m.cell(x_BD, low)
            high = m.cell(low, high)
        return weighted(high)

    names = {"cell.l0": ("cell", [0, 2, 4, 6], "l0"), "cell.l0#2": ("cell", [1, 3, 5, 7], "l0")}
    check(Model(run, cell=nn.GRUCell(3, 3)), names)


@pytest.mark.parametrize("name", STOCK)
@pytest.mark.parametrize("both", [False, True])
@pytest.mark.parametrize("ordered", [False, True])
def test_packed_sequences_count_their_own_steps_only(name, both, ordered):
    layer = STOCK[name](L=2, bidirectional=both, bias=True)
    lengths = torch.tensor([5, 4, 1] if ordered else [1, 5, 4])
    x = torch.randn(5, 3, 3, dtype=F64)
    state = starts(layer, 3)

    def run(m):
        packed = pack_padded_sequence(x, lengths, enforce_sorted=ordered)
        y, final = m.rnn(packed, state)
        return weighted(pad_packed_sequence(y)[0] ** 2, *parts(final))

    check(Model(run, rnn=layer), {f"rnn.{place}": ("rnn", [0], place) for place in places(layer)})


def test_a_single_window_without_a_batch():
    x, state = torch.randn(5, 3, dtype=F64), torch.randn(2, 4, dtype=F64)
    model = Model(lambda m: weighted(*m.rnn(x, state)), rnn=nn.GRU(3, 4, 2, batch_first=True))
    check(model, {"rnn.l0": ("rnn", [0], "l0"), "rnn.l1": ("rnn", [0], "l1")})
    cell = nn.LSTMCell(3, 4).double()
    assert adjoints(cell, lambda: cell(x[0])[1].sum())["l0"].c_BTN.tolist() == [[[1.0] * 4]]


def test_outputs_that_the_model_writes_into():
    x = torch.randn(5, 2, 3, dtype=F64)

    def run(m):
        y, _ = m.rnn(x)
        y += 1
        y[0] = 0
        return weighted(y.relu_())

    check(Model(run, rnn=nn.GRU(3, 4)), {"rnn.l0": ("rnn", [0], "l0")})


def fill(layer, **weights):
    """A float64 layer with given weights, zero elsewhere."""
    layer = layer.double()
    with torch.no_grad():
        for parameter in layer.parameters():
            parameter.zero_()
        for name, weight in weights.items():
            getattr(layer, name).copy_(torch.as_tensor(weight, dtype=F64))
    return layer


def lagged(layer, g_N, T=20, state=None, part="h"):
    """Adjoints [K, N] by lag of one window of zeros, for the loss g . h_T."""
    x = torch.zeros(1, T, layer.input_size, dtype=F64)
    g_N = torch.as_tensor(g_N, dtype=F64)
    found = adjoints(layer, lambda: layer(x, state)[0][0, -1] @ g_N)["l0"]
    values, logs = {"h": (found.h_BTN, found.log_norm_BT), "c": (found.c_BTN, found.c_log_norm_BT)}[part]
    torch.testing.assert_close(logs[0], values[0].norm(dim=-1).log(), rtol=1e-9, atol=1e-9)
    return values[0].flip(0)


def powers(matrix_NN, g_N, K=20):
    """(W^T)^k g for k = 0 to K - 1."""
    rows = [torch.as_tensor(g_N, dtype=F64)]
    for _ in range(K - 1):
        rows.append(torch.as_tensor(matrix_NN, dtype=F64).T @ rows[-1])
    return torch.stack(rows)


ROTATION = [[math.cos(0.7), -math.sin(0.7)], [math.sin(0.7), math.cos(0.7)]]


@pytest.mark.parametrize("nonlinearity", ["linear", "tanh"])
@pytest.mark.parametrize(
    "W",
    [
        [[0.5, 0, 0], [0, -1.1, 0], [0, 0, 0]],
        [[0, 3, 0], [0, 0, 5], [0, 0, 0]],
        [[0.5, 10, 0], [0, 0.5, 0], [0, 0, 1]],
        [[0, 1, 0], [0, 0, 1], [1, 0, 0]],
    ],
    ids=["diagonal", "nilpotent", "non-normal", "permutation"],
)
def test_at_the_origin_the_adjoint_is_a_power_of_the_matrix(W, nonlinearity):
    layer = fill(RNN(1, 3, nonlinearity=nonlinearity), weight_hh_l0=W)
    g = [1.0, -2.0, 0.25]
    torch.testing.assert_close(lagged(layer, g), powers(W, g), rtol=1e-9, atol=0)


def test_a_diagonal_gives_each_unit_its_own_power():
    d = torch.tensor([0.9, -0.3, 1.2], dtype=F64)
    found = lagged(fill(RNN(1, 3, nonlinearity="linear"), weight_hh_l0=torch.diag(d)), [1, 1, 1], T=50)
    torch.testing.assert_close(found, d ** torch.arange(50.0, dtype=F64)[:, None], rtol=1e-9, atol=0)


def test_a_rotation_keeps_the_norm():
    found = lagged(fill(RNN(1, 2, nonlinearity="linear"), weight_hh_l0=ROTATION), [3, 4], T=300)
    torch.testing.assert_close(found.norm(dim=1), torch.full((300,), 5.0, dtype=F64), rtol=1e-9, atol=0)


def test_a_nilpotent_matrix_forgets_exactly():
    layer = fill(RNN(1, 3, nonlinearity="linear"), weight_hh_l0=[[0, 1, 0], [0, 0, 1], [0, 0, 0]])
    x = torch.zeros(2, 6, 1, dtype=F64)
    logs = adjoints(layer, lambda: layer(x)[0][:, -1, 0].sum())["l0"].log_norm_BT
    assert logs.tolist() == [[-math.inf] * 3 + [0.0] * 3] * 2


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32, torch.bfloat16, torch.float16])
@pytest.mark.parametrize("scale", [1e3, 1e-3, 2.0**14, 2.0**-14])
@pytest.mark.parametrize("nonlinearity", ["linear", "tanh"])
def test_norms_beyond_every_number_format(scale, dtype, nonlinearity):
    layer = fill(RNN(1, 4, nonlinearity=nonlinearity), weight_hh_l0=scale * torch.eye(4)).to(dtype)
    exact = layer.weight_hh_l0[0, 0].item()  # as the number format has it
    x = torch.zeros(3, 201, 1, dtype=dtype)
    found = adjoints(layer, lambda: layer(x)[0][:, -1].sum())["l0"]
    want = torch.arange(200, -1, -1, dtype=F64) * math.log(exact) + math.log(2)
    torch.testing.assert_close(found.log_norm_BT, want.expand(3, -1), rtol=1e-9, atol=1e-6 * (dtype != F64))
    torch.testing.assert_close(found.direction_BTN, torch.full_like(found.direction_BTN, 0.5))
    assert (found.h_BTN[:, 0] == (math.inf if scale > 1 else 0)).all()


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32])
@pytest.mark.parametrize("scale", [1e3, 1e-3])
def test_nor_does_the_graph_between_two_layers_bound_them(scale, dtype):
    low, high = (
        fill(RNN(1, 1, nonlinearity="linear"), weight_ih_l0=[[1.0]], weight_hh_l0=[[s]]).to(dtype)
        for s in (scale / 4, scale)
    )
    model = nn.ModuleDict({"low": low, "high": high})
    x = torch.zeros(2, 300, 1, dtype=dtype)
    found = adjoints(model, lambda: high(torch.tanh(low(x)[0]))[0][:, -1].sum())
    # sum_j s^j (s/4)^(k-j) = s^k (1 - 4^-(k+1)) * 4/3
    k, s = torch.arange(299, -1, -1, dtype=F64), high.weight_hh_l0.item()
    want = k * math.log(s) + torch.log1p(-(4.0 ** -(k + 1))) + math.log(4 / 3)
    torch.testing.assert_close(found["low.l0"].log_norm_BT, want.expand(2, -1), rtol=1e-7, atol=1e-6)
    torch.testing.assert_close(found["high.l0"].log_norm_BT, (k * math.log(s)).expand(2, -1), rtol=1e-7, atol=1e-6)


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32])
def test_nor_a_loop_of_cells_nor_a_decoder(dtype):
    cell = nn.RNNCell(1, 2, bias=False).to(dtype)
    with torch.no_grad():
        cell.weight_hh.copy_(1e-3 * torch.eye(2))

    def looped():
        h = torch.zeros(1, 2, dtype=dtype)
        for _ in range(150):
            h = cell(torch.zeros(1, 1, dtype=dtype), h)
        return h[0, 0]

    k = torch.arange(149, -1, -1, dtype=F64)
    found = adjoints(cell, looped)["l0"].log_norm_BT[0]
    torch.testing.assert_close(found, k * math.log(cell.weight_hh[0, 0].item()), rtol=1e-7, atol=0)

    both = [fill(RNN(1, 1, nonlinearity="linear"), weight_hh_l0=[[1e-3]]).to(dtype) for _ in range(2)]
    x = torch.zeros(1, 100, 1, dtype=dtype)
    names = adjoints(nn.ModuleList(both), lambda: both[1](x, both[0](x)[1])[0][0, -1, 0])
    want = torch.arange(199, -1, -1, dtype=F64) * math.log(both[0].weight_hh_l0.item())
    got = torch.cat([names["0.l0"].log_norm_BT[0], names["1.l0"].log_norm_BT[0]])
    torch.testing.assert_close(got, want, rtol=1e-7, atol=0)


def test_a_saturated_sigmoid_vanishes_at_twice_the_weight_that_should_explode():
    w, h = 8.0, 0.99
    bias = math.log(h / (1 - h)) - w * h
    layer = fill(RNN(1, 1, nonlinearity="sigmoid"), weight_hh_l0=[[w]], bias_ih_l0=[bias])
    found = lagged(layer, [1.0], state=torch.full((1, 1, 1), h, dtype=F64))
    want = (w * h * (1 - h)) ** torch.arange(20, dtype=F64)
    torch.testing.assert_close(found[:, 0], want, rtol=1e-9, atol=0)


def test_a_sigmoid_at_its_steepest_needs_four():
    layer = fill(RNN(1, 1, nonlinearity="sigmoid"), weight_hh_l0=[[4.0]], bias_ih_l0=[-2.0])
    found = lagged(layer, [1.0], T=300, state=torch.full((1, 1, 1), 0.5, dtype=F64))
    torch.testing.assert_close(found, torch.ones(300, 1, dtype=F64), rtol=1e-9, atol=0)


def test_a_dead_unit_passes_nothing():
    layer = fill(RNN(1, 2, nonlinearity="relu"), weight_hh_l0=torch.eye(2), bias_ih_l0=[1.0, -1.0])
    found = lagged(layer, [2.0, 3.0], T=4, state=torch.zeros(1, 1, 2, dtype=F64))
    want = torch.tensor([[2.0, 3], [2, 0], [2, 0], [2, 0]], dtype=F64)
    torch.testing.assert_close(found, want, rtol=1e-15, atol=0)


def test_gru_at_the_origin():
    """There r = z = 1/2 and n = 0, so that dh_t/dh_{t-1} = I/2 + W_n/4."""
    W_n = torch.tensor([[0.3, -2.0], [1.5, 4.0]], dtype=F64)
    layer = fill(GRU(1, 2), weight_hh_l0=torch.cat([torch.randn(4, 2, dtype=F64), W_n]))
    torch.testing.assert_close(lagged(layer, [1, -1]), powers(torch.eye(2) / 2 + W_n / 4, [1, -1]), rtol=1e-9, atol=0)


def test_lstm_at_the_origin():
    """There i = f = o = 1/2 and g = 0: dL/dc_{t-1} = (I/2 + W_g^T/4) dL/dc_t and dL/dh_{t-1} = W_g^T/2 dL/dc_t."""
    W_g = torch.tensor([[0.3, -2.0], [1.5, 4.0]], dtype=F64)
    other = torch.randn(4, 2, dtype=F64)
    layer = fill(LSTM(1, 2), weight_hh_l0=torch.cat([other, W_g, other[:2]]))
    g = torch.tensor([1.0, -1.0], dtype=F64)
    dc = powers(torch.eye(2) / 2 + W_g / 4, g / 2)
    torch.testing.assert_close(lagged(layer, g, part="c"), dc, rtol=1e-9, atol=0)
    torch.testing.assert_close(lagged(layer, g), torch.cat([g[None], dc[:-1] @ W_g / 2]), rtol=1e-9, atol=0)


@pytest.mark.parametrize("bias", [-3.0, 1.0, 30.0])
def test_a_forget_gate_is_the_rate_of_its_cell(bias):
    layer = fill(LSTM(1, 1), bias_ih_l0=[0, bias, 0, 0])
    f = torch.sigmoid(torch.tensor(bias, dtype=F64))
    x = torch.zeros(1, 400, 1, dtype=F64)
    found = adjoints(layer, lambda: layer(x)[0][0, -1, 0])["l0"]
    want = math.log(0.5) + torch.log(f) * torch.arange(399, -1, -1, dtype=F64)
    torch.testing.assert_close(found.c_log_norm_BT[0], want, rtol=1e-9, atol=0)
    assert found.log_norm_BT[0, -1] == 0 and found.log_norm_BT[0, :-1].eq(-math.inf).all()


def test_an_update_gate_is_the_rate_of_a_gru():
    layer = fill(GRU(1, 1), bias_ih_l0=[0, 2.0, 0])
    z = torch.sigmoid(torch.tensor(2.0, dtype=F64))
    torch.testing.assert_close(lagged(layer, [1.0])[:, 0], z ** torch.arange(20, dtype=F64), rtol=1e-9, atol=0)


def test_a_loss_at_every_step_adds_up():
    layer = fill(RNN(1, 1, nonlinearity="linear"), weight_hh_l0=[[0.75]])
    x = torch.zeros(1, 40, 1, dtype=F64)
    found = adjoints(layer, lambda: layer(x)[0].sum())["l0"].h_BTN[0, :, 0].flip(0)
    k = torch.arange(40, dtype=F64)
    torch.testing.assert_close(found, (1 - 0.75 ** (k + 1)) / 0.25, rtol=1e-9, atol=0)


def test_the_reverse_direction_decays_the_other_way():
    one = [[0.5]]
    layer = fill(nn.RNN(1, 1, nonlinearity="relu", bidirectional=True), weight_hh_l0=one, weight_hh_l0_reverse=one)
    x = torch.ones(5, 1, 1, dtype=F64)
    for bias in (layer.bias_ih_l0, layer.bias_ih_l0_reverse):
        torch.nn.init.ones_(bias)
    found = adjoints(layer, lambda: layer(x)[0][2].sum())
    assert found["l0"].h_BTN.flatten().tolist() == [0.25, 0.5, 1, 0, 0] and not found["l0"].reverse
    assert found["l0_reverse"].h_BTN.flatten().tolist() == [0, 0, 1, 0.5, 0.25] and found["l0_reverse"].reverse


@settings(max_examples=30, deadline=None)
@given(st.floats(-300, 300), st.sampled_from([nn.RNN, nn.GRU, nn.LSTM]), st.integers(0, 100))
def test_scaling_the_loss_shifts_the_logs(decades, kind, seed):
    torch.manual_seed(seed)
    layer = kind(2, 3, 2).double()
    x = torch.randn(4, 2, 2, dtype=F64)
    one = adjoints(layer, lambda: weighted(layer(x)[0]))
    other = adjoints(layer, lambda: 10**decades * weighted(layer(x)[0]))
    for name, adjoint in one.items():
        shift = other[name].log_norm_BT - adjoint.log_norm_BT
        torch.testing.assert_close(shift, torch.full_like(shift, decades * math.log(10)), rtol=1e-12, atol=1e-10)
        torch.testing.assert_close(other[name].direction_BTN, adjoint.direction_BTN, rtol=1e-10, atol=1e-10)


def test_a_gradient_that_is_no_number_is_told():
    layer = fill(RNN(1, 1, nonlinearity="linear"), weight_hh_l0=[[0.5]])
    x = torch.zeros(2, 3, 1, dtype=F64)
    weights = torch.tensor([1.0, math.nan], dtype=F64)
    logs = adjoints(layer, lambda: layer(x)[0][:, -1, 0] @ weights)["l0"].log_norm_BT
    assert logs[0].isfinite().all() and logs[1].isnan().all()


def test_parametrised_weights_and_autocast():
    x = torch.randn(5, 2, 3, dtype=F64)
    model = Model(lambda m: weighted(m.rnn(x)[0]), rnn=nn.LSTM(3, 4))
    parametrizations.orthogonal(model.rnn, "weight_hh_l0")
    parametrizations.spectral_norm(model.rnn, "weight_ih_l0")
    plain = Model(lambda m: weighted(m.rnn(x)[0]), rnn=nn.LSTM(3, 4))
    with torch.no_grad(), torch.nn.utils.parametrize.cached():
        model.eval()
        for name, parameter in plain.rnn.named_parameters():
            parameter.copy_(getattr(model.rnn, name))
    torch.testing.assert_close(adjoints(model, model)["rnn.l0"].h_BTN, adjoints(plain, plain)["rnn.l0"].h_BTN)

    layer, x = nn.GRU(3, 4), torch.randn(5, 2, 3)

    def halved():
        with torch.autocast("cpu", torch.bfloat16):
            return weighted(layer(x)[0].float())

    exact = adjoints(layer, lambda: weighted(layer(x)[0]))["l0"]
    torch.testing.assert_close(adjoints(layer, halved)["l0"].log_norm_BT, exact.log_norm_BT, rtol=0, atol=0.05)


@pytest.mark.parametrize("maker", [LSTM, nn.LSTM, GRU, nn.GRU, RNN, nn.RNN])
def test_dropout_between_layers_has_masks_that_are_known(maker):
    """They are drawn layer by layer, after those of the kernel, which cannot be had."""
    layer = maker(4, 4, 3, dropout=0.5).double()
    first = not isinstance(layer, nn.RNNBase)
    x = torch.randn(5, 2, 4, dtype=F64)
    laid_out = x.transpose(0, 1) if first else x

    def loss():
        torch.manual_seed(5)
        return weighted(layer(laid_out)[0].transpose(0, 1) if first else layer(laid_out)[0])

    found = adjoints(layer, loss)
    singles = nn.ModuleList(type(layer)(4, 4).double() for _ in range(3))
    with torch.no_grad():
        for name, parameter in layer.named_parameters():
            getattr(singles[int(name[-1])], f"{name[:-1]}0").copy_(parameter)
    loss()
    masks = [torch.dropout(torch.ones(5, 2, 4, dtype=F64), 0.5, train=True) for _ in range(2)]

    def stacked():
        h = x
        for single, mask in zip(singles, [*masks, 1], strict=True):
            h = single(h.transpose(0, 1) if first else h)[0]
            h = (h.transpose(0, 1) if first else h) * mask
        return weighted(h)

    want = adjoints(singles, stacked)
    for k in range(3):
        torch.testing.assert_close(found[f"l{k}"].h_BTN, want[f"{k}.l0"].h_BTN, rtol=1e-10, atol=1e-13)
    layer.eval()
    assert not torch.allclose(adjoints(layer, loss)["l0"].h_BTN, found["l0"].h_BTN)


@pytest.mark.parametrize("cell", ["lstm", "gru", "rnn-sigmoid"])
def test_the_forecasting_network(cell):
    windows = Windows.from_arrays([1.0, 4.0, 2.0, 7.0] * 6, offsets=[0, 24], lengths=[21])
    batch = windows.gather([0, 0], [18, 20], context_length=12, horizon=3)
    config = NetworkConfig(horizon=3, context_length=12, segment=3, anchors=(("last", 1),), cell=cell, hidden_size=5)
    network = ForecastNetwork(config, QuantileHead((80.0,)))

    def loss(of=network):
        return of.head.point(of(batch)).square().mean()

    # the output layer starts at zero: at first nothing of the loss reaches the recurrent layer
    assert adjoints(network, loss)["recurrent.l0"].log_norm_BT.eq(-math.inf).all()
    with torch.no_grad():
        network.output.weight.normal_()
    found = adjoints(network, loss)
    other = twin.unroll(copy.deepcopy(network))
    want = twin.adjoints(other, lambda: loss(other))
    for place in places(network.recurrent):
        expected = torch.stack([torch.stack(window) for window in want["recurrent", 0, place][0]])
        torch.testing.assert_close(found[f"recurrent.{place}"].h_BTN, expected, rtol=1e-3, atol=1e-5)
        assert expected.norm(dim=-1).min() > 1e-4


class Noisy(nn.Module):
    """Everything that a forward pass may leave behind: statistics, random numbers, modes."""

    def __init__(self):
        super().__init__()
        self.rnn = nn.LSTM(3, 4, 2, batch_first=True, dropout=0.3)
        self.norm = nn.BatchNorm1d(4)
        self.drop = nn.Dropout(0.5)
        self.register_buffer("seen", torch.zeros(1))

    def forward(self, x):
        self.seen = self.seen + 1
        self.training_before = self.training
        return self.drop(self.norm(self.rnn(x)[0][:, -1])).square().mean()


def trained(measure):
    torch.manual_seed(1)
    model = Noisy()
    optimizer = torch.optim.Adam(model.parameters())
    for _ in range(3):
        x = torch.randn(4, 6, 3)
        optimizer.zero_grad()
        loss = model(x)
        measure(model, x)  # also between a forward pass and its backward pass
        loss.backward()
        measure(model, x)
        optimizer.step()
    return {**model.state_dict(), "random": torch.get_rng_state()}


def test_measuring_changes_no_bit_of_a_training():
    def failing(model, x):
        def fail():
            model.eval()
            model(x)
            raise KeyError("on the way")

        with pytest.raises(KeyError, match="on the way"):
            adjoints(model, fail)

    want = trained(lambda model, x: None)
    for measure in (lambda model, x: adjoints(model, lambda: model(x)), failing):
        found = trained(measure)
        assert all(torch.equal(found[name], value) for name, value in want.items())


def test_measuring_leaves_gradients_modes_and_hooks_as_they_were():
    model, x = Noisy(), torch.randn(4, 6, 3)
    model(x).backward()
    model.norm.eval()
    grads = {name: (parameter.grad, parameter.grad.clone()) for name, parameter in model.named_parameters()}

    def loss():
        model.eval()
        return model(x)

    with torch.no_grad():
        assert set(adjoints(model, loss)) == {"rnn.l0", "rnn.l1"}
        assert not torch.is_grad_enabled()
    assert model.training and model.drop.training and not model.norm.training
    assert not model.rnn._forward_hooks and not model.rnn._forward_hooks_with_kwargs
    for name, parameter in model.named_parameters():
        assert parameter.grad is grads[name][0] and torch.equal(parameter.grad, grads[name][1])


def test_what_comes_out_holds_no_graph():
    layer = nn.LSTM(3, 4)
    found = adjoints(layer, lambda: layer(torch.randn(5, 2, 3, requires_grad=True))[0].sum())["l0"]
    assert not any(t.requires_grad for t in (found.h_BTN, found.c_BTN, found.log_norm_BT, found.c_log_norm_BT))


def test_clipped_adjoints_are_seen_through():
    layer = nn.GRU(3, 4).double()
    x = torch.randn(5, 2, 3, dtype=F64)
    clipped = ClipAdjoint(layer, ClipNorm(1e-3))
    found = adjoints(clipped, lambda: weighted(clipped(x)[0]))["layer.l0"]
    assert torch.equal(found.h_BTN, adjoints(layer, lambda: weighted(layer(x)[0]))["l0"].h_BTN)
    assert clipped.training and clipped.last is None and clipped.summary().backwards == 0


class OwnForward(nn.GRU):
    def forward(self, x, hx=None):
        return super().forward(2 * x, hx)


@pytest.mark.parametrize(
    ("model", "loss_fn", "word"),
    [
        (nn.Linear(2, 2), lambda model: model(torch.ones(2)).sum(), "Linear"),
        (nn.Sequential(OwnForward(2, 2)), lambda model: model(torch.ones(3, 1, 2))[0].sum(), "OwnForward"),
        (nn.GRU(2, 2), lambda model: model(torch.ones(3, 1, 2))[0], "a tensor [3, 1, 2]"),
        (nn.GRU(2, 2), lambda model: model(torch.ones(3, 1, 2))[0].sum().item(), "float"),
        (nn.GRU(2, 2), lambda model: model(torch.ones(3, 1, 2))[0].sum().detach(), "without a graph"),
        (nn.GRU(2, 2), lambda model: model.weight_hh_l0.sum(), "none"),
    ],
)
def test_refused_with_what_to_do(model, loss_fn, word):
    with pytest.raises(OptionError) as caught:
        adjoints(model, lambda: loss_fn(model))
    assert word in caught.value.problems[0].got and caught.value.problems[0].fix
    assert not any(module._forward_hooks for module in model.modules())


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("size", [1e30, 1e-30, 0.0])
def test_huge_tiny_and_no_gradients(size, dtype):
    layer = nn.GRU(2, 3).to(dtype)
    x = torch.randn(4, 2, 2).to(dtype)
    exact = adjoints(layer, lambda: layer(x)[0].sum())["l0"]
    found = adjoints(layer, lambda: (layer(x)[0] * size).sum())["l0"]
    if size:
        shift = found.log_norm_BT - exact.log_norm_BT
        torch.testing.assert_close(shift, torch.full_like(shift, math.log(size)), rtol=0, atol=1e-2)
    else:
        assert found.log_norm_BT.eq(-math.inf).all() and found.h_BTN.eq(0).all()
