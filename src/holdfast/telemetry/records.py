"""What one step measured, as plain numbers."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import MISSING, asdict, dataclass, fields
from typing import Any


@dataclass(frozen=True, kw_only=True)
class StepRecord:
    """Everything that one optimiser step measured; nothing measured is left out.

    Attributes:
        step: Number of the step, from 1.
        loss: Training loss of the batch, in the units of the head.
        penalty: What was added to it, see `--penalty`; 0 without one, and in records from before there were any.
        lr: Learning rate of the step.
        total_norm: 2-norm of all gradients as one vector, before clipping.
        clipped_norm: The same after clipping.
        clip_coef: What the clipped roles' gradients were multiplied by, jointly; 1 if nothing was clipped.
        cosine: Cosine between the gradient before and after clipping; 1 if the direction was kept.
        role_norms: Norm before clipping per role.
        role_coefs: Coefficient per role.
        role_clipped_norms: Norm after clipping per role.
        clipped: Whether any gradient was made smaller.
        skipped: Whether the step was left out because something was not finite.
        nonfinite: What was not finite: names of parameters, by their gradients, or `loss`, or `penalty`.
        seconds: Wall time of the step, from batch to update.

    Example:
        >>> record = StepRecord(step=1, loss=0.5, lr=0.001, total_norm=2.0, clipped_norm=1.0, clip_coef=0.5,
        ...     cosine=1.0, role_norms={"recurrent": 2.0}, role_coefs={"recurrent": 0.5},
        ...     role_clipped_norms={"recurrent": 1.0}, clipped=True, skipped=False, nonfinite=(), seconds=0.01)
        >>> from_json(to_json(record)) == record
        True
    """

    step: int
    loss: float
    lr: float
    total_norm: float
    clipped_norm: float
    clip_coef: float
    cosine: float
    role_norms: Mapping[str, float]
    role_coefs: Mapping[str, float]
    role_clipped_norms: Mapping[str, float]
    clipped: bool
    skipped: bool
    nonfinite: tuple[str, ...]
    seconds: float
    penalty: float = 0.0


@dataclass(frozen=True, kw_only=True)
class ValidationRecord:
    """Scores on the last horizon of each series, which training never learns from.

    Attributes:
        step: Optimiser steps done before.
        loss: Mean loss of the head.
        error: Mean absolute error of the point forecast, in units of each series' in-sample seasonal naive error.
        naive_error: The same of the seasonal naive forecast.
        skill: 1 - error / naive_error.
        seconds: Wall time of the validation.

    Example:
        >>> ValidationRecord(step=0, loss=1.0, error=0.8, naive_error=1.0, skill=0.2, seconds=0.1).skill
        0.2
    """

    step: int
    loss: float
    error: float
    naive_error: float
    skill: float
    seconds: float


@dataclass(frozen=True, kw_only=True)
class FlowRecord:
    """How the norms of adjoints dL/dh_t went back through time at one step, by layer: `recurrent.l0`, ...

    Attributes:
        step: Number of the step.
        rates: Factor per recurrent step back, by least squares; nan where no gradient came or it was not finite.
        rate_errors: Standard error of the rate, over windows.
        log_factors: Natural logarithm of the total factor over the context.
        memory_lengths: Lags until the norm falls below 1 % of that at lag 0; inf where it does not within the context,
            nan where that is not known.
        lags: Recurrent steps back from the last one that reaches the loss; at most 64, evenly spaced, the first and the
            last among them; none where no gradient came.
        log_norms: Mean over the windows of the natural logarithm of the norm at each of these lags.
        seconds: Wall time of the sample.

    Example:
        >>> record = FlowRecord(step=131, rates={"recurrent.l0": 0.5}, rate_errors={"recurrent.l0": 0.01},
        ...     log_factors={"recurrent.l0": -1.39}, memory_lengths={"recurrent.l0": float("inf")},
        ...     lags={"recurrent.l0": (0, 1, 2)}, log_norms={"recurrent.l0": (0.0, -0.69, -1.39)}, seconds=0.01)
        >>> from_json(to_json(record)) == record
        True
    """

    step: int
    rates: Mapping[str, float]
    rate_errors: Mapping[str, float]
    log_factors: Mapping[str, float]
    memory_lengths: Mapping[str, float]
    lags: Mapping[str, tuple[int, ...]]
    log_norms: Mapping[str, tuple[float, ...]]
    seconds: float


@dataclass(frozen=True, kw_only=True)
class RetreatRecord:
    """A return to the best validated weights, after too many steps in a row that were not finite.

    Attributes:
        step: The last of these steps.
        first_bad_step: The first of them.
        to_step: Steps done when the weights that came back were validated.
        retreats: Returns of the run so far, this one included.
        lr_factor: What the planned learning rate is multiplied by from here on.
        nonfinite: What was not finite in these steps: names of parameters, or `loss`.

    Example:
        >>> print(RetreatRecord(step=70, first_bad_step=61, to_step=50, retreats=1, lr_factor=0.25,
        ...     nonfinite=("loss",)))
        went back to the weights of step 50, with 1/4 of the planned learning rate: steps 61-70 were not finite (loss)
    """

    step: int
    first_bad_step: int
    to_step: int
    retreats: int
    lr_factor: float
    nonfinite: tuple[str, ...]

    def __str__(self) -> str:
        return (
            f"went back to the weights of step {self.to_step}, with 1/{1 / self.lr_factor:g} of the planned learning "
            f"rate: steps {self.first_bad_step}-{self.step} were not finite ({some_of(self.nonfinite)})"
        )


@dataclass(frozen=True, kw_only=True)
class ThresholdRecord:
    """The bound that a clip rule chose by the first steps.

    Attributes:
        step: The last of these steps; the bound holds from the next one on.
        rule: The rule, as it was given.
        roles: The roles whose norm, taken together, is bounded.
        max_norm: The bound.
        expected_clip_fraction: Share of the steps it was chosen by that it would have clipped.

    Example:
        >>> print(ThresholdRecord(step=50, rule="auto", roles=("input", "recurrent"), max_norm=0.4321,
        ...     expected_clip_fraction=0.1))
        clip auto chose a norm of 0.432 over input, recurrent at step 50, and expects to clip 10 % of the steps
    """

    step: int
    rule: str
    roles: tuple[str, ...]
    max_norm: float
    expected_clip_fraction: float

    def __str__(self) -> str:
        return (
            f"clip {self.rule} chose a norm of {self.max_norm:.3g} over {', '.join(self.roles)} at step {self.step}, "
            f"and expects to clip {100 * self.expected_clip_fraction:.3g} % of the steps"
        )


@dataclass(frozen=True)
class Outlook:
    """What a progress line shows.

    Attributes:
        step: Steps done.
        planned_steps: Steps of the whole run, as far as known.
        record: The newest step.
        validation: The newest validation.
        clip_fraction: Share of the finite steps that were clipped.
        seconds_left: Expected seconds to the end.
        news: What happened beside the step, in words.

    Example:
        >>> record = StepRecord(step=1, loss=0.5, lr=0.001, total_norm=2.0, clipped_norm=2.0, clip_coef=1.0,
        ...     cosine=1.0, role_norms={}, role_coefs={}, role_clipped_norms={}, clipped=False, skipped=False,
        ...     nonfinite=(), seconds=0.01)
        >>> Outlook(1, 100, record, validation=None, clip_fraction=0.0, seconds_left=1.0).planned_steps
        100
    """

    step: int
    planned_steps: int
    record: StepRecord
    validation: ValidationRecord | None
    clip_fraction: float
    seconds_left: float
    news: tuple[str, ...] = ()


News = RetreatRecord | ThresholdRecord  # what changed the course of a run; str() of one says it in words
Record = StepRecord | ValidationRecord | FlowRecord | News
_KINDS: dict[str, type[Record]] = {
    "step": StepRecord,
    "validation": ValidationRecord,
    "flow": FlowRecord,
    "retreat": RetreatRecord,
    "threshold": ThresholdRecord,
}


def some_of(names: Sequence[str], most: int = 5) -> str:
    """The first names of a list, and how many more there are.

    Args:
        names: In the order in which they are to be said.
        most: How many to say.

    Returns:
        Words with commas between.

    Example:
        >>> some_of(["a", "b", "c", "d"], most=2)
        'a, b and 2 more'
    """
    said = ", ".join(names[:most])
    return f"{said} and {len(names) - most} more" if len(names) > most else said


def to_json(record: Record) -> dict[str, Any]:
    """A record as a JSON object with its kind; a value that JSON has no word for becomes "nan", "inf" or "-inf".

    Args:
        record: Of any kind.

    Returns:
        Numbers, text, lists and dictionaries only.

    Example:
        >>> to_json(ValidationRecord(step=0, loss=float("inf"), error=2.0, naive_error=2.0, skill=0.0, seconds=0.1))
        {'kind': 'validation', 'step': 0, 'loss': 'inf', 'error': 2.0, 'naive_error': 2.0, 'skill': 0.0, 'seconds': 0.1}
    """
    kind = next(name for name, member in _KINDS.items() if isinstance(record, member))
    return {"kind": kind, **{name: _plain(value) for name, value in asdict(record).items()}}


def from_json(row: Mapping[str, Any]) -> Record:
    """The record that `to_json` wrote.

    Args:
        row: The JSON object.

    Returns:
        The record, equal to the one that was written. A field that has a default may be missing: it is younger than
        the row.

    Raises:
        KeyError: The row is not a record, or another field is missing; TypeError and ValueError if one is of another
            type.

    Example:
        >>> row = {"kind": "validation", "step": 0, "loss": "inf", "error": 2, "naive_error": 2, "skill": 0}
        >>> from_json({**row, "seconds": 1}).loss
        inf
    """
    member = _KINDS[row["kind"]]
    known = [field for field in fields(member) if field.name in row or field.default is MISSING]
    return member(**{field.name: _typed(row[field.name], str(field.type)) for field in known})


def _plain(value: Any) -> Any:
    if isinstance(value, dict):
        return {name: _plain(inner) for name, inner in value.items()}
    if isinstance(value, tuple):
        return [_plain(inner) for inner in value]
    return str(value) if isinstance(value, float) and not math.isfinite(value) else value


def _typed(value: Any, kind: str) -> Any:
    """A JSON value as the type that a field is annotated with."""
    if kind == "float":
        return float(value)
    if kind.startswith("Mapping["):
        inner_kind = kind.removeprefix("Mapping[str, ").removesuffix("]")
        return {name: _typed(inner, inner_kind) for name, inner in dict(value).items()}
    if kind.startswith("tuple["):
        inner_kind = kind.removeprefix("tuple[").removesuffix(", ...]")
        return tuple(_typed(inner, inner_kind) for inner in value)
    return value
