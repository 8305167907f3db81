"""Spectra: closed forms, the Schur form in many digits, what the thresholds promise, and transient growth."""

from __future__ import annotations

import math

import pytest
import torch
from hypothesis import assume, given, settings
from hypothesis import strategies as st
from tests.flow.problems import PROBLEMS, FlowProblem, rnn, tensor, zeros
from tests.flow.test_lyapunov import close
from tests.reference import flow as twin
from torch import nn
from torch.nn.utils import parametrizations

from holdfast.errors import OptionError
from holdfast.flow import jacobian_log_norms, lyapunov_exponents, spectra, spectrum, transient_growth
from holdfast.flow.spectra import ACTIVATIONS, GAINS
from holdfast.networks.cells import GRU, LSTM, RNN

seeds = st.integers(0, 10**6)


def matrix(seed: int, N: int = 4) -> torch.Tensor:
    return torch.randn(N, N, dtype=torch.float64, generator=torch.Generator().manual_seed(seed))


def orthogonal(seed: int, N: int = 4) -> torch.Tensor:
    return torch.linalg.qr(matrix(seed, N))[0]


@pytest.mark.parametrize("problem", [one for one in PROBLEMS if one.spectrum], ids=lambda problem: problem.name)
def test_closed_forms(problem: FlowProblem) -> None:
    found = spectra(problem.layer)
    for key, (radius, norm, departure) in problem.spectrum.items():
        one = found[key]
        for got, expected in ((one.radius, radius), (one.norm, norm), (one.departure, departure)):
            assert math.isclose(got, expected, rel_tol=1e-12, abs_tol=1e-12 * norm)


@pytest.mark.parametrize("seed", range(5))
@pytest.mark.parametrize("N", [1, 2, 5, 9])
def test_equal_to_the_schur_form_in_many_digits(seed: int, N: int) -> None:
    W = matrix(seed, N)
    found = spectrum(W, "tanh")
    assert math.isclose(found.departure, twin.departure(W), rel_tol=1e-9, abs_tol=1e-9)
    assert math.isclose(math.log(found.norm), twin.log_norms(W[None])[1], rel_tol=1e-12, abs_tol=1e-12)
    moduli = found.eigenvalues.abs()
    assert found.radius == moduli[0] and (moduli.diff() <= 0).all()
    # Sums of powers of eigenvalues are traces of powers.
    for power in (1, 2, 3):
        trace = torch.linalg.matrix_power(W, power).trace().item()
        assert abs((found.eigenvalues**power).sum() - trace) < 1e-9 * max(1, found.norm**power)


@settings(max_examples=50, deadline=None)
@given(seeds, st.floats(1e-30, 1e30))
def test_scaling(seed: int, a: float) -> None:
    one, other = spectrum(matrix(seed), "linear"), spectrum(a * matrix(seed), "linear")
    for name in ("radius", "norm", "departure"):
        assert math.isclose(getattr(other, name), a * getattr(one, name), rel_tol=1e-9)
    close(other.senders, one.senders, atol=1e-8)


@settings(max_examples=50, deadline=None)
@given(seeds)
def test_an_orthogonal_change_of_basis_changes_nothing(seed: int) -> None:
    W, Q = matrix(seed), orthogonal(seed + 1)
    one, other = spectrum(W, "tanh"), spectrum(Q @ W @ Q.T, "tanh")
    for name in ("radius", "norm", "departure"):
        assert math.isclose(getattr(other, name), getattr(one, name), rel_tol=1e-8, abs_tol=1e-7)


@settings(max_examples=50, deadline=None)
@given(seeds)
def test_bounds_between_them(seed: int) -> None:
    found = spectrum(matrix(seed), "tanh")
    assert found.radius <= found.norm * (1 + 1e-12)
    assert found.norm <= found.radius + found.departure + 1e-9  # W = diag + strictly triangular, after Schur
    for share in (found.senders, found.receivers):
        assert math.isclose(share.sum().item(), 1, abs_tol=1e-12) and (share >= 0).all()


@settings(max_examples=50, deadline=None)
@given(seeds)
def test_normal_matrices_have_no_departure(seed: int) -> None:
    Q = orthogonal(seed)
    for W in (Q, Q + Q.T, Q - Q.T, Q @ torch.diag(tensor(3, 1, 0.5, -2)) @ Q.T):
        found = spectrum(W, "tanh")
        assert found.departure == 0
        assert math.isclose(found.radius, found.norm, rel_tol=1e-12)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float32])
@pytest.mark.parametrize("size", [1e-4, 1.0, 1e4])
def test_lower_precision_agrees(dtype: torch.dtype, size: float) -> None:
    W = (size * matrix(0, 8)).to(dtype)
    one, other = spectrum(W, "tanh"), spectrum(W.double(), "tanh")
    for name in ("radius", "norm", "departure"):
        assert math.isclose(getattr(one, name), getattr(other, name), rel_tol=1e-4)
    assert spectrum(torch.eye(64, dtype=dtype), "tanh").departure == 0


