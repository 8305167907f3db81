"""Penalties in training: what is added, what is recorded, what a bad one costs, and what they are for."""

from __future__ import annotations

import copy
import math
from dataclasses import fields, replace

import pytest
import torch
from tests.reference import training as twin
from tests.training.small import ANCHORS, CONTEXT, HORIZON, SEASON, assert_same_bits, config, make_network, make_task
from tests.training.test_loop import Run, press_ctrl_c, stop_at
from tests.training.test_step import Bench

from holdfast.errors import OptionError, TrainingError
from holdfast.flow import adjoints, flossing, growth, layer_inputs, omega
from holdfast.networks import ForecastNetwork, NetworkConfig, batch_loss, make_head
from holdfast.telemetry import TelemetryLog
from holdfast.training import Penalty, parse_penalty, train
from holdfast.training.penalty import WINDOWS, name_penalty
from holdfast.windows import Batch

BOTH = ["omega:0.5", "floss:0.25"]
each_penalty = pytest.mark.parametrize("penalty", BOTH)


@pytest.mark.parametrize("text", ["omega:0.5", "floss:1", "omega:1e-06"])
def test_the_text_of_a_penalty_is_read_and_said(text):
    penalty = parse_penalty(text)
    assert str(penalty) == text and parse_penalty(str(penalty)) == penalty
    assert penalty == Penalty(text.split(":")[0], float(text.split(":")[1]))


def test_no_penalty():
    assert parse_penalty("none") is None
    with pytest.raises(OptionError, match="penalty"):
        parse_penalty("omega")


def by_hand(bench, batch, text):
    """Strength times the penalty over the first windows, from the pieces that any loop can use."""
    kind, strength = text.split(":")
    network, scale_B = bench.network, bench.task.error_scale_n[batch.series_B][:WINDOWS]
    batch = Batch(**{field.name: getattr(batch, field.name)[:WINDOWS] for field in fields(Batch)})
    if kind == "omega":
        value = omega(network, lambda: batch_loss(network.head, network(batch), batch, scale_B))
    else:
        value = flossing(network.recurrent, layer_inputs(network, lambda: network(batch))["recurrent"], 1)
    return float(strength) * value


@each_penalty
@pytest.mark.parametrize("optimizer", ["adamw", "sgd"])
def test_equals_a_step_written_by_hand(optimizer, penalty):
    ours, hand = (Bench(optimizer=optimizer, penalty=text) for text in (penalty, "none"))
    kinds = {"adamw": (torch.optim.AdamW, {"weight_decay": 1e-2}), "sgd": (torch.optim.SGD, {"momentum": 0.9})}
    kind, options = kinds[optimizer]
    plain = kind(hand.network.parameters(), lr=1e-2, foreach=False, fused=False, **options)
    for step in range(1, 4):
        batch, scale_B = hand.batch(step), hand.task.error_scale_n[hand.batch(step).series_B]
        added = by_hand(hand, batch, penalty)
        record = ours.step()
        loss, total, coef = twin.step_by_hand(hand.network, batch, scale_B, plain, 1.0, lambda added=added: added)
        assert record.loss == pytest.approx(loss, rel=1e-5)
        assert record.penalty == pytest.approx(added.item(), rel=1e-4) and record.penalty > 0
        assert record.total_norm == pytest.approx(total, rel=1e-4)
        assert record.clip_coef == pytest.approx(coef, rel=1e-4)
        for (name, a), b in zip(ours.network.named_parameters(), hand.network.parameters(), strict=True):
            torch.testing.assert_close(a, b, rtol=0, atol=1e-5, msg=name)


@each_penalty
def test_only_the_first_windows_of_a_batch_are_penalised(penalty):
    bench, parsed = Bench(), parse_penalty(penalty)
    batch = bench.batch(1)
    many = Batch(**{field.name: torch.cat([getattr(batch, field.name)] * 3) for field in fields(Batch)})
    other = replace(many, y_BT=torch.cat([many.y_BT[:WINDOWS], 2 * many.y_BT[WINDOWS:].flip(1)]))
    scale_B = bench.task.error_scale_n[many.series_B]
    assert len(many.y_BT) > WINDOWS
    assert_same_bits(parsed.of(bench.network, many, scale_B), parsed.of(bench.network, other, scale_B))


def test_none_changes_no_bit_and_records_no_penalty():
    ends = []
    for options in ({}, {"penalty": "none"}):
        task = make_task(network=make_network(dropout=0.5))
        with TelemetryLog() as log:
            train(task, config(max_steps=5, **options), log)
        ends.append(dict(task.network.state_dict()))
        assert [record.penalty for record in log.steps] == [0.0] * 5
    assert_same_bits(*ends)


@each_penalty
def test_a_penalty_leaves_dropout_modes_and_gradients_of_the_loss_alone(penalty):
    """A strength that vanishes beside the loss: the same losses, step by step, to rounding."""
    losses = []
    for text in ("none", f"{penalty.split(':')[0]}:1e-30"):
        task = make_task(network=make_network(dropout=0.5, layers=2))
        with TelemetryLog() as log:
            train(task, config(max_steps=6, penalty=text), log)
        losses.append([record.loss for record in log.steps])
    assert losses[0] == losses[1]


