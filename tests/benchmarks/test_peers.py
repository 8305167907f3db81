"""The benchmark of peers: the cut-off, the cases and their rows, the scores, the tables."""

from __future__ import annotations

import importlib
import json
import math
import subprocess
import sys
import time

import numpy as np
import polars as pl
import pytest
import torch
from benchmarks.peers import jobs, runner, sets, tables
from benchmarks.peers.task import WARM_UP, Clock, Task, cut_off, forecasts, numbered, series_of

from holdfast.series import m4_hourly

LIGHTNING = ("lightning.pytorch", "pytorch_lightning")


def accuracy_row(forecaster, seconds, owa, seed=0, **more):
    """A row as `measure` makes it."""
    job = {"kind": "accuracy", "forecaster": forecaster, "seconds": seconds, "seed": seed}
    measured = {"smape": 10 * owa, "mase": 2 * owa, "owa": owa, "coverage": None, "steps": 7}
    seconds = {"fit_seconds": seconds + 2.0, "predict_seconds": 0.5, "peak_gb": 1.5}
    return {**job, **measured, **seconds, "version": "1.0", **more}


def stopped(clock, module, **options):
    """How many steps a trainer of this Lightning takes with the cut-off."""
    lightning = pytest.importorskip(module, reason="an optional package, installed by the extra `test`")

    class Line(lightning.LightningModule):
        def __init__(self):
            super().__init__()
            self.layer = torch.nn.Linear(1, 1)

        def training_step(self, batch, _):
            return self.layer(batch[0]).square().mean()

        def configure_optimizers(self):
            return torch.optim.SGD(self.parameters(), lr=0.01)

    data = torch.utils.data.DataLoader(torch.utils.data.TensorDataset(torch.ones(12, 1)), batch_size=2)
    quiet = {"logger": False, "enable_progress_bar": False, "enable_checkpointing": False, "accelerator": "cpu"}
    callbacks = [cut_off(lightning.Callback, clock)]
    trainer = lightning.Trainer(callbacks=callbacks, enable_model_summary=False, **quiet, **options)
    trainer.fit(Line(), data)
    return trainer.global_step


@pytest.mark.filterwarnings("ignore:The '.*_dataloader' does not have many workers")
@pytest.mark.filterwarnings("ignore:.*treespec, LeafSpec:FutureWarning")
@pytest.mark.filterwarnings("ignore:GPU available but not used")
@pytest.mark.parametrize("module", LIGHTNING)
@pytest.mark.parametrize(
    ("limits", "options", "steps"),
    [
        ({"seconds": 0.0}, {"max_epochs": 3}, 1),  # the step that passes the budget is the last one
        ({"steps": 4}, {"max_epochs": 3}, 4),
        ({"steps": 8}, {"max_epochs": 3}, 8),  # in the second epoch, of 6 steps each
        ({"steps": 100}, {"max_epochs": 3}, 18),
        ({}, {"max_steps": 5}, 5),
    ],
)
def test_the_cut_off_ends_training_at_the_end_of_a_step(module, limits, options, steps, tmp_path):
    clock = Clock(**limits)
    assert stopped(clock, module, default_root_dir=tmp_path, **options) == steps
    assert len(clock.ends) == steps
    assert clock.started < clock.ends[0]
    assert clock.trained == clock.ends[-1] - clock.started


def test_the_pace_leaves_the_first_steps_out():
    clock = Clock(started=10.0, ends=[20.0 + 3 * number for number in range(WARM_UP)])
    assert clock.pace is None
    clock.ends += [100.0, 102.0, 107.0]
    assert clock.pace == pytest.approx(3.5)
    assert Clock().trained == 0.0


def test_cases_are_all_different_and_the_most_telling_come_first():
    found = list(jobs.all_jobs(seeds=3))
    of_sets = [job for job in found if job["kind"] == "sets"]
    assert found[: len(of_sets)] == of_sets
    assert [job["seed"] for job in of_sets] == sorted(job["seed"] for job in of_sets)
    for seed in range(3):
        own = [(job["set"], job["forecaster"]) for job in of_sets if job["seed"] == seed]
        assert own == [(name, who) for name in sets.available() for who in jobs.OF_SETS]
    assert len({jobs.key_of(job) for job in found}) == len(found)
    first = [job for job in found if job["kind"] == "accuracy"][: 2 + len(jobs.PEERS)]
    assert [job["forecaster"] for job in first] == ["naive", "holdfast", *jobs.PEERS]
    assert {job["seconds"] for job in first[1:]} == {120}
    for seed in range(3):
        own = {
            (job["forecaster"], job["seconds"]) for job in found if job["kind"] == "accuracy" and job["seed"] == seed
        }
        assert {(name, budget) for name in ("holdfast", *jobs.PEERS) for budget in jobs.BUDGETS} <= own
        assert {("holdfast", budget) for budget in jobs.SHORT} <= own


