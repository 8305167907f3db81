"""Clip rules with a memory: equal to the sources' formulas, resumable to the last bit, never 0, never poisoned."""

from __future__ import annotations

import json
import math
import random
from dataclasses import fields, replace
from fractions import Fraction

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from tests.reference import history as twin

from holdfast.errors import OptionError
from holdfast.gradients.history import ClipAuto, ClipMedian, ClipPercentile, ClipZScore
from holdfast.gradients.rules import clip_coef

RULES = [
    ClipPercentile(),
    ClipPercentile(90, history=12, warmup=3),
    ClipPercentile(10, history=200, warmup=1),
    ClipPercentile(100, history=5, warmup=4),
    ClipPercentile(33.3, history=2, warmup=1),
    ClipMedian(),
    ClipMedian(3, history=7, warmup=2),
    ClipMedian(0.5, history=2, warmup=1),
    ClipZScore(),
    ClipZScore(1.5, alpha=0.8, warmup=4),
    ClipZScore(3, alpha=0.99, warmup=2),
    ClipAuto(),
    ClipAuto(75, steps=7),
    ClipAuto(100, steps=1),
]
SMALL = [rule for rule in RULES if rule not in (ClipPercentile(), ClipMedian(), ClipZScore(), ClipAuto())]


def lognormal(count: int, spread: float = 0.7, seed: int = 0) -> list[float]:
    draw = random.Random(seed)
    return [draw.lognormvariate(0.0, spread) for _ in range(count)]


PROBLEMS = {
    "one value": [3.0],
    "two values": [3.0, 1.0],
    "all equal": [0.1] * 60,
    "all equal, then a spike": [0.1] * 40 + [5.0] + [0.1] * 20,
    "zeros": [0.0] * 40,
    "zeros, then gradients": [0.0] * 40 + lognormal(60),
    "zeros in between": [0.0 if k % 3 else norm for k, norm in enumerate(lognormal(180))],
    "huge": [1e30 * norm for norm in lognormal(90)],
    "tiny": [1e-30 * norm for norm in lognormal(90)],
    "beyond the square root of float64": [1e200 * norm for norm in lognormal(90)],
    "near the largest float64": [8e307 * (1 - 0.5 * (k % 7) / 7) for k in range(90)],
    "from tiny to huge": [10.0**k for k in range(-30, 60)],
    "falling": [100 * 0.95**k for k in range(120)],
    "a lasting jump": lognormal(60, 0.1) + [8 * norm for norm in lognormal(60, 0.1, seed=1)],
    "half precision": [float(torch.tensor(norm, dtype=torch.float16)) for norm in lognormal(90)],
    "bfloat16": [float(torch.tensor(norm, dtype=torch.bfloat16)) for norm in lognormal(90)],
    "spikes": [1000 * norm if k % 11 == 0 else norm for k, norm in enumerate(lognormal(150))],
    "not finite": [(math.nan, math.inf, norm, norm)[k % 4] for k, norm in enumerate(lognormal(160))],
}


def bounds_of(rule, norms, memory=None):
    memory = rule.start() if memory is None else memory
    return [rule.bound(memory, norm) for norm in norms]


def twin_bounds(rule, norms):
    if isinstance(rule, ClipPercentile):
        return twin.percentile_bounds(norms, rule.percentile, rule.history, rule.warmup)
    if isinstance(rule, ClipMedian):
        return twin.median_bounds(norms, rule.factor, rule.history, rule.warmup)
    if isinstance(rule, ClipZScore):
        return twin.zscore_bounds(norms, rule.z, rule.alpha, rule.warmup)
    return twin.auto_bounds(norms, rule.percentile, rule.steps)


def norm_lists(max_size: int = 60):
    sizes = st.floats(1e-150, 1e150) | st.floats(0.5, 2.0)
    return st.lists(sizes | st.sampled_from([0.0, math.nan, math.inf]), max_size=max_size)


