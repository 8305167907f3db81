"""The scan of RNN and GRU: its hand-written way back, its blocks, and everything that must not go through it."""

from __future__ import annotations

import itertools

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from tests.networks.test_cells import build, close, inputs, loss_of, run_twin, torch_twin, twin_weights
from tests.reference.recurrent import gru_bptt
from torch import Tensor

from holdfast.networks import constrain_recurrent_, scan

KINDS = ("gru", "rnn-tanh", "rnn-relu", "rnn-sigmoid", "rnn-linear")
KERNELS = ("gru", "rnn-tanh", "rnn-relu")  # what PyTorch has, too
every_kind = pytest.mark.parametrize("name", KINDS)


@pytest.fixture(autouse=True)
def seed():
    torch.manual_seed(0)


def nodes(h: Tensor) -> set[str]:
    """Names of everything in a graph."""
    found, ahead = {}, [h.grad_fn]
    while ahead:
        node = ahead.pop()
        if node is not None and node not in found:
            found[node] = node.name()
            ahead += [following for following, _ in node.next_functions]
    return set(found.values())


def everything(layer, x_BTD: Tensor, h_LBN: Tensor) -> list[Tensor]:
    """Outputs, the last state, and all gradients of a loss that weighs each number differently."""
    h_BTN, last = layer(x_BTD, h_LBN)
    gradients = torch.autograd.grad(loss_of(h_BTN, last), [x_BTD, h_LBN, *layer.parameters()])
    return [h_BTN, last, *gradients]


# The way back


@pytest.mark.parametrize("T", [1, 2, 9])
def test_gru_gradients_equal_hand_written_backpropagation_through_time(T):
    layer = build("gru", 3, 4)
    x_BTD, h_LBN = inputs("gru", (1, T, 3, 4, 1))
    g_TN = torch.randn(T, 4, dtype=torch.float64)
    h_BTN, _ = layer(x_BTD, h_LBN)
    actual = torch.autograd.grad(h_BTN, [*layer.parameters(), x_BTD, h_LBN], g_TN[None])
    with torch.no_grad():
        expected = gru_bptt(twin_weights(layer)[0], x_BTD[0], h_LBN[0, 0], g_TN)
    for a, e in zip(actual, expected, strict=True):
        close(a.reshape(e.shape), e)


@every_kind
@pytest.mark.parametrize("rows", [1, 6, 7, 9, 100])
def test_the_length_of_a_block_changes_nothing(name, rows, monkeypatch):
    layer = build(name, 2, 5, 2)
    x_BTD, h_LBN = inputs(name, (3, 11, 2, 5, 2))
    whole = everything(layer, x_BTD, h_LBN)
    monkeypatch.setattr(scan, "ROWS", rows)
    cut = everything(layer, x_BTD, h_LBN)
    for actual, expected in zip(cut, whole, strict=True):
        close(actual, expected)
    with torch.no_grad():
        assert torch.equal(layer(x_BTD, h_LBN)[0], cut[0])


@every_kind
@settings(max_examples=20, deadline=None)
@given(
    B=st.integers(0, 4),
    T=st.integers(1, 9),
    D=st.integers(1, 4),
    N=st.integers(1, 6),
    L=st.integers(1, 3),
    bias=st.booleans(),
)
def test_any_shape_equals_the_twin(name, B, T, D, N, L, bias):
    layer = build(name, D, N, L, bias)
    x_BTD, h_LBN = inputs(name, (B, T, D, N, L))
    found = everything(layer, x_BTD, h_LBN)
    assert [each.shape for each in found[2:]] == [each.shape for each in (x_BTD, h_LBN, *layer.parameters())]
    if B == 0:
        assert all(gradient.numel() == 0 or gradient.abs().max() == 0 for gradient in found[2:])
        return
    h_BTN, last = run_twin(name, layer, x_BTD, h_LBN)
    gradients = torch.autograd.grad(loss_of(h_BTN, last), [x_BTD, h_LBN, *layer.parameters()])
    for actual, expected in zip(found, [h_BTN, last, *gradients], strict=True):
        close(actual, expected, rtol=1e-11)


