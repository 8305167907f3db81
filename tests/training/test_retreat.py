"""Runs that stop being finite: back to the best weights with a lower learning rate, and an error when that fails."""

from __future__ import annotations

import itertools
import math

import numpy as np
import pytest
import torch
from tests.training.small import (
    CONTEXT,
    HORIZON,
    assert_same_bits,
    config,
    make_network,
    make_task,
    values,
)
from tests.training.test_loop import Run, give_up, press_ctrl_c, stop_at

from holdfast.errors import TrainingError
from holdfast.networks import batch_loss
from holdfast.telemetry import RetreatRecord, TelemetryLog, read_telemetry
from holdfast.training import learning_rate, load_tensors, train, train_step
from holdfast.training.loop import make_guard, make_optimizer, seeded
from holdfast.training.retreat import MOST_BAD_STEPS, MOST_RETREATS, RETREAT_RATE, suspects
from holdfast.windows import Sampler

# A learning rate at which weights overflow float32 again and again, and a sixteenth of it at which they do not.
DIVERGING = {"lr": 4e3, "clip": "none", "max_steps": 100}


def states(log):
    """A letter for each step: x where it was skipped."""
    return "".join("x" if record.skipped else "." for record in log.steps)


@pytest.fixture(scope="module")
def diverging(tmp_path_factory):
    """A run that went back twice and then came to its end."""
    return Run(tmp_path_factory.mktemp("diverging"), **DIVERGING).go()


def test_a_diverging_run_goes_back_and_comes_to_its_end(diverging):
    log = diverging.log
    first, second = log.news
    assert [first.retreats, second.retreats] == [1, 2]
    assert [first.lr_factor, second.lr_factor] == [RETREAT_RATE, RETREAT_RATE**2]
    for record in log.news:
        assert (record.first_bad_step, record.to_step) == (record.step - MOST_BAD_STEPS + 1, 0)
        assert states(log)[record.first_bad_step - 1 : record.step] == "x" * MOST_BAD_STEPS
        seen = {name for step in log.steps[record.first_bad_step - 1 : record.step] for name in step.nonfinite}
        assert set(record.nonfinite) == seen and "loss" in seen
    assert states(log).endswith(".") and first.step < 50 < second.step
    assert (diverging.progress.step, diverging.progress.retreats, diverging.progress.bad_in_a_row) == (100, 2, 0)
    assert repr(read_telemetry(diverging.telemetry)) == repr(log.records)  # nan equals nothing, but reads the same


def test_every_later_step_is_smaller(diverging):
    log = diverging.log
    for record in log.steps:
        factor = math.prod(RETREAT_RATE for news in log.news if news.step < record.step)
        assert record.lr == pytest.approx(learning_rate(record.step, 100, 4e3) * factor, rel=1e-12)


def test_steps_after_a_retreat_equal_those_taken_by_hand_from_the_best_weights():
    """A fresh optimiser, the untrained network, the windows and dropout of the step, a quarter of the rate."""
    options = config(**DIVERGING)
    weights = {}
    task, hand = (make_task(network=make_network(dropout=0.4, layers=2)) for _ in range(2))

    def keep(outlook):
        weights[outlook.step] = {name: tensor.clone() for name, tensor in task.network.state_dict().items()}

    with TelemetryLog() as log:
        train(task, options, log, show=keep)
    start, split = log.news[0].step, hand.split
    assert_same_bits(weights[start], dict(hand.network.state_dict()))
    hand.network.train()
    optimizer, guard = make_optimizer(hand.network, options), make_guard(hand.network, options)
    sampler = Sampler(split.first_n, split.last_n, options.batch_size, options.seed)
    for step in range(start + 1, start + 8):
        optimizer.param_groups[0]["lr"] = learning_rate(step, 100, 4e3) / 4
        batch = hand.windows.gather(
            *sampler.draw(step), context_length=CONTEXT, horizon=HORIZON, until_n=torch.from_numpy(split.until_n)
        )
        with seeded(0, step):
            train_step(hand.network, batch, hand.error_scale_n[batch.series_B], optimizer, guard, step)
        assert_same_bits(weights[step], dict(hand.network.state_dict()))
    assert not torch.equal(weights[start + 7]["output.bias"], weights[start]["output.bias"])


