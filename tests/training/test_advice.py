"""What a fit says at its end: advice that can be typed and does what it promises, retreats, bounds that were chosen."""

from __future__ import annotations

import re
from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from tests.training.small import assert_same_bits, config, make_network, make_task
from tests.training.test_loop import Run, give_up, stop_at

from holdfast.gradients import ROLES, combine_norms, parse_clip
from holdfast.telemetry import RetreatRecord, StepRecord, TelemetryLog, ThresholdRecord
from holdfast.training import TrainingConfig, fit_notes, train
from holdfast.training.advice import ALWAYS, FEWEST_STEPS, clip_advice


def records(norms, clip, roles=ROLES):
    """Steps whose input, recurrent and head gradients are 3, 4 and 12 parts of each norm, clipped as the rules say."""
    plan = parse_clip(clip)
    found = []
    for step, norm in enumerate(norms, start=1):
        before = {"input": 3 * norm, "recurrent": 4 * norm, "head": 12 * norm}
        after = dict(before)
        for covered, rule in plan.rules(roles).items():
            joint = combine_norms([after[role] for role in covered if role in after], plan.norm_type)
            for role in covered:
                if role in after and joint > rule.max_norm:
                    after[role] *= rule.max_norm / joint
        total = combine_norms(list(after.values()), plan.norm_type)
        if plan.cap and total > plan.cap.max_norm:
            after = {role: value * plan.cap.max_norm / total for role, value in after.items()}
        coefs = {role: after[role] / before[role] if before[role] else 1.0 for role in before}
        found.append(
            StepRecord(
                step=step,
                loss=1.0,
                lr=0.01,
                total_norm=combine_norms(list(before.values()), plan.norm_type),
                clipped_norm=combine_norms(list(after.values()), plan.norm_type),
                clip_coef=min(coefs.values()),
                cosine=1.0,
                role_norms=before,
                role_coefs=coefs,
                role_clipped_norms=after,
                clipped=after != before,
                skipped=False,
                nonfinite=(),
                seconds=0.01,
            )
        )
    return found


def share_cut(norms, clip, roles=ROLES):
    found = records(norms, clip, roles)
    return sum(record.clipped for record in found) / len(found)


NORMS = np.random.default_rng(0).lognormal(size=400).tolist()  # the norm of all three is 13 times as large


def told(clip, norms=NORMS, **options):
    return clip_advice(records(norms, clip, options.get("clip_roles") or ROLES), TrainingConfig(clip=clip, **options))


def options_in(text):
    return re.findall(r"--clip (\S+?)(?=,? |$)", text)


# ---------------------------------------------------------------- each branch


def test_under_adamw_a_bound_that_always_binds_changes_little_and_another_is_offered():
    text = told("norm:0.001")
    assert text.startswith("clip norm:0.001 cut the gradient in 100 % of the steps. The updates of AdamW do not depend")
    (offered,) = options_in(text)
    assert text.endswith(f"To cut only the largest 10 %: --clip {offered}")
    assert share_cut(NORMS, offered) == pytest.approx(0.1, abs=0.005)


@pytest.mark.parametrize("lr", [None, 0.2])
def test_under_sgd_it_is_the_step_length(lr):
    text = told("norm:0.001", optimizer="sgd", lr=lr)
    peak = lr or 0.05
    assert f"the peak {peak} (learning rate) x 0.001 = {peak * 0.001:.3g}, before momentum" in text
    assert "AdamW" not in text
    (offered,) = options_in(text)
    longest = float(re.search(r"for steps of up to (\S+):", text)[1])
    assert longest == pytest.approx(peak * float(offered.removeprefix("norm:")), rel=0.01)
    assert share_cut(NORMS, offered) == pytest.approx(0.1, abs=0.005)


@pytest.mark.parametrize("optimizer", ["adamw", "sgd"])
def test_a_bound_that_was_never_met_is_harmless(optimizer):
    text = told("norm:1000", optimizer=optimizer)
    largest = 13 * max(NORMS)
    assert text.startswith(
        f"clip norm:1000 never cut a gradient: the largest norm of 400 steps was {largest:.3g}. That"
    )
    one, ten = options_in(text)
    assert share_cut(NORMS, one) == pytest.approx(0.01, abs=0.005)
    assert share_cut(NORMS, ten) == pytest.approx(0.1, abs=0.005)


def test_what_cuts_now_and_then_needs_no_word():
    for q in (0.11, 0.5, 0.99):
        clip = f"norm:{13 * np.quantile(NORMS, q):.6g}"
        assert 0 < share_cut(NORMS, clip) < ALWAYS
        assert told(clip) is None