def test_what_is_there_is_passed_over_and_what_failed_is_tried_again(tmp_path):
    left = list(jobs.all_jobs(seeds=1))
    path = tmp_path / "peers.json"
    assert runner.still_to_do(left, runner.read_facts(path)["rows"]) == left
    path.write_text(json.dumps({"machine": {"cpu": "c"}, "rows": []}))
    for job, more in zip(
        left, ({"owa": 1.0}, {"failed": "KeyError"}, {"cut_off": "more than 5 minutes"}), strict=False
    ):
        runner.keep(path, {**job, **more})
    assert runner.still_to_do(left, runner.read_facts(path)["rows"]) == [left[1], *left[3:]]
    runner.keep(path, {**left[1], "owa": 2.0})
    facts = runner.read_facts(path)
    assert runner.still_to_do(left, facts["rows"]) == left[3:]
    assert [row.get("owa") for row in facts["rows"]] == [1.0, 2.0, None]
    assert facts["machine"] == {"cpu": "c"}


def test_cases_run_some_at_a_time_until_the_time_is_over(tmp_path):
    script = tmp_path / "script.py"
    script.write_text(
        "import json, sys, time; job = json.loads(sys.argv[2]); time.sleep(job['sleep'])\n"
        "open(sys.argv[4], 'w').write(sys.argv[2])\n"
    )
    cases = [{"sleep": 60}, {"sleep": 0}, {"sleep": 0.01}, {"sleep": 61}, {"sleep": 0.02}]
    started = time.monotonic()
    limits = runner.Limits(until=started + 3)
    assert list(runner.run_cases(cases, script, limits, workers=2)) == cases[1:3]
    assert time.monotonic() - started < 20


@pytest.mark.parametrize(
    ("code", "limits", "expected"),
    [
        (
            "import json; open(given[3], 'w').write(json.dumps({'fine': given[1]}))",
            runner.Limits(),
            {"fine": '{"a": 1}'},
        ),
        ("print('first'); raise KeyError('lost')", runner.Limits(), {"a": 1, "failed": "KeyError: 'lost'"}),
        ("raise SystemExit(3)", runner.Limits(), {"a": 1, "failed": "exit status 3"}),
        ("import time; time.sleep(60)", runner.Limits(minutes=0.005), {"a": 1, "cut_off": "more than 0.005 minutes"}),
        ("import time; time.sleep(60)", runner.Limits(gb=0.001), {"a": 1, "cut_off": "more than 0.001 GB"}),
    ],
)
def test_a_case_is_measured_cut_off_or_failed_in_its_own_process(code, limits, expected, tmp_path):
    script = tmp_path / "script.py"
    script.write_text(f"import sys; given = sys.argv[1:]\n{code}\n")
    row = runner.run_case({"a": 1}, script, limits)
    assert {name: value for name, value in row.items() if name != "threads"} == expected


def test_threads_are_those_that_were_asked_for(tmp_path):
    script = tmp_path / "script.py"
    script.write_text("import json, os, sys; open(sys.argv[4], 'w').write(json.dumps(os.environ['OMP_NUM_THREADS']))")
    assert runner.run_case({}, script, runner.Limits(threads=3)) == "3"


def test_memory_is_that_of_the_process():
    held = "x = b'a' * 200_000_000; print(flush=True); input()"
    with subprocess.Popen([sys.executable, "-c", held], stdin=subprocess.PIPE, stdout=subprocess.PIPE) as process:
        process.stdout.readline()
        seen = runner.resident_gb(process.pid)
        process.kill()
    if not seen:
        pytest.skip("this system does not tell the memory of a process")
    assert 0.2 < seen < 0.4


def test_forecasts_and_series_go_into_tables_and_back():
    table = pl.DataFrame(
        {"unique_id": ["b", "b", "a", "a", "a"], "ds": [1, 2, 1, 2, 3], "y": [1.0, 2.0, 3.0, 4.0, 5.0]}
    )
    assert {name: values.tolist() for name, values in series_of(table).items()} == {"b": [1, 2], "a": [3, 4, 5]}
    made = forecasts(["b", "a"], np.array([[1, 2], [3, 4]]), high_nF=np.array([[5, 6], [7, 8]]))
    assert made.rows() == [("b", 1, 1.0, 5.0), ("b", 2, 2.0, 6.0), ("a", 1, 3.0, 7.0), ("a", 2, 4.0, 8.0)]
    assert numbered(table.reverse())["step"].to_list() == [1, 2, 3, 1, 2]


