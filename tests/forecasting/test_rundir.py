"""Run directories: what is in them, round trips, exact resume, and every way in which they can be damaged."""

from __future__ import annotations

import builtins
import json
import pickle
import shutil
from dataclasses import replace

import numpy as np
import polars as pl
import pytest
import torch
from tests.forecasting.small import HORIZON, KINDS, small, table

from holdfast import Forecaster, HoldfastError, OptionError, RunDirectoryError
from holdfast.forecasting import rundir
from holdfast.series import Kind
from holdfast.telemetry import StepRecord, read_telemetry

STEPS = 105  # checkpoints at 50, 100 and 105
FILES = {
    "checkpoint/state.safetensors",
    "forecast.parquet",
    "manifest.json",
    "metrics.json",
    "model.safetensors",
    "series.parquet",
    "telemetry.jsonl",
}


@pytest.fixture(scope="module")
def kept(tmp_path_factory):
    """A forecaster and its complete run directory; copy it to change it."""
    run = tmp_path_factory.mktemp("runs") / "deep" / "run"
    return small(max_steps=STEPS).fit(table(), out=run), run


@pytest.fixture
def copy(kept, tmp_path):
    return shutil.copytree(kept[1], tmp_path / "run")


def files(run):
    return {path.relative_to(run).as_posix() for path in run.rglob("*") if path.is_file()}


# ---------------------------------------------------------------- what is written


def test_a_run_holds_its_files_and_no_leftovers(kept):
    forecaster, run = kept
    assert files(run) == FILES
    assert pl.read_parquet(run / "forecast.parquet").equals(forecaster.predict())
    assert pl.read_parquet(run / "series.parquet").equals(table().with_columns(pl.col("ds").cast(pl.Int64)))
    assert json.loads((run / "metrics.json").read_text())["steps"] == STEPS


def test_telemetry_holds_all_that_a_step_measured(kept):
    steps = [record for record in read_telemetry(kept[1] / "telemetry.jsonl") if isinstance(record, StepRecord)]
    assert [record.step for record in steps] == list(range(1, STEPS + 1))
    for record in steps:
        squares = sum(norm**2 for norm in record.role_norms.values())
        assert record.total_norm == pytest.approx(np.sqrt(squares), rel=1e-5)
        after = {role: record.role_norms[role] * record.role_coefs[role] for role in record.role_norms}
        assert record.role_clipped_norms == pytest.approx(after, rel=1e-4)
        assert record.clipped_norm == pytest.approx(np.sqrt(sum(norm**2 for norm in after.values())), rel=1e-4)
        assert 0 < record.clip_coef <= 1
        assert np.isfinite(record.loss)
        assert record.lr > 0
        assert 0 < record.seconds < 60
    assert max(record.lr for record in steps) == pytest.approx(2e-3, rel=0.1)


def test_the_manifest_tells_options_and_libraries(kept):
    manifest = json.loads((kept[1] / "manifest.json").read_text())
    assert manifest["config"]["hidden_size"] == 8
    assert manifest["libraries"]["torch"] == torch.__version__
    assert manifest["complete"] is True


def test_a_number_that_is_not_finite_becomes_null(tmp_path):
    facts = {"a": float("nan"), "b": [float("inf"), 1.5], "c": {"d": -float("inf")}, "e": "nan", "f": True}
    rundir.write_json(tmp_path / "x.json", facts)
    assert rundir.read_json(tmp_path / "x.json") == {
        "a": None,
        "b": [None, 1.5],
        "c": {"d": None},
        "e": "nan",
        "f": True,
    }
    assert [path.name for path in tmp_path.iterdir()] == ["x.json"]


def test_a_series_that_repeats_itself_has_no_skill_to_tell(tmp_path):
    exact = pl.DataFrame({"ds": range(60), "y": [1.0, 5.0, 2.0, 8.0, 3.0, 9.0] * 10})
    forecaster = small(max_steps=0).fit(exact, out=tmp_path / "run")
    for one in (forecaster, Forecaster.load(tmp_path / "run")):
        assert "skill unknown: the naive forecast (seasonal naive 6) makes no error" in one.summary()


