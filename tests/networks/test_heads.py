"""Every head against scipy and plain loops, against the data it is fitted to, and where exp and log run out."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import stats
from tests.reference import heads as twin

from holdfast.errors import OptionError
from holdfast.networks.heads import (
    HEADS,
    GaussianHead,
    NegativeBinomialHead,
    QuantileHead,
    SigmoidHead,
    StudentTHead,
    Target,
    make_head,
)
from holdfast.networks.quantiles import probabilities_of
from holdfast.networks.scaling import WindowScale

LEVELS = (80.0, 95.0)
EVERY_HEAD = [make_head(name, LEVELS, (-5.0, 20.0)) for name in HEADS]
LOCATION_SCALE = [QuantileHead(LEVELS), GaussianHead(), StudentTHead()]

every_head = pytest.mark.parametrize("head", EVERY_HEAD, ids=lambda head: type(head).__name__)
location_scale = pytest.mark.parametrize("head", LOCATION_SCALE, ids=lambda head: type(head).__name__)
wild_raw = st.lists(st.floats(-50, 50, width=32), min_size=15, max_size=15)


def unit_scale(B, loc=0.0, scale=1.0):
    return WindowScale(torch.full((B,), loc, dtype=torch.float64), torch.full((B,), scale, dtype=torch.float64))


def of_one_window(head, raw_FP, mix=0.0, unit=1.0, scale=None):
    """Parameters of one window, from raw outputs per step."""
    raw_BFP = torch.as_tensor(raw_FP, dtype=torch.float64)[None]
    mix_BF = torch.full(raw_BFP.shape[:2], mix, dtype=torch.float64)
    unit_B = torch.full((1,), unit, dtype=torch.float64)
    return head.parameters(mix_BF, unit_B, raw_BFP, unit_scale(1) if scale is None else scale)


def losses(head, parameters, y_F, error_scale=1.0):
    """Loss per step of one window."""
    target = Target(torch.tensor([y_F], dtype=torch.float64), torch.tensor([error_scale], dtype=torch.float64))
    return head.loss(parameters, target)[0]


def random_raw(head, F, seed=0, size=1.0):
    return size * torch.randn(F, head.raw_size, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


# the start


@every_head
@pytest.mark.parametrize("mix", [-0.9, 0.0, 0.3, 2.0])
@pytest.mark.parametrize("unit", [1e-3, 1.0])
def test_zero_raw_outputs_forecast_the_mixture(head, mix, unit):
    scale = unit_scale(1, loc=4.0, scale=2.0)
    parameters = of_one_window(head, np.zeros((3, head.raw_size)), mix, unit, scale)
    assert head.point(parameters).dtype == torch.float64
    assert head.point(parameters)[0].tolist() == pytest.approx([4.0 + 2.0 * mix] * 3, rel=1e-6)


@every_head
@pytest.mark.parametrize("share", [0.02, 0.3, 0.5, 0.95])
def test_zero_raw_outputs_are_about_as_wide_as_the_naive_error(head, share):
    mean, unit = -5.0 + 25.0 * share, 0.3
    if isinstance(head, NegativeBinomialHead):
        mean, unit = 400.0 * share, 5 + 40.0 * share  # wider than Poisson
    parameters = of_one_window(head, np.zeros((1, head.raw_size)), mean, unit)
    low, middle, high = head.quantiles(parameters, (0.1, 0.5, 0.9))[0, 0]
    normal = 2 * stats.norm.ppf(0.9) * unit
    assert 0.9 * normal < high - low < 1.3 * normal
    assert middle == pytest.approx(mean, abs=unit)


# likelihoods and quantiles against scipy


@pytest.mark.parametrize("seed", range(3))
def test_gaussian_is_that_of_scipy(seed):
    head, y = GaussianHead(), np.linspace(-6, 9, 8)
    raw = random_raw(head, 8, seed)
    scale = unit_scale(1, loc=1.5, scale=2.5)
    parameters = of_one_window(head, raw, mix=0.4, unit=0.7, scale=scale)
    mu = 0.4 + 0.7 * raw[:, 0].numpy()
    sigma = np.array([0.7 * twin.width(r) for r in raw[:, 1].tolist()])
    expected = -stats.norm.logpdf((y - 1.5) / 2.5, mu, sigma)
    np.testing.assert_allclose(losses(head, parameters, y.tolist()).numpy(), expected, rtol=1e-4, atol=1e-5)
    p = np.array([1e-4, 0.025, 0.5, 0.9])
    expected = stats.norm.ppf(p, (1.5 + 2.5 * mu)[:, None], (2.5 * sigma)[:, None])
    np.testing.assert_allclose(head.quantiles(parameters, p)[0], expected, rtol=1e-7)


@pytest.mark.parametrize("seed", range(3))
def test_student_t_is_that_of_scipy(seed):
    head, y = StudentTHead(), np.linspace(-6, 9, 8)
    raw = random_raw(head, 8, seed, size=2.0)
    scale = unit_scale(1, loc=1.5, scale=2.5)
    parameters = of_one_window(head, raw, mix=0.4, unit=0.7, scale=scale)
    mu = 0.4 + 0.7 * raw[:, 0].numpy()
    sigma = np.array([0.7 * twin.width(r) for r in raw[:, 1].tolist()])
    nu = np.array([2 + 3 * twin.width(r) for r in raw[:, 2].tolist()])
    expected = -stats.t.logpdf((y - 1.5) / 2.5, nu, mu, sigma)
    np.testing.assert_allclose(losses(head, parameters, y.tolist()).numpy(), expected, rtol=1e-5, atol=1e-5)
    p = np.array([1e-4, 0.025, 0.5, 0.9])
    expected = stats.t.ppf(p, nu[:, None], (1.5 + 2.5 * mu)[:, None], (2.5 * sigma)[:, None])
    np.testing.assert_allclose(head.quantiles(parameters, p)[0], expected, rtol=1e-7)


@pytest.mark.parametrize("mean", [1e-4, 0.2, 3.0, 700.0])
@pytest.mark.parametrize("unit", [0.1, 2.0, 900.0])
def test_negative_binomial_is_that_of_scipy(mean, unit):
    head, y = NegativeBinomialHead(), np.array([0.0, 1.0, 2.0, 7.0, 60.0, 5000.0])
    raw = random_raw(head, 6)
    parameters = of_one_window(head, raw, mix=mean, unit=unit)
    anchor = max(mean, 1e-3)
    mu = np.array([anchor * math.exp(10 * math.tanh(r / 10)) for r in raw[:, 0].tolist()])
    alpha = np.array([twin.start_dispersion(anchor, unit) * twin.width(r) for r in raw[:, 1].tolist()])
    r = 1 / alpha
    expected = -stats.nbinom.logpmf(y, r, r / (r + mu))
    np.testing.assert_allclose(losses(head, parameters, y.tolist()).numpy(), expected, rtol=1e-5, atol=1e-5)
    np.testing.assert_allclose(head.point(parameters)[0].numpy(), mu, rtol=1e-9)
    p = np.array([0.025, 0.5, 0.975])
    quantile = head.quantiles(parameters, p)[0]
    at_most = stats.nbinom.cdf(quantile, r[:, None], (r / (r + mu))[:, None])
    below = stats.nbinom.cdf(quantile - 1, r[:, None], (r / (r + mu))[:, None])
    assert ((below < p + 1e-9) & (p <= at_most + 1e-9)).all()


@pytest.mark.parametrize("seed", range(3))
def test_quantile_head_is_a_loop(seed):
    head, y = QuantileHead(LEVELS), [-9.0, -1.0, 0.0, 0.5, 2.0, 30.0]
    raw = random_raw(head, 6, seed)
    parameters = of_one_window(head, raw, mix=0.3, unit=0.6, scale=unit_scale(1, 1.5, 2.5))
    loss = losses(head, parameters, y, error_scale=4.0)
    p = probabilities_of(LEVELS)
    for k, raw_P in enumerate(raw.tolist()):
        values = twin.quantiles(0.3 + 0.6 * raw_P[2], 0.6, raw_P, p)
        in_data_units = [1.5 + 2.5 * value for value in values]
        assert head.quantiles(parameters, p)[0, k].tolist() == pytest.approx(in_data_units)
        assert loss[k].item() == pytest.approx(twin.pinball(in_data_units, p, y[k]) / 4.0, rel=1e-5)


@pytest.mark.parametrize("share", [0.01, 0.4, 0.9])
def test_sigmoid_head_is_a_loop(share):
    head, y = SigmoidHead(LEVELS, -5.0, 20.0), [-5.0, 0.0, 3.0, 10.0, 20.0]
    raw = random_raw(head, 5)
    parameters = of_one_window(head, raw, mix=-5.0 + 25.0 * share, unit=0.5)
    unit = min(max(0.5 / 25 / (share * (1 - share)), 1e-3), 4.0)
    loss, p = losses(head, parameters, y, error_scale=4.0), probabilities_of(LEVELS)
    for k, raw_P in enumerate(raw.tolist()):
        logits = twin.quantiles(math.log(share / (1 - share)) + unit * raw_P[2], unit, raw_P, p)
        in_data_units = [-5.0 + 25.0 / (1 + math.exp(-logit)) for logit in logits]
        assert head.quantiles(parameters, p)[0, k].tolist() == pytest.approx(in_data_units)
        assert loss[k].item() == pytest.approx(twin.pinball(in_data_units, p, y[k]) / 4.0, rel=1e-5)


# properties


@every_head
@settings(max_examples=40, deadline=None)
@given(raw=wild_raw, mix=st.floats(-3, 30), unit=st.floats(1e-3, 5))
def test_quantiles_never_cross_and_stay_finite(head, raw, mix, unit):
    raw_BFP = torch.tensor(raw)[: 3 * head.raw_size].view(1, 3, -1)  # float32, as the network gives them
    parameters = head.parameters(torch.full((1, 3), mix), torch.tensor([unit]), raw_BFP, unit_scale(1, 1.0, 2.0))
    quantiles = head.quantiles(parameters, probabilities_of(LEVELS))
    assert np.isfinite(quantiles).all()
    assert (np.diff(quantiles, axis=-1) >= 0).all()
    assert torch.isfinite(head.point(parameters)).all()
    assert torch.isfinite(losses(head, parameters, [0.0, 3.0, 15.0])).all()


@settings(max_examples=100, deadline=None)
@given(raw=wild_raw, mix=st.floats(-1e9, 1e9), low=st.floats(-1e3, 1e3), width=st.floats(1e-3, 1e6))
def test_the_sigmoid_head_never_leaves_its_bounds(raw, mix, low, width):
    head = SigmoidHead(LEVELS, low, low + width)
    raw_BFP = torch.tensor(raw).view(1, 3, 5)
    parameters = head.parameters(torch.full((1, 3), mix), torch.ones(1), raw_BFP, unit_scale(1))
    quantiles = head.quantiles(parameters, probabilities_of(LEVELS))
    for values in (quantiles, head.point(parameters).numpy()):
        assert (head.low <= values).all()
        assert (values <= head.high).all()


@pytest.mark.parametrize("head", [*LOCATION_SCALE, SigmoidHead(LEVELS, -5.0, 20.0)], ids=lambda h: type(h).__name__)
def test_series_of_one_shape_weigh_the_same_whatever_their_units(head):
    y_F = torch.tensor([0.5, -0.2, 1.7], dtype=torch.float64)
    raw_FP = random_raw(head, 3).float()
    for a in (1e-12, 1e-3, 1e12):
        bounded = isinstance(head, SigmoidHead)
        moved = SigmoidHead(LEVELS, head.low * a, head.high * a) if bounded else head
        expected, got = (
            each.loss(
                each.parameters(torch.full((1, 3), 0.3), torch.ones(1), raw_FP[None], unit_scale(1, 0.1 * c, 0.8 * c)),
                Target(c * y_F[None], torch.tensor([0.6 * c], dtype=torch.float64)),
            )
            for each, c in ((head, 1.0), (moved, a))
        )
        torch.testing.assert_close(got, expected, rtol=1e-5, atol=1e-6)


@every_head
def test_gradients_are_those_of_finite_differences(head):
    F = 3
    raw_BFP = random_raw(head, 2 * F, seed=4, size=0.8).view(2, F, -1).requires_grad_()
    mix_BF = (0.4 + torch.rand(2, F, dtype=torch.float64)).requires_grad_()
    unit_B = torch.tensor([0.9, 1.3], dtype=torch.float64, requires_grad=True)
    target = Target(torch.tensor([[1.0, 0.0, 4.0], [2.0, 9.0, 0.0]]).double(), torch.tensor([1.0, 2.0]).double())
    scale = WindowScale(torch.zeros(2).double(), torch.tensor([1.0, 2.0]).double())

    def loss(mix_BF, unit_B, raw_BFP):
        return head.loss(head.parameters(mix_BF, unit_B, raw_BFP, scale), target)

    assert torch.autograd.gradcheck(loss, (mix_BF, unit_B, raw_BFP))


# what a fit recovers


def fit_raw(head, y_B, mix, unit, steps=60):
    """The raw outputs of least mean loss, one set for all values, by full-batch L-BFGS from zero."""
    raw_P = torch.zeros(head.raw_size, dtype=torch.float64, requires_grad=True)
    B = len(y_B)
    mix_BF, unit_B = torch.full((B, 1), mix, dtype=torch.float64), torch.full((B,), unit, dtype=torch.float64)
    target = Target(y_B[:, None], torch.ones(B, dtype=torch.float64))

    def parameters():
        return head.parameters(mix_BF, unit_B, raw_P.expand(B, 1, -1), unit_scale(B))

    optimizer = torch.optim.LBFGS([raw_P], max_iter=steps, line_search_fn="strong_wolfe")

    def closure():
        optimizer.zero_grad()
        loss = head.loss(parameters(), target).mean()
        loss.backward()
        return loss

    optimizer.step(closure)
    return parameters()


@pytest.mark.parametrize("head", [QuantileHead(LEVELS), SigmoidHead(LEVELS, 0.0, 30.0)], ids=["quantile", "sigmoid"])
def test_quantiles_of_a_skewed_sample_are_recovered(head):
    y_B = torch.from_numpy(np.random.default_rng(0).gamma(2.0, 1.5, 3000))
    fitted = head.quantiles(fit_raw(head, y_B, mix=1.0, unit=0.7), probabilities_of(LEVELS))[0, 0]
    coverage = [(y_B.numpy() <= quantile).mean() for quantile in fitted]
    np.testing.assert_allclose(coverage, probabilities_of(LEVELS), atol=0.005)


def test_gaussian_recovers_mean_and_deviation():
    y_B = torch.from_numpy(np.random.default_rng(0).normal(5.0, 3.0, 2000))
    mu, sigma = fit_raw(GaussianHead(), y_B, mix=1.0, unit=0.7).values_BFP[0, 0].tolist()
    assert mu == pytest.approx(y_B.mean().item(), abs=1e-3)
    assert sigma == pytest.approx(y_B.std(correction=0).item(), rel=1e-3)


def test_student_t_recovers_its_parameters():
    y = np.random.default_rng(0).standard_t(4.0, 5000) * 2.0 + 3.0
    mu, sigma, nu = fit_raw(StudentTHead(), torch.from_numpy(y), mix=1.0, unit=0.7).values_BFP[0, 0].tolist()
    assert (mu, sigma) == (pytest.approx(3.0, abs=0.1), pytest.approx(2.0, rel=0.05))
    assert nu == pytest.approx(4.0, rel=0.15)


@pytest.mark.parametrize(("mean", "alpha"), [(0.4, 1.5), (6.0, 0.3), (300.0, 0.05)])
def test_negative_binomial_recovers_mean_and_dispersion(mean, alpha):
    y = np.random.default_rng(1).negative_binomial(1 / alpha, 1 / (1 + alpha * mean), 4000).astype(float)
    fitted = fit_raw(NegativeBinomialHead(), torch.from_numpy(y), mix=0.5 * mean, unit=1.0)
    mu_hat, alpha_hat = fitted.values_BFP[0, 0].tolist()
    assert mu_hat == pytest.approx(y.mean(), rel=1e-2)  # the likelihood equation of mu
    assert alpha_hat == pytest.approx(alpha, rel=0.15)
    low, high = NegativeBinomialHead().quantiles(fitted, (0.1, 0.9))[0, 0]
    assert (low <= y).mean() >= 0.9 - 0.02
    assert (y <= high).mean() >= 0.9 - 0.02


# far out


@pytest.mark.parametrize("mean", [1.1e6, 1e9, 1e15, 1e300])
@pytest.mark.parametrize("raw_1", [-50.0, 0.0, 5.0])
def test_quantiles_of_large_counts_are_found_at_once(mean, raw_1):
    head, p = NegativeBinomialHead(), (1e-4, 0.025, 0.5, 0.975)
    parameters = of_one_window(head, [[0.0, raw_1]], mix=mean, unit=0.2 * mean)
    quantile = head.quantiles(parameters, p)[0, 0]
    mu, alpha = parameters.values_BFP[0, 0].tolist()
    if mean > 1e10:  # what a Poisson distribution adds is lost in rounding
        np.testing.assert_allclose(stats.gamma.cdf(quantile, 1 / alpha, scale=alpha * mu), p, rtol=1e-3)
    else:
        np.testing.assert_allclose(stats.nbinom.cdf(quantile, 1 / alpha, 1 / (1 + alpha * mu)), p, rtol=3e-3)


def loss_and_gradient(head, raw_P, y, mix=0.0, unit=1.0):
    raw_BFP = torch.tensor([[raw_P]], requires_grad=True)
    parameters = head.parameters(torch.tensor([[mix]]), torch.tensor([unit]), raw_BFP, unit_scale(1))
    loss = losses(head, parameters, [y])
    loss.sum().backward()
    return loss.item(), raw_BFP.grad[0, 0]


@pytest.mark.parametrize("raw_0", [-50.0, 0.0, 50.0])
@pytest.mark.parametrize("raw_1", [-50.0, 0.0, 50.0])
@pytest.mark.parametrize("y", [0.0, 1.0, 1e9])
def test_negative_binomial_far_out(raw_0, raw_1, y):
    loss, gradient_P = loss_and_gradient(NegativeBinomialHead(), [raw_0, raw_1], y, mix=-1.0)
    assert math.isfinite(loss)
    assert torch.isfinite(gradient_P).all()
    if (raw_0, y) == (-50.0, 1e9):
        assert gradient_P[0] < 0  # far too low a mean is still pushed up


@pytest.mark.parametrize("head", [GaussianHead(), StudentTHead()], ids=["gaussian", "student-t"])
@pytest.mark.parametrize("y", [-1e12, 1e12])
def test_standardised_errors_of_1e15_have_a_finite_loss_and_gradient(head, y):
    loss, gradient_P = loss_and_gradient(head, [0.0] * head.raw_size, y, unit=1e-3)
    assert math.isfinite(loss)
    assert torch.isfinite(gradient_P).all()
    assert gradient_P[0] * y < 0  # the mean is pushed towards the value
    assert gradient_P[1] < 0  # and the deviation up


@pytest.mark.parametrize("head", [GaussianHead(), StudentTHead()], ids=["gaussian", "student-t"])
def test_a_deviation_at_its_floor_can_still_grow(head):
    _, gradient_P = loss_and_gradient(head, [0.0, -12.0, *[0.0] * (head.raw_size - 2)], y=3.0)
    assert gradient_P[1] < -1e-3


def test_a_bounded_mixture_at_its_bound_can_still_leave_it():
    head = SigmoidHead((80.0,), 0.0, 1.0)
    _, gradient_P = loss_and_gradient(head, [0.0] * 3, y=0.3, mix=0.0, unit=0.1)
    assert gradient_P[1] < -1e-4


# names and levels


def test_probabilities_are_those_of_the_interval_borders():
    assert probabilities_of((95, 80)) == (0.025, 0.1, 0.5, 0.9, 0.975)
    assert probabilities_of((99.9,)) == (0.0005, 0.5, 0.9995)
    assert probabilities_of((99.99999, 1e-5)) == (5e-8, 0.49999995, 0.5, 0.50000005, 0.99999995)


@given(st.lists(st.integers(1, 999).map(lambda level: level / 10), min_size=1, max_size=6))
@settings(max_examples=50, deadline=None)
def test_any_levels_in_any_order_even_twice_make_a_head(levels):
    head = QuantileHead(tuple(levels))
    probabilities = probabilities_of(levels)
    assert head.raw_size == len(probabilities) == 2 * len(set(levels)) + 1
    parameters = of_one_window(head, np.zeros((1, head.raw_size)), mix=2.0, unit=0.5)
    expected = stats.norm.ppf(probabilities, 2.0, 0.5)
    np.testing.assert_allclose(head.quantiles(parameters, probabilities)[0, 0], expected, atol=1e-6)
    assert head.point(parameters).item() == 2.0


# levels other than those of the fit

OTHER = (1, 50, 80, 90, 95, 99, 99.99)
interpolating = pytest.mark.parametrize("head", [QuantileHead(LEVELS), SigmoidHead(LEVELS, -5.0, 20.0)], ids=str)


@interpolating
@pytest.mark.parametrize("seed", range(3))
def test_other_levels_are_those_of_a_loop(head, seed):
    raw, fitted, wanted = random_raw(head, 4, seed), probabilities_of(LEVELS), probabilities_of(OTHER)
    bounded, mix, unit = isinstance(head, SigmoidHead), 0.3, 0.6
    if bounded:
        share = (1.5 + 2.5 * mix + 5) / 25
        mix, unit = math.log(share / (1 - share)), 2.5 * unit / 25 / (share * (1 - share))
    got = head.quantiles(of_one_window(head, raw, mix=0.3, unit=0.6, scale=unit_scale(1, 1.5, 2.5)), wanted)[0]
    for k, raw_P in enumerate(raw.tolist()):
        values = twin.quantiles(mix + unit * raw_P[2], unit, raw_P, fitted)
        expected = [twin.quantile_at(values, fitted, p) for p in wanted]
        expected = [-5 + 25 / (1 + math.exp(-x)) if bounded else 1.5 + 2.5 * x for x in expected]
        assert got[k].tolist() == pytest.approx(expected)


@interpolating
@settings(max_examples=100, deadline=None)
@given(
    raw=wild_raw,
    mix=st.floats(-30, 30),
    unit=st.floats(1e-6, 1e3),
    levels=st.lists(st.floats(1, 99.99), min_size=1, max_size=8),
)
def test_other_levels_keep_the_order_and_leave_fitted_ones_alone(head, raw, mix, unit, levels):
    parameters = head.parameters(
        torch.full((1, 3), mix), torch.tensor([unit]), torch.tensor(raw).view(1, 3, 5), unit_scale(1, 1.0, 2.0)
    )
    fitted, wanted = probabilities_of(LEVELS), probabilities_of((*LEVELS, *levels))
    quantiles = head.quantiles(parameters, wanted)
    assert (np.diff(quantiles, axis=-1) >= 0).all()
    assert np.isfinite(quantiles).all()
    assert np.array_equal(quantiles[..., np.isin(wanted, fitted)], head.quantiles(parameters, fitted))
    if isinstance(head, SigmoidHead):
        assert head.low <= quantiles.min() <= quantiles.max() <= head.high


@settings(max_examples=50, deadline=None)
@given(level=st.floats(1, 99.99), mix=st.floats(-100, 100), unit=st.floats(0.01, 100))
def test_other_levels_of_normal_quantiles_are_normal(level, mix, unit):
    head, wanted = QuantileHead(LEVELS), probabilities_of((level,))
    got = head.quantiles(of_one_window(head, np.zeros((1, 5)), mix, unit), wanted)[0, 0]
    np.testing.assert_allclose(got, stats.norm.ppf(wanted, mix, unit), rtol=1e-6, atol=1e-6 * unit)


def test_an_unknown_head_is_refused_with_the_names_that_exist():
    assert [type(make_head(name, (80.0,), (0.0, 1.0))) for name in HEADS] == [
        type(head)
        for head in (
            QuantileHead((80.0,)),
            GaussianHead(),
            StudentTHead(),
            NegativeBinomialHead(),
            SigmoidHead((80.0,), 0, 1),
        )
    ]
    with pytest.raises(OptionError, match="negative-binomial"):
        make_head("poisson", (80.0,), (0.0, 1.0))
