"""The start of the recurrent layers: isometric blocks, open forget gates, reproducible draws."""

from __future__ import annotations

import math
from itertools import pairwise

import pytest
import torch
from torch import nn

from holdfast.errors import OptionError
from holdfast.networks import ForecastNetwork, NetworkConfig, QuantileHead
from holdfast.networks.cells import CELLS, RNN, make_cell
from holdfast.networks.init import check_init, init_recurrent_, zero_

D, N = 5, 7
GATES = {"lstm": 4, "gru": 3, "rnn-tanh": 1, "rnn-relu": 1, "rnn-sigmoid": 1, "rnn-linear": 1}
LAYERS = {name: (lambda name=name: make_cell(name, D, N, 2), gates) for name, gates in GATES.items()} | {
    "torch RNN": (lambda: nn.RNN(D, N, 2), 1),
    "torch GRU, both directions": (lambda: nn.GRU(D, N, 2, bidirectional=True), 3),
    "torch LSTM": (lambda: nn.LSTM(D, N, 2), 4),
    "torch LSTM, no bias": (lambda: nn.LSTM(D, N, 2, bias=False), 4),
}
every_layer = pytest.mark.parametrize(("build", "gates"), LAYERS.values(), ids=LAYERS.keys())


def generator(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def test_every_cell_is_in_the_table():
    assert set(GATES) == set(CELLS)


@every_layer
@pytest.mark.parametrize(("dtype", "tolerance"), [(torch.float64, 1e-14), (torch.float32, 1e-6)])
def test_each_recurrent_block_is_orthogonal(build, gates, dtype, tolerance):
    layer = init_recurrent_(build().to(dtype), generator())
    recurrent = {name: w for name, w in layer.named_parameters() if name.startswith("weight_hh")}
    assert recurrent
    for W in recurrent.values():
        blocks = [W[gate * N : (gate + 1) * N] for gate in range(gates)]
        for block in blocks:
            eye = torch.eye(N, dtype=dtype)
            torch.testing.assert_close(block @ block.T, eye, rtol=0, atol=tolerance)
            torch.testing.assert_close(block.T @ block, eye, rtol=0, atol=tolerance)
        for first, second in pairwise(blocks):
            assert not torch.equal(first, second)  # each block is its own draw


@every_layer
def test_input_weights_fill_the_glorot_interval_gate_by_gate(build, gates):
    layer = init_recurrent_(build(), generator())
    for name, U in layer.named_parameters():
        if name.startswith("weight_ih"):
            bound = math.sqrt(6 / (U.shape[1] + N))  # of one N x D block, not of the stack of all gates
            for block in U.chunk(gates):
                assert 0.75 * bound < block.abs().max().item() <= bound
                assert abs(block.mean().item()) < 0.35 * bound


@every_layer
def test_biases_are_zero_but_for_a_forget_gate_of_one_in_total(build, gates):
    layer = init_recurrent_(build(), generator())
    expected = torch.zeros(gates * N)
    if gates == 4:
        expected[N : 2 * N] = 1.0
    for name, bias in layer.named_parameters():
        if name.startswith("bias_ih"):
            assert torch.equal(bias, expected)
        if name.startswith("bias_hh"):
            assert torch.equal(bias, torch.zeros(gates * N))


@pytest.mark.parametrize("name", CELLS)
def test_a_generator_decides_alone_and_leaves_the_global_one_alone(name):
    layer, twin, other = (make_cell(name, D, N, 2) for _ in range(3))
    before = torch.random.get_rng_state()
    layer.reset_parameters(generator(3))
    init_recurrent_(twin, generator(3))
    init_recurrent_(other, generator(4))
    assert torch.equal(torch.random.get_rng_state(), before)
    for key, weight in layer.state_dict().items():
        assert torch.equal(weight, twin.state_dict()[key])
        assert weight.dim() == 1 or not torch.equal(weight, other.state_dict()[key])


@pytest.mark.parametrize("name", CELLS)
def test_without_a_generator_the_global_seed_decides(name):
    torch.manual_seed(5)
    first = make_cell(name, D, N).state_dict()
    torch.manual_seed(5)
    second = make_cell(name, D, N)
    for key, weight in second.state_dict().items():
        assert torch.equal(weight, first[key])
    second.reset_parameters(torch.Generator().manual_seed(5))
    for key, weight in second.state_dict().items():  # the global stream and a generator of the same seed agree
        assert torch.equal(weight, first[key])


@pytest.mark.parametrize(("name", "slope"), [("rnn-linear", 1.0), ("rnn-sigmoid", 0.25)])
def test_adjoints_of_the_start_keep_their_norm_or_vanish_at_the_rate_told(name, slope):
    layer = make_cell(name, 1, 16).double()
    layer.reset_parameters(generator())
    h_LBN = torch.randn(1, 1, 16, dtype=torch.float64, generator=generator()).requires_grad_()
    for lag in (1, 5, 20):
        h_BTN, _ = layer(torch.zeros(1, lag, 1, dtype=torch.float64), h_LBN)
        g_N = torch.randn(16, dtype=torch.float64, generator=generator(1))
        (adjoint,) = torch.autograd.grad(h_BTN[0, -1], h_LBN, g_N)
        ratio = (adjoint.norm() / g_N.norm()).item()
        assert ratio <= slope**lag * (1 + 1e-12)
        if name == "rnn-linear":
            assert ratio == pytest.approx(1.0, rel=1e-12)


def test_gradients_and_identity_of_the_parameters_survive():
    layer = make_cell("gru", D, N)
    parameters = list(layer.parameters())
    assert init_recurrent_(layer) is layer
    assert all(old is new for old, new in zip(parameters, layer.parameters(), strict=True))
    assert all(parameter.requires_grad and parameter.grad_fn is None for parameter in parameters)


@pytest.mark.parametrize(
    ("layer", "got"),
    [
        (nn.Linear(3, 3), "Linear without weight_hh_l0"),
        (nn.Sequential(nn.LSTM(3, 3)), "Sequential without weight_hh_l0"),
        (nn.LSTM(3, 4, proj_size=2), "LSTM with [16, 2]"),
    ],
)
def test_what_is_no_recurrent_layer_is_refused_and_left_as_it_was(layer, got):
    before = {key: weight.clone() for key, weight in layer.state_dict().items()}
    with pytest.raises(OptionError) as caught:
        init_recurrent_(layer)
    (problem,) = caught.value.problems
    assert problem.got == got
    assert "[G N, N]" in problem.expected
    for key, weight in layer.state_dict().items():
        assert torch.equal(weight, before[key])


@pytest.mark.parametrize("bias", [True, False])
def test_a_zeroed_head_puts_out_zero_and_still_learns(bias):
    head = nn.Linear(4, 2, bias=bias)
    assert zero_(head) is head
    x = torch.randn(8, 4, generator=generator())
    assert torch.equal(head(x), torch.zeros(8, 2))
    (head(x) - 1).square().sum().backward()
    assert head.weight.requires_grad and head.weight.grad.abs().min() > 0


def step_jacobian(layer, h_N):
    """dh_t / dh_{t-1} at a state, without input."""
    x_BTD = torch.zeros(1, 1, layer.input_size, dtype=h_N.dtype)
    return torch.autograd.functional.jacobian(lambda h: layer(x_BTD, h[None, None])[0][0, 0], h_N)


@pytest.mark.parametrize("nonlinearity", ["tanh", "relu", "linear", "sigmoid"])
def test_critical_keeps_an_adjoint_at_its_norm_where_the_slope_is_steepest(nonlinearity):
    layer = init_recurrent_(RNN(D, N, nonlinearity=nonlinearity).double(), generator(), "critical")
    rest = torch.full((N,), 0.5 if nonlinearity == "sigmoid" else 1e-9, dtype=torch.float64)
    if nonlinearity == "sigmoid":  # h = 1/2 is a fixed point without input
        h_BTN, _ = layer(torch.zeros(1, 20, D, dtype=torch.float64), rest[None, None])
        torch.testing.assert_close(h_BTN[0, -1], rest, rtol=0, atol=1e-12)
    if nonlinearity == "relu":  # on the active side; the state is turned into it
        rest = layer.weight_hh_l0.T @ torch.ones(N, dtype=torch.float64)
    J_NN = step_jacobian(layer, rest)
    assert torch.linalg.svdvals(J_NN).tolist() == pytest.approx([1.0] * N, rel=1e-9)
    plain = init_recurrent_(RNN(D, N, nonlinearity=nonlinearity).double(), generator(), "orthogonal")
    largest = torch.linalg.svdvals(step_jacobian(plain, rest)).max().item()
    assert largest <= (0.25 if nonlinearity == "sigmoid" else 1.0) + 1e-12


def test_identity_keeps_a_state_and_its_adjoint_until_an_input_comes():
    layer = init_recurrent_(nn.RNN(D, N, nonlinearity="relu", batch_first=True), generator(), "identity")
    start = torch.rand(1, 3, N, requires_grad=True)
    h_BTN, _ = layer(torch.zeros(3, 500, D), start)
    assert torch.equal(h_BTN[:, -1], start[0])
    h_BTN[:, -1].sum().backward()
    assert torch.equal(start.grad, torch.ones(1, 3, N))


@every_layer
@pytest.mark.parametrize("radius", [0.5, 0.9, 1.5])
def test_radius_is_the_spectral_radius_of_every_block(build, gates, radius):
    layer = init_recurrent_(build(), generator(), f"radius:{radius}")
    for name, W in layer.named_parameters():
        if name.startswith("weight_hh"):
            for block in W.chunk(gates):
                assert torch.linalg.eigvals(block.double()).abs().max().item() == pytest.approx(radius, rel=1e-5)


@pytest.mark.parametrize("kind", ["lstm", "gru"])
def test_chrono_spreads_memories_over_the_asked_steps(kind):
    longest, size, layers = 200.0, 300, 12  # the start of a large layer is dear
    random, scheme = generator(), f"chrono:{longest}"
    biases = [init_recurrent_(make_cell(kind, 1, size), random, scheme).bias_ih_l0.detach() for _ in range(layers)]
    blocks = [torch.cat(parts) for parts in zip(*(bias.chunk(GATES[kind]) for bias in biases), strict=True)]
    # A gate sigmoid(b) forgets in 1 / (1 - sigmoid(b)) = 1 + exp(b) steps.
    memory = 1 + blocks[1].double().exp()
    assert memory.min().item() >= 2.0 and memory.max().item() <= longest
    assert memory.mean().item() == pytest.approx((2 + longest) / 2, rel=0.03)  # uniform on [2, T]
    if kind == "lstm":
        assert torch.equal(blocks[0], -blocks[1])
    assert all(torch.equal(other, torch.zeros(size * layers)) for other in blocks[2:])


def test_uniform_is_the_start_of_torch():
    layer = init_recurrent_(make_cell("rnn-tanh", 8, 256), generator(), "uniform")
    for parameter in layer.parameters():
        assert 0.9 / 16 < parameter.abs().max().item() <= 1 / 16
    radius = torch.linalg.eigvals(layer.weight_hh_l0.double()).abs().max().item()
    assert radius == pytest.approx(1 / math.sqrt(3), rel=0.1)


def test_a_forget_bias_of_ones_own_choice():
    layer = init_recurrent_(make_cell("lstm", D, N), generator(), forget_bias=3.0)
    assert layer.bias_ih_l0.chunk(4)[1].tolist() == [3.0] * N


@pytest.mark.parametrize(
    ("cell", "scheme", "words"),
    [
        ("lstm", "identity", "an RNN"),
        ("gru", "critical", "an RNN"),
        ("rnn-tanh", "chrono:20", "a GRU or an LSTM"),
        ("lstm", "chrono", "chrono:STEPS"),
        ("lstm", "chrono:2", "above 2"),
        ("lstm", "radius:0", "above 0"),
        ("lstm", "radius:x", "radius:NUMBER"),
        ("lstm", "orthogonal:1", "orthogonal"),
        ("lstm", "glorot", "'glorot'"),
    ],
)
def test_schemes_that_cannot_work_are_refused(cell, scheme, words):
    layer = make_cell(cell, D, N)
    before = {name: weight.clone() for name, weight in layer.state_dict().items()}
    with pytest.raises(OptionError, match=words):
        init_recurrent_(layer, scheme=scheme)
    assert all(torch.equal(before[name], weight) for name, weight in layer.state_dict().items())
    with pytest.raises(OptionError):
        check_init("glorot" if scheme == "chrono" else scheme, cell)


def test_schemes_that_need_biases_are_refused_without():
    for layer, scheme in (
        (nn.LSTM(D, N, bias=False), "chrono:9"),
        (RNN(D, N, nonlinearity="sigmoid", bias=False), "critical"),
    ):
        with pytest.raises(OptionError, match="biases"):
            init_recurrent_(layer, scheme=scheme)


def test_a_network_starts_as_its_option_says():
    def recurrent(cell, init):
        size = NetworkConfig(horizon=2, context_length=24, segment=2, hidden_size=8, cell=cell, init=init, num_layers=1)
        return ForecastNetwork(size, QuantileHead((80.0,))).recurrent

    assert torch.equal(recurrent("rnn-relu", "identity").weight_hh_l0, torch.eye(8))
    assert recurrent("lstm", "chrono").bias_ih_l0.chunk(4)[1].exp().max().item() <= 11.0  # 12 recurrent steps
    plain, named = recurrent("gru", "orthogonal"), recurrent("gru", "radius:0.5")
    assert not torch.equal(plain.weight_hh_l0, named.weight_hh_l0)


@pytest.mark.parametrize(("cell", "layer"), [(nn.RNNCell, nn.RNN), (nn.GRUCell, nn.GRU), (nn.LSTMCell, nn.LSTM)])
@pytest.mark.parametrize("scheme", ["orthogonal", "chrono:9", "uniform"])
def test_a_cell_starts_as_the_layer_does(cell, layer, scheme):
    if cell is nn.RNNCell and scheme == "chrono:9":
        scheme = "critical"
    one = init_recurrent_(cell(D, N), generator(), scheme=scheme)
    other = init_recurrent_(layer(D, N), generator(), scheme=scheme)
    for name, weight in one.named_parameters():
        assert torch.equal(weight, other.get_parameter(f"{name}_l0"))


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_half_precision_starts_as_single_precision_rounded(dtype):
    half = init_recurrent_(nn.LSTM(D, N, dtype=dtype), generator())
    single = init_recurrent_(nn.LSTM(D, N), generator())
    assert torch.equal(half.weight_hh_l0, single.weight_hh_l0.to(dtype))
