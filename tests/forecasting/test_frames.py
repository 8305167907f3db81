"""Any frame in, the same kind out: types, names, files, and what others can do with the result."""

from __future__ import annotations

import datetime as dt
from functools import partial

import matplotlib as mpl
import numpy as np
import pandas as pd
import polars as pl
import pyarrow as pa
import pytest
from tests.forecasting.small import DATES, HORIZON, KINDS, SEASON, small, table
from utilsforecast.evaluation import evaluate
from utilsforecast.losses import coverage, mase, rmse, scaled_crps, smape
from utilsforecast.plotting import plot_series

from holdfast.forecasting import score_table

INTERVALS = ["holdfast-lo-95", "holdfast-lo-80", "holdfast-hi-80", "holdfast-hi-95"]
HOUR = dt.timedelta(hours=1)


TIMES = {
    "int": pl.col("ds"),
    "int32": pl.col("ds").cast(pl.Int32),
    "date": DATES,
    "datetime": pl.datetime(2024, 1, 1) + pl.duration(hours="ds"),
    "milliseconds": (pl.datetime(2024, 1, 1) + pl.duration(hours="ds")).cast(pl.Datetime("ms")),
    "zone": (pl.datetime(2024, 3, 30) + pl.duration(hours="ds"))
    .dt.replace_time_zone("UTC")
    .dt.convert_time_zone("Europe/Berlin"),
}
IDS = {
    "text": pl.col("unique_id"),
    "int": pl.col("unique_id").replace_strict({"a": 10, "b": 9}),
    "categorical": pl.col("unique_id").cast(pl.Categorical),
    "enum": pl.col("unique_id").cast(pl.Enum(["b", "a"])),
}


def types(frame, names):
    if isinstance(frame, pa.Table):
        return [frame.schema.field(name).type for name in names]
    return [frame[name].dtype for name in names]


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize(("ids", "times"), [*(("text", times) for times in TIMES), *((ids, "date") for ids in IDS)])
def test_what_comes_out_is_of_the_kind_and_the_types_that_went_in(data, kind, ids, times):
    frame = KINDS[kind](data.with_columns(unique_id=IDS[ids], ds=TIMES[times]))
    forecaster = small().fit(frame)
    forecast, backtest = forecaster.predict(), forecaster.backtest(frame, 1)
    assert type(forecast) is type(backtest) is type(frame)
    given = types(frame, ["unique_id", "ds"])
    if (kind, ids) == ("pandas", "enum"):  # still categories, but polars forgets their order on the way from pandas
        given[0] = types(forecast, ["unique_id"])[0]
        assert isinstance(given[0], pd.CategoricalDtype)
    assert types(forecast, ["unique_id", "ds"]) == given
    assert types(backtest, ["unique_id", "ds", "cutoff"]) == [*given, given[1]]
    assert len(forecast) == len(backtest) == 2 * HORIZON


def test_pandas_nanoseconds_and_zones_come_back(data):
    for unit in ("datetime64[ns]", "datetime64[ns, Europe/Berlin]"):
        frame = data.to_pandas()
        start = pd.Timestamp("2024-03-30", tz="Europe/Berlin" if "," in unit else None)
        frame["ds"] = (start + pd.to_timedelta(frame["ds"], "h")).astype(unit)
        forecast = small().fit(frame).predict()
        assert str(forecast["ds"].dtype) == unit
        assert (
            forecast["ds"].iloc[:HORIZON] == frame["ds"].max() + np.arange(1, HORIZON + 1) * pd.Timedelta("1h")
        ).all()


def test_the_calendar_goes_on_over_a_change_of_clocks():
    start = dt.datetime(2024, 3, 31, 1)  # summer time began on 31 March at 1:00 UTC
    times = pl.Series([start + (k - 59) * HOUR for k in range(60)]).dt.replace_time_zone("UTC")
    frame = table(ids="a").with_columns(ds=times.dt.convert_time_zone("Europe/Berlin"))
    ahead = small().fit(frame).predict()["ds"]
    assert (
        ahead.dt.convert_time_zone("UTC").to_list()
        == pl.Series([start + k * HOUR for k in range(1, HORIZON + 1)]).dt.replace_time_zone("UTC").to_list()
    )
    assert ahead.dt.hour().to_list() == [4, 5, 6, 7]