def test_what_is_to_be_said_of_the_steps_is_kept(tmp_path):
    forecaster = small(max_steps=110, clip="norm:1e-6").fit(table(), out=tmp_path / "run")
    (note,) = forecaster.fitted.metrics["notes"]
    assert note.startswith("clip norm:1e-6 cut the gradient in 100 % of the steps")
    assert json.loads((tmp_path / "run" / "metrics.json").read_text())["notes"] == [note]
    for one in (forecaster, Forecaster.load(tmp_path / "run")):
        assert note in one.summary().splitlines()


def test_how_gradients_flowed_is_kept_and_said(tmp_path):
    forecaster = small(max_steps=135, clip="none").fit(table(), out=tmp_path / "run")
    (record,) = forecaster.fitted.log.flows  # the first comes at step 131, and another would be 10 steps behind
    assert record.step == 131 and record in read_telemetry(tmp_path / "run" / "telemetry.jsonl")
    rate = record.rates["recurrent.l0"]
    (note,) = json.loads((tmp_path / "run" / "metrics.json").read_text())["notes"]
    assert note.startswith(f"gradients flow back through time at {rate:.3g} per recurrent step (l0); 1 sample, ")
    for one in (forecaster, Forecaster.load(tmp_path / "run")):
        assert note in one.summary().splitlines()


def test_a_run_that_was_written_without_notes_is_summarised(tmp_path):
    forecaster = small().fit(table())
    metrics = {name: value for name, value in forecaster.fitted.metrics.items() if name != "notes"}
    forecaster._become(replace(forecaster.fitted, metrics=metrics)).save(tmp_path / "run")
    assert Forecaster.load(tmp_path / "run").summary() == forecaster.summary()


# ---------------------------------------------------------------- round trips


def test_a_run_that_was_written_with_nothing_but_the_library_is_read(copy):
    rundir.write_manifest(copy, replace(rundir.read_manifest(copy), kind="pandas"))
    assert rundir.read_manifest(copy).kind == Kind("pandas")


def test_load_gives_the_same_bits(kept):
    forecaster, run = kept
    again = Forecaster.load(str(run))
    assert again.predict().equals(forecaster.predict())
    assert again.predict(table(seed=7)).equals(forecaster.predict(table(seed=7)))
    assert again.summary() == forecaster.summary()
    assert again.hidden_size == forecaster.hidden_size
    assert again.backtest(table(), 1).equals(forecaster.backtest(table(), 1))


def rich_table():
    """Own names, dates, category ids, gaps, and a covariate of each kind."""
    return table().select(
        pl.col("unique_id").cast(pl.Categorical).alias("shop"),
        (pl.date(2024, 1, 1) + pl.duration(days="ds")).alias("day"),
        pl.when(pl.col("ds") == 9).then(None).otherwise("y").alias("sold"),
        pl.when(pl.col("unique_id") == "a").then(pl.lit("north")).otherwise(pl.lit("south")).alias("region"),
        (pl.col("ds") % 5 == 0).alias("sale"),
        pl.col("ds").sin().alias("heat"),
    )


@pytest.mark.parametrize("kind", ["pandas", "polars", "pyarrow"])
def test_save_and_load_with_everything(tmp_path, kind):
    frame = KINDS[kind](rich_table())
    names = {"id_col": "shop", "time_col": "day", "target_col": "sold"}
    forecaster = small(**names, static="region", future="sale", past="heat", head="student-t").fit(frame)
    ahead = rich_table().select("shop", pl.col("day") + pl.duration(days=60), pl.col("sale"))
    expected = forecaster.predict(future=ahead)
    forecaster.save(tmp_path / "run")
    again = Forecaster.load(tmp_path / "run")
    assert files(tmp_path / "run") == FILES - {"checkpoint/state.safetensors", "forecast.parquet"}
    got = again.predict(future=ahead)
    assert type(got) is type(expected) is type(frame)
    assert pl.DataFrame(got).equals(pl.DataFrame(expected))
    assert pl.DataFrame(again.predict(frame, future=ahead)).equals(pl.DataFrame(expected))
    again.save(tmp_path / "second")
    assert (tmp_path / "second/model.safetensors").read_bytes() == (tmp_path / "run/model.safetensors").read_bytes()