@pytest.mark.parametrize(("dtype", "size"), [(torch.float32, 1e30), (torch.float32, 1e-30), (torch.float64, 1e200)])
def test_huge_and_tiny(dtype: torch.dtype, size: float) -> None:
    found = spectrum(torch.tensor([[1.0, 4.0], [0.0, 0.5]], dtype=dtype) * size, "linear")
    expected = spectrum(torch.tensor([[1.0, 4.0], [0.0, 0.5]], dtype=torch.float64), "linear")
    for name in ("radius", "norm", "departure"):
        assert math.isclose(getattr(found, name), size * getattr(expected, name), rel_tol=1e-6)


def test_orthogonal_weights_in_float32_are_normal() -> None:
    layer = LSTM(1, 128)  # starts with orthogonal matrices
    for one in spectra(layer).values():
        assert one.departure == 0
        assert math.isclose(one.norm, 1, abs_tol=1e-5)
        close(one.senders, [1 / 128] * 128, atol=1e-5)  # no unit leads


@settings(max_examples=40, deadline=None)
@given(seeds, st.sampled_from(sorted(GAINS)), st.floats(0.05, 6.0))
def test_what_the_thresholds_promise(seed: int, phi: str, size: float) -> None:
    """Sufficient: every lag is smaller than the one before. Necessary: whatever grows has passed it."""
    assume(abs(size * GAINS[phi] - 1) > 1e-9)  # on the threshold itself rounding decides
    W = matrix(seed, 3)
    W = size * W / torch.linalg.matrix_norm(W, 2)
    layer = rnn(phi, W, U=matrix(seed + 1, 3)[:, :1])
    x_BTD = torch.randn(2, 12, 1, dtype=torch.float64, generator=torch.Generator().manual_seed(seed))
    log_norms = jacobian_log_norms(layer, x_BTD)
    vanishing, exploding, _ = spectrum(W, phi).thresholds
    if vanishing.holds:
        steps = log_norms.diff()
        assert ((steps < 0) | steps.isnan()).all()  # -inf stays -inf
        assert (log_norms[:, 1:] < 0).all()
    if (log_norms[:, 1:] > 0).any():
        assert exploding.holds
    assert (log_norms <= math.log(size * GAINS[phi]) * torch.arange(13, dtype=torch.float64) + 1e-9).all()


def test_the_heuristic_fails_in_both_directions() -> None:
    shift = 3 * torch.diag(torch.ones(4, dtype=torch.float64), 1)
    assert not spectrum(shift, "tanh").thresholds[2].holds
    assert jacobian_log_norms(rnn("tanh", shift), zeros(4))[0, 4] > 4  # 81 times, with eigenvalues 0
    eight = tensor([8])
    assert spectrum(eight, "sigmoid").thresholds[2].holds
    saturated = rnn("sigmoid", eight, tensor(2))
    assert lyapunov_exponents(saturated, zeros(40)).values[0] < -6


