"""NeuralForecast: LSTM and GRU."""

from __future__ import annotations

import polars as pl
from neuralforecast import NeuralForecast
from neuralforecast.models import GRU, LSTM
from pytorch_lightning import Callback

from .task import BATCH, CONTEXT, LAYERS, UNITS, Fitted, Task, clock_of, numbered, trainer_options

MODELS = {"LSTM": LSTM, "GRU": GRU}
UNLIMITED = 10**9


def fit(train: pl.DataFrame, task: Task, variant: str) -> Fitted:
    """Defaults (1000 steps, absolute error, no interval); the learning rate falls as if all of them were taken."""
    clock = clock_of(task)
    options = trainer_options(Callback, clock)
    if task.equal:
        options |= {"input_size": CONTEXT, "windows_batch_size": BATCH, "max_steps": UNLIMITED}
        options |= {"encoder_n_layers": LAYERS, "encoder_hidden_size": UNITS}
    model = MODELS[variant](h=task.horizon, random_seed=task.seed, **options)
    peer = NeuralForecast(models=[model], freq=1)
    peer.fit(train)

    def predict(table: pl.DataFrame) -> pl.DataFrame:
        return numbered(peer.predict(table)).rename({variant: "point"}).select("unique_id", "step", "point")

    return Fitted(clock, lambda table: table, predict)
