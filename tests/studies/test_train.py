"""One run: what it measures equals a plain loop, arms differ in nothing but the arm, and lost runs say so."""

from __future__ import annotations

import math
from dataclasses import replace

import pytest
import torch
from tests.reference import trials as twin

from holdfast.errors import OptionError
from holdfast.flow import omega
from holdfast.gradients import ROLES, find_roles
from holdfast.studies.grid import Trial
from holdfast.studies.tasks import TASKS, Examples, head_loss
from holdfast.studies.train import (
    EVALUATED,
    HELD_OUT_SEED,
    MOST_BAD_STEPS,
    PILOT_STEPS,
    SCOPES,
    SMALLEST_BOUND,
    Recaller,
    adjoint_growth,
    choose_bound,
    guarded,
    memory_of,
    pilot_norms,
    train_trial,
)

SMALL = Trial(study="s", task="adding", length=8, hidden_size=4, batch_size=8, steps=20)
ARMS = [
    {"scope": "none", "rule": "none"},
    *({"scope": scope, "rule": "norm:0.2"} for scope in SCOPES),
    {"rule": "norm:0.01", "placement": "backprop"},
]


def told(row):
    """Everything but the clock; nan as text, since it is not equal to itself."""
    return {name: repr(value) for name, value in row.items() if name != "seconds"}


def built(trial):
    return Recaller(trial, TASKS[trial.task])


@pytest.fixture
def batches(monkeypatch):
    """All batches that the adding task gives away, in their order."""
    seen, task = [], TASKS["adding"]

    def draw(B, T, generator):
        seen.append(task.draw(B, T, generator))
        return seen[-1]

    monkeypatch.setitem(TASKS, "adding", replace(task, draw=draw))
    return seen


@pytest.mark.parametrize("arm", ARMS, ids=str)
def test_a_trial_gives_the_same_again_and_leaves_the_global_generator_alone(arm):
    torch.manual_seed(1)
    first = train_trial(replace(SMALL, **arm))
    torch.manual_seed(2)
    state = torch.get_rng_state()
    assert told(train_trial(replace(SMALL, **arm))) == told(first)
    assert torch.equal(torch.get_rng_state(), state)
    assert told(train_trial(replace(SMALL, **arm, seed=1))) != told(first)


def test_arms_of_one_seed_see_the_same_batches_from_the_same_start(batches):
    seen, starts = [], []
    for arm in ARMS:
        batches.clear()
        trial = replace(SMALL, **arm)
        train_trial(trial)
        seen.append([batch.x_BTD for batch in batches])
        starts.append([weight.detach() for weight in built(trial).parameters()])
    assert len(seen[0]) == 1 + SMALL.steps  # held out, and one for each step
    for other, start in zip(seen[1:], starts[1:], strict=True):
        assert all(map(torch.equal, other, seen[0])) and all(map(torch.equal, start, starts[0]))
    batches.clear()
    train_trial(replace(SMALL, seed=1))
    assert torch.equal(batches[0].x_BTD, seen[0][0])  # held-out sequences are those of every seed
    assert not any(map(torch.equal, [batch.x_BTD for batch in batches[1:]], seen[0][1:]))
    assert not torch.equal(starts[0][0], next(built(replace(SMALL, seed=1)).parameters()))


@pytest.mark.parametrize("scope", SCOPES)
@pytest.mark.parametrize("task", ["adding", "copy"])
def test_a_run_is_the_plain_loop(task, scope):
    trial = replace(SMALL, task=task, scope=scope, rule="norm:0.15", lr=0.05)
    row = train_trial(trial)
    model, generator = built(trial), torch.Generator().manual_seed(SMALL.seed + 1)
    data = [TASKS[task].draw(8, 8, generator) for _ in range(trial.steps)]
    expected = twin.run(
        model,
        lambda model, batch: head_loss("squared", model(batch.x_BTD), batch.y),
        data,
        scope=scope,
        bound=0.15,
        lr=0.05,
    )
    for name, value in expected.items():
        assert row[name] == pytest.approx(value, rel=1e-4, abs=1e-9), name
    held_out = TASKS[task].draw(EVALUATED, 8, torch.Generator().manual_seed(HELD_OUT_SEED))
    with torch.no_grad():
        error = TASKS[task].error(model(held_out.x_BTD), held_out.y)
    assert row["final_error"] == pytest.approx(error, rel=1e-4)
    assert row["relative_error"] == pytest.approx(error / TASKS[task].baseline, rel=1e-4)
    assert (row["bound"], row["done_steps"], row["nonfinite_steps"], row["flipped"]) == (0.15, 20, 0, 0.0)
    assert 0 < row["clip_fraction"] <= 1 if scope != "none" else row["clip_fraction"] == 0


