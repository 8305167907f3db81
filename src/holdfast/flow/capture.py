"""Every call of a recurrent layer while a loss is computed, cut out of the graph at its outputs.

B windows, T steps, H outputs, N units, L layers times directions, X features that enter a layer.
"""

from __future__ import annotations

import inspect
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, replace
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.utils.rnn import PackedSequence, pack_padded_sequence, pad_packed_sequence

from holdfast.errors import OptionError, Problem
from holdfast.flow.backward import Pull, Weights, forward
from holdfast.gradients.adjoint import ClipAdjoint
from holdfast.gradients.unrolled import Unrolled, kind_of

_CELLS: dict[Any, str] = {nn.RNNCell: "RNN", nn.GRUCell: "GRU", nn.LSTMCell: "LSTM"}
_NAMES = ("weight_ih", "weight_hh", "bias_ih", "bias_hh", "weight_hr")


@dataclass(frozen=True, eq=False)
class Place:
    """One layer and direction of a call.

    Attributes:
        name: `l0`, `l0_reverse`, `l1`, ...
        weights: What it computes; the weights are part of the graph of the parameters.
    """

    name: str
    weights: Weights

    @property
    def reverse(self) -> bool:
        """Whether it runs from the last step to the first."""
        return self.name.endswith("_reverse")

    def turned(self, by_step: Any) -> Any:
        """A tensor by step, or nothing, in the order in which this place runs, and back again."""
        return by_step.flip(0) if self.reverse and by_step is not None else by_step


@dataclass(frozen=True, eq=False)
class Track:
    """One place of a call step by step, in its own order.

    Attributes:
        x_TBX: Its inputs.
        states: Its state before the first step and after every step.
        pulls: What pulls an adjoint back over each step.
        mask_TB: Where there is a step; None where there is one everywhere.
    """

    x_TBX: Tensor
    states: list[tuple[Tensor, ...]]
    pulls: list[Pull]
    mask_TB: Tensor | None