# -- the numbers, twice ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("problem", PROBLEMS)
@pytest.mark.parametrize("rule", RULES, ids=repr)
def test_equal_to_the_slow_twin(rule, problem):
    norms = PROBLEMS[problem]
    assert bounds_of(rule, norms) == pytest.approx(twin_bounds(rule, norms), rel=1e-12, abs=0)


@pytest.mark.parametrize("rule", SMALL, ids=repr)
@settings(max_examples=40, deadline=None)
@given(norms=norm_lists())
def test_equal_to_the_slow_twin_on_any_norms(rule, norms):
    assert bounds_of(rule, norms) == pytest.approx(twin_bounds(rule, norms), rel=1e-9, abs=0)


def test_autoclip_as_published_keeps_everything_and_has_no_warmup():
    norms = lognormal(300)
    rule = ClipPercentile(10, history=301, warmup=1)
    expected = [float(np.percentile(norms[: t + 1], 10)) for t in range(300)]
    assert bounds_of(rule, norms)[1:] == pytest.approx(expected[1:], rel=1e-12)
    # The only norm of the first step is its own percentile: it is not clipped either way.
    assert clip_coef(bounds_of(rule, norms)[0], norms[0]) == clip_coef(expected[0], norms[0]) == 1.0


def test_zclip_differs_from_the_authors_code_by_their_epsilon_alone():
    norms = [5.0 if k in (40, 70) else norm for k, norm in enumerate(lognormal(120, 0.1))]
    rule = ClipZScore()
    theirs = twin.zscore_bounds(norms, 2.5, 0.97, 25, eps=1e-6)
    ours = bounds_of(rule, norms)
    assert ours == pytest.approx(theirs, rel=1e-4)
    assert max(abs(a - b) for a, b in zip(ours[25:], theirs[25:], strict=True)) > 1e-9
    # Where gradients are small that epsilon would switch the rule off.
    small = [1e-7 * norm for norm in norms]
    assert clip_coef(bounds_of(rule, small)[40], small[40]) < 0.3
    assert clip_coef(twin.zscore_bounds(small, 2.5, 0.97, 25, eps=1e-6)[40], small[40]) == 1.0


def test_the_reciprocal_bound_of_zclip_by_hand():
    memory = ClipZScore(2, warmup=2).start()
    memory.load_state_dict({**memory.state_dict(), "mean": 1.0, "deviation": 0.5})
    assert ClipZScore(2, warmup=2).bound(memory, 3.0) == 1.5  # z = 4: 1 + 2^2 / 4 * 0.5
    assert memory.mean == pytest.approx(0.97 * 1.0 + 0.03 * 1.5, rel=1e-15)
    assert memory.deviation**2 == pytest.approx(0.97 * 0.25 + 0.03 * (1.5 - memory.mean) ** 2, rel=1e-14)


# -- what holds for all norms ------------------------------------------------------------------------------------------


@pytest.mark.parametrize("rule", SMALL, ids=repr)
@settings(max_examples=40, deadline=None)
@given(norms=norm_lists())
def test_no_bound_is_ever_zero_or_nan_so_that_no_gradient_is_erased(rule, norms):
    for norm, bound in zip(norms, bounds_of(rule, norms), strict=True):
        assert bound > 0
        if math.isfinite(norm):
            assert clip_coef(bound, norm) > 0


@pytest.mark.parametrize("rule", RULES, ids=repr)
def test_gradients_after_a_run_of_zeros_are_treated_as_the_first_ones(rule):
    norms = lognormal(80)
    memory = rule.start()
    assert bounds_of(rule, [0.0] * 200, memory) == [math.inf] * 200
    assert memory.state_dict() == rule.start().state_dict()
    assert bounds_of(rule, norms, memory) == bounds_of(rule, norms)


@pytest.mark.parametrize("rule", RULES, ids=repr)
@pytest.mark.parametrize("bad", [math.nan, math.inf])
def test_a_norm_that_is_not_finite_changes_nothing_and_is_not_bounded(rule, bad):
    norms, memory, bounds = lognormal(80), rule.start(), []
    for norm in norms:
        before = memory.state_dict()
        assert rule.bound(memory, bad) == math.inf
        assert memory.state_dict() == before
        bounds.append(rule.bound(memory, norm))
    assert bounds == bounds_of(rule, norms)


