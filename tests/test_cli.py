"""The command line as a person uses it: what it prints, where, with which exit code; killed, interrupted, resumed."""

from __future__ import annotations

import io
import json
import os
import random
import re
import signal
import subprocess
import sys
import time
from dataclasses import fields, replace
from pathlib import Path

import polars as pl
import pytest
from tests.forecasting.small import HORIZON, table

import holdfast
from holdfast import Config, Forecaster, cli, cli_options
from holdfast.forecasting.demo import DemoResult
from holdfast.forecasting.metrics import mean_scores
from holdfast.forecasting.rundir import read_manifest, write_manifest
from holdfast.gradients import ClipAuto
from holdfast.gradients.parse import EXAMPLES, KINDS
from holdfast.series import TableOptions

ROOT = Path(__file__).parents[1]
SIZES = ["--season-length", "6", "--hidden-size", "8", "--batch-size", "16"]
FIT = ["--horizon", "4", *SIZES, "--max-steps", "5"]
COMMANDS = ["demo", "check", "fit", "resume", "predict", "backtest", "diagnose", "study"]


@pytest.fixture
def run(monkeypatch, capsys):
    """Run a command line in this process: exit code, stdout, stderr."""
    monkeypatch.setenv("COLUMNS", "200")

    def call(*words):
        monkeypatch.setattr(sys, "argv", ["holdfast", *map(str, words)])
        with pytest.raises(SystemExit) as caught:
            cli.main()
        said = capsys.readouterr()
        assert "Traceback" not in said.err
        return caught.value.code or 0, said.out, said.err

    return call


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    path = tmp_path_factory.mktemp("data") / "sales.csv"
    table().with_columns(ds=pl.datetime(2024, 1, 1) + pl.duration(hours="ds")).write_csv(
        path, datetime_format="%Y-%m-%d %H:%M:%S"
    )
    return path


@pytest.fixture(scope="module")
def kept(data, tmp_path_factory):
    """A run directory that a fit left behind."""
    path = tmp_path_factory.mktemp("runs") / "run"
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(sys, "argv", ["holdfast", "fit", str(data), *FIT, "--out", str(path)])
        with pytest.raises(SystemExit) as caught:
            cli.main()
    assert not caught.value.code
    return path


@pytest.mark.parametrize(
    ("said", "expected"), [("1", "season 6: found"), ("0", "season 6: found"), ("none", "no season")]
)
def test_a_season_length_of_one_leaves_the_search_and_none_does_not(run, data, said, expected):
    code, out, _ = run("fit", data, *FIT, "--season-length", said)
    assert code == 0
    assert expected in out
    assert "usual" not in out


def four_parts(err):
    """The problems on stderr, each as where, expected, got, to do."""
    return re.findall(r"^Error: (.+)\n  expected: (.+)\n  got:      (.+)\n  to do:    (.+)$", err, re.MULTILINE)


# ---------------------------------------------------------------- help


def test_help_lists_the_commands_in_the_order_of_their_use(run):
    code, out, _ = run("--help")
    assert code == 0
    assert re.findall(r"^\W+(\w+)  +[A-Z]", out, re.MULTILINE)[-len(COMMANDS) :] == COMMANDS


def test_without_a_command_it_shows_help(run):
    code, out, _ = run()
    assert code == 2
    assert "demo" in out


@pytest.mark.parametrize("command", COMMANDS)
def test_the_help_of_each_command_shows_an_example_that_is_understood(run, command):
    code, out, _ = run(command, "--help")
    assert code == 0
    words = re.search(r"Example: (holdfast [^\n\u2502]+)", out)[1].split()
    assert words[:2] == ["holdfast", command]
    for option in [word for word in words if word.startswith("--")]:
        assert out.count(option) >= 2  # in the example, and in the list


def test_version(run):
    assert run("--version") == (0, f"holdfast {holdfast.__version__}\n", "")


# ---------------------------------------------------------------- exit codes


@pytest.mark.parametrize(
    ("words", "part"),
    [
        (["sing"], "No such command"),
        (["fit"], "Missing argument"),
        (["fit", "x.csv", "--horzion", "3"], "--horizon"),
        (["fit", "x.csv", "--horizon", "x"], "--horizon"),
        (["predict"], "Missing argument"),
        (["resume", "run", "--max-steps", "-1"], "--max-steps"),
    ],
)
def test_a_wrong_use_exits_2(run, words, part):
    code, out, err = run(*words)
    assert (code, out) == (2, "")
    assert part in err


