"""Quantiles that cannot cross: which ones, how far apart, their loss, and others between and beyond them.

Shapes: B windows, F horizon steps, P raw outputs per step, Q quantiles, K wanted quantiles.
"""

from __future__ import annotations

import math
from bisect import bisect_left
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cached_property
from itertools import pairwise
from statistics import NormalDist

import torch
import torch.nn.functional as F
from torch import Tensor

UNIT_SOFTPLUS = math.log(math.e - 1)  # softplus(UNIT_SOFTPLUS) = 1


def probabilities_of(levels: Sequence[float]) -> tuple[float, ...]:
    """Probabilities of the interval borders and the median, in rising order.

    Args:
        levels: Interval levels in percent, above 0 and below 100.

    Example:
        >>> probabilities_of((80, 95))
        (0.025, 0.1, 0.5, 0.9, 0.975)
    """
    lower = sorted(round((100 - level) / 200, 12) for level in set(levels))
    return (*lower, 0.5, *(round(1 - probability, 12) for probability in reversed(lower)))


@dataclass(frozen=True)
class QuantileSteps:
    """Non-crossing quantiles: a median, and positive steps outwards from it.

    Attributes:
        levels: Interval levels in percent.

    Example:
        >>> steps = QuantileSteps((80.0,))
        >>> steps.spread(torch.tensor([[5.0]]), torch.tensor([[1.0]]), torch.zeros(1, 1, 3)).tolist()
        [[[3.71844..., 5.0, 6.28155...]]]
    """

    levels: tuple[float, ...]

    @cached_property
    def probabilities(self) -> tuple[float, ...]:
        """Those of the interval borders and the median, in rising order."""
        return probabilities_of(self.levels)

    @cached_property
    def normal_quantiles(self) -> list[float]:
        """z, the same quantiles of a standard normal."""
        return [NormalDist().inv_cdf(probability) for probability in self.probabilities]

    @cached_property
    def normal_gaps(self) -> list[float]:
        """Distances between neighbouring quantiles of a standard normal: the widths to start from."""
        return [upper - lower for lower, upper in pairwise(self.normal_quantiles)]

    @property
    def middle(self) -> int:
        """Which quantile is the median."""
        return len(self.probabilities) // 2

    def spread(self, median_BF: Tensor, unit_BF: Tensor, raw_BFP: Tensor) -> Tensor:
        """All quantiles [B, F, Q] around the median: the k-th step is unit * gap_k * softplus(raw_k)."""
        middle = self.middle
        gaps_P = raw_BFP.new_tensor([*self.normal_gaps[:middle], 0.0, *self.normal_gaps[middle:]])
        step_BFP = F.softplus(raw_BFP + UNIT_SOFTPLUS) * gaps_P * unit_BF[..., None]
        below_BFP = step_BFP[..., :middle].flip(-1).cumsum(-1).flip(-1)
        above_BFP = step_BFP[..., middle + 1 :].cumsum(-1)
        median_BF1 = median_BF[..., None]
        return torch.cat([median_BF1 - below_BFP, median_BF1, median_BF1 + above_BFP], -1)

    def pinball(self, quantile_BFQ: Tensor, value_BF: Tensor) -> Tensor:
        """Twice the pinball loss (Koenker and Bassett 1978), averaged over the quantiles, plus that of the median.

        The median counts again because it is also the point forecast; twice its pinball loss is the absolute error.
        """
        probability_Q = quantile_BFQ.new_tensor(self.probabilities)
        error_BFQ = value_BF[..., None] - quantile_BFQ
        pinball_BFQ = 2 * torch.maximum(probability_Q * error_BFQ, (probability_Q - 1) * error_BFQ)
        return pinball_BFQ.mean(-1) + pinball_BFQ[..., self.middle]

    def at(self, quantile_BFQ: Tensor, probabilities: Sequence[float], restore: Callable[[Tensor], Tensor]) -> Tensor:
        """Quantiles [B, F, K] at any probabilities, in the units of the data; fitted ones are returned unchanged.

        Between two fitted quantiles, the new one is linear in z, the quantile of a standard normal. Beyond the
        outermost, the line through the last two continues, so that the tails are normal.

        Args:
            quantile_BFQ: The fitted quantiles.
            probabilities: Above 0 and below 1.
            restore: Increasing function from the scale of the quantiles to the units of the data.

        Example:
            >>> steps, fitted_BFQ = QuantileSteps((80.0,)), torch.tensor([[[1.0, 2.0, 4.0]]])
            >>> steps.at(fitted_BFQ, probabilities_of((50, 80, 99)), torch.Tensor.double).tolist()
            [[[-0.00993..., 1.0, 1.47369..., 2.0, 3.05261..., 4.0, 6.01986...]]]
        """
        restored_BFQ = restore(quantile_BFQ)
        return torch.stack([self._at(quantile_BFQ, restored_BFQ, p, restore) for p in probabilities], -1)

    def _at(
        self, quantile_BFQ: Tensor, restored_BFQ: Tensor, probability: float, restore: Callable[[Tensor], Tensor]
    ) -> Tensor:
        z, after = self.normal_quantiles, bisect_left(self.probabilities, probability)
        if probability in self.probabilities:
            return restored_BFQ[..., after]
        first = min(max(after - 1, 0), len(z) - 2)
        share = (NormalDist().inv_cdf(probability) - z[first]) / (z[first + 1] - z[first])
        lower_BF, upper_BF = quantile_BFQ[..., first : first + 2].double().unbind(-1)
        return restore(lower_BF + share * (upper_BF - lower_BF)).clamp(  # rounding alone can cross a neighbour
            restored_BFQ[..., after - 1] if after else None, restored_BFQ[..., after] if after < len(z) else None
        )
