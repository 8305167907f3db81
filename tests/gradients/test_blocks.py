"""Clip rules by block: equal to a loop over rows in exact decimals, over the whole range of each dtype."""

from __future__ import annotations

import math
from fractions import Fraction

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from tests.reference import blocks as twin
from tests.reference import clipping

from holdfast.errors import OptionError
from holdfast.gradients.blocks import ClipAGC, ClipBlockRMS

DTYPES = [torch.float16, torch.bfloat16, torch.float32, torch.float64]
RULES = [ClipAGC(), ClipAGC(0.16, 0.5), ClipAGC(1e-4, 1e-6), ClipAGC(3.0)]


def normal(*shape: int, seed: int = 0) -> torch.Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def problems(dtype):
    """Weights and gradients by name."""
    info = torch.finfo(dtype)
    largest = min(info.max, 1e200)  # a coefficient must be a float64 too, and no denormal one
    spread = 10.0 ** torch.linspace(-4, 1, 6, dtype=torch.float64).view(6, 1)
    table = {
        "one value": (normal(1, 1), normal(1, 1, seed=1)),
        "a scalar": (normal(), normal(seed=1)),
        "a vector": (normal(5), normal(5, seed=1)),
        "a matrix": (normal(6, 4) * 0.1, spread * normal(6, 4, seed=1)),
        "a convolution": (normal(6, 2, 3) * 0.1, spread.view(6, 1, 1) * normal(6, 2, 3, seed=1)),
        "a wide row": (normal(2, 3000), normal(2, 3000, seed=1)),
        "all equal": (torch.full((3, 4), 0.5), torch.full((3, 4), 0.5)),
        "gradients of 0": (normal(3, 4), torch.zeros(3, 4)),
        "weights of 0": (torch.zeros(3, 4), normal(3, 4)),
        "weights and gradients of 0": (torch.zeros(3), torch.zeros(3)),
        "the largest values": (normal(3, 4), torch.full((3, 4), largest, dtype=dtype)),
        "the largest weights": (torch.full((3, 4), largest, dtype=dtype), normal(3, 4)),
        "the smallest values": (normal(3, 4), torch.full((3, 4), info.smallest_normal * info.eps, dtype=dtype)),
        "the smallest weights": (torch.full((3, 4), info.smallest_normal * info.eps, dtype=dtype), normal(3, 4)),
        "one row alone is large": (normal(3, 4), torch.tensor([[1e-3], [60000.0], [0.0]]) * torch.ones(3, 4)),
    }
    if dtype != torch.float16:
        table["huge"] = (normal(3, 4), 1e30 * normal(3, 4, seed=1))
        table["tiny"] = (normal(3, 4), 1e-30 * normal(3, 4, seed=1))
    return {name: (weight.to(dtype), grad.to(dtype)) for name, (weight, grad) in table.items()}


CASES = [(dtype, name) for dtype in DTYPES for name in problems(dtype)]


def rows(tensor: torch.Tensor) -> list[torch.Tensor]:
    return [tensor] if tensor.dim() < 2 else list(tensor)


def length(tensor: torch.Tensor) -> float:
    return float(clipping.norm(clipping.values_of([tensor]), 2.0))


@pytest.mark.parametrize("rule", RULES, ids=str)
@pytest.mark.parametrize(("dtype", "name"), CASES, ids=str)
def test_agc_is_equal_to_a_loop_over_rows(dtype, name, rule):
    weight, grad = problems(dtype)[name]
    before_weight, before = weight.clone(), grad.clone()
    rule.clip_([weight], [grad])
    info = torch.finfo(dtype)
    # Half a unit in the last place of the dtype, for one rounding; of a denormal number that is its smallest step.
    expected = twin.agc(before_weight, before, rule.ratio, rule.eps)
    assert clipping.values_of([grad]) == pytest.approx(
        expected, rel=info.eps * 0.51 + 1e-14, abs=info.smallest_normal * info.eps
    )
    assert torch.equal(weight, before_weight)
    for old, new, w_i in zip(rows(before), rows(grad), rows(weight), strict=True):
        bound = rule.ratio * max(length(w_i), rule.eps)
        if length(old) <= bound * (1 - 1e-12):
            assert torch.equal(old, new)
        assert length(new) <= bound * (1 + info.eps) + info.smallest_normal * info.eps * math.sqrt(new.numel())


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
def test_agc_twice_is_agc_once_up_to_rounding(dtype):
    info = torch.finfo(dtype)
    for weight, grad in problems(dtype).values():
        ClipAGC().clip_([weight], [grad])
        once = grad.clone()
        ClipAGC().clip_([weight], [grad])
        assert clipping.values_of([grad]) == pytest.approx(
            clipping.values_of([once]), rel=2 * info.eps, abs=info.smallest_normal * info.eps
        )


@settings(max_examples=40, deadline=None)
@given(power=st.integers(-40, 40), seed=st.integers(0, 1000), size=st.integers(-10, 10))
def test_agc_is_scale_covariant(power, seed, size):
    """With weights, gradients and eps in another unit, the result is the same in that unit, to the last bit."""
    unit = 2.0**power
    weight, grad = normal(4, 3, seed=seed).float(), normal(4, 3, seed=seed + 1).float() * 2.0**size
    scaled = grad * unit
    ClipAGC(0.1, 1e-3 * unit).clip_([weight * unit], [scaled])
    ClipAGC(0.1, 1e-3).clip_([weight], [grad])
    assert torch.equal(scaled, grad * unit)