@pytest.mark.parametrize(
    ("words", "where"),
    [
        (["fit", "no.csv", "--horizon", "3"], "no.csv"),
        (["check", "no.csv"], "no.csv"),
        (["backtest", "no.csv"], "no.csv"),
        (["fit", "table.ods"], "table.ods"),
        (["predict", "nowhere"], "nowhere"),
        (["diagnose", "nowhere"], "nowhere"),
        (["diagnose", "{kept}", "--data", "no.csv"], "no.csv"),
        (["diagnose", "{kept}", "--picture", "flow.jpg"], "option --picture"),
        (["diagnose", "{kept}", "--picture", "no/where.png"], "option --picture"),
        (["resume", "nowhere"], "nowhere"),
        (["fit", "{data}", "--cell", "lstn"], "option cell"),
        (["fit", "{data}", "--clip", "norm:-1"], "clip rule"),
        (["fit", "{data}", "--clip-roles", "weights"], "option clip_roles"),
        (["fit", "{data}", "--season-length", "24;168"], "option --season-length"),
        (["fit", "{data}", "--levels", "80,101"], "option levels"),
        (["fit", "{data}", "--bounds", "1"], "option bounds"),
        (["fit", "{data}", "--freq", "fortnight"], "option --freq"),
        (["fit", "{data}", "--time-budget", "nonsense"], "option --time-budget"),
        (["fit", "{data}", "--time-budget", "m"], "option --time-budget"),
        (["fit", "{data}", "--time-budget", "-3m"], "option time_budget"),
        (["fit", "{data}", "--future", "price"], "column 'price'"),
        (["backtest", "{data}", "--windows", "0"], "option windows"),
        (["backtest", "{data}", "--horizon", "4", "--windows", "99"], "backtest of 99 windows"),
        (["backtest", "{data}", "--out", "no/where.csv"], "option --out"),
        (["backtest", "{data}", "--out", "scores.xlsx"], "option --out"),
        (["predict", "{kept}", "--out", "forecast.xlsx"], "forecast.xlsx"),
        (["predict", "{kept}", "--out", "no/where.csv"], "where.csv"),
        (["predict", "{kept}", "--future-data", "{data}"], "sales.csv"),
        (["predict", "{kept}", "--levels", "80,101"], "option levels"),
        (["predict", "{kept}", "--levels", "0.8"], "option levels"),
        (["predict", "{kept}", "--levels", "80;95"], "option --levels"),
        (["fit", "{data}", "--horizon", "4", "--out", "{kept}"], "run"),
    ],
)
def test_what_cannot_be_done_exits_1_and_is_told_in_four_parts(run, data, kept, tmp_path, monkeypatch, words, where):
    monkeypatch.chdir(tmp_path)
    code, out, err = run(*[word.format(data=data, kept=kept) for word in words])
    assert (code, out) == (1, "")
    (problem,) = four_parts(err)
    assert where in problem[0]
    assert list(tmp_path.iterdir()) == []


def test_all_bad_options_are_told_at_once(run, data):
    code, _, err = run("fit", data, "--horizon", 0, "--layers", 0, "--lr", -1, "--head", "normal")
    assert code == 1
    assert {problem[0] for problem in four_parts(err)} == {
        f"option {name}" for name in ("horizon", "layers", "lr", "head")
    }


def test_a_run_that_is_never_finite_exits_3_and_says_what_to_try(run, data, tmp_path):
    out_dir = tmp_path / "run"
    wild = ["--max-steps", 80, "--lr", 1e30, "--optimizer", "sgd"]
    code, out, err = run("fit", data, *FIT, *wild, "--out", out_dir)
    assert (code, out) == (3, "")
    (problem,) = four_parts(err)
    assert "training step" in problem[0]
    for words in ("steps", "loss nan", "not finite: loss", "series 'a', cutoff 2024-01-0"):
        assert words in problem[2]
    for words in ("--lr 0.05 instead of 1e+30", f"{out_dir} stays, with no weights yet and no model", "another --out"):
        assert words in problem[3]
    assert len(re.findall(r"^went back to the weights of step 0, with 1/", err, re.MULTILINE)) == 3
    lines = [json.loads(line) for line in (out_dir / "telemetry.jsonl").read_text().splitlines()]
    assert [line["skipped"] for line in lines[-10:]] == [True] * 10
    assert [line["retreats"] for line in lines if line["kind"] == "retreat"] == [1, 2, 3]
    assert run("predict", out_dir)[0] == 1
    code, _, again = run("resume", out_dir)
    assert (code, four_parts(again)) == (3, [problem])


