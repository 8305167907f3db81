"""One recurrent layer in one direction: its states step by step, and dL/dh_t pulled back from t to t-1 by formula.

B windows, T steps, H outputs, N units (H = N without projection), G rows of all gates, S = H or, for an LSTM, H + N.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

from holdfast.flow.scaled import Scaled

# From dL/d(state_t) [B, S], total but for what c_t gets from h_t: dL/d(gates) for U, the total, what it is at t-1. As
# plain arithmetic of the weights it has a graph to them where they have one.
Pull = Callable[[Tensor], tuple[Tensor, Tensor, Tensor]]
_PHI = {"tanh": torch.tanh, "relu": torch.relu, "sigmoid": torch.sigmoid, "linear": torch.clone}


@dataclass(frozen=True)
class Weights:
    """U, W, biases and projection of one layer in one direction, and what it computes.

    Attributes:
        kind: RNN, GRU or LSTM.
        nonlinearity: Of an RNN: tanh, relu, sigmoid or linear.
        U: weight_ih [G, X].
        W: weight_hh [G, H].
        b_ih: Bias of the inputs [G], or None.
        b_hh: Bias of the recurrence [G], or None.
        R: weight_hr [H, N] of an LSTM with projection, or None.
    """

    kind: str
    nonlinearity: str
    U: Tensor
    W: Tensor
    b_ih: Tensor | None
    b_hh: Tensor | None
    R: Tensor | None


def forward(
    weights: Weights, x_TBX: Tensor, start: Sequence[Tensor], mask_TB: Tensor | None
) -> tuple[list[tuple[Tensor, ...]], list[Pull]]:
    """The state before the first step and after every step, and for every step what pulls an adjoint back over it.

    Masked steps keep the state.
    """
    step = {"RNN": _rnn, "GRU": _gru, "LSTM": _lstm}[weights.kind]
    state = tuple(start)
    states, pulls = [state], []
    for t, a_BG in enumerate(F.linear(x_TBX, weights.U, weights.b_ih).unbind()):
        after, pull = step(weights, a_BG, state)
        if mask_TB is not None:
            after = tuple(torch.where(mask_TB[t, :, None], new, old) for new, old in zip(after, state, strict=True))
        state = after
        states.append(state)
        pulls.append(pull)
    return states, pulls


def backward(
    pulls: Sequence[Pull], g_TBH: Scaled, last_BS: Scaled, mask_TB: Tensor | None
) -> tuple[Scaled, Scaled, Scaled, Scaled]:
    """Adjoints through all steps, from dL/dy_t and from what reaches the last state otherwise.

    a_t = dL/dy_t + (dh_{t+1}/dh_t)^T a_{t+1}, in units of a power of two per window that is set anew at every step.

    Returns:
        The total adjoints [T, B, S]; what each step was given, that is the same but for what c_t gets from h_t
        [T, B, S], and dL/d(gates) for the inputs [T, B, G], both not brought to mantissas between 1 and 2; and what
        reaches the state before the first step [B, S].
    """
    carry = last_BS
    size = g_TBH.mantissa.shape[-1]
    totals, sources, gates, exponents = [], [], [], []
    for t in reversed(range(len(pulls))):
        g_BH = g_TBH[t]
        exponent = torch.maximum(carry.exponent, g_BH.exponent)
        state_BS, g = carry.at(exponent), g_BH.at(exponent)
        state_BS[:, :size] += g
        gate_BG, total_BS, before_BS = pulls[t](state_BS)
        before = Scaled.of(before_BS, exponent)
        carry = before if mask_TB is None else _where(mask_TB[t], before, carry)
        totals.append(total_BS)
        sources.append(state_BS)
        gates.append(gate_BG)
        exponents.append(exponent)
    exponent_TB = torch.stack(exponents[::-1])
    gate_TBG = torch.stack(gates[::-1])
    gate_TBG = gate_TBG if mask_TB is None else gate_TBG * mask_TB.unsqueeze(-1)
    total = Scaled.of(torch.stack(totals[::-1]), exponent_TB)
    return total, Scaled(torch.stack(sources[::-1]), exponent_TB), Scaled(gate_TBG, exponent_TB), carry


def _where(mask_B: Tensor, new: Scaled, old: Scaled) -> Scaled:
    mantissa = torch.where(mask_B.unsqueeze(-1), new.mantissa, old.mantissa)
    return Scaled(mantissa, torch.where(mask_B, new.exponent, old.exponent))


def _rnn(weights: Weights, a_BN: Tensor, state: tuple[Tensor, ...]) -> tuple[tuple[Tensor, ...], Pull]:
    """h_t = phi(a_t), so delta_t = phi'(a_t) * dL/dh_t and W^T delta_t reaches h_{t-1}."""
    W, name = weights.W, weights.nonlinearity
    h = _PHI[name](a_BN + F.linear(state[0], W, weights.b_hh))

    def pull(dh: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        slopes = {"tanh": lambda: 1 - h * h, "relu": lambda: h > 0, "sigmoid": lambda: h * (1 - h)}
        delta = dh if name == "linear" else dh * slopes[name]()
        return delta, dh, delta @ W

    return (h,), pull


def _gru(weights: Weights, a_BG: Tensor, state: tuple[Tensor, ...]) -> tuple[tuple[Tensor, ...], Pull]:
    """h_t = (1 - z) * n + z * h_{t-1}; n = tanh(a_n + r * m), m = W_n h_{t-1} + b_hn."""
    (before,) = state
    a_r, a_z, a_n = a_BG.chunk(3, -1)
    m_r, m_z, m = F.linear(before, weights.W, weights.b_hh).chunk(3, -1)
    r, z = torch.sigmoid(a_r + m_r), torch.sigmoid(a_z + m_z)
    n = torch.tanh(a_n + r * m)

    def pull(dh: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        dn = dh * (1 - z) * (1 - n * n)
        dz = dh * (before - n) * z * (1 - z)
        dr = dn * m * r * (1 - r)
        onto = torch.cat((dr, dz, dn * r), -1)
        return torch.cat((dr, dz, dn), -1), dh, torch.addmm(dh * z, onto, weights.W)

    return ((1 - z) * n + z * before,), pull


def _lstm(weights: Weights, a_BG: Tensor, state: tuple[Tensor, ...]) -> tuple[tuple[Tensor, ...], Pull]:
    """c_t = f * c_{t-1} + i * g; h_t = R (o * tanh c_t), R = 1 without projection."""
    W, R, before = weights.W, weights.R, state[1]
    a_i, a_f, a_g, a_o = (a_BG + F.linear(state[0], W, weights.b_hh)).chunk(4, -1)
    i, f, g, o = torch.sigmoid(a_i), torch.sigmoid(a_f), torch.tanh(a_g), torch.sigmoid(a_o)
    c = f * before + i * g
    tanh_c = torch.tanh(c)
    h = o * tanh_c if R is None else F.linear(o * tanh_c, R)

    def pull(state_BS: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        dh, dc = state_BS[:, : h.shape[-1]], state_BS[:, h.shape[-1] :]
        du = dh if R is None else dh @ R
        dc = dc + du * o * (1 - tanh_c * tanh_c)
        di, df = dc * g * i * (1 - i), dc * before * f * (1 - f)
        delta = torch.cat((di, df, dc * i * (1 - g * g), du * tanh_c * o * (1 - o)), -1)
        return delta, torch.cat((dh, dc), -1), torch.cat((delta @ W, dc * f), -1)

    return (h, c), pull
