"""The diagnosis of a forecaster: before training, after it, where a run broke down; and its advice, followed."""

from __future__ import annotations

import json
import math
import re

import numpy as np
import polars as pl
import pytest
import torch
from matplotlib.figure import Figure
from tests.forecasting.small import DATES, SEASON, series, small, table

from holdfast import DataError, Forecaster, OptionError, TrainingError
from holdfast.forecasting import rundir
from holdfast.forecasting.diagnosis import case_after, diagnosis_panels
from holdfast.forecasting.runs import diagnose_run
from holdfast.networks import batch_loss
from holdfast.telemetry import FlowRecord

STEPWISE = {"segment": 1, "context_length": 24}  # one observation per recurrent step
DIVERGING = {"cell": "rnn-relu", "init": "radius:1.5", "clip": "none", "lr": 1e3, "optimizer": "sgd", **STEPWISE}


def follow(option, **options):
    """Options of a forecaster, changed as the text of an option says."""
    words = option.replace("--", " --").split()
    pairs = dict(zip(words[::2], words[1::2], strict=True))
    named = {flag.removeprefix("--").replace("-", "_"): value for flag, value in pairs.items()}
    number = {name: int(value) for name, value in named.items() if value.isdigit()}
    return {**options, **named, **number}


def left(diagnosis):
    """Natural log of what is left of the gradient at one whole season back."""
    layer = diagnosis.observation.layers["recurrent.l0"]
    mean = layer.carrier.per_lag.mean
    steps = 24 // len(mean)
    return mean[math.ceil(SEASON / steps)] - mean[0]


def gradient(diagnosis):
    return math.hypot(*diagnosis.observation.role_norms().values())


def test_before_training_a_default_forecaster_reaches_over_its_season(data):
    found = small().diagnose(data)
    assert found.kind == "healthy"
    assert found.observation.by_readout
    assert "measured before training" in found.notes


@pytest.mark.parametrize("cell", ["rnn-sigmoid", "rnn-tanh", "lstm"])
def test_a_season_beyond_the_memory_shows_before_training_and_every_advice_helps(data, cell):
    options = {**STEPWISE, "cell": cell, "init": "uniform", "season_length": 2 * SEASON, "seed": 1}
    before = small(**options).diagnose(data)
    assert before.kind == "vanishing"
    assert "the season is 12 steps" in before.verdict
    assert before.advice[0].option == "--segment 12"
    for advice in before.advice:
        after = small(**follow(advice.option, **options)).diagnose(data)
        assert left(after) > left(before), advice


def test_advice_that_is_followed_already_is_not_given(data):
    found = small(**STEPWISE, cell="rnn-sigmoid", init="critical", season_length=12).diagnose(data)
    assert "--init critical" not in [advice.option for advice in found.advice]


def test_a_season_beyond_the_context_is_told_with_the_context_that_holds_two(data):
    options = {"context_length": 4, "segment": 1}
    found = small(**options).diagnose(data)
    assert found.kind == "short context"
    assert [advice.option for advice in found.advice] == ["--context-length 12"]
    assert small(**follow("--context-length 12", **options)).diagnose(data).kind != "short context"


def test_after_a_fit_it_looks_at_the_trained_network(fitted):
    found = fitted.diagnose()
    weights = dict(fitted.fitted.network.named_parameters())
    for one in found.observation.parameters:
        assert one.weight_norm == pytest.approx(weights[one.name].norm().item(), rel=1e-6)
    assert len(found.setting.history) == 20


def test_nothing_about_the_forecaster_changes(data):
    forecaster = small(max_steps=5, dropout=0.3, layers=2).fit(data)
    before = forecaster.predict()
    state = torch.get_rng_state()
    first, second = forecaster.diagnose(), forecaster.diagnose()
    assert str(first) == str(second)
    assert torch.equal(torch.get_rng_state(), state)
    assert forecaster.predict().equals(before)


def test_other_series_can_be_looked_at(fitted):
    found = fitted.diagnose(table(rows=50, ids="xyz", seed=5))
    assert found.observation.loss != fitted.diagnose().observation.loss
    assert any("series 'x'" in found.setting.name_window(b) for b in range(16))


def test_memory_is_told_in_calendar_time():
    daily = table().with_columns(ds=DATES)
    found = small(**STEPWISE, cell="rnn-sigmoid", season_length=12, init="uniform").diagnose(daily)
    assert "the season is 12 steps (12 days)" in found.verdict
    segmented = small(segment=6).diagnose(daily)
    assert "over all 6 steps (36 days)" in segmented.verdict


def test_a_gaussian_head_far_too_sure_of_itself_is_told_from_an_explosion_through_time():
    random = np.random.default_rng(0)
    values = {f"s{k}": np.where(np.arange(90) < 40 + 3 * k, 5.0, 5 + random.normal(0, 3, 90)) for k in range(6)}
    options = {"head": "gaussian", "max_steps": 0, "horizon": 6, "season_length": None, "batch_size": 64}
    found = small(**options).fit(series(values)).diagnose()
    assert found.kind == "exploding head"
    assert [advice.option for advice in found.advice][:2] == ["--head student-t", "--clip norm:1 --clip-roles all"]
    after = small(**follow("--head student-t", **options)).fit(series(values)).diagnose()
    assert gradient(after) < gradient(found) / 10


def test_windows_are_named_by_series_and_cutoff(fitted):
    found = fitted.diagnose()
    largest = max(found.observation.window_gradients, key=found.observation.window_gradients.get)
    assert re.fullmatch(r"series '[ab]', cutoff \d+", found.setting.name_window(largest))
    assert f"{found.observation.window_gradients[largest]:.3g}  {found.setting.name_window(largest)}" in str(found)


