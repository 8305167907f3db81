"""Notice a clip that comes too early: in the middle of an accumulation window."""

from __future__ import annotations

import weakref
from typing import Any

from torch import Tensor
from torch.optim.optimizer import register_optimizer_step_post_hook

from holdfast.errors import Problem, TrainingError


class Window:
    """Whether gradients were clipped, have grown since, and no optimiser has stepped in between.

    Example:
        >>> import torch
        >>> window, grad = Window(), torch.ones(1)
        >>> window.clipped(grad)
        >>> grad += 1
        >>> window.check(grad)
        Traceback (most recent call last):
        holdfast.errors.TrainingError: GradientGuard.clip
        ...
        >>> window.updated()
        >>> window.check(grad)
    """

    def __init__(self) -> None:
        self._grad: weakref.ref[Tensor] | None = None
        self._version = 0
        self._listens = False

    def check(self, grad: Tensor) -> None:
        """Refuse a second clip of the same window.

        Args:
            grad: The first gradient of the model.

        Raises:
            TrainingError: It was clipped before, was written to since, and nothing was updated.
        """
        if self._grad is not None and self._grad() is grad and grad._version != self._version:
            raise TrainingError(
                Problem(
                    "GradientGuard.clip",
                    "one clip per update, after the last backward() of an accumulation window",
                    "gradients that were clipped before and have changed since, and no update in between",
                    "clip when all micro-batches are there: guard.step(optimizer) in place of optimizer.step()",
                )
            )

    def clipped(self, grad: Tensor) -> None:
        """Remember a clip.

        Args:
            grad: The first gradient of the model, as it is now.
        """
        self._grad, self._version = weakref.ref(grad), grad._version
        if not self._listens:  # for steps of optimisers that the guard was never shown
            self._listens = True
            mine = weakref.ref(self)

            def updated(*ignored: Any) -> None:
                window = mine()
                if window is not None:
                    window.updated()

            weakref.finalize(self, register_optimizer_step_post_hook(updated).remove)

    def updated(self) -> None:
        """An optimiser has stepped: whatever comes now is the next window."""
        self._grad = None
