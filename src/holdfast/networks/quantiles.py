"""Quantiles that cannot cross: which ones, how far apart, and their loss.

Shapes: B windows, F horizon steps, P raw outputs per step, Q quantiles.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from itertools import pairwise
from statistics import NormalDist

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from torch import Tensor

from holdfast.errors import OptionError, Problem

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
    def normal_gaps(self) -> list[float]:
        """Distances between neighbouring quantiles of a standard normal: the widths to start from."""
        z = [NormalDist().inv_cdf(probability) for probability in self.probabilities]
        return [upper - lower for lower, upper in pairwise(z)]

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

    def select(self, quantile_BFQ: NDArray[np.float64], probabilities: Sequence[float]) -> NDArray[np.float64]:
        """The columns of the wanted probabilities."""
        missing = [p for p in probabilities if p not in self.probabilities]
        if missing:
            raise OptionError(
                Problem(
                    "levels of the forecast",
                    f"levels that this model was fitted with: {', '.join(f'{level:g}' for level in self.levels)}",
                    f"probabilities {missing}",
                    "fit again with these --levels, or use --head gaussian or student-t, which have every level",
                )
            )
        return quantile_BFQ[..., [self.probabilities.index(p) for p in probabilities]]
