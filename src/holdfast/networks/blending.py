"""What a network's forecast is mixed with: forecasts of another kind, as far as they were better on held-out windows.

Shapes: B windows, F horizon steps, Q quantiles.
"""

from __future__ import annotations

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

Floats = NDArray[np.float64]


class Blend(nn.Module):
    """The share of the network in a forecast, and how wide its intervals must be for that to hold.

    A new one leaves forecasts as they are.

    Example:
        >>> blend = Blend()
        >>> blend.set(share=0.25, width=2.0)
        >>> point_BF, border_BFQ = blend(np.array([[4.0]]), np.array([[[3.0, 5.0]]]), other_BF=np.array([[8.0]]))
        >>> point_BF.tolist(), border_BFQ.tolist()
        ([[7.0]], [[[5.0, 9.0]]])
    """

    share: Tensor
    width: Tensor

    def __init__(self) -> None:
        super().__init__()
        self.register_buffer("share", torch.ones((), dtype=torch.float64))
        self.register_buffer("width", torch.ones((), dtype=torch.float64))

    def set(self, share: float = 1.0, width: float = 1.0) -> None:
        """Take what was measured; without arguments, leave forecasts as they are.

        Args:
            share: Of the network in the point forecast, from 0 to 1.
            width: Factor of the distance between a border and the point forecast, above 0.
        """
        self.share.fill_(share)
        self.width.fill_(width)

    def forward(self, point_BF: Floats, border_BFQ: Floats, other_BF: Floats | None) -> tuple[Floats, Floats]:
        """Point forecasts and borders of the mixture, in the units of the data.

        Args:
            point_BF: The network's.
            border_BFQ: The network's.
            other_BF: What it is mixed with; only needed for a share below 1.
        """
        share, width = float(self.share), float(self.width)
        mixed_BF = point_BF if other_BF is None or share == 1 else share * point_BF + (1 - share) * other_BF
        if share == width == 1:
            return mixed_BF, border_BFQ
        return mixed_BF, mixed_BF[..., None] + width * (border_BFQ - point_BF[..., None])
