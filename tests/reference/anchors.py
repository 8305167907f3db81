"""Outages, window normalisation and naive forecasts, one value at a time. Values are floats, None where missing."""

from __future__ import annotations

import math


def observed(values):
    return [value for value in values if value is not None]


def mean(values):
    return sum(values) / len(values)


def level_and_spread(values, recent):
    """Mean of the recent values, and the mean distance from it of all; the level itself where nothing varies."""
    seen = observed(values)
    loc = mean(observed(values[-recent:]) or seen or [0.0])
    spread = mean([abs(value - loc) for value in seen] or [0.0])
    constant = spread <= 1e-15 * abs(loc)
    return loc, (abs(loc) or 1.0) if constant else spread


def until_newest(values):
    """The values up to the newest observed one."""
    seen = [t for t, value in enumerate(values) if value is not None]
    return values[: seen[-1] + 1] if seen else values


def bridged(values, seasons=()):
    """The rows after the newest observed one repeat the longest season before it that was observed at this phase."""
    newest = len(until_newest(values)) - 1
    filled = list(values)
    for t in range(newest + 1, len(values)) if observed(values) else ():
        sources = [t - m * math.ceil((t - newest) / m) for m in sorted({1, *seasons}, reverse=True)]
        filled[t] = next(values[s] for s in sources if s >= 0 and values[s] is not None)
    return filled


def naive_error(values, season):
    """Mean |y_t - y_{t-m}|; 1 without a pair."""
    pairs = [
        abs(values[t] - values[t - season])
        for t in range(season, len(values))
        if values[t] is not None and values[t - season] is not None
    ]
    return mean(pairs or [1.0])


def seasonal_change(values, season):
    """Mean rise since one season ago, over the newest seventh of a season."""
    newest = range(len(values) - max(season // 7, 1), len(values))
    pairs = [(values[t], values[t - season]) for t in newest if t - season >= 0]
    return mean([a - b for a, b in pairs if a is not None and b is not None] or [0.0])


def forecast(values, kind, season, horizon, w_TF=None):
    """Naive forecasts of `horizon` steps; an empty context gives 0."""
    T = len(values)
    if kind == "linear":
        return [sum(float(w_TF[t, k]) * (values[t] or 0.0) for t in range(T)) for k in range(horizon)]
    seen = [t for t in range(T) if values[t] is not None]
    last = values[seen[-1]] if seen else 0.0
    result = []
    for k in range(1, horizon + 1):
        same_phase = range(T - 1 + k - season * math.ceil(k / season), -1, -season)
        if kind == "last":
            candidates = [last]
        elif kind == "season":
            candidates = observed([values[t] for t in same_phase])[:1]
        elif kind == "season-shifted":
            candidates = [
                value + seasonal_change(values, season) for value in observed([values[t] for t in same_phase])[:1]
            ]
        elif kind == "seasonal-mean":
            candidates = observed([values[t] for t in same_phase[:7]])
        elif kind == "recent-mean":
            candidates = observed(values[-season:])
        else:
            rise = (last - values[seen[0]]) / (seen[-1] - seen[0]) if len(seen) > 1 else 0.0
            candidates = [last + k * rise]
        result.append(mean(candidates or [last]))
    return result
