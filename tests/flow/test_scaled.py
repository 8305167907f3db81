"""Vectors with exponents: against exact fractions, at the ends of the number formats, and for what is not finite."""

from __future__ import annotations

import math
from fractions import Fraction

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from holdfast.flow.scaled import Scaled

F64 = torch.float64


def exact(scaled):
    """Each number as a fraction."""
    exponent = scaled.exponent.item()
    power = Fraction(0) if exponent == -math.inf else Fraction(2) ** int(exponent)
    return [Fraction(value) * power for value in scaled.mantissa.tolist()]


def vector(values, exponent):
    return Scaled.of(torch.tensor(values, dtype=F64), torch.tensor(float(exponent), dtype=F64))


values_of = st.lists(st.floats(-1e30, 1e30).map(lambda x: x if abs(x) > 1e-30 else 0.0), min_size=3, max_size=3)


@settings(max_examples=100, deadline=None)
@given(values_of, st.integers(-5000, 5000))
def test_bringing_to_scale_changes_no_value(values, exponent):
    scaled = vector(values, exponent)
    assert exact(scaled) == [Fraction(value) * Fraction(2) ** exponent for value in values]
    largest = scaled.mantissa.abs().max().item()
    assert 1 <= largest < 2 or (largest == 0 and scaled.exponent.item() == -math.inf)


@settings(max_examples=100, deadline=None)
@given(values_of, values_of, st.integers(-3000, 3000), st.integers(-300, 300))
def test_a_sum_is_that_of_fractions(one, other, exponent, apart):
    found = exact(vector(one, exponent) + vector(other, exponent + apart))
    terms = [
        (Fraction(a) * Fraction(2) ** exponent, Fraction(b) * Fraction(2) ** (exponent + apart))
        for a, b in zip(one, other, strict=True)
    ]
    for value, (a, b) in zip(found, terms, strict=True):
        assert abs(value - a - b) <= Fraction(1, 2**50) * (abs(a) + abs(b))


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("end", ["max", "tiny", "smallest"])
def test_the_ends_of_a_format(dtype, end):
    info = torch.finfo(dtype)
    value = {"max": info.max, "tiny": info.tiny, "smallest": info.smallest_normal * info.eps}[end]
    scaled = Scaled.of(torch.tensor([[value, 0.0]], dtype=dtype))
    assert scaled.log_norm().item() == pytest.approx(math.log(value), rel=1e-12)
    assert scaled.direction().tolist() == [[1, 0]]


def test_zeros_add_nothing_and_stay_zero():
    zero, one = vector([0, 0, 0], 7), vector([1, 2, 2], -4000)
    assert exact(zero + one) == exact(one + zero) == exact(one)
    assert exact(zero + zero) == [0, 0, 0] and (zero + zero).log_norm().item() == -math.inf
    assert zero.direction().tolist() == [0, 0, 0]
    assert one.log_norm().item() == pytest.approx(math.log(3) - 4000 * math.log(2), rel=1e-14)


@pytest.mark.parametrize("value", [math.nan, math.inf])
def test_what_is_not_finite_shows(value):
    scaled = vector([1.0, value], 3) + vector([1.0, 1.0], 5)
    assert not math.isfinite(scaled.log_norm().item())