@pytest.mark.parametrize(("scope", "covered"), SCOPES.items())
def test_a_scope_touches_the_gradients_of_its_roles_and_no_other(scope, covered):
    model = built(replace(SMALL, scope=scope, rule="norm:0.5"))
    roles = find_roles(model)
    assert set(roles.values()) == {"input", "recurrent", "bias", "head"}
    guard, _ = guarded(replace(SMALL, scope=scope, rule="norm:0.5"), model, 0.5)
    for parameter in model.parameters():
        parameter.grad = torch.full_like(parameter, 3.0)
    guard.step(torch.optim.SGD(model.parameters(), lr=0.0))
    for name, parameter in model.named_parameters():
        assert bool((parameter.grad == 3).all()) == (roles[name] not in covered), name
    touched = [parameter.grad for name, parameter in model.named_parameters() if roles[name] in covered]
    if scope == "per-role":
        for role in ("input", "recurrent", "bias", "head"):
            own = [parameter.grad for name, parameter in model.named_parameters() if roles[name] == role]
            assert twin.norm(own) == pytest.approx(0.5)
    elif touched:
        assert twin.norm(touched) == pytest.approx(0.5)


def test_clipping_the_head_alone_leaves_the_first_recurrent_step_as_it_is():
    """One step of gradient descent: what the scope covers moves less, the rest moves as without clipping."""
    moved = {}
    for scope in ("none", "head", "recurrent"):
        trial = replace(SMALL, scope=scope, rule="norm:0.001")
        model = built(trial)
        before = {name: weight.detach().clone() for name, weight in model.named_parameters()}
        guard, _ = guarded(trial, model, 0.001)
        batch = TASKS["adding"].draw(8, 8, torch.Generator().manual_seed(0))
        head_loss("squared", model(batch.x_BTD), batch.y).backward()
        guard.step(torch.optim.SGD(model.parameters(), lr=1.0))
        moved[scope] = {
            name: (weight.detach() - before[name]).norm().item() for name, weight in model.named_parameters()
        }
    assert moved["head"]["recurrent.weight_hh_l0"] == moved["none"]["recurrent.weight_hh_l0"]
    assert moved["head"]["head.weight"] < moved["none"]["head.weight"]
    assert moved["recurrent"]["head.weight"] == moved["none"]["head.weight"]
    assert moved["recurrent"]["recurrent.weight_hh_l0"] == pytest.approx(0.001, rel=1e-2)


def test_a_run_that_learns_says_at_which_step():
    trial = replace(SMALL, cell="lstm", length=4, hidden_size=16, batch_size=32, optimizer="adamw", lr=0.02, steps=400)
    row = train_trial(trial)
    assert row["solved_step"] == row["done_steps"] < 400 and row["solved_step"] % 50 == 0
    assert row["final_error"] < TASKS["adding"].solved and not row["diverged"]
    early = train_trial(replace(trial, steps=int(row["solved_step"]) - 50))
    assert math.isnan(early["solved_step"]) and early["final_error"] >= TASKS["adding"].solved
    assert early["done_steps"] == row["solved_step"] - 50
    assert type(row["solved_step"]) is type(early["solved_step"]) is float  # one type, one column


@pytest.mark.parametrize("task", ["adding", "copy", "temporal-order"])
def test_a_lost_run_stops_after_ten_bad_steps(task):
    row = train_trial(replace(SMALL, task=task, length=12, cell="rnn-relu", init="identity", lr=1e30, steps=200))
    assert row["nonfinite_steps"] == MOST_BAD_STEPS <= row["done_steps"] < 20
    assert row["diverged"] and math.isnan(row["final_error"]) and math.isnan(row["solved_step"])
    assert math.isfinite(row["growth_before"]) and row["total_norm"] > 0


def test_a_run_that_gets_worse_without_ever_being_infinite_diverged_too():
    row = train_trial(replace(SMALL, lr=8.0, rule="norm:1", scope="all"))
    assert row["nonfinite_steps"] == 0 and row["relative_error"] > 2 and row["diverged"]
    assert not train_trial(replace(SMALL, lr=0.01))["diverged"]


