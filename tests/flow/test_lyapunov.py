"""Lyapunov exponents: closed forms, Gram-Schmidt in many digits, and what must hold for every layer."""

from __future__ import annotations

import copy
import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from tests.flow.problems import PROBLEMS, FlowProblem, rnn, tensor, zeros
from tests.reference import flow as twin
from torch import nn

from holdfast.errors import OptionError, TrainingError
from holdfast.flow import LyapunovExponents, lyapunov_exponents
from holdfast.networks.cells import GRU, LSTM, RNN

LAYERS = {
    "tanh": lambda: RNN(2, 3),
    "relu": lambda: nn.RNN(2, 3, nonlinearity="relu", batch_first=True),
    "sigmoid": lambda: RNN(2, 3, nonlinearity="sigmoid"),
    "linear stack": lambda: RNN(2, 2, 2, nonlinearity="linear"),
    "GRU": lambda: nn.GRU(2, 3, batch_first=True),
    "GRU stack": lambda: GRU(2, 2, 2),
    "LSTM": lambda: LSTM(2, 2),
    "LSTM stack": lambda: nn.LSTM(2, 2, 2, batch_first=True),
}


@pytest.fixture(autouse=True)
def seed():
    torch.manual_seed(0)


def draw(name: str, B: int = 2, T: int = 12) -> tuple[nn.Module, torch.Tensor]:
    layer = LAYERS[name]().double()
    for weight in layer.parameters():
        nn.init.normal_(weight, std=0.8)
    return layer, torch.randn(B, T, 2, dtype=torch.float64)


def close(got: torch.Tensor, expected: object, atol: float = 1e-9) -> None:
    """Equal to within atol; infinities must match."""
    torch.testing.assert_close(got, torch.as_tensor(expected, dtype=torch.float64), atol=atol, rtol=0, equal_nan=True)


@pytest.mark.parametrize("problem", PROBLEMS, ids=lambda problem: problem.name)
def test_closed_forms(problem: FlowProblem) -> None:
    found = lyapunov_exponents(problem.layer, problem.x_BTD, h0=problem.h0, warmup=problem.warmup)
    close(found.values, problem.exponents)
    assert (found.warmup, found.steps) == (problem.warmup, problem.x_BTD.shape[1] - problem.warmup)


@pytest.mark.parametrize("problem", PROBLEMS, ids=lambda problem: problem.name)
def test_the_largest_alone(problem: FlowProblem) -> None:
    found = lyapunov_exponents(problem.layer, problem.x_BTD, 1, h0=problem.h0, warmup=problem.warmup)
    close(found.values, problem.exponents[:1])


@pytest.mark.parametrize("name", [name for name in LAYERS if name != "relu"])
def test_equal_to_gram_schmidt_in_many_digits(name: str) -> None:
    layer, x_BTD = draw(name)
    M = lyapunov_exponents(layer, x_BTD).values.numel()
    J = twin.step_jacobians(layer, x_BTD)
    for k in (1, M):
        found = lyapunov_exponents(layer, x_BTD, k, warmup=3)
        close(found.values, twin.exponents(J, k, 3), atol=1e-8)
    close(lyapunov_exponents(layer, x_BTD, 1, warmup=3).standard_error[0], twin.standard_error(J, 3))
    close(lyapunov_exponents(layer, x_BTD[:1], 1, warmup=7).standard_error[0], twin.standard_error(J[:1], 7))


@pytest.mark.parametrize("name", [name for name in LAYERS if name != "relu"])
def test_the_sum_is_the_mean_log_determinant(name: str) -> None:
    layer, x_BTD = draw(name)
    J = twin.step_jacobians(layer, x_BTD)[:, 2:]
    close(lyapunov_exponents(layer, x_BTD, warmup=2).values.sum(), torch.linalg.slogdet(J)[1].mean().item(), atol=1e-8)


@pytest.mark.parametrize("name", LAYERS)
def test_windows_do_not_meet(name: str) -> None:
    layer, x_BTD = draw(name, B=3)
    together = lyapunov_exponents(layer, x_BTD, 2)
    alone = [lyapunov_exponents(layer, x_BTD[b : b + 1], 2).by_window[0] for b in range(3)]
    close(together.by_window.sort(1).values, torch.stack(alone).sort(1).values, atol=1e-10)
    close(together.values, together.by_window.mean(0))


