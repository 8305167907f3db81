"""Growth rates, memory lengths and profiles: exact lines, hard cases, and what holds for all tables."""

from __future__ import annotations

import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

from holdfast.errors import OptionError
from holdfast.flow.adjoints import adjoints
from holdfast.flow.growth import calendar_time, growth

F64 = torch.float64
INF = math.inf


def table(*rows):
    return torch.tensor(rows, dtype=F64)


def by_hand(rows):
    """Mean of the slopes of log norm over lag, and its standard error; one loop per sum. Rows are by lag."""
    slopes = []
    for row in rows:
        points = [(float(k), value) for k, value in enumerate(row) if value != -INF]
        mean_k = sum(k for k, _ in points) / len(points)
        mean_v = sum(v for _, v in points) / len(points)
        cross = sum((k - mean_k) * (v - mean_v) for k, v in points)
        slopes.append(cross / sum((k - mean_k) ** 2 for k, _ in points))
    mean = sum(slopes) / len(slopes)
    variance = sum((slope - mean) ** 2 for slope in slopes) / (len(slopes) - 1) if len(slopes) > 1 else math.nan
    return math.exp(mean), math.exp(mean) * math.sqrt(variance / len(slopes))


@pytest.mark.parametrize("rate", [0.1, 0.97, 1.0, 1.31, 1e3])
@pytest.mark.parametrize("T", [2, 48, 400])
def test_an_exact_line(rate, T):
    k = torch.arange(T - 1, -1, -1, dtype=F64)
    found = growth((5 + k * math.log(rate)).expand(3, -1))
    assert found.rate == pytest.approx(rate, rel=1e-9) and found.rate_error == pytest.approx(0, abs=1e-9 * rate)
    assert found.log_factor == pytest.approx((T - 1) * math.log(rate), rel=1e-9, abs=1e-9)
    lags = [lag for lag in range(T) if lag * math.log(rate) < math.log(0.01) - 1e-9]
    assert found.memory_length == (lags[0] if lags else None)
    assert found.per_lag.mean == pytest.approx((5 + k.flip(0) * math.log(rate)).tolist(), rel=1e-12)
    assert found.per_step.mean == found.per_lag.mean[::-1]
    assert found.zero_lag is None and found.windows == 3 and found.fraction == 0.01


def test_slopes_of_windows_by_hand():
    rows = [[0.3, 1.0, -2.0, 0.5], [0.0, -1.0, -2.5, -3.0], [1.0, -INF, 2.0, 2.5]]
    found = growth(table(*rows).flip(1))
    rate, error = by_hand(rows)
    assert found.rate == pytest.approx(rate, rel=1e-12) and found.rate_error == pytest.approx(error, rel=1e-12)
    assert found.per_lag.mean == pytest.approx([1.3 / 3, 0.0, -2.5 / 3, 0.0])
    assert found.per_lag.zeros == pytest.approx([0, 1 / 3, 0, 0])


def test_quantiles_are_observed_values():
    column = torch.tensor([[-INF], [0.0], [1.0], [2.0], [7.0]], dtype=F64)
    found = growth(column.expand(5, 3), probabilities=(0, 0.1, 0.5, 0.9, 1)).per_step
    assert found.quantiles == {0: (-INF,) * 3, 0.1: (-INF,) * 3, 0.5: (1.0,) * 3, 0.9: (2.0,) * 3, 1: (7.0,) * 3}
    assert found.mean == (2.5,) * 3 and found.zeros == pytest.approx((0.2,) * 3)


def test_lags_count_from_the_last_step_that_reaches_the_loss():
    mask = torch.tensor([[1, 1, 1, 1], [1, 1, 1, 0], [1, 1, 1, 1], [1, 1, 0, 0]], dtype=torch.bool)
    logs = table([3, 2, 1, 0], [5, 4, 3, math.nan], [7, 6, 5, -INF], [-INF, -INF, math.nan, math.nan])
    found = growth(logs, mask)
    assert found.windows == 3 and found.rate == pytest.approx(math.e)
    assert found.per_lag.mean == pytest.approx([8 / 3, 11 / 3, 14 / 3, 3.0])
    assert found.per_step.mean == pytest.approx([5, 4, 3, 0])
    assert found.per_step.zeros == pytest.approx([0.25, 0.25, 0, 0.5])


def test_the_reverse_direction_counts_the_other_way():
    logs = table([0, -1, -2, -4], [-INF, 0, -1, -2])
    there, back = growth(logs, reverse=True), growth(logs.flip(1))
    assert there.per_lag == back.per_lag and (there.rate, there.rate_error) == (back.rate, back.rate_error)


