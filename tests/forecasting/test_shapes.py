"""Shapes of tables through a fit: what comes back, also from a run directory."""

from __future__ import annotations

import numpy as np
import pandas as pd
import polars as pl
import pytest
from tests.forecasting.small import DATES, HORIZON, KINDS, series, small, table, wave

from holdfast import DataError, Forecaster
from holdfast.forecasting.runs import backtest_file, predict_run

KEYS = {"a": ("x", 8), "b": ('x,"y', 7)}


def two_ids(frame: pl.DataFrame) -> pl.DataFrame:
    """The same series under two ids, with types of their own."""
    store = pl.col("unique_id").replace_strict(
        {name: key[0] for name, key in KEYS.items()}, return_dtype=pl.Categorical
    )
    item = pl.col("unique_id").replace_strict({name: key[1] for name, key in KEYS.items()}, return_dtype=pl.Int16)
    return frame.select(store.alias("store"), item.alias("item"), pl.exclude("unique_id"))


@pytest.fixture(scope="module")
def keyed():
    return table().with_columns(ds=DATES)


@pytest.mark.parametrize("kind", KINDS)
def test_two_ids_forecast_as_one_and_come_back_in_their_types(keyed, kind):
    one, two = small(max_steps=20), small(max_steps=20, id_col=("store", "item"))
    frame = KINDS[kind](two_ids(keyed))
    expected = two_ids(one.fit(keyed).predict())
    got = two.fit(frame).predict()
    assert type(got) is type(frame)
    got = pl.DataFrame(got)
    assert got.columns[:4] == ["store", "item", "ds", "holdfast"]
    assert got["item"].dtype == pl.Int16
    assert got["store"].dtype == pl.Categorical
    assert got["store"].cast(pl.String).to_list() == ["x"] * HORIZON + ['x,"y'] * HORIZON
    np.testing.assert_allclose(got["holdfast"], expected["holdfast"], rtol=1e-6)
    backtest = pl.DataFrame(two.backtest(frame, 2))
    assert backtest.columns[:5] == ["store", "item", "ds", "cutoff", "y"]
    assert pl.DataFrame(two.predict(frame)).equals(got)


def test_two_ids_in_a_run_directory(tmp_path, keyed):
    frame = two_ids(keyed)
    fitted = small(id_col=["store", "item"]).fit(frame, out=tmp_path / "run")
    expected = fitted.predict()
    assert pl.read_parquet(tmp_path / "run" / "forecast.parquet").equals(expected)
    loaded = Forecaster.load(tmp_path / "run")
    assert loaded.id_col == ("store", "item")
    for again in (loaded, Forecaster.resume(tmp_path / "run")):
        assert again.predict().equals(expected)
        assert again.predict(frame).equals(expected)
    assert loaded.diagnose(frame).kind == fitted.diagnose(frame).kind
    frame.write_csv(tmp_path / "newer.csv")
    table = predict_run(tmp_path / "run", tmp_path / "newer.csv", None, tmp_path / "forecast.csv")
    assert table["holdfast"].equals(expected["holdfast"])
    assert pl.read_csv(tmp_path / "forecast.csv").columns == expected.columns
    scores, _ = backtest_file(small(id_col=("store", "item")), tmp_path / "newer.csv", 1, tmp_path / "scores.csv")
    written = pl.read_csv(tmp_path / "scores.csv")
    assert written.columns == ["store", "item", "cutoff", "metric", "holdfast", "seasonal_naive"]
    assert written.select("store", "item").unique().rows() in ([("x", 8), ('x,"y', 7)], [('x,"y', 7), ("x", 8)])
    assert written.filter(metric="rmse")["holdfast"].mean() == pytest.approx(scores["rmse"]["holdfast"])


def test_two_ids_and_the_covariates_of_their_future(keyed):
    frame = two_ids(keyed).with_columns(price=pl.col("y") * 2)
    fitted = small(id_col=("store", "item"), future=("price",)).fit(frame)
    with pytest.raises(DataError, match="series store 'x', item 8; series store 'x,\"y', item 7"):
        fitted.predict()
    ahead = frame.group_by("store", "item").tail(HORIZON).with_columns(pl.col("ds") + pl.duration(days=HORIZON))
    assert len(fitted.predict(future=ahead.drop("y"))) == 2 * HORIZON


