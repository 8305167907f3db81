"""Darts: RNNModel and BlockRNNModel."""

from __future__ import annotations

from functools import partial
from typing import Any

import numpy as np
import polars as pl
from darts import TimeSeries
from darts.dataprocessing.transformers import Scaler
from darts.models import BlockRNNModel, RNNModel
from darts.utils.likelihood_models.torch import QuantileRegression
from pytorch_lightning import Callback

from .task import BATCH, CONTEXT, LAYERS, UNITS, Fitted, Task, clock_of, forecasts, series_of, trainer_options

Series = tuple[list[str], list[TimeSeries]]


def convert(table: pl.DataFrame, shortest: int = 0) -> Series:
    """Names, and one object per series, in float32 as the library's guide to speed asks.

    The library takes no series that is shorter than a window: its first value is repeated in front.
    """
    series = series_of(table)
    longer = [np.pad(y, (max(0, shortest - len(y)), 0), mode="edge").astype(np.float32) for y in series.values()]
    return list(series), [TimeSeries.from_values(values) for values in longer]


def fit(train: pl.DataFrame, task: Task, variant: str) -> Fitted:
    """Defaults (a plain RNN of 25 units, squared error, 100 epochs) but for what must be given.

    The steps fed are three horizons, as NeuralForecast has them; RNNModel learns from windows of these and one
    horizon. The models do not scale the series, so the library's `Scaler` does, as in its guides. An interval needs the
    library's quantile loss.
    """
    clock = clock_of(task)
    fed = CONTEXT if task.equal else 3 * task.horizon
    options: dict[str, Any] = {"random_state": task.seed, "pl_trainer_kwargs": trainer_options(Callback, clock)}
    if variant.endswith("LSTM") or task.equal:
        options["model"] = "LSTM"
    if task.interval:
        options["likelihood"] = QuantileRegression([0.1, 0.5, 0.9])
    if task.equal:
        options |= {"hidden_dim": UNITS, "n_rnn_layers": LAYERS, "batch_size": BATCH}
    if variant.startswith("BlockRNN"):
        model = BlockRNNModel(fed, task.horizon, **options)
    else:
        model = RNNModel(fed, training_length=fed + task.horizon, **options)
    own = partial(convert, shortest=fed + task.horizon)
    model.fit(Scaler().fit_transform(own(train)[1]))

    def predict(given: Series) -> pl.DataFrame:
        names, series = given
        scaler = Scaler()
        scaled = scaler.fit_transform(series)
        ahead = model.predict(task.horizon, series=scaled, predict_likelihood_parameters=task.interval)
        parts = [[each.univariate_component(k) for each in ahead] for k in ((1, 0, 2) if task.interval else (0,))]
        values = [np.stack([each.values()[:, 0] for each in scaler.inverse_transform(part)]) for part in parts]
        return forecasts(names, *values)

    return Fitted(clock, own, predict)
