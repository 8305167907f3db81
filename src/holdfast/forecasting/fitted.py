"""What a fit leaves behind: everything a forecast needs, and what is said about it."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
from numpy.typing import NDArray

from holdfast.errors import TrainingError
from holdfast.forecasting import rundir
from holdfast.forecasting.backtest import backtest_table
from holdfast.forecasting.blending import Blending, measure_blend
from holdfast.forecasting.config import Config, config_facts, config_of
from holdfast.forecasting.members import Member, device
from holdfast.forecasting.metrics import naive_title, score_table, skill, summary_scores
from holdfast.forecasting.notes import history_notes, target_notes
from holdfast.forecasting.plan import make_network, training_config
from holdfast.forecasting.predict import forecast_table, never_negative
from holdfast.forecasting.prepared import Prepared, canonical, user_names
from holdfast.forecasting.widening import measure_widening
from holdfast.networks import ForecastNetwork, NetworkConfig
from holdfast.series import RawTable, Season, SeriesStore, check_table, write_table
from holdfast.telemetry import Outlook, TelemetryLog
from holdfast.training import (
    Progress,
    fit_notes,
    flow_notes,
    load_tensors,
    load_weights,
    save_tensors,
    train,
)
from holdfast.windows import Windows

Show = Callable[[Outlook], None]


@dataclass(frozen=True)
class Trained:
    """One trained network.

    Attributes:
        config: Its options.
        network: With the best weights.
        log: Telemetry.
    """

    config: Config
    network: ForecastNetwork
    log: TelemetryLog


@dataclass(frozen=True)
class Fitted:
    """The trained networks with what they were trained on.

    Attributes:
        prepared: Options, series, seasons.
        members: One network; several with the preset best, whose forecasts are averaged.
        metrics: Scores on the held-out windows next to the best naive forecast; empty if none could be held out.
    """

    prepared: Prepared
    members: tuple[Trained, ...]
    metrics: Mapping[str, Any]

    @property
    def networks(self) -> list[ForecastNetwork]:
        """All networks."""
        return [member.network for member in self.members]

    @property
    def network(self) -> ForecastNetwork:
        """The first network."""
        return self.members[0].network

    @property
    def log(self) -> TelemetryLog:
        """Telemetry of the first network."""
        return self.members[0].log

    @property
    def floored(self) -> bool:
        """Whether forecasts stop at 0: no value of the fit was below it, and the user did not lift this."""
        return not self.prepared.config.allow_negative and never_negative(self.prepared.store)

    @property
    def windows(self) -> Windows:
        """The series as tensors, where the networks are."""
        return self.windows_of(self.prepared.store)

    def windows_of(self, store: SeriesStore) -> Windows:
        """Other series as tensors, where the networks are."""
        place = next(self.network.parameters()).device
        return Windows.from_store(store, place, seasons=(self.network.config.baseline_season,))


def start_run(run: Path, prepared: Prepared, members: Sequence[Member]) -> None:
    """Make the run directory, with all that a resume needs."""
    rundir.new_run(run)
    for place in rundir.places(run, len(members)):
        (place / rundir.CHECKPOINT).parent.mkdir(parents=True)
    write_table(prepared.checked.table, run / rundir.SERIES)
    networks = [(member.prepared.config, member.task.network) for member in members]
    _write_manifest(run, prepared, networks, complete=False)


def run_training(
    prepared: Prepared,
    members: Sequence[Member],
    *,
    run: Path | None = None,
    resume: bool = False,
    show: Show | None = None,
) -> Fitted:
    """Train one network after the other, score the held-out horizon, and complete the run directory if there is one.

    Raises:
        TrainingError: Training was not finite beyond recovery; it says what the run directory holds now.
    """
    trained, facts = [], []
    places = [None] * len(members) if run is None else rundir.places(run, len(members))
    planned = [training_config(member.prepared.config, member.task).max_steps for member in members]
    for number, (member, place) in enumerate(zip(members, places, strict=True)):
        showing = None if show is None else _show_all(show, planned, number)
        try:
            progress, log, blending = _train_member(member, place, resume=resume, show=showing)
        except TrainingError as error:
            left = f"; {_left_behind(run, place)}" if run and place else ""
            raise TrainingError([replace(problem, fix=problem.fix + left) for problem in error.problems]) from error
        trained.append(Trained(member.prepared.config, member.task.network, log))
        facts.append(_training_facts(member, progress, log, blending))
    metrics = {**_joined(facts), **held_out_scores(prepared, members)}
    fitted = Fitted(prepared, tuple(trained), metrics)
    if run:
        write_fitted(run, fitted)
    return fitted


def _train_member(
    member: Member, place: Path | None, *, resume: bool, show: Show | None
) -> tuple[Progress, TelemetryLog, Blending]:
    checkpoint = place / rundir.CHECKPOINT if place else None
    resume = resume and checkpoint is not None and checkpoint.exists()
    keep_until = int(load_tensors(checkpoint)[1]["step"]) if resume and checkpoint else None
    task = member.task
    config = training_config(member.prepared.config, task)
    with TelemetryLog(place / rundir.TELEMETRY if place else None, keep_until) as log:
        progress = train(task, config, log, checkpoint=checkpoint, resume=resume, show=show)
    levels, smoothing = member.prepared.config.levels, member.prepared.config.preset != "fast"
    task.network.blend.set()
    measure_widening(task.network, task.windows, task.split, levels)
    trained = progress.best_step > 0
    blending = measure_blend(task.network, task.windows, task.split, levels, trained=trained, smoothing=smoothing)
    return progress, log, blending


def _show_all(show: Show, planned: Sequence[int], number: int) -> Show:
    """Show a member's steps as a part of those of all members; a time budget shortens all alike."""

    def show_one(outlook: Outlook) -> None:
        share = outlook.planned_steps / planned[number]
        before, after = (round(share * sum(part)) for part in (planned[:number], planned[number + 1 :]))
        pace = outlook.seconds_left / max(outlook.planned_steps - outlook.step, 1)
        step, planned_steps = before + outlook.step, before + outlook.planned_steps + after
        seconds_left = outlook.seconds_left + pace * after
        show(replace(outlook, step=step, planned_steps=planned_steps, seconds_left=seconds_left))

    return show_one if len(planned) > 1 else show


