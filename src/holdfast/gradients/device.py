"""The same step without waiting for the GPU: norms, factors and the decision to skip stay there.

What a person reads, the host works out later, from the norms of the tensors and with the rules themselves.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from holdfast.gradients.clauses import Clause
from holdfast.gradients.clipping import Clipping, skipped_result
from holdfast.gradients.norms import device_norms, measured_from
from holdfast.gradients.result import ClipResult, Measured
from holdfast.gradients.roles import Role
from holdfast.gradients.rules import ClipNorm
from holdfast.gradients.table import GradTable


@dataclass(frozen=True)
class DeviceStep:
    """The norms of one step, on the device of the gradients.

    Attributes:
        table: The gradients; only names and roles are kept once the step is over.
        norms_T: 2-norm of each of T gradients, float64.
        facts: The loss (0 where none was given), whether a `GradScaler` has found an inf (0 or 1), and its scale.

    Example:
        >>> table = GradTable(("w",), ("head",), (torch.ones(2),), (torch.tensor([3.0, 4.0]),))
        >>> step = DeviceStep.measure(table, None)
        >>> found_inf, grad_scale = step.clip_((Clause(ClipNorm(1.0), ("head",), None),), None)
        >>> found_inf.item(), grad_scale.item()
        (0.0, 5.0)
    """

    table: GradTable
    norms_T: Tensor
    facts: Tensor

    @classmethod
    def measure(
        cls, table: GradTable, loss: Tensor | float | None, scaler: tuple[Tensor, Tensor | float] | None = None
    ) -> DeviceStep:
        """The norms of these gradients; nothing is written, nothing waits.

        Args:
            table: The gradients.
            loss: The loss of the step.
            scaler: What a `GradScaler` left in the optimiser: `found_inf` and the scale.

        Returns:
            The step.
        """
        norms_T = device_norms(table.grads, 2.0)
        seen = (0.0 if loss is None else loss, *(scaler or (0.0, 1.0)))
        # A number is filled in on the device; as a tensor from here it would be copied there, and the copy waits.
        facts = [
            value.detach().to(norms_T).reshape(()) if isinstance(value, Tensor) else norms_T.new_full((), value)
            for value in seen
        ]
        return cls(table, norms_T, torch.stack(facts))

    def clip_(self, clauses: Sequence[Clause], cap: ClipNorm | None) -> tuple[Tensor, Tensor]:
        """Scale what has a factor of its own, in place, and leave the common factor to the update.

        Args:
            clauses: `ClipNorm` rules with the roles they are over.
            cap: The global cap.

        Returns:
            `found_inf` (1 where the step is not finite) and `grad_scale`, both float32 scalars on the device.
        """
        finite = torch.linalg.vector_norm(self.norms_T).isfinite() & self.facts[0].isfinite()
        found, one = ~finite | (self.facts[1] > 0), torch.ones_like(self.facts[0])
        factors, norms = [one] * len(self.table.names), self.norms_T.unbind()
        for clause in clauses:
            members = self.table.of(clause.roles)
            if members and isinstance(clause.rule, ClipNorm):
                norm = torch.linalg.vector_norm(torch.stack([norms[k] for k in members]))
                coef = torch.where(found | (norm <= clause.rule.max_norm), one, clause.rule.max_norm / norm)
                factors = [coef if k in members else factor for k, factor in enumerate(factors)]
        common = one
        if len({id(factor) for factor in factors}) == 1:
            common = factors[0]
        else:
            for factor in {id(each): each for each in factors if each is not one}.values():
                grads = [grad for grad, each in zip(self.table.grads, factors, strict=True) if each is factor]
                torch._foreach_mul_(grads, factor)
        if cap is not None:
            norm = torch.linalg.vector_norm(self.norms_T * torch.stack(factors))
            common = common * torch.where(found | (norm <= cap.max_norm), one, cap.max_norm / norm)
        # float32 ends at 2**128: a factor below its inverse leaves a larger norm than asked for, but a finite one.
        scale = (1 / common).clamp(max=torch.finfo(torch.float32).max)
        return found.float(), scale.float()

    @property
    def row(self) -> Tensor:
        """What the host needs: the norms and the facts."""
        return torch.cat([self.norms_T, self.facts])

    def measured(self, roles: Sequence[Role]) -> Measured:
        """The record of the norms, fetched when it is first read."""
        table, row = self.table, self.row
        return Measured.later(self, lambda: _measured(table, row.tolist(), roles))

    def result(self, roles: Sequence[Role], clauses: Sequence[Clause], cap: ClipNorm | None) -> ClipResult:
        """The record of the clipped step, fetched when it is first read."""
        table = GradTable(self.table.names, self.table.roles, (), ())  # the gradients may be freed meanwhile
        step = DeviceStep(table, self.norms_T, self.facts)
        return ClipResult.later(step, lambda: _result(table, step.row.tolist(), roles, clauses, cap))


def can_wait(grads: Sequence[Tensor], clauses: Sequence[Clause], cap: ClipNorm | None) -> bool:
    """Whether a step over these gradients can do without the host.

    Args:
        grads: The gradients.
        clauses: The rules; those by 2-norm need no host.
        cap: The global cap.

    Returns:
        True on one GPU, with such rules only.
    """
    rules = [clause.rule for clause in clauses] + ([] if cap is None else [cap])
    by_norm = all(isinstance(rule, ClipNorm) and rule.norm_type == 2.0 and not rule.per_tensor for rule in rules)
    return by_norm and bool(grads) and all(is_far(grad) and grad.device == grads[0].device for grad in grads)


def is_far(grad: Tensor) -> bool:
    """Whether reading a number of this tensor would wait for a GPU."""
    return type(grad) is Tensor and grad.is_cuda


def fetch_all(
    waiting: Sequence[tuple[DeviceStep, ClipResult]],
    roles: Sequence[Role],
    clauses: Sequence[Clause],
    cap: ClipNorm | None,
) -> list[ClipResult]:
    """Fetch the numbers of several steps in one transfer.

    Args:
        waiting: The steps and their records.
        roles: All roles of the guard.
        clauses: Its rules.
        cap: Its global cap.

    Returns:
        The records, with their numbers.
    """
    if not waiting:
        return []
    numbers = iter(torch.cat([step.row for step, _ in waiting]).tolist())
    for step, result in waiting:
        row = [next(numbers) for _ in range(len(step.table.names) + 3)]
        if result.waiting is not None:
            result.fill(_result(step.table, row, roles, clauses, cap))
    return [result for _, result in waiting]


def _measured(table: GradTable, row: Sequence[float], roles: Sequence[Role]) -> Measured:
    *norms, loss, _, _ = row
    return measured_from(dict(zip(table.names, norms, strict=True)), table.roles, roles, loss=loss)


def _result(
    table: GradTable, row: Sequence[float], roles: Sequence[Role], clauses: Sequence[Clause], cap: ClipNorm | None
) -> ClipResult:
    """The same record as a step on the host gives, from the norms alone."""
    measured = _measured(table, row, roles)
    found_inf, scale = row[-2:]
    if measured.nonfinite or found_inf:
        return skipped_result(measured, calibration=bool(found_inf) and scale > 1.0)
    clipping = Clipping(table, measured)
    for clause in clauses:
        clipping.add(clause)
    if cap is not None:
        clipping.cap(cap)
    return clipping.result()
