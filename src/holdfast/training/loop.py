"""The fit loop: steps, validation, checkpoints, and the best weights at the end."""

from __future__ import annotations

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
from holdfast.telemetry import Outlook, StepRecord, TelemetryLog
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
        seed: Of weights, windows and dropout.
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
        KeyboardInterrupt: The user pressed Ctrl-C; the state was saved if there is a checkpoint file.
    """
    optimizer, guard = make_optimizer(task.network, config), make_guard(task.network, config)
    if resume and checkpoint is not None:
        progress = load_checkpoint(checkpoint, task.network, optimizer, guard)
        if config.time_budget is None:
            progress.planned_steps = config.max_steps
    else:
        progress = Progress(step=0, planned_steps=config.max_steps if task.split.trainable else 0)
        _validate(task, progress, log)
    loop = _Loop(task, config, progress, optimizer, guard, log)

    with interruptions() as interrupted:
        while progress.step < progress.planned_steps and not loop.out_of_time():
            outlook = loop.step()
            if show is not None:
                show(outlook)
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

    def step(self) -> Outlook:
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
            raise TrainingError(_gave_up(record, self.config))
        progress.step = number
        progress.seconds = self.seconds_before + time.perf_counter() - self.started
        self.plan()
        return self.outlook(record)

    def plan(self) -> None:
        """Fit the number of steps into the time budget, if there is one."""
        budget, progress = self.config.time_budget, self.progress
        here = progress.step - self.resumed_at
        if budget is None or here < CALIBRATION_STEPS or (here > CALIBRATION_STEPS and progress.step % VALIDATE_EVERY):
            return
        pace = (progress.seconds - self.seconds_before) / here
        fitting = progress.step + int((budget - progress.seconds) / pace)
        progress.planned_steps = max(progress.step, min(self.config.max_steps, fitting))

    def out_of_time(self) -> bool:
        """Whether the time budget is spent."""
        return self.config.time_budget is not None and self.progress.seconds >= self.config.time_budget

    def outlook(self, record: StepRecord) -> Outlook:
        """What to show."""
        progress = self.progress
        pace = (progress.seconds - self.seconds_before) / (progress.step - self.resumed_at)
        seconds_left = pace * (progress.planned_steps - progress.step)
        if self.config.time_budget is not None:
            seconds_left = min(seconds_left, self.config.time_budget - progress.seconds)
        return Outlook(
            step=progress.step,
            planned_steps=progress.planned_steps,
            record=record,
            validation=self.log.validations[-1] if self.log.validations else None,
            clip_fraction=self.guard.summary().clip_fraction,
            seconds_left=max(seconds_left, 0.0),
        )


def _validate(task: Task, progress: Progress, log: TelemetryLog) -> None:
    """Validate, and remember the weights if they are the best so far."""
    if not len(task.split.validated):
        progress.best_weights = _copy(task.network)
        return
    record = validate(task.network, task.windows, task.split, task.error_scale_n, progress.step)
    log.append(record)
    if record.loss < progress.best_loss or not progress.best_weights:
        progress.best_loss, progress.best_step = record.loss, progress.step
        progress.best_weights = _copy(task.network)


def _copy(network: ForecastNetwork) -> dict[str, Tensor]:
    return {name: tensor.detach().clone() for name, tensor in network.state_dict().items()}


def _gave_up(record: StepRecord, config: TrainingConfig) -> Problem:
    return Problem(
        where=f"training step {record.step}",
        expected="a finite loss and finite gradients",
        got=f"{MOST_BAD_STEPS} steps in a row without; loss {record.loss}; not finite: "
        f"{', '.join(record.nonfinite[:5]) or 'the loss only'}",
        fix=f"lower the learning rate (now {record.lr:.2g}: --lr {record.lr / 10:.1g}), clip harder (now --clip "
        f"{config.clip}), or look for outliers with `holdfast check`; no weight was changed by these steps",
    )


@contextmanager
def seeded(seed: int, step: int) -> Iterator[None]:
    """Random numbers (dropout) that depend on seed and step alone; the caller's random state comes back afterwards."""
    with torch.random.fork_rng():
        torch.manual_seed((seed * 1_000_003 + step) % 2**63)
        yield


@contextmanager
def interruptions() -> Iterator[Callable[[], bool]]:
    """Let a first Ctrl-C wait for the end of the step; a second one acts at once. Only the main thread can listen."""
    if threading.current_thread() is not threading.main_thread():
        yield lambda: False
        return
    asked = False
    before = signal.getsignal(signal.SIGINT)

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
