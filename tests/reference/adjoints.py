"""Adjoints through time by unrolling: windows, steps, layers and directions one by one, autograd for the rest.

B windows, T steps, D features, N hidden units.
"""

from __future__ import annotations

import torch
from tests.reference.recurrent import gru_step, lstm_step, rnn_step
from torch import nn
from torch.nn.utils.rnn import PackedSequence, pack_padded_sequence, pad_packed_sequence

NAMES = ("weight_ih", "weight_hh", "bias_ih", "bias_hh")


def step_of(layer):
    """state = step(weights, x_D, state), h first."""
    bases = [base.__name__.removesuffix("Cell") for base in type(layer).__mro__]
    return lstm_step if "LSTM" in bases else gru_step if "GRU" in bases else rnn_step(layer.nonlinearity)


def weights_of(layer, end):
    U, W = (getattr(layer, name + end) for name in NAMES[:2])
    biases = [getattr(layer, name + end) if layer.bias else torch.zeros(len(U), dtype=U.dtype) for name in NAMES[2:]]
    return U, W, *biases


class UnrolledLayer(nn.Module):
    """Computes what a layer computes; every state of every call is kept in `calls[call][place][window][t]`.

    `trail` holds each step of each window: a function of state and input, its input, the state before it, and the state
    after it as all that comes later sees it: copies, so that the gradient at that of c has no part that h got from c.
    """

    def __init__(self, layer):
        super().__init__()
        self.layer = layer
        self.calls = []
        self.trail = []

    def forward(self, x, hx=None):
        layer, state = self.layer, hx
        packed = x if isinstance(x, PackedSequence) else None
        lengths = None
        if packed is not None:
            x_TBD, lengths = pad_packed_sequence(packed)
        elif x.dim() == 2:
            x_TBD = x[:, None]
            state = None if state is None else tuple(part[:, None] for part in parts(state))
        else:
            x_TBD = x.transpose(0, 1) if getattr(layer, "batch_first", True) else x
        ends = ("", "_reverse") if getattr(layer, "bidirectional", False) else ("",)
        places = [f"l{k}{end}" for k in range(layer.num_layers) for end in ends]
        self.calls.append({place: [] for place in places})
        windows = [
            self.window(x_TBD[: None if lengths is None else lengths[b], b], state, b, len(ends))
            for b in range(x_TBD.shape[1])
        ]
        longest = len(x_TBD)
        y = torch.stack([nn.functional.pad(h_TN, (0, 0, 0, longest - len(h_TN))) for h_TN, _ in windows], 1)
        count = len(windows[0][1][0])
        final = tuple(
            torch.stack([torch.stack([finals[at][part] for _, finals in windows]) for at in range(len(places))])
            for part in range(count)
        )
        if packed is not None:
            y = pack_padded_sequence(y, lengths, enforce_sorted=False)
        elif x.dim() == 2:
            y, final = y[:, 0], tuple(part[:, 0] for part in final)
        elif getattr(layer, "batch_first", True):
            y = y.transpose(0, 1)
        return y, final if count == 2 else final[0]

    def window(self, x_TD, state, b, ways):
        """h of the last layer at every step and the last state of every place, for one window."""
        step, finals, sides, h = step_of(self.layer), [], [], list(x_TD)
        for k, place in enumerate(self.calls[-1]):
            weights = weights_of(self.layer, f"_{place}")
            R = getattr(self.layer, f"weight_hr_{place}", None)
            U, W = weights[:2]
            zeros = (W.new_zeros(W.shape[1]), *[W.new_zeros(len(U) // 4)] * (step is lstm_step))
            now = zeros if state is None else tuple(part[k, b] for part in parts(state))
            order = range(len(h))[::-1] if place.endswith("_reverse") else range(len(h))
            kept, seen = [None] * len(h), [None] * len(h)
            for t in order:

                def move(state, x, weights=weights, R=R):
                    after = step(weights, x, state)
                    return after if R is None else (R @ after[0], after[1])

                before, kept[t] = now, move(now, h[t])
                now = seen[t] = tuple(part.clone() for part in kept[t])
                self.trail.append((move, h[t], before, now))
            self.calls[-1][place].append(kept)
            finals.append(now)
            sides.append([s[0] for s in seen])
            if len(sides) == ways:
                h, sides = [torch.cat(at) for at in zip(*sides, strict=True)], []
        return torch.stack(h), finals


class UnrolledCell(nn.Module):
    """Computes what a cell computes; its states are kept in `calls[call]["l0"][window][0]`."""

    def __init__(self, cell):
        super().__init__()
        self.cell = cell
        self.calls = []
        self.trail = []  # as of a layer

    def forward(self, x_BD, state=None):
        step, weights, N = step_of(self.cell), weights_of(self.cell, ""), self.cell.hidden_size
        count = 2 if step is lstm_step else 1
        zeros = (x_BD.new_zeros(len(x_BD), N),) * count
        given = zeros if state is None else parts(state)
        befores = [tuple(part[b] for part in given) for b in range(len(x_BD))]
        states = [step(weights, x_D, before) for x_D, before in zip(x_BD, befores, strict=True)]
        self.calls.append({"l0": [[state] for state in states]})
        seen = [tuple(part.clone() for part in state) for state in states]
        for x_D, before, copied in zip(x_BD, befores, seen, strict=True):
            self.trail.append((lambda state, x: step(weights, x, state), x_D, before, copied))
        after = tuple(torch.stack([state[part] for state in seen]) for part in range(count))
        return after if count == 2 else after[0]


def parts(state):
    return state if isinstance(state, tuple | list) else (state,)


def unroll(model):
    """Put the unrolled twin in the place of every recurrent layer and cell of a model."""
    for name, module in list(model.named_children()):
        own = type(module).__module__ == "holdfast.networks.cells"
        if isinstance(module, nn.RNNBase) or own:
            setattr(model, name, UnrolledLayer(module))
        elif isinstance(module, nn.RNNCellBase):
            setattr(model, name, UnrolledCell(module))
        else:
            unroll(module)
    return model


def adjoints(model, loss_fn):
    """{(module, call, place): (dL/dh, dL/dc or None)}, each [window][t] of vectors, of a model that was unrolled."""
    loss = loss_fn()
    found = {}
    for name, module in model.named_modules():
        if isinstance(module, UnrolledLayer | UnrolledCell):
            for number, call in enumerate(module.calls):
                for place, windows in call.items():
                    found[name, number, place] = tuple(
                        [[grad(loss, state[part]) for state in kept] for kept in windows]
                        for part in range(len(windows[0][0]))
                    )
    return found


def grad(loss, tensor):
    (found,) = torch.autograd.grad(loss, tensor, retain_graph=True, allow_unused=True)
    return torch.zeros_like(tensor) if found is None else found
