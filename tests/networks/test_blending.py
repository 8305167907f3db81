"""The mixture of a network's forecast and its intervals with others, step by step."""

from __future__ import annotations

from statistics import NormalDist

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from holdfast.networks import ERROR_LEVELS, Blend, Others

HORIZON, WINDOWS = 4, 3
LEVELS = (2.0, 50.0, 80.0, 95.0, 99.0, 99.9)
PROBABILITIES = tuple(sorted(p for level in LEVELS for p in ((1 - level / 100) / 2, (1 + level / 100) / 2)))
WEIGHTS = [(0.5, 0.3, 0.2), (0.0, 1.0, 0.0), (0.0, 0.4, 0.6), (1.0, 0.0, 0.0)]


def forecasts(seed):
    rng = np.random.default_rng(seed)
    point_BF = rng.normal(size=(WINDOWS, HORIZON))
    away_BFQ = np.sort(rng.exponential(size=(WINDOWS, HORIZON, len(LEVELS))), axis=-1)
    border_BFQ = point_BF[..., None] + np.concatenate([-away_BFQ[..., ::-1], 2 * away_BFQ], axis=-1)
    others = Others(*rng.normal(size=(2, WINDOWS, HORIZON)), scale_B=rng.exponential(size=WINDOWS) + 0.1)
    growth_F, size_L = rng.exponential(size=HORIZON) + 0.1, np.sort(rng.exponential(size=len(ERROR_LEVELS)))
    return point_BF, border_BFQ, others, growth_F, size_L


def slow_size(size_L, probability):
    """The size of an error that a share of all stays below: kept for whole percents, beyond 99 as of normal errors."""
    level = abs(2 * probability - 1)
    if level > 0.99:
        normal = NormalDist()
        return size_L[98] * normal.inv_cdf((1 + level) / 2) / normal.inv_cdf(0.995)
    percent = 100 * level
    below = min(int(percent + 1e-9), 98)
    lower = 0.0 if below == 0 else size_L[below - 1]
    return lower + (percent - below) * (size_L[below] - lower)


@pytest.mark.parametrize("weights", WEIGHTS)
@pytest.mark.parametrize("width", [1.0, 2.5])
def test_a_mixture_and_its_borders_are_those_of_the_loop(weights, width):
    point_BF, border_BFQ, others, growth_F, size_L = forecasts(0)
    blend = Blend(HORIZON)
    blend.set(weights, width)
    blend.learn(growth_F, size_L)
    mixed_BF, mixed_BFQ = blend(point_BF, border_BFQ, PROBABILITIES, others)
    own, smoothed, naive = weights
    for b in range(WINDOWS):
        for f in range(HORIZON):
            point = own * point_BF[b, f] + smoothed * others.smoothed_BF[b, f] + naive * others.naive_BF[b, f]
            assert mixed_BF[b, f] == pytest.approx(point)
            for q, probability in enumerate(PROBABILITIES):
                half = others.scale_B[b] * growth_F[f] * slow_size(size_L, probability)
                away = own * (border_BFQ[b, f, q] - point_BF[b, f]) + (1 - own) * (half if probability > 0.5 else -half)
                assert mixed_BFQ[b, f, q] == pytest.approx(point + width * away)


@given(
    st.integers(0, 99),
    st.sampled_from(WEIGHTS),
    st.floats(0.01, 100),
    st.lists(st.floats(0.0001, 0.9999), min_size=2, max_size=9, unique=True),
)
def test_borders_never_cross(seed, weights, width, probabilities):
    point_BF, _, others, growth_F, size_L = forecasts(seed)
    ordered = sorted(probabilities)
    border_BFQ = point_BF[..., None] + np.array([NormalDist().inv_cdf(p) for p in ordered])
    blend = Blend(HORIZON)
    blend.set(weights, width)
    blend.learn(growth_F, size_L)
    mixed_BF, mixed_BFQ = blend(point_BF, border_BFQ, ordered, others)
    assert (np.diff(mixed_BFQ, axis=-1) >= -1e-9 * np.abs(mixed_BFQ).max()).all()
    upper_Q = np.array(ordered) > 0.5
    assert (mixed_BFQ[..., upper_Q] >= mixed_BF[..., None]).all() and (
        mixed_BFQ[..., ~upper_Q] <= mixed_BF[..., None]
    ).all()


@pytest.mark.parametrize("others", [True, False])
def test_a_new_one_leaves_every_bit_as_it_is(others):
    point_BF, border_BFQ, mixed_with, _, _ = forecasts(1)
    blend = Blend(HORIZON)
    assert not blend.needs[0]
    got = blend(point_BF, border_BFQ, PROBABILITIES, mixed_with if others else None)
    assert got[0].tobytes() == point_BF.tobytes() and got[1].tobytes() == border_BFQ.tobytes()
    blend.set((0.9, 0.1, 0.0))
    assert blend.needs[0]


def test_what_was_chosen_is_kept_with_the_weights():
    blend, again = Blend(HORIZON), Blend(HORIZON)
    point_BF, border_BFQ, others, growth_F, size_L = forecasts(2)
    blend.set((0.2, 0.5, 0.3), 1.3)
    blend.learn(growth_F, size_L)
    again.load_state_dict(blend.state_dict())
    for one, other in zip(*(each(point_BF, border_BFQ, PROBABILITIES, others) for each in (blend, again)), strict=True):
        np.testing.assert_array_equal(one, other)