@pytest.mark.parametrize("rule", SMALL, ids=repr)
@settings(max_examples=25, deadline=None)
@given(norms=st.lists(st.floats(1e-3, 1e3), max_size=50), power=st.integers(-60, 60))
def test_bounds_are_in_the_unit_of_the_norms(rule, norms, power):
    unit = 2.0**power
    scaled, plain = bounds_of(rule, [unit * norm for norm in norms]), bounds_of(rule, norms)
    first = rule.steps if isinstance(rule, ClipAuto) else 0  # while it measures, its bound is 1 in any unit
    assert scaled[:first] == plain[:first]
    assert scaled[first:] == pytest.approx([unit * bound for bound in plain[first:]], rel=1e-12, abs=0)


@settings(max_examples=60, deadline=None)
@given(norms=st.lists(st.floats(1e-150, 1e150), min_size=2, max_size=60), percentile=st.floats(0.1, 100.0))
def test_a_percentile_lies_among_the_last_norms_and_bounds_its_share_of_them(norms, percentile):
    rule = ClipPercentile(percentile, history=10, warmup=1)
    bound, last = bounds_of(rule, norms)[-1], norms[-10:]
    assert min(last) <= bound * (1 + 1e-15) and bound <= max(last) * (1 + 1e-15)
    above = sum(norm > bound * (1 + 1e-15) for norm in last)
    assert above <= len(last) - math.floor(percentile * (len(last) - 1) / 100) - 1


def test_a_percentile_clips_its_share_of_the_steps_at_any_scale():
    for scale in (1e-20, 1.0, 1e20):
        norms = [scale * norm for norm in lognormal(4000)]
        share = sum(norm > bound for norm, bound in zip(norms, bounds_of(ClipPercentile(), norms), strict=True)) / 4000
        assert 0.08 < share < 0.12


def test_a_spike_does_not_move_the_median_bound_that_it_is_held_to():
    norms = lognormal(50, 0.1)
    usual = bounds_of(ClipMedian(), [*norms, 1.0])[-1]
    for spike in (10.0, 1e6, 1e300):
        assert bounds_of(ClipMedian(), [*norms, spike])[-1] == usual
        # One spike more among the 50: the median moves by at most one place.
        after = bounds_of(ClipMedian(), [*norms, spike, 1.0])[-1]
        assert usual <= after <= 2 * sorted(norms)[25]


def test_up_to_half_the_norms_may_be_spikes_before_the_median_follows():
    rule = ClipMedian(2, history=20, warmup=5)
    memory = rule.start()
    bounds_of(rule, [1.0] * 20, memory)
    bounds = bounds_of(rule, [100.0] * 20, memory)
    assert bounds[:10] == [2.0] * 10
    assert bounds[11:] == [200.0] * 9


def test_after_a_lasting_jump_percentile_and_median_follow_and_zclip_does_not():
    """A fact of the published rule, which its docstring tells: clipped norms enter the statistics."""
    norms = lognormal(100, 0.1) + [10 * norm for norm in lognormal(400, 0.1, seed=1)]
    assert bounds_of(ClipPercentile(history=100), norms)[-1] > 10
    assert bounds_of(ClipMedian(), norms)[-1] > 10
    assert bounds_of(ClipZScore(), norms)[-1] < 2


def test_one_spike_leaves_no_trace_in_zclip():
    norms = lognormal(60, 0.1)
    calm = bounds_of(ClipZScore(), [*norms, *norms])
    spiked = bounds_of(ClipZScore(), [*norms, 1e9, *norms[1:]])
    assert spiked[60] < calm[60]
    assert spiked[61:] == pytest.approx(calm[61:], rel=0.02)


