"""One command per verb, no logic."""

from __future__ import annotations

import inspect
import sys
from collections.abc import Callable
from functools import wraps
from pathlib import Path
from shlex import quote
from typing import Annotated, Any, get_type_hints

import typer
from rich.console import Console
from rich.table import Table

from holdfast import __version__
from holdfast.errors import HoldfastError, OptionError, Problem, printable

app = typer.Typer(
    name="holdfast",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    rich_markup_mode="markdown",
)
out, err = Console(), Console(stderr=True)

DataPath = Annotated[
    Path,
    typer.Argument(
        metavar="DATA",
        help="Table with unique_id, ds, y: CSV, Parquet, Excel, ... or - for standard input.",
        show_default=False,
    ),
]
RunPath = Annotated[Path, typer.Argument(metavar="RUN", help="Directory of a fit.", show_default=False)]
SafeCsv = Annotated[bool, typer.Option("--safe-csv", help="Write text that no spreadsheet runs as a formula.")]
MaxSteps = Annotated[int | None, typer.Option(help="Optimiser steps in all; otherwise as planned.", min=0)]

# Every option of a fit: the type that the shell hands over, and what it says. Names and defaults are those of Config.
_OPTIONS: dict[str, tuple[type, str]] = {
    "preset": (
        str,
        "default (one network) or best (six of different contexts and cells, whose quantiles are averaged). "
        "[default: default]",
    ),
    "horizon": (int, "Steps to forecast. [default: the usual number for the frequency]"),
    "season_length": (
        str,
        "Steps in one season, or several (24,168); more are looked for; or none. [default: by frequency]",
    ),
    "context_length": (int, "Past steps fed. [default: two of the longest season]"),
    "cell": (str, "lstm, gru, rnn-tanh, rnn-relu, rnn-sigmoid or rnn-linear. [default: lstm]"),
    "init": (str, "orthogonal, identity, critical, chrono, uniform or radius:0.9. [default: orthogonal]"),
    "constraint": (
        str,
        "Of recurrent matrices while training: none, orthogonal, cap:1 (spectral norm). [default: none]",
    ),
    "hidden_size": (int, "Units per recurrent layer. [default: 128]"),
    "layers": (int, "Recurrent layers. [default: 1]"),
    "segment": (int, "Steps fed as one recurrent step. [default: one season where it fits]"),
    "dropout": (float, "Share of hidden values dropped while training. [default: 0.4]"),
    "head": (str, "quantile, gaussian, student-t, negative-binomial (counts) or sigmoid. [default: quantile]"),
    "levels": (str, "Prediction intervals in percent. [default: 80,95]"),
    "bounds": (str, "Bounds of the target, for the sigmoid head. [default: 0,1]"),
    "clip": (
        str,
        # the kinds of rules as holdfast.gradients.parse lists them; to import them would load torch for a --help
        "none, norm:1.0, tensor:1.0, value:0.5, rms:0.1, agc:0.01, percentile:90, zscore:2.5, median:3, auto; by role: "
        "recurrent=norm:1,head=none; last of all a bound on everything: norm:1,cap=norm:5. [default: norm:1.0]",
    ),
    "clip_roles": (
        str,
        "Whose gradients one rule is over: input, recurrent, bias, head, other; or all. [default: all]",
    ),
    "penalty": (
        str,
        "Added to the loss to keep gradients flowing through time: omega:STRENGTH (adjoints that keep their norm) or "
        "floss:STRENGTH (Lyapunov exponents near zero), about 0.1. [default: none]",
    ),
    "optimizer": (str, "adamw or sgd. [default: adamw]"),
    "lr": (float, "Peak learning rate. [default: 0.002 for adamw, 0.05 for sgd]"),
    "batch_size": (int, "Windows per step. [default: 128]"),
    "max_steps": (int, "Most optimiser steps of each network. [default: 1200]"),
    "time_budget": (str, "Most time for training, of all networks: 120s, 2m, 1h. [default: no limit]"),
    "seed": (int, "Of weights, windows and dropout. [default: 0]"),
    "id_col": (str, "Column that tells series apart, or several: store,item. [default: unique_id]"),
    "time_col": (str, "Column of the timestamps. [default: ds]"),
    "target_col": (str, "Column to forecast. [default: y]"),
    "freq": (str, "Calendar step: 1h, D, MS, ...; rows: each row is one step. [default: read off the timestamps]"),
    "static": (str, "Columns that are constant within a series: a,b."),
    "future": (str, "Columns that are known ahead: c,d."),
    "past": (str, "Columns that are known up to now: e,f."),
    "fill_gaps": (bool, "Insert the rows that are missing, with a missing value."),
    "wide": (bool, "The table has one column per series, instead of an id column."),
    "snap": (bool, "Round timestamps to the nearest step of the grid."),
    "tz": (str, "Time zone of local timestamps: Europe/Vienna. [default: none]"),
    "sep": (str, "Character between fields. [default: detected]"),
    "decimal": (str, "Decimal mark, . or a comma. [default: detected]"),
    "thousands": (str, "Thousands separator. [default: detected]"),
    "date_format": (str, "Format of the timestamps: %d.%m.%Y. [default: detected]"),
    "encoding": (str, "Encoding of a text file. [default: UTF-8]"),
    "max_rows": (int, "Largest number of rows to read. [default: 100000000, less of packed files]"),
}
# Those of TableOptions: all that a command needs which reads a table and trains nothing.
_TABLE_OPTIONS = ("horizon", "season_length", *list(_OPTIONS)[list(_OPTIONS).index("id_col") :])
_TEXT_OPTIONS = _TABLE_OPTIONS[_TABLE_OPTIONS.index("sep") :]  # how one more table is written, unlike that of the fit