@pytest.fixture(scope="module")
def parts():
    """A few series, whose ids do not stand in the order of their text."""
    ids = ["H2", "H10", "H100"]
    return [m4_hourly(part).filter(pl.col("unique_id").is_in(ids)) for part in ("train", "test")]


def test_scores_are_those_of_the_competition(parts):
    """Against plain loops: sMAPE and MASE of seasonal naive, mean over the series."""
    train, test = parts
    history, ahead = series_of(train), series_of(test)
    point = {name: np.resize(values[-24:], 48) for name, values in history.items()}
    smape, mase, inside = [], [], []
    for name, y in ahead.items():
        x, f = history[name], point[name]
        smape.append(sum(200 * abs(a - b) / (abs(a) + abs(b)) for a, b in zip(y, f, strict=True)) / 48)
        scale = sum(abs(x[t] - x[t - 24]) for t in range(24, len(x))) / (len(x) - 24)
        mase.append(sum(abs(a - b) for a, b in zip(y, f, strict=True)) / 48 / scale)
        inside.append(sum(0.9 * b <= a <= 1.1 * b for a, b in zip(y, f, strict=True)) / 48)
    naive = np.stack(list(point.values()))
    shuffled = forecasts(list(point), naive, 0.9 * naive, 1.1 * naive).sample(fraction=1.0, shuffle=True, seed=0)
    found = jobs.scores_of(shuffled, train, test)
    means = [sum(each) / len(each) for each in (smape, mase, inside)]
    assert [found[name] for name in ("smape", "mase", "coverage")] == pytest.approx(means)
    assert found["owa"] == pytest.approx((means[0] / 18.383 + means[1] / 2.395) / 2)
    assert jobs.scores_of(shuffled.drop("low", "high"), train, test)["coverage"] is None


def test_forecasts_that_are_not_finite_or_not_there_have_no_score(parts):
    train, test = parts
    point = np.ones((3, 48))
    point[1, 2], point[2, 3] = math.nan, math.inf
    assert jobs.scores_of(forecasts(["H2", "H10", "H100"], point), train, test) == {"nonfinite": 2}
    with pytest.raises(ValueError, match="144"):
        jobs.scores_of(forecasts(["H2", "H10"], np.ones((2, 48))), train, test)


@pytest.mark.parametrize("forecaster", ["holdfast", "holdfast-1"])
def test_ours_is_cut_off_by_steps_and_forecasts_every_series(forecaster):
    from benchmarks.peers import ours

    table = jobs.synthetic(series=4, length=150)
    fitted = ours.fit(table, Task(horizon=6, season=4, steps=2), jobs.FORECASTERS[forecaster].variant)
    made = fitted.predict(fitted.convert(table))
    assert len(fitted.clock.ends) == 2
    assert fitted.clock.trained > 0
    assert made.columns == ["unique_id", "step", "point", "low", "high"]
    assert made.height == 24
    assert made["step"].to_list() == [1, 2, 3, 4, 5, 6] * 4
    assert (made["low"] <= made["high"]).all()


def test_budgets_rise_and_are_means_over_seeds():
    rows = [
        accuracy_row("deepar", 30, 1.0),
        accuracy_row("deepar", 5, 3.0),
        accuracy_row("deepar", 30, 1.5, seed=1),
        {"kind": "accuracy", "forecaster": "deepar", "seconds": 30, "seed": 2, "nonfinite": 4},
        accuracy_row("holdfast", 30, 0.1),
    ]
    small, large = tables.scores_by(rows, "deepar")
    assert (small.seconds, small.mean("owa"), large.seconds, large.mean("owa")) == (5, 3.0, 30, 1.25)
    assert (large.spread("owa"), small.spread("owa")) == ("0.500", "")
    assert large.mean("coverage") is None
    cells = tables.accuracy_table(rows)
    assert len({line.count("|") for line in cells}) == 1
    assert "**1.250** | 0.500" in "\n".join(cells)


