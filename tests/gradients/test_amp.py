"""Mixed precision: gradients are unscaled before they are measured, and a scaler's search for its scale is no skip."""

from __future__ import annotations

import itertools
import math

import pytest
import torch
from tests.gradients.trajectories import RULE, STEPS, TORCH, Path, batches, check_same, flat, network, sgd
from torch import nn
from torch.amp import GradScaler

from holdfast.errors import TrainingError
from holdfast.gradients import GradientGuard

SCALE = 2.0**14
KIND = (torch.float32, nn.GRU)  # not every CPU has an LSTM in float16
OURS = ["guard.step", "scaler.step of an attached optimiser", "the same after unscale_"]


def train(how, dtype, *, fused=False, scale=SCALE, data=None, guard_options=None):
    """50 steps in mixed precision (float32: without autocast); the path, the guard and the scaler."""
    model, path = network(*KIND), Path()
    optimizer, scaler = sgd(model, fused), GradScaler("cpu", init_scale=scale or 1.0, enabled=scale is not None)
    guard = GradientGuard(model, RULE, **(guard_options or {}))
    if "attached" in how or "same" in how:
        guard.attach(optimizer)
    for batch in data or batches(torch.float32):
        with torch.autocast("cpu", dtype=dtype, enabled=dtype != torch.float32):
            loss = model(**batch)["loss"]
        scaler.scale(loss).backward()
        if how == "guard.step":
            norm = guard.step(optimizer, loss=loss, scaler=scaler).total_norm
        else:
            if how != "scaler.step of an attached optimiser":
                scaler.unscale_(optimizer)
            norm = nn.utils.clip_grad_norm_(model.parameters(), RULE.max_norm).item() if how == "torch" else math.nan
            scaler.step(optimizer)
            norm = guard.last.total_norm if guard.last else norm
        scaler.update()
        path.add(model, norm)
        optimizer.zero_grad()
    return path, guard, scaler


@pytest.mark.parametrize("fused", [False, True])
@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
@pytest.mark.parametrize("how", OURS)
def test_mixed_precision_walks_the_path_of_torch(how, dtype, fused):
    path, guard, scaler = train(how, dtype, fused=fused)
    check_same(path, train("torch", dtype)[0], TORCH if dtype == torch.bfloat16 else 100 * TORCH)
    assert scaler.get_scale() == SCALE
    assert guard.summary().steps == STEPS
    assert 0.2 < guard.summary().clip_fraction < 0.8


@pytest.mark.parametrize("fused", [False, True])
@pytest.mark.parametrize("how", OURS)
def test_each_way_to_step_takes_the_same_one(how, fused):
    path, _, _ = train(how, torch.float16, fused=fused)
    check_same(path, train("guard.step", torch.float16, fused=fused)[0])


@pytest.mark.parametrize("fused", [False, True])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_a_scale_that_is_a_power_of_two_changes_no_bit(dtype, fused):
    scaled, unscaled = (train("guard.step", dtype, fused=fused, scale=scale)[0] for scale in (SCALE, None))
    check_same(scaled, unscaled)


@pytest.mark.parametrize(("how", "fused"), [(OURS[0], False), *((how, True) for how in OURS)])
def test_the_search_for_a_scale_is_counted_apart(how, fused):
    options = {"give_up_after": 1, "nonfinite": "raise"}
    path, guard, scaler = train(how, torch.float16, fused=fused, scale=2.0**30, guard_options=options)
    summary = guard.summary()
    assert summary.calibrations == math.log2(2.0**30 / scaler.get_scale()) > 3
    assert (summary.skipped, summary.bad_in_a_row) == (0, 0)
    assert summary.steps == STEPS
    still = sum(torch.equal(one, two) for one, two in itertools.pairwise([flat(network(*KIND)), *path.weights]))
    assert still == summary.calibrations
    assert all(weights.isfinite().all() for weights in path.weights)
    assert sum(map(math.isfinite, path.norms)) == STEPS - summary.calibrations


def test_a_scaler_that_leaves_a_step_out_before_the_optimiser_is_called_is_not_seen_by_an_attached_guard():
    _, guard, scaler = train("scaler.step of an attached optimiser", torch.float16, scale=2.0**30)
    left_out = math.log2(2.0**30 / scaler.get_scale())
    assert guard.summary().steps == STEPS - left_out < STEPS
    assert guard.summary().skipped == guard.summary().calibrations == 0


@pytest.mark.parametrize("fused", [False, True])
def test_gradients_that_are_never_finite_are_no_search_for_a_scale(fused):
    data = [{"x": batch["x"] * math.nan, "y": batch["y"]} for batch in batches(torch.float32)]
    with pytest.raises(TrainingError) as caught:
        train("guard.step", torch.float16, fused=fused, data=data, guard_options={"give_up_after": 5})
    assert "5" in str(caught.value)
