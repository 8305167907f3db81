"""The public face: any frame in and the same kind out, new data, covariates, heads, cells, and what is refused."""

from __future__ import annotations

import datetime as dt
from functools import partial
from pathlib import Path

import matplotlib as mpl
import numpy as np
import pandas as pd
import polars as pl
import pyarrow as pa
import pytest
from tests.forecasting.small import HORIZON, SEASON, series, small, table, wave
from utilsforecast.evaluation import evaluate
from utilsforecast.losses import coverage, mase, rmse, scaled_crps, smape
from utilsforecast.plotting import plot_series

from holdfast import DataError, Forecaster, OptionError
from holdfast.forecasting import mean_scores, score_table, seasonal_naive
from holdfast.networks import CELLS, HEADS

INTERVALS = ["holdfast-lo-95", "holdfast-lo-80", "holdfast-hi-80", "holdfast-hi-95"]
HOUR, DAY = dt.timedelta(hours=1), dt.timedelta(days=1)


@pytest.fixture(scope="module")
def data():
    return table()


@pytest.fixture(scope="module")
def fitted(data):
    return small(max_steps=20).fit(data)


# ---------------------------------------------------------------- frames

TIMES = {
    "int": pl.col("ds"),
    "int32": pl.col("ds").cast(pl.Int32),
    "date": pl.date(2024, 1, 1) + pl.duration(days="ds"),
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
KINDS = {"pandas": pl.DataFrame.to_pandas, "polars": lambda frame: frame, "pyarrow": pl.DataFrame.to_arrow}


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
    frame = KINDS[kind](data.with_columns(ds=TIMES["date"]))
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


# ---------------------------------------------------------------- forecasts


def test_without_a_step_the_forecast_is_the_plain_mean_of_the_anchors(data):
    """Cross-checked in test_plan.py for each kind of anchor; here through the public face, with one seasonal anchor."""
    exact = series({"a": np.tile([1.0, 5.0, 2.0, 8.0, 3.0, 9.0], 10), "b": np.tile([4.0, 4.0, 1.0, 0.0, 2.0, 7.0], 8)})
    forecaster = small(max_steps=0, horizon=8).fit(exact)
    assert {kind for kind, _ in forecaster.fitted.network.config.anchors} <= {"season", "seasonal-mean"}
    for (name,), rows in exact.partition_by("unique_id", as_dict=True).items():
        got = forecaster.predict().filter(pl.col("unique_id") == name)["holdfast"].to_numpy()
        np.testing.assert_allclose(got, seasonal_naive(rows["y"].to_numpy(), SEASON, 8), rtol=1e-6)


def test_a_forecast_is_ordered_finite_and_goes_on_where_the_series_ends(data, fitted):
    forecast = fitted.predict()
    assert forecast["ds"].to_list() == [60, 61, 62, 63] * 2
    borders = forecast.select(
        "holdfast-lo-95", "holdfast-lo-80", "holdfast", "holdfast-hi-80", "holdfast-hi-95"
    ).to_numpy()
    assert np.isfinite(borders).all()
    assert (np.diff(borders, axis=1) > 0).all()


def test_the_same_fit_gives_the_same_bits_and_another_seed_does_not(data, fitted):
    assert small(max_steps=20).fit(data).predict().equals(fitted.predict())
    assert not small(max_steps=20, seed=1).fit(data).predict().equals(fitted.predict())


def test_fit_returns_the_forecaster_and_a_second_fit_replaces_the_first(data):
    forecaster = small()
    assert forecaster.fit(data) is forecaster
    other = table(seed=9)
    assert forecaster.fit(other).predict().equals(small().fit(other).predict())


@pytest.mark.parametrize("unit", [1e-6, 1e6])
def test_the_unit_of_the_data_scales_the_forecast(data, fitted, unit):
    """Up to the rounding of single precision, for the network works in normalised units."""
    scaled = small(max_steps=20).fit(data.with_columns(pl.col("y") * unit)).predict()
    for name in ("holdfast", *INTERVALS):
        np.testing.assert_allclose(scaled[name] / unit, fitted.predict()[name], rtol=1e-4)


# ---------------------------------------------------------------- new data


def test_newer_rows_are_forecast_as_if_they_had_been_there_all_along(data, fitted):
    """The context is 24 rows: with the same last rows, forecasts are the same, wherever the series began."""
    context = fitted.fitted.network.config.context_length
    newer = table(rows=80)
    forecast = fitted.predict(newer)
    assert forecast["ds"].to_list() == [80, 81, 82, 83] * 2
    assert forecast.equals(fitted.predict(newer.filter(pl.col("ds") >= 80 - context)))
    assert not forecast.drop("ds").equals(fitted.predict().drop("ds"))
    assert fitted.predict(data).equals(fitted.predict())


@pytest.mark.parametrize("kind", KINDS)
def test_the_kind_of_the_new_table_decides(data, fitted, kind):
    frame = KINDS[kind](data)
    assert type(fitted.predict(frame)) is type(frame)
    assert type(fitted.predict()) is pl.DataFrame


@pytest.mark.parametrize("rows", [1, 2, 5, 23, 24, 25])
def test_other_and_shorter_series_are_forecast(fitted, rows):
    other = series({"new": wave(rows, seed=77) * 1000})
    forecast = fitted.predict(other)
    assert forecast["unique_id"].to_list() == ["new"] * HORIZON
    assert forecast["ds"].to_list() == list(range(rows, rows + HORIZON))
    assert np.isfinite(forecast.select("holdfast", *INTERVALS).to_numpy()).all()
    assert forecast["holdfast"].is_between(4000, 16000).all()


def test_each_series_is_forecast_by_itself(fitted):
    together = fitted.predict(table(ids="abc", seed=5))
    alone = [fitted.predict(table(ids="abc", seed=5).filter(pl.col("unique_id") == name)) for name in "abc"]
    for name in ("holdfast", *INTERVALS):
        np.testing.assert_allclose(together[name], pl.concat(alone)[name], rtol=1e-5)


def test_missing_values_and_short_series_are_no_obstacle(data):
    gappy = data.with_columns(y=pl.when(pl.col("ds").is_in([3, 20, 21, 22, 40, 59])).then(None).otherwise("y"))
    short = series({"one": np.array([5.0]), "four": np.array([1.0, 2.0, 3.0, 4.0])})
    forecaster = small(max_steps=20).fit(pl.concat([gappy, short]))
    forecast = forecaster.predict()
    assert forecast["holdfast"].is_finite().all()
    assert forecast.filter(pl.col("unique_id") == "one")["ds"].to_list() == [1, 2, 3, 4]
    scored = forecaster.backtest(pl.concat([gappy, short]), 2)
    assert scored["unique_id"].unique(maintain_order=True).to_list() == ["a", "b"]
    assert scored["y"].null_count() == 2  # row 59 of each
    assert forecaster.fitted.metrics["scores"]["mase"]["holdfast"] > 0


# ---------------------------------------------------------------- covariates


def driven(rows=160, seed=0):
    """Nothing but a covariate drives y; nothing in the past of y helps to see what comes."""
    rng = np.random.default_rng(seed)
    drive = rng.choice([-1.0, 1.0], rows)
    return pl.DataFrame(
        {"unique_id": "a", "ds": range(rows), "y": 10 + 3 * drive + rng.normal(0, 0.1, rows), "drive": drive}
    )


QUICK = {"horizon": 4, "season_length": 4, "hidden_size": 16, "batch_size": 32, "lr": 0.02, "dropout": 0.0, "seed": 1}


def error(forecaster, frame, model="holdfast"):
    backtest = forecaster.backtest(frame, 2)
    return float((backtest[model] - backtest["y"]).abs().mean())


def test_a_future_covariate_that_drives_everything_is_learned():
    frame = driven()
    with_drive = Forecaster(**QUICK, max_steps=200, future="drive")
    without = Forecaster(**QUICK, max_steps=20)
    naive = error(without, frame, "seasonal_naive")
    assert error(with_drive, frame) < 0.3 * naive
    assert error(without, frame) > 0.6 * naive


def test_future_values_reach_the_forecast_and_only_that_of_their_step():
    frame = driven()
    forecaster = Forecaster(**QUICK, max_steps=200, future="drive").fit(frame)
    ahead = pl.DataFrame({"unique_id": "a", "ds": range(160, 164), "drive": [1.0, -1.0, -1.0, 1.0]})
    first = forecaster.predict(future=ahead)["holdfast"].to_numpy()
    assert (np.abs(first - [13, 7, 7, 13]) < 2).all()
    turned = forecaster.predict(future=ahead.with_columns(drive=-pl.col("drive")))["holdfast"].to_numpy()
    assert (np.abs(turned - [7, 13, 13, 7]) < 2).all()
    # columns, order and kind of the table of the future are free, and with the table of the fit it may be given again
    for future in (ahead.reverse().with_columns(spare=0), ahead.to_pandas(), ahead.to_arrow()):
        np.testing.assert_array_equal(forecaster.predict(future=future)["holdfast"], first)
        np.testing.assert_array_equal(forecaster.predict(frame, future=future)["holdfast"], first)


def test_future_covariates_work_under_own_column_names():
    names = {"unique_id": "shop", "ds": "day", "y": "sold"}
    plain, own = Forecaster(**QUICK, max_steps=2, future="drive"), None
    own = Forecaster(**QUICK, max_steps=2, future="drive", id_col="shop", time_col="day", target_col="sold")
    frame = driven(60)
    ahead = pl.DataFrame({"unique_id": "a", "ds": range(60, 64), "drive": [1.0, -1.0, -1.0, 1.0]})
    expected = plain.fit(frame).predict(future=ahead)
    got = own.fit(frame.rename(names)).predict(future=ahead.rename({"unique_id": "shop", "ds": "day"}))
    assert got.rename({"shop": "unique_id", "day": "ds"}).equals(expected)


def test_a_missing_future_is_refused_and_says_what_to_give():
    frame = pl.concat([driven(60), driven(3, seed=1).with_columns(unique_id=pl.lit("short"))])
    forecaster = Forecaster(**QUICK, max_steps=1, future="drive").fit(frame)
    with pytest.raises(DataError, match=r"future=") as caught:
        forecaster.predict()
    assert "drive" in caught.value.problems[0].where
    assert "a, short" in caught.value.problems[0].where
    some = pl.DataFrame({"unique_id": "a", "ds": range(60, 64), "drive": 1.0})
    with pytest.raises(DataError, match="4 steps of series 'short' missing, the first at 3"):
        forecaster.predict(future=some)
    # a backtest knows what came, and leaves out the series that is too short for it
    assert forecaster.backtest(frame, 1)["unique_id"].unique().to_list() == ["a"]


def test_future_that_nobody_asked_for_is_refused(data, fitted):
    with pytest.raises(DataError, match="none named"):
        fitted.predict(future=data)


def test_a_past_covariate_that_leads_is_learned():
    """y repeats a hidden sequence that the past covariate shows one horizon ahead."""
    rng = np.random.default_rng(0)
    steps = rng.choice([-1.0, 1.0], 404)
    columns = {"y": 10 + 3 * steps[:400] + rng.normal(0, 0.1, 400), "lead": steps[4:]}
    frame = pl.DataFrame({"unique_id": "a", "ds": range(400), **columns})
    forecaster = Forecaster(**QUICK, max_steps=200, past="lead")
    assert error(forecaster, frame) < 0.3 * error(Forecaster(**QUICK, max_steps=0), frame, "seasonal_naive")


def events():
    """An event, known ahead, lifts some series and lowers others; their kind tells which."""
    rng = np.random.default_rng(0)
    frames = []
    for number in range(12):
        kind, sign = ("up", 1) if number % 2 else ("down", -1)
        event = (rng.random(80) < 0.3) * 1.0
        y = 20 + 5 * sign * event + rng.normal(0, 1, 80)
        frames.append(pl.DataFrame({"unique_id": str(number), "ds": range(80), "y": y, "event": event, "kind": kind}))
    return pl.concat(frames)


def test_a_static_covariate_decides_what_the_past_does_not_show():
    forecaster = Forecaster(**QUICK, max_steps=200, future="event", static="kind").fit(events())
    quiet = 20 + np.random.default_rng(9).normal(0, 1, 30)
    new = pl.concat(
        pl.DataFrame({"unique_id": kind, "ds": range(30), "y": quiet, "event": 0.0, "kind": kind})
        for kind in ("up", "down")
    )
    days = {"ds": [30, 31, 32, 33] * 2, "event": [0.0, 1.0, 0.0, 1.0] * 2}
    ahead = pl.DataFrame({"unique_id": ["up"] * 4 + ["down"] * 4, **days})
    down, up = forecaster.predict(new, future=ahead)["holdfast"].to_numpy().reshape(2, 4)
    assert ((up - down)[[1, 3]] > 1.5).all()
    assert (np.abs(up - down)[[0, 2]] < 1).all()


def test_an_unknown_static_category_is_refused():
    forecaster = Forecaster(**QUICK, max_steps=1, static="kind").fit(events())
    new = pl.DataFrame({"unique_id": ["p"], "ds": [0], "y": [20.0], "kind": ["sideways"]})
    with pytest.raises(DataError, match="'sideways'") as caught:
        forecaster.predict(new)
    assert "'down'; 'up'" in caught.value.problems[0].expected


@pytest.mark.parametrize("lost", ["ds", "y", "kind"])
def test_a_new_table_without_a_column_of_the_fit_is_refused(lost):
    forecaster = Forecaster(**QUICK, max_steps=1, static="kind").fit(events())
    with pytest.raises(DataError, match=f"without '{lost}'") as caught:
        forecaster.predict(events().drop(lost))
    assert "--" not in caught.value.problems[0].fix  # there is no option for it


# ---------------------------------------------------------------- options

SUITABLE = {
    "negative-binomial": lambda: series({name: np.random.default_rng(ord(name)).poisson(4, 60) * 1.0 for name in "ab"}),
    "sigmoid": lambda: table().with_columns(y=pl.col("y").clip(0, 20) / 20),
}


@pytest.mark.parametrize("head", HEADS)
def test_every_head_fits_suitable_data(head):
    frame = SUITABLE.get(head, table)()
    forecaster = small(head=head, max_steps=30).fit(frame)
    forecast = forecaster.predict()
    point = forecast["holdfast"].to_numpy()[:, None]
    borders = forecast.select(INTERVALS).to_numpy()
    assert np.isfinite(borders).all()
    assert (np.diff(borders, axis=1) >= 0).all()
    assert (borders[:, :2] <= point).all()
    assert (point <= borders[:, 2:]).all()
    assert forecaster.fitted.metrics["skill"] > -0.1
    if head == "negative-binomial":
        assert (borders == borders.round()).all()
        assert (borders >= 0).all()
    if head == "sigmoid":
        assert ((borders > 0) & (borders < 1)).all()


def test_bounds_hold():
    frame = table().with_columns(y=pl.col("y").clip(7, 13))
    forecast = small(head="sigmoid", bounds=(7, 13), levels=(80, 99.9), max_steps=30).fit(frame).predict()
    borders = forecast.select(pl.exclude("unique_id", "ds")).to_numpy()
    assert ((borders >= 7) & (borders <= 13)).all()
    assert borders.max() - borders.min() > 3


@pytest.mark.parametrize(
    ("head", "factor", "words"), [("sigmoid", 1.0, "from 0 to 1"), ("negative-binomial", -1.0, "counts")]
)
def test_data_that_a_head_cannot_hold_is_refused(data, head, factor, words):
    with pytest.raises(DataError, match=words):
        small(head=head).fit(data.with_columns(pl.col("y") * factor))


@pytest.mark.parametrize("cell", CELLS)
def test_every_cell_learns(data, cell):
    forecaster = small(cell=cell, max_steps=40, layers=2, lr=0.01, dropout=0.0, segment=2).fit(data)
    losses = [record.loss for record in forecaster.fitted.log.steps]
    assert np.isfinite(losses).all()
    assert np.mean(losses[-5:]) < np.mean(losses[:5])
    names = {name for name, _ in forecaster.fitted.network.named_parameters()}
    assert {name for name in names if name.endswith("l1")}


@pytest.mark.parametrize("levels", [(50,), (99,), (20.5, 90), (95, 80, 95.0)])
@pytest.mark.parametrize("head", ["quantile", "gaussian"])
def test_levels_name_the_columns(data, head, levels):
    frame = small(levels=levels, head=head).fit(data).predict()
    rising = sorted({int(level) if level == int(level) else level for level in levels})
    names = [f"holdfast-lo-{level}" for level in reversed(rising)] + [f"holdfast-hi-{level}" for level in rising]
    assert frame.columns == ["unique_id", "ds", "holdfast", *names]
    assert (np.diff(frame.select(names).to_numpy(), axis=1) > 0).all()


def test_several_seasons_are_used_and_the_first_is_that_of_seasonal_naive():
    rows = np.arange(140)
    y = 10 + np.tile([0.0, 2.0, 4.0, 1.0], 35) + np.repeat([0.0, 0, 5, 0, 0, 9, 0], 4)[rows % 28]
    forecaster = small(season_length=(4, 28), max_steps=0).fit(series({"a": y}))
    assert forecaster.fitted.network.config.seasons[:2] == (4, 28)
    assert ("season", 28) in forecaster.fitted.network.config.anchors
    backtest = forecaster.backtest(series({"a": y}), 2)
    for cutoff in backtest["cutoff"].unique():
        rows = backtest.filter(pl.col("cutoff") == cutoff)
        np.testing.assert_array_equal(rows["seasonal_naive"], seasonal_naive(y[: cutoff + 1], 4, HORIZON))
    assert error(small(season_length=(4, 28), max_steps=150, lr=0.01), series({"a": y})) < 0.5 * float(
        (backtest["seasonal_naive"] - backtest["y"]).abs().mean()
    )


CLIPS = [
    ("norm:0.01", "all", {"input", "recurrent", "bias", "head", "other"}),
    ("norm:0.001", ("input", "recurrent"), {"input", "recurrent"}),
    ("norm:0.001", "recurrent", {"recurrent"}),
    ("value:0.0001", ("head",), {"head"}),
    ("none", "all", set()),
]


@pytest.mark.parametrize(("clip", "roles", "clipped"), CLIPS)
def test_telemetry_shows_what_was_clipped_and_other_roles_keep_their_gradients(data, clip, roles, clipped):
    log = small(clip=clip, clip_roles=roles, max_steps=12, optimizer="sgd").fit(data).fitted.log
    assert len(log.steps) == 12
    for record in log.steps:
        assert set(record.role_norms) == {"input", "recurrent", "bias", "head", "other"}
        for role, norm in record.role_norms.items():
            if role not in clipped:
                assert record.role_coefs[role] == 1
                assert record.role_clipped_norms[role] == norm
        if clip.startswith("norm"):
            inside = np.sqrt(sum(record.role_clipped_norms[role] ** 2 for role in clipped))
            assert inside <= float(clip.partition(":")[2]) * (1 + 1e-6)
    assert any(record.clipped for record in log.steps) == bool(clipped)


@pytest.mark.parametrize(
    "options", [{"context_length": 1}, {"context_length": 500}, {"segment": 7}, {"season_length": 1000}]
)
def test_odd_sizes_work(data, options):
    forecaster = small(**options).fit(data)
    assert forecaster.predict()["holdfast"].is_finite().all()
    size = forecaster.fitted.network.config
    assert size.context_length % size.segment == 0


def test_the_horizon_of_the_frequency_is_used_and_said(data):
    forecaster = small(horizon=None).fit(data.with_columns(ds=TIMES["date"]))
    assert forecaster.predict().height == 2 * 14
    assert "horizon 14 steps of 1d" in forecaster.summary()


# ---------------------------------------------------------------- refusals


def test_an_unfitted_forecaster_says_so(tmp_path):
    for use in (Forecaster().predict, Forecaster().summary, partial(Forecaster().save, tmp_path / "run")):
        with pytest.raises(OptionError, match=r"call fit\(df\) first"):
            use()
    assert list(tmp_path.iterdir()) == []


BAD = {
    "empty": lambda frame: frame.clear(),
    "a duplicate": lambda frame: pl.concat([frame, frame.head(1)]),
    "a gap": lambda frame: frame.filter(pl.col("ds") != 7),
    "text": lambda frame: frame.with_columns(y=pl.lit("n/a")),
    "an infinity": lambda frame: frame.with_columns(y=pl.lit(float("inf"))),
    "no target": lambda frame: frame.drop("y"),
    "too short": lambda frame: frame.filter(pl.col("ds") <= HORIZON),
}


@pytest.mark.parametrize("name", BAD)
def test_bad_data_is_refused_in_four_parts_and_nothing_is_written(tmp_path, data, name):
    with pytest.raises(DataError) as caught:
        small().fit(BAD[name](data), out=tmp_path / "run")
    assert all(all([problem.where, problem.expected, problem.got, problem.fix]) for problem in caught.value.problems)
    assert list(tmp_path.iterdir()) == []


def test_something_that_is_no_table_is_refused():
    for thing in ([1, 2], {"y": [1]}, np.zeros(3), 3):
        with pytest.raises(DataError, match="pandas or polars"):
            small().fit(thing)


def test_gaps_are_filled_when_asked(data):
    gappy = data.filter(~pl.col("ds").is_in([7, 8, 30]))
    forecaster = small(fill_gaps=True).fit(gappy)
    as_missing = data.with_columns(y=pl.when(pl.col("ds").is_in([7, 8, 30])).then(None).otherwise("y"))
    assert forecaster.predict().equals(small().fit(as_missing).predict())
    assert "6 rows" in forecaster.summary() or "inserted" in forecaster.summary()


# ---------------------------------------------------------------- learning


def shifting(seed):
    """Season, level shifts and autocorrelated noise: more than seasonal naive can follow."""
    rng = np.random.default_rng(seed)
    rows = 240
    noise = np.zeros(rows)
    for t in range(1, rows):
        noise[t] = 0.6 * noise[t - 1] + rng.normal()
    level = np.cumsum(rng.choice([0.0, 4.0, -4.0], rows, p=[0.98, 0.01, 0.01]))
    return 50 + 4 * np.sin(2 * np.pi * np.arange(rows) / SEASON) + level + noise


def backtest_skill(forecaster, frame):
    pair = mean_scores(score_table(forecaster.backtest(frame, 3), frame, SEASON))["mase"]
    return 1 - pair["holdfast"] / pair["seasonal_naive"]


def test_there_is_skill_where_there_is_something_to_learn():
    frame = series({str(number): shifting(number) for number in range(8)})
    learned, untrained = (backtest_skill(small(max_steps=steps, hidden_size=16), frame) for steps in (300, 0))
    assert learned > 0.1
    assert learned > untrained + 0.01


def test_there_is_no_skill_where_seasonal_naive_is_best_and_the_summary_says_so():
    rng = np.random.default_rng(0)
    walks = {str(i): 100 + np.cumsum(rng.normal(0, 1, (40, SEASON)), 0).ravel() for i in range(8)}
    frame = series(walks)
    forecaster = small(max_steps=300, season_length=(SEASON,))
    assert abs(backtest_skill(forecaster, frame)) < 0.1
    value = forecaster.fit(frame).fitted.metrics["skill"]
    assert abs(value) < 0.1
    summary = forecaster.summary()
    assert ("no skill" in summary) == (round(100 * value) <= 0)


def test_the_summary_tells_seasons_sizes_and_what_was_noticed(data):
    summary = small(max_steps=1).fit(data.drop("unique_id").head(60).with_columns(weather=1)).summary()
    for words in ("season 6: given", "horizon 4 steps of 1, context 36 in segments of 6", "not used: weather", "skill"):
        assert words in summary


def test_nothing_is_written_where_nobody_asked(tmp_path, monkeypatch, data):
    monkeypatch.chdir(tmp_path)
    forecaster = small().fit(data)
    forecaster.predict()
    forecaster.backtest(data, 1)
    assert list(Path.cwd().iterdir()) == []
