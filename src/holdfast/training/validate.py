"""Scores on the held-out end of each series, next to the best naive forecast."""

from __future__ import annotations

import math
import time
from collections.abc import Sequence

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

    The naive forecast next to it is the one to beat, of `baseline_season`, as far back as the context reaches. The
    network is in training mode afterwards.

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
    season: Anchor = ("season", config.baseline_season)
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


def best_naive(
    windows: Windows, split: Split, error_scale_n: Tensor, seasons: Sequence[int], horizon: int
) -> int | None:
    """The season of the naive forecast with the smallest error on the validation windows.

    The candidates are the last value (season 1) and the seasonal naive forecast of each season.

    Args:
        windows: The series.
        split: Which windows to validate on.
        error_scale_n: Seasonal naive error of each series, in the units of the data.
        seasons: Season lengths in steps; of equals, the first wins.
        horizon: Steps to forecast.

    Returns:
        A season length, 1 for the last value; None where nothing can be validated.

    Example:
        >>> import numpy as np
        >>> from holdfast.training import split_series
        >>> windows = Windows.from_arrays([1.0, 5.0, 9.0] * 8, offsets=[0, 24], lengths=[22])
        >>> best_naive(windows, split_series(np.array([22]), 6, 2), torch.ones(1), (2, 3), horizon=2)
        3
    """
    candidates = tuple(dict.fromkeys((*seasons, 1)))
    errors = [_naive_error(windows, split, error_scale_n, season, horizon) for season in candidates]
    known = [error for error in errors if not math.isnan(error)]
    return candidates[errors.index(min(known))] if known else None


def _naive_error(windows: Windows, split: Split, error_scale_n: Tensor, season: int, horizon: int) -> float:
    """Mean scaled error of one naive forecast on the validation windows; nan without one."""
    total, count = 0.0, 0
    for start in range(0, len(split.validated_V), WINDOWS_AT_ONCE):
        some = slice(start, start + WINDOWS_AT_ONCE)
        batch = windows.gather(
            split.validated_V[some], split.cutoff_V[some], context_length=2 * season, horizon=horizon
        )
        naive_BF = anchor_forecasts(batch.y_BT, batch.mask_BT, [("season", season)], horizon)[..., 0]
        error_BF = (naive_BF - batch.target_BF).abs() / error_scale_n[batch.series_B][:, None]
        total += float(error_BF[batch.target_mask_BF].double().sum())
        count += int(batch.target_mask_BF.sum())
    return total / count if count else math.nan
