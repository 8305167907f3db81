"""Singular values of Jacobian products: closed forms, hundreds of digits, and what must hold for all."""

from __future__ import annotations

import copy
import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from tests.flow.problems import PROBLEMS, FlowProblem, rnn, tensor, zeros
from tests.flow.test_lyapunov import LAYERS, close, draw
from tests.reference import flow as twin
from torch import nn

from holdfast.errors import OptionError, TrainingError
from holdfast.flow import jacobian_log_norms, jacobian_log_singular_values, lyapunov_exponents
from holdfast.flow.cells import read_layer
from holdfast.flow.products import Product
from holdfast.flow.singular import log_singular_values

INF = math.inf


@pytest.fixture(autouse=True)
def seed():
    torch.manual_seed(0)


def product(*factors: torch.Tensor) -> torch.Tensor:
    """Log singular values of the product of factors [M, M], the first of them applied first."""
    return log_singular_values([F_MM[None].double() for F_MM in factors])[0]


def orthogonal(M: int) -> torch.Tensor:
    return torch.linalg.qr(torch.randn(M, M, dtype=torch.float64))[0]


def gaussian(M: int, T: int) -> torch.Tensor:
    return torch.randn(T, M, M, dtype=torch.float64)


@pytest.mark.parametrize("problem", [one for one in PROBLEMS if one.log_singular], ids=lambda problem: problem.name)
def test_closed_forms(problem: FlowProblem) -> None:
    for T in (problem.x_BTD.shape[1], 3, 2, 1):
        if problem.name == "tent map" and problem.x_BTD.shape[1] > T:  # told for products that end at the last step
            continue
        found = jacobian_log_singular_values(problem.layer, problem.x_BTD[:, :T], problem.h0)
        close(found, [problem.log_singular(T)])


@pytest.mark.parametrize("problem", PROBLEMS, ids=lambda problem: problem.name)
def test_the_largest_is_the_norm(problem: FlowProblem) -> None:
    found = jacobian_log_singular_values(problem.layer, problem.x_BTD, problem.h0)
    close(found[:, 0], jacobian_log_norms(problem.layer, problem.x_BTD, problem.h0)[:, -1])
    assert found.shape == (1, len(problem.exponents)) and (found.diff(dim=1) <= 0)[found[:, 1:] > -INF].all()


@pytest.mark.parametrize("std", [0.8, 2.0])
@pytest.mark.parametrize("name", LAYERS)
def test_equal_to_layers_in_many_digits(name: str, std: float) -> None:
    layer, x_BTD = draw(name, B=1, T=25)
    for weight in layer.parameters():
        nn.init.normal_(weight, std=std)
    recurrence = read_layer(layer)
    J_TMM = torch.cat([recurrence.jacobian(x_BD, state) for x_BD, state in recurrence.states(x_BTD, None)])
    found = jacobian_log_singular_values(layer, x_BTD)
    close(found, [twin.log_singular_values(J_TMM, 600)])


@pytest.mark.parametrize("name", LAYERS)
def test_equal_to_autograd(name: str) -> None:
    """Jacobians of the layer itself, where the range is small enough for any way."""
    layer, x_BTD = draw(name, T=3)
    J_BTMM = twin.step_jacobians(layer, x_BTD)
    dense_BMM = J_BTMM[:, 2] @ J_BTMM[:, 1] @ J_BTMM[:, 0]
    found = jacobian_log_singular_values(layer, x_BTD).exp()
    torch.testing.assert_close(found, torch.linalg.svdvals(dense_BMM), atol=1e-13, rtol=1e-12)


@pytest.mark.parametrize(("M", "T"), [(1, 9), (2, 50), (3, 200), (5, 60), (8, 40)])
def test_equal_in_many_digits(M: int, T: int) -> None:
    J_TMM = gaussian(M, T)
    close(product(*J_TMM), twin.log_singular_values(J_TMM, 500))


@pytest.mark.parametrize("least", [-40.0, -300.0, -700.0])
def test_slopes_of_any_size(least: float) -> None:
    """A unit that a step almost puts out, by its slope: e^-700 is 1e-304."""
    W_MM = torch.randn(4, 4, dtype=torch.float64)
    J_TMM = (least * torch.rand(8, 4, 1, dtype=torch.float64)).exp() * W_MM
    found = product(*J_TMM)
    close(found, twin.log_singular_values(J_TMM, 5000))
    assert found[0] - found[-1] > abs(least)


