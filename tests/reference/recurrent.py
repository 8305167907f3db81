"""Recurrent layers and their backpropagation through time, written out: one window, one step, one gate at a time.

D features, N hidden units, T steps. Plain tensor arithmetic, in float64 by the choice of the caller; slow on purpose.
"""

from __future__ import annotations

import torch
from torch import Tensor

PHI = {
    "tanh": lambda a: (a.exp() - (-a).exp()) / (a.exp() + (-a).exp()),
    "relu": lambda a: a * (a > 0),
    "sigmoid": lambda a: 1 / (1 + (-a).exp()),
    "linear": lambda a: a,
}
SLOPE = {
    "tanh": lambda a: 1 - PHI["tanh"](a) ** 2,
    "relu": lambda a: (a > 0).to(a.dtype),
    "sigmoid": lambda a: PHI["sigmoid"](a) * (1 - PHI["sigmoid"](a)),
    "linear": torch.ones_like,
}


def run_layers(step, weights, x_BTD, state_LBN):
    """Run stacked layers, one window at a time; step(weights of a layer, x_D, state) gives a state, h first.

    weights: one tuple per layer. state_LBN: a tuple of [L, B, N], h first. Returns h_BTN and the final state_LBN.
    """
    outputs, finals = [], []
    for window, x_TD in enumerate(x_BTD):
        h_TX, final = list(x_TD), []
        for layer, layer_weights in enumerate(weights):
            state = tuple(s_LBN[layer, window] for s_LBN in state_LBN)
            h_TN = []
            for x_X in h_TX:
                state = step(layer_weights, x_X, state)
                h_TN.append(state[0])
            final.append(state)
            h_TX = h_TN
        outputs.append(torch.stack(h_TX))
        finals.append(final)
    depth, parts = len(weights), len(state_LBN)
    final_LBN = tuple(
        torch.stack([torch.stack([final[layer][part] for final in finals]) for layer in range(depth)])
        for part in range(parts)
    )
    return torch.stack(outputs), final_LBN


def rnn_step(nonlinearity):
    """h = phi(U x + b_ih + W h + b_hh)."""

    def step(weights, x_D, state):
        U, W, b_ih, b_hh = weights
        (h_N,) = state
        return (PHI[nonlinearity](U @ x_D + b_ih + W @ h_N + b_hh),)

    return step


def gru_step(weights, x_D, state):
    """The three gates of a GRU, the reset gate applied after the product."""
    (Ur, Uz, Un), (Wr, Wz, Wn), (bi_r, bi_z, bi_n), (bh_r, bh_z, bh_n) = (w.chunk(3) for w in weights)
    (h_N,) = state
    sigmoid, tanh = PHI["sigmoid"], PHI["tanh"]
    r = sigmoid(Ur @ x_D + bi_r + Wr @ h_N + bh_r)
    z = sigmoid(Uz @ x_D + bi_z + Wz @ h_N + bh_z)
    n = tanh(Un @ x_D + bi_n + r * (Wn @ h_N + bh_n))
    return ((1 - z) * n + z * h_N,)


def lstm_gates(weights, x_D, h_N):
    """Input, forget, candidate and output gate of one step."""
    (Ui, Uf, Ug, Uo), (Wi, Wf, Wg, Wo), b_ih, b_hh = (w.chunk(4) for w in weights)
    bi, bf, bg, bo = (p + q for p, q in zip(b_ih, b_hh, strict=True))
    sigmoid, tanh = PHI["sigmoid"], PHI["tanh"]
    i = sigmoid(Ui @ x_D + Wi @ h_N + bi)
    f = sigmoid(Uf @ x_D + Wf @ h_N + bf)
    g = tanh(Ug @ x_D + Wg @ h_N + bg)
    o = sigmoid(Uo @ x_D + Wo @ h_N + bo)
    return i, f, g, o


def lstm_step(weights, x_D, state):
    """c = f c + i g, h = o tanh(c)."""
    h_N, c_N = state
    i, f, g, o = lstm_gates(weights, x_D, h_N)
    c_N = f * c_N + i * g
    return o * PHI["tanh"](c_N), c_N


def outer_sum(columns: list[Tensor], rows: list[Tensor]) -> Tensor:
    """Sum over steps of column times row."""
    return sum(torch.outer(column, row) for column, row in zip(columns, rows, strict=True))


