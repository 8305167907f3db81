"""Forecast tables against one window at a time."""

from __future__ import annotations

import numpy as np
import polars as pl
import pytest
import torch
from tests.forecasting.small import HORIZON, series, small, table, wave
from tests.series.small import check as check_frame

from holdfast import DataError, OptionError
from holdfast.forecasting import predict
from holdfast.forecasting.predict import forecast_table, level_columns, predict_windows
from holdfast.networks import probabilities_of
from holdfast.series import TableOptions
from holdfast.windows import Windows

LEVELS = (80, 95)


@pytest.fixture(scope="module")
def fitted():
    """Without exponential smoothing, for which see test_blending."""
    fitted = small(max_steps=20).fit(table()).fitted
    fitted.network.blend.set()
    return fitted


@pytest.mark.parametrize(
    ("levels", "names"),
    [
        ((80,), ["holdfast-lo-80", "holdfast-hi-80"]),
        ((95, 80.0, 80), ["holdfast-lo-95", "holdfast-lo-80", "holdfast-hi-80", "holdfast-hi-95"]),
        ((99.5,), ["holdfast-lo-99.5", "holdfast-hi-99.5"]),
        ((97.123456789,), ["holdfast-lo-97.123456789", "holdfast-hi-97.123456789"]),
    ],
)
def test_interval_columns_are_named_as_utilsforecast_names_them(levels, names):
    assert level_columns(levels) == names
    assert len(probabilities_of(levels)) == len(names) + 1


def test_a_table_is_what_the_network_says_of_each_window(fitted):
    store = fitted.prepared.store
    size, head = fitted.network.config, fitted.network.head
    rows = forecast_table(fitted.networks, store, fitted.windows, LEVELS).rows()
    expected = []
    with torch.no_grad():
        for i in range(store.n_series):
            n = int(store.lengths[i])
            batch = fitted.windows.gather([i], [n], context_length=size.context_length, horizon=HORIZON)
            parameters = fitted.network.eval()(batch)
            points = head.point(parameters)[0].tolist()
            borders = head.quantiles(parameters, [0.025, 0.1, 0.9, 0.975])[0].tolist()
            expected += [(store.ids[i], n + k, points[k], *borders[k]) for k in range(HORIZON)]
    assert [row[:2] for row in rows] == [row[:2] for row in expected]
    np.testing.assert_allclose([row[2:] for row in rows], [row[2:] for row in expected], rtol=1e-6)


def test_windows_are_cut_into_batches_without_a_trace(fitted, monkeypatch):
    which, cutoffs = np.array([0, 1, 1, 0, 1, 0, 0]), np.array([60, 60, 50, 41, 3, 1, 30])
    whole = predict_windows(fitted.networks, fitted.windows, which, cutoffs, LEVELS)
    monkeypatch.setattr(predict, "WINDOWS_AT_ONCE", 3)
    parts = predict_windows(fitted.networks, fitted.windows, which, cutoffs, LEVELS)
    for one, other in zip(whole, parts, strict=True):
        np.testing.assert_allclose(one, other, rtol=1e-5)
    assert whole[0].shape == (7, HORIZON)
    assert whole[1].shape == (7, HORIZON, 4)


@pytest.mark.parametrize("cutoff", [1, 7, 24, 59])
def test_a_forecast_from_a_cutoff_sees_nothing_behind_it(fitted, cutoff):
    """It is that of the series cut off there, times included."""
    store = fitted.prepared.store
    got = forecast_table(fitted.networks, store, fitted.windows, LEVELS, np.array([cutoff, cutoff]))
    cut = table().filter(pl.col("ds") < cutoff)
    short = check_frame(cut, TableOptions(), horizon=HORIZON, freq=1, categories={}).store
    assert got.equals(forecast_table(fitted.networks, short, Windows.from_store(short), LEVELS))


def test_series_that_may_not_be_seen_at_all_are_left_out(fitted):
    store = fitted.prepared.store
    both = forecast_table(fitted.networks, store, fitted.windows, LEVELS, np.array([50, 50]))
    one = forecast_table(fitted.networks, store, fitted.windows, LEVELS, np.array([0, 50]))
    assert one["unique_id"].unique().to_list() == ["b"]
    np.testing.assert_allclose(one["holdfast"], both.tail(HORIZON)["holdfast"], rtol=1e-6)


def test_a_forecast_leaves_no_trace(fitted):
    before = {name: tensor.clone() for name, tensor in fitted.network.state_dict().items()}
    state = torch.get_rng_state()
    first = forecast_table(fitted.networks, fitted.prepared.store, fitted.windows, LEVELS)
    fitted.network.train()  # dropout must be off all the same
    again = forecast_table(fitted.networks, fitted.prepared.store, fitted.windows, LEVELS)
    assert first.equals(again)
    assert torch.equal(torch.get_rng_state(), state)
    assert all(torch.equal(before[name], tensor) for name, tensor in fitted.network.state_dict().items())


@pytest.mark.parametrize(
    "options",
    [
        {},
        {"head": "gaussian"},
        {"head": "student-t"},
        {"head": "negative-binomial"},
        {"head": "sigmoid", "bounds": (0, 30)},
        {"preset": "best", "max_steps": 1},
    ],
    ids=str,
)
def test_other_levels_are_forecast_in_order_next_to_those_of_the_fit(options):
    frame = table().with_columns(pl.col("y").round())
    forecaster = small(**options).fit(frame)
    own, other = forecaster.predict(), forecaster.predict(levels=[99, 80, 50])
    assert other.select(own.columns[:3]).equals(own.select(own.columns[:3]))
    assert other.columns[3:] == level_columns((50, 80, 99))
    borders = other.select(other.columns[3:]).to_numpy()
    assert (np.diff(borders, axis=1) >= 0).all()
    assert (borders[:, 0] < borders[:, -1]).all()
    for name in level_columns((80,)):
        assert other[name].equals(own[name])
    assert forecaster.predict().equals(own)


@pytest.mark.parametrize("levels", [(), (0.8,), (80, 100), ("wide",)])
def test_levels_of_a_forecast_are_checked_as_those_of_a_fit(levels):
    forecaster = small().fit(table())
    with pytest.raises(OptionError) as asked:
        forecaster.predict(levels=levels)
    with pytest.raises(OptionError) as at_fit:
        small(levels=levels)
    assert asked.value.problems == at_fit.value.problems


def test_an_unknown_future_names_the_covariates_and_series():
    many = series({f"s{i}": wave(30, i) for i in range(7)})
    frame = many.with_columns(price=pl.col("y") * 0 + 1, sale=pl.col("ds") % 2)
    forecaster = small(future=("price", "sale"), max_steps=1).fit(frame)
    with pytest.raises(DataError) as caught:
        forecaster.predict()
    (problem,) = caught.value.problems
    assert problem.where.startswith("future covariates price, sale of series 's0'; series 's1'; ")
    assert problem.where.endswith("series 's4' ... and 2 more")
    assert "4 steps" in problem.expected
