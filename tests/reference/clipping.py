"""Clipping as the definitions say it: one number at a time, in decimals of 60 digits that cannot overflow."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from decimal import Decimal, localcontext

from torch import Tensor

DIGITS = 60


def values_of(tensors: Iterable[Tensor]) -> list[float]:
    """All values of some tensors, one after the other."""
    return [value for tensor in tensors for value in tensor.detach().double().flatten().tolist()]


def norm(values: Sequence[float], p: float) -> Decimal:
    """(sum |v|^p)^(1/p)."""
    with localcontext() as context:
        context.prec, context.Emax, context.Emin = DIGITS, 10**9, -(10**9)
        sizes = [abs(Decimal(value)) for value in values]
        if p == math.inf:
            return max(sizes, default=Decimal(0))
        total = sum((size ** Decimal(p) for size in sizes if size), Decimal(0))
        return total ** (1 / Decimal(p)) if total else Decimal(0)


def clip_norm(values: Sequence[float], max_norm: float, p: float) -> list[float]:
    """Shorten one vector to the bound."""
    length = norm(values, p)
    if length <= Decimal(max_norm):
        return list(values)
    return [float(Decimal(value) * Decimal(max_norm) / length) for value in values]


def clip_value(values: Sequence[float], max_value: float) -> list[float]:
    """Bound each number."""
    return [max_value if value > max_value else -max_value if value < -max_value else value for value in values]


def cosine(before: Sequence[float], after: Sequence[float]) -> float:
    """<a, b> / (|a| |b|)."""
    dot = sum((Decimal(a) * Decimal(b) for a, b in zip(before, after, strict=True)), Decimal(0))
    return float(dot / (norm(before, 2.0) * norm(after, 2.0)))


def quantile(values: Sequence[float], q: float) -> float:
    """The smallest value that a share q of them does not exceed."""
    return sorted(values)[max(1, math.ceil(q * len(values))) - 1]
