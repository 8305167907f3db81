"""The fit loop: steps, validation, checkpoints, and the best weights at the end."""

from __future__ import annotations

import math
import signal
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from types import FrameType

import torch
from torch import Tensor
from torch.optim import SGD, AdamW, Optimizer

from holdfast.errors import Problem, TrainingError
from holdfast.gradients import GradientGuard, Role, parse_rule
from holdfast.networks import ForecastNetwork
from holdfast.telemetry import Outlook, StepRecord, TelemetryLog, ValidationRecord
from holdfast.training.checkpoint import Progress, load_checkpoint, save_checkpoint
from holdfast.training.schedule import learning_rate
from holdfast.training.split import Split
from holdfast.training.step import train_step
from holdfast.training.validate import validate
from holdfast.windows import Sampler, Windows

VALIDATE_EVERY = 50  # steps; a checkpoint is written at the same time
CALIBRATION_STEPS = 20  # after which the steps that fit into a time budget are first estimated
MOST_BAD_STEPS = 10  # in a row, before a run gives up
PEAK_RATES = {"adamw": 2e-3, "sgd": 5e-2}


@dataclass(frozen=True, kw_only=True)
class TrainingConfig:
    """How to train; plain values, so that a manifest can hold them.

    Attributes:
        optimizer: "adamw" or "sgd" (with momentum .9).
        lr: Peak learning rate; None: 2e-3 for AdamW, 5e-2 for SGD.
        weight_decay: Decoupled weight decay of AdamW.
        batch_size: Windows per step.
        max_steps: Most optimiser steps.
        time_budget: Seconds that the loop may take; the schedule is stretched to end in time. None: no limit.
        clip: Rule as `parse_rule` reads it.
        clip_roles: Roles that the rule is over, jointly.
        seed: Of windows and dropout.

    Example:
        >>> TrainingConfig(max_steps=100, clip="none").optimizer
        'adamw'
    """

    optimizer: str = "adamw"
    lr: float | None = None
    weight_decay: float = 1e-2
    batch_size: int = 128
    max_steps: int = 1200
    time_budget: float | None = None
    clip: str = "norm:1.0"
    clip_roles: tuple[Role, ...] = ("input", "recurrent", "bias", "other")
    seed: int = 0


@dataclass(frozen=True)
class Task:
    """What to train on what.

    Attributes:
        network: The forecaster, on the device of the windows.
        windows: The series.
        split: Which rows may be learned from.
        error_scale_n: Seasonal naive error of each series, in the units of the data.

    Example:
        >>> import numpy as np
        >>> from holdfast.networks import NetworkConfig, QuantileHead
        >>> from holdfast.training import split_series
        >>> windows = Windows.from_arrays(np.arange(12.0), offsets=[0, 12], lengths=[10])
        >>> network = ForecastNetwork(NetworkConfig(horizon=2, context_length=4), QuantileHead((80.0,)))
        >>> task = Task(network, windows, split_series(np.array([10]), 4, 2), torch.ones(1))
        >>> task.split.until_n.tolist()
        [8]
    """

    network: ForecastNetwork
    windows: Windows
    split: Split
    error_scale_n: Tensor


def make_optimizer(network: ForecastNetwork, config: TrainingConfig) -> Optimizer:
    """The fused optimiser of the configuration."""
    peak = PEAK_RATES[config.optimizer] if config.lr is None else config.lr
    if config.optimizer == "sgd":
        return SGD(network.parameters(), lr=peak, momentum=0.9, fused=True)
    return AdamW(network.parameters(), lr=peak, weight_decay=config.weight_decay, fused=True)


def make_guard(network: ForecastNetwork, config: TrainingConfig) -> GradientGuard:
    """The gradient guard of the configuration."""
    return GradientGuard(
        network, parse_rule(config.clip), roles=config.clip_roles, overrides=network.ROLES, nonfinite="skip"
    )


