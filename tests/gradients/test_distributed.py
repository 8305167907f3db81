"""Two processes: the norm that both see is that of the joint batch, reduced once; a bad step is left out on both.

One start of two processes, in which all trainings run, serves all tests.
"""

from __future__ import annotations

import math
from pathlib import Path as File

import pytest
import torch
import torch.distributed as dist
from tests.gradients.trajectories import RULE, STEPS, Path, batches, check_same, guarded, network, sgd, walk
from torch import multiprocessing, nn
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.fsdp import fully_shard
from torch.distributed.tensor import DTensor
from torch.nn.parallel import DistributedDataParallel

from holdfast.errors import TrainingError
from holdfast.gradients import (
    ClipAGC,
    ClipAuto,
    ClipBlockRMS,
    ClipMedian,
    ClipNorm,
    ClipPercentile,
    ClipValue,
    ClipZScore,
    GradientGuard,
)

WORLD = 2
FEW = 12
RULES = {
    "inf-norm": {"rule": ClipNorm(0.1, math.inf)},
    "1-norm": {"rule": ClipNorm(1.0, 1.0)},
    "by tensor": {"rule": ClipNorm(0.1, per_tensor=True)},
    "value": {"rule": ClipValue(0.1)},
    "block rms": {"rule": ClipBlockRMS(0.02)},
    "by role, then the cap": {"rule": {"recurrent": ClipNorm(0.1), "head": ClipNorm(0.3)}, "cap": ClipNorm(0.25)},
    "percentile": {"rule": ClipPercentile(50.0, warmup=2)},
    "median": {"rule": ClipMedian(1.0, warmup=2)},
    "z-score": {"rule": ClipZScore(0.1, alpha=0.5, warmup=2)},
    "auto": {"rule": ClipAuto(50.0, steps=3)},
}


def whole(tensor):
    return tensor.full_tensor() if isinstance(tensor, DTensor) else tensor


class Whole(nn.Module):
    """The weights of a sharded model put together, in the order of its parameters."""

    def __init__(self, model):
        super().__init__()
        self.weights = nn.ParameterList([whole(parameter.detach()) for parameter in model.parameters()])


def ddp():
    return DistributedDataParallel(network())


def fsdp():
    """The head by itself and the rest in one; the head has one row, so one process holds nothing of it."""
    model, mesh = network(), init_device_mesh("cpu", (WORLD,))
    fully_shard(model.out, mesh=mesh)
    return fully_shard(model, mesh=mesh)


def train(model, data, rank, *, attach=False, steps=STEPS, guarded_model=None, options=None):
    """Each process trains on its half of each batch."""
    path, optimizer = Path(), sgd(model)
    guard = GradientGuard(guarded_model or model, **(options or {"rule": RULE}))
    if attach:
        guard.attach(optimizer)
    for batch in data[:steps]:
        loss = model(**{name: value.chunk(WORLD)[rank] for name, value in batch.items()})["loss"]
        loss.backward()
        if attach:
            optimizer.step()
        else:
            guard.step(optimizer, loss=loss)
        path.add(Whole(model), guard.last.total_norm)
        optimizer.zero_grad()
    return path, guard


def one_bad_value(model, rank):
    """A gradient that is nan in one value, on one process; what both make of it."""
    guard, optimizer = GradientGuard(model, RULE), sgd(model)
    before = Path()
    before.add(Whole(model), 0.0)
    model(**{name: value.chunk(WORLD)[rank] for name, value in batches()[0].items()})["loss"].backward()
    if rank == 1:
        next(model.parameters()).grad.to_local()[-1] = math.nan
    result = guard.step(optimizer)
    before.add(Whole(model), 0.0)
    return {
        "skipped": result.skipped,
        "nonfinite": result.nonfinite,
        "unchanged": torch.equal(*before.weights),
        "state": len(optimizer.state),
    }


def bad_loss(model, rank):
    """A loss that is inf on one process, with gradients that are finite on both."""
    guard, optimizer = GradientGuard(model, RULE), sgd(model)
    loss = model(**{name: value.chunk(WORLD)[rank] for name, value in batches()[0].items()})["loss"]
    loss.backward()
    return guard.step(optimizer, loss=loss.item() if rank == 0 else math.inf).skipped


