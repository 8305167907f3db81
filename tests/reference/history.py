"""Bounds from the norms of past steps, each worked out anew from all of them, as the sources write it."""

from __future__ import annotations

import math
from collections.abc import Sequence
from decimal import Decimal, localcontext

import numpy as np
from tests.reference.clipping import DIGITS


def taken_in(norms: Sequence[float]) -> list[float]:
    """The norms that say something about the scale of gradients."""
    return [norm for norm in norms if math.isfinite(norm) and norm > 0]


def percentile_bounds(norms: Sequence[float], percentile: float, window: int, warmup: int) -> list[float]:
    """AutoClip: append the norm to the history, then numpy's percentile of the history."""
    bounds = []
    for t, norm in enumerate(norms):
        history = taken_in(norms[: t + 1])
        unbounded = norm not in taken_in([norm]) or len(history) <= warmup
        bounds.append(math.inf if unbounded else float(np.percentile(history[-window:], percentile)))
    return bounds


def median_bounds(norms: Sequence[float], factor: float, window: int, warmup: int) -> list[float]:
    """A multiple of numpy's median of the history before this step."""
    bounds = []
    for t, norm in enumerate(norms):
        history = taken_in(norms[:t])
        unbounded = norm not in taken_in([norm]) or len(history) < warmup
        bounds.append(math.inf if unbounded else factor * float(np.median(history[-window:])))
    return bounds


def zscore_bounds(norms: Sequence[float], z_thres: float, alpha: float, warmup: int, eps: float = 0.0) -> list[float]:
    """ZClip with mean and variance, in decimals; `eps` is what the authors' code adds to sigma.

    Up to the threshold the bound is the threshold; beyond it is the shortened norm.
    """
    first: list[Decimal] = []
    mu = variance = Decimal(0)
    a, limit = Decimal(alpha), Decimal(z_thres)
    bounds = []
    with localcontext() as context:
        context.prec, context.Emax, context.Emin = DIGITS, 10**9, -(10**9)
        for norm in norms:
            if not taken_in([norm]):
                bounds.append(math.inf)
                continue
            if len(first) < warmup:
                bounds.append(math.inf)
                first.append(Decimal(norm))
                if len(first) == warmup:
                    mu = sum(first, Decimal(0)) / warmup
                    variance = sum(((each - mu) ** 2 for each in first), Decimal(0)) / warmup
                continue
            sigma = variance.sqrt() + Decimal(eps)
            bound = mu + limit * sigma
            if Decimal(norm) > bound:
                z = (Decimal(norm) - mu) / sigma if sigma else Decimal("Infinity")
                bound = mu + (limit**2 / z) * variance.sqrt()
            bounds.append(float(bound))
            clipped = min(Decimal(norm), bound)
            mu = a * mu + (1 - a) * clipped
            variance = a * variance + (1 - a) * (clipped - mu) ** 2
    return bounds


def auto_bounds(norms: Sequence[float], percentile: float, steps: int) -> list[float]:
    """1 for the first norms, then their percentile; no bound for what is not taken in."""
    bounds = []
    for t, norm in enumerate(norms):
        before = taken_in(norms[:t])
        if norm not in taken_in([norm]):
            bounds.append(math.inf)
        else:
            bounds.append(float(np.percentile(before[:steps], percentile)) if len(before) >= steps else 1.0)
    return bounds
