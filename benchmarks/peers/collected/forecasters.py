"""Who forecasts the collection: holdfast, and the models of statsforecast, each with its defaults."""

from __future__ import annotations

import time
import warnings
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import polars as pl
from numpy.typing import NDArray

from holdfast import Forecaster
from holdfast.forecasting import seasonal_naive

from .scores import QUANTILES
from .sets import DataSet

Array = NDArray[np.float64]
LEVELS = (20, 40, 60, 80)
SUFFIXES = [*(f"-lo-{level}" for level in LEVELS[::-1]), "", *(f"-hi-{level}" for level in LEVELS)]
# What one job measures; the two of a pair are fitted once for their mean.
GROUPS = {
    "naive": ("naive", "seasonal naive"),
    "ets-theta": ("AutoETS", "AutoTheta", "mean of AutoETS and AutoTheta"),
    "ces": ("AutoCES",),
    "mstl": ("MSTL",),
    "holdfast": ("holdfast",),
}
SEVERAL = {  # the longer seasons of sets that have several, for MSTL
    "bank_calls_5min": (169, 845),
    "bike_hourly": (24, 168),
    "pedestrian": (24, 168),
    "vic_elec": (48, 336),
}
# Rows of a history that the peers see, the newest ones, where a job with all rows would take more than five minutes.
NEWEST = {
    "bank_calls_5min": 5000,
    "bike_hourly": 8000,
    "exchange_rate": 3000,
    "pedestrian": 5000,
    "solar_vic": 8000,
    "vic_elec": 8000,
}


@dataclass(frozen=True)
class Made:
    """Forecasts of one forecaster.

    Attributes:
        forecast_SCHQ: Series, cutoffs, steps of the horizon, quantiles.
        seconds: Fit and prediction.
        facts: What else to say of it.
    """

    forecast_SCHQ: Array
    seconds: float
    facts: Mapping[str, Any]


def forecast(data: DataSet, group: str, seed: int) -> dict[str, Made]:
    """The forecasts of a group, by the name of the forecaster."""
    if group == "holdfast":
        return {"holdfast": ours(data, seed)}
    models = [name for name in GROUPS[group] if name in MODELS]
    made = {name: peer(data, name, None if group == "naive" else NEWEST.get(data.name)) for name in models}
    if group == "ets-theta":
        ets, theta = made.values()
        mean_SCHQ = (ets.forecast_SCHQ + theta.forecast_SCHQ) / 2
        made[GROUPS[group][-1]] = Made(mean_SCHQ, ets.seconds + theta.seconds, {"newest": ets.facts["newest"]})
    return made


def ours(data: DataSet, seed: int) -> Made:
    """One fit before the first cutoff, then a forecast from each."""
    started = time.perf_counter()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # outages and short histories, said of every cutoff
        forecaster = Forecaster(horizon=data.horizon, season_length=data.season, seed=seed, levels=LEVELS)
        forecaster = forecaster.fit(data.history(0))
        tables = [forecaster.predict(data.history(cutoff)) for cutoff in range(data.cutoffs)]
    seconds = time.perf_counter() - started
    wanted = pl.col("unique_id").is_in(data.scored)
    quantiles = [table.filter(wanted).select("holdfast" + suffix for suffix in SUFFIXES).to_numpy() for table in tables]
    shape = (len(data.scored), data.horizon, len(QUANTILES))
    forecast_SCHQ = np.stack([each.reshape(shape) for each in quantiles], axis=1)
    metrics = forecaster.fitted.metrics
    return Made(forecast_SCHQ, seconds, {"steps": metrics["steps"], "validation_skill": metrics["skill"]})


def peer(data: DataSet, name: str, newest: int | None) -> Made:
    """A fit of every series from every cutoff."""
    model = MODELS[name](data)
    started = time.perf_counter()
    failed, forecasts = 0, []
    for cutoff in range(data.cutoffs):
        for y in data.histories(cutoff):
            made = attempt(model, filled(y, data.season)[-newest if newest else 0 :], data.horizon)
            failed += made is None
            forecasts.append(fallback(y, data) if made is None else made)
    seconds = time.perf_counter() - started
    shape = (data.cutoffs, len(data.scored), data.horizon, len(QUANTILES))
    facts = {"fallbacks": failed, "newest": newest}
    return Made(np.array(forecasts).reshape(shape).swapaxes(0, 1), seconds, facts)


def attempt(model: Any, values: Array, horizon: int) -> Array | None:
    """Quantiles [horizon, quantiles] from a model of statsforecast; None if it fails or one is not finite."""
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            made = model.forecast(y=values, h=horizon, level=list(LEVELS))
    except Exception:  # noqa: BLE001 - statsforecast raises bare ones, for series that a model cannot take
        return None
    names = [suffix[1:] or "mean" for suffix in SUFFIXES]
    quantiles = np.stack([np.asarray(made[name], dtype=np.float64) for name in names], axis=-1)
    return quantiles if np.isfinite(quantiles).all() else None


def fallback(values: Array, data: DataSet) -> Array:
    """Seasonal naive with the intervals of statsforecast; without intervals for a series that has none there either."""
    made = attempt(MODELS["seasonal naive"](data), filled(values, data.season), data.horizon)
    point = seasonal_naive(values, data.season, data.horizon)
    return np.repeat(point[:, None], len(QUANTILES), axis=1) if made is None else made


def filled(values: Array, season: int) -> Array:
    """A history without missing values, which statsforecast does not take.

    What is missing takes the value of one season before; in the first season, the last value. What is missing before
    the first value is left out.
    """
    filled = values[np.argmax(np.isfinite(values)) :].copy()
    for step in np.flatnonzero(~np.isfinite(filled)):
        filled[step] = filled[step - season if step >= season else step - 1]
    return filled


def _statsforecast(name: str, **options: Any) -> Any:
    from statsforecast import models

    return getattr(models, name)(**options)


MODELS: dict[str, Callable[[DataSet], Any]] = {
    "naive": lambda data: _statsforecast("Naive"),
    "seasonal naive": lambda data: _statsforecast("SeasonalNaive", season_length=data.season),
    "AutoETS": lambda data: _statsforecast("AutoETS", season_length=data.season),
    "AutoTheta": lambda data: _statsforecast("AutoTheta", season_length=data.season),
    "AutoCES": lambda data: _statsforecast("AutoCES", season_length=data.season),
    "MSTL": lambda data: _statsforecast("MSTL", season_length=list(SEVERAL[data.name])),
}
