"""One optimiser step, told in order."""

from __future__ import annotations

import time

from torch import Tensor
from torch.optim import Optimizer

from holdfast.gradients import GradientGuard
from holdfast.networks import ForecastNetwork, batch_loss
from holdfast.telemetry import StepRecord
from holdfast.windows import Batch


def train_step(
    network: ForecastNetwork,
    batch: Batch,
    error_scale_B: Tensor,
    optimizer: Optimizer,
    guard: GradientGuard,
    step: int,
) -> StepRecord:
    """Series become a loss, the loss becomes gradients, the guard measures and clips, the optimiser moves.

    Backpropagation is exact and untouched; clipping happens once, right before the update; a loss or gradient that
    is not finite changes no weight and no optimiser state; every measured value is in the record.

    Args:
        network: The forecaster; its weights change.
        batch: B windows.
        error_scale_B: Seasonal naive error of each window's series, in the units of the data.
        optimizer: Its learning rate is already that of this step.
        guard: Measures, clips, updates.
        step: Number of the step, for the record.

    Returns:
        What the step measured.
    """
    started = time.perf_counter()

    # forward
    parameters = network(batch)
    loss = batch_loss(network.head, parameters, batch, error_scale_B)

    # backward
    optimizer.zero_grad()
    loss.backward()  # type: ignore[no-untyped-call]

    # measure, clip, update
    measured = guard.measure(loss)
    result = guard.clip(measured)
    guard.update(optimizer, result)

    # record
    return StepRecord(
        step=step,
        loss=loss.item(),
        lr=optimizer.param_groups[0]["lr"],
        total_norm=result.total_norm,
        clipped_norm=result.clipped_norm,
        clip_coef=result.clip_coef,
        cosine=result.cosine,
        role_norms=result.role_norms,
        role_coefs=result.role_coefs,
        role_clipped_norms=result.role_clipped_norms,
        clipped=result.clipped,
        skipped=result.skipped,
        nonfinite=result.nonfinite,
        seconds=time.perf_counter() - started,
    )
