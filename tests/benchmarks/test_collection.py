"""The benchmark of many sets: cutoffs, scores, stand-ins, jobs that are done once, and the tables."""

from __future__ import annotations

import json
import math
import subprocess
import sys
from pathlib import Path

import numpy as np
import polars as pl
import pytest
from benchmarks.peers.collected import forecasters, jobs, scores, sets, tables
from hypothesis import given, settings
from hypothesis import strategies as st
from utilsforecast import losses

from holdfast import Forecaster

NAN = float("nan")


def write_set(folder, name, series, season=4, horizon=3):
    """The two files of a set; None is a missing value."""
    ids = [key for key, values in series.items() for _ in values]
    ds = [step for values in series.values() for step in range(len(values))]
    y = [value for values in series.values() for value in values]
    pl.DataFrame({"unique_id": ids, "ds": ds, "y": pl.Series(y, dtype=pl.Float64)}).write_parquet(
        folder / f"{name}.parquet"
    )
    sizes = {"n_obs": len(y), "max_length": max(ds) + 1}
    facts = {"name": name, "season_length": season, "horizon": horizon, **sizes}
    (folder / f"{name}.json").write_text(json.dumps(facts))


def waves(count, length, seed=0):
    random = np.random.default_rng(seed)
    return {
        f"s{n}": (20 + 5 * np.sin(np.arange(length) * np.pi / 2) + random.normal(size=length)).tolist()
        for n in range(count)
    }


def slow_scores(actual, forecast, naive, scale):
    """The formulas, one sum at a time."""
    mases, ratios, loss, total, inside, points = [], [], 0.0, 0.0, 0, 0
    without_scale = zero_errors = 0
    for s in range(len(actual)):
        ours, theirs = [], []
        for c in range(len(actual[s])):
            for h in range(len(actual[s][c])):
                y = actual[s][c][h]
                if math.isnan(y):
                    continue
                ours.append(abs(y - forecast[s][c][h][4]))
                theirs.append(abs(y - naive[s][c][h]))
                for q, f in zip((0.1, 0.2, 0.3, 0.4, 0.5, 0.6, 0.7, 0.8, 0.9), forecast[s][c][h], strict=True):
                    loss += 2 * (q * (y - f) if y > f else (1 - q) * (f - y))
                total += abs(y)
                points += 1
                inside += forecast[s][c][h][0] <= y <= forecast[s][c][h][8]
        if not ours or math.isnan(scale[s]) or scale[s] == 0:
            without_scale += 1
            continue
        mase, naive_mase = sum(ours) / len(ours) / scale[s], sum(theirs) / len(theirs) / scale[s]
        mases.append(mase)
        if mase == 0 or naive_mase == 0:
            zero_errors += 1
        else:
            ratios.append(mase / naive_mase)
    return {
        "mase": sum(mases) / len(mases) if mases else None,
        "relative_mase": math.prod(ratios) ** (1 / len(ratios)) if ratios else None,
        "wql": loss / 9 / total if total else None,
        "coverage": inside / points if points else None,
        "without_scale": without_scale,
        "zero_errors": zero_errors,
    }


def problem(seed, series=6, cutoffs=2, horizon=5):
    random = np.random.default_rng(seed)
    actual = random.normal(10, 3, size=(series, cutoffs, horizon))
    forecast = np.sort(random.normal(10, 3, size=(series, cutoffs, horizon, 9)), axis=-1)
    return actual, forecast, random.normal(10, 3, size=actual.shape), random.uniform(0.5, 2, size=series)


def hard_cases():
    """Everything observed; holes; nothing observed of a series, of any; scales 0 and undefined; exact forecasts."""
    yield problem(0)
    actual, forecast, naive, scale = problem(1)
    actual[0, 0, 1:3] = actual[3, 1] = actual[5] = NAN
    scale[1], scale[2] = 0.0, NAN
    forecast[4] = actual[4][..., None]
    naive[0] = np.nan_to_num(actual[0])
    yield actual, forecast, naive, scale
    yield np.full_like(actual, NAN), forecast, naive, scale
    yield np.zeros_like(actual), forecast, naive, scale
    yield problem(2, series=1, cutoffs=1, horizon=1)


