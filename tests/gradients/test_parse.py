"""Clip options as text: every kind is read and written back, whatever is wrong is told at once."""

from __future__ import annotations

import math

import pytest
from hypothesis import given
from hypothesis import strategies as st
from torch import nn

from holdfast.errors import OptionError
from holdfast.gradients import (
    ROLES,
    ClipAGC,
    ClipAuto,
    ClipBlockRMS,
    ClipMedian,
    ClipNorm,
    ClipPercentile,
    ClipPlan,
    ClipValue,
    ClipZScore,
    GradientGuard,
    parse_clip,
    parse_rule,
)
from holdfast.gradients.clauses import Rule
from holdfast.gradients.parse import EXAMPLES, KINDS

RULES = {
    "none": None,
    "norm:1.0": ClipNorm(1.0),
    "norm:1e-3": ClipNorm(0.001),
    " norm:2\n": ClipNorm(2.0),
    "norm:1:inf": ClipNorm(1.0, math.inf),
    "norm:1.0:1.5": ClipNorm(1.0, 1.5),
    "tensor:1": ClipNorm(1.0, per_tensor=True),
    "tensor:0.5:1": ClipNorm(0.5, 1.0, per_tensor=True),
    "value:0.5": ClipValue(0.5),
    "rms:0.1": ClipBlockRMS(0.1),
    "agc": ClipAGC(),
    "agc:0.02": ClipAGC(0.02),
    "percentile": ClipPercentile(),
    "percentile:75": ClipPercentile(75.0),
    "percentile:75:inf": ClipPercentile(75.0, norm_type=math.inf),
    "zscore": ClipZScore(),
    "zscore:3": ClipZScore(3.0),
    "zscore:3:1": ClipZScore(3.0, norm_type=1.0),
    "median": ClipMedian(),
    "median:3": ClipMedian(3.0),
    "median:2:inf": ClipMedian(2.0, norm_type=math.inf),
    "median:3:3": ClipMedian(3.0, norm_type=3.0),
    "auto": ClipAuto(),
    "auto:50": ClipAuto(50.0),
    "auto:50:inf": ClipAuto(50.0, norm_type=math.inf),
}


@pytest.mark.parametrize("text", RULES, ids=repr)
def test_each_kind_is_read(text):
    assert parse_rule(text) == RULES[text]
    assert parse_clip(text) == ClipPlan(RULES[text], None)


@pytest.mark.parametrize("rule", [rule for rule in RULES.values() if rule is not None], ids=str)
def test_each_kind_is_written_as_it_is_read(rule):
    assert parse_rule(str(rule)) == rule


def test_no_rule_and_no_kind_is_left_out():
    read = {type(rule) for rule in RULES.values() if rule is not None}
    assert read == set(Rule.__args__)
    assert {text.strip().partition(":")[0] for text in RULES} == {kind.name for kind in KINDS}
    for kind in KINDS:
        assert kind.example in EXAMPLES
        rule = parse_rule(kind.example)
        assert (rule is None) == (kind.name == "none")
        assert kind.form.startswith(kind.name) and kind.form.count(":") == len(kind.numbers)


@given(st.sampled_from([kind for kind in KINDS if kind.numbers]), st.floats(0.001, 100), st.floats(0.1, 50))
def test_numbers_are_read_as_they_are_written(kind, number, p):
    number, p = float(f"{number:g}"), float(f"{p:g}")
    rule = parse_rule(f"{kind.name}:{number!r}")
    assert getattr(rule, kind.numbers[0]) == number
    if len(kind.numbers) == 2:
        rule = parse_rule(f"{kind.name}:{number!r}:{p!r}")
        assert (getattr(rule, kind.numbers[0]), rule.norm_type) == (number, p)
    assert parse_rule(str(rule)) == rule


REFUSED = [
    *["", " ", ":", ":1", "1", "none:", "none:1", "Norm:1", "norm", "norm:", "norm:x", "norm:-1", "norm:0", "norm:nan"],
    *["norm:inf", "norm:1:", "norm:1:0", "norm:1:2:3", "norm:1 2", "tensor", "value", "value:0", "value:1:2", "rms"],
    *["rms:-1", "agc:", "agc:0", "agc:1:2", "percentile:0", "percentile:101", "percentile:90:0", "zscore:0"],
    *["median:-3", "auto:", "auto:101", "auto:90:x", "auto:90:2:3", "clip:1", None, 1.0, b"norm:1"],
]


@pytest.mark.parametrize("read", [parse_rule, parse_clip])
@pytest.mark.parametrize("text", REFUSED, ids=repr)
def test_other_texts_are_refused_with_all_kinds(read, text):
    with pytest.raises(OptionError) as caught:
        read(text)
    (problem,) = caught.value.problems
    assert (problem.where, problem.got) == ("clip rule", repr(text))
    assert all(kind.form in problem.expected and kind.example in problem.expected for kind in KINDS)
    assert "norm:1.0" in problem.fix


