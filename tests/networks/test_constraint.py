"""Recurrent matrices that stay orthogonal or within a norm: closed forms, slow twins, bounds, training."""

from __future__ import annotations

import copy
import math
from itertools import pairwise

import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st
from tests.reference import constraint as twin
from torch import Tensor, nn
from torch.nn.utils import parametrizations, parametrize

from holdfast import ClipNorm, GradientGuard
from holdfast.errors import OptionError
from holdfast.flow import adjoints, lyapunov_exponents, spectra
from holdfast.gradients import find_roles
from holdfast.networks import (
    CELLS,
    RNN,
    Constraint,
    ForecastNetwork,
    NetworkConfig,
    QuantileHead,
    constrain_recurrent_,
    init_recurrent_,
    make_cell,
)
from holdfast.networks.constraint import _Capped, _Orthogonal

D, N = 3, 6
F64 = torch.float64
LAYERS = {name: (lambda name=name: make_cell(name, D, N, 2)) for name in CELLS} | {
    "torch RNN": lambda: nn.RNN(D, N, 2, nonlinearity="relu"),
    "torch GRU, both directions": lambda: nn.GRU(D, N, 2, bidirectional=True, batch_first=True),
    "torch LSTM, no bias": lambda: nn.LSTM(D, N, 2, bias=False),
    "torch RNNCell": lambda: nn.RNNCell(D, N),
    "torch GRUCell": lambda: nn.GRUCell(D, N),
    "torch LSTMCell": lambda: nn.LSTMCell(D, N),
}
CONSTRAINTS = ("orthogonal", "cap:0.7")
every_layer = pytest.mark.parametrize("build", LAYERS.values(), ids=LAYERS.keys())
both = pytest.mark.parametrize("constraint", CONSTRAINTS)


@pytest.fixture(autouse=True)
def seed():
    torch.manual_seed(0)


def draw(build, constraint, dtype=F64):
    """A constrained layer whose optimiser has already been somewhere."""
    layer = constrain_recurrent_(build().to(dtype), constraint)
    with torch.no_grad():
        for parameter in layer.parameters():
            parameter.add_(0.5 * torch.randn_like(parameter))
    return layer


def run(layer, dtype=F64, steps=4):
    """Outputs of a layer or a cell on inputs that are always the same."""
    x_BTD = torch.randn(steps, steps, D, dtype=dtype, generator=torch.Generator().manual_seed(1))
    if not isinstance(layer, nn.RNNCellBase):
        return layer(x_BTD)[0]
    state, h_T = None, []
    with parametrize.cached():
        for x_BD in x_BTD.unbind(1):
            state = layer(x_BD, state)
            h_T.append(state[0] if isinstance(state, tuple) else state)
    return torch.stack(h_T, 1)


def blocks(layer) -> list[Tensor]:
    """The recurrent matrix of every gate, direction and layer."""
    names = [name for name in layer.parametrizations if name.startswith("weight_hh")]
    return [block for name in names for block in getattr(layer, name).detach().split(N)]


def gain(layer) -> float:
    return 4.0 if getattr(layer, "nonlinearity", "") == "sigmoid" else 1.0


def close(actual, expected, atol=1e-12):
    torch.testing.assert_close(actual, expected, rtol=0, atol=atol)


# Closed forms and slow twins


def test_rotation_of_two_units_in_closed_form():
    """Cayley of [[0, -a], [a, 0]] turns by 2 atan(a / 2)."""
    layer = RNN(1, 2).double()
    layer.weight_hh_l0.data.copy_(torch.eye(2))
    constrain_recurrent_(layer, "orthogonal")
    for a in (0.0, 0.3, -2.0, 50.0):
        layer.parametrizations.weight_hh_l0.original.data.copy_(torch.tensor([[7.0, -a], [a, -3.0]], dtype=F64))
        turn = 2 * math.atan(a / 2)
        expected = torch.tensor([[math.cos(turn), -math.sin(turn)], [math.sin(turn), math.cos(turn)]], dtype=F64)
        close(layer.weight_hh_l0, expected, 1e-14)