def test_a_peer_is_overtaken_at_the_first_budget_that_is_not_worse():
    rows = [accuracy_row("holdfast", budget, owa) for budget, owa in ((5, 0.9), (10, 0.5), (20, 0.4))]
    rows += [accuracy_row("deepar", 30, 0.45), accuracy_row("deepar", 300, 0.5)]
    rows += [accuracy_row("nf-lstm", 300, 0.3), {**accuracy_row("nf-gru", 30, 0.8), "owa": None}]
    found = {each.peer: each for each in tables.overtakings(rows)}
    assert set(found) == {"deepar", "nf-lstm"}
    assert (found["deepar"].final.seconds, found["deepar"].ours.seconds) == (300, 10)
    assert found["nf-lstm"].ours is None
    line = next(line for line in tables.overtaking_table(rows) if "DeepAR" in line)
    assert [cell.strip() for cell in line.split("|")][2:7] == ["0.500", "302", "**12**", "0.500", "25.2"]


def test_speed_says_what_was_not_measured_cut_off_or_failed():
    rows = [
        {"kind": "rate", "forecaster": "deepar", "seconds": 20, "windows_per_second": 1234.4},
        {"kind": "predict", "forecaster": "deepar", "series": 1_000, "cut_off": "more than 5 minutes"},
        {"kind": "predict", "forecaster": "deepar", "series": 100_000, "failed": "MemoryError"},
        {"kind": "growth", "forecaster": "deepar", "series": 1_000, "length": 150, "fit_seconds": 3.2, "peak_gb": 0.5},
        {"kind": "growth", "forecaster": "deepar", "series": 16, "length": 1_000, "cut_off": "more than 12 GB"},
    ]
    speed = next(line for line in tables.speed_table(rows) if "DeepAR" in line)
    assert speed == "| GluonTS DeepAR | 1,234 | cut off: more than 5 minutes | failed |"
    growth = next(line for line in tables.growth_table(rows) if "DeepAR" in line)
    assert growth.split("|")[2].strip() == "3 s, 0.50 GB"
    assert growth.split("|")[5].strip() == "cut off: more than 12 GB"
    assert growth.count("not measured") == 4


def test_the_section_can_be_written_from_any_rows_and_survives_json():
    for rows in ([], [accuracy_row("holdfast", 5, 0.5), accuracy_row("naive", 0, 0.6)]):
        text = tables.peers_section(json.loads(json.dumps(rows)), "Machine: a, b.")
        assert text[0].startswith("## Compared with other libraries")
        assert text[-2].endswith("Machine: a, b.")
        assert all(len(line) <= 118 or line[0] in "|!" for line in text)
    assert "holdfast 1.0" in text[-2]


@pytest.mark.filterwarnings("ignore::Warning")  # the libraries' own
@pytest.mark.parametrize(
    ("forecaster", "options"),
    [
        ("holdfast", {"equal": True}),
        ("nf-lstm", {"equal": True}),
        ("nf-lstm", {"interval": True}),
        ("nf-gru", {}),
        ("deepar", {"equal": True}),
        ("darts-block", {}),
        ("darts-block", {"interval": True}),
        ("darts-rnn", {"equal": True}),
        ("naive", {}),
    ],
)
def test_an_adapter_stops_in_time_and_gives_each_series_its_own_forecast(forecaster, options, tmp_path, monkeypatch):
    """Series of very unlike levels, whose ids are not in the order of their text: no forecast lies on another level."""
    monkeypatch.chdir(tmp_path)  # where Lightning leaves files
    who = jobs.FORECASTERS[forecaster]
    package = {"darts": "darts.models", "gluonts": "gluonts.torch"}.get(who.package, who.package)
    pytest.importorskip(package, reason="a peer, installed by the extra `bench`")
    adapter = importlib.import_module(f"benchmarks.peers.{who.adapter}")
    levels = {"s9": 1e-3, "s10": 1.0, "s100": 1e3, "s1": 1e6}
    table = jobs.synthetic(series=4, length=180).with_columns(
        pl.Series("unique_id", np.repeat(list(levels), 180)), pl.col("y") * np.repeat(list(levels.values()), 180) / 100
    )
    fitted = adapter.fit(table, Task(horizon=6, season=4, steps=2, seed=1, **options), who.variant)
    made = fitted.predict(fitted.convert(table))
    assert len(fitted.clock.ends) == (0 if forecaster == "naive" else 2)
    assert made.height == 6 * len(levels)
    for name, level in levels.items():
        own = made.filter(pl.col("unique_id") == name)
        assert own["step"].to_list() == [1, 2, 3, 4, 5, 6]
        assert level / 30 < abs(own["point"].mean()) < 30 * level
        if "low" in made.columns and not options.get("interval"):  # two steps leave quantiles that cross
            assert (own["low"] <= own["point"]).all()
            assert (own["point"] <= own["high"]).all()
    if "interval" in options:
        assert (made["high"] - made["low"]).abs().max() > 0
