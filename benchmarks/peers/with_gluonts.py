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


def convert(table: pl.DataFrame) -> ListDataset:
    """Dictionaries of start, target and name."""
    entries = [{"start": START, "target": values, "item_id": name} for name, values in series_of(table).items()]
    return ListDataset(entries, freq="h")


def fit(train: pl.DataFrame, task: Task, _: str) -> Fitted:
    """Defaults (100 epochs of 50 steps, 100 sample paths per forecast)."""
    seed_everything(task.seed, verbose=False)
    clock = clock_of(task)
    size: dict[str, Any] = {}
    if task.equal:
        size = {"context_length": CONTEXT, "num_layers": LAYERS, "hidden_size": UNITS, "batch_size": BATCH}
    trainer = trainer_options(Callback, clock)
    estimator = DeepAREstimator(freq="h", prediction_length=task.horizon, trainer_kwargs=trainer, **size)
    predictor = estimator.train(convert(train))

    def predict(data: ListDataset) -> pl.DataFrame:
        names, quantiles = [], []
        for forecast in predictor.predict(data):
            names.append(forecast.item_id)
            quantiles.append(np.quantile(forecast.samples, (0.5, 0.1, 0.9), axis=0))
        return forecasts(names, *np.stack(quantiles, axis=1))

    return Fitted(clock, convert, predict)
