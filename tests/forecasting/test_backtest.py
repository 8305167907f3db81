"""Backtests: cutoffs, no look ahead, what stands beside what, and what is too short."""

from __future__ import annotations

import math

import numpy as np
import polars as pl
import pytest
from hypothesis import given
from hypothesis import strategies as st
from tests.forecasting.small import HORIZON, SEASON, series, small, table, wave
from tests.reference import scores as slow

from holdfast import DataError, OptionError
from holdfast.forecasting.backtest import rolling_cutoffs
from holdfast.forecasting.forecaster import backtest_fitted


@given(st.lists(st.integers(0, 200), min_size=1, max_size=5), st.integers(1, 20), st.integers(1, 6))
def test_cutoffs_are_those_of_a_plain_loop(lengths, horizon, n_windows):
    got = rolling_cutoffs(np.array(lengths), horizon, n_windows)
    expected = [slow.cutoffs(length, horizon, n_windows) for length in lengths]
    assert [cutoff_n.tolist() for cutoff_n in got] == [list(window) for window in zip(*expected, strict=True)]
    assert (got[-1] + horizon == lengths).all()


def uneven():
    """Series of several lengths and starts, one with gaps; rows in no order."""
    values = {"b": wave(60, 1), "a": wave(41, 2), "c": wave(11, 3), "Z": wave(3, 4)}
    values["b"][[5, 49, 55]] = np.nan
    frame = series(values).with_columns(ds=pl.col("ds") + 100 * (pl.col("unique_id") == "a"))
    return values, frame.sample(fraction=1, shuffle=True, seed=0)


def test_every_row_is_where_it_belongs():
    """Times, cutoffs, values and seasonal naive forecasts of each window against plain loops."""
    values, frame = uneven()
    backtest = small().backtest(frame, 3)
    rows = []
    for name in sorted(values):
        y = [None if math.isnan(v) else float(v) for v in values[name]]
        start = 100 if name == "a" else 0
        for cutoff in slow.cutoffs(len(y), HORIZON, 3):
            if cutoff >= 1:
                naive = slow.seasonal_naive(y[:cutoff], SEASON, HORIZON)
                rows += [
                    (name, start + cutoff + k, start + cutoff - 1, y[cutoff + k], naive[k]) for k in range(HORIZON)
                ]
    assert backtest.select("unique_id", "ds", "cutoff", "y", "seasonal_naive").rows() == rows
    assert backtest["holdfast"].is_finite().all()


@pytest.mark.filterwarnings("ignore::holdfast.errors.DataWarning")  # short histories
def test_each_window_is_what_the_same_network_forecasts_from_the_series_cut_off_there():
    _, frame = uneven()
    forecaster = small(max_steps=20)
    fitted, windows = backtest_fitted(forecaster, frame, 2)
    forecaster._become(fitted)
    for (name, cutoff), rows in windows.partition_by("unique_id", "cutoff", as_dict=True).items():
        known = frame.filter(pl.col("unique_id") == name, pl.col("ds") <= cutoff)
        if math.isnan(known.sort("ds")["y"][-1]):
            continue  # a table of one series that ends without a value is forecast from there
        again = forecaster.predict(known)
        assert again["ds"].equals(rows["ds"])
        for column in again.columns[2:]:
            np.testing.assert_allclose(again[column], rows[column], rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("window", [0, 1, 2])
def test_nothing_behind_a_cutoff_changes_its_forecast(window):
    """Values and past covariates behind it become huge, future covariates behind its horizon too: not one bit moves."""
    frame = table().with_columns(heat=pl.col("ds").sin(), price=pl.col("ds").cos())
    last_seen = 60 - HORIZON * (3 - window) - 1
    behind, beyond = pl.col("ds") > last_seen, pl.col("ds") > last_seen + HORIZON
    poisoned = frame.with_columns(
        y=pl.when(behind).then(1e12).otherwise("y"),
        heat=pl.when(behind).then(1e12).otherwise("heat"),
        price=pl.when(beyond).then(1e12).otherwise("price"),
    )
    forecaster = small(max_steps=12, past="heat", future="price")
    clean, dirty = (
        forecaster.backtest(given, 3).filter(pl.col("cutoff") <= last_seen).drop("y") for given in (frame, poisoned)
    )
    assert clean.height == 2 * HORIZON * (window + 1)
    assert clean.equals(dirty)


def test_seasons_are_looked_for_in_what_may_be_seen():
    """A season that only shows in the windows that are kept back is not found."""
    rng = np.random.default_rng(0)
    y = np.concatenate([rng.normal(10, 1, 40), np.tile([0.0, 50, 0, 0, 90], 12)])
    options = {"season_length": None, "horizon": 20, "max_steps": 0}
    fitted, _ = backtest_fitted(small(**options), series({"a": y}), 3)
    assert fitted.network.config.seasons == ()
    assert 5 in [season.length for season in small(**options).fit(series({"a": y})).fitted.prepared.seasons]


def test_the_forecaster_stays_as_it_was():
    forecaster = small().fit(table())
    fitted, before = forecaster.fitted, forecaster.predict()
    forecaster.backtest(table(seed=5), 2)
    assert forecaster.fitted is fitted
    assert forecaster.predict().equals(before)
    unfitted = small()
    unfitted.backtest(table(), 1)
    with pytest.raises(OptionError):
        unfitted.predict()


def test_more_windows_add_earlier_ones_and_change_the_training():
    one, two = small(max_steps=20).backtest(table(), 1), small(max_steps=20).backtest(table(), 2)
    last = two.filter(pl.col("cutoff") == 55)
    assert last.drop("holdfast", "^holdfast-.*$").equals(one.drop("holdfast", "^holdfast-.*$"))
    assert not last.equals(one)  # it was trained on a window less


@pytest.mark.parametrize("rows", [HORIZON * 2 + 2, 20, 60])
def test_too_many_windows_are_refused_and_the_advice_works(rows):
    frame = table(rows=rows)
    with pytest.raises(DataError) as caught:
        small().backtest(frame, 100)
    (problem,) = caught.value.problems
    assert all([problem.where, problem.expected, problem.got, problem.fix])
    most = int(problem.fix.split()[-1])
    assert problem.fix == f"give --windows {most}"
    assert small().backtest(frame, most).height == 2 * HORIZON * most
    with pytest.raises(DataError):
        small().backtest(frame, most + 1)


def test_data_too_short_for_any_window_says_so():
    with pytest.raises(DataError, match="shorter --horizon, or more data"):
        small().backtest(table(rows=HORIZON * 2 + 1), 1)


@pytest.mark.parametrize("n_windows", [0, -1, 1.0, True, "3", None])
def test_the_number_of_windows_is_a_whole_number(n_windows):
    with pytest.raises(OptionError, match="windows"):
        small().backtest(table(), n_windows)


def test_progress_is_shown():
    shown = []
    small(max_steps=5).backtest(table(), 1, show=shown.append)
    assert [outlook.step for outlook in shown] == [1, 2, 3, 4, 5]