def test_a_run_goes_back_to_what_validated_best_not_to_the_start(tmp_path):
    """Fifty good steps, then a learning rate that is far too high."""
    run = Run(tmp_path, max_steps=50, lr=1e-2).go()
    best = run.progress.best_weights
    assert run.progress.best_step == 50
    shown = {}

    def show(outlook):
        shown[outlook.step] = {name: tensor.clone() for name, tensor in run.task.network.state_dict().items()}

    run.go(resume=True, max_steps=100, lr=1e6, clip="none", show=show)
    first = run.log.news[0]
    assert (first.to_step, first.retreats) == (50, 1)
    assert_same_bits(shown[first.step], dict(best))
    assert_same_bits(dict(run.task.network.state_dict()), dict(run.progress.best_weights))


# ---------------------------------------------------------------- resume


@pytest.mark.parametrize("killed", [51, 63, 99])
def test_a_kill_before_between_and_after_retreats_changes_no_bit(diverging, tmp_path, killed):
    run = Run(tmp_path, **DIVERGING)
    with pytest.raises(KeyboardInterrupt):
        run.go(show=stop_at(killed, give_up))
    facts = load_tensors(run.checkpoint)[1]
    assert (facts["step"], facts["retreats"]) == (50, 1)
    assert_same_bits(run.go(resume=True).ended(), diverging.ended())


def test_so_does_an_interruption_at_any_moment(diverging, tmp_path):
    """In a row of bad steps, right at a retreat, right after it: each time the state is saved and taken up again."""
    first, second = (record.step for record in diverging.log.news)
    run = Run(tmp_path, **DIVERGING)
    for number, step in enumerate([first - 12, first - 3, first, first + 1, second - 1, second, second + 1]):
        with pytest.raises(KeyboardInterrupt):
            run.go(resume=number > 0, show=stop_at(step, press_ctrl_c))
        facts = load_tensors(run.checkpoint)[1]
        retreats = [0, *(record.step for record in diverging.log.news if record.step <= step)]
        since = states(diverging.log)[retreats[-1] : step]
        bad = len(since) - len(since.rstrip("x"))
        assert (facts["step"], facts["retreats"], facts["bad_in_a_row"]) == (step, len(retreats) - 1, bad)
        assert bad == {first - 3: MOST_BAD_STEPS - 3, second - 1: MOST_BAD_STEPS - 1}.get(step, bad)
    assert_same_bits(run.go(resume=True).ended(), diverging.ended())


def test_the_count_of_bad_steps_does_not_need_the_telemetry_file(diverging, tmp_path):
    run = Run(tmp_path, **DIVERGING)
    step = diverging.log.news[0].step
    with pytest.raises(KeyboardInterrupt):
        run.go(show=stop_at(step - 4, press_ctrl_c))
    run.telemetry.unlink()
    run.go(resume=True)
    assert [record.step for record in run.log.news] == [record.step for record in diverging.log.news]
    assert run.log.news[0].first_bad_step == step - MOST_BAD_STEPS + 1
    assert_same_bits(dict(run.task.network.state_dict()), dict(diverging.task.network.state_dict()))


# ---------------------------------------------------------------- what is shown


def test_a_retreat_is_shown_with_its_step_and_once():
    shown = []
    with TelemetryLog() as log:
        train(make_task(network=make_network(dropout=0.4, layers=2)), config(**DIVERGING), log, show=shown.append)
    said = {outlook.step: outlook.news for outlook in shown if outlook.news}
    assert said == {record.step: (str(record),) for record in log.news}


# ---------------------------------------------------------------- giving up


def broken_series():
    """Three tame series; in the second one, value 15 cannot be told from infinity."""
    series = values()
    series[1][15] = 1e308
    return series


