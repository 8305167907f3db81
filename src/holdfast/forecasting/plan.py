"""From a configuration and series to a network that fits them: context, segments, anchors."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import polars as pl
import torch
from numpy.typing import NDArray

from holdfast.forecasting.config import Config
from holdfast.networks import (
    Anchor,
    ForecastNetwork,
    NetworkConfig,
    anchor_forecasts,
    candidate_anchors,
    make_head,
    masked_mean,
)
from holdfast.series import SeriesStore, csv_text
from holdfast.training import Split, Task, TrainingConfig, error_scales, split_series
from holdfast.windows import Sampler, Windows

NEAR_BEST = 1.2  # times the error of a window's best anchor still counts as good there
SHARE = 0.2  # of the windows an anchor must be good on, or it is left out
ANCHOR_WINDOWS = 1024  # training windows that the anchors are compared on


def context_and_segment(config: Config, seasons: Sequence[int], horizon: int, longest_series: int) -> tuple[int, int]:
    """Steps fed, and steps fed as one recurrent step.

    The context is two of the longest season, at least four of the first and at least the horizon (two horizons
    without a season), but not longer than the longest series; a segment is one season where it fits in four times.
    The context is rounded up to whole segments.

    Example:
        >>> context_and_segment(Config(), (24, 168), 48, 960)
        (336, 24)
        >>> context_and_segment(Config(), (), 6, 30)
        (12, 1)
    """
    wanted = max(2 * max(seasons), 4 * seasons[0], horizon) if seasons else 2 * horizon
    context_length = config.context_length or max(1, min(wanted, longest_series))
    segment = config.segment or (seasons[0] if seasons and 4 * seasons[0] <= context_length else 1)
    return -(-context_length // segment) * segment, segment


def useful_anchors(
    windows: Windows,
    split: Split,
    candidates: Sequence[Anchor],
    size: tuple[int, int],
) -> tuple[Anchor, ...]:
    """The anchors that are good on at least a fifth of the training windows, or the one that is good on most.

    Good means an error of at most 1.2 times that of the window's best anchor; 1024 windows are drawn as training draws
    them. Counted window by window, because a set may hold series of several kinds. Without a window to compare on: the
    seasonal naive anchors, else the last value.

    Args:
        windows: The series.
        split: Which rows may be looked at.
        candidates: What to choose from.
        size: Context length and horizon, in steps.
    """
    if not split.trainable:
        return tuple(anchor for anchor in candidates if anchor[0] == "season") or (("last", 1),)
    sampler = Sampler(split.first_n, split.last_n, ANCHOR_WINDOWS, seed=0)
    until_n = torch.from_numpy(split.until_n).to(windows.y_R.device)
    batch = windows.gather(*sampler.draw(0), context_length=size[0], horizon=size[1], until_n=until_n)
    forecasts_BFA = anchor_forecasts(batch.y_BT, batch.mask_BT, candidates, size[1])
    error_BFA = (forecasts_BFA - batch.target_BF[..., None]).abs()
    error_BA = masked_mean(error_BFA, batch.target_mask_BF[..., None].expand_as(error_BFA), dim=1)
    error_BA = error_BA[batch.target_mask_BF.any(1)]
    good_BA = error_BA <= NEAR_BEST * error_BA.amin(1, keepdim=True)
    share_A = good_BA.double().mean(0).nan_to_num()
    enough = min(SHARE, float(share_A.max()))
    return tuple(anchor for anchor, share in zip(candidates, share_A.tolist(), strict=True) if share >= enough)


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
    windows = Windows.from_store(store, device)
    scale_n = error_scales(store.y, store.offsets[:-1], split.until_n, seasons[0] if seasons else 1)
    candidates = candidate_anchors(seasons, horizon)
    network_config = NetworkConfig(
        horizon=horizon,
        context_length=context_length,
        segment=segment,
        seasons=tuple(seasons),
        anchors=useful_anchors(windows, split, candidates, (context_length, horizon)),
        cell=config.cell,
        init=config.init,
        constraint=config.constraint,
        hidden_size=config.hidden_size,
        num_layers=config.layers,
        dropout=config.dropout,
        past_size=store.past.shape[1],
        known_size=store.known.shape[1],
        static_size=store.static.shape[1],
    )
    network = make_network(config, network_config)
    learnable_R = _rows_before(store, split.until_n)
    network.past.learn(torch.from_numpy(store.past[learnable_R]))
    network.known.learn(torch.from_numpy(store.known[learnable_R]))
    network.static.learn(torch.from_numpy(store.static))
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
        >>> from holdfast.series import Columns, check_table
        >>> table = pl.DataFrame({"ds": [1, 2, 3, 4], "y": [5.0, 6.0, None, 8.0]})
        >>> window_name(check_table(table, Columns(), horizon=2).store, 0, rows=3)
        "series 'series', cutoff 3"
    """
    cutoff = csv_text(pl.DataFrame([store.times(series, rows - 1, rows)])).split()
    return f"series {store.ids[series]!r}, cutoff {' '.join(cutoff[1:])}"


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


def _rows_before(store: SeriesStore, until_n: NDArray[np.int64]) -> NDArray[np.bool_]:
    """Which rows of the store lie before `until` in their series."""
    count_n = np.diff(store.offsets)
    row_R = np.arange(len(store.y)) - np.repeat(store.offsets[:-1], count_n)
    before: NDArray[np.bool_] = row_R < np.repeat(until_n, count_n)
    return before
