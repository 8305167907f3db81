"""What a fit leaves behind: everything a forecast needs, and what is said about it."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
import torch
from numpy.typing import NDArray

from holdfast.errors import DataError, Problem, TrainingError
from holdfast.forecasting import rundir
from holdfast.forecasting.backtest import backtest_table
from holdfast.forecasting.config import Config, config_facts, config_of
from holdfast.forecasting.metrics import mean_scores, score_table, skill
from holdfast.forecasting.plan import make_network, plan_task, training_config
from holdfast.forecasting.predict import forecast_table
from holdfast.networks import ForecastNetwork, NetworkConfig
from holdfast.series import Checked, Columns, Kind, Season, SeriesStore, check_table, find_seasons, write_table
from holdfast.telemetry import Outlook, TelemetryLog
from holdfast.training import (
    Progress,
    Task,
    fit_notes,
    flow_notes,
    load_tensors,
    load_weights,
    make_guard,
    save_tensors,
    train,
)
from holdfast.windows import Windows


@dataclass(frozen=True)
class Prepared:
    """A checked table with its seasons.

    Attributes:
        config: The options, with the horizon filled in.
        checked: Series and notes.
        seasons: The first is that of the seasonal naive forecast; empty without a season.
        kind: Kind of dataframe that went in.
    """

    config: Config
    checked: Checked
    seasons: tuple[Season, ...]
    kind: Kind

    @property
    def store(self) -> SeriesStore:
        """The series."""
        return self.checked.store


@dataclass(frozen=True)
class Fitted:
    """A trained network with what it was trained on.

    Attributes:
        prepared: Options, series, seasons.
        network: With the best weights.
        log: Telemetry.
        metrics: Scores on the last horizon of each series beside seasonal naive; empty if none could be held out.
    """

    prepared: Prepared
    network: ForecastNetwork
    log: TelemetryLog
    metrics: Mapping[str, Any]

    @property
    def windows(self) -> Windows:
        """The series as tensors, where the network is."""
        return Windows.from_store(self.prepared.store, next(self.network.parameters()).device)


def columns_of(config: Config) -> Columns:
    """The column names of a configuration."""
    return Columns(
        id=config.id_col,
        time=config.time_col,
        target=config.target_col,
        static=config.static,
        future=config.future,
        past=config.past,
    )


def check_target(config: Config, store: SeriesStore, source: str) -> None:
    """Refuse values that the head gives no probability: counts below 0 or in parts, values out of bounds.

    Raises:
        DataError: With an example of such a value and its series.
    """
    low, high = config.bounds
    y_R = store.y
    refused: dict[str, tuple[NDArray[np.bool_], str, str]] = {
        "negative-binomial": ((y_R < 0) | (y_R != np.floor(y_R)), "whole counts of at least 0", "--head student-t"),
        "sigmoid": ((y_R < low) | (y_R > high), f"values from {low:g} to {high:g}", "--bounds LOW,HIGH"),
    }
    if config.head not in refused:
        return
    wrong_R, expected, fix = refused[config.head]
    rows = np.flatnonzero(wrong_R & np.isfinite(y_R))
    if len(rows):
        series = int(np.searchsorted(store.offsets, rows[0], side="right")) - 1
        time = store.times(series, int(rows[0] - store.offsets[series]), int(rows[0] - store.offsets[series]) + 1)[0]
        got = f"{y_R[rows[0]]:g} in series {store.ids[series]!r} at {time}; {len(rows)} such values"
        where = f"{source}, column {config.target_col} for --head {config.head}"
        raise DataError(Problem(where, expected, got, f"give {fix}, or correct the values"))


def canonical(columns: Columns) -> Columns:
    """The same covariates beside the canonical names, as `Checked.table` has them."""
    return replace(columns, id="unique_id", time="ds", target="y")


def prepare(
    config: Config, table: pl.DataFrame, kind: Kind, *, source: str = "the table", kept_back: int = 0
) -> Prepared:
    """Check a table and find its seasons.

    Args:
        config: The options.
        table: Long table.
        kind: Kind of dataframe that it came from.
        source: Name of the table in errors.
        kept_back: Windows at the end of each series that may not be looked at (a backtest).
    """
    checked = check_table(
        table,
        columns_of(config),
        horizon=config.horizon,
        freq=config.freq,
        fill_gaps=config.fill_gaps,
        source=source,
    )
    check_target(config, checked.store, source)
    horizon = checked.store.horizon
    seasons = find_seasons(checked.store, config.seasons_given, holdout=horizon * (kept_back + 1))
    config = replace(config, horizon=horizon, freq=checked.store.freq.text)
    return Prepared(config, checked, seasons, kind)


def user_names(config: Config, table: pl.DataFrame) -> pl.DataFrame:
    """A table with the user's own column names instead of the canonical ones."""
    names = {"unique_id": config.id_col, "ds": config.time_col, "y": config.target_col}
    return table.rename({old: new for old, new in names.items() if old in table.columns})


