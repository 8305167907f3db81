"""The guard on given gradients: every number against its slow twin, and the properties of clipping."""

from __future__ import annotations

import json
import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from tests.reference import clipping
from torch import nn

from holdfast.errors import OptionError, TrainingError
from holdfast.gradients import ROLES, ClipNorm, ClipValue, GradientGuard, NormHistogram, find_roles, grad_norms

JOINT = ("input", "recurrent", "bias", "other")
NORM_TYPES = [0.5, 1.0, 2.0, 3.0, math.inf]


class Forecaster(nn.Module):
    def __init__(self):
        super().__init__()
        self.embed = nn.Embedding(3, 2)
        self.rnn = nn.LSTM(2, 3, batch_first=True)
        self.head = nn.Linear(3, 1)

    def forward(self, ids_BT):
        return self.head(self.rnn(self.embed(ids_BT))[0][:, -1])


def model_with_gradients(seed=0, size=1.0, dtype=torch.float32, spread=True):
    generator = torch.Generator().manual_seed(seed)
    model = Forecaster().to(dtype)
    for place, parameter in enumerate(model.parameters()):
        factor = size * (10.0 ** (place % 4 - 2) if spread else 1.0)
        parameter.grad = torch.randn(parameter.shape, generator=generator, dtype=torch.float64).mul(factor).to(dtype)
    return model


def gradients(model, role=None):
    roles = find_roles(model)
    return [p.grad for name, p in model.named_parameters() if role in (None, roles[name])]


def copies(model):
    return [gradient.clone() for gradient in gradients(model)]


def same_bits(some, others):
    return all(torch.equal(a.view(torch.uint8), b.view(torch.uint8)) for a, b in zip(some, others, strict=True))


def values(model, role=None):
    return clipping.values_of(gradients(model, role))


def clip(model, rule, **options):
    guard = GradientGuard(model, rule, **options)
    return guard.clip(guard.measure())


def check_record(result, before, after, model):
    """Every number of the record against the exact norm of the values themselves."""
    p = result.norm_type

    def near(values):
        return pytest.approx(float(clipping.norm(values, p)), rel=1e-5, abs=1e-30)

    everything_before = [value for role in before for value in before[role]]
    everything_after = [value for role in after for value in after[role]]
    assert result.total_norm == near(everything_before)
    assert result.clipped_norm == near(everything_after)
    assert result.cosine == pytest.approx(clipping.cosine(everything_before, everything_after), abs=1e-6)
    for role, coef in result.role_coefs.items():
        assert result.role_norms[role] == near(before[role])
        assert result.role_clipped_norms[role] == near(after[role])
        assert coef * result.role_norms[role] == pytest.approx(result.role_clipped_norms[role], rel=1e-12)
    assert result.clip_coef == min(result.role_coefs.values())
    assert result.clipped == (everything_before != everything_after)
    assert set(result.role_norms) == set(find_roles(model).values())


def by_role(model):
    return {role: values(model, role) for role in dict.fromkeys(find_roles(model).values())}


@pytest.mark.parametrize("norm_type", NORM_TYPES)
@pytest.mark.parametrize("max_norm", [1e-3, 0.7, 5.0, 1e6])
@pytest.mark.parametrize("roles", [ROLES, JOINT, ("recurrent",), ("head", "embedding")])
def test_one_joint_norm_over_the_chosen_roles(roles, max_norm, norm_type):
    model = model_with_gradients()
    before = by_role(model)
    result = clip(model, ClipNorm(max_norm, norm_type), roles=roles)
    after = by_role(model)
    chosen = [value for role in before if role in roles for value in before[role]]
    expected = clipping.clip_norm(chosen, max_norm, norm_type)
    assert [value for role in after if role in roles for value in after[role]] == pytest.approx(expected, rel=1e-6)
    for role in before:
        if role not in roles:
            assert after[role] == before[role]
            assert result.role_coefs[role] == 1.0
        else:
            assert result.role_coefs[role] == result.clip_coef
    check_record(result, before, after, model)