@pytest.mark.parametrize("name", KERNELS)
def test_long_runs_in_float32_are_as_exact_as_torch(name):
    """Beside float64, over 300 steps in many blocks, the error is at most twice that of PyTorch's own layer."""
    exact = build(name, 4, 32, 2)
    x_BTD, h_LBN = inputs(name, (16, 300, 4, 32, 2))
    with torch.no_grad():
        for W in (exact.weight_hh_l0, exact.weight_hh_l1):
            W.mul_(0.3)
    expected = everything(exact, x_BTD, h_LBN)
    arguments = [each.detach().float().requires_grad_() for each in (x_BTD, h_LBN)]
    twin = torch_twin(name, exact).float()
    errors = [
        [
            (found - right).abs().max().item() / right.abs().max().item()
            for found, right in zip(everything(layer, *arguments), expected, strict=True)
        ]
        for layer in (exact.float(), twin)
    ]
    for ours, theirs in zip(*errors, strict=True):
        assert ours <= 2 * theirs + 1e-6


@every_kind
def test_only_what_is_asked_for_is_computed_and_it_is_the_same(name):
    layer = build(name, 3, 4)
    x_BTD, h_LBN = inputs(name, (2, 5, 3, 4, 1))
    _, _, *whole = everything(layer, x_BTD, h_LBN)
    for wanted in itertools.product([False, True], repeat=3):
        if not any(wanted):
            continue
        x, h = x_BTD.detach().requires_grad_(wanted[0]), h_LBN.detach().requires_grad_(wanted[1])
        layer.requires_grad_(wanted[2])
        asked = [each for each in (x, h, *layer.parameters()) if each.requires_grad]
        found = iter(torch.autograd.grad(loss_of(*layer(x, h)), asked))
        for expected, want in zip(whole, [wanted[0], wanted[1], *[wanted[2]] * 4], strict=True):
            assert not want or torch.equal(next(found), expected)


@every_kind
def test_gradients_do_not_depend_on_the_layout_of_what_comes_from_above(name):
    layer = build(name, 3, 4)
    x_BTD, h_LBN = inputs(name, (2, 5, 3, 4, 1))
    wanted = [x_BTD, h_LBN, *layer.parameters()]
    h_BTN, _ = layer(x_BTD, h_LBN)
    one = torch.ones((), dtype=torch.float64)
    ones = (one.expand(2, 5, 4), torch.ones(2, 5, 4).double(), torch.ones(4, 5, 2).double().permute(2, 1, 0))
    found = [torch.autograd.grad(h_BTN, wanted, g, retain_graph=True) for g in ones]  # one graph, three ways back
    for other in found[1:]:
        for actual, expected in zip(other, found[0], strict=True):
            close(actual, expected)
    places = [gradient.untyped_storage().data_ptr() for gradient in found[0]]
    assert len(set(places)) == len(places)  # a clip in place scales each gradient once


@every_kind
def test_an_output_that_was_changed_in_place_gives_no_wrong_gradient(name):
    h_BTN, _ = build(name, 3, 4)(inputs(name, (2, 5, 3, 4, 1))[0])
    h_BTN.mul_(2)
    with pytest.raises(RuntimeError, match="modified by an inplace operation"):
        h_BTN.sum().backward()


# Two derivatives


@pytest.mark.parametrize("name", KERNELS)
@pytest.mark.parametrize("shape", [(2, 3, 2, 3, 2), (1, 1, 1, 2, 1)], ids=str)
def test_it_is_right_to_the_second_derivative(name, shape):
    _, _, D, N, L = shape
    layer = build(name, D, N, L)

    def function(x_BTD: Tensor, h_LBN: Tensor, *weights: Tensor) -> tuple[Tensor, Tensor]:
        parameters = dict(zip(dict(layer.named_parameters()), weights, strict=True))
        return torch.func.functional_call(layer, parameters, (x_BTD, h_LBN))

    arguments = (*inputs(name, shape), *layer.parameters())
    assert torch.autograd.gradcheck(function, arguments)
    assert torch.autograd.gradgradcheck(function, arguments)


@pytest.mark.parametrize("name", KERNELS)
def test_a_penalty_on_gradients_has_the_gradient_that_torch_gives_it(name):
    """Inputs made from W itself: what a second derivative needs must not go the way of the first as well."""
    layer = build(name, 4, 4, 2)
    penalties = []
    for module in (layer, torch_twin(name, layer)):
        W = module.weight_hh_l0
        x_BTD = W[None, :3].tanh()
        (g,) = torch.autograd.grad(module(x_BTD)[0].square().sum(), W, create_graph=True)
        penalties.append([g, *torch.autograd.grad(g.square().sum(), list(module.parameters()))])
    for actual, expected in zip(*penalties, strict=True):
        close(actual, expected, rtol=1e-11)


