"""Clipping by block as the papers write it: one tensor, or one row, after the other, in decimals of 60 digits."""

from __future__ import annotations

from decimal import Decimal, localcontext

from tests.reference.clipping import DIGITS, norm, values_of
from torch import Tensor


def block_rms(grad: Tensor, max_rms: float) -> list[float]:
    """U / max(1, RMS(U) / d), Adafactor's algorithm 4, for the values of one tensor."""
    values = values_of([grad])
    with localcontext() as context:
        context.prec = DIGITS
        rms = norm(values, 2.0) / Decimal(max(1, len(values))).sqrt()
        return [float(Decimal(value) / max(Decimal(1), rms / Decimal(max_rms))) for value in values]


def agc(weight: Tensor, grad: Tensor, ratio: float, eps: float) -> list[float]:
    """G_i <- lambda |W_i|* / |G_i| G_i where |G_i| / |W_i|* > lambda, with |W_i|* = max(|W_i|, eps), for each row i."""
    single = grad.dim() < 2
    clipped = []
    for w_i, g_i in [(weight, grad)] if single else zip(weight, grad, strict=True):
        g = values_of([g_i])
        with localcontext() as context:
            context.prec = DIGITS
            size = max(norm(values_of([w_i]), 2.0), Decimal(eps))
            length = norm(g, 2.0)
            if length / size > Decimal(ratio):
                clipped += [float(Decimal(ratio) * size / length * Decimal(value)) for value in g]
            else:
                clipped += g
    return clipped