@pytest.mark.parametrize("norm_type", NORM_TYPES)
@pytest.mark.parametrize("recurrent", [ClipNorm(0.1), ClipNorm(1e9), ClipValue(0.05), ClipValue(1e9), None])
def test_each_role_by_itself(recurrent, norm_type):
    if isinstance(recurrent, ClipNorm):
        recurrent = ClipNorm(recurrent.max_norm, norm_type)
    rules = {"recurrent": recurrent, "input": ClipNorm(0.5, norm_type), "bias": ClipValue(0.3), "head": None}
    model = model_with_gradients(seed=3)
    before = by_role(model)
    result = clip(model, rules)
    after = by_role(model)
    for role, rule in {**rules, "embedding": None}.items():
        expected = before[role]
        if isinstance(rule, ClipNorm):
            expected = clipping.clip_norm(expected, rule.max_norm, norm_type)
        if isinstance(rule, ClipValue):
            expected = clipping.clip_value(expected, rule.max_value)
        assert after[role] == pytest.approx(expected, rel=1e-6)
    check_record(result, before, after, model)


@pytest.mark.parametrize("size", [1e-20, 1.0, 1e20])
@pytest.mark.parametrize("max_value", [1e-3, 0.3, 1e3])
def test_values_bounded(max_value, size):
    model = model_with_gradients(size=size)
    before = by_role(model)
    result = clip(model, ClipValue(max_value))
    after = by_role(model)
    for role in before:
        assert after[role] == pytest.approx(clipping.clip_value(before[role], max_value), rel=1e-6)
    check_record(result, before, after, model)
    if result.clipped:
        assert result.cosine < 1


@settings(max_examples=40, deadline=None)
@given(
    seed=st.integers(0, 10**6),
    exponent=st.floats(-35, 35),
    max_exponent=st.floats(-8, 8),
    norm_type=st.sampled_from(NORM_TYPES),
)
def test_bound_direction_and_idempotence(seed, exponent, max_exponent, norm_type):
    max_norm = 10.0**max_exponent
    model = model_with_gradients(seed, size=10.0**exponent, spread=False)
    original = copies(model)
    result = clip(model, ClipNorm(max_norm, norm_type))
    after = grad_norms({"all": {str(i): g for i, g in enumerate(gradients(model))}}, norm_type).total_norm
    assert after <= max_norm * (1 + 1e-6)
    assert result.clipped_norm <= max_norm * (1 + 1e-14)
    assert result.cosine == 1.0
    assert result.clipped == (result.total_norm > max_norm) == (result.clip_coef < 1)
    if result.clipped:
        for gradient, old in zip(gradients(model), original, strict=True):
            torch.testing.assert_close(gradient.double(), old.double() * result.clip_coef, rtol=3e-7, atol=1e-44)
    else:
        assert same_bits(gradients(model), original)
    once = copies(model)
    clip(model, ClipNorm(max_norm, norm_type))
    for gradient, old in zip(gradients(model), once, strict=True):
        torch.testing.assert_close(gradient, old, rtol=1e-6, atol=0)


@pytest.mark.parametrize("factor", [2.0**-20, 4.0, 2.0**30])
@pytest.mark.parametrize("rules", [(ClipNorm, ROLES), (ClipNorm, JOINT), (ClipValue, ROLES)])
def test_scale_equivariant(rules, factor):
    kind, roles = rules
    small, large = model_with_gradients(seed=5), model_with_gradients(seed=5, size=factor)
    result = clip(small, kind(0.5), roles=roles)
    scaled = clip(large, kind(0.5 * factor), roles=roles)
    for a, b in zip(gradients(small), gradients(large), strict=True):
        torch.testing.assert_close(a * factor, b, rtol=3e-7, atol=0)
    assert scaled.role_coefs == pytest.approx(result.role_coefs, rel=1e-6)
    assert scaled.cosine == pytest.approx(result.cosine, rel=1e-6)


def test_invariant_under_regrouping():
    one, other = model_with_gradients(), model_with_gradients()
    regrouped = dict.fromkeys(find_roles(other), "other") | {"embed.weight": "head", "rnn.weight_hh_l0": "input"}
    first, second = clip(one, ClipNorm(0.5)), clip(other, ClipNorm(0.5), overrides=regrouped)
    assert second.total_norm == first.total_norm
    assert second.clip_coef == first.clip_coef
    assert same_bits(gradients(one), gradients(other))


