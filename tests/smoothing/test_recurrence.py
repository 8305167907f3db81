"""Exponential smoothing: equal to the formulas written as loops, and to their closed forms."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from numpy.typing import NDArray
from tests.reference.smoothing import slow_states

from holdfast.smoothing.recurrence import Parameters, State, ahead, first_season, line, product, states

Floats = NDArray[np.float64]
GRID = product((0.1, 0.6, 1.0), (0.0, 0.4), (0.0, 0.5), (0.8, 1.0))


def series(seed: int, rows: int, missing: float = 0.0, count: int = 3) -> Floats:
    rng = np.random.default_rng(seed)
    y_NT = rng.normal(5, 2, (count, rows)).cumsum(1)
    return np.where(rng.random((count, rows)) < missing, np.nan, y_NT)


def begin(seed: int, season: int, count: int = 3) -> State:
    rng, lanes = np.random.default_rng(seed), len(GRID.alpha_L)
    return State(*(rng.normal(size=shape) for shape in [(count, lanes), (count, lanes), (season, count, lanes)]))


@pytest.mark.parametrize("season", [1, 2, 5])
@pytest.mark.parametrize("missing", [0.0, 0.3])
@pytest.mark.parametrize("rows", [0, 1, 4, 17])
def test_every_state_is_that_of_the_loop(season: int, missing: float, rows: int) -> None:
    y_NT, start = series(0, rows, missing), begin(1, season)
    given_season = start.season_mNL.copy()
    seen = [
        (state.level_NL.copy(), state.trend_NL.copy(), state.season_mNL.copy()) for state in states(y_NT, start, GRID)
    ]
    assert len(seen) == rows + 1
    assert np.array_equal(start.season_mNL, given_season)
    for n in range(len(y_NT)):
        for lane in range(len(GRID.alpha_L)):
            parameters = [getattr(GRID, name)[lane] for name in ("alpha_L", "beta_L", "gamma_L", "phi_L")]
            first = (start.level_NL[n, lane], start.trend_NL[n, lane], start.season_mNL[:, n, lane])
            for state, slow in zip(seen, slow_states(y_NT[n], *first, *parameters), strict=True):
                assert state[0][n, lane] == pytest.approx(slow[0], rel=1e-12, abs=1e-12)
                assert state[1][n, lane] == pytest.approx(slow[1], rel=1e-12, abs=1e-12)
                np.testing.assert_allclose(state[2][:, n, lane], slow[2], rtol=1e-12, atol=1e-12)


def test_simple_smoothing_is_the_weighted_mean_of_the_past() -> None:
    y_NT, alpha = series(3, 12), 0.3
    one = np.ones(1)
    *_, last = states(
        y_NT,
        State(y_NT[:, :1] * 0 + 7.0, np.zeros((3, 1)), np.zeros((1, 3, 1))),
        Parameters(alpha * one, 0 * one, 0 * one, one),
    )
    weights = alpha * (1 - alpha) ** np.arange(11, -1, -1)
    np.testing.assert_allclose(last.level_NL[:, 0], y_NT @ weights + (1 - alpha) ** 12 * 7.0)


def test_a_line_with_a_season_is_forecast_exactly_by_every_parameter_set() -> None:
    t, phase = np.arange(40), np.array([3.0, -1.0, -2.0])
    y_NT = (4.0 + 0.5 * t + phase[t % 3])[None]
    grid = product((0.1, 0.6, 1.0), (0.0, 0.4), (0.0, 0.5), (1.0,))
    wide = np.ones((1, len(grid.alpha_L)))
    start = State(3.5 * wide, 0.5 * wide, phase[:, None, None] * wide)
    *_, last = states(y_NT[:, :30], start, grid)
    for k in range(10):
        np.testing.assert_allclose(ahead(last, grid.damping(10)[k], (30 + k) % 3), y_NT[0, 30 + k], rtol=1e-12)


@given(shift=st.floats(-1e6, 1e6), factor=st.floats(-1e3, 1e3), seed=st.integers(0, 99))
def test_states_move_with_the_units(shift: float, factor: float, seed: int) -> None:
    y_NT, start = series(seed, 9, 0.2), begin(seed, 3)
    moved = State(factor * start.level_NL + shift, factor * start.trend_NL, factor * start.season_mNL)
    *_, plain = states(y_NT, start, GRID)
    *_, other = states(factor * y_NT + shift, moved, GRID)
    size = 1e-11 * (1 + abs(shift) + 100 * abs(factor))
    np.testing.assert_allclose(other.level_NL, factor * plain.level_NL + shift, atol=size)
    np.testing.assert_allclose(other.season_mNL, factor * plain.season_mNL, atol=size)


@pytest.mark.parametrize("missing", [0.0, 0.4, 1.0])
def test_the_line_is_that_of_least_squares(missing: float) -> None:
    y_NT = series(5, 14, missing)
    level_N, slope_N = line(y_NT)
    for n, y_T in enumerate(y_NT):
        seen = np.isfinite(y_T)
        if seen.sum() > 1:
            slope, level = np.polyfit(np.arange(1, 15)[seen], y_T[seen], 1)
            assert (level_N[n], slope_N[n]) == pytest.approx((level, slope), rel=1e-9)
        else:
            assert slope_N[n] == 0.0


@pytest.mark.parametrize("season", [2, 4, 7])
def test_the_first_season_is_found_whatever_the_line_below_it(season: int) -> None:
    phase = np.random.default_rng(season).normal(size=season)
    phase -= phase.mean()
    t = np.arange(3 * season + 1)
    y_NT = np.stack([phase[t % season], 1e3 + 7 * t + phase[t % season]])
    whole = y_NT[:, : 3 * season]
    # a line adds the same to each phase but for its own steps within a season, which the mean slope takes out
    np.testing.assert_allclose(first_season(whole, season, 3), np.stack([phase, phase]), atol=1e-9)
    np.testing.assert_allclose(first_season(y_NT, season, 3).sum(1), 0, atol=1e-9)
    assert np.array_equal(first_season(y_NT[:, : season - 1], season, 3), np.zeros((2, season)))
