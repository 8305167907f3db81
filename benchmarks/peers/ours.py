"""holdfast with its defaults, and the seasonal naive forecast."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import polars as pl

from holdfast import Forecaster
from holdfast.forecasting import seasonal_naive

from .task import BATCH, CONTEXT, LAYERS, UNITS, Clock, Fitted, Task, clock_of, forecasts, numbered, series_of

NAMES = {"holdfast": "holdfast", "holdfast-lo-80": "low", "holdfast-hi-80": "high"}
UNLIMITED = 10**9  # steps: the clock decides


def options_of(task: Task, variant: str) -> Forecaster:
    """Defaults with a time budget; in the speed rows the equal architecture, with one step or one season at a time."""
    forecaster = Forecaster(horizon=task.horizon, season_length=task.season, seed=task.seed, time_budget=task.seconds)
    if task.equal:
        forecaster = replace(
            forecaster, context_length=CONTEXT, hidden_size=UNITS, layers=LAYERS, batch_size=BATCH, max_steps=UNLIMITED
        )
    if task.steps is not None:
        forecaster = replace(forecaster, max_steps=task.steps)
    return replace(forecaster, segment=1) if variant == "segment 1" else forecaster


def fit(train: pl.DataFrame, task: Task, variant: str) -> Fitted:
    """Train within the budget, which is an option of its own and plans the learning rate."""
    if variant == "naive":
        return naive(task)
    clock = clock_of(task)
    clock.start()
    forecaster = options_of(task, variant).fit(train, show=lambda _: clock.tick() and None)
    clock.started = clock.ends[-1] - float(forecaster.fitted.metrics["seconds"])  # without reading the table

    def predict(table: pl.DataFrame) -> pl.DataFrame:
        names = {**NAMES, "holdfast": "point"}
        return numbered(forecaster.predict(table)).rename(names).select("unique_id", "step", *names.values())

    return Fitted(clock, lambda table: table, predict)


def naive(task: Task) -> Fitted:
    """Repeat the last season."""

    def predict(table: pl.DataFrame) -> pl.DataFrame:
        series = series_of(table)
        point_nF = np.stack([seasonal_naive(values, task.season, task.horizon) for values in series.values()])
        return forecasts(list(series), point_nF)

    return Fitted(Clock(), lambda table: table, predict)
