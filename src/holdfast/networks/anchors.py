"""Naive forecasts that the network starts from, mixes and corrects.

Shapes: B windows, T context steps, F horizon steps, A anchors, m season length, K seasons in the context.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Literal

import torch
import torch.nn.functional as F
from torch import Tensor

from holdfast.networks.scaling import masked_mean

RECENT_SEASONS = 7  # how many seasons the seasonal mean averages, phase by phase
SHIFT_SHARE = 7  # the change since a season ago is the mean over a seventh of it: a day of a week, two months of a year

AnchorKind = Literal["last", "season", "season-shifted", "seasonal-mean", "recent-mean", "drift", "linear"]
Anchor = tuple[AnchorKind, int]  # a kind and its season length (recent mean: how many steps; last and drift: 1)


def candidate_anchors(seasons: Sequence[int], horizon: int) -> tuple[Anchor, ...]:
    """Every anchor that makes sense for these seasons.

    Args:
        seasons: Season lengths in steps; empty without a season.
        horizon: F.

    Example:
        >>> candidate_anchors((24, 168), 48)
        (('last', 1), ('season', 24), ('season-shifted', 24), ('seasonal-mean', 24),
         ('season', 168), ('season-shifted', 168), ('seasonal-mean', 168), ('recent-mean', 24), ('drift', 1))
        >>> candidate_anchors((), 6)
        (('last', 1), ('recent-mean', 6), ('drift', 1))
    """
    recent = min(seasons, default=max(horizon, 2))  # the mean of one step would be the last value again
    kinds: tuple[AnchorKind, ...] = ("season", "season-shifted", "seasonal-mean")
    seasonal: list[Anchor] = [(kind, season) for season in seasons for kind in kinds]
    return (("last", 1), *seasonal, ("recent-mean", recent), ("drift", 1))


def anchor_forecasts(
    z_BT: Tensor, mask_BT: Tensor, which: Sequence[Anchor], horizon: int, linear_TF: Tensor | None = None
) -> Tensor:
    """Naive forecasts from one context.

    With T the newest step and m a season length, the forecast of step T + k is

        last            z_T
        season          z at the newest observed step of the same phase: z_{T + k - m ceil(k / m)} where observed
        season-shifted  the same, moved by the mean of z_t - z_{t-m} over the newest seventh of a season
        seasonal-mean   the mean of the observed values at that phase in the last `RECENT_SEASONS` seasons
        recent-mean     the mean of the observed values in the last m steps
        drift           z_T + k (z_T - z_1) / (T - 1), with the first and the last observed value and their steps

        linear          W' z, with a matrix that was learned before (its m is T)

    Where there is no such value it is the last observed one; an empty context gives 0, the level of the window.

    Args:
        z_BT: Context in any units (for the linear forecast: normalised), 0 where missing.
        mask_BT: True where observed.
        which: A anchors.
        horizon: F.
        linear_TF: The matrix W; only for the linear forecast.

    Returns:
        anchors_BFA.

    Example:
        >>> z_BT, mask_BT = torch.tensor([[1.0, 2.0, 3.0, 4.0]]), torch.ones(1, 4, dtype=torch.bool)
        >>> anchor_forecasts(z_BT, mask_BT, [("last", 1), ("season", 2), ("drift", 1)], 3)[0].T.tolist()
        [[4.0, 4.0, 4.0], [3.0, 4.0, 3.0], [5.0, 6.0, 7.0]]
    """
    last_BF = tile(newest(z_BT, mask_BT, 1)[0], horizon)
    forecasts = []
    for kind, season in which:
        if kind == "linear" and linear_TF is not None:
            forecasts.append(z_BT @ linear_TF)
            continue
        one_season_Bm, found_Bm = _FORECASTS[kind](z_BT, mask_BT, season)
        if kind == "season-shifted":
            one_season_Bm = one_season_Bm + seasonal_change(z_BT, mask_BT, season)[:, None]
        forecasts.append(torch.where(tile(found_Bm, horizon), tile(one_season_Bm, horizon), last_BF))
        if kind == "drift":
            step_F = torch.arange(1, horizon + 1, device=z_BT.device)
            forecasts[-1] = forecasts[-1] + slope(z_BT, mask_BT)[:, None] * step_F
    return torch.stack(forecasts, dim=-1)


def fold(values_BT: Tensor, season: int) -> Tensor:
    """Cut the context into whole seasons, newest last; the oldest is padded with zeros (False).

    Example:
        >>> fold(torch.arange(5.0)[None], 2).tolist()
        [[[0.0, 0.0], [1.0, 2.0], [3.0, 4.0]]]
    """
    batch_size, context_length = values_BT.shape
    padded = F.pad(values_BT, (-context_length % season, 0))
    return padded.view(batch_size, -1, season)


def tile(z_Bm: Tensor, horizon: int) -> Tensor:
    """Repeat one season over the horizon.

    Example:
        >>> tile(torch.tensor([[1.0, 2.0]]), 5).tolist()
        [[1.0, 2.0, 1.0, 2.0, 1.0]]
    """
    return z_Bm.repeat(1, -(-horizon // z_Bm.shape[1]))[:, :horizon]


def newest(z_BT: Tensor, mask_BT: Tensor, season: int) -> tuple[Tensor, Tensor]:
    """The newest observed value at each phase of the season, and where there was one.

    Returns:
        z_Bm and found_Bm.

    Example:
        >>> z_BT, mask_BT = torch.tensor([[1.0, 2.0, 3.0, 0.0]]), torch.tensor([[True, True, True, False]])
        >>> [value.tolist() for value in newest(z_BT, mask_BT, 2)]
        [[[3.0, 2.0]], [[True, True]]]
    """
    z_BKm, mask_BKm = fold(z_BT, season), fold(mask_BT, season)
    number_K1 = torch.arange(1, z_BKm.shape[1] + 1, device=z_BT.device)[:, None]
    newest_B1m = (mask_BKm * number_K1).amax(1, keepdim=True)
    return z_BKm.gather(1, (newest_B1m - 1).clamp(min=0))[:, 0], newest_B1m[:, 0] > 0


def seasonal_mean(z_BT: Tensor, mask_BT: Tensor, season: int) -> tuple[Tensor, Tensor]:
    """The mean of the last `RECENT_SEASONS` values at each phase, and where there was one."""
    z_BKm = fold(z_BT, season)[:, -RECENT_SEASONS:]
    mask_BKm = fold(mask_BT, season)[:, -RECENT_SEASONS:]
    return masked_mean(z_BKm, mask_BKm, 1), mask_BKm.any(1)


def recent_mean(z_BT: Tensor, mask_BT: Tensor, steps: int) -> tuple[Tensor, Tensor]:
    """The mean of the last values, and whether there was one."""
    recent_mask_BT = mask_BT[:, -steps:]
    return masked_mean(z_BT[:, -steps:], recent_mask_BT)[:, None], recent_mask_BT.any(1, keepdim=True)


def seasonal_change(z_BT: Tensor, mask_BT: Tensor, season: int) -> Tensor:
    """The mean of z_t - z_{t-m} over the newest seventh of a season, over pairs that were observed; 0 without one.

    Example:
        >>> z_BT, mask_BT = torch.tensor([[1.0, 2.0, 3.0, 6.0]]), torch.ones(1, 4, dtype=torch.bool)
        >>> seasonal_change(z_BT, mask_BT, 2).tolist()
        [4.0]
    """
    steps = max(season // SHIFT_SHARE, 1)
    now, before = (
        slice(max(z_BT.shape[1] - steps, season), None),
        slice(max(z_BT.shape[1] - season - steps, 0), -season),
    )
    pair_BT = mask_BT[:, now] & mask_BT[:, before]
    return masked_mean(z_BT[:, now] - z_BT[:, before], pair_BT)


def slope(z_BT: Tensor, mask_BT: Tensor) -> Tensor:
    """Rise per step from the first to the last observed value."""
    step_T = torch.arange(z_BT.shape[1], device=z_BT.device)
    last_B1 = torch.where(mask_BT, step_T, -1).amax(1, keepdim=True).clamp(min=0)
    first_B1 = torch.where(mask_BT, step_T, z_BT.shape[1] - 1).amin(1, keepdim=True)
    rise_B1 = z_BT.gather(1, last_B1) - z_BT.gather(1, first_B1)
    return (rise_B1 / (last_B1 - first_B1).clamp(min=1))[:, 0]


_FORECASTS: dict[AnchorKind, Callable[[Tensor, Tensor, int], tuple[Tensor, Tensor]]] = {
    "last": newest,
    "season": newest,
    "season-shifted": newest,
    "seasonal-mean": seasonal_mean,
    "recent-mean": recent_mean,
    "drift": newest,
}
