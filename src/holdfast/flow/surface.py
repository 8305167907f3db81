"""The error surface of one recurrent unit: flat land, and the wall from which one step of descent throws far away.

W weights, B biases, of a grid.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from holdfast.errors import OptionError, Problem
from holdfast.flow.cells import SLOPES


@dataclass(frozen=True, eq=False)
class ErrorSurface:
    """Error of one unit and its gradient over a grid of weights and biases, all in float64.

    Attributes:
        w_W: Weights [W].
        b_B: Biases [B].
        error_WB: E at each of them [W, B].
        gradient_WB2: (dE/dw, dE/db) [W, B, 2].

    Example:
        >>> found = error_surface(torch.arange(468, 471).double() / 100, torch.arange(-243, -240).double() / 100)
        >>> round(found.largest_norm, 1), [round(value, 2) for value in found.steepest]
        (440.0, [4.69, -2.42])
    """

    w_W: Tensor
    b_B: Tensor
    error_WB: Tensor
    gradient_WB2: Tensor

    @property
    def gradient_norm_WB(self) -> Tensor:
        """sqrt((dE/dw)^2 + (dE/db)^2) [W, B]."""
        norm_WB: Tensor = torch.linalg.vector_norm(self.gradient_WB2, dim=2)
        return norm_WB

    @property
    def largest_norm(self) -> float:
        """The largest gradient norm of the grid."""
        return self.gradient_norm_WB.max().item()

    @property
    def steepest(self) -> tuple[float, float]:
        """The w and b where the gradient norm is largest."""
        i, j = divmod(int(self.gradient_norm_WB.argmax()), len(self.b_B))
        return self.w_W[i].item(), self.b_B[j].item()


@torch.no_grad()
def error_surface(
    w_W: Tensor | None = None, b_B: Tensor | None = None, *, steps: int = 50, x0: float = 0.5, target: float = 0.7
) -> ErrorSurface:
    """Error and gradient of one sigmoid unit that is to reach a target after some steps without input.

    x_t = w sigmoid(x_{t-1}) + b from x_0 on, E = (sigmoid(x_T) - target)^2. The gradient is carried along:
    dx_t/dw = sigmoid(x_{t-1}) + w sigmoid'(x_{t-1}) dx_{t-1}/dw, dx_t/db = 1 + w sigmoid'(x_{t-1}) dx_{t-1}/db.

    By default this is figure 6 of the reference: T = 50, x_0 = 0.5, target 0.7, on w from 4 to 7 and b from -4 to -1 in
    steps of 0.01. The state is x, before the sigmoid: in terms of h_t = sigmoid(x_t) the unit starts at
    h_0 = sigmoid(0.5) = 0.622, not at 0.5. (From h_0 = 0.5 it would sit, all along b = -w / 2, on a fixed point that
    repels with w / 4 per step, and the wall would be a needle of height 1e11.)

    Args:
        w_W: Weights of the grid [W].
        b_B: Biases of the grid [B].
        steps: T, at least 1.
        x0: The state before the first step.
        target: What sigmoid(x_T) should be.

    Returns:
        The surface.

    Raises:
        OptionError: A grid that is no row of finite numbers, or steps below 1.

    Example:
        >>> found = error_surface()
        >>> f"{found.largest_norm:.3f} at w = {found.steepest[0]:.2f}, b = {found.steepest[1]:.2f}"
        '439.964 at w = 4.69, b = -2.42'

    Reference: Pascanu, Mikolov and Bengio, On the difficulty of training recurrent neural networks, ICML 2013,
    figure 6.
    """
    w_W = torch.arange(400, 701, dtype=torch.float64, device="cpu") / 100 if w_W is None else w_W.detach().double()
    b_B = torch.arange(-400, -99, dtype=torch.float64, device="cpu") / 100 if b_B is None else b_B.detach().double()
    _check(w_W, b_B, steps)
    w, b = w_W[:, None], b_B[None]
    x = torch.full((len(w_W), len(b_B)), x0, dtype=torch.float64, device=w_W.device)
    dw, db = torch.zeros_like(x), torch.zeros_like(x)
    sigmoid = SLOPES["sigmoid"]
    for _ in range(steps):
        h, slope = sigmoid(x)
        dw, db = h + w * slope * dw, 1 + w * slope * db
        x = w * h + b
    h, slope = sigmoid(x)
    push = 2 * (h - target) * slope
    return ErrorSurface(w_W, b_B, (h - target) ** 2, torch.stack([push * dw, push * db], 2))


def _check(w_W: Tensor, b_B: Tensor, steps: int) -> None:
    problems = []
    for name, grid in (("w_W", w_W), ("b_B", b_B)):
        if grid.dim() != 1 or not len(grid) or not torch.isfinite(grid).all():
            got = f"shape {list(grid.shape)}" if grid.dim() != 1 or not len(grid) else "nan or inf"
            problems.append(Problem(name, "a row of finite numbers", got, f"give {name}=torch.linspace(4, 7, 301)"))
    if steps < 1:
        problems.append(Problem("steps", "at least 1", str(steps), "give steps=50"))
    if problems:
        raise OptionError(problems)
