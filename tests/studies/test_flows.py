"""What spectra say beside what adjoints do: closed forms, and the two ways in which the eigenvalue rule misleads."""

from __future__ import annotations

import math

import pytest

from holdfast.errors import OptionError
from holdfast.studies.flows import measure_trial
from holdfast.studies.grid import Trial


def measure(**fields):
    usual = {"study": "spectrum", "task": "spectrum", "length": 60, "hidden_size": 16, "lr": 0.1}
    return measure_trial(Trial(**{**usual, **fields}))


@pytest.mark.parametrize("scale", [0.5, 1.0, 1.5])
def test_a_linear_orthogonal_layer_grows_as_its_radius_says(scale):
    row = measure(cell="rnn-linear", init="orthogonal", scale=scale)
    for name in ("radius", "norm", "scaled_radius", "scaled_norm", "rate"):
        assert row[name] == pytest.approx(scale, rel=1e-9)
    assert row["exponent"] == pytest.approx(math.log(scale), abs=1e-9)
    assert row["peak_log_factor"] == pytest.approx(max(59 * math.log(scale), 0), abs=1e-9)


def test_eigenvalues_below_one_explode_where_the_matrix_is_far_from_normal():
    row = measure(cell="rnn-linear", init="chain", scale=2.0)
    assert row["scaled_radius"] < 0.5
    assert row["scaled_norm"] == pytest.approx(2.0)
    assert row["peak_log_factor"] > math.log(100)


def test_a_radius_above_one_vanishes_where_half_of_the_units_are_off():
    row = measure(cell="rnn-relu", init="orthogonal", scale=1.2)
    assert row["scaled_radius"] == pytest.approx(1.2)
    assert row["rate"] < 1


def test_a_sigmoid_is_measured_by_its_slope_of_a_quarter():
    row = measure(cell="rnn-sigmoid", init="orthogonal", scale=2.0)
    assert row["scaled_radius"] == pytest.approx(0.5)
    assert row["rate"] < 0.5


def test_a_norm_below_one_over_the_slope_always_vanishes():
    for cell in ("rnn-tanh", "rnn-relu", "rnn-sigmoid", "rnn-linear"):
        for init in ("normal", "orthogonal", "chain"):
            row = measure(cell=cell, init=init, scale=0.9, lr=1.0)
            assert row["rate"] < 0.9 + 1e-9
            assert row["peak_log_factor"] < 1e-9


def test_states_that_overflow_count_as_infinite_growth():
    row = measure(cell="rnn-linear", init="orthogonal", scale=1e6, length=100)
    assert row["rate"] == row["exponent"] == row["peak_log_factor"] == math.inf


@pytest.mark.parametrize("fields", [{"cell": "lstm"}, {"init": "uniform"}])
def test_what_has_no_single_matrix_is_refused(fields):
    with pytest.raises(OptionError, match="spectrum trial"):
        measure(**{"cell": "rnn-tanh", "init": "normal", **fields})