def test_auto_says_what_it_chose_and_how_much_of_it_will_be_clipped():
    rule, norms = ClipAuto(steps=50), lognormal(50)
    memory = rule.start()
    assert bounds_of(rule, norms[:49], memory) == [1.0] * 49
    assert (memory.chosen, memory.expected_clip_fraction) == (None, None)
    assert rule.bound(memory, norms[49]) == 1.0
    assert memory.chosen == pytest.approx(float(np.percentile(norms, 90)), rel=1e-12)
    assert memory.expected_clip_fraction == 0.1
    assert bounds_of(rule, [1e9, 1e-9, *norms], memory) == [memory.chosen] * 52
    tied = ClipAuto(50, steps=4).start()
    bounds_of(ClipAuto(50, steps=4), [1.0, 2.0, 2.0, 3.0], tied)
    assert (tied.chosen, tied.expected_clip_fraction) == (2.0, 0.25)  # a norm at the bound is not clipped


# -- resuming ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("problem", PROBLEMS)
@pytest.mark.parametrize("rule", RULES, ids=repr)
def test_a_resumed_memory_gives_the_same_bounds_to_the_last_bit(rule, problem):
    norms = PROBLEMS[problem]
    for stop in {0, 1, len(norms) // 3, len(norms) // 2, len(norms)}:
        memory = rule.start()
        bounds = bounds_of(rule, norms[:stop], memory)
        resumed = rule.start()
        bounds_of(rule, [7.0, 8.0, 9.0], resumed)  # it may have been in use
        resumed.load_state_dict(json.loads(json.dumps(memory.state_dict(), allow_nan=False)))
        assert bounds + bounds_of(rule, norms[stop:], resumed) == bounds_of(rule, norms)
        assert resumed.state_dict() == bounds_end(rule, norms)


def bounds_end(rule, norms):
    memory = rule.start()
    bounds_of(rule, norms, memory)
    return memory.state_dict()


@pytest.mark.parametrize("rule", RULES, ids=repr)
def test_a_memory_is_bounded_and_its_state_is_a_copy(rule):
    memory = rule.start()
    bounds_of(rule, lognormal(1200), memory)
    longest = {ClipPercentile: "history", ClipMedian: "history", ClipZScore: "warmup", ClipAuto: "steps"}[type(rule)]
    state = memory.state_dict()
    assert len(json.dumps(state)) < 300 + 25 * getattr(rule, longest)
    before = json.dumps(state)
    bounds_of(rule, [123.0, 456.0], memory)
    assert json.dumps(state) == before


@pytest.mark.parametrize("rule", RULES, ids=repr)
def test_foreign_states_are_refused_in_four_parts_and_change_nothing(rule):
    memory = rule.start()
    bounds_of(rule, lognormal(5), memory)
    state = memory.state_dict()
    other = replace(rule, norm_type=3.0)
    kind = ClipAuto(steps=9) if isinstance(rule, ClipZScore) else ClipZScore()
    wrong = [
        {},
        {"schema": 1},
        {**state, "schema": 2},
        {**state, "more": 0},
        {key: value for key, value in state.items() if key != "schema"},
        other.start().state_dict(),
        kind.start().state_dict(),
    ]
    for bad in wrong:
        with pytest.raises(OptionError) as caught:
            memory.load_state_dict(bad)
        (problem,) = caught.value.problems
        assert problem.where == "memory of a clip rule"
        assert repr(rule) in problem.expected and problem.got and problem.fix
        assert memory.state_dict() == state


def test_states_of_other_settings_are_refused():
    for rule, changes in (
        (ClipPercentile(), ({"percentile": 80}, {"history": 500}, {"warmup": 9})),
        (ClipMedian(), ({"factor": 3}, {"history": 500}, {"warmup": 9})),
        (ClipZScore(), ({"z": 3}, {"alpha": 0.9}, {"warmup": 9})),
        (ClipAuto(), ({"percentile": 80}, {"steps": 9})),
    ):
        for change in changes:
            with pytest.raises(OptionError, match="the same settings"):
                rule.start().load_state_dict(replace(rule, **change).start().state_dict())


# -- making and writing rules ------------------------------------------------------------------------------------------

BAD = [-1.0, -0.0, 0, 0.0, math.nan, -math.inf, "1.0", True, None, 1j, 10**400, torch.tensor(1.0), [1.0]]
NUMBERS = [(ClipPercentile, "percentile"), (ClipAuto, "percentile"), (ClipMedian, "factor"), (ClipZScore, "z")]
NUMBERS += [(ClipZScore, "alpha")]
COUNTS = [(ClipPercentile, "history"), (ClipPercentile, "warmup"), (ClipMedian, "history"), (ClipMedian, "warmup")]
COUNTS += [(ClipZScore, "warmup"), (ClipAuto, "steps")]
KINDS = [ClipPercentile, ClipMedian, ClipZScore, ClipAuto]


def refused(kind, field, value):
    with pytest.raises(OptionError) as caught:
        kind(**{field: value})
    (problem,) = caught.value.problems
    assert problem.where == f"{kind.__name__}({field}=...)"
    assert problem.got == repr(value)
    assert problem.expected and problem.fix


@pytest.mark.parametrize("bad", [*BAD, math.inf], ids=repr)
@pytest.mark.parametrize(("kind", "field"), NUMBERS)
def test_impossible_numbers_are_refused_in_four_parts(kind, field, bad):
    refused(kind, field, bad)


@pytest.mark.parametrize("bad", [*BAD, 2.5, math.inf, 25.0, np.bool_(True)], ids=repr)
@pytest.mark.parametrize(("kind", "field"), COUNTS)
def test_impossible_counts_are_refused_in_four_parts(kind, field, bad):
    refused(kind, field, bad)


@pytest.mark.parametrize("bad", BAD, ids=repr)
@pytest.mark.parametrize("kind", KINDS)
def test_impossible_norm_types_are_refused(kind, bad):
    refused(kind, "norm_type", bad)


def test_limits_of_the_ranges():
    for kind in (ClipPercentile, ClipAuto):
        assert kind(percentile=100).percentile == 100.0
        refused(kind, "percentile", 100.5)
    refused(ClipZScore, "alpha", 1)
    refused(ClipZScore, "alpha", Fraction(10**30 - 1, 10**30))  # rounds to 1
    refused(ClipZScore, "warmup", 1)  # one norm has no spread
    for kind in (ClipPercentile, ClipMedian):
        refused(kind, "history", 1)
        refused(kind, "history", 10**6 + 1)
        default = kind().history
        assert kind(warmup=default - 1).warmup == default - 1
        refused(kind, "warmup", default)  # there would never be more norms than that


@pytest.mark.parametrize("kind", KINDS)
def test_any_kind_of_number_becomes_a_plain_one_and_norm_type_comes_last(kind):
    assert [field.name for field in fields(kind)][-1] == "norm_type"
    assert kind().norm_type == 2.0
    assert kind(norm_type=math.inf).norm_type == math.inf
    plain = kind()
    numpy = kind(*(np.float64(v) if isinstance(v, float) else np.int64(v) for v in vars(plain).values()))
    assert numpy == plain
    assert [type(value) for value in vars(numpy).values()] == [type(value) for value in vars(plain).values()]
    assert repr(numpy) == repr(plain)


@pytest.mark.parametrize(
    ("rule", "text"),
    [
        (ClipPercentile(90), "percentile:90"),
        (ClipPercentile(99.5, norm_type=1), "percentile:99.5:1"),
        (ClipMedian(3), "median:3"),
        (ClipMedian(), "median:2"),
        (ClipZScore(2.5), "zscore:2.5"),
        (ClipZScore(2.5, norm_type=math.inf), "zscore:2.5:inf"),
        (ClipAuto(), "auto"),
        (ClipAuto(95), "auto:95"),
        (ClipAuto(norm_type=1), "auto:90:1"),
    ],
)
def test_rules_are_written_as_the_option_reads(rule, text):
    assert str(rule) == text