def rnn_bptt(weights, x_TD, h_N, g_TN, nonlinearity):
    """Backpropagation through time of one layer and one window, for the loss sum_t g_t . h_t.

    Returns the gradients of U, W, b_ih, b_hh, the inputs [T, D] and the start h_N.
    """
    U, W, b_ih, b_hh = weights
    before, a_T = [h_N], []
    for x_D in x_TD:
        a_T.append(U @ x_D + b_ih + W @ before[-1] + b_hh)
        before.append(PHI[nonlinearity](a_T[-1]))
    delta_T = [None] * len(a_T)
    from_later = torch.zeros_like(h_N)
    for t in reversed(range(len(a_T))):
        adjoint = g_TN[t] + from_later
        delta_T[t] = SLOPE[nonlinearity](a_T[t]) * adjoint
        from_later = W.T @ delta_T[t]
    db = sum(delta_T)
    dx_TD = torch.stack([U.T @ delta for delta in delta_T])
    return outer_sum(delta_T, list(x_TD)), outer_sum(delta_T, before[:-1]), db, db, dx_TD, from_later


def lstm_bptt(weights, x_TD, h_N, c_N, g_TN):
    """Backpropagation through time of one layer and one window, for the loss sum_t g_t . h_t.

    Returns the gradients of U, W, b_ih, b_hh, the inputs [T, D] and the starts h_N and c_N.
    """
    U, W, _, _ = weights
    h_T, c_T, gates_T = [h_N], [c_N], []
    for x_D in x_TD:
        gates_T.append(lstm_gates(weights, x_D, h_T[-1]))
        h, c = lstm_step(weights, x_D, (h_T[-1], c_T[-1]))
        h_T.append(h)
        c_T.append(c)
    delta_T = [None] * len(gates_T)
    dh, dc = torch.zeros_like(h_N), torch.zeros_like(c_N)
    for t in reversed(range(len(gates_T))):
        i, f, g, o = gates_T[t]
        tanh_c = PHI["tanh"](c_T[t + 1])
        dh = g_TN[t] + dh
        dc = dc + dh * o * (1 - tanh_c**2)
        di = dc * g * i * (1 - i)
        df = dc * c_T[t] * f * (1 - f)
        dg = dc * i * (1 - g**2)
        do = dh * tanh_c * o * (1 - o)
        delta_T[t] = torch.cat([di, df, dg, do])
        dh = W.T @ delta_T[t]
        dc = dc * f
    db = sum(delta_T)
    dx_TD = torch.stack([U.T @ delta for delta in delta_T])
    return outer_sum(delta_T, list(x_TD)), outer_sum(delta_T, h_T[:-1]), db, db, dx_TD, dh, dc


def gru_bptt(weights, x_TD, h_N, g_TN):
    """Backpropagation through time of one layer and one window, for the loss sum_t g_t . h_t.

    Returns the gradients of U, W, b_ih, b_hh, the inputs [T, D] and the start h_N.
    """
    (Ur, Uz, Un), (Wr, Wz, Wn), (bi_r, bi_z, bi_n), (bh_r, bh_z, bh_n) = (w.chunk(3) for w in weights)
    sigmoid, tanh = PHI["sigmoid"], PHI["tanh"]
    h_T, gates_T = [h_N], []
    for x_D in x_TD:
        r = sigmoid(Ur @ x_D + bi_r + Wr @ h_T[-1] + bh_r)
        z = sigmoid(Uz @ x_D + bi_z + Wz @ h_T[-1] + bh_z)
        m = Wn @ h_T[-1] + bh_n
        n = tanh(Un @ x_D + bi_n + r * m)
        gates_T.append((r, z, m, n))
        h_T.append((1 - z) * n + z * h_T[-1])
    into_U, into_W = [None] * len(gates_T), [None] * len(gates_T)
    dh = torch.zeros_like(h_N)
    for t in reversed(range(len(gates_T))):
        r, z, m, n = gates_T[t]
        dh = g_TN[t] + dh
        dz = dh * (h_T[t] - n) * z * (1 - z)
        dn = dh * (1 - z) * (1 - n**2)
        dr = dn * m * r * (1 - r)
        into_U[t], into_W[t] = torch.cat([dr, dz, dn]), torch.cat([dr, dz, dn * r])
        dh = dh * z + Wr.T @ dr + Wz.T @ dz + Wn.T @ (dn * r)
    U = weights[0]
    dx_TD = torch.stack([U.T @ delta for delta in into_U])
    return outer_sum(into_U, list(x_TD)), outer_sum(into_W, h_T[:-1]), sum(into_U), sum(into_W), dx_TD, dh