@dataclass(frozen=True, eq=False)
class Call:
    """One call of a recurrent layer or cell; a cell is a layer of one step.

    Attributes:
        module: The name of the layer in the model.
        places: Its layers and directions in turn.
        directions: One or two.
        x_TBX: Inputs, part of the graph that leads here.
        starts: The parts of the state before the first step [L, B, ...], h first, part of that graph too.
        mask_TB: Where there is a step, for packed sequences; None where there is one everywhere.
        dropout: Probability of dropping a value between two layers.
        masks: What dropout multiplies the output of each layer but the last with; empty without dropout.
        leaves: h of the last layer at every step, and the parts of the state after the last step, where the graph
            from the loss ends.
    """

    module: str
    places: tuple[Place, ...]
    directions: int
    x_TBX: Tensor
    starts: tuple[Tensor, ...]
    mask_TB: Tensor | None
    dropout: float
    masks: list[Tensor]
    leaves: tuple[Tensor, ...]

    @property
    def dtype(self) -> torch.dtype:
        """Of the arithmetic: that of the weights, at least float32."""
        return self.places[0].weights.W.dtype

    @torch.no_grad()
    def run(self) -> tuple[list[Tensor], list[Track]]:
        """All steps of all layers once more: outputs as in `leaves`, and the track of each place.

        Masks of dropout are drawn by the first run and kept for others.
        """
        x, sides, tracks = self.x_TBX.detach().to(self.dtype), list[Tensor](), list[Track]()
        for k, place in enumerate(self.places):
            start = [part[k].detach().to(self.dtype) for part in self.starts]
            x_TBX, mask_TB = place.turned(x), place.turned(self.mask_TB)
            tracks.append(Track(x_TBX, *forward(place.weights, x_TBX, start, mask_TB), mask_TB))
            sides.append(place.turned(torch.stack([state[0] for state in tracks[-1].states[1:]])))
            if len(sides) == self.directions:
                x, sides = torch.cat(sides, -1), []
                if self.dropout and k + 1 < len(self.places):
                    x = x * self._mask(k // self.directions, x)
        finals = zip(*(track.states[-1] for track in tracks), strict=True)
        return [x, *(torch.stack(part) for part in finals)], tracks

    def _mask(self, layer: int, x: Tensor) -> Tensor:
        if layer == len(self.masks):
            self.masks.append(torch.dropout(torch.ones_like(x), self.dropout, train=True))
        return self.masks[layer]


@contextmanager
def untouched(model: nn.Module) -> Iterator[None]:
    """Leave training modes, buffers and random states as they were, however the block ends."""
    kept = [(module, module.training, dict(module._buffers)) for module in model.modules()]
    # Copies are worked on: to write the old values back would spoil a graph that waits for its backward pass.
    copies = {id(buffer): buffer.detach().clone() for buffer in model.buffers()}
    cuda = {tensor.get_device() for tensor in [*model.parameters(), *model.buffers()] if tensor.is_cuda}
    with torch.random.fork_rng(sorted(cuda)):
        try:
            for module, _, buffers in kept:
                module._buffers.update({name: copies.get(id(buffer)) for name, buffer in buffers.items()})
            yield
        finally:
            for module, training, buffers in kept:
                module.training = training
                module._buffers.clear()
                module._buffers.update(buffers)


@contextmanager
def captured(model: nn.Module) -> Iterator[list[Call]]:
    """Collect all calls of recurrent layers in the block, in their order.

    Raises:
        OptionError: The model has a recurrent layer whose steps are not known, or no recurrent layer.
    """
    calls: list[Call] = []
    layers = _layers(model)
    for module in model.modules():
        if isinstance(module, ClipAdjoint):  # in evaluation mode it lets adjoints through, and does not count them
            module.training = False
    with ExitStack() as stack:
        for name, layer in layers.items():
            handle = layer.register_forward_hook(partial(_capture, calls, name), with_kwargs=True)
            stack.callback(handle.remove)
        yield calls


def _layers(model: nn.Module) -> dict[str, nn.Module]:
    """All recurrent layers and cells by name."""
    found = {}
    problems = []
    expected = "an RNN, GRU or LSTM, or a cell of these, of torch.nn or holdfast.networks"
    for name, module in model.named_modules():
        if _recurrence(module):
            found[name] = module
        elif isinstance(module, nn.RNNBase | nn.RNNCellBase):
            fix = (
                "keep the forward of the class it inherits from, and compute what comes before and after outside of it"
            )
            got = f"{type(module).__name__}, with a forward of its own"
            problems.append(Problem(f"recurrent layer {name!r}", expected, got, fix))
    if not found and not problems:
        fix = "give the model that holds the recurrent layer; the steps of layers of other makers are not known here"
        problems.append(Problem("model", f"one that holds {expected}", type(model).__name__, fix))
    if problems:
        raise OptionError(problems)
    return found


def _recurrence(module: nn.Module) -> str:
    """RNN, GRU or LSTM for a layer or cell that computes what its name says, else nothing."""
    own: Any = type(module)
    cells = [kind for base, kind in _CELLS.items() if isinstance(module, base) and own.forward is base.forward]
    return cells[0] if cells else kind_of(module)


def _capture(
    calls: list[Call], name: str, layer: Any, args: tuple[Any, ...], kwargs: dict[str, Any], output: Any
) -> Any:
    """A forward hook: remember the call, and hand on outputs from which the graph does not lead into the layer."""
    if not torch.is_grad_enabled():
        return None
    x, state, *_ = [*inspect.signature(layer.forward).bind(*args, **kwargs).arguments.values(), None]
    layout = _Layout.of(layer, x)
    x_TBX, mask_TB = layout.inputs(x)
    results = layout.results(output)
    given = [] if state is None else [state] if isinstance(state, Tensor) else list(state)
    starts = [layout.canonical(part) for part in given] or [torch.zeros_like(part) for part in results[1:]]
    places, directions = _places(layer)
    dropout = float(layer.dropout) if not layout.cell and layer.training and layer.num_layers > 1 else 0.0
    call = Call(name, places, directions, x_TBX, tuple(starts), mask_TB, dropout, [], ())
    if dropout:  # the masks of the kernel cannot be had: the loss is that of a draw which is known
        with torch.autocast(x_TBX.device.type, enabled=False):
            results = [mine.to(its.dtype) for mine, its in zip(call.run()[0], results, strict=True)]
    leaves = tuple(part.detach().requires_grad_() for part in results)
    calls.append(replace(call, leaves=leaves))
    return layout.restored(output, leaves)


def _places(layer: Any) -> tuple[tuple[Place, ...], int]:
    """The layers and directions of a layer, with their weights as they are now, and the number of directions."""
    kind = _recurrence(layer)
    phi = layer.nonlinearity if kind == "RNN" else ""
    if isinstance(layer, nn.RNNCellBase):
        return (Place("l0", Weights(kind, phi, *_weights(layer, ""))),), 1
    unrolled = Unrolled.of(layer)
    return tuple(Place(k, Weights(kind, phi, *_weights(layer, f"_{k}"))) for k in unrolled.places), unrolled.directions


def _weights(layer: Any, end: str) -> list[Any]:
    """U, W, biases and projection, by name: a parametrisation may stand in for a parameter."""
    found = [getattr(layer, f"{name}{end}", None) for name in _NAMES]
    return [w if w is None else w.to(torch.promote_types(w.dtype, torch.float32)) for w in found]


@dataclass(frozen=True)
class _Layout:
    """How a call lays out its tensors; the canonical layout is [T, B, ...] for steps and [L, B, ...] for states."""

    cell: bool
    batched: bool
    batch_first: bool
    packed: PackedSequence | None

    @classmethod
    def of(cls, layer: Any, x: Any) -> _Layout:
        cell = isinstance(layer, nn.RNNCellBase)
        packed = x if isinstance(x, PackedSequence) else None
        batched = packed is not None or x.dim() == (2 if cell else 3)
        batch_first = not cell and batched and packed is None and Unrolled.of(layer).batch_first
        return cls(cell, batched, batch_first, packed)

    def canonical(self, part: Tensor) -> Tensor:
        """A state, or the input of one step."""
        part = part if self.batched else part.unsqueeze(-2)
        return part.unsqueeze(0) if self.cell else part

    def inputs(self, x: Any) -> tuple[Tensor, Tensor | None]:
        """Inputs, and the mask of a packed sequence."""
        if self.packed is not None:
            padded, lengths = pad_packed_sequence(x)
            return padded, torch.arange(len(padded), device=lengths.device)[:, None].lt(lengths).to(padded.device)
        x = self.canonical(x)
        return x.transpose(0, 1) if self.batch_first else x, None

    def results(self, output: Any) -> list[Tensor]:
        """The outputs at all steps, and the parts of the last state."""
        if self.cell:
            finals = [self.canonical(part) for part in (output if isinstance(output, tuple) else (output,))]
            return [finals[0], *finals]
        y, final = output
        return [self.inputs(y)[0], *map(self.canonical, final if isinstance(final, tuple) else (final,))]

    def restored(self, output: Any, leaves: tuple[Tensor, ...]) -> Any:
        """Copies of canonical results, laid out as the output was: a model may write into them."""
        y, *finals = (leaf.clone() for leaf in leaves)
        finals = [part.squeeze(0) if self.cell else part for part in finals]
        finals = finals if self.batched else [part.squeeze(-2) for part in finals]
        if self.cell:
            return tuple(finals) if isinstance(output, tuple) else finals[0]
        return self._steps(y), tuple(finals) if isinstance(output[1], tuple) else finals[0]

    def _steps(self, y: Tensor) -> Any:
        if self.packed is None:
            y = y if self.batched else y.squeeze(-2)
            return y.transpose(0, 1) if self.batch_first else y
        _, sizes, order, back = self.packed
        y = y if order is None else y.index_select(1, order)
        lengths = sizes.gt(torch.arange(y.shape[1], device=sizes.device)[:, None]).sum(1)
        return PackedSequence(pack_padded_sequence(y, lengths).data, sizes, order, back)
