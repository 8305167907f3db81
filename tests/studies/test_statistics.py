"""Means with intervals, summaries and paired differences, each against runs counted one at a time."""

from __future__ import annotations

import math
import random

import numpy as np
import polars as pl
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from tests.reference import statistics as twin

from holdfast.errors import OptionError
from holdfast.studies.statistics import LOST, MEANS, bootstrap_interval, capped, paired, summarise

NAN = math.nan
# Whole numbers of eighths: sums and differences of them are exact.
numbers = st.lists(st.integers(-800, 800).map(lambda k: k / 8), min_size=1, max_size=12)


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


@pytest.mark.parametrize("values", [[0.0, 1.0], [0.0, 1.0, 5.0], [-3.0, 0.5, 2.0, 2.0], [1.0, 10.0, 100.0, 1000.0]])
@pytest.mark.parametrize("level", [0.5, 0.8, 0.94])
def test_the_interval_is_that_of_all_samples_there_are(values, level):
    assert bootstrap_interval(values, level, draws=40_000) == pytest.approx(twin.interval(values, level))


def test_the_interval_covers_the_mean_about_as_often_as_it_says():
    rng = np.random.default_rng(1)
    covered = 0
    for _ in range(300):
        low, high = bootstrap_interval(rng.normal(0, 1, 30).tolist(), draws=400)
        covered += low <= 0 <= high
    assert 0.88 < covered / 300 < 0.98


@settings(deadline=None, max_examples=60)
@given(values=numbers, shift=st.integers(-50, 50), factor=st.sampled_from([0.25, 1.0, 8.0]))
def test_the_interval_moves_and_scales_with_the_values(values, shift, factor):
    low, high = bootstrap_interval(values, draws=99)
    assert min(values) <= low <= high <= max(values)
    moved = bootstrap_interval([shift + factor * value for value in values], draws=99)
    assert moved == pytest.approx((shift + factor * low, shift + factor * high), abs=1e-9)
    wide = bootstrap_interval(values, level=0.99, draws=99)
    assert wide[0] <= low <= high <= wide[1]


@settings(deadline=None, max_examples=30)
@given(values=numbers, data=st.data())
def test_neither_order_nor_gaps_nor_the_global_source_change_the_interval(values, data):
    expected = bootstrap_interval(values, draws=50)
    np.random.seed(data.draw(st.integers(0, 5)))
    shuffled = data.draw(st.permutations([*values, NAN, None]))
    assert bootstrap_interval(shuffled, draws=50) == expected
    assert bootstrap_interval(pl.Series(values), draws=50) == expected


@given(value=st.floats(-1e300, 1e300), n=st.integers(1, 7))
def test_equal_values_are_their_own_interval_to_the_last_bit(value, n):
    assert bootstrap_interval([value] * n, draws=20) == (value, value)


@pytest.mark.parametrize(
    ("values", "options", "match"),
    [
        ([1.0, math.inf], {}, "finite, nan or None"),
        ([1.0], {"level": 1.0}, "above 0 and below 1"),
        ([1.0], {"level": 0.0, "draws": 0}, "(?s)level.*at least 1"),
    ],
)
def test_what_has_no_interval_is_refused(values, options, match):
    with pytest.raises(OptionError, match=match):
        bootstrap_interval(values, **options)


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
            **{name: [8.0, 9.0, nan, 8.0] for name in ("memory_before", "memory_after")},
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
    assert first["kept_error"] == pytest.approx(4.75)
    assert first["kept_low"] == 0.5 and first["kept_high"] == 9.0
    assert first["clip_fraction"] == pytest.approx(0.25)
    assert first["growth_before"] == pytest.approx(0.9)
    assert first["memory_after"] == 8.5
    assert first["seconds"] == 2.0
    assert (second["solved"], second["solved_step"], second["error"]) == (1.0, 100.0, 0.25)


def runs(seed=0, count=60):
    """Rows of a grid with gaps, drawn anew for each seed."""
    rng = random.Random(seed)
    found = []
    for place in range(count):
        lost = rng.random() < 0.2
        found.append(
            {
                "lr": rng.choice([0.1, 1.0]),
                "cell": rng.choice(["gru", "lstm"]),
                "arm": ("none", "all", "head")[place % 3],
                "seed": place,
                "diverged": lost,
                "relative_error": rng.choice([NAN, 50.0]) if lost else rng.choice([0.25, 0.5, 1.5, 2.5]),
                "solved_step": rng.choice([NAN, 50.0, 100.0]),
                **{name: rng.choice([NAN, 0.25, 0.75]) for name in MEANS},
                "seconds": rng.random(),
            }
        )
    return found


