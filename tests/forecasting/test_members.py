"""The preset best: several networks whose forecasts are averaged, in memory, in a run directory, and across a stop."""

from __future__ import annotations

import json
import shutil

import numpy as np
import polars as pl
import pytest
from tests.forecasting.small import HORIZON, small
from tests.forecasting.small import table as level_table

from holdfast import Config, Forecaster, OptionError, RunDirectoryError, TrainingError
from holdfast.forecasting import diagnose_run
from holdfast.forecasting.backtest import rolling_cutoffs
from holdfast.forecasting.forecaster import backtest_fitted, forecaster_of
from holdfast.forecasting.members import CELLS, CONTEXTS, MEMBERS, member_options
from holdfast.forecasting.predict import forecast_table, level_columns

COLUMNS = ["holdfast", *level_columns((80, 95))]
STEPS = 8
OPTIONS = {"preset": "best", "max_steps": STEPS, "lr": 0.02, "seed": 4}


def table(seed=0):
    """Series that grow faster and faster, so that already a few steps of training help."""
    return level_table(seed=seed).with_columns(y=pl.col("y") * (0.03 * pl.col("ds")).exp())


@pytest.fixture(scope="module")
def kept(tmp_path_factory):
    """A forecaster of several networks, and its complete run directory; copy it to change it."""
    run = tmp_path_factory.mktemp("runs") / "run"
    return small(**OPTIONS).fit(table(), out=run), run


@pytest.fixture
def copy(kept, tmp_path):
    return shutil.copytree(kept[1], tmp_path / "run")


def numbers(frame):
    return frame.select(COLUMNS).to_numpy()


# ---------------------------------------------------------------- what they are


def test_forecasts_are_the_means_of_those_of_each_network_trained_alone(kept):
    forecaster, _ = kept
    alone = [forecaster_of(member.config).fit(table()) for member in forecaster.fitted.members]
    assert len(alone) == MEMBERS
    each = np.stack([numbers(one.predict()) for one in alone])
    assert (each.std(0) > 0).all()
    assert any(member["best_step"] > 0 for member in forecaster.fitted.metrics["members"])
    np.testing.assert_allclose(numbers(forecaster.predict()), each.mean(0), rtol=1e-12)
    others = table(seed=9)
    expected = np.mean([numbers(one.predict(others)) for one in alone], axis=0)
    np.testing.assert_allclose(numbers(forecaster.predict(others)), expected, rtol=1e-12)


def test_they_differ_in_seed_cell_and_context_and_two_forecasters_share_none():
    members = [member_options(Config(seed=seed), number, 48, 500) for seed in (0, 1) for number in range(MEMBERS)]
    assert len({member.seed for member in members}) == 2 * MEMBERS
    kinds = {(member.cell, member.context_length) for member in members[:MEMBERS]}
    assert kinds == {(cell, int(48 * share)) for cell in CELLS for share in CONTEXTS}
    assert {member.preset for member in members} == {"default"}
    assert max(member_options(Config(), number, 48, 60).context_length for number in range(MEMBERS)) == 60


def test_what_is_given_holds_for_all_of_them(kept):
    given = Config(preset="best", cell="rnn-tanh", context_length=24, dropout=0.1, lr=0.01, max_steps=7)
    for number in range(MEMBERS):
        member = member_options(given, number, 24, 500)
        names = ("cell", "context_length", "dropout", "lr", "max_steps")
        assert [getattr(member, name) for name in names] == [getattr(given, name) for name in names]


def test_a_time_budget_is_that_of_all_of_them():
    budgets = [member_options(Config(time_budget=90.0), number, 48, 500).time_budget for number in range(MEMBERS)]
    assert sum(budgets) == pytest.approx(90.0)
    forecaster = small(preset="best", time_budget=1e-9).fit(table())
    assert forecaster.fitted.metrics["steps"] <= MEMBERS  # one step each, to learn how long it takes


def test_quantiles_do_not_cross(kept):
    borders = kept[0].predict().select(level_columns((80, 95))).to_numpy()
    assert (np.diff(borders, axis=1) > 0).all()


def test_a_backtest_averages_too():
    fitted, backtest = backtest_fitted(small(preset="best", max_steps=2), table(), 2)
    assert len(fitted.networks) == MEMBERS
    store = fitted.prepared.store
    for cutoff_n in rolling_cutoffs(store.lengths, HORIZON, 2):
        each = [forecast_table([one], store, fitted.windows, (80, 95), cutoff_n) for one in fitted.networks]
        rows = backtest.filter(pl.col("cutoff") == int(cutoff_n[0]) - 1)
        np.testing.assert_allclose(numbers(rows), np.mean([numbers(one) for one in each], axis=0), rtol=1e-12)


def test_other_presets_are_refused():
    with pytest.raises(OptionError, match="one of fast, default, best"):
        Forecaster(preset="slow")


# ---------------------------------------------------------------- what is said


