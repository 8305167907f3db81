"""Darts: RNNModel and BlockRNNModel."""

from __future__ import annotations

from typing import Any

import numpy as np
import polars as pl
from darts import TimeSeries
from darts.dataprocessing.transformers import Scaler
from darts.models import BlockRNNModel, RNNModel
from pytorch_lightning import Callback

from .task import BATCH, CONTEXT, LAYERS, UNITS, Fitted, Task, clock_of, forecasts, series_of, trainer_options

Series = tuple[list[str], list[TimeSeries]]


def convert(table: pl.DataFrame) -> Series:
    """Names, and one object per series, in float32 as the library's guide to speed asks."""
    series = series_of(table)
    return list(series), [TimeSeries.from_values(values.astype(np.float32)) for values in series.values()]


def fit(train: pl.DataFrame, task: Task, variant: str) -> Fitted:
    """Defaults (a plain RNN of 25 units, 100 epochs) but for what must be given.

    The steps fed are three horizons, as NeuralForecast has them; RNNModel learns from windows of these and one
    horizon. The models do not scale the series, so the library's `Scaler` does, as in its guides.
    """
    clock = clock_of(task)
    fed = CONTEXT if task.equal else 3 * task.horizon
    options: dict[str, Any] = {"random_state": task.seed, "pl_trainer_kwargs": trainer_options(Callback, clock)}
    if variant.endswith("LSTM") or task.equal:
        options["model"] = "LSTM"
    if task.equal:
        options |= {"hidden_dim": UNITS, "n_rnn_layers": LAYERS, "batch_size": BATCH}
    if variant.startswith("BlockRNN"):
        model = BlockRNNModel(fed, task.horizon, **options)
    else:
        model = RNNModel(fed, training_length=fed + task.horizon, **options)
    model.fit(Scaler().fit_transform(convert(train)[1]))

    def predict(given: Series) -> pl.DataFrame:
        names, series = given
        scaler = Scaler()
        ahead = scaler.inverse_transform(model.predict(task.horizon, series=scaler.fit_transform(series)))
        return forecasts(names, np.stack([each.values()[:, 0] for each in ahead]))

    return Fitted(clock, convert, predict)