def test_where_words_begin():
    for count in (FEWEST_STEPS - 1, FEWEST_STEPS):
        assert (told("norm:1000", NORMS[:count]) is None) == (count < FEWEST_STEPS)
    nine_of_ten = [1.0] * 9 + [0.01]
    assert share_cut(nine_of_ten, "norm:1") == ALWAYS and told("norm:1", nine_of_ten)
    assert told("norm:1", [*nine_of_ten, 0.01]) is None
    assert clip_advice([], TrainingConfig()) is None
    assert told("none") is told("recurrent=none,head=none") is None


# ---------------------------------------------------------------- other rules than one norm


def test_roles_of_the_rule_decide_and_are_repeated():
    text = told("norm:0.001", clip_roles=("recurrent",))
    assert text.endswith(" --clip-roles recurrent")
    assert float(options_in(text)[0].removeprefix("norm:")) == pytest.approx(4 * np.quantile(NORMS, 0.9), rel=0.01)
    assert "--clip-roles" not in told("norm:0.001")


def test_rules_by_role_are_offered_by_role_and_those_that_do_not_bind_stay():
    (offered,) = options_in(told("input=norm:900,recurrent=norm:0.001,head=none"))
    input_rule, recurrent_rule = offered.split(",")
    assert input_rule == "input=norm:900"
    assert float(recurrent_rule.removeprefix("recurrent=norm:")) == pytest.approx(4 * np.quantile(NORMS, 0.9), rel=0.01)
    one, ten = options_in(told("input=norm:900,recurrent=norm:900,head=none"))
    for offered, q in ((one, 0.99), (ten, 0.9)):
        bounds = [float(bound) for bound in re.findall(r"norm:([^,]+)", offered)]
        assert bounds == pytest.approx([3 * np.quantile(NORMS, q), 4 * np.quantile(NORMS, q)], rel=0.01)


def test_a_cap_that_binds_is_told_apart_from_the_rule_before_it():
    (offered,) = options_in(told("norm:1000,cap=norm:0.001"))
    rule, cap = offered.split(",")
    assert rule == "norm:1000"
    assert float(cap.removeprefix("cap=norm:")) == pytest.approx(13 * np.quantile(NORMS, 0.9), rel=0.01)
    (offered,) = options_in(told("norm:0.001,cap=norm:5000"))
    assert offered.endswith(",cap=norm:5000") and not offered.startswith("norm:0.001")
    assert share_cut(NORMS, offered) == pytest.approx(0.1, abs=0.005)
    (offered,) = options_in(told("none,cap=norm:0.001"))
    assert share_cut(NORMS, offered) == pytest.approx(0.1, abs=0.005)


def test_norms_are_of_the_type_of_the_rule():
    text = told("norm:0.001:inf", clip_roles=ROLES)
    (offered,) = options_in(text)
    assert offered.endswith(":inf")
    assert float(offered.split(":")[1]) == pytest.approx(12 * np.quantile(NORMS, 0.9), rel=0.01)


def test_gradients_that_are_all_zero_offer_no_bound_that_cannot_work():
    text = told("norm:1", [0.0] * FEWEST_STEPS)
    assert "the largest norm of 100 steps was 0." in text
    assert options_in(text) == ["norm:1", "norm:1"]


@given(
    st.lists(st.floats(1e-30, 1e30), min_size=FEWEST_STEPS, max_size=FEWEST_STEPS),
    st.sampled_from(["norm:1e-33", "norm:1e33", "head=norm:1e-33", "norm:1e-33:1", "cap=norm:1e33"]),
    st.sampled_from(["adamw", "sgd"]),
)
@settings(max_examples=40, deadline=None)
def test_whatever_is_offered_can_be_typed_and_cuts_at_most_what_it_says(norms, clip, optimizer):
    text = told(clip, norms, optimizer=optimizer)
    offered = options_in(text)
    assert offered
    for option, share in zip(offered[::-1], (0.1, 0.01), strict=False):
        near = [norm * 0.99 for norm in norms]  # three digits round by half a per cent, which may take in neighbours
        assert share_cut(near, option) <= share + 1e-9


# ---------------------------------------------------------------- real fits