def takes_options(*names: str, table_only: bool = False) -> Callable[[Callable[..., None]], Callable[..., None]]:
    """Give a command these options of `Config` after its own parameters; it receives them as one `config`.

    Options of a table alone become `TableOptions`, which need no torch.
    """

    def decorate(command: Callable[..., None]) -> Callable[..., None]:
        hints = get_type_hints(command, include_extras=True)
        own = [
            parameter.replace(annotation=hints[parameter.name])
            for parameter in inspect.signature(command).parameters.values()
            if parameter.name != "config"
        ]
        options = [_parameter(name) for name in names]

        @wraps(command)
        def run(**given: Any) -> None:
            texts = {name: given.pop(name) for name in names}
            command(config=_options(texts, table_only=table_only), **given)

        parameters = [parameter.replace(kind=inspect.Parameter.KEYWORD_ONLY) for parameter in [*own, *options]]
        run.__signature__ = inspect.Signature(parameters)  # type: ignore[attr-defined]
        run.__annotations__ = {parameter.name: parameter.annotation for parameter in parameters}
        return run

    return decorate


def _parameter(name: str) -> inspect.Parameter:
    kind, text = _OPTIONS[name]
    flag, default = "--" + name.replace("_", "-"), False if kind is bool else None
    annotation = Annotated[kind if kind is bool else kind | None, typer.Option(flag, help=text, show_default=False)]  # type: ignore[valid-type]
    return inspect.Parameter(name, inspect.Parameter.KEYWORD_ONLY, default=default, annotation=annotation)


def _options(texts: dict[str, Any], *, table_only: bool) -> Any:
    from holdfast.series import TableOptions

    parsers: dict[str, Callable[[str], Any]] = {
        "season_length": lambda text: text if text == "none" else _several("season-length", text, int),
        "levels": lambda text: _several("levels", text, float),
        "bounds": lambda text: _several("bounds", text, float),
        "time_budget": _seconds,
        "sep": lambda text: text.replace("\\t", "\t"),
        **dict.fromkeys(("id_col", "clip_roles", "static", "future", "past"), _names),
    }
    given = {name: text for name, text in texts.items() if text is not None}
    values = {name: parsers[name](text) if name in parsers else text for name, text in given.items()}
    if table_only:
        return TableOptions(**values)
    from holdfast.forecasting import Config

    return Config(**values)


def _names(text: str) -> tuple[str, ...]:
    return tuple(name.strip() for name in text.split(",") if name.strip())


def _several(option: str, text: str, kind: type) -> tuple[Any, ...]:
    try:
        return tuple(kind(part) for part in text.split(","))
    except ValueError as error:
        problem = Problem(f"option --{option}", "numbers with commas between", repr(text), f"give --{option} 24,168")
        raise OptionError(problem) from error