def test_a_run_that_cannot_recover_says_which_steps_tensors_and_windows(tmp_path):
    task, path = make_task(broken_series()), tmp_path / "state"
    before = {name: tensor.clone() for name, tensor in task.network.state_dict().items()}
    with pytest.raises(TrainingError) as caught, TelemetryLog() as log:
        train(task, config(max_steps=200, batch_size=64, lr=None), log, checkpoint=path)
    assert caught.value.exit_code == 3
    (problem,) = caught.value.problems
    last = log.steps[-1]
    assert problem.where == f"training step {last.step}"
    assert [type(record) for record in log.news] == [RetreatRecord] * MOST_RETREATS
    assert states(log).endswith("x" * MOST_BAD_STEPS)
    assert f"steps {last.step - 9}-{last.step}: loss {last.loss}, not finite: loss" in problem.got
    assert "recurrent.weight_ih_l0" in problem.got
    named = problem.got.partition("most suspicious first: ")[2]
    assert named.startswith("series number 1, cutoff at row ")
    assert named.count("series number 1, cutoff") == named.count("largest |y| 1e+308") == 5
    assert named.count("loss nan") >= 1 and named.endswith(" more")
    assert "correct the values" in problem.fix and "--lr" not in problem.fix
    assert_same_bits(dict(task.network.state_dict()), before)  # best are the first weights, and no bad step moved them


@pytest.mark.parametrize("optimizer", ["adamw", "sgd"])
def test_a_learning_rate_beyond_all_bounds_is_named(optimizer):
    with pytest.raises(TrainingError) as caught, TelemetryLog() as log:
        train(make_task(), config(max_steps=200, lr=1e38, optimizer=optimizer, clip="none"), log)
    (problem,) = caught.value.problems
    assert f"--lr {0.002 if optimizer == 'adamw' else 0.05} instead of 1e+38" in problem.fix
    assert "correct the values" not in problem.fix
    assert len(log.news) == MOST_RETREATS
    assert log.steps[-1].step == problem_step(problem) < 100


def problem_step(problem):
    return int(problem.where.split()[-1])


def break_gradients(network, calls):
    """In the given backward passes gradients of one weight are nan."""
    count = itertools.count(1)
    network.recurrent.weight_hh_l0.register_hook(lambda grad: grad * (math.nan if next(count) in calls else 1.0))


def test_gradients_that_break_under_a_finite_loss_are_named_and_blamed_on_no_window():
    task = make_task()
    break_gradients(task.network, range(4, 1000))
    with pytest.raises(TrainingError) as caught, TelemetryLog() as log:
        train(task, config(max_steps=500), log)
    (problem,) = caught.value.problems
    assert problem_step(problem) == 3 + MOST_BAD_STEPS * (MOST_RETREATS + 1)
    assert states(log) == "..." + "x" * MOST_BAD_STEPS * (MOST_RETREATS + 1)
    told = problem.got.partition("did not help; ")[2].split("; ")
    assert [part.partition(":")[0] for part in told[:5]] == [f"step {step}" for step in range(39, 44)]  # losses differ
    assert all(part.endswith("not finite: recurrent.weight_hh_l0") for part in told[:5])
    largest = [float(part.split(",")[0]) for part in problem.got.split("largest |y| ")[1:]]
    assert len(largest) == 5 and largest == sorted(largest, reverse=True)
    assert "--lr 0.002 instead of 0.01" in problem.fix
    task = make_task()
    break_gradients(task.network, range(4, 1000))
    with pytest.raises(TrainingError, match=r"look for outliers(.|\n)*--clip norm:1.0(.|\n)*--lr 0.0001"):
        train(task, config(max_steps=500, lr=1e-3), TelemetryLog())


def test_nine_bad_steps_in_a_row_are_no_retreat_also_across_a_resume(tmp_path):
    task, path = make_task(), tmp_path / "state"
    break_gradients(task.network, [*range(2, 11), *range(12, 20)])
    with TelemetryLog() as log:
        train(task, config(max_steps=19), log, checkpoint=path)
    assert (states(log), log.news) == ("." + 9 * "x" + "." + 8 * "x", [])
    task = make_task()
    break_gradients(task.network, range(1, 3))
    with TelemetryLog() as log:
        train(task, config(max_steps=50), log, checkpoint=path, resume=True)  # eight before, two now
    assert [(record.first_bad_step, record.step) for record in log.news] == [(12, 21)]