@settings(max_examples=60, deadline=None)
@given(
    values=st.lists(st.floats(-(2.0**126), 2.0**126, width=32), min_size=6, max_size=6),
    weights=st.lists(st.floats(-10, 10, width=32), min_size=6, max_size=6),
    ratio=st.floats(1e-6, 10.0),
)
def test_agc_bounds_each_row_and_keeps_its_direction(values, weights, ratio):
    weight, grad = torch.tensor(weights).view(2, 3), torch.tensor(values).view(2, 3)
    before = grad.clone()
    ClipAGC(ratio).clip_([weight], [grad])
    for old, new, w_i in zip(before, grad, weight, strict=True):
        assert length(new) <= ratio * max(length(w_i), 1e-3) * (1 + 1e-6)
        factor = length(new) / length(old) if length(old) else 1.0
        assert new.tolist() == pytest.approx((old.double() * factor).tolist(), rel=1e-5, abs=1e-40)


def test_agc_leaves_the_other_gates_of_a_recurrent_weight_alone():
    lstm = torch.nn.LSTM(2, 3)
    lstm(normal(5, 1, 2).float())[0].sum().backward()
    weight = lstm.weight_hh_l0
    before = weight.grad.clone()
    weight.grad[4] *= 1e6  # the forget gate of the second hidden unit
    ClipAGC(100.0).clip_([weight], [weight.grad])
    others = [k for k in range(12) if k != 4]
    assert torch.equal(weight.grad[others], before[others])
    assert length(weight.grad[4]) == pytest.approx(100 * length(weight[4]), rel=1e-6)
    assert not weight.grad.requires_grad


def test_agc_takes_each_tensor_with_its_own_parameter_and_any_layout_in_memory():
    weights = [normal(3, 4).t(), normal(8)[::2], normal(2, 3, 2).float().permute(2, 0, 1)]
    grads = [
        100 * normal(3, 4, seed=1).t(),
        100 * normal(8, seed=2)[::2],
        normal(2, 3, 2, seed=3).float().permute(2, 0, 1),
    ]
    expected = [twin.agc(w, g, 0.01, 1e-3) for w, g in zip(weights, grads, strict=True)]
    ClipAGC().clip_(weights, grads)
    for grad, values in zip(grads, expected, strict=True):
        assert clipping.values_of([grad]) == pytest.approx(values, rel=1e-7)


@pytest.mark.parametrize("shape", [(0,), (0, 3), (3, 0), (2, 0, 3)])
@pytest.mark.parametrize("dtype", DTYPES, ids=str)
def test_agc_of_a_tensor_without_values(shape, dtype):
    empty, full = torch.zeros(shape, dtype=dtype), torch.full((2, 2), 100.0, dtype=dtype)
    ClipAGC().clip_([empty.clone(), torch.zeros_like(full)], [empty, full])
    assert empty.shape == shape
    assert length(full[0]) == pytest.approx(1e-5, rel=0.02)


@pytest.mark.parametrize("max_rms", [1e-30, 0.1, 1.0, 1e30])
@pytest.mark.parametrize(("dtype", "name"), CASES, ids=str)
def test_block_rms_is_equal_to_the_twin(dtype, name, max_rms):
    _, grad = problems(dtype)[name]
    coef = ClipBlockRMS(max_rms).coef(length(grad), grad.numel())
    assert 0 <= coef <= 1
    got = [Fraction(coef) * Fraction(value) for value in clipping.values_of([grad])]
    assert list(map(float, got)) == pytest.approx(twin.block_rms(grad, max_rms), rel=1e-12, abs=1e-300)


@settings(max_examples=100)
@given(st.floats(1e-150, 1e150), st.floats(0, 1e150), st.integers(0, 10**9))
def test_block_rms_is_bounded_and_leaves_short_gradients_alone(max_rms, norm, numel):
    coef = ClipBlockRMS(max_rms).coef(norm if numel else 0.0, numel)
    assert 0 <= coef <= 1
    if norm <= max_rms * math.sqrt(numel) or not numel:
        assert coef == 1.0
    else:
        assert coef < 1.0
        assert coef * norm / math.sqrt(numel) <= max_rms * (1 + 1e-15)


def test_block_rms_does_not_depend_on_the_size_of_the_tensor():
    rule = ClipBlockRMS(0.5)
    for numel in (1, 4, 10**6):
        assert rule.coef(2.0 * math.sqrt(numel), numel) == pytest.approx(0.25, rel=1e-15)


BAD = [-1.0, -0.0, 0, 0.0, math.nan, math.inf, -math.inf, "1.0", True, None, 1j, 10**400, torch.tensor(1.0), [1.0]]


@pytest.mark.parametrize("bad", BAD, ids=repr)
@pytest.mark.parametrize(("kind", "field"), [(ClipBlockRMS, "max_rms"), (ClipAGC, "ratio"), (ClipAGC, "eps")])
def test_impossible_numbers_are_refused_in_four_parts(kind, field, bad):
    with pytest.raises(OptionError) as caught:
        kind(**{field: bad})
    (problem,) = caught.value.problems
    assert problem.where == f"{kind.__name__}({field}=...)"
    assert problem.got == repr(bad)
    assert problem.expected and problem.fix


def test_any_kind_of_number_becomes_a_float_and_rules_are_written_as_the_option_reads():
    assert type(ClipBlockRMS(np.float32(0.5)).max_rms) is float
    assert type(ClipAGC(Fraction(1, 4), 1).eps) is float
    assert ClipAGC(Fraction(1, 4), np.int64(1)) == ClipAGC(0.25, 1.0)
    assert str(ClipBlockRMS(0.1)) == "rms:0.1"
    assert str(ClipAGC()) == "agc:0.01"
