"""What forecasts are made of and how wide intervals are: decided on held-out windows, and nowhere else."""

from __future__ import annotations

import re
from dataclasses import replace

import numpy as np
import polars as pl
import pytest
from hypothesis import given
from hypothesis import strategies as st
from numpy.typing import NDArray

from holdfast import Forecaster
from holdfast.forecasting.baselines import other_forecasts
from holdfast.forecasting.blending import (
    ALONE,
    EVEN,
    MIXTURES,
    Blending,
    choose,
    choose_weights,
    choose_width,
    error_sizes,
    measure_coverage,
)
from holdfast.forecasting.heldout import HeldOut
from holdfast.forecasting.predict import predict_windows
from holdfast.networks import ERROR_LEVELS

Floats = NDArray[np.float64]


def held_out(forecasts: list[Floats], target: Floats, *, apart: list[int] | None = None, half: float = 1.0) -> HeldOut:
    windows = len(target)
    half_VF = np.full(target.shape, half)
    apart_V = np.arange(windows) if apart is None else np.array(apart)
    earlier_EF = np.zeros((0, target.shape[1]))
    return HeldOut(np.stack(forecasts), half_VF, half_VF, target, np.ones(windows), apart_V, earlier_EF, 80.0)


def noisy(seed: int, windows: int, *, sizes: tuple[float, float, float] = (1.0, 1.0, 1.0)) -> HeldOut:
    rng = np.random.default_rng(seed)
    target = rng.normal(size=(windows, 3))
    return held_out([target + size * rng.normal(size=target.shape) for size in sizes], target)


def slow_weights(data: HeldOut) -> tuple[float, float, float]:
    """The rule, mixture by mixture, window by window and step by step."""
    blocks = sorted(set(data.apart_V.tolist()))
    errors = {}
    for weights in MIXTURES:
        of_windows: dict[int, list[float]] = {block: [] for block in blocks}
        for v, target in enumerate(data.target_VF):
            steps = [f for f in range(len(target)) if np.isfinite(target[f])]
            mixed = [sum(w * data.forecast_MVF[m, v, f] for m, w in enumerate(weights)) for f in steps]
            if steps:
                error = np.mean([abs(one - target[f]) for one, f in zip(mixed, steps, strict=True)])
                of_windows[int(data.apart_V[v])].append(float(error / data.scale_V[v]))
        errors[weights] = of_windows
    best = min(MIXTURES, key=lambda w: np.mean([error for each in errors[w].values() for error in each]))
    near = []
    for weights in MIXTURES:
        gaps = [
            np.mean([a - b for a, b in zip(errors[weights][block], errors[best][block], strict=True)])
            for block in blocks
            if errors[best][block]
        ]
        doubt = np.inf if len(gaps) == 1 else np.std(gaps, ddof=1) / np.sqrt(len(gaps))
        if np.mean(gaps) <= doubt + 1e-12:
            near.append(weights)
    return min(near, key=lambda weights: sum((a - b) ** 2 for a, b in zip(weights, EVEN, strict=True)))