def test_save_refuses_a_directory_that_holds_something(kept, tmp_path):
    (tmp_path / "note.txt").write_text("mine")
    for path in (tmp_path, tmp_path / "note.txt", tmp_path / "note.txt" / "run"):
        with pytest.raises(RunDirectoryError) as caught:
            kept[0].save(path)
        (problem,) = caught.value.problems
        assert all([problem.where, problem.expected, problem.got, problem.fix])
    assert files(tmp_path) == {"note.txt"}


def test_fit_refuses_a_used_directory_before_it_reads_anything(copy):
    before = {path: path.stat().st_mtime_ns for path in copy.rglob("*")}
    with pytest.raises(RunDirectoryError, match="holdfast resume"):
        small().fit("no-such-file.csv", out=copy)
    assert {path: path.stat().st_mtime_ns for path in copy.rglob("*")} == before


def test_an_empty_directory_will_do(tmp_path):
    small().fit(table(), out=tmp_path)
    assert files(tmp_path) == FILES


# ---------------------------------------------------------------- no code from files


def test_load_and_resume_touch_no_pickle_and_run_no_text(copy, monkeypatch):
    def refuse(*arguments, **options):
        raise AssertionError("code from a file")

    for module, names in ((pickle, ("load", "loads", "Unpickler")), (torch, ("load",)), (builtins, ("eval",))):
        for name in names:
            monkeypatch.setattr(module, name, refuse)
    monkeypatch.setattr(np, "load", refuse)
    assert Forecaster.load(copy).predict().height == 2 * HORIZON
    Forecaster.resume(copy, max_steps=STEPS + 1)


class Bomb:
    def __init__(self, path):
        self.path = path

    def __reduce__(self):
        return (open, (str(self.path), "w"))


@pytest.mark.parametrize("name", sorted(FILES - {"forecast.parquet", "telemetry.jsonl"}))
def test_a_pickle_in_place_of_a_file_is_not_run(copy, tmp_path, name):
    (copy / name).write_bytes(pickle.dumps(Bomb(tmp_path / "boom")))
    with pytest.raises(RunDirectoryError):
        Forecaster.resume(copy) if name.startswith("checkpoint") else Forecaster.load(copy)
    assert not (tmp_path / "boom").exists()


# ---------------------------------------------------------------- damage


def change(**changes):
    """Change facts of a manifest, the digest left as it was."""

    def edit(path):
        path.write_text(json.dumps(json.loads(path.read_text()) | changes))

    return edit


def drop(key):
    def edit(path):
        facts = json.loads(path.read_text())
        path.write_text(json.dumps({name: value for name, value in facts.items() if name != key}))

    return edit


def truncate(path):
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])


def flip(path):
    data = bytearray(path.read_bytes())
    data[-3] ^= 1
    path.write_bytes(data)


def other_model(path):
    small(hidden_size=5).fit(table(), out=path.parent / "other")
    shutil.copy(path.parent / "other" / "model.safetensors", path)


def empty(path):
    path.write_bytes(b"")


def remove(path):
    path.unlink()


def write(text):
    return lambda path: path.write_text(text)


DAMAGE = [
    ("manifest.json", remove, "no manifest.json in it"),
    ("manifest.json", empty, "JSONDecodeError"),
    ("manifest.json", truncate, "JSONDecodeError"),
    ("manifest.json", write("[1, 2]"), "as it was written"),
    ("manifest.json", write("3"), "as it was written"),
    ("manifest.json", write("{}"), "KeyError"),
    ("manifest.json", change(schema=99), "schema 99"),
    ("manifest.json", change(complete=False), "changed since"),
    ("manifest.json", change(kind="pandas"), "changed since"),
    ("manifest.json", change(config={}), "changed since"),
    ("manifest.json", change(fingerprints={}), "changed since"),
    ("manifest.json", change(extra=1), "changed since"),
    ("manifest.json", change(sha256="0"), "changed since"),
    ("manifest.json", drop("members"), "changed since"),
    ("manifest.json", drop("sha256"), "KeyError"),
    ("series.parquet", remove, "no such file"),
    ("series.parquet", empty, "SHA-256"),
    ("series.parquet", truncate, "SHA-256"),
    ("series.parquet", flip, "SHA-256"),
    ("model.safetensors", remove, "no such file"),
    ("model.safetensors", empty, "SHA-256"),
    ("model.safetensors", truncate, "SHA-256"),
    ("model.safetensors", flip, "SHA-256"),
    ("model.safetensors", other_model, "SHA-256"),
    ("metrics.json", remove, "no such file"),
    ("metrics.json", truncate, "SHA-256"),
    ("metrics.json", write('{"schema": 1, "skill": 0.99}'), "SHA-256"),
]


