"""Initialisation that keeps gradients alive: each recurrent block starts as an isometry, each head at zero.

D features, N hidden units, G gates stacked along the rows (RNN 1, GRU 3: r, z, n, LSTM 4: i, f, g, o).
"""

from __future__ import annotations

from typing import TypeVar

import torch
from torch import Tensor, nn

from holdfast.errors import OptionError, Problem

_GATE_COUNTS = (1, 3, 4)
_LSTM_GATES = 4

Layer = TypeVar("Layer", bound=nn.Module)


@torch.no_grad()
def init_recurrent_(layer: Layer, generator: torch.Generator | None = None) -> Layer:
    """Give a recurrent layer weights whose gradients neither vanish nor explode at the start.

    With h_t = phi(U x_t + W h_{t-1} + b), gate by gate: W is orthogonal, W W^T = I, so that linear and ReLU units on
    their active side carry an adjoint back at its full norm (Saxe, McClelland and Ganguli, ICLR 2014); U is uniform
    on [-s, s], s = sqrt(6 / (D + N)) (Glorot and Bengio, AISTATS 2010); b = 0, except that the LSTM's forget gate
    gets 1 in total, `bias_ih` holding the 1 and `bias_hh` 0 (Jozefowicz, Zaremba and Sutskever, ICML 2015).

    The slope of a sigmoid is at most 1/4, so under an orthogonal W the adjoint of a sigmoid RNN still shrinks to at
    most 1/4 of its norm with every step back: it vanishes, whatever the data.

    Args:
        layer: An RNN, GRU or LSTM of holdfast or of torch.nn (without projections). Layers without biases are welcome,
            their forget gate then starts at 1/2.
        generator: Source of the random numbers, on the device of the weights; the global one by default.

    Returns:
        The layer itself, its weights overwritten.

    Raises:
        OptionError: The layer has no recurrent weights of shape [G N, N].

    Example:
        >>> lstm = init_recurrent_(torch.nn.LSTM(3, 2), torch.Generator().manual_seed(0))
        >>> forget = lstm.weight_hh_l0[2:4]
        >>> torch.allclose(forget @ forget.T, torch.eye(2), atol=1e-6)
        True
        >>> lstm.bias_ih_l0.tolist()
        [0.0, 0.0, 1.0, 1.0, 0.0, 0.0, 0.0, 0.0]
    """
    parameters = dict(layer.named_parameters(recurse=False))
    gates = _count_gates(layer, parameters.get("weight_hh_l0"))
    for name, parameter in parameters.items():
        blocks = parameter.chunk(gates)
        if name.startswith("weight_hh"):
            for W_NN in blocks:
                nn.init.orthogonal_(W_NN, generator=generator)
        elif name.startswith("weight_ih"):
            for U_ND in blocks:
                nn.init.xavier_uniform_(U_ND, generator=generator)
        else:
            nn.init.zeros_(parameter)
            if gates == _LSTM_GATES and name.startswith("bias_ih"):
                nn.init.ones_(blocks[1])
    return layer


def zero_(linear: nn.Linear) -> nn.Linear:
    """Set a linear layer to zero, so that what it corrects starts uncorrected.

    Args:
        linear: The last layer of a network.

    Returns:
        The layer itself, its weights (and biases, if any) zero.

    Example:
        >>> zero_(torch.nn.Linear(3, 2))(torch.ones(3)).tolist()
        [0.0, 0.0]
    """
    for parameter in linear.parameters():
        nn.init.zeros_(parameter)
    return linear


def _count_gates(layer: nn.Module, W: Tensor | None) -> int:
    """Number of N x N blocks stacked in W, refusing what is not a plain recurrent layer."""
    for gates in _GATE_COUNTS:
        if W is not None and W.shape[0] == gates * W.shape[1]:
            return gates
    raise OptionError(
        Problem(
            "init_recurrent_(layer)",
            "weight_hh_l0 of shape [G N, N] with G = 1 (RNN), 3 (GRU) or 4 (LSTM)",
            f"{type(layer).__name__} " + ("without weight_hh_l0" if W is None else f"with {list(W.shape)}"),
            "pass an RNN, GRU or LSTM without projections, not the module around it",
        )
    )
