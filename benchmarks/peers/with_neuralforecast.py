"""NeuralForecast: LSTM and GRU."""

from __future__ import annotations

import polars as pl
from neuralforecast import NeuralForecast
from neuralforecast.losses.pytorch import MQLoss
from neuralforecast.models import GRU, LSTM
from pytorch_lightning import Callback

from .task import BATCH, CONTEXT, LAYERS, UNITS, Fitted, Task, clock_of, numbered, trainer_options

MODELS = {"LSTM": LSTM, "GRU": GRU}
UNLIMITED = 10**9
NAMES = {"-median": "point", "-lo-80": "low", "-hi-80": "high"}


def convert(table: pl.DataFrame) -> pl.DataFrame:
    """Steps instead of dates."""
    return table.with_columns(pl.int_range(pl.len()).over("unique_id").alias("ds"))


def fit(train: pl.DataFrame, task: Task, variant: str) -> Fitted:
    """Defaults (1000 steps, absolute error); the learning rate falls as if all of them were taken.

    An interval needs the library's quantile loss instead, a series shorter than the input its padding.
    """
    clock = clock_of(task)
    options = trainer_options(Callback, clock)
    if task.equal:
        options |= {"input_size": CONTEXT, "windows_batch_size": BATCH, "max_steps": UNLIMITED}
        options |= {"encoder_n_layers": LAYERS, "encoder_hidden_size": UNITS}
    if train.group_by("unique_id").len()["len"].min() < 3 * task.horizon:
        options["start_padding_enabled"] = True
    if task.interval:
        options["loss"] = MQLoss(level=[80])
    names = {variant + suffix: name for suffix, name in (NAMES if task.interval else {"": "point"}).items()}
    model = MODELS[variant](h=task.horizon, random_seed=task.seed, **options)
    peer = NeuralForecast(models=[model], freq=1)
    peer.fit(convert(train))

    def predict(table: pl.DataFrame) -> pl.DataFrame:
        return numbered(peer.predict(table)).rename(names).select("unique_id", "step", *names.values())

    return Fitted(clock, convert, predict)