def train(
    task: Task,
    config: TrainingConfig,
    log: TelemetryLog,
    *,
    checkpoint: Path | None = None,
    resume: bool = False,
    show: Callable[[Outlook], None] | None = None,
) -> Progress:
    """Train the network and leave the weights with the lowest validation loss in it.

    The windows, the dropout and the learning rate of a step depend on its number alone, so a run that was killed and
    resumed from its checkpoint takes exactly the steps that it would have taken. The untrained network, the mean of
    its anchors, is validated first and is a candidate like any other.

    Args:
        task: Network and data.
        config: How to train.
        log: Where the records go.
        checkpoint: File to keep the state in; None: no checkpoints.
        resume: Start from `checkpoint`.
        show: Called after each step.

    Returns:
        How far the run came.

    Raises:
        TrainingError: Ten steps in a row were not finite.
        RunDirectoryError: The checkpoint is missing, damaged or of another network.
        KeyboardInterrupt: The user pressed Ctrl-C; the state was saved if there is a checkpoint file.

    Example:
        >>> import numpy as np
        >>> from holdfast.networks import NetworkConfig, QuantileHead
        >>> from holdfast.training import split_series
        >>> windows = Windows.from_arrays(np.arange(22.0) ** 2, offsets=[0, 22], lengths=[20])
        >>> shapes = NetworkConfig(horizon=2, context_length=4, hidden_size=4, num_layers=1)
        >>> network = ForecastNetwork(shapes, QuantileHead((80.0,)))
        >>> task = Task(network, windows, split_series(np.array([20]), 4, 2), torch.ones(1))
        >>> with TelemetryLog() as log:
        ...     progress = train(task, TrainingConfig(max_steps=3, batch_size=8), log)
        >>> progress.step, [record.step for record in log.records]
        (3, [0, 1, 2, 3, 3])
    """
    task.network.train()
    optimizer, guard = make_optimizer(task.network, config), make_guard(task.network, config)
    if resume and checkpoint is not None:
        progress = load_checkpoint(checkpoint, task.network, optimizer, guard)
        progress.planned_steps = fitting_steps(progress, config, progress.seconds / progress.step)
    else:
        progress = Progress(step=0, planned_steps=config.max_steps if task.split.trainable else 0)
        _validate(task, progress, log)
    loop = _Loop(task, config, progress, optimizer, guard, log)

    with interruptions() as interrupted:
        while progress.step < progress.planned_steps:
            record = loop.step()
            if show is not None:
                show(loop.outlook(record))
            due = progress.step % VALIDATE_EVERY == 0 or progress.step == progress.planned_steps
            if due:
                _validate(task, progress, log)
            if checkpoint is not None and (due or interrupted()):
                save_checkpoint(checkpoint, progress, task.network, optimizer, guard)
            if interrupted():
                raise KeyboardInterrupt
    task.network.load_state_dict(progress.best_weights)
    return progress


@dataclass
class _Loop:
    """The moving parts of one call of `train`."""

    task: Task
    config: TrainingConfig
    progress: Progress
    optimizer: Optimizer
    guard: GradientGuard
    log: TelemetryLog

    def __post_init__(self) -> None:
        split = self.task.split
        self.sampler = Sampler(split.first_n, split.last_n, self.config.batch_size, self.config.seed)
        self.until_n = torch.from_numpy(split.until_n).to(self.task.windows.y_R.device)
        self.peak = self.optimizer.defaults["lr"]
        self.resumed_at = self.progress.step
        self.seconds_before = self.progress.seconds
        self.started = time.perf_counter()

    def step(self) -> StepRecord:
        """Draw the windows of the next step, take it, keep its record."""
        progress, network = self.progress, self.task.network
        number = progress.step + 1
        for group in self.optimizer.param_groups:
            group["lr"] = learning_rate(number, progress.planned_steps, self.peak)
        size = network.config
        batch = self.task.windows.gather(
            *self.sampler.draw(number),
            context_length=size.context_length,
            horizon=size.horizon,
            until_n=self.until_n,
        )
        with seeded(self.config.seed, number):
            record = train_step(
                network, batch, self.task.error_scale_n[batch.series_B], self.optimizer, self.guard, number
            )
        self.log.append(record)
        if self.guard.bad_in_a_row >= MOST_BAD_STEPS:
            raise TrainingError(_gave_up(record, self.config, self.peak))
        progress.step = number
        progress.seconds = self.seconds_before + time.perf_counter() - self.started
        self.plan()
        return record

    @property
    def pace(self) -> float:
        """Seconds per step since the run was started or resumed."""
        return (self.progress.seconds - self.seconds_before) / (self.progress.step - self.resumed_at)

    def plan(self) -> None:
        """Fit the number of steps into the time budget, if there is one."""
        budget, progress = self.config.time_budget, self.progress
        if budget is None:
            return
        here = progress.step - self.resumed_at
        known = here == CALIBRATION_STEPS or (here > CALIBRATION_STEPS and progress.step % VALIDATE_EVERY == 0)
        if known or progress.seconds >= budget:
            progress.planned_steps = fitting_steps(progress, self.config, self.pace)

    def outlook(self, record: StepRecord) -> Outlook:
        """What to show."""
        progress = self.progress
        seconds_left = self.pace * (progress.planned_steps - progress.step)
        if self.config.time_budget is not None:
            seconds_left = min(seconds_left, self.config.time_budget - progress.seconds)
        return Outlook(
            step=progress.step,
            planned_steps=progress.planned_steps,
            record=record,
            validation=next((kept for kept in reversed(self.log.records) if isinstance(kept, ValidationRecord)), None),
            clip_fraction=self.guard.summary().clip_fraction,
            seconds_left=max(seconds_left, 0.0),
        )


