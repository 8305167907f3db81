"""Recurrent matrices that stay orthogonal, or within a spectral norm, whatever the optimiser does to them.

N hidden units, G gates stacked along the rows (RNN 1, GRU 3, LSTM 4). Each N x N block W of `weight_hh` is computed
from a free block X of its own, all gates in one call, in single precision at least, also under autocast.
"""

from __future__ import annotations

import math
import weakref
from dataclasses import dataclass
from typing import Any, TypeVar

import torch
from torch import Tensor, nn
from torch.nn.utils import parametrize

from holdfast.errors import OptionError, Problem
from holdfast.networks.cells import GRU, LSTM, RNN
from holdfast.networks.init import STEEPEST

Layer = TypeVar("Layer", bound=nn.Module)
_LAYERS = (RNN, GRU, LSTM, nn.RNN, nn.GRU, nn.LSTM, nn.RNNCell, nn.GRUCell, nn.LSTMCell)


@dataclass(frozen=True)
class Constraint:
    """What the recurrent matrices are held to, as it is written in an option.

    Attributes:
        kind: "none", "orthogonal" or "cap".
        number: The largest spectral norm of `cap`; else None.

    Example:
        >>> Constraint.parse("cap:0.99")
        Constraint(kind='cap', number=0.99)
    """

    kind: str
    number: float | None = None

    @classmethod
    def parse(cls, text: str) -> Constraint:
        """Read a constraint from the text of an option.

        Args:
            text: `none`, `orthogonal` or `cap:NUMBER`.

        Returns:
            The constraint.

        Raises:
            OptionError: The text is none of these.
        """
        kind, colon, rest = text.partition(":") if isinstance(text, str) else ("", "", "")
        try:
            number = float(rest) if colon else None
        except ValueError:
            number = math.nan
        fits = number is not None and 0 < number < math.inf if kind == "cap" else number is None
        if kind not in ("none", "orthogonal", "cap") or not fits:
            expected = "none, orthogonal or cap:NUMBER (above 0)"
            raise OptionError(Problem("constraint", expected, repr(text), "write for instance cap:1"))
        return cls(kind, number)


