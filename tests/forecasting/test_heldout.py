"""Forecasts of held-out windows next to what came, against loops over windows and steps."""

from __future__ import annotations

import numpy as np
import pytest
from tests.forecasting.small import HORIZON, SEASON, series, small, wave
from tests.reference import training as twin

from holdfast.forecasting.heldout import EARLIER, FEW_APART, hold_out
from holdfast.forecasting.members import plan
from holdfast.forecasting.predict import predict_windows
from holdfast.forecasting.prepared import prepare
from holdfast.series import RawTable
from holdfast.smoothing import Histories, smoothing_forecasts


def held_out_of(values, level=80.0):
    task = plan(prepare(small(context_length=12).config, RawTable(series(values))))
    return task, hold_out(task.network, task.windows, task.split, level)


@pytest.fixture(scope="module")
def case():
    """Two series with holes, the shorter one with few cutoffs before those held out."""
    values = {"a": wave(90, 0), "b": 100 * wave(26, 1)}
    values["a"][[5, 40, 83, 86]] = np.nan
    return (list(values.values()), *held_out_of(values))


def smoothed(y, cutoff):
    return smoothing_forecasts(Histories(y[None, :cutoff], np.array([cutoff])), SEASON, HORIZON)[0]


def test_each_window_has_its_forecasts_its_targets_and_its_scale(case):
    values, task, found = case
    split = task.split
    own, borders = predict_windows([task.network], task.windows, split.validated_V, split.cutoff_V, (80.0,))
    np.testing.assert_array_equal(found.forecast_MVF[0], own)
    np.testing.assert_allclose(found.low_VF, own - borders[..., 0])
    np.testing.assert_allclose(found.high_VF, borders[..., 1] - own)
    assert found.low_VF.min() > 0 and found.high_VF.min() > 0
    for v, (i, cutoff) in enumerate(zip(split.validated_V.tolist(), split.cutoff_V.tolist(), strict=True)):
        y = values[i]
        np.testing.assert_array_equal(found.target_VF[v], y[cutoff : cutoff + HORIZON])
        np.testing.assert_allclose(found.forecast_MVF[1, v], smoothed(y, cutoff))
        assert found.scale_V[v] == pytest.approx(twin.error_scale(y[:cutoff], SEASON))
        steps = [k for k in range(HORIZON) if np.isfinite(y[cutoff + k])]
        for forecast_VF in found.forecast_MVF:
            errors = [abs(forecast_VF[v, k] - y[cutoff + k]) for k in steps]
            assert found.errors(forecast_VF)[v] == pytest.approx(np.mean(errors) / found.scale_V[v])


def test_windows_of_a_horizon_of_a_series_are_one_block(case):
    _, task, found = case
    split = task.split
    places = [
        (i, (cutoff - split.until_n[i]) // HORIZON)
        for i, cutoff in zip(split.validated_V.tolist(), split.cutoff_V.tolist(), strict=True)
    ]
    same = [[one == other for other in places] for one in places]
    assert (found.apart_V[:, None] == found.apart_V).tolist() == same
    assert found.blocks == len(set(places)) > 2


def test_earlier_errors_are_those_of_smoothing_a_horizon_apart_before_what_is_held_out(case):
    values, task, found = case
    split, expected = task.split, []
    for i, y in enumerate(values):
        for k in range(1, EARLIER + 1):
            cutoff = int(split.until_n[i]) - k * HORIZON
            if cutoff >= split.first_n[i]:
                error = np.abs(smoothed(y, cutoff) - y[cutoff : cutoff + HORIZON])
                expected.append(error / twin.error_scale(y[:cutoff], SEASON))
    assert EARLIER < len(expected) < 2 * EARLIER  # the shorter series has not all of them
    np.testing.assert_allclose(found.earlier_EF, expected)


def test_where_many_windows_are_apart_they_say_enough():
    _, found = held_out_of({str(k): wave(40, k) for k in range(FEW_APART)})
    assert found.blocks >= FEW_APART and found.earlier_EF.shape == (0, HORIZON)


def test_a_part_keeps_its_windows_and_all_that_came_earlier(case):
    _, _, found = case
    some_V = np.arange(len(found.target_VF)) % 3 == 1
    part = found.part(some_V)
    for name in ("low_VF", "high_VF", "target_VF", "scale_V", "apart_V"):
        np.testing.assert_array_equal(getattr(part, name), getattr(found, name)[some_V])
    np.testing.assert_array_equal(part.forecast_MVF, found.forecast_MVF[:, some_V])
    assert part.earlier_EF is found.earlier_EF and part.level == found.level
