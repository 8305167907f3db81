"""Small tables, and options that train on them within a second."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import polars as pl

from holdfast import Forecaster

SEASON, HORIZON = 6, 4
OPTIONS: dict[str, Any] = {
    "horizon": HORIZON,
    "season_length": SEASON,
    "hidden_size": 8,
    "batch_size": 16,
    "max_steps": 2,
}


def small(**options: Any) -> Forecaster:
    return Forecaster(**{**OPTIONS, **options})


def wave(rows: int, seed: int, noise: float = 0.5) -> np.ndarray:
    """One season again and again, with noise."""
    rng = np.random.default_rng(seed)
    return 10 + 3 * np.sin(2 * np.pi * np.arange(rows) / SEASON) + rng.normal(0, noise, rows)


def series(values: dict[Any, np.ndarray], **columns: Any) -> pl.DataFrame:
    """A long table out of the values of each series, with times from 0; further columns are given per row."""
    parts = [
        pl.DataFrame({"unique_id": [name] * len(y), "ds": np.arange(len(y)), "y": y}) for name, y in values.items()
    ]
    return pl.concat(parts).with_columns(**{name: pl.Series(column) for name, column in columns.items()})


def table(rows: int = 60, ids: str = "ab", seed: int = 0) -> pl.DataFrame:
    return series({name: wave(rows, seed + place) for place, name in enumerate(ids)})


KINDS: dict[str, Callable[[pl.DataFrame], Any]] = {
    "pandas": pl.DataFrame.to_pandas,
    "polars": pl.DataFrame.clone,
    "pyarrow": pl.DataFrame.to_arrow,
}
DATES = pl.date(2024, 1, 1) + pl.duration(days="ds")


def error(forecaster: Forecaster, frame: pl.DataFrame, model: str = "holdfast") -> float:
    """Mean absolute error over two windows."""
    backtest = forecaster.backtest(frame, 2)
    return float((backtest[model] - backtest["y"]).abs().mean())
