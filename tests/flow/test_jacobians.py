"""Norms of Jacobian products: closed forms, autograd of the layer in many digits, and what must hold for all."""

from __future__ import annotations

import copy
import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from tests.flow.problems import PROBLEMS, FlowProblem, rnn, state, tensor, zeros
from tests.flow.test_lyapunov import LAYERS, close, draw
from tests.reference import flow as twin
from torch import nn

from holdfast.errors import OptionError, TrainingError
from holdfast.flow import jacobian_log_norms, lyapunov_exponents, saturation, transient_growth
from holdfast.flow.cells import SLOPES, read_layer
from holdfast.flow.products import Product


@pytest.fixture(autouse=True)
def seed():
    torch.manual_seed(0)


@pytest.mark.parametrize("problem", [one for one in PROBLEMS if one.log_norm], ids=lambda problem: problem.name)
def test_closed_forms(problem: FlowProblem) -> None:
    found = jacobian_log_norms(problem.layer, problem.x_BTD, problem.h0)
    expected = [0.0, *(problem.log_norm(k) for k in range(1, problem.x_BTD.shape[1] + 1))]
    close(found, [expected])


@pytest.mark.parametrize("problem", PROBLEMS, ids=lambda problem: problem.name)
def test_closed_forms_are_the_layer_itself(problem: FlowProblem) -> None:
    """The table against autograd of the layer in many digits, so that no closed form is that of another problem."""
    x_BTD, h0 = problem.x_BTD[:, :6], problem.h0
    expected = twin.log_norms(twin.step_jacobians(problem.layer, x_BTD, h0)[0])
    # Autograd takes 1 - h^2 for the slope: beside it, 1e-9 of a saturated unit is lost there.
    close(jacobian_log_norms(problem.layer, x_BTD, h0), [expected], atol=1e-8)


@pytest.mark.parametrize("name", LAYERS)
def test_equal_to_autograd_in_many_digits(name: str) -> None:
    layer, x_BTD = draw(name)
    J = twin.step_jacobians(layer, x_BTD)
    close(jacobian_log_norms(layer, x_BTD), [twin.log_norms(J_TMM) for J_TMM in J], atol=1e-8)


@pytest.mark.parametrize("name", LAYERS)
def test_local_jacobians_are_those_of_the_layer(name: str) -> None:
    layer, x_BTD = draw(name, T=5)
    start = torch.randn(2 if "LSTM" in name else 1, layer.num_layers, 2, layer.hidden_size, dtype=torch.float64)
    h0 = tuple(start.unbind()) if "LSTM" in name else start[0]
    recurrence = read_layer(layer)
    found = [recurrence.jacobian(x_BD, before) for x_BD, before in recurrence.states(x_BTD, h0)]
    torch.testing.assert_close(torch.stack(found, 1), twin.step_jacobians(layer, x_BTD, h0), atol=1e-12, rtol=1e-12)


@pytest.mark.parametrize("name", LAYERS)
def test_states_are_those_of_the_layer(name: str) -> None:
    layer, x_BTD = draw(name, T=6)
    for t, (_, before) in enumerate(read_layer(layer).states(x_BTD, None)):
        if t:
            after = layer(x_BTD[:, :t])[1]
            for ours, theirs in zip(before, after if "LSTM" in name else (after,), strict=True):
                torch.testing.assert_close(ours, theirs, atol=1e-12, rtol=1e-12)


@pytest.mark.parametrize("name", LAYERS)
def test_the_block_of_h(name: str) -> None:
    layer, x_BTD = draw(name, B=1)
    J, units = twin.step_jacobians(layer, x_BTD)[0], layer.num_layers * layer.hidden_size
    found = jacobian_log_norms(layer, x_BTD, part="h")
    close(found, [twin.log_norms(J, units)], atol=1e-8)
    whole = jacobian_log_norms(layer, x_BTD)
    assert (found <= whole + 1e-12).all()
    if "LSTM" not in name:
        assert torch.equal(found, whole)


def test_what_vanishes_through_h_lives_on_in_c() -> None:
    """With no recurrent weights nothing goes from h to h, while c keeps sigmoid(5) of itself per step."""
    problem = next(one for one in PROBLEMS if one.name == "LSTM that only remembers")
    x_BTD = problem.x_BTD[:, :50]
    close(jacobian_log_norms(problem.layer, x_BTD, part="h")[0, 1:], [-math.inf] * 50)
    assert jacobian_log_norms(problem.layer, x_BTD)[0, -1] > -0.5


