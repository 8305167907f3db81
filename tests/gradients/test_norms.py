"""Norms against exact decimals, over the whole range of each dtype."""

from __future__ import annotations

import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from tests.reference import clipping

from holdfast.errors import TrainingError
from holdfast.gradients import combine_norms, grad_norms, norms, tensor_norms

NORM_TYPES = [0.5, 1.0, 2.0, 3.0, 7.0, 40.0, math.inf]
DTYPES = [torch.float16, torch.bfloat16, torch.float32, torch.float64]


def digits(dtype, norm_type):
    """Euclidean norms of narrow types are summed in float32, 512 values at a time; everything else in float64."""
    return 1e-12 if dtype == torch.float64 or norm_type != 2.0 else 3e-7


def finite_floats(dtype):
    info = torch.finfo(dtype)
    # For p below 1 a norm is larger than its values: leave float64 some room for it.
    room = 60 if dtype == torch.float64 else 1
    exponents = st.integers(math.floor(math.log2(info.smallest_normal)), math.floor(math.log2(info.max)) - room)
    values = st.builds(
        lambda sign, size, e: sign * math.ldexp(size, e), st.sampled_from([-1, 1]), st.floats(1, 1.5), exponents
    )
    return st.just(0.0) | values


@st.composite
def tensor_groups(draw, dtype):
    sizes = draw(st.lists(st.lists(st.integers(0, 4), max_size=3), min_size=1, max_size=3))
    number = 0
    groups = {}
    for place, group in enumerate(sizes):
        groups[f"group{place}"] = {}
        for size in group:
            values = draw(st.lists(finite_floats(dtype), min_size=size, max_size=size))
            groups[f"group{place}"][f"tensor{number}"] = torch.tensor(values, dtype=dtype)
            number += 1
    return groups


@pytest.mark.parametrize("norm_type", NORM_TYPES)
@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@settings(max_examples=15, deadline=None)
@given(data=st.data())
def test_equal_to_exact_decimals_and_independent_of_grouping(data, dtype, norm_type):
    groups = data.draw(tensor_groups(dtype))
    measured = grad_norms(groups, norm_type)
    for role, group in groups.items():
        exact = clipping.norm(clipping.values_of(group.values()), norm_type)
        assert measured.role_norms[role] == pytest.approx(float(exact), rel=digits(dtype, norm_type), abs=0)
    everything = {name: tensor for group in groups.values() for name, tensor in group.items()}
    exact = clipping.norm(clipping.values_of(everything.values()), norm_type)
    assert measured.total_norm == pytest.approx(float(exact), rel=digits(dtype, norm_type), abs=0)
    regrouped = grad_norms({name: {name: tensor} for name, tensor in everything.items()}, norm_type)
    assert regrouped.total_norm == pytest.approx(measured.total_norm, rel=digits(dtype, norm_type), abs=0)
    assert combine_norms(measured.role_norms.values(), norm_type) == pytest.approx(
        measured.total_norm, rel=digits(dtype, norm_type), abs=0
    )
    assert measured.nonfinite == ()


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("norm_type", NORM_TYPES)
def test_extremes_of_each_dtype(dtype, norm_type):
    info = torch.finfo(dtype)
    for extreme in (info.max, info.smallest_normal, torch.finfo(dtype).smallest_normal * info.eps):  # eps: denormal
        tensor = torch.full((3,), extreme, dtype=dtype)
        exact = float(clipping.norm(clipping.values_of([tensor]), norm_type)) if norm_type >= 1 else None
        got = grad_norms({"all": {"t": tensor}}, norm_type)
        if exact is None or exact == math.inf:  # beyond float64: for p below 1, or float64's own maximum
            assert got.total_norm == pytest.approx(float(3 ** (1 / norm_type)) * extreme, rel=digits(dtype, norm_type))
            continue
        # A denormal float64 has few digits itself: one unit in its last place.
        assert got.total_norm == pytest.approx(exact, rel=digits(dtype, norm_type), abs=5e-324)
        assert got.nonfinite == ()


def test_a_norm_beyond_float64_is_named():
    tensors = {f"t{i}": torch.tensor([1.5e308], dtype=torch.float64) for i in range(4)}
    measured = grad_norms({"all": tensors}, 2.0)
    assert measured.total_norm == math.inf
    assert measured.nonfinite == ("total_norm",)


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("norm_type", NORM_TYPES)
@pytest.mark.parametrize("bad", [math.nan, math.inf, -math.inf])
def test_nonfinite_tensors_are_named_and_the_others_measured(dtype, norm_type, bad):
    good = torch.tensor([3.0, -4.0], dtype=dtype)
    groups = {"a": {"good": good}, "b": {"first": torch.tensor([1.0, bad], dtype=dtype), "fine": good.clone()}}
    groups["c"] = {"last": torch.tensor([[bad, 0.0]], dtype=dtype)}
    measured = grad_norms(groups, norm_type)
    assert measured.nonfinite == ("first", "last")
    assert not math.isfinite(measured.total_norm)
    assert measured.role_norms["a"] == grad_norms({"a": {"good": good}}, norm_type).total_norm
    assert math.isfinite(measured.role_norms["a"])


