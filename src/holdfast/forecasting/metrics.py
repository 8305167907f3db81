"""Scores of forecasts next to those of the best naive forecast."""

from __future__ import annotations

import math
from collections.abc import Sequence
from functools import partial
from typing import Any

import polars as pl

MODEL, BASELINE = "holdfast", "seasonal_naive"
M4_NAIVE2_HOURLY = (18.383, 2.395)  # sMAPE and MASE of Naive2 (Makridakis, Spiliotis, Assimakopoulos 2020)


def naive_title(season: int) -> str:
    """The name of a naive forecast in tables and sentences.

    Example:
        >>> naive_title(168), naive_title(1)
        ('seasonal naive 168', 'last value')
    """
    return "last value" if season == 1 else f"seasonal naive {season}"


def plain_level(level: float) -> float:
    """A level as it stands in column names: 80 for 80.0, as utilsforecast writes it.

    Example:
        >>> plain_level(80.0), plain_level(99.5)
        (80, 99.5)
    """
    return int(level) if float(level).is_integer() else level


def score_table(
    forecasts: pl.DataFrame, history: pl.DataFrame, season: int, levels: Sequence[float] = ()
) -> pl.DataFrame:
    """Scores of every series and cutoff: MASE, sMAPE, RMSE, and for `holdfast` coverage and scaled CRPS.

    MASE = mean |y - f| / in-sample mean |y_t - y_{t-m}| (Hyndman and Koehler 2006);
    sMAPE = mean 200 |y - f| / (|y| + |f|), in percent, as in the M4 competition;
    coverage is the share of values inside the interval; scaled CRPS is the mean quantile loss over mean |y|, in each
    series (for all points together see `weighted_quantile_loss`).
    Computed by utilsforecast; steps whose value is missing are left out.

    Args:
        forecasts: Columns `unique_id`, `ds`, `cutoff`, `y`, `holdfast` (with intervals) and `seasonal_naive`.
        history: Columns `unique_id`, `ds`, `y`; what lies before each cutoff scales the MASE.
        season: m, in steps.
        levels: Interval levels in percent.

    Returns:
        Columns `unique_id`, `cutoff`, `metric`, `holdfast`, `seasonal_naive`.

    Example:
        >>> history = pl.DataFrame({"unique_id": "a", "ds": [1, 2, 3, 4], "y": [1.0, 2.0, 1.0, 4.0]})
        >>> forecasts = pl.DataFrame({"unique_id": ["a"], "ds": [4], "cutoff": [3], "y": [4.0], "holdfast": [3.0],
        ...     "seasonal_naive": [1.0]})
        >>> score_table(forecasts, history, season=1).filter(pl.col("metric") == "mase").row(0)
        ('a', 3, 'mase', 1.0, 3.0)
    """
    from utilsforecast.evaluation import evaluate
    from utilsforecast.losses import coverage, mase, rmse, scaled_crps, smape

    if isinstance(forecasts["unique_id"].dtype, pl.Struct):  # ids of several columns, which `evaluate` cannot hash
        keys = forecasts.select(pl.col("unique_id").alias("key").unique()).sort("key").with_row_index("unique_id")
        forecasts, history = (
            table.rename({"unique_id": "key"}).join(keys, on="key", maintain_order="left").drop("key")
            for table in (forecasts, history)
        )
        scores = score_table(forecasts, history, season, levels).join(keys, on="unique_id", maintain_order="left")
        return scores.select(pl.col("key").alias("unique_id"), pl.exclude("unique_id", "key"))
    observed = forecasts.filter(pl.col("y").is_not_null() & pl.col("y").is_not_nan())
    known = history.select("unique_id", "ds", pl.col("y").fill_nan(None))
    metrics: list[Any] = [partial(mase, seasonality=season), smape, rmse]
    table: pl.DataFrame = evaluate(observed, metrics, models=[MODEL, BASELINE], train_df=known)
    percent = pl.when(pl.col("metric") == "smape").then(200.0).otherwise(1.0)
    table = table.with_columns(pl.col(MODEL) * percent, pl.col(BASELINE) * percent)
    if levels:
        names: list[Any] = sorted({plain_level(level) for level in levels})
        intervals = evaluate(observed, [coverage, scaled_crps], models=[MODEL], level=names)
        table = pl.concat([table, intervals], how="diagonal")
    return table


