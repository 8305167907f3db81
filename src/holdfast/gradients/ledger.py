"""What a guard has measured so far: the newest steps, the counts of all of them, and when to give up."""

from __future__ import annotations

from collections import deque
from collections.abc import Mapping, Sequence
from typing import Any

from holdfast.errors import Problem, TrainingError
from holdfast.gradients.clauses import Clause
from holdfast.gradients.device import fetch_all
from holdfast.gradients.result import ClipResult
from holdfast.gradients.roles import Role
from holdfast.gradients.rules import ClipNorm
from holdfast.gradients.summary import Counters

BLOCK = 64  # steps that may wait, on a GPU or here, before they are fetched and counted together


class Ledger:
    """Every step that a guard has seen.

    Args:
        roles: The roles of the model.
        clauses: The rules, to work out the records of steps that waited on a GPU.
        cap: The global cap, likewise.
        give_up_after: So many non-finite steps in a row are an error; None: never.
    """

    def __init__(
        self, roles: Sequence[Role], clauses: Sequence[Clause], cap: ClipNorm | None, give_up_after: int | None
    ) -> None:
        self._roles = roles
        self._clauses = clauses
        self._cap = cap
        self._give_up_after = give_up_after
        self._counters = Counters(roles)
        self._uncounted: list[ClipResult] = []
        self._newest: deque[ClipResult] = deque(maxlen=give_up_after or 1)

    @property
    def last(self) -> ClipResult | None:
        """The newest step; None before the first."""
        return self._newest[-1] if self._newest else None

    @property
    def counters(self) -> Counters:
        """The counts of all steps; numbers that wait on a GPU are fetched for it."""
        uncounted, self._uncounted = self._uncounted, []
        fetch_all([(each.waiting, each) for each in uncounted if each.waiting], self._roles, self._clauses, self._cap)
        for result in uncounted:
            self._counters.add(result)
        return self._counters

    def add(self, result: ClipResult) -> None:
        """Take one step.

        Args:
            result: What it measured.

        Raises:
            TrainingError: It was the last of too many non-finite steps in a row.
        """
        self._newest.append(result)
        self._uncounted.append(result)
        if len(self._uncounted) >= BLOCK or (result.waiting is None and result.skipped):
            bad = self.counters.bad_in_a_row
            if self._give_up_after is not None and bad >= self._give_up_after:
                raise _gave_up(list(self._newest))

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Go on from the `state_dict()` of other counters."""
        self._counters = Counters.from_state_dict(state, self._roles)
        self._uncounted.clear()
        self._newest.clear()


def _gave_up(newest: Sequence[ClipResult]) -> TrainingError:
    steps = [
        f"{back} steps back: total norm {result.total_norm:g}, not finite: {', '.join(result.nonfinite[:5])} "
        f"({len(result.nonfinite)} of {len(result.tensor_norms)} tensors)"
        for back, result in zip(range(len(newest) - 1, -1, -1), newest, strict=True)
    ]
    return TrainingError(
        Problem(
            "GradientGuard",
            "a finite step now and then",
            f"{len(newest)} non-finite steps in a row; " + "; ".join(steps),
            "no weight was changed by them: lower the learning rate, clip harder, or look at the data of these batches",
        )
    )
