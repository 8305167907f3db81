"""Checkpoints: every bit comes back, and nothing but a whole checkpoint of this network gets in."""

from __future__ import annotations

import json
import math
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file
from tests.training.small import assert_same_bits, config, make_network, make_task, state_of

from holdfast.errors import RunDirectoryError
from holdfast.telemetry import TelemetryLog
from holdfast.training import load_tensors, load_weights, save_tensors, train
from holdfast.training.checkpoint import SCHEMA, load_checkpoint, save_checkpoint
from holdfast.training.loop import make_guard, make_optimizer


class Run:
    """A network with its optimiser and guard, fresh or after some steps."""

    def __init__(self, steps=0, path=None, optimizer="adamw", **network):
        self.task, self.config = (
            make_task(network=make_network(**network)),
            config(max_steps=steps, optimizer=optimizer),
        )
        self.network = self.task.network
        self.optimizer, self.guard = make_optimizer(self.network, self.config), make_guard(self.network, self.config)
        if steps:
            with TelemetryLog() as log:
                train(self.task, self.config, log, checkpoint=path)

    def load(self, path):
        return load_checkpoint(path, self.network, self.optimizer, self.guard)

    def save(self, path, progress):
        save_checkpoint(path, progress, self.network, self.optimizer, self.guard)

    def state(self):
        return *state_of(self.network, self.optimizer), self.guard.state_dict()


@pytest.fixture(scope="module", params=["adamw", "sgd"])
def written(request, tmp_path_factory):
    """A checkpoint after 12 steps, and the optimiser's name."""
    path = tmp_path_factory.mktemp("run") / "state.safetensors"
    Run(12, path, request.param, layers=2)
    return path, request.param


def contents(folder):
    return {path.name: path.read_bytes() for path in sorted(folder.iterdir())}


def assert_refused(path, load, told):
    """The error has four parts, and neither the file nor its neighbours change."""
    before = contents(path.parent) if path.parent.is_dir() else None
    with pytest.raises(RunDirectoryError) as caught:
        load(path)
    (problem,) = caught.value.problems
    assert str(path) in problem.where
    assert all((problem.expected, problem.got, problem.fix))
    assert told in str(problem)
    assert before is None or contents(path.parent) == before


def test_what_is_loaded_and_saved_again_is_the_same_file(written, tmp_path):
    path, optimizer = written
    run = Run(optimizer=optimizer, layers=2)
    progress = run.load(path)
    run.save(tmp_path / "again", progress)
    one, again = load_tensors(path), load_tensors(tmp_path / "again")
    assert_same_bits(one[0], again[0])
    assert one[1] == again[1]
    assert (progress.step, progress.planned_steps) == (12, 12)
    assert run.guard.summary().steps == 12
    assert len(run.optimizer.state) == len(list(run.network.parameters()))
    best = {name.removeprefix("best."): tensor for name, tensor in one[0].items() if name.startswith("best.")}
    assert_same_bits(dict(progress.best_weights), best)


def test_every_bit_of_a_tensor_and_every_fact_comes_back(tmp_path):
    odd = torch.tensor([math.nan, -0.0, math.inf, 5e-324, 0.1], dtype=torch.float64)
    view = torch.arange(12.0).reshape(3, 4).T  # not contiguous
    tensors = {"odd": odd, "view": view, "half": odd.half(), "none": torch.zeros(0, 3), "one": torch.tensor(7)}
    facts = {"text": 'a "b"\n', "list": [1, None, {"x": 0.1}], "n": 2**60}
    save_tensors(tmp_path / "w", tensors, facts)
    got, got_facts = load_tensors(tmp_path / "w")
    assert_same_bits(got, {name: tensor.contiguous() for name, tensor in tensors.items()})
    assert got_facts == {"schema": SCHEMA, **facts}


def test_a_file_cut_off_anywhere_is_refused(tmp_path):
    path = tmp_path / "w"
    save_tensors(path, {"a": torch.ones(3), "b": torch.zeros(2, 2)}, {"step": 1})
    whole = path.read_bytes()
    for size in range(len(whole)):
        path.write_bytes(whole[:size])
        assert_refused(path, load_tensors, "a whole safetensors file that holdfast wrote")


def test_a_cut_off_checkpoint_changes_nothing(written, tmp_path):
    whole, path = written[0].read_bytes(), tmp_path / "cut"
    run = Run(optimizer=written[1], layers=2)
    before = run.state()
    for size in [0, 1, 7, 8, 9, *range(100, len(whole), 997), len(whole) - 1]:
        path.write_bytes(whole[:size])
        assert_refused(path, run.load, "whole")
    assert_same_bits(run.state(), before)


def rewritten(written, path, change):
    tensors, facts = load_tensors(written[0])
    facts.pop("schema")
    change(tensors, facts)
    save_tensors(path, tensors, facts)
    return path


def poison(name):
    def change(tensors, facts):
        tensors[name].view(-1)[0] = math.nan

    return change