@pytest.mark.parametrize("case", list(hard_cases()), ids=["plain", "hard", "nothing came", "zeros", "one point"])
def test_scores_are_those_of_the_formulas(case):
    fast, slow = scores.scores_of(*case), slow_scores(*case)
    assert fast.keys() == slow.keys()
    for name, value in slow.items():
        assert fast[name] == (value if value is None else pytest.approx(value, rel=1e-12)), name


def test_three_quantiles_are_scored_like_nine():
    actual, forecast, naive, scale = problem(5)
    three = forecast[..., [0, 4, 8]]
    found = scores.scores_of(actual, three, naive, scale, (0.1, 0.5, 0.9))
    losses_of_q = [
        np.where(actual > f, q * (actual - f), (1 - q) * (f - actual)).sum()
        for q, f in zip((0.1, 0.5, 0.9), np.moveaxis(three, -1, 0), strict=True)
    ]
    assert found["wql"] == pytest.approx(2 * sum(losses_of_q) / 3 / np.abs(actual).sum())
    nine = scores.scores_of(actual, forecast, naive, scale)
    assert {**found, "wql": nine["wql"]} == nine


def test_scores_are_those_of_utilsforecast():
    actual, forecast, naive, _ = problem(3, cutoffs=1)
    history = np.random.default_rng(4).normal(10, 3, size=(6, 24))
    ids, steps = np.repeat([f"s{n}" for n in range(6)], 5), np.tile(np.arange(24, 29), 6)
    quantiles = {f"q{k}": forecast[..., k].ravel() for k in range(9)}
    columns = {"m-lo-80": quantiles["q0"], "m": quantiles["q4"], "m-hi-80": quantiles["q8"]}
    table = pl.DataFrame({"unique_id": ids, "ds": steps, "y": actual.ravel(), **columns, **quantiles})
    train = pl.DataFrame(
        {"unique_id": np.repeat([f"s{n}" for n in range(6)], 24), "ds": np.tile(np.arange(24), 6), "y": history.ravel()}
    )
    scale = np.array([scores.scale_of(values, 4) for values in history])
    ours = scores.scores_of(actual, forecast, naive, scale)
    assert ours["mase"] == pytest.approx(losses.mase(table, ["m"], seasonality=4, train_df=train)["m"].mean())
    assert ours["coverage"] == pytest.approx(losses.coverage(table, ["m"], level=80)["m"].mean())
    loss = losses.mqloss(table, {"m": list(quantiles)}, quantiles=np.array(scores.QUANTILES))["m"].mean()
    assert ours["wql"] == pytest.approx(2 * loss / np.abs(actual).mean())


@settings(max_examples=40)
@given(seed=st.integers(0, 2**32 - 1), unit=st.floats(1e-6, 1e6), order=st.randoms(use_true_random=False))
def test_neither_units_nor_the_order_of_series_change_a_score(seed, unit, order):
    case = problem(seed)
    case[0][0, 0, 0] = NAN
    which = list(range(6))
    order.shuffle(which)
    before = scores.scores_of(*case)
    for changed in (tuple(unit * part for part in case), tuple(part[which] for part in case)):
        assert scores.scores_of(*changed) == pytest.approx(before, rel=1e-9)


@settings(max_examples=40)
@given(seed=st.integers(0, 2**32 - 1))
def test_a_score_rewards_the_truth_and_knows_seasonal_naive(seed):
    actual, forecast, naive, scale = problem(seed)
    alike = np.repeat(naive[..., None], 9, axis=-1)
    assert scores.scores_of(actual, alike, naive, scale)["relative_mase"] == pytest.approx(1.0)
    nearer = scores.scores_of(actual, (forecast + actual[..., None]) / 2, naive, scale)
    before = scores.scores_of(actual, forecast, naive, scale)
    for name in ("mase", "relative_mase", "wql"):
        assert nearer[name] == pytest.approx(before[name] / 2)
    assert nearer["coverage"] == before["coverage"]


