"""One step of clipping: the factor of each gradient, the record of what that changes, and the change itself."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property

import torch
from torch import Tensor

from holdfast.errors import Problem, TrainingError
from holdfast.gradients.blocks import ClipAGC, ClipBlockRMS
from holdfast.gradients.clauses import BlockRule, Clause
from holdfast.gradients.norms import combine_norms, tensor_norms
from holdfast.gradients.result import ClipResult, Measured
from holdfast.gradients.rules import ClipNorm, ClipValue, clip_coef, scale_
from holdfast.gradients.shards import local_part, over_shards
from holdfast.gradients.table import GradTable


@dataclass(frozen=True)
class _Reshaped:
    """A gradient whose values were changed one by one: its norms now, and its cosine with what it was."""

    norm: float
    l2: float
    cosine: float


class Clipping:
    """What the rules do to the gradients of one finite step: first each rule to its roles, then the cap to all.

    Rules that bound norms only choose factors, which wait for `apply_`: one that all gradients have in common, and
    one of each gradient's own. Rules that change values one by one do so at once.

    Args:
        table: The gradients.
        measured: Their norms.

    Example:
        >>> grad = torch.tensor([3.0, 4.0])
        >>> table = GradTable(("w",), ("head",), (torch.ones(2),), (grad,))
        >>> clipping = Clipping(table, Measured(5.0, {"head": 5.0}, {"w": 5.0}, (), 2.0))
        >>> clipping.add(Clause(ClipNorm(1.0), ("head",), None))
        >>> clipping.result().clip_coef
        0.2
        >>> clipping.apply_()
        >>> grad
        tensor([0.6000, 0.8000])
    """

    def __init__(self, table: GradTable, measured: Measured) -> None:
        self._table = table
        self._measured = measured
        self._norms = list(measured.tensor_norms.values())
        self._common = 1.0
        self._own: dict[int, float] = {}
        self._reshaped: dict[int, _Reshaped] = {}

    def add(self, clause: Clause) -> None:
        """Let a rule choose the factors of its roles, or change their values."""
        rule = clause.rule
        if isinstance(rule, BlockRule):
            self._reshape(rule, self._table.of(clause.roles))
        elif isinstance(rule, ClipBlockRMS):
            sizes = self._table.parameters
            self._choose({k: rule.coef(self._norms[k], sizes[k].numel()) for k in self._table.of(clause.roles)})
        elif isinstance(rule, ClipNorm) and rule.per_tensor:
            self._choose({k: clip_coef(rule.max_norm, self._norms[k]) for k in self._table.of(clause.roles)})
        elif clause.roles == tuple(self._measured.role_norms):
            # The total norm itself: summed by role it could round past a bound that is just met.
            norm = self._measured.total_norm
            self._common = clip_coef(rule.bound(clause.memory, norm), norm)
        else:
            norm = combine_norms([self._measured.role_norms[role] for role in clause.roles], self._measured.norm_type)
            coef = clip_coef(rule.bound(clause.memory, norm), norm)
            self._choose(dict.fromkeys(self._table.of(clause.roles), coef))

    def cap(self, rule: ClipNorm) -> None:
        """Let the norm of all gradients, as the rules have left them, be at most the cap's."""
        self._common *= clip_coef(rule.max_norm, self._clipped_norm())

    def apply_(self) -> None:
        """Multiply the gradients by their factors; a gradient with factor 1 is not touched."""
        self._scale([self._own.get(k, 1.0) * self._common for k in range(len(self._norms))])

    def apply_but_common(self) -> float:
        """Multiply the gradients by the factors of their own, and leave the common one to the optimiser's update.

        Returns:
            The common factor; 1 if there is none.
        """
        if self._own:
            self._scale([self._own.get(k, 1.0) for k in range(len(self._norms))])
        return self._common

    def result(self) -> ClipResult:
        """The record of the step; ask before `apply_`."""
        measured = self._measured
        after, coefs, cosine = dict(measured.role_norms), dict.fromkeys(measured.role_norms, 1.0), 1.0
        if self._own or self._reshaped:
            for role in after:
                after[role], coefs[role] = self._role_result(role)
            cosine = self._cosine()
        elif self._common < 1.0:
            for role, norm in after.items():
                after[role], coefs[role] = self._common * norm, self._common if norm > 0 else 1.0
        coef = min(coefs.values())
        return ClipResult(
            total_norm=measured.total_norm,
            clip_coef=coef,
            clipped_norm=self._clipped_norm(),
            role_norms=measured.role_norms,
            role_coefs=coefs,
            role_clipped_norms=after,
            tensor_norms=measured.tensor_norms,
            clipped=coef < 1.0,
            skipped=False,
            calibration=False,
            nonfinite=(),
            cosine=cosine,
            norm_type=measured.norm_type,
        )

    @cached_property
    def _l2(self) -> list[float]:
        """Euclidean norms before clipping; the norms themselves where p is 2."""
        return self._norms if self._measured.norm_type == 2.0 else tensor_norms(self._table.grads, 2.0)

    def _choose(self, coefs: dict[int, float]) -> None:
        self._own.update({k: coef for k, coef in coefs.items() if coef < 1.0 and self._norms[k] > 0})

    def _reshape(self, rule: BlockRule, members: list[int]) -> None:
        grads, l2 = [self._table.grads[k] for k in members], self._l2
        local = [local_part(grad) for grad in grads]
        if isinstance(rule, ClipValue) and max(tensor_norms(grads, math.inf), default=0.0) <= rule.max_value:
            return
        if isinstance(rule, ClipAGC) and any(part is not grad for part, grad in zip(local, grads, strict=True)):
            fix = "clip sharded gradients by norm"
            raise TrainingError(Problem("ClipAGC", "gradients with whole rows", "sharded gradients (DTensor)", fix))
        originals = [part.clone() for part in local]
        rule.clip_([local_part(self._table.parameters[k]) for k in members], local)
        norms, new_l2 = tensor_norms(grads, self._measured.norm_type), tensor_norms(grads, 2.0)
        dots = [
            torch.sum((old.double() / (l2[k] or 1.0)) * (new.double() / (length or 1.0))).item()
            for k, old, new, length in zip(members, originals, local, new_l2, strict=True)
        ]
        dots = over_shards(grads, dots, 1.0, lambda parts, _: math.fsum(parts))
        for k, old, new, norm, length, dot in zip(members, originals, local, norms, new_l2, dots, strict=True):
            # A bound between two float32 numbers can round to the value that it bounds: nothing changed.
            if length != l2[k] or not torch.equal(old, new):
                self._reshaped[k] = _Reshaped(norm, length, min(1.0, dot))

    def _after(self, k: int) -> float:
        """Norm of gradient k after its rule, without the common factor."""
        return self._reshaped[k].norm if k in self._reshaped else self._own.get(k, 1.0) * self._norms[k]

    def _role_result(self, role: str) -> tuple[float, float]:
        """Norm of a role after everything, and its coefficient."""
        members, before = self._table.of((role,)), self._measured.role_norms[role]
        factors = {self._own.get(k, 1.0) for k in members if self._norms[k] > 0}
        if self._reshaped.keys().isdisjoint(members) and len(factors) <= 1:
            coef = factors.pop() * self._common if factors else 1.0
            return coef * before, coef
        after = combine_norms([self._after(k) for k in members], self._measured.norm_type) * self._common
        # A change too small for the norm to show is still a change: the coefficient stays below 1.
        return after, min(after / before, 1 - 2**-53)

    def _clipped_norm(self) -> float:
        if not self._own and not self._reshaped:
            return self._measured.total_norm * self._common
        parts = [self._after(k) for k in range(len(self._norms))]
        return combine_norms(parts, self._measured.norm_type) * self._common

    def _cosine(self) -> float:
        """cos(g, c) = sum_k cos_k (|g_k| / |g|) (|c_k| / |c|), over the tensors k."""
        places = range(len(self._norms))
        if not self._reshaped and len({self._own.get(k, 1.0) for k in places if self._norms[k] > 0}) <= 1:
            return 1.0
        after = [self._reshaped[k].l2 if k in self._reshaped else self._own.get(k, 1.0) * self._l2[k] for k in places]
        before_norm, after_norm = combine_norms(self._l2), combine_norms(after)
        if after_norm == 0:
            return math.nan
        cosines = [self._reshaped[k].cosine if k in self._reshaped else 1.0 for k in places]
        terms = zip(cosines, self._l2, after, strict=True)
        return min(1.0, math.fsum(cosine * (old / before_norm) * (new / after_norm) for cosine, old, new in terms))

    def _scale(self, factors: Sequence[float]) -> None:
        grads_of: dict[float, list[Tensor]] = {}
        for grad, factor in zip(self._table.grads, factors, strict=True):
            if factor < 1.0:
                grads_of.setdefault(factor, []).append(local_part(grad))
        for factor, grads in grads_of.items():
            scale_(grads, factor)


def skipped_result(measured: Measured, *, calibration: bool) -> ClipResult:
    """The record of a step that was left out.

    Args:
        measured: Its norms.
        calibration: Whether a `GradScaler` was still looking for its scale.

    Returns:
        The norms before and after are the same, every coefficient is 1.

    Example:
        >>> measured = Measured(math.inf, {"head": math.inf}, {"w": math.inf}, ("w",), 2.0)
        >>> skipped_result(measured, calibration=False).nonfinite
        ('w',)
    """
    return ClipResult(
        total_norm=measured.total_norm,
        clip_coef=1.0,
        clipped_norm=measured.total_norm,
        role_norms=measured.role_norms,
        role_coefs=dict.fromkeys(measured.role_norms, 1.0),
        role_clipped_norms=measured.role_norms,
        tensor_norms=measured.tensor_norms,
        clipped=False,
        skipped=True,
        calibration=calibration,
        nonfinite=measured.nonfinite,
        cosine=math.nan,
        norm_type=measured.norm_type,
    )