def test_a_graph_of_the_gradients_does_not_change_them_even_under_autocast():
    layer = build("gru", 3, 4, 2)
    x_BTD, h_LBN = inputs("gru", (2, 5, 3, 4, 2))
    _, _, *expected = everything(layer, x_BTD, h_LBN)
    total = loss_of(*layer(x_BTD, h_LBN))
    with torch.autocast("cpu", torch.bfloat16):
        found = torch.autograd.grad(total, [x_BTD, h_LBN, *layer.parameters()], create_graph=True)
    for actual, right in zip(found, expected, strict=True):
        close(actual, right)


# What goes through it, and what does not


@every_kind
def test_a_cpu_scans_with_a_gradient_and_without_one_and_parametrised_weights_too(name):
    kind = "GRU" if name == "gru" else "RNN"
    layer = build(name, 3, 4, 2)
    x_BTD, _ = inputs(name, (2, 5, 3, 4, 2))
    assert f"_{kind}ScanBackward" in nodes(layer(x_BTD)[0])
    constrain_recurrent_(layer, "orthogonal")
    assert f"_{kind}ScanBackward" in nodes(layer(x_BTD)[0])
    with torch.inference_mode():
        assert layer(x_BTD)[0].grad_fn is None


@pytest.mark.parametrize("name", KERNELS)
@pytest.mark.parametrize("lowered", ["autocast", "bfloat16"])
def test_lower_precision_is_left_to_torch(name, lowered):
    layer = build(name, 3, 4, 2)
    layer = layer.float() if lowered == "autocast" else layer.bfloat16()
    twin = torch_twin(name, layer).to(layer.weight_ih_l0.dtype)
    x_BTD = torch.randn(2, 5, 3).to(layer.weight_ih_l0.dtype)
    with torch.autocast("cpu", torch.bfloat16, enabled=lowered == "autocast"):
        found = [module(x_BTD)[0] for module in (layer, twin)]
    assert not any("Scan" in node for node in nodes(found[0]))
    assert torch.equal(*found)


# Differentiating forward, PyTorch itself scripts what PyTorch deprecates.
@pytest.mark.filterwarnings("ignore:.*torch.jit.script:DeprecationWarning")
@every_kind
def test_derivatives_forward_are_those_of_the_twin(name):
    layer = build(name, 2, 3, 2)
    x_BTD, h_LBN = (each.detach() for each in inputs(name, (2, 4, 2, 3, 2)))
    directions = (torch.randn_like(x_BTD), torch.randn_like(h_LBN))
    whole = torch.autograd.functional.jacobian(lambda x, h: run_twin(name, layer, x, h)[0], (x_BTD, h_LBN))
    expected = sum(torch.tensordot(J, v, dims=3) for J, v in zip(whole, directions, strict=True))
    _, found = torch.func.jvp(lambda x, h: layer(x, h)[0], (x_BTD, h_LBN), directions)
    close(found, expected)
    with torch.autograd.forward_ad.dual_level():
        dual = [torch.autograd.forward_ad.make_dual(*pair) for pair in zip((x_BTD, h_LBN), directions, strict=True)]
        close(torch.autograd.forward_ad.unpack_dual(layer(*dual)[0]).tangent, expected)


@every_kind
def test_deeper_layers_get_the_dropped_values_and_the_gradient_the_same_mask(name):
    layer = build(name, 3, 6, 2, dropout=0.5)
    x_BTD, h_LBN = inputs(name, (2, 5, 3, 6, 2))

    def loss() -> Tensor:
        torch.manual_seed(1)
        return loss_of(*layer(x_BTD, h_LBN))

    (g,) = torch.autograd.grad(loss(), layer.weight_hh_l0)
    direction = torch.randn_like(g)
    values = []
    for step in (1e-6, -1e-6):
        with torch.no_grad():
            layer.weight_hh_l0.add_(step * direction)
            values.append(loss().item())
            layer.weight_hh_l0.sub_(step * direction)
    assert (g * direction).sum().item() == pytest.approx((values[0] - values[1]) / 2e-6, rel=1e-5)