@pytest.mark.parametrize("name", LAYERS)
def test_the_last_chunk_alone_gives_the_first_lags(name: str) -> None:
    layer, x_BTD = draw(name)
    _, middle = layer(x_BTD[:, :5])
    whole = jacobian_log_norms(layer, x_BTD)
    close(jacobian_log_norms(layer, x_BTD[:, 5:], middle), whole[:, :8], atol=1e-10)


@pytest.mark.parametrize("name", LAYERS)
def test_windows_do_not_meet(name: str) -> None:
    layer, x_BTD = draw(name, B=3)
    alone = [jacobian_log_norms(layer, x_BTD[b : b + 1])[0] for b in range(3)]
    close(jacobian_log_norms(layer, x_BTD), torch.stack(alone), atol=1e-10)


@pytest.mark.parametrize("name", LAYERS)
def test_products_of_products_are_bounds(name: str) -> None:
    """||J_T ... J_{T-k}|| <= ||J_T ... J_{T-k+1}|| ||J_{T-k}||."""
    layer, x_BTD = draw(name, B=1)
    local = torch.linalg.matrix_norm(twin.step_jacobians(layer, x_BTD)[0], 2).log().flip(0)
    found = jacobian_log_norms(layer, x_BTD)[0]
    assert (found[1:] <= found[:-1] + local + 1e-9).all()


@pytest.mark.parametrize("name", [name for name in LAYERS if name != "relu"])
def test_float32_agrees(name: str) -> None:
    layer, x_BTD = draw(name)
    single = jacobian_log_norms(copy.deepcopy(layer).float(), x_BTD.float())
    close(single, jacobian_log_norms(layer, x_BTD), atol=1e-4)


@settings(max_examples=25, deadline=None)
@given(st.integers(0, 10**6), st.floats(1e-80, 1e80))
def test_scaling_a_linear_layer_adds_the_log_per_lag(seed: int, a: float) -> None:
    W = torch.randn(3, 3, dtype=torch.float64, generator=torch.Generator().manual_seed(seed))
    plain = jacobian_log_norms(rnn("linear", W), zeros(20))
    close(
        jacobian_log_norms(rnn("linear", a * W), zeros(20)),
        plain + math.log(a) * torch.arange(21, dtype=torch.float64),
        atol=1e-8,
    )


def test_a_linear_layer_has_the_powers_of_its_matrix() -> None:
    W = torch.randn(4, 4, dtype=torch.float64)
    close(jacobian_log_norms(rnn("linear", W), zeros(30))[0], transient_growth(W, 30).log_norms)


def test_the_growth_over_many_lags_is_the_largest_exponent() -> None:
    layer, x_BTD = draw("GRU", B=1, T=2000)
    log_norm = jacobian_log_norms(layer, x_BTD)[0, -1].item() / 2000
    exponent = lyapunov_exponents(layer, x_BTD, 1, warmup=0).values.item()
    assert abs(log_norm - exponent) < 5e-3
    assert log_norm > exponent  # no direction stretches more than the norm


def test_1e400_and_its_inverse_are_told_exactly() -> None:
    for power in (20.0, -20.0):
        layer = rnn("linear", torch.diag(tensor(10.0**power, 10.0 ** (power - 1))))
        found = jacobian_log_norms(layer, zeros(20))[0, -1].item()
        assert math.isclose(found, math.log(10) * power * 20, rel_tol=1e-14)


def chain(*factors: torch.Tensor) -> Product:
    """The product of factors [M, M], the first of them applied first."""
    product = Product.identity(1, len(factors[0]), len(factors[0]), torch.device("cpu"))
    for J_MM in factors:
        product = product.after(J_MM[None].double())
    return product


def test_what_is_small_now_may_count_later() -> None:
    """A direction 1e-1000 of the other is all that is left once the other is put out."""
    small, other = torch.diag(tensor(1e-10, 1)), torch.diag(tensor(1e10, 0))
    product = chain(*[small] * 100)
    close(product.log_norm(2), [0.0])
    close(product.log_norm(1), [-1000 * math.log(10)])
    close(chain(*[small] * 100, *[other] * 100).log_norm(2), [0.0], atol=1e-9)
    close(chain(*[other] * 100, *[small] * 100).log_norm(2), [0.0], atol=1e-9)


@pytest.mark.parametrize("size", [1e-150, 1e-30, 1.0, 1e30, 1e150])
def test_products_equal_those_in_many_digits(size: float) -> None:
    J_TMM = torch.randn(30, 3, 3, dtype=torch.float64) * size ** torch.rand(30, 1, 1).double()
    J_TMM[4, 1] = 0  # a dead unit for one step
    expected = twin.log_norms(J_TMM.flip(0).mT)  # a product and its transpose are of one norm
    found = [chain(*J_TMM[:t]).log_norm(3).item() for t in range(1, 31)]
    close(tensor(*found), expected[1:])


