"""One optimiser step, told in order."""

from __future__ import annotations

import time

from torch import Tensor
from torch.optim import Optimizer

from holdfast.gradients import GradientGuard
from holdfast.networks import ForecastNetwork, batch_loss
from holdfast.telemetry import StepRecord
from holdfast.training.penalty import Penalty, name_penalty
from holdfast.windows import Batch


def train_step(
    network: ForecastNetwork,
    batch: Batch,
    error_scale_B: Tensor,
    optimizer: Optimizer,
    guard: GradientGuard,
    step: int,
    penalty: Penalty | None = None,
) -> StepRecord:
    """Series become a loss, the loss becomes gradients, the guard measures and clips, the optimiser moves.

    Backpropagation is exact and untouched; clipping happens once, right before the update; a loss, penalty or gradient
    that is not finite changes no weight and no optimiser state; every measured value is in the record.

    Args:
        network: The forecaster; its weights change.
        batch: B windows.
        error_scale_B: Seasonal naive error of each window's series, in the units of the data.
        optimizer: Its learning rate is already that of this step.
        guard: Measures, clips, updates.
        step: Number of the step, for the record.
        penalty: What to add to the loss.

    Returns:
        What the step measured.

    Raises:
        OptionError: The optimiser has parameters that the guard does not know.

    Example:
        >>> import numpy as np, torch
        >>> from holdfast.gradients import ClipNorm
        >>> from holdfast.networks import NetworkConfig, QuantileHead
        >>> from holdfast.windows import Windows
        >>> windows = Windows.from_arrays(np.arange(12.0) ** 2, offsets=[0, 12], lengths=[10])
        >>> batch = windows.gather([0, 0], [6, 8], context_length=4, horizon=2)
        >>> network = ForecastNetwork(NetworkConfig(horizon=2, context_length=4), QuantileHead((80.0,)))
        >>> optimizer = torch.optim.AdamW(network.parameters(), lr=1e-3)
        >>> guard = GradientGuard(network, ClipNorm(1.0), overrides=network.ROLES)
        >>> record = train_step(network, batch, torch.ones(2), optimizer, guard, step=1)
        >>> record.clipped, record.clipped_norm
        (True, 1.0)
    """
    started = time.perf_counter()

    # forward
    parameters = network(batch)
    loss = batch_loss(network.head, parameters, batch, error_scale_B)
    added = None if penalty is None else penalty.of(network, batch, error_scale_B)
    objective = loss if added is None else loss + added

    # backward
    optimizer.zero_grad()
    objective.backward()  # type: ignore[no-untyped-call]

    # measure, clip, update
    measured = guard.measure(objective)
    result = guard.clip(measured, optimizer)
    guard.update(optimizer, result)

    # record
    loss_value, penalty_value = loss.item(), 0.0 if added is None else added.item()
    return StepRecord(
        step=step,
        loss=loss_value,
        penalty=penalty_value,
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
        nonfinite=name_penalty(result.nonfinite, loss_value, penalty_value),
        seconds=time.perf_counter() - started,
    )
