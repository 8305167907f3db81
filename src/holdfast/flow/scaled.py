"""Vectors with an exponent of their own, so that products over many steps neither overflow nor underflow.

N values of a vector; all other dimensions are those of the exponents.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor


@dataclass(frozen=True)
class Scaled:
    """Vectors v = mantissa * 2^exponent, the largest |mantissa| of each in [1, 2); a zero vector has exponent -inf.

    Attributes:
        mantissa: [..., N].
        exponent: [...], whole numbers in float64.

    Example:
        >>> one = Scaled.of(torch.tensor([[3.0, 4.0]]), torch.tensor([4000.0], dtype=torch.float64))
        >>> one.log_norm() - math.log(5.0) - 4000 * math.log(2)
        tensor([0.], dtype=torch.float64)
    """

    mantissa: Tensor
    exponent: Tensor

    @classmethod
    def of(cls, vectors: Tensor, exponent: Tensor | float = 0.0) -> Scaled:
        """Bring vectors * 2^exponent to mantissas between 1 and 2; what is not finite stays as it is."""
        largest = vectors.abs().amax(-1).double()
        # Only as far as 2^-shift is a normal number; a denormal vector gets there at its next step.
        bound = float(math.frexp(torch.finfo(vectors.dtype).max)[1] - 4)
        shift = torch.floor(torch.log2(largest)).nan_to_num(0.0, 0.0, 0.0).clamp(-bound, bound)
        mantissa = vectors * torch.exp2(-shift).to(vectors.dtype).unsqueeze(-1)
        return cls(mantissa, torch.where(largest == 0, -math.inf, shift + exponent))

    def __getitem__(self, at: int) -> Scaled:
        return Scaled(self.mantissa[at], self.exponent[at])

    def at(self, exponent: Tensor) -> Tensor:
        """The vectors in units of 2^exponent; where that is infinite for a zero vector, zero."""
        factor = torch.exp2((self.exponent - exponent).nan_to_num(0.0, neginf=-math.inf))
        return self.mantissa * factor.to(self.mantissa.dtype).unsqueeze(-1)

    def __add__(self, other: Scaled) -> Scaled:
        exponent = torch.maximum(self.exponent, other.exponent)
        return Scaled.of(self.at(exponent) + other.at(exponent), exponent)

    def log_norm(self) -> Tensor:
        """Natural logarithm of the Euclidean norm of each vector."""
        norm: Tensor = torch.linalg.vector_norm(self.mantissa, dim=-1, dtype=torch.float64)
        return torch.log(norm) + self.exponent * math.log(2)

    def direction(self) -> Tensor:
        """Each vector over its norm; a zero vector stays zero."""
        norm = torch.linalg.vector_norm(self.mantissa, dim=-1, keepdim=True)
        return self.mantissa / torch.where(norm == 0, 1.0, norm)
