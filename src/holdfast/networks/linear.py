"""A linear forecast from the context, by ridge regression.

Shapes: N windows, T context steps, F horizon steps, L strengths.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor


def ridge(square_TT: Tensor, cross_TF: Tensor, strengths: Sequence[float]) -> Tensor:
    """The matrix of each strength: W = argmin sum |y - W' x|^2 + strength tr(X'X) / T |W|^2.

    One eigendecomposition X'X = V diag(s) V' serves all: W = V diag(1 / (s + added)) V' X'Y. A direction without any
    data gets no weight.

    Args:
        square_TT: X'X, the sum of x x' over all windows.
        cross_TF: X'Y, the sum of x y'.
        strengths: Above 0, in units of the mean square of an input.

    Returns:
        w_LTF.

    Example:
        >>> x_NT, y_NF = torch.tensor([[1.0], [2.0]]), torch.tensor([[3.0], [6.0]])
        >>> ridge(x_NT.T @ x_NT, x_NT.T @ y_NF, (1e-6, 1.0, 2.0)).flatten().tolist()
        [2.99999..., 1.5, 1.0]

    Reference: Hoerl and Kennard, Ridge regression, Technometrics 12 (1970).
    """
    value_T, vector_TT = torch.linalg.eigh(square_TT)
    added_L1 = value_T.new_tensor(strengths)[:, None] * value_T.mean()
    shrunk_LT = torch.where(added_L1 > 0, 1 / (value_T.clamp(min=0) + added_L1), 0.0)
    w_LTF: Tensor = vector_TT @ (shrunk_LT[..., None] * (vector_TT.T @ cross_TF))
    return w_LTF
