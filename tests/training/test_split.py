"""Nothing that is held out is ever learned from."""

from __future__ import annotations

import math

import numpy as np
import polars as pl
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from tests.reference import training as twin
from tests.training.small import HORIZON, assert_same_bits, config, make_network, make_task, values
from utilsforecast.losses import mase

from holdfast.networks import HEADS
from holdfast.telemetry import TelemetryLog
from holdfast.training import error_scales, load_tensors, split_series, train
from holdfast.windows import Sampler, Windows

SHAPES = {"lengths": st.lists(st.integers(1, 40) | st.integers(41, 150), min_size=1, max_size=6)}
each_shape = given(**SHAPES, context_length=st.integers(1, 12), horizon=st.integers(1, 6))


@each_shape
def test_equals_the_rules_series_by_series(lengths, context_length, horizon):
    split = split_series(np.array(lengths), context_length, horizon)
    usable = sum(length > horizon + 1 for length in lengths)
    expected = [twin.cutoffs(length, context_length, horizon, usable) for length in lengths]
    assert split.until_n.tolist() == [until for until, _, _ in expected]
    ranges = zip(split.first_n.tolist(), split.last_n.tolist(), strict=True)
    assert [list(range(first, last + 1)) for first, last in ranges] == [allowed for _, allowed, _ in expected]
    pairs = list(zip(split.validated_V.tolist(), split.cutoff_V.tolist(), strict=True))
    assert pairs == [(i, cutoff) for i, (_, _, validates) in enumerate(expected) for cutoff in validates]
    assert split.trainable == any(allowed for _, allowed, _ in expected) == bool(len(pairs))


@settings(deadline=None)
@each_shape
def test_windows_see_rows_before_their_cutoff_and_learn_from_rows_before_until(lengths, context_length, horizon):
    split = split_series(np.array(lengths), context_length, horizon)
    if not split.trainable:
        return
    rows = [1.0 + np.arange(length + horizon) for length in lengths]  # every value says in which row it stands
    offsets = np.cumsum([0, *(len(y) for y in rows)]).tolist()
    windows = Windows.from_arrays(np.concatenate(rows), offsets, lengths)
    size = {"context_length": context_length, "horizon": horizon}
    drawn = Sampler(split.first_n, split.last_n, 64, seed=0).draw(1)
    batch = windows.gather(*drawn, **size, until_n=torch.from_numpy(split.until_n))
    until_B1 = torch.from_numpy(split.until_n)[batch.series_B, None]
    row_BT, row_BF = batch.y_BT - 1, batch.target_BF - 1
    assert (row_BT[batch.mask_BT] < batch.cutoff_B[:, None].expand_as(row_BT)[batch.mask_BT]).all()
    assert (row_BF[batch.target_mask_BF] < until_B1.expand_as(row_BF)[batch.target_mask_BF]).all()
    assert (row_BF[batch.target_mask_BF] >= batch.cutoff_B[:, None].expand_as(row_BF)[batch.target_mask_BF]).all()
    assert batch.target_mask_BF.any(1).all() and batch.mask_BT.any(1).all()  # every window teaches something

    held_out = windows.gather(split.validated_V, split.cutoff_V, **size)
    assert held_out.target_mask_BF.all()
    rows_BF = (held_out.target_BF - 1).numpy()
    assert (rows_BF >= split.until_n[split.validated_V, None]).all()
    for i in set(split.validated_V.tolist()):
        own = split.validated_V == i
        assert rows_BF[own][0, 0] == split.until_n[i] and rows_BF[own][-1, -1] == lengths[i] - 1


@pytest.mark.parametrize("length", [10, 9, 6, 5])
def test_long_series_have_whole_contexts_and_short_ones_at_least_half_of_what_there_is(length):
    split = split_series(np.array([100, length]), context_length=5, horizon=3)
    assert split.first_n[0] == 5
    assert split.first_n[1] >= split.last_n[1] // 2


def test_many_series_are_validated_evenly():
    split = split_series(np.array([2, *[30] * 5000, 2]), context_length=4, horizon=2)
    assert len(split.validated_V) == len(set(split.validated_V.tolist())) == 1024
    assert (split.validated_V[0], split.validated_V[-1]) == (1, 5000)
    assert set(np.diff(split.validated_V).tolist()) == {4, 5}


@pytest.mark.parametrize(
    ("series", "until", "windows"), [(1, 900, 91), (30, 900, 270), (255, 900, 765), (256, 970, 768)]
)
def test_few_long_series_validate_from_several_cutoffs_in_their_last_tenth(series, until, windows):
    split = split_series(np.array([1000] * series), context_length=20, horizon=10)
    assert split.until_n.tolist() == [until] * series
    assert len(split.cutoff_V) == windows
    assert (split.cutoff_V.min(), split.cutoff_V.max()) == (until, 990)


