"""The seasonal naive forecast against a loop over steps, and what it is by definition."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from tests.reference import scores as slow

from holdfast.forecasting import seasonal_naive

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