def test_a_run_that_fails_later_says_which_weights_are_there(run, data, tmp_path):
    """Good up to step 50; then the manifest asks for a learning rate beyond all bounds."""
    out_dir = tmp_path / "run"
    assert run("fit", data, *FIT, "--max-steps", 50, "--out", out_dir)[0] == 0
    manifest = read_manifest(out_dir)
    (member,) = manifest.members
    changed = {**member, "config": {**member["config"], "lr": 1e30, "optimizer": "adamw"}}
    write_manifest(out_dir, replace(manifest, members=(changed,)))
    code, _, err = run("resume", out_dir, "--max-steps", 120)
    assert code == 3
    (problem,) = four_parts(err)
    best = json.loads((out_dir / "metrics.json").read_text())["best_step"]
    held = (
        f"the weights of step 50 and the best ones, of step {best}, in its checkpoint and the model of the fit before"
    )
    assert f"{out_dir} stays, with {held}; `holdfast resume {out_dir}` would meet the same" in problem[3]


def test_a_value_that_no_network_can_hold_is_named_by_series_and_time(run, tmp_path):
    spoiled = pl.when((pl.col("unique_id") == "b") & (pl.col("ds") == 20)).then(1e308).otherwise("y")
    path = tmp_path / "outlier.csv"
    table(ids="abc").with_columns(y=spoiled, ds=pl.date(2024, 1, 1) + pl.duration(days="ds")).write_csv(path)
    code, _, err = run("fit", path, *FIT, "--max-steps", 60)
    assert code == 3
    (problem,) = four_parts(err)
    named = re.findall(r"series '(\w)', cutoff (\S+) \(largest \|y\| (\S+), loss (\w+)\)", problem[2])
    assert named
    assert {(series, largest) for series, _, largest, _ in named} == {("b", "1e+308")}
    assert named[0][3] == "nan"
    assert all("2024-01-16" <= cutoff <= "2024-02-25" for _, cutoff, _, _ in named)
    assert "leave them empty" in problem[3]


def test_text_in_brackets_is_not_taken_for_markup(run, tmp_path):
    path = tmp_path / "a.csv"
    table().rename({"y": "[red]"}).write_csv(path)
    assert "'[red]'" in run("check", path, "--horizon", 4)[2]
    table().with_columns(pl.lit(1).alias("[bold]")).write_csv(path)
    assert "[bold]" in run("check", path, "--horizon", 4)[1]


def test_control_characters_of_a_table_do_not_reach_the_terminal(run, tmp_path):
    path = tmp_path / "a.csv"
    wild = "no\x1b]0;title\x07te"
    table().with_columns(pl.lit(1).alias(wild)).write_csv(path)
    code, out, err = run("check", path, "--horizon", 4)
    assert (code, err) == (0, "")
    assert r"columns not used: 'no\x1b]0;title\x07te'" in out
    table().rename({"unique_id": wild, "y": "\x1b[2Jy"}).write_csv(path)
    code, out, err = run("check", path, "--horizon", 4)
    assert (code, out) == (1, "")
    assert r"--target-col '\x1b[2Jy'" in err
    assert "\x1b" not in err
    assert all(letter.isprintable() for letter in err.replace("\n", ""))


def test_forecasts_on_a_terminal_are_escaped_and_in_a_pipe_exact(run, kept, data, tmp_path, monkeypatch):
    path = tmp_path / "a.csv"
    pl.read_csv(data).with_columns(pl.lit("\x1b[2J").alias("unique_id")).head(60).write_csv(path)
    assert run("predict", kept, path)[1].splitlines()[1].startswith("\x1b[2J,")
    monkeypatch.setattr(sys.stdout, "isatty", lambda: True)
    assert run("predict", kept, path)[1].splitlines()[1].startswith("\\x1b[2J,")


def test_safe_csv_is_no_formula_anywhere(run, kept, data, tmp_path):
    path, out_file = tmp_path / "a.csv", tmp_path / "out.csv"
    pl.read_csv(data).with_columns(unique_id="=" + pl.col("unique_id")).write_csv(path)
    assert run("predict", kept, path)[1].splitlines()[1].startswith("=a,")
    assert run("predict", kept, path, "--safe-csv")[1].splitlines()[1].startswith("'=a,")
    assert run("predict", kept, path, "--safe-csv", "--out", out_file) == (0, "", "")
    assert pl.read_csv(out_file)["unique_id"].unique().sort().to_list() == ["'=a", "'=b"]


