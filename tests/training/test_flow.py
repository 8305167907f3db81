"""Looks at the flow of gradients in a fit: what they record and say, and that no weight notices."""

from __future__ import annotations

import math
from dataclasses import fields, replace
from itertools import pairwise

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from tests.training.small import CONTEXT, HORIZON, assert_same_bits, config, make_network, make_task
from tests.training.test_loop import Clock, Run, give_up, stop_at

from holdfast.flow import FlowProbe, FlowSample, adjoints, growth, probe
from holdfast.networks import batch_loss
from holdfast.telemetry import FlowRecord, TelemetryLog
from holdfast.training import flow_notes, load_tensors, train
from holdfast.training.flow import flow_record, probe_flow
from holdfast.windows import Sampler

L0, L1 = "recurrent.l0", "recurrent.l1"


def trained(folder, cell, share, **options):
    """Weights, optimiser and telemetry of a run, the looks at the flow apart."""
    task, path = make_task(network=make_network(cell=cell, dropout=0.4, layers=2)), folder / "state"
    torch.manual_seed(11)
    with TelemetryLog() as log:
        train(task, config(max_steps=45, probe_share=share, **options), log, checkpoint=path)
    others = [replace(record, seconds=0.0) for record in log.records if not isinstance(record, FlowRecord)]
    tensors, facts = load_tensors(path)
    left = (dict(task.network.state_dict()), tensors, {**facts, "seconds": 0}, torch.get_rng_state())
    return left, [repr(record) for record in others], log.flows


@pytest.mark.parametrize("cell", ["lstm", "gru", "rnn-tanh"])
@pytest.mark.parametrize("optimizer", ["adamw", "sgd"])
def test_weights_are_the_same_bit_for_bit_with_and_without(tmp_path, cell, optimizer):
    one, other = (trained(tmp_path, cell, share, optimizer=optimizer) for share in (0.0, 1.0))
    assert_same_bits(one[0], other[0])
    assert one[1] == other[1]
    assert one[2] == [] and [record.step for record in other[2]] == [10, 20, 30, 40]
    for record in other[2]:
        assert set(record.rates) == set(record.log_norms) == {L0, L1}
        assert record.lags[L0] == tuple(range(CONTEXT)) and np.isfinite(record.log_norms[L0]).all()
        assert 0 < record.rates[L0] < math.inf and record.rate_errors[L0] > 0 and record.seconds > 0


def test_a_resumed_run_ends_with_the_same_bits(tmp_path):
    folders = [tmp_path / name for name in ("whole", "cut")]
    for folder in folders:
        folder.mkdir()
    whole, cut = (Run(folder, max_steps=80, probe_share=1.0) for folder in folders)
    with pytest.raises(KeyboardInterrupt):
        cut.go(show=stop_at(63, give_up))
    assert_same_bits(cut.go(resume=True).ended(), whole.go().ended())
    assert [record.step for record in cut.log.flows] == [10, 20, 30, 40, 50, 60, 70, 80]


def test_what_is_seen_depends_on_seed_and_step_alone(tmp_path):
    looks = []
    for _ in range(2):
        torch.rand(3)  # the surroundings do not reach in
        run = Run(tmp_path, max_steps=25, probe_share=1.0).go()
        looks.append([replace(record, seconds=0.0) for record in run.log.flows])
    assert looks[0] == looks[1] and len(looks[0]) == 2


def batch_of(task, size):
    drawn = Sampler(task.split.first_n, task.split.last_n, size, seed=0).draw(1)
    until_n = torch.from_numpy(task.split.until_n)
    return task.windows.gather(*drawn, context_length=CONTEXT, horizon=HORIZON, until_n=until_n)


@pytest.mark.parametrize("size", [5, 16, 40])
def test_the_first_sixteen_windows_are_looked_at_and_others_make_no_difference(size):
    task = make_task(network=make_network(layers=2))
    torch.nn.init.normal_(task.network.output.weight)  # 0 lets no gradient in
    batch, log = batch_of(task, size), TelemetryLog()
    probe_flow(FlowProbe(task.network, every=1), task, batch, 7, log)
    (record,) = log.flows

    def loss():
        return batch_loss(task.network.head, task.network(batch), batch, task.error_scale_n[batch.series_B])

    found = {name: growth(each.log_norm_BT[:16]) for name, each in adjoints(task.network, loss).items()}
    assert record.step == 7 and set(record.rates) == set(found) == {L0, L1}
    for name, each in found.items():
        assert record.rates[name] == pytest.approx(each.rate, rel=1e-4)
        assert record.rate_errors[name] == pytest.approx(each.rate_error, rel=1e-3)
        assert record.log_factors[name] == pytest.approx(each.log_factor, rel=1e-4)
        # the mean over fewer targets: the same profile, shifted
        counts = [int(batch.target_mask_BF[:n].sum()) for n in (16, size)]
        shifted = [value + math.log(counts[1] / counts[0]) for value in each.per_lag.mean]
        assert record.log_norms[name] == pytest.approx(shifted, abs=1e-4)


