"""Forecast tables out of a network: one row per series, cutoff and step.

Shapes: W windows, B windows at once, F horizon steps, Q quantiles.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import polars as pl
import torch
from numpy.typing import NDArray

from holdfast.errors import DataError, Problem
from holdfast.forecasting.metrics import MODEL, plain_level
from holdfast.networks import ForecastNetwork, probabilities_of
from holdfast.series import SeriesStore
from holdfast.series.findings import listed, series_name
from holdfast.windows import Windows

WINDOWS_AT_ONCE = 512


def level_columns(levels: Sequence[float]) -> list[str]:
    """Names of the interval columns, lowest first, as utilsforecast names them.

    Example:
        >>> level_columns((80, 95))
        ['holdfast-lo-95', 'holdfast-lo-80', 'holdfast-hi-80', 'holdfast-hi-95']
    """
    rising = sorted({plain_level(level) for level in levels})
    lower = [f"{MODEL}-lo-{level}" for level in reversed(rising)]
    return lower + [f"{MODEL}-hi-{level}" for level in rising]


def predict_windows(
    networks: Sequence[ForecastNetwork],
    windows: Windows,
    series: NDArray[np.int64],
    cutoffs: NDArray[np.int64],
    levels: Sequence[float],
) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Point forecasts [W, F] and interval borders [W, F, Q], in the units of the data: means over the networks.

    The mean of quantiles is a quantile function again: borders do not cross, and where networks differ only in their
    centre the interval stays as wide as theirs (Vincent averaging; Lichtendahl, Grushka-Cockayne and Winkler 2013).

    Args:
        networks: At least one; they are put into evaluation mode.
        windows: The series.
        series: W series numbers.
        cutoffs: W counts of rows that each forecast may see.
        levels: Interval levels in percent; the borders are in the order of `level_columns`.
    """
    probabilities = [p for p in probabilities_of(levels) if p != 0.5]
    each = [_predict_one(network, windows, series, cutoffs, probabilities) for network in networks]
    if len(each) == 1:
        return each[0]
    points, borders = zip(*each, strict=True)
    return np.mean(points, axis=0), np.mean(borders, axis=0)


@torch.no_grad()
def _predict_one(
    network: ForecastNetwork,
    windows: Windows,
    series: NDArray[np.int64],
    cutoffs: NDArray[np.int64],
    probabilities: Sequence[float],
) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    config = network.config
    points, borders = [], []
    network.eval()
    for start in range(0, len(series), WINDOWS_AT_ONCE):
        some = slice(start, start + WINDOWS_AT_ONCE)
        batch = windows.gather(
            series[some], cutoffs[some], context_length=config.context_length, horizon=config.horizon
        )
        parameters = network(batch)
        points.append(network.head.point(parameters).cpu().numpy())
        borders.append(network.head.quantiles(parameters, probabilities))
    if not points:
        return np.zeros((0, config.horizon)), np.zeros((0, config.horizon, len(probabilities)))
    return np.concatenate(points), np.concatenate(borders)


def forecast_table(
    networks: Sequence[ForecastNetwork],
    store: SeriesStore,
    windows: Windows,
    levels: Sequence[float],
    cutoffs: NDArray[np.int64] | None = None,
) -> pl.DataFrame:
    """Forecasts of every series from its end, or from a cutoff each.

    Args:
        networks: The forecaster's networks.
        store: The series.
        windows: The same series as tensors.
        levels: Interval levels in percent.
        cutoffs: Rows of each series that its forecast may see, series with less than one are left out; None: all.

    Returns:
        Columns `unique_id`, `ds`, `holdfast`, and two per level.

    Raises:
        DataError: A future covariate that the forecast needs is not known.
    """
    horizon = networks[0].config.horizon
    cutoff_n = store.lengths if cutoffs is None else cutoffs
    series = np.flatnonzero(cutoff_n >= 1)
    rows_WF = cutoff_n[series, None] + np.arange(horizon)
    _check_known(store, series, rows_WF)
    point_WF, border_WFQ = predict_windows(networks, windows, series, cutoff_n[series], levels)
    owner = np.repeat(series, horizon)
    columns = [
        store.ids.gather(owner).alias("unique_id"),
        store.freq.at(store.starts.gather(owner), rows_WF.ravel()).alias("ds"),
        pl.Series(MODEL, point_WF.ravel()),
        *(pl.Series(name, border_WFQ[..., index].ravel()) for index, name in enumerate(level_columns(levels))),
    ]
    return pl.DataFrame(columns)


def _check_known(store: SeriesStore, series: NDArray[np.int64], rows_WF: NDArray[np.int64]) -> None:
    """Every future covariate must be known over the horizon of these series."""
    known_WFK = store.known[store.offsets[series, None] + rows_WF]
    missing_WK = np.isnan(known_WFK).any(1)
    if not missing_WK.any():
        return
    lost = zip(store.known_names, missing_WK.any(0), strict=True)
    names = dict.fromkeys(name.partition("=")[0] for name, is_lost in lost if is_lost)  # of text, before its words
    lost_ids = store.ids.gather(series[missing_WK.any(1)]).to_list()
    raise DataError(
        Problem(
            where=f"future covariates {', '.join(names)} of {listed(lost_ids, series_name)}",
            expected=f"values for all {rows_WF.shape[1]} steps of the horizon",
            got="none, or not all",
            fix="give a table of the future: predict(df, future=...) or --future-data FILE",
        )
    )
