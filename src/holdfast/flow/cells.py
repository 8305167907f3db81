"""The state of a recurrent layer step by step, and dstate_t / dstate_{t-1} in closed form.

B windows, T steps, D features, N hidden units, L layers, G rows of all gates. The state holds h of all layers, then for
an LSTM c of all layers: M = L N numbers, or 2 L N; K columns of a frame, that is directions in it. What measures
computes in float64, and a penalty in the number format of the layer.
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
_Weights = tuple[Tensor, Tensor, Tensor | None, Tensor | None]


@dataclass(frozen=True, eq=False)
class Gate:
    """One gate at one step: its activation, the slope there, and dpre-activation / dstate times a frame."""

    value_BN: Tensor
    slope_BN: Tensor
    tangent_BNK: Tensor

    @property
    def change(self) -> Tensor:
        """Jacobian of the gate with respect to the state before the step, times the frame [B, N, K]."""
        return self.slope_BN[:, :, None] * self.tangent_BNK


@dataclass(frozen=True, eq=False)
class Recurrence:
    """What a recurrent layer of one direction computes, in the number format of its weights.

    Attributes:
        unrolled: Its step, and the names of its places.
        phi: The nonlinearity of an RNN, tanh otherwise.
        weights: U, W, b_ih, b_hh of each layer; biases may be None.
    """

    unrolled: Unrolled
    phi: str
    weights: tuple[_Weights, ...]

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

    def begin(self, x_BTD: Tensor, h0: Tensor | Sequence[Tensor] | None) -> tuple[tuple[Tensor, ...], State]:
        """x_t [B, D] for t = 1 to T, and the state before the first step."""
        return self._inputs(x_BTD).unbind(1), self._start(x_BTD, h0)

    def states(self, x_BTD: Tensor, h0: Tensor | Sequence[Tensor] | None) -> Iterator[tuple[Tensor, State]]:
        """x_t [B, D] and the state before it, for t = 1 to T."""
        x_TBD, state = self.begin(x_BTD, h0)
        for x_BD in x_TBD:
            yield x_BD, state
            below, parts = x_BD, []
            for k, weights in enumerate(self.weights):
                own = tuple(part[k] for part in state)
                parts.append(self.unrolled.step(*_affine(weights, below, own), own))
                below = parts[-1][0]
            state = _stacked(parts)

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
            below = self.unrolled.step(*_affine(weights, below, own), own)[0]

    def _phi(self, name: str) -> str:
        return {"h": self.phi, "g": "tanh", "n": "tanh"}.get(name, "sigmoid")

    def jacobian(self, x_BD: Tensor, state: State) -> Tensor:
        """Jacobian of the next state with respect to this one [B, M, M]."""
        _, J_BMM = self.push(x_BD, state, self._identity)
        if not torch.isfinite(J_BMM).all():
            raise TrainingError(not_finite())
        return J_BMM

    def push(self, x_BD: Tensor, state: State, frame_BMK: Tensor) -> tuple[State, Tensor]:
        """The next state, and the Jacobian times a frame [B, M, K]: M / K times cheaper than the whole Jacobian."""
        _, _, parts, changes = zip(*self._layers(x_BD, state, frame_BMK), strict=True)
        return _stacked(parts), torch.cat([block for part in zip(*changes, strict=True) for block in part], 1)

    @property
    def _identity(self) -> Tensor:
        W = self.weights[0][1]
        return torch.eye(self.size, dtype=W.dtype, device=W.device)

    def _layers(
        self, x_BD: Tensor, state: State, frame_BMK: Tensor
    ) -> Iterator[tuple[str, dict[str, Gate], State, tuple[Tensor, ...]]]:
        """Place, gates, next state, and the Jacobians of its parts times the frame, layer by layer."""
        below, change, B, K = x_BD, None, len(x_BD), frame_BMK.shape[-1]
        for k, (place, weights) in enumerate(zip(self.unrolled.places, self.weights, strict=True)):
            own = tuple(part[k] for part in state)
            U, W, _, _ = weights
            a_BG, r_BG = _affine(weights, below, own)
            starts = [self._rows(frame_BMK, k, part) for part in range(len(own))]
            da = torch.zeros((), dtype=W.dtype, device=W.device) if change is None else U @ change
            tangents = (da.expand(B, len(U), K), (W @ starts[0]).expand(B, -1, -1))
            found = self._gates((a_BG, r_BG), tangents)
            after, changes = self.unrolled.step(a_BG, r_BG, own), _changes(found, own, starts)
            yield place, found, after, changes
            below, change = after[0], changes[0]

    def _gates(self, pre: _Pair, tangents: _Pair) -> dict[str, Gate]:
        count = len(self.names)
        a, r, da, dr = (tensor.chunk(count, 1) for tensor in (*pre, *tangents))
        gates: dict[str, Gate] = {}
        for j, name in enumerate(self.names):
            pre_BN, tangent_BNK = a[j] + r[j], da[j] + dr[j]
            if name == "n":  # the reset gate scales what the recurrence gives
                reset = gates["r"]
                pre_BN = a[j] + reset.value_BN * r[j]
                tangent_BNK = da[j] + reset.value_BN[:, :, None] * dr[j] + r[j][:, :, None] * reset.change
            gates[name] = Gate(*SLOPES[self._phi(name)](pre_BN), tangent_BNK)
        return gates

    def _rows(self, frame_BMK: Tensor, k: int, part: int) -> Tensor:
        """The rows of a frame that belong to one part of layer k's state [B, N, K]."""
        N = self.weights[0][1].shape[1]
        return frame_BMK.narrow(-2, part * self.units + k * N, N)

    def _inputs(self, x_BTD: Tensor) -> Tensor:
        D = self.weights[0][0].shape[1]
        where, fix = "inputs x_BTD", "give plain numbers: windows, steps, features, whatever batch_first is"
        if not isinstance(x_BTD, Tensor) or x_BTD.dim() != 3 or 0 in x_BTD.shape[:2] or x_BTD.shape[2] != D:
            got = str(list(x_BTD.shape)) if isinstance(x_BTD, Tensor) else type(x_BTD).__name__
            raise OptionError(Problem(where, f"[B, T, D] with B, T >= 1 and D = {D}", got, fix))
        if not torch.isfinite(x_BTD).all():
            raise OptionError(Problem(where, "finite numbers", "nan or inf", "fill or leave out what is missing"))
        return x_BTD.to(self.weights[0][0])

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
        return tuple(part.to(W) for part in given)


