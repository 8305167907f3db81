"""What is measured, in the order in which it tells most, and the measuring of one case in a process of its own."""

from __future__ import annotations

import importlib
import resource
import time
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from importlib.metadata import version
from itertools import product
from typing import Any

import numpy as np
import polars as pl
import torch

from holdfast.forecasting import mean_scores, owa, score_table
from holdfast.forecasting.baselines import seasonal_naive
from holdfast.series import m4_hourly

from .collected.scores import scale_of
from .collected.scores import scores_of as set_scores
from .sets import M4, QUANTILES, available, quantiles_of, read, without_gaps
from .task import BATCH, Fitted, Task, forecasts, series_of


@dataclass(frozen=True)
class Forecaster:
    """Where a forecaster is: its title in tables, its adapter, which model there, and the package it comes from."""

    title: str
    adapter: str
    variant: str
    package: str


FORECASTERS = {
    "holdfast": Forecaster("holdfast", "ours", "", "holdfast"),
    "holdfast-1": Forecaster("holdfast, one step at a time", "ours", "segment 1", "holdfast"),
    "nf-lstm": Forecaster("NeuralForecast LSTM", "with_neuralforecast", "LSTM", "neuralforecast"),
    "nf-gru": Forecaster("NeuralForecast GRU", "with_neuralforecast", "GRU", "neuralforecast"),
    "deepar": Forecaster("GluonTS DeepAR", "with_gluonts", "", "gluonts"),
    "darts-block": Forecaster("Darts BlockRNNModel", "with_darts", "BlockRNN", "darts"),
    "darts-rnn": Forecaster("Darts RNNModel", "with_darts", "RNN", "darts"),
    "darts-block-lstm": Forecaster("Darts BlockRNNModel, LSTM", "with_darts", "BlockRNN LSTM", "darts"),
    "naive": Forecaster("seasonal naive", "ours", "naive", "holdfast"),
}
PEERS = ("nf-lstm", "nf-gru", "deepar", "darts-block", "darts-rnn", "darts-block-lstm")
FAST = ("holdfast", "holdfast-1", "nf-lstm", "deepar", "darts-block", "darts-rnn")  # those of the speed rows
SHORT, BUDGETS = (5, 10, 20), (120, 300, 30)  # seconds: ours alone, and everybody
SHORT_SERIES, FEW = 150, 16  # rows of a series where there are many, series where they are long
COUNTS, LENGTHS, STEPS = (1_000, 10_000, 100_000), (1_000, 10_000, 100_000), 25
RATE_SECONDS = 30
OF_SETS, SET_SECONDS = ("holdfast", "nf-lstm", "deepar", "darts-block"), 60
WITHOUT_GAPS = ("neuralforecast", "darts")  # packages that take no missing values

Job = dict[str, Any]


def all_jobs(seeds: int) -> Iterator[Job]:
    """Every case: the sets, one seed of everything first; one budget and one seed on M4 Hourly, speed, the rest."""
    for seed, name, forecaster in product(range(seeds), available(), OF_SETS):
        yield {"kind": "sets", "set": name, "forecaster": forecaster, "seconds": SET_SECONDS, "seed": seed}
    yield {"kind": "accuracy", "forecaster": "naive", "seconds": 0, "seed": 0}
    yield from _accuracy(BUDGETS[:1], 0)
    yield from ({"kind": "accuracy", "forecaster": "holdfast", "seconds": few, "seed": 0} for few in (*SHORT, 30))
    yield from ({"kind": "rate", "forecaster": name, "seconds": RATE_SECONDS} for name in FAST)
    predicted = (COUNTS[0], COUNTS[-1])
    yield from ({"kind": "predict", "forecaster": name, "series": n} for n in predicted for name in FAST)
    for sizes in ([(n, SHORT_SERIES) for n in COUNTS], [(FEW, length) for length in LENGTHS]):
        for n, length in sizes:
            yield from ({"kind": "growth", "forecaster": name, "series": n, "length": length} for name in FAST)
    yield from _accuracy(BUDGETS[1:], 0)
    for seed in range(1, seeds):
        yield from ({"kind": "accuracy", "forecaster": "holdfast", "seconds": few, "seed": seed} for few in SHORT)
        yield from _accuracy(BUDGETS, seed)