def device() -> torch.device:
    """CUDA where there is one, else the CPU."""
    return torch.device("cuda" if torch.cuda.is_available() else "cpu")


def plan(prepared: Prepared, kept_back: int = 0) -> Task:
    """The network and what to train it on.

    Raises:
        OptionError: Nothing in the network has a role that is to be clipped; no file was written yet.
    """
    store = prepared.store
    length_n = np.maximum(store.lengths - kept_back * store.horizon, 1)
    seasons = [season.length for season in prepared.seasons]
    task = plan_task(prepared.config, store, seasons, length_n, device())
    make_guard(task.network, training_config(prepared.config))
    return task


def start_run(run: Path, prepared: Prepared, task: Task) -> None:
    """Make the run directory, with all that a resume needs."""
    rundir.new_run(run)
    (run / rundir.CHECKPOINT).parent.mkdir()
    write_table(prepared.checked.table, run / rundir.SERIES)
    _write_manifest(run, prepared, task.network, complete=False)


def run_training(
    prepared: Prepared,
    task: Task,
    *,
    run: Path | None = None,
    resume: bool = False,
    show: Callable[[Outlook], None] | None = None,
) -> Fitted:
    """Train, score the held-out horizon, and complete the run directory if there is one.

    Raises:
        TrainingError: Training was not finite beyond recovery; it says what the run directory holds now.
    """
    checkpoint = run / rundir.CHECKPOINT if run else None
    resume = resume and checkpoint is not None and checkpoint.exists()
    keep_until = int(load_tensors(checkpoint)[1]["step"]) if resume and checkpoint else None
    with TelemetryLog(run / rundir.TELEMETRY if run else None, keep_until) as log:
        try:
            progress = train(
                task, training_config(prepared.config), log, checkpoint=checkpoint, resume=resume, show=show
            )
        except TrainingError as error:
            left = f"; {_left_behind(run)}" if run else ""
            raise TrainingError([replace(problem, fix=problem.fix + left) for problem in error.problems]) from error
    fitted = Fitted(prepared, task.network, log, held_out_metrics(prepared, task, progress, log))
    if run:
        write_fitted(run, fitted)
    return fitted


def _left_behind(run: Path) -> str:
    """What the directory of a run that gave up is good for."""
    checkpoint, model = run / rundir.CHECKPOINT, run / rundir.MODEL_FILE
    held = "no weights yet"
    if checkpoint.exists():
        facts = load_tensors(checkpoint)[1]
        held = f"the weights of step {facts['step']} and the best ones, of step {facts['best_step']}, in its checkpoint"
    kept = "the model of the fit before" if model.exists() else "no model"
    again = f"`holdfast resume {run}` would meet the same"
    return f"{run} stays, with {held} and {kept}; {again}, so choose another --out"


def held_out_metrics(prepared: Prepared, task: Task, progress: Progress, log: TelemetryLog) -> dict[str, Any]:
    """Scores on the last horizon of the validated series. These windows also chose the weights."""
    facts: dict[str, Any] = {
        "steps": progress.step,
        "best_step": progress.best_step,
        "seconds": progress.seconds,
        "clip_fraction": _share([record.clipped for record in log.steps if not record.skipped]),
        "skipped_steps": sum(record.skipped for record in log.steps),
        "notes": [*fit_notes(log, training_config(prepared.config)), *flow_notes(log, progress.seconds)],
    }
    if not len(task.split.validated_V):
        return facts
    cutoff_n: NDArray[np.int64] = np.zeros_like(task.split.until_n)
    cutoff_n[task.split.validated_V] = task.split.cutoff_V  # the last one of each series
    levels = prepared.config.levels
    table = backtest_table(task.network, prepared.store, task.windows, cutoff_n, levels)
    scores = mean_scores(score_table(table, prepared.checked.table, task.network.config.naive_season, levels))
    return {**facts, "skill": skill(scores), "scores": scores}


def write_fitted(run: Path, fitted: Fitted) -> None:
    """Write model, metrics, forecast and, last of all, a complete manifest into a directory that holds the series."""
    prepared, network = fitted.prepared, fitted.network
    save_tensors(run / rundir.MODEL_FILE, network.state_dict(), {})
    rundir.write_json(run / rundir.METRICS, fitted.metrics)
    if not prepared.config.future:  # what lies ahead is not known here
        forecast = forecast_table(network, prepared.store, fitted.windows, prepared.config.levels)
        write_table(user_names(prepared.config, forecast), run / rundir.FORECAST)
    _write_manifest(run, prepared, network, complete=True)