@pytest.mark.parametrize(
    ("values", "season", "scale"),
    [([1.0, 2.0, 4.0], 1, 1.5), ([1.0, NAN, 4.0, 5.0, 2.0], 2, 2.5), ([1.0, 2.0], 2, NAN), ([1.0, NAN, 3.0], 1, NAN)],
)
def test_the_scale_is_the_error_of_seasonal_naive_in_sample(values, season, scale):
    assert scores.scale_of(np.array(values), season) == pytest.approx(scale, nan_ok=True)


@pytest.mark.parametrize(
    ("series", "shortest", "season", "horizon", "cutoffs"),
    [(20, 1000, 12, 12, 1), (1, 144, 12, 12, 5), (7, 143, 52, 39, 1), (1, 60, 4, 10, 4), (1, 5, 4, 10, 1)],
)
def test_few_series_get_as_many_cutoffs_as_they_have_room_for(series, shortest, season, horizon, cutoffs):
    assert sets.cutoffs_of(series, shortest, season, horizon) == cutoffs


def test_a_history_ends_at_its_cutoff_and_the_rest_is_what_came(tmp_path):
    values = [float(step) for step in range(40)]
    values[10] = values[37] = None
    write_set(tmp_path, "few", {"b": values, "a": [1.0] * 30})
    data = sets.read_set(tmp_path, "few")
    assert (data.cutoffs, data.scored, data.too_short) == (5, ("a", "b"), 0)
    whole = np.array([NAN if value is None else value for value in values])
    for cutoff in range(5):
        np.testing.assert_array_equal(data.histories(cutoff)[1], whole[: 40 - 3 * (5 - cutoff)])
        np.testing.assert_array_equal(data.actual()[1, cutoff], whole[40 - 3 * (5 - cutoff) :][:3])
        assert data.naive()[1, cutoff, 0] == whole[40 - 3 * (5 - cutoff) - 4]
    np.testing.assert_array_equal(data.naive()[0], np.ones((5, 3)))


def test_an_earlier_part_ends_where_the_last_one_begins(tmp_path):
    write_set(tmp_path, "few", {"a": [float(step) for step in range(60)]})
    last, before = sets.read_set(tmp_path, "few"), sets.read_set(tmp_path, "few", back=1)
    assert before.cutoffs == last.cutoffs == 5
    np.testing.assert_array_equal(before.actual()[0, -1], last.histories(0)[0][-3:])
    np.testing.assert_array_equal(before.histories(0)[0], np.arange(30.0))


def test_series_without_a_history_are_left_out_and_a_large_set_is_thinned(tmp_path, monkeypatch):
    many = {**waves(25, 30), "t1": [1.0] * 4, "t2": [None] * 20 + [1.0, 2.0, 3.0, 4.0]}
    write_set(tmp_path, "many", many)
    assert (sets.read_set(tmp_path, "many").too_short, len(sets.read_set(tmp_path, "many").scored)) == (2, 25)
    monkeypatch.setitem(sets.EVERY, "many", 10)
    data = sets.read_set(tmp_path, "many")
    assert len(data.scored) == 3
    assert data.history(0)["unique_id"].n_unique() == 25
    assert data.actual().shape == (3, 1, 3)


@pytest.mark.parametrize(
    ("values", "season", "expected"),
    [
        ([NAN, 1.0, 2.0, NAN, 4.0, NAN, NAN], 2, [1.0, 2.0, 1.0, 4.0, 1.0, 4.0]),
        ([3.0, NAN, NAN, 5.0], 3, [3.0, 3.0, 3.0, 5.0]),
        ([3.0, 4.0], 3, [3.0, 4.0]),
    ],
)
def test_a_missing_value_takes_that_of_one_season_before(values, season, expected):
    given = np.array(values)
    assert forecasters.filled(given, season).tolist() == expected
    np.testing.assert_array_equal(given, values)


class Broken:
    """A model that fails in the three ways that models fail."""

    def __init__(self, way):
        self.way = way

    def forecast(self, y, h, level):
        if self.way == "raises":
            raise Exception("no model able to be fitted")
        names = ["mean", *(f"{side}-{each}" for side in ("lo", "hi") for each in level)]
        made = {name: np.ones(h) for name in names}
        return made | {"hi-80": np.full(h, NAN)} if self.way == "nan" else made