def _accuracy(budgets: tuple[int, ...], seed: int) -> Iterator[Job]:
    for seconds in budgets:
        for name in ("holdfast", *PEERS):
            if not (name == "holdfast" and seed == 0 and seconds == 30):  # came early
                yield {"kind": "accuracy", "forecaster": name, "seconds": seconds, "seed": seed}


def measure(job: Job) -> dict[str, Any]:
    """One row: the case, what was measured, versions, threads, and the most memory that the process ever held."""
    who = FORECASTERS[job["forecaster"]]
    adapter = importlib.import_module(f"{__package__}.{who.adapter}")
    loaded = peak_gb()

    def fit(train: pl.DataFrame, task: Task) -> tuple[Fitted, float]:
        started = time.perf_counter()
        return adapter.fit(train, task, who.variant), time.perf_counter() - started

    kinds = {
        "sets": _measure_set,
        "accuracy": _measure_accuracy,
        "rate": _measure_rate,
        "predict": _measure_predict,
        "growth": _measure_growth,
    }
    measured = kinds[job["kind"]](job, fit)
    facts = {"version": version(who.package), "torch": torch.__version__, "threads": torch.get_num_threads()}
    return {**job, "loaded_gb": loaded, "peak_gb": peak_gb(), **measured, **facts}


