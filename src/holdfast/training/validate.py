"""Scores on the held-out end of each series, beside seasonal naive."""

from __future__ import annotations

import time

import torch
from torch import Tensor

from holdfast.networks import Anchor, ForecastNetwork, Target, anchor_forecasts
from holdfast.telemetry import ValidationRecord
from holdfast.training.split import Split
from holdfast.windows import Windows

WINDOWS_AT_ONCE = 256


@torch.no_grad()
def validate(
    network: ForecastNetwork, windows: Windows, split: Split, error_scale_n: Tensor, step: int
) -> ValidationRecord:
    """Loss, scaled error and skill on the validation windows.

    The seasonal naive forecast beside it is that of the network's first season (the last value without one), as far
    back as the context reaches. The network is in training mode afterwards.

    Args:
        network: The forecaster, on the device of the windows.
        windows: The series.
        split: Which windows to validate on.
        error_scale_n: Seasonal naive error of each series, in the units of the data.
        step: Optimiser steps done, for the record.

    Returns:
        Means over all observed targets; nan where there is none, and a skill of nan where seasonal naive is exact.

    Example:
        >>> import numpy as np
        >>> from holdfast.networks import NetworkConfig, QuantileHead
        >>> from holdfast.training import split_series
        >>> windows = Windows.from_arrays([5.0, 1.0, 2.0, 4.0, 9.0, 9.0], offsets=[0, 6], lengths=[4])
        >>> network = ForecastNetwork(NetworkConfig(horizon=2, context_length=2), QuantileHead((80.0,)))
        >>> record = validate(network, windows, split_series(np.array([4]), 2, 2), torch.tensor([4.0]), step=0)
        >>> record.error, record.skill  # |2 - 1| and |4 - 1|, in units of 4; the untrained network repeats the 1
        (0.5, 0.0)
    """
    started = time.perf_counter()
    config, sums = network.config, torch.zeros(4, dtype=torch.float64)
    season: Anchor = ("season", config.naive_season)
    network.eval()
    for start in range(0, len(split.validated_V), WINDOWS_AT_ONCE):
        series = torch.from_numpy(split.validated_V[start : start + WINDOWS_AT_ONCE])
        cutoff = torch.from_numpy(split.cutoff_V[start : start + WINDOWS_AT_ONCE])
        batch = windows.gather(series, cutoff, context_length=config.context_length, horizon=config.horizon)
        error_scale_B, mask_BF = error_scale_n[batch.series_B], batch.target_mask_BF
        parameters = network(batch)
        naive_BF = anchor_forecasts(batch.y_BT, batch.mask_BT, [season], config.horizon)[..., 0]
        scaled = [
            network.head.loss(parameters, Target(batch.target_BF, error_scale_B)),
            (network.head.point(parameters) - batch.target_BF).abs() / error_scale_B[:, None],
            (naive_BF - batch.target_BF).abs() / error_scale_B[:, None],
        ]
        sums += torch.stack([*(values_BF[mask_BF].double().sum() for values_BF in scaled), mask_BF.sum()]).cpu()
    network.train()
    loss, error, naive_error = (float(total / sums[3]) for total in sums[:3])
    skill = 1 - error / naive_error if naive_error > 0 else float("nan")
    seconds = time.perf_counter() - started
    return ValidationRecord(step=step, loss=loss, error=error, naive_error=naive_error, skill=skill, seconds=seconds)