@pytest.mark.parametrize(("kind", "gate"), [(LSTM, "g"), (GRU, "n")])
@settings(max_examples=10, deadline=None)
@given(seed=seeds, size=st.floats(0.1, 5.0))
def test_gates_at_the_origin(kind: type[nn.Module], gate: str, seed: int, size: float) -> None:
    """With all other gates' matrices drawn too: they do not count there."""
    layer = kind(1, 3).double()
    with torch.no_grad():
        for name, weight in layer.named_parameters():
            weight.zero_()
            if name.startswith("weight_hh"):
                weight.copy_(torch.cat([matrix(seed + j, 3) for j in range(len(weight) // 3)]))
                weight *= size / 2
    found = spectra(layer)
    vanishing, exploding, exact = found["l0", gate].thresholds
    log_norms = jacobian_log_norms(layer, zeros(400))[0]
    # The growth over many steps is the spectral radius of the Jacobian, approached as 1 / k.
    assert abs((log_norms[400] - log_norms[200]).item() / 200 - math.log(exact.value)) < 0.05
    assert exact.holds == (exact.value > 1)
    if vanishing.holds:
        assert exact.value < 1
    if exact.holds:
        assert exploding.holds
    if kind is LSTM:
        norm = math.log(math.sqrt(5) / 4 * math.sqrt(1 + found["l0", "g"].norm ** 2))
        assert math.isclose(log_norms[1].item(), norm, abs_tol=1e-9)
    assert all(found[key].thresholds == () for key in found if key[1] != gate)


def test_thresholds_in_words() -> None:
    W = torch.tensor([[0.0, 3.0], [0.0, 0.0]])
    assert [str(one) for one in spectrum(W, "sigmoid").thresholds] == [
        "sufficient for vanishing: spectral norm 3 < 4: yes",
        "necessary for exploding: spectral norm 3 > 4: no",
        "heuristic for exploding: spectral radius 0 > 4: no",
    ]
    assert [str(one) for one in spectrum(W, "lstm.g").thresholds] == [
        "sufficient for vanishing at the origin: spectral norm 3 < 2: no",
        "necessary for exploding at the origin: spectral norm 3 > 2: yes",
        "exact for exploding over many steps at the origin: largest |1/2 + eigenvalue / 4| 0.5 > 1: no",
    ]


def test_keys_of_places_and_gates() -> None:
    both = spectra(nn.LSTM(2, 3, 2, bidirectional=True, dropout=0.5))
    places = ("l0", "l0_reverse", "l1", "l1_reverse")
    assert list(both) == [(place, gate) for place in places for gate in "ifgo"]
    layer = nn.LSTM(2, 3, 2, bidirectional=True)
    W = layer.weight_hh_l1_reverse[6:9]  # i, f, g, o
    assert math.isclose(spectra(layer)["l1_reverse", "g"].norm, torch.linalg.matrix_norm(W, 2).item(), rel_tol=1e-5)
    assert spectra(RNN(1, 2, nonlinearity="sigmoid"))["l0", "h"].activation == "sigmoid"
    assert [one.activation for one in spectra(nn.GRUCell(2, 3)).values()] == ["gru.r", "gru.z", "gru.n"]
    assert {one.activation for one in both.values()} <= set(ACTIVATIONS)


def test_parametrised_weights_are_those_that_are_used() -> None:
    layer = parametrizations.orthogonal(nn.RNN(2, 5), "weight_hh_l0")
    found = spectra(layer)["l0", "h"]
    assert math.isclose(found.norm, 1, abs_tol=1e-5) and found.departure == 0


def test_senders_and_receivers() -> None:
    """Unit 2 shouts at unit 0; the rest whispers."""
    W = 0.1 * matrix(0, 5)
    W[0, 2] = 30
    found = spectrum(W, "tanh")
    assert found.receivers.argmax() == 0 and found.senders.argmax() == 2
    assert found.receivers[0] > 0.99 and found.senders[2] > 0.99
    u, _, v = torch.linalg.svd(W)
    close(found.receivers, (u[:, 0] ** 2).tolist())
    close(found.senders, (v[0] ** 2).tolist())


def test_transient_growth_in_closed_form() -> None:
    a, b, d = 0.9, 10.0, 0.5
    found = transient_growth(tensor([a, b], [0, d]), 200)
    above = [b * (a**k - d**k) / (a - d) for k in range(201)]
    assert found.peak == max(range(201), key=lambda k: above[k] ** 2 + a ** (2 * k)) == 3
    assert math.isclose(found.log_peak, found.log_norms[3].item())
    assert math.isclose((found.log_norms[200] - found.log_norms[199]).item(), math.log(0.9), rel_tol=1e-9)
    powers = [torch.linalg.matrix_power(tensor([a, b], [0, d]), k) for k in range(201)]
    close(found.log_norms, [torch.linalg.matrix_norm(power, 2).log().item() for power in powers], atol=1e-8)


@settings(max_examples=30, deadline=None)
@given(seeds)
def test_transient_growth_lies_between_radius_and_norm(seed: int) -> None:
    W = matrix(seed) / 2
    found, k = spectrum(W, "linear"), torch.arange(31, dtype=torch.float64)
    log_norms = transient_growth(W, 30).log_norms
    assert (log_norms >= k * math.log(found.radius) - 1e-9).all()
    assert (log_norms <= k * math.log(found.norm) + 1e-9).all()


def test_transient_growth_of_hard_cases() -> None:
    normal = transient_growth(1e200 * orthogonal(0), 10)
    close(normal.log_norms, [k * math.log(1e200) for k in range(11)])
    assert (normal.peak, normal.log_peak) == (10, normal.log_norms[10].item())
    close(transient_growth(torch.zeros(2, 2), 3).log_norms, [0, -math.inf, -math.inf, -math.inf])
    close(transient_growth(torch.full((1, 1), 1e-30), 3).log_norms, [k * math.log(1e-30) for k in range(4)], atol=1e-6)
    assert transient_growth(orthogonal(1) / 2, 5).peak == 0


@pytest.mark.parametrize(
    ("W", "activation", "words"),
    [
        (torch.zeros(2, 3), "tanh", r"\[2, 3\]"),
        (torch.zeros(4), "tanh", r"\[4\]"),
        (torch.zeros(0, 0), "tanh", r"\[0, 0\]"),
        (torch.full((2, 2), math.inf), "tanh", "nan or inf"),
        (torch.zeros(2, 2), "softplus", "softplus"),
        (torch.zeros(2, 2), "gru.o", "gru.o"),
    ],
)
def test_refusals(W: torch.Tensor, activation: str, words: str) -> None:
    with pytest.raises(OptionError, match=words):
        spectrum(W, activation)
    if activation == "tanh":
        with pytest.raises(OptionError, match=words):
            transient_growth(W)


def test_refused_layers() -> None:
    with pytest.raises(OptionError, match="proj_size=1"):
        spectra(nn.LSTM(2, 3, proj_size=1))
    with pytest.raises(OptionError, match="Linear"):
        spectra(nn.Linear(2, 3))
    with pytest.raises(OptionError, match="steps"):
        transient_growth(torch.eye(2), 0)