def test_a_forecast_of_a_table_that_is_written_otherwise(run, kept, data, tmp_path):
    """The same rows, months first and with a decimal comma: days up to the 12th fit two orders."""
    path = tmp_path / "a.csv"
    frame = pl.read_csv(data, try_parse_dates=True).with_columns(pl.col("ds").dt.strftime("%m/%d/%Y %H:%M"))
    frame.with_columns(pl.col("y").cast(pl.String).str.replace(".", ",", literal=True)).write_csv(path, separator=";")
    code, out, err = run("predict", kept, path)
    assert (code, out) == (1, "")
    assert '--date-format "%m/%d/%Y"' in four_parts(err)[0][3]
    assert run("predict", kept, path, "--date-format", "%m/%d/%Y") == run("predict", kept, data)


def test_a_table_comes_from_standard_input(run, data, monkeypatch):
    monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO(data.read_bytes())))
    assert run("check", "-", "--horizon", 4) == run("check", data, "--horizon", 4)


# ---------------------------------------------------------------- options


@pytest.mark.parametrize("command", ["fit", "backtest"])
def test_the_help_lists_every_kind_of_clip_rule(run, command):
    assert cli_options.OPTIONS["clip"][1].startswith(f"{EXAMPLES}; ")
    out = re.sub(r"[\s\u2502]+", " ", run(command, "--help")[1])
    for kind in KINDS:
        assert re.search(rf"[ ,]{kind.example}[,;]", out)


@pytest.mark.parametrize("kind", [kind for kind in KINDS if kind.name != "norm"], ids=lambda kind: kind.name)
def test_every_kind_of_clip_rule_fits(run, data, kind):
    code, _, err = run("fit", data, *FIT, "--max-steps", 30, "--clip", f"recurrent={kind.example},cap=norm:5")
    assert code == 0
    assert re.search(r"^step 30/30 .* clip \d+ %", err, re.MULTILINE)


def test_auto_says_what_it_chose_while_it_trains_and_at_the_end(run, data, tmp_path):
    steps = ClipAuto().steps + 20
    code, out, err = run("fit", data, *FIT, "--max-steps", steps, "--clip", "auto", "--out", tmp_path / "run")
    assert code == 0
    roles = "input, recurrent, bias, head, other"
    said = rf"clip auto chose a norm of \S+ over {roles} at step \d+, and expects to clip 10 % of"
    assert len(re.findall(rf"^{said}", err, re.MULTILINE)) == 1
    assert len(re.findall(rf"^{said}.*; it clipped \S+ % of those that came after$", out, re.MULTILINE)) == 1
    kept = Forecaster.load(tmp_path / "run").summary()
    assert kept in out


@pytest.mark.parametrize(
    ("clip", "optimizer", "words"),
    [
        ("norm:1e-6", "adamw", r"AdamW do not depend on the scale of the gradient.* --clip norm:\S+$"),
        ("norm:1e-6", "sgd", r"Under SGD .*0.05 \(learning rate\) x 1e-06 = 5e-08.* --clip norm:\S+$"),
        (
            "norm:1e6",
            "sgd",
            r"never cut a gradient.* harmless.* 1 %: --clip norm:\S+, the largest 10 %: --clip norm:\S+$",
        ),
    ],
)
def test_a_bound_that_binds_always_or_never_ends_with_advice_that_can_be_typed(run, data, clip, optimizer, words):
    fit = ["fit", data, *FIT, "--max-steps", 110, "--optimizer", optimizer]
    code, out, err = run(*fit, "--clip", clip)
    assert code == 0
    (line,) = re.findall(rf"^clip {clip} .*", out, re.MULTILINE)
    assert re.search(words, line)
    share = 0 if clip == "norm:1e6" else 100
    assert re.search(rf"^step 110/110 .* clip {share} %", err, re.MULTILINE)
    offered = line.split()[-1]
    code, out, _ = run(*fit, "--clip", offered)
    assert code == 0
    assert "cut the gradient" not in out and "never cut" not in out


