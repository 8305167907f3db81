"""One run: deterministic, paired between arms, clipped where it says, and told as it went."""

from __future__ import annotations

import math

import pytest
import torch

from holdfast.gradients import find_roles
from holdfast.studies.grid import Trial
from holdfast.studies.tasks import TASKS, head_loss
from holdfast.studies.train import SCOPES, Recaller, choose_bound, guarded, train_trial

SMALL = {"study": "s", "task": "adding", "length": 12, "hidden_size": 6, "steps": 60, "batch_size": 8, "lr": 0.05}


def trial(**fields):
    return Trial(**{**SMALL, **fields})


def told(row):
    return {name: repr(value) for name, value in row.items() if name != "seconds"}


@pytest.mark.parametrize("fields", [{}, {"cell": "lstm", "optimizer": "adamw"}, {"head": "gaussian"}])
def test_a_trial_comes_out_the_same_again(fields):
    assert told(train_trial(trial(**fields))) == told(train_trial(trial(**fields)))


def test_arms_start_from_the_same_weights():
    one, other = Recaller(trial(), TASKS["adding"]), Recaller(trial(rule="norm:1", scope="all"), TASKS["adding"])
    assert all(torch.equal(a, b) for a, b in zip(one.parameters(), other.parameters(), strict=True))
    third = Recaller(trial(seed=1), TASKS["adding"])
    assert not torch.equal(one.head.weight, third.head.weight)


def test_a_bound_that_never_binds_changes_nothing():
    plain, bounded = train_trial(trial()), train_trial(trial(rule="norm:1e9", scope="all"))
    assert bounded["clip_fraction"] == 0
    assert bounded["final_error"] == plain["final_error"]


@pytest.mark.parametrize("scope", [scope for scope in SCOPES if scope != "none"])
def test_a_scope_clips_its_roles_and_no_others(scope):
    settings = trial(rule="norm:1e-4", scope=scope)
    model = Recaller(settings, TASKS["adding"])
    guard, _ = guarded(settings, model, 1e-4)
    batch = TASKS["adding"].draw(8, 12, torch.Generator().manual_seed(0))
    head_loss("squared", model(batch.x_BTD), batch.y).backward()
    before = {name: weight.grad.norm().item() for name, weight in model.named_parameters()}
    guard.step(torch.optim.SGD(model.parameters(), lr=0.0))
    for name, role in find_roles(model).items():
        after = model.get_parameter(name).grad.norm().item()
        assert (after < 1.1e-4) if role in SCOPES[scope] else (after == before[name])


def test_a_run_that_is_not_finite_ends_after_ten_steps_and_counts_as_diverged():
    row = train_trial(trial(cell="rnn-relu", init="identity", lr=1e6, length=40))
    assert row["diverged"]
    assert row["nonfinite_steps"] >= 10
    assert row["done_steps"] < 60
    assert math.isnan(row["final_error"])


def test_a_solved_problem_ends_its_run():
    fast = {"head": "sigmoid", "optimizer": "adamw", "lr": 1e-2, "rule": "norm:1", "scope": "recurrent"}
    row = train_trial(Trial(study="s", task="temporal-order", length=20, steps=1500, **fast))
    assert row["solved_step"] == row["done_steps"] < 1500
    assert row["final_error"] < TASKS["temporal-order"].solved


@pytest.mark.parametrize("placement", ["update", "backprop"])
def test_a_share_of_the_steps_is_clipped(placement):
    row = train_trial(trial(rule="share:0.5", scope="all", placement=placement, steps=300, cell="rnn-tanh", lr=0.02))
    assert 0.2 < row["clip_fraction"] < 0.8
    assert 0 < row["bound"] < math.inf


def test_clipping_before_the_update_keeps_the_direction_and_inside_backpropagation_does_not():
    update = train_trial(trial(rule="norm:0.01", scope="all"))
    assert update["cosine"] == pytest.approx(1.0)
    assert update["clip_fraction"] == 1.0
    backprop = train_trial(trial(rule="norm:0.0005", scope="all", placement="backprop"))
    assert backprop["cosine"] < 0.999
    assert backprop["flipped"] > 0


@pytest.mark.parametrize(("rule", "bound"), [("none", math.inf), ("norm:0.3", 0.3), ("auto", math.nan)])
def test_the_bound_of_a_rule_is_told(rule, bound):
    settings = trial(rule=rule)
    assert choose_bound(settings, TASKS["adding"], Recaller(settings, TASKS["adding"])) == pytest.approx(
        bound, nan_ok=True
    )