@pytest.mark.parametrize("optimizer", ["adamw", "sgd"])
def test_a_fit_that_clips_always_says_so_and_taking_its_advice_helps(optimizer):
    def fit(clip):
        options = config(max_steps=120, clip=clip, optimizer=optimizer, lr=1e-3)
        with TelemetryLog() as log:
            train(make_task(), options, log)
        return log, fit_notes(log, options)

    log, notes = fit("norm:1e-5")
    assert sum(record.clipped for record in log.steps) >= 0.9 * 120
    (advice,) = notes
    (offered,) = options_in(advice)
    log, notes = fit(offered)
    assert notes == []
    assert 0 < sum(record.clipped for record in log.steps) < 0.5 * 120


def auto_run(folder, steps=150, **options):
    run = Run(folder, max_steps=steps, clip="auto:75", **options)
    shown = []
    run.go(show=shown.append)
    return run, shown


def test_auto_says_what_it_chose_at_once_and_at_the_end_what_came_of_it(tmp_path):
    run, shown = auto_run(tmp_path)
    (chosen,) = run.log.news
    assert isinstance(chosen, ThresholdRecord)
    assert {outlook.step: outlook.news for outlook in shown if outlook.news} == {chosen.step: (str(chosen),)}
    before = [record for record in run.log.steps if record.step <= chosen.step]
    assert all(record.clipped == (combine_norms(list(record.role_norms.values())) > 1) for record in before)
    norms = [combine_norms([record.role_norms[role] for role in chosen.roles]) for record in before]
    norms = [norm for norm in norms if norm > 0]
    assert chosen.max_norm == pytest.approx(np.percentile(norms, 75), rel=1e-12)
    assert chosen.expected_clip_fraction == np.mean([norm > chosen.max_norm for norm in norms]) == 0.25
    after = [record.clipped for record in run.log.steps if record.step > chosen.step]
    (note,) = [note for note in fit_notes(run.log, config(clip="auto:75")) if "chose" in note]
    assert note == f"{chosen}; it clipped {100 * np.mean(after):.3g} % of those that came after"


def test_auto_that_never_came_to_choose_says_so(tmp_path):
    run, _ = auto_run(tmp_path, steps=20)
    notes = fit_notes(run.log, config(clip="auto:75"))
    assert notes == ["clip auto:75 was still measuring when the fit ended, and clipped at 1"]


HISTORY = [
    "percentile:50",
    "zscore:1",
    "median:1",
    "auto:50",
    "recurrent=median:1,input=auto:50,bias=norm:0.1,cap=norm:2",
]


@pytest.mark.parametrize("clip", HISTORY)
def test_rules_with_a_history_resume_to_the_same_bits(tmp_path, clip):
    options = {"clip": clip, "max_steps": 150}
    (tmp_path / "whole").mkdir()
    whole = Run(tmp_path / "whole", **options).go()
    assert any(record.clipped for record in whole.log.steps)
    run = Run(tmp_path, **options)
    for resume, killed in ((False, 63), (True, 131)):
        with pytest.raises(KeyboardInterrupt):
            run.go(resume=resume, show=stop_at(killed, give_up))
    one, other = run.go(resume=True).ended(), whole.ended()
    assert one[2]["guard"]["memories"] == other[2]["guard"]["memories"] != []
    assert_same_bits(one, other)


# ---------------------------------------------------------------- notes


def test_notes_tell_what_happened_in_its_order():
    news = RetreatRecord(step=3, first_bad_step=2, to_step=0, retreats=1, lr_factor=0.25, nonfinite=("loss",))
    chosen = ThresholdRecord(step=4, rule="auto", roles=("input",), max_norm=1.0, expected_clip_fraction=0.1)
    steps = records(NORMS[:3], "norm:25")
    steps[1] = replace(steps[1], skipped=True)
    with TelemetryLog() as log:
        for record in [*steps, news, chosen]:
            log.append(record)
    left_out = "1 of 3 steps were not finite and changed nothing"
    assert fit_notes(log, TrainingConfig(clip="auto")) == [str(news), str(chosen), left_out]


def test_a_diverging_run_tells_its_retreats(tmp_path):
    run = Run(tmp_path, lr=4e3, clip="none", max_steps=100).go()
    notes = fit_notes(run.log, config(clip="none"))
    assert notes[:-1] == [str(record) for record in run.log.news] != []
    skipped = sum(record.skipped for record in run.log.steps)
    assert notes[-1] == f"{skipped} of 100 steps were not finite and changed nothing"


def test_an_ordinary_fit_has_nothing_to_say():
    with TelemetryLog() as log:
        train(make_task(network=make_network()), config(max_steps=60, clip="norm:2"), log)
    assert fit_notes(log, config()) == []
