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
from torch.optim import SGD, AdamW, Optimizer

from holdfast.errors import TrainingError
from holdfast.flow import FlowProbe
from holdfast.gradients import ROLES, Clause, ClipAuto, GradientGuard, parse_clip
from holdfast.networks import ForecastNetwork
from holdfast.telemetry import News, Outlook, StepRecord, TelemetryLog, ThresholdRecord, ValidationRecord
from holdfast.training.average import clone_weights, follow, wearing
from holdfast.training.checkpoint import Progress, load_checkpoint, save_checkpoint
from holdfast.training.flow import probe_flow
from holdfast.training.penalty import parse_penalty
from holdfast.training.retreat import MOST_BAD_STEPS, MOST_RETREATS, RETREAT_RATE, gave_up, retreat, suspects
from holdfast.training.schedule import learning_rate
from holdfast.training.step import train_step
from holdfast.training.task import Task, TrainingConfig
from holdfast.training.validate import validate
from holdfast.windows import Batch

VALIDATE_EVERY = 50  # steps; a checkpoint is written at the same time
PATIENCE, LEAST_PATIENCE = 2, 150  # training ends when half of the planned steps, at least 150, brought nothing
CALIBRATION_STEPS = 20  # after which the steps that fit into a time budget are first estimated


def make_optimizer(network: ForecastNetwork, config: TrainingConfig) -> Optimizer:
    """The fused optimiser of the configuration."""
    if config.optimizer == "sgd":
        return SGD(network.parameters(), lr=config.peak_rate, momentum=0.9, fused=True)
    return AdamW(network.parameters(), lr=config.peak_rate, weight_decay=config.weight_decay, fused=True)


