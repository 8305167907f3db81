"""Trials of a forecaster, on a user's own series and by the options of a fit."""

from __future__ import annotations

import math

import pytest
from tests.forecasting.small import table

from holdfast.gradients import ROLES
from holdfast.studies.forecasts import _options, forecast_trial
from holdfast.studies.grid import Trial


@pytest.fixture
def series(tmp_path):
    path = tmp_path / "series.csv"
    table(rows=80).write_csv(path)
    return str(path)


def trial(series, **fields):
    usual = {"study": "clip-scope", "task": "data", "cell": "lstm", "length": 24, "hidden_size": 8, "head": "quantile"}
    usual |= {
        "optimizer": "adamw",
        "lr": 2e-3,
        "steps": 10,
        "batch_size": 16,
        "data": series,
        "options": '{"horizon": 4}',
    }
    return Trial(**{**usual, **fields})


def test_a_trial_on_a_users_series(series):
    row = forecast_trial(trial(series, rule="norm:1e-3", scope="all"))
    assert row["clip_fraction"] == 1.0
    assert row["cosine"] == pytest.approx(1.0)
    assert row["done_steps"] == 10
    assert 0 < row["relative_error"] < 2
    assert row["final_error"] > 0


def test_a_run_that_gives_up_counts_as_diverged(series):
    wild = {"cell": "rnn-relu", "init": "radius:1.5", "lr": 1e30, "optimizer": "sgd", "steps": 300}
    row = forecast_trial(trial(series, **wild))
    assert row["diverged"]
    assert math.isnan(row["relative_error"])


@pytest.mark.parametrize(
    ("scope", "clip", "roles"),
    [
        ("none", "none", None),
        ("all", "norm:1", ROLES),
        ("all-but-head", "norm:1", tuple(role for role in ROLES if role != "head")),
        ("head", "norm:1", ("head",)),
        ("per-role", "input=norm:1,recurrent=norm:1,bias=norm:1,head=norm:1,other=norm:1", None),
    ],
)
def test_a_scope_is_an_option_of_the_fit(series, scope, clip, roles):
    options = _options(trial(series, rule="norm:1", scope=scope))
    assert options["clip"] == clip
    assert options.get("clip_roles") == roles