def test_one_bad_batch_at_the_end_costs_one_step_and_hides_no_error(monkeypatch):
    task, count = TASKS["adding"], 0

    def draw(B, T, generator):
        nonlocal count
        count += 1
        batch = task.draw(B, T, generator)
        return Examples(batch.x_BTD * (math.inf if count == 1 + SMALL.steps else 1), batch.y)

    monkeypatch.setitem(TASKS, "adding", replace(task, draw=draw))
    row = train_trial(SMALL)
    monkeypatch.setitem(TASKS, "adding", task)
    assert row["nonfinite_steps"] == 1 and row["diverged"]
    assert row["final_error"] == train_trial(replace(SMALL, steps=SMALL.steps - 1))["final_error"]


@pytest.mark.parametrize(
    ("scope", "share"), [("none", 0.5), ("all", 0.1), ("all", 0.9), ("recurrent", 0.25), ("per-role", 0.5)]
)
def test_a_share_bounds_that_share_of_the_first_steps(scope, share):
    trial = replace(SMALL, scope=scope, rule=f"share:{share}", lr=0.01, hidden_size=3, length=5)
    model = built(trial)
    norms = pilot_norms(trial, TASKS["adding"], model)
    bound = choose_bound(trial, TASKS["adding"], model)
    assert len(norms) == PILOT_STEPS
    assert sum(norm > bound for norm in norms) == pytest.approx(share * PILOT_STEPS, abs=1)
    assert all(map(torch.equal, model.parameters(), built(trial).parameters()))  # the pilot was a copy


@pytest.mark.parametrize("arm", [{"scope": "all"}, {"scope": "per-role"}, {"placement": "backprop"}], ids=str)
def test_a_run_under_a_share_clips_about_that_share(arm):
    row = train_trial(replace(SMALL, **arm, rule="share:0.5", lr=0.01, steps=PILOT_STEPS))
    assert row["clip_fraction"] == pytest.approx(0.5, abs=0.2)
    assert row["done_steps"] == PILOT_STEPS and 0 < row["bound"] < math.inf


@pytest.mark.parametrize("placement", ["update", "backprop"])
def test_a_share_is_found_where_the_unclipped_run_is_lost(placement):
    trial = replace(SMALL, cell="rnn-relu", init="identity", lr=1e4, scope="all", rule="share:0.5", steps=5)
    norms = pilot_norms(replace(trial, placement=placement), TASKS["adding"], built(trial))
    assert len(norms) < 60 and any(map(math.isfinite, norms))
    row = train_trial(replace(trial, placement=placement))
    assert 0 < row["bound"] < math.inf and row["done_steps"] == 5


def test_a_share_of_gradients_that_are_zero_is_a_bound_that_no_gradient_meets():
    trial = replace(SMALL, scope="recurrent", rule="share:0.5")
    model = built(trial)
    torch.nn.init.zeros_(model.head.weight)
    frozen = replace(trial, lr=0.0)
    assert choose_bound(frozen, TASKS["adding"], model) == SMALLEST_BOUND


def test_adjoints_that_are_clipped_turn_the_gradient():
    trial = replace(SMALL, rule="norm:0.002", placement="backprop", length=12)
    row = train_trial(trial)
    assert row["clip_fraction"] == 1.0 and 0 < row["cosine"] < 0.999 and 0 < row["flipped"] < 1
    exact = train_trial(replace(trial, rule="norm:1000"))
    plain = train_trial(replace(trial, rule="none", placement="update"))
    assert (exact["clip_fraction"], exact["flipped"]) == (0.0, 0.0) and exact["cosine"] == pytest.approx(1)
    for name in ("final_error", "total_norm", "head_share", "growth_before", "growth_after"):
        assert exact[name] == pytest.approx(plain[name])  # no adjoint passes the bound: the run is the plain one


def test_looking_at_growth_and_error_counts_as_no_backward_pass():
    trial = replace(SMALL, rule="norm:0.002", placement="backprop")
    model = built(trial)
    guard, layer = guarded(trial, model, 0.002)
    held_out = TASKS["adding"].draw(16, 8, torch.Generator().manual_seed(0))
    assert layer is model.recurrent and guard.clauses == ()
    clipped = adjoint_growth(trial, model, held_out)
    assert layer.summary().backwards == 0 and clipped == adjoint_growth(trial, built(trial), held_out)


