"""Runs that are cut short, killed, resumed, out of time or hopeless end as they should."""

from __future__ import annotations

import math
import os
import random
import shutil
import signal
import subprocess
import sys
import threading
import time
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from tests.reference import training as twin
from tests.training.small import HORIZON, assert_same_bits, config, make_network, make_task

from holdfast.errors import RunDirectoryError
from holdfast.telemetry import FlowRecord, StepRecord, TelemetryLog, ValidationRecord, read_telemetry
from holdfast.training import learning_rate, load_tensors, train, validate
from holdfast.training.checkpoint import load_checkpoint
from holdfast.training.loop import make_guard, make_optimizer

ROOT = Path(__file__).parents[2]


class Run:
    """A directory with a run in it, started or resumed with a fresh network each time."""

    def __init__(self, folder, **options):
        self.checkpoint, self.telemetry = folder / "state.safetensors", folder / "telemetry.jsonl"
        self.options = {"max_steps": 100, **options}

    def go(self, *, resume=False, show=None, **options):
        self.task = make_task(network=make_network(dropout=0.4, layers=2))
        step = int(load_tensors(self.checkpoint)[1]["step"]) if resume else None
        with TelemetryLog(self.telemetry, step) as log:
            self.log = log
            self.progress = train(
                self.task,
                config(**{**self.options, **options}),
                log,
                checkpoint=self.checkpoint,
                resume=resume,
                show=show,
            )
        return self

    def ended(self):
        """Everything that a run leaves behind but the time it took, and what was done in its measure."""
        tensors, facts = load_tensors(self.checkpoint)
        assert repr(self.log.records) == repr(read_telemetry(self.telemetry))
        records = [repr(timeless(record)) for record in self.log.records if not isinstance(record, FlowRecord)]
        return tensors, dict(self.task.network.state_dict()), {**facts, "seconds": 0}, records


def timeless(record):
    """A record without the time that it took; news takes none."""
    return replace(record, seconds=0.0) if isinstance(record, StepRecord | ValidationRecord) else record


def stop_at(step, how):
    def show(outlook):
        if outlook.step == step:
            how()

    return show


def give_up():
    raise KeyboardInterrupt


def press_ctrl_c():
    signal.raise_signal(signal.SIGINT)


@pytest.fixture(scope="module", params=["adamw", "sgd"])
def whole(request, tmp_path_factory):
    """A run to 100, without a break."""
    return Run(tmp_path_factory.mktemp("whole"), optimizer=request.param).go()


def again(whole, folder):
    return Run(folder, **whole.options)


def test_a_run_that_was_killed_and_resumed_ends_with_the_same_bits(whole, tmp_path):
    run = again(whole, tmp_path)
    with pytest.raises(KeyboardInterrupt):
        run.go(show=stop_at(63, give_up))
    assert load_tensors(run.checkpoint)[1]["step"] == 50
    assert read_telemetry(run.telemetry)[-1].step == 63
    assert_same_bits(run.go(resume=True).ended(), whole.ended())


@pytest.mark.parametrize("whole", ["sgd"], indirect=True)
def test_so_does_one_that_was_interrupted(whole, tmp_path):
    run = again(whole, tmp_path)
    handler = signal.getsignal(signal.SIGINT)
    for step in (37, 38, 90):
        with pytest.raises(KeyboardInterrupt):
            run.go(resume=step > 37, show=stop_at(step, press_ctrl_c))
        assert signal.getsignal(signal.SIGINT) is handler
        assert load_tensors(run.checkpoint)[1]["step"] == read_telemetry(run.telemetry)[-1].step == step
    assert_same_bits(run.go(resume=True).ended(), whole.ended())


@pytest.mark.parametrize("whole", ["adamw"], indirect=True)
def test_so_does_a_process_that_was_killed(whole, tmp_path):
    script = (
        "import os, signal, sys, torch\n"
        "from pathlib import Path\n"
        "from tests import jitter\n"
        "from tests.training.test_loop import Run, stop_at\n"
        "jitter.follow()\n"
        f"torch.set_num_threads({torch.get_num_threads()})\n"
        "run = Run(Path(sys.argv[1]), optimizer=sys.argv[2])\n"
        "run.go(show=stop_at(71, lambda: os.kill(os.getpid(), signal.SIGKILL)))\n"
    )
    command = [sys.executable, "-c", script, str(tmp_path), whole.options["optimizer"]]
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join([str(ROOT), str(ROOT / "src")])}
    done = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=120)
    assert done.returncode == -signal.SIGKILL, done.stderr
    run = again(whole, tmp_path)
    assert load_tensors(run.checkpoint)[1]["step"] == 50
    assert_same_bits(run.go(resume=True).ended(), whole.ended())


