"""What clip rules remember of the norms of past steps, in bounded space and as plain JSON values when it is saved."""

from __future__ import annotations

import math
from bisect import bisect_left, insort
from collections import deque
from collections.abc import Mapping, Sequence
from typing import Any

from holdfast.errors import OptionError, Problem

SCHEMA = 1


class NormHistory:
    """The last norms, in the order of the steps and sorted.

    Args:
        rule: The rule and its settings in words; a saved memory is for this rule alone.
        size: How many norms are remembered.

    Example:
        >>> memory = NormHistory("any rule", size=3)
        >>> for norm in (9.0, 4.0, 1.0, 2.0):
        ...     memory.add(norm)
        >>> len(memory), memory.percentile(50.0)
        (3, 2.0)
    """

    def __init__(self, rule: str, size: int) -> None:
        self._rule = rule
        self._norms: deque[float] = deque(maxlen=size)
        self._sorted: list[float] = []

    def __len__(self) -> int:
        return len(self._norms)

    def add(self, norm: float) -> None:
        """Take in the norm of the newest step; the oldest one goes."""
        if len(self._norms) == self._norms.maxlen:
            del self._sorted[bisect_left(self._sorted, self._norms[0])]
        self._norms.append(norm)
        insort(self._sorted, norm)

    def percentile(self, percentile: float) -> float:
        """A percentile of the norms in it, of which there must be one."""
        return percentile_of(self._sorted, percentile)

    def state_dict(self) -> dict[str, Any]:
        """Everything in it, as plain JSON values."""
        return {"schema": SCHEMA, "rule": self._rule, "norms": list(self._norms)}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Go on from `state_dict()`, also after a round trip through JSON.

        Raises:
            OptionError: The state is of another kind, or of a rule with other settings; nothing changed then.
        """
        _check_state(state, self.state_dict())
        self._norms = deque(state["norms"], self._norms.maxlen)
        self._sorted = sorted(self._norms)


class NormSpread:
    """Moving mean and deviation of norms, after a warm-up.

    Args:
        rule: The rule and its settings in words; a saved memory is for this rule alone.
        warmup: How many norms give the first mean and deviation.
        alpha: Weight of the past in each step after these.

    Attributes:
        mean: mu; 0 during the warm-up.
        deviation: sigma; None during the warm-up.

    Example:
        >>> memory = NormSpread("any rule", warmup=2, alpha=0.5)
        >>> for norm in (1.0, 3.0, 4.0):
        ...     memory.add(norm)
        >>> memory.mean, memory.deviation
        (3.0, 1.0)
    """

    def __init__(self, rule: str, warmup: int, alpha: float) -> None:
        self._rule = rule
        self._warmup = warmup
        self._alpha = alpha
        self._first: list[float] = []
        self.mean = 0.0
        self.deviation: float | None = None

    def add(self, norm: float) -> None:
        """Take in the norm of the newest step, as it is after clipping."""
        # Deviations by hypot, not variances: the square of a norm can overflow, and then no norm is an outlier again.
        if self.deviation is not None:
            self.mean += (1 - self._alpha) * (norm - self.mean)
            now = math.sqrt(1 - self._alpha) * (norm - self.mean)
            self.deviation = math.hypot(math.sqrt(self._alpha) * self.deviation, now)
            return
        self._first.append(norm)
        if len(self._first) == self._warmup:
            unit = max(self._first)
            self.mean = unit * (math.fsum(past / unit for past in self._first) / self._warmup)
            self.deviation = math.hypot(*((past - self.mean) / math.sqrt(self._warmup) for past in self._first))
            self._first = []

    def state_dict(self) -> dict[str, Any]:
        """Everything in it, as plain JSON values."""
        numbers = {"first": list(self._first), "mean": self.mean, "deviation": self.deviation}
        return {"schema": SCHEMA, "rule": self._rule, **numbers}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Go on from `state_dict()`, also after a round trip through JSON.

        Raises:
            OptionError: The state is of another kind, or of a rule with other settings; nothing changed then.
        """
        _check_state(state, self.state_dict())
        self._first, self.mean, self.deviation = list(state["first"]), state["mean"], state["deviation"]


class Calibration:
    """The first norms, and the bound that was chosen by them.

    Args:
        rule: The rule and its settings in words; a saved memory is for this rule alone.
        steps: How many norms the bound is chosen by.
        percentile: Which percentile of them it is.

    Attributes:
        chosen: The bound; None before it is chosen.
        expected_clip_fraction: Share of the norms it was chosen by that lie above it; None before it is chosen.

    Example:
        >>> memory = Calibration("any rule", steps=2, percentile=50.0)
        >>> memory.add(1.0)
        >>> memory.chosen is None
        True
        >>> memory.add(2.0)
        >>> memory.chosen, memory.expected_clip_fraction
        (1.5, 0.5)
    """

    def __init__(self, rule: str, steps: int, percentile: float) -> None:
        self._rule = rule
        self._steps = steps
        self._percentile = percentile
        self._norms: list[float] = []
        self.chosen: float | None = None
        self.expected_clip_fraction: float | None = None

    def add(self, norm: float) -> None:
        """Take in the norm of the newest step; choose the bound if it is the last one needed."""
        insort(self._norms, norm)
        if len(self._norms) == self._steps:
            self.chosen = percentile_of(self._norms, self._percentile)
            self.expected_clip_fraction = sum(past > self.chosen for past in self._norms) / self._steps
            self._norms = []

    def state_dict(self) -> dict[str, Any]:
        """Everything in it, as plain JSON values."""
        numbers = {"norms": list(self._norms), "chosen": self.chosen}
        return {"schema": SCHEMA, "rule": self._rule, **numbers, "expected": self.expected_clip_fraction}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Go on from `state_dict()`, also after a round trip through JSON.

        Raises:
            OptionError: The state is of another kind, or of a rule with other settings; nothing changed then.
        """
        _check_state(state, self.state_dict())
        self._norms, self.chosen = list(state["norms"]), state["chosen"]
        self.expected_clip_fraction = state["expected"]


def percentile_of(ordered: Sequence[float], percentile: float) -> float:
    """A percentile of sorted numbers, linear between two of them.

    Args:
        ordered: n numbers, at least one, from small to large; number k lies at 100 k / (n - 1) per cent, from k = 0.
        percentile: Which one, 0 to 100.

    Returns:
        The number there.

    Example:
        >>> percentile_of([1.0, 2.0, 4.0], 75.0)
        3.0
    """
    rank = percentile * (len(ordered) - 1) / 100
    below = int(rank)
    if below == rank:
        return ordered[below]
    return ordered[below] + (ordered[below + 1] - ordered[below]) * (rank - below)


def _check_state(state: Mapping[str, Any], own: Mapping[str, Any]) -> None:
    if state.keys() != own.keys() or any(state[key] != own[key] for key in ("schema", "rule")):
        raise OptionError(
            Problem(
                "memory of a clip rule",
                f"keys {', '.join(own)} with schema {SCHEMA}, of {own['rule']}",
                f"keys {', '.join(state)} with schema {state.get('schema')}, of {state.get('rule')}",
                "load the state_dict() of a memory of the same rule with the same settings",
            )
        )
