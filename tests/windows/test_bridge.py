"""Outages at the end of what a forecast may see: against a loop, and what a window of them holds."""

from __future__ import annotations

import math

import numpy as np
from hypothesis import given
from hypothesis import strategies as st
from tests.reference.anchors import bridged, observed, until_newest

from holdfast.windows import Windows

SERIES = st.lists(st.one_of(st.none(), st.integers(-9, 9).map(float)), min_size=1, max_size=14)


def plain(values):
    return [None if math.isnan(value) else value for value in values]


@given(st.lists(SERIES, min_size=1, max_size=4), st.lists(st.integers(1, 6), max_size=2), st.integers(1, 10))
def test_a_context_that_ends_in_an_outage_is_that_of_a_loop(rows, seasons, T):
    offsets = np.cumsum([0, *map(len, rows)]).tolist()
    values = [math.nan if value is None else value for one in rows for value in one]
    windows = Windows.from_arrays(values, offsets, [len(one) for one in rows], seasons=seasons)
    for i, one in enumerate(rows):
        for cutoff in range(1, len(one) + 1):
            batch = windows.gather([i], [cutoff], context_length=T, horizon=0)
            history = one[:cutoff]
            recent = until_newest(history) if observed(history) else history
            assert batch.age_B.item() == len(history) - len(recent)
            got = [
                [value if seen else None for value, seen in zip(y_BT[0].tolist(), mask_BT[0].tolist(), strict=True)]
                for y_BT, mask_BT in ((batch.y_BT, batch.mask_BT), (batch.recent_BT, batch.recent_mask_BT))
            ]
            pad = [None] * T
            assert got == [(pad + bridged(history, seasons))[-T:], (pad + recent)[-T:]]


@given(SERIES, st.integers(1, 9), st.integers(0, 9), st.integers(0, 3))
def test_an_excerpt_is_the_same_window_with_values_taken_out(values, rows, hidden, F):
    y = [math.nan if value is None else value for value in values]
    windows = Windows.from_arrays([*y, *[math.nan] * 4], [0, len(y) + 4], [len(y)], seasons=(3,))
    for cutoff in range(1, len(y) + 1):
        few = windows.excerpt(np.array([0]), np.array([cutoff]), rows=rows, horizon=F, hidden=hidden)
        kept = values[max(cutoff - rows, 0) : cutoff]
        left = kept[: max(len(kept) - hidden, 0)]
        expected = [*left, *[None] * (len(kept) - len(left)), *(plain(y) + [None] * 4)[cutoff : cutoff + F]]
        assert plain(few.y_R.tolist()) == expected
        assert (few.start_n.tolist(), few.length_n.tolist()) == ([0], [len(expected)])


def test_without_a_missing_row_nothing_is_kept_for_outages():
    windows = Windows.from_arrays([1.0, 2.0, 3.0, math.nan], offsets=[0, 4], lengths=[3], seasons=(2,))
    assert (windows.newest_R, windows.bridge_R) == (None, None)
    batch = windows.gather([0, 0], [2, 3], context_length=2, horizon=1)
    assert batch.recent_BT is batch.y_BT
    assert batch.age_B.tolist() == [0, 0]