def constrain_recurrent_(layer: Layer, constraint: str) -> Layer:
    """Hold the recurrent matrices W of a layer to a constraint in all training to come, gate by gate.

    The parameter `weight_hh_l0` becomes `parametrizations.weight_hh_l0.original`, a free X that the optimiser moves;
    `weight_hh_l0` is computed from it, once in every forward of the layer. With h_t = phi(U x_t + W h_{t-1} + b) and
    |phi'| <= gamma (tanh, ReLU, linear: 1; sigmoid: 1/4):

    - `orthogonal`: W W^T = I / gamma^2 to rounding. So ||J_t|| <= 1: no adjoint explodes, and none shrinks at
      units of the steepest slope, where J_t is orthogonal; saturated ones still vanish. A sigmoid RNN gets 4 times an
      orthogonal W: held to W W^T = I its adjoints would shrink to at most 1/4 with every step back, on any data. It
      is at its steepest with the bias of `init_recurrent_(layer, scheme="critical")`.
      W starts at the nearest such matrix, S; then W = S (2 (I - A/2)^-1 - I) with A = (X - X^T) / 2, the Cayley
      transform, and X = I. The gradient of X at the start is S^T dL/dW projected onto the tangents there. Weight decay
      pulls W towards S. det W keeps its sign, and W only nears those matrices where S^T W has an eigenvalue -1.
    - `cap:c`: W = X min(1, c / ||X||_2), so ||J_t|| <= gamma c. If gamma c < 1 this is sufficient for vanishing: an
      adjoint shrinks to gamma c or less with every step back. If gamma c <= 1 it is sufficient for not exploding. Above
      it bounds the growth per step by gamma c, and proves nothing about whether there is any. No c keeps an adjoint
      from vanishing. Only first derivatives are right (where singular values tie: a subgradient).

    All this is proved of one layer of an RNN. In a GRU or LSTM a gate has no such bound of its own, since the other
    gates multiply it and the state is carried beside W: there the constraint holds for W but alone proves neither
    vanishing nor its absence, see `holdfast.flow.spectrum` for what is left of it at the origin. A stack adds U of the
    layers above, which stays free.

    Args:
        layer: An RNN, GRU or LSTM of holdfast or of torch.nn (without projections), or a cell of torch.nn, which
            computes W at every call: run its steps within `torch.nn.utils.parametrize.cached()`. With the weights that
            it shall start from, in the precision that it is trained in.
        constraint: `none`, which leaves the layer as it is, `orthogonal` or `cap:NUMBER`.

    Returns:
        The layer itself. Its state dict loads into a layer that is constrained likewise. A matrix that is assigned to
        `layer.weight_hh_l0` starts anew from there.

    Raises:
        OptionError: An unknown constraint, another module, projections, weights that are constrained or parametrised
            already, or that are not finite.

    Example:
        >>> lstm = constrain_recurrent_(torch.nn.LSTM(3, 2), "orthogonal")
        >>> W_i = lstm.weight_hh_l0[:2]
        >>> torch.allclose(W_i @ W_i.T, torch.eye(2), atol=1e-6)
        True
        >>> rnn = constrain_recurrent_(torch.nn.RNN(1, 2), "cap:0.5")
        >>> rnn.weight_hh_l0 = torch.diag(torch.tensor([2.0, 1.0]))
        >>> rnn.weight_hh_l0.tolist()
        [[0.5, 0.0], [0.0, 0.25]]

    Reference: Helfrich, Willmott and Ye, Orthogonal recurrent neural networks with scaled Cayley transform, ICML 2018;
    Lezcano-Casado, Trivializations for gradient-based optimization on manifolds, NeurIPS 2019, for S in front; Pascanu,
    Mikolov and Bengio, On the difficulty of training recurrent neural networks, ICML 2013, for what a norm proves.
    """
    chosen = Constraint.parse(constraint)
    if chosen.kind == "none":
        return layer
    names = _constrainable(layer)
    gain = 1 / STEEPEST[str(getattr(layer, "nonlinearity", "tanh"))]
    for name in names:
        rule = _Orthogonal(gain) if chosen.number is None else _Capped(chosen.number)
        parametrize.register_parametrization(layer, name, rule)
    if isinstance(layer, nn.RNNBase):
        _list_once(layer)
    return layer


class _Orthogonal(nn.Module):
    """W = S (2 (I - A/2)^-1 - I) with A = (X - X^T) / 2, and S = `start_GNN` orthogonal up to a gain.

    The same as S (I - A/2)^-1 (I + A/2), but orthogonal to rounding for an A of any size, and a product cheaper.
    """

    start_GNN: Tensor

    def __init__(self, gain: float) -> None:
        super().__init__()
        self.gain = gain
        self.register_buffer("start_GNN", torch.empty(0))

    def forward(self, X: Tensor) -> Tensor:
        with torch.autocast(X.device.type, enabled=False):
            X_GNN = _blocks(X)
            I_NN = torch.eye(X.shape[1], dtype=X_GNN.dtype, device=X.device)
            # I - A/2 has no singular value below 1: whether there is an inverse need not be asked, or waited for.
            inverse_GNN: Tensor = torch.linalg.inv_ex(I_NN - (X_GNN - X_GNN.mT) / 4)[0]
            W_GNN = self.start_GNN.to(X_GNN) @ (2 * inverse_GNN - I_NN)
        return W_GNN.flatten(0, 1).to(X.dtype)

    def right_inverse(self, W: Tensor) -> Tensor:
        """Start from the matrix nearest to W: its polar factor U V^T."""
        W_GNN = _blocks(W)
        u_GNN, _, vT_GNN = torch.linalg.svd(W_GNN.double())
        self.start_GNN = (self.gain * u_GNN @ vT_GNN).to(W_GNN)
        # Of X only the skew part counts. The rest is I, so that rules that compare a gradient with its weight (AGC)
        # find rows of norm 1, like those of W.
        return torch.eye(W.shape[1], dtype=W.dtype, device=W.device).repeat(len(W_GNN), 1)


