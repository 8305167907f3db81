"""A clip coefficient that rides in the optimiser's update, where the optimiser can take one along.

The fused optimisers of torch divide each gradient by `optimizer.grad_scale` while they update, write it back, and leave
the step out where `optimizer.found_inf` is 1: no pass over the gradients of its own, and no wait for the GPU.
"""

from __future__ import annotations

import gc
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.amp.grad_scaler import GradScaler, OptState
from torch.optim import Optimizer

from holdfast.errors import OptionError, Problem

FIELDS = ("grad_scale", "found_inf")


@dataclass(frozen=True)
class Ride:
    """What one step of a fused optimiser takes along.

    Attributes:
        optimizer: Identity of the optimiser that it was made for.
        grad_scale: What its gradients are divided by, a float32 scalar beside them; None: nothing.
        found_inf: 1 where the step is to be left out, likewise; None: it is not.

    Example:
        >>> weight = torch.nn.Parameter(torch.ones(1))
        >>> weight.grad = torch.ones(1)
        >>> optimizer = torch.optim.SGD([weight], lr=1.0, fused=True)
        >>> with Ride(id(optimizer), torch.tensor(4.0)).on(optimizer):
        ...     optimizer.step()
        >>> weight.item(), weight.grad.item(), "grad_scale" in optimizer.__dict__
        (0.75, 0.25, False)
    """

    optimizer: int
    grad_scale: Tensor | None = None
    found_inf: Tensor | None = None

    @contextmanager
    def on(self, optimizer: Optimizer) -> Iterator[None]:
        """For the step inside this context only; what was set before comes back, for it would act on later steps.

        Args:
            optimizer: The one that it was made for.

        Raises:
            OptionError: It is another one.
        """
        if id(optimizer) != self.optimizer:
            expected, fix = "the optimiser that was given to clip", "give both the same one"
            raise OptionError(Problem("optimizer of GradientGuard.update", expected, "another optimiser", fix))
        before = {name: optimizer.__dict__[name] for name in FIELDS if name in optimizer.__dict__}
        optimizer.__dict__.update(grad_scale=self.grad_scale, found_inf=self.found_inf)
        try:
            yield
        finally:
            for name in FIELDS:  # a GradScaler multiplies with what it finds: None is not nothing
                optimizer.__dict__.pop(name, None)
            optimizer.__dict__.update(before)


def can_ride(optimizer: Optimizer, grads: Sequence[Tensor]) -> bool:
    """Whether the optimiser divides just these gradients by `grad_scale`, and each once.

    Args:
        optimizer: Any optimiser.
        grads: The gradients that are to be clipped.

    Returns:
        True for a fused optimiser over these and no other gradients, plain tensors of at most float32.

    Example:
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
    own = [
        id(parameter.grad)
        for group in optimizer.param_groups
        for parameter in group["params"]
        if parameter.grad is not None
    ]
    if len(own) != len(grads) or {id(grad) for grad in grads} != set(own):
        return False
    return all(type(grad) is Tensor and grad.dtype is not torch.float64 for grad in grads)


def can_wait_in(optimizer: Optimizer, grads: Sequence[Tensor]) -> bool:
    """Whether the decision to skip can ride too, as `found_inf`.

    Args:
        optimizer: Any optimiser.
        grads: The gradients that are to be clipped.

    Returns:
        True where `can_ride` holds, except before the first step of an SGD with momentum: skipped, it would keep a
        momentum that nobody has filled.

    Example:
        >>> weight = torch.nn.Parameter(torch.ones(1))
        >>> weight.grad = torch.ones(1)
        >>> can_wait_in(torch.optim.SGD([weight], lr=0.1, momentum=0.9, fused=True), [weight.grad])
        False
    """
    return can_ride(optimizer, grads) and not any(
        group.get("momentum") and optimizer.state.get(parameter, {}).get("momentum_buffer") is None
        for group in optimizer.param_groups
        for parameter in group["params"]
        if parameter.grad is not None
    )


@contextmanager
def hidden(optimizer: Optimizer, hide: bool) -> Iterator[None]:
    """Take the gradients away for as long as an optimiser steps: without them it changes nothing and counts nothing.

    Args:
        optimizer: The gradients of its parameters come back as they were, unless there are new ones by then.
        hide: Whether to do so at all.

    Example:
        >>> weight = torch.nn.Parameter(torch.ones(1))
        >>> weight.grad = torch.ones(1)
        >>> optimizer = torch.optim.SGD([weight], lr=0.1)
        >>> with hidden(optimizer, True):
        ...     optimizer.step()
        >>> weight.item(), weight.grad.item()
        (1.0, 1.0)
    """
    parameters = [parameter for group in optimizer.param_groups for parameter in group["params"]] if hide else []
    kept = [(parameter, parameter.grad) for parameter in parameters]
    for parameter, _ in kept:
        parameter.grad = None
    try:
        yield
    finally:
        for parameter, grad in kept:
            if parameter.grad is None:
                parameter.grad = grad


def still_scaled(optimizer: Optimizer | None, norm: float) -> bool:
    """Whether these look like gradients that some `GradScaler` has scaled and not unscaled yet.

    Asks the garbage collector, which takes some hundredths of a second: once, not in every step.

    Args:
        optimizer: The optimiser that holds the gradients; None: any.
        norm: Their norm, finite.

    Returns:
        True if there is a scaler that waits to unscale, and the norm is large beside its scale.
    """
    kinds = (GradScaler, *GradScaler.__subclasses__())
    scalers = [each for each in gc.get_referrers(*kinds) if isinstance(each, GradScaler)]
    used = [scaler for scaler in scalers if scaler.is_enabled() and scaler._scale is not None]
    used = [scaler for scaler in used if norm >= 1e-3 * scaler.get_scale()]
    stages = [
        state["stage"]
        for scaler in used
        for key, state in scaler._per_optimizer_states.items()
        if optimizer is None or key == id(optimizer)
    ]
    return bool(used) and OptState.UNSCALED not in stages
