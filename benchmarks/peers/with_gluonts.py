"""GluonTS: DeepAR in PyTorch."""

from __future__ import annotations

from typing import Any

import numpy as np
import pandas as pd
import polars as pl
from gluonts.dataset.common import ListDataset
from gluonts.torch import DeepAREstimator
from lightning.pytorch import Callback, seed_everything

from .task import BATCH, CONTEXT, LAYERS, UNITS, Fitted, Task, clock_of, forecasts, series_of, trainer_options

START = pd.Period("1750-01-01 00:00", "h")  # as in the library's own copy of M4 Hourly


def starts_of(table: pl.DataFrame) -> list[pd.Period]:
    """The period in which each series starts; steps without a date are hours."""
    dates = table.group_by("unique_id", maintain_order=True).agg("ds")["ds"]
    if not table["ds"].dtype.is_temporal():
        return [START] * len(dates)
    frequency = pd.DatetimeIndex(dates[0].to_numpy()).to_period().freqstr
    return [pd.Period(each[0], freq=frequency) for each in dates]


def frequency_of(starts: list[pd.Period]) -> str:
    """The name of the offset, which pandas 3 tells from that of the period."""
    return starts[0].freq.freqstr


def convert(table: pl.DataFrame) -> ListDataset:
    """Dictionaries of start, target and name."""
    starts = starts_of(table)
    series = zip(starts, series_of(table).items(), strict=True)
    entries = [{"start": start, "target": values, "item_id": name} for start, (name, values) in series]
    return ListDataset(entries, freq=frequency_of(starts))


def fit(train: pl.DataFrame, task: Task, _: str) -> Fitted:
    """Defaults (100 epochs of 50 steps, 100 sample paths per forecast)."""
    seed_everything(task.seed, verbose=False)
    clock = clock_of(task)
    size: dict[str, Any] = {}
    if task.equal:
        size = {"context_length": CONTEXT, "num_layers": LAYERS, "hidden_size": UNITS, "batch_size": BATCH}
    trainer = trainer_options(Callback, clock)
    frequency = frequency_of(starts_of(train))
    estimator = DeepAREstimator(freq=frequency, prediction_length=task.horizon, trainer_kwargs=trainer, **size)
    predictor = estimator.train(convert(train))

    def predict(data: ListDataset) -> pl.DataFrame:
        names, quantiles = [], []
        for forecast in predictor.predict(data):
            names.append(forecast.item_id)
            quantiles.append(np.quantile(forecast.samples, (0.5, 0.1, 0.9), axis=0))
        return forecasts(names, *np.stack(quantiles, axis=1))

    return Fitted(clock, convert, predict)