def mean_scores(table: pl.DataFrame) -> dict[str, dict[str, float]]:
    """Plain means over series and cutoffs: {metric: {"holdfast": ..., "seasonal_naive": ...}}.

    Series whose score is not finite (a MASE scale of zero) are left out of that mean.

    Example:
        >>> table = pl.DataFrame({"metric": ["mase", "mase"], "holdfast": [1.0, 2.0], "seasonal_naive": [2.0, 4.0]})
        >>> mean_scores(table)
        {'mase': {'holdfast': 1.5, 'seasonal_naive': 3.0}}
    """
    result: dict[str, dict[str, float]] = {}
    for name in table["metric"].unique(maintain_order=True):
        rows = table.filter(pl.col("metric") == name)
        means = {model: rows[model].filter(rows[model].is_finite()).mean() for model in (MODEL, BASELINE)}
        result[name] = {model: float(value) for model, value in means.items() if isinstance(value, float)}
    return result


def weighted_quantile_loss(forecasts: pl.DataFrame, levels: Sequence[float]) -> float:
    """The weighted quantile loss (WQL) of `holdfast` over all points of all series and cutoffs together.

    WQL = sum over points and quantiles of 2 max(p (y - f_p), (p - 1) (y - f_p)) / (number of quantiles * sum |y|),
    over the borders of the intervals and the point forecast, which counts as the median. Series with large values weigh
    more; steps whose value is missing are left out. With the levels 20, 40, 60 and 80 it is the CRPS of GIFT-Eval.

    Args:
        forecasts: Columns `y`, `holdfast` and two per level, as `Forecaster.backtest` returns them.
        levels: Interval levels in percent.

    Returns:
        One number without a unit, lower is better; inf or nan if no value other than 0 was observed.

    Example:
        >>> forecasts = pl.DataFrame({"y": [10.0, 100.0], "holdfast": [11.0, 100.0],
        ...     "holdfast-lo-80": [9.0, 90.0], "holdfast-hi-80": [13.0, 120.0]})
        >>> weighted_quantile_loss(forecasts, (80,))  # (1 + 0.2 + 0.6 + 2 + 4) / (3 * 110)
        0.02363...

    Reference:
        Aksu et al. 2024, GIFT-Eval, arXiv:2410.10393.
    """
    quantiles = [(0.5, MODEL)]
    for level in {plain_level(level) for level in levels}:
        tail = (100 - level) / 200
        quantiles += [(tail, f"{MODEL}-lo-{level}"), (1 - tail, f"{MODEL}-hi-{level}")]
    errors = [(p, pl.col("y") - pl.col(name)) for p, name in quantiles]
    loss = pl.sum_horizontal(2 * pl.max_horizontal(p * error, (p - 1) * error) for p, error in errors)
    observed = forecasts.filter(pl.col("y").is_not_null() & pl.col("y").is_not_nan())
    return float(observed.select(loss.sum() / (len(quantiles) * pl.col("y").abs().sum())).item())


def summary_scores(
    scores: pl.DataFrame, forecasts: pl.DataFrame, levels: Sequence[float]
) -> dict[str, dict[str, float]]:
    """What is printed and kept of scores: `mean_scores`, and under `wql` the weighted quantile loss where it is finite.

    Args:
        scores: As `score_table` returns them for the forecasts.
        forecasts: As for `score_table`.
        levels: Interval levels in percent.
    """
    wql = weighted_quantile_loss(forecasts, levels)
    return {**mean_scores(scores), "wql": {MODEL: wql} if math.isfinite(wql) else {}}


def skill(scores: dict[str, dict[str, float]], metric: str = "mase") -> float:
    """1 - error / error of the naive forecast; nan where it is not known.

    Example:
        >>> skill({"mase": {"holdfast": 0.8, "seasonal_naive": 1.0}})
        0.199...
    """
    pair = scores.get(metric, {})
    naive = pair.get(BASELINE, 0.0)
    return 1 - pair[MODEL] / naive if naive > 0 and MODEL in pair else float("nan")


def owa(smape: float, mase: float, naive2: tuple[float, float] = M4_NAIVE2_HOURLY) -> float:
    """Overall weighted average of the M4 competition: (sMAPE / sMAPE of Naive2 + MASE / MASE of Naive2) / 2.

    Example:
        >>> round(owa(13.912, 1.193), 3)
        0.627
    """
    return (smape / naive2[0] + mase / naive2[1]) / 2
