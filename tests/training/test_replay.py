"""The weights and the batch of any step of a run, taken again."""

from __future__ import annotations

import copy

import pytest
import torch
from tests.training.small import assert_same_bits, config, make_network, make_task

from holdfast.telemetry import TelemetryLog
from holdfast.training import load_tensors, replay, train
from holdfast.training.checkpoint import Progress, save_checkpoint
from holdfast.training.loop import Loop, make_guard, make_optimizer

OPTIONS = {"max_steps": 30, "clip": "percentile:50"}


def task():
    return make_task(network=make_network(dropout=0.3, layers=2))


def run_to(step, checkpoint=None, at=None):
    """The weights after so many steps of a loop, with a checkpoint written on the way."""
    one, options = task(), config(**OPTIONS)
    one.network.train()
    optimizer, guard = make_optimizer(one.network, options), make_guard(one.network, options)
    first = [copy.deepcopy(one.network.state_dict()) for _ in range(2)]
    progress = Progress(0, 30, best_weights=first[0], average=first[1])
    loop = Loop(one, options, progress, optimizer, guard, TelemetryLog())
    while progress.step < step:
        if progress.step == at:
            save_checkpoint(checkpoint, progress, one.network, optimizer, guard)
        loop.step()
    return one


@pytest.mark.parametrize("until", [6, 7, 20])
def test_the_weights_before_a_step_come_back_to_the_bit(tmp_path, until):
    checkpoint = tmp_path / "state.safetensors"
    run_to(10, checkpoint, at=5)
    again = task()
    batch = replay(again, config(**OPTIONS), checkpoint, until)
    there = run_to(until - 1)
    assert_same_bits(again.network.state_dict(), there.network.state_dict())
    assert_same_bits(vars(batch), vars(there.draw(config(**OPTIONS), until)))


def test_without_a_checkpoint_it_starts_from_the_untrained_network():
    again = task()
    replay(again, config(**OPTIONS), None, 4)
    assert_same_bits(again.network.state_dict(), run_to(3).network.state_dict())


def test_a_step_before_the_checkpoint_gives_the_one_behind_it(tmp_path):
    checkpoint = tmp_path / "state.safetensors"
    run_to(10, checkpoint, at=5)
    again = task()
    batch = replay(again, config(**OPTIONS), checkpoint, until=2)
    assert_same_bits(again.network.state_dict(), run_to(5).network.state_dict())
    assert torch.equal(batch.cutoff_B, again.draw(config(**OPTIONS), 6).cutoff_B)


def test_a_run_and_its_replay_meet_the_same_weights(tmp_path):
    """`train` for as many steps, with its validation, ends where the loop of the replay is."""
    one, again, checkpoint = task(), task(), tmp_path / "state.safetensors"
    with TelemetryLog() as log:
        train(one, config(**OPTIONS), log, checkpoint=checkpoint)
    replay(again, config(**OPTIONS), None, 31)
    kept = load_tensors(checkpoint)[0]
    for name, tensor in again.network.state_dict().items():
        assert torch.equal(tensor, kept[f"network.{name}"]), name