def test_the_clip_fraction_of_the_progress_line_is_that_of_the_telemetry(run, data, tmp_path):
    _, _, err = run("fit", data, *FIT, "--max-steps", 40, "--clip", "norm:0.2", "--out", tmp_path / "run")
    lines = [json.loads(line) for line in (tmp_path / "run" / "telemetry.jsonl").read_text().splitlines()]
    clipped = [line["clipped"] for line in lines if line["kind"] == "step"]
    shown = re.findall(r"^step (\d+)/40 .* clip (\d+) %", err, re.MULTILINE)
    assert len(shown) >= 10 and 0 < sum(clipped) < 40
    for step, percent in shown:
        assert float(percent) == pytest.approx(100 * sum(clipped[: int(step)]) / int(step), abs=0.5)
    assert json.loads((tmp_path / "run" / "metrics.json").read_text())["clip_fraction"] == sum(clipped) / 40


@pytest.mark.parametrize(
    ("words", "where"),
    [
        (["--clip", "recurrent=norm:1", "--clip-roles", "recurrent"], "option clip_roles"),
        (["--clip", "hidden=norm:1"], "clip option"),
        (["--clip", "embedding=norm:1"], "roles of a GradientGuard"),
        (["--clip-roles", "embedding"], "roles of a GradientGuard"),
    ],
)
def test_clip_options_that_cannot_work_write_nothing(run, data, tmp_path, words, where):
    code, _, err = run("fit", data, *FIT, *words, "--out", tmp_path / "run")
    assert code == 1
    assert four_parts(err)[0][0] == where
    assert not (tmp_path / "run").exists()


OPTIONS = {
    "preset": ("best", "best"),
    "horizon": ("7", 7),
    "season_length": ("24,168", (24, 168)),
    "context_length": ("30", 30),
    "cell": ("gru", "gru"),
    "init": ("chrono", "chrono"),
    "constraint": ("cap:0.5", "cap:0.5"),
    "hidden_size": ("9", 9),
    "layers": ("2", 2),
    "segment": ("3", 3),
    "dropout": ("0.5", 0.5),
    "head": ("sigmoid", "sigmoid"),
    "levels": ("50,99.5", (50, 99.5)),
    "allow_negative": (None, True),
    "bounds": ("-1,2.5", (-1, 2.5)),
    "clip": ("value:0.5,cap=norm:1", "value:0.5,cap=norm:1"),
    "clip_roles": ("head, recurrent", ("head", "recurrent")),
    "penalty": ("floss:0.5", "floss:0.5"),
    "optimizer": ("sgd", "sgd"),
    "lr": ("0.25", 0.25),
    "batch_size": ("33", 33),
    "max_steps": ("44", 44),
    "time_budget": ("2m", 120),
    "seed": ("5", 5),
    "id_col": ("shop", "shop"),
    "time_col": ("day", "day"),
    "target_col": ("sold", "sold"),
    "freq": ("1h", "1h"),
    "static": ("a,b", ("a", "b")),
    "future": ("c", ("c",)),
    "past": ("d,e,", ("d", "e")),
    "fill_gaps": (None, True),
    "wide": (None, True),
    "snap": (None, True),
    "tz": ("Europe/Vienna", "Europe/Vienna"),
    "sep": ("\\t", "\t"),
    "decimal": (",", ","),
    "thousands": (".", "."),
    "date_format": ("%d.%m.%Y", "%d.%m.%Y"),
    "encoding": ("latin-1", "latin-1"),
    "max_rows": ("5000", 5000),
}


@pytest.mark.parametrize("command", ["fit", "backtest", "check"])
def test_every_option_reaches_the_configuration(run, monkeypatch, command):
    kind = TableOptions if command == "check" else Config
    names = [field.name for field in fields(kind) if field.init]
    assert sorted(OPTIONS) == sorted(field.name for field in fields(Config) if field.init)
    alone = {"wide"}  # goes with no covariates
    given = {name: OPTIONS[name] for name in OPTIONS if name in names and name not in alone}
    got = []

    class Reached(Exception):
        pass

    def take(*arguments, **options):
        got.extend(argument for argument in arguments if isinstance(argument, TableOptions))
        raise Reached

    for place in ("forecasting.runs.fit_file", "forecasting.runs.backtest_file", "series.describe_table"):
        monkeypatch.setattr(f"holdfast.{place}", take)
    words = [("--" + name.replace("_", "-"), text) for name, (text, _) in given.items()]
    flat = [word for pair in words for word in pair if word is not None]
    with pytest.raises(Reached):
        run(command, "x.csv", *flat)
    with pytest.raises(Reached):
        run(command, "x.csv", "--wide")
    assert got == [kind(**{name: value for name, (_, value) in given.items()}), kind(wide=True)]


