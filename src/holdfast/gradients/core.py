"""What a guard does in one step: gather, measure, clip, let the update happen, count."""

from __future__ import annotations

import math
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn
from torch.optim import Optimizer

from holdfast.errors import Problem, TrainingError
from holdfast.gradients.clauses import Clause
from holdfast.gradients.clipping import Clipping, skipped_result
from holdfast.gradients.device import DeviceStep, can_wait
from holdfast.gradients.ledger import Ledger
from holdfast.gradients.norms import measured_from, tensor_norms
from holdfast.gradients.result import ClipResult, Measured
from holdfast.gradients.riding import can_ride, get_off, get_on, hidden
from holdfast.gradients.rules import SMALLEST_COEF, ClipNorm, scale_
from holdfast.gradients.shards import anywhere, local_part
from holdfast.gradients.table import GradTable, ParameterTable
from holdfast.gradients.window import Window


@dataclass
class Core:
    """The moving parts of one `GradientGuard`.

    Attributes:
        model: The module.
        parameters: Its parameters with their roles.
        clauses: The rules.
        cap: A bound on the norm of everything, after the rules.
        norm_type: p of all norms.
        raises: Whether a non-finite step is an error.
        ledger: What was measured so far.
    """

    model: nn.Module
    parameters: ParameterTable
    clauses: tuple[Clause, ...]
    cap: ClipNorm | None
    norm_type: float
    raises: bool
    ledger: Ledger
    _riding: tuple[Optimizer, dict[str, Any]] | None = None
    _window: Window = field(default_factory=Window)

    def gather(self, optimizer: Optimizer | None) -> GradTable:
        """The gradients of this step; at least one."""
        self.dismount()  # of a step that was clipped and never updated
        table = self.parameters.gather(optimizer)
        if not table.grads:
            raise TrainingError(
                Problem(
                    "GradientGuard.measure",
                    "at least one parameter with a gradient",
                    f"no gradient on any of {len(self.parameters)} parameters",
                    "call loss.backward() before the step and zero_grad() after it, on the model given to the guard",
                )
            )
        return table

    def measure(self, table: GradTable, loss: Tensor | float | None) -> Measured:
        """The norms of these gradients; on a GPU nothing waits for them, if the rules allow it."""
        roles = self.parameters.roles
        if not self.raises and can_wait(table.grads, self.clauses, self.cap):
            return DeviceStep.measure(table, loss).measured(roles)
        value = 0.0 if loss is None else loss.item() if isinstance(loss, Tensor) else loss
        if loss is not None and anywhere(not math.isfinite(value), self.model, table.grads):
            value = math.nan
        norms = dict(zip(table.names, tensor_norms(table.grads, self.norm_type), strict=True))
        measured = measured_from(norms, table.roles, roles, norm_type=self.norm_type, loss=value)
        measured.__dict__["_table"] = table  # so that `clip` need not gather again; not a field, not compared
        return measured

    def clip(self, measured: Measured, optimizer: Optimizer | None) -> ClipResult:
        """Each rule to its roles, then the cap to all; in place, or within the update of a fused optimiser."""
        step = measured.waiting
        if isinstance(step, DeviceStep) and optimizer is not None and can_ride(optimizer, step.table.grads):
            found_inf, grad_scale = step.clip_(self.clauses, self.cap)
            self._riding = (optimizer, get_on(optimizer, grad_scale, found_inf))
            return step.result(self.parameters.roles, self.clauses, self.cap)
        if measured.nonfinite:
            if self.raises:
                raise _nonfinite_error(measured)
            return skipped_result(measured, calibration=False)
        table = measured.__dict__.get("_table") or self.parameters.gather(names=measured.tensor_norms)
        self._window.check(table.grads[0])
        clipping = Clipping(table, measured)
        for clause in self.clauses:
            clipping.add(clause)
        if self.cap is not None:
            clipping.cap(self.cap)
        result = clipping.result()
        if optimizer is not None and result.clipped and can_ride(optimizer, table.grads):
            self._ride(optimizer, table, clipping.apply_but_common())
        else:
            clipping.apply_()
        self._window.clipped(table.grads[0])
        return result

    @contextmanager
    def updating(self, optimizer: Optimizer, loss: Tensor | float | None) -> Iterator[None]:
        """Measure and clip before, and count after, an update that somebody else calls inside this context."""
        self.parameters.check_known(optimizer)
        scale, found_inf = optimizer.__dict__.get("grad_scale"), optimizer.__dict__.get("found_inf")
        if found_inf is not None and found_inf.item():  # a GradScaler saw it first; the fused kernel skips by itself
            result = self.skipped_by_scaler(optimizer, 1.0 if scale is None else scale.item())
            yield
            self.ledger.add(result)
            return
        if not self.parameters.gather(optimizer).grads:
            warnings.warn("optimizer.step() was called, and none of its parameters has a gradient", stacklevel=4)
            yield
            return
        table = self.gather(optimizer)
        before = get_on(optimizer, None)
        try:
            if scale is not None:
                inverse = scale.double().reciprocal().float()
                torch._foreach_mul_([local_part(grad) for grad in table.grads], inverse)
            result = self.clip(self.measure(table, loss), optimizer)
            with hidden(table.parameters, result.waiting is None and result.skipped):
                yield
        finally:
            self.dismount()
            get_off(optimizer, before)
        self.ledger.add(result)

    def skipped_by_scaler(self, optimizer: Optimizer, scale: float) -> ClipResult:
        """At scale 1 and below there is nothing left to calibrate: then the gradients themselves are not finite."""
        measured = self.measure(self.gather(optimizer), None)
        return skipped_result(measured, calibration=scale > 1.0)

    def dismount(self) -> None:
        """Take the coefficient out of the optimiser again."""
        if self._riding is not None:
            get_off(*self._riding)
            self._riding = None

    def _ride(self, optimizer: Optimizer, table: GradTable, coef: float) -> None:
        if coef == 1.0:
            return
        if coef < SMALLEST_COEF:  # float32 has no exact inverse of it
            scale_(table.grads, coef)
            return
        self.dismount()
        grad_scale = torch.tensor(1 / coef, dtype=torch.float32, device=table.grads[0].device)
        self._riding = (optimizer, get_on(optimizer, grad_scale))


def _nonfinite_error(measured: Measured) -> TrainingError:
    return TrainingError(
        Problem(
            "GradientGuard.clip",
            "a finite loss and finite gradients",
            f"nan or inf in {', '.join(measured.nonfinite)} (total norm {measured.total_norm})",
            "lower the learning rate or look at the data of this batch; nonfinite='skip' leaves such steps out",
        )
    )
