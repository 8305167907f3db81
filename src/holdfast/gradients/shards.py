"""Gradients that are spread over processes: what each holds, and what all of them hold together."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor, nn

from holdfast.errors import Problem, TrainingError


def local_part(grad: Tensor) -> Tensor:
    """The part of a gradient that this process holds: all of it, unless it is sharded.

    Args:
        grad: A tensor, or a DTensor as FSDP2 makes them.

    Returns:
        The values themselves, not a copy.

    Raises:
        TrainingError: The gradient is a sum over processes that was not taken yet (a Partial placement).
    """
    if not _is_sharded(grad):
        return grad
    if any(placement.is_partial() for placement in grad.placements):  # type: ignore[attr-defined]
        problem = Problem(
            "gradient of a distributed parameter",
            "values, whole or sharded",
            f"a sum over processes that was not taken yet: {grad.placements}",  # type: ignore[attr-defined]
            "let the framework reduce the gradients before the guard measures them",
        )
        raise TrainingError(problem)
    return grad.to_local()  # type: ignore[attr-defined, no-any-return]


def over_shards(
    grads: Sequence[Tensor],
    norms: Sequence[float],
    norm_type: float,
    combine: Callable[[Iterable[float], float], float],
) -> list[float]:
    """Norms of whole gradients from the norms of the parts that each process holds; the same on every process.

    Args:
        grads: Gradients; those that are no DTensors are whole already.
        norms: The norm of each one's local part.
        norm_type: p of these norms.
        combine: Makes one norm of several parts.

    Returns:
        One norm per gradient.
    """
    whole = list(norms)
    dims: dict[tuple[Any, int], list[int]] = {}
    for k, grad in enumerate(grads):
        if _is_sharded(grad):
            for dim, placement in enumerate(grad.placements):  # type: ignore[attr-defined]
                if not placement.is_replicate():
                    dims.setdefault((grad.device_mesh, dim), []).append(k)  # type: ignore[attr-defined]
    for (mesh, dim), members in dims.items():  # in the order of the parameters, which all processes share
        group = mesh.get_group(dim)
        mine = torch.tensor([whole[k] for k in members], dtype=torch.float64, device=mesh.device_type)
        parts = [torch.empty_like(mine) for _ in range(dist.get_world_size(group))]
        dist.all_gather(parts, mine, group=group)
        for k, values in zip(members, zip(*(part.tolist() for part in parts), strict=True), strict=True):
            whole[k] = combine(values, norm_type)
    return whole


def anywhere(flag: bool, model: nn.Module, grads: Iterable[Tensor]) -> bool:
    """Whether a flag is set on any process that trains this model; without other processes, the flag itself.

    Args:
        flag: What this process says.
        model: The model; `DistributedDataParallel` tells its processes.
        grads: Its gradients; sharded ones tell theirs.

    Returns:
        The same answer on every process, so that all of them take or skip a step together.
    """
    groups = [model.process_group] if isinstance(model, nn.parallel.DistributedDataParallel) else []
    meshes = {grad.device_mesh for grad in grads if _is_sharded(grad)}  # type: ignore[attr-defined]
    groups += [group for mesh in meshes for group in mesh.get_all_groups()]
    for group in groups:
        device = "cpu" if "gloo" in dist.get_backend(group) else torch.device("cuda", torch.cuda.current_device())
        raised = torch.tensor(float(flag), device=device)
        dist.all_reduce(raised, dist.ReduceOp.MAX, group=group)
        flag = bool(raised.item())
    return flag


def _is_sharded(grad: Tensor) -> bool:
    if type(grad) is Tensor or not dist.is_available():
        return False
    from torch.distributed.tensor import DTensor  # costs a second, and only sharded models need it

    return isinstance(grad, DTensor)