def test_nan_wins_over_inf_in_the_total():
    groups = {"a": {"inf": torch.tensor([math.inf])}, "b": {"nan": torch.tensor([math.nan])}}
    assert math.isnan(grad_norms(groups).total_norm)
    assert grad_norms(groups).role_norms["a"] == math.inf


def test_a_tensor_listed_twice_counts_once():
    tensor, other = torch.tensor([3.0]), torch.tensor([4.0])
    groups = {"a": {"t": tensor, "again": tensor}, "b": {"t": tensor, "other": other}}
    measured = grad_norms(groups)
    assert measured.role_norms == {"a": 3.0, "b": 5.0}
    assert measured.total_norm == 5.0


@pytest.mark.parametrize("norm_type", NORM_TYPES)
def test_measuring_writes_nothing(norm_type):
    tensors = {"a": torch.randn(5, 3), "b": torch.randn(4, dtype=torch.float64), "c": torch.randn(6).bfloat16()}
    before = {name: (tensor.clone(), tensor._version) for name, tensor in tensors.items()}
    grad_norms({"all": tensors}, norm_type)
    for name, (copy, version) in before.items():
        assert torch.equal(tensors[name], copy)
        assert tensors[name]._version == version


def test_strided_views_and_mixed_dtypes():
    base = torch.arange(24, dtype=torch.float32).reshape(4, 6)
    tensors = {"columns": base[:, ::2], "transposed": base.t(), "half": torch.tensor([1.5], dtype=torch.float16)}
    exact = clipping.norm(clipping.values_of(tensors.values()), 2.0)
    assert grad_norms({"all": tensors}).total_norm == pytest.approx(float(exact), rel=3e-7)


def test_empty_groups_and_empty_tensors_have_norm_zero():
    measured = grad_norms({"none": {}, "empty": {"t": torch.zeros(0, 3)}})
    assert (measured.total_norm, measured.role_norms) == (0.0, {"none": 0.0, "empty": 0.0})


def test_a_p_near_zero_ends_in_inf_not_in_an_exception():
    measured = grad_norms({"all": {"a": torch.ones(8), "b": torch.ones(1)}}, 1e-4)
    assert measured.total_norm == math.inf
    assert combine_norms([1.0, 1.0], 1e-4) == math.inf


def test_sparse_and_complex_gradients_are_refused_by_name():
    sparse = torch.sparse_coo_tensor([[0]], [1.0], (3,), check_invariants=True)
    with pytest.raises(TrainingError) as caught:
        grad_norms(
            {"e": {"table": sparse, "fine": torch.ones(1)}, "c": {"waves": torch.ones(1, dtype=torch.complex64)}}
        )
    assert [problem.where for problem in caught.value.problems] == ["gradient of table", "gradient of waves"]


@pytest.mark.parametrize("norm_type", [1.0, 2.0, 3.0, math.inf])
def test_equal_to_torch_where_torch_is_right(norm_type):
    generator = torch.Generator().manual_seed(0)
    tensors = {str(i): torch.randn(7, i + 1, generator=generator) for i in range(6)}
    expected = torch.nn.utils.get_total_norm(tensors.values(), norm_type)
    assert grad_norms({"all": tensors}, norm_type).total_norm == pytest.approx(expected.item(), rel=1e-5)


SIZES = [norms.ROW - 1, norms.ROW, norms.ROW + 1, 128 * norms.ROW, 400 * norms.ROW + 7]


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float32], ids=str)
@pytest.mark.parametrize("size", SIZES)
def test_long_tensors_by_rows(size, dtype):
    tensor = torch.randn(size, generator=torch.Generator().manual_seed(size)).to(dtype)
    exact = math.sqrt(math.fsum(value * value for value in tensor.double().tolist()))
    assert tensor_norms([tensor])[0] == pytest.approx(exact, rel=5e-7)
    pieces = tensor_norms(list(tensor.split(1000)))
    assert combine_norms(pieces) == pytest.approx(exact, rel=5e-7)


@pytest.mark.parametrize("size", [10, *SIZES[3:]])
@pytest.mark.parametrize("extreme", [1e-42, 1e-38, 1e-30, 1e-18, 1e18, 1e30, 3e38])
def test_no_square_overflows_or_vanishes_however_long_the_tensor(extreme, size):
    tensor = torch.full((size,), extreme)
    exact = math.sqrt(size) * tensor[0].item()
    assert tensor_norms([tensor])[0] == pytest.approx(exact, rel=5e-7)
    tensor[0] = 1.0  # the others may vanish beside it, but not the other way round
    assert tensor_norms([tensor])[0] == pytest.approx(math.hypot(1.0, math.sqrt(size - 1) * extreme), rel=5e-7)


def test_more_exact_than_torch_on_many_values():
    tensor = torch.full((5_000_000,), 0.01)
    exact = math.sqrt(5_000_000) * tensor[0].item()
    assert tensor_norms([tensor])[0] == pytest.approx(exact, rel=1.5e-6)
    assert torch.linalg.vector_norm(tensor).item() != pytest.approx(exact, rel=1e-5)


def test_one_bad_value_in_a_long_tensor():
    for bad in (math.nan, math.inf):
        tensor = torch.ones(500 * norms.ROW)
        tensor[-3] = bad
        assert str(tensor_norms([tensor, torch.ones(4)])) == str([bad, 2.0])