def not_finite() -> Problem:
    """What is wrong where a Jacobian is not finite."""
    fix = "look at the weights, the inputs and the state: one of them is not finite, or too large to multiply"
    return Problem("Jacobian of a recurrent step", "finite entries", "nan or inf", fix)


def read_layer(layer: Any, *, live: bool = False) -> Recurrence:
    """The recurrence of a layer or cell; refuses what has no single state that steps forward.

    Args:
        layer: An RNN, GRU or LSTM, or one of the cells of torch.nn.
        live: Take the weights as they are, part of a graph; what computes with them leaves out dropout.

    Returns:
        Its step, and copies of its weights in float64, or the live ones in at least float32.

    Raises:
        OptionError: Another module, projections, two directions, or, not live, dropout between layers in training mode.
    """
    given, layer = layer, as_layer(layer)
    unrolled = Unrolled.of(layer)
    problems = []
    if unrolled.directions == 2:
        fix = "measure each direction as a layer of its own, the reversed one on reversed inputs"
        problems.append(Problem("recurrent layer", "one direction", "bidirectional=True", fix))
    if layer.dropout and layer.num_layers > 1 and layer.training and not live:
        fix = "call layer.eval() first: nothing is dropped then"
        problems.append(Problem("recurrent layer", "no dropout between layers", f"dropout={layer.dropout}", fix))
    if problems:
        raise OptionError(problems)
    weights = []
    for place in unrolled.places:
        end = f"_{place}" if layer is given else ""  # a cell
        found = [getattr(given, name + end) for name in unrolled.names]
        found = [w.to(torch.promote_types(w.dtype, torch.float32)) if live else w.detach().double() for w in found]
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


def _affine(weights: _Weights, below_BX: Tensor, own: State) -> _Pair:
    """U x_t + b_ih and W h_{t-1} + b_hh [B, G]."""
    U, W, b_ih, b_hh = weights
    return F.linear(below_BX, U, b_ih), F.linear(own[0], W, b_hh)


def _stacked(parts: Sequence[State]) -> State:
    """The state of all layers from the state of each."""
    return tuple(torch.stack(part) for part in zip(*parts, strict=True))


def _changes(gates: dict[str, Gate], own: State, starts: list[Tensor]) -> tuple[Tensor, ...]:
    """Jacobians of h_t, and for an LSTM of c_t, with respect to the state before the step, each times the frame."""
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
