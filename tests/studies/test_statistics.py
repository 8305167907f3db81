"""Means with intervals, summaries, and the verdicts that are read from them."""

from __future__ import annotations

import math
import random

import numpy as np
import polars as pl
import pytest

from holdfast.studies.statistics import LOST, bootstrap_interval, capped, summarise


def slow_interval(values, level, draws):
    """Resampled means one by one, and their empirical quantiles."""
    rng = random.Random(1)
    means = sorted(sum(rng.choices(values, k=len(values))) / len(values) for _ in range(draws))
    return means[int((1 - level) / 2 * draws)], means[int((1 + level) / 2 * draws)]


def test_the_interval_is_that_of_a_slow_twin():
    values = np.random.default_rng(0).normal(3, 2, 40).tolist()
    low, high = bootstrap_interval(values, draws=20_000)
    slow_low, slow_high = slow_interval(values, 0.95, 20_000)
    assert low == pytest.approx(slow_low, abs=0.03)
    assert high == pytest.approx(slow_high, abs=0.03)


def test_the_interval_covers_the_mean_about_as_often_as_it_says():
    rng = np.random.default_rng(1)
    covered = 0
    for _ in range(300):
        low, high = bootstrap_interval(rng.normal(0, 1, 30).tolist(), draws=400)
        covered += low <= 0 <= high
    assert 0.88 < covered / 300 < 0.98


def test_the_interval_moves_and_scales_with_the_values():
    values = [0.3, 1.0, 4.0, 2.0, 0.1]
    low, high = bootstrap_interval(values)
    assert bootstrap_interval([10 + 3 * v for v in values]) == pytest.approx((10 + 3 * low, 10 + 3 * high))


@pytest.mark.parametrize(("values", "expected"), [([2.0], (2.0, 2.0)), ([1.5, math.nan], (1.5, 1.5))])
def test_one_value_is_its_own_interval(values, expected):
    assert bootstrap_interval(values) == expected


def test_no_value_has_no_interval():
    assert all(math.isnan(side) for side in bootstrap_interval([math.nan]))


def rows():
    nan = math.nan
    return pl.DataFrame(
        {
            "arm": ["a", "a", "a", "b"],
            "relative_error": [0.5, 9.0, nan, 0.25],
            "diverged": [False, False, True, False],
            "solved_step": [nan, nan, nan, 100.0],
            **{name: [0.0, 0.5, nan, 1.0] for name in ("clip_fraction", "cosine", "flipped", "starved", "head_share")},
            **{name: [0.9, nan, nan, 0.8] for name in ("growth_before", "growth_after")},
            "seconds": [1.0, 2.0, 9.0, 4.0],
        }
    )


def test_a_lost_run_counts_with_the_largest_error():
    assert rows().select(capped()).to_series().to_list() == [0.5, LOST, LOST, 0.25]


def test_a_summary_by_hand():
    first, second = summarise(rows(), ["arm"]).to_dicts()
    assert first["runs"] == 3
    assert first["diverged"] == pytest.approx(1 / 3)
    assert (first["solved"], first["solved_step"]) == (0.0, None)
    assert first["error"] == pytest.approx(1.5)
    assert 0.5 <= first["error_low"] < 1.5 < first["error_high"] <= 2.0
    assert first["clip_fraction"] == pytest.approx(0.25)
    assert first["growth_before"] == pytest.approx(0.9)
    assert first["seconds"] == 2.0
    assert (second["solved"], second["solved_step"], second["error"]) == (1.0, 100.0, 0.25)
