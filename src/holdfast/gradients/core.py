"""What a guard does in one step: gather, measure, clip, let the update happen, count."""

from __future__ import annotations

import math
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field

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
from holdfast.gradients.riding import Ride, can_ride, can_wait_in, hidden
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
    _window: Window = field(default_factory=Window)

    def gather(self, optimizer: Optimizer | None) -> GradTable:
        """The gradients of this step; at least one."""
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

    def measure(
        self, table: GradTable, loss: Tensor | float | None, scaler: tuple[Tensor, Tensor | float] | None = None
    ) -> Measured:
        """The norms of these gradients; on a GPU nothing waits for them, if the rules allow it."""
        roles = self.parameters.roles
        if self.can_wait(table):
            return DeviceStep.measure(table, loss, scaler).measured(roles)
        value = loss_value(loss)
        if loss is not None and anywhere(not math.isfinite(value), self.model, table.grads):
            value = math.nan
        norms = dict(zip(table.names, tensor_norms(table.grads, self.norm_type), strict=True))
        measured = measured_from(norms, table.roles, roles, norm_type=self.norm_type, loss=value)
        # Not fields, not compared: what `clip` needs to know that these are still the same gradients.
        measured.__dict__.update(_table=table, _version=table.grads[0]._version)
        return measured

    def can_wait(self, table: GradTable) -> bool:
        """Whether a step over these gradients can do without the host."""
        return not self.raises and can_wait(table.grads, self.clauses, self.cap)

    def clip(self, measured: Measured, optimizer: Optimizer | None) -> ClipResult:
        """Each rule to its roles, then the cap to all; in place, or within the update of a fused optimiser."""
        step = measured.waiting
        if isinstance(step, DeviceStep) and optimizer is not None and can_wait_in(optimizer, step.table.grads):
            found_inf, grad_scale = step.clip_(self.clauses, self.cap)
            result = step.result(self.parameters.roles, self.clauses, self.cap)
            return _with_ride(result, Ride(id(optimizer), grad_scale, found_inf))
        if measured.nonfinite:
            if self.raises:
                raise _nonfinite_error(measured)
            return skipped_result(measured, calibration=False)
        table = self._table_of(measured)
        self._window.warn_if_early(table)
        clipping = Clipping(table, measured)
        for clause in self.clauses:
            clipping.add(clause)
        if self.cap is not None:
            clipping.cap(self.cap)
        result = clipping.result()
        if optimizer is not None and result.clipped and can_ride(optimizer, table.grads):
            result = _apply_within_update(clipping, result, table, optimizer)
        else:
            clipping.apply_()
        if optimizer is None:  # else the update is to follow
            self._window.clipped(table)
        return result

    @contextmanager
    def updating(self, optimizer: Optimizer, loss: Tensor | float | None, scale: float | None) -> Iterator[None]:
        """Measure and clip before, and count after, an update that somebody else calls inside this context.

        Args:
            optimizer: The optimiser, without wrappers.
            loss: The loss of the step, if known.
            scale: The scale of a `GradScaler` that has unscaled already, if known.
        """
        self.parameters.check_known(optimizer)
        if not self.parameters.gather(optimizer).grads:
            warnings.warn("optimizer.step() was called, and none of its parameters has a gradient", stacklevel=6)
            yield
            return
        result = self._clip_behind_scaler(optimizer, loss, scale)
        with (
            (result.take_ride() or Ride(id(optimizer))).on(optimizer),
            hidden(optimizer, result.waiting is None and result.skipped),
        ):
            yield
        self.ledger.add(result)

    def _clip_behind_scaler(self, optimizer: Optimizer, loss: Tensor | float | None, scale: float | None) -> ClipResult:
        """Measure and clip; gradients that a `GradScaler` left to a fused optimiser to unscale are unscaled before."""
        table, scaler = self.gather(optimizer), None
        grad_scale, found_inf = optimizer.__dict__.get("grad_scale"), optimizer.__dict__.get("found_inf")
        if found_inf is not None:
            if self.can_wait(table) and can_wait_in(optimizer, table.grads):
                known = 2.0 if scale is None else scale  # unknown: any scale above 1 counts as a calibration
                scaler = (found_inf, known if grad_scale is None else grad_scale)
            elif found_inf.item():
                return self.skipped_by_scaler(optimizer, scale if grad_scale is None else grad_scale.item())
        if grad_scale is not None:
            inverse = grad_scale.double().reciprocal().float()
            torch._foreach_mul_([local_part(grad) for grad in table.grads], inverse)
        return self.clip(self.measure(table, loss, scaler), optimizer)

    def skipped_by_scaler(self, optimizer: Optimizer, scale: float | None) -> ClipResult:
        """At scale 1 and below there is nothing left to calibrate: then the gradients themselves are not finite."""
        measured = self.measure(self.gather(optimizer), None)
        return skipped_result(measured, calibration=scale is None or scale > 1.0)

    def _table_of(self, measured: Measured) -> GradTable:
        table: GradTable | None = measured.__dict__.get("_table")
        if table is None:
            return self.parameters.gather(names=measured.tensor_norms)
        if table.grads[0]._version != measured.__dict__["_version"]:
            expected, got = "the gradients that were measured", "gradients that have changed since"
            raise TrainingError(Problem("GradientGuard.clip", expected, got, "measure again, and then clip"))
        return table


def loss_value(loss: Tensor | float | None) -> float:
    """The loss as a number; 0 where there is none.

    Args:
        loss: A scalar tensor or a number.

    Returns:
        Its value.

    Raises:
        TrainingError: It is more than one number.
    """
    if not isinstance(loss, Tensor):
        return 0.0 if loss is None else float(loss)
    if loss.numel() != 1:
        shape, fix = str(tuple(loss.shape)), "give the number that backward() was called on"
        raise TrainingError(Problem("loss of a GradientGuard", "one number", f"a tensor of shape {shape}", fix))
    return float(loss.item())


def _apply_within_update(clipping: Clipping, result: ClipResult, table: GradTable, optimizer: Optimizer) -> ClipResult:
    coef = clipping.apply_but_common()
    if coef < SMALLEST_COEF:  # float32 has no exact inverse of it
        scale_(table.grads, coef)
    elif coef < 1.0:
        grad_scale = torch.tensor(1 / coef, dtype=torch.float32, device=table.grads[0].device)
        return _with_ride(result, Ride(id(optimizer), grad_scale))
    return result


def _with_ride(result: ClipResult, ride: Ride) -> ClipResult:
    result.__dict__["_ride"] = ride
    return result


def _nonfinite_error(measured: Measured) -> TrainingError:
    return TrainingError(
        Problem(
            "GradientGuard.clip",
            "a finite loss and finite gradients",
            f"nan or inf in {', '.join(measured.nonfinite)} (total norm {measured.total_norm})",
            "lower the learning rate or look at the data of this batch; nonfinite='skip' leaves such steps out",
        )
    )
