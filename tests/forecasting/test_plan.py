"""From options and series to a network: sizes, the anchors that are chosen, and what an untrained network says."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import polars as pl
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from tests.forecasting.small import HORIZON, SEASON, series, small, table, wave
from tests.reference import anchors as slow

from holdfast import Config
from holdfast.forecasting import anchors
from holdfast.forecasting.anchors import (
    NEAR_BEST,
    SHARE,
    STRENGTHS,
    TrainingWindows,
    useful_anchors,
    useful_linear,
)
from holdfast.forecasting.members import plan
from holdfast.forecasting.plan import context_and_segment, steps_worth, training_config
from holdfast.forecasting.prepared import prepare
from holdfast.networks import anchor_forecasts, candidate_anchors
from holdfast.series import LARGEST_CONTEXT, RawTable
from holdfast.training import split_series
from holdfast.windows import Sampler, Windows


def prepared(frame, **options):
    return prepare(small(**options).config, RawTable(frame))


# ---------------------------------------------------------------- sizes


@pytest.mark.parametrize(
    ("options", "seasons", "horizon", "longest", "expected"),
    [
        ({}, (24, 168), 48, 960, (336, 24)),
        ({}, (7,), 14, 400, (28, 7)),
        ({}, (12,), 60, 400, (48, 12)),
        ({}, (12,), 130, 400, (72, 12)),
        ({}, (12,), 18, 30, (30, 1)),  # two and a half seasons: no segments
        ({}, (12,), 18, 47, (47, 1)),
        ({}, (12,), 99, 49, (60, 12)),  # whole segments, so a little more than there is
        ({}, (), 6, 30, (12, 1)),
        ({}, (), 6, 1, (1, 1)),
        ({}, (), 12, 200, (24, 2)),  # without a season a sixteenth of the context
        ({}, (), 20, 200, (42, 3)),
        ({"context_length": 50}, (24,), 48, 960, (50, 1)),
        ({"context_length": 100}, (24,), 48, 960, (120, 24)),
        ({"segment": 5}, (24,), 48, 960, (100, 5)),
        ({"segment": 100}, (), 6, 30, (100, 100)),
        ({"context_length": 7, "segment": 3}, (), 6, 30, (9, 3)),
        ({}, (3600,), 3600, 259_200, (14400, 3600)),
        ({}, (1440, 10080), 1440, 50_000, (15840, 1440)),  # eleven days: two weeks would be more than the largest one
        ({}, (1440, 10080), 1440, 16_000, (17280, 1440)),  # what there is, in whole segments
        ({}, (24, 8760), 48, 90_000, (16368, 48)),  # two days a segment: a day would be 682 of them
        ({}, (3600,), 3600, 10_000, (10_000, 20)),  # the least part of a season that makes at most 512 segments
        ({}, (), 3600, 10_000, (7200, 450)),
        ({}, (), 30_000, 200_000, (16384, 1024)),
        ({"segment": 20_000}, (), 30_000, 200_000, (20_000, 20_000)),
        ({"segment": 1}, (3600,), 3600, 10_000, (10_000, 1)),
        ({"context_length": 86_400}, (3600, 86_400), 3600, 259_200, (86_400, 3600)),
    ],
)
def test_context_and_segment(options, seasons, horizon, longest, expected):
    assert context_and_segment(Config(**options), seasons, horizon, longest) == expected


@given(
    st.none() | st.integers(1, 500),
    st.none() | st.integers(1, 60),
    st.lists(st.integers(1, 200), max_size=3),
    st.integers(1, 100),
    st.integers(1, 1000),
)
def test_a_context_is_whole_segments_and_no_shorter_than_asked(context_length, segment, seasons, horizon, longest):
    config = Config(context_length=context_length, segment=segment)
    got, cut = context_and_segment(config, seasons, horizon, longest)
    assert got % cut == 0
    assert cut == segment or segment is None
    assert got >= (context_length or 1)
    assert got - (context_length or longest) < cut  # rounding up is all that can make it longer


@given(st.lists(st.integers(2, LARGEST_CONTEXT), max_size=3), st.integers(1, 10**6), st.integers(1, 10**8))
def test_context_and_recurrent_steps_are_bounded_however_long_series_seasons_and_horizon_are(seasons, horizon, longest):
    context_length, segment = context_and_segment(Config(), seasons, horizon, longest)
    assert segment <= context_length < LARGEST_CONTEXT + segment
    assert context_length // segment <= 512
    if seasons:
        assert segment % seasons[0] == 0 or seasons[0] % segment == 0


@pytest.mark.parametrize("context_length", [100, 4096, 5000, 16384, 40_000])
def test_the_values_looked_at_stay_as_many_however_long_the_context_is(context_length):
    """In comparing anchors and in validating; windows of up to 4096 steps stay as many as they were."""
    lengths = np.array([200_000, 300_000])
    split = split_series(lengths, context_length, HORIZON)
    windows = Windows.from_arrays(np.zeros(500_000), [0, 200_000, 500_000], lengths.tolist())
    looks = TrainingWindows(windows, split, context_length, HORIZON, (SEASON,))
    (looked,) = looks.draw(split.first_n, split.last_n, 1)
    affordable = 2**22 // context_length
    assert len(looked.z_BT) == min(1024, affordable)
    assert len(split.validated_V) == pytest.approx(min(256, affordable / 4), abs=2)


def test_a_season_that_no_context_holds_is_left_out_and_the_summary_says_so():
    rows = 20_000
    frame = pl.DataFrame({"ds": np.arange(rows), "y": wave(rows, 0)})
    frame = frame.with_columns(ds=pl.datetime(2024, 1, 1) + pl.duration(seconds="ds"))
    options = {"freq": None, "season_length": None, "horizon": 60}
    forecaster = small(**options, max_steps=0).fit(frame)
    said = forecaster.summary().splitlines()
    assert (
        "season 86400: left out, longer than the largest context of 16384 steps;"
        " give --context-length 86400 to feed it, with a smaller --batch-size if memory is short"
    ) in said
    assert "season 3600: usual for 1s data" in said
    assert "horizon 60 steps of 1s, context 14400 in segments of 3600" in said
    fed = prepared(frame, **options, context_length=90_000)
    assert not any("left out, longer" in note for note in fed.checked.notes)


@pytest.mark.parametrize("said", [1, 0, "none"])
@pytest.mark.parametrize("horizon", [1, 2, 12])
def test_without_a_season_the_context_is_two_horizons_and_no_two_anchors_are_alike(said, horizon):
    frame = series({name: np.random.default_rng(place).normal(5, 1, 200) for place, name in enumerate("ab")})
    data = prepared(frame, season_length=said, horizon=horizon)
    usual, segment = context_and_segment(data.config, (), horizon, 200)
    assert (usual, segment) == (2 * horizon, -(-2 * horizon // 16))
    shapes = plan(replace(data, config=replace(data.config, context_length=usual))).network.config
    assert (shapes.seasons, shapes.naive_season) == ((), 1)
    assert (shapes.context_length, shapes.segment) == (usual, segment)
    candidates = candidate_anchors((), horizon)
    assert set(shapes.anchors) <= {*candidates, ("linear", 2 * horizon)}
    z_BT, mask_BT = torch.randn(3, 2 * horizon), torch.ones(3, 2 * horizon, dtype=torch.bool)
    forecasts_BFA = anchor_forecasts(z_BT, mask_BT, candidates, horizon)
    for first in range(len(candidates)):
        for second in range(first):
            assert not torch.allclose(forecasts_BFA[..., first], forecasts_BFA[..., second])


@pytest.mark.parametrize("said", [1, 0, "none"])
def test_without_a_season_the_summary_says_so_or_what_was_found(said):
    noise = series({"a": np.random.default_rng(0).normal(5, 1, 120)})
    assert "no season" in small(season_length=said, max_steps=1).fit(noise).summary().splitlines()
    (line,) = [
        line
        for line in small(season_length=said, max_steps=1).fit(table(120)).summary().splitlines()
        if "season" in line.split(":")[0] and not line.startswith("skill")
    ]
    assert line.startswith("no season" if said == "none" else f"season {SEASON}: found: autocorrelation")


def test_a_context_that_is_cut_is_told():
    frame = pl.DataFrame({"ds": np.arange(40_000), "y": wave(40_000, 0)})
    assert prepared(frame, season_length=(6, 10_000)).checked.notes[-1] == (
        "context: at most 16384 steps are fed instead of 20000; give --context-length to feed more"
    )
    for options in ({"season_length": (6, 8192)}, {"season_length": (6, 10_000), "context_length": 60}):
        assert not any("context" in note for note in prepared(frame, **options).checked.notes)


# ---------------------------------------------------------------- anchors


def slowly_useful(y, candidates, until, first, last, context_length):
    """The anchors that are good on enough of the windows that training would draw, one window at a time."""
    draw_series, draw_cutoff = Sampler(first, last, 1024, seed=0).draw(0)
    good = np.zeros(len(candidates))
    counted = 0
    for i, cutoff in zip(draw_series.tolist(), draw_cutoff.tolist(), strict=True):
        values = y[i][max(0, cutoff - context_length) : cutoff]
        values = [None] * (context_length - len(values)) + values
        target = [value if cutoff + k < until[i] else None for k, value in enumerate(y[i][cutoff : cutoff + HORIZON])]
        steps = [k for k, value in enumerate(target) if value is not None]
        if not steps or not slow.observed(values):
            continue
        errors = []
        for kind, season in candidates:
            forecast = slow.forecast(values, kind, season, HORIZON)
            errors.append(slow.mean([abs(forecast[k] - target[k]) for k in steps]))
        good += np.array(errors) <= NEAR_BEST * min(errors)
        counted += 1
    return tuple(
        a for a, share in zip(candidates, good / counted, strict=True) if share >= min(SHARE, max(good / counted))
    )


@pytest.mark.parametrize("seed", range(3))
def test_the_anchors_that_are_good_on_enough_windows_are_kept(seed):
    rng = np.random.default_rng(seed)
    walk = 50 + np.cumsum(rng.normal(0, 1, 50))
    values = {"a": wave(40, seed), "b": walk, "c": 5 + 0.5 * np.arange(30) + rng.normal(0, 0.2, 30)}
    y = {name: [None if rng.random() < 0.1 else float(v) for v in part] for name, part in values.items()}
    y["d"] = [3.0]
    store = prepared(series({name: np.array(part, dtype=float) for name, part in y.items()})).store
    context_length = 12
    split = split_series(store.lengths, context_length, HORIZON)
    candidates = candidate_anchors((SEASON,), HORIZON)
    looks = TrainingWindows(Windows.from_store(store), split, context_length, HORIZON, (SEASON,))
    got = useful_anchors(looks, candidates)
    lists = list(y.values())
    assert got == slowly_useful(lists, candidates, split.until_n, split.first_n, split.last_n, context_length)
    assert got


@pytest.mark.parametrize(
    ("values", "kept", "lost"),
    [
        (np.tile([1.0, 9.0, 4.0, 4.0, 7.0, 2.0], 12), ("season", SEASON), ("drift", 1)),
        (np.cumsum(np.random.default_rng(0).normal(0, 1, 300)), ("last", 1), ("season", SEASON)),
        (3.0 * np.arange(80) + wave(80, 0, noise=3.0), ("drift", 1), ("recent-mean", SEASON)),
    ],
)
def test_each_kind_of_series_keeps_its_anchor(values, kept, lost):
    anchors = plan(prepared(series({"a": values}))).network.config.anchors
    assert kept in anchors
    assert lost not in anchors


def test_without_a_window_to_compare_on_the_seasonal_anchors_are_kept():
    store = prepared(table(), season_length=SEASON).store
    lengths = np.array([HORIZON, 1])
    split = split_series(lengths, 12, HORIZON)
    assert not split.trainable
    for seasons, expected in (((SEASON,), (("season", SEASON),)), ((), (("last", 1),))):
        candidates = candidate_anchors(seasons, HORIZON)
        looks = TrainingWindows(Windows.from_store(store), split, 12, HORIZON, seasons)
        assert useful_anchors(looks, candidates) == expected


@pytest.mark.parametrize("season", [SEASON, (), (SEASON, 15)])
@pytest.mark.parametrize("head", ["quantile", "student-t"])
def test_an_untrained_forecast_is_the_mean_of_the_anchors_chosen(season, head):
    """Against the naive forecasts of the last rows, in the units of the data."""
    rng = np.random.default_rng(5)
    values = {"a": wave(60, 1) * 1e5, "b": np.cumsum(rng.normal(0, 1, 45)), "c": wave(9, 2), "d": np.array([3.0])}
    values["a"][rng.integers(0, 60, 9)] = np.nan
    forecaster = small(season_length=season, head=head, max_steps=0).fit(series(values))
    network = forecaster.fitted.network
    network.blend.set()  # without exponential smoothing
    size, linear_TF = network.config, network.linear_TF
    assert len(size.anchors) > 1
    w_TF = None if linear_TF is None else linear_TF.double()
    for name, y in values.items():
        context = [None if np.isnan(v) else float(v) for v in y[-size.context_length :]]
        context = [None] * (size.context_length - len(context)) + context
        level, spread = slow.level_and_spread(context, max(size.seasons, default=size.context_length))
        z = [None if v is None else (v - level) / spread for v in context]
        by_loops = [
            [level + spread * v for v in slow.forecast(z, kind, length, HORIZON, w_TF)] for kind, length in size.anchors
        ]
        z_BT = torch.tensor([[0.0 if v is None else v for v in z]], dtype=torch.float64)
        mask_BT = torch.tensor([[v is not None for v in context]])
        by_anchors = level + spread * anchor_forecasts(z_BT, mask_BT, size.anchors, HORIZON, w_TF)[0].mean(-1)
        got = forecaster.predict().filter(pl.col("unique_id") == name)["holdfast"]
        spread = np.nanstd(y) + abs(np.nanmean(y))
        np.testing.assert_allclose(got, np.mean(by_loops, axis=0), atol=1e-5 * spread)
        np.testing.assert_allclose(got, by_anchors, atol=1e-5 * spread)


# ---------------------------------------------------------------- the linear forecast


def autoregressive(rows, seed):
    """y_t = 1.2 y_{t-1} - 0.6 y_{t-2} + noise: a linear forecast is the best one, and no season helps."""
    rng = np.random.default_rng(seed)
    y = rng.normal(0, 1, rows)
    for t in range(2, rows):
        y[t] += 1.2 * y[t - 1] - 0.6 * y[t - 2]
    return 50 + y


def looks_at(values, context_length=8, seasons=(1,)):
    store = prepared(series(values), season_length=1).store
    split = split_series(store.lengths, context_length, HORIZON)
    return TrainingWindows(Windows.from_store(store), split, context_length, HORIZON, seasons)


def test_the_linear_forecast_is_the_ridge_that_forecasts_late_windows_best():
    """Against normal equations, one window at a time."""
    rng = np.random.default_rng(1)
    values = {"a": autoregressive(120, 0), "b": autoregressive(90, 1)}
    values["a"][rng.integers(0, 120, 5)] = np.nan
    looks = looks_at(values)
    split, y = looks.split, list(values.values())
    late_n = split.first_n + 3 * (split.last_n - split.first_n) // 4

    def windows(first_n, last_n, draws):
        for draw in range(draws):
            for i, cutoff in zip(
                *(part.tolist() for part in Sampler(first_n, last_n, 1024, 0).draw(draw)), strict=True
            ):
                history = [None if np.isnan(v) else float(v) for v in y[i][:cutoff]]
                recent, context = slow.until_newest(history)[-8:], slow.bridged(history)[-8:]
                level, spread = slow.level_and_spread(recent, 1)
                z = np.array([0.0 if v is None else (v - level) / spread for v in context])
                unit = slow.naive_error([None if v is None else (v - level) / spread for v in recent], 1)
                yield z, (y[i][cutoff : cutoff + HORIZON] - level) / spread, max(unit, 1e-3)

    def slow_ridges(first_n, last_n, robust):
        draws = min(-(-int(np.maximum(last_n - first_n + 1, 0).sum()) // 1024), 8)
        whole = [
            (z / unit, target / unit)
            for z, target, unit in windows(first_n, last_n, draws)
            if np.isfinite(target).all()
        ]
        x, t = (np.stack(part) for part in zip(*whole, strict=True))

        def solve(strength, weights):
            square = sum(w * np.outer(each, each) for w, each in zip(weights, x, strict=True))
            cross = sum(w * np.outer(each, target) for w, each, target in zip(weights, x, t, strict=True))
            return np.linalg.solve(square + strength * np.trace(square) / 8 * np.eye(8), cross)

        weights = np.ones(len(x))
        for _ in range(5 if robust else 0):
            errors = np.abs(x @ solve(STRENGTHS[3], weights) - t).mean(1)
            middle = np.sort(errors)[(len(errors) - 1) // 2]
            weights = 1 / np.maximum(errors, middle)
        return [solve(strength, weights) for strength in STRENGTHS]

    early = [w for robust in (False, True) for w in slow_ridges(split.first_n, late_n - HORIZON, robust)]
    judged = list(windows(late_n, split.last_n, 1))
    errors = [np.nanmean([abs(z @ w - target) / unit for z, target, unit in judged]) for w in early]
    best = int(np.argmin(errors))
    got_TF = useful_linear(looks, [("last", 1)])
    expected_TF = slow_ridges(split.first_n, split.last_n, best >= len(STRENGTHS))[best % len(STRENGTHS)]
    np.testing.assert_allclose(got_TF, expected_TF, atol=2e-4)


def test_a_few_wild_windows_do_not_decide_the_linear_forecast(monkeypatch):
    """One value of each series is a hundred deviations away: squares are about the windows that have to forecast it."""
    values = {str(seed): autoregressive(400, seed) for seed in range(6)}
    for seed, y in enumerate(values.values()):
        y[20 + 7 * seed] += 300
    looks = looks_at(values, 12, seasons=())
    w_TF = useful_linear(looks, [("last", 1)])
    assert w_TF[-1, 0] == pytest.approx(1.2, abs=0.3) and w_TF[-2, 0] == pytest.approx(-0.6, abs=0.3)
    monkeypatch.setattr(anchors, "ROUNDS", 0)  # of weighting
    assert abs(useful_linear(looks, [("last", 1)])[-1, 0]) < 0.3


# ---------------------------------------------------------------- the context


def test_the_context_reaches_as_far_back_as_the_data_say_something():
    """y_t follows y_{t-40}, in other series y_{t-1} alone: 8 steps know nothing of the one and all of the other."""
    rng = np.random.default_rng(0)

    def echo(rows):
        y = rng.normal(0, 1, rows)
        for t in range(40, rows):
            y[t] = 0.95 * y[t - 40] + 0.2 * y[t]
        return y

    far = plan(prepared(series({str(k): echo(400) for k in range(4)}), season_length="none", context_length=None))
    assert far.network.config.context_length == 8 * 2 * HORIZON
    near = {str(k): np.random.default_rng(k).normal(0, 1, 400).cumsum() for k in range(4)}  # the last value is all
    task = plan(prepared(series(near), season_length="none", context_length=None))
    assert task.network.config.context_length == 2 * HORIZON
    given = plan(prepared(series(near), season_length="none", context_length=20))
    assert given.network.config.context_length == 20


def test_where_a_linear_forecast_is_best_it_is_found():
    frame = series({str(seed): autoregressive(200, seed) for seed in range(6)})
    forecaster = small(season_length=(), context_length=12, max_steps=0)
    network = forecaster.fit(frame).fitted.network
    assert ("linear", 12) in network.config.anchors
    w_TF = network.linear_TF
    assert w_TF[-1, 0] == pytest.approx(1.2, abs=0.15) and w_TF[-2, 0] == pytest.approx(-0.6, abs=0.15)


def test_a_linear_forecast_that_late_windows_contradict_is_left_out():
    """The first three quarters are autoregressive; what comes behind them is a season, and nothing else."""
    y = autoregressive(400, 0)
    assert useful_linear(looks_at({"a": y}), [("season", 3)]) is not None
    y[265:] = np.resize([50.0, 55.0, 45.0], 135)
    assert useful_linear(looks_at({"a": y}), [("season", 3)]) is None


@pytest.mark.parametrize("values", [{"a": wave(15, 0)}, {"a": wave(9, 0), "b": np.array([1.0])}])
def test_too_little_data_has_no_linear_forecast(values):
    assert useful_linear(looks_at(values), [("last", 1)]) is None


# ---------------------------------------------------------------- the rest of a task


def test_the_calendar_is_learned_from_where_its_cycle_was_passed_twice():
    def silent(rows, **options):
        frame = table(rows).with_columns(ds=pl.date(2022, 1, 1) + pl.duration(days="ds"))
        store = prepared(frame, **options).store
        deviation_C = plan(prepared(frame, **options)).network.known.deviation_C
        names = store.known_names
        return {name for name, deviation in zip(names, deviation_C.tolist(), strict=True) if deviation > 1e20}

    year = {"day_of_year_sin", "day_of_year_cos"}
    assert silent(700) == year
    assert silent(900) == set()
    assert silent(16) == year | {"day_of_week_sin", "day_of_week_cos"}


def test_figures_of_covariates_come_from_rows_that_may_be_learned_from():
    frame = table().with_columns(
        price=pl.col("ds") * 1.0,
        temperature=pl.col("y") * 2,
        size=pl.when(pl.col("unique_id") == "a").then(1.0).otherwise(5.0),
    )
    task = plan(prepared(frame, future="price", past="temperature", static="size"), kept_back=2)
    until = 60 - 2 * HORIZON - 52 // 5  # a fifth of what is left is held out
    seen = frame.filter(pl.col("ds") < until)
    network = task.network
    assert float(network.known.mean_C[0]) == pytest.approx(seen["price"].mean())
    assert float(network.known.deviation_C[0]) == pytest.approx(seen["price"].std(ddof=0))
    assert float(network.past.mean_C[0]) == pytest.approx(seen["temperature"].mean())
    assert (float(network.static.mean_C[0]), float(network.static.deviation_C[0])) == (3.0, 2.0)
    np.testing.assert_array_equal(task.split.until_n, [until, until])
    for place, name in enumerate("ab"):
        y = seen.filter(pl.col("unique_id") == name)["y"].to_list()
        assert float(task.error_scale_n[place]) == pytest.approx(slow.naive_error(y, SEASON))


def test_every_option_of_training_arrives():
    options = {
        "optimizer": "sgd",
        "lr": 0.3,
        "batch_size": 7,
        "max_steps": 11,
        "time_budget": 5.0,
        "clip": "value:0.5",
        "clip_roles": ("head",),
        "penalty": "omega:0.5",
        "seed": 3,
    }
    got = training_config(Config(**options), plan(prepared(table())))
    assert {name: getattr(got, name) for name in options} == options


def test_a_fit_takes_as_many_steps_as_its_windows_are_worth():
    task = plan(prepared(table()))
    config = Config(preset="default")
    assert training_config(config, task).max_steps == steps_worth(task.split, 2) == 50
    assert training_config(Config(max_steps=7), task).max_steps == 7
    assert training_config(Config(preset="fast"), task).max_steps == 0
    many, more = (split_series(np.full(series, 200), 24, 6) for series in (100, 400))
    assert steps_worth(more, 10) == pytest.approx(2 * steps_worth(many, 10), abs=50)  # by the root of their number
    assert steps_worth(split_series(np.full(5000, 200), 24, 6), 10) == 1200


def test_every_option_of_the_network_arrives():
    options = {"cell": "gru", "hidden_size": 5, "layers": 3, "dropout": 0.4, "context_length": 18, "segment": 3}
    task = plan(prepared(table(), **options, head="gaussian"))
    size = task.network.config
    got = {"cell": size.cell, "hidden_size": size.hidden_size, "layers": size.num_layers, "dropout": size.dropout}
    assert got | {"context_length": size.context_length, "segment": size.segment} == options
    assert type(task.network.head).__name__ == "GaussianHead"
    assert size.horizon == HORIZON


# ---------------------------------------------------------------- windows in errors


@pytest.mark.parametrize(
    ("time", "cutoff"),
    [
        (pl.col("ds"), "4"),
        (pl.date(2024, 1, 30) + pl.duration(days="ds"), "2024-02-03"),
        (pl.datetime(2024, 1, 1, 20) + pl.duration(hours="ds"), "2024-01-02 00:00:00"),
        ((pl.datetime(2024, 3, 31) + pl.duration(hours="ds")).dt.replace_time_zone("UTC"), "2024-03-31 04:00:00+00:00"),
        (pl.date(2024, 1, 1) + pl.duration(weeks="ds"), "2024-01-29"),
    ],
)
def test_a_window_is_named_as_the_user_knows_it(time, cutoff):
    """The cutoff is the last time that the forecast may see, as a backtest has it."""
    task = plan(prepared(table().with_columns(ds=time), freq=None, season_length=6))
    assert task.name_window(1, 5) == f"series 'b', cutoff {cutoff}"
    ids = {"a": 70, "b": 80}
    numbered = table().with_columns(ds=time, unique_id=pl.col("unique_id").replace_strict(ids))
    assert plan(prepared(numbered, freq=None)).name_window(0, 5) == f"series 70, cutoff {cutoff}"