@pytest.mark.parametrize("phi", SLOPES)
def test_slopes_in_the_tails(phi: str) -> None:
    """Slopes keep their relative precision where 1 - h would be 0."""
    for a in (-300.0, -40.0, -20.0, -1.0, 0.0, 1.0, 20.0, 40.0, 300.0):
        value, slope = SLOPES[phi](torch.tensor(a, dtype=torch.float64))
        e = math.exp(-abs(a))
        expected = {
            "tanh": 4 * e**2 / (1 + e**2) ** 2,
            "sigmoid": e / (1 + e) ** 2,
            "relu": float(a > 0),
            "linear": 1.0,
        }[phi]
        assert math.isclose(slope.item(), expected, rel_tol=1e-12)
        layer = rnn(phi, torch.zeros(1, 1), tensor(a))
        assert math.isclose(value.item(), layer(zeros(1))[0].item(), rel_tol=1e-12)


def test_saturation_counts_steps() -> None:
    layer = nn.GRU(2, 3, batch_first=True).double()
    for weight in layer.parameters():
        nn.init.normal_(weight, std=3.0)
    x_BTD = torch.randn(3, 40, 2, dtype=torch.float64)
    h_BTN, _ = layer(x_BTD)
    before = torch.cat([torch.zeros(3, 1, 3, dtype=torch.float64), h_BTN[:, :-1]], 1)
    a_r, a_z, a_n = (x_BTD @ layer.weight_ih_l0.T + layer.bias_ih_l0).chunk(3, -1)
    r_r, r_z, r_n = (before @ layer.weight_hh_l0.T + layer.bias_hh_l0).chunk(3, -1)
    r, z = torch.sigmoid(a_r + r_r), torch.sigmoid(a_z + r_z)
    n = torch.tanh(a_n + r * r_n)
    found = saturation(layer, x_BTD)
    for gate, slope in {"r": r * (1 - r), "z": z * (1 - z), "n": 1 - n**2}.items():
        close(found["l0", gate], (slope < 1e-3).double().mean((0, 1)).tolist())
    assert list(found) == [("l0", "r"), ("l0", "z"), ("l0", "n")]
    assert 0 < found["l0", "n"].mean() < 1
    assert all((share == 1).all() for share in saturation(layer, x_BTD, below=1.1).values())


def test_dead_units_stand_out() -> None:
    layer = rnn("relu", torch.eye(3) / 2, tensor(1, -1, 0.1), tensor([0], [0], [1]))
    x_BTD = tensor(1, -5, 1, -5)[None, :, None]
    close(saturation(layer, x_BTD)["l0", "h"], [0.0, 1.0, 0.5])
    assert set(saturation(nn.LSTM(1, 2, 2), x_BTD.float())) == {(f"l{k}", gate) for k in (0, 1) for gate in "ifgo"}


def test_saturated_from_the_start() -> None:
    layer = rnn("tanh", 50 * torch.eye(1))
    close(saturation(layer, zeros(5), state(1.0))["l0", "h"], [1.0])
    close(saturation(layer, zeros(5))["l0", "h"], [0.0])


def test_refusals() -> None:
    layer = nn.LSTM(2, 3)
    with pytest.raises(OptionError, match="state or h"):
        jacobian_log_norms(layer, torch.zeros(1, 4, 2), part="c")
    with pytest.raises(OptionError, match=r"D = 2"):
        jacobian_log_norms(layer, torch.zeros(1, 4, 3))
    with pytest.raises(OptionError, match="bidirectional=True"):
        jacobian_log_norms(nn.RNN(2, 3, bidirectional=True), torch.zeros(1, 4, 2))
    with pytest.raises(OptionError, match="Linear"):
        saturation(nn.Linear(2, 3), torch.zeros(1, 4, 2))
    nn.init.constant_(layer.weight_hh_l0, math.inf)
    with pytest.raises(TrainingError, match="nan or inf"):
        jacobian_log_norms(layer, torch.zeros(1, 4, 2))


def test_nothing_is_touched() -> None:
    layer, x_BTD = draw("LSTM stack")
    layer.train()
    before, random = copy.deepcopy(layer.state_dict()), torch.get_rng_state()
    found = jacobian_log_norms(layer, x_BTD.requires_grad_())
    saturation(layer, x_BTD)
    assert not found.requires_grad and layer.training
    assert torch.equal(torch.get_rng_state(), random)
    assert all(torch.equal(before[name], weight) for name, weight in layer.state_dict().items())
    assert all(weight.grad is None and weight.requires_grad for weight in layer.parameters())