def test_without_options_the_configuration_is_the_usual_one(run, monkeypatch):
    got = []
    monkeypatch.setattr("holdfast.series.describe_table", lambda data, options: got.append(options) or [])
    run("check", "x.csv")
    assert got == [TableOptions()]


@pytest.mark.parametrize(("text", "seconds"), [("120s", 120), ("2m", 120), ("1h", 3600), ("90", 90), ("1.5m", 90)])
def test_times_have_units(text, seconds):
    assert cli_options._seconds(text) == seconds


# ---------------------------------------------------------------- commands


def test_check_describes_good_data(run, data):
    code, out, _ = run("check", data, "--horizon", 4)
    assert code == 0
    for words in (
        "2 series, 120 rows; 60 to 60 rows per series",
        "frequency 1h",
        "missing values: 0",
        "season 24",
        "OK: ready to fit",
    ):
        assert words in out
    code, out, _ = run("check", data, "--horizon", 4, "--season-length", "6")
    assert "season 6: given" in out


def test_check_tells_all_that_is_wrong(run, tmp_path):
    rows = ["unique_id,ds,y,price", "a,2024-01-01,1,2", "a,2024-01-01,x,2", ",2024-01-02,3,", "a,2024-13-01,4,5"]
    path = tmp_path / "bad.csv"
    path.write_text("\n".join(rows) + "\n")
    code, out, err = run("check", path, "--future", "price")
    assert (code, out) == (1, "")
    told = " ".join(" ".join(problem) for problem in four_parts(err))
    for words in ("'x' in line 3", "line 4", "'2024-13-01' in line 5", "'price'"):
        assert words in told
    assert len(four_parts(err)) >= 4


@pytest.mark.parametrize(
    "spoil",
    [
        lambda text: text.replace(b"\n", b"\r\n"),
        lambda text: b"\xef\xbb\xbf" + text,
        lambda text: b"\xef\xbb\xbf" + text.replace(b"\n", b"\r\n").rstrip(),
    ],
)
def test_files_from_windows_are_read_as_any_other(run, data, tmp_path, spoil):
    path = tmp_path / "windows.csv"
    path.write_bytes(spoil(data.read_bytes()))
    assert run("check", path, "--horizon", 4) == run("check", data, "--horizon", 4)


def test_fit_prints_scores_and_skill_and_keeps_the_run(run, data, kept, tmp_path):
    code, out, err = run("fit", data, *FIT)
    assert code == 0
    for words in ("MASE", "sMAPE, %", "RMSE", "coverage of 80 %", "season 6: given", "skill"):
        assert words in out
    assert "nothing will be kept" in err
    assert re.search(r"^step 5/5 ", err, re.MULTILINE)
    scores = json.loads((kept / "metrics.json").read_text())["scores"]
    assert f"{scores['mase']['holdfast']:.3f}" in out
    assert f"{scores['mase']['seasonal_naive']:.3f}" in out
    for title, name in (("scaled CRPS (mean per series)", "scaled_crps"), ("WQL (all points together)", "wql")):
        (line,) = (line for line in out.splitlines() if title in line)
        assert f" {scores[name]['holdfast']:.3f} " in line


def test_predict_prints_csv_and_nothing_else(run, kept):
    code, out, err = run("predict", kept)
    assert (code, err) == (0, "")
    printed = pl.read_csv(io.StringIO(out), try_parse_dates=True)
    assert printed.columns[:3] == ["unique_id", "ds", "holdfast"]
    assert printed.height == 2 * HORIZON
    expected = pl.read_parquet(kept / "forecast.parquet")
    assert printed["ds"].to_list() == expected["ds"].to_list()
    assert printed["holdfast"].to_list() == expected["holdfast"].to_list()


def test_predict_forecasts_other_levels_and_those_of_the_fit_unchanged(run, kept):
    code, out, err = run("predict", kept, "--levels", "50,80,99")
    assert (code, err) == (0, "")
    printed, expected = pl.read_csv(io.StringIO(out)), pl.read_parquet(kept / "forecast.parquet")
    borders = [f"holdfast-lo-{level}" for level in (99, 80, 50)] + [f"holdfast-hi-{level}" for level in (50, 80, 99)]
    assert printed.columns[3:] == borders
    assert all(list(row) == sorted(set(row)) for row in printed.select(borders).rows())
    for name in ("holdfast", "holdfast-lo-80", "holdfast-hi-80"):
        assert printed[name].to_list() == expected[name].to_list()


