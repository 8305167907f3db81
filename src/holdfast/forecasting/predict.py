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
from holdfast.forecasting.baselines import other_forecasts
from holdfast.forecasting.metrics import MODEL, plain_level
from holdfast.networks import ForecastNetwork, Head, NegativeBinomialHead, Others, SigmoidHead, probabilities_of
from holdfast.series import SeriesStore
from holdfast.series.findings import listed, series_name
from holdfast.windows import Windows, affordable

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
    smoothing = any(network.blend.needs[1] for network in networks)
    mixed = {network.config.baseline_season: network.config for network in networks if network.blend.needs[0]}
    others = {
        season: other_forecasts(windows, series, cutoffs, config, smoothing=smoothing)
        for season, config in mixed.items()
    }
    each = [
        _predict_one(network, windows, series, cutoffs, probabilities, others.get(network.config.baseline_season))
        for network in networks
    ]
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
    others: Others | None,
) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    config = network.config
    points, borders = [], []
    network.eval()
    at_once = affordable(WINDOWS_AT_ONCE, config.context_length)
    for start in range(0, len(series), at_once):
        some = slice(start, start + at_once)
        batch = windows.gather(
            series[some], cutoffs[some], context_length=config.context_length, horizon=config.horizon
        )
        parameters = network(batch)
        point_BF, border_BFQ = network.blend(
            network.head.point(parameters).cpu().numpy(),
            network.head.quantiles(parameters, probabilities),
            probabilities,
            None if others is None else others.some(some),
        )
        factor_B = network.widening(batch.age_B, batch.cutoff_B - batch.age_B).cpu().numpy()
        points.append(point_BF)
        borders.append(_wider(network.head, point_BF, border_BFQ, factor_B))
    if not points:
        return np.zeros((0, config.horizon)), np.zeros((0, config.horizon, len(probabilities)))
    return np.concatenate(points), np.concatenate(borders)


def _wider(
    head: Head, point_BF: NDArray[np.float64], border_BFQ: NDArray[np.float64], factor_B: NDArray[np.float64]
) -> NDArray[np.float64]:
    """Interval borders moved away from the point forecast, in windows whose factor is above 1; possible values only."""
    wide_B = factor_B > 1
    if not wide_B.any():
        return border_BFQ
    point_BF1 = point_BF[wide_B, :, None]
    moved_BFQ: NDArray[np.float64] = border_BFQ.copy()
    moved_BFQ[wide_B] = point_BF1 + factor_B[wide_B, None, None] * (border_BFQ[wide_B] - point_BF1)
    if isinstance(head, NegativeBinomialHead):
        return np.maximum(np.rint(moved_BFQ), 0.0)
    return moved_BFQ.clip(head.low, head.high) if isinstance(head, SigmoidHead) else moved_BFQ


def never_negative(store: SeriesStore, cutoff_n: NDArray[np.int64] | None = None) -> bool:
    """Whether no value is below 0, as far as the rows before each cutoff tell.

    Example:
        >>> from holdfast.series import TableOptions, check_table, open_table
        >>> table = open_table(pl.DataFrame({"ds": [1, 2, 3, 4], "y": [5.0, 0.0, None, -8.0]}))
        >>> store = check_table(table, TableOptions(horizon=1)).store
        >>> never_negative(store), never_negative(store, np.array([3]))
        (False, True)
    """
    row_R = np.arange(len(store.y)) - np.repeat(store.offsets[:-1], np.diff(store.offsets))
    before_R = row_R < np.repeat(store.lengths if cutoff_n is None else cutoff_n, np.diff(store.offsets))
    return not bool((store.y[before_R] < 0).any())


def forecast_table(
    networks: Sequence[ForecastNetwork],
    store: SeriesStore,
    windows: Windows,
    levels: Sequence[float],
    cutoffs: NDArray[np.int64] | None = None,
    *,
    floored: bool = False,
) -> pl.DataFrame:
    """Forecasts of every series from its end, or from a cutoff each.

    Args:
        networks: The forecaster's networks.
        store: The series.
        windows: The same series as tensors.
        levels: Interval levels in percent.
        cutoffs: Rows of each series that its forecast may see, series with less than one are left out; None: all.
        floored: Forecasts and borders below 0 become 0 where the rows that may be seen never were below it.

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
    if floored and never_negative(store, cutoff_n):
        point_WF, border_WFQ = np.maximum(point_WF, 0.0), np.maximum(border_WFQ, 0.0)
    owner = np.repeat(series, horizon)
    columns = [
        store.ids.gather(owner).alias("unique_id"),
        store.stamped(store.offsets[owner] + rows_WF.ravel()),
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