@pytest.mark.parametrize(
    ("rows", "rate", "memory", "zero", "factor"),
    [
        ([[0.0]], math.nan, None, None, 0.0),
        ([[-INF, -INF]], math.nan, None, None, math.nan),
        ([[-INF, -INF, 0.0]], 0.0, 1, 1, -INF),
        ([[-INF, -1.0, 0.0]], math.exp(-1), 2, 2, -INF),
        ([[2.0, -INF, 0.0]], math.e, 1, None, 2.0),
        ([[-INF, -1.0, 0.0], [-2.0, -1.0, 0.0]], math.exp(-1), None, None, -2.0),
        ([[4.0, 4.0, 4.0]], 1.0, None, None, 0.0),
        ([[1381.0, 690.5, 0.0]], math.exp(690.5), None, None, 1381.0),
        ([[1600.0, 800.0, 0.0]], INF, None, None, 1600.0),
        ([[-1600.0, -800.0, 0.0]], 0.0, 1, None, -1600.0),
        ([[math.nan, -1.0, 0.0]], math.nan, None, None, math.nan),
    ],
)
def test_hard_cases(rows, rate, memory, zero, factor):
    found = growth(table(*rows))
    assert found.rate == pytest.approx(rate, rel=1e-9, nan_ok=True)
    assert (found.memory_length, found.zero_lag) == (memory, zero)
    assert found.log_factor == pytest.approx(factor, nan_ok=True)


def test_memory_of_a_default_tanh_network_is_short_and_of_an_identity_is_endless():
    torch.manual_seed(0)
    layer = nn.RNN(1, 32, batch_first=True).double()
    x = torch.randn(8, 60, 1, dtype=F64)
    found = adjoints(layer, lambda: layer(x)[0][:, -1].sum())["l0"]
    short = growth(found.log_norm_BT, found.mask_BT)
    assert 2 <= short.memory_length <= 20 and short.rate + 10 * short.rate_error < 1
    with torch.no_grad():
        layer.weight_hh_l0.copy_(torch.eye(32))
        layer.weight_ih_l0.zero_()
        layer.bias_ih_l0.zero_()
        layer.bias_hh_l0.zero_()
    found = adjoints(layer, lambda: layer(x)[0][:, -1].sum())["l0"]
    endless = growth(found.log_norm_BT, found.mask_BT)
    assert endless.memory_length is None and endless.rate == pytest.approx(1, rel=1e-12)


rows_of = st.lists(st.lists(st.floats(-300, 300), min_size=4, max_size=4), min_size=2, max_size=5)


@settings(max_examples=80, deadline=None)
@given(rows_of, st.floats(-2000, 2000), st.floats(0.01, 0.9))
def test_the_unit_of_the_loss_does_not_matter(rows, shift, fraction):
    one, other = growth(table(*rows), fraction=fraction), growth(table(*rows) + shift, fraction=fraction)
    assert other.rate == pytest.approx(one.rate, rel=1e-6)
    assert other.rate_error == pytest.approx(one.rate_error, rel=1e-6, abs=1e-9 * one.rate)
    assert other.log_factor == pytest.approx(one.log_factor, abs=1e-9)
    assert other.per_lag.mean == pytest.approx([value + shift for value in one.per_lag.mean], abs=1e-9)


@settings(max_examples=80, deadline=None)
@given(rows_of)
def test_equal_to_sums_by_hand_and_blind_to_the_order_of_windows(rows):
    found = growth(table(*rows))
    rate, error = by_hand([row[::-1] for row in rows])
    assert found.rate == pytest.approx(rate, rel=1e-9)
    assert found.rate_error == pytest.approx(error, rel=1e-6, abs=1e-9 * rate)
    other = growth(table(*rows[::-1]))
    assert other.rate == pytest.approx(found.rate, rel=1e-9)
    assert other.per_lag.quantiles == found.per_lag.quantiles


@pytest.mark.parametrize(
    ("steps", "seconds", "words"),
    [
        (0, 60, "0 seconds"),
        (1, 1, "1 second"),
        (90, 1, "1.5 minutes"),
        (59.9, 1, "1 minute"),
        (24, 3600, "1 day"),
        (77, 3600, "3.2 days"),
        (48, 1800, "1 day"),
        (48, 900, "12 hours"),
        (336, 3600, "14 days"),
        (36, 2629746, "3 years"),
        (1, 0.25, "0.25 seconds"),
        (5000, 31556952, "5000 years"),
        (200, 86400, "200 days"),
        (3600 * 23.99, 1, "1 day"),
        (365.2425, 86400, "1 year"),
    ],
)
def test_calendar_words(steps, seconds, words):
    assert calendar_time(steps, seconds) == words


@pytest.mark.parametrize(
    ("call", "count"),
    [
        (lambda: growth(torch.zeros(3)), 1),
        (lambda: growth(torch.zeros(3, 0)), 1),
        (lambda: growth(torch.zeros(3, 2), torch.ones(2, 2)), 1),
        (lambda: growth(torch.zeros(3, 2), fraction=1.0, probabilities=(0.5, 2)), 2),
        (lambda: calendar_time(-1, 0), 2),
        (lambda: calendar_time(math.nan, 1), 1),
    ],
)
def test_refused(call, count):
    with pytest.raises(OptionError) as caught:
        call()
    assert len(caught.value.problems) == count and all(problem.fix for problem in caught.value.problems)