def test_a_network_that_starts_at_its_anchors_lets_no_gradient_in():
    task, log = make_task(), TelemetryLog()
    probe_flow(FlowProbe(task.network, every=1), task, batch_of(task, 8), 1, log)
    (record,) = log.flows
    assert record.lags == record.log_norms == {L0: ()} and math.isnan(record.rates[L0])
    assert math.isnan(record.memory_lengths[L0]) and math.isnan(record.log_factors[L0])
    (note,) = flow_notes(log, 1e3 * record.seconds)
    assert note == "gradients flow back through time not at all (l0); 1 sample, 0.1 % of the time"


def test_a_run_that_diverges_is_looked_at_and_goes_on():
    task = make_task()
    with TelemetryLog() as log:
        progress = train(task, config(max_steps=20, lr=1e30, optimizer="sgd", clip="none", probe_share=1.0), log)
    assert progress.step == 20 and any(record.skipped for record in log.steps)
    assert [record.step for record in log.flows] == [10, 20]
    last = log.flows[0]
    assert math.isnan(last.rates[L0])
    (note,) = flow_notes(log, progress.seconds)
    assert note.startswith("gradients flow back through time in numbers that are not finite (l0); 2 samples, ")


@settings(max_examples=40, deadline=None)
@given(st.integers(1, 400))
def test_a_record_keeps_at_most_64_lags_evenly_from_the_first_to_the_last(count):
    logs_BT = torch.linspace(5.0, -5.0, count, dtype=torch.float64).expand(2, -1)
    sample = FlowSample(1, {"l0": growth(logs_BT)}, 0.5)
    record = flow_record(sample, step=9)
    lags, mean = record.lags["l0"], sample.growth["l0"].per_lag.mean
    assert (record.step, record.seconds, len(lags)) == (9, 0.5, min(count, 64))
    assert (lags[0], lags[-1]) == (0, count - 1)
    gaps = {later - one for one, later in pairwise(lags)}
    assert not gaps or (min(gaps) >= 1 and max(gaps) - min(gaps) <= 1)
    assert record.log_norms["l0"] == tuple(mean[lag] for lag in lags)


@pytest.mark.parametrize(
    ("rows", "memory"),
    [
        ([[-9.0, -6.0, -3.0, 0.0]], 2.0),
        ([[0.0, 0.0, 0.0]], math.inf),
        ([[-math.inf, -1.0, 0.0]], 2.0),
        ([[-math.inf, -math.inf]], math.nan),
        ([[math.nan, math.nan]], math.nan),
    ],
)
def test_how_far_back_gradients_reach(rows, memory):
    record = flow_record(FlowSample(1, {"l0": growth(torch.tensor(rows))}, 0.5), step=1)
    assert record.memory_lengths["l0"] == pytest.approx(memory, nan_ok=True)


def look(step, seconds=0.5, **rates):
    lags = {f"recurrent.{name}": (0, 1) for name in rates}
    named = {f"recurrent.{name}": rate for name, rate in rates.items()}
    parts = {"rate_errors": {}, "log_factors": {}, "memory_lengths": {}, "log_norms": {}}
    return FlowRecord(step=step, rates=named, lags=lags, seconds=seconds, **parts)


def notes(*records, seconds=100.0):
    log = TelemetryLog()
    for record in records:
        log.append(record)
    return flow_notes(log, seconds)


def test_the_note_tells_the_last_look_and_what_all_of_them_cost():
    assert notes() == []
    assert notes(look(10, l0=0.5), look(20, l0=0.87312, l1=1.25)) == [
        "gradients flow back through time at 0.873 per recurrent step (l0), at 1.25 per recurrent step (l1); "
        "2 samples, 1 % of the time"
    ]
    assert notes(look(10, 0.4321, l0=math.nan)) == [
        "gradients flow back through time in numbers that are not finite (l0); 1 sample, 0.43 % of the time"
    ]
    assert notes(replace(look(10, l0=math.nan), lags={L0: (0,)})) == []  # one step: there is no time to flow through
    assert notes(look(10)) == []


def test_looks_are_part_of_the_time_that_a_budget_is_for(monkeypatch):
    clock = Clock(monkeypatch)
    monkeypatch.setattr(probe, "_clock", clock)
    with TelemetryLog() as log:
        progress = train(make_task(), config(max_steps=1000, time_budget=4.0, probe_share=0.1), log)
    assert progress.seconds == pytest.approx(4.0, abs=0.08)
    assert progress.step == progress.planned_steps
    spent = sum(record.seconds for record in log.flows)
    assert 0 < spent <= 0.1 * progress.seconds
    # four readings of the clock a step, five in one that is looked at, and two in a validation
    readings = 4 * progress.step + len(log.flows) + 2 * len(log.validations)
    assert progress.seconds == pytest.approx(0.01 * readings, abs=0.03)


def test_all_parts_of_a_batch_are_by_window():
    batch = batch_of(make_task(), 5)
    assert {len(getattr(batch, field.name)) for field in fields(batch)} == {5}
