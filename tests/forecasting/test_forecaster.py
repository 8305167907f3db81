"""The public face: forecasts, new data, heads, cells, clipping, what is refused, and that it learns."""

from __future__ import annotations

from contextlib import nullcontext
from functools import partial
from pathlib import Path

import numpy as np
import polars as pl
import pytest
from tests.forecasting.small import DATES, HORIZON, KINDS, SEASON, error, series, small, table, wave

from holdfast import DataError, DataWarning, Forecaster, OptionError
from holdfast.forecasting import mean_scores, score_table, seasonal_naive
from holdfast.networks import CELLS, HEADS

INTERVALS = ["holdfast-lo-95", "holdfast-lo-80", "holdfast-hi-80", "holdfast-hi-95"]


# ---------------------------------------------------------------- forecasts


def test_without_a_step_the_forecast_is_the_plain_mean_of_the_anchors(data):
    """Cross-checked in test_plan.py for each kind of anchor; here through the public face, with one seasonal anchor."""
    exact = series({"a": np.tile([1.0, 5.0, 2.0, 8.0, 3.0, 9.0], 10), "b": np.tile([4.0, 4.0, 1.0, 0.0, 2.0, 7.0], 8)})
    forecaster = small(max_steps=0, horizon=8).fit(exact)
    kinds = {kind for kind, _ in forecaster.fitted.network.config.anchors}
    assert kinds <= {"season", "season-shifted", "seasonal-mean"}
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
    again, other = (small(max_steps=20, seed=seed).fit(data) for seed in (0, 1))
    assert again.predict().equals(fitted.predict())
    losses = [[record.loss for record in one.fitted.log.steps] for one in (fitted, again, other)]
    assert losses[0] == losses[1] and set(losses[0]).isdisjoint(losses[2])


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
    assert not forecast.drop("ds").equals(fitted.predict().drop("ds"))
    assert fitted.predict(data).equals(fitted.predict())
    blend = fitted.fitted.network.blend
    measured = blend.weight_M.tolist(), float(blend.width)
    blend.set()  # exponential smoothing looks back farther than the network
    alone = fitted.predict(newer)
    assert alone.equals(fitted.predict(newer.filter(pl.col("ds") >= 80 - context)))
    blend.set(*measured)


@pytest.mark.parametrize("kind", KINDS)
def test_the_kind_of_the_new_table_decides(data, fitted, kind):
    frame = KINDS[kind](data)
    assert type(fitted.predict(frame)) is type(frame)
    assert type(fitted.predict()) is pl.DataFrame


@pytest.mark.parametrize("rows", [1, 2, 5, 23, 24, 25])
def test_other_and_shorter_series_are_forecast(fitted, rows):
    other = series({"new": wave(rows, seed=77) * 1000})
    with pytest.warns(DataWarning, match=rf"\('new': {rows} rows\)") if rows < 18 else nullcontext():
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
    gappy = data.with_columns(y=pl.when(pl.col("ds").is_in([3, 20, 21, 22, 40, 58])).then(None).otherwise("y"))
    short = series({"one": np.array([5.0]), "four": np.array([1.0, 2.0, 3.0, 4.0])})
    forecaster = small(max_steps=20).fit(pl.concat([gappy, short]))
    forecast = forecaster.predict()
    assert forecast["holdfast"].is_finite().all()
    assert forecast.filter(pl.col("unique_id") == "one")["ds"].to_list() == [1, 2, 3, 4]
    scored = forecaster.backtest(pl.concat([gappy, short]), 2)
    assert scored["unique_id"].unique(maintain_order=True).to_list() == ["a", "b"]
    assert scored["y"].null_count() == 2  # row 58 of each
    assert forecaster.fitted.metrics["scores"]["mase"]["holdfast"] > 0


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
    assert forecaster.fitted.metrics["skill"] > -0.25
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
    options = {"max_steps": 40, "batch_size": 128}  # a batch is noise: of 16 windows more than what there is to learn
    forecaster = small(cell=cell, layers=2, lr=0.01, dropout=0.0, segment=2, **options).fit(data)
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


