"""Outages at the end of what a forecast may see: the newest observed row of each row, and values to go on with.

Shapes: R rows of all series, one after the other.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

Ints = NDArray[np.int64]
Floats = NDArray[np.float64]


def newest_observed(y_R: Floats, first_R: Ints) -> Ints:
    """The newest observed row at or before each row of the same series.

    Args:
        y_R: Values, nan where missing.
        first_R: First row of the series that each row belongs to.

    Returns:
        Row numbers; `first - 1` as long as nothing was observed [R].

    Example:
        >>> newest_observed(np.array([np.nan, 5.0, np.nan, np.nan, 7.0]), np.array([0, 0, 0, 3, 3])).tolist()
        [-1, 1, 1, 2, 4]
    """
    row_R = np.arange(len(y_R))
    seen_R = np.where(np.isfinite(y_R), row_R, -1)
    return np.asarray(np.maximum(np.maximum.accumulate(seen_R), first_R - 1))


def bridge(y_R: Floats, first_R: Ints, newest_R: Ints, seasons: Sequence[int]) -> Floats:
    """Values for missing rows: the season before the newest observed row, again and again.

        y_t = y_{t - m ceil((t - r) / m)}

    with r the newest observed row and m the longest season for which that value was observed; the value of r itself
    where there is none.

    Args:
        y_R: Values, nan where missing.
        first_R: First row of the series that each row belongs to.
        newest_R: As `newest_observed` gives it.
        seasons: Season lengths in steps.

    Returns:
        The values, those of missing rows filled in; nan before the first observed row [R].

    Example:
        >>> y_R, first_R = np.array([1.0, 2.0, 3.0, np.nan, np.nan, np.nan]), np.zeros(6, dtype=np.int64)
        >>> bridge(y_R, first_R, newest_observed(y_R, first_R), seasons=(2,)).tolist()
        [1.0, 2.0, 3.0, 2.0, 3.0, 2.0]
    """
    filled_R = y_R.copy()
    missing = np.flatnonzero(~np.isfinite(y_R) & (newest_R >= first_R))
    for season in sorted({1, *seasons}, reverse=True):
        age = missing - newest_R[missing]
        source = missing - season * -(-age // season)
        inside = source >= first_R[missing]
        value = np.where(inside, y_R[np.where(inside, source, 0)], np.nan)
        filled_R[missing] = value
        missing = missing[~np.isfinite(value)]
    return np.asarray(filled_R)
