"""From a configuration and series to a network that fits them: context, segments, anchors."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import polars as pl
import torch
from numpy.typing import NDArray

from holdfast.forecasting.anchors import TrainingWindows, useful_anchors, useful_linear
from holdfast.forecasting.config import Config
from holdfast.networks import ForecastNetwork, NetworkConfig, candidate_anchors, make_head
from holdfast.series import LARGEST_CONTEXT, SeriesStore, csv_text, shape_order, unseen_cycles
from holdfast.series.findings import series_name
from holdfast.training import Task, TrainingConfig, best_naive, error_scales, split_series
from holdfast.windows import Windows

# Recurrent steps over a context, unless the user chose the segment: time and memory grow with them.
MOST_RECURRENT = 512


def context_and_segment(config: Config, seasons: Sequence[int], horizon: int, longest_series: int) -> tuple[int, int]:
    """Steps fed, and steps fed as one recurrent step.

    The context is two of the longest season, at least four of the first and at least half of the horizon (two horizons
    without a season), but not longer than the longest series and, unless it was given, 16384 steps. A segment is one
    season where it fits in four times, else one step; more, in parts or multiples of a season, where the recurrent
    layers would take more than 512 steps. The context is rounded up to whole segments, down from 16384.

    Example:
        >>> context_and_segment(Config(), (24, 168), 48, 960)
        (336, 24)
        >>> context_and_segment(Config(), (), 6, 30)
        (12, 1)
        >>> context_and_segment(Config(), (1440, 10080), 1440, 200_000)
        (15840, 1440)
    """
    wanted = min(usual_context(seasons, horizon), longest_series)
    context_length = config.context_length or max(1, min(wanted, LARGEST_CONTEXT))
    segment = config.segment or _segment(seasons, context_length)
    cut = not config.context_length and wanted > LARGEST_CONTEXT and segment <= LARGEST_CONTEXT
    whole = context_length // segment if cut else -(-context_length // segment)
    return whole * segment, segment


def usual_context(seasons: Sequence[int], horizon: int) -> int:
    """Steps of context that seasons and horizon ask for.

    Example:
        >>> usual_context((1440, 10080), 1440)
        20160
    """
    return max(2 * max(seasons), 4 * seasons[0], horizon // 2) if seasons else 2 * horizon


def _segment(seasons: Sequence[int], context_length: int) -> int:
    """A season where it fits in four times, else a step; as many as needed of it, or the least part that is enough."""
    least = -(-context_length // MOST_RECURRENT)
    season = seasons[0] if seasons else 0
    if season and 4 * season <= context_length:
        return season * -(-least // season)
    return next(steps for steps in range(least, context_length + 1) if season % steps == 0)


def plan_task(
    config: Config, store: SeriesStore, seasons: Sequence[int], length_n: NDArray[np.int64], device: torch.device
) -> Task:
    """Everything that `train` needs.

    Args:
        config: The options.
        store: The series; its horizon is that of the forecasts.
        seasons: Season lengths in steps; the first is that of the seasonal naive forecast.
        length_n: Rows of each series that may be used at all (a backtest keeps some back).
        device: Where to compute.
    """
    horizon = store.horizon
    context_length, segment = context_and_segment(config, seasons, horizon, int(length_n.max()))
    split = split_series(length_n, context_length, horizon)
    order = shape_order(store.y, store.offsets[:-1], split.until_n)
    split = split_series(length_n, context_length, horizon, order)
    windows = Windows.from_store(store, device)
    scale_n = error_scales(store.y, store.offsets[:-1], split.until_n, seasons[0] if seasons else 1)
    naive = best_naive(windows, split, torch.from_numpy(scale_n).to(device), tuple(seasons), horizon)
    windows = Windows.from_store(store, device, seasons=seasons[:1] if naive is None else (naive,))
    looks = TrainingWindows(windows, split, context_length, horizon, tuple(seasons))
    anchors = useful_anchors(looks, candidate_anchors(seasons, horizon))
    linear_TF = useful_linear(looks, anchors) if split.trainable else None
    if linear_TF is not None:
        anchors = (*anchors, ("linear", context_length))
    network_config = NetworkConfig(
        horizon=horizon,
        context_length=context_length,
        segment=segment,
        seasons=tuple(seasons),
        anchors=anchors,
        cell=config.cell,
        init=config.init,
        constraint=config.constraint,
        hidden_size=config.hidden_size,
        num_layers=config.layers,
        dropout=config.dropout,
        past_size=store.past.shape[1],
        known_size=store.known.shape[1],
        static_size=store.static.shape[1],
        best_naive=naive,
    )
    network = make_network(config, network_config)
    learnable_R = _rows_before(store, split.until_n)
    network.past.learn(torch.from_numpy(store.past[learnable_R]))
    network.known.learn(torch.from_numpy(store.known[learnable_R]), _silent(config, store, split.until_n))
    network.static.learn(torch.from_numpy(store.static))
    if linear_TF is not None and network.linear_TF is not None:
        network.linear_TF.copy_(linear_TF)
    return Task(
        network=network.to(device),
        windows=windows,
        split=split,
        error_scale_n=torch.from_numpy(scale_n).to(device),
        name_window=lambda series, rows: window_name(store, series, rows),
    )


def window_name(store: SeriesStore, series: int, rows: int) -> str:
    """A window as the user knows it: the id of its series, and its cutoff as it would stand in a file.

    Example:
        >>> from holdfast.series import TableOptions, check_table, open_table
        >>> table = open_table(pl.DataFrame({"ds": [1, 2, 3, 4], "y": [5.0, 6.0, None, 8.0]}))
        >>> window_name(check_table(table, TableOptions(horizon=2)).store, 0, rows=3)
        "series 'series', cutoff 3"
    """
    cutoff = csv_text(pl.DataFrame([store.times(series, rows - 1, rows)])).split()
    return f"{series_name(store.ids[series])}, cutoff {' '.join(cutoff[1:])}"


def make_network(config: Config, network_config: NetworkConfig) -> ForecastNetwork:
    """An untrained network."""
    head = make_head(config.head, config.levels, (config.bounds[0], config.bounds[1]))
    return ForecastNetwork(network_config, head, config.seed)


def training_config(config: Config) -> TrainingConfig:
    """The part of the options that training needs."""
    return TrainingConfig(
        optimizer=config.optimizer,
        lr=config.lr,
        batch_size=config.batch_size,
        max_steps=config.max_steps,
        time_budget=config.time_budget,
        clip=config.clip,
        clip_roles=config.clip_roles,
        penalty=config.penalty,
        seed=config.seed,
    )


def _silent(config: Config, store: SeriesStore, until_n: NDArray[np.int64]) -> torch.Tensor:
    """Known features that are not to be learned from: those of the calendar whose cycle was not passed twice [K]."""
    series = np.flatnonzero(until_n >= 1)
    starts = store.starts.gather(series)
    own = store.future_size
    last = store.ds.gather(store.offsets[series] + until_n[series] - 1)
    unseen = unseen_cycles(store.known_names[own:], starts, last)
    return torch.tensor([False] * own + unseen, dtype=torch.bool)


def _rows_before(store: SeriesStore, until_n: NDArray[np.int64]) -> NDArray[np.bool_]:
    """Which rows of the store lie before `until` in their series."""
    count_n = np.diff(store.offsets)
    row_R = np.arange(len(store.y)) - np.repeat(store.offsets[:-1], count_n)
    before: NDArray[np.bool_] = row_R < np.repeat(until_n, count_n)
    return before
