"""Naive forecasts against plain loops, with gaps of every kind."""

from __future__ import annotations

import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from tests.reference.anchors import forecast, naive_error

from holdfast.networks.anchors import anchor_forecasts, candidate_anchors, fold, newest, tile
from holdfast.networks.forecaster import naive_error as fast_naive_error


def every_kind(season):
    kinds = ("season", "season-shifted", "seasonal-mean", "recent-mean")
    return [("last", 1), *((kind, season) for kind in kinds), ("drift", 1)]


value = st.one_of(st.none(), st.integers(-99, 99).map(float))
contexts = st.one_of(st.integers(1, 14), st.just(60)).flatmap(
    lambda T: st.lists(st.lists(value, min_size=T, max_size=T), min_size=1, max_size=3)
)


def tensors(contexts):
    """Values (0 where missing) and mask, in float64."""
    y_BT = torch.tensor([[0.0 if v is None else v for v in context] for context in contexts], dtype=torch.float64)
    return y_BT, torch.tensor([[v is not None for v in context] for context in contexts])


@settings(max_examples=60, deadline=None)
@given(contexts, st.integers(1, 17), st.integers(1, 20))
def test_every_anchor_is_that_of_a_loop(contexts, season, horizon):
    which = every_kind(season)
    anchors_BFA = anchor_forecasts(*tensors(contexts), which, horizon)
    for b, context in enumerate(contexts):
        for a, anchor in enumerate(which):
            assert anchors_BFA[b, :, a].tolist() == pytest.approx(forecast(context, *anchor, horizon), abs=1e-10)


@settings(max_examples=100, deadline=None)
@given(contexts, st.integers(1, 17))
def test_the_naive_error_is_that_of_a_loop(contexts, season):
    expected = [naive_error(context, season) for context in contexts]
    assert fast_naive_error(*tensors(contexts), season).tolist() == pytest.approx(expected)


@pytest.mark.parametrize("season", [1, 2, 5, 24])
@pytest.mark.parametrize("horizon", [1, 4, 5, 11, 48])
def test_complete_contexts_repeat_the_newest_season(season, horizon):
    T = 50
    y_T = torch.arange(1.0, T + 1)
    seasonal_F = anchor_forecasts(y_T[None], torch.ones(1, T, dtype=torch.bool), [("season", season)], horizon)[0, :, 0]
    # y_t = t, so the value is the step that it comes from
    assert seasonal_F.tolist() == [T + k - season * math.ceil(k / season) for k in range(1, horizon + 1)]


@settings(max_examples=60, deadline=None)
@given(contexts, st.integers(1, 8), st.floats(0.01, 100), st.floats(-50, 50))
def test_anchors_move_with_the_units(contexts, season, a, b):
    y_BT, mask_BT = tensors(contexts)
    mask_BT[:, 0] = True  # an empty context gives 0, whatever the units
    which = every_kind(season)
    moved_BT = torch.where(mask_BT, a * y_BT + b, 0.0)
    moved_BFA = anchor_forecasts(moved_BT, mask_BT, which, 9)
    torch.testing.assert_close(moved_BFA, a * anchor_forecasts(y_BT, mask_BT, which, 9) + b, rtol=1e-9, atol=1e-7)


@settings(max_examples=60, deadline=None)
@given(contexts, st.integers(1, 8))
def test_what_is_missing_is_never_read(contexts, season):
    y_BT, mask_BT = tensors(contexts)
    mask_BT[:, 0] = True
    which = every_kind(season)
    poisoned_BT = torch.where(mask_BT, y_BT, 1e9)
    assert torch.equal(anchor_forecasts(poisoned_BT, mask_BT, which, 9), anchor_forecasts(y_BT, mask_BT, which, 9))


def test_an_exact_season_is_forecast_exactly():
    y_T = torch.tensor([3.0, 1.0, 4.0, 1.0, 5.0] * 4)
    which = [("season", 5), ("seasonal-mean", 5)]
    anchors_BFA = anchor_forecasts(y_T[None], torch.ones(1, 20, dtype=torch.bool), which, 7)
    assert anchors_BFA[0].T.tolist() == [[3.0, 1.0, 4.0, 1.0, 5.0, 3.0, 1.0]] * 2


def test_a_straight_line_is_continued_by_the_drift():
    y_T = 2.0 - 0.5 * torch.arange(9.0)
    drift_F = anchor_forecasts(y_T[None], torch.ones(1, 9, dtype=torch.bool), [("drift", 1)], 4)[0, :, 0]
    assert drift_F.tolist() == [2.0 - 0.5 * t for t in (9, 10, 11, 12)]


def test_the_seasonal_mean_forgets_what_is_older_than_seven_seasons():
    y_T = torch.cat([torch.full((6,), 1e6), torch.arange(14.0)])
    mean_F = anchor_forecasts(y_T[None], torch.ones(1, 20, dtype=torch.bool), [("seasonal-mean", 2)], 2)[0, :, 0]
    assert mean_F.tolist() == [6.0, 7.0]  # means of 0, 2, .., 12 and 1, 3, .., 13


@given(st.integers(1, 9), st.integers(1, 12))
@settings(max_examples=30, deadline=None)
def test_fold_keeps_order_and_pads_the_oldest(season, T):
    folded = fold(torch.arange(1.0, T + 1)[None], season)[0].flatten().tolist()
    assert folded == [0.0] * (-T % season) + [float(t) for t in range(1, T + 1)]
    assert tile(torch.arange(float(season))[None], T)[0].tolist() == [float(k % season) for k in range(T)]


def test_newest_says_where_it_found_nothing():
    mask_BT = torch.tensor([[False, True, False, False]])
    value_Bm, found_Bm = newest(torch.tensor([[0.0, 7.0, 0.0, 0.0]]), mask_BT, 2)
    assert found_Bm.tolist() == [[False, True]]
    assert value_Bm[0, 1].item() == 7.0


def test_candidates_are_distinct_for_every_set_of_seasons():
    for seasons in [(), (1,), (7,), (24, 168), (48, 336, 17520)]:
        candidates = candidate_anchors(seasons, 12)
        assert len(set(candidates)) == len(candidates)
        assert [season for kind, season in candidates if kind == "season"] == list(seasons)