# ---------------------------------------------------------------- suspects


@pytest.mark.parametrize("head", ["quantile", "gaussian", "student-t"])
def test_each_suspect_has_the_loss_of_a_batch_of_its_own(head):
    task = make_task(broken_series(), make_network(head=head))
    torch.nn.init.normal_(task.network.output.weight, generator=torch.Generator().manual_seed(1))
    series, cutoff = [0, 1, 2, 1, 0, 1], [20, 17, 9, 10, 20, 18]
    until_n = torch.from_numpy(task.split.until_n)

    def gather(series, cutoff):
        return task.windows.gather(series, cutoff, context_length=CONTEXT, horizon=HORIZON, until_n=until_n)

    batch = gather(series, cutoff)
    found = suspects(task.network, batch, task.error_scale_n[batch.series_B])
    assert {(window.series, window.cutoff) for window in found} == set(zip(series, cutoff, strict=True))
    assert len(found) == 5  # one window was drawn twice
    for window in found:
        one = gather([window.series], [window.cutoff])
        loss = batch_loss(task.network.head, task.network(one), one, task.error_scale_n[one.series_B]).item()
        assert window.loss == pytest.approx(loss, rel=1e-6, nan_ok=True)
        rows = values()[window.series] if window.series != 1 else broken_series()[1]
        seen = rows[max(window.cutoff - CONTEXT, 0) : min(window.cutoff + HORIZON, int(until_n[window.series]))]
        assert window.largest == np.abs(seen).max()
    broken = [not math.isfinite(window.loss) for window in found]
    assert broken == sorted(broken, reverse=True)
    assert sum(broken) < 5 and (head != "quantile" or any(broken))  # some heads can hold a loss of 1e308
    for group in (found[: sum(broken)], found[sum(broken) :]):
        assert [window.largest for window in group] == sorted((window.largest for window in group), reverse=True)


def test_a_window_without_a_target_is_no_suspect():
    series = [np.append(np.arange(20.0), [math.nan] * 10)]
    task = make_task(series)
    batch = task.windows.gather([0, 0], [12, 22], context_length=CONTEXT, horizon=HORIZON)
    found = suspects(task.network, batch, task.error_scale_n[batch.series_B])
    assert [(window.cutoff, window.largest) for window in found] == [(22, 19.0), (12, 14.0)]
    assert found[0].loss == 0.0 < found[1].loss


def test_a_loss_that_is_not_finite_counts_more_than_a_large_value():
    series = values()
    series[0] *= 1e200  # in units of its own, and as tame as before
    series[1][15] = 1e100
    task = make_task(series)
    batch = task.windows.gather([0, 1, 1, 0], [20, 14, 24, 30], context_length=CONTEXT, horizon=HORIZON)
    found = suspects(task.network, batch, task.error_scale_n[batch.series_B])
    order = [(window.series, window.cutoff, math.isfinite(window.loss)) for window in found]
    assert order[0] == (1, 14, False) and order[1:] == [(0, 30, True), (0, 20, True), (1, 24, True)]


def test_the_losses_that_are_told_are_those_of_the_step_with_its_dropout():
    task = make_task(network=make_network(dropout=0.5, layers=2))
    torch.nn.init.normal_(task.network.output.weight, generator=torch.Generator().manual_seed(1))
    break_gradients(task.network, range(1, 1000))
    with pytest.raises(TrainingError) as caught, TelemetryLog() as log:
        train(task, config(max_steps=500, batch_size=4), log)
    losses = [float(part.split(")")[0]) for part in caught.value.problems[0].got.split(", loss ")[1:]]
    assert len(losses) == 4  # no window of this batch was drawn twice, and each has its whole horizon
    assert np.mean(losses) == pytest.approx(log.steps[-1].loss, rel=5e-3)