def test_predict_writes_csv_and_parquet(run, kept, data, tmp_path):
    _, printed, _ = run("predict", kept)
    for name in ("forecast.csv", "forecast.parquet"):
        assert run("predict", kept, data, "--out", tmp_path / name) == (0, "", "")
    assert (tmp_path / "forecast.csv").read_text() == printed
    assert pl.read_parquet(tmp_path / "forecast.parquet").equals(pl.read_parquet(kept / "forecast.parquet"))


def test_covariates_and_own_columns_from_the_shell(run, tmp_path):
    names = {"unique_id": "shop", "ds": "day", "y": "sold"}
    frame = table().with_columns(sale=pl.col("ds") % 2, region=pl.lit("north")).rename(names)
    frame.write_csv(tmp_path / "sales.csv")
    ahead = frame.select("shop", pl.col("day") + 60, "sale").filter(pl.col("day") < 64)
    ahead.write_parquet(tmp_path / "ahead.parquet")
    columns = [
        "--id-col",
        "shop",
        "--time-col",
        "day",
        "--target-col",
        "sold",
        "--future",
        "sale",
        "--static",
        "region",
    ]
    out_dir = tmp_path / "run"
    assert run("fit", tmp_path / "sales.csv", *FIT, *columns, "--out", out_dir)[0] == 0
    code, _, err = run("predict", out_dir)
    assert code == 1
    assert "--future-data" in four_parts(err)[0][3]
    code, out, _ = run("predict", out_dir, "--future-data", tmp_path / "ahead.parquet")
    assert code == 0
    assert out.splitlines()[0].startswith("shop,day,holdfast,")
    assert out.count("\n") == 1 + 2 * HORIZON


def test_gaps_are_filled_from_the_shell(run, tmp_path):
    table().filter(pl.col("ds") != 7).write_csv(tmp_path / "a.csv")
    code, _, err = run("check", tmp_path / "a.csv", "--horizon", 4)
    assert code == 1
    assert "--fill-gaps" in err
    code, out, _ = run("check", tmp_path / "a.csv", "--horizon", 4, "--fill-gaps")
    assert code == 0
    assert "missing values: 2" in out


def test_backtest_prints_the_means_of_what_it_writes(run, data, tmp_path):
    path = tmp_path / "scores.csv"
    code, out, _ = run("backtest", data, *FIT, "--windows", 2, "--out", path)
    assert code == 0
    scores = pl.read_csv(path)
    assert scores.columns == ["unique_id", "cutoff", "metric", "holdfast", "seasonal_naive"]
    assert scores.select("unique_id", "cutoff").n_unique() == 4
    for metric, pair in mean_scores(scores).items():
        assert f"{pair['holdfast']:.3f}" in out, metric


def test_diagnose_says_a_verdict_first_and_gives_all_numbers_as_json(run, kept, data, tmp_path):
    code, out, _ = run("diagnose", kept)
    assert code == 0
    assert out.startswith(("Healthy", "Vanishing", "Exploding", "The season"))
    assert "dL/dh recurrent.l0" in out
    code, text, _ = run("diagnose", kept, "--json")
    assert code == 0
    assert out.startswith(json.loads(text)["verdict"])
    code, other, _ = run("diagnose", kept, "--data", data, "--picture", tmp_path / "flow.svg")
    assert (code, other) == (0, out)
    drawn = (tmp_path / "flow.svg").read_text()
    assert "How far back the loss reaches" in drawn or "<svg" in drawn


def test_resume_goes_on_with_a_complete_run(run, data, tmp_path):
    out_dir = tmp_path / "run"
    run("fit", data, *FIT, "--out", out_dir)
    assert run("resume", out_dir)[0] == 0
    code, out, _ = run("resume", out_dir, "--max-steps", 9)
    assert code == 0
    assert "MASE" in out
    assert json.loads((out_dir / "metrics.json").read_text())["steps"] == 9