def test_cap_in_closed_form():
    layer = constrain_recurrent_(RNN(1, 2).double(), "cap:3")
    for given_, expected in (
        ([[0.0, 12.0], [0.0, 0.0]], [[0.0, 3.0], [0.0, 0.0]]),  # eigenvalues 0: the norm decides
        ([[2.0, 0.0], [0.0, -6.0]], [[1.0, 0.0], [0.0, -3.0]]),
        ([[2.0, 0.0], [0.0, 2.5]], [[2.0, 0.0], [0.0, 2.5]]),  # within the cap: every bit is kept
        ([[0.0, 0.0], [0.0, 0.0]], [[0.0, 0.0], [0.0, 0.0]]),
    ):
        layer.parametrizations.weight_hh_l0.original.data.copy_(torch.tensor(given_))
        close(layer.weight_hh_l0, torch.tensor(expected, dtype=F64), 1e-15 if max(map(max, given_)) > 3 else 0.0)


@every_layer
def test_every_gate_is_its_twin(build):
    before = build().double()
    with torch.no_grad():
        for W in before.parameters():
            W.mul_(1.5).add_(0.1)  # not orthogonal: the nearest has to be found
    W_start = {name: W.clone() for name, W in before.named_parameters() if name.startswith("weight_hh")}
    for constraint in ("orthogonal", "cap:0.7"):
        layer = constrain_recurrent_(copy.deepcopy(before), constraint)
        for name, W in W_start.items():
            held = layer.parametrizations[name]
            for drift in (0.0, 0.8):
                with torch.no_grad():
                    held.original.add_(drift * torch.randn_like(held.original))
                X, starts = held.original.detach(), W.split(N)
                expected = [
                    twin.cayley(gain(layer) * twin.nearest_orthogonal(start), X_NN)
                    if constraint == "orthogonal"
                    else twin.capped(X_NN, 0.7)
                    for start, X_NN in zip(starts, X.split(N), strict=True)
                ]
                close(getattr(layer, name), torch.cat(expected).detach(), 1e-11)


def test_the_map_is_that_of_torch_from_the_same_start():
    Q_NN = nn.init.orthogonal_(torch.empty(N, N, dtype=F64))
    theirs, ours = nn.RNN(D, N).double(), RNN(D, N).double()
    theirs.weight_hh_l0.data.copy_(Q_NN)
    ours.weight_hh_l0.data.copy_(Q_NN)
    parametrizations.orthogonal(theirs, "weight_hh_l0", orthogonal_map="cayley")
    constrain_recurrent_(ours, "orthogonal")
    A_NN = torch.randn(N, N, dtype=F64).tril(-1)
    theirs.parametrizations.weight_hh_l0.original.data.copy_(A_NN)
    ours.parametrizations.weight_hh_l0.original.data.copy_(A_NN - A_NN.T)  # theirs mirrors the lower triangle
    close(ours.weight_hh_l0, theirs.weight_hh_l0)


# What holds for every X


@every_layer
@pytest.mark.parametrize(("dtype", "tolerance"), [(F64, 1e-13), (torch.float32, 3e-6)])
def test_orthogonal_after_every_step_at_a_large_rate(build, dtype, tolerance):
    layer = constrain_recurrent_(build().to(dtype), "orthogonal")
    start = blocks(layer)
    optimizer = torch.optim.AdamW(layer.parameters(), lr=1.0)
    eye = torch.eye(N, dtype=dtype)
    for _ in range(15):
        optimizer.zero_grad()
        (run(layer, dtype) - 0.5).square().sum().backward()
        optimizer.step()
        for W in blocks(layer):
            close(W @ W.T / gain(layer) ** 2, eye, tolerance)
            close(W.T @ W / gain(layer) ** 2, eye, tolerance)
    assert all((W - W0).norm() > 0.1 for W, W0 in zip(blocks(layer), start, strict=True))  # they did move


@pytest.mark.parametrize("scale", [1e-6, 1.0, 1e3, 1e8, 1e30])
def test_orthogonal_to_rounding_for_steps_of_any_size(scale):
    layer = constrain_recurrent_(RNN(1, 64), "orthogonal")
    layer.parametrizations.weight_hh_l0.original.data.normal_().mul_(scale)
    W_NN = layer.weight_hh_l0.detach().double()
    close(W_NN @ W_NN.T, torch.eye(64, dtype=F64), 2e-5)