@pytest.mark.parametrize("by", [["arm"], ["cell", "lr", "arm"]])
def test_a_summary_is_that_of_runs_counted_one_at_a_time(by):
    listed = runs()
    table = summarise(pl.DataFrame(listed), by)
    expected = twin.summary(listed, by)
    assert [tuple(row[name] for name in by) for row in table.to_dicts()] == list(expected)
    for row, slow in zip(table.to_dicts(), expected.values(), strict=True):
        for name, value in slow.items():
            assert row[name] == (None if value is None else pytest.approx(value)), name
        own = [one for one in listed if all(one[name] == row[name] for name in by)]
        for name in MEANS:
            assert row[name] == pytest.approx(twin.mean([one[name] for one in own]))
        assert (row["error_low"], row["error_high"]) == bootstrap_interval([twin.capped(one) for one in own])


def test_where_every_run_is_lost_there_is_no_error_to_keep_and_no_nan():
    nothing = {"diverged": True, "relative_error": NAN, "solved_step": NAN, **dict.fromkeys(MEANS, NAN), "seconds": 1.0}
    (row,) = summarise(pl.DataFrame([{"arm": "a", **nothing}] * 3), ["arm"]).to_dicts()
    assert (row["error"], row["error_low"], row["error_high"], row["diverged"]) == (2.0, 2.0, 2.0, 1.0)
    for name in ("solved_step", "kept_error", "kept_low", "kept_high", *MEANS):
        assert row[name] is None, name


def grid_of_runs():
    """Each arm with each seed, in two groups; the second group has no run of seed 2 for the reference."""
    listed = runs(seed=3, count=24)
    for place, row in enumerate(listed):
        row.update(lr=(0.1, 1.0)[place // 12], seed=place // 3 % 4)
    return [row for row in listed if not (row["lr"] == 1.0 and row["seed"] == 2 and row["arm"] == "none")]


def test_differences_are_those_of_runs_paired_one_at_a_time():
    listed = grid_of_runs()
    table = paired(pl.DataFrame(listed), ["lr"], "arm", "none")
    expected = twin.differences(listed, ["lr"], "arm", "none")
    assert [(row["lr"], row["arm"]) for row in table.to_dicts()] == list(expected)
    for row, less in zip(table.to_dicts(), expected.values(), strict=True):
        assert row["pairs"] == len(less) == (4 if row["lr"] == 0.1 else 3)
        assert row["difference"] == pytest.approx(sum(less) / len(less))
        assert (row["low"], row["high"]) == bootstrap_interval(less)
        signs = [sum(one < 0 for one in less), sum(one > 0 for one in less), less.count(0)]
        assert [row["wins"], row["losses"], row["ties"]] == signs and sum(signs) == row["pairs"]


def test_seen_from_the_other_arm_a_difference_is_turned_over():
    table = pl.DataFrame([row for row in grid_of_runs() if row["arm"] != "head"])
    (there, _), (back, _) = (paired(table, ["lr"], "arm", arm).to_dicts() for arm in ("none", "all"))
    assert there["difference"] == pytest.approx(-back["difference"])
    assert (there["wins"], there["losses"], there["ties"]) == (back["losses"], back["wins"], back["ties"])


def test_two_fields_can_be_an_arm_and_one_without_a_partner_says_so():
    table = pl.DataFrame(
        {
            "rule": ["none", "norm:1", "norm:1", "norm:1"],
            "placement": ["update", "update", "backprop", "update"],
            "seed": [0, 0, 7, 1],
            "diverged": [False, False, False, True],
            "relative_error": [0.5, 0.25, 0.5, NAN],
        }
    )
    first, second = paired(table, [], ["rule", "placement"], ["none", "update"]).to_dicts()
    told = [first[name] for name in ("rule", "placement", "pairs", "difference", "low", "high")]
    assert told == ["norm:1", "update", 1, -0.25, -0.25, -0.25]
    assert (first["wins"], first["losses"], first["ties"]) == (1, 0, 0)
    assert (second["placement"], second["pairs"], second["difference"], second["low"]) == ("backprop", 0, None, None)
    assert paired(table.head(1), [], "rule", "none").height == 0


def test_rows_that_cannot_be_compared_are_refused():
    table = pl.DataFrame(grid_of_runs())
    with pytest.raises(OptionError, match=r"(?s)'none'.*'nothing'.*an arm that was run"):
        paired(table, ["lr"], "arm", "nothing")
    with pytest.raises(OptionError, match=r"(?s)one run for each group, arm and seed.*in `by`"):
        paired(table, [], "arm", "none")
    for call in (lambda: paired(table, ["size"], "arm", "none"), lambda: summarise(table, ["size"])):
        with pytest.raises(OptionError, match="columns size"):
            call()
