"""Scores on the held-out last horizon of each series, beside seasonal naive."""

from __future__ import annotations

import time

import torch
from torch import Tensor

from holdfast.networks import ForecastNetwork, Target, anchor_forecasts
from holdfast.telemetry import ValidationRecord
from holdfast.training.split import Split
from holdfast.windows import Windows

WINDOWS_AT_ONCE = 256


@torch.no_grad()
def validate(
    network: ForecastNetwork, windows: Windows, split: Split, error_scale_n: Tensor, step: int
) -> ValidationRecord:
    """Loss, scaled error and skill on the F rows behind `until` of each validated series.

    The seasonal naive forecast beside it is that of the network's first season (the last value without one).
    """
    started = time.perf_counter()
    config, sums = network.config, torch.zeros(4, dtype=torch.float64)
    network.eval()
    for start in range(0, len(split.validated), WINDOWS_AT_ONCE):
        series = torch.from_numpy(split.validated[start : start + WINDOWS_AT_ONCE])
        cutoff = torch.from_numpy(split.until_n)[series]
        batch = windows.gather(series, cutoff, context_length=config.context_length, horizon=config.horizon)
        error_scale_B, mask_BF = error_scale_n[batch.series_B], batch.target_mask_BF
        parameters = network(batch)
        season = ("season", config.seasons[0]) if config.seasons else ("last", 1)
        naive_BF = anchor_forecasts(batch.y_BT, batch.mask_BT, [season], config.horizon)[..., 0]  # type: ignore[list-item]
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
