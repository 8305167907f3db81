"""The state of a recurrent layer step by step, and dstate_t / dstate_{t-1} in closed form.

B windows, T steps, D features, N hidden units, L layers, G rows of all gates. The state holds h of all layers, then for
an LSTM c of all layers: M = L N numbers, or 2 L N. Everything is computed in float64.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from holdfast.errors import OptionError, Problem, TrainingError
from holdfast.gradients.unrolled import Unrolled, layer_problem

GATES = {1: ("h",), 3: ("r", "z", "n"), 4: ("i", "f", "g", "o")}
_CELLS: dict[Any, Any] = {nn.RNNCell: nn.RNN, nn.GRUCell: nn.GRU, nn.LSTMCell: nn.LSTM}

State = tuple[Tensor, ...]  # h_LBN, or h_LBN and c_LBN
_Pair = tuple[Tensor, Tensor]


@dataclass(frozen=True, eq=False)
class Gate:
    """One gate at one step: its activation and the slope there, both [B, N], and dpre-activation / dstate."""

    value_BN: Tensor
    slope_BN: Tensor
    tangent_BNM: Tensor

    @property
    def change(self) -> Tensor:
        """Jacobian of the gate with respect to the state before the step [B, N, M]."""
        return self.slope_BN[:, :, None] * self.tangent_BNM


@dataclass(frozen=True, eq=False)
class Recurrence:
    """What a recurrent layer of one direction computes, in float64.

    Attributes:
        unrolled: Its step, and the names of its places.
        phi: The nonlinearity of an RNN, tanh otherwise.
        weights: U, W, b_ih, b_hh of each layer; biases may be None.
    """

    unrolled: Unrolled
    phi: str
    weights: tuple[tuple[Tensor, Tensor, Tensor | None, Tensor | None], ...]

    @property
    def names(self) -> tuple[str, ...]:
        """Of the gates, in the order of their rows."""
        W = self.weights[0][1]
        return GATES[W.shape[0] // W.shape[1]]

    @property
    def units(self) -> int:
        """L N: the numbers in h of all layers."""
        return len(self.weights) * self.weights[0][1].shape[1]

    @property
    def size(self) -> int:
        """M: the numbers in the whole state."""
        return self.unrolled.parts * self.units

    def states(self, x_BTD: Tensor, h0: Tensor | Sequence[Tensor] | None) -> Iterator[tuple[Tensor, State]]:
        """x_t [B, D] and the state before it, for t = 1 to T."""
        x_TBD, state = self._inputs(x_BTD).unbind(1), self._start(x_BTD, h0)
        for x_BD in x_TBD:
            yield x_BD, state
            below, parts = x_BD, []
            for k, weights in enumerate(self.weights):
                parts.append(self._advance(weights, below, tuple(part[k] for part in state)))
                below = parts[-1][0]
            state = tuple(torch.stack(part) for part in zip(*parts, strict=True))

    def slopes(self, x_BD: Tensor, state: State) -> Iterator[tuple[str, str, Tensor]]:
        """Place, name and slope [B, N] of each gate, layer by layer, at the step that reads x_t in that state."""
        below = x_BD
        for k, (place, weights) in enumerate(zip(self.unrolled.places, self.weights, strict=True)):
            own = tuple(part[k] for part in state)
            U, W, b_ih, b_hh = weights
            a_BG, r_BG = F.linear(below, U, b_ih), F.linear(own[0], W, b_hh)
            reset = torch.ones_like(a_BG[:, :0])
            for name, a_BN, r_BN in zip(
                self.names, *(pre.chunk(len(self.names), 1) for pre in (a_BG, r_BG)), strict=True
            ):
                value_BN, slope_BN = SLOPES[self._phi(name)](a_BN + (reset * r_BN if name == "n" else r_BN))
                reset = value_BN if name == "r" else reset
                yield place, name, slope_BN
            below = self._advance(weights, below, own)[0]

    def _phi(self, name: str) -> str:
        return {"h": self.phi, "g": "tanh", "n": "tanh"}.get(name, "sigmoid")

    def jacobian(self, x_BD: Tensor, state: State) -> Tensor:
        """Jacobian of the next state with respect to this one [B, M, M]."""
        rows = zip(*(changes for _, _, changes in self._layers(x_BD, state)), strict=True)
        J_BMM = torch.cat([block for part in rows for block in part], 1)
        if not torch.isfinite(J_BMM).all():
            fix = "look at the weights, the inputs and the state: one of them is not finite, or too large to multiply"
            raise TrainingError(Problem("Jacobian of a recurrent step", "finite entries", "nan or inf", fix))
        return J_BMM

    def _layers(self, x_BD: Tensor, state: State) -> Iterator[tuple[str, dict[str, Gate], tuple[Tensor, ...]]]:
        """Place, gates, and Jacobians of the parts of the next state, layer by layer."""
        below, change = x_BD, None
        for k, (place, weights) in enumerate(zip(self.unrolled.places, self.weights, strict=True)):
            own = tuple(part[k] for part in state)
            U, W, b_ih, b_hh = weights
            a_BG, r_BG = F.linear(below, U, b_ih), F.linear(own[0], W, b_hh)
            starts = [self._columns(k, part) for part in range(len(own))]
            da = torch.zeros((), dtype=W.dtype, device=W.device) if change is None else U @ change
            tangents = (da.expand(len(x_BD), len(U), self.size), (W @ starts[0]).expand(len(x_BD), -1, -1))
            found = self._gates((a_BG, r_BG), tangents)
            changes = _changes(found, own, starts)
            yield place, found, changes
            below, change = self._advance(weights, below, own)[0], changes[0]

    def _gates(self, pre: _Pair, tangents: _Pair) -> dict[str, Gate]:
        count = len(self.names)
        a, r, da, dr = (tensor.chunk(count, 1) for tensor in (*pre, *tangents))
        gates: dict[str, Gate] = {}
        for j, name in enumerate(self.names):
            pre_BN, tangent_BNM = a[j] + r[j], da[j] + dr[j]
            if name == "n":  # the reset gate scales what the recurrence gives
                reset = gates["r"]
                pre_BN = a[j] + reset.value_BN * r[j]
                tangent_BNM = da[j] + reset.value_BN[:, :, None] * dr[j] + r[j][:, :, None] * reset.change
            gates[name] = Gate(*SLOPES[self._phi(name)](pre_BN), tangent_BNM)
        return gates

    def _advance(self, weights: Sequence[Tensor | None], below_BX: Tensor, own: State) -> State:
        U, W, b_ih, b_hh = weights
        return self.unrolled.step(F.linear(below_BX, U, b_ih), F.linear(own[0], W, b_hh), own)  # type: ignore[arg-type]

    def _columns(self, k: int, part: int) -> Tensor:
        """Jacobian of one part of layer k's state with respect to the whole state [N, M]: ones in its own columns."""
        N, W = self.weights[0][1].shape[1], self.weights[0][1]
        first = part * self.units + k * N
        return torch.eye(self.size, dtype=W.dtype, device=W.device)[first : first + N]

    def _inputs(self, x_BTD: Tensor) -> Tensor:
        D = self.weights[0][0].shape[1]
        where, fix = "inputs x_BTD", "give plain numbers: windows, steps, features, whatever batch_first is"
        if not isinstance(x_BTD, Tensor) or x_BTD.dim() != 3 or 0 in x_BTD.shape[:2] or x_BTD.shape[2] != D:
            got = str(list(x_BTD.shape)) if isinstance(x_BTD, Tensor) else type(x_BTD).__name__
            raise OptionError(Problem(where, f"[B, T, D] with B, T >= 1 and D = {D}", got, fix))
        if not torch.isfinite(x_BTD).all():
            raise OptionError(Problem(where, "finite numbers", "nan or inf", "fill or leave out what is missing"))
        return x_BTD.detach().to(self.weights[0][0])

    def _start(self, x_BTD: Tensor, h0: Tensor | Sequence[Tensor] | None) -> State:
        W, parts = self.weights[0][1], self.unrolled.parts
        shape = (len(self.weights), len(x_BTD), W.shape[1])
        if h0 is None:
            return (W.new_zeros(shape),) * parts
        given = (h0,) if isinstance(h0, Tensor) else tuple(h0)
        got = [tuple(part.shape) for part in given]
        if got != [shape] * parts:
            expected = f"{'h and c, each' if parts == 2 else 'h'} [L, B, N] = {list(shape)}"
            fix = "give the state before the first step as the layer takes it"
            raise OptionError(Problem("state h0", expected, str([list(one) for one in got]), fix))
        return tuple(part.detach().to(W) for part in given)


