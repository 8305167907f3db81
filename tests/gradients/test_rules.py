"""Rules: thresholds that cannot work are refused, texts are read, scaling holds over the whole range."""

from __future__ import annotations

import math
from fractions import Fraction

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from tests.reference import clipping

from holdfast.errors import OptionError
from holdfast.gradients import ClipNorm, ClipValue, clip_coef, parse_rule
from holdfast.gradients.rules import scale_

BAD = [-1.0, -0.0, 0, 0.0, math.nan, -math.inf, "1.0", True, None, 1j, 10**400, torch.tensor(1.0), [1.0]]


@pytest.mark.parametrize("bad", [*BAD, math.inf], ids=repr)
@pytest.mark.parametrize("rule", [ClipNorm, ClipValue])
def test_impossible_thresholds_are_refused_in_four_parts(rule, bad):
    with pytest.raises(OptionError) as caught:
        rule(bad)
    (problem,) = caught.value.problems
    assert rule.__name__ in problem.where
    assert problem.got == repr(bad)
    assert problem.expected and problem.fix


@pytest.mark.parametrize("bad", BAD, ids=repr)
def test_impossible_norm_types_are_refused(bad):
    with pytest.raises(OptionError, match="norm_type"):
        ClipNorm(1.0, bad)


@pytest.mark.parametrize("good", [1, 2.5, np.float32(0.5), np.int64(3), Fraction(1, 4), 5e-324])
def test_any_kind_of_number_becomes_a_float(good):
    assert type(ClipNorm(good).max_norm) is float
    assert ClipNorm(good).max_norm == float(good)
    assert ClipValue(good) == ClipValue(float(good))


@given(st.floats(1e-150, 1e150), st.floats(0, 1e150))
def test_coefficient_bounds_the_norm_and_leaves_short_gradients_alone(max_norm, norm):
    coef = clip_coef(ClipNorm(max_norm).bound(None, norm), norm)
    assert 0 <= coef <= 1
    assert (coef == 1.0) == (norm <= max_norm)
    assert coef * norm <= max_norm * (1 + 1e-15)


def test_no_constant_in_the_denominator():
    assert clip_coef(1e-6, 2e-6) == 0.5  # with 1e-6 added to the norm it would be 1/3
    assert clip_coef(1.0, 1.0) == 1.0


@pytest.mark.parametrize(
    ("text", "rule"),
    [
        ("norm:1.0", ClipNorm(1.0)),
        ("norm:1e-3", ClipNorm(0.001)),
        (" value:0.5\n", ClipValue(0.5)),
        ("value:2", ClipValue(2.0)),
        ("none", None),
    ],
)
def test_texts_are_read(text, rule):
    assert parse_rule(text) == rule


@pytest.mark.parametrize(
    "text",
    ["", "norm", "norm:", "norm:x", "norm:-1", "norm:0", "norm:nan", "norm:inf", "value:0", "none:1", ":1", "1", None],
)
def test_other_texts_are_refused_in_four_parts(text):
    with pytest.raises(OptionError) as caught:
        parse_rule(text)
    (problem,) = caught.value.problems
    assert (problem.where, problem.got) == ("clip rule", repr(text))
    assert "norm:NUMBER" in problem.expected and "norm:1.0" in problem.fix


@given(st.floats(0.001, 1000.0))
def test_a_rule_is_written_as_it_is_read(threshold):
    threshold = float(f"{threshold:g}")
    for rule in (ClipNorm(threshold), ClipValue(threshold)):
        assert parse_rule(str(rule)) == rule


@given(st.lists(st.floats(-1e3, 1e3, width=32), max_size=6), st.floats(2**-10, 128.0, width=32))
def test_values_are_bounded_one_by_one(values, bound):
    gradient = torch.tensor(values, dtype=torch.float32)
    ClipValue(bound).clip_([], [gradient])
    assert gradient.tolist() == clipping.clip_value(values, bound)


@pytest.mark.parametrize("coef", [0.37, 1e-20, 1e-36, 1e-38, 1e-41, 1e-44])
def test_scaling_keeps_its_digits_however_small_the_coefficient(coef):
    gradient = torch.tensor([3e38, -1e38, 2.5e37], dtype=torch.float32)
    expected = [float(Fraction(value) * Fraction(coef)) for value in gradient.tolist()]
    scale_([gradient], coef)
    assert gradient.tolist() == pytest.approx(expected, rel=3e-7)
