"""Scores against plain loops, and against the published figures of the M4 competition."""

from __future__ import annotations

import math

import numpy as np
import polars as pl
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from tests.reference import scores as slow

from holdfast.forecasting import mean_scores, owa, score_table, seasonal_naive, skill, weighted_quantile_loss
from holdfast.forecasting.metrics import plain_level, summary_scores
from holdfast.series import m4_hourly

LEVELS = (80, 95.5)
SEASON, HORIZON, CUTOFFS = 3, 5, {"a": (12, 17), "b": (20,)}


def make(seed):
    """Histories with gaps, and forecasts with intervals from several cutoffs: plain lists, and the two tables."""
    rng = np.random.default_rng(seed)
    history = {name: [round(v, 3) for v in rng.normal(5, 2, 25)] for name in CUTOFFS}
    for values in history.values():
        values[4] = values[14] = values[21] = None
    cases = []
    for name, starts in CUTOFFS.items():
        for cutoff in starts:
            point = rng.normal(5, 2, HORIZON)
            half = np.sort(rng.uniform(0.1, 4, (2, HORIZON)), axis=0)
            case = {"unique_id": name, "cutoff": cutoff, "y": history[name][cutoff : cutoff + HORIZON]}
            case |= {"holdfast": point, "seasonal_naive": rng.normal(5, 2, HORIZON)}
            case |= {f"holdfast-lo-{level}": point - half[i] for i, level in enumerate(LEVELS)}
            case |= {f"holdfast-hi-{level}": point + half[i] for i, level in enumerate(LEVELS)}
            cases.append(case)
    steps = [pl.int_range(case["cutoff"], case["cutoff"] + HORIZON, eager=True).alias("ds") for case in cases]
    forecasts = pl.concat(pl.DataFrame(case).with_columns(ds) for case, ds in zip(cases, steps, strict=True))
    forecasts = forecasts.with_columns(cutoff=pl.col("cutoff") - 1)
    table = pl.concat(
        pl.DataFrame({"unique_id": name, "ds": range(25), "y": values}) for name, values in history.items()
    )
    return history, cases, forecasts, table


def expected_scores(case, history, model):
    seen, y = history[case["unique_id"]][: case["cutoff"]], case["y"]
    found = {"mase": slow.mase(seen, y, case[model], SEASON), "smape": slow.smape(y, case[model])}
    found["rmse"] = slow.rmse(y, case[model])
    if model == "holdfast":
        quantiles = {}
        for level in LEVELS:
            lower, upper = case[f"holdfast-lo-{level}"], case[f"holdfast-hi-{level}"]
            found[f"coverage_level{level}"] = slow.coverage(y, lower, upper)
            quantiles |= {0.5 - level / 200: lower, 0.5 + level / 200: upper}
        found["scaled_crps"] = slow.scaled_crps(y, quantiles)
    return found


@pytest.mark.parametrize("seed", range(3))
def test_every_score_of_every_series_and_cutoff_is_that_of_a_plain_loop(seed):
    history, cases, forecasts, table = make(seed)
    scores = score_table(forecasts, table, SEASON, LEVELS)
    for case in cases:
        rows = scores.filter(pl.col("unique_id") == case["unique_id"], pl.col("cutoff") == case["cutoff"] - 1)
        for model in ("holdfast", "seasonal_naive"):
            got = {metric: value for metric, value in rows.select("metric", model).rows() if value is not None}
            assert got == pytest.approx(expected_scores(case, history, model), rel=1e-9)
    assert len(scores) == len(cases) * 6


def test_means_are_over_series_and_cutoffs():
    history, cases, forecasts, table = make(0)
    means = mean_scores(score_table(forecasts, table, SEASON, LEVELS))
    for model in ("holdfast", "seasonal_naive"):
        parts = [expected_scores(case, history, model) for case in cases]
        for metric in parts[0]:
            assert means[metric][model] == pytest.approx(slow.mean([part[metric] for part in parts]))
    assert "seasonal_naive" not in means["scaled_crps"]


def slow_weighted_quantile_loss(cases):
    borders = [(f"lo-{level}", 0.5 - level / 200) for level in LEVELS]
    borders += [(f"hi-{level}", 0.5 + level / 200) for level in LEVELS]
    return slow.weighted_quantile_loss(
        [(case["y"], {0.5: case["holdfast"], **{p: case[f"holdfast-{name}"] for name, p in borders}}) for case in cases]
    )


@pytest.mark.parametrize("seed", range(3))
def test_the_weighted_quantile_loss_is_that_of_a_plain_loop_over_all_points(seed):
    _, cases, forecasts, table = make(seed)
    expected = pytest.approx(slow_weighted_quantile_loss(cases))
    assert weighted_quantile_loss(forecasts, LEVELS) == expected
    assert weighted_quantile_loss(forecasts.with_columns(pl.col("y").fill_null(math.nan)), (95.5, 80.0, 80)) == expected
    scores = score_table(forecasts, table, SEASON, LEVELS)
    assert summary_scores(scores, forecasts, LEVELS) == {**mean_scores(scores), "wql": {"holdfast": expected}}


def test_the_weighted_quantile_loss_weighs_series_by_their_size():
    _, cases, forecasts, _ = make(0)
    large = pl.when(pl.col("unique_id") == "b").then(1e9).otherwise(1.0)
    numbers = [name for name in forecasts.columns if name == "y" or name.startswith("holdfast")]
    got = weighted_quantile_loss(forecasts.with_columns(pl.col(numbers) * large), LEVELS)
    assert got == pytest.approx(slow_weighted_quantile_loss([case for case in cases if case["unique_id"] == "b"]))