def read_prepared(run: Path) -> tuple[Prepared, NetworkConfig, rundir.Manifest]:
    """The series and shapes of a run directory."""
    manifest = rundir.read_manifest(run)
    config = config_of(dict(manifest.config))
    rundir.check_files(run, {rundir.SERIES: manifest.fingerprints[rundir.SERIES]})
    table = pl.read_parquet(run / rundir.SERIES)
    columns = canonical(columns_of(config))
    checked = check_table(
        table,
        columns,
        horizon=config.horizon,
        freq=manifest.freq,
        categories=dict(manifest.categories),
        source=str(run / rundir.SERIES),
    )
    seasons = tuple(Season(length, reason) for length, reason in manifest.seasons)
    prepared = Prepared(config, replace(checked, notes=manifest.notes), seasons, manifest.kind)  # type: ignore[arg-type]
    shapes = dict(manifest.network)
    shapes["seasons"] = tuple(shapes["seasons"])
    shapes["anchors"] = tuple((kind, season) for kind, season in shapes["anchors"])
    return prepared, NetworkConfig(**shapes), manifest


def read_fitted(run: Path) -> Fitted:
    """The fitted model of a run directory. Runs no code from it.

    Raises:
        RunDirectoryError: Something is missing, damaged or does not fit together.
    """
    prepared, network_config, manifest = read_prepared(run)
    rundir.check_files(run, manifest.fingerprints)
    network = make_network(prepared.config, network_config)
    path = run / rundir.MODEL_FILE
    load_weights(path, network, load_tensors(path)[0])
    return Fitted(prepared, network.to(device()), TelemetryLog(), rundir.read_json(run / rundir.METRICS))


def summary_lines(fitted: Fitted) -> Sequence[str]:
    """What a person wants to know after a fit, one thing per line."""
    metrics, config, freq = fitted.metrics, fitted.network.config, fitted.prepared.store.freq.text
    lines = [f"{season.length}: {season.reason}" for season in fitted.prepared.seasons]
    lines = [f"season {line}" for line in lines] or ["no season"]
    lines.append(
        f"horizon {config.horizon} steps of {freq}, context {config.context_length} in segments of {config.segment}"
    )
    return [*fitted.prepared.checked.notes, *lines, *metrics.get("notes", ()), skill_line(metrics)]


def skill_line(metrics: Mapping[str, Any]) -> str:
    """The skill in words.

    Example:
        >>> skill_line({"skill": 0.25})
        'skill 0.250: errors are 25 % smaller than those of seasonal naive on the held-out last horizon'
        >>> skill_line({"skill": -0.1})
        'skill -0.100: no skill, errors are 10 % larger than those of seasonal naive on the held-out last horizon'
        >>> skill_line({"skill": 0.001})
        'skill 0.001: no skill, errors are as large as those of seasonal naive on the held-out last horizon'
        >>> skill_line({"skill": float("nan")})
        'skill unknown: seasonal naive makes no error that could be smaller, or nothing was observed'
        >>> skill_line({})
        'skill unknown: no series is long enough to hold a horizon out'
    """
    if "skill" not in metrics:
        return "skill unknown: no series is long enough to hold a horizon out"
    value = metrics["skill"]
    if value is None or value != value:
        return "skill unknown: seasonal naive makes no error that could be smaller, or nothing was observed"
    percent, of_naive = round(100 * value), "those of seasonal naive on the held-out last horizon"
    if percent > 0:
        return f"skill {value:.3f}: errors are {percent} % smaller than {of_naive}"
    large = f"{-percent} % larger than" if percent else "as large as"
    return f"skill {value:.3f}: no skill, errors are {large} {of_naive}"


def _write_manifest(run: Path, prepared: Prepared, network: ForecastNetwork, *, complete: bool) -> None:
    manifest = rundir.Manifest(
        config=config_facts(prepared.config),
        network=asdict(network.config),
        seasons=tuple((season.length, season.reason) for season in prepared.seasons),
        notes=prepared.checked.notes,
        freq=prepared.store.freq.text,
        kind=prepared.kind,
        categories=prepared.checked.categories,
        fingerprints=rundir.fingerprints(run),
        complete=complete,
        libraries=rundir.library_versions(),
    )
    rundir.write_manifest(run, manifest)


def _share(flags: list[bool]) -> float:
    return sum(flags) / len(flags) if flags else 0.0