@pytest.mark.parametrize("norm_type", [1.0, 2.0, 3.0, math.inf])
@pytest.mark.parametrize("max_norm", [0.1, 1.0, 1e4])
def test_equal_to_torch_where_torch_is_right(max_norm, norm_type):
    ours, theirs = model_with_gradients(), model_with_gradients()
    result = clip(ours, ClipNorm(max_norm, norm_type))
    total_norm = nn.utils.clip_grad_norm_(theirs.parameters(), max_norm, norm_type)
    assert result.total_norm == pytest.approx(total_norm.item(), rel=1e-5)
    for a, b in zip(gradients(ours), gradients(theirs), strict=True):
        torch.testing.assert_close(a, b, rtol=2e-5, atol=0)


def test_bit_identical_to_torch_by_value():
    ours, theirs = model_with_gradients(), model_with_gradients()
    clip(ours, ClipValue(0.2))
    nn.utils.clip_grad_value_(theirs.parameters(), 0.2)
    assert same_bits(gradients(ours), gradients(theirs))


@pytest.mark.parametrize("bad", [math.nan, math.inf])
def test_torch_spreads_one_bad_value_and_the_guard_touches_nothing(bad):
    ours, theirs = model_with_gradients(), model_with_gradients()
    for model in (ours, theirs):
        model.rnn.weight_hh_l0.grad[1, 2] = bad
    nn.utils.clip_grad_norm_(theirs.parameters(), 1.0)
    spread = [g.isnan().all() if math.isnan(bad) else g.eq(0).all() for g in gradients(theirs, "head")]
    assert all(spread)
    original = copies(ours)
    result = clip(ours, ClipNorm(1.0))
    assert same_bits(gradients(ours), original)
    assert (result.skipped, result.clipped, result.nonfinite) == (True, False, ("rnn.weight_hh_l0",))
    assert math.isfinite(result.role_norms["head"]) and not math.isfinite(result.role_norms["recurrent"])


def test_torch_zeroes_a_finite_gradient_whose_squares_overflow_and_the_guard_clips_it():
    ours, theirs = model_with_gradients(size=1e30), model_with_gradients(size=1e30)
    nn.utils.clip_grad_norm_(theirs.parameters(), 1.0)
    assert all(gradient.eq(0).all() for gradient in gradients(theirs))
    result = clip(ours, ClipNorm(1.0))
    assert not result.skipped
    assert result.total_norm > 1e30
    assert float(clipping.norm(values(ours), 2.0)) == pytest.approx(1.0, rel=1e-6)


def test_torch_reverses_gradients_for_a_negative_bound_and_the_rule_refuses_it():
    theirs = model_with_gradients()
    original = copies(theirs)
    nn.utils.clip_grad_norm_(theirs.parameters(), -1.0)
    assert all((a * b).le(0).all() for a, b in zip(gradients(theirs), original, strict=True))
    with pytest.raises(OptionError):
        ClipNorm(-1.0)


def test_torch_scales_a_parameter_listed_twice_twice_and_the_guard_once():
    shared = nn.Linear(2, 1, bias=False)
    shared.weight.grad = torch.tensor([[30.0, 40.0]])
    nn.utils.clip_grad_norm_([shared.weight, shared.weight], 5.0)
    assert shared.weight.grad.norm().item() < 1.0
    shared.weight.grad = torch.tensor([[30.0, 40.0]])
    model = nn.ModuleDict({"rnn": nn.RNN(1, 1), "one": shared, "two": shared, "three": nn.Linear(2, 1, bias=False)})
    model["three"].weight.grad = shared.weight.grad  # even one gradient object on two parameters
    result = clip(model, ClipNorm(5.0))
    assert result.total_norm == 50.0
    assert shared.weight.grad.tolist() == [[3.0, 4.0]]


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float64])
def test_other_dtypes(dtype):
    model = model_with_gradients(dtype=dtype)
    original = by_role(model)
    result = clip(model, ClipNorm(1.0))
    exact = clipping.clip_norm([value for role in original for value in original[role]], 1.0, 2.0)
    got = [value for role in original for value in by_role(model)[role]]
    assert got == pytest.approx(exact, rel=4 * torch.finfo(dtype).eps, abs=6e-8 if dtype == torch.float16 else 0)
    assert result.clipped_norm == pytest.approx(1.0, rel=1e-14)


