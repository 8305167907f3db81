"""Seasons: found where they are, and nowhere else."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import datetime

import numpy as np
import polars as pl
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import ArrayLike, NDArray
from tests.series.small import check as check_frame

from holdfast.series import Freq, SeriesStore, TableOptions, find_seasons, left_out, m4_hourly, seasons_of
from holdfast.series.seasons import autocorrelation

Rng = np.random.Generator


def store_of(series: Sequence[ArrayLike], freq: str | None = None) -> SeriesStore:
    parts = []
    for number, y in enumerate(series):
        ds = Freq.parse(freq or 1).range(datetime(2024, 1, 1) if freq else 1, len(np.asarray(y)))
        parts.append(pl.DataFrame({"unique_id": f"s{number:05d}", "ds": ds, "y": np.asarray(y, dtype=np.float64)}))
    return check_frame(pl.concat(parts), TableOptions(), horizon=1, freq=freq or 1, categories={}).store


def lengths(store: SeriesStore, given: tuple[int, ...] | None = None, holdout: int = 0) -> tuple[int, ...]:
    return tuple(season.length for season in find_seasons(store, given, holdout))


def slow_autocorrelation(y: NDArray[np.float64], window: int, max_lag: int) -> list[float]:
    """The definition, one pair after the other."""
    half, rest = window // 2, {}
    for t in range(half, len(y) - half):
        weights = {k: 0.5 if window % 2 == 0 and abs(k) == half else 1.0 for k in range(-half, half + 1)}
        seen = {k: weight for k, weight in weights.items() if np.isfinite(y[t + k])}
        if np.isfinite(y[t]) and sum(seen.values()) >= window / 2:
            rest[t] = y[t] - sum(weight * y[t + k] for k, weight in seen.items()) / sum(seen.values())
    mean = sum(rest.values()) / max(len(rest), 1)
    covariances = []
    for lag in range(max_lag + 1):
        products = [(rest[t] - mean) * (rest[t + lag] - mean) for t in rest if t + lag in rest]
        covariances.append(sum(products) / max(len(products), 1))
    return [covariance / covariances[0] if covariances[0] > 0 else 0.0 for covariance in covariances]


@settings(max_examples=40, deadline=None)
@given(
    seed=st.integers(0, 2**32),
    rows=st.integers(12, 60),
    window=st.integers(2, 12),
    missing=st.floats(0, 0.4),
    level=st.sampled_from([0.0, 1e3]),
)
def test_autocorrelation_equals_the_double_loop(
    seed: int, rows: int, window: int, missing: float, level: float
) -> None:
    rng = np.random.default_rng(seed)
    y = np.where(rng.random((2, rows)) < missing, np.nan, level + rng.normal(size=(2, rows)).cumsum(axis=1))
    fast = autocorrelation(y, window, rows // 2)
    slow = [slow_autocorrelation(row, window, rows // 2) for row in y]
    np.testing.assert_allclose(fast, slow, atol=1e-6)


def test_autocorrelation_of_a_walk_is_gone_after_the_window() -> None:
    walks = np.random.default_rng(0).normal(size=(2000, 400)).cumsum(axis=1)
    at_window = autocorrelation(walks, 20, 20)[:, 20]
    assert abs(at_window.mean()) < 0.01
    assert at_window.std() == pytest.approx(0.45 / np.sqrt(400 / 20), rel=0.1)  # the constant SPREAD


@pytest.fixture(scope="module")
def m4() -> SeriesStore:
    return check_frame(m4_hourly("train"), TableOptions(), horizon=48).store


@pytest.mark.parametrize("holdout", [0, 48, 192])
def test_m4_hourly_has_a_week(m4: SeriesStore, holdout: int) -> None:
    assert lengths(m4, (24,), holdout) == (24, 168)
    assert lengths(m4, None, holdout) == (24, 168)


def test_a_reason_says_what_was_measured(m4: SeriesStore) -> None:
    day, week = find_seasons(m4, (24,), holdout=48)
    assert day.reason == "given"
    assert "at lag 168 against" in week.reason
    assert "of 256 series" in week.reason


def sine(rng: Rng, rows: int, period: int, noise: float) -> NDArray[np.float64]:
    return np.sin(2 * np.pi * np.arange(rows) / period) + noise * rng.normal(size=rows)


def week(rng: Rng, rows: int, noise: float = 1.0) -> NDArray[np.float64]:
    return np.resize([3.0, 1, 0, 0, 1, 5, 7], rows) + noise * rng.normal(size=rows)


def passengers(rng: Rng) -> NDArray[np.float64]:
    """Twelve years of months like the airline series: growth and a season that grows with it."""
    months = [-0.09, -0.11, 0.02, -0.01, -0.01, 0.11, 0.22, 0.21, 0.07, -0.07, -0.21, -0.1]
    drift = 4.8 + 0.01 * np.arange(144) + 0.015 * rng.normal(size=144).cumsum()
    return np.exp(drift + np.tile(months, 12) + 0.02 * rng.normal(size=144))


SEASONAL = {
    "a sine": (lambda rng: [sine(rng, 500, 24, 0.1)], (24,)),
    "a sine without noise": (lambda rng: [sine(rng, 2000, 24, 0.0)], (24,)),
    "a noisy sine": (lambda rng: [sine(rng, 2000, 24, 0.5)], (24,)),
    "a sine on a trend": (lambda rng: [sine(rng, 500, 24, 0.1) + 0.05 * np.arange(500)], (24,)),
    "a week in 200 days": (lambda rng: [week(rng, 200)], (7,)),
    "airline passengers": (lambda rng: [passengers(rng)], (12,)),
    "a third of the series": (
        lambda rng: [week(rng, 200) if i % 3 == 0 else rng.normal(size=200) for i in range(30)], (7,),
    ),
    "a day and a week": (
        lambda rng: [sine(rng, 1000, 24, 0.2) * np.resize(np.repeat([1, 1, 1, 1, 1, 0.2, 0.1], 24), 1000)], (24, 168),
    ),
    "two lengths": (lambda rng: [week(rng, 200), week(rng, 30), week(rng, 400)], (7,)),
    "a level of a billion": (lambda rng: [1e9 + week(rng, 300)], (7,)),
    "values near the end of the floats": (lambda rng: [1e300 * week(rng, 300)], (7,)),
}  # fmt: skip


@pytest.mark.parametrize("seed", range(3))
@pytest.mark.parametrize(("make", "expected"), SEASONAL.values(), ids=SEASONAL.keys())
def test_a_season_is_found_and_its_multiples_are_not(make: object, expected: tuple[int, ...], seed: int) -> None:
    assert callable(make)
    assert lengths(store_of(make(np.random.default_rng(seed)))) == expected


NOT_SEASONAL = {
    "white noise": lambda rng: [rng.normal(size=1000)],
    "a random walk": lambda rng: [rng.normal(size=1000).cumsum()],
    "a long random walk": lambda rng: [rng.normal(size=20_000).cumsum()],
    "many random walks": lambda rng: list(rng.normal(size=(50, 300)).cumsum(axis=1)),
    "walks that walk together": lambda rng: list(rng.normal(size=300).cumsum() + 0.1 * rng.normal(size=(20, 300))),
    "a trend": lambda rng: [0.3 * np.arange(500) + rng.normal(size=500)],
    "a straight line": lambda rng: [0.3 * np.arange(500)],
    "growth": lambda rng: [np.exp(np.arange(300) / 50)],
    "saturation": lambda rng: [1 / (1 + np.exp(-(np.arange(500) - 250) / 30))],
    "steps": lambda rng: [np.repeat(rng.normal(size=20), 50) + 0.1 * rng.normal(size=1000)],
    "rare sales": lambda rng: [rng.poisson(0.2, size=700)],
    "a constant": lambda rng: [np.full(100, 0.1)],
    "short series": lambda rng: [rng.normal(size=rows) for rows in range(1, 24)],
    "two seasons only": lambda rng: [week(rng, 23)],
}


@pytest.mark.parametrize("seed", range(3))
@pytest.mark.parametrize("make", NOT_SEASONAL.values(), ids=NOT_SEASONAL.keys())
def test_no_season_is_invented(make: object, seed: int) -> None:
    assert callable(make)
    assert lengths(store_of(make(np.random.default_rng(seed)))) == ()


def test_a_walk_rarely_looks_seasonal() -> None:
    rng = np.random.default_rng(5)
    found = sum(bool(lengths(store_of([rng.normal(size=300).cumsum()]))) for _ in range(100))
    assert found <= 3


def test_missing_values_do_not_hide_a_season() -> None:
    rng = np.random.default_rng(0)
    y = week(rng, 300)
    y[rng.random(300) < 0.3] = np.nan
    y[250:] = np.nan
    assert lengths(store_of([y])) == (7,)


@settings(max_examples=15, deadline=None)
@given(scale=st.floats(1e-6, 1e6), shift=st.floats(-1e6, 1e6))
def test_units_do_not_matter(scale: float, shift: float) -> None:
    y = week(np.random.default_rng(1), 200)
    assert lengths(store_of([shift + scale * (y * 1e3)])) == (7,)


def test_nothing_after_the_cutoff_is_seen() -> None:
    rng = np.random.default_rng(2)
    quiet, loud = rng.normal(size=200), 20 * week(rng, 300)
    store = store_of([np.concatenate([quiet, loud])])
    assert lengths(store) == (7,)
    assert find_seasons(store, holdout=300) == find_seasons(store_of([quiet]))
    assert lengths(store, holdout=10_000) == ()


def test_usual_seasons_come_first_and_say_so() -> None:
    rng = np.random.default_rng(3)
    day, week_ = find_seasons(store_of([rng.normal(size=400)], "1h"))
    assert (day.length, day.reason) == (24, "usual for 1h data")
    assert (week_.length, week_.reason) == (168, "usual for 1h data")


def test_what_is_left_out_is_told() -> None:
    rng = np.random.default_rng(3)
    (day,) = find_seasons(store_of([rng.normal(size=335)], "1h"))
    assert day.length == 24
    assert day.reason == "usual for 1h data; left out: 168 (the longest series has 335 rows before the holdout)"
    assert lengths(store_of([rng.normal(size=400)], "1h"), holdout=65) == (24,)
    assert lengths(store_of([rng.normal(size=10)], "1h")) == (24,)


def test_a_season_longer_than_the_largest_context_is_neither_used_nor_looked_for() -> None:
    rng = np.random.default_rng(3)
    y = np.sin(2 * np.pi * np.arange(900) / 150) + rng.normal(0, 0.1, 900)
    store = store_of([y])
    assert lengths(store) == (150,)
    assert [season.length for season in find_seasons(store, (7, 160), longest=160)] == [7, 160, 150]
    assert [season.length for season in find_seasons(store, (7, 160), longest=149)] == [7]
    assert find_seasons(store, (160,), longest=149) == ()
    assert left_out(store, TableOptions(season_length=(7, 160, 170)), 149) == (
        "season 160, 170: left out, longer than the largest context of 149 steps;"
        " give --context-length 170 to feed it, with a smaller --batch-size if memory is short",
    )
    assert left_out(store, TableOptions(season_length="none"), 149) == ()
    assert left_out(store, TableOptions(), 149) == ()


@pytest.mark.parametrize("said", [1, 0, (1,), (0, 1)])
def test_a_season_of_one_step_is_no_usual_season_and_the_search_still_runs(said: int | tuple[int, ...]) -> None:
    rng = np.random.default_rng(3)
    options = TableOptions(season_length=said)
    (found,) = seasons_of(store_of([week(rng, 400)], "1h"), options, holdout=0)
    assert (found.length, found.reason.partition(":")[0]) == (7, "found")
    assert seasons_of(store_of([rng.normal(size=400)], "1h"), options, holdout=0) == ()


def test_no_season_means_no_search_either() -> None:
    store = store_of([week(np.random.default_rng(3), 400)], "1h")
    assert seasons_of(store, TableOptions(season_length="none"), holdout=0) == ()
    assert [s.length for s in seasons_of(store, TableOptions(season_length=(24, 1)), holdout=0)] == [24, 7]


def test_the_user_s_order_is_kept() -> None:
    rng = np.random.default_rng(4)
    assert lengths(store_of([rng.normal(size=400)]), (168, 24, 24)) == (168, 24)


def test_a_long_series_is_sampled_and_its_seasons_are_found() -> None:
    rng = np.random.default_rng(6)
    minutes = np.arange(300_000)
    y = np.sin(2 * np.pi * minutes / 1440) + np.sin(2 * np.pi * minutes / 10080) + 0.2 * rng.normal(size=len(minutes))
    assert lengths(store_of([y])) == (1440, 10080)
