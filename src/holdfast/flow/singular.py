"""All singular values of products of Jacobians along data, as logs: each to its own digits, however far apart.

B windows, T steps, D features, M numbers in the state, P pairs of rows.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from typing import Any

import torch
from torch import Tensor

from holdfast.flow.cells import read_layer
from holdfast.flow.products import Product

_EPS = torch.finfo(torch.float64).eps
_GRADED = 1e-3  # sizes of columns further apart than this are split off
_BALANCED = 0.25  # share of a diagonal in the largest entry of its row
_PASSES = 8  # seen: at most 3 where no singular value is lost to rounding
_SWEEPS = 60  # seen: at most 8


@torch.no_grad()
def jacobian_log_singular_values(layer: Any, x_BTD: Tensor, h0: Tensor | Sequence[Tensor] | None = None) -> Tensor:
    """Natural logs of all singular values of ds_T / ds_0 = J_T ... J_1, s the state of the layer along its inputs.

    The largest is what `jacobian_log_norms` gives for lag T, over T they all tend to the Lyapunov exponents, and their
    sum is that of log |det J_t|. The smallest tell what nobody can learn: directions of s_0 that leave no trace in s_T.

    J_t Q_{t-1} = Q_t R_t by QR; the product of the triangular R_t is kept with a log scale per row, and one-sided
    Jacobi rotations of its rows, which need no common scale, end the work. So 1e300 and 1e-300 stand side by side in
    one product, where its dense form would lose all below 1e-16 of the largest. Nothing of the layer is changed.

    A value is told to about ten digits or more, as long as no J_t, apart from the sizes of its rows, has a condition
    number above some 1e6: of a larger one as many digits are lost as it is larger. A direction that a step makes
    smaller than its own rounding counts as put out; gates that are saturated both ways come to that.

    Time grows as B T M^3, two seconds for M = 128 and T = 336: give a few windows.

    Args:
        layer: An RNN, GRU or LSTM of torch.nn or holdfast.networks in one direction, or a cell of torch.nn.
        x_BTD: Inputs [B, T, D], whatever the layer's `batch_first`.
        h0: The state before the first step as the layer takes it: h_LBN, for an LSTM (h_LBN, c_LBN); zero by default.

    Returns:
        Logs [B, M], float64, largest first, -inf for zero; M = L N, for an LSTM 2 L N.

    Raises:
        OptionError: Another kind of layer, inputs or state; or dropout between layers in training mode.
        TrainingError: A Jacobian that is not finite.

    Example:
        >>> W_NN = torch.diag(torch.tensor([1e30, 1e-30], dtype=torch.float64))
        >>> layer = torch.nn.RNN(1, 2, nonlinearity="relu", bias=False).double()
        >>> _ = layer.weight_hh_l0.data.copy_(W_NN), layer.weight_ih_l0.data.fill_(1.0)
        >>> logs_BM = jacobian_log_singular_values(layer, torch.ones(1, 10, 1, dtype=torch.float64))
        >>> [round(log / math.log(10), 9) for log in logs_BM[0].tolist()]  # decades
        [300.0, -300.0]

    Reference: Dieci, Russell and Van Vleck, On the computation of Lyapunov exponents for continuous dynamical systems,
    SIAM Journal on Numerical Analysis 34 (1997), for the product of QR factors; Demmel and Veselic, Jacobi's method is
    more accurate than QR, SIAM Journal on Matrix Analysis and Applications 13 (1992), for why rows of very different
    size keep the digits of the small ones.
    """
    recurrence = read_layer(layer)
    return log_singular_values([recurrence.jacobian(x_BD, state) for x_BD, state in recurrence.states(x_BTD, h0)])


def log_singular_values(factors: Sequence[Tensor]) -> Tensor:
    """Natural logs of the singular values of F_T ... F_1, each [B, M, M] in float64, largest first [B, M].

    Args:
        factors: F_1 to F_T, at least one.

    Returns:
        Logs, -inf for zero.

    Example:
        >>> F_BMM = torch.diag(torch.tensor([1e-200, 1e200], dtype=torch.float64))[None]
        >>> log_singular_values([F_BMM, F_BMM]).div(200).exp()  # 1e400 and 1e-400
        tensor([[1.0000e+02, 1.0000e-02]], dtype=torch.float64)
    """
    # Rows can be rotated without loss where each holds a good share of its size on the diagonal. Where a direction that
    # grows more stands behind one that grows less, it does not: the transposed product turns them round.
    for _ in range(_PASSES):
        factors = _triangular(factors)
        B, M, _ = factors[0].shape
        product = Product.identity(B, M, M, factors[0].device)
        for R_BMM in factors:
            product = product.after(R_BMM)
        diagonal_BM = product.mantissa_BMK.diagonal(dim1=1, dim2=2).abs()
        if ((diagonal_BM >= _BALANCED) | (product.log_BM == -math.inf)).all():
            break
        factors = [R_BMM.mT for R_BMM in reversed(factors)]
    return _by_rotations(product.mantissa_BMK.clone(), product.log_BM)


def _triangular(factors: Sequence[Tensor]) -> list[Tensor]:
    """Upper triangular factors whose product has the same singular values."""
    B, M, _ = factors[0].shape
    Q_BMM = torch.eye(M, dtype=torch.float64, device=factors[0].device).expand(B, M, M)
    found = []
    for F_BMM in (part for factor in factors for part in _split(factor)):
        A_BMM = F_BMM @ Q_BMM
        reach_BMM = (F_BMM.abs() @ Q_BMM.abs()).cummax(2).values
        # Householder's reflections keep the digits of small rows where the large ones stand above them.
        order_BMM = A_BMM.abs().amax(2).argsort(dim=1, descending=True, stable=True)[:, :, None].expand_as(A_BMM)
        sorted_BMM, R_BMM = torch.linalg.qr(A_BMM.gather(1, order_BMM))
        Q_BMM = torch.zeros_like(sorted_BMM).scatter(1, order_BMM, sorted_BMM)
        # What is left of a column that hangs on those before it is rounding, and so is its row.
        noise_BMM = R_BMM.abs() <= M * _EPS * (Q_BMM.abs().mT @ reach_BMM)
        lost_BM = noise_BMM.diagonal(dim1=1, dim2=2)
        found.append(R_BMM.masked_fill(noise_BMM & lost_BM[:, :, None], 0))
    return found


def _split(F_BMM: Tensor) -> Iterator[Tensor]:
    """F, or where columns differ much in size, two factors: the sizes first, what mixes them second."""
    rows_BM1 = F_BMM.abs().amax(2, keepdim=True)
    sizes_BM = (F_BMM.abs() / rows_BM1.masked_fill(rows_BM1 == 0, 1)).amax(1)
    sizes_BM = torch.where(sizes_BM == 0, 1.0, sizes_BM)  # at most 1; a column of zeros stays one
    if (sizes_BM < _GRADED).any():
        yield torch.diag_embed(sizes_BM)
        F_BMM = F_BMM / sizes_BM[:, None]
    yield F_BMM


def _by_rotations(rows_BMK: Tensor, log_BM: Tensor) -> Tensor:
    """Logs of the singular values of diag(exp(log)) rows: pairs of rows are rotated until all are orthogonal."""
    M = rows_BMK.shape[1]
    rounds = _rounds(M, rows_BMK.device)
    for _ in range(_SWEEPS):
        rows_BMK, log_BM = _normalised(rows_BMK, log_BM)
        widest = [_rotate(rows_BMK, log_BM, first, second) for first, second in rounds]
        if not widest or torch.stack(widest).max() <= 10 * M * _EPS:
            break
    return _normalised(rows_BMK, log_BM)[1].sort(1, descending=True).values


def _rotate(rows_BMK: Tensor, log_BM: Tensor, first_P: Tensor, second_P: Tensor) -> Tensor:
    """Make pairs of rows orthogonal, in place; the largest cosine that there was between two.

    With x = exp(log_a) a and y = exp(log_b) b the angle has t = tan = 2 x.y / (d + sign(d) sqrt(d^2 + 4 (x.y)^2)),
    d = y.y - x.x. Rows are kept in their own scale, where a loses t exp(log_b - log_a) b, and b gains
    t exp(log_a - log_b) a: in either the scales cancel before anything is too small to be a number.
    """
    a_BPK, b_BPK = rows_BMK[:, first_P], rows_BMK[:, second_P]
    log_a_BP, log_b_BP = log_BM[:, first_P], log_BM[:, second_P]
    top_BP = torch.maximum(log_a_BP, log_b_BP)
    top_BP = top_BP.masked_fill(top_BP == -math.inf, 0)
    a_size_BP, b_size_BP = (log_a_BP - top_BP).exp(), (log_b_BP - top_BP).exp()
    aa_BP, bb_BP, ab_BP = (a_BPK * a_BPK).sum(2), (b_BPK * b_BPK).sum(2), (a_BPK * b_BPK).sum(2)
    both_BP = (aa_BP * bb_BP).sqrt()
    d_BP = b_size_BP**2 * bb_BP - a_size_BP**2 * aa_BP
    root_BP = torch.hypot(d_BP, 2 * a_size_BP * b_size_BP * ab_BP)
    below_BP = torch.where(d_BP < 0, d_BP - root_BP, d_BP + root_BP)
    turn_BP = torch.where((ab_BP == 0) | (below_BP == 0), 0, 2 * ab_BP / below_BP.masked_fill(below_BP == 0, 1))
    cos_BP = (1 + (a_size_BP * b_size_BP * turn_BP) ** 2).rsqrt()
    rows_BMK[:, first_P] = cos_BP[:, :, None] * (a_BPK - (b_size_BP**2 * turn_BP)[:, :, None] * b_BPK)
    rows_BMK[:, second_P] = cos_BP[:, :, None] * (b_BPK + (a_size_BP**2 * turn_BP)[:, :, None] * a_BPK)
    return (ab_BP.abs() / both_BP.masked_fill(both_BP == 0, 1)).max()


def _normalised(rows_BMK: Tensor, log_BM: Tensor) -> tuple[Tensor, Tensor]:
    """The same with rows of length 1, or 0 with a log of -inf."""
    size_BM = torch.linalg.vector_norm(rows_BMK, dim=2)
    return rows_BMK / size_BM.masked_fill(size_BM == 0, 1)[:, :, None], log_BM + size_BM.log()


def _rounds(M: int, device: torch.device) -> list[tuple[Tensor, Tensor]]:
    """Every pair of M rows once, in rounds of disjoint pairs: a tournament, where one seat may stay empty."""
    seats = list(range(M + M % 2))
    rounds = []
    for _ in seats[1:] if M > 1 else ():
        pairs = list(zip(seats, reversed(seats), strict=True))[: len(seats) // 2]
        played = [pair for pair in pairs if max(pair) < M]
        first, second = (torch.tensor(side, device=device) for side in zip(*played, strict=True))
        rounds.append((first, second))
        seats = [seats[0], seats[-1], *seats[1:-1]]
    return rounds
