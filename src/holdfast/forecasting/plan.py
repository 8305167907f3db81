"""From a configuration and series to a network that fits them: context, segments, anchors."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import replace

import numpy as np
import polars as pl
import torch
from numpy.typing import NDArray

from holdfast.forecasting.anchors import (
    LONGEST_LINEAR,
    TrainingWindows,
    useful_anchors,
    useful_context,
    useful_linear,
)
from holdfast.forecasting.config import Config
from holdfast.networks import ForecastNetwork, NetworkConfig, candidate_anchors, make_head
from holdfast.series import LARGEST_CONTEXT, SeriesStore, csv_text, shape_order, unseen_cycles
from holdfast.series.findings import series_name
from holdfast.training import Split, Task, TrainingConfig, best_naive, error_scales, split_series
from holdfast.windows import Windows

# Recurrent steps over a context, unless the user chose the segment: time and memory grow with them.
MOST_RECURRENT = 512
FEW_RECURRENT = 16  # without a season, which would say how long a segment should be
LOOKS = (1, 2, 4, 8)  # times the usual context are tried
MOST_STEPS, LEAST_STEPS, STEPS_APART = 1200, 50, 50
MANY_WINDOWS = 100_000  # to train on, from which the most steps are worth their time
MOST_RECURRED = 30_000  # recurrent steps of a training


def context_and_segment(config: Config, seasons: Sequence[int], horizon: int, longest_series: int) -> tuple[int, int]:
    """Steps fed, and steps fed as one recurrent step.

    The context is two of the longest season, at least four of the first and at least half of the horizon (two horizons
    without a season), but not longer than the longest series and, unless it was given, 16384 steps. A segment is one
    season where it fits in four times, else one step; more, in parts or multiples of a season, where the recurrent
    layers would take more than 512 steps; without a season a sixteenth of the context. The context is rounded up to
    whole segments, down from 16384.

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
    least = -(-context_length // (MOST_RECURRENT if seasons else FEW_RECURRENT))
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
    order = shape_order(store.y, store.offsets[:-1], split_series(length_n, context_length, horizon).until_n)
    windows = Windows.from_store(store, device, seasons=seasons[:1])
    if config.context_length is None:
        looked = _look(windows, seasons, length_n, horizon, context_length, order)
        context_length, segment = context_and_segment(replace(config, context_length=looked), seasons, horizon, 0)
    split = split_series(length_n, context_length, horizon, order)
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


def _look(
    windows: Windows,
    seasons: Sequence[int],
    length_n: NDArray[np.int64],
    horizon: int,
    usual: int,
    order: NDArray[np.int64],
) -> int:
    """The context that a linear forecast shows to be long enough: the usual one, or a few times that."""
    most = min(int(np.median(length_n) // 2), LONGEST_LINEAR)
    contexts: list[int] = [usual, *(times * usual for times in LOOKS[1:] if times * usual <= most)]
    split = split_series(length_n, contexts[-1], horizon, order)
    if len(contexts) == 1 or not split.trainable:
        return usual
    start_n, until_n = windows.start_n.cpu().numpy(), split.until_n
    scale_n = error_scales(windows.y_R.cpu().numpy(), start_n, until_n, seasons[0] if seasons else 1)
    choices = [TrainingWindows(windows, split, context, horizon, tuple(seasons)) for context in contexts]
    return useful_context(choices, torch.from_numpy(scale_n).to(windows.y_R.device))


def steps_worth(split: Split, recurrent_steps: int) -> int:
    """Optimiser steps that the training windows are worth: 1200 for 100,000 of them or more, fewer by the root.

    Where a step is long, there are at most so many that they take 30,000 recurrent steps: a minute or so on two cores.

    Args:
        split: The training windows.
        recurrent_steps: Segments of a context.

    Example:
        >>> splits = [split_series(np.full(count, 130), 24, 6) for count in (1, 100, 10_000)]
        >>> [steps_worth(split, 12) for split in splits], steps_worth(splits[-1], 60)
        ([50, 350, 1200], 500)
    """
    windows = int(np.maximum(split.last_n - split.first_n + 1, 0).sum())
    worth = min(MOST_STEPS * math.sqrt(min(windows / MANY_WINDOWS, 1.0)), MOST_RECURRED / recurrent_steps)
    return max(STEPS_APART * math.ceil(worth / STEPS_APART), LEAST_STEPS)


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


def training_config(config: Config, task: Task) -> TrainingConfig:
    """The part of the options that training needs; if no number of steps was given, as many as windows are worth."""
    size = task.network.config
    worth = steps_worth(task.split, size.context_length // size.segment)
    steps = worth if config.max_steps is None else config.max_steps
    return TrainingConfig(
        optimizer=config.optimizer,
        lr=config.lr,
        batch_size=config.batch_size,
        max_steps=0 if config.preset == "fast" else steps,
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
