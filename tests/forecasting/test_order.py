"""Neither the names of series nor the order of rows change a forecast."""

from __future__ import annotations

import numpy as np
import polars as pl
import pytest
from tests.forecasting.small import HORIZON, SEASON, series, small, wave

SERIES = 40


def values() -> dict[str, np.ndarray]:
    """Waves and walks of several lengths and units, with gaps; one name per series."""
    rng = np.random.default_rng(0)
    found = {}
    for number in range(SERIES):
        rows = int(rng.integers(20, 70))
        y = wave(rows, number) if number % 3 else 20 + np.cumsum(rng.normal(0, 1, rows))
        y[rng.integers(1, rows, 2)] = np.nan
        found[f"s{number:02d}"] = y * 10.0 ** (number % 4)
    return found


def forecasts(frame: pl.DataFrame, **options) -> dict[str, np.ndarray]:
    found = small(**{"season_length": None, "freq": None, "max_steps": 6, **options}).fit(frame).predict()
    return {name: part.drop("unique_id", "ds").to_numpy() for (name,), part in found.group_by("unique_id")}


def assert_same(got: dict[str, np.ndarray], expected: dict[str, np.ndarray], spread: dict[str, float]) -> None:
    assert got.keys() == expected.keys()
    for name, forecast in expected.items():
        np.testing.assert_allclose(got[name] / spread[name], forecast / spread[name], rtol=0, atol=1e-5)


@pytest.mark.parametrize("options", [{}, {"season_length": SEASON, "seed": 3}, {"preset": "best", "max_steps": 2}])
def test_new_names_for_the_series_leave_every_forecast_alone(options):
    y = values()
    spread = {name: float(np.nanstd(part)) for name, part in y.items()}
    size = {name: float(number % 5) for number, name in enumerate(y)}

    def frame(names: dict[str, str]) -> pl.DataFrame:
        long = series({names[name]: part for name, part in y.items()})
        sizes = {names[name]: value for name, value in size.items()}
        return long.with_columns(size=pl.col("unique_id").replace_strict(sizes))

    own = {name: name for name in y}
    expected = forecasts(frame(own), static="size", **options)
    shuffled = np.random.default_rng(1).permutation(list(y)).tolist()
    new = dict(zip(y, shuffled, strict=True))
    got = forecasts(frame(new), static="size", **options)
    assert_same({name: got[new[name]] for name in y}, expected, spread)


def test_rows_in_another_order_leave_every_forecast_alone():
    y = values()
    frame = series(y)
    expected, got = forecasts(frame), forecasts(frame.sample(fraction=1.0, shuffle=True, seed=2))
    for name, forecast in expected.items():
        np.testing.assert_array_equal(got[name], forecast)


def test_without_an_order_by_shape_new_names_would_change_forecasts(monkeypatch):
    """What the tests above would not see if nothing were drawn."""
    y = values()
    expected = forecasts(series(y))
    monkeypatch.setattr("holdfast.forecasting.plan.shape_order", lambda y_R, start_n, count_n: np.arange(SERIES)[::-1])
    got = forecasts(series(y))
    moved = [np.abs(got[name] - forecast).max() / np.nanstd(y[name]) for name, forecast in expected.items()]
    assert max(moved) > 1e-3
    assert all(forecast.shape == (HORIZON, 5) for forecast in expected.values())