def test_resuming_a_complete_run_takes_no_step(whole, tmp_path):
    shutil.copytree(whole.checkpoint.parent, tmp_path, dirs_exist_ok=True)
    run = again(whole, tmp_path).go(resume=True, show=lambda outlook: give_up())
    assert_same_bits(run.ended(), whole.ended())


def test_seeds_tell_runs_apart(tmp_path):
    losses = {Run(tmp_path, seed=seed, max_steps=1).go().log.steps[0].loss for seed in range(4)}
    assert len(losses) == 4


def test_a_longer_plan_goes_on(tmp_path):
    run = Run(tmp_path, max_steps=60).go()
    first = run.log.steps
    run.go(resume=True, max_steps=120)
    assert [record.step for record in run.log.steps] == list(range(1, 121)) and run.progress.step == 120
    assert run.log.steps[:60] == first
    assert [r.lr for r in run.log.steps] == [learning_rate(s, 60 if s <= 60 else 120, 1e-2) for s in range(1, 121)]
    assert [record.step for record in run.log.validations] == [0, 50, 60, 100, 120]


def test_a_second_ctrl_c_acts_at_once(tmp_path):
    run, handler = Run(tmp_path), signal.getsignal(signal.SIGINT)
    with pytest.raises(KeyboardInterrupt):
        run.go(show=stop_at(7, lambda: [press_ctrl_c() for _ in range(2)]))
    assert not run.checkpoint.exists()
    assert signal.getsignal(signal.SIGINT) is handler


def test_ctrl_c_without_a_checkpoint_still_stops(tmp_path):
    seen = []
    with pytest.raises(KeyboardInterrupt), TelemetryLog() as log:
        train(make_task(), config(max_steps=9), log, show=lambda outlook: (seen.append(outlook), press_ctrl_c()))
    assert [outlook.step for outlook in seen] == [1]


def test_a_process_that_ignores_ctrl_c_goes_on_to():
    before = signal.signal(signal.SIGINT, signal.SIG_IGN)
    try:
        with TelemetryLog() as log:
            progress = train(make_task(), config(max_steps=3), log, show=lambda outlook: press_ctrl_c())
        assert signal.getsignal(signal.SIGINT) is signal.SIG_IGN
    finally:
        signal.signal(signal.SIGINT, before)
    assert progress.step == 3


def test_training_in_a_thread(tmp_path):
    run = Run(tmp_path, max_steps=4)
    thread = threading.Thread(target=run.go)
    thread.start()
    thread.join()
    assert run.progress.step == 4


def test_the_surroundings_stay_as_they_were():
    torch.manual_seed(5)
    random.seed(5)
    np.random.seed(5)

    def surroundings():
        state = np.random.get_state()
        return (
            torch.get_rng_state().tolist(),
            random.getstate(),
            (state[1].tolist(), state[2]),
            torch.get_default_dtype(),
            torch.is_grad_enabled(),
            torch.are_deterministic_algorithms_enabled(),
            torch.get_num_threads(),
            [signal.getsignal(number) for number in signal.valid_signals()],
        )

    before = surroundings()
    with TelemetryLog() as log:
        train(make_task(network=make_network(dropout=0.5)), config(max_steps=55), log)
    assert surroundings() == before
    torch.rand(1)
    assert surroundings() != before


def test_the_surroundings_do_not_reach_in(tmp_path):
    ends = []
    for seed in (1, 2):
        torch.manual_seed(seed)
        run = Run(tmp_path, max_steps=5)
        run.go(show=lambda outlook: torch.rand(3))
        ends.append(run.ended())
    assert_same_bits(*ends)


def test_a_network_left_in_evaluation_mode_is_trained_with_dropout(tmp_path):
    path, losses = tmp_path / "state", []
    for mode in (True, False):
        for max_steps in (2, 4):
            task = make_task(network=make_network(dropout=0.5))
            task.network.train(mode)
            with TelemetryLog() as log:
                train(task, config(max_steps=max_steps), log, checkpoint=path, resume=max_steps == 4)
        losses.append([record.loss for record in log.steps])
    assert losses[0] == losses[1]


