"""Mean growth per step of small disturbances of a recurrent state, direction by direction.

B windows, T steps, D features, K exponents, M numbers in the state.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from holdfast.errors import OptionError, Problem, TrainingError
from holdfast.flow.cells import Recurrence, State, not_finite, read_layer

_BLOCKS = 10


@dataclass(frozen=True, eq=False)
class LyapunovExponents:
    """Lyapunov exponents of a layer along data, largest first, natural log per step.

    The largest is the rate at which Jacobian products, and with them adjoints, grow over many steps: above 0 they
    explode and the state is chaotic or unbounded, below 0 they vanish, by a factor of exp(value) per step.

    Attributes:
        values: Mean over windows and counted steps [K], float64. -inf for what a step puts out altogether.
        standard_error: The larger of two errors of that mean [K]: from its spread over windows, and over blocks of
            a tenth of the counted steps. nan where there is but one window with one step, or the value is -inf.
        by_window: Mean over the counted steps of each window [B, K].
        warmup: Steps at the start that were not counted.
        steps: Steps that were.

    Example:
        >>> layer = torch.nn.RNN(1, 1, nonlinearity="relu", bias=False)
        >>> _ = torch.nn.init.constant_(layer.weight_ih_l0, 1.0), torch.nn.init.constant_(layer.weight_hh_l0, 2.0)
        >>> found = lyapunov_exponents(layer, torch.ones(1, 8, 1))
        >>> found.values.exp().tolist(), found.warmup, found.steps
        ([2.0], 2, 6)
    """

    values: Tensor
    standard_error: Tensor
    by_window: Tensor
    warmup: int
    steps: int


@torch.no_grad()
def lyapunov_exponents(
    layer: Any,
    x_BTD: Tensor,
    k: int | None = None,
    *,
    h0: Tensor | Sequence[Tensor] | None = None,
    warmup: int | None = None,
) -> LyapunovExponents:
    """The k largest Lyapunov exponents of a layer's whole state along its inputs, by repeated QR decomposition.

    J_t Q_{t-1} = Q_t R_t; lambda_i = mean over t of log |R_t,ii|, with J_t = ds_t / ds_{t-1} in closed form, in
    float64, and s the h of all layers, for an LSTM with their c. Q_0 is a fixed random frame: it needs some steps to
    turn into the directions that grow fastest, and these warm-up steps are not counted. With all M exponents their sum
    is the mean of log |det J_t| over the counted steps. Nothing of the layer is changed.

    Two exponents closer than about 1 / T cannot be told apart by T steps; their mean can. A direction whose length
    after a step is not above rounding counts as put out, and its exponent is -inf.

    Args:
        layer: An RNN, GRU or LSTM of torch.nn or holdfast.networks in one direction, or a cell of torch.nn.
        x_BTD: Inputs [B, T, D], whatever the layer's `batch_first`.
        k: How many exponents, 1 to M = L N, for an LSTM 2 L N; all by default. Time grows as B T M N k.
        h0: The state before the first step as the layer takes it; zero by default.
        warmup: Steps not counted, fewer than T; a quarter of them by default.

    Returns:
        The exponents and their standard error.

    Raises:
        OptionError: Another kind of layer, inputs, state, k or warmup; or dropout between layers in training mode.
        TrainingError: A Jacobian that is not finite.

    Example:
        >>> layer = torch.nn.GRU(2, 3, bias=False)
        >>> _ = layer.weight_hh_l0.data.zero_()
        >>> lyapunov_exponents(layer, torch.zeros(1, 20, 2)).values.exp()  # h_t = h_{t-1} / 2 at the origin
        tensor([0.5000, 0.5000, 0.5000], dtype=torch.float64)

    Reference: Benettin, Galgani, Giorgilli and Strelcyn, Lyapunov characteristic exponents for smooth dynamical
    systems, Meccanica 15 (1980); for recurrent networks Vogt, Puelma Touzel, Shlizerman and Lajoie, On Lyapunov
    exponents for RNNs, Frontiers in Applied Mathematics and Statistics 8 (2022).
    """
    recurrence = read_layer(layer)
    log_TBK, warmup = log_stretch(recurrence, *recurrence.begin(x_BTD, h0), k, warmup)
    if not (log_TBK < math.inf).all():
        raise TrainingError(not_finite())
    values_K = log_TBK.mean((0, 1))
    order = values_K.argsort(descending=True, stable=True)
    log_TBK = log_TBK[:, :, order]
    return LyapunovExponents(values_K[order], _standard_error(log_TBK), log_TBK.mean(0), warmup, len(log_TBK))


def log_stretch(
    recurrence: Recurrence, x_TBD: Sequence[Tensor], state: State, k: int | None, warmup: int | None
) -> tuple[Tensor, int]:
    """Natural log of |R_t,ii| at every step that counts [T, B, K], and how many steps of warm-up do not.

    Args:
        recurrence: Of a layer.
        x_TBD: Inputs.
        state: Before the first step.
        k: Directions; None: all.
        warmup: Steps that do not count; None: a quarter.
    """
    M, T, B = recurrence.size, len(x_TBD), len(x_TBD[0])
    k, warmup = M if k is None else k, T // 4 if warmup is None else warmup
    _check(k, M, warmup, T)
    # Axes of the state would not do: an axis that the recurrence keeps to itself would never meet the others.
    generator = torch.Generator("cpu").manual_seed(0)
    start_MM = torch.randn(M, M, dtype=torch.float64, device="cpu", generator=generator)
    Q_BMK = torch.linalg.qr(start_MM[:, :k])[0].to(x_TBD[0]).expand(B, M, k)
    rounding = M * torch.finfo(Q_BMK.dtype).eps
    stretch = []
    for x_BD in x_TBD:
        state, moved_BMK = recurrence.push(x_BD, state, Q_BMK)
        Q_BMK, R_BKK = torch.linalg.qr(moved_BMK)
        length_BK = R_BKK.diagonal(dim1=1, dim2=2).abs()
        lost_BK = length_BK <= rounding * torch.linalg.vector_norm(moved_BMK, dim=1)
        stretch.append(length_BK.masked_fill(lost_BK, 0).log())
    return torch.stack(stretch[warmup:]), warmup


def _standard_error(log_TBK: Tensor) -> Tensor:
    """The larger of the errors from the spread over windows and over blocks of steps [K]."""
    blocks_NBK = torch.stack([block.mean(0) for block in log_TBK.tensor_split(min(_BLOCKS, len(log_TBK)))])
    errors = [
        means_SK.std(0) / math.sqrt(len(means_SK))
        for means_SK in (log_TBK.mean(0), blocks_NBK.flatten(0, 1))
        if len(means_SK) > 1
    ]
    return torch.stack(errors).amax(0) if errors else torch.full_like(log_TBK[0, 0], torch.nan)


def _check(k: int, M: int, warmup: int, T: int) -> None:
    problems = []
    if not 1 <= k <= M:
        problems.append(Problem("k", f"1 to {M}, the numbers in the state", str(k), f"give k={M} or fewer"))
    if not 0 <= warmup < T:
        fix = "give fewer steps of warm-up, or more steps"
        problems.append(Problem("warmup", f"0 to {T - 1}, fewer than the {T} steps", str(warmup), fix))
    if problems:
        raise OptionError(problems)