@pytest.mark.parametrize("kind", KINDS)
def test_a_wide_table_forecasts_as_the_long_one(tmp_path, kind):
    long = table().with_columns(ds=DATES)
    wide = long.pivot("unique_id", index="ds", values="y")
    expected = small(max_steps=20).fit(long).predict()
    forecaster = small(max_steps=20, wide=True).fit(KINDS[kind](wide), out=tmp_path / "run")
    for again in (forecaster, Forecaster.load(tmp_path / "run")):
        for forecast in (again.predict(), again.predict(KINDS[kind](wide.reverse()))):
            assert type(forecast) is type(KINDS[kind](wide))
            assert pl.DataFrame(forecast).with_columns(pl.col("ds").cast(pl.Date)).equals(expected)
    assert len(forecaster.predict(KINDS[kind](wide.with_columns(new="b")))) == 3 * HORIZON
    with pytest.raises(DataError, match="without 'ds'"):
        forecaster.predict(KINDS[kind](wide.rename({"ds": "day"})))


def test_a_wide_file(tmp_path):
    pl.DataFrame({"day": range(60), "b": wave(60, 1), "a": wave(60, 0)}).write_csv(tmp_path / "wide.csv")
    names = {"time_col": "day", "id_col": "shop"}
    forecast = small(max_steps=20, wide=True, **names).fit(tmp_path / "wide.csv").predict()
    assert forecast.columns[:3] == ["shop", "day", "holdfast"]
    assert forecast["holdfast"].equals(small(max_steps=20).fit(table()).predict()["holdfast"])


@pytest.mark.parametrize("shape", ["index", "unnamed index", "two levels", "series"])
def test_times_in_the_index_of_pandas_come_back_as_a_column(shape):
    frame = table(ids="a").with_columns(ds=DATES).to_pandas()
    expected = small(max_steps=20).fit(frame).predict()
    indexed = frame.set_index(["unique_id", "ds"])
    if shape != "two levels":
        indexed = frame.set_index("ds").rename_axis(None if shape == "unnamed index" else "ds")
    got = small(max_steps=20).fit(indexed["y"] if shape == "series" else indexed).predict()
    drop = ["unique_id"] if shape == "series" else []
    pd.testing.assert_frame_equal(got.drop(columns=drop), expected.drop(columns=drop))


@pytest.mark.parametrize("freq", ["M", "W-WED", "D"])
def test_periods_come_back_as_periods_of_their_frequency(tmp_path, freq):
    periods = pd.period_range(pd.Period("2020-01-01", freq), periods=60)
    frame = pd.DataFrame({"month": periods, "y": wave(60, 0)})
    fitted = small(time_col="month").fit(frame, out=tmp_path / "run")
    expected = pd.period_range(periods[-1] + periods.freq, periods=HORIZON)
    for again in (fitted, Forecaster.load(tmp_path / "run")):
        assert again.predict()["month"].tolist() == list(expected)
    backtest = fitted.backtest(frame, 1)
    assert backtest["cutoff"].tolist() == [periods[-1 - HORIZON]] * HORIZON
    assert backtest["month"].tolist() == list(periods[-HORIZON:])


def test_series_that_the_fit_did_not_have_come_out_sorted(data, fitted):
    new = pl.concat([data.with_columns(unique_id=pl.lit("zz")).head(60), data, series({"0": wave(30, 9)})])
    forecast = fitted.predict(new)
    assert forecast["unique_id"].unique(maintain_order=True).to_list() == ["0", "a", "b", "zz"]
    assert forecast["ds"][:HORIZON].to_list() == [30, 31, 32, 33]
    assert forecast.filter(pl.col("unique_id").is_in(["a", "b"]))["holdfast"].to_numpy() == pytest.approx(
        fitted.predict()["holdfast"].to_numpy(), rel=1e-6
    )