def make_guard(network: ForecastNetwork, config: TrainingConfig) -> GradientGuard:
    """The gradient guard of the configuration.

    Args:
        network: Whose gradients it clips.
        config: Says how.

    Returns:
        A guard that skips steps that are not finite and never gives up: the loop decides, for it can go back.

    Raises:
        OptionError: The rules cover no parameter of the network.

    Example:
        >>> from holdfast.networks import NetworkConfig, QuantileHead
        >>> network = ForecastNetwork(NetworkConfig(horizon=2, context_length=4), QuantileHead((80.0,)))
        >>> print(*make_guard(network, TrainingConfig(clip="recurrent=norm:1,head=norm:2")).clauses, sep="; ")
        norm:1 over recurrent; norm:2 over head
    """
    plan = parse_clip(config.clip)
    return GradientGuard(
        network,
        plan.rule,
        cap=plan.cap,
        roles=ROLES if plan.by_role else config.covered,
        overrides=network.ROLES,
        nonfinite="skip",
        give_up_after=None,
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
    """Train the network and leave the weights with the lowest validation loss in it, as averaged over the last steps.

    The windows, the dropout and the learning rate of a step depend on its number alone, so a run that was killed and
    resumed from its checkpoint takes exactly the steps that it would have taken. The untrained network, the mean of
    its anchors, is validated first and is a candidate like any other. Training ends before its last step when half of
    the planned steps, and at least 150, have brought no lower validation loss. Ten steps in a row that are not finite
    send the run back to its best weights, with a quarter of the learning rate; after three such retreats it gives up.
    Now and then the flow of gradients is looked at, which changes no bit of the weights.

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
        TrainingError: Ten steps in a row were not finite, again after the last retreat.
        RunDirectoryError: The checkpoint is missing, damaged or of another network.
        KeyboardInterrupt: The user pressed Ctrl-C; the state was saved if there is a checkpoint file.

    Example:
        >>> import numpy as np
        >>> from holdfast.networks import NetworkConfig, QuantileHead
        >>> from holdfast.training import split_series
        >>> from holdfast.windows import Windows
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
    if not resume or checkpoint is None:
        progress = Progress(step=0, planned_steps=config.max_steps if task.split.trainable else 0)
        validate_and_remember(task, progress, log)
        if not progress.planned_steps:
            return progress
    optimizer, guard = make_optimizer(task.network, config), make_guard(task.network, config)
    if resume and checkpoint is not None:
        progress = load_checkpoint(checkpoint, task.network, optimizer, guard)
        progress.planned_steps = fitting_steps(progress, config, progress.seconds / progress.step)
    loop = Loop(task, config, progress, optimizer, guard, log)

    with interruptions() as interrupted:
        while progress.step < progress.planned_steps and not is_idle(progress):
            record = loop.step()
            if show is not None:
                show(loop.outlook(record))
            due = progress.step % VALIDATE_EVERY == 0 or progress.step == progress.planned_steps
            if due:
                validate_and_remember(task, progress, log)
            if checkpoint is not None and (due or interrupted()):
                save_checkpoint(checkpoint, progress, task.network, optimizer, guard)
            if interrupted():
                raise KeyboardInterrupt
    task.network.load_state_dict(progress.best_weights)
    return progress


@dataclass
class Loop:
    """The moving parts of one call of `train`."""

    task: Task
    config: TrainingConfig
    progress: Progress
    optimizer: Optimizer
    guard: GradientGuard
    log: TelemetryLog

    def __post_init__(self) -> None:
        self.penalty = parse_penalty(self.config.penalty)
        self.probe = FlowProbe(self.task.network, budget=self.config.probe_share)
        self.news: list[News] = []  # of the newest step
        self.resumed_at = self.progress.step
        self.seconds_before = self.progress.seconds
        self.started = time.perf_counter()

    def step(self) -> StepRecord:
        """Draw the windows of the next step, take it, keep its record."""
        progress, network = self.progress, self.task.network
        number = progress.step + 1
        peak = self.config.peak_rate * RETREAT_RATE**progress.retreats
        for group in self.optimizer.param_groups:
            group["lr"] = learning_rate(number, progress.planned_steps, peak)
        batch = self.task.draw(self.config, number)
        self.news = []
        choosing = [clause for clause in self.guard.clauses if _is_choosing(clause)]
        error_scale_B = self.task.error_scale_n[batch.series_B]
        with seeded(self.config.seed, number):
            record = train_step(network, batch, error_scale_B, self.optimizer, self.guard, number, self.penalty)
            self.log.append(record)
            probe_flow(self.probe, self.task, batch, number, self.log)
        for clause in choosing:
            self.tell_chosen(clause, number)
        progress.bad_in_a_row = progress.bad_in_a_row + 1 if record.skipped else 0
        if progress.bad_in_a_row == MOST_BAD_STEPS:
            self.go_back(batch)
        follow(progress.average, network, number)
        progress.step = number
        progress.seconds = self.seconds_before + time.perf_counter() - self.started
        self.plan()
        return record

    def go_back(self, batch: Batch) -> None:
        """Return to the best weights, or give up over this batch if that was done often enough."""
        bad = self.log.steps[-MOST_BAD_STEPS:]
        network, progress = self.task.network, self.progress
        if progress.retreats == MOST_RETREATS:
            with seeded(self.config.seed, bad[-1].step):
                windows = suspects(network, batch, self.task.error_scale_n[batch.series_B])
            raise TrainingError(gave_up(self.task, self.config, bad, windows))
        self.tell(retreat(progress, network, self.optimizer, bad))

    def tell_chosen(self, clause: Clause, step: int) -> None:
        """Keep the bound of a rule that has chosen one in this step."""
        if not _is_choosing(clause):
            rule, memory = str(clause.rule), clause.memory
            bound, share = memory.chosen, memory.expected_clip_fraction
            self.tell(
                ThresholdRecord(step=step, rule=rule, roles=clause.roles, max_norm=bound, expected_clip_fraction=share)
            )

    def tell(self, news: News) -> None:
        """Keep what changes the course of the run, and show it with the step."""
        self.log.append(news)
        self.news.append(news)

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
            news=tuple(map(str, self.news)),
        )


def is_idle(progress: Progress) -> bool:
    """Whether half of the planned steps, and at least 150, brought no lower validation loss.

    Example:
        >>> is_idle(Progress(550, 1200, best_loss=0.5)), is_idle(Progress(600, 1200, best_loss=0.5))
        (False, True)
    """
    patience = max(progress.planned_steps // PATIENCE, LEAST_PATIENCE)
    waited = progress.step - progress.best_step
    return progress.best_loss < math.inf and waited >= VALIDATE_EVERY * math.ceil(patience / VALIDATE_EVERY)


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


def _is_choosing(clause: Clause) -> bool:
    """Whether the rule still measures the steps that it chooses its bound by."""
    return isinstance(clause.rule, ClipAuto) and clause.memory.chosen is None


def validate_and_remember(task: Task, progress: Progress, log: TelemetryLog) -> None:
    """Validate the averaged weights, and remember the best so far; where nothing can be scored, the first ones."""
    loss = math.nan
    progress.average = progress.average or clone_weights(task.network)
    if len(task.split.validated_V):
        with wearing(task.network, progress.average):
            record = validate(task.network, task.windows, task.split, task.error_scale_n, progress.step)
        log.append(record)
        progress.seconds += record.seconds
        loss = record.loss
    if loss < progress.best_loss or not progress.best_weights:
        progress.best_loss = math.inf if math.isnan(loss) else loss
        progress.best_step = progress.step
        progress.best_weights = {name: tensor.clone() for name, tensor in progress.average.items()}


@contextmanager
def seeded(seed: int, step: int) -> Iterator[None]:
    """Random numbers (dropout) that depend on seed and step alone; the caller's random state comes back afterwards.

    Example:
        >>> with seeded(0, step=7):
        ...     first = torch.rand(2)
        >>> with seeded(0, step=7):
        ...     torch.equal(torch.rand(2), first)
        True
    """
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