def test_300_decades_up_and_down_in_one_product() -> None:
    """U_t D_t V_t^T whose inner factors cancel: the product has the singular values of D_T ... D_1."""
    turns = [orthogonal(4) for _ in range(101)]
    decades_TM = torch.sort(torch.rand(100, 4, dtype=torch.float64), descending=True).values + tensor(3, 1, -1, -3)
    decades_TM = decades_TM * 100 / decades_TM[:, 0].sum() * 3
    J_TMM = [turns[t + 1] @ torch.diag(10 ** decades_TM[t]) @ turns[t].T for t in range(100)]
    expected = decades_TM.sum(0)
    assert math.isclose(expected[0], 300) and expected[-1] < -200
    close(product(*J_TMM) / math.log(10), expected)


def test_no_order_of_directions_misleads() -> None:
    """The direction that grows most stands last, and is bound to the others hardly or not at all."""
    for binding in (0.0, 1.0, 1e-200):
        J_MM = tensor([0.1, binding], [0, 2])
        for each in (J_MM, J_MM.flip(0, 1), J_MM.T):
            close(product(*[each] * 300), pair_of_powers(0.1, binding, 2, 300))


def pair_of_powers(a: float, b: float, d: float, k: int) -> list[float]:
    """Log singular values of [[a, b], [0, d]]^k where d^k is far above the others, and b either counts or does not."""
    top = k * math.log(d) + math.log1p((b / (d - a)) ** 2) / 2
    return [top, k * math.log(a * d) - top]


def test_what_grew_may_shrink_again() -> None:
    """1e200 and back, with a binding of 1e-20 met in between: [[1, 1e180], [0, 1]]."""
    factors = (torch.diag(tensor(1, 1e200)), tensor([1, 1e-20], [0, 1]), torch.diag(tensor(1, 1e-200)))
    close(product(*factors) / math.log(10), [180.0, -180.0])
    close(product(*[torch.diag(tensor(1e150, 1e-150))] * 3, *[torch.diag(tensor(1e-150, 1e150))] * 3), [0.0, 0.0])


def test_scales_first_and_mixing_second() -> None:
    """Columns of different size: 1e-40 of what the mixing matrix alone would do."""
    W_MM = torch.randn(3, 3, dtype=torch.float64)
    D_MM = torch.diag(tensor(1, 1e-20, 1e-40))
    close(product(*[W_MM @ D_MM] * 6), twin.log_singular_values(torch.stack([W_MM @ D_MM] * 6), 2000))


def test_zeros_are_counted_exactly() -> None:
    """As many zeros as the rank leaves out, from dead units, dead inputs and a memory read twice."""
    W_MM = torch.randn(6, 6, dtype=torch.float64)
    alive = [tensor(1, 1, 0, 1, 1, 1), tensor(1, 1, 1, 1, 0, 0), tensor(1, 1, 1, 1, 1, 1)]
    for factors in ([a[:, None] * W_MM for a in alive], [W_MM * a for a in alive]):
        found = product(*factors)
        assert (found == -INF).tolist() == [False] * 4 + [True] * 2
        close(found, twin.log_singular_values(torch.stack(factors), 300))
    V_MM = torch.randn(3, 3)
    twice = torch.cat([torch.cat([V_MM / 4, torch.eye(3) / 4], 1), torch.cat([V_MM / 2, torch.eye(3) / 2], 1)])
    found = product(*[twice] * 20)
    assert (found == -INF).tolist() == [False] * 3 + [True] * 3
    close(product(*[a[:, None] * W_MM for a in (alive[0], 1 - alive[0])] * 2)[1:], [-INF] * 5)
    close(product(torch.zeros(3, 3), torch.eye(3)), [-INF] * 3)


@pytest.mark.parametrize("M", [2, 5, 20])
def test_logs_sum_to_the_determinant(M: int) -> None:
    J_TMM = gaussian(M, 200)
    expected = torch.linalg.slogdet(J_TMM)[1].sum()
    close(product(*J_TMM).sum(), expected, atol=1e-8)


def test_over_many_steps_they_are_the_exponents() -> None:
    layer, x_BTD = draw("GRU", B=1, T=1500)
    found = jacobian_log_singular_values(layer, x_BTD)[0] / 1500
    close(found, lyapunov_exponents(layer, x_BTD, warmup=0).values, atol=5e-3)


