"""What eigenvalues, singular values and exponents say of a recurrent layer, beside what its adjoints really do.

B windows, T steps, D features, N hidden units.
"""

from __future__ import annotations

import math
from typing import Any

import torch
from torch import Tensor

from holdfast.errors import OptionError, Problem
from holdfast.flow import GAINS, adjoints, error_surface, growth, lyapunov_exponents, spectrum
from holdfast.networks import RNN, init_recurrent_
from holdfast.studies.grid import Trial

WINDOWS, INPUTS = 16, 4
MATRICES = ("normal", "orthogonal", "chain")


def measure_trial(trial: Trial) -> dict[str, Any]:
    """Measure an untrained RNN: no training, a random readout of the newest state as the loss.

    Args:
        trial: `cell` is one of the RNNs; `init` the kind of its matrix before it is scaled to spectral norm 1: normal
            (independent entries), orthogonal, or chain (each unit passes on to the next, 1/4 of itself to itself: far
            from normal); `scale` is what it is multiplied by; `lr` the size of the inputs.

    Returns:
        radius and norm of the matrix, both times the steepest slope of the activation (scaled_radius, scaled_norm),
        rate: growth of the adjoint per step back, peak_log_factor: natural log of its largest factor over lag 0,
        exponent: largest Lyapunov exponent.

    Example:
        >>> trial = Trial(study="spectrum", task="spectrum", cell="rnn-linear", init="orthogonal", scale=0.5, length=20)
        >>> row = measure_trial(trial)
        >>> round(row["rate"], 5), round(row["scaled_radius"], 5), round(math.exp(row["exponent"]), 5)
        (0.5, 0.5, 0.5)
    """
    phi = trial.cell.removeprefix("rnn-")
    if phi not in GAINS or trial.init not in MATRICES:
        expected = f"an RNN, with a matrix among {', '.join(MATRICES)}"
        raise OptionError(Problem("spectrum trial", expected, f"{trial.cell}, {trial.init}", "give rnn-tanh, normal"))
    generator = torch.Generator().manual_seed(trial.seed)
    layer: Any = init_recurrent_(RNN(INPUTS, trial.hidden_size, nonlinearity=phi), generator).double()
    layer.weight_hh_l0.data = trial.scale * _matrix(trial.init, trial.hidden_size, generator)
    x_BTD = trial.lr * torch.randn(WINDOWS, trial.length, INPUTS, generator=generator, dtype=torch.float64)
    readout_BN = torch.randn(WINDOWS, trial.hidden_size, generator=generator, dtype=torch.float64)
    found = spectrum(layer.weight_hh_l0.detach(), phi)
    row = {"radius": found.radius, "norm": found.norm, "departure": found.departure}
    row |= {"scaled_radius": found.radius * GAINS[phi], "scaled_norm": found.norm * GAINS[phi]}
    if not torch.isfinite(layer(x_BTD)[0]).all():
        return {**row, "rate": math.inf, "peak_log_factor": math.inf, "exponent": math.inf}
    adjoint = adjoints(layer, lambda: (layer(x_BTD)[0][:, -1] * readout_BN).sum())["l0"]
    grown = growth(adjoint.log_norm_BT)
    mean = [value - grown.per_lag.mean[0] for value in grown.per_lag.mean]
    exponent = lyapunov_exponents(layer, x_BTD[:4], k=1).values.item()
    return {**row, "rate": grown.rate, "peak_log_factor": max(mean), "exponent": exponent}


def measure_surface(trial: Trial) -> dict[str, Any]:
    """The error surface of one sigmoid unit over 50 steps, on w from 4 to 7 and b from -4 to -1 by .01.

    Args:
        trial: Nothing of it is used.

    Returns:
        peak_norm, the largest norm of the gradient, at peak_w and peak_b.

    Example:
        >>> row = measure_surface(Trial(study="s", task="surface"))
        >>> round(row["peak_norm"], 3), round(row["peak_w"], 2), round(row["peak_b"], 2)
        (439.964, 4.69, -2.42)

    Reference:
        Pascanu, Mikolov and Bengio, ICML 2013, figure 6.
    """
    found = error_surface()
    w, b = found.steepest
    return {"peak_norm": found.largest_norm, "peak_w": w, "peak_b": b}


def _matrix(kind: str, N: int, generator: torch.Generator) -> Tensor:
    """A matrix of spectral norm 1."""
    if kind == "chain":
        W_NN = torch.eye(N, dtype=torch.float64) / 4 + torch.diag(torch.ones(N - 1, dtype=torch.float64), 1)
    else:
        W_NN = torch.randn(N, N, generator=generator, dtype=torch.float64)
        W_NN = torch.linalg.qr(W_NN)[0] if kind == "orthogonal" else W_NN
    scaled: Tensor = W_NN / torch.linalg.matrix_norm(W_NN, 2)
    return scaled