def test_when_nothing_helps_the_untrained_network_is_left():
    task = make_task(network=make_network(anchors=(("season", 4),)))
    before = {name: tensor.clone() for name, tensor in task.network.state_dict().items()}
    with TelemetryLog() as log:
        progress = train(task, config(max_steps=60, lr=30.0, clip="none"), log)
    assert log.validations[-1].loss > log.validations[0].loss
    assert (progress.step, progress.best_step) == (60, 0)
    assert progress.best_loss == log.validations[0].loss
    assert_same_bits(dict(task.network.state_dict()), before)


def test_the_best_weights_are_those_of_the_lowest_validation_loss():
    task = make_task()
    weights = {0: {name: tensor.double() for name, tensor in task.network.state_dict().items()}}

    def show(outlook):  # validation comes after the call
        weights[outlook.step] = {name: tensor.double() for name, tensor in task.network.state_dict().items()}

    with TelemetryLog() as log:
        progress = train(task, config(max_steps=120, lr=5e-3), log, show=show)
    losses = {record.step: record.loss for record in log.validations}
    assert list(losses) == [0, 50, 100, 120]
    assert progress.best_loss == min(losses.values()) == losses[progress.best_step]
    assert progress.best_step > 0
    expected = twin.average([weights[step] for step in range(progress.best_step + 1)])
    for name, tensor in task.network.state_dict().items():
        assert torch.allclose(tensor.double(), expected[name], rtol=1e-5, atol=1e-6), name
    record = validate(task.network, task.windows, task.split, task.error_scale_n, progress.best_step)
    assert record.loss == progress.best_loss


def test_no_steps_leave_the_untrained_network():
    task = make_task()
    before = {name: tensor.clone() for name, tensor in task.network.state_dict().items()}
    with TelemetryLog() as log:
        progress = train(task, config(max_steps=0), log)
    assert progress.step == progress.best_step == 0
    assert log.records == log.validations
    assert progress.seconds == log.validations[0].seconds
    assert_same_bits(dict(task.network.state_dict()), before)


def test_where_validation_sees_nothing_the_first_weights_are_kept():
    series = [np.append(20 + np.arange(24.0) ** 1.5, [math.nan] * 2 * HORIZON)]  # all that is held out
    task = make_task(series)
    before = {name: tensor.clone() for name, tensor in task.network.state_dict().items()}
    with TelemetryLog() as log:
        progress = train(task, config(max_steps=3), log)
    assert (progress.best_loss, progress.best_step) == (math.inf, 0)
    assert_same_bits(dict(task.network.state_dict()), before)


@pytest.mark.parametrize(("planned", "patience"), [(240, 150), (301, 150), (420, 250)])
def test_training_ends_when_half_of_its_steps_brought_nothing(planned, patience, tmp_path):
    path = tmp_path / "state"
    with TelemetryLog() as log:
        progress = train(make_task(), config(max_steps=planned, lr=0.1), log, checkpoint=path)
    losses = {record.step: record.loss for record in log.records if isinstance(record, ValidationRecord)}
    assert progress.best_loss == losses[progress.best_step] == min(losses.values())
    assert progress.step == max(losses) == progress.best_step + patience < planned == progress.planned_steps
    task = make_task()
    with TelemetryLog() as log:
        resumed = train(task, config(max_steps=planned, lr=0.1), log, checkpoint=path, resume=True)
    assert (resumed.step, log.steps) == (progress.step, [])
    assert_same_bits(dict(task.network.state_dict()), progress.best_weights)


def test_a_checkpoint_that_is_missing_or_damaged_is_no_start(tmp_path):
    path = tmp_path / "state"
    for write in (lambda: None, lambda: path.write_bytes(b"\0" * 100)):
        write()
        with pytest.raises(RunDirectoryError), TelemetryLog() as log:
            train(make_task(), config(max_steps=5), log, checkpoint=path, resume=True)
        assert log.records == []


class Clock:
    """A clock that goes on by a fixed time whenever it is read."""

    def __init__(self, monkeypatch, seconds=0.01):
        self.now, self.seconds = 0.0, seconds
        monkeypatch.setattr(time, "perf_counter", self)

    def __call__(self):
        self.now += self.seconds
        return self.now


