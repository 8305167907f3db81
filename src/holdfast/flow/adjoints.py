"""dL/dh_t at every step of every recurrent layer, by its recursion, with norms that no number format bounds.

B windows, T steps, H outputs, N units, L layers times directions, X features that enter a layer.
"""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.utils import parametrize

from holdfast.errors import OptionError, Problem
from holdfast.flow.backward import backward
from holdfast.flow.capture import Call, Track, captured, untouched
from holdfast.flow.newest import most_read, only_newest
from holdfast.flow.scaled import Scaled


@dataclass(frozen=True, eq=False)
class Adjoints:
    """The total adjoints of one layer and direction: dL/dh_t = exp(log_norm) * direction, for t = 1 to T.

    Attributes:
        direction_BTN: dL/dh_t over its norm, zero where that is zero. A value that is smaller than the largest of its
            window and step by more than the number format can tell is zero too.
        log_norm_BT: Natural logarithm of the Euclidean norm of dL/dh_t, in float64; -inf for zero, nan in masked steps.
        c_direction_BTN: The same of dL/dc_t for an LSTM, else None.
        c_log_norm_BT: The same of dL/dc_t for an LSTM, else None.
        mask_BT: Where there is a step: false in the padding of a packed sequence.
        reverse: Whether the layer runs from t = T to t = 1, so that lags count from t = 1.

    Example:
        >>> far = torch.tensor([[-2000.0, 0.0]], dtype=torch.float64)
        >>> found = Adjoints(torch.ones(1, 2, 1), far, None, None, torch.ones(1, 2, dtype=torch.bool), reverse=False)
        >>> found.h_BTN.flatten().tolist(), found.log_norm_BT[0, 0].item()
        ([0.0, 1.0], -2000.0)
    """

    direction_BTN: Tensor
    log_norm_BT: Tensor
    c_direction_BTN: Tensor | None
    c_log_norm_BT: Tensor | None
    mask_BT: Tensor
    reverse: bool

    @property
    def h_BTN(self) -> Tensor:
        """dL/dh_t itself: inf where it is too large for its number format, 0 where it is too small or masked."""
        return _product(self.direction_BTN, self.log_norm_BT)

    @property
    def c_BTN(self) -> Tensor | None:
        """dL/dc_t itself for an LSTM, else None."""
        if self.c_direction_BTN is None or self.c_log_norm_BT is None:
            return None
        return _product(self.c_direction_BTN, self.c_log_norm_BT)


def adjoints(model: nn.Module, loss_fn: Callable[[], Tensor]) -> dict[str, Adjoints]:
    """Total adjoints dL/dh_t, and dL/dc_t of an LSTM, at every step of every recurrent layer that a loss uses.

    dL/dh_t = dL/dy_t + (dh_{t+1}/dh_t)^T dL/dh_{t+1}: from the output at t, and from step t+1. The graph of the loss is
    cut at the outputs of each recurrent layer; autograd gives dL/dy_t, the recursion is the formulas of the cells on
    states computed once more, and what it gives for inputs and first states goes back through the rest of the graph.
    All of it carries a power of two per window, so norms of 1e400 or 1e-400 are told exactly, as logarithms.

    Nothing about the model changes: no gradient is written, modes, buffers and random states are put back. The loss is
    that of one call of `loss_fn`; where dropout acts between the layers of a stack, with masks drawn for this call.
    `ClipAdjoint` is seen through: adjoints are exact.

    Args:
        model: What holds `torch.nn.RNN`, `GRU`, `LSTM`, cells of these, or layers of `holdfast.networks`, anywhere in
            it. Packed sequences, projections, inputs without a batch, parametrised weights are all fine.
        loss_fn: Runs the model and returns the loss, one number with a graph; it calls no `backward`.

    Returns:
        By name of the module, a dot, and its layer and direction: "encoder.l0", "encoder.l0_reverse"; "l0" where the
        model is the layer itself. A cell is a layer "l0". Calls whose first state comes from an earlier call of the
        layer continue its steps, as a cell does in a loop; others are sequences of their own: "encoder.l0#2" and so on,
        in their order.

    Raises:
        OptionError: No recurrent layer, one whose forward is not known, a loss that is not one number with a graph, or
            no call of a recurrent layer with gradients enabled.

    Example:
        >>> layer = nn.RNN(1, 1, nonlinearity="relu", bias=False).double()
        >>> _ = [nn.init.constant_(weight, 0.5) for weight in layer.parameters()]
        >>> x_TBD = torch.ones(1000, 1, 1, dtype=torch.float64)
        >>> log_norm_BT = adjoints(layer, lambda: layer(x_TBD)[0][-1].sum())["l0"].log_norm_BT
        >>> log_norm_BT[0, 0].item() / math.log(0.5)
        999.0

    Reference:
        Werbos, "Backpropagation through time: what it does and how to do it", Proceedings of the IEEE 78 (1990).
    """
    return _named(propagate(model, loss_fn))


