"""The answers to the memory tasks, read off their inputs one sequence and one step at a time; losses one value each."""

from __future__ import annotations

import math


def symbol(x_D):
    """The place of the one 1 among zeros."""
    values = x_D.tolist()
    assert sorted(values) == [0.0] * (len(values) - 1) + [1.0]
    return values.index(1.0)


def adding(x_TD):
    """The marked places, and half the sum of the values there."""
    marked = [t for t, (_, mark) in enumerate(x_TD.tolist()) if mark == 1.0]
    assert all(mark in (0.0, 1.0) for _, mark in x_TD.tolist())
    return marked, [sum(x_TD[t, 0].item() for t in marked) / 2]


def temporal_order(x_TD):
    """The places of the two symbols that matter, and the class: first of the same first, in one-hot form."""
    symbols = [symbol(x_D) for x_D in x_TD]
    places = [t for t, one in enumerate(symbols) if one < 2]
    pair = [symbols[t] for t in places]
    order = [[0, 0], [0, 1], [1, 0], [1, 1]]
    return places, [1.0 if pair == each else 0.0 for each in order]


def copy(x_TD):
    """The letters at the start, each in one-hot form, and the place of the signal."""
    symbols = [symbol(x_D) for x_D in x_TD]
    letters = symbols[:3]
    signals = [t for t, one in enumerate(symbols) if one == 5]
    rest = [one for t, one in enumerate(symbols) if t >= 3 and t not in signals]
    assert set(rest) == {4} and max(letters) < 4
    return signals, [[1.0 if letter == k else 0.0 for k in range(4)] for letter in letters]


def squared(raw, y):
    return [(a - b) ** 2 for a, b in zip(raw, y, strict=True)]


def sigmoid(raw, y):
    """-log of the probability of a coin that shows 1 with probability y."""
    return [
        -b * math.log(1 / (1 + math.exp(-a))) - (1 - b) * math.log(1 - 1 / (1 + math.exp(-a)))
        for a, b in zip(raw, y, strict=True)
    ]


def gaussian(mean, log_sigma, y):
    """-log of the normal density."""
    return [
        -math.log(math.exp(-(((b - m) / math.exp(s)) ** 2) / 2) / (math.exp(s) * math.sqrt(2 * math.pi)))
        for m, s, b in zip(mean, log_sigma, y, strict=True)
    ]
