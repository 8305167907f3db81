"""The running average of the weights: what is validated, and kept."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import torch
from torch import Tensor, nn

DECAY = 0.99  # an average over about 100 steps; over 50 to 200 it makes no difference


def clone_weights(network: nn.Module) -> dict[str, Tensor]:
    """A copy of a network's state."""
    return {name: tensor.clone() for name, tensor in network.state_dict().items()}


@torch.no_grad()
def follow(average: dict[str, Tensor], network: nn.Module, step: int) -> None:
    """Move an average towards the weights behind a step, in place.

        average <- d average + (1 - d) weights,   d = min(0.99, (1 + step) / (10 + step))

    The first steps are forgotten faster, so that the average soon leaves the untrained weights. Polyak and Juditsky
    (1992); the exponential form as usual.

    Args:
        average: State by name.
        network: Its weights after the step.
        step: Number of the step, from 1.

    Example:
        >>> layer = nn.Linear(1, 1, bias=False)
        >>> average = {"weight": torch.zeros(1, 1)}
        >>> _ = layer.weight.data.fill_(11.0)
        >>> follow(average, layer, step=1)
        >>> average["weight"].item()
        9.0
    """
    decay = min(DECAY, (1 + step) / (10 + step))
    for name, tensor in network.state_dict().items():
        average[name].lerp_(tensor, 1 - decay)


@contextmanager
def wearing(network: nn.Module, weights: dict[str, Tensor]) -> Iterator[None]:
    """Other weights in a network for a while; its own come back to the bit.

    Example:
        >>> layer = nn.Linear(1, 1, bias=False)
        >>> own = layer.weight.item()
        >>> with wearing(layer, {"weight": torch.ones(1, 1)}):
        ...     layer.weight.item()
        1.0
        >>> layer.weight.item() == own
        True
    """
    own = clone_weights(network)
    network.load_state_dict(weights)
    try:
        yield
    finally:
        network.load_state_dict(own)
