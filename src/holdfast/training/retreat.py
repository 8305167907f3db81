"""What training does about steps in a row that are not finite: back to the best weights, more slowly; then an error.

Shapes: B windows, F horizon steps.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import groupby

import torch
from torch import Tensor
from torch.optim import Optimizer

from holdfast.errors import Problem
from holdfast.networks import ForecastNetwork, Target
from holdfast.telemetry import RetreatRecord, StepRecord, some_of
from holdfast.training.average import clone_weights
from holdfast.training.checkpoint import Progress
from holdfast.training.task import PEAK_RATES, Task, TrainingConfig
from holdfast.windows import Batch

MOST_BAD_STEPS = 10  # in a row, before a run goes back
MOST_RETREATS = 3  # before a run gives up
RETREAT_RATE = 0.25  # what each retreat multiplies the learning rate of all later steps by
MOST_NAMED = 5  # windows, tensors, or kinds of bad steps


def retreat(
    progress: Progress, network: ForecastNetwork, optimizer: Optimizer, bad: Sequence[StepRecord]
) -> RetreatRecord:
    """Put a run back to its best validated weights, with an empty optimiser state and a lower learning rate.

    The moments go too: what made the weights diverge is still in them.

    Args:
        progress: Of the run; its retreats are counted.
        network: Takes the best weights.
        optimizer: Loses its state.
        bad: The steps that were not finite, as far as their records are there; at least the last one.

    Returns:
        What happened.
    """
    network.load_state_dict(progress.best_weights)
    progress.average = clone_weights(network)
    optimizer.state.clear()
    first_bad_step = bad[-1].step - progress.bad_in_a_row + 1
    progress.retreats += 1
    progress.bad_in_a_row = 0
    return RetreatRecord(
        step=bad[-1].step,
        first_bad_step=first_bad_step,
        to_step=progress.best_step,
        retreats=progress.retreats,
        lr_factor=RETREAT_RATE**progress.retreats,
        nonfinite=tuple(dict.fromkeys(name for record in bad for name in record.nonfinite)),
    )


@dataclass(frozen=True)
class Suspect:
    """A window of a batch that was not finite.

    Attributes:
        series: Number of its series.
        cutoff: Rows of the series that it may see.
        largest: Largest absolute value in its context and horizon, in the units of the data.
        loss: Its own mean loss; 0 without a target.
    """

    series: int
    cutoff: int
    largest: float
    loss: float


@torch.no_grad()
def suspects(network: ForecastNetwork, batch: Batch, error_scale_B: Tensor) -> list[Suspect]:
    """The windows of a batch, each once: those with a loss that is not finite first, then by their largest value.

    Args:
        network: The forecaster with the weights, and the random state, of the step.
        batch: B windows.
        error_scale_B: Seasonal naive error of each window's series, in the units of the data.
    """
    mask_BF = batch.target_mask_BF
    loss_BF = network.head.loss(network(batch), Target(batch.target_BF, error_scale_B))
    loss_B = torch.where(mask_BF, loss_BF, 0.0).sum(1) / mask_BF.sum(1).clamp(min=1)
    largest_B = torch.cat([batch.y_BT, batch.target_BF], dim=1).abs().amax(1)
    columns = (batch.series_B, batch.cutoff_B, largest_B, loss_B)
    found = {
        (series, cutoff): Suspect(series, cutoff, largest, loss)
        for series, cutoff, largest, loss in zip(*(column.tolist() for column in columns), strict=True)
    }
    return sorted(found.values(), key=lambda window: (math.isfinite(window.loss), -window.largest))


def gave_up(task: Task, config: TrainingConfig, bad: Sequence[StepRecord], windows: Sequence[Suspect]) -> Problem:
    """Why a run ends: which steps, tensors and windows were not finite, and what to do.

    Args:
        task: Names the windows.
        config: How the run was trained.
        bad: The last steps, none of them finite.
        windows: Those of the last step's batch, the most suspicious first.
    """
    said = [
        f"{task.name_window(window.series, window.cutoff)} (largest |y| {window.largest:.3g}, loss {window.loss:.3g})"
        for window in windows
    ]
    return Problem(
        where=f"training step {bad[-1].step}",
        expected="a finite loss and finite gradients",
        got=f"{MOST_BAD_STEPS} steps in a row without, and {MOST_RETREATS} returns to the best weights with a lower "
        f"learning rate did not help; {_told(bad)}; the batch of step {bad[-1].step}, most suspicious first: "
        f"{some_of(said, MOST_NAMED)}",
        fix=f"{_way_out(config, bad, windows)}; no weight was changed by these steps",
    )


def _told(bad: Sequence[StepRecord]) -> str:
    """The last bad steps with loss and tensors; neighbours that are alike are told together."""
    told = []
    for (loss, nonfinite), group in groupby(bad, key=lambda record: (f"{record.loss:.3g}", record.nonfinite)):
        steps = [record.step for record in group]
        place = f"step {steps[0]}" if len(steps) == 1 else f"steps {steps[0]}-{steps[-1]}"
        told.append(f"{place}: loss {loss}, not finite: {some_of(nonfinite, MOST_NAMED)}")
    return "; ".join(told[-MOST_NAMED:])


def _way_out(config: TrainingConfig, bad: Sequence[StepRecord], windows: Sequence[Suspect]) -> str:
    """What to try: the data or the penalty if they are to blame, else a smaller step."""
    broken = sum(not math.isfinite(window.loss) for window in windows)
    usual = PEAK_RATES[config.optimizer]
    tries = []
    if 0 < broken < len(windows):
        tries.append("correct the values of the windows whose loss is not finite, or leave them empty (missing)")
    if any("penalty" in record.nonfinite and "loss" not in record.nonfinite for record in bad):
        tries.append(f"fit again without --penalty {config.penalty}, or with a strength of a tenth")
    if config.peak_rate > usual:
        tries.append(f"fit again with the usual learning rate, --lr {usual:g} instead of {config.peak_rate:g}")
    if not tries:
        tries.append(
            f"look for outliers in these windows, or fit again and clip harder than --clip {config.clip}, "
            f"with --lr {config.peak_rate / 10:g}"
        )
    return "; ".join(tries)
