"""Which rows may be learned from: the end of each series is held out for validation.

Shapes: n series, V validation windows, F horizon steps, T context steps.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from holdfast.windows import Sampler, affordable

LEAST_VALIDATED = 256  # windows; with fewer series, long ones validate from several cutoffs: chance would choose
MOST_VALIDATED = 1024  # windows; more of them, evenly spaced, would cost time and change the choice of weights little
ROUNDING = 1e-15  # of the level: a spread below it is rounding
HELD_OUT_HORIZONS, HELD_OUT_SHARE = 3, 5  # of each series: so many horizons, as far as they are a fifth of its rows
LONG_SHARE = 10  # with few series, up to a tenth of their rows


@dataclass(frozen=True)
class Split:
    """Time-ordered split of every series.

    Attributes:
        until_n: First row that may not be learned from.
        first_n: First cutoff to train on.
        last_n: Last cutoff to train on; below `first_n` where a series is too short to train on.
        validated_V: Series number of each validation window.
        cutoff_V: Its cutoff, `until_n` or later.
        order: Series numbers in the order in which series are drawn and validated.

    Example:
        >>> split_series(np.array([2]), context_length=4, horizon=2).trainable
        False
    """

    until_n: NDArray[np.int64]
    first_n: NDArray[np.int64]
    last_n: NDArray[np.int64]
    validated_V: NDArray[np.int64]
    cutoff_V: NDArray[np.int64]
    order: NDArray[np.int64]

    def sampler(self, batch_size: int, seed: int) -> Sampler:
        """What draws the windows to train on.

        Args:
            batch_size: Windows per step.
            seed: Any whole number of at least 0.
        """
        return Sampler(self.first_n, self.last_n, batch_size, seed, self.order)

    @property
    def trainable(self) -> bool:
        """Whether any window can be trained on."""
        return bool((self.last_n >= self.first_n).any())


def split_series(
    length_n: NDArray[np.int64], context_length: int, horizon: int, order: NDArray[np.int64] | None = None
) -> Split:
    """Hold out the end of each series, and say which cutoffs are left to train on.

    A series of more than F + 1 rows trains up to row until and validates on the rows behind it; a shorter one does
    neither and is only forecast. The rows held out are the last F, and more where that leaves four fifths of the
    series: up to 3 F; up to a tenth of it where there would be fewer than 256 validation windows (in proportion fewer
    of contexts longer than 4096 steps). Cutoffs are evenly spaced in them, at least three where more than F is held
    out. Training windows end at `until`; where less than a whole horizon fits before it, what is left of the horizon is
    learned from. Contexts are whole where the series is long enough, else at least half of what there is.

    Args:
        length_n: Rows of each series.
        context_length: T.
        horizon: F.
        order: Series numbers in the order to draw and validate them in; None: as they are.

    Example:
        >>> split = split_series(np.array([100, 30, 9]), context_length=20, horizon=10)
        >>> split.until_n.tolist(), split.first_n.tolist(), split.last_n.tolist(), split.validated_V.tolist()
        ([80, 20, 9], [20, 5, 1], [70, 10, 0], [0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 1])
        >>> split = split_series(np.array([5000]), context_length=20, horizon=10)
        >>> split.until_n.tolist(), len(split.cutoff_V), split.cutoff_V[[0, 1, -1]].tolist()
        ([4500], 256, [4500, 4502, 4990])
    """
    usable_n = length_n > horizon + 1
    least, most = (affordable(count, context_length) for count in (LEAST_VALIDATED, MOST_VALIDATED))
    each = -(-least // max(int(usable_n.sum()), 1))
    spare_n = np.clip(length_n // HELD_OUT_SHARE - horizon, 0, (HELD_OUT_HORIZONS - 1) * horizon)
    if each > 1:
        spare_n = np.maximum(spare_n, length_n // LONG_SHARE - horizon)
    each = max(each, HELD_OUT_HORIZONS)
    until_n = np.where(usable_n, length_n - horizon - spare_n, length_n)
    whole_n = until_n - horizon
    last_n = np.where(usable_n, np.where(whole_n >= 1, whole_n, until_n - 1), 0)
    first_n = np.minimum(context_length, np.maximum(last_n // 2, 1))
    order = np.arange(len(length_n)) if order is None else order
    usable = order[usable_n[order]]
    cutoffs = [_spaced(spare, each) + until for spare, until in zip(spare_n[usable], until_n[usable], strict=True)]
    series_V = np.repeat(usable, [len(each) for each in cutoffs])
    cutoff_V = np.concatenate([np.zeros(0, dtype=np.int64), *cutoffs])
    chosen = _spaced(len(series_V) - 1, most)
    return Split(until_n, first_n, last_n, series_V[chosen], cutoff_V[chosen], order)


def _spaced(last: int, most: int) -> NDArray[np.int64]:
    """At most so many of the whole numbers from 0 to `last`, evenly spaced, both ends among them; none below 0."""
    return np.unique(np.linspace(0, last, min(last + 1, most)).round().astype(np.int64))


def error_scales(
    y_R: NDArray[np.float64], start_n: NDArray[np.int64], until_n: NDArray[np.int64], season: int
) -> NDArray[np.float64]:
    """In-sample mean absolute error of the seasonal naive forecast, per series (the scale of MASE).

    mean over t of |y_t - y_{t-m}| inside the rows before `until` (Hyndman and Koehler 2006). Where a series has no
    such pair or repeats itself to a millionth of its spread: the spread, its mean absolute deviation from the mean; of
    a constant series its mean absolute value, and 1 where that is 0 too.

    Args:
        y_R: Values of all series, nan where missing, in the units of the data.
        start_n: First row of each series.
        until_n: Rows of each series to use.
        season: m, in steps.

    Returns:
        One scale above 0 per series, in the units of the data.

    Example:
        >>> error_scales(np.array([1.0, 3.0, 2.0, 5.0]), np.array([0]), np.array([4]), season=2).tolist()
        [1.5]
    """
    row, owner = _rows(start_n, until_n)
    level_n = _means(np.abs(y_R[row]), owner, len(start_n))
    # deviations from a value of the series: a level of 1e12 would take the digits of the changes around it
    finite = np.isfinite(y_R[row])
    base_n = np.zeros(len(start_n))
    base_n[owner[finite]] = y_R[row[finite]]
    above = y_R[row] - base_n[owner]
    spread_n = _means(np.abs(above - _means(above, owner, len(start_n))[owner]), owner, len(start_n))
    row, owner = _rows(start_n, np.maximum(until_n - season, 0))
    error_n = _means(np.abs(y_R[row + season] - y_R[row]), owner, len(start_n))
    fallback_n = np.where(spread_n > ROUNDING * level_n, spread_n, np.where(level_n > 0, level_n, 1.0))
    # below this share of the spread an error is rounding: dividing by it would let one series drown the others
    return np.where(error_n > 1e-6 * fallback_n, error_n, fallback_n)


def _rows(start_n: NDArray[np.int64], count_n: NDArray[np.int64]) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """The first `count` rows of each series, one series after the other, and which series each belongs to."""
    owner = np.repeat(np.arange(len(count_n)), count_n)
    before_n = np.cumsum(count_n) - count_n
    return np.arange(len(owner)) + (start_n - before_n)[owner], owner


def _means(values: NDArray[np.float64], owner: NDArray[np.int64], n_series: int) -> NDArray[np.float64]:
    """Mean of the finite values of each series; 0 where there is none."""
    finite = np.isfinite(values)
    count_n = np.bincount(owner[finite], minlength=n_series)
    return np.bincount(owner[finite], weights=values[finite], minlength=n_series) / np.maximum(count_n, 1)