def propagated(loss: Tensor, calls: Sequence[Call], *, newest: bool = False) -> dict[str, Adjoints]:
    """The adjoints of a loss that `calls` were captured for: what `adjoints` returns.

    With `newest` those of what arrives at the newest step alone that the loss reads itself.
    """
    with torch.autocast(loss.device.type, enabled=False):
        return _named(_propagate(loss, calls, newest))


def steps_read(loss: Tensor, calls: Sequence[Call]) -> int:
    """The most steps of any window that a loss reads itself, past the recurrence."""
    leaves = _leaves(calls)
    with torch.autocast(loss.device.type, enabled=False):
        return most_read(_sent(loss, leaves), calls, _chains(calls, _continued(calls, leaves)))


def check_loss(loss: Any, calls: Sequence[Call]) -> None:
    """Refuse what is not one number with a graph, and a loss for which no recurrent layer was called."""
    problems = []
    if not calls:
        problems.append(no_call("loss_fn"))
    if not isinstance(loss, Tensor) or loss.numel() != 1 or not loss.requires_grad:
        shape = f"a tensor {list(loss.shape)}" if isinstance(loss, Tensor) else type(loss).__name__
        got = f"{shape} without a graph" if isinstance(loss, Tensor) and not loss.requires_grad else shape
        fix = "return the loss itself, as in lambda: criterion(model(x), y), before backward() and item()"
        problems.append(Problem("result of loss_fn", "one number with a graph", got, fix))
    if any(leaf.grad is not None for call in calls for leaf in call.leaves):
        fix = "return the loss, and call no backward() in loss_fn"
        problems.append(Problem("loss_fn", "a forward pass alone", "a backward pass too", fix))
    if problems:
        raise OptionError(problems)


def no_call(where: str) -> Problem:
    """What is wrong where a function ran no recurrent layer."""
    fix = f"run the model inside {where}, by calling it, and not under no_grad"
    return Problem(where, "at least one call of a recurrent layer with gradients enabled", "none", fix)


@dataclass(frozen=True, eq=False)
class Found:
    """Adjoints of one call, place by place.

    Attributes:
        call: The call.
        tracks: Its steps.
        totals: Total adjoints of the state [T, B, S].
        sources: Adjoints of the state as a later step and the loss see it, in the order of the tracks [T, B, S]: for
            an LSTM that of c_t with h_t held fixed, so that dstate_t / dstate_{t-1} takes them one step back.
        continues: The number of the call that it continues, or None.
    """

    call: Call
    tracks: list[Track]
    totals: list[Scaled]
    sources: list[Scaled]
    continues: int | None


_Leaves = dict[int, tuple[int, Tensor]]  # by id, with the number of the call


def propagate(model: nn.Module, loss_fn: Callable[[], Tensor]) -> list[Found]:
    """Adjoints of all calls of recurrent layers, in their order; the model stays as it is. See `adjoints`."""
    with untouched(model), torch.enable_grad(), parametrize.cached():
        with captured(model) as calls:
            loss: Any = loss_fn()
        check_loss(loss, calls)
        with torch.autocast(loss.device.type, enabled=False):
            return _propagate(loss, calls, newest=False)


def _leaves(calls: Sequence[Call]) -> _Leaves:
    return {id(leaf): (at, leaf) for at, call in enumerate(calls) for leaf in call.leaves}


def _sent(loss: Tensor, leaves: _Leaves) -> dict[int, Scaled]:
    """What arrives at the leaves from the loss itself."""
    arrived: dict[int, Scaled] = {}
    _send(arrived, loss, Scaled.of(torch.ones_like(loss)[None], 0.0), [leaf for _, leaf in leaves.values()])
    return arrived