@settings(deadline=None, max_examples=40)
@given(st.integers(0, 10**6), st.integers(1, 8), st.floats(0.1, 10), st.floats(-18, 18), st.sampled_from((1, 3, 4)))
def test_the_cap_holds_scales_and_is_idempotent(number, size, cap, exponent, gates):
    generator = torch.Generator().manual_seed(number)
    X = torch.randn(gates * size, size, generator=generator) * 10**exponent
    rule = _Capped(cap)
    W = rule(X)
    for X_NN, W_NN in zip(X.split(size), W.split(size), strict=True):
        norm = twin.spectral_norm(X_NN)
        assert twin.spectral_norm(W_NN) <= cap * (1 + 3e-6)
        if norm <= cap * (1 - 1e-5):
            assert torch.equal(W_NN, X_NN)
        else:
            close(W_NN.double(), twin.capped(X_NN, cap), 1e-5 * cap)
    close(rule(W), W, 3e-6 * cap)
    close(_Capped(3 * cap)(3 * X), 3 * W, 1e-5 * cap)  # homogeneous in X and c together


@every_layer
def test_the_cap_holds_after_every_step_at_a_large_rate(build):
    layer = constrain_recurrent_(build(), "cap:0.7")
    optimizer = torch.optim.AdamW(layer.parameters(), lr=1.0)
    for _ in range(20):
        optimizer.zero_grad()
        (run(layer, torch.float32) - 0.5).square().sum().backward()
        optimizer.step()
        assert max(torch.linalg.matrix_norm(W, 2).item() for W in blocks(layer)) <= 0.7 * (1 + 1e-6)


@every_layer
def test_an_orthogonal_start_is_kept_and_another_moves_no_further_than_it_must(build):
    layer = build()
    if isinstance(layer, nn.RNNCellBase):
        with torch.no_grad():
            for W in layer.weight_hh.split(N):
                nn.init.orthogonal_(W)
    else:
        init_recurrent_(layer)
    before = {name: W.clone() for name, W in layer.named_parameters()}
    constrain_recurrent_(layer, "orthogonal")
    for name, W in before.items():
        close(getattr(layer, name).detach(), (gain(layer) if name.startswith("weight_hh") else 1.0) * W, 1e-6)

    loose = build().double()  # nearest: no rotation of it is nearer
    loose = nn.RNN(D, N).double() if isinstance(loose, nn.RNNCellBase) else loose
    for W in [W for name, W in loose.named_parameters() if name.startswith("weight_hh")]:
        W.data.normal_()
    target = [W.detach().clone().split(N) for name, W in loose.named_parameters() if name.startswith("weight_hh")]
    found = blocks(constrain_recurrent_(loose, "orthogonal"))
    for W_NN, Q_NN in zip([W for stack in target for W in stack], found, strict=True):
        Q_NN = Q_NN / gain(loose)
        for _ in range(5):
            other = nn.init.orthogonal_(torch.empty_like(Q_NN))
            assert (W_NN - Q_NN).norm() <= (W_NN - other).norm() + 1e-12


def test_critical_weights_of_a_sigmoid_are_kept():
    layer = init_recurrent_(RNN(D, N, nonlinearity="sigmoid"), scheme="critical")
    W = layer.weight_hh_l0.detach().clone()
    close(constrain_recurrent_(layer, "orthogonal").weight_hh_l0.detach(), W, 3e-6)


# Gradients


@pytest.mark.parametrize("scale", [0.2, 3.0])
def test_gradients_are_those_of_finite_differences(scale):
    X = (scale * torch.randn(3 * 4, 4, dtype=F64)).requires_grad_()
    rule = _Orthogonal(2.0)
    rule.right_inverse(torch.randn(3 * 4, 4, dtype=F64))
    assert torch.autograd.gradcheck(rule, X)
    assert torch.autograd.gradgradcheck(rule, X)
    assert torch.autograd.gradcheck(_Capped(1.0), X)  # below the cap and above it


