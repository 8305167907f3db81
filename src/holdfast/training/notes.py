"""What is to be said at the end of a fit: retreats, bounds that were chosen, and advice on clipping."""

from __future__ import annotations

from collections.abc import Sequence

from holdfast.gradients import ClipAuto, parse_clip
from holdfast.telemetry import StepRecord, TelemetryLog, ThresholdRecord
from holdfast.training.advice import clip_advice
from holdfast.training.task import TrainingConfig


def fit_notes(log: TelemetryLog, config: TrainingConfig) -> list[str]:
    """What a person should know about the steps of a fit, one thing after the other.

    Args:
        log: The records of the whole fit.
        config: How it was trained.

    Returns:
        What changed the course of the run, steps that were left out, and advice on clipping; empty where there is
        nothing to say.

    Example:
        >>> fit_notes(TelemetryLog(), TrainingConfig())
        []
    """
    steps, news = log.steps, log.news
    finite = [record for record in steps if not record.skipped]
    notes = [_with_outcome(each, finite) if isinstance(each, ThresholdRecord) else str(each) for each in news]
    if len(finite) < len(steps):
        notes.append(f"{len(steps) - len(finite)} of {len(steps)} steps were not finite and changed nothing")
    rules = parse_clip(config.clip).rules(config.covered).values()
    chosen = any(isinstance(each, ThresholdRecord) for each in news)
    if steps and not chosen and any(isinstance(rule, ClipAuto) for rule in rules):
        return [*notes, f"clip {config.clip} was still measuring when the fit ended, and clipped at 1"]
    advice = clip_advice(finite, config)
    return notes if advice is None else [*notes, advice]


def _with_outcome(chosen: ThresholdRecord, finite: Sequence[StepRecord]) -> str:
    """A bound that was chosen, and what it did since."""
    since = [record for record in finite if record.step > chosen.step]
    if not since:
        return str(chosen)
    clipped = sum(min(record.role_coefs[role] for role in chosen.roles) < 1 for record in since) / len(since)
    return f"{chosen}; it clipped {100 * clipped:.3g} % of those that came after"