def test_own_column_names_come_back(data):
    names = {"unique_id": "shop", "ds": "day", "y": "sold"}
    forecaster = small(id_col="shop", time_col="day", target_col="sold", max_steps=20).fit(data.rename(names))
    plain = small(max_steps=20).fit(data)
    assert forecaster.predict().rename({"shop": "unique_id", "day": "ds"}).equals(plain.predict())
    back = {new: old for old, new in names.items()}
    assert forecaster.backtest(data.rename(names)).rename(back).equals(plain.backtest(data))
    assert plain.backtest(data).columns == ["unique_id", "ds", "cutoff", "y", "holdfast", *INTERVALS, "seasonal_naive"]


def test_a_pandas_index_of_ids_and_times_is_read(data, fitted):
    frame = data.to_pandas().set_index(["unique_id", "ds"])
    assert pl.from_pandas(small(max_steps=20).fit(frame).predict()).equals(fitted.predict())


@pytest.mark.parametrize("name", ["data.csv", "data.parquet"])
def test_a_path_is_read_and_gives_polars(tmp_path, data, fitted, name):
    path = tmp_path / name
    data.write_csv(path) if name.endswith("csv") else data.write_parquet(path)
    for given in (path, str(path)):
        assert small(max_steps=20).fit(given).predict().equals(fitted.predict())
    assert fitted.predict(path).equals(fitted.predict())
    assert small(max_steps=20).backtest(path, 1).equals(fitted.backtest(data, 1))


def test_one_series_needs_no_id(data):
    one = data.filter(pl.col("unique_id") == "a")
    forecast = small(max_steps=20).fit(one.drop("unique_id")).predict()
    assert forecast["unique_id"].to_list() == ["series"] * HORIZON
    assert forecast.drop("unique_id").equals(small(max_steps=20).fit(one).predict().drop("unique_id"))


def test_the_order_of_rows_does_not_matter(data, fitted):
    mixed = data.sample(fraction=1, shuffle=True, seed=1)
    assert small(max_steps=20).fit(mixed).predict().equals(fitted.predict())


@pytest.mark.parametrize("kind", ["pandas", "polars"])
def test_utilsforecast_scores_and_draws_what_comes_out_unchanged(tmp_path, data, kind):
    frame = KINDS[kind](data.with_columns(ds=DATES))
    forecaster = small().fit(frame)
    backtest = forecaster.backtest(frame, 2)
    metrics = [partial(mase, seasonality=SEASON), smape, rmse, coverage, scaled_crps]
    models = ["holdfast"]
    scores = evaluate(backtest, metrics, models=models, train_df=frame, level=[80, 95])
    ours = score_table(pl.DataFrame(backtest), pl.DataFrame(frame), SEASON, (80, 95))
    theirs = pl.DataFrame(scores).with_columns(
        pl.when(pl.col("metric") == "smape").then(200 * pl.col("holdfast")).otherwise("holdfast").alias("holdfast")
    )
    keys = ["unique_id", "cutoff", "metric"]
    theirs, ours = theirs.sort(keys), ours.sort(keys)
    assert theirs.select(keys).equals(ours.select(keys))
    np.testing.assert_allclose(theirs["holdfast"], ours["holdfast"], rtol=1e-9)
    mpl.use("agg")
    figure = plot_series(
        frame,
        forecaster.predict(),
        level=[80, 95],
        engine="matplotlib",
    )
    figure.savefig(tmp_path / "forecast.png")
    drop = ["y", "cutoff"]
    drawn = backtest.drop(columns=drop) if kind == "pandas" else backtest.drop(drop)
    plot_series(frame, drawn, models=["holdfast", "seasonal_naive"], engine="matplotlib")
    assert (tmp_path / "forecast.png").stat().st_size > 10_000
