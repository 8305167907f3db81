"""One forecast out of all kinds of smoothing: equal to a loop over series and kinds, and true to what it must hold."""

from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray
from tests.reference.smoothing import slow_states

from holdfast.smoothing import Histories, smoothing_forecasts
from holdfast.smoothing.panel import ALPHAS, GAMMAS, TRENDS, start
from holdfast.smoothing.recurrence import product

Floats = NDArray[np.float64]


def histories(*series: Floats) -> Histories:
    rows_N = np.array([len(y) for y in series])
    y_NT = np.full((len(series), rows_N.max()), np.nan)
    for row, y in zip(y_NT, series, strict=True):
        row[: len(y)] = y
    return Histories(y_NT, rows_N)


def slow_kind(y: Floats, trend: str, season: int, horizon: int, logs: bool) -> tuple[float, list[float]]:
    """Error and forecast of one kind: every parameter set, every row, every lead."""
    values = np.log(y) if logs else y
    best: tuple[float, list[float]] = (math.inf, [])
    grid = product(ALPHAS, TRENDS[trend][0], GAMMAS if season > 1 else (0.0,), TRENDS[trend][1])
    for sizes in zip(grid.alpha_L, grid.beta_L, grid.gamma_L, grid.phi_L, strict=True):
        first = start(values[None], trend, season, 1)
        begin = (first.level_NL.item(), first.trend_NL.item(), first.season_mNL[:, 0, 0].tolist())
        found = slow_states(values.tolist(), *begin, *sizes)

        def expected(t: int, lead: int, found: list = found, phi: float = sizes[3]) -> float:
            level, trend_now, phases = found[t]
            damped = sum(phi**k for k in range(1, lead + 1))
            value = level + damped * trend_now + phases[(t + lead - 1) % len(phases)]
            return math.exp(value) if logs else value

        errors = [
            abs(y[t + lead - 1] - expected(t, lead))
            for t in range(min(season, len(y) // 2), len(y))
            for lead in {1, max(min(season, horizon) // 3, 1)}
            if t + lead <= len(y) and np.isfinite(y[t + lead - 1])
        ]
        error = float(np.mean(errors))
        if error < best[0]:
            best = (error, [expected(len(y), k) for k in range(1, horizon + 1)])
    return best


def slow_forecast(y: Floats, season: int, horizon: int) -> Floats:
    logs = [False, True] if np.nanmin(y) > 0 and np.nanmax(y) >= 2 * np.nanmin(y) else [False]
    periods = [p for p in dict.fromkeys((season, 1)) if p == 1 or len(y) >= 2 * p + 2]
    kinds = [slow_kind(y, trend, p, horizon, log) for p in periods for trend in TRENDS for log in logs]
    weights = np.array([error for error, _ in kinds]) ** -4.0
    mean: Floats = weights @ np.array([forecast for _, forecast in kinds]) / weights.sum()
    return mean


def wave(seed: int, rows: int, season: int, level: float = 20.0) -> Floats:
    rng, t = np.random.default_rng(seed), np.arange(rows)
    return level + 0.2 * t + 5 * np.sin(2 * np.pi * t / season) + rng.normal(0, 1, rows)


@pytest.mark.parametrize(("season", "horizon"), [(1, 3), (4, 6), (6, 2)])
@pytest.mark.parametrize("level", [20.0, -3.0, 300.0])
def test_the_forecast_is_that_of_loops(season: int, horizon: int, level: float) -> None:
    series = [wave(0, 40, 4, level), wave(1, 23, 4, level)]
    series[1][[5, 11]] = np.nan
    forecast_NF = smoothing_forecasts(histories(*series), season, horizon)
    for forecast_F, y in zip(forecast_NF, series, strict=True):
        np.testing.assert_allclose(forecast_F, slow_forecast(y, season, horizon), rtol=1e-7)


def test_a_series_is_forecast_as_if_it_were_alone() -> None:
    series = [wave(seed, rows, 4) for seed, rows in enumerate((40, 7, 1, 23))]
    together_NF = smoothing_forecasts(histories(*series), 4, 5)
    for forecast_F, y in zip(together_NF, series, strict=True):
        np.testing.assert_allclose(smoothing_forecasts(histories(y), 4, 5)[0], forecast_F, rtol=1e-9)


@settings(max_examples=25)
@given(shift=st.sampled_from([-1e12, -37.0, 0.0, 1e6, 1e12]), factor=st.sampled_from([1e-6, 0.5, 1.0, 1e9]))
def test_forecasts_move_with_the_units(shift: float, factor: float) -> None:
    """Of series that may be negative; where all values are positive and vary by a factor of two, percents count too."""
    y = wave(3, 30, 4, level=0.0) - 6
    plain_F = smoothing_forecasts(histories(y), 4, 6)[0]
    moved_F = smoothing_forecasts(histories(factor * y + shift), 4, 6)[0]
    digits = 1e-9 * factor * np.ptp(y) + 1e-14 * abs(shift) * 100
    np.testing.assert_allclose(moved_F, factor * plain_F + shift, atol=digits)


def test_units_of_positive_series_do_not_matter_either() -> None:
    y = wave(3, 30, 4)
    plain_F = smoothing_forecasts(histories(y), 4, 6)
    np.testing.assert_allclose(smoothing_forecasts(histories(1e6 * y), 4, 6), 1e6 * plain_F, rtol=1e-9)


@pytest.mark.parametrize("season", [1, 2, 4])
def test_what_repeats_itself_goes_on_exactly(season: int) -> None:
    y = np.tile(np.array([10.0, 40.0, 20.0, 30.0])[:season], 12)
    np.testing.assert_allclose(smoothing_forecasts(histories(y), season, 5)[0], np.resize(y[:season], 5), rtol=1e-9)


def test_growth_in_percent_is_seen() -> None:
    """A season that grows with its level, as airline passengers do: nearer than any forecast in units alone."""
    t = np.arange(108)
    y = 100 * 1.01**t * (1 + 0.3 * np.sin(2 * np.pi * t / 12))
    forecast_F = smoothing_forecasts(histories(y[:96]), 12, 12)[0]
    naive_F = y[84:96]
    assert np.abs(forecast_F - y[96:]).mean() < 0.2 * np.abs(naive_F - y[96:]).mean()


@pytest.mark.parametrize(
    "y", [np.array([5.0]), np.array([np.nan]), np.full(30, np.nan), np.array([np.nan, 5.0, np.nan]), np.zeros(9)]
)
@pytest.mark.parametrize("season", [1, 4])
def test_next_to_nothing_is_forecast_as_its_last_value(y: Floats, season: int) -> None:
    expected = 5.0 if np.nanmax(y, initial=0) > 0 else 0.0
    assert smoothing_forecasts(histories(y), season, 3).tolist() == [[pytest.approx(expected)] * 3]


@pytest.mark.parametrize("size", [1e-290, 1.0, 1e290])
def test_odd_series_have_finite_forecasts_near_what_was_seen(size: float) -> None:
    rng = np.random.default_rng(0)
    odd = [rng.pareto(0.5, 40), np.r_[np.zeros(39), 1.0], np.exp(np.arange(40.0)), np.r_[1e9, np.ones(39)]]
    for y in odd:
        y = size * (y / y.max())
        forecast_F = smoothing_forecasts(histories(y), 4, 12)[0]
        assert np.isfinite(forecast_F).all()
        assert (np.abs(forecast_F) <= 4.001 * y.max()).all()


def test_only_the_newest_rows_before_the_cutoff_are_seen() -> None:
    y_R = wave(0, 900, 4)
    cut = Histories.before(y_R, np.array([0, 0]), np.array([600, 50]), season=4)
    assert np.array_equal(cut.y_NT[0], y_R[600 - 256 : 600])
    assert np.array_equal(cut.y_NT[1, :50], y_R[:50]) and np.isnan(cut.y_NT[1, 50:]).all()
    changed_R = y_R.copy()
    changed_R[600:] = 1e9
    again = Histories.before(changed_R, np.array([0, 0]), np.array([600, 50]), season=4)
    assert np.array_equal(smoothing_forecasts(cut, 4, 3), smoothing_forecasts(again, 4, 3))