def test_the_gradient_at_the_start_is_the_projected_one():
    """dL/dX = (S^T G - G^T S) / 2, of the norm of G's part along the orthogonal matrices."""
    rule = _Orthogonal(1.0)
    X = rule.right_inverse(torch.randn(2 * N, N, dtype=F64)).requires_grad_()
    G = torch.randn(2 * N, N, dtype=F64)
    (dX,) = torch.autograd.grad((rule(X) * G).sum(), X)
    for S_NN, G_NN, dX_NN in zip(rule.start_GNN, G.split(N), dX.split(N), strict=True):
        close(dX_NN, (S_NN.T @ G_NN - G_NN.T @ S_NN) / 2)


@pytest.mark.parametrize("size", [1.5, 1.0])
def test_where_all_singular_values_tie_the_gradient_is_a_subgradient(size):
    """||Y|| >= ||Q|| + <g, Y - Q> for all Y, and along Q itself the norm grows at rate 1."""
    Q_NN = size * nn.init.orthogonal_(torch.empty(N, N, dtype=F64))
    Q_NN.requires_grad_()
    M_NN = torch.randn(N, N, dtype=F64)
    # d<M, c Q / ||Q||> = c (M - <M, Q> g / ||Q||) / ||Q||: solve for g
    (dQ,) = torch.autograd.grad((_Capped(0.5)(Q_NN) * M_NN).sum(), Q_NN)
    inner = (M_NN * Q_NN).sum()
    g_NN = ((M_NN - dQ * size / 0.5) * size / inner).detach()
    assert g_NN.isfinite().all()
    assert (g_NN * Q_NN).sum().item() == pytest.approx(size, rel=1e-9)
    assert torch.linalg.matrix_norm(g_NN, "nuc").item() == pytest.approx(1.0, rel=1e-9)
    for _ in range(20):
        step = torch.randn(N, N, dtype=F64)
        grown = torch.linalg.matrix_norm(Q_NN + step, 2)
        assert grown >= size + (g_NN * step).sum() - 1e-9


@both
@pytest.mark.parametrize("value", [math.nan, math.inf])
def test_weights_that_are_not_finite_raise_nothing(constraint, value):
    """A guard finds them in the loss; an error out of LAPACK would end the run. One infinite angle is a limit."""
    layer = constrain_recurrent_(make_cell("gru", D, N), constraint)
    layer.parametrizations.weight_hh_l0.original.data[0, 1] = value
    h_BTN, W = run(layer, torch.float32), blocks(layer)[0]
    assert not h_BTN.isfinite().all() or torch.allclose(W @ W.T, torch.eye(N), atol=1e-5)
    assert math.isinf(value) or not h_BTN.isfinite().any()
    h_BTN.sum().backward()


# What it proves


@pytest.mark.parametrize(("phi", "gamma"), [("tanh", 1.0), ("relu", 1.0), ("linear", 1.0), ("sigmoid", 0.25)])
@pytest.mark.parametrize("constraint", ["orthogonal", "cap:0.9", "cap:2"])
def test_adjoints_shrink_or_grow_no_faster_than_told(phi, gamma, constraint):
    layer = draw(lambda: RNN(D, N, nonlinearity=phi), constraint)
    x_BTD = torch.randn(2, 12, D, dtype=F64)
    bound = 1.0 if constraint == "orthogonal" else gamma * Constraint.parse(constraint).number
    log_norm_BT = adjoints(layer, lambda: layer(x_BTD)[0][:, -1].sum())["l0"].log_norm_BT
    assert (log_norm_BT.diff(dim=1) >= -math.log(bound) - 1e-12).all()
    exponents = lyapunov_exponents(layer, x_BTD).values
    assert exponents.max() <= math.log(bound) + 1e-9
    if constraint == "orthogonal" and phi == "linear":
        close(exponents, torch.zeros_like(exponents), 1e-12)


def test_a_constrained_sigmoid_at_its_steepest_keeps_an_adjoint_at_its_norm():
    layer = constrain_recurrent_(
        init_recurrent_(RNN(D, N, nonlinearity="sigmoid").double(), scheme="critical"), "orthogonal"
    )
    half_LBN = torch.full((1, 1, N), 0.5, dtype=F64)
    exponents = lyapunov_exponents(layer, torch.zeros(1, 30, D, dtype=F64), h0=half_LBN).values
    close(exponents, torch.zeros_like(exponents), 1e-9)


