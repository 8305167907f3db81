"""Baselines, cutoffs and scores, one value at a time. Values are floats, None where missing."""

from __future__ import annotations

import math


def seasonal_naive(values, season, horizon):
    """The newest observed value at the same phase; else the last observed value, else None."""
    T = len(values)
    seen = [value for value in values if value is not None]
    result = []
    for k in range(1, horizon + 1):
        t = T - 1 + k - season * math.ceil(k / season)
        while t >= 0 and values[t] is None:
            t -= season
        result.append(values[t] if t >= 0 else seen[-1] if seen else None)
    return result


def cutoffs(length, horizon, n_windows):
    """Rows that each window's forecast may see, oldest first: windows end to end, the last one at the end."""
    return [length - horizon * (n_windows - window) for window in range(n_windows)]


def mean(values):
    return sum(values) / len(values)


def mase(history, y, forecast, season):
    """Mean absolute error over the in-sample mean absolute error of seasonal naive."""
    steps = [
        abs(history[t] - history[t - season])
        for t in range(season, len(history))
        if history[t] is not None and history[t - season] is not None
    ]
    return mean([abs(a - f) for a, f in zip(y, forecast, strict=True) if a is not None]) / mean(steps)


def smape(y, forecast):
    """In percent, 0 to 200, as in the M4 competition."""
    pairs = [(a, f) for a, f in zip(y, forecast, strict=True) if a is not None]
    return mean([200 * abs(a - f) / (abs(a) + abs(f)) for a, f in pairs])


def rmse(y, forecast):
    return math.sqrt(mean([(a - f) ** 2 for a, f in zip(y, forecast, strict=True) if a is not None]))


def coverage(y, lower, upper):
    inside = [lo <= a <= hi for a, lo, hi in zip(y, lower, upper, strict=True) if a is not None]
    return mean([float(flag) for flag in inside])


def weighted_quantile_loss(cases):
    """Twice the quantile loss over the sum of |y|, both over all points, averaged over the quantiles.

    `cases` holds the values and, by probability, the forecasts of each series and cutoff.
    """
    losses, total = {}, 0.0
    for y, quantiles in cases:
        total += sum(abs(a) for a in y if a is not None)
        for probability, forecast in quantiles.items():
            for a, f in zip(y, forecast, strict=True):
                if a is not None:
                    loss = 2 * (probability * (a - f) if a >= f else (1 - probability) * (f - a))
                    losses[probability] = losses.get(probability, 0.0) + loss
    return mean([loss / total for loss in losses.values()])


def scaled_crps(y, quantiles):
    """Twice the quantile loss, averaged over the quantiles and summed over the steps, over the sum of |y|.

    `quantiles` maps a probability to the forecasts at it.
    """
    loss = 0.0
    for probability, forecast in quantiles.items():
        for a, f in zip(y, forecast, strict=True):
            if a is not None:
                loss += 2 * max(probability * (a - f), (probability - 1) * (a - f)) / len(quantiles)
    return loss / sum(abs(a) for a in y if a is not None)
