"""Distributions as the text books write them, one number at a time."""

from __future__ import annotations

import math
from itertools import pairwise
from statistics import NormalDist

from scipy.stats import norm


def width(raw):
    """Softplus, shifted to be 1 at 0, above its floor of a thousandth."""
    return 1e-3 + 0.999 * math.log1p(math.exp(raw + math.log(math.e - 1)))


def softplus_1(raw):
    return math.log1p(math.exp(raw + math.log(math.e - 1)))


def quantiles(median, unit, raw, probabilities):
    """From the median outwards, each step as wide as that of a normal distribution times its raw output."""
    middle = len(probabilities) // 2
    z = [norm.ppf(probability) for probability in probabilities]
    values = {middle: median}
    for q in range(middle + 1, len(z)):
        values[q] = values[q - 1] + unit * (z[q] - z[q - 1]) * softplus_1(raw[q])
    for q in range(middle - 1, -1, -1):
        values[q] = values[q + 1] - unit * (z[q + 1] - z[q]) * softplus_1(raw[q])
    return [values[q] for q in range(len(z))]


def pinball(values, probabilities, y):
    """Twice the pinball loss, mean over the quantiles, and the absolute error of the median."""
    total = 0.0
    for value, probability in zip(values, probabilities, strict=True):
        total += 2 * probability * (y - value) if y >= value else 2 * (1 - probability) * (value - y)
    return total / len(values) + abs(y - values[len(values) // 2])


def quantile_at(values, probabilities, wanted):
    """The value at a probability: on the lines through neighbouring points (z, value), the outermost ones continued."""
    points = [(NormalDist().inv_cdf(p), value) for p, value in zip(probabilities, values, strict=True)]
    z = NormalDist().inv_cdf(wanted)
    lines = list(pairwise(points))
    (z_0, value_0), (z_1, value_1) = next((line for line in lines if z <= line[1][0]), lines[-1])
    return value_0 + (value_1 - value_0) * (z - z_0) / (z_1 - z_0)


def start_dispersion(mean, unit):
    """The alpha whose deviation, sqrt(mean + alpha mean^2), is the unit, within [0.001, 10]."""
    return min(max((unit**2 - mean) / mean**2, 1e-3), 10.0)
