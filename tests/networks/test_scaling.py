"""Window normalisation against a plain loop, and at the scales where floating point runs out."""

from __future__ import annotations

import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from tests.reference.anchors import level_and_spread, mean, observed

from holdfast.networks.scaling import masked_mean, window_scale

SCALES = [1e-300, 1e-12, 1e-3, 1.0, 7.0, 1e12, 1e300]

value = st.one_of(st.none(), st.floats(-1e6, 1e6).map(lambda v: round(v, 3)))
contexts = st.integers(1, 12).flatmap(
    lambda T: st.lists(st.lists(value, min_size=T, max_size=T), min_size=1, max_size=4)
)


def tensors(contexts):
    """Values (0 where missing) and mask."""
    y_BT = torch.tensor([[0.0 if v is None else v for v in context] for context in contexts], dtype=torch.float64)
    return y_BT, torch.tensor([[v is not None for v in context] for context in contexts])


@settings(max_examples=150, deadline=None)
@given(contexts, st.integers(1, 15))
def test_level_and_spread_are_those_of_a_loop(contexts, recent):
    scale = window_scale(*tensors(contexts), recent)
    expected = [level_and_spread(context, recent) for context in contexts]
    assert scale.loc_B.tolist() == pytest.approx([loc for loc, _ in expected], rel=1e-12, abs=1e-9)
    assert scale.scale_B.tolist() == pytest.approx([spread for _, spread in expected], rel=1e-9)


@settings(max_examples=50, deadline=None)
@given(contexts)
def test_the_mean_is_over_observed_values_only(contexts):
    y_BT, mask_BT = tensors(contexts)
    expected = [mean(observed(context) or [0.0]) for context in contexts]
    assert masked_mean(torch.where(mask_BT, y_BT, math.nan), mask_BT).tolist() == pytest.approx(expected, abs=1e-9)


@pytest.mark.parametrize("a", SCALES)
@pytest.mark.parametrize(
    "shape",
    [
        [1.0, 2.0, 4.0, 3.0],
        [-5.0, -5.5, -6.0, -5.0],
        [3.0, 0.0, 0.0, 0.0],  # the recent level is exactly 0, the spread is not
        [1.0, 3.0, -1.0, 1.0],
    ],
    ids=str,
)
def test_z_is_the_same_whatever_the_units(shape, a):
    y_BT, mask_BT = torch.tensor([shape], dtype=torch.float64), torch.ones(1, 4, dtype=torch.bool)
    expected_BT = window_scale(y_BT, mask_BT, 2).normalise(y_BT)
    torch.testing.assert_close(window_scale(a * y_BT, mask_BT, 2).normalise(a * y_BT), expected_BT)
    assert expected_BT.abs().max() > 0.5


@pytest.mark.parametrize("a", SCALES)
def test_a_constant_window_has_the_size_of_its_level(a):
    for constant in (a * 0.1, -a * 0.1):
        y_BT = torch.full((1, 7), constant, dtype=torch.float64)
        scale = window_scale(y_BT, torch.ones(1, 7, dtype=torch.bool), 3)
        assert scale.scale_B.item() == pytest.approx(abs(constant))
        assert scale.normalise(y_BT).abs().max() < 1e-6


def test_empty_and_all_zero_windows_have_the_unit_scale():
    mask_BT = torch.tensor([[False] * 4, [True] * 4])
    scale = window_scale(torch.zeros(2, 4, dtype=torch.float64), mask_BT, 2)
    assert (scale.loc_B.tolist(), scale.scale_B.tolist()) == ([0.0, 0.0], [1.0, 1.0])


def test_the_level_falls_back_to_older_values_where_the_recent_ones_are_missing():
    y_BT = torch.tensor([[2.0, 4.0, 0.0, 0.0]], dtype=torch.float64)
    scale = window_scale(y_BT, torch.tensor([[True, True, False, False]]), 2)
    assert (scale.loc_B.item(), scale.scale_B.item()) == (3.0, 1.0)


@settings(max_examples=100, deadline=None)
@given(contexts, st.integers(1, 12))
def test_z_is_bounded_by_the_number_of_observations_plus_one(contexts, recent):
    y_BT, mask_BT = tensors(contexts)
    z_BT = window_scale(y_BT, mask_BT, recent).normalise(y_BT).masked_fill(~mask_BT, 0.0)
    assert (z_BT.abs().amax(1) <= mask_BT.sum(1) * (1 + 1e-6) + 1e-6).all()


@pytest.mark.parametrize("trailing", [(), (3,), (3, 2)])
def test_restore_undoes_normalise(trailing):
    torch.manual_seed(0)
    y_BT = 1e12 + torch.randn(5, 8, dtype=torch.float64)
    scale = window_scale(y_BT, torch.ones_like(y_BT, dtype=torch.bool), 4)
    y = 1e12 + torch.randn(5, *trailing, dtype=torch.float64)
    assert scale.normalise(y).dtype == torch.float32
    torch.testing.assert_close(scale.restore(scale.normalise(y)) - 1e12, y - 1e12, rtol=0, atol=1e-3)