def test_a_model_that_fails_is_replaced_and_counted(tmp_path, monkeypatch):
    write_set(tmp_path, "few", waves(2, 40))
    data = sets.read_set(tmp_path, "few")
    monkeypatch.setitem(forecasters.MODELS, "seasonal naive", lambda data: Broken("raises"))
    for way, failed in (("raises", 10), ("nan", 10), ("works", 0)):
        monkeypatch.setitem(forecasters.MODELS, "AutoCES", lambda data, way=way: Broken(way))
        made = forecasters.forecast(data, "ces", 0)["AutoCES"]
        assert made.facts["fallbacks"] == failed
        expected = data.naive() if failed else np.ones((2, 5, 3))
        np.testing.assert_array_equal(made.forecast_SCHQ, np.repeat(expected[..., None], 9, axis=-1))


def test_holdfast_forecasts_each_series_from_each_cutoff(tmp_path, monkeypatch):
    """Without a training step: the order of series, cutoffs, steps and quantiles, against one series at a time."""
    series = {name: [level * y for y in waves(1, 60)["s0"]] for name, level in (("s10", 1.0), ("s9", 1e3))}
    write_set(tmp_path, "few", series)
    data = sets.read_set(tmp_path, "few")
    monkeypatch.setattr(forecasters, "Forecaster", lambda **given: Forecaster(max_steps=0, **given))
    made = forecasters.forecast(data, "holdfast", 0)["holdfast"]
    assert made.forecast_SCHQ.shape == (2, 5, 3, 9)
    assert (np.diff(made.forecast_SCHQ, axis=-1) >= 0).all()
    np.testing.assert_allclose(made.forecast_SCHQ[1], 1e3 * made.forecast_SCHQ[0], rtol=1e-3)
    again = Forecaster(max_steps=0, horizon=3, season_length=4, levels=(20, 40, 60, 80)).fit(data.history(0))
    last = again.predict(data.history(4)).filter(pl.col("unique_id") == "s10")
    np.testing.assert_allclose(
        made.forecast_SCHQ[0, 4][:, [1, 4, 7]],
        last[["holdfast-lo-60", "holdfast", "holdfast-hi-60"]].to_numpy(),
        rtol=1e-6,
    )


@pytest.mark.parametrize("group", ["naive", "ets-theta", "ces"])
def test_the_peers_forecast_a_clean_wave(group, tmp_path):
    pytest.importorskip("statsforecast", reason="a peer, installed by the extra `bench`")
    write_set(tmp_path, "few", waves(2, 60))
    rows = jobs.measure(tmp_path, {}, jobs.Job("few", group, 0))
    assert [row["model"] for row in rows] == list(forecasters.GROUPS[group])
    for row in rows:
        assert not row.get("fallbacks")
        assert row["relative_mase"] < (4 if row["model"] == "naive" else 1.2)
        assert 0.3 < row["coverage"] <= 1


def test_a_job_is_done_once_and_one_that_failed_again(tmp_path, monkeypatch):
    write_set(tmp_path, "b", waves(2, 40))
    write_set(tmp_path, "a", waves(3, 40))
    names, place = sets.names_of(tmp_path), tmp_path / "rows"
    assert names == ["b", "a"]
    planned = list(jobs.all_jobs(names, ["ces", "holdfast", "naive", "mstl"], seeds=2))
    assert [(job.name, job.group, job.seed) for job in planned] == [
        *(("b", "naive", 0), ("a", "naive", 0), ("b", "holdfast", 0), ("a", "holdfast", 0)),
        *(("b", "ces", 0), ("a", "ces", 0), ("b", "holdfast", 1), ("a", "holdfast", 1)),
    ]
    monkeypatch.setitem(forecasters.MODELS, "AutoCES", lambda data: Broken("works"))
    jobs.keep(place, jobs.measure(tmp_path, {"cpu": "c"}, jobs.Job("b", "ces", 0)))
    jobs.keep(place, jobs.measure(tmp_path, {"cpu": "c"}, jobs.Job("missing", "ces", 0)))
    left = [job for job in planned if not job.done(jobs.read_rows(place, job.name))]
    assert len(left) == len(planned) - 1
    failed = jobs.read_rows(place, "missing")
    assert "FileNotFoundError" in failed[0]["failed"]
    assert not jobs.Job("missing", "ces", 0).done(failed)
    jobs.keep(place, jobs.measure(tmp_path, {"cpu": "d"}, jobs.Job("b", "ces", 0)))
    assert [row["machine"]["cpu"] for row in jobs.read_rows(place, "b")] == ["d"]


