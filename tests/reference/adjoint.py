"""Backpropagation through time with clipped adjoints, written out: one window, one layer, one direction, one step.

Cells are `rnn-tanh`, `rnn-relu`, `rnn-sigmoid`, `rnn-linear`, `gru`, `lstm`. Weights are U, W, b_ih, b_hh. In float64.
"""

from __future__ import annotations

import torch
from tests.reference.recurrent import PHI, SLOPE, gru_step, lstm_gates, lstm_step, outer_sum, rnn_step


def clip_norm(max_norm, norm_type=2.0):
    """a * min(1, max_norm / ||a||_p)."""

    def clip(a_N):
        if norm_type == float("inf"):
            norm = max(abs(a.item()) for a in a_N)
        else:
            norm = sum(abs(a.item()) ** norm_type for a in a_N) ** (1 / norm_type)
        return a_N * max_norm / norm if norm > max_norm else a_N

    return clip


def clip_value(max_value):
    """min(max(a_i, -max_value), max_value)."""
    return lambda a_N: torch.stack([min(max(a, -a.new_tensor(max_value)), a.new_tensor(max_value)) for a in a_N])


def rnn_back(nonlinearity, weights, x_D, before, adjoint, dc):
    U, W, b_ih, b_hh = weights
    delta = SLOPE[nonlinearity](U @ x_D + b_ih + W @ before[0] + b_hh) * adjoint
    return delta, delta, W.T @ delta, dc


def gru_back(weights, x_D, before, adjoint, dc):
    (Ur, Uz, Un), (Wr, Wz, Wn), (bi_r, bi_z, bi_n), (bh_r, bh_z, bh_n) = (w.chunk(3) for w in weights)
    (h,) = before
    r = PHI["sigmoid"](Ur @ x_D + bi_r + Wr @ h + bh_r)
    z = PHI["sigmoid"](Uz @ x_D + bi_z + Wz @ h + bh_z)
    m = Wn @ h + bh_n
    n = PHI["tanh"](Un @ x_D + bi_n + r * m)
    da_n = adjoint * (1 - z) * (1 - n**2)
    da_z = adjoint * (h - n) * z * (1 - z)
    da_r = da_n * m * r * (1 - r)
    dh = adjoint * z + Wr.T @ da_r + Wz.T @ da_z + Wn.T @ (da_n * r)
    return torch.cat([da_r, da_z, da_n]), torch.cat([da_r, da_z, da_n * r]), dh, dc


def lstm_back(weights, x_D, before, adjoint, dc):
    h, c = before
    i, f, g, o = lstm_gates(weights, x_D, h)
    tanh_c = PHI["tanh"](f * c + i * g)
    dc = dc + adjoint * o * (1 - tanh_c**2)
    di, df, dg, do = dc * g * i * (1 - i), dc * c * f * (1 - f), dc * i * (1 - g**2), adjoint * tanh_c * o * (1 - o)
    delta = torch.cat([di, df, dg, do])
    return delta, delta, weights[1].T @ delta, dc * f


def cell(name):
    """The step forward and the step back of a cell."""
    if name == "lstm":
        return lstm_step, lstm_back
    if name == "gru":
        return gru_step, gru_back
    nonlinearity = name.removeprefix("rnn-")
    return rnn_step(nonlinearity), lambda *arguments: rnn_back(nonlinearity, *arguments)


def direction(name, weights, x_TD, start, g_TN, last, clip):
    """One layer in one direction over one window, for the loss sum_t g_t . h_t + last . state_T.

    `clip` is applied to each dL/dh_t once everything that flows into it is there. Returns the gradients of the weights,
    of the inputs and of the start, and the adjoints after clipping.
    """
    forth, back = cell(name)
    states = [start]
    for x_D in x_TD:
        states.append(forth(weights, x_D, states[-1]))
    dh, dc = last[0], last[-1]
    into_T, onto_T, adjoints = [None] * len(x_TD), [None] * len(x_TD), [None] * len(x_TD)
    for t in reversed(range(len(x_TD))):
        adjoints[t] = clip(g_TN[t] + dh)
        into_T[t], onto_T[t], dh, dc = back(weights, x_TD[t], states[t], adjoints[t], dc)
    dU, dW = outer_sum(into_T, list(x_TD)), outer_sum(onto_T, [state[0] for state in states[:-1]])
    dx_TD = torch.stack([weights[0].T @ delta for delta in into_T])
    dstart = (dh, dc) if name == "lstm" else (dh,)
    return (dU, dW, sum(into_T), sum(onto_T)), dx_TD, dstart, adjoints


def outputs(name, weights, x_TD, start):
    """h_t at all steps."""
    forth, _ = cell(name)
    h_TN, state = [], start
    for x_D in x_TD:
        state = forth(weights, x_D, state)
        h_TN.append(state[0])
    return torch.stack(h_TN)


def window(name, layers, x_TD, starts, g_TN, lasts, clip):
    """All layers over one window. `layers` holds for each layer the weights of its one or two directions.

    `starts` and `lasts` hold the state before the first step, and the gradient of the state after the last one, for
    each layer and direction in turn. The second direction runs from the last step to the first.
    """
    ways = len(layers[0])
    inputs = [x_TD]
    for k, sides in enumerate(layers):
        h = []
        for way, weights in enumerate(sides):
            x = inputs[-1].flip(0) if way else inputs[-1]
            h_TN = outputs(name, weights, x, starts[k * ways + way])
            h.append(h_TN.flip(0) if way else h_TN)
        inputs.append(torch.cat(h, 1))
    dweights, dstarts, adjoints = {}, {}, []
    for k in reversed(range(len(layers))):
        dx_TD = torch.zeros_like(inputs[k])
        for way, (weights, g) in enumerate(zip(layers[k], g_TN.chunk(ways, 1), strict=True)):
            at = k * ways + way
            x, g = (inputs[k].flip(0), g.flip(0)) if way else (inputs[k], g)
            dweights[at], dx, dstarts[at], found = direction(name, weights, x, starts[at], g, lasts[at], clip)
            dx_TD = dx_TD + (dx.flip(0) if way else dx)
            adjoints += found
        g_TN = dx_TD
    return dweights, g_TN, dstarts, adjoints


def gradients(name, layers, x_BTD, starts, g_BTN, lasts, clip):
    """Sums over windows of the gradients of all weights, then inputs and starts; and all adjoints after clipping.

    `starts` and `lasts` are tuples of [L, B, N], h first.
    """
    places = len(starts[0])
    dweights, dx, dstarts, adjoints = [], [], [], []
    for b, x_TD in enumerate(x_BTD):
        start, last = ([tuple(part[at, b] for part in state) for at in range(places)] for state in (starts, lasts))
        dw, dx_TD, ds, found = window(name, layers, x_TD, start, g_BTN[b], last, clip)
        dweights.append([grad for at in range(places) for grad in dw[at]])
        dx.append(dx_TD)
        dstarts.append([torch.stack([ds[at][part] for at in range(places)]) for part in range(len(starts))])
        adjoints += found
    weights = [sum(parts) for parts in zip(*dweights, strict=True)]
    return weights, torch.stack(dx), [torch.stack(parts, 1) for parts in zip(*dstarts, strict=True)], adjoints