@pytest.mark.parametrize(("name", "damage", "words"), DAMAGE)
def test_a_damaged_run_is_refused_in_four_parts(copy, name, damage, words):
    damage(copy / name)
    with pytest.raises(RunDirectoryError) as caught:
        Forecaster.load(copy)
    (problem,) = caught.value.problems
    assert all([problem.where, problem.expected, problem.got, problem.fix])
    assert words in f"{problem.expected} {problem.got}"
    assert str(copy) in problem.where


def test_all_damaged_files_are_told_at_once(copy):
    flip(copy / "model.safetensors")
    remove(copy / "metrics.json")
    with pytest.raises(RunDirectoryError) as caught:
        Forecaster.load(copy)
    assert [problem.where.rsplit("/")[-1] for problem in caught.value.problems] == ["model.safetensors", "metrics.json"]


@pytest.mark.parametrize("damage", [empty, truncate])
def test_a_damaged_checkpoint_is_refused_by_resume_and_does_not_matter_to_load(copy, damage):
    damage(copy / "checkpoint/state.safetensors")
    before = (copy / "model.safetensors").read_bytes()
    with pytest.raises(RunDirectoryError, match=r"state\.safetensors"):
        Forecaster.resume(copy)
    assert (copy / "model.safetensors").read_bytes() == before
    assert Forecaster.load(copy).predict().height == 2 * HORIZON


@pytest.mark.parametrize("use", [Forecaster.load, Forecaster.resume])
def test_what_is_no_run_is_refused(tmp_path, use):
    (tmp_path / "file").write_text("x")
    for path, words in ((tmp_path, "no manifest.json"), (tmp_path / "file", "a file"), (tmp_path / "no", "no such")):
        with pytest.raises(RunDirectoryError, match=words):
            use(path)
    assert files(tmp_path) == {"file"}


# ---------------------------------------------------------------- resume


class Stop(Exception):
    """What a test stops a run with."""


def stop_at(step):
    def show(outlook):
        if outlook.step == step:
            raise Stop

    return show


def same_telemetry(run, other):
    """But for times, and looks at the flow, which are taken in their measure."""

    def facts(path):
        rows = map(json.loads, (path / "telemetry.jsonl").read_text().splitlines())
        return [
            {name: value for name, value in row.items() if name != "seconds"} for row in rows if row["kind"] != "flow"
        ]

    return facts(run) == facts(other)


@pytest.mark.parametrize("steps", [(1,), (50,), (51, 70, 101)])
def test_a_run_that_was_stopped_and_resumed_ends_with_the_same_bits(kept, tmp_path, steps):
    run = tmp_path / "run"
    with pytest.raises(Stop):
        small(max_steps=STEPS).fit(table(), out=run, show=stop_at(steps[0]))
    with pytest.raises(RunDirectoryError, match="holdfast resume"):
        Forecaster.load(run)
    for step in steps[1:]:
        with pytest.raises(Stop):
            Forecaster.resume(run, show=stop_at(step))
    resumed = Forecaster.resume(run)
    assert (run / "model.safetensors").read_bytes() == (kept[1] / "model.safetensors").read_bytes()
    assert same_telemetry(run, kept[1])
    assert resumed.predict().equals(kept[0].predict())
    assert Forecaster.load(run).predict().equals(kept[0].predict())