@pytest.mark.parametrize("name", LAYERS)
def test_all_together_are_additive_over_chunks(name: str) -> None:
    layer, x_BTD = draw(name)
    _, state = layer(x_BTD[:, :5])
    first = lyapunov_exponents(layer, x_BTD[:, :5], warmup=0).values.sum()
    second = lyapunov_exponents(layer, x_BTD[:, 5:], h0=state, warmup=0).values.sum()
    close((5 * first + 7 * second) / 12, lyapunov_exponents(layer, x_BTD, warmup=0).values.sum(), atol=1e-8)


@pytest.mark.parametrize("name", [name for name in LAYERS if name != "relu"])
def test_float32_agrees(name: str) -> None:
    layer, x_BTD = draw(name)
    single = lyapunov_exponents(copy.deepcopy(layer).float(), x_BTD.float(), 2)
    close(single.values, lyapunov_exponents(layer, x_BTD, 2).values, atol=1e-4)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_half_precision_weights_are_measured_as_they_are(dtype: torch.dtype) -> None:
    layer, x_BTD = draw("GRU")
    half, x_half = layer.to(dtype), x_BTD.to(dtype)
    found = lyapunov_exponents(half, x_half)
    close(found.values, lyapunov_exponents(copy.deepcopy(half).double(), x_half.double()).values)


@settings(max_examples=25, deadline=None)
@given(st.integers(0, 10**6), st.floats(1e-6, 1e6))
def test_scaling_a_linear_layer_adds_the_log(seed: int, a: float) -> None:
    W = torch.randn(3, 3, dtype=torch.float64, generator=torch.Generator().manual_seed(seed))
    plain = lyapunov_exponents(rnn("linear", W), zeros(20)).values
    close(lyapunov_exponents(rnn("linear", a * W), zeros(20)).values, plain + math.log(a), atol=1e-8)


@settings(max_examples=25, deadline=None)
@given(st.integers(0, 10**6))
def test_an_orthogonal_change_of_basis_changes_nothing(seed: int) -> None:
    generator = torch.Generator().manual_seed(seed)
    V, d = torch.randn(3, 3, dtype=torch.float64, generator=generator), tensor(1.5, 0.5, 0.1)
    W = torch.linalg.qr(V)[0] @ (torch.diag(d) + torch.ones(3, 3).triu(1))
    W = W @ torch.linalg.qr(V)[0].T
    Q = torch.linalg.qr(torch.randn(3, 3, dtype=torch.float64, generator=generator))[0]
    close(lyapunov_exponents(rnn("linear", W), zeros(90), warmup=60).values, d.log(), atol=1e-8)
    close(lyapunov_exponents(rnn("linear", Q @ W @ Q.T), zeros(90), warmup=60).values, d.log(), atol=1e-8)


def test_standard_error_covers_the_truth() -> None:
    """Over inputs that switch a sigmoid between two slopes at random, in units of the error, the mean misses by 1."""
    layer = rnn("sigmoid", tensor([1e-12]), U=torch.ones(1, 1))
    generator, scores = torch.Generator().manual_seed(3), []
    for _ in range(40):
        # The recurrence is too weak to matter for h: independent steps, at a = 0 or a = 3.
        on = torch.randint(0, 2, (4, 60, 1), generator=generator).double()
        found = lyapunov_exponents(layer, 3 * on, 1, warmup=0)
        slopes = (torch.sigmoid(3 * on) * torch.sigmoid(-3 * on)).log().mean() + math.log(1e-12)
        close(found.values[0], slopes.item())
        truth = math.log(1e-12) + (math.log(0.25) + math.log(1 / (2 + math.exp(3) + math.exp(-3)))) / 2
        scores.append((found.values[0].item() - truth) / found.standard_error[0].item())
    spread = math.sqrt(sum(score**2 for score in scores) / len(scores))
    assert 0.5 < spread < 1.3  # 1 for the true error; the larger of two estimates is on the careful side


def test_standard_error_of_what_does_not_vary() -> None:
    found = lyapunov_exponents(rnn("linear", torch.eye(2) / 2), zeros(30, B=3))
    close(found.standard_error, [0.0, 0.0])
    assert lyapunov_exponents(rnn("linear", torch.eye(1)), zeros(1)).standard_error.isnan().all()
    assert lyapunov_exponents(rnn("linear", torch.zeros(1, 1)), zeros(9)).standard_error.isnan().all()


def test_a_state_that_overflows_is_told_apart_from_its_jacobian() -> None:
    layer = rnn("linear", 1e200 * torch.eye(1).double(), U=torch.ones(1, 1))
    close(lyapunov_exponents(layer, 1 + zeros(8), warmup=0).values, [math.log(1e200)])