def test_growth_of_a_linear_recurrence_is_its_matrix():
    trial = replace(SMALL, cell="rnn-linear", length=20)
    model = built(trial)
    model.recurrent.weight_hh_l0.data *= 0.5  # half an orthogonal matrix
    held_out = TASKS["adding"].draw(16, 20, torch.Generator().manual_seed(0))
    found = adjoint_growth(trial, model, held_out)
    assert found.rate == pytest.approx(0.5, rel=1e-5)
    assert memory_of(found, 20) == 7  # 0.5^6 is above a hundredth, 0.5^7 is not
    assert memory_of(replace(found, memory_length=None), 20) == 20
    model.recurrent.weight_hh_l0.data.fill_(math.nan)
    assert adjoint_growth(trial, model, held_out) is None
    assert math.isnan(memory_of(None, 20))


def test_a_penalty_is_omega_times_its_strength_in_every_step():
    trial = replace(SMALL, penalty="omega:0.3", lr=0.05)
    row = train_trial(trial)
    model, generator = built(trial), torch.Generator().manual_seed(SMALL.seed + 1)
    data = [TASKS["adding"].draw(8, 8, generator) for _ in range(trial.steps)]

    def penalised(model, batch):
        def loss():
            return head_loss("squared", model(batch.x_BTD), batch.y)

        return loss() + 0.3 * omega(model, loss)

    expected = twin.run(model, penalised, data, scope="none", bound=1.0, lr=0.05)
    assert row["total_norm"] == pytest.approx(expected["total_norm"], rel=1e-4)
    assert row["final_error"] != train_trial(replace(trial, penalty="none"))["final_error"]
    held_out = TASKS["adding"].draw(EVALUATED, 8, torch.Generator().manual_seed(HELD_OUT_SEED))
    with torch.no_grad():
        assert row["final_error"] == pytest.approx(TASKS["adding"].error(model(held_out.x_BTD), held_out.y), rel=1e-4)


def test_a_bound_that_never_binds_changes_no_bit():
    plain, bounded = train_trial(SMALL), train_trial(replace(SMALL, rule="norm:1e9", scope="all"))
    assert (bounded["clip_fraction"], bounded["bound"]) == (0, 1e9)
    assert bounded["final_error"] == plain["final_error"]


def test_rules_without_one_fixed_norm_run_too():
    for rule in ("auto", "value:0.01", "agc:0.01"):
        row = train_trial(replace(SMALL, scope="all-but-head", rule=rule, steps=60))
        assert math.isnan(row["bound"]) and math.isfinite(row["final_error"])
    assert train_trial(SMALL)["bound"] == math.inf


def test_what_makes_no_run_is_refused_all_at_once():
    wrong = {"task": "xor", "head": "flat", "scope": "most", "placement": "after", "optimizer": "adam", "scale": 2.0}
    with pytest.raises(OptionError) as caught:
        train_trial(replace(SMALL, **wrong, rule="share:2"))
    assert [problem.where for problem in caught.value.problems] == [
        *(f"{name} of a trial" for name in ("task", "head", "scope", "placement", "optimizer", "scale")),
        "rule of a trial",
    ]


@pytest.mark.parametrize(
    ("fields", "match"),
    [
        ({"task": "copy", "length": 6}, "at least 7 for copy"),
        ({"penalty": "floss:1"}, "omega:STRENGTH"),
        ({"penalty": "omega:-1"}, "omega:STRENGTH"),
        ({"penalty": "omega:much"}, "omega:STRENGTH"),
        ({"rule": "share:half"}, "0 < Q < 1"),
        ({"rule": "recurrent=norm:1"}, "clip rule"),
        ({"rule": "norm:1,cap=norm:2"}, "clip rule"),
        ({"rule": "auto", "placement": "backprop"}, "ClipAdjoint"),
    ],
)
def test_settings_that_would_be_passed_over_are_refused(fields, match):
    with pytest.raises(OptionError, match=match):
        train_trial(replace(SMALL, **fields))


def test_scopes_are_made_of_all_roles():
    assert set(SCOPES["all"]) == set(SCOPES["per-role"]) == set(SCOPES["all-but-head"]) | {"head"} == set(ROLES)
