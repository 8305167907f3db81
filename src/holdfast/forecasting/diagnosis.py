"""How gradients flow in a forecaster: before training, after it, and at the step at which a run broke down.

B windows, F horizon steps.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import torch
from torch import Tensor

from holdfast.errors import DataError, Problem
from holdfast.flow import GAINS, Advice, Diagnosis, Finding, diagnose
from holdfast.forecasting import rundir
from holdfast.forecasting.config import Config
from holdfast.forecasting.fitted import Fitted, read_fitted, read_prepared
from holdfast.forecasting.members import device, plan, plan_again
from holdfast.forecasting.plan import plan_task, training_config
from holdfast.forecasting.prepared import Prepared
from holdfast.networks import Target
from holdfast.reports import adjoint_panel, eigenvalue_panel, history_panel
from holdfast.reports.flow import Panel
from holdfast.series import Freq, SeriesStore
from holdfast.telemetry import FlowRecord, Record, StepRecord, read_telemetry, some_of
from holdfast.training import PEAK_RATES, Task, load_tensors, replay, seeded
from holdfast.windows import Batch


@dataclass(frozen=True)
class Case:
    """A network with the batch that it is looked at with.

    Attributes:
        prepared: Options, series, seasons.
        task: Network and windows.
        batch: B windows of a training step.
        step: Number of that step, which dropout depends on.
        records: Telemetry up to it.
        note: What a reader should know about the choice; empty where there is nothing to say.
    """

    prepared: Prepared
    task: Task
    batch: Batch
    step: int
    records: Sequence[Record]
    note: str = ""


def case_before(prepared: Prepared) -> Case:
    """An untrained network on the series that it would be trained on."""
    task = plan(prepared)
    return _case(prepared, task, step=1, records=(), note="measured before training")


def case_after(fitted: Fitted, store: SeriesStore | None, records: Sequence[Record]) -> Case:
    """A trained network on the batch that would have come next, from its own series or from other ones.

    Of several networks, the first.
    """
    prepared = replace(fitted.prepared, config=fitted.members[0].config)
    step = int(fitted.metrics.get("members", [fitted.metrics])[0]["steps"]) + 1
    count = len(fitted.members)
    note = f"the first of {count} networks" if count > 1 else ""
    if store is None:
        task = plan(prepared)
    else:
        seasons = [season.length for season in prepared.seasons]
        task = plan_task(prepared.config, store, seasons, store.lengths, device())
    return _case(prepared, replace(task, network=fitted.network), step, records, note)


def case_of_run(run: Path) -> Case:
    """A run directory: its model if it is complete, else the weights at the step at which it broke down or stopped."""
    prepared, members, manifest = read_prepared(run)
    places = rundir.places(run, len(members))
    begun = [number for number, place in enumerate(places) if (place / rundir.TELEMETRY).exists()]
    which = 0 if manifest.complete or not begun else begun[-1]
    telemetry, checkpoint = places[which] / rundir.TELEMETRY, places[which] / rundir.CHECKPOINT
    records = read_telemetry(telemetry) if telemetry.exists() else []
    if manifest.complete:
        return case_after(read_fitted(run), None, records)
    options, shapes = members[which]
    prepared = replace(prepared, config=options)
    task = plan_again(prepared, shapes).task
    config = training_config(prepared.config, task)
    bad = _last_bad_steps(records)
    newest = int(load_tensors(checkpoint)[1]["step"]) if checkpoint.exists() else 0
    step = max(bad[0].step, newest + 1) if bad else newest + 1
    batch = replay(task, config, checkpoint if newest else None, step)
    note = f"the run is not complete: measured at its step {step}"
    if bad:
        what = some_of(list(dict.fromkeys(name for record in bad for name in record.nonfinite)))
        note = f"steps {bad[0].step}-{bad[-1].step} were not finite ({what}): measured at step {step}, with its batch"
    return Case(prepared, task, batch, step, [record for record in records if record.step < step], note)


def diagnose_case(case: Case) -> Diagnosis:
    """The verdict, with advice as options of a fit, windows by series and cutoff, and memory in calendar time."""
    network, batch, prepared = case.task.network, case.batch, case.prepared
    error_scale_B = case.task.error_scale_n[batch.series_B]
    mask_BF = batch.target_mask_BF

    def losses_BF() -> Tensor:
        loss_BF = network.head.loss(network(batch), Target(batch.target_BF, error_scale_B))
        weighted = loss_BF[mask_BF] * (mask_BF.numel() / mask_BF.sum())
        return torch.zeros_like(loss_BF).masked_scatter(mask_BF, weighted)

    seconds = Freq.parse(prepared.store.freq.text).seconds
    seasons, segment = network.config.seasons, network.config.segment
    network.train()  # as the training step sees it, and as cuDNN needs it
    with seeded(prepared.config.seed, case.step):
        found = diagnose(
            network,
            losses_BF,
            reach=_recurrent_steps(seasons[0], segment) if seasons else None,
            step_seconds=None if seconds is None else seconds * segment,
            history=[step.role_norms for step in case.records if isinstance(step, StepRecord) and not step.skipped],
            name_window=_name_window(case),
            overrides=network.ROLES,
        )
    findings = tuple(
        _for_a_fit(finding, prepared.config, network.config.segment, seasons) for finding in found.findings
    )
    notes = (case.note, *_season_notes(found, seasons, segment), *found.notes)
    return replace(found, findings=findings, notes=tuple(note for note in notes if note), shell=True)


def _case(prepared: Prepared, task: Task, step: int, records: Sequence[Record], note: str = "") -> Case:
    if not task.split.trainable:
        horizon = task.network.config.horizon
        expected = f"a series of more than {horizon + 1} rows, the horizon and one more"
        fix = "give longer series, or a shorter horizon"
        raise DataError(Problem("the table", expected, f"at most {int(task.split.until_n.max())} rows", fix))
    return Case(prepared, task, task.draw(training_config(prepared.config, task), step), step, records, note)


def _last_bad_steps(records: Sequence[Record]) -> list[StepRecord]:
    """The steps at the end of a run that were not finite, back to the last one that was."""
    steps = [record for record in records if isinstance(record, StepRecord)]
    at = len(steps)
    while at and steps[at - 1].skipped:
        at -= 1
    return steps[at:]


def _name_window(case: Case) -> Callable[[int], str]:
    series, cutoff = case.batch.series_B.tolist(), case.batch.cutoff_B.tolist()
    return lambda b: case.task.name_window(series[b], cutoff[b])


def _recurrent_steps(season: int, segment: int) -> int:
    return math.ceil(season / segment)


def _season_notes(found: Diagnosis, seasons: Sequence[int], segment: int) -> Iterator[str]:
    """Seasons behind the first that the gradient does not reach back over."""
    memories = [layer.carrier.memory_length for layer in found.observation.layers.values()]
    if not memories or None in memories:
        return
    memory = max(length for length in memories if length is not None)
    for season in seasons[1:]:
        steps = _recurrent_steps(season, segment)
        if steps >= memory:
            yield f"the season of {season} lies {found.setting.steps(steps)} back, beyond a memory of {memory}"


def _for_a_fit(finding: Finding, config: Config, segment: int, seasons: Sequence[int]) -> Finding:
    """The advice that a fit can take, what only a forecaster can do first."""
    own: list[Advice] = []
    if finding.kind == "exploding head" and config.head == "gaussian":
        own.append(
            Advice(
                "take a head whose gradient is bounded",
                "a Gaussian head",
                'Forecaster(head="student-t")',
                "--head student-t",
            )
        )
    if finding.kind == "vanishing" and seasons and segment == 1 < seasons[0]:
        evidence = f"a season is {seasons[0]} recurrent steps now"
        line, option = f"Forecaster(segment={seasons[0]})", f"--segment {seasons[0]}"
        own.append(Advice("feed a season as one recurrent step", evidence, line, option))
    if finding.kind == "short context" and seasons:
        line, option = f"Forecaster(context_length={2 * seasons[0]})", f"--context-length {2 * seasons[0]}"
        own.append(Advice("feed two seasons", f"a season of {seasons[0]}", line, option))
    if finding.kind == "vanishing" and config.constraint.startswith("cap:") and config.cell.startswith("rnn"):
        line, option = 'Forecaster(constraint="orthogonal")', "--constraint orthogonal"
        own.append(Advice("hold W at a norm that can keep an adjoint", f"it is {config.constraint} now", line, option))
    usual = PEAK_RATES[config.optimizer]
    if finding.kind not in ("vanishing", "short context", "exploding data") and (config.lr or usual) > 2 * usual:
        line, option = f"Forecaster(lr={usual:g})", f"--lr {usual:g}"
        own.append(Advice("take the usual learning rate", f"it is {config.lr:g}", line, option))
    present = {f"--init {config.init}", f"--clip {config.clip}", f"--constraint {config.constraint}"}
    present |= {"--constraint cap:1"} if config.constraint == "orthogonal" else set()  # which is as tight
    kept = [one for one in finding.advice if one.option is not None and one.option not in present]
    return replace(finding, advice=(*own, *kept))


def diagnosis_panels(found: Diagnosis, records: Sequence[Record]) -> list[Panel]:
    """Adjoints over lag, the eigenvalues that decide, and adjoints over the training so far, as far as these are there.

    Args:
        found: The diagnosis.
        records: Telemetry of the run.
    """
    seen = found.observation
    panels: list[Panel] = []
    if seen.layers:
        parts = {"h": {name: layer.h for name, layer in seen.layers.items()}}
        parts["c"] = {name: layer.c for name, layer in seen.layers.items() if layer.c is not None}
        growths = {f"dL/d{part} {name}": growth for part, each in parts.items() for name, growth in each.items()}
        panels.append(adjoint_panel(growths, season=found.setting.reach))
    for name, each in seen.spectra.items():
        if each.activation in GAINS:
            panels.append(eigenvalue_panel({name: each.eigenvalues.tolist()}, radius=1 / GAINS[each.activation]))
        elif each.activation in ("gru.n", "lstm.g"):  # with the other gates at 1/2
            jacobian = (0.5 + each.eigenvalues / 4).tolist()
            panels.append(eigenvalue_panel({f"1/2 + eigenvalue / 4, {name}": jacobian}, title="Jacobian at the origin"))
    flows = [record for record in records if isinstance(record, FlowRecord)]
    names = dict.fromkeys(name for flow in flows for name, lags in flow.lags.items() if lags)
    return [*panels, *(history_panel(flows, name) for name in names)]