def test_nothing_is_touched() -> None:
    layer, x_BTD = draw("LSTM")
    before, random = copy.deepcopy(layer.state_dict()), torch.get_rng_state()
    layer(x_BTD)[0].sum().backward()
    grads = [weight.grad.clone() for weight in layer.parameters()]
    found = lyapunov_exponents(layer, x_BTD.requires_grad_(), 2)
    assert not found.values.requires_grad
    assert torch.equal(torch.get_rng_state(), random)
    assert all(torch.equal(before[name], weight) for name, weight in layer.state_dict().items())
    assert all(torch.equal(grad, weight.grad) for grad, weight in zip(grads, layer.parameters(), strict=True))
    assert x_BTD.grad is None


@pytest.mark.parametrize(
    "cell", [nn.RNNCell(2, 3, nonlinearity="relu"), nn.GRUCell(2, 3, bias=False), nn.LSTMCell(2, 3)]
)
def test_cells_are_layers_of_one_step(cell: nn.Module) -> None:
    kind = {nn.RNNCell: nn.RNN, nn.GRUCell: nn.GRU, nn.LSTMCell: nn.LSTM}[type(cell)]
    options = {"nonlinearity": "relu"} if kind is nn.RNN else {}
    layer = kind(2, 3, bias=cell.bias, **options)
    layer.load_state_dict({f"{name}_l0": weight for name, weight in cell.state_dict().items()})
    x_BTD, random = torch.randn(2, 9, 2), torch.get_rng_state()
    found = lyapunov_exponents(cell, x_BTD)
    assert torch.equal(torch.get_rng_state(), random)
    assert torch.equal(found.by_window, lyapunov_exponents(layer, x_BTD).by_window)


def test_dropout_is_no_matter_in_eval_mode() -> None:
    layer = nn.GRU(2, 3, 2, dropout=0.5)
    with pytest.raises(OptionError, match=r"dropout=0.5[\s\S]*layer.eval\(\)"):
        lyapunov_exponents(layer, torch.zeros(1, 4, 2))
    assert isinstance(lyapunov_exponents(layer.eval(), torch.zeros(1, 4, 2)), LyapunovExponents)


@pytest.mark.parametrize(
    ("layer", "x_BTD", "options", "words"),
    [
        (nn.Linear(2, 2), torch.zeros(1, 4, 2), {}, "Linear"),
        (nn.LSTM(2, 3, proj_size=1), torch.zeros(1, 4, 2), {}, "proj_size=1"),
        (nn.LSTM(2, 3, bidirectional=True), torch.zeros(1, 4, 2), {}, "bidirectional=True"),
        (nn.GRU(2, 3), torch.zeros(1, 4, 3), {}, r"D = 2[\s\S]*\[1, 4, 3\]"),
        (nn.GRU(2, 3), torch.zeros(4, 2), {}, r"\[4, 2\]"),
        (nn.GRU(2, 3), torch.zeros(1, 0, 2), {}, r"\[1, 0, 2\]"),
        (nn.GRU(2, 3), nn.utils.rnn.pack_sequence([torch.zeros(4, 2)]), {}, "PackedSequence"),
        (nn.GRU(2, 3), torch.full((1, 4, 2), math.nan), {}, "inputs x_BTD[\\s\\S]*nan"),
        (nn.GRU(2, 3), torch.zeros(1, 4, 2), {"k": 4}, "1 to 3"),
        (nn.GRU(2, 3), torch.zeros(1, 4, 2), {"k": 0, "warmup": 4}, r"k\n[\s\S]*warmup\n"),
        (nn.GRU(2, 3), torch.zeros(1, 4, 2), {"warmup": -1}, "0 to 3"),
        (nn.GRU(2, 3), torch.zeros(1, 4, 2), {"h0": torch.zeros(1, 2, 3)}, r"\[1, 1, 3\][\s\S]*\[1, 2, 3\]"),
        (nn.LSTM(2, 3), torch.zeros(1, 4, 2), {"h0": torch.zeros(1, 1, 3)}, "h and c"),
    ],
)
def test_refusals(layer: nn.Module, x_BTD: torch.Tensor, options: dict[str, object], words: str) -> None:
    with pytest.raises(OptionError, match=words):
        lyapunov_exponents(layer, x_BTD, **options)


def test_weights_that_are_not_finite() -> None:
    layer = nn.GRU(2, 3)
    nn.init.constant_(layer.weight_hh_l0, math.nan)
    with pytest.raises(TrainingError, match="nan or inf"):
        lyapunov_exponents(layer, torch.zeros(1, 4, 2))
