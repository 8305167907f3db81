"""Window normalisation: every window in its own level and spread, whatever the units of the data.

Shapes: B windows, T context steps.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

SMALLEST_SPREAD = 1e-9  # of the level: below it a window counts as constant (double precision carries 16 digits)


@dataclass(frozen=True)
class WindowScale:
    """The level and spread of each window: z = (y - loc) / scale.

    Attributes:
        loc_B: Level, in the units of the data (float64).
        scale_B: Spread, in the units of the data, above 0 (float64).

    Example:
        >>> scale = WindowScale(torch.tensor([10.0]), torch.tensor([2.0]))
        >>> scale.normalise(torch.tensor([[14.0]])).tolist(), scale.restore(torch.tensor([[2.0]])).tolist()
        ([[2.0]], [[14.0]])
    """

    loc_B: Tensor
    scale_B: Tensor

    def normalise(self, y: Tensor) -> Tensor:
        """(y - loc) / scale over any trailing dimensions, as float32 for the network."""
        shape = (-1,) + (1,) * (y.dim() - 1)
        return ((y - self.loc_B.view(shape)) / self.scale_B.view(shape)).float()

    def restore(self, z: Tensor) -> Tensor:
        """Loc + scale z over any trailing dimensions, as float64 in the units of the data."""
        shape = (-1,) + (1,) * (z.dim() - 1)
        return self.loc_B.view(shape) + self.scale_B.view(shape) * z.double()


def masked_mean(values: Tensor, mask: Tensor, dim: int = -1) -> Tensor:
    """Mean of the values where `mask` holds; 0 where it holds nowhere.

    Example:
        >>> masked_mean(torch.tensor([[1.0, 2.0, 9.0]]), torch.tensor([[True, True, False]])).tolist()
        [1.5]
    """
    return torch.where(mask, values, 0.0).sum(dim) / mask.sum(dim).clamp(min=1)


def window_scale(y_BT: Tensor, mask_BT: Tensor, recent: int) -> WindowScale:
    """Level and spread of each window.

    loc is the mean of the observed values among the last `recent` steps (of all where none is observed there),
    scale the mean absolute deviation from loc over the whole context. A constant window gets the size of its level,
    or 1 at level 0, so that z is always finite.

    Args:
        y_BT: Context values (float64), 0 where missing.
        mask_BT: True where observed.
        recent: Steps that make up the level, usually the longest season.

    Example:
        >>> y_BT = torch.tensor([[0.0, 4.0, 0.0, 4.0], [7.0, 7.0, 7.0, 7.0]], dtype=torch.float64)
        >>> scale = window_scale(y_BT, torch.ones(2, 4, dtype=torch.bool), recent=2)
        >>> scale.loc_B.tolist(), scale.scale_B.tolist()
        ([2.0, 7.0], [2.0, 7.0])
    """
    recent_mask_BT = mask_BT[:, -recent:]
    loc_B = torch.where(
        recent_mask_BT.any(1), masked_mean(y_BT[:, -recent:], recent_mask_BT), masked_mean(y_BT, mask_BT)
    )
    spread_B = masked_mean((y_BT - loc_B[:, None]).abs(), mask_BT)
    level_B = torch.where(loc_B == 0, 1.0, loc_B.abs())
    return WindowScale(loc_B, torch.where(spread_B > SMALLEST_SPREAD * loc_B.abs(), spread_B, level_B))