def test_the_weighted_quantile_loss_of_the_median_alone_is_that_of_the_absolute_errors():
    _, _, forecasts, _ = make(1)
    seen = forecasts.drop_nulls("y")
    expected = (seen["y"] - seen["holdfast"]).abs().sum() / seen["y"].abs().sum()
    assert weighted_quantile_loss(forecasts, ()) == pytest.approx(expected)


@pytest.mark.parametrize("y", [0.0, None, math.nan])
def test_without_a_value_other_than_zero_there_is_no_weighted_quantile_loss(y):
    _, _, forecasts, table = make(1)
    scores = score_table(forecasts, table, SEASON, LEVELS)
    empty = forecasts.with_columns(y=pl.lit(y, pl.Float64))
    assert summary_scores(scores, empty, LEVELS)["wql"] == {}


def test_nan_is_as_missing_as_null_and_order_and_repeated_levels_do_not_matter():
    _, _, forecasts, table = make(1)
    plain = score_table(forecasts, table, SEASON, LEVELS)
    nan = pl.col("y").fill_null(float("nan"))
    again = score_table(forecasts.with_columns(nan), table.with_columns(nan), SEASON, (95.5, 80.0, 80))
    keys = ["unique_id", "cutoff", "metric"]
    assert again.sort(keys).equals(plain.sort(keys))


@settings(max_examples=10)
@given(st.floats(1e-3, 1e3))
def test_only_rmse_has_a_unit(factor):
    _, _, forecasts, table = make(2)
    names = ["y", "holdfast", "seasonal_naive", *[name for name in forecasts.columns if "-" in name]]
    larger, history = forecasts.with_columns(pl.col(names) * factor), table.with_columns(pl.col("y") * factor)
    plain, scaled = (
        summary_scores(score_table(one, known, SEASON, LEVELS), one, LEVELS)
        for one, known in ((forecasts, table), (larger, history))
    )
    for metric, pair in plain.items():
        by = factor if metric == "rmse" else 1.0
        assert scaled[metric] == pytest.approx({model: value * by for model, value in pair.items()})


def test_series_without_a_scale_are_left_out_of_the_mean_of_mase_alone():
    scores = pl.DataFrame(
        {
            "metric": ["mase", "mase", "mase", "rmse"],
            "holdfast": [math.inf, 2.0, math.nan, 7.0],
            "seasonal_naive": [math.nan, 4.0, None, None],
        }
    )
    assert mean_scores(scores) == {"mase": {"holdfast": 2.0, "seasonal_naive": 4.0}, "rmse": {"holdfast": 7.0}}


@pytest.mark.parametrize(
    ("pair", "expected"),
    [
        ({"holdfast": 0.5, "seasonal_naive": 1.0}, 0.5),
        ({"holdfast": 2.0, "seasonal_naive": 1.0}, -1.0),
        ({"holdfast": 1.0, "seasonal_naive": 0.0}, math.nan),
        ({"holdfast": 1.0}, math.nan),
        ({"seasonal_naive": 1.0}, math.nan),
        ({}, math.nan),
    ],
)
def test_skill_compares_with_seasonal_naive_or_is_not_known(pair, expected):
    assert skill({"mase": pair}) == pytest.approx(expected, nan_ok=True)
    assert math.isnan(skill({}))


@pytest.mark.parametrize(("level", "name"), [(80, "80"), (80.0, "80"), (99.5, "99.5"), (97.123456789, "97.123456789")])
def test_levels_are_named_as_they_were_written(level, name):
    assert str(plain_level(level)) == name


def test_the_published_figures_of_m4_hourly():
    train, test = m4_hourly("train"), m4_hourly("test")
    history = {name[0]: rows["y"].to_numpy() for name, rows in train.partition_by("unique_id", as_dict=True).items()}
    last = {name: len(values) for name, values in history.items()}
    forecasts = test.with_columns(
        cutoff=pl.col("unique_id").replace_strict(last, return_dtype=pl.Int64),
        holdfast=np.concatenate([seasonal_naive(values, 1, 48) for values in history.values()]),
        seasonal_naive=np.concatenate([seasonal_naive(values, 24, 48) for values in history.values()]),
    )
    scores = mean_scores(score_table(forecasts, train, 24))
    naive = {metric: round(pair["holdfast"], 3) for metric, pair in scores.items()}
    seasonal = {metric: round(pair["seasonal_naive"], 3) for metric, pair in scores.items()}
    assert (naive["smape"], naive["mase"]) == (43.003, 11.608)
    assert (seasonal["smape"], seasonal["mase"]) == (13.912, 1.193)
    # the published 0.627 is that of the rounded scores
    assert owa(scores["smape"]["seasonal_naive"], scores["mase"]["seasonal_naive"]) == pytest.approx(0.6275, abs=5e-5)
    assert round(owa(seasonal["smape"], seasonal["mase"]), 3) == 0.627
    assert owa(18.383, 2.395) == 1.0


def test_a_zero_that_was_forecast_as_zero_is_no_error():
    history = pl.DataFrame({"unique_id": "a", "ds": [0, 1, 2, 3], "y": [0.0, 1.0, 0.0, 2.0]})
    forecasts = history.tail(2).with_columns(
        cutoff=1, holdfast=pl.Series([0.0, 2.0]), seasonal_naive=pl.Series([0.0, 1.0])
    )
    scores = mean_scores(score_table(forecasts, history, 1))
    assert scores["smape"] == {"holdfast": 0.0, "seasonal_naive": pytest.approx(200 / 3 / 2)}
