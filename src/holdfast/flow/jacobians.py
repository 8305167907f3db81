"""How far a state reaches into a later one: norms of products of Jacobians along data, and units that pass nothing on.

B windows, T steps, D features, N hidden units, L layers. The state holds h of all layers, then for an LSTM c of all.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from holdfast.errors import OptionError, Problem
from holdfast.flow.cells import read_layer
from holdfast.flow.products import Product

_PARTS = ("state", "h")


@torch.no_grad()
def jacobian_log_norms(
    layer: Any, x_BTD: Tensor, h0: Tensor | Sequence[Tensor] | None = None, *, part: str = "state"
) -> Tensor:
    """Natural log of ||ds_T / ds_{T-k}||_2 for every lag k, where s is the state of the layer along its inputs.

    ds_T / ds_{T-k} = J_T J_{T-1} ... J_{T-k+1}, with J_t = ds_t / ds_{t-1} in closed form, in float64. The state s
    holds the h of all layers of a stack, and for an LSTM their c too: an adjoint that vanishes on its way through h may
    live on in c. Rows of the product keep logs of their size, so that exp(-1000) or exp(1000) is told as -1000 or 1000;
    a product that is 0 gives -inf. Nothing of the layer is changed.

    Time grows as B T M^3 with M = L N, for an LSTM 2 L N: give a few windows.

    Args:
        layer: An RNN, GRU or LSTM of torch.nn or holdfast.networks in one direction, or a cell of torch.nn.
        x_BTD: Inputs [B, T, D], whatever the layer's `batch_first`.
        h0: The state before the first step as the layer takes it: h_LBN, for an LSTM (h_LBN, c_LBN); zero by default.
        part: "state" for the whole state; "h" for the block dh_T / dh_{T-k}, h of all layers, through every path.

    Returns:
        Log of the spectral norm [B, T + 1], float64. Lag k is column k: column 0 is 0, column T reaches back to h0.

    Raises:
        OptionError: Another kind of layer, inputs, state or part; or dropout between layers in training mode.
        TrainingError: A Jacobian that is not finite.

    Example:
        >>> layer = torch.nn.RNN(1, 1, nonlinearity="relu", bias=False)
        >>> _ = torch.nn.init.constant_(layer.weight_ih_l0, 1.0), torch.nn.init.constant_(layer.weight_hh_l0, 2.0)
        >>> jacobian_log_norms(layer, torch.ones(1, 3, 1)).exp()  # 2^k
        tensor([[1.0000, 2.0000, 4.0000, 8.0000]], dtype=torch.float64)

    Reference: Pascanu, Mikolov and Bengio, On the difficulty of training recurrent neural networks, ICML 2013, eq. 5.
    """
    if part not in _PARTS:
        raise OptionError(Problem("part", " or ".join(_PARTS), repr(part), 'give part="state" or part="h"'))
    recurrence = read_layer(layer)
    steps = list(recurrence.states(x_BTD, h0))
    M = recurrence.size if part == "state" else recurrence.units
    # Transposed, (J_T ... J_t)^T = J_t^T (J_T ... J_{t+1})^T: every lag takes one more factor.
    product = Product.identity(len(x_BTD), recurrence.size, M, steps[0][0].device)
    log_norms = [product.log_norm(M)]
    for x_BD, state in reversed(steps):
        product = product.after(recurrence.jacobian(x_BD, state).mT)
        log_norms.append(product.log_norm(M))
    return torch.stack(log_norms, 1)


@torch.no_grad()
def saturation(
    layer: Any, x_BTD: Tensor, h0: Tensor | Sequence[Tensor] | None = None, *, below: float = 1e-3
) -> dict[tuple[str, str], Tensor]:
    """Share of steps at which each unit of each gate passes almost nothing back: |phi'(a)| < below.

    A tanh or sigmoid with such a slope is saturated, a ReLU with a share of 1 is dead on these data. A saturated gate
    is no fault by itself: an LSTM that remembers holds f near 1. A saturated g, n or RNN unit cannot learn.

    Args:
        layer: An RNN, GRU or LSTM of torch.nn or holdfast.networks in one direction, or a cell of torch.nn.
        x_BTD: Inputs [B, T, D], whatever the layer's `batch_first`.
        h0: The state before the first step as the layer takes it; zero by default.
        below: The slope that counts as nothing. Slopes of tanh are at most 1, of a sigmoid at most 1/4.

    Returns:
        By place and gate, as in `spectra`: share of the B T steps per unit [N], float64, from 0 to 1.

    Raises:
        OptionError: Another kind of layer, inputs or state; or dropout between layers in training mode.

    Example:
        >>> layer = torch.nn.RNN(1, 2, nonlinearity="relu", bias=False)
        >>> _ = layer.weight_ih_l0.data.copy_(torch.tensor([[1.0], [-1.0]])), layer.weight_hh_l0.data.zero_()
        >>> saturation(layer, torch.ones(1, 4, 1))["l0", "h"].tolist()
        [0.0, 1.0]
    """
    recurrence = read_layer(layer)
    counts: dict[tuple[str, str], Tensor] = {}
    for x_BD, state in recurrence.states(x_BTD, h0):
        for place, name, slope_BN in recurrence.slopes(x_BD, state):
            flat_N = (slope_BN < below).double().mean(0)
            counts[place, name] = counts.get((place, name), torch.zeros_like(flat_N)) + flat_N
    return {key: total_N / x_BTD.shape[1] for key, total_N in counts.items()}