@pytest.mark.parametrize("rule", [ClipNorm(5.0), ClipNorm(5.1), ClipNorm(4.0, math.inf), ClipValue(4.0), None])
def test_within_and_at_the_bound_no_bit_and_no_version_changes(rule):
    model = nn.Linear(2, 1)
    model.weight.grad, model.bias.grad = torch.tensor([[3.0, -4.0]]), torch.tensor([-0.0])
    original, versions = copies(model), [g._version for g in gradients(model)]
    result = clip(model, rule)
    assert same_bits(gradients(model), original)
    assert [g._version for g in gradients(model)] == versions
    assert (result.clipped, result.clip_coef, result.cosine) == (False, 1.0, 1.0)
    assert result.clipped_norm == result.total_norm


def test_a_bound_that_rounds_to_the_value_is_no_clipping():
    model = nn.Linear(1, 1, bias=False)
    model.weight.grad = torch.tensor([[0.1]])  # in float32 a little above 0.1
    assert not clip(model, ClipValue(0.1)).clipped
    assert clip(model, ClipValue(0.0999)).clipped


def test_a_change_below_the_resolution_of_the_norm_counts_as_clipped():
    model = nn.Linear(2, 1, bias=False, dtype=torch.float64)
    model.weight.grad = torch.tensor([[1e3, math.nextafter(1e3, math.inf)]], dtype=torch.float64)
    result = clip(model, ClipValue(1e3))
    assert result.clipped and result.clip_coef < 1.0
    assert model.weight.grad.tolist() == [[1e3, 1e3]]


def test_a_bound_beyond_float16_beside_one_that_engages():
    model = nn.ModuleList([nn.Linear(1, 1, bias=False), nn.Linear(1, 1, bias=False).half()])
    model[0].weight.grad, model[1].weight.grad = torch.tensor([[3e5]]), torch.tensor([[6e4]]).half()
    result = clip(model, ClipValue(1e5), overrides={"0": "head"})
    assert [gradient.item() for gradient in gradients(model)] == [1e5, 60000.0]
    assert result.clipped


def test_a_gradient_clipped_to_nothing_has_no_direction():
    model = nn.Linear(2, 1, bias=False).half()
    model.weight.grad = torch.tensor([[1.0, 2.0]], dtype=torch.float16)
    result = clip(model, ClipValue(1e-9))  # below the smallest float16
    assert model.weight.grad.tolist() == [[0.0, 0.0]]
    assert (result.clipped_norm, result.clip_coef) == (0.0, 0.0)
    assert math.isnan(result.cosine)
    pair = nn.ModuleList([nn.Linear(1, 1, bias=False), model])
    model.weight.grad, pair[0].weight.grad = torch.tensor([[3.0, 0.0]]).half(), torch.tensor([[4.0]])
    result = clip(pair, {"other": ClipNorm(100.0), "head": ClipValue(1e-9)})
    assert result.cosine == pytest.approx(0.8, rel=1e-12)


def test_zero_gradients_and_parameters_without_one():
    model = Forecaster()
    model.head.weight.grad = torch.zeros(1, 3)
    result = clip(model, ClipNorm(1.0))
    assert (result.total_norm, result.clip_coef, result.cosine, result.clipped) == (0.0, 1.0, 1.0, False)
    assert result.role_norms == {"input": 0.0, "recurrent": 0.0, "bias": 0.0, "head": 0.0, "embedding": 0.0}
    model.head.weight.grad = torch.tensor([[0.0, 3.0, 4.0]])
    result = clip(model, ClipNorm(1.0))
    assert (result.total_norm, result.clip_coef, result.role_norms["head"]) == (5.0, 0.2, 5.0)


