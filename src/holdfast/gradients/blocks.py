"""Clip rules by block: for each tensor by itself, or for each row of a weight by itself."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from holdfast.gradients.rules import clip_coef, threshold


@dataclass(frozen=True)
class ClipBlockRMS:
    """Shorten each tensor's gradient to a root mean square of at most `max_rms`, in its own direction.

    g <- g * min(1, max_rms / RMS(g)), with RMS(g) = ||g||_2 / sqrt(n) over the n values of one tensor.

    The bound is on the typical value, so that one number serves large and small tensors alike. Adafactor bounds its
    updates, which have no unit, by 1; these are gradients, in units of their own, and no one number fits all models.

    Attributes:
        max_rms: The bound, in units of the gradient; finite and above 0.

    Raises:
        OptionError: `max_rms` is not such a number.

    Example:
        >>> ClipBlockRMS(0.5).coef(4.0, 16)
        0.5

    Reference:
        Shazeer, Stern, "Adafactor: Adaptive learning rates with sublinear memory cost", ICML 2018, section 6; as a rule
        for gradients: `optax.clip_by_block_rms`.
    """

    max_rms: float

    def __post_init__(self) -> None:
        object.__setattr__(self, "max_rms", threshold("ClipBlockRMS(max_rms=...)", self.max_rms))

    def __str__(self) -> str:
        return f"rms:{self.max_rms:g}"

    def coef(self, norm: float, numel: int) -> float:
        """The factor min(1, max_rms / RMS) for one tensor.

        Args:
            norm: The 2-norm of its gradient, finite.
            numel: How many values it has; 0 is allowed.

        Returns:
            1.0 exactly up to the bound, else below 1.

        Example:
            >>> ClipBlockRMS(2.0).coef(4.0, 4), ClipBlockRMS(1.0).coef(0.0, 0)
            (1.0, 1.0)
        """
        return clip_coef(self.max_rms * math.sqrt(numel), norm)


@dataclass(frozen=True)
class ClipAGC:
    """Shorten each unit's gradient to a share of the norm of its weights (adaptive gradient clipping).

    g_i <- g_i * min(1, ratio * max(||w_i||_2, eps) / ||g_i||_2), for each unit i.

    A unit is what feeds one output: w[i] for a weight of two dimensions or more, as torch lays out linear, convolution
    and recurrent weights, and the whole tensor for a bias or a scalar. In `weight_ih` and `weight_hh` of an LSTM
    or GRU a row is one gate of one hidden unit; in an embedding it is one entry. Factors differ between the units of
    a tensor, so its direction may change.

    The paper leaves the last linear layer unclipped, always for the better: give the rule to the other roles. A layer
    that starts at zero, as the heads here do, would be held to ratio * eps in its first steps.

    Attributes:
        ratio: lambda, the largest gradient norm per weight norm; above 0. The paper tries 0.01 to 0.16 and takes 0.01
            for batches of 1024 and more; smaller batches bear larger ones.
        eps: Stands in for the norm of weights that are smaller, so that they can grow; above 0.

    Raises:
        OptionError: `ratio` or `eps` is not such a number.

    Example:
        >>> weight, gradient = torch.tensor([[3.0, 4.0], [0.3, 0.4]]), torch.tensor([[0.0, 1.0], [0.03, 0.04]])
        >>> ClipAGC(ratio=0.1).clip_([weight], [gradient])
        >>> gradient
        tensor([[0.0000, 0.5000],
                [0.0300, 0.0400]])

    Reference:
        Brock, De, Smith, Simonyan, "High-performance large-scale image recognition without normalization", ICML 2021,
        section 4.
    """

    ratio: float = 0.01
    eps: float = 1e-3

    def __post_init__(self) -> None:
        object.__setattr__(self, "ratio", threshold("ClipAGC(ratio=...)", self.ratio))
        object.__setattr__(self, "eps", threshold("ClipAGC(eps=...)", self.eps))

    def __str__(self) -> str:
        return f"agc:{self.ratio:g}"

    @torch.no_grad()
    def clip_(self, parameters: Sequence[Tensor], grads: Sequence[Tensor]) -> None:
        """Shorten these gradients in place, unit by unit; a unit within its bound keeps its bits.

        Args:
            parameters: The parameters, of any shape.
            grads: Their gradients, in the same order, each listed once, all finite.

        Example:
            >>> bias, gradient = torch.zeros(2), torch.tensor([6.0, -8.0])
            >>> ClipAGC(ratio=1.0, eps=0.5).clip_([bias], [gradient])
            >>> gradient
            tensor([ 0.3000, -0.4000])
        """
        for parameter, grad in zip(parameters, grads, strict=True):
            bound = self.ratio * _unit_norms(parameter).clamp(min=self.eps)
            coef = (bound / _unit_norms(grad)).clamp(max=1.0)  # of a gradient of 0 the quotient is inf
            grad.mul_(coef)  # multiplied in float64, as coef is, and rounded once


def _unit_norms(tensor: Tensor) -> Tensor:
    """The 2-norm of each unit, float64, in a shape that broadcasts over the tensor."""
    dims = tuple(range(1, tensor.dim())) or None
    size: Tensor | float = 1.0
    if tensor.dtype == torch.float64 and tensor.numel() > 0:  # of narrower numbers float64 holds all squares
        largest = torch.linalg.vector_norm(tensor, math.inf, dim=dims, keepdim=True)
        size = torch.where(largest > 0, largest, 1.0)
        tensor = tensor / size
    norms: Tensor = torch.linalg.vector_norm(tensor, dim=dims, keepdim=True, dtype=torch.float64)
    return size * norms
