"""The order of series by shape: it follows the series, not their numbers and not their units."""

from __future__ import annotations

import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from holdfast.series import shape_order

Floats = NDArray[np.float64]


def laid_out(series: list[Floats], counts: list[int] | None = None) -> NDArray[np.int64]:
    """The order of these series, each followed by rows that must not be looked at."""
    padded = [np.append(y, [1e9, -1e9]) for y in series]
    start_n = np.cumsum([0, *map(len, padded[:-1])])
    return shape_order(np.concatenate(padded), start_n, np.array(counts or [len(y) for y in series]))


def slow_key(y: Floats) -> tuple[float, ...]:
    seen = [v for v in y.tolist() if np.isfinite(v)]
    level = sum(seen) / max(len(seen), 1)
    spread = sum(abs(v - level) for v in seen) / max(len(seen), 1)
    steps = [b - a for a, b in zip(y.tolist(), y.tolist()[1:], strict=False) if np.isfinite(a) and np.isfinite(b)]
    means = [sum(part) / max(len(part), 1) for part in ([abs(step) for step in steps], steps)]
    unit = spread if spread > 1e-9 * abs(level) else float("inf")
    return (len(y), len(seen), *(mean / unit for mean in means), level)


def some_series(seed: int) -> list[Floats]:
    rng = np.random.default_rng(seed)
    found = [rng.normal(3, 1, int(rng.integers(0, 9))) for _ in range(12)]
    for y in found[::3]:
        y[rng.random(len(y)) < 0.3] = np.nan
    return [*found, np.full(4, 7.0), np.full(4, np.nan), np.array([1.0, 2.0]), np.array([2.0, 1.0])]


@settings(max_examples=50, deadline=None)
@given(st.integers(0, 2**32))
def test_the_order_is_that_of_the_keys_one_series_at_a_time(seed: int) -> None:
    series = some_series(seed)
    order = laid_out(series)
    assert sorted(order.tolist()) == list(range(len(series)))
    keys = [np.round(slow_key(series[i]), 7).tolist() for i in order]
    assert keys == sorted(keys)


@settings(max_examples=50, deadline=None)
@given(st.integers(0, 2**32), st.integers(-20, 20))
def test_numbers_and_units_do_not_matter(seed: int, exponent: int) -> None:
    series = some_series(seed)
    shuffle = np.random.default_rng(seed).permutation(len(series))
    by_shape = [series[i] for i in laid_out(series)]
    again = [series[shuffle[i]] for i in laid_out([series[i] for i in shuffle])]
    scaled = [series[i] for i in laid_out([y * 2.0**exponent for y in series])]
    for other in (again, scaled):
        for one, two in zip(by_shape, other, strict=True):
            np.testing.assert_array_equal(one, two)


def test_rows_that_may_not_be_looked_at_do_not_matter() -> None:
    rng = np.random.default_rng(0)
    series = [rng.normal(size=20) for _ in range(6)]
    known = laid_out([y[:15] for y in series])
    assert laid_out(series, [15] * 6).tolist() == known.tolist()
