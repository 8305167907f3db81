"""Numbers that were once wrong without a word: outages, short histories, levels, values below 0, the best naive."""

from __future__ import annotations

import multiprocessing
import os
import sys
import warnings

import numpy as np
import polars as pl
import pytest
from tests.forecasting.small import HORIZON, SEASON, series, small, table, wave

from holdfast import DataError, DataWarning, Forecaster, OptionError

VALUES = ["holdfast-lo-95", "holdfast-lo-80", "holdfast", "holdfast-hi-80", "holdfast-hi-95"]


def walk(rows: int, seed: int, level: float = 3000.0) -> np.ndarray:
    return level + np.random.default_rng(seed).normal(size=rows).cumsum()


def forecasts(forecaster: Forecaster, frame: pl.DataFrame) -> np.ndarray:
    return forecaster.fit(frame).predict().select(VALUES).to_numpy()


def width(got: pl.DataFrame) -> float:
    return float((got["holdfast-hi-80"] - got["holdfast-lo-80"]).mean())


# ---------------------------------------------------------------- outages


@pytest.fixture(scope="module")
def walks() -> tuple[Forecaster, dict[str, np.ndarray]]:
    values = {f"s{k:02d}": walk(400, k) for k in range(40)}
    return small(season_length="none", context_length=16, max_steps=40).fit(series(values)), values


def test_a_forecast_after_an_outage_starts_from_the_last_values_seen():
    values = {name: 1000 * (k + 1) + 10 * wave(90, k) for k, name in enumerate("abc")}
    values["c"][-40:] = np.nan
    forecaster = small(max_steps=10).fit(series(values))
    (told,) = [line for line in forecaster.summary().splitlines() if "newest rows" in line]
    assert "1 of 3 series ('c': 40 rows)" in told
    got = forecaster.predict().filter(pl.col("unique_id") == "c")["holdfast"].to_numpy()
    same_phase = np.resize(values["c"][:50][-SEASON:], 60)[40 : 40 + HORIZON]
    np.testing.assert_allclose(got, same_phase, atol=30)  # the season goes from 70 to 130


def test_after_an_outage_intervals_hold_and_widen_with_its_length(walks):
    forecaster, values = walks
    widths, inside = [], []
    for hidden in (0, 8, 64):
        shares, wide = [], []
        for cutoff in range(330, 396, 32):
            rows = np.arange(cutoff)
            seen = {name: np.where(rows < cutoff - hidden, y[:cutoff], np.nan) for name, y in values.items()}
            with warnings.catch_warnings():
                warnings.simplefilter("ignore", DataWarning)
                got = forecaster.predict(series(seen))
            truth = np.concatenate([values[name][cutoff : cutoff + HORIZON] for name in sorted(values)])
            low, high = (got[f"holdfast-{side}-80"].to_numpy() for side in ("lo", "hi"))
            shares.append(((low <= truth) & (truth <= high)).mean())
            wide.append(width(got))
        widths.append(np.mean(wide))
        inside.append(np.mean(shares))
    assert widths[0] * 1.3 < widths[1] < widths[2]
    assert min(inside[1:]) > inside[0] - 0.2  # of 40 walks


def test_newer_data_that_ends_in_an_outage_warns(walks):
    forecaster, values = walks
    newer = series({"s1": values["s01"], "s2": np.append(values["s02"][:-1], np.nan)})
    with pytest.warns(DataWarning, match=r"1 of 2 series \('s2': 1 rows\)"):
        forecaster.predict(newer)


def test_a_history_of_three_rows_warns_keeps_its_level_and_gets_wide_intervals():
    values = {f"s{k}": 1000 + 100 * wave(120, k) for k in range(6)}
    forecaster = small(context_length=24, max_steps=40).fit(series(values))
    whole = forecaster.predict()
    newer = series({"s0": values["s0"][-3:]})
    with pytest.warns(DataWarning, match=r"half of the context of 24 steps in 1 of 1 series \('s0': 3 rows\)"):
        got = forecaster.predict(newer)
    assert np.abs(got["holdfast"] - values["s0"][-3:].mean()).max() < 700  # the season goes from 1700 to 2300
    assert width(got) > 2 * width(whole)


# ---------------------------------------------------------------- levels and units

EXACT = {f"s{k}": np.round(256 * walk(80, k, 0.0)) / 256 for k in range(3)}  # sums with 1e12 without rounding


@pytest.mark.parametrize("head", ["quantile", "gaussian", "student-t"])
@pytest.mark.parametrize("level", [1e6, -1e9, 1e12])
def test_a_constant_added_moves_forecasts_by_it_and_nothing_else(level, head):
    options = {"allow_negative": True, "max_steps": 5, "head": head}
    before = forecasts(small(**options), series(EXACT))
    after = forecasts(small(**options), series({name: y + level for name, y in EXACT.items()}))
    spread = np.std(np.concatenate(list(EXACT.values())))
    assert np.abs(after - level - before).max() < 1e-4 * spread  # a double near 1e12 has steps of 1.2e-4
    if abs(level) < 1e12:
        assert np.abs(after - level - before).max() < 1e-5 * spread