def peak_gb() -> float:
    """The most memory that this process has held so far, in GB (ru_maxrss is in KiB on Linux)."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024 / 1e9


def _measure_set(job: Job, fit: Any) -> dict[str, Any]:
    data = read(job["set"])
    gaps = FORECASTERS[job["forecaster"]].package not in WITHOUT_GAPS
    train = data.history(0) if gaps else without_gaps(data.history(0), data.season)
    task = Task(horizon=data.horizon, season=data.season, seconds=job["seconds"], seed=job["seed"], interval=True)
    table, facts = _fit_and_forecast(fit, train, task)
    forecast_SCHQ = quantiles_of(table, data)
    facts |= {"count": len(data.scored), "horizon": data.horizon}
    lost = int((~np.isfinite(forecast_SCHQ)).any(axis=-1).sum())
    if lost:
        return {**facts, "nonfinite": lost}
    scale_S = np.array([scale_of(y, data.season) for y in data.histories(0)])
    scores = set_scores(data.actual(), forecast_SCHQ, data.naive(), scale_S, QUANTILES)
    if job["set"] == M4:
        scores["owa"] = scores_of(table, m4_hourly("train"), m4_hourly("test"))["owa"]
    return {**facts, **scores}


def _measure_accuracy(job: Job, fit: Any) -> dict[str, Any]:
    train, test = m4_hourly("train"), m4_hourly("test")
    table, facts = _fit_and_forecast(fit, train, Task(seconds=job["seconds"] or None, seed=job["seed"]))
    return {**scores_of(table, train, test), **facts}


def _fit_and_forecast(fit: Any, train: pl.DataFrame, task: Task) -> tuple[pl.DataFrame, dict[str, Any]]:
    fitted, seconds = fit(train, task)
    form = fitted.convert(train)
    started = time.perf_counter()
    table = fitted.predict(form)
    predicted, peak = time.perf_counter() - started, peak_gb()
    return table, {
        "steps": len(fitted.clock.ends),
        "training_seconds": fitted.clock.trained,
        "fit_seconds": seconds,
        "predict_seconds": predicted,
        "peak_gb": peak,
    }


def scores_of(table: pl.DataFrame, train: pl.DataFrame, test: pl.DataFrame, season: int = 24) -> dict[str, Any]:
    """sMAPE, MASE and OWA, means over the series, and coverage of the 80 % interval where there is one.

    A forecast that is not finite has no score, and a mean without it would flatter: then there are no scores at all.
    """
    if table.height != test.height:
        raise ValueError(f"{table.height} forecasts instead of {test.height}")
    lost = test.height - int(table["point"].is_finite().sum())
    if lost:
        return {"nonfinite": lost}
    history = series_of(train)
    horizon = test.height // test["unique_id"].n_unique()
    naive = np.stack([seasonal_naive(values, season, horizon) for values in history.values()])
    names = {"point": "holdfast", "low": "holdfast-lo-80", "high": "holdfast-hi-80"}
    cutoffs = train.group_by("unique_id").agg(pl.col("ds").max().alias("cutoff"))
    scored = (
        test.join(cutoffs, on="unique_id", maintain_order="left")
        .with_columns((pl.col("ds") - pl.col("cutoff")).alias("step"))
        .join(table.rename(names, strict=False), on=["unique_id", "step"], maintain_order="left")
        .join(forecasts(list(history), naive).rename({"point": "seasonal_naive"}), on=["unique_id", "step"])
    )
    levels = (80.0,) if "low" in table.columns else ()
    means = {name: pair["holdfast"] for name, pair in mean_scores(score_table(scored, train, season, levels)).items()}
    kept = {name: means[name] for name in ("smape", "mase")}
    return {**kept, "owa": owa(**kept), "coverage": means.get("coverage_level80")}


def _measure_rate(job: Job, fit: Any) -> dict[str, Any]:
    fitted, _ = fit(m4_hourly("train"), Task(seconds=job["seconds"], equal=True))
    pace = fitted.clock.pace
    return {"steps": len(fitted.clock.ends), "windows_per_second": BATCH / pace if pace else None}


def _measure_predict(job: Job, fit: Any) -> dict[str, Any]:
    fitted, _ = fit(synthetic(COUNTS[0], SHORT_SERIES), Task(steps=2, equal=True))
    form = fitted.convert(synthetic(job["series"], SHORT_SERIES))
    started = time.perf_counter()
    table = fitted.predict(form)
    seconds = time.perf_counter() - started
    expected = job["series"] * Task.horizon
    if table.height != expected:
        raise ValueError(f"{table.height} forecasts instead of {expected}")
    return {"seconds": seconds, "series_per_second": job["series"] / seconds}


def _measure_growth(job: Job, fit: Any) -> dict[str, Any]:
    fitted, seconds = fit(synthetic(job["series"], job["length"]), Task(steps=STEPS, equal=True))
    pace = fitted.clock.pace
    return {"fit_seconds": seconds, "step_ms": 1000 * pace if pace else None, "steps": len(fitted.clock.ends)}


def synthetic(series: int, length: int) -> pl.DataFrame:
    """A long table of series with a daily season and noise, the same every time."""
    random = np.random.default_rng(0)
    phase_n = random.uniform(0, 2 * np.pi, size=(series, 1))
    y_nR = 100 + 10 * np.sin(2 * np.pi * np.arange(length) / 24 + phase_n) + random.normal(size=(series, length))
    ids = pl.Series("unique_id", [f"s{number:06}" for number in range(series)])
    ds = np.tile(np.arange(1, length + 1), series)
    return pl.DataFrame(
        [ids.gather(np.repeat(np.arange(series), length)), pl.Series("ds", ds), pl.Series("y", y_nR.ravel())]
    )


def key_of(case: Mapping[str, Any]) -> tuple[Any, ...]:
    """What makes a case itself, in a job as in a row."""
    limit = case["seconds"] if case["kind"] in ("sets", "accuracy", "rate") else None
    size = (case.get(name) for name in ("set", "seed", "series", "length"))
    return (case["kind"], case["forecaster"], limit, *size)
