"""Recurrent layers by the textbook's formulas, one step after the other, so that each h_t can be got at.

B windows, T steps, N hidden units, G rows of all gates, L layers times directions, X features that enter a layer.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from holdfast.errors import Problem

_PHI = {"tanh": torch.tanh, "relu": torch.relu, "sigmoid": torch.sigmoid, "linear": torch.clone}
_Step = Callable[[Tensor, Tensor, tuple[Tensor, ...]], tuple[Tensor, ...]]


@dataclass(frozen=True)
class Unrolled:
    """What a recurrent layer computes: its step, and how its weights and tensors are laid out.

    Attributes:
        step: State at t from U x_t + b_ih, W h_{t-1} + b_hh and the state at t-1.
        parts: How many tensors make up its state, h first.
        names: Of the weights of one layer and direction, U and W first.
        places: Its layers and directions in turn: `l0`, `l0_reverse`, `l1`, ...
        directions: One or two.
        batch_first: Whether inputs and outputs are [B, T, ...] rather than [T, B, ...].

    Example:
        >>> layer = nn.GRU(2, 3)
        >>> x_TBD, h_LBN = torch.randn(5, 4, 2), torch.zeros(1, 4, 3)
        >>> unrolled = Unrolled.of(layer)
        >>> outputs = unrolled([x_TBD, h_LBN, *(getattr(layer, name) for name in unrolled.weights)], lambda *_: None)
        >>> torch.allclose(outputs[0], layer(x_TBD, h_LBN)[0], atol=1e-6)
        True
    """

    step: _Step
    parts: int
    names: tuple[str, ...]
    places: tuple[str, ...]
    directions: int
    batch_first: bool

    @classmethod
    def of(cls, layer: Any) -> Unrolled:
        """The plan of a layer that has no `layer_problem`."""
        kind = kind_of(layer)
        steps = {"GRU": _gru_step, "LSTM": _lstm_step}
        step: _Step = partial(_rnn_step, _PHI[layer.nonlinearity]) if kind == "RNN" else steps[kind]
        names = ("weight_ih", "weight_hh", "bias_ih", "bias_hh")[: 4 if layer.bias else 2]
        stock = isinstance(layer, nn.RNNBase)  # ours run in one direction, batch first
        ends = ("", "_reverse") if stock and layer.bidirectional else ("",)
        places = tuple(f"l{k}{end}" for k in range(layer.num_layers) for end in ends)
        return cls(step, 2 if kind == "LSTM" else 1, names, places, len(ends), not stock or layer.batch_first)

    @property
    def weights(self) -> list[str]:
        """The names of all weights, place by place."""
        return [f"{name}_{place}" for place in self.places for name in self.names]

    def __call__(self, tensors: Sequence[Tensor], watch: Callable[[str, Tensor], None]) -> list[Tensor]:
        """Run over all steps.

        Args:
            tensors: Inputs, the parts of the state before the first step [L, B, N], and all weights.
            watch: Told the place and h_t [B, N] of every step, before anything is made of that h_t.

        Returns:
            h of the last layer at every step, and the parts of the state after the last step.
        """
        x, starts, weights = tensors[0], tensors[1 : 1 + self.parts], iter(tensors[1 + self.parts :])
        h_TBX = x.transpose(0, 1) if self.batch_first else x
        sides: list[Tensor] = []
        finals = []
        for place, *start in zip(self.places, *starts, strict=True):
            U, W, b_ih, b_hh, *_ = [*(next(weights) for _ in self.names), None, None]
            state, order = tuple(start), -1 if place.endswith("_reverse") else 1
            h_TBN = []
            for a_BG in F.linear(h_TBX, U, b_ih).unbind()[::order]:
                state = self.step(a_BG, F.linear(state[0], W, b_hh), state)
                watch(place, state[0])
                h_TBN.append(state[0])
            sides.append(torch.stack(h_TBN[::order]))
            finals.append(state)
            if len(sides) == self.directions:
                h_TBX, sides = torch.cat(sides, -1), []
        h = h_TBX.transpose(0, 1) if self.batch_first else h_TBX
        return [h, *(torch.stack(part) for part in zip(*finals, strict=True))]


def layer_problem(layer: Any) -> Problem | None:
    """Why a layer cannot be unrolled, or nothing.

    Args:
        layer: What should be a `torch.nn.RNN`, `GRU` or `LSTM`, or one of `holdfast.networks`.

    Returns:
        The problem.

    Example:
        >>> layer_problem(nn.LSTM(2, 3)) is None, layer_problem(nn.LSTMCell(2, 3)).got
        (True, 'LSTMCell')
    """
    where, expected = "recurrent layer", "an RNN, GRU or LSTM of torch.nn or holdfast.networks"
    if not kind_of(layer):
        return Problem(where, expected, type(layer).__name__, "give the recurrent layer itself, before any wrapper")
    if getattr(layer, "proj_size", 0):
        return Problem(where, f"{expected} without projections", f"proj_size={layer.proj_size}", "leave out proj_size")
    if layer.dropout and layer.num_layers > 1:
        # The masks are drawn inside the kernel, where the steps cannot be repeated with the same ones.
        fix = "leave out dropout, or stack layers of num_layers=1 with nn.Dropout between them"
        return Problem(where, f"{expected} without dropout between layers", f"dropout={layer.dropout}", fix)
    return None


def kind_of(layer: object) -> str:
    """RNN, GRU or LSTM, where the layer computes what PyTorch's or holdfast's of that name does; else nothing.

    Args:
        layer: Anything.

    Returns:
        The name, or an empty text.
    """
    own: Any = type(layer)
    for base in own.__mro__:  # a parametrised layer is of a subclass
        ours = base.__module__ == "holdfast.networks.cells" and base.__name__ in ("RNN", "GRU", "LSTM")
        if ours or base in (nn.RNN, nn.GRU, nn.LSTM):
            return str(base.__name__) if own.forward is base.forward else ""
    return ""


def _rnn_step(phi: Callable[[Tensor], Tensor], a_BN: Tensor, r_BN: Tensor, _: object) -> tuple[Tensor, ...]:
    """h_t = phi(U x_t + W h_{t-1} + b)."""
    return (phi(a_BN + r_BN),)


def _gru_step(a_BG: Tensor, r_BG: Tensor, state: tuple[Tensor, ...]) -> tuple[Tensor, ...]:
    """h_t = (1 - z) * n + z * h_{t-1}, with the reset gate after the product."""
    (h_BN,) = state
    a_r, a_z, a_n = a_BG.chunk(3, -1)
    r_r, r_z, r_n = r_BG.chunk(3, -1)
    z = torch.sigmoid(a_z + r_z)
    n = torch.tanh(a_n + torch.sigmoid(a_r + r_r) * r_n)
    return ((1 - z) * n + z * h_BN,)


def _lstm_step(a_BG: Tensor, r_BG: Tensor, state: tuple[Tensor, ...]) -> tuple[Tensor, ...]:
    """c_t = f * c_{t-1} + i * g; h_t = o * tanh(c_t)."""
    i, f, g, o = (a_BG + r_BG).chunk(4, -1)
    c_BN = torch.sigmoid(f) * state[1] + torch.sigmoid(i) * torch.tanh(g)
    return torch.sigmoid(o) * torch.tanh(c_BN), c_BN
