"""A clip coefficient that rides in the optimiser's update, where the optimiser can take one along.

The fused optimisers of torch divide each gradient by `optimizer.grad_scale` while they update, write it back, and leave
the step out where `optimizer.found_inf` is 1: no pass over the gradients of its own, and no wait for the GPU.
"""

from __future__ import annotations

import gc
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

from torch import Tensor
from torch.amp.grad_scaler import GradScaler, OptState
from torch.optim import Optimizer

FIELDS = ("grad_scale", "found_inf")


def can_ride(optimizer: Optimizer, grads: Sequence[Tensor]) -> bool:
    """Whether the optimiser divides all of these gradients by `grad_scale`.

    Args:
        optimizer: Any optimiser.
        grads: The gradients that are to be clipped.

    Returns:
        True for a fused optimiser that holds all of them, as plain tensors.

    Example:
        >>> import torch
        >>> weight = torch.nn.Parameter(torch.ones(1))
        >>> weight.grad = torch.ones(1)
        >>> can_ride(torch.optim.SGD([weight], lr=0.1), [weight.grad])
        False
        >>> can_ride(torch.optim.SGD([weight], lr=0.1, fused=True), [weight.grad])
        True
    """
    if not getattr(optimizer, "_step_supports_amp_scaling", False):
        return False
    if not all(group.get("fused") for group in optimizer.param_groups):
        return False
    own = {id(parameter.grad) for group in optimizer.param_groups for parameter in group["params"]}
    return all(type(grad) is Tensor and id(grad) in own for grad in grads)


def get_on(optimizer: Optimizer, grad_scale: Tensor | None, found_inf: Tensor | None = None) -> dict[str, Any]:
    """Let the optimiser's next step divide its gradients, and leave itself out where `found_inf` is 1.

    Args:
        optimizer: One for which `can_ride` holds.
        grad_scale: What gradients are divided by, a float32 scalar beside them.
        found_inf: 0 or 1, likewise; None if it is known to be 0.

    Returns:
        What was set before, for `get_off`.

    Example:
        >>> import torch
        >>> weight = torch.nn.Parameter(torch.ones(1))
        >>> weight.grad = torch.ones(1)
        >>> optimizer = torch.optim.SGD([weight], lr=1.0, fused=True)
        >>> before = get_on(optimizer, torch.tensor(4.0))
        >>> optimizer.step()
        >>> get_off(optimizer, before)
        >>> weight.item(), weight.grad.item()
        (0.75, 0.25)
    """
    before = {name: optimizer.__dict__[name] for name in FIELDS if name in optimizer.__dict__}
    optimizer.__dict__.update(zip(FIELDS, (grad_scale, found_inf), strict=True))
    return before


def get_off(optimizer: Optimizer, before: dict[str, Any]) -> None:
    """Put back what `get_on` replaced; without this it would stay for every later step.

    Args:
        optimizer: The optimiser, after its step.
        before: What `get_on` gave.

    Example:
        >>> import torch
        >>> weight = torch.nn.Parameter(torch.ones(1))
        >>> optimizer = torch.optim.SGD([weight], lr=1.0, fused=True)
        >>> get_off(optimizer, get_on(optimizer, torch.tensor(2.0)))
        >>> "grad_scale" in optimizer.__dict__
        False
    """
    for name in FIELDS:  # a GradScaler takes the product with what it finds, and expects to find nothing or a tensor
        optimizer.__dict__.pop(name, None)
    optimizer.__dict__.update(before)


@contextmanager
def hidden(parameters: Sequence[Tensor], hide: bool) -> Iterator[None]:
    """Take the gradients away for as long as an optimiser steps: without them it changes nothing and counts nothing.

    Args:
        parameters: Their gradients come back, as they were.
        hide: Whether to do so at all.

    Example:
        >>> import torch
        >>> weight = torch.nn.Parameter(torch.ones(1))
        >>> weight.grad = torch.ones(1)
        >>> optimizer = torch.optim.SGD([weight], lr=0.1)
        >>> with hidden([weight], True):
        ...     optimizer.step()
        >>> weight.item(), weight.grad.item()
        (1.0, 1.0)
    """
    kept = [(parameter, parameter.grad) for parameter in parameters] if hide else []
    for parameter, _ in kept:
        parameter.grad = None
    try:
        yield
    finally:
        for parameter, grad in kept:
            parameter.grad = grad


def still_scaled(optimizer: Optimizer | None) -> bool:
    """Whether some `GradScaler` is in use that has not unscaled the gradients of this optimiser yet.

    Looks through all objects of the process: once, not in every step.

    Args:
        optimizer: The optimiser; None: any.

    Returns:
        True if a scaler has scaled a loss and waits to unscale.

    Example:
        >>> import torch
        >>> weight = torch.nn.Parameter(torch.ones(1))
        >>> still_scaled(torch.optim.SGD([weight], lr=0.1))
        False
    """
    scalers = [each for each in gc.get_objects() if issubclass(type(each), GradScaler)]
    used = [scaler for scaler in scalers if scaler.is_enabled() and scaler._scale is not None]
    stages = [
        state["stage"]
        for scaler in used
        for key, state in scaler._per_optimizer_states.items()
        if optimizer is None or key == id(optimizer)
    ]
    return bool(used) and OptState.UNSCALED not in stages
