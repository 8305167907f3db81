"""Windows against a loop over rows, and against the ways in which a window could see what it must not."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from tests.reference.windows import rows_of, window

from holdfast.windows import Windows


def build(rows, lengths, seed=0):
    """Windows over a list of series, each its observed and future values, with random covariates."""
    offsets = np.cumsum([0, *map(len, rows)])
    generator = torch.Generator().manual_seed(seed)
    plain = Windows.from_arrays(np.concatenate(rows), offsets.tolist(), lengths)
    total = int(offsets[-1])
    return Windows(
        y_R=plain.y_R,
        past_RP=torch.randn(total, 2, generator=generator),
        known_RK=torch.randn(total, 3, generator=generator),
        static_nS=torch.randn(len(lengths), 2, generator=generator),
        start_n=plain.start_n,
        length_n=plain.length_n,
    )


@st.composite
def problems(draw):
    """A store with gaps, some windows of it, and the sizes of the windows."""
    horizon = draw(st.integers(1, 5))
    value = st.one_of(st.just(math.nan), st.floats(-1e6, 1e6))
    observed = draw(st.lists(st.lists(value, min_size=1, max_size=9), min_size=1, max_size=4))
    pairs = draw(
        st.lists(
            st.integers(0, len(observed) - 1).flatmap(
                lambda i: st.tuples(st.just(i), st.integers(0, len(observed[i])))
            ),
            min_size=1,
            max_size=5,
        )
    )
    until = [draw(st.integers(0, len(y) + 1)) for y in observed]
    return observed, pairs, until, draw(st.integers(1, 12)), horizon


@settings(max_examples=80, deadline=None)
@given(problems())
def test_gather_is_a_loop_over_rows(problem):
    observed, pairs, until, T, F = problem
    windows = build([[*y, *[math.nan] * F] for y in observed], [len(y) for y in observed])
    series, cutoff = map(list, zip(*pairs, strict=True))
    batch = windows.gather(series, cutoff, context_length=T, horizon=F, until_n=torch.tensor(until))
    y, past, known = windows.y_R.tolist(), windows.past_RP.tolist(), windows.known_RK.tolist()
    for b, (i, end) in enumerate(pairs):
        start = int(windows.start_n[i])
        expected = window(y, start, len(observed[i]), end, T, F, until[i])
        parts = (batch.y_BT, batch.mask_BT, batch.target_BF, batch.target_mask_BF)
        assert tuple(part[b].tolist() for part in parts) == expected
        assert batch.past_BTP[b].tolist() == rows_of(past, start, end, T, F)[:T]
        assert [*batch.known_BTK[b].tolist(), *batch.known_BFK[b].tolist()] == rows_of(known, start, end, T, F)
        assert torch.equal(batch.static_BS[b], windows.static_nS[i])
    assert batch.series_B.tolist() == series
    assert batch.cutoff_B.tolist() == cutoff


@pytest.mark.parametrize("sentinel", [math.nan, math.inf, 1e300])
def test_no_window_reads_the_rows_of_another_series(sentinel):
    T, F, own = 8, 3, [1.0, 2.0, 3.0, 4.0]
    neighbour = [sentinel] * 9
    windows = build([neighbour, [*own, *[math.nan] * F], neighbour], [6, 4, 6])
    mine = slice(9, 16)
    for features in (windows.past_RP, windows.known_RK):
        kept = features[mine].clone()
        features.fill_(math.nan)
        features[mine] = kept
    batch = windows.gather([1] * 5, range(5), context_length=T, horizon=F)
    for cutoff in range(5):
        assert batch.y_BT[cutoff].tolist() == [0.0] * (T - cutoff) + own[:cutoff]
        assert batch.mask_BT[cutoff].tolist() == [False] * (T - cutoff) + [True] * cutoff
        learned = own[cutoff:] if cutoff else []  # nothing is learned from an empty context
        assert batch.target_BF[cutoff].tolist() == (learned + [0.0] * F)[:F]
    for features in (batch.past_BTP, batch.known_BTK, batch.known_BFK):
        assert torch.isfinite(features).all()


def test_values_behind_the_length_of_a_series_are_neither_context_nor_target():
    windows = Windows.from_arrays(np.arange(10.0), offsets=[0, 10], lengths=[6])
    batch = windows.gather([0, 0], [6, 4], context_length=2, horizon=3)
    assert batch.target_mask_BF.tolist() == [[False, False, False], [True, True, False]]
    assert batch.target_BF.tolist() == [[0.0, 0.0, 0.0], [4.0, 5.0, 0.0]]


def test_the_future_never_reaches_the_context():
    rows = np.arange(20.0)
    changed = rows.copy()
    changed[8:] = [1e300, math.nan, math.inf] * 4
    batches = [
        build([y], [20]).gather([0, 0], [8, 3], context_length=10, horizon=4, until_n=torch.tensor([8]))
        for y in (rows, changed)
    ]
    assert torch.equal(batches[0].y_BT, batches[1].y_BT)
    assert torch.equal(batches[0].mask_BT, batches[1].mask_BT)
    assert not batches[0].target_mask_BF[0].any()
    assert torch.equal(batches[0].target_BF[1], batches[1].target_BF[1])


def test_a_window_that_saw_nothing_teaches_nothing():
    windows = Windows.from_arrays([math.nan, math.nan, 1e9, 2e9, 3e9], offsets=[0, 5], lengths=[5])
    batch = windows.gather([0, 0, 0], [0, 2, 3], context_length=2, horizon=2)
    assert batch.target_mask_BF.tolist() == [[False, False], [False, False], [True, True]]


def test_known_features_of_the_horizon_are_those_of_the_future_rows():
    windows = build([[1.0, 2.0, math.nan, math.nan]], [2])
    batch = windows.gather([0], [2], context_length=2, horizon=2)
    assert torch.equal(batch.known_BFK[0], windows.known_RK[2:4])
    assert torch.equal(batch.known_BTK[0], windows.known_RK[:2])


def test_numpy_lists_and_tensors_ask_for_the_same_windows():
    windows = build([np.arange(9.0)], [7])
    answers = [
        windows.gather(kind([0, 0]), kind([3, 7]), context_length=4, horizon=2).y_BT
        for kind in (list, np.array, torch.tensor)
    ]
    assert torch.equal(answers[0], answers[1])
    assert torch.equal(answers[0], answers[2])
