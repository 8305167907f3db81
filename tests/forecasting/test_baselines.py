"""The seasonal naive forecast against a loop over steps, and what it is by definition."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from tests.reference import scores as slow
from tests.reference import training as twin

from holdfast.forecasting import baselines, seasonal_naive
from holdfast.forecasting.baselines import other_forecasts
from holdfast.networks import NetworkConfig
from holdfast.smoothing import Histories, smoothing_forecasts
from holdfast.windows import Windows

values = st.lists(st.none() | st.floats(-1e6, 1e6), max_size=30)


def array(values):
    return np.array([np.nan if value is None else value for value in values], dtype=np.float64)


@given(values, st.integers(1, 12), st.integers(1, 30))
def test_seasonal_naive_is_the_newest_value_at_each_phase(values, season, horizon):
    expected = array(slow.seasonal_naive(values, season, horizon))
    np.testing.assert_array_equal(seasonal_naive(array(values), season, horizon), expected)


@given(st.lists(st.floats(-1e6, 1e6), min_size=1, max_size=30), st.integers(1, 12), st.integers(1, 30))
def test_a_periodic_series_goes_on_as_it_was(cycle, repeats, horizon):
    season = len(cycle)
    ahead = seasonal_naive(np.tile(cycle, repeats), season, horizon)
    np.testing.assert_array_equal(ahead, np.resize(cycle, horizon))


@pytest.mark.parametrize("season", [1, 3, 50])
def test_without_any_value_there_is_no_forecast(season):
    assert np.isnan(seasonal_naive(np.full(7, np.nan), season, 4)).all()
    assert np.isnan(seasonal_naive(np.empty(0), season, 4)).all()


def test_the_history_is_not_changed():
    history = np.array([1.0, np.nan, 3.0])
    seasonal_naive(history, 2, 5)[:] = 9
    np.testing.assert_array_equal(history, [1.0, np.nan, 3.0])


# ---------------------------------------------------------------- what a network is mixed with


def several():
    """Series of several lengths, one of them with holes, one with an outage of 300 rows at its end."""
    rng = np.random.default_rng(0)
    parts = [50 + np.resize([0.0, 4.0, -3.0, 1.0], rows) + rng.normal(0, 1, rows) for rows in (400, 90, 30, 3)]
    parts[1][rng.integers(0, 90, 30)] = np.nan
    parts[0][100:] = np.nan
    return parts


@pytest.mark.parametrize(("seasons", "best"), [((4,), 4), ((4,), 1), ((), 1), ((4, 100), 100)])
def test_other_forecasts_are_those_of_each_history_alone(seasons, best, monkeypatch):
    parts = several()
    offsets = np.cumsum([0, *map(len, parts)])
    windows = Windows.from_arrays(np.concatenate(parts), offsets.tolist(), [len(y) for y in parts])
    config = NetworkConfig(horizon=5, context_length=8, seasons=seasons, anchors=(("last", 1),), best_naive=best)
    series_W, cutoff_W = np.array([0, 0, 1, 1, 2, 3, 3]), np.array([400, 120, 90, 41, 30, 3, 1])
    whole = other_forecasts(windows, series_W, cutoff_W, config)
    for w, (i, cutoff) in enumerate(zip(series_W.tolist(), cutoff_W.tolist(), strict=True)):
        y = [None if np.isnan(v) else float(v) for v in parts[i][:cutoff]]
        naive = slow.seasonal_naive(y, best, 5)
        recent = array(y[-256:])
        smoothed = smoothing_forecasts(Histories(recent[None], np.array([len(recent)])), 4 if seasons else 1, 5)[0]
        assert whole.naive_BF[w] == pytest.approx(naive)
        assert whole.smoothed_BF[w] == pytest.approx(naive if np.isnan(recent).all() else smoothed)
        first_season = seasons[0] if seasons else 1
        assert whole.scale_B[w] == pytest.approx(twin.error_scale(parts[i][:cutoff], first_season))
    assert np.abs(whole.smoothed_BF[0] - 50).max() < 8  # 300 rows are missing, and forecasts do not fall to 0
    monkeypatch.setattr(baselines, "AT_ONCE", 3)
    cut = other_forecasts(windows, series_W, cutoff_W, config)
    for name, values in vars(whole).items():
        np.testing.assert_allclose(getattr(cut, name), values, rtol=1e-9)
