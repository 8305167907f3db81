"""How intervals widen between the sizes that were measured, against a loop, and that they never narrow."""

from __future__ import annotations

import math

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from holdfast.networks import SIZES, Widening

FACTORS = st.lists(st.floats(1, 9), min_size=len(SIZES), max_size=len(SIZES))


def between(factors, size):
    """Linear along log2, flat outside the grid."""
    size = min(max(size, SIZES[0]), SIZES[-1])
    above = next(k for k, grid in enumerate(SIZES) if grid >= size)
    if SIZES[above] == size:
        return factors[above]
    share = math.log2(size / SIZES[above - 1])
    return factors[above - 1] + share * (factors[above] - factors[above - 1])


@given(FACTORS, FACTORS, st.integers(0, 40_000), st.integers(0, 40_000))
def test_the_factor_is_the_product_of_both(after, short, age, rows):
    widening = Widening()
    widening.after_K.copy_(torch.tensor(after, dtype=torch.float64))
    widening.short_K.copy_(torch.tensor(short, dtype=torch.float64))
    got = widening(torch.tensor([age]), torch.tensor([rows])).item()
    outage = between(after, age) * math.sqrt(max(age / SIZES[-1], 1)) if age else 1.0
    assert got == pytest.approx(outage * between(short, rows), rel=1e-9)
    assert got >= 1


def test_a_new_network_widens_nothing_without_an_outage():
    assert Widening()(torch.tensor([0, 0]), torch.tensor([1, 9999])).tolist() == [1.0, 1.0]
