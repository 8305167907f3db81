"""The benchmark of peers on few data sets: what each learns from, the quantiles, their scores, and the table."""

from __future__ import annotations

import math
from dataclasses import replace

import numpy as np
import polars as pl
import pytest
from benchmarks.peers import jobs, set_tables, sets
from benchmarks.peers.collected import sets as collected
from benchmarks.peers.task import Clock, Fitted, forecasts, series_of


@pytest.fixture
def quarters(tmp_path, monkeypatch):
    """A set with dates, missing values, and a series that is shorter than a window of the peers."""
    monkeypatch.chdir(tmp_path)
    random = np.random.default_rng(0)
    lengths = {"a": 60, "b": 60, "c": 20}
    dates = pl.date_range(pl.date(2000, 1, 1), pl.date(2014, 10, 1), "3mo", eager=True).cast(pl.Datetime("us"))
    y = {name: 50 + 5 * np.arange(60) % 4 + random.normal(size=60) for name in lengths}
    y["a"][[0, 20]] = math.nan
    parts = [
        pl.DataFrame({"unique_id": [name] * length, "ds": dates[-length:], "y": y[name][-length:]})
        for name, length in lengths.items()
    ]
    data = replace(collected.data_set("quarters", pl.concat(parts), season=4, horizon=8), cutoffs=1)
    monkeypatch.setattr(jobs, "read", lambda name: data)
    return data


@pytest.mark.filterwarnings("ignore::Warning")  # the libraries' own
@pytest.mark.parametrize("forecaster", jobs.OF_SETS)
def test_everybody_gives_three_quantiles_of_a_set_with_dates_gaps_and_short_series(forecaster, quarters):
    who = jobs.FORECASTERS[forecaster]
    package = {"darts": "darts.models", "gluonts": "gluonts.torch"}.get(who.package, who.package)
    pytest.importorskip(package, reason="a peer, installed by the extra `bench`")
    job = {"kind": "sets", "set": "quarters", "forecaster": forecaster, "seconds": 0.5, "seed": 0}
    row = jobs.measure(job)
    assert jobs.key_of(row) == jobs.key_of(job)
    assert (row["count"], row["horizon"], row["steps"] > 0) == (3, 8, True)
    assert 0 < row["wql"] < 1
    assert row["relative_mase"] > 0
    assert 0 <= row["coverage"] <= 1


def test_the_scores_of_a_set_are_those_of_its_quantiles(quarters, monkeypatch):
    """Exact forecasts in any order have no error; values that are not finite have no score."""
    exact = quarters.actual()[:, 0]
    table = forecasts(list(quarters.scored), exact, exact - 1, exact + 1)

    def measured(given):
        fitted = Fitted(Clock(), lambda table: table, lambda _: given.sample(fraction=1.0, shuffle=True, seed=0))
        job = {"set": "quarters", "forecaster": "holdfast", "seconds": 1, "seed": 0}
        return jobs._measure_set(job, lambda train, task: (fitted, 2.0))

    row = measured(table)
    assert (row["mase"], row["coverage"], row["fit_seconds"]) == (0.0, 1.0, 2.0)
    assert row["wql"] == pytest.approx(2 * (0.1 + 0.1) / 3 / exact.mean())
    broken = table.with_columns(pl.when(pl.col("step") == 1).then(math.inf).otherwise(pl.col("high")).alias("high"))
    assert measured(broken)["nonfinite"] == 3
    with pytest.raises(ValueError, match="23 forecasts instead of 24"):
        measured(table[1:])


def test_a_library_without_missing_values_gets_the_value_of_one_season_before(quarters):
    train = quarters.history(0)
    whole = sets.without_gaps(train, 4)
    assert whole.columns == train.columns
    given, made = series_of(train), series_of(whole)
    np.testing.assert_array_equal(made["b"], given["b"])
    assert len(made["a"]) == len(given["a"]) - 1  # the first value is missing
    assert made["a"][19] == given["a"][16]


def set_row(name, who, relative, seed=0, **more):
    job = {"kind": "sets", "set": name, "forecaster": who, "seconds": 60, "seed": seed}
    scores = {"relative_mase": relative, "wql": relative / 10, "coverage": 0.81, "count": 30, "horizon": 8}
    times = {"fit_seconds": 61.0, "steps": 300, "predict_seconds": 0.5}
    return {**job, **scores, **times, "version": "1.0", **more}


def test_the_table_of_sets_names_the_best_and_what_is_missing():
    rows = [set_row("hospital", who, 0.8 + 0.1 * k) for k, who in enumerate(jobs.OF_SETS)]
    rows += [set_row("hospital", "holdfast", 0.9, seed=1), set_row("m4_hourly", "holdfast", 0.5, owa=0.4)]
    rows += [{"kind": "sets", "set": "m4_hourly", "forecaster": "deepar", "seed": 0, "failed": "KeyError"}]
    lines = [[cell.strip() for cell in line.split("|")[1:-1]] for line in set_tables.sets_table(rows)]
    assert {len(line) for line in lines} == {len(set_tables.HEAD)}
    m4, hospital, mean = lines[2], lines[6], lines[10]
    assert m4[:3] == ["m4_hourly: 30 series, 8 steps", "holdfast", "**0.500**"]
    assert [line[2] for line in lines[3:6]] == ["not measured", "failed", "not measured"]
    assert hospital == ["hospital: 30 series, 8 steps", *hospital[1:]]
    assert hospital[1:7] == ["holdfast", "**0.850**", "0.100", "**0.0850**", "81.0 %", ""]
    assert (hospital[-1], lines[7][2], lines[7][-1]) == ("2", "0.900", "1")
    assert mean[:5] == ["geometric mean of 1 sets", "holdfast", "0.850", "", "0.0850"]
    assert set_tables.sets_section([], "") == []
    text = set_tables.sets_section(rows, "Machine: a.")
    assert all(len(line) <= 118 or line[0] in "|!#" for line in text)
    assert text[-2].endswith("Machine: a.")
