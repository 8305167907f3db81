"""Initialisation that keeps gradients alive: recurrent blocks by a scheme, each head at zero.

D features, N hidden units, G gates stacked along the rows (RNN 1, GRU 3: r, z, n, LSTM 4: i, f, g, o).
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import TypeVar

import torch
from torch import Tensor, nn

from holdfast.errors import OptionError, Problem

_RNN, _GRU, _LSTM = 1, 3, 4  # gates
STEEPEST = {"tanh": 1.0, "relu": 1.0, "linear": 1.0, "sigmoid": 0.25}  # slope of phi where it is largest

Layer = TypeVar("Layer", bound=nn.Module)


@dataclass(frozen=True)
class InitScheme:
    """How the recurrent weights start, as it is written in an option.

    Attributes:
        kind: One of `INITS`.
        number: The spectral radius of `radius`, the longest memory in recurrent steps of `chrono`; else None.

    Example:
        >>> InitScheme.parse("radius:0.9")
        InitScheme(kind='radius', number=0.9)
    """

    kind: str
    number: float | None = None

    @classmethod
    def parse(cls, text: str) -> InitScheme:
        """Read a scheme from the text of an option.

        Args:
            text: `orthogonal`, `identity`, `critical`, `uniform`, `radius:NUMBER` or `chrono:STEPS`.

        Returns:
            The scheme.

        Raises:
            OptionError: The text is none of these.
        """
        kind, _, rest = text.partition(":") if isinstance(text, str) else ("", "", "")
        try:
            number = float(rest) if rest else None
        except ValueError:
            number = math.nan
        least = {"radius": 0.0, "chrono": 2.0}.get(kind)
        fits = number is None if least is None else number is not None and least < number < math.inf
        if kind not in INITS or not fits:
            expected = ", ".join(INITS[:4]) + ", radius:NUMBER (above 0) or chrono:STEPS (above 2)"
            raise OptionError(Problem("init", expected, repr(text), "write for instance orthogonal"))
        return cls(kind, number)


INITS = ("orthogonal", "identity", "critical", "uniform", "radius", "chrono")


@torch.no_grad()
def init_recurrent_(
    layer: Layer, generator: torch.Generator | None = None, scheme: str = "orthogonal", forget_bias: float = 1.0
) -> Layer:
    """Give a recurrent layer weights of a known start: the recurrent blocks W gate by gate, U and b around them.

    With h_t = phi(U x_t + W h_{t-1} + b):

    - `orthogonal`: W W^T = I, so that linear and ReLU units on their active side carry an adjoint back at its full
      norm (Saxe, McClelland and Ganguli, ICLR 2014). The slope of a sigmoid is at most 1/4: under this W its adjoint
      still shrinks to at most 1/4 with every step back.
    - `critical` (RNN): an orthogonal W over the steepest slope of phi, 1 for tanh, ReLU and linear, 1/4 for a sigmoid,
      whose bias is then -W 1/2, so that without input h = 1/2 is a fixed point at that slope. There the Jacobian
      is orthogonal: the adjoint keeps its norm.
    - `identity` (RNN): W = I, b = 0: a ReLU state is kept until an input changes it (Le, Jaitly and Hinton,
      arXiv 1504.00941, who draw U from a narrower distribution).
    - `radius:R`: W normal, scaled to spectral radius R (Jaeger, GMD report 148, 2001). A heuristic for tanh.
    - `chrono:T` (GRU, LSTM): orthogonal W; memories of 1 to T steps: b_f = log u, u uniform on [1, T - 1], b_i = -b_f
      in the LSTM, b_z = log u in the GRU (Tallec and Ollivier, ICLR 2018).
    - `uniform`: W, U and b uniform on [-1 / sqrt(N), 1 / sqrt(N)], as torch.nn does; W's spectral radius is near 0.58.

    In all but the last U is uniform on [-s, s], s = sqrt(6 / (D + N)) (Glorot and Bengio, AISTATS 2010), and b = 0,
    except that the LSTM's forget gate gets `forget_bias` in total, `bias_ih` holding it (Jozefowicz, Zaremba and
    Sutskever, ICML 2015).

    Args:
        layer: An RNN, GRU or LSTM of holdfast or of torch.nn (without projections), or a cell of torch.nn. Layers
            without biases are welcome, their forget gate then starts at 1/2.
        generator: Source of the random numbers, on the device of the weights; the global one by default.
        scheme: How W starts, see above.
        forget_bias: Of the LSTM; `chrono` and `uniform` have their own.

    Returns:
        The layer itself, its weights overwritten.

    Raises:
        OptionError: The layer has no recurrent weights of shape [G N, N], or the scheme is unknown or not for it.

    Example:
        >>> lstm = init_recurrent_(torch.nn.LSTM(3, 2), torch.Generator().manual_seed(0))
        >>> forget = lstm.weight_hh_l0[2:4]
        >>> torch.allclose(forget @ forget.T, torch.eye(2), atol=1e-6)
        True
        >>> lstm.bias_ih_l0.tolist()
        [0.0, 0.0, 1.0, 1.0, 0.0, 0.0, 0.0, 0.0]
        >>> init_recurrent_(torch.nn.RNN(3, 2, nonlinearity="relu"), scheme="identity").weight_hh_l0.tolist()
        [[1.0, 0.0], [0.0, 1.0]]
    """
    parameters = dict(layer.named_parameters(recurse=False))
    gates = _count_gates(layer, parameters.get("weight_hh_l0", parameters.get("weight_hh")))
    chosen = InitScheme.parse(scheme)
    _check_fits(chosen, gates, type(layer).__name__, bool(layer.bias))
    if chosen.kind == "uniform":
        bound = 1 / math.sqrt(next(W.shape[1] for name, W in parameters.items() if name.startswith("weight_hh")))
        for parameter in parameters.values():
            nn.init.uniform_(parameter, -bound, bound, generator=generator)
        return layer
    draw = _block_draw(chosen, layer, generator)
    for name, parameter in parameters.items():
        blocks = parameter.chunk(gates)
        if name.startswith("weight_hh"):
            for W_NN in blocks:
                draw(W_NN)
        elif name.startswith("weight_ih"):
            for U_ND in blocks:
                nn.init.xavier_uniform_(U_ND, generator=generator)
        else:
            nn.init.zeros_(parameter)
    for name in (name for name in parameters if name.startswith("bias_ih")):
        W = parameters[name.replace("bias_ih", "weight_hh")]
        if gates == _LSTM:
            nn.init.constant_(parameters[name].chunk(gates)[1], forget_bias)
        _settle_(chosen, layer, parameters[name].chunk(gates), W, generator)
    return layer


def check_init(text: str, cell: str) -> None:
    """Refuse a scheme that is none, or that is not for this cell, before there is a layer.

    Args:
        text: As for `init_recurrent_`; `chrono` alone is welcome.
        cell: One of `CELLS`.

    Raises:
        OptionError: Why not.

    Example:
        >>> check_init("chrono", "lstm")
    """
    scheme = InitScheme.parse("chrono:3" if text == "chrono" else text)
    _check_fits(scheme, {"gru": _GRU, "lstm": _LSTM}.get(cell, _RNN), cell)


def _block_draw(scheme: InitScheme, layer: nn.Module, generator: torch.Generator | None) -> Callable[[Tensor], object]:
    """What fills one N x N block of W."""
    if scheme.kind == "identity":
        return nn.init.eye_
    if scheme.kind == "radius":
        return partial(_scale_radius_, radius=scheme.number or 0.0, generator=generator)
    gain = 1 / STEEPEST[str(layer.nonlinearity)] if scheme.kind == "critical" else 1.0
    return partial(_orthogonal_, gain=gain, generator=generator)


def _orthogonal_(W_NN: Tensor, gain: float, generator: torch.Generator | None) -> None:
    wide_NN = W_NN.to(torch.promote_types(W_NN.dtype, torch.float32))  # half precision has no QR decomposition
    W_NN.copy_(nn.init.orthogonal_(wide_NN, gain=gain, generator=generator))


def _scale_radius_(W_NN: Tensor, radius: float, generator: torch.Generator | None) -> None:
    nn.init.normal_(W_NN, generator=generator)
    W_NN.mul_(radius / torch.linalg.eigvals(W_NN.double()).abs().max().item())


def _settle_(
    scheme: InitScheme, layer: nn.Module, blocks: tuple[Tensor, ...], W: Tensor, generator: torch.Generator | None
) -> None:
    """The biases that belong to a scheme, gate by gate."""
    if scheme.kind == "critical" and layer.nonlinearity == "sigmoid":
        blocks[0].copy_(-W.sum(1) / 2)
    if scheme.kind != "chrono" or scheme.number is None:
        return
    longest, log_u = scheme.number, torch.empty_like(blocks[1])  # the forget gate, or the update gate z of a GRU
    nn.init.uniform_(log_u, 1.0, longest - 1.0, generator=generator).log_()
    blocks[1].copy_(log_u)
    if len(blocks) == _LSTM:
        blocks[0].copy_(-log_u)


def _check_fits(scheme: InitScheme, gates: int, got: str, bias: bool = True) -> None:
    wanted = {"identity": (_RNN,), "critical": (_RNN,), "chrono": (_GRU, _LSTM)}.get(scheme.kind, (gates,))
    if gates not in wanted or (scheme.kind in ("chrono", "critical") and not bias):
        expected = ("a GRU or an LSTM" if scheme.kind == "chrono" else "an RNN") + " with biases"
        fix = "take orthogonal, or another cell"
        raise OptionError(Problem(f"init {scheme.kind}", expected, got if bias else f"{got} without biases", fix))


def zero_(linear: nn.Linear) -> nn.Linear:
    """Set a linear layer to zero, so that what it corrects starts uncorrected.

    Args:
        linear: The last layer of a network.

    Returns:
        The layer itself, its weights (and biases, if any) zero.
    """
    for parameter in linear.parameters():
        nn.init.zeros_(parameter)
    return linear


def _count_gates(layer: nn.Module, W: Tensor | None) -> int:
    """Number of N x N blocks stacked in W, refusing what is not a plain recurrent layer."""
    for gates in (_RNN, _GRU, _LSTM):
        if W is not None and W.shape[0] == gates * W.shape[1]:
            return gates
    raise OptionError(
        Problem(
            "init_recurrent_(layer)",
            "weight_hh_l0 of shape [G N, N] with G = 1 (RNN), 3 (GRU) or 4 (LSTM)",
            f"{type(layer).__name__} " + ("without weight_hh_l0" if W is None else f"with {list(W.shape)}"),
            "pass an RNN, GRU or LSTM without projections and parametrisations, not the module around it",
        )
    )