def fitting_steps(progress: Progress, config: TrainingConfig, pace: float) -> int:
    """Steps of the whole run, if each of those that are left takes `pace` seconds.

    Example:
        >>> fitting_steps(Progress(20, 1200, seconds=2.0), TrainingConfig(time_budget=10.0), pace=0.1)
        100
    """
    if config.time_budget is None:
        return config.max_steps
    seconds_left = max(config.time_budget - progress.seconds, 0.0)
    return max(progress.step, min(config.max_steps, progress.step + int(seconds_left / pace)))


def _validate(task: Task, progress: Progress, log: TelemetryLog) -> None:
    """Validate, and remember the weights if they are the best so far; where nothing can be scored, the first ones."""
    loss = math.nan
    if len(task.split.validated):
        record = validate(task.network, task.windows, task.split, task.error_scale_n, progress.step)
        log.append(record)
        progress.seconds += record.seconds
        loss = record.loss
    if loss < progress.best_loss or not progress.best_weights:
        progress.best_loss = math.inf if math.isnan(loss) else loss
        progress.best_step = progress.step
        progress.best_weights = {name: tensor.clone() for name, tensor in task.network.state_dict().items()}


def _gave_up(record: StepRecord, config: TrainingConfig, peak: float) -> Problem:
    return Problem(
        where=f"training step {record.step}",
        expected="a finite loss and finite gradients",
        got=f"{MOST_BAD_STEPS} steps in a row without; loss {record.loss}; not finite: "
        f"{', '.join(record.nonfinite[:5])}",
        fix=f"lower the learning rate (its peak is {peak:.2g}: --lr {peak / 10:.2g}), clip harder (now --clip "
        f"{config.clip}), or look for outliers with `holdfast check`; no weight was changed by these steps",
    )


@contextmanager
def seeded(seed: int, step: int) -> Iterator[None]:
    """Random numbers (dropout) that depend on seed and step alone; the caller's random state comes back afterwards."""
    with torch.random.fork_rng(devices=range(torch.cuda.device_count())):
        torch.manual_seed((seed * 1_000_003 + step) % 2**63)
        yield


@contextmanager
def interruptions() -> Iterator[Callable[[], bool]]:
    """Let a first Ctrl-C wait for the end of the step; a second one acts at once.

    Only the main thread can listen, and a process that ignores Ctrl-C (in the background of a script) goes on to.
    """
    asked, before = False, signal.getsignal(signal.SIGINT)
    if threading.current_thread() is not threading.main_thread() or before in (signal.SIG_IGN, None):
        yield lambda: False
        return

    def ask(number: int, frame: FrameType | None) -> None:
        nonlocal asked
        if asked:
            raise KeyboardInterrupt
        asked = True

    signal.signal(signal.SIGINT, ask)
    try:
        yield lambda: asked
    finally:
        signal.signal(signal.SIGINT, before)
