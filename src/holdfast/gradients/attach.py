"""The guard behind a user's own `optimizer.step()`, wherever it is called from."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from contextlib import AbstractContextManager
from typing import Any
from weakref import WeakKeyDictionary, ref

import torch
from torch import Tensor
from torch.optim import Optimizer

from holdfast.errors import OptionError, Problem, TrainingError
from holdfast.gradients.core import Core
from holdfast.gradients.table import ids_of

_attached: WeakKeyDictionary[Optimizer, ref[Attachment]] = WeakKeyDictionary()  # their hooks keep them alive


def innermost(optimizer: Any) -> Optimizer:
    """The optimiser of torch inside the wrappers that Accelerate and Lightning put around it.

    Args:
        optimizer: An optimiser, or a wrapper with an attribute `optimizer`.

    Returns:
        The one whose `step` changes weights.

    Raises:
        OptionError: There is none.
    """
    inner, seen = optimizer, set()
    while not (isinstance(inner, Optimizer) and "_optimizer_step_pre_hooks" in inner.__dict__):
        seen.add(id(inner))
        inner = getattr(inner, "optimizer", None)
        if inner is None or id(inner) in seen:
            expected, fix = "an optimiser of torch.optim, or a wrapper around one", "give the optimiser of the model"
            raise OptionError(Problem("optimizer of a GradientGuard", expected, type(optimizer).__name__, fix))
    return inner


def attachment_of(optimizer: Optimizer) -> Attachment | None:
    """What guards the own `step` of this optimiser, or of another one over some of its parameters."""
    found = _attached.get(optimizer)
    if found is not None:
        return found()
    own = ids_of(optimizer)
    return next((tie() for other, tie in _attached.items() if not own.isdisjoint(ids_of(other))), None)


class Attachment:
    """The tie between a guard and an optimiser, until `remove` cuts it.

    Args:
        core: What measures and clips.
        optimizer: The optimiser, without wrappers.
        loss: The loss of the only step that is to come, if it is known; a closure tells its own.
        scale: The scale of the `GradScaler` in that step, if it is known.

    Raises:
        OptionError: The optimiser is guarded already, or steps by evaluating its loss several times.

    Example:
        >>> from holdfast.gradients import ClipNorm, GradientGuard
        >>> layer = torch.nn.Linear(1, 1, bias=False)
        >>> optimizer = torch.optim.SGD(layer.parameters(), lr=0.1)
        >>> guard = GradientGuard(layer, ClipNorm(1.0))
        >>> tie = guard.attach(optimizer)
        >>> layer(torch.tensor([4.0])).backward()
        >>> optimizer.step()
        >>> guard.last.clip_coef
        0.25
        >>> tie.remove()
    """

    def __init__(
        self, core: Core, optimizer: Optimizer, loss: Tensor | float | None = None, scale: float | None = None
    ) -> None:
        where = "GradientGuard.attach"
        if attachment_of(optimizer) is not None:
            fix = "attach once, or call remove() on what the first attach() returned"
            raise OptionError(Problem(where, "an optimiser without a guard", "one that has a guard already", fix))
        if isinstance(optimizer, torch.optim.LBFGS):
            expected, fix = "an optimiser that evaluates the loss once per step", "clip with guard.clip in the closure"
            raise OptionError(Problem(where, expected, "LBFGS", fix))
        self._core = core
        self._optimizer = optimizer
        self._loss = loss
        self._scale = scale
        self._updating: AbstractContextManager[None] | None = None
        self._hooks = [
            optimizer.register_step_pre_hook(self._before),
            optimizer.register_step_post_hook(self._after),
        ]
        _attached[optimizer] = ref(self)

    def remove(self) -> None:
        """Leave the optimiser as it was before `attach`."""
        self._abandon()
        for hook in self._hooks:
            hook.remove()
        if _attached.get(self._optimizer, ref(self))() is self:
            _attached.pop(self._optimizer, None)

    def _before(
        self, optimizer: Optimizer, args: tuple[Any, ...], kwargs: Mapping[str, Any]
    ) -> tuple[tuple[Any, ...], dict[str, Any]] | None:
        self._abandon()
        closure = args[1] if len(args) > 1 else kwargs.get("closure")
        if closure is None:
            self._begin(self._loss)
            return None
        guarded = self._guarded(closure)
        if len(args) > 1:
            return (args[0], guarded, *args[2:]), dict(kwargs)
        return args, {**kwargs, "closure": guarded}

    def _guarded(self, closure: Callable[[], Any]) -> Callable[[], Any]:
        """The closure with the guard behind it: there the gradients of this step are complete."""

        def evaluate() -> Any:
            if self._updating is not None:
                expected, fix = "one evaluation of the closure per step", "clip with guard.clip in the closure"
                raise TrainingError(Problem("optimizer.step(closure)", expected, "a second one", fix))
            loss = closure()
            single = isinstance(loss, float) or (isinstance(loss, Tensor) and loss.numel() == 1)
            self._begin(loss if single else None)
            return loss

        return evaluate

    def _begin(self, loss: Tensor | float | None) -> None:
        self._updating = self._core.updating(self._optimizer, loss, self._scale)
        self._updating.__enter__()

    def _after(self, optimizer: Optimizer, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        updating, self._updating = self._updating, None
        if updating is not None:
            updating.__exit__(None, None, None)

    def _abandon(self) -> None:
        """Clean up after a step that raised before its end; it counts nowhere."""
        updating, self._updating = self._updating, None
        if updating is not None:
            updating.__exit__(RuntimeError, RuntimeError("the step did not end"), None)
