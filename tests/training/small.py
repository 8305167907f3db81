"""Tasks small enough to be trained many times."""

from __future__ import annotations

import copy

import numpy as np
import torch

from holdfast.networks import ForecastNetwork, NetworkConfig, make_head
from holdfast.training import Task, TrainingConfig, error_scales, split_series
from holdfast.windows import Windows

CONTEXT, HORIZON, SEASON = 8, 3, 4
LENGTHS = (40, 33, 14, 4)  # the last one is only forecast
ANCHORS = (("last", 1), ("season", SEASON), ("recent-mean", SEASON))


def values(lengths=LENGTHS, seed=0):
    """A season, a trend and noise for each series, all above 0."""
    random = np.random.default_rng(seed)
    wave = [3.0, 0.0, -2.0, 1.0]
    return [
        20.0 + i + np.resize(wave, n) + 0.05 * np.arange(n) + random.normal(scale=0.5, size=n)
        for i, n in enumerate(lengths)
    ]


def make_windows(series):
    """Windows over the series, each followed by its future rows."""
    lengths = [len(y) for y in series]
    rows = [np.concatenate([y, np.full(HORIZON, np.nan)]) for y in series]
    offsets = np.concatenate([[0], np.cumsum([len(y) for y in rows])])
    return Windows.from_arrays(np.concatenate(rows), offsets.tolist(), lengths)


def make_network(*, cell="lstm", head="quantile", dropout=0.0, anchors=ANCHORS, seasons=(SEASON,), layers=1, seed=0):
    shapes = NetworkConfig(
        horizon=HORIZON,
        context_length=CONTEXT,
        seasons=seasons,
        anchors=anchors,
        cell=cell,
        hidden_size=4,
        num_layers=layers,
        dropout=dropout,
    )
    return ForecastNetwork(shapes, make_head(head, (80.0,), (0.0, 100.0)), seed)


def make_task(series=None, network=None):
    series = values() if series is None else series
    windows = make_windows(series)
    split = split_series(np.array([len(y) for y in series]), CONTEXT, HORIZON)
    scales = error_scales(windows.y_R.numpy(), windows.start_n.numpy(), split.until_n, SEASON)
    return Task(network or make_network(), windows, split, torch.from_numpy(scales))


def config(**options):
    return TrainingConfig(**{"batch_size": 8, "lr": 1e-2, **options})


def state_of(network, optimizer):
    return copy.deepcopy((network.state_dict(), optimizer.state_dict()))


def assert_same_bits(one, other):
    if isinstance(one, torch.Tensor):
        assert one.shape == other.shape and one.dtype == other.dtype
        raw = [tensor.detach().flatten().contiguous().view(torch.uint8) for tensor in (one, other)]
        assert torch.equal(*raw)
    elif isinstance(one, dict):
        assert one.keys() == other.keys()
        for key in one:
            assert_same_bits(one[key], other[key])
    elif isinstance(one, list | tuple):
        assert len(one) == len(other)
        for a, b in zip(one, other, strict=True):
            assert_same_bits(a, b)
    else:
        assert one == other