@pytest.mark.parametrize(
    ("text", "closest"),
    [
        ("percentile:101", "percentile[:NUMBER[:P]] with a number above 0 and up to 100; else "),
        ("norm:1:0", "norm:NUMBER[:P] with a number above 0, or inf; else "),
        ("agc:0", "agc[:NUMBER] with a finite number above 0; else "),
        ("norm:x", "none or one of "),
    ],
)
def test_a_number_that_cannot_work_is_told_first(text, closest):
    with pytest.raises(OptionError) as caught:
        parse_rule(text)
    assert caught.value.problems[0].expected.startswith(closest)


# ---------------------------------------------------------------- by role, and the cap


@pytest.mark.parametrize(
    ("text", "plan"),
    [
        ("recurrent=norm:1,head=none", ClipPlan({"recurrent": ClipNorm(1.0), "head": None})),
        (" head = norm:1 , bias=auto ", ClipPlan({"head": ClipNorm(1.0), "bias": ClipAuto()})),
        ("input=none,bias=median:2:inf", ClipPlan({"input": None, "bias": RULES["median:2:inf"]})),
        ("input=norm:1:inf,bias=norm:2:inf", ClipPlan({"input": ClipNorm(1, math.inf), "bias": ClipNorm(2, math.inf)})),
        ("input=norm:1:1,bias=value:2", ClipPlan({"input": ClipNorm(1, 1), "bias": ClipValue(2)})),
        ("norm:1,cap=norm:5", ClipPlan(ClipNorm(1.0), ClipNorm(5.0))),
        ("cap=norm:5,norm:1", ClipPlan(ClipNorm(1.0), ClipNorm(5.0))),
        ("cap=norm:5", ClipPlan(None, ClipNorm(5.0))),
        ("none,cap=norm:5:1", ClipPlan(None, ClipNorm(5.0, 1.0))),
        ("cap=norm:5,recurrent=rms:1", ClipPlan({"recurrent": ClipBlockRMS(1.0)}, ClipNorm(5.0))),
    ],
)  # fmt: skip
def test_roles_and_cap_are_read(text, plan):
    assert parse_clip(text) == plan
    assert plan.by_role == ("=" in text.replace("cap=", ""))
    assert plan.norm_type == (plan.cap.norm_type if plan.cap else parse_clip(text).norm_type)


def test_a_plan_tells_its_rules_by_the_roles_that_they_are_over():
    assert parse_clip("norm:1").rules(("input", "bias")) == {("input", "bias"): ClipNorm(1.0)}
    assert parse_clip("bias=norm:1,head=none").rules(("input",)) == {("bias",): ClipNorm(1.0)}
    assert parse_clip("none,cap=norm:1").rules(ROLES) == {}


@pytest.mark.parametrize(
    ("text", "expected", "got"),
    [
        ("hidden=norm:1", "each once", "'hidden' in"),
        ("=norm:1", "each once", "'' in"),
        ("Cap=norm:1", "each once", "'Cap' in"),
        ("norm:1,norm:2", "each once", "a rule twice in"),
        ("head=norm:1,head=none", "each once", "head twice in"),
        ("cap=norm:1,cap=norm:1", "each once", "cap twice in"),
        ("norm:1,head=none", "one rule, or ROLE=RULE", "both, in"),
        ("cap=none", "cap=norm:NUMBER[:P]", "'cap=none'"),
        ("cap=tensor:1", "cap=norm:NUMBER[:P]", "'cap=tensor:1'"),
        ("norm:1,cap=auto", "cap=norm:NUMBER[:P]", "'norm:1,cap=auto'"),
        ("head=norm:1:1,bias=norm:1", "one norm_type", "norm_type 1, 2 in"),
        ("norm:1,cap=norm:1:inf", "one norm_type", "norm_type 2, inf in"),
        ("rms:1,cap=norm:1:inf", "one norm_type", "norm_type 2, inf in"),
    ],
)
def test_what_does_not_go_together_is_refused(text, expected, got):
    with pytest.raises(OptionError) as caught:
        parse_clip(text)
    (problem,) = caught.value.problems
    assert problem.where == "clip option"
    assert expected in problem.expected
    assert problem.got.startswith(got) and (repr(text) in problem.got)
    assert problem.fix


def test_everything_that_is_wrong_is_told_at_once():
    with pytest.raises(OptionError) as caught:
        parse_clip("hidden=norm:1,head=norm:x,bias=norm:0,norm:1,head=none")
    got = [problem.got for problem in caught.value.problems]
    assert len(got) == 5
    assert [
        words in told for words, told in zip(["hidden", "norm:x", "norm:0", "head twice", "both"], got, strict=True)
    ] == [True] * 5


@pytest.mark.parametrize(
    "text", ["norm:1", "auto", "recurrent=norm:1,input=agc,head=none", "norm:1,cap=norm:5", "none"]
)
def test_a_guard_takes_what_was_read(text):
    plan = parse_clip(text)
    model = nn.ModuleDict({"rnn": nn.LSTM(2, 3), "out": nn.Linear(3, 1)})
    guard = GradientGuard(model, plan.rule, cap=plan.cap)
    present = ("input", "recurrent", "bias", "head")
    assert {clause.roles: clause.rule for clause in guard.clauses} == plan.rules(present)
