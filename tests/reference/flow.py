"""Gradient flow through time, slowly: Jacobians by autograd of the layer itself, products and frames in 60 digits."""

from __future__ import annotations

import math

import mpmath
import torch

DIGITS = 60


def start(layer, B, h0=None):
    """The state before the first step as a list of [L, B, N]: h, and for an LSTM c."""
    if h0 is not None:
        return [h0] if isinstance(h0, torch.Tensor) else list(h0)
    parts = 2 if type(layer).__name__ == "LSTM" else 1
    return [torch.zeros(layer.num_layers, B, layer.hidden_size, dtype=torch.float64)] * parts


def one_step(layer, x_D, parts_LN):
    """The layer itself, over one step of one window."""
    x = x_D[None, None]
    state = [part[:, None] for part in parts_LN]
    _, after = layer(x, tuple(state) if len(state) == 2 else state[0])
    return [part[:, 0] for part in (after if isinstance(after, tuple) else (after,))]


def step_jacobians(layer, x_BTD, h0=None):
    """J_t = ds_t / ds_{t-1} for each window and step [B, T, M, M], s = (h of all layers, c of all layers)."""
    B, T, _ = x_BTD.shape
    first = start(layer, B, h0)
    sizes = [part[:, 0].numel() for part in first]
    shape = first[0][:, 0].shape
    J = torch.zeros(B, T, sum(sizes), sum(sizes), dtype=torch.float64)
    for b in range(B):
        s_M = torch.cat([part[:, b].flatten() for part in first])
        for t in range(T):

            def move(s_M, x_D=x_BTD[b, t]):
                after = one_step(layer, x_D, [piece.view(shape) for piece in s_M.split(sizes)])
                return torch.cat([part.flatten() for part in after])

            J[b, t] = torch.autograd.functional.jacobian(move, s_M)
            with torch.no_grad():
                s_M = move(s_M)
    return J


def log_norm(P):
    """log of the largest singular value of a matrix of many digits, -inf of a zero one."""
    if all(value == 0 for value in P):
        return -math.inf
    return float(mpmath.log(max(mpmath.svd_r(P, compute_uv=False))))


def log_norms(J_TMM, rows=None):
    """log ||J_T ... J_{T-k+1}|| for k = 0 to T, of its first rows and columns."""
    with mpmath.workdps(DIGITS):
        M = J_TMM.shape[-1]
        rows = M if rows is None else rows
        P = mpmath.eye(M)
        found = [0.0]
        for J_MM in reversed(list(J_TMM)):
            P = P * mpmath.matrix(J_MM.tolist())
            found.append(log_norm(P[:rows, :rows]))
        return found


def log_singular_values(J_TMM, digits):
    """log of all singular values of J_T ... J_1, largest first; what is below 10^-(digits / 2) of the largest is 0."""
    with mpmath.workdps(digits):
        P = mpmath.eye(J_TMM.shape[-1])
        for J_MM in J_TMM:
            P = mpmath.matrix(J_MM.tolist()) * P
        sizes = mpmath.svd_r(P, compute_uv=False)
        least = sizes[0] * mpmath.mpf(10) ** (-digits // 2)
        return [float(mpmath.log(size)) if size > least else -math.inf for size in sizes]


def frame(M, k):
    """k directions that no layer prefers, always the same."""
    return torch.randn(M, M, dtype=torch.float64, generator=torch.Generator().manual_seed(0))[:, :k]


def gram_schmidt(columns):
    """Orthonormal columns that span the same, and the length of each beside those before it."""
    directions, lengths = [], []
    for column in columns:
        left = column.copy()
        for q in directions:
            left -= q * sum(a * b for a, b in zip(q, column, strict=True))
        length = mpmath.sqrt(sum(a * a for a in left))
        directions.append(left / length)
        lengths.append(length)
    return directions, lengths


def log_stretch(J_TMM, k):
    """log of the lengths of k directions after each step, orthonormal before it [T][k]."""
    with mpmath.workdps(DIGITS):
        start_MK = frame(J_TMM.shape[-1], k)
        Q, _ = gram_schmidt([mpmath.matrix(column.tolist()) for column in start_MK.T])
        found = []
        for J_MM in J_TMM:
            J = mpmath.matrix(J_MM.tolist())
            Q, lengths = gram_schmidt([J * q for q in Q])
            found.append([float(mpmath.log(length)) for length in lengths])
        return found


def exponents(J_BTMM, k, warmup):
    """Mean of log stretch over windows and steps after the warm-up, one by one."""
    stretch = [log_stretch(J_TMM, k) for J_TMM in J_BTMM]
    counted = [row for steps in stretch for row in steps[warmup:]]
    return sorted((sum(row[i] for row in counted) / len(counted) for i in range(k)), reverse=True)


def standard_error(J_BTMM, warmup, blocks=10):
    """Of the largest exponent: the larger of the two errors, written out."""
    stretch = [[row[0] for row in log_stretch(J_TMM, 1)][warmup:] for J_TMM in J_BTMM]
    T = len(stretch[0])
    blocks = min(blocks, T)
    sizes = [T // blocks + (1 if j < T % blocks else 0) for j in range(blocks)]
    by_window = [sum(steps) / T for steps in stretch]
    by_block = []
    for steps in stretch:
        first = 0
        for size in sizes:
            by_block.append(sum(steps[first : first + size]) / size)
            first += size

    def error(means):
        if len(means) < 2:
            return 0.0
        mean = sum(means) / len(means)
        return math.sqrt(sum((m - mean) ** 2 for m in means) / (len(means) - 1) / len(means))

    return max(error(by_window), error(by_block))


def departure(W_NN):
    """Henrici's departure from normality by the Schur form: the norm of what stands above its diagonal."""
    with mpmath.workdps(DIGITS):
        _, triangle = mpmath.schur(mpmath.matrix(W_NN.tolist()).apply(mpmath.mpc))
        N = triangle.rows
        return float(mpmath.sqrt(sum(abs(triangle[i, j]) ** 2 for i in range(N) for j in range(i + 1, N))))