def test_all_steps_are_shown_as_one_run():
    seen = []
    small(preset="best", max_steps=2).fit(table(), show=seen.append)
    assert [outlook.step for outlook in seen] == list(range(1, 2 * MEMBERS + 1))
    assert {outlook.planned_steps for outlook in seen} == {2 * MEMBERS}


def test_networks_of_different_numbers_of_steps_are_shown_as_one_run_too():
    """Those of short contexts have more windows to learn from, and so more steps."""
    seen = []
    fitted = small(preset="best", max_steps=None, hidden_size=2).fit(level_table(140), show=seen.append).fitted
    steps = [member["steps"] for member in fitted.metrics["members"]]
    assert len(set(steps)) > 1
    assert [outlook.step for outlook in seen] == list(range(1, sum(steps) + 1))
    assert {outlook.planned_steps for outlook in seen} == {sum(steps)}
    assert seen[-1].seconds_left == 0


def test_metrics_are_those_of_the_mean_and_of_each_training(kept):
    metrics = kept[0].fitted.metrics
    assert metrics["steps"] == STEPS * MEMBERS
    assert [member["steps"] for member in metrics["members"]] == [STEPS] * MEMBERS
    assert metrics["seconds"] == pytest.approx(sum(member["seconds"] for member in metrics["members"]))
    assert metrics["scores"]["mase"]["holdfast"] > 0
    assert f"{MEMBERS} networks, whose forecasts are averaged" in kept[0].summary()


def test_the_flow_is_that_of_the_first_network(kept):
    found = kept[0].diagnose()
    assert f"the first of {MEMBERS} networks" in found.notes
    weights = dict(kept[0].fitted.network.named_parameters())
    for one in found.observation.parameters:
        assert one.weight_norm == pytest.approx(weights[one.name].norm().item(), rel=1e-6)


def test_a_run_that_breaks_down_in_one_of_them_is_told_by_its_own_name(tmp_path):
    run = tmp_path / "run"
    with pytest.raises(TrainingError) as caught:
        small(preset="best", lr=1e30, max_steps=60).fit(table(), out=run)
    (problem,) = caught.value.problems
    assert f"{run} stays, with no weights yet and no model; `holdfast resume {run}` would meet the same" in problem.fix
    assert diagnose_run(run).kind == "not finite"


# ---------------------------------------------------------------- run directories


def test_a_run_holds_a_folder_for_each_network(kept):
    forecaster, run = kept
    names = ("model.safetensors", "telemetry.jsonl", "checkpoint/state.safetensors")
    expected = {f"members/{number}/{name}" for number in range(1, MEMBERS + 1) for name in names}
    expected |= {"manifest.json", "series.parquet", "metrics.json", "forecast.parquet"}
    assert {path.relative_to(run).as_posix() for path in run.rglob("*") if path.is_file()} == expected
    assert pl.read_parquet(run / "forecast.parquet").equals(forecaster.predict())
    assert json.loads((run / "manifest.json").read_text())["config"]["preset"] == "best"


def test_load_and_save_give_the_same_bits(kept, tmp_path):
    forecaster, run = kept
    again = Forecaster.load(run)
    assert again.preset == "best" and again.summary() == forecaster.summary()
    forecaster.save(tmp_path / "saved")
    for one in (again, Forecaster.load(tmp_path / "saved")):
        assert one.predict().equals(forecaster.predict())
    with pytest.raises(RunDirectoryError, match="a saved forecaster"):
        Forecaster.resume(tmp_path / "saved")


class Stop(Exception):
    pass


@pytest.mark.parametrize("stopped", [1, STEPS, STEPS + 2, STEPS * MEMBERS - 1])
def test_a_run_that_was_stopped_in_any_network_ends_with_the_same_bits(kept, tmp_path, stopped):
    def show(outlook):
        if outlook.step == stopped:
            raise Stop

    run = tmp_path / "run"
    with pytest.raises(Stop):
        small(**OPTIONS).fit(table(), out=run, show=show)
    with pytest.raises(RunDirectoryError, match="holdfast resume"):
        Forecaster.load(run)
    assert Forecaster.resume(run).predict().equals(kept[0].predict())
    assert Forecaster.load(run).predict().equals(kept[0].predict())


def test_a_complete_run_is_trained_for_longer(kept, copy):
    longer = Forecaster.resume(copy, max_steps=STEPS + 2)
    assert longer.fitted.metrics["steps"] == (STEPS + 2) * MEMBERS
    steps = [record.step for record in longer.fitted.log.steps]
    assert steps == list(range(1, STEPS + 3))


@pytest.mark.parametrize("change", [lambda path: path.unlink(), lambda path: path.write_bytes(b"x")])
def test_a_damaged_network_is_named(copy, change):
    change(copy / "members" / "2" / "model.safetensors")
    with pytest.raises(RunDirectoryError, match=r"members/2/model\.safetensors"):
        Forecaster.load(copy)
