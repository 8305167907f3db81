"""Window normalisation: every window in its own level and spread, whatever the units of the data.

Shapes: B windows, T context steps.
"""

from __future__ import annotations

from dataclasses import dataclass, field

import torch
from torch import Tensor

SMALLEST_SPREAD = 1e-15  # of the level: less is rounding, and the window counts as constant


@dataclass(frozen=True)
class WindowScale:
    """The level and spread of each window: z = ((y - base) - offset) / scale.

    The level comes in two parts, because a level of 1e12 leaves no digits for the changes around it: `base` is one of
    the values, from which the others differ by numbers that floating point holds exactly.

    Attributes:
        base_B: A value of the window, in the units of the data (float64).
        scale_B: Spread, in the units of the data, above 0 (float64).
        offset_B: What the level has above the base, in the units of the data (float64).

    Example:
        >>> scale = WindowScale(torch.tensor([10.0]), torch.tensor([2.0]))
        >>> scale.normalise(torch.tensor([[14.0]])).tolist(), scale.restore(torch.tensor([[2.0]])).tolist()
        ([[2.0]], [[14.0]])
    """

    base_B: Tensor
    scale_B: Tensor
    offset_B: Tensor = field(default_factory=lambda: torch.zeros((), dtype=torch.float64))

    @property
    def loc_B(self) -> Tensor:
        """Level, in the units of the data (float64)."""
        return self.base_B + self.offset_B

    def normalise(self, y: Tensor) -> Tensor:
        """((y - base) - offset) / scale over any trailing dimensions, as float32 for the network."""
        base, scale, offset = (part.view((-1,) + (1,) * (y.dim() - 1)) for part in self._parts)
        return (((y - base) - offset) / scale).float()

    def restore(self, z: Tensor) -> Tensor:
        """Base + (offset + scale z) over any trailing dimensions, as float64 in the units of the data."""
        base, scale, offset = (part.view((-1,) + (1,) * (z.dim() - 1)) for part in self._parts)
        return base + (offset + scale * z.double())

    @property
    def _parts(self) -> tuple[Tensor, Tensor, Tensor]:
        return self.base_B, self.scale_B, self.offset_B


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
    base_B = _newest(y_BT, mask_BT)
    above_BT = torch.where(mask_BT, y_BT - base_B[:, None], 0.0)
    recent_mask_BT = mask_BT[:, -recent:]
    offset_B = torch.where(
        recent_mask_BT.any(1), masked_mean(above_BT[:, -recent:], recent_mask_BT), masked_mean(above_BT, mask_BT)
    )
    spread_B = masked_mean((above_BT - offset_B[:, None]).abs(), mask_BT)
    size_B = (base_B + offset_B).abs()
    level_B = torch.where(size_B == 0, 1.0, size_B)
    return WindowScale(base_B, torch.where(spread_B > SMALLEST_SPREAD * size_B, spread_B, level_B), offset_B)


def _newest(y_BT: Tensor, mask_BT: Tensor) -> Tensor:
    """The newest value of each window; 0 where there is none."""
    step_T = torch.arange(1, y_BT.shape[1] + 1, device=y_BT.device)
    newest_B1 = (mask_BT * step_T).amax(1, keepdim=True)
    return torch.where(newest_B1 > 0, y_BT.gather(1, (newest_B1 - 1).clamp(min=0)), 0.0)[:, 0]