def _continued(calls: Sequence[Call], leaves: _Leaves) -> list[int | None]:
    """For each call the number of the call of the same module whose state it starts from, or None."""
    return [
        max(
            (at for start in call.starts for at, _ in _reached(start, leaves) if calls[at].module == call.module),
            default=None,
        )
        for call in calls
    ]


def _chains(calls: Sequence[Call], continued: Sequence[int | None]) -> list[int]:
    """For each call the number of the first call of its sequence."""
    chains: list[int] = []
    for at, before in enumerate(continued):
        alone = before is None or calls[at].directions > 1 or calls[before].x_TBX.shape[1] != calls[at].x_TBX.shape[1]
        chains.append(at if alone or before is None else chains[before])
    return chains


def _propagate(loss: Tensor, calls: Sequence[Call], newest: bool) -> list[Found]:
    """Adjoints of all calls, from the last to the first: each hands on to the calls before it."""
    leaves = _leaves(calls)
    arrived = _sent(loss, leaves)
    continued = _continued(calls, leaves)
    if newest:
        arrived = only_newest(arrived, calls, _chains(calls, continued))
    found = []
    for at, call in reversed(list(enumerate(calls))):
        with torch.no_grad():
            zeros = (Scaled.of(torch.zeros_like(leaf, dtype=call.dtype)) for leaf in call.leaves)
            towards = [arrived.pop(id(leaf), zero) for leaf, zero in zip(call.leaves, zeros, strict=True)]
            tracks, totals, sources, behind = _through(call, towards)
        for tensor, grad in zip((call.x_TBX, *call.starts), behind, strict=True):
            _send(arrived, tensor, grad, [leaf for _, leaf in _reached(tensor, leaves)])
        found.append(Found(call, tracks, totals, sources, continued[at]))
    return found[::-1]