def test_several_seasons_are_used_and_the_best_is_that_of_seasonal_naive():
    rows = np.arange(140)
    y = 10 + np.tile([0.0, 2.0, 4.0, 1.0], 35) + np.repeat([0.0, 0, 5, 0, 0, 9, 0], 4)[rows % 28]
    forecaster = small(season_length=(4, 28), max_steps=0).fit(series({"a": y}))
    assert forecaster.fitted.network.config.seasons[:2] == (4, 28)
    assert ("season", 28) in forecaster.fitted.network.config.anchors
    backtest = forecaster.backtest(series({"a": y}), 2)
    for cutoff in backtest["cutoff"].unique():
        rows = backtest.filter(pl.col("cutoff") == cutoff)
        np.testing.assert_array_equal(rows["seasonal_naive"], seasonal_naive(y[: cutoff + 1], 28, HORIZON))
    short = np.abs(y[4:] - y[:-4]).mean()  # the error of the other season
    assert error(small(season_length=(4, 28), max_steps=150, lr=0.01), series({"a": y})) < 0.5 * short


CLIPS = [
    ("norm:0.01", "all", {"input", "recurrent", "bias", "head", "other"}),
    ("norm:0.001", ("input", "recurrent"), {"input", "recurrent"}),
    ("norm:0.001", "recurrent", {"recurrent"}),
    ("value:0.0001", ("head",), {"head"}),
    ("none", "all", set()),
    ("tensor:0.0001", "recurrent", {"recurrent"}),
    ("rms:0.00001", ("bias",), {"bias"}),
    ("agc:0.0001", ("input",), {"input"}),
    ("median:0.1", "recurrent", {"recurrent"}),
    ("recurrent=norm:0.001,head=value:0.0001", None, {"recurrent", "head"}),
    ("none,cap=norm:0.001", None, {"input", "recurrent", "bias", "head", "other"}),
]


@pytest.mark.parametrize(("clip", "roles", "clipped"), CLIPS)
def test_telemetry_shows_what_was_clipped_and_other_roles_keep_their_gradients(data, clip, roles, clipped):
    steps = 40 if clip.startswith("median") else 12  # behind its warm-up
    log = small(clip=clip, clip_roles=roles, max_steps=steps, optimizer="sgd").fit(data).fitted.log
    assert len(log.steps) == steps
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
    forecaster = small(horizon=None).fit(data.with_columns(ds=DATES))
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
    for thing in ([1, 2], np.zeros(3), 3):
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
    forecaster = small(max_steps=300, hidden_size=16)
    assert backtest_skill(forecaster, frame) > 0.1
    untrained, *trained = forecaster.fit(frame).fitted.log.validations
    assert max(record.skill for record in trained) > untrained.skill + 0.01


def test_there_is_no_skill_where_seasonal_naive_is_best_and_the_summary_says_so():
    rng = np.random.default_rng(0)
    walks = {str(i): 100 + np.cumsum(rng.normal(0, 1, (40, SEASON)), 0).ravel() for i in range(8)}
    frame = series(walks)
    forecaster = small(max_steps=150, lr=0.01)
    assert abs(backtest_skill(forecaster, frame)) < 0.1
    value = forecaster.fit(frame).fitted.metrics["skill"]
    assert abs(value) < 0.1
    summary = forecaster.summary()
    assert ("no skill" in summary) == (round(100 * value) <= 0)


def test_the_summary_tells_seasons_sizes_and_what_was_noticed(data):
    summary = small(max_steps=1).fit(data.drop("unique_id").head(60).with_columns(weather=1)).summary()
    for words in (
        "season 6: given",
        "horizon 4 steps of 1, context 36 in segments of 6",
        "not used: 'weather'",
        "skill",
    ):
        assert words in summary


def test_nothing_is_written_where_nobody_asked(tmp_path, monkeypatch, data):
    monkeypatch.chdir(tmp_path)
    forecaster = small().fit(data)
    forecaster.predict()
    forecaster.backtest(data, 1)
    assert list(Path.cwd().iterdir()) == []