def timed(budget, clock=None, **options):
    task, shown = make_task(), []

    def show(outlook):
        shown.append(outlook)
        if clock and outlook.step == 51:
            clock.seconds *= 5

    with TelemetryLog() as log:
        progress = train(task, config(time_budget=budget, **options), log, show=show)
    return progress, log, shown


@pytest.mark.parametrize("budget", [1.0, 3.3])
def test_the_plan_is_fitted_into_the_time(monkeypatch, budget):
    Clock(monkeypatch)  # three readings a step: 0.03 s
    progress, log, shown = timed(budget, max_steps=1000)
    assert budget - 0.06 <= progress.seconds <= budget + 0.06
    assert progress.step == progress.planned_steps == len(shown)
    assert shown[18].planned_steps == 1000  # not yet known
    assert shown[19].planned_steps == pytest.approx(budget / 0.03, abs=2)
    assert log.steps[-1].lr < 3e-3 * 1e-2  # the schedule came to its end
    assert log.validations[-1].step == progress.step
    assert all(0 <= outlook.seconds_left <= budget for outlook in shown)


def test_a_run_that_slows_down_ends_in_time_and_validates_its_last_weights(monkeypatch):
    clock = Clock(monkeypatch)
    progress, log, _ = timed(4.0, clock, max_steps=1000)
    assert 50 < progress.step < 100
    assert 4.0 <= progress.seconds <= 4.0 + 3 * 0.15
    assert progress.planned_steps == progress.step == log.validations[-1].step


def test_a_budget_for_nothing_takes_one_step():
    progress, log, _ = timed(1e-9, max_steps=1000)
    assert progress.step == progress.planned_steps == 1
    assert [record.step for record in log.validations] == [0, 1]
    assert progress.seconds > sum(record.seconds for record in log.records)


def test_a_budget_for_everything_changes_nothing():
    free, bound = timed(None, max_steps=30), timed(1e9, max_steps=30)
    assert_same_bits(free[0].best_weights, bound[0].best_weights)
    assert [record.lr for record in free[1].steps] == [record.lr for record in bound[1].steps]


def test_a_resumed_run_has_the_time_that_is_left(monkeypatch, tmp_path):
    Clock(monkeypatch)
    run = Run(tmp_path, max_steps=1000, time_budget=3.0)
    with pytest.raises(KeyboardInterrupt):
        run.go(show=stop_at(60, press_ctrl_c))
    run.go(resume=True)
    assert 3.0 - 0.1 <= run.progress.seconds <= 3.0 + 0.1
    assert run.progress.step == run.log.validations[-1].step == pytest.approx(100, abs=4)
    spent = run.progress.step
    assert run.go(resume=True).progress.step <= spent + 2
    more = run.go(resume=True, time_budget=6.0).progress
    assert more.seconds == pytest.approx(6.0, abs=0.1) and more.step > spent + 90


def test_the_outlook_says_how_far_a_run_is(monkeypatch):
    Clock(monkeypatch)
    shown = []
    with TelemetryLog() as log:
        train(make_task(), config(max_steps=60, clip="norm:1.5"), log, show=shown.append)
    steps = [record for record in log.records if isinstance(record, StepRecord)]
    assert [outlook.record for outlook in shown] == steps
    for outlook in shown:
        seen = steps[: outlook.step]
        assert outlook.clip_fraction == sum(record.clipped for record in seen) / len(seen)
        assert outlook.planned_steps == 60
        assert outlook.validation == log.validations[0 if outlook.step <= 50 else 1]
        assert outlook.seconds_left == pytest.approx(0.03 * (60 - outlook.step), abs=0.1)
    assert 0 < shown[-1].clip_fraction < 1


def test_a_checkpoint_holds_the_state_between_two_steps(tmp_path):
    path, task = tmp_path / "state", make_task()
    with TelemetryLog() as log:
        train(task, config(max_steps=50, clip="norm:0.05"), log, checkpoint=path)
    fresh = make_network()
    optimizer, guard = make_optimizer(fresh, config()), make_guard(fresh, config())
    progress = load_checkpoint(path, fresh, optimizer, guard)
    assert (progress.step, guard.summary().steps) == (50, 50)
    assert guard.summary().clip_fraction == sum(record.clipped for record in log.steps) / 50
    assert {int(state["step"]) for state in optimizer.state_dict()["state"].values()} == {50}
    assert_same_bits(progress.best_weights, dict(task.network.state_dict()))
