"""Notice a clip that comes too early: in the middle of an accumulation window."""

from __future__ import annotations

import warnings
from functools import cache
from typing import Any
from weakref import WeakSet, ref

from torch import Tensor
from torch.optim import Optimizer
from torch.optim.optimizer import register_optimizer_step_post_hook

from holdfast.gradients.table import GradTable, ids_of

EARLY = (
    "gradients are clipped that were clipped before, have changed since, and led to no update: clip once, after the "
    "last backward() of an accumulation window"
)


class Window:
    """Whether gradients were clipped, have grown since, and no weight has moved in between.

    Example:
        >>> import torch
        >>> weight, grad = torch.ones(1), torch.ones(1)
        >>> table = GradTable(("w",), ("head",), (weight,), (grad,))
        >>> window = Window()
        >>> window.clipped(table)
        >>> grad += 1
        >>> window.is_early(table)
        True
        >>> weight -= 1
        >>> window.is_early(table)
        False
    """

    def __init__(self) -> None:
        self._grad: ref[Tensor] | None = None
        self._state = (0, 0, 0)
        self._weights: set[int] = set()

    def __getstate__(self) -> dict[str, Any]:
        return Window().__dict__  # a copy has seen nothing

    def is_early(self, table: GradTable) -> bool:
        """Whether this is a second clip of one window.

        Args:
            table: The gradients that are to be clipped.

        Returns:
            True if they are those of the last clip, written to since, on weights that were not.
        """
        if self._grad is None or self._grad() is not table.grads[0]:
            return False
        before, now = self._state, _state(table)
        return now[:2] == before[:2] and now[2] != before[2]

    def warn_if_early(self, table: GradTable) -> None:
        """Say so."""
        if self._grad is not None and self.is_early(table):
            warnings.warn(EARLY, stacklevel=4)

    def clipped(self, table: GradTable) -> None:
        """Remember a clip.

        Args:
            table: The gradients, as they are now.
        """
        self._grad, self._state = ref(table.grads[0]), _state(table)
        self._weights = {id(parameter) for parameter in table.parameters}
        _listen()
        _windows.add(self)

    def updated(self, weights: set[int]) -> None:
        """Forget the clip if one of these weights was under it."""
        if not weights.isdisjoint(self._weights):
            self._grad = None


_windows: WeakSet[Window] = WeakSet()


@cache
def _listen() -> None:
    """Hear of the steps of all optimisers, once: fused ones leave no mark on the weights that they change."""

    def updated(optimizer: Optimizer, *ignored: Any) -> None:
        weights = ids_of(optimizer)
        for window in _windows:
            window.updated(weights)

    register_optimizer_step_post_hook(updated)


def _state(table: GradTable) -> tuple[int, int, int]:
    """How many gradients there are, and how often the weights and they were written to."""
    weights = sum(parameter._version for parameter in table.parameters)
    return len(table.grads), weights, sum(grad._version for grad in table.grads)