def _left_behind(run: Path, place: Path) -> str:
    """What the directory of a run that gave up, in training the network of a place, is good for."""
    checkpoint, model = place / rundir.CHECKPOINT, place / rundir.MODEL_FILE
    held = "no weights yet"
    if checkpoint.exists():
        facts = load_tensors(checkpoint)[1]
        held = f"the weights of step {facts['step']} and the best ones, of step {facts['best_step']}, in its checkpoint"
    kept = "the model of the fit before" if model.exists() else "no model"
    again = f"`holdfast resume {run}` would meet the same"
    return f"{run} stays, with {held} and {kept}; {again}, so choose another --out"


def _training_facts(member: Member, progress: Progress, log: TelemetryLog, blending: Blending) -> dict[str, Any]:
    """What the training of one network came to."""
    config = training_config(member.prepared.config, member.task)
    return {
        "steps": progress.step,
        "best_step": progress.best_step,
        "seconds": progress.seconds,
        "clip_fraction": _share([record.clipped for record in log.steps if not record.skipped]),
        "skipped_steps": sum(record.skipped for record in log.steps),
        "blend": asdict(blending),
        "notes": [*fit_notes(log, config), *flow_notes(log, progress.seconds)],
    }


def _joined(facts: Sequence[dict[str, Any]]) -> dict[str, Any]:
    """The facts of all members; of several the sums, their own ones beside, and the notes with numbers."""
    if len(facts) == 1:
        return facts[0]
    sums = {name: sum(each[name] for each in facts) for name in ("steps", "seconds", "skipped_steps")}
    notes = [
        f"network {number} of {len(facts)}: {note}" for number, each in enumerate(facts, 1) for note in each["notes"]
    ]
    clip_fraction = sum(each["clip_fraction"] for each in facts) / len(facts)
    return {**sums, "clip_fraction": clip_fraction, "notes": notes, "members": list(facts)}


def held_out_scores(prepared: Prepared, members: Sequence[Member]) -> dict[str, Any]:
    """Scores on the last horizon of the validated series. These windows also chose the weights."""
    task = members[0].task
    if not len(task.split.validated_V):
        return {}
    cutoff_n: NDArray[np.int64] = np.zeros_like(task.split.until_n)
    cutoff_n[task.split.validated_V] = task.split.cutoff_V  # the last one of each series
    levels = prepared.config.levels
    networks = [member.task.network for member in members]
    floored = not prepared.config.allow_negative
    table = backtest_table(networks, prepared.store, task.windows, cutoff_n, levels, floored=floored)
    each = score_table(table, prepared.checked.table, task.network.config.naive_season, levels)
    scores = summary_scores(each, table, levels)
    return {"skill": skill(scores), "scores": scores, "baseline": naive_title(task.network.config.baseline_season)}


def write_fitted(run: Path, fitted: Fitted) -> None:
    """Write models, metrics, forecast and, last of all, a complete manifest into a directory that holds the series."""
    prepared = fitted.prepared
    for place, member in zip(rundir.places(run, len(fitted.members)), fitted.members, strict=True):
        place.mkdir(parents=True, exist_ok=True)
        save_tensors(place / rundir.MODEL_FILE, member.network.state_dict(), {})
    rundir.write_json(run / rundir.METRICS, fitted.metrics)
    if not prepared.config.future:  # what lies ahead is not known here
        forecast = forecast_table(
            fitted.networks, prepared.store, fitted.windows, prepared.config.levels, floored=fitted.floored
        )
        write_table(user_names(prepared.config, forecast), run / rundir.FORECAST)
    networks = [(member.config, member.network) for member in fitted.members]
    _write_manifest(run, prepared, networks, complete=True)


def write_telemetry(run: Path, fitted: Fitted) -> None:
    """Write what was measured of each network, where a fit would have written it."""
    for place, member in zip(rundir.places(run, len(fitted.members)), fitted.members, strict=True):
        place.mkdir(parents=True, exist_ok=True)
        with TelemetryLog(place / rundir.TELEMETRY) as log:
            for record in member.log.records:
                log.append(record)


