"""Wider intervals where little is known: after an outage, and for a history shorter than the context.

Shapes: B windows, K sizes on a grid of powers of two.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

SIZES = tuple(2**k for k in range(13))  # rows


class Widening(nn.Module):
    """How much wider the intervals of a window are than the network says.

    The factor is that of the outage at the end of the window times that of a short history, each interpolated between
    the sizes that it was measured at, along the logarithm of the size. Beyond the longest outage measured it grows
    with the square root of the outage, as the error of a random walk does.

    Example:
        >>> widening = Widening()
        >>> widening.after_K[:3] = torch.tensor([1.5, 2.0, 2.0])
        >>> widening(age_B=torch.tensor([0, 1, 2]), rows_B=torch.tensor([9000, 9000, 9000])).tolist()
        [1.0, 1.5, 2.0]
    """

    after_K: Tensor
    short_K: Tensor

    def __init__(self) -> None:
        super().__init__()
        self.register_buffer("after_K", torch.ones(len(SIZES), dtype=torch.float64))
        self.register_buffer("short_K", torch.ones(len(SIZES), dtype=torch.float64))

    def forward(self, age_B: Tensor, rows_B: Tensor) -> Tensor:
        """Factor of each window, at least 1.

        Args:
            age_B: Rows since the newest observed one; 0 without an outage.
            rows_B: Rows of history up to the newest observed one.
        """
        beyond_B = (age_B.double() / SIZES[-1]).clamp(min=1).sqrt()
        after_B = torch.where(age_B > 0, beyond_B * _between(self.after_K, age_B), 1.0)
        return after_B * _between(self.short_K, rows_B)


def _between(factor_K: Tensor, size_B: Tensor) -> Tensor:
    """Linear interpolation along log2 of the size; the last factor beyond the last size."""
    place_B = size_B.clamp(1, SIZES[-1]).double().log2()
    below_B = place_B.floor().long().clamp(max=len(SIZES) - 2)
    share_B = place_B - below_B
    return factor_K[below_B] * (1 - share_B) + factor_K[below_B + 1] * share_B