def test_what_is_not_finished_in_time_is_left_for_the_next_run(tmp_path):
    write_set(tmp_path, "few", waves(2, 40))
    rows = tmp_path / "rows"
    jobs.keep(rows, [{"set": "few", "model": "holdfast", "seed": 1}])
    script = Path(jobs.__file__).parents[2] / "collection.py"
    given = ["--data", tmp_path, "--results", rows, "--models", "naive,holdfast", "--minutes", "0"]
    ended = subprocess.run([sys.executable, script, *given], capture_output=True, text=True, check=True)
    assert ended.stdout == "0 minutes are over; 3 jobs are left: run this again\n"
    assert len(jobs.read_rows(rows)) == 1


def row(name, model, relative, seed=0, **more):
    facts = {"series": 30, "too_short": 0, "every": 1, "cutoffs": 1, "season": 4, "horizon": 3, "seconds": 2.0}
    return {
        **facts,
        "set": name,
        "model": model,
        "seed": seed,
        "relative_mase": relative,
        "wql": relative / 10,
        "coverage": 0.7,
        **more,
    }


def full_set(name, ours, best):
    peers = [row(name, model, best * (1 + 0.1 * k)) for k, model in enumerate(tables.PEERS) if model != "MSTL"]
    naives = [row(name, tables.NAIVE, 1.2), row(name, tables.SEASONAL, 1.0)]
    return [*(row(name, "holdfast", ours + 0.02 * seed, seed) for seed in (-1, 0, 1)), *peers, *naives]


def test_the_tables_say_who_is_better_and_what_is_missing():
    rows = [
        *(*full_set("good", 0.5, 0.8), *full_set("close", 0.81, 0.8), *full_set("bad", 1.1, 0.9)),
        row("half", "AutoETS", 0.7, fallbacks=3, newest=100, too_short=2, every=4),
        {"set": "half", "model": "holdfast", "seed": 0, "failed": "DataError"},
    ]
    found = tables.sets_of(rows)
    assert [each.name for each in found] == ["bad", "close", "good", "half"]
    assert [each.name for each in tables.complete(found, tables.Measured.relative_mase)] == ["bad", "close", "good"]
    text = "\n".join(tables.collection_section(rows, "Machine: a.")).replace("\n", " ")
    assert f"**{0.5:.3f}**" in text
    assert f"{(0.5 * 0.81 * 1.1) ** (1 / 3):.3f}" in text
    assert "Of 3 sets in which holdfast and a peer were measured" in text
    assert "better by more than 3 % in 1 (bad); holdfast is worse than the better naive" in text
    assert "by more than 1 % in 1 (bad)." in text
    assert "holdfast 10.0 (3 sets)" in text
    assert "Not measured: half (holdfast, AutoTheta, AutoCES" in text
    assert "AutoETS 3 of 30 in half" in text
    assert "AutoETS 100 rows of half" in text
    assert tables.collection_section([], "") == []


@settings(max_examples=20)
@given(factor=st.floats(0.01, 100))
def test_the_comparison_of_losses_has_no_unit(factor):
    rows = [*full_set("good", 0.5, 0.8), *full_set("bad", 1.1, 0.9)]
    changed = [{**each, "wql": factor * each["wql"]} for each in rows]
    for before, after in zip(tables.sets_of(rows), tables.sets_of(changed), strict=True):
        for model in tables.SHOWN:
            assert after.relative_wql(model) == pytest.approx(before.relative_wql(model))