def read_prepared(run: Path) -> tuple[Prepared, list[tuple[Config, NetworkConfig]], rundir.Manifest]:
    """The series of a run directory, and options and shapes of each network."""
    manifest = rundir.read_manifest(run)
    config = config_of(dict(manifest.config))
    rundir.check_files(run, {rundir.SERIES: manifest.fingerprints[rundir.SERIES]})
    series = RawTable(pl.read_parquet(run / rundir.SERIES), source=str(run / rundir.SERIES))
    options = replace(canonical(config), freq=manifest.freq)
    checked = check_table(series, options, categories=dict(manifest.categories))
    seasons = tuple(Season(length, reason) for length, reason in manifest.seasons)
    prepared = Prepared(config, replace(checked, notes=manifest.notes), seasons, manifest.kind)
    return (
        prepared,
        [(config_of(dict(each["config"])), _shapes(each["network"])) for each in manifest.members],
        manifest,
    )


def _shapes(facts: Mapping[str, Any]) -> NetworkConfig:
    anchors = tuple((kind, season) for kind, season in facts["anchors"])
    return NetworkConfig(**{**facts, "seasons": tuple(facts["seasons"]), "anchors": anchors})


def read_fitted(run: Path) -> Fitted:
    """The fitted model of a run directory. Runs no code from it.

    Raises:
        RunDirectoryError: Something is missing, damaged or does not fit together.
    """
    prepared, members, manifest = read_prepared(run)
    rundir.check_files(run, manifest.fingerprints)
    trained = []
    for place, (config, shapes) in zip(rundir.places(run, len(members)), members, strict=True):
        network, path = make_network(config, shapes), place / rundir.MODEL_FILE
        load_weights(path, network, load_tensors(path)[0])
        trained.append(Trained(config, network.to(device()), TelemetryLog()))
    return Fitted(prepared, tuple(trained), rundir.read_json(run / rundir.METRICS))


def summary_lines(fitted: Fitted) -> Sequence[str]:
    """What a person wants to know after a fit, one thing per line."""
    metrics, config, freq = fitted.metrics, fitted.network.config, fitted.prepared.store.freq.text
    lines = [f"{season.length}: {season.reason}" for season in fitted.prepared.seasons]
    lines = [f"season {line}" for line in lines] or ["no season"]
    several = f"; {len(fitted.members)} networks, whose forecasts are averaged" if len(fitted.members) > 1 else ""
    lines.append(
        f"horizon {config.horizon} steps of {freq}, context {config.context_length} in segments of {config.segment}"
        f"{several}"
    )
    store = fitted.prepared.store
    told = [*history_notes(store, config.context_length), *target_notes(fitted.prepared.config, store)]
    blends = [str(Blending(**each["blend"])) for each in metrics.get("members", [metrics]) if "blend" in each]
    several_blends = [f"network {k} of {len(blends)}: {line}" for k, line in enumerate(blends, 1)]
    mixed = [line for text in (several_blends if len(blends) > 1 else blends) for line in text.splitlines()]
    return [*fitted.prepared.checked.notes, *lines, *mixed, *metrics.get("notes", ()), *told, skill_line(metrics)]


def skill_line(metrics: Mapping[str, Any]) -> str:
    """The skill in words.

    Example:
        >>> skill_line({"skill": 0.25, "baseline": "seasonal naive 24"})
        'skill 0.250: errors are 25 % smaller than those of seasonal naive 24, the best naive forecast on the
        held-out windows'
        >>> skill_line({"skill": -0.1, "baseline": "last value"})
        'skill -0.100: no skill, errors are 10 % larger than those of last value, the best naive forecast on the
        held-out windows'
        >>> skill_line({"skill": float("nan"), "baseline": "last value"})
        'skill unknown: the naive forecast (last value) makes no error to improve on, or nothing was observed'
        >>> skill_line({})
        'skill unknown: no series is long enough to hold a horizon out'
    """
    if "skill" not in metrics:
        return "skill unknown: no series is long enough to hold a horizon out"
    value, baseline = metrics["skill"], metrics["baseline"]
    if value is None or value != value:
        return f"skill unknown: the naive forecast ({baseline}) makes no error to improve on, or nothing was observed"
    percent, of_naive = round(100 * value), f"those of {baseline}, the best naive forecast on the held-out windows"
    if percent > 0:
        return f"skill {value:.3f}: errors are {percent} % smaller than {of_naive}"
    large = f"{-percent} % larger than" if percent else "as large as"
    return f"skill {value:.3f}: no skill, errors are {large} {of_naive}"


def _write_manifest(
    run: Path, prepared: Prepared, networks: Sequence[tuple[Config, ForecastNetwork]], *, complete: bool
) -> None:
    members = [{"config": config_facts(config), "network": asdict(network.config)} for config, network in networks]
    manifest = rundir.Manifest(
        config=config_facts(prepared.config),
        members=tuple(members),
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