@torch.no_grad()
def read_layer(layer: Any) -> Recurrence:
    """The recurrence of a layer or cell; refuses what has no single state that steps forward.

    Args:
        layer: An RNN, GRU or LSTM, or one of the cells of torch.nn.

    Returns:
        Copies of its weights in float64, and its step.

    Raises:
        OptionError: Another module, projections, two directions, or dropout between layers in training mode.

    Example:
        >>> read_layer(nn.LSTM(2, 3, num_layers=2)).size
        12
    """
    layer = as_layer(layer)
    unrolled = Unrolled.of(layer)
    problems = []
    if unrolled.directions == 2:
        fix = "measure each direction as a layer of its own, the reversed one on reversed inputs"
        problems.append(Problem("recurrent layer", "one direction", "bidirectional=True", fix))
    if layer.dropout and layer.num_layers > 1 and layer.training:
        fix = "call layer.eval() first: nothing is dropped then"
        problems.append(Problem("recurrent layer", "no dropout between layers", f"dropout={layer.dropout}", fix))
    if problems:
        raise OptionError(problems)
    weights = []
    for place in unrolled.places:
        found = [getattr(layer, f"{name}_{place}").detach().double() for name in unrolled.names]
        U, W, b_ih, b_hh = [*found, None, None][:4]
        weights.append((U, W, b_ih, b_hh))
    return Recurrence(unrolled, getattr(layer, "nonlinearity", "tanh"), tuple(weights))