def test_omega_is_zero_where_the_output_layer_still_is():
    ends = []
    for penalty in ("none", "omega:10"):
        task = make_task()
        with TelemetryLog() as log:
            train(task, config(max_steps=1, penalty=penalty), log)
        assert log.steps[0].penalty == 0 and not log.steps[0].skipped
        ends.append(log.steps[0].total_norm)
    assert ends[0] == ends[1] > 0
    with TelemetryLog() as log:
        train(make_task(), config(max_steps=2, penalty="omega:10"), log)
    assert log.steps[1].penalty > 0


# ---------------------------------------------------------------- not finite


@each_penalty
def test_a_bad_penalty_costs_one_step_and_is_named(penalty):
    bench = Bench(penalty=penalty)
    bench.step()
    before = bench.state()
    bench.config = replace(bench.config, penalty=f"{penalty.split(':')[0]}:1e300")
    record = bench.step()
    assert_same_bits(bench.state(), before)
    assert record.skipped and record.penalty == math.inf and math.isfinite(record.loss)
    assert record.nonfinite[0] == "penalty" and "loss" not in record.nonfinite
    bench.config = replace(bench.config, penalty=penalty)
    assert not bench.step().skipped and bench.guard.bad_in_a_row == 0


@each_penalty
def test_a_bad_target_is_still_blamed_on_the_loss(penalty):
    bench = Bench(penalty=penalty)
    batch = bench.batch(1)
    target_BF = batch.target_BF.clone()
    target_BF[0, batch.target_mask_BF[0].nonzero()[0]] = math.nan
    before = bench.state()
    record = bench.step(replace(batch, target_BF=target_BF))
    assert_same_bits(bench.state(), before)
    assert record.skipped and record.nonfinite[0] == "loss"
    assert ("penalty" in record.nonfinite) == (not math.isfinite(record.penalty))


@pytest.mark.parametrize(
    ("nonfinite", "loss", "penalty", "names"),
    [
        ((), 1.0, 1.0, ()),
        (("loss", "w"), math.nan, 0.0, ("loss", "w")),
        (("loss", "w"), 1.0, math.inf, ("penalty", "w")),
        (("loss", "w"), math.inf, math.nan, ("loss", "penalty", "w")),
        (("loss",), 3e38, 3e38, ("loss",)),  # only their sum
    ],
)
def test_what_was_not_finite_is_named(nonfinite, loss, penalty, names):
    assert name_penalty(nonfinite, loss, penalty) == names


def test_a_run_whose_penalty_is_never_finite_says_so():
    with pytest.raises(TrainingError) as caught, TelemetryLog() as log:
        train(make_task(), config(max_steps=100, lr=1e-3, penalty="floss:1e300"), log)
    (problem,) = caught.value.problems
    assert "without --penalty floss:1e300" in problem.fix and "outliers" not in problem.fix
    assert "not finite: penalty" in problem.got
    assert {record.to_step for record in log.news} == {0}


# ---------------------------------------------------------------- resume


@each_penalty
def test_a_run_that_was_interrupted_and_resumed_ends_with_the_same_bits(penalty, tmp_path):
    options = {"max_steps": 12, "penalty": penalty}
    for name in ("whole", "parts"):
        (tmp_path / name).mkdir()
    whole, run = Run(tmp_path / "whole", **options).go(), Run(tmp_path / "parts", **options)
    for step in (3, 8):
        with pytest.raises(KeyboardInterrupt):
            run.go(resume=step > 3, show=stop_at(step, press_ctrl_c))
    assert_same_bits(run.go(resume=True).ended(), whole.ended())
    assert all(record.penalty > 0 for record in whole.log.steps[1:])


# ---------------------------------------------------------------- what they are for


def fitted_rate(penalty):
    """Growth rate of the adjoints of an RNN that vanishes at the start, after a short fit."""
    shapes = NetworkConfig(
        horizon=HORIZON,
        context_length=CONTEXT,
        seasons=(SEASON,),
        anchors=ANCHORS,
        cell="rnn-tanh",
        init="radius:0.3",
        hidden_size=8,
        num_layers=1,
    )
    network = ForecastNetwork(shapes, make_head("quantile", (80.0,), (0.0, 100.0)))
    task, newest = make_task(network=network), {}
    with TelemetryLog() as log:
        train(
            task,
            config(max_steps=60, penalty=penalty),
            log,
            show=lambda outlook: newest.update(copy.deepcopy(network.state_dict())),
        )
    network.load_state_dict(newest)
    until_n = torch.from_numpy(task.split.until_n)
    batch = task.windows.gather(
        [0, 1, 0, 1], [20, 21, 25, 18], context_length=CONTEXT, horizon=HORIZON, until_n=until_n
    )
    scale_B = task.error_scale_n[batch.series_B]
    found = adjoints(network, lambda: batch_loss(network.head, network(batch), batch, scale_B))
    assert not any(record.skipped for record in log.steps)
    return growth(found["recurrent.l0"].log_norm_BT).rate


def test_a_fit_with_a_penalty_ends_with_a_growth_rate_nearer_to_one():
    free = fitted_rate("none")
    assert free < 0.3
    for penalty in ("omega:1", "floss:1"):
        assert abs(math.log(fitted_rate(penalty))) < abs(math.log(free)) / 3