@pytest.fixture(scope="module")
def broken(data, tmp_path_factory):
    run = tmp_path_factory.mktemp("broken") / "run"
    with pytest.raises(TrainingError):
        small(**{**DIVERGING, "max_steps": 300}).fit(data, out=run)
    return run


def test_a_run_that_broke_down_is_looked_at_where_it_did(broken):
    found = diagnose_run(broken, None)
    assert found.kind == "not finite"
    assert found.advice[0].option == "--lr 0.05"
    steps = [json.loads(line) for line in (broken / rundir.TELEMETRY).read_text().splitlines()]
    steps = [row for row in steps if row["kind"] == "step"]
    first = next(row["step"] for row in reversed(steps) if not row["skipped"]) + 1
    note = next(note for note in found.notes if "were not finite" in note)
    assert note.startswith(f"steps {first}-{steps[-1]['step']} were not finite (loss, ")
    assert note.endswith(f"measured at step {first}, with its batch")
    assert all(math.isfinite(norms["recurrent"]) for norms in found.setting.history)


def test_the_advice_for_a_run_that_broke_down_mends_it(broken, data):
    options = follow(diagnose_run(broken, None).advice[0].option, **{**DIVERGING, "max_steps": 60})
    forecaster = small(**{**options, "lr": float(options["lr"])}).fit(data)
    assert not any(record.skipped for record in forecaster.fitted.log.steps)


def test_looking_at_a_run_writes_nothing(broken):
    before = {path: path.read_bytes() for path in broken.rglob("*") if path.is_file()}
    diagnose_run(broken, None)
    assert {path: path.read_bytes() for path in broken.rglob("*") if path.is_file()} == before


def test_a_complete_run_is_told_as_its_forecaster_is(data, tmp_path):
    forecaster = small(max_steps=5).fit(data, out=tmp_path / "run")
    assert str(diagnose_run(tmp_path / "run", None)) == str(forecaster.diagnose())


def test_a_run_that_was_stopped_is_looked_at_where_it_was_stopped(data, tmp_path):
    run = tmp_path / "run"

    def stop(outlook):
        if outlook.step == 3:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        small(max_steps=9).fit(data, out=run, show=stop)
    found = diagnose_run(run, None)
    assert "the run is not complete: measured at its step 1" in found.notes


def test_other_data_for_a_run(data, tmp_path):
    run = tmp_path / "run"
    small(max_steps=5).fit(data, out=run)
    other = tmp_path / "other.csv"
    table(seed=9).write_csv(other)
    assert str(diagnose_run(run, other)) == str(Forecaster.load(run).diagnose(table(seed=9)))


def test_series_too_short_to_train_on_are_refused():
    with pytest.raises(DataError, match="more than 5 rows"):
        small(season_length=2).diagnose(table(rows=4))


def test_neither_a_fit_nor_a_table_is_refused():
    with pytest.raises(OptionError, match="never fitted"):
        small().diagnose()


def test_missing_targets_weigh_nothing():
    """The mean of the weighted losses is the loss of training, which leaves missing targets out."""
    frame = table().with_columns(y=pl.when(pl.col("ds") % 7 == 3).then(None).otherwise(pl.col("y")))
    forecaster = small(max_steps=5, dropout=0.0).fit(frame)
    case = case_after(forecaster.fitted, None, ())
    assert not case.batch.target_mask_BF.all()
    network, scale_B = case.task.network, case.task.error_scale_n[case.batch.series_B]
    loss = batch_loss(network.head, network(case.batch), case.batch, scale_B)
    assert forecaster.diagnose().observation.loss == pytest.approx(loss.item(), rel=1e-6)


def titles(found, records):
    figure = Figure()
    for number, panel in enumerate(diagnosis_panels(found, records)):
        panel(figure.add_subplot(9, 1, number + 1))
    return [axes.get_title(loc="left") for axes in figure.axes if axes.get_title(loc="left")]


@pytest.mark.parametrize(
    ("cell", "eigenvalues"),
    [("lstm", "Jacobian at the origin"), ("gru", "Jacobian at the origin"), ("rnn-sigmoid", "Eigenvalues of the rec")],
)
def test_the_picture_shows_adjoints_the_eigenvalues_that_decide_and_their_course(data, cell, eigenvalues):
    flow = FlowRecord(
        step=3, rates={}, rate_errors={}, log_factors={}, memory_lengths={}, seconds=0.1,
        lags={"recurrent.l0": (0, 1), "gone": ()}, log_norms={"recurrent.l0": (0.0, -1.0), "gone": ()},
    )  # fmt: skip
    found = small(cell=cell).diagnose(data)
    first, second, third = titles(found, [flow])
    assert first == "How far back the loss reaches"
    assert second.startswith(eigenvalues)
    assert third == "Adjoints of recurrent.l0 while it learns"
    assert titles(found, []) == [first, second]


def test_a_bound_that_makes_a_run_forget_is_named(data):
    options = {**STEPWISE, "cell": "rnn-tanh", "constraint": "cap:0.5", "season_length": 2 * SEASON}
    found = small(**options).diagnose(data)
    assert found.kind == "vanishing"
    advice = next(one for one in found.advice if one.option.startswith("--constraint"))
    assert (advice.option, advice.evidence) == ("--constraint orthogonal", "it is cap:0.5 now")
    assert left(small(**follow(advice.option, **options)).diagnose(data)) > left(found) + 2
