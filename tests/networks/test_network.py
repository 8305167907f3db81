"""The whole network: where it starts, what each forecast step sees, what it must not see, and odd series."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from tests.reference.anchors import bridged, forecast, level_and_spread, mean, naive_error, observed, until_newest

from holdfast.networks import (
    CELLS,
    HEADS,
    ForecastNetwork,
    NetworkConfig,
    Standardise,
    WindowScale,
    batch_loss,
    make_head,
)
from holdfast.networks.heads import SMALLEST_MEAN, SMALLEST_SHARE
from holdfast.networks.quantiles import probabilities_of
from holdfast.windows import Windows

T, F, SEASON = 12, 5, 4
LEVELS = (80.0,)
BOUNDS = (-10.0, 30.0)
ANCHORS = (("last", 1), ("season", SEASON), ("seasonal-mean", SEASON), ("recent-mean", 3), ("drift", 1))
LOCATION_SCALE = ("quantile", "gaussian", "student-t")

PLAIN = [3.0, 5.0, 4.0, 8.0, 2.0, 6.0, 3.0, 9.0, 3.0, 7.0, 5.0, 8.0, 4.0, 6.0, 4.0, 9.0, 3.0]
GAPS = [v if k not in (1, 4, 5, 9, 11, 13) else None for k, v in enumerate(PLAIN)]
MODERATE = {  # each: the context of up to T values, then F targets
    "plain": PLAIN,
    "gaps": GAPS,
    "short": PLAIN[-F - 3 :],
    "one value": PLAIN[-F - 1 :],
    "older than the season": [*PLAIN[:3], *[None] * 9, *PLAIN[-F:]],
    "constant": [7.0] * (T + F),
    "constant, then not": [7.0] * T + [1.0, 9.0, 7.0, 0.0, 20.0],
    "zero": [0.0] * (T + F),
    "zero, then not": [0.0] * T + [1.0, 0.0, 3.0, 0.0, 20.0],
    "one spike": [0.0] * 3 + [25.0] + [0.0] * (T + F - 4),
    "nothing seen": [None] * T + PLAIN[-F:],
    "nothing to learn": [*PLAIN[:T], *[None] * F],
}
ANY_SIZE = {
    "negative": [-v for v in PLAIN],
    "alternating": [(-1.0) ** k for k in range(T + F)],
    "level 1e12": [None if v is None else 1e12 + v for v in GAPS],
    "level -1e12, scale 1e9": [-1e12 + 1e9 * v for v in PLAIN],
    "scale 1e12": [1e12 * v for v in PLAIN],
    "scale 1e-12": [None if v is None else 1e-12 * v for v in GAPS],
    "scale 1e-12, level 0": [1e-12 * v for v in (5.0, -3.0, 4.0, 0.0, *[0.0] * 8, 1.0, 0.0, 2.0, 3.0, 0.0)],
    "scale 1e300": [None if v is None else 1e300 * v for v in GAPS],
    "scale 1e-300": [1e-300 * v for v in PLAIN],
}
EVERY_SERIES = MODERATE | ANY_SIZE


def store(series):
    """Windows over the series."""
    values = [math.nan if v is None else v for one in series for v in one]
    lengths = [len(one) for one in series]
    return Windows.from_arrays(values, np.cumsum([0, *lengths]).tolist(), lengths, seasons=(SEASON,))


def last_windows(series):
    """The window of each series whose targets are its last F values."""
    return store(series).gather(list(range(len(series))), [len(one) - F for one in series], context_length=T, horizon=F)


def error_scales(series):
    """Seasonal naive error per series, its level where there is none."""
    errors = [naive_error(one, SEASON) for one in series]
    levels = [mean([abs(v) for v in observed(one)]) for one in series]
    return torch.tensor(
        [e if e > 1e-6 * level else level or 1.0 for e, level in zip(errors, levels, strict=True)], dtype=torch.float64
    )


def build(head="quantile", cell="lstm", randomised=True, seed=0, **changed):
    """A small network; `randomised` moves its last layer away from zero."""
    shapes = {"horizon": F, "context_length": T, "segment": SEASON, "seasons": (SEASON,), "anchors": ANCHORS}
    config = NetworkConfig(**{**shapes, "cell": cell, "hidden_size": 8, "num_layers": 1, **changed})
    network = ForecastNetwork(config, make_head(head, LEVELS, BOUNDS), seed)
    if randomised:
        generator = torch.Generator().manual_seed(seed + 1)
        with torch.no_grad():
            for parameter in network.output.parameters():
                parameter.copy_(0.5 * torch.randn(parameter.shape, generator=generator))
    return network


def forecasts(network, batch):
    """Point forecasts and quantiles, side by side: [B, F, 1 + Q]."""
    parameters = network(batch)
    point_BF = network.head.point(parameters).detach().numpy()
    return np.concatenate([point_BF[..., None], network.head.quantiles(parameters, probabilities_of(LEVELS))], -1)


# where it starts


@pytest.mark.parametrize("cell", CELLS)
@pytest.mark.parametrize("head", HEADS)
def test_untrained_it_is_the_plain_mean_of_its_anchors(head, cell):
    series = list(EVERY_SERIES.values())
    network = build(head, cell, randomised=False)
    point_BF = network.head.point(network(last_windows(series))).detach()
    assert point_BF.dtype == torch.float64
    for (name, one), got in zip(EVERY_SERIES.items(), point_BF.tolist(), strict=True):
        given = [None] * (T + F - len(one)) + one[:-F]
        context = bridged(given, [SEASON])
        anchors = [forecast(context, kind, season, F) for kind, season in ANCHORS]
        expected = [mean(step) for step in zip(*anchors, strict=True)]
        # z is held in float32, so the error is that share of the window's spread and of the largest z
        loc, spread = level_and_spread(until_newest(given), SEASON)
        reach = max(abs(value - loc) for step in anchors for value in step)
        tolerance = 1e-6 * (spread + reach) + 4e-16 * abs(loc)
        if head == "sigmoid":
            margin = SMALLEST_SHARE * (BOUNDS[1] - BOUNDS[0])
            expected = [min(max(value, BOUNDS[0] + margin), BOUNDS[1] - margin) for value in expected]
            tolerance = min(tolerance, 1.0) + 1e-5
        if head == "negative-binomial":
            expected = [max(value, SMALLEST_MEAN) for value in expected]
        assert got == pytest.approx(expected, rel=0, abs=tolerance), name


def test_after_training_steps_on_its_own_forecasts_it_stays_there():
    """Zero is not a saddle that traps: one gradient step on other targets moves the point forecast."""
    series = [PLAIN]
    network, batch = build("quantile", randomised=False), last_windows(series)
    before = network.head.point(network(batch)).detach()
    batch_loss(network.head, network(batch), batch, error_scales(series)).backward()
    assert network.output.weight.grad.abs().max() > 0
    with torch.no_grad():
        for parameter in network.output.parameters():
            parameter -= 0.1 * parameter.grad
    after_loss = batch_loss(network.head, network(batch), batch, error_scales(series))
    assert not torch.equal(network.head.point(network(batch)), before)
    assert after_loss < batch_loss(network.head, build(randomised=False)(batch), batch, error_scales(series))


# odd series


def is_finite(network, series):
    """All outputs, the loss and all gradients."""
    batch = last_windows(series)
    parameters = network(batch)
    assert torch.isfinite(parameters.values_BFP).all()
    assert np.isfinite(forecasts(network, batch)).all()
    loss = batch_loss(network.head, parameters, batch, error_scales(series))
    loss.backward()
    assert torch.isfinite(loss)
    for name, parameter in network.named_parameters():
        assert torch.isfinite(parameter.grad).all(), name


@pytest.mark.parametrize("cell", CELLS)
@pytest.mark.parametrize("head", HEADS)
def test_outputs_loss_and_gradients_of_odd_series_are_finite(head, cell):
    network = build(head, cell)
    if head in LOCATION_SCALE:
        series = list(EVERY_SERIES.values())
    elif head == "sigmoid":
        series = [*MODERATE.values(), ANY_SIZE["negative"], ANY_SIZE["alternating"], ANY_SIZE["scale 1e-12"]]
    else:
        series = [*MODERATE.values(), ANY_SIZE["scale 1e12"]]
    is_finite(network, series)
    for name, one in EVERY_SERIES.items():  # whatever the head was made for, its forecasts are numbers
        assert np.isfinite(forecasts(network, last_windows([one]))).all(), name


@pytest.mark.parametrize("head", HEADS)
def test_a_batch_of_one_window_of_one_step(head):
    network = build(head, horizon=1, context_length=1, segment=1, seasons=(), anchors=(("last", 1), ("drift", 1)))
    batch = store([[5.0, 6.0]]).gather([0], [1], context_length=1, horizon=1)
    batch_loss(network.head, network(batch), batch, torch.ones(1).double()).backward()
    assert all(torch.isfinite(parameter.grad).all() for parameter in network.parameters())
    untrained = build(
        head, randomised=False, horizon=1, context_length=1, segment=1, seasons=(), anchors=(("last", 1),)
    )
    assert untrained.head.point(untrained(batch)).item() == pytest.approx(5.0, abs=1e-5)


@pytest.mark.parametrize("head", HEADS)
def test_a_window_does_not_depend_on_its_neighbours_in_the_batch(head):
    network, series = build(head), list(EVERY_SERIES.values())
    together = forecasts(network, last_windows(series))
    for b, one in enumerate(series):
        alone = forecasts(network, last_windows([one]))[0]
        # in units of the window: what a forecast has above its level is held in float32
        spread = np.ptp([v for v in one[:-F] if v is not None] or [0.0])
        atol = 1e-5 if head == "sigmoid" else 1e-6 * spread
        np.testing.assert_allclose(together[b], alone, rtol=1e-4, atol=atol)


# units


@pytest.mark.parametrize("head", LOCATION_SCALE)
@settings(max_examples=25, deadline=None)
@given(exponent=st.integers(-900, 900))
def test_powers_of_two_pass_through_exactly(head, exponent):
    network, series = build(head), list(MODERATE.values())
    a = 2.0**exponent
    scaled = [[None if v is None else a * v for v in one] for one in series]
    varied = [b for b, one in enumerate(series) if any(observed(one[:-F]))]  # 0 and nothing have no units
    expected, got = forecasts(network, last_windows(series)), forecasts(network, last_windows(scaled))
    np.testing.assert_allclose(got[varied], a * expected[varied], rtol=1e-6)


def affine_error(network, a, b):
    """Largest error of f(a y + b) = a f(y) + b, in units of the spread."""
    series = [MODERATE[name] for name in ("plain", "gaps", "short", "one spike")]
    moved = [[None if v is None else a * v + b for v in one] for one in series]
    expected, got = forecasts(network, last_windows(series)), forecasts(network, last_windows(moved))
    return np.abs((got - b) / a - expected).max()


@pytest.mark.parametrize("head", LOCATION_SCALE)
@pytest.mark.parametrize(("a", "b"), [(3.0, 0.0), (1e-3, 0.0), (0.7, 50.0), (1e6, -1e9), (1e-6, 1.0), (256.0, 1e12)])
def test_the_forecast_moves_with_the_units_and_the_level(head, a, b):
    assert affine_error(build(head, randomised=False), a, b) < 1e-5
    assert affine_error(build(head), a, b) < 1e-5


# what it sees


SHAPES = [(4, 3, 8), (4, 4, 8), (4, 10, 8), (1, 5, 6), (6, 4, 12), (8, 9, 8)]  # S, F, T


def raw_outputs(network, batch, z_BT, steps=None):
    """Anchor weights and raw outputs [B, F, A + P], from the first `steps` steps of the context."""
    window_BW = torch.zeros(len(z_BT), len({1, *network.config.seasons}) + 2)
    if steps is not None:
        batch = type(batch)(**{**vars(batch), "mask_BT": batch.mask_BT[:, :steps]})
        batch = type(batch)(**{**vars(batch), "past_BTP": batch.past_BTP[:, :steps]})
        batch = type(batch)(**{**vars(batch), "known_BTK": batch.known_BTK[:, :steps]})
        z_BT = z_BT[:, :steps]
    return torch.cat(network.decode(network.encode(z_BT, batch, window_BW), batch), -1)


@pytest.mark.parametrize("cell", CELLS)
@pytest.mark.parametrize(("segment", "horizon", "context_length"), SHAPES)
def test_every_forecast_step_sees_the_newest_observation(cell, segment, horizon, context_length):
    network = build(cell=cell, segment=segment, horizon=horizon, context_length=context_length, num_layers=2)
    y = torch.randn(20 + horizon, generator=torch.Generator().manual_seed(0)).tolist()
    cutoffs = [context_length, 15, 18, 20]
    batch = store([y]).gather([0] * 4, cutoffs, context_length=context_length, horizon=horizon)
    z_BT = batch.y_BT.float().requires_grad_()
    out_BFC = raw_outputs(network, batch, z_BT)
    for k in range(horizon):
        for c in range(out_BFC.shape[-1]):
            (gradient_BT,) = torch.autograd.grad(out_BFC[:, k, c].sum(), z_BT, retain_graph=True)
            assert (gradient_BT[:, -1] != 0).all(), (k, c)


@pytest.mark.parametrize("cell", CELLS)
def test_the_check_above_notices_a_network_that_decodes_from_an_older_state(cell):
    network = build(cell=cell)
    batch = last_windows([PLAIN])
    z_BT = batch.y_BT.float().requires_grad_()
    out_BFC = raw_outputs(network, batch, z_BT, steps=T - SEASON)
    (gradient_BT,) = torch.autograd.grad(out_BFC.sum(), z_BT)
    assert (gradient_BT[:, -SEASON:] == 0).all()
    assert (gradient_BT[:, : T - SEASON] != 0).any()


@pytest.mark.parametrize("cell", CELLS)
def test_the_forecast_itself_moves_with_the_newest_observation(cell):
    moved = [*PLAIN[: T - 1], PLAIN[T - 1] + 0.5, *PLAIN[T:]]
    network = build(cell=cell, anchors=(("recent-mean", 1),))
    before, after = (forecasts(network, last_windows([one]))[0] for one in (PLAIN, moved))
    assert (before != after).all()


@pytest.mark.parametrize("head", HEADS)
@pytest.mark.parametrize("future", [math.nan, 0.0, 1e30])
def test_nothing_after_the_cutoff_is_seen(head, future):
    network = build(head, past_size=1, known_size=0)
    batches = []
    for after in (None, future):
        plain = store([PLAIN])
        past_RP = torch.arange(float(T + F))[:, None]
        if after is not None:
            plain.y_R[T:] = after
            past_RP[T:] = after
        parts = {**vars(plain), "past_RP": past_RP}
        batches.append(Windows(**parts).gather([0], [T], context_length=T, horizon=F))
    assert not torch.equal(batches[0].target_BF, batches[1].target_BF)
    np.testing.assert_array_equal(*(forecasts(network, batch) for batch in batches))


def with_features(past, known, static):
    plain = store([PLAIN])
    parts = {**vars(plain), "past_RP": past[:, None], "known_RK": known[:, None], "static_nS": static[None, None]}
    return Windows(**parts).gather([0], [T], context_length=T, horizon=F)


@pytest.mark.parametrize("segment", [1, 4, 6])
def test_known_features_of_the_horizon_reach_the_steps_of_their_segment(segment):
    network = build(segment=segment, past_size=1, known_size=1, static_size=1)
    zeros, one = torch.zeros(T + F), torch.tensor(1.0)
    before = forecasts(network, with_features(zeros, zeros, one))[0]
    length = min(segment, F)
    for k in range(F):
        known = zeros.clone()
        known[T + k] = 1.0
        changed = (forecasts(network, with_features(zeros, known, one))[0] != before).all(-1)
        assert changed.tolist() == [step // length == k // length for step in range(F)]


def test_past_and_static_features_reach_every_step():
    network = build(past_size=1, known_size=1, static_size=1)
    zeros, one = torch.zeros(T + F), torch.tensor(1.0)
    before = forecasts(network, with_features(zeros, zeros, one))[0]
    newest = zeros.clone()
    newest[T - 1] = 1.0
    for batch in (
        with_features(newest, zeros, one),
        with_features(zeros, newest, one),
        with_features(zeros, zeros, 2 * one),
    ):
        assert (forecasts(network, batch)[0] != before).all()


def test_a_missing_value_is_not_a_value_at_the_level():
    """The mask tells them apart: both are z = 0."""
    level = mean(PLAIN[T - SEASON : T])
    known, missing = ([*PLAIN[:2], value, *PLAIN[3:]] for value in (level, None))
    network = build(anchors=(("last", 1),), seasons=())
    batches = [last_windows([one]) for one in (known, missing)]
    out = [raw_outputs(network, batch, torch.zeros(1, T)) for batch in batches]
    assert not torch.equal(*out)


# loss


@pytest.mark.parametrize("head", HEADS)
@pytest.mark.parametrize("placeholder", [0.0, 17.0, 1e9])
def test_missing_targets_leave_no_trace(head, placeholder):
    series = [MODERATE["gaps"], MODERATE["nothing to learn"], MODERATE["plain"]]
    network, batch = build(head), last_windows(series)
    filled_BF = torch.where(batch.target_mask_BF, batch.target_BF, placeholder)
    changed = type(batch)(**{**vars(batch), "target_BF": filled_BF})
    gradients = []
    for each in (batch, changed):
        network.zero_grad()
        loss = batch_loss(network.head, network(each), each, error_scales(series))
        loss.backward()
        gradients.append([loss.detach(), *(parameter.grad.clone() for parameter in network.parameters())])
    assert all(torch.equal(*pair) for pair in zip(*gradients, strict=True))


@pytest.mark.parametrize("head", HEADS)
def test_the_loss_is_the_mean_over_observed_targets(head):
    series = [MODERATE["gaps"], MODERATE["plain"], MODERATE["nothing to learn"], MODERATE["nothing seen"]]
    network, scales = build(head), error_scales(series)
    each = []
    for b, one in enumerate(series):
        for k in range(F):
            if one[k - F] is not None and observed(one[:-F]):
                only = [*one[:-F], *(v if j == k else None for j, v in enumerate(one[-F:]))]
                batch = last_windows([only])
                each.append(batch_loss(network.head, network(batch), batch, scales[b : b + 1]).item())
    batch = last_windows(series)
    assert len(each) == int(batch.target_mask_BF.sum())
    assert batch_loss(network.head, network(batch), batch, scales).item() == pytest.approx(mean(each), rel=1e-4)


def test_the_loss_of_nothing_is_nan():
    batch = last_windows([MODERATE["nothing to learn"]])
    network = build()
    assert batch_loss(network.head, network(batch), batch, torch.ones(1).double()).isnan()


@pytest.mark.parametrize("head", LOCATION_SCALE)
def test_series_of_one_shape_have_one_loss_whatever_their_units(head):
    network = build(head)
    series = [[a * v for v in PLAIN] for a in (1.0, 1e-9, 1e12)]
    got = []
    for one in series:
        batch = last_windows([one])
        got.append(batch_loss(network.head, network(batch), batch, error_scales([one])).item())
    assert got == pytest.approx([got[0]] * 3, rel=1e-5)


# its weights


def test_the_seed_fixes_the_weights_and_leaves_the_global_random_state_alone():
    torch.manual_seed(7)
    state = torch.get_rng_state()
    one, two, other = build(seed=3, randomised=False), build(seed=3, randomised=False), build(seed=4, randomised=False)
    assert torch.equal(torch.get_rng_state(), state)
    for name, weight in one.state_dict().items():
        assert torch.equal(weight, two.state_dict()[name])
    assert not torch.equal(one.hidden.weight, other.hidden.weight)


def test_dropout_acts_in_training_only():
    network, batch = build(dropout=0.5, num_layers=2), last_windows([PLAIN])
    network.train()
    torch.manual_seed(0)
    assert not np.array_equal(forecasts(network, batch), forecasts(network, batch))
    network.eval()
    np.testing.assert_array_equal(forecasts(network, batch), forecasts(network, batch))


def test_every_weight_learns():
    network = build(past_size=1, known_size=1, static_size=1, num_layers=2)
    generator = torch.Generator().manual_seed(0)
    past, known = torch.randn(2, T + F, generator=generator)
    batch = with_features(past, known, torch.tensor(1.0))
    batch_loss(network.head, network(batch), batch, torch.ones(1).double()).backward()
    for name, parameter in network.named_parameters():
        assert parameter.grad is not None, name
        assert parameter.grad.abs().max() > 0, name
    assert network.ROLES.keys() <= {name.split(".")[0] for name, _ in network.named_parameters()}


# covariates


def test_standardise_takes_mean_and_deviation_of_what_is_there():
    rows_RC = torch.tensor([[1.0, 10.0], [3.0, 10.0], [math.nan, 10.0], [5.0, math.nan]])
    standardise = Standardise(2)
    assert torch.equal(standardise(rows_RC[:2]), rows_RC[:2])
    standardise.learn(rows_RC)
    assert standardise.mean_C.tolist() == [3.0, 10.0]
    assert standardise.deviation_C.tolist() == pytest.approx([math.sqrt(8 / 3), 1.0])
    assert standardise(torch.tensor([[3.0, 11.0], [math.nan, 9.0]])).tolist() == [[0.0, 1.0], [0.0, -1.0]]
    assert set(standardise.state_dict()) == {"mean_C", "deviation_C"}


@pytest.mark.parametrize("constant", [0.1, -0.3, 1e7, 1e-7, 0.0])
def test_a_covariate_that_never_varied_does_not_explode_when_it_does(constant):
    standardise = Standardise(1)
    standardise.learn(torch.full((1001, 1), constant))
    assert standardise(torch.tensor([constant + 1.0])).item() == pytest.approx(1.0, abs=1e-3)


def test_standardise_learns_nothing_from_nothing():
    standardise = Standardise(2)
    standardise.learn(torch.full((3, 2), math.nan))
    assert (standardise.mean_C.tolist(), standardise.deviation_C.tolist()) == ([0.0, 0.0], [1.0, 1.0])
    Standardise(0).learn(torch.zeros(3, 0))


def test_window_scale_is_what_restores_the_forecast():
    batch = last_windows([PLAIN])
    parameters = build("gaussian", randomised=False)(batch)
    assert isinstance(parameters.scale, WindowScale)
    assert parameters.scale.loc_B.item() == mean(PLAIN[T - SEASON : T])
