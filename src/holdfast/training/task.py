"""What to train on what, and how."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

from holdfast.gradients import ROLES, Role
from holdfast.networks import ForecastNetwork
from holdfast.training.split import Split
from holdfast.windows import Batch, Windows

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
        clip: Rules as `parse_clip` reads them.
        clip_roles: Roles that one rule is over, jointly; None: all.
        penalty: What is added to the loss, as `parse_penalty` reads it.
        seed: Of windows and dropout.
        probe_share: Largest share of the time for looks at the flow of gradients; 0: none.

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
    clip_roles: tuple[Role, ...] | None = None
    penalty: str = "none"
    seed: int = 0
    probe_share: float = 0.03

    @property
    def peak_rate(self) -> float:
        """The learning rate that warm-up leads to."""
        return PEAK_RATES[self.optimizer] if self.lr is None else self.lr

    @property
    def covered(self) -> tuple[Role, ...]:
        """The roles that one rule is over."""
        return ROLES if self.clip_roles is None else self.clip_roles


def name_by_numbers(series: int, rows: int) -> str:
    """The words for a window where nothing is known but numbers.

    Args:
        series: Number of the series.
        rows: How many of its rows the window may see.

    Returns:
        Both, in words.

    Example:
        >>> name_by_numbers(3, 100)
        'series number 3, cutoff at row 100'
    """
    return f"series number {series}, cutoff at row {rows}"


@dataclass(frozen=True)
class Task:
    """What to train on what.

    Attributes:
        network: The forecaster, on the device of the windows.
        windows: The series.
        split: Which rows may be learned from.
        error_scale_n: Seasonal naive error of each series, in the units of the data.
        name_window: The words for a window in errors, from the number of its series and the rows that it may see.

    Example:
        >>> import numpy as np, torch
        >>> from holdfast.networks import NetworkConfig, QuantileHead
        >>> from holdfast.training import split_series
        >>> windows = Windows.from_arrays(np.arange(12.0), offsets=[0, 12], lengths=[10])
        >>> network = ForecastNetwork(NetworkConfig(horizon=2, context_length=4), QuantileHead((80.0,)))
        >>> task = Task(network, windows, split_series(np.array([10]), 4, 2), torch.ones(1))
        >>> task.split.until_n.tolist(), task.name_window(0, 6)
        ([8], 'series number 0, cutoff at row 6')
    """

    network: ForecastNetwork
    windows: Windows
    split: Split
    error_scale_n: Tensor
    name_window: Callable[[int, int], str] = name_by_numbers

    def draw(self, config: TrainingConfig, step: int) -> Batch:
        """The windows of a step, which depend on seed and number alone.

        Args:
            config: Batch size and seed.
            step: Number of the step, from 1.
        """
        size = self.network.config
        return self.windows.gather(
            *self.split.sampler(config.batch_size, config.seed).draw(step),
            context_length=size.context_length,
            horizon=size.horizon,
            until_n=torch.from_numpy(self.split.until_n).to(self.windows.y_R.device),
        )
