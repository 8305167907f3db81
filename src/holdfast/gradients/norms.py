"""Norms of gradients that no finite gradient can overflow."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence

import torch
from torch import Tensor

from holdfast.errors import Problem, TrainingError
from holdfast.gradients.result import Measured
from holdfast.gradients.shards import local_part, over_shards

# A float32 sum of squares is taken over so many values at most. torch's own norm of 20 million values in float32 is off
# by 1e-3; this one by 1e-6 at most, at about the same speed.
ROW = 512
# Below, squares may have fallen out of float32's range. Above, a sum that overflowed is inf and shows itself.
SMALLEST = 1e-12


@torch.no_grad()
def grad_norms(groups: Mapping[str, Mapping[str, Tensor]], norm_type: float = 2.0) -> Measured:
    """Norms of groups of gradients, and of all of them, in one pass that writes nothing.

    ||g||_p = (sum_i |g_i|^p)^(1/p), without overflow or underflow for any finite gradient. The total comes from the
    norms of the tensors, so it does not depend on the grouping beyond rounding; of a sharded gradient (DTensor) it is
    the norm of the whole, the same on every rank. Needs one transfer from the device.

    Args:
        groups: For each group its gradients by parameter name. A tensor that is listed twice counts once.
        norm_type: p, above 0 or `inf`.

    Returns:
        The total norm, the norm of each group (0 for an empty one) and of each tensor, and the names of those that
        are not finite.

    Raises:
        TrainingError: A gradient is sparse or complex.

    Example:
        >>> import torch
        >>> tensor = torch.full((2,), 3e30)
        >>> measured = grad_norms({"recurrent": {"w": tensor}, "head": {"v": torch.tensor([torch.nan])}})
        >>> f"{measured.role_norms['recurrent']:.4g}", measured.nonfinite
        ('4.243e+30', ('v',))
    """
    tensors = {id(grad): (name, grad) for group in groups.values() for name, grad in group.items()}
    check_dense(dict(tensors.values()))
    norms = dict(zip(tensors, tensor_norms([grad for _, grad in tensors.values()], norm_type), strict=True))
    role_norms = {
        role: combine_norms([norms[key] for key in {id(grad): None for grad in group.values()}], norm_type)
        for role, group in groups.items()
    }
    by_name = {name: norms[id(grad)] for group in groups.values() for name, grad in group.items()}
    total_norm = combine_norms(norms.values(), norm_type)
    return Measured(total_norm, role_norms, by_name, _nonfinite(total_norm, by_name), norm_type)


def measured_from(
    norms: Mapping[str, float],
    role_of: Sequence[str],
    roles: Sequence[str],
    *,
    norm_type: float = 2.0,
    loss: float = 0.0,
) -> Measured:
    """The record of norms that are known by tensor.

    Args:
        norms: Norm of each gradient by parameter name.
        role_of: Role of each, in the same order.
        roles: All roles that the record is to have.
        norm_type: p of the norms.
        loss: The loss; a finite number where there is none.

    Returns:
        Total, by role, by tensor, and what is not finite.

    Example:
        >>> measured_from({"w": 3.0, "v": 4.0}, ("head", "other"), ("head", "other"), loss=math.nan)
        Measured(total_norm=5.0, role_norms={'head': 3.0, 'other': 4.0}, tensor_norms={'w': 3.0, 'v': 4.0},
            nonfinite=('loss',), norm_type=2.0)
    """
    parts: dict[str, list[float]] = {role: [] for role in roles}
    for role, norm in zip(role_of, norms.values(), strict=True):
        parts[role].append(norm)
    role_norms = {role: combine_norms(own, norm_type) for role, own in parts.items()}
    total_norm = combine_norms(norms.values(), norm_type)
    bad = () if math.isfinite(loss) else ("loss",)
    return Measured(total_norm, role_norms, norms, bad + _nonfinite(total_norm, norms), norm_type)


def _nonfinite(total_norm: float, tensor_norms: Mapping[str, float]) -> tuple[str, ...]:
    if math.isfinite(total_norm):
        return ()
    return tuple(name for name, norm in tensor_norms.items() if not math.isfinite(norm)) or ("total_norm",)


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
    if norm_type == 2.0 and math.isfinite(norm := math.hypot(*parts)):  # scales by the largest itself
        return norm
    if any(math.isnan(part) for part in parts):
        return math.nan
    if norm_type == 2.0:
        return math.inf
    largest = max(parts, default=0.0)
    if largest in (0.0, math.inf) or norm_type == math.inf:
        return largest
    try:
        return largest * float(math.fsum((part / largest) ** norm_type for part in parts) ** (1 / norm_type))
    except OverflowError:  # a p near 0 makes the norm of a few values larger than any float
        return math.inf


def tensor_norms(grads: Sequence[Tensor], norm_type: float = 2.0) -> list[float]:
    """The norm of each gradient by itself, wherever it lies.

    Args:
        grads: Dense real gradients of any shape; of a sharded one (DTensor) all ranks must ask together.
        norm_type: p, above 0 or `inf`.

    Returns:
        One number per gradient; 0 for an empty one.

    Example:
        >>> tensor_norms([torch.tensor([3.0, 4.0]), torch.full((2,), 3e30, dtype=torch.float32)])[0]
        5.0
    """
    plain = all(type(grad) is Tensor for grad in grads)
    local = grads if plain else [local_part(grad) for grad in grads]
    if norm_type == 2.0 and all(part.is_cpu for part in local):
        norms = _euclidean_norms(local)
    else:
        norms = device_norms(local, norm_type).tolist() if local else []  # the one transfer
    return norms if plain else over_shards(grads, norms, norm_type, combine_norms)


def device_norms(grads: Sequence[Tensor], norm_type: float) -> Tensor:
    """The norm of each gradient by itself, float64, left on the device of the first."""
    filled = [grad if grad.numel() > 0 else grad.new_zeros(1) for grad in grads]
    # Up to p = 6 the powers of any float32 value, and their sum, lie within the range of float64.
    narrow = all(grad.dtype != torch.float64 for grad in filled)
    if norm_type == math.inf or (narrow and norm_type <= 6):
        norms = list(torch._foreach_norm(filled, norm_type, dtype=torch.float64))
    else:
        norms = [_scaled_norm(grad, norm_type) for grad in filled]
    return torch.stack([norm.to(filled[0].device) for norm in norms])


def check_dense(grads: Mapping[str, Tensor]) -> None:
    """Refuse gradients that have no plain values to measure, by name."""
    bad = {
        name: f"{grad.layout}, {grad.dtype}"
        for name, grad in grads.items()
        if grad.layout != torch.strided or grad.is_complex()
    }
    if bad:
        raise TrainingError(
            Problem(f"gradient of {name}", "a dense real tensor", kind, "set sparse=False in the nn.Embedding")
            for name, kind in bad.items()
        )


def _euclidean_norms(grads: Sequence[Tensor]) -> list[float]:
    """2-norms on the CPU: in float32 over at most `ROW` values at a time, and again over the norms of the rows."""
    narrow = [k for k, grad in enumerate(grads) if grad.dtype is not torch.float64]
    norms = [0.0] * len(grads)
    if narrow:
        short = torch._foreach_norm([_folded(grads[k]) for k in narrow], 2.0, dtype=torch.float32)
        for k, norm in zip(narrow, torch.stack(short).tolist(), strict=True):
            norms[k] = norm
    for k, norm in enumerate(norms):
        if not SMALLEST <= norm < math.inf and grads[k].numel():
            norms[k] = _scaled_norm(grads[k], 2.0).item()
    return norms


def _folded(values: Tensor) -> Tensor:
    """At most `ROW` values with the norm of these: the norms of rows in place of the rows, as often as it takes."""
    while (size := values.numel()) > ROW:
        rest = size % ROW
        if rest == 0 and values.is_contiguous():
            values = torch.linalg.vector_norm(values.view(-1, ROW), dim=1, dtype=torch.float32)
        else:
            flat = values.reshape(-1)
            rows = torch.linalg.vector_norm(flat[: size - rest].view(-1, ROW), dim=1, dtype=torch.float32)
            values = torch.cat([rows, flat[size - rest :]])
    return values


def _scaled_norm(grad: Tensor, norm_type: float) -> Tensor:
    """The norm as m * ||g / m||_p, with m the largest |g_i|, or 1 where that is 0, inf or nan."""
    largest: Tensor = torch.linalg.vector_norm(grad, math.inf, dtype=torch.float64)
    if largest.is_cpu and not largest:
        return largest
    unit = torch.where((largest > 0) & largest.isfinite(), largest, 1.0)
    scaled: Tensor = torch.linalg.vector_norm(grad.double() / unit, norm_type)
    return unit * scaled