def _through(call: Call, towards: Sequence[Scaled]) -> tuple[list[Track], list[Scaled], list[Scaled], list[Scaled]]:
    """From what arrives at the outputs of a call: as in `Found`, and what reaches its inputs and first states."""
    _, tracks = call.run()
    g, lasts = towards[0], towards[1:]
    totals: list[Scaled] = []
    sources: list[Scaled] = []
    carries: list[Scaled] = []
    for first in reversed(range(0, len(tracks), call.directions)):
        below: list[Scaled] = []
        for k in reversed(range(first, first + call.directions)):
            place = call.places[k]
            U, size = place.weights.U, place.weights.W.shape[1]
            columns = slice((k - first) * size, (k - first + 1) * size)
            side = Scaled.of(place.turned(g.mantissa[..., columns]), place.turned(g.exponent))
            last = _joined([last[k] for last in lasts])
            total, source, gate, carry = backward(tracks[k].pulls, side, last, tracks[k].mask_TB)
            sources.append(source)
            totals.append(Scaled(place.turned(total.mantissa), place.turned(total.exponent)))
            below.append(Scaled.of(place.turned(gate.mantissa @ U), place.turned(gate.exponent)))
            carries.append(carry)
        g = below[0] if len(below) == 1 else below[0] + below[1]
        if first and call.masks:
            g = Scaled.of(g.mantissa * call.masks[first // call.directions - 1], g.exponent)
    exponent = torch.stack([carry.exponent for carry in carries[::-1]])
    state = torch.stack([carry.mantissa for carry in carries[::-1]])
    size = lasts[0].mantissa.shape[-1]
    parts = (state[..., :size], state[..., size:])[: len(lasts)]
    return tracks, totals[::-1], sources[::-1], [g, *(Scaled.of(part, exponent) for part in parts)]


def _joined(parts: Sequence[Scaled]) -> Scaled:
    """The parts of a state side by side."""
    exponent = torch.stack([part.exponent for part in parts]).amax(0)
    return Scaled.of(torch.cat([part.at(exponent) for part in parts], -1), exponent)


def _send(arrived: dict[int, Scaled], tensor: Tensor, source: Scaled, leaves: Sequence[Tensor]) -> None:
    """Add what `source`, the gradient of the loss at `tensor`, means for each of the leaves behind it.

    The graph in between computes in number formats that are bounded; being linear, it is given one band of exponents
    after the other, each in units of its own.
    """
    if not leaves or not tensor.requires_grad:
        return
    width = math.frexp(torch.finfo(tensor.dtype).max)[1] // 2
    band = torch.floor(source.exponent / width)
    for low in torch.unique(band[band.isfinite()]).tolist():
        unit = torch.full_like(source.exponent, low * width)
        part = torch.where((band == low).unsqueeze(-1), source.at(unit), 0.0).reshape(tensor.shape).to(tensor.dtype)
        grads = torch.autograd.grad(tensor, leaves, part, retain_graph=True, allow_unused=True)
        with torch.no_grad():
            for leaf, grad in zip(leaves, grads, strict=True):
                if grad is not None:
                    new = Scaled.of(grad.to(torch.promote_types(grad.dtype, torch.float32)), low * width)
                    arrived[id(leaf)] = arrived[id(leaf)] + new if id(leaf) in arrived else new


def _reached(tensor: Tensor, leaves: _Leaves) -> list[tuple[int, Tensor]]:
    """The leaves that a tensor was computed from, without those behind other leaves."""
    found: dict[int, tuple[int, Tensor]] = {}
    seen: set[Any] = {None}
    waiting: list[Any] = [tensor.grad_fn]
    while waiting:
        node = waiting.pop()
        if node in seen:
            continue
        seen.add(node)
        leaf = id(node.variable) if node.name() == "torch::autograd::AccumulateGrad" else 0
        if leaf in leaves:
            found[leaf] = leaves[leaf]
        waiting += [behind for behind, _ in node.next_functions]
    return list(found.values())


def _named(found: Sequence[Found]) -> dict[str, Adjoints]:
    """Sequences of calls, each named by its layer, place by place."""
    sequences: list[list[Found]] = []
    ends: dict[int, list[Found]] = {}  # by the number of the last call so far
    for at, one in enumerate(found):
        before = ends.pop(one.continues, None) if one.continues is not None else None
        if before is None or one.call.directions > 1 or _batch(before[0]) != _batch(one):
            before = []
            sequences.append(before)
        before.append(one)
        ends[at] = before
    counts: dict[str, int] = defaultdict(int)
    result = {}
    for sequence in sequences:
        call = sequence[0].call
        counts[call.module] += 1
        suffix = f"#{counts[call.module]}" if counts[call.module] > 1 else ""
        for k, place in enumerate(call.places):
            name = f"{call.module}.{place.name}" if call.module else place.name
            result[name + suffix] = _adjoints(sequence, k)
    return result


def _batch(one: Found) -> int:
    return one.call.x_TBX.shape[1]


def _adjoints(sequence: Sequence[Found], k: int) -> Adjoints:
    """The k-th place of all calls of a sequence, one after the other."""
    place = sequence[0].call.places[k]
    mantissa = torch.cat([one.totals[k].mantissa for one in sequence]).transpose(0, 1)
    exponent = torch.cat([one.totals[k].exponent for one in sequence]).transpose(0, 1)
    masks = [
        torch.ones_like(one.totals[k].exponent, dtype=torch.bool) if one.call.mask_TB is None else one.call.mask_TB
        for one in sequence
    ]
    mask_BT = torch.cat(masks).transpose(0, 1)
    mantissa = mantissa if mask_BT.all() else mantissa * mask_BT.unsqueeze(-1)
    size = place.weights.W.shape[1]
    h = Scaled.of(mantissa[..., :size], exponent)
    log_norm = h.log_norm().masked_fill(~mask_BT, math.nan)
    if place.weights.kind != "LSTM":
        return Adjoints(h.direction(), log_norm, None, None, mask_BT, place.reverse)
    c = Scaled.of(mantissa[..., size:], exponent)
    c_log_norm = c.log_norm().masked_fill(~mask_BT, math.nan)
    return Adjoints(h.direction(), log_norm, c.direction(), c_log_norm, mask_BT, place.reverse)


def _product(direction_BTN: Tensor, log_norm_BT: Tensor) -> Tensor:
    logs = direction_BTN.abs().double().log() + log_norm_BT.unsqueeze(-1)
    values = direction_BTN.sign() * torch.exp(logs)
    return values.masked_fill(direction_BTN == 0, 0.0).to(direction_BTN.dtype)
