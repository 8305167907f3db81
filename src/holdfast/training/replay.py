"""The weights and the batch of any step of a run, taken again."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

from holdfast.telemetry import TelemetryLog
from holdfast.training.checkpoint import Progress, load_checkpoint
from holdfast.training.loop import Loop, make_guard, make_optimizer, validate_and_remember
from holdfast.training.task import Task, TrainingConfig
from holdfast.windows import Batch


def replay(task: Task, config: TrainingConfig, checkpoint: Path | None, until: int) -> Batch:
    """Put a network to the weights that it had before a step of a run, and draw the batch of that step.

    Takes the steps between the checkpoint and that step again; nothing is written. Exact as a resume is.

    Args:
        task: Network and data of the run.
        config: How it was trained.
        checkpoint: Of the run; None: from the untrained network on.
        until: Number of the step; where the checkpoint is later, the step behind the checkpoint.

    Returns:
        The batch.

    Raises:
        RunDirectoryError: The checkpoint is missing, damaged or of another network.

    Example:
        >>> import numpy as np, torch
        >>> from holdfast.networks import ForecastNetwork, NetworkConfig, QuantileHead
        >>> from holdfast.training import split_series
        >>> from holdfast.windows import Windows
        >>> windows = Windows.from_arrays(np.arange(22.0) ** 2, offsets=[0, 22], lengths=[20])
        >>> network = ForecastNetwork(NetworkConfig(horizon=2, context_length=4), QuantileHead((80.0,)))
        >>> task = Task(network, windows, split_series(np.array([20]), 4, 2), torch.ones(1))
        >>> batch = replay(task, TrainingConfig(batch_size=8), None, until=2)  # one step is taken
        >>> len(batch.y_BT), bool(network.output.weight.any())
        (8, True)
    """
    task.network.train()
    optimizer, guard = make_optimizer(task.network, config), make_guard(task.network, config)
    with TelemetryLog() as log:
        if checkpoint is None:
            progress = Progress(step=0, planned_steps=config.max_steps)
            validate_and_remember(task, progress, log)
        else:
            progress = load_checkpoint(checkpoint, task.network, optimizer, guard)
        loop = Loop(task, replace(config, time_budget=None, probe_share=0.0), progress, optimizer, guard, log)
        while progress.step < until - 1:
            loop.step()
    return task.draw(config, progress.step + 1)