SHORT = (40, 14, 7, 6)  # the last two learn from horizons that `until` cuts off


def poisoned(poison):
    series = values(SHORT)
    for y in series:
        y[-HORIZON:] = poison
    return series


def trained(series, head, path):
    """Scales, the last weights (validation may choose others, training must not), and what each step measured."""
    task = make_task(series, make_network(head=head))
    with TelemetryLog() as log:
        train(task, config(max_steps=6), log, checkpoint=path)
    state = {name: tensor for name, tensor in load_tensors(path)[0].items() if not name.startswith("best.")}
    return task.error_scale_n, state, [(record.loss, record.role_norms, record.skipped) for record in log.steps]


@pytest.mark.parametrize("head", HEADS)
def test_poison_behind_until_changes_no_scale_no_step_and_no_weight(head, tmp_path):
    clean = trained(values(SHORT), head, tmp_path / "clean")
    for poison in (math.nan, math.inf, 1e300, -1e300):
        assert_same_bits(trained(poisoned(poison), head, tmp_path / "poisoned"), clean)


SERIES = st.lists(
    st.one_of(st.just(math.nan), st.floats(-1e6, 1e6).map(lambda y: round(y, 6))), min_size=1, max_size=15
)


@given(st.lists(SERIES, min_size=1, max_size=4), st.integers(1, 5), st.integers(0, 3))
def test_error_scales_equal_a_loop(series, season, held_out):
    start_n = np.cumsum([0, *(len(y) for y in series)])[:-1]
    until_n = np.array([max(len(y) - held_out, 0) for y in series])
    got = error_scales(np.concatenate(series), start_n, until_n, season)
    expected = [twin.error_scale(y[:until], season) for y, until in zip(series, until_n, strict=True)]
    np.testing.assert_allclose(got, expected, rtol=1e-9)
    assert (got > 0).all()


@pytest.mark.parametrize("season", [1, 4, 7])
def test_error_scales_are_those_of_mase(season):
    task = make_task()
    histories = [y[:until] for y, until in zip(values(), task.split.until_n.tolist(), strict=True)][:3]
    start_n = np.cumsum([0, *(len(y) for y in histories)])[:-1]
    scales = error_scales(np.concatenate(histories), start_n, np.array([len(y) for y in histories]), season)
    names = ["a", "b", "c"]
    history = pl.concat(
        pl.DataFrame({"unique_id": name, "ds": np.arange(len(y)), "y": y})
        for name, y in zip(names, histories, strict=True)
    )
    forecast = pl.DataFrame({"unique_id": names, "ds": [len(y) for y in histories], "y": [7.0] * 3, "model": [0.0] * 3})
    expected = mase(forecast, ["model"], season, history)["model"].to_numpy()
    np.testing.assert_allclose(7.0 / scales, expected, rtol=1e-12)


def scale_of(*rows, season=1):
    return error_scales(np.array(rows), np.array([0]), np.array([len(rows)]), season).item()


def test_series_without_an_error_are_scaled_by_their_spread_or_level():
    assert scale_of(5.0, 5.0, 5.0) == 5.0
    assert scale_of(-5.0, 5.0, -5.0, 5.0, season=2) == 5.0
    assert scale_of(0.0, 0.0, 0.0) == 1.0
    assert scale_of(math.nan, math.nan) == 1.0
    assert scale_of(3.0, season=2) == 3.0  # no pair
    assert scale_of(0.3, 0.1 + 0.2, 0.3) == pytest.approx(0.3)  # an error of rounding is none
    assert scale_of(1.0, math.nan, 3.0) == 1.0  # pairs with a gap are left out, and none is left: the spread


@given(SERIES, st.integers(1, 4), st.sampled_from([2.0**-30, 0.5, 2.0**40]))
def test_error_scales_follow_the_units(rows, season, unit):
    if twin.error_scale(rows, season) == 1.0:  # the fallback of a series that is all 0 or missing has no unit
        return
    assert scale_of(*(unit * row for row in rows), season=season) == unit * scale_of(*rows, season=season)


def test_all_too_short_to_train():
    task = make_task(values(lengths=(4, 1, 3)))
    assert not task.split.trainable and not len(task.split.validated_V)
    before = {name: tensor.clone() for name, tensor in task.network.state_dict().items()}
    with TelemetryLog() as log:
        progress = train(task, config(max_steps=50), log)
    assert (progress.step, progress.planned_steps, log.records) == (0, 0, [])
    assert_same_bits(before, dict(task.network.state_dict()))