@every_layer
def test_the_instrument_reads_the_constrained_matrices(build):
    layer = draw(build, "cap:0.7")
    found = spectra(layer)
    expected = [torch.linalg.matrix_norm(W, 2).item() for W in blocks(layer)]
    assert [one.norm for one in found.values()] == pytest.approx(expected, rel=1e-12)
    assert max(expected) == pytest.approx(0.7, rel=1e-12)
    assert adjoints(layer, lambda: run(layer).square().sum())["l0"].log_norm_BT.isfinite().all()


# Layers


@every_layer
@both
def test_a_constrained_layer_computes_what_one_with_these_weights_does(build, constraint):
    layer, plain = draw(build, constraint), build().double()
    plain.load_state_dict({name: getattr(layer, name) for name, _ in plain.named_parameters()})
    actual, expected = run(layer), run(plain)
    close(actual, expected)
    with torch.no_grad():
        close(run(layer), expected)
    for h in (actual, expected):
        h.square().sum().backward()
    for name, weight in plain.named_parameters():
        got = getattr(layer, name)
        if name.startswith("weight_hh"):  # through the constraint by hand
            X = layer.parametrizations[name].original
            (through,) = torch.autograd.grad(got, X, weight.grad)
            close(X.grad, through)
        else:
            close(got.grad, weight.grad)


@every_layer
@both
def test_weights_are_computed_once_in_every_forward(build, constraint, monkeypatch):
    layer, calls = draw(build, constraint), []
    for rule in (_Orthogonal, _Capped):
        forward = rule.forward
        monkeypatch.setattr(rule, "forward", lambda self, X, f=forward: calls.append(self) or f(self, X))
    for _ in range(2):
        calls.clear()
        run(layer)
        assert len(calls) == len(set(calls)) == len(layer.parametrizations)


@every_layer
@both
def test_copies_and_state_dicts_carry_the_constraint(build, constraint):
    layer = draw(build, constraint)
    fresh = copy.deepcopy(layer)  # before the first forward, and after one
    expected = run(layer)
    loaded = constrain_recurrent_(build().double(), constraint)
    loaded.load_state_dict(layer.state_dict())
    for other in (fresh, copy.deepcopy(layer), loaded, copy.deepcopy(layer.float().double())):
        close(run(other), expected, 1e-5 if other is not loaded and other is not fresh else 0.0)
        run(other).sum().backward()
        with torch.no_grad():
            next(iter(other.parametrizations.values())).original.add_(torch.randn(N))
        assert not torch.equal(run(other), expected)
    again = run(layer)
    close(again, expected, 1e-5)  # untouched by what was done to its copies


@every_layer
@both
def test_the_constraint_can_be_taken_off_again(build, constraint):
    layer = draw(build, constraint)
    expected = run(layer)
    for name in list(layer.parametrizations):
        parametrize.remove_parametrizations(layer, name)
    assert type(layer) is type(build())
    assert torch.equal(run(layer), expected)
    assert set(layer.state_dict()) == set(build().state_dict())
    copy.deepcopy(layer).float()


@both
def test_a_matrix_that_is_assigned_is_where_it_starts_anew(constraint):
    layer = draw(lambda: make_cell("lstm", D, N), constraint)
    parameters = list(layer.parameters())
    W = 0.5 * nn.init.orthogonal_(torch.empty(N, N, dtype=F64)).repeat(4, 1)
    layer.weight_hh_l0 = W
    close(layer.weight_hh_l0.detach(), W if constraint.startswith("cap") else 2 * W)
    assert all(old is new for old, new in zip(parameters, layer.parameters(), strict=True))  # an optimiser goes on


@pytest.mark.usefixtures("no_onednn")
@both
@pytest.mark.parametrize("cell", ["lstm", "rnn-linear"])
def test_autocast_and_half_precision_keep_the_constraint(constraint, cell):
    layer = draw(lambda: make_cell(cell, D, N), constraint, torch.float32)
    W = [block.clone() for block in blocks(layer)]
    with torch.autocast("cpu", torch.bfloat16):
        assert all(torch.equal(now, then) for now, then in zip(blocks(layer), W, strict=True))
        run(layer, torch.float32).float().sum().backward()
    for now, then in zip(blocks(layer.bfloat16()), W, strict=True):
        assert now.dtype is torch.bfloat16
        close(now.float(), then, 0.05)