@settings(max_examples=30, deadline=None)
@given(st.integers(0, 10**6), st.integers(1, 7), st.integers(1, 30), st.floats(1e-9, 1e9))
def test_what_must_hold(seed: int, M: int, T: int, a: float) -> None:
    """Scaling adds its log; transposing, turning and splitting change nothing; the inverse has the reciprocals."""
    torch.manual_seed(seed)
    J_TMM = gaussian(M, T)
    found = product(*J_TMM)
    atol = 1e-14 * sum(torch.linalg.cond(J_MM).item() for J_MM in J_TMM)  # what rounding of the factors may do
    close(product(*(a * J_TMM)), found + T * math.log(a), atol=1e-9 + atol)
    close(product(*J_TMM.flip(0).mT), found, atol=1e-10 + atol)
    close(product(orthogonal(M), *J_TMM, orthogonal(M))[0], found[0], atol=1e-9 + atol)
    U, S, Vh = torch.linalg.svd(J_TMM[0])
    close(product(Vh, torch.diag(S), U, *J_TMM[1:]), found, atol=1e-10 + atol)
    close(-product(*torch.linalg.inv(J_TMM).flip(0)).flip(0), found, atol=1e-10 + atol)


@pytest.mark.parametrize("name", LAYERS)
def test_windows_do_not_meet(name: str) -> None:
    layer, x_BTD = draw(name, B=3)
    alone = [jacobian_log_singular_values(layer, x_BTD[b : b + 1])[0] for b in range(3)]
    close(jacobian_log_singular_values(layer, x_BTD), torch.stack(alone), atol=1e-10)


def test_the_state_before_counts() -> None:
    layer, x_BTD = draw("LSTM stack", B=1, T=8)
    _, middle = layer(x_BTD[:, :5])
    first, second = (twin.step_jacobians(layer, part)[0] for part in (x_BTD[:, :5], x_BTD))
    close(jacobian_log_singular_values(layer, x_BTD[:, 5:], middle)[0], product(*second[5:]), atol=1e-8)
    assert torch.equal(first, second[:5])


def test_float32_and_cells() -> None:
    cell = nn.GRUCell(2, 3)
    layer = nn.GRU(2, 3, batch_first=True)
    layer.load_state_dict({f"{name}_l0": weight for name, weight in cell.state_dict().items()})
    x_BTD = torch.randn(2, 9, 2)
    found = jacobian_log_singular_values(cell, x_BTD)
    assert found.dtype == torch.float64 and torch.equal(found, jacobian_log_singular_values(layer, x_BTD))
    close(found, jacobian_log_singular_values(copy.deepcopy(layer).double(), x_BTD.double()), atol=1e-5)


def test_rows_of_any_size_in_products() -> None:
    """The smallest and the largest numbers of float64 in one factor, as saturated slopes give them."""
    J_MM = torch.diag(tensor(1e-308, 1e300)) @ tensor([1, 2], [0.5, -1])
    J_1MM = J_MM[None]
    product = Product.identity(1, 2, 2, J_MM.device).after(J_1MM).after(J_1MM.mT)
    close(product.log_norm(2) / math.log(10), [600 + math.log10(1.25)], atol=1e-12)
    close(product.log_BM[0] / math.log(10), [600 + math.log10(0.5), 600.0], atol=1e-12)


def test_refusals() -> None:
    layer = nn.LSTM(2, 3)
    with pytest.raises(OptionError, match=r"D = 2"):
        jacobian_log_singular_values(layer, torch.zeros(1, 4, 3))
    with pytest.raises(OptionError, match="Linear"):
        jacobian_log_singular_values(nn.Linear(2, 3), torch.zeros(1, 4, 2))
    nn.init.constant_(layer.weight_hh_l0, math.inf)
    with pytest.raises(TrainingError, match="nan or inf"):
        jacobian_log_singular_values(layer, torch.zeros(1, 4, 2))


def test_nothing_is_touched() -> None:
    layer, x_BTD = draw("LSTM stack")
    layer.train()
    before, random = copy.deepcopy(layer.state_dict()), torch.get_rng_state()
    found = jacobian_log_singular_values(layer, x_BTD.requires_grad_())
    assert not found.requires_grad and layer.training and torch.equal(torch.get_rng_state(), random)
    assert all(torch.equal(before[name], weight) for name, weight in layer.state_dict().items())
    close(jacobian_log_singular_values(rnn("linear", torch.eye(2)), zeros(4)), [[0.0, 0.0]])