def as_layer(module: Any) -> Any:
    """The module itself, or the layer that computes what a cell of torch.nn does; refuses everything else."""
    for cell, layer in _CELLS.items():
        if isinstance(module, cell) and type(module).forward is cell.forward:
            options = {"nonlinearity": module.nonlinearity} if cell is nn.RNNCell else {}
            sizes = (module.input_size, module.hidden_size)
            made = layer(*sizes, bias=module.bias, device="meta", **options)  # draws no random numbers
            names = ("weight_ih", "weight_hh", "bias_ih", "bias_hh")[: 4 if module.bias else 2]
            made.load_state_dict({f"{name}_l0": getattr(module, name).detach() for name in names}, assign=True)
            return made
    problem = layer_problem(module)
    if problem and not problem.got.startswith("dropout="):  # where nothing is stepped, dropout does not matter
        raise OptionError(problem)
    return module


def _changes(gates: dict[str, Gate], own: State, starts: list[Tensor]) -> tuple[Tensor, ...]:
    """Jacobians of h_t, and for an LSTM of c_t, with respect to the state before the step, each [B, N, M]."""
    by = {name: gate.value_BN[:, :, None] for name, gate in gates.items()}
    d = {name: gate.change for name, gate in gates.items()}
    if "h" in gates:  # h_t = phi(a_t)
        return (d["h"],)
    if "z" in gates:  # h_t = (1 - z) * n + z * h_{t-1}
        h, n = own[0][:, :, None], by["n"]
        return ((1 - by["z"]) * d["n"] + by["z"] * starts[0] + (h - n) * d["z"],)
    # c_t = f * c_{t-1} + i * g; h_t = o * tanh(c_t)
    c = own[1][:, :, None]
    dc = by["f"] * starts[1] + c * d["f"] + by["g"] * d["i"] + by["i"] * d["g"]
    value, slope = SLOPES["tanh"](by["f"] * c + by["i"] * by["g"])
    return value * d["o"] + by["o"] * slope * dc, dc


def _sigmoid(a: Tensor) -> _Pair:
    # sigmoid(-a), and not 1 - sigmoid(a), which is 0 from a = 37 on.
    s = torch.sigmoid(a)
    return s, s * torch.sigmoid(-a)


def _tanh(a: Tensor) -> _Pair:
    return torch.tanh(a), 4 * _sigmoid(2 * a)[1]


def _relu(a: Tensor) -> _Pair:
    return torch.relu(a), (a > 0).to(a)


def _linear(a: Tensor) -> _Pair:
    return a, torch.ones_like(a)


SLOPES: dict[str, Callable[[Tensor], _Pair]] = {"tanh": _tanh, "sigmoid": _sigmoid, "relu": _relu, "linear": _linear}