def _seconds(text: str) -> float:
    units = {"s": 1, "m": 60, "h": 3600}
    number, unit = (text[:-1], units[text[-1]]) if text[-1:] in units else (text, 1)
    try:
        return float(number) * unit
    except ValueError as error:
        problem = Problem("option --time-budget", "a time such as 120s, 2m or 1h", repr(text), "give --time-budget 2m")
        raise OptionError(problem) from error


def _version(asked: bool) -> None:
    if asked:
        _say(out, f"holdfast {__version__}")
        raise typer.Exit


@app.callback()
def root(
    version: Annotated[
        bool, typer.Option("--version", callback=_version, is_eager=True, help="Print the version, and no more.")
    ] = False,
) -> None:
    """Recurrent forecasters that do not blow up: a table of time series in, a probabilistic forecast out."""


@app.command(epilog="Example: `holdfast demo --out demo`")
def demo(
    out_dir: Annotated[Path | None, typer.Option("--out", help="Folder for the picture. [default: a new one]")] = None,
) -> None:
    """Fit, score and forecast the bundled M4 Hourly series, with a picture; about a minute, no network."""
    from holdfast.forecasting.demo import run_demo
    from holdfast.telemetry import ProgressLine

    with ProgressLine(err) as show:
        result = run_demo(out_dir, show=show, say=lambda line: _say(err, line))
    _print_scores(result.scores)
    _say(out, f"picture: {result.picture}")


@app.command(epilog="Example: `holdfast check sales.csv --id-col shop --time-col day --target-col sold`")
@takes_options(*_TABLE_OPTIONS, table_only=True)
def check(data: DataPath, config: Any) -> None:
    """Validate a table: report every problem, or summarise its contents."""
    from holdfast.series import describe_table

    for line in describe_table(data, config):
        _say(out, line)


@app.command(epilog="Example: `holdfast fit sales.csv --horizon 48 --season-length 24 --out run`")
@takes_options(*_OPTIONS)
def fit(
    data: DataPath,
    config: Any,
    out_dir: Annotated[Path | None, typer.Option("--out", help="New run directory. [default: keep nothing]")] = None,
) -> None:
    """Train a forecaster on a table, and score it beside seasonal naive."""
    from holdfast.forecasting.runs import fit_file

    if out_dir is None:
        _say(err, "nothing will be kept: give --out RUN to keep the model")
    _train(lambda show: fit_file(config, data, out_dir, show=show), out_dir, f"holdfast resume {quote(str(out_dir))}")


@app.command(epilog="Example: `holdfast resume run --max-steps 2000`")
def resume(run: RunPath, max_steps: MaxSteps = None) -> None:
    """Go on with a fit that was stopped, to the same result to the bit; or train longer."""
    from holdfast.forecasting import Forecaster

    further = f" --max-steps {max_steps}" if max_steps is not None else ""
    go_on = f"holdfast resume {quote(str(run))}{further}"
    _train(lambda show: Forecaster.resume(run, max_steps=max_steps, show=show), run, go_on)


@app.command(epilog="Example: `holdfast predict run --out forecast.csv`")
@takes_options(*_TEXT_OPTIONS, table_only=True)
def predict(
    run: RunPath,
    config: Any,
    data: Annotated[
        Path | None, typer.Argument(metavar="[DATA]", help="Newer or other series. [default: those of the fit]")
    ] = None,
    out_file: Annotated[
        Path | None, typer.Option("--out", help="forecast.csv or .parquet. [default: print it]")
    ] = None,
    future_data: Annotated[Path | None, typer.Option(help="Table of future covariates over the horizon.")] = None,
    safe_csv: SafeCsv = False,
) -> None:
    """Forecast the next steps of every series."""
    from holdfast.forecasting.runs import predict_run
    from holdfast.series import csv_text

    table = predict_run(run, data, future_data, out_file, written=config, safe=safe_csv)
    if out_file is None:
        text = csv_text(table, safe=safe_csv)
        sys.stdout.write(printable(text, keep="\n") if sys.stdout.isatty() else text)


@app.command(epilog="Example: `holdfast backtest sales.csv --horizon 48 --windows 3 --out scores.csv`")
@takes_options(*_OPTIONS)
def backtest(
    data: DataPath,
    config: Any,
    windows: Annotated[int, typer.Option(help="Windows of one horizon each, at the end of every series.")] = 3,
    out_file: Annotated[
        Path | None, typer.Option("--out", help="Scores per series and cutoff, .csv or .parquet.")
    ] = None,
    safe_csv: SafeCsv = False,
) -> None:
    """Train before the last windows of a table, forecast each of them, and score beside seasonal naive."""
    from holdfast.forecasting.runs import backtest_file
    from holdfast.telemetry import ProgressLine

    with ProgressLine(err) as show:
        scores = backtest_file(config, data, windows, out_file, show=show, safe=safe_csv)
    _print_scores(scores)