def test_roles_and_guard_see_a_recurrent_parameter():
    model = nn.ModuleDict({"rnn": make_cell("gru", D, N), "out": nn.Linear(N, 1)})
    constrain_recurrent_(model["rnn"], "orthogonal")
    assert find_roles(model)["rnn.parametrizations.weight_hh_l0.original"] == "recurrent"
    guard = GradientGuard(model, ClipNorm(0.1))
    optimizer = torch.optim.AdamW(model.parameters(), lr=0.1)
    for _ in range(5):
        optimizer.zero_grad()
        loss = (model["out"](run(model["rnn"], torch.float32)) - 3).square().sum()
        loss.backward()
        result = guard.step(optimizer, loss=loss)
        assert result.clipped and result.role_norms["recurrent"] > 0
    for W in blocks(model["rnn"]):
        close(W @ W.T, torch.eye(N), 2e-6)


def test_a_network_is_held_as_its_option_says():
    def network(constraint):
        shapes = NetworkConfig(horizon=2, context_length=8, hidden_size=N, cell="gru", constraint=constraint)
        return ForecastNetwork(shapes, QuantileHead((80.0,)), seed=3)

    plain, held, capped = (network(constraint) for constraint in ("none", "orthogonal", "cap:0.5"))
    assert not parametrize.is_parametrized(plain.recurrent)
    assert torch.equal(plain.hidden.weight, held.hidden.weight)  # draws nothing
    close(held.recurrent.weight_hh_l1.detach(), plain.recurrent.weight_hh_l1.detach(), 1e-6)
    close(capped.recurrent.weight_hh_l1.detach(), plain.recurrent.weight_hh_l1.detach() / 2, 1e-6)


# It trains


def first_bit(layer, steps=250, T=40):
    """Mean loss of the last steps of learning which bit was shown T steps before; log 2 is that of a guess."""
    head, losses = nn.Linear(16, 1), []
    optimizer = torch.optim.AdamW([*layer.parameters(), *head.parameters()], lr=3e-3)
    for _ in range(steps):
        bit_B = torch.randint(0, 2, (32,)).float()
        x_BTD = 0.1 * torch.randn(32, T, 1)
        x_BTD[:, 0, 0] = 2 * bit_B - 1
        loss = F.binary_cross_entropy_with_logits(head(layer(x_BTD)[0][:, -1])[:, 0], bit_B)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
    return sum(losses[-20:]) / 20


@pytest.mark.parametrize(("phi", "share"), [("linear", 0.1), ("tanh", 0.5)])
def test_from_the_start_of_torch_an_orthogonal_layer_learns_what_a_free_one_does_not(phi, share):
    """A start that vanishes (radius near 0.58) does not learn to remember; the nearest orthogonal one does."""
    found = {}
    for constraint in ("none", "orthogonal"):
        torch.manual_seed(0)
        layer = init_recurrent_(RNN(1, 16, nonlinearity=phi), scheme="uniform")
        found[constraint] = first_bit(constrain_recurrent_(layer, constraint))
    assert found["none"] > 0.95 * math.log(2)
    assert found["orthogonal"] < share * math.log(2)


def test_a_capped_layer_learns_too():
    layer = init_recurrent_(RNN(1, 16, nonlinearity="linear"))
    assert first_bit(constrain_recurrent_(layer, "cap:1")) < 0.1 * math.log(2)