def test_no_gradient_at_all_is_an_error_that_says_so():
    model = Forecaster()
    guard = GradientGuard(model, ClipNorm(1.0))
    with pytest.raises(TrainingError, match=r"no gradient on any of 7 parameters[\s\S]*loss.backward\(\)"):
        guard.step(torch.optim.SGD(model.parameters(), lr=0.1))
    assert guard.summary().steps == 0


def test_sparse_gradients_are_refused_by_name():
    model = nn.Embedding(4, 2, sparse=True)
    with torch.sparse.check_sparse_tensor_invariants():
        model(torch.tensor([1])).sum().backward()
    with pytest.raises(TrainingError, match="gradient of weight"):
        GradientGuard(model, ClipNorm(1.0)).measure()


@pytest.mark.parametrize(
    ("rule", "options", "words"),
    [
        ("norm:1.0", {}, "parse_rule"),
        (1.0, {}, "ClipNorm"),
        (ClipNorm, {}, "ClipNorm"),
        ({"recurrent": 1.0}, {}, "ClipNorm"),
        ({"hidden": ClipNorm(1.0)}, {}, "'hidden'"),
        ({"recurrent": ClipNorm(1.0, 1.0), "head": ClipNorm(1.0)}, {}, "one norm_type"),
        ({"recurrent": ClipNorm(1.0)}, {"roles": ("head",)}, "leave out `roles`"),
        ({"other": ClipNorm(1.0)}, {}, "only other"),
        (ClipNorm(1.0), {"roles": ("other",)}, "only other"),
        (ClipNorm(1.0), {"roles": ()}, "model's roles"),
        (ClipNorm(1.0), {"roles": "recurrent"}, r"roles=\('recurrent',\)"),
        (ClipNorm(1.0), {"roles": ("recurrent", "hidden")}, "'hidden'"),
        (ClipNorm(1.0), {"overrides": {"nowhere": "head"}}, "'nowhere'"),
        (ClipNorm(1.0), {"nonfinite": "ignore"}, "'ignore'"),
    ],
)
def test_impossible_guards_are_refused(rule, options, words):
    with pytest.raises(OptionError, match=words):
        GradientGuard(Forecaster(), rule, **options)


def test_the_table_of_parameters():
    model = Forecaster()
    model.head.bias.requires_grad_(False)
    guard = GradientGuard(model, {"recurrent": ClipNorm(0.5), "bias": ClipValue(2)}, cap=ClipNorm(5.0))
    assert guard.describe() == (
        "parameter         shape   role       rule\n"
        "embed.weight      3 x 2   embedding  none\n"
        "rnn.weight_ih_l0  12 x 2  input      none\n"
        "rnn.weight_hh_l0  12 x 3  recurrent  norm:0.5 over recurrent\n"
        "rnn.bias_ih_l0    12      bias       value:2\n"
        "rnn.bias_hh_l0    12      bias       value:2\n"
        "head.weight       1 x 3   head       none\n"
        "head.bias         1       head       frozen\n"
        "then norm:5 over all"
    )


@settings(max_examples=50, deadline=None)
@given(st.lists(st.just(0.0) | st.floats(1e-300, 1e300), min_size=1, max_size=40), st.floats(0, 1))
def test_quantiles_to_one_per_cent_also_after_json(norms, q):
    histogram = NormHistogram()
    for norm in norms[:7]:
        histogram.add(norm)
    histogram = NormHistogram.from_state_dict(json.loads(json.dumps(histogram.state_dict())))
    for norm in norms[7:]:
        histogram.add(norm)
    assert histogram.count == len(norms)
    assert histogram.quantile(q) == pytest.approx(clipping.quantile(norms, q), rel=0.0101, abs=0)
    assert (histogram.quantile(0.0), histogram.quantile(1.0)) == (min(norms), max(norms))


def test_quantiles_of_nothing_are_nan():
    assert math.isnan(NormHistogram().quantile(0.5))
    empty = NormHistogram.from_state_dict(json.loads(json.dumps(NormHistogram().state_dict())))
    empty.add(2.0)
    assert [empty.quantile(q) for q in (0.0, 0.5, 1.0)] == [2.0, 2.0, 2.0]
