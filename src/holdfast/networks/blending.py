"""What a network's forecast is mixed with: other forecasts and their errors, as far as held-out windows say.

Shapes: B windows, F horizon steps, Q quantiles, M forecasts that are mixed, L interval levels.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from statistics import NormalDist

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

Floats = NDArray[np.float64]

MIXED = ("network", "exponential smoothing", "naive")  # M, in this order
ERROR_LEVELS = np.arange(1, 100) / 100  # L: shares of the errors whose sizes are kept
WALK = np.sqrt(np.pi / 2)  # deviation over mean size of normal steps


@dataclass(frozen=True)
class Others:
    """What a network's forecasts of some windows are mixed with, in the units of the data.

    Attributes:
        smoothed_BF: Forecasts by exponential smoothing.
        naive_BF: The best naive forecast.
        scale_B: Mean error of the seasonal naive forecast in the history.

    Example:
        >>> steps_BF = np.array([[8.0, 8.5], [3.0, 3.0]])
        >>> Others(steps_BF, steps_BF - 1, scale_B=np.array([0.5, 2.0])).some(slice(1, 2)).naive_BF.tolist()
        [[2.0, 2.0]]
    """

    smoothed_BF: Floats
    naive_BF: Floats
    scale_B: Floats

    def some(self, rows: slice) -> Others:
        """Those of some windows."""
        return Others(self.smoothed_BF[rows], self.naive_BF[rows], self.scale_B[rows])


class Blend(nn.Module):
    """The weights of the network and of other forecasts, and what is known of the errors of the others.

    The intervals of a mixture are mixed like its forecasts: the network's share of a half width is the network's, the
    rest is scale_b growth_k size_p, the size of the others' errors on held-out windows; all are `width` times as wide.
    A new one leaves forecasts as they are.

    Args:
        horizon: F.

    Example:
        >>> blend = Blend(horizon=1)
        >>> blend.set((0.25, 0.75, 0.0), width=2.0)
        >>> one = np.ones((1, 1))
        >>> point_BF, border_BFQ = blend(
        ...     4 * one, np.array([[[3.0, 5.0]]]), (0.1, 0.9), Others(8 * one, 6 * one, scale_B=np.array([1.0]))
        ... )
        >>> point_BF.tolist(), border_BFQ.round(2).tolist()
        ([[7.0]], [[[4.09, 9.91]]])

    Reference: averages of quantiles: Lichtendahl, Grushka-Cockayne and Winkler, Is it better to average probabilities
    or quantiles? (2013).
    """

    weight_M: Tensor
    width: Tensor
    growth_F: Tensor
    size_L: Tensor

    def __init__(self, horizon: int) -> None:
        super().__init__()
        self.register_buffer("weight_M", torch.tensor([1.0, 0.0, 0.0], dtype=torch.float64))
        self.register_buffer("width", torch.ones((), dtype=torch.float64))
        growth_F, size_L = random_walk(horizon)
        self.register_buffer("growth_F", torch.from_numpy(growth_F))
        self.register_buffer("size_L", torch.from_numpy(size_L))

    def set(self, weights: Sequence[float] = (1.0, 0.0, 0.0), width: float = 1.0) -> None:
        """Take weights and a width; without arguments, leave forecasts as they are.

        Args:
            weights: Of `MIXED`, at least 0, with the sum 1.
            width: Factor of the distance between a border and the point forecast, above 0.
        """
        self.weight_M.copy_(torch.tensor(weights, dtype=torch.float64))
        self.width.fill_(width)

    def learn(self, growth_F: Floats, size_L: Floats) -> None:
        """Take what the errors of the other forecasts are like.

        Args:
            growth_F: Size of an error at each step of the horizon, in units of the window's scale.
            size_L: The largest error among each share `ERROR_LEVELS` of all, in units of that.
        """
        self.growth_F.copy_(torch.from_numpy(growth_F))
        self.size_L.copy_(torch.from_numpy(size_L))

    @property
    def needs(self) -> tuple[bool, bool]:
        """Whether other forecasts are needed, and whether exponential smoothing is one of them."""
        return float(self.weight_M[0]) < 1, float(self.weight_M[1]) > 0

    def forward(
        self, point_BF: Floats, border_BFQ: Floats, probabilities: Sequence[float], others: Others | None
    ) -> tuple[Floats, Floats]:
        """Point forecasts and borders of the mixture, in the units of the data.

        Args:
            point_BF: The network's.
            border_BFQ: The network's.
            probabilities: Q, of the borders.
            others: What it is mixed with; may be missing where nothing `needs` it.
        """
        (own, smoothed, naive), width = self.weight_M.tolist(), float(self.width)
        if others is None or own == 1:
            return point_BF, border_BFQ if width == 1 else _around(point_BF, width * _away(point_BF, border_BFQ))
        mixed_BF = own * point_BF + smoothed * others.smoothed_BF + naive * others.naive_BF
        growth_F, size_L = self.growth_F.numpy(force=True), self.size_L.numpy(force=True)
        half_BFQ = (others.scale_B[:, None] * growth_F)[..., None] * _signed(size_L, probabilities)
        return mixed_BF, _around(mixed_BF, width * (own * _away(point_BF, border_BFQ) + (1 - own) * half_BFQ))


def random_walk(horizon: int) -> tuple[Floats, Floats]:
    """Growth [F] and sizes [L] of errors where nothing is known of them: those of a random walk.

    Example:
        >>> growth_F, size_L = random_walk(4)
        >>> growth_F.round(2).tolist(), round(float(size_L[79]), 2)
        ([1.0, 1.41, 1.73, 2.0], 1.61)
    """
    sizes = [WALK * NormalDist().inv_cdf((1 + level) / 2) for level in ERROR_LEVELS]
    return np.sqrt(np.arange(1.0, horizon + 1)), np.array(sizes)


def _signed(size_L: Floats, probabilities: Sequence[float]) -> Floats:
    """Distances [Q] of quantiles from the middle; beyond the last level they grow as those of a normal distribution."""
    level_Q = np.abs(2 * np.array(probabilities) - 1)
    size_Q = np.interp(level_Q, [0.0, *ERROR_LEVELS], [0.0, *size_L])
    last = NormalDist().inv_cdf((1 + ERROR_LEVELS[-1]) / 2)
    tail_Q = [NormalDist().inv_cdf((1 + level) / 2) / last if level > ERROR_LEVELS[-1] else 1.0 for level in level_Q]
    signed_Q: Floats = np.where(np.array(probabilities) < 0.5, -1.0, 1.0) * size_Q * np.array(tail_Q)
    return signed_Q


def _away(point_BF: Floats, border_BFQ: Floats) -> Floats:
    away_BFQ: Floats = border_BFQ - point_BF[..., None]
    return away_BFQ


def _around(point_BF: Floats, away_BFQ: Floats) -> Floats:
    border_BFQ: Floats = point_BF[..., None] + away_BFQ
    return border_BFQ
