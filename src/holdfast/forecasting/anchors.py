"""Which naive forecasts a network starts from: all are tried on training windows before training.

Shapes: n series, B windows, T context steps, F horizon steps, A anchors, L strengths.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from holdfast.networks import Anchor, anchor_forecasts, masked_mean, normalise, ridge
from holdfast.training import Split
from holdfast.windows import Batch, Sampler, Windows, affordable

Pair = tuple[Tensor, Tensor]

NEAR_BEST = 1.2  # times the error of a window's best anchor still counts as good there
SHARE = 0.2  # of the windows an anchor must be good on, or it is left out
ANCHOR_WINDOWS = 1024  # training windows that the anchors are compared on; fewer very long ones
NEAR_RIVAL = 1.05  # times the error of the best anchor: a linear forecast that is no worse adds something to it
LINEAR_DRAWS = 8  # times as many windows that the linear forecast is learned from
LOOK_DRAWS = 2  # likewise, where only the context is chosen
NEAR_BEST_CONTEXT = 1.02  # times the error of the best context: a shorter one is as good
ROUNDS = 5  # of weighting windows by their errors
SMALLEST_ERROR = 1e-6  # units: a window that is forecast exactly counts no more than others
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

    def batch(self, first_n: NDArray[np.int64], last_n: NDArray[np.int64], draw: int) -> Batch:
        """1024 windows of these cutoffs, fewer where they are very long."""
        until_n = torch.from_numpy(self.split.until_n).to(self.windows.y_R.device)
        sampler = Sampler(first_n, last_n, affordable(ANCHOR_WINDOWS, self.context_length), 0, self.split.order)
        size = {"context_length": self.context_length, "horizon": self.horizon}
        return self.windows.gather(*sampler.draw(draw), **size, until_n=until_n)

    def draw(self, first_n: NDArray[np.int64], last_n: NDArray[np.int64], draws: int) -> Iterator[Looked]:
        """The same in normalised units, so many times."""
        for draw in range(draws):
            batch = self.batch(first_n, last_n, draw)
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


def useful_context(choices: Sequence[TrainingWindows], error_scale_n: Tensor) -> int:
    """The shortest context whose linear forecast is within 2 % of the best one on late training windows.

    A linear forecast costs next to nothing, and shows how far back the data say anything.

    Args:
        choices: The same training windows with several contexts, the shortest first.
        error_scale_n: Units of the errors of each series.

    Returns:
        Steps of context; those of the first choice where no early window has a whole horizon.
    """
    errors = [_late_error(looks, error_scale_n) for looks in choices]
    best = min(errors)
    near = (looks for looks, error in zip(choices, errors, strict=True) if error <= NEAR_BEST_CONTEXT * best)
    return next(near, choices[0]).context_length


def _late_error(looks: TrainingWindows, error_scale_n: Tensor) -> float:
    """Mean scaled error on late windows of a ridge from early ones, with the best strength; infinite without any."""
    split, late_n = looks.split, looks.late_n
    early_n = late_n - looks.horizon
    if not (early_n >= split.first_n).any():
        return math.inf
    x_NT, y_NF = _pairs(looks, split.first_n, early_n, LOOK_DRAWS)
    w_LTF = _ridges(x_NT, y_NF, x_NT.new_ones(len(x_NT)))
    batch = looks.batch(late_n, split.last_n, 0)
    z_BT, _, scale = normalise(batch, looks.seasons)
    target_BF, unit_B1 = scale.normalise(batch.target_BF), (scale.scale_B / error_scale_n[batch.series_B])[:, None]
    errors = [
        float((((z_BT.double() @ w_TF - target_BF).abs() * unit_B1)[batch.target_mask_BF]).mean()) for w_TF in w_LTF
    ]
    return min(errors)


def useful_linear(looks: TrainingWindows, rivals: Sequence[Anchor]) -> Tensor | None:
    """The matrix of a linear forecast [T, F], if it is about as good as the best rival on the late training windows.

    Ridge regression from the normalised context to the horizon, in units of each window's seasonal naive error; windows
    that miss a target do not count. Squares let a few wild windows decide, so the same is tried with windows weighted
    by 1 / max(error, median error), which comes near to least absolute errors after five rounds. What is judged was
    learned from early windows, whose horizons end before the late ones, and so is the choice between the two and of
    their strengths, by mean error; what is returned is learned from all of them in the same way.

    Args:
        looks: The training windows.
        rivals: The anchors that it may be at most 5 % worse than.

    Returns:
        None also where no early window has a whole horizon, or the context is longer than 1024 steps.

    Reference: iterative reweighting: Schlossmacher, An iterative technique for absolute deviations curve fitting
    (1973).
    """
    split, late_n = looks.split, looks.late_n
    early_n = late_n - looks.horizon
    if looks.context_length > LONGEST_LINEAR or not (early_n >= split.first_n).any():
        return None
    x_NT, y_NF = _pairs(looks, split.first_n, early_n, LINEAR_DRAWS)
    late = next(looks.draw(late_n, split.last_n, 1))
    tried = [(robust, w_TF) for robust in (False, True) for w_TF in _learn(x_NT, y_NF, robust)]
    errors = [_mean_error(late.z_BT.double() @ w_TF, late) for _, w_TF in tried]
    forecasts_BFA = anchor_forecasts(late.z_BT, late.mask_BT, rivals, looks.horizon)
    best = min(range(len(errors)), key=errors.__getitem__)
    rival = min((_mean_error(each_BF, late) for each_BF in forecasts_BFA.unbind(-1)), default=math.inf)
    if not errors[best] <= NEAR_RIVAL * rival < math.inf:
        return None
    robust = tried[best][0]
    all_LTF = _learn(*_pairs(looks, split.first_n, split.last_n, LINEAR_DRAWS), robust)
    return all_LTF[best % len(STRENGTHS)].float()


def _mean_error(forecast_BF: Tensor, looked: Looked) -> float:
    """Mean absolute error in units of each window; infinite where nothing was observed."""
    error_K = ((forecast_BF - looked.target_BF).abs() / looked.unit_B[:, None])[looked.seen_BF]
    return float(error_K.mean()) if error_K.numel() else math.inf


def _learn(x_NT: Tensor, y_NF: Tensor, robust: bool) -> Tensor:
    """The ridge of each strength [L, T, F]; robust: with the weights of windows from five rounds of the middle one."""
    weight_N = x_NT.new_ones(len(x_NT))
    for _ in range(ROUNDS if robust and len(x_NT) else 0):
        w_TF = _ridges(x_NT, y_NF, weight_N)[len(STRENGTHS) // 2]
        error_N = (x_NT @ w_TF - y_NF).abs().mean(1)
        weight_N = 1 / error_N.clamp(min=max(float(error_N.median()), SMALLEST_ERROR))
    return _ridges(x_NT, y_NF, weight_N)


def _shares(looked: Looked, anchors: Sequence[Anchor]) -> list[float]:
    """Of the windows, that each anchor is good on."""
    forecasts_BFA = anchor_forecasts(looked.z_BT, looked.mask_BT, anchors, looked.target_BF.shape[1])
    error_BFA = (forecasts_BFA - looked.target_BF[..., None]).abs()
    error_BA = masked_mean(error_BFA, looked.seen_BF[..., None].expand_as(error_BFA), dim=1)
    error_BA = error_BA[looked.seen_BF.any(1)]
    good_BA = error_BA <= NEAR_BEST * error_BA.amin(1, keepdim=True)
    shares: list[float] = good_BA.double().mean(0).nan_to_num().tolist()
    return shares


def _pairs(looks: TrainingWindows, first_n: NDArray[np.int64], last_n: NDArray[np.int64], draws: int) -> Pair:
    """Contexts and horizons of windows of these cutoffs, in units of each; those that miss a target are left out."""
    parts = []
    there = -(-int(np.maximum(last_n - first_n + 1, 0).sum()) // ANCHOR_WINDOWS)  # more would be the same again
    for looked in looks.draw(first_n, last_n, max(min(draws, there), 1)):
        whole_B = looked.seen_BF.all(1)
        parts.append([(z / looked.unit_B[:, None])[whole_B].double() for z in (looked.z_BT, looked.target_BF)])
    x_NT, y_NF = (torch.cat(each) for each in zip(*parts, strict=True))
    return x_NT, y_NF


def _ridges(x_NT: Tensor, y_NF: Tensor, weight_N: Tensor) -> Tensor:
    """The ridge of each strength [L, T, F] from weighted windows."""
    weighted_TN = x_NT.T * weight_N
    return ridge(weighted_TN @ x_NT, weighted_TN @ y_NF, STRENGTHS)
