"""Exponential smoothing as the formulas read: one series, one parameter set, one step after the other."""

from __future__ import annotations

import math
from collections.abc import Sequence


def slow_states(
    y: Sequence[float],
    level: float,
    trend: float,
    season: Sequence[float],
    alpha: float,
    beta: float,
    gamma: float,
    phi: float,
) -> list[tuple[float, float, list[float]]]:
    """Level, trend and season before each value and after the last; beta is a share of alpha, gamma of 1 - alpha."""
    phases = list(season)
    found = [(level, trend, list(phases))]
    for t, value in enumerate(y):
        s = phases[t % len(phases)]
        error = 0.0 if math.isnan(value) else value - (level + phi * trend + s)
        level, trend = level + phi * trend + alpha * error, phi * trend + alpha * beta * error
        phases[t % len(phases)] = s + gamma * (1 - alpha) * error
        found.append((level, trend, list(phases)))
    return found
