"""The order in which series are drawn: that of their shapes, so that their names do not matter.

Shapes: n series, R rows of all series.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float64]

DIGITS = 9  # decimals of a shape that count: what a change of units leaves alone
CONSTANT = 1e-15  # of the level: a smaller spread is rounding


def shape_order(y_R: Floats, start_n: NDArray[np.int64], count_n: NDArray[np.int64]) -> NDArray[np.int64]:
    """Numbers of all series, ordered by what they look like and neither by their ids nor by their units.

    By rows, then observed values, then mean |y_t - y_{t-1}| and mean y_t - y_{t-1}, in units of the mean absolute
    deviation, then mean y_t. Whoever takes every tenth of them has short and long, smooth and rough series. Where all
    of that is equal, by number.

    Args:
        y_R: Values of all series, nan where missing.
        start_n: First row of each series.
        count_n: Rows of each series that may be looked at.

    Example:
        >>> y_R = np.array([1.0, 9.0, 1.0, 9.0, 1.0, 2.0, 3.0, 4.0, 7.0, 7.0])
        >>> shape_order(y_R, np.array([0, 4, 8]), np.array([4, 4, 2])).tolist()  # short, smooth, rough
        [2, 1, 0]
    """
    n, owner = len(count_n), np.repeat(np.arange(len(count_n)), count_n)
    y = y_R[np.arange(len(owner)) + np.repeat(start_n - (np.cumsum(count_n) - count_n), count_n)]
    seen_n = np.bincount(owner[np.isfinite(y)], minlength=n)
    with np.errstate(over="ignore", invalid="ignore"):  # values near the end of the range have no shape
        # from a value of the series on: a level of 1e12 would take the digits of the changes around it
        base_n = np.zeros(n)
        base_n[owner[np.isfinite(y)]] = y[np.isfinite(y)]
        y = y - base_n[owner]
        level_n = _means(y, owner, n)
        spread_n = _means(np.abs(y - level_n[owner]), owner, n)
        unit_n = np.where(spread_n > CONSTANT * np.abs(base_n), spread_n, np.inf)
        inside = owner[1:] == owner[:-1]
        step, owner = np.diff(y)[inside], owner[1:][inside]
        rise_n, rough_n = (np.round(_means(part, owner, n) / unit_n, DIGITS) for part in (step, np.abs(step)))
    return np.lexsort((base_n + level_n, rise_n, rough_n, seen_n, count_n))


def _means(values: Floats, owner: NDArray[np.int64], n: int) -> Floats:
    """Mean of the finite values of each series; 0 where there is none."""
    finite = np.isfinite(values)
    sums = np.bincount(owner[finite], weights=values[finite], minlength=n)
    return np.asarray(sums / np.maximum(np.bincount(owner[finite], minlength=n), 1))