def test_where_a_free_layer_blows_up_a_capped_one_learns():
    """ReLU units from W = I (Le, Jaitly and Hinton, 2015) add two marked numbers; SGD at a rate too large for W."""

    def losses_and_norms(constraint):
        torch.manual_seed(0)
        layer, head = init_recurrent_(RNN(2, 16, nonlinearity="relu"), scheme="identity"), nn.Linear(16, 1)
        constrain_recurrent_(layer, constraint)
        optimizer = torch.optim.SGD([*layer.parameters(), *head.parameters()], lr=0.01)
        for _ in range(100):
            value_BT, mark_BT, row_B = torch.rand(32, 30), torch.zeros(32, 30), torch.arange(32)
            mark_BT[row_B, torch.randint(0, 15, (32,))] = 1
            mark_BT[row_B, torch.randint(15, 30, (32,))] = 1
            h_BTN, _ = layer(torch.stack([value_BT, mark_BT], -1))
            loss = F.mse_loss(head(h_BTN[:, -1])[:, 0], (value_BT * mark_BT).sum(1))
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            yield loss.item(), layer.weight_hh_l0.detach().double().nan_to_num(math.inf).norm(2).item()

    free, held = list(losses_and_norms("none")), list(losses_and_norms("cap:1"))
    assert not math.isfinite(free[-1][0])
    assert max(norm for _, norm in free) > 1e6
    assert all(math.isfinite(loss) and norm <= 4.0 + 1e-5 for loss, norm in held)  # Frobenius: sqrt(16) at most
    assert held[0][0] > 1.0
    assert sum(loss for loss, _ in held[-20:]) / 20 < 0.2


# What is refused


@pytest.mark.parametrize(
    ("text", "kind", "number"),
    [("none", "none", None), ("orthogonal", "orthogonal", None), ("cap:1", "cap", 1.0), ("cap:1e-3", "cap", 0.001)],
)
def test_texts_that_are_read(text, kind, number):
    assert Constraint.parse(text) == Constraint(kind, number)


@pytest.mark.parametrize(
    "text",
    ["", "cap", "cap:", "cap:0", "cap:-1", "cap:inf", "cap:nan", "cap:x", "orthogonal:1", "none:", "unitary", None, 1],
)
def test_texts_that_are_refused(text):
    layer = make_cell("lstm", D, N)
    with pytest.raises(OptionError, match="cap:NUMBER") as caught:
        constrain_recurrent_(layer, text)
    assert caught.value.problems[0].got == repr(text)
    assert not parametrize.is_parametrized(layer)


def broken():
    layer = nn.GRU(D, N, 2)
    layer.weight_hh_l1.data[0, 0] = math.nan
    return layer


def normed():
    with pytest.warns(FutureWarning):
        return torch.nn.utils.weight_norm(nn.RNN(D, N), "weight_hh_l0")


@pytest.mark.parametrize(
    ("build", "words"),
    [
        (lambda: nn.Linear(N, N), "Linear"),
        (lambda: nn.Sequential(nn.LSTM(D, N)), "Sequential"),
        (lambda: nn.LSTM(D, N, proj_size=2), "proj_size=2"),
        (lambda: constrain_recurrent_(nn.LSTM(D, N), "orthogonal"), "parametrised already"),
        (lambda: constrain_recurrent_(RNN(D, N), "cap:1"), "parametrised already"),
        (lambda: parametrizations.weight_norm(nn.GRU(D, N), "weight_ih_l0"), "parametrised already"),
        (normed, "parametrised already"),
        (broken, "weight_hh_l1"),
    ],
)
@both
def test_layers_that_are_refused_and_left_as_they_were(build, words, constraint):
    layer = build()
    before = copy.deepcopy(layer.state_dict()) if words != "weight_hh_l1" else {}
    with pytest.raises(OptionError, match=words):
        constrain_recurrent_(layer, constraint)
    after = layer.state_dict()
    assert all(torch.equal(after[name], weight) for name, weight in before.items())
    assert constrain_recurrent_(layer, "none") is layer


def test_a_constrained_layer_cannot_be_drawn_again():
    layer = constrain_recurrent_(make_cell("gru", D, N), "orthogonal")
    with pytest.raises(OptionError, match="without weight_hh_l0"):
        layer.reset_parameters()


def test_gates_are_constrained_by_themselves():
    layer = constrain_recurrent_(make_cell("lstm", D, N), "cap:0.5")
    layer.parametrizations.weight_hh_l0.original.data[:N].zero_()
    assert [torch.linalg.matrix_norm(W, 2).item() for W in blocks(layer)] == pytest.approx([0.0, 0.5, 0.5, 0.5])
    for first, second in pairwise(blocks(layer)):
        assert not torch.equal(first, second)