def test_demo_prints_its_scores_and_where_the_picture_is(run, monkeypatch, tmp_path):
    def pretend(out, *, show, say):
        say("a [story]")
        return DemoResult(
            {"mase": {"holdfast": 0.5, "seasonal_naive": 1.0}}, 0.5, "seasonal naive 24", out / "forecast.png"
        )

    monkeypatch.setattr("holdfast.forecasting.demo.run_demo", pretend)
    code, out, err = run("demo", "--out", tmp_path)
    assert code == 0
    assert re.search(r"MASE \W+ 0\.500 \W+ 1\.000", out)
    assert out.splitlines()[-1] == f"picture: {tmp_path / 'forecast.png'}"
    assert "a [story]" in err


# ---------------------------------------------------------------- killed and interrupted

LONG = ["--horizon", "4", *SIZES, "--max-steps", "180"]


def start(*words):
    """A command line in a process of its own."""
    code = "from tests import jitter; jitter.follow(); from holdfast.cli import main; main()"
    command = [sys.executable, "-c", code, *map(str, words)]
    return subprocess.Popen(command, cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)


def wait_for(process, path):
    while not path.exists():
        assert process.poll() is None, process.communicate()
        time.sleep(0.005)


@pytest.fixture(scope="module")
def uninterrupted(data, tmp_path_factory):
    path = tmp_path_factory.mktemp("long") / "run"
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(sys, "argv", ["holdfast", "fit", str(data), *LONG, "--out", str(path)])
        with pytest.raises(SystemExit):
            cli.main()
    return path


def test_a_killed_run_is_resumed_to_the_same_bits(run, data, uninterrupted, tmp_path):
    out_dir = tmp_path / "run"
    process = start("fit", data, *LONG, "--out", out_dir)
    wait_for(process, out_dir / "checkpoint" / "state.safetensors")
    time.sleep(random.uniform(0, 0.15))
    os.kill(process.pid, signal.SIGKILL)
    process.communicate()
    assert not (out_dir / "model.safetensors").exists()
    assert run("resume", out_dir)[0] == 0
    assert (out_dir / "model.safetensors").read_bytes() == (uninterrupted / "model.safetensors").read_bytes()


def test_ctrl_c_exits_130_and_says_how_to_go_on(run, data, uninterrupted, tmp_path):
    out_dir = tmp_path / "my run"
    process = start("fit", data, *LONG, "--out", out_dir)
    wait_for(process, out_dir / "telemetry.jsonl")
    while (out_dir / "telemetry.jsonl").stat().st_size < 5_000:
        time.sleep(0.005)
    process.send_signal(signal.SIGINT)
    out, err = process.communicate(timeout=30)
    assert process.returncode == 130
    assert out == ""
    assert "Traceback" not in err
    assert err.splitlines()[-1] == f"stopped. saved; go on with: holdfast resume '{out_dir}'"
    assert run("resume", out_dir)[0] == 0
    assert (out_dir / "model.safetensors").read_bytes() == (uninterrupted / "model.safetensors").read_bytes()


@pytest.mark.parametrize(
    ("words", "started", "said"),
    [
        (["fit", "{data}"], False, "nothing was kept: there was no --out"),
        (["fit", "{data}", "--out", "{run}"], False, "nothing was kept: training had not begun"),
        (["resume", "{run}"], True, "saved; go on with: holdfast resume {run}"),
        (["resume", "{run}", "--max-steps", "9"], True, "saved; go on with: holdfast resume {run} --max-steps 9"),
    ],
)
def test_an_interruption_says_what_is_true(run, data, tmp_path, monkeypatch, words, started, said):
    def interrupt(*arguments, **options):
        raise KeyboardInterrupt

    monkeypatch.setattr("holdfast.forecasting.runs.fit_file", interrupt)
    monkeypatch.setattr("holdfast.forecasting.Forecaster.resume", interrupt)
    out_dir = tmp_path / "run"
    if started:
        out_dir.mkdir()
        (out_dir / "manifest.json").write_text("{}")
    code, out, err = run(*[word.format(data=data, run=out_dir) for word in words])
    assert (code, out) == (130, "")
    assert err.splitlines()[-1] == f"stopped. {said.format(run=out_dir)}"


@pytest.mark.parametrize("command", [["backtest", "x.csv"], ["check", "x.csv"]])
def test_ctrl_c_anywhere_else_exits_130_as_well(run, monkeypatch, command):
    def interrupt(*arguments, **options):
        raise KeyboardInterrupt

    for place in ("forecasting.runs.backtest_file", "series.describe_table"):
        monkeypatch.setattr(f"holdfast.{place}", interrupt)
    assert run(*command)[0] == 130
