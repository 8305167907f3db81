"""Which windows each step trains on: a pure function of (seed, step), so that resuming needs no state."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property

import numpy as np
from numpy.typing import NDArray

MOST_STEPS = 4096  # of context; there are fewer windows of longer ones, so that memory and time stay as they are here


def affordable(windows: int, steps: int) -> int:
    """Windows to look at: as many as wanted, in proportion fewer where each has more than 4096 steps; at least 1.

    Args:
        windows: Wanted.
        steps: Of context, each.

    Example:
        >>> affordable(1024, 384), affordable(1024, 16384)
        (1024, 256)
    """
    return max(windows * MOST_STEPS // max(steps, MOST_STEPS), 1)


@dataclass(frozen=True)
class Sampler:
    """Draws windows: a series uniformly, then a cutoff uniformly inside the range of that series.

    The random numbers are those of a counter-based generator (Philox; Salmon et al. 2011) whose counter is the step,
    so step k draws the same windows whatever was drawn before it.

    Attributes:
        first_n: First cutoff that may be drawn, per series.
        last_n: Last cutoff that may be drawn, per series; a series with `last < first` is never drawn.
        batch_size: B, windows per step.
        seed: Any whole number of at least 0.
        order: Numbers of all series in the order that they are counted in when one is drawn; None: as they are.

    Example:
        >>> import numpy as np
        >>> sampler = Sampler(np.array([3, 5]), np.array([9, 4]), batch_size=4, seed=0)
        >>> series, cutoff = sampler.draw(step=7)
        >>> series.tolist(), bool(((cutoff >= 3) & (cutoff <= 9)).all())
        ([0, 0, 0, 0], True)
        >>> np.array_equal(sampler.draw(step=7)[1], cutoff)
        True
    """

    first_n: NDArray[np.int64]
    last_n: NDArray[np.int64]
    batch_size: int
    seed: int
    order: NDArray[np.int64] | None = None

    @cached_property
    def _drawable(self) -> NDArray[np.int64]:
        drawable_n = self.last_n >= self.first_n
        return np.flatnonzero(drawable_n) if self.order is None else self.order[drawable_n[self.order]]

    def draw(self, step: int) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
        """Series numbers and cutoffs of one step, B each."""
        generator = np.random.Generator(np.random.Philox(key=self.seed, counter=[0, 0, 0, step]))
        series = self._drawable[generator.integers(len(self._drawable), size=self.batch_size)]
        span = self.last_n[series] - self.first_n[series] + 1
        return series, self.first_n[series] + generator.integers(span)
