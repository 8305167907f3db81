"""How much of a forecast is exponential smoothing's: decided on held-out windows, and nowhere else."""

from __future__ import annotations

import numpy as np
import polars as pl
import pytest
from hypothesis import given
from hypothesis import strategies as st
from numpy.typing import NDArray

from holdfast import Forecaster
from holdfast.forecasting.blending import EVEN, SHARES, Blending, choose_blend, choose_width
from holdfast.forecasting.predict import predict_windows, smoothed

Floats = NDArray[np.float64]


def slow_blend(network: Floats, other: Floats, target: Floats, scale: Floats) -> float:
    """The rule, window by window and share by share."""
    seen = [v for v in range(len(target)) if np.isfinite(target[v]).any()]
    errors = {}
    for share in SHARES:
        mixed = share * network + (1 - share) * other
        errors[share] = [float(np.nanmean(np.abs(mixed[v] - target[v]))) / scale[v] for v in seen]
    best = min(SHARES, key=lambda share: np.mean(errors[share]))
    near = []
    for share in SHARES:
        gaps = [one - two for one, two in zip(errors[share], errors[best], strict=True)]
        doubt = np.inf if len(gaps) == 1 else np.std(gaps, ddof=1) / np.sqrt(len(gaps))
        if np.mean(errors[share]) - np.mean(errors[best]) <= doubt:
            near.append(share)
    return min(near, key=lambda share: abs(share - EVEN))


@pytest.mark.parametrize("seed", range(12))
@pytest.mark.parametrize("windows", [1, 2, 30])
def test_the_share_is_that_of_the_loop(seed: int, windows: int) -> None:
    rng = np.random.default_rng(seed)
    target = rng.normal(size=(windows, 3))
    network, other = (target + scale * rng.normal(size=target.shape) for scale in rng.exponential(size=2))
    target[rng.random(target.shape) < 0.1] = np.nan
    if not np.isfinite(target).any():
        target[0, 0] = 0.0
    scale = rng.exponential(size=windows) + 0.1
    share, gain, count = choose_blend(network, other, target, scale)
    assert share == slow_blend(network, other, target, scale)
    assert count == np.isfinite(target).any(1).sum() and gain <= 1


def test_where_one_is_exact_it_is_taken_and_few_windows_leave_an_even_mixture() -> None:
    rng = np.random.default_rng(0)
    target = rng.normal(size=(200, 4))
    away = target + rng.normal(size=target.shape)
    assert choose_blend(target, away, target, np.ones(200)) == (1.0, 0.0, 200)
    assert choose_blend(away, target, target, np.ones(200)) == (0.0, 1.0, 200)
    assert choose_blend(away[:1], target[:1], target[:1], np.ones(1))[0] == EVEN
    assert choose_blend(target, away, np.full_like(target, np.nan), np.ones(200)) == (EVEN, 0.0, 0)


@given(factor=st.floats(1e-6, 1e6), seed=st.integers(0, 50))
def test_the_units_of_a_window_do_not_matter(factor: float, seed: int) -> None:
    rng = np.random.default_rng(seed)
    network, other, target = rng.normal(size=(3, 20, 4))
    plain = choose_blend(network, other, target, np.ones(20))
    sizes = factor ** rng.random(20)
    moved = choose_blend(*(sizes[:, None] * values for values in (network, other, target)), sizes)
    assert moved[1] == pytest.approx(plain[1], abs=1e-9) and moved[2] == plain[2]


@pytest.mark.parametrize("level", [50, 80, 95])
@pytest.mark.parametrize("wrong", [0.1, 1.0, 3.0])
def test_widths_cover_new_windows_as_they_say(level: float, wrong: float) -> None:
    rng = np.random.default_rng(1)
    error = np.abs(rng.normal(size=(2000, 5)))
    half = np.full_like(error, wrong)
    covered = np.mean(np.abs(rng.normal(size=100_000)) <= choose_width(error, half, level) * wrong)
    assert covered == pytest.approx(level / 100, abs=0.02)


def test_few_windows_never_make_intervals_much_narrower() -> None:
    assert choose_width(np.zeros((3, 2)), np.ones((3, 2)), 80) == 1.0
    assert choose_width(np.full((1, 4), 0.1), np.ones((1, 4)), 80) > 0.89
    assert choose_width(np.full((1, 4), 5.0), np.ones((1, 4)), 80) == 5.0
    assert choose_width(np.full((1, 4), np.nan), np.ones((1, 4)), 80) == 1.0


def table(rows: int = 120) -> pl.DataFrame:
    rng, t = np.random.default_rng(0), np.arange(rows)
    parts = [20 + 3 * np.sin(2 * np.pi * t / 6 + k) + rng.normal(0, 1, rows) for k in range(4)]
    return pl.concat([pl.DataFrame({"unique_id": f"s{k}", "ds": t, "y": y}) for k, y in enumerate(parts)])


@pytest.fixture(scope="module")
def fitted() -> Forecaster:
    return Forecaster(horizon=6, season_length=6, hidden_size=8, max_steps=20, levels=(80,)).fit(table())


def test_a_forecast_is_the_mixture_it_says(fitted: Forecaster) -> None:
    network, windows = fitted.fitted.network, fitted.fitted.windows
    share, width = float(network.blend.share), float(network.blend.width)
    assert share < 1 and width != 1.0
    series, cutoffs = np.arange(4), np.full(4, 120)
    mixed, borders = predict_windows([network], windows, series, cutoffs, (80,))
    network.blend.set()
    try:
        own, own_borders = predict_windows([network], windows, series, cutoffs, (80,))
    finally:
        network.blend.set(share, width)
    other = smoothed(windows, series, cutoffs, network.config.seasons, 6)
    np.testing.assert_allclose(mixed, share * own + (1 - share) * other, rtol=1e-12)
    np.testing.assert_allclose(borders - mixed[..., None], width * (own_borders - own[..., None]), rtol=1e-9)
    assert str(Blending(**fitted.fitted.metrics["blend"])) in fitted.summary()


def test_counts_and_bounded_values_are_the_network_s_alone() -> None:
    counts = table().with_columns(pl.col("y").round())
    network = Forecaster(horizon=6, max_steps=0, head="negative-binomial").fit(counts).fitted.network
    assert (float(network.blend.share), float(network.blend.width)) == (1.0, 1.0)
