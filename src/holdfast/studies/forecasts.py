"""One run of a forecaster, on the bundled M4 Hourly series or a user's own, scored on a window not used."""

from __future__ import annotations

import json
import math
import statistics
import time
from collections.abc import Sequence
from typing import Any

from holdfast.errors import TrainingError
from holdfast.forecasting.fitted import Fitted
from holdfast.forecasting.forecaster import Forecaster, backtest_fitted
from holdfast.forecasting.metrics import mean_scores, score_table
from holdfast.series import m4_hourly
from holdfast.series.datasets import M4_HOURLY_HORIZON
from holdfast.studies.grid import Trial
from holdfast.studies.train import SCOPES, STARVED, mean
from holdfast.telemetry import StepRecord


def forecast_trial(trial: Trial) -> dict[str, Any]:
    """Fit before the last window of every series, and score the forecasts of it beside seasonal naive.

    Args:
        trial: `task` is m4-hourly (its training part; the competition's test window is not read) or data; `length` is
            the context in steps, 0 for the usual one; `cell`, `init`, `hidden_size`, `head`, `rule` with `scope`,
            `optimizer`, `lr`, `steps`, `batch_size` and `seed` are the options of the fit.

    Returns:
        final_error (mean MASE), relative_error (over that of seasonal naive), solved_step (nan), diverged (a step that
        was not finite, a run that gave up, or an error of more than twice that of seasonal naive), nonfinite_steps,
        done_steps, clip_fraction, cosine, flipped, starved and head_share as of `train_trial`, total_norm,
        growth_before and memory_before (nan), growth_after, memory_after (recurrent steps), bound (nan), seconds.
    """
    started = time.perf_counter()
    m4 = trial.task == "m4-hourly"
    usual = {"horizon": M4_HOURLY_HORIZON, "season_length": 24} if m4 else json.loads(trial.options)
    forecaster = Forecaster(**usual, **_options(trial))
    try:
        fitted, forecasts = backtest_fitted(forecaster, m4_hourly("train") if m4 else trial.data, 1)
    except TrainingError:
        return {**_outcome((), math.nan, math.nan, trial), "diverged": True, "seconds": time.perf_counter() - started}
    season = fitted.network.config.naive_season
    scores = mean_scores(score_table(forecasts, fitted.prepared.checked.table, season, forecaster.levels))["mase"]
    row = _outcome(fitted.log.steps, scores["holdfast"], scores["holdfast"] / scores["seasonal_naive"], trial)
    return {**row, **_flow(fitted), "seconds": time.perf_counter() - started}


def _options(trial: Trial) -> dict[str, Any]:
    clip: dict[str, Any] = {"clip": trial.rule, "clip_roles": SCOPES[trial.scope]}
    if trial.scope == "none":
        clip = {"clip": "none"}
    elif trial.scope == "per-role":
        roles = ("input", "recurrent", "bias", "head", "other")
        clip = {"clip": ",".join(f"{role}={trial.rule}" for role in roles)}
    names = ("cell", "init", "hidden_size", "head", "optimizer", "lr", "batch_size", "seed")
    plain = {name: getattr(trial, name) for name in names}
    return {**plain, **clip, "max_steps": trial.steps, "context_length": trial.length or None}


def _outcome(steps: Sequence[StepRecord], error: float, relative: float, trial: Trial) -> dict[str, Any]:
    finite = [step for step in steps if not step.skipped]
    head = [step.role_norms.get("head", 0.0) for step in finite]
    total = [step.total_norm for step in finite]
    reference = float(trial.rule.removeprefix("norm:")) if trial.rule.startswith("norm:") else 1.0
    return {
        "solved_step": math.nan,
        "final_error": error,
        "relative_error": relative,
        "diverged": len(finite) < len(steps) or not relative <= 2,
        "nonfinite_steps": len(steps) - len(finite),
        "done_steps": len(steps),
        "clip_fraction": mean([step.clipped for step in finite]),
        "cosine": mean([step.cosine for step in finite]),
        "flipped": 0.0,
        "starved": mean([norm <= reference < STARVED * whole for norm, whole in zip(head, total, strict=True)]),
        "head_share": statistics.median([a / b for a, b in zip(head, total, strict=True) if b] or [math.nan]),
        "total_norm": statistics.median(total or [math.nan]),
        **dict.fromkeys(("growth_before", "growth_after", "memory_before", "memory_after"), math.nan),
        "bound": math.nan,
    }


def _flow(fitted: Fitted) -> dict[str, float]:
    """What the probe saw last of the first layer; a memory that it saw no end of has the length of the context."""
    if not fitted.log.flows:
        return {}
    size, newest = fitted.network.config, fitted.log.flows[-1]
    layer = next(iter(newest.rates))
    memory = min(newest.memory_lengths[layer], size.context_length / size.segment)
    return {"growth_after": newest.rates[layer], "memory_after": memory}
