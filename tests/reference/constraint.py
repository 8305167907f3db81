"""Constrained recurrent matrices as the papers write them: one block at a time, in float64, slow on purpose."""

from __future__ import annotations

import math

import torch
from torch import Tensor


def nearest_orthogonal(W_NN: Tensor) -> Tensor:
    """The orthogonal polar factor of an invertible W, by Newton's iteration (Higham, SISSC 7, 1986): no SVD."""
    Q_NN = W_NN.double()
    for _ in range(60):
        Q_NN = (Q_NN + torch.linalg.inv(Q_NN).T) / 2
    return Q_NN


def cayley(start_NN: Tensor, X_NN: Tensor) -> Tensor:
    """S (I - A / 2)^-1 (I + A / 2), A the skew part of X, column by column."""
    I_NN = torch.eye(len(X_NN), dtype=torch.float64)
    A_NN = (X_NN.double() - X_NN.double().T) / 2
    columns = [torch.linalg.solve(I_NN - A_NN / 2, column) for column in (I_NN + A_NN / 2).unbind(1)]
    return start_NN.double() @ torch.stack(columns, 1)


def capped(X_NN: Tensor, cap: float) -> Tensor:
    """X min(1, cap / ||X||_2)."""
    norm = spectral_norm(X_NN)
    return X_NN.double() * (1.0 if norm <= cap else cap / norm)


def spectral_norm(X_NN: Tensor) -> float:
    """||X||_2 by repeated squaring of X^T X: the trace of its power 2^k, to the power -2^k."""
    scale = X_NN.double().abs().max().item() or 1.0
    G_NN, log_norm, share = (X_NN.double() / scale).T @ (X_NN.double() / scale), 0.0, 0.5
    for _ in range(60):
        size = G_NN.norm().item()
        if size == 0.0:
            return 0.0
        log_norm, G_NN, share = log_norm + share * math.log(size), G_NN / size, share / 2
        G_NN = G_NN @ G_NN
    return scale * math.exp(log_norm)