def accumulate(model, rank):
    """Two backward passes for each update, reduced in the second."""
    path, optimizer = Path(), sgd(model)
    guard = GradientGuard(model, RULE)
    guard.attach(optimizer)
    for k, batch in enumerate(batches(parts=2)):
        model.require_backward_grad_sync = k % 2 == 1
        (model(**{name: value.chunk(WORLD)[rank] for name, value in batch.items()})["loss"] / 2).backward()
        if k % 2 == 1:
            optimizer.step()
            path.add(model, guard.last.total_norm)
            optimizer.zero_grad()
    return path


def refused(rule, rank):
    try:
        train(fsdp(), batches(), rank, steps=1, options={"rule": rule})
    except TrainingError as error:
        return str(error)
    return None


def work(rank, folder):
    torch.set_num_threads(1)
    dist.init_process_group("gloo", init_method=f"file://{folder}/meeting", rank=rank, world_size=WORLD)
    nan = batches()
    nan[7]["y"][0] = math.nan  # of the first half of the batch, so on one process
    inner = ddp()
    found = {
        "ddp": train(ddp(), batches(), rank)[0],
        "ddp attached": train(inner, batches(), rank, attach=True, guarded_model=inner.module)[0],
        "ddp accumulated": accumulate(ddp(), rank),
        "fsdp": train(fsdp(), batches(), rank)[0],
        "fsdp attached": train(fsdp(), batches(), rank, attach=True)[0],
        "ddp nan": train(ddp(), nan, rank)[0],
        "fsdp nan": train(fsdp(), nan, rank)[0],
        "fsdp one bad value": one_bad_value(fsdp(), rank),
        "bad loss": [bad_loss(ddp(), rank), bad_loss(fsdp(), rank)],
        "agc": refused(ClipAGC(0.05), rank),
        "rules": {name: train(fsdp(), batches(), rank, steps=FEW, options=RULES[name])[0] for name in RULES},
    }
    torch.save(found, f"{folder}/{rank}")
    dist.destroy_process_group()


@pytest.fixture(scope="module")
def found(tmp_path_factory):
    """What each of the two processes found."""
    folder = tmp_path_factory.mktemp("processes")
    multiprocessing.spawn(work, (str(folder),), nprocs=WORLD)
    return [torch.load(File(folder) / str(rank), weights_only=False) for rank in range(WORLD)]


@pytest.fixture(scope="module")
def plain():
    return walk(guarded)


@pytest.mark.parametrize("how", ["ddp", "ddp attached", "ddp accumulated", "fsdp", "fsdp attached"])
def test_two_processes_walk_the_path_of_one(found, plain, how):
    one, two = (each[how] for each in found)
    check_same(one, two)
    check_same(one, plain, 1e-10)


@pytest.mark.parametrize("how", ["ddp nan", "fsdp nan"])
def test_a_nan_on_one_process_is_skipped_on_both(found, how):
    for path in (each[how] for each in found):
        assert torch.equal(path.weights[7], path.weights[6])
        assert math.isnan(path.norms[7])
        assert all(map(math.isfinite, path.norms[:7] + path.norms[8:]))
        assert path.weights[-1].isfinite().all()
    assert torch.equal(found[0][how].weights[-1], found[1][how].weights[-1])


def test_one_bad_value_in_the_shard_of_one_process_is_seen_by_both(found):
    expected = {"skipped": True, "nonfinite": ("rnn.weight_ih_l0",), "unchanged": True, "state": 0}
    assert [each["fsdp one bad value"] for each in found] == [expected, expected]


def test_a_bad_loss_on_one_process_is_skipped_on_both(found):
    assert [each["bad loss"] for each in found] == [[True, True], [True, True]]


def test_a_rule_for_rows_is_refused_on_shards_by_name(found):
    for message in (each["agc"] for each in found):
        assert "ClipAGC" in message and "DTensor" in message


@pytest.mark.parametrize("name", RULES)
def test_each_rule_does_the_same_to_shards_as_to_the_whole(found, name):
    model, path = network(), Path()
    optimizer, guard = sgd(model), GradientGuard(model, **RULES[name])
    for batch in batches()[:FEW]:
        model(**batch)["loss"].backward()
        path.add(model, guard.step(optimizer).total_norm)
        optimizer.zero_grad()
    assert guard.summary().clip_fraction > 0
    for sharded in (each["rules"][name] for each in found):
        torch.testing.assert_close(torch.stack(sharded.weights), torch.stack(path.weights), rtol=1e-10, atol=1e-12)
        assert sharded.norms == pytest.approx(path.norms, rel=1e-10)