BAD = {
    "nan weight": (poison("network.recurrent.weight_hh_l0"), "recurrent.weight_hh_l0"),
    "nan best weight": (poison("best.output.bias"), "output.bias"),
    "missing weight": (lambda tensors, facts: tensors.pop("network.output.bias"), "output.bias"),
    "missing best": (lambda tensors, facts: tensors.pop("best.output.bias"), "output.bias"),
    "unknown weight": (lambda tensors, facts: tensors.update({"network.more": torch.ones(2)}), "more"),
    "other shape": (lambda tensors, facts: tensors.update({"network.output.bias": torch.ones(2)}), "(2,)"),
    "no facts": (lambda tensors, facts: facts.clear(), "optimizer none"),
    "a fact less": (lambda tensors, facts: facts.pop("best_loss"), "without best_loss"),
    "without retreats": (lambda tensors, facts: facts.pop("retreats"), "without retreats"),
    "another guard": (lambda tensors, facts: facts["guard"].update(schema=0), "with schema 0"),
    "a guard with memories": (
        lambda tensors, facts: facts["guard"].update(memories=[{"rule": "auto", "roles": ["input"], "memory": {}}]),
        "memories of",
    ),
    "other optimiser": (lambda tensors, facts: facts.update(optimizer="Adagrad"), "optimizer Adagrad"),
    "newer schema": (lambda tensors, facts: facts.update(schema=SCHEMA + 1), f"schema {SCHEMA + 1}"),
    "older schema": (lambda tensors, facts: facts.update(schema=0), "schema 0"),
}


@pytest.mark.parametrize("change, told", BAD.values(), ids=BAD.keys())
def test_what_does_not_fit_is_named_and_changes_nothing(written, tmp_path, change, told):
    path = rewritten(written, tmp_path / "state", change)
    run = Run(optimizer=written[1], layers=2)
    before = run.state()
    assert_refused(path, run.load, told)
    assert_same_bits(run.state(), before)


def test_a_checkpoint_of_another_network_or_optimiser_is_refused(written):
    path, optimizer = written
    assert_refused(path, Run(optimizer=optimizer, layers=1).load, "weight_ih_l1")
    other = {"adamw": "sgd", "sgd": "adamw"}[optimizer]
    assert_refused(path, Run(optimizer=other, layers=2).load, "a training run with")


FOREIGN = {
    "json": lambda path: path.write_text(json.dumps({"holdfast": 1})),
    "empty": lambda path: path.write_bytes(b""),
    "folder": lambda path: path.mkdir(),
    "missing": lambda path: None,
    "without facts": lambda path: save_file({"w": torch.ones(1)}, path),
    "facts of another": lambda path: save_file({"w": torch.ones(1)}, path, {"format": "pt"}),
    "facts that are no object": lambda path: save_file({"w": torch.ones(1)}, path, {"holdfast": "[1]"}),
    "facts that are no JSON": lambda path: save_file({"w": torch.ones(1)}, path, {"holdfast": "{"}),
    "no schema": lambda path: save_file({"w": torch.ones(1)}, path, {"holdfast": "{}"}),
    "a header of 2^63 bytes": lambda path: path.write_bytes(b"\xff" * 7 + b"\x7f" + b"{}" * 40),
}


@pytest.mark.parametrize("make", FOREIGN.values(), ids=FOREIGN.keys())
def test_other_files_are_refused(tmp_path, make):
    path = tmp_path / "state.safetensors"
    make(path)
    with pytest.raises(RunDirectoryError, match="a whole safetensors file that holdfast wrote"):
        load_tensors(path)


def test_model_weights_go_in_whole_or_not_at_all():
    network = make_network()
    before = {name: tensor.clone() for name, tensor in network.state_dict().items()}
    weights = {name: torch.ones_like(tensor) for name, tensor in before.items()}
    weights["output.bias"][0] = math.inf
    with pytest.raises(RunDirectoryError, match=r"output\.bias(.|\n)*nan or inf"):
        load_weights(Path("model"), network, weights)
    assert_same_bits(dict(network.state_dict()), before)
    weights["output.bias"][0] = 2.0
    load_weights(Path("model"), network, weights)
    assert_same_bits(dict(network.state_dict()), weights)


def test_a_crash_before_the_replacement_leaves_the_old_file(written, tmp_path, monkeypatch):
    path = tmp_path / "state.safetensors"
    path.write_bytes(written[0].read_bytes())
    run = Run(optimizer=written[1], layers=2)
    progress = run.load(path)
    before, progress.step = path.read_bytes(), 13

    def crash(self, target):
        raise OSError("no space left on device")

    with monkeypatch.context() as patch:
        patch.setattr(Path, "replace", crash)
        with pytest.raises(OSError, match="no space"):
            run.save(path, progress)
    assert path.read_bytes() == before
    assert run.load(path).step == 12
    run.save(path, progress)  # what the crash left behind is no hindrance
    assert run.load(path).step == 13
    assert [file.name for file in tmp_path.iterdir()] == [path.name]


def test_the_file_is_on_disk_before_it_takes_the_name(tmp_path, monkeypatch, fsynced):
    path, order = tmp_path / "w", []
    replace = Path.replace

    def watched(self, target):
        order.append((self.stat().st_size, len(fsynced)))
        return replace(self, target)

    monkeypatch.setattr(Path, "replace", watched)
    save_tensors(path, {"a": torch.ones(1000)}, {})
    assert order == [(path.stat().st_size, 1)]