@pytest.mark.parametrize("seed", range(8))
@pytest.mark.parametrize("windows", [2, 9, 30])
def test_the_weights_are_those_of_the_loop(seed: int, windows: int) -> None:
    rng = np.random.default_rng(seed)
    data = noisy(seed, windows, sizes=tuple(rng.exponential(size=3)))  # type: ignore[arg-type]
    target = np.where(rng.random(data.target_VF.shape) < 0.1, np.nan, data.target_VF)
    target[0] = 0.0
    data = replace(data, target_VF=target, scale_V=rng.exponential(size=windows) + 0.1, apart_V=np.arange(windows) // 2)
    assert choose_weights(data) == slow_weights(data)


@pytest.mark.parametrize("best", [0, 1, 2])
def test_what_is_exact_is_taken_and_one_window_leaves_an_even_mixture(best: int) -> None:
    sizes = tuple(0.0 if m == best else 1.0 for m in range(3))
    data = noisy(0, 200, sizes=sizes)  # type: ignore[arg-type]
    assert choose_weights(data)[best] == 1.0
    first = data.part(np.arange(200) == 0)
    assert choose_weights(first) == EVEN
    assert choose_weights(replace(data, target_VF=np.full_like(data.target_VF, np.nan))) == EVEN


def test_windows_that_overlap_count_as_one() -> None:
    data = noisy(3, 40, sizes=(0.5, 1.0, 3.0))
    apart = choose_weights(data)
    assert apart[0] > EVEN[0]
    assert choose_weights(replace(data, apart_V=np.zeros(40, dtype=np.int64))) == EVEN


@given(factor=st.floats(1e-6, 1e6), seed=st.integers(0, 50))
def test_the_units_of_a_window_do_not_matter(factor: float, seed: int) -> None:
    rng = np.random.default_rng(seed)
    data = noisy(seed, 20)
    units = factor ** rng.random(20)
    moved = HeldOut(
        units[:, None] * data.forecast_MVF,
        *(units[:, None] * each for each in (data.low_VF, data.high_VF, data.target_VF)),
        units,
        data.apart_V,
        data.earlier_EF,
        data.level,
    )
    plain, other = choose(data), choose(moved)
    assert sum(abs(a - b) for a, b in zip(plain.weights, other.weights, strict=True)) <= 0.41  # a tie may turn over
    np.testing.assert_allclose(other.growth_F, plain.growth_F, rtol=1e-6)
    np.testing.assert_allclose(other.size_L, plain.size_L, rtol=1e-6)


@pytest.mark.parametrize("level", [50, 80, 95])
@pytest.mark.parametrize("wrong", [0.1, 1.0, 3.0])
def test_widths_cover_new_windows_as_they_say(level: float, wrong: float) -> None:
    rng = np.random.default_rng(1)
    width = choose_width(np.abs(rng.normal(size=(2000, 5))) / wrong, level, blocks=2000)
    covered = np.mean(np.abs(rng.normal(size=100_000)) <= width * wrong)
    assert covered == pytest.approx(level / 100, abs=0.02)


def test_few_windows_change_a_width_little() -> None:
    assert choose_width(np.zeros((3, 2)), 80, blocks=3) == 1.0
    assert choose_width(np.full((1, 4), 0.1), 80, blocks=1) == pytest.approx(0.1**0.25)
    assert choose_width(np.full((1, 4), 16.0), 80, blocks=1) == pytest.approx(2.0)
    assert choose_width(np.full((9, 4), 16.0), 80, blocks=9) == pytest.approx(8.0)
    assert choose_width(np.full((1, 4), np.nan), 80, blocks=1) == 1.0
    assert choose_width(np.full((1, 4), np.inf), 80, blocks=1) == 1.0


@pytest.mark.parametrize("power", [0.0, 0.3, 0.5, 1.0])
def test_the_growth_of_errors_is_found(power: float) -> None:
    rng = np.random.default_rng(0)
    size_EF = 2 * np.arange(1.0, 13) ** power * np.abs(rng.normal(size=(4000, 12)))
    growth_F, size_L = error_sizes(size_EF)
    assert np.polyfit(np.log(np.arange(1.0, 13)), np.log(growth_F), 1)[0] == pytest.approx(power, abs=0.03)
    assert np.mean(size_EF <= growth_F * size_L[79]) == pytest.approx(0.8, abs=0.01)
    assert (np.diff(size_L) >= 0).all()
    units_F, same_L = error_sizes(1e5 * size_EF)
    np.testing.assert_allclose(units_F, 1e5 * growth_F)
    np.testing.assert_allclose(same_L, size_L)


def test_of_unknown_errors_a_random_walk_is_assumed() -> None:
    growth_F, size_L = error_sizes(np.full((3, 4), np.nan))
    rng = np.random.default_rng(0)
    walks = rng.normal(size=(100_000, 4)).cumsum(1)
    scale = np.sqrt(2 / np.pi)  # mean size of a step
    covered_F = (np.abs(walks) <= scale * growth_F * size_L[79]).mean(0)
    np.testing.assert_allclose(covered_F, 0.8, atol=0.01)


@pytest.mark.parametrize("windows", [3, 10, 57])
def test_coverage_is_that_of_what_other_windows_chose(windows: int) -> None:
    data = noisy(5, windows, sizes=(0.5, 1.0, 2.0))
    inside = []
    for v in range(windows):
        fold = [w for w in range(windows) if w % min(5, windows) == v % min(5, windows)]
        others = choose(data.part(~np.isin(np.arange(windows), fold)))
        inside.extend((others.distance(data)[v] <= 1).tolist())
    coverage, doubt, points = measure_coverage(data)
    assert (coverage, points) == (pytest.approx(np.mean(inside)), 3 * windows)
    assert 0 < doubt <= 1


def test_intervals_of_many_windows_hold() -> None:
    coverage, doubt, points = measure_coverage(noisy(2, 1000, sizes=(0.5, 1.0, 2.0)))
    assert coverage == pytest.approx(0.8, abs=0.02) and 0.01 < doubt < 0.05 and points == 3000
    assert measure_coverage(noisy(2, 10).part(np.zeros(10, dtype=bool))) == (None, 0.0, 0)


def test_an_interval_without_width_holds_what_it_meets() -> None:
    target, moved = np.array([[1.0, 2.0]]), np.array([[1.0, 3.0]])
    data = held_out([target, target, moved], target, half=0.0)
    nothing = replace(choose(data), weights=ALONE, width=1.0)
    assert nothing.distance(data).tolist() == [[0.0, 0.0]]
    assert nothing.distance(replace(data, target_VF=moved)).tolist() == [[0.0, np.inf]]


def table(rows: int = 120) -> pl.DataFrame:
    rng, t = np.random.default_rng(0), np.arange(rows)
    parts = [20 + 3 * np.sin(2 * np.pi * t / 6 + k) + rng.normal(0, 1, rows) for k in range(4)]
    return pl.concat([pl.DataFrame({"unique_id": f"s{k}", "ds": t, "y": y}) for k, y in enumerate(parts)])


@pytest.fixture(scope="module")
def fitted() -> Forecaster:
    return Forecaster(horizon=6, season_length=6, hidden_size=8, max_steps=20, levels=(80,)).fit(table())


def test_a_forecast_is_the_mixture_it_says(fitted: Forecaster) -> None:
    network, windows = fitted.fitted.network, fitted.fitted.windows
    blend, size = network.blend, (np.arange(4), np.full(4, 120))
    weights, width = (0.5, 0.3, 0.2), 1.7
    kept = (blend.weight_M.tolist(), float(blend.width))
    try:
        blend.set()
        own, own_borders = predict_windows([network], windows, *size, (80,))
        blend.set(weights, width)
        mixed, borders = predict_windows([network], windows, *size, (80,))
    finally:
        blend.set(*kept)
    others = other_forecasts(windows, *size, network.config)
    z = np.interp(0.8, ERROR_LEVELS, blend.size_L.numpy())
    for w in range(4):
        for f in range(6):
            point = 0.5 * own[w, f] + 0.3 * others.smoothed_BF[w, f] + 0.2 * others.naive_BF[w, f]
            assert mixed[w, f] == pytest.approx(point)
            half = 0.5 * others.scale_B[w] * float(blend.growth_F[f]) * z
            low = point - width * (0.5 * (own[w, f] - own_borders[w, f, 0]) + half)
            assert borders[w, f, 0] == pytest.approx(low)
    assert str(Blending(**fitted.fitted.metrics["blend"])) in fitted.summary()


def test_the_summary_says_how_well_intervals_hold(fitted: Forecaster) -> None:
    found = re.search(r"80 % intervals covered (\d+) % \((\d+) to (\d+)\) of ([\d,]+) points", fitted.summary())
    assert found
    share, low, high, points = (int(text.replace(",", "")) for text in found.groups())
    assert low <= share <= high and points == fitted.fitted.metrics["blend"]["points"]
    assert share == pytest.approx(80, abs=12)


def test_counts_and_bounded_values_are_the_network_s_alone() -> None:
    counts = table().with_columns(pl.col("y").round())
    forecaster = Forecaster(horizon=6, max_steps=0, head="negative-binomial").fit(counts)
    blend = forecaster.fitted.network.blend
    assert (blend.weight_M.tolist(), float(blend.width)) == ([1.0, 0.0, 0.0], 1.0)
    assert "forecasts: 100 % mean of naive and linear forecasts;" in forecaster.summary()


def test_the_preset_fast_leaves_smoothing_and_training_out() -> None:
    forecaster = Forecaster(horizon=6, season_length=6, preset="fast", levels=(80,)).fit(table())
    assert forecaster.fitted.metrics["steps"] == 0
    assert forecaster.fitted.network.blend.weight_M[1] == 0