@app.command(epilog="Example: `holdfast diagnose run`")
def diagnose(
    run: RunPath,
    data: Annotated[
        Path | None, typer.Option("--data", help="Newer or other series. [default: those of the fit]")
    ] = None,
    picture: Annotated[Path | None, typer.Option(help="flow.png or .svg: adjoints and eigenvalues.")] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print verdict and all numbers as JSON.")] = False,
) -> None:
    """Say whether gradients explode or vanish in a run, why, and the option that helps; also where it broke down."""
    from holdfast.forecasting.runs import diagnose_run

    found = diagnose_run(run, data, picture)
    if as_json:
        sys.stdout.write(found.to_json() + "\n")
    else:
        _say(out, str(found))


@app.command(epilog="Example: `holdfast study clip-scope --full --out study`")
@takes_options(*_TABLE_OPTIONS)
def study(
    name: Annotated[str, typer.Argument(metavar="NAME", help="Which study; list shows them.", show_default=False)],
    config: Any,
    data: Annotated[
        Path | None, typer.Option(help="Your own series, for clip-scope and threshold: ends with the option to use.")
    ] = None,
    out_dir: Annotated[
        Path | None, typer.Option("--out", help="Directory of the results: new, or of this study. [default: a new one]")
    ] = None,
    full: Annotated[bool, typer.Option("--full/--quick", help="The whole grid, or a sketch of it.")] = False,
) -> None:
    """Measure what people say about clipping and the flow of gradients; goes on where it was stopped."""
    from rich.progress import Progress as Bar

    from holdfast.studies.run import run_study, study_lines, study_place

    if name == "list":
        for line in study_lines():
            _say(out, line)
        return
    place = study_place(name, out_dir)
    with Bar(console=err, transient=True) as bar:
        task = bar.add_task(name, total=None)
        result = run_study(
            name,
            place,
            full=full,
            data=data,
            config=config,
            show=lambda done, total: bar.update(task, completed=done, total=total),
            say=lambda line: _say(err, line),
        )
    _say(out, result.words)
    _say(out, f"rows, tables and study.html: {place}")


def _train(run: Callable[[Any], Any], kept: Path | None, go_on: str) -> None:
    from holdfast.telemetry import ProgressLine

    try:
        with ProgressLine(err) as show:
            forecaster = run(show)
    except KeyboardInterrupt:
        started = kept is not None and (kept / "manifest.json").is_file()
        nothing = "training had not begun" if kept else "there was no --out"
        said = f"saved; go on with: {go_on}" if started else f"nothing was kept: {nothing}"
        _say(err, f"stopped. {said}")
        raise typer.Exit(130) from None
    scores = forecaster.fitted.metrics.get("scores", {})
    _print_scores(scores)
    _say(out, forecaster.summary())
    if scores:
        _say(out, "that horizon also chose the weights; for scores on windows that did not: holdfast backtest")


_SCORE_TITLES = {"mase": "MASE", "smape": "sMAPE, %", "rmse": "RMSE", "scaled_crps": "scaled CRPS"}


def _print_scores(scores: dict[str, dict[str, float]]) -> None:
    if not scores:
        return
    table = Table("score", "holdfast", "seasonal naive")
    for column in table.columns[1:]:
        column.justify = "right"
    for name, pair in scores.items():
        title = _SCORE_TITLES.get(name) or f"coverage of {name.removeprefix('coverage_level')} %"
        cells = [f"{pair[model]:.3f}" if model in pair else "" for model in ("holdfast", "seasonal_naive")]
        table.add_row(title, *cells)
    out.print(table)


def _say(console: Console, text: str) -> None:
    console.print(printable(text, keep="\n"), highlight=False, soft_wrap=True, markup=False)


def main() -> None:
    """Run the command line: exit 0 good, 1 the user's data or options, 2 usage, 3 a run that failed."""
    try:
        app()
    except HoldfastError as error:
        for problem in error.problems:
            _say(err, f"Error: {problem}")
        raise SystemExit(error.exit_code) from None
