"""The sampler against numpy's own way of skipping ahead, and against what uniform means."""

from __future__ import annotations

import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.stats import chisquare

from holdfast.windows import Sampler


def draws(sampler, steps):
    """All (series, cutoff) pairs of some steps."""
    return np.concatenate([np.stack(sampler.draw(step), 1) for step in steps])


@given(st.integers(0, 2**63), st.integers(0, 10**6))
@settings(max_examples=30, deadline=None)
def test_a_step_draws_from_the_stream_that_starts_2_to_the_192_times_step_blocks_on(seed, step):
    first, last = np.array([1, 1, 4]), np.array([9, 0, 4])
    series, cutoff = Sampler(first, last, 16, seed).draw(step)
    skipping = np.random.Philox(key=seed)
    skipping.advance(step << 192)
    twin = np.random.Generator(skipping)
    expected = np.array([0, 2])[twin.integers(2, size=16)]
    assert series.tolist() == expected.tolist()
    assert cutoff.tolist() == (first[series] + twin.integers(last[series] - first[series] + 1)).tolist()


def test_a_step_does_not_depend_on_what_was_drawn_before():
    def fresh():
        return Sampler(np.array([0, 5, 2]), np.array([50, 9, 200]), 32, seed=3)

    used, order = fresh(), [7, 1, 7, 0, 99, 2]
    for step in order:
        assert np.array_equal(draws(used, [step]), draws(fresh(), [step]))


def test_steps_and_seeds_differ():
    first, last = np.zeros(1000, np.int64), np.full(1000, 1000)
    seen = [draws(Sampler(first, last, 64, seed), [step]) for seed in range(4) for step in range(4)]
    unique = np.unique(np.concatenate(seen), axis=0)
    assert len(unique) > 0.99 * 64 * 16


@given(st.lists(st.tuples(st.integers(0, 20), st.integers(-3, 20)), min_size=1, max_size=8), st.integers(0, 1000))
@settings(max_examples=60, deadline=None)
def test_never_outside_the_range(ranges, step):
    first, last = np.array(ranges, dtype=np.int64).T
    if not (last >= first).any():
        return
    series, cutoff = Sampler(first, last, 50, seed=1).draw(step)
    assert (first[series] <= cutoff).all()
    assert (cutoff <= last[series]).all()


def test_series_are_drawn_alike_and_cutoffs_alike_within_a_series():
    first, last = np.array([10, 0, 7, 3]), np.array([12, 29, 6, 3])  # three cutoffs, thirty, none, one
    pairs = draws(Sampler(first, last, 100, seed=0), range(200))
    per_series = np.bincount(pairs[:, 0], minlength=4)
    assert per_series[2] == 0
    assert chisquare(per_series[[0, 1, 3]]).pvalue > 1e-3
    for i in (0, 1):
        per_cutoff = np.bincount(pairs[pairs[:, 0] == i, 1] - first[i], minlength=last[i] - first[i] + 1)
        assert chisquare(per_cutoff).pvalue > 1e-3
    assert (pairs[pairs[:, 0] == 3, 1] == 3).all()


def test_series_and_cutoff_are_independent():
    pairs = draws(Sampler(np.zeros(5, np.int64), np.full(5, 4), 100, seed=2), range(200))
    joint = np.bincount(5 * pairs[:, 0] + pairs[:, 1], minlength=25)
    assert chisquare(joint).pvalue > 1e-3


def test_consecutive_steps_are_independent():
    sampler = Sampler(np.zeros(1, np.int64), np.full(1, 3), 1, seed=5)
    cutoffs = draws(sampler, range(4001))[:, 1]
    assert chisquare(np.bincount(4 * cutoffs[:-1] + cutoffs[1:], minlength=16)).pvalue > 1e-3


def test_an_order_renames_what_is_drawn():
    """Series that are renamed together with their order are drawn at the same places, at the same cutoffs."""
    rng = np.random.default_rng(0)
    first, last = rng.integers(0, 5, 30), rng.integers(3, 20, 30)
    drawn, cutoff = Sampler(first, last, 64, seed=1).draw(3)
    new = rng.permutation(30)  # the new number of each series
    old = np.argsort(new)
    renamed, same_cutoff = Sampler(first[old], last[old], 64, seed=1, order=new).draw(3)
    np.testing.assert_array_equal(renamed, new[drawn])
    np.testing.assert_array_equal(same_cutoff, cutoff)
