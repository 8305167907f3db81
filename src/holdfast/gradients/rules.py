"""Clip rules: how long a gradient, or how large one of its values, may be."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from numbers import Real

import torch
from torch import Tensor

from holdfast.errors import OptionError, Problem

SMALLEST_COEF = 2.0**-120  # below, float32 has too few digits for a coefficient


@dataclass(frozen=True)
class ClipNorm:
    """Shorten gradients to a norm of at most `max_norm`, in their own direction.

    g <- g * min(1, max_norm / ||g||_p), with all gradients that the rule is over taken as one vector g.

    Attributes:
        max_norm: The bound, in units of the gradient; finite and above 0.
        norm_type: p of the norm, above 0 or `inf`.
        per_tensor: Whether each tensor is a vector g by itself.

    Raises:
        OptionError: `max_norm` or `norm_type` is not such a number.

    Example:
        >>> ClipNorm(2)
        ClipNorm(max_norm=2.0, norm_type=2.0, per_tensor=False)
        >>> clip_coef(ClipNorm(1.0).bound(None, 4.0), 4.0)
        0.25

    Reference:
        Pascanu, Mikolov, Bengio, "On the difficulty of training recurrent neural networks", ICML 2013.
    """

    max_norm: float
    norm_type: float = 2.0
    per_tensor: bool = False

    def __post_init__(self) -> None:
        object.__setattr__(self, "max_norm", threshold("ClipNorm(max_norm=...)", self.max_norm))
        object.__setattr__(self, "norm_type", norm_type("ClipNorm(norm_type=...)", self.norm_type))

    def __str__(self) -> str:
        kind = "tensor" if self.per_tensor else "norm"
        return f"{kind}:{self.max_norm:g}" + ("" if self.norm_type == 2.0 else f":{self.norm_type:g}")

    def start(self) -> None:
        """This rule remembers nothing."""

    def bound(self, memory: None, norm: float) -> float:
        """The largest norm of a step: `max_norm`, whatever came before.

        Args:
            memory: What `start` gave.
            norm: The norm of this step's gradients.

        Returns:
            `max_norm`.
        """
        return self.max_norm


def clip_coef(bound: float, norm: float) -> float:
    """The factor min(1, bound / norm) for gradients of this norm.

    Args:
        bound: The largest norm allowed, above 0.
        norm: A finite norm of the gradients.

    Returns:
        1.0 exactly up to and at the bound, else below 1.

    Example:
        >>> clip_coef(2.0, 2.0), clip_coef(2.0, 8.0)
        (1.0, 0.25)
    """
    # No 1e-6 in the denominator: the quotient is only taken where norm > bound > 0, and a constant there would scale
    # gradients that lie within the bound and distort any bound that is itself small.
    return 1.0 if norm <= bound else bound / norm


@dataclass(frozen=True)
class ClipValue:
    """Bound every single value of the gradients to [-max_value, max_value]; the direction may change.

    g_i <- min(max(g_i, -max_value), max_value)

    Attributes:
        max_value: The bound, in units of the gradient; finite and above 0.

    Raises:
        OptionError: `max_value` is not such a number.

    Example:
        >>> import torch
        >>> gradient = torch.tensor([3.0, -0.1])
        >>> ClipValue(0.5).clip_([], [gradient])
        >>> gradient
        tensor([ 0.5000, -0.1000])

    Reference:
        Mikolov, "Statistical language models based on neural networks", PhD thesis, Brno 2012.
    """

    max_value: float

    def __post_init__(self) -> None:
        object.__setattr__(self, "max_value", threshold("ClipValue(max_value=...)", self.max_value))

    def __str__(self) -> str:
        return f"value:{self.max_value:g}"

    def clip_(self, parameters: Sequence[Tensor], grads: Sequence[Tensor]) -> None:
        """Bound the values of these gradients in place; a value within the bound keeps its bits.

        Args:
            parameters: The parameters that the gradients belong to; this rule does not look at them.
            grads: Gradients of any shape.

        Example:
            >>> import torch
            >>> gradient = torch.tensor([-3.0])
            >>> ClipValue(2).clip_([], [gradient])
            >>> gradient.item()
            -2.0
        """
        for grad in grads:
            bound = min(self.max_value, torch.finfo(grad.dtype).max)  # float16 cannot hold every bound
            grad.clamp_(-bound, bound)


@torch.no_grad()
def scale_(grads: Sequence[Tensor], coef: float) -> None:
    """Multiply gradients by a coefficient of 0 to 1 in place, whatever their range.

    Args:
        grads: Gradients of any shape, each listed once.
        coef: The factor.

    Example:
        >>> import torch
        >>> gradient = torch.tensor([1e38])
        >>> scale_([gradient], 1e-44)
        >>> f"{gradient.item():.6g}"
        '1e-06'
    """
    # Kernels of float32 and below round the factor to float32, where a coefficient this small is denormal and has
    # lost most of its digits. Two factors keep them, and underflow only what the product itself underflows.
    factors = (coef,) if coef > SMALLEST_COEF else (math.sqrt(coef), math.sqrt(coef))
    wide = [grad for grad in grads if grad.dtype in (torch.float32, torch.float64)]
    half = [grad for grad in grads if grad.dtype not in (torch.float32, torch.float64)]
    for factor in factors:
        if wide:
            torch._foreach_mul_(wide, factor)
        if half:  # a number would be rounded to the half precision first, a tensor is not
            torch._foreach_mul_(half, torch.tensor(factor, dtype=torch.float32, device=half[0].device))


def threshold(where: str, value: object, expected: str = "a finite number above 0") -> float:
    """A number above 0 as a plain float; anything else is refused.

    Args:
        where: What the number was given as.
        value: What the user gave.
        expected: What it has to be, in words.

    Returns:
        The number.

    Raises:
        OptionError: It is no such number.
    """
    try:  # a numpy scalar or a whole number becomes a plain float, so that records and JSON look alike
        number = float(value) if not isinstance(value, bool) and isinstance(value, Real) else math.nan
    except OverflowError:
        number = math.inf
    if not 0 < number < math.inf:
        raise OptionError(Problem(where, expected, repr(value), "give for instance 1.0, or no rule to measure only"))
    return number


def norm_type(where: str, value: object) -> float:
    """The p of a norm, above 0 or inf, as a plain float; anything else is refused.

    Args:
        where: What the number was given as.
        value: What the user gave.

    Returns:
        The number.

    Raises:
        OptionError: It is no such number.
    """
    return math.inf if value == math.inf else threshold(where, value, "a number above 0, or inf")