@pytest.mark.parametrize("factor", [2.0**40, 1e-9, 1e12])
def test_a_factor_scales_forecasts_and_nothing_else(factor):
    before = forecasts(small(allow_negative=True), series(EXACT))
    after = forecasts(small(allow_negative=True), series({name: factor * y for name, y in EXACT.items()}))
    spread = np.std(np.concatenate(list(EXACT.values())))
    assert np.abs(after / factor - before).max() < 1e-4 * spread


def test_counts_beyond_the_reach_of_their_likelihood_are_refused():
    frame = table().with_columns(y=pl.col("y").round() + 1e15)
    with pytest.raises(DataError) as caught:
        small(head="negative-binomial").fit(frame)
    (problem,) = caught.value.problems
    assert "from 0 to 1e+09" in problem.expected
    assert "--head student-t" in problem.fix


# ---------------------------------------------------------------- never below 0


def test_where_no_value_was_negative_no_forecast_is():
    rng = np.random.default_rng(0)
    counts = series({name: rng.poisson(0.3, 80).astype(float) for name in "abc"})
    forecaster = small(max_steps=5).fit(counts)
    assert forecaster.predict().select(VALUES).to_numpy().min() == 0
    assert forecaster.backtest(counts, 1).select(VALUES).to_numpy().min() == 0
    assert (
        "y was never negative: forecasts and intervals stop at 0 (--allow-negative lifts this)" in forecaster.summary()
    )
    assert "--head negative-binomial" in forecaster.summary()
    free = small(max_steps=5, allow_negative=True).fit(counts)
    assert free.predict().select(VALUES).to_numpy().min() < 0
    assert "never negative" not in free.summary()


def test_one_negative_value_lifts_the_floor():
    values = {name: wave(80, k) - 10 for k, name in enumerate("abc")}
    assert forecasts(small(max_steps=5), series(values)).min() < 0


# ---------------------------------------------------------------- the best naive forecast


def test_skill_is_measured_against_the_best_naive_forecast_and_names_it():
    """Two seasons: the long one explains what the short one cannot."""
    rng = np.random.default_rng(0)
    short, long = np.tile([0.0, 4.0, 1.0], 60), np.tile(np.repeat(rng.normal(0, 20, 5), 3), 12)
    values = {name: 100 + short + long + rng.normal(0, 0.1, 180) for name in "ab"}
    forecaster = small(season_length=(3, 15), max_steps=2).fit(series(values))
    metrics = forecaster.fitted.metrics
    assert metrics["baseline"] == "seasonal naive 15"
    assert "those of seasonal naive 15, the best naive forecast" in forecaster.summary()
    backtest = forecaster.backtest(series(values), 1).filter(pl.col("unique_id") == "a")
    np.testing.assert_array_equal(backtest["seasonal_naive"], values["a"][-HORIZON - 15 : -15])


def test_the_last_value_is_the_best_naive_forecast_of_a_walk():
    forecaster = small(max_steps=2).fit(series({name: walk(90, k) for k, name in enumerate("abcd")}))
    assert forecaster.fitted.metrics["baseline"] == "last value"


# ---------------------------------------------------------------- levels of intervals, forks


@pytest.mark.parametrize(
    ("levels", "fix"), [((0.8,), "--levels 80:"), ((0.8, 0.95), "--levels 80,95:"), ((80, 0.5), "80,50")]
)
def test_shares_are_no_percentages(levels, fix):
    with pytest.raises(OptionError) as caught:
        Forecaster(levels=levels)
    (problem,) = caught.value.problems
    assert fix in problem.fix
    assert "not shares" in problem.fix


def _fit_in_child(pipe, frame) -> None:
    try:
        small(max_steps=0).fit(frame)
    except OptionError as error:
        pipe.send(str(error))
    else:
        pipe.send("fitted")


@pytest.mark.skipif(not hasattr(os, "fork"), reason="no fork on this system")
@pytest.mark.filterwarnings("ignore::DeprecationWarning")  # Python 3.12 warns of forks with threads
@pytest.mark.filterwarnings("ignore::RuntimeWarning")
def test_a_process_forked_after_a_fit_is_refused_instead_of_hanging():
    small(max_steps=0).fit(table())
    mine, theirs = multiprocessing.Pipe()
    child = multiprocessing.get_context("fork").Process(target=_fit_in_child, args=(theirs, table()))
    child.start()
    try:
        assert mine.poll(60), "the child hangs"
        assert 'get_context("spawn")' in mine.recv()
    finally:
        child.kill()
        child.join()
    assert sys.platform != "win32"
