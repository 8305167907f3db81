"""Which naive forecasts a network starts from: all are tried on training windows before training.

Shapes: n series, B windows, T context steps, F horizon steps, A anchors, L strengths.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from holdfast.networks import Anchor, anchor_forecasts, masked_mean, normalise, ridge
from holdfast.training import Split
from holdfast.windows import Sampler, Windows, affordable

NEAR_BEST = 1.2  # times the error of a window's best anchor still counts as good there
SHARE = 0.2  # of the windows an anchor must be good on, or it is left out
ANCHOR_WINDOWS = 1024  # training windows that the anchors are compared on; fewer very long ones
LINEAR_DRAWS = 8  # times as many windows that the linear forecast is learned from
LONGEST_LINEAR = 1024  # steps of context; the cost grows with the square
STRENGTHS = (1e-4, 1e-3, 1e-2, 1e-1, 1.0, 10.0)  # of the ridge that are tried


@dataclass(frozen=True)
class Looked:
    """Windows in normalised units.

    Attributes:
        z_BT: Contexts, 0 where missing.
        mask_BT: True where observed.
        target_BF: What followed.
        seen_BF: True where that was observed and may be learned from.
        unit_B: Seasonal naive error inside the context.
    """

    z_BT: Tensor
    mask_BT: Tensor
    target_BF: Tensor
    seen_BF: Tensor
    unit_B: Tensor


@dataclass(frozen=True)
class TrainingWindows:
    """Windows as training draws them.

    Attributes:
        windows: The series.
        split: Which rows may be looked at.
        context_length: T.
        horizon: F.
        seasons: Season lengths in steps.
    """

    windows: Windows
    split: Split
    context_length: int
    horizon: int
    seasons: Sequence[int]

    @property
    def late_n(self) -> NDArray[np.int64]:
        """Where the latest quarter of the cutoffs of each series begins."""
        span_n: NDArray[np.int64] = self.split.last_n - self.split.first_n
        return self.split.first_n + 3 * span_n // 4

    def draw(self, first_n: NDArray[np.int64], last_n: NDArray[np.int64], draws: int) -> Iterator[Looked]:
        """1024 windows each time, fewer where they are very long."""
        until_n = torch.from_numpy(self.split.until_n).to(self.windows.y_R.device)
        size = (self.context_length, self.horizon)
        sampler = Sampler(first_n, last_n, affordable(ANCHOR_WINDOWS, self.context_length), 0, self.split.order)
        for draw in range(draws):
            batch = self.windows.gather(*sampler.draw(draw), context_length=size[0], horizon=size[1], until_n=until_n)
            z_BT, unit_B, scale = normalise(batch, self.seasons)
            target_BF = scale.normalise(batch.target_BF)
            yield Looked(z_BT, batch.mask_BT, target_BF, batch.target_mask_BF, unit_B)


def useful_anchors(looks: TrainingWindows, candidates: Sequence[Anchor]) -> tuple[Anchor, ...]:
    """The anchors that are good on at least a fifth of the training windows, or the one that is good on most.

    Good means an error of at most 1.2 times that of the window's best anchor; 1024 windows (in proportion fewer of
    contexts longer than 4096 steps) are drawn as training draws them. Counted window by window, because a set may hold
    series of several kinds. Without a window to compare on: the seasonal naive anchors, else the last value.

    Args:
        looks: The training windows.
        candidates: What to choose from.
    """
    split = looks.split
    if not split.trainable:
        return tuple(anchor for anchor in candidates if anchor[0] == "season") or (("last", 1),)
    shares = _shares(next(looks.draw(split.first_n, split.last_n, 1)), candidates)
    enough = min(SHARE, max(shares))
    return tuple(anchor for anchor, share in zip(candidates, shares, strict=True) if share >= enough)


def useful_linear(looks: TrainingWindows, rivals: Sequence[Anchor]) -> Tensor | None:
    """The matrix of a linear forecast [T, F], if it is good on at least a fifth of the late training windows.

    Ridge regression from the normalised context to the horizon, in units of each window's seasonal naive error; windows
    that miss a target do not count. What is judged was learned from early windows, whose horizons end before the late
    ones, and so is the choice of its strength; what is returned is learned from all of them, with that strength.

    Args:
        looks: The training windows.
        rivals: The anchors that it must come near to.

    Returns:
        None also where no early window has a whole horizon, or the context is longer than 1024 steps.
    """
    split, late_n = looks.split, looks.late_n
    early_n = late_n - looks.horizon
    if looks.context_length > LONGEST_LINEAR or not (early_n >= split.first_n).any():
        return None
    early_LTF = _ridges(looks, split.first_n, early_n)
    late = next(looks.draw(late_n, split.last_n, 1))
    error_LK = ((late.z_BT.double() @ early_LTF - late.target_BF).abs() / late.unit_B[:, None])[:, late.seen_BF]
    if not error_LK.numel():
        return None
    best = int(error_LK.mean(1).argmin())
    shares = _shares(late, (*rivals, ("linear", looks.context_length)), early_LTF[best].float())
    return _ridges(looks, split.first_n, split.last_n)[best].float() if shares[-1] >= SHARE else None


def _shares(looked: Looked, anchors: Sequence[Anchor], linear_TF: Tensor | None = None) -> list[float]:
    """Of the windows, that each anchor is good on."""
    forecasts_BFA = anchor_forecasts(looked.z_BT, looked.mask_BT, anchors, looked.target_BF.shape[1], linear_TF)
    error_BFA = (forecasts_BFA - looked.target_BF[..., None]).abs()
    error_BA = masked_mean(error_BFA, looked.seen_BF[..., None].expand_as(error_BFA), dim=1)
    error_BA = error_BA[looked.seen_BF.any(1)]
    good_BA = error_BA <= NEAR_BEST * error_BA.amin(1, keepdim=True)
    shares: list[float] = good_BA.double().mean(0).nan_to_num().tolist()
    return shares


def _ridges(looks: TrainingWindows, first_n: NDArray[np.int64], last_n: NDArray[np.int64]) -> Tensor:
    """The ridge of each strength [L, T, F] from windows of these cutoffs."""
    size = (looks.context_length, looks.horizon)
    square_TT = torch.zeros(size[0], size[0], dtype=torch.float64, device=looks.windows.y_R.device)
    cross_TF = square_TT.new_zeros(size)
    for looked in looks.draw(first_n, last_n, LINEAR_DRAWS):
        whole_B = looked.seen_BF.all(1)
        x_NT, y_NF = ((values / looked.unit_B[:, None])[whole_B].double() for values in (looked.z_BT, looked.target_BF))
        square_TT += x_NT.T @ x_NT
        cross_TF += x_NT.T @ y_NF
    return ridge(square_TT, cross_TF, STRENGTHS)
