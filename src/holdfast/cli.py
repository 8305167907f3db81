"""One command per verb, no logic."""

from __future__ import annotations

import sys
import warnings
from collections.abc import Callable
from pathlib import Path
from shlex import quote
from typing import Annotated, Any

import typer
from rich.console import Console
from rich.table import Table

from holdfast import __version__
from holdfast.cli_options import OPTIONS, TABLE_OPTIONS, TEXT_OPTIONS, parse_levels, takes_options
from holdfast.errors import DataWarning, HoldfastError, printable

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
    _print_scores(result.scores, result.baseline)
    _say(out, f"picture: {result.picture}")


@app.command(epilog="Example: `holdfast check sales.csv --id-col shop --time-col day --target-col sold`")
@takes_options(*TABLE_OPTIONS, table_only=True)
def check(data: DataPath, config: Any) -> None:
    """Validate a table: report every problem, or summarise its contents."""
    from holdfast.series import describe_table

    for line in describe_table(data, config):
        _say(out, line)


@app.command(epilog="Example: `holdfast fit sales.csv --horizon 48 --season-length 24 --out run`")
@takes_options(*OPTIONS)
def fit(
    data: DataPath,
    config: Any,
    out_dir: Annotated[Path | None, typer.Option("--out", help="New run directory. [default: keep nothing]")] = None,
) -> None:
    """Train a forecaster on a table, and score it next to the best naive forecast."""
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
@takes_options(*TEXT_OPTIONS, table_only=True)
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
    levels: Annotated[
        Any,
        typer.Option(
            parser=parse_levels, metavar="<str>", help="Prediction intervals in percent. [default: those of the fit]"
        ),
    ] = None,
    safe_csv: SafeCsv = False,
) -> None:
    """Forecast the next steps of every series."""
    from holdfast.forecasting.runs import predict_run
    from holdfast.series import csv_text

    with warnings.catch_warnings(record=True) as noticed:
        warnings.simplefilter("always", DataWarning)
        table = predict_run(run, data, future_data, out_file, levels=levels, written=config, safe=safe_csv)
    for one in noticed:
        _say(err, str(one.message))
    if out_file is None:
        text = csv_text(table, safe=safe_csv)
        sys.stdout.write(printable(text, keep="\n") if sys.stdout.isatty() else text)


@app.command(epilog="Example: `holdfast backtest sales.csv --horizon 48 --windows 3 --out scores.csv`")
@takes_options(*OPTIONS)
def backtest(
    data: DataPath,
    config: Any,
    windows: Annotated[int, typer.Option(help="Windows of one horizon each, at the end of every series.")] = 3,
    out_file: Annotated[
        Path | None, typer.Option("--out", help="Scores per series and cutoff, .csv or .parquet.")
    ] = None,
    safe_csv: SafeCsv = False,
) -> None:
    """Train before the last windows, forecast each of them, and score them next to the best naive forecast."""
    from holdfast.forecasting.runs import backtest_file
    from holdfast.telemetry import ProgressLine

    with ProgressLine(err) as show:
        scores, baseline = backtest_file(config, data, windows, out_file, show=show, safe=safe_csv)
    _print_scores(scores, baseline)


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
@takes_options(*TABLE_OPTIONS)
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
    metrics = forecaster.fitted.metrics
    scores = metrics.get("scores", {})
    _print_scores(scores, metrics.get("baseline", ""))
    _say(out, forecaster.summary())
    if scores:
        _say(out, "that horizon also chose the weights; for scores on windows that did not: holdfast backtest")


_SCORE_TITLES = {
    "mase": "MASE",
    "smape": "sMAPE, %",
    "rmse": "RMSE",
    "scaled_crps": "scaled CRPS (mean per series)",
    "wql": "WQL (all points together)",
}


def _print_scores(scores: dict[str, dict[str, float]], baseline: str) -> None:
    if not scores:
        return
    table = Table("score", "holdfast", baseline)
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