class _Capped(nn.Module):
    """W = X min(1, cap / ||X||_2)."""

    def __init__(self, cap: float) -> None:
        super().__init__()
        self.cap = cap

    def forward(self, X: Tensor) -> Tensor:
        with torch.autocast(X.device.type, enabled=False):
            X_GNN = _blocks(X)
            W_GNN = X_GNN / (_spectral_norms(X_GNN) / self.cap).clamp(min=1)
        return W_GNN.flatten(0, 1).to(X.dtype)

    def right_inverse(self, W: Tensor) -> Tensor:
        """Start on the cap, not beyond it."""
        capped: Tensor = self(W)
        return capped


def _spectral_norms(X_GNN: Tensor) -> Tensor:
    """||X||_2 = ||X v|| of each block [G, 1, 1], v the leading eigenvector of X^T X, held fixed.

    v maximises ||X v||, so its own change does not count, and d||X||_2 / dX = u v^T, without the quotients of
    differences that derivatives of singular vectors have: where singular values tie it is one of the subgradients.
    """
    with torch.no_grad():
        scale_G11 = X_GNN.abs().amax((1, 2), keepdim=True).clamp(min=torch.finfo(X_GNN.dtype).tiny)
        # weights that are not finite shall come out so, and be met as such in the loss: eigh would raise
        unit_GNN = (X_GNN / scale_G11).nan_to_num(0.0, 0.0, 0.0)
        v_GN1 = torch.linalg.eigh(unit_GNN.mT @ unit_GNN)[1][..., -1:]
    norm_G11: Tensor = torch.linalg.vector_norm(X_GNN @ v_GN1, dim=(1, 2), keepdim=True)
    return norm_G11


def _blocks(W: Tensor) -> Tensor:
    """The blocks of all gates [G, N, N], in single precision at least."""
    return W.reshape(-1, W.shape[1], W.shape[1]).to(torch.promote_types(W.dtype, torch.float32))


def _constrainable(layer: nn.Module) -> list[str]:
    """The names of the recurrent weights; refuses what has none, or none that are free."""
    where, got = "constrain_recurrent_(layer)", type(layer).__name__
    if not isinstance(layer, _LAYERS):
        expected, fix = (
            "an RNN, GRU or LSTM of holdfast or torch.nn, or a cell",
            "pass the layer, not what is around it",
        )
        raise OptionError(Problem(where, expected, got, fix))
    if getattr(layer, "proj_size", 0):
        expected, got = "square recurrent blocks", f"{got} with proj_size={layer.proj_size}"
        raise OptionError(Problem(where, expected, got, "leave out proj_size"))
    weights = {name: W for name, W in layer.named_parameters(recurse=False) if name.startswith("weight_hh")}
    N = layer.hidden_size
    if parametrize.is_parametrized(layer) or any(W.shape[1:] != (N,) for W in weights.values()) or not weights:
        fix = "constrain a layer once, before any other parametrisation"
        raise OptionError(Problem(where, "free weights", f"{got}, parametrised already", fix))
    unfit = [name for name, W in weights.items() if not torch.isfinite(W).all()]
    if unfit:
        fix = "go back to weights that are finite"
        raise OptionError(Problem(f"{where}, {', '.join(unfit)}", "finite numbers", "nan or inf", fix))
    return list(weights)


def _list_once(layer: Any) -> None:
    """Let a layer of torch.nn list its weights for the kernel once per forward, and keep no computed one afterwards.

    Left to itself it computes a parametrised weight four times, and keeps one with its graph, which cannot be copied.
    """
    ours: Any = type(layer)  # a class of this layer alone, made by the parametrisation
    ours._update_flat_weights = _list_weights  # at the start of a forward
    ours._init_flat_weights = torch.no_grad()(_list_weights)  # after layer.to(...)
    layer.register_forward_hook(_list_parameters, always_call=True)


def _list_weights(layer: Any) -> None:
    layer._flat_weights = [getattr(layer, name) for name in layer._flat_weights_names]
    # By these a layer whose parametrisation is removed sees that its list is out of date.
    layer._flat_weight_refs = [weakref.ref(weight) for weight in layer._flat_weights]


def _list_parameters(layer: Any, *_: object) -> None:
    layer._flat_weights = [layer._parameters.get(name) for name in layer._flat_weights_names]