@pytest.mark.parametrize("constraint", ["orthogonal", "cap:0.5"])
def test_a_constrained_run_is_loaded_and_resumed_to_the_bit(tmp_path, constraint):
    options = {"constraint": constraint, "cell": "gru", "layers": 2, "max_steps": 52}
    whole = small(**options).fit(table(), out=tmp_path / "whole")
    with pytest.raises(Stop):
        small(**options).fit(table(), out=tmp_path / "run", show=stop_at(51))
    resumed = Forecaster.resume(tmp_path / "run")
    assert (tmp_path / "run/model.safetensors").read_bytes() == (tmp_path / "whole/model.safetensors").read_bytes()
    assert same_telemetry(tmp_path / "run", tmp_path / "whole")
    loaded = Forecaster.load(tmp_path / "run")
    assert loaded.constraint == constraint
    for one in (resumed, loaded):
        assert one.predict().equals(whole.predict())
    for W in loaded.fitted.network.recurrent.weight_hh_l1.detach().double().split(8):
        sizes = torch.linalg.svdvals(W).tolist()
        assert max(sizes) == pytest.approx(1.0 if constraint == "orthogonal" else 0.5, rel=1e-6)
        assert constraint != "orthogonal" or min(sizes) == pytest.approx(1.0, rel=1e-6)


def test_a_run_that_was_written_before_there_were_constraints_is_loaded(kept, copy):
    manifest = rundir.read_manifest(copy)
    config, member = dict(manifest.config), {name: dict(facts) for name, facts in manifest.members[0].items()}
    for facts in (config, *member.values()):
        assert facts.pop("constraint") == "none"
    rundir.write_manifest(copy, replace(manifest, config=config, members=(member,)))
    assert Forecaster.load(copy).predict().equals(kept[0].predict())


def test_a_cut_off_line_of_telemetry_is_written_again(kept, tmp_path):
    run = tmp_path / "run"
    with pytest.raises(Stop):
        small(max_steps=STEPS).fit(table(), out=run, show=stop_at(60))
    path = run / "telemetry.jsonl"
    path.write_text(path.read_text()[:-20])
    Forecaster.resume(run)
    assert same_telemetry(run, kept[1])


def test_resuming_a_complete_run_changes_nothing(kept, copy):
    Forecaster.resume(copy)
    for name in ("model.safetensors", "forecast.parquet", "series.parquet", "manifest.json"):
        assert (copy / name).read_bytes() == (kept[1] / name).read_bytes()


def test_a_complete_run_is_trained_for_longer(kept, copy):
    longer = Forecaster.resume(copy, max_steps=STEPS + 30)
    assert longer.fitted.metrics["steps"] == STEPS + 30
    steps = [record.step for record in read_telemetry(copy / "telemetry.jsonl") if isinstance(record, StepRecord)]
    assert steps == list(range(1, STEPS + 31))
    assert Forecaster.load(copy).max_steps == STEPS + 30
    old = (kept[1] / "telemetry.jsonl").read_text()
    assert (copy / "telemetry.jsonl").read_text().startswith(old)


def test_a_longer_training_that_is_killed_leaves_the_run_as_it_was_and_can_go_on(kept, copy):
    with pytest.raises(Stop):
        Forecaster.resume(copy, max_steps=300, show=stop_at(170))
    assert Forecaster.load(copy).predict().equals(kept[0].predict())
    assert Forecaster.resume(copy, max_steps=180).fitted.metrics["steps"] == 180


def test_more_steps_put_an_end_to_a_time_budget(tmp_path):
    small(max_steps=10_000, time_budget=0.2).fit(table(), out=tmp_path / "run")
    done = Forecaster.load(tmp_path / "run").fitted.metrics["steps"]
    assert Forecaster.resume(tmp_path / "run", max_steps=done + 5).fitted.metrics["steps"] == done + 5


def test_a_saved_forecaster_cannot_be_resumed_and_says_so(kept, tmp_path):
    kept[0].save(tmp_path / "run")
    with pytest.raises(RunDirectoryError, match="a saved forecaster"):
        Forecaster.resume(tmp_path / "run")
    assert read_telemetry(tmp_path / "run" / "telemetry.jsonl") == kept[0].fitted.log.records


@pytest.mark.parametrize("max_steps", [-1, 1.5, "9"])
def test_a_number_of_steps_that_cannot_work_changes_nothing(copy, max_steps):
    before = {path: path.stat().st_mtime_ns for path in copy.rglob("*")}
    with pytest.raises(OptionError, match="max_steps"):
        Forecaster.resume(copy, max_steps=max_steps)
    assert {path: path.stat().st_mtime_ns for path in copy.rglob("*")} == before


def test_every_refusal_is_one_of_the_family(copy):
    truncate(copy / "manifest.json")
    with pytest.raises(HoldfastError):
        Forecaster.load(copy)
