"""What a recurrent matrix can do to a gradient: eigenvalues, singular values, and what their sizes prove.

N hidden units, K powers. Numbers are computed on the CPU, in the precision of the weight (half precision in float32).
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from holdfast.errors import OptionError, Problem
from holdfast.flow.cells import GATES, as_layer
from holdfast.flow.products import Product
from holdfast.gradients.unrolled import Unrolled

GAINS = {"tanh": 1.0, "relu": 1.0, "linear": 1.0, "sigmoid": 0.25}
ACTIVATIONS = (*GAINS, "lstm.i", "lstm.f", "lstm.g", "lstm.o", "gru.r", "gru.z", "gru.n")


@dataclass(frozen=True)
class Threshold:
    """One statement about vanishing or exploding, with the number that decides it.

    Attributes:
        claim: What follows, and how surely: "sufficient for vanishing", "necessary for exploding", ...
        quantity: What is compared, in words.
        value: Its value here.
        limit: What it is compared with.
        holds: Whether the condition is met: value < limit for vanishing, value > limit for exploding.

    Example:
        >>> print(spectrum(torch.eye(2) / 2, "tanh").thresholds[0])
        sufficient for vanishing: spectral norm 0.5 < 1: yes
    """

    claim: str
    quantity: str
    value: float
    limit: float
    holds: bool

    def __str__(self) -> str:
        sign = "<" if "vanishing" in self.claim else ">"
        return f"{self.claim}: {self.quantity} {self.value:.4g} {sign} {self.limit:g}: {'yes' if self.holds else 'no'}"


@dataclass(frozen=True, eq=False)
class Spectrum:
    """Eigenvalues and singular values of one recurrent matrix W, and the thresholds of its activation.

    A pair of singular vectors W v = norm u says which units explode: a state (or, through W^T, an adjoint) goes in at
    the units of v (of u) and comes out, norm times as long, at the units of u (of v).

    Attributes:
        activation: What is applied to W h, one of `ACTIVATIONS`.
        eigenvalues: All N of them, complex128, largest modulus first.
        radius: Spectral radius, the largest |eigenvalue|.
        norm: Spectral norm, the largest singular value.
        departure: Henrici's departure from normality, sqrt(||W||_F^2 - sum |eigenvalue|^2); 0 where rounding hides it,
            below 1e-7 ||W||_F in float64, 3e-3 ||W||_F in float32.
        thresholds: What radius and norm say about vanishing and exploding, and how surely.
        receivers: Share of each unit in u, u_i^2 [N], sum 1; the mean over all leading pairs where several tie.
        senders: Share of each unit in v, likewise.

    Example:
        >>> W = torch.tensor([[0.0, 3.0], [0.0, 0.0]])  # unit 1 speaks to unit 0, and nobody to unit 1
        >>> found = spectrum(W, "linear")
        >>> found.radius, found.norm, found.departure
        (0.0, 3.0, 3.0)
        >>> found.senders.tolist(), found.receivers.tolist()
        ([0.0, 1.0], [1.0, 0.0])

    Reference: Henrici, Bounds for iterates, inverses, spectral variation and fields of values of non-normal matrices,
    Numerische Mathematik 4 (1962); Trefethen and Embree, Spectra and pseudospectra (2005), for what departure means.
    """

    activation: str
    eigenvalues: Tensor
    radius: float
    norm: float
    departure: float
    thresholds: tuple[Threshold, ...]
    receivers: Tensor
    senders: Tensor


@dataclass(frozen=True, eq=False)
class TransientGrowth:
    """How large the powers of a matrix become before their eigenvalues decide.

    Attributes:
        log_norms: log ||W^k||_2 for k = 0 to K [K + 1], natural, float64; -inf where W^k = 0.
        log_peak: The largest of them. At least 0, for ||W^0|| = 1.
        peak: The k where it is first reached. K says that the powers may still be growing.

    Example:
        >>> found = transient_growth(torch.tensor([[0.5, 4.0], [0.0, 0.5]]), 30)  # eigenvalues 1/2 and 1/2
        >>> found.peak, round(math.exp(found.log_peak), 2)
        (1, 4.06)
    """

    log_norms: Tensor
    log_peak: float
    peak: int


@torch.no_grad()
def spectrum(weight_NN: Tensor, activation: str) -> Spectrum:
    """Spectrum of a recurrent matrix, and what it says about h_t = phi(U x_t + W h_{t-1} + b), J_t = diag(phi'(a_t)) W.

    With |phi'| <= gamma (tanh, ReLU, linear: 1; sigmoid: 1/4) three statements of unequal strength:

    * norm < 1 / gamma is sufficient for vanishing: every J_t contracts, on any data.
    * norm > 1 / gamma is necessary for exploding: without it no product of Jacobians grows. It is not sufficient.
    * radius > 1 / gamma is a heuristic for exploding: exact for a linear unit over many steps, or a normal W at the
      largest slope. A W with eigenvalues 0 can explode for some steps, a saturated unit with a large W vanishes.

    A gate of an LSTM or GRU has no such bound of its own, since the other gates multiply it. At the origin (state,
    input and biases zero: every sigmoid 1/2, every tanh 0 with slope 1) the Jacobian is known in closed form:

    * GRU: dh_t / dh_{t-1} = z I + (1 - z) r W_n = I/2 + W_n / 4.
    * LSTM, state (h, c): [[W_g / 4, I / 4], [W_g / 2, I / 2]], with N eigenvalues 0 and those of f I + i o W_g =
      I/2 + W_g / 4; its spectral norm is sqrt(5) / 4 sqrt(1 + ||W_g||^2), above 1/2 even where W_g = 0.

    So for gru.n and lstm.g: ||W|| < 2 is sufficient and ||W|| > 2 necessary, and max |1/2 + eigenvalue / 4| > 1 is
    exact for the growth over many steps, all of them at the origin alone. The other gates do not enter there: they
    have no threshold. With forget bias b_f (and c = 0) the 1/2 of the LSTM becomes sigmoid(b_f).

    Args:
        weight_NN: W [N, N], the recurrent matrix of one gate.
        activation: "tanh", "relu", "sigmoid" or "linear", or a gate: "lstm.i", ".f", ".g", ".o", "gru.r", ".z", ".n".

    Returns:
        The spectrum.

    Raises:
        OptionError: Not a finite square matrix, or an unknown activation.

    Example:
        >>> for threshold in spectrum(torch.tensor([[0.0, 3.0], [0.0, 0.0]]), "tanh").thresholds:
        ...     print(threshold)
        sufficient for vanishing: spectral norm 3 < 1: no
        necessary for exploding: spectral norm 3 > 1: yes
        heuristic for exploding: spectral radius 0 > 1: no

    Reference: Pascanu, Mikolov and Bengio, On the difficulty of training recurrent neural networks, ICML 2013.
    """
    if activation not in ACTIVATIONS:
        expected = f"one of {', '.join(ACTIVATIONS)}"
        raise OptionError(Problem("activation", expected, repr(activation), "give one of these, say tanh"))
    W_NN, scale = _scaled(weight_NN)
    eigenvalues_N = torch.linalg.eigvals(W_NN).to(torch.complex128)
    eigenvalues_N = eigenvalues_N[eigenvalues_N.abs().argsort(descending=True, stable=True)]
    u_NN, sizes_N, v_NN = torch.linalg.svd(W_NN)
    eps = torch.finfo(W_NN.dtype).eps
    tied = sizes_N >= sizes_N[0] * (1 - math.sqrt(eps))
    square = W_NN.double().square().sum()
    departure = square - eigenvalues_N.abs().square().sum()
    rounding = 64 * eps * square  # seen: at most 16 times eps, for normal matrices of 2 to 256 units
    eigenvalues_N = eigenvalues_N * scale
    radius, norm = eigenvalues_N[0].abs().item(), sizes_N[0].item() * scale
    return Spectrum(
        activation,
        eigenvalues_N,
        radius,
        norm,
        math.sqrt(departure) * scale if departure > rounding else 0.0,
        _thresholds(activation, radius, norm, eigenvalues_N),
        u_NN[:, tied].double().square().mean(1),
        v_NN[tied].double().square().mean(0),
    )


def spectra(layer: Any) -> dict[tuple[str, str], Spectrum]:
    """Spectrum of each recurrent matrix of a layer: per layer of a stack, direction and gate.

    Args:
        layer: An RNN, GRU or LSTM of torch.nn or holdfast.networks, in one direction or two, or a cell of torch.nn.

    Returns:
        By place ("l0", "l0_reverse", "l1", ...) and gate (RNN "h"; GRU "r", "z", "n"; LSTM "i", "f", "g", "o").

    Raises:
        OptionError: Another module, projections, or weights that are not finite.

    Example:
        >>> found = spectra(torch.nn.GRU(2, 3, bidirectional=True))
        >>> list(found)[:4]
        [('l0', 'r'), ('l0', 'z'), ('l0', 'n'), ('l0_reverse', 'r')]
        >>> found["l0", "n"].activation
        'gru.n'
    """
    layer = as_layer(layer)
    found = {}
    for place in Unrolled.of(layer).places:
        W_GN = getattr(layer, f"weight_hh_{place}")
        gates = GATES[W_GN.shape[0] // W_GN.shape[1]]
        for gate, W_NN in zip(gates, W_GN.chunk(len(gates)), strict=True):
            kind = {3: "gru", 4: "lstm"}.get(len(gates))
            found[place, gate] = spectrum(W_NN, f"{kind}.{gate}" if kind else layer.nonlinearity)
    return found


@torch.no_grad()
def transient_growth(weight_NN: Tensor, steps: int = 64) -> TransientGrowth:
    """Natural log of ||W^k|| for k = 0 to steps: what a non-normal W amplifies before its eigenvalues tell.

    For a normal W, ||W^k|| = radius^k. Otherwise radius^k <= ||W^k|| <= norm^k, and powers can grow far above 1
    although the radius is below 1: then adjoints explode over few steps and vanish over many.

    Args:
        weight_NN: W [N, N]; times gamma, the largest slope, for an activation of smaller slope.
        steps: The largest power K, at least 1. Time grows as K N^3.

    Returns:
        The norms as logs, and their peak.

    Raises:
        OptionError: Not a finite square matrix, or steps below 1.

    Example:
        >>> transient_growth(torch.tensor([[0.0, 3.0], [0.0, 0.0]]), 3).log_norms.exp()
        tensor([1.0000, 3.0000, 0.0000, 0.0000], dtype=torch.float64)

    Reference: Trefethen and Embree, Spectra and pseudospectra (2005), section 14.
    """
    if steps < 1:
        raise OptionError(Problem("steps", "at least 1", str(steps), "give steps=64"))
    W_NN, scale = _scaled(weight_NN)
    N, W_1NN = len(W_NN), W_NN.double()[None]
    product = Product.identity(1, N, N, W_NN.device)
    log_norms = [product.log_norm(N)]
    for _ in range(steps):
        product = product.after(W_1NN)
        log_norms.append(product.log_norm(N))
    log_norm_K = torch.cat(log_norms) + torch.arange(steps + 1, dtype=torch.float64, device="cpu") * math.log(scale)
    peak = int(log_norm_K.argmax())
    return TransientGrowth(log_norm_K, log_norm_K[peak].item(), peak)


def _scaled(weight_NN: Tensor) -> tuple[Tensor, float]:
    """W on the CPU with a largest entry of 1, so that no square overflows, and that entry; zero stays zero."""
    fix = "give the recurrent matrix of one gate"
    if weight_NN.dim() != 2 or weight_NN.shape[0] != weight_NN.shape[1] or not len(weight_NN):
        raise OptionError(Problem("weight_NN", "a square matrix [N, N]", str(list(weight_NN.shape)), fix))
    W_NN = weight_NN.detach().cpu()
    W_NN = W_NN.double() if W_NN.dtype == torch.float64 else W_NN.float()
    if not torch.isfinite(W_NN).all():
        raise OptionError(Problem("weight_NN", "finite numbers", "nan or inf", "go back to weights that are finite"))
    scale = W_NN.abs().max().item() or 1.0
    return W_NN / scale, scale


def _thresholds(activation: str, radius: float, norm: float, eigenvalues_N: Tensor) -> tuple[Threshold, ...]:
    where = ""
    if activation in GAINS:
        limit = 1 / GAINS[activation]
        last = ("heuristic for exploding", "spectral radius", radius, limit)
    elif activation in ("gru.n", "lstm.g"):
        where, limit = " at the origin", 2.0
        growth = (0.5 + eigenvalues_N / 4).abs().max().item()
        last = (f"exact for exploding over many steps{where}", "largest |1/2 + eigenvalue / 4|", growth, 1.0)
    else:
        return ()
    vanishing = Threshold(f"sufficient for vanishing{where}", "spectral norm", norm, limit, norm < limit)
    exploding = Threshold(f"necessary for exploding{where}", "spectral norm", norm, limit, norm > limit)
    return vanishing, exploding, Threshold(*last, last[2] > last[3])
