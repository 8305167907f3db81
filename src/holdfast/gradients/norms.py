"""Norms of gradients that no finite gradient can overflow."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass

import torch
from torch import Tensor

from holdfast.errors import Problem, TrainingError


@dataclass(frozen=True)
class Measured:
    """The norms of one set of gradients, before any clipping.

    Attributes:
        total_norm: Norm of all gradients as one vector.
        role_norms: Norm of each role (or other group) by itself.
        nonfinite: Names of the tensors whose norm is nan or inf, because they hold such a value or because the
            norm is beyond float64; `loss` for the loss, `total_norm` where only all tensors together are beyond it.
        norm_type: p of these norms.

    Example:
        >>> Measured(5.0, {"recurrent": 3.0, "head": 4.0}, (), 2.0).total_norm
        5.0
    """

    total_norm: float
    role_norms: Mapping[str, float]
    nonfinite: tuple[str, ...]
    norm_type: float


@torch.no_grad()
def grad_norms(groups: Mapping[str, Mapping[str, Tensor]], norm_type: float = 2.0) -> Measured:
    """Norms of groups of gradients, and of all of them, in one pass that writes nothing.

    ||g||_p = (sum_i |g_i|^p)^(1/p), accumulated in float64; scaled by the largest value where float64 alone could
    overflow or underflow. The total comes from the norms of the tensors, so it does not depend on the grouping
    beyond rounding. Needs one transfer from the device.

    Args:
        groups: For each group its gradients by parameter name. A tensor that is listed twice counts once.
        norm_type: p, above 0 or `inf`.

    Returns:
        The total norm, the norm of each group (0 for an empty one), and the names of non-finite tensors.

    Raises:
        TrainingError: A gradient is sparse or complex.

    Example:
        >>> import torch
        >>> tensor = torch.full((2,), 3e30)
        >>> measured = grad_norms({"recurrent": {"w": tensor}, "head": {"v": torch.tensor([torch.nan])}})
        >>> f"{measured.role_norms['recurrent']:.4g}", measured.nonfinite
        ('4.243e+30', ('v',))
    """
    tensors = {id(grad): grad for group in groups.values() for grad in group.values()}
    _check_dense(groups)
    norms = dict(zip(tensors, _tensor_norms(list(tensors.values()), norm_type), strict=True))
    total_norm = combine_norms(norms.values(), norm_type)
    nonfinite = tuple(
        dict.fromkeys(
            name for group in groups.values() for name, grad in group.items() if not math.isfinite(norms[id(grad)])
        )
    )
    if not nonfinite and not math.isfinite(total_norm):
        nonfinite = ("total_norm",)
    role_norms = {
        role: combine_norms([norms[key] for key in {id(grad): None for grad in group.values()}], norm_type)
        for role, group in groups.items()
    }
    return Measured(total_norm, role_norms, nonfinite, norm_type)


def combine_norms(norms: Iterable[float], norm_type: float = 2.0) -> float:
    """The norm of several vectors laid end to end, from their own norms.

    ||(a, b, ...)||_p = m * (sum_k (n_k / m)^p)^(1/p), with n_k the norms and m the largest of them.

    Args:
        norms: Norms of the parts, 0 or above, of the same `norm_type`.
        norm_type: p, above 0 or `inf`.

    Returns:
        The norm; 0 for no parts, nan if one part is nan, inf if one is inf or the result is beyond float64.

    Example:
        >>> combine_norms([3.0, 4.0])
        5.0
    """
    parts = list(norms)
    largest = max(parts, default=0.0)
    if any(math.isnan(part) for part in parts):
        return math.nan
    if largest in (0.0, math.inf) or norm_type == math.inf:
        return largest
    try:
        return largest * float(math.fsum((part / largest) ** norm_type for part in parts) ** (1 / norm_type))
    except OverflowError:  # a p near 0 makes the norm of a few values larger than any float
        return math.inf


def _tensor_norms(grads: list[Tensor], norm_type: float) -> list[float]:
    filled = [grad for grad in grads if grad.numel() > 0]
    if not filled:
        return [0.0] * len(grads)
    # Up to p = 6 the powers of any float32 value, and their sum, lie within the range of float64.
    narrow = all(grad.dtype != torch.float64 for grad in filled)
    if norm_type == math.inf or (narrow and norm_type <= 6):
        norms = list(torch._foreach_norm(filled, norm_type, dtype=torch.float64))
    else:
        norms = [_scaled_norm(grad, norm_type) for grad in filled]
    home = filled[0].device
    values = iter(torch.stack([norm.to(home) for norm in norms]).tolist())  # the one transfer
    return [next(values) if grad.numel() > 0 else 0.0 for grad in grads]


def _scaled_norm(grad: Tensor, norm_type: float) -> Tensor:
    """The norm as m * ||g / m||_p, with m the largest |g_i|, or 1 where that is 0, inf or nan."""
    largest = torch.linalg.vector_norm(grad, math.inf, dtype=torch.float64)
    unit = torch.where((largest > 0) & largest.isfinite(), largest, 1.0)
    scaled: Tensor = torch.linalg.vector_norm(grad.double() / unit, norm_type)
    return unit * scaled


def _check_dense(groups: Mapping[str, Mapping[str, Tensor]]) -> None:
    bad = {
        name: f"{grad.layout}, {grad.dtype}"
        for group in groups.values()
        for name, grad in group.items()
        if grad.layout != torch.strided or grad.is_complex()
    }
    if bad:
        raise TrainingError(
            Problem(f"gradient of {name}", "a dense real tensor", kind, "set sparse=False in the nn.Embedding")
            for name, kind in bad.items()
        )
