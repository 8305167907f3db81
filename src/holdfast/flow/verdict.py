"""A verdict in words on how gradients flow in a model: one screen, then the numbers."""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from holdfast.errors import OptionError, Problem
from holdfast.flow.findings import Finding, find_all
from holdfast.flow.growth import Growth
from holdfast.flow.observation import Observation, observe
from holdfast.flow.remedies import Advice, Setting, peak, times
from holdfast.gradients.roles import Role

MOST_WINDOWS = 3  # whose own gradient is printed


@dataclass(frozen=True, eq=False)
class Diagnosis:
    """What is wrong with the flow of gradients in a model, what to do, and every number it was read from.

    `print(diagnosis)` shows the verdict and the advice on one screen, then tables.

    Attributes:
        findings: What is wrong, the cause before what follows from it; empty for a healthy model.
        observation: Everything that was measured.
        setting: What the caller knew beside the model.
        notes: What else a reader should know.
        shell: Whether advice is given as options of `holdfast fit` rather than as lines of Python.

    Example:
        >>> model = nn.LSTM(2, 8, batch_first=True)
        >>> x = torch.randn(4, 5, 2, generator=torch.Generator().manual_seed(0))
        >>> found = diagnose(model, lambda: model(x)[0][:, -1].square().mean())
        >>> found.kind, found.advice
        ('healthy', ())
    """

    findings: tuple[Finding, ...]
    observation: Observation
    setting: Setting
    notes: tuple[str, ...] = ()
    shell: bool = False

    @property
    def kind(self) -> str:
        """The kind of the first finding, or "healthy"."""
        return self.findings[0].kind if self.findings else "healthy"

    @property
    def verdict(self) -> str:
        """The first finding in words, or why the model is healthy."""
        return self.findings[0].text if self.findings else _healthy(self.observation, self.setting)

    @property
    def advice(self) -> tuple[Advice, ...]:
        """What to do about the findings, the first thing first."""
        found = [one for finding in self.findings for one in finding.advice]
        return tuple(one for one in found if one.option is not None) if self.shell else tuple(found)

    def __str__(self) -> str:
        lines = [f"{self.verdict}."]
        lines += [f"Also: {finding.text}." for finding in self.findings[1:]]
        lines += [f"  {one.text} ({one.evidence}): {one.option if self.shell else one.line}" for one in self.advice]
        lines += [f"Note: {note}." for note in self.notes]
        return "\n".join([*lines, "", *_tables(self.observation, self.setting)])

    def to_json(self) -> str:
        """Verdict, findings, advice and all numbers as JSON; a number that is not finite is the text nan, inf or -inf.

        Example:
            >>> model = nn.RNN(1, 2, batch_first=True)
            >>> text = diagnose(model, lambda: model(torch.ones(2, 3, 1))[0].sum()).to_json()
            >>> sorted(json.loads(text))
            ['advice', 'findings', 'kind', 'notes', 'numbers', 'verdict']
        """
        findings = [{"kind": finding.kind, "text": finding.text} for finding in self.findings]
        advice = [vars(one) for one in self.advice]
        facts = {"kind": self.kind, "verdict": self.verdict, "findings": findings, "advice": advice}
        return json.dumps(_plain({**facts, "notes": self.notes, "numbers": numbers(self.observation)}), indent=2)


def diagnose(
    model: nn.Module,
    loss_fn: Callable[[], Tensor],
    *,
    reach: int | None = None,
    step_seconds: float | None = None,
    history: Sequence[Mapping[str, float]] = (),
    name_window: Callable[[int], str] = "window {}".format,
    overrides: Mapping[str, Role] | None = None,
) -> Diagnosis:
    """Say whether gradients explode, vanish or are not finite, where that comes from, and what to do.

    Not finite: the first of weights, inputs, states, loss and gradients that holds a nan or inf. Exploding through
    time: the mean adjoint of a layer becomes more than ten times what it is at lag 0. Exploding by its data: at most an
    eighth of the windows, each with more than 20 times the adjoint of the median window, make half of the gradient.
    Exploding in the head: a gradient above 100 that starts as steep and did not grow on its way; by its states: one
    that did not start so either. Vanishing: 99 % of the adjoint is gone before `reach` steps in every layer that runs
    over the most steps (dL/dc_t for an LSTM). Saturated: half of the units of a layer pass next to nothing back at 95 %
    of the steps.

    A loss that reads several steps itself adds to adjoints on their way. What the recurrence does is told of the newest
    of them alone then: it explodes by that, and vanishes by that if the loss is [B, F] and each of its steps reads one.
    Otherwise attention, or a mean over steps, may lead past the recurrence: a note tells how far that carries alone.

    Where no adjoint reaches the recurrence (an output layer that starts at zero), or the loss is not finite, that of a
    fixed random readout of the newest state is measured in its place, and a note says so.

    Nothing about the model changes: no weight, gradient, buffer, mode or random state.

    Args:
        model: What holds layers or cells of `torch.nn` or `holdfast.networks`.
        loss_fn: Runs the model on a batch and returns the loss: one number, or unreduced, [B] or [B, F] by window and
            horizon step, whose mean it is: then gradients of single windows and horizon steps are told too. It is
            called twice and should take the same batch each time.
        reach: Recurrent steps back that the gradient should get to, such as a season; None: a quarter of the steps.
        step_seconds: Duration of one recurrent step in seconds; with it memory is told in calendar time.
        history: Gradient norms by role of earlier steps, as in `ClipResult.role_norms`: they set the bound of a clip.
        name_window: The words for a window, from its number in the batch.
        overrides: Role by name of parameter or module, see `find_roles`.

    Returns:
        Verdict, findings, advice and numbers.

    Raises:
        OptionError: As `adjoints` raises it, or a reach or step_seconds that is not above 0.

    Example:
        >>> model = nn.RNN(1, 2, nonlinearity="relu", batch_first=True, bias=False)
        >>> for weight, values in zip(model.parameters(), ([[1.0], [1.0]], [[1.5, 0.0], [0.0, 0.5]])):
        ...     weight.data = torch.tensor(values)
        >>> found = diagnose(model, lambda: model(torch.ones(4, 20, 1))[0][:, -1].mean())
        >>> print(found.verdict.split(";")[0])
        Exploding through time: the adjoint of l0 grows 1.47x per step over 19 steps, 1.6e3x in all
        >>> print(found.advice[0])
        start orthogonal (spectral radius 1.5, spectral norm 1.5; 1.6e3x over 19 steps): init_recurrent_(model)

    Reference: the terms are those of Pascanu, Mikolov and Bengio, On the difficulty of training recurrent neural
    networks, ICML 2013.
    """
    problems = [
        Problem(f"diagnose({name}=...)", "above 0, or None", repr(value), f"leave {name} out, or give a number above 0")
        for name, value in (("reach", reach), ("step_seconds", step_seconds))
        if value is not None and not 0 < value < math.inf
    ]
    if problems:
        raise OptionError(problems)
    seen = observe(model, loss_fn, overrides)
    setting = Setting(reach=reach, step_seconds=step_seconds, history=history, name_window=name_window)
    notes = list(seen.left_out)
    if seen.by_readout:
        why = "the loss is not finite" if "loss" in seen.broken else "the loss sends no gradient into the recurrence"
        notes.insert(0, f"{why}, so adjoints are those of a random readout of the newest state")
    notes += _past(seen, setting)
    return Diagnosis(find_all(seen, setting), seen, setting, tuple(notes))


def numbers(seen: Observation) -> dict[str, Any]:
    """Everything that was measured, as plain values."""
    return {
        "loss": seen.loss,
        "by_readout": seen.by_readout,
        "steps_read": seen.steps_read,
        "not_finite": dict(seen.broken),
        "role_norms": seen.role_norms(),
        "parameters": [vars(one) for one in seen.parameters],
        "layers": {
            name: {
                "kind": layer.kind,
                "h": _growth(layer.h),
                "c": None if layer.c is None else _growth(layer.c),
                "newest_alone": None if layer.alone is None else _growth(layer.alone),
                "units": layer.units,
            }
            for name, layer in seen.layers.items()
        },
        "spectra": {
            name: {
                "activation": each.activation,
                "radius": each.radius,
                "norm": each.norm,
                "departure": each.departure,
                "eigenvalues": [[value.real, value.imag] for value in each.eigenvalues.tolist()],
                "thresholds": [str(threshold) for threshold in each.thresholds],
            }
            for name, each in seen.spectra.items()
        },
        "saturation": {name: share_N.tolist() for name, share_N in seen.flat.items()},
        "lyapunov": {
            name: {"value": each.values[0].item(), "standard_error": each.standard_error[0].item()}
            for name, each in seen.exponents.items()
        },
        "window_log_norms": seen.window_norms,
        "window_gradients": {str(window): norm for window, norm in seen.window_gradients.items()},
        "horizon_gradients": {str(step): norm for step, norm in seen.horizon_gradients.items()},
    }


def _growth(growth: Growth) -> dict[str, Any]:
    lag, gain = peak(growth)
    facts = {name: getattr(growth, name) for name in ("rate", "rate_error", "memory_length", "fraction", "log_factor")}
    quantiles = {str(p): values for p, values in growth.per_lag.quantiles.items()}
    return {**facts, "peak_lag": lag, "peak_log_factor": gain, "log_norm_by_lag": growth.per_lag.mean, **quantiles}


def _healthy(seen: Observation, setting: Setting) -> str:
    said = []
    for name, layer in seen.layers.items():
        growth = layer.through
        steps, length = len(growth.per_lag.mean), growth.memory_length
        reach = f"over all {setting.steps(steps)}" if length is None else f"for {setting.steps(length)}"
        if steps > 1:
            said.append(f"{name} {growth.rate:.3g}x per step, {reach}")
    flow = "; ".join(said) or "there is but one step"
    return f"Healthy: gradients flow back through time ({flow}); no window, role or unit stands out"


def _past(seen: Observation, setting: Setting) -> Iterator[str]:
    """What a loss that reads several steps hides, where it cannot be told whether that is a fault."""
    alone = {name: layer.alone for name, layer in seen.layers.items() if layer.alone is not None}
    if seen.apart or all(growth.memory_length is None for growth in alone.values()):
        return
    said = [
        f"{name} {growth.rate:.3g}x per step"
        + ("" if growth.memory_length is None else f", 99 % of it gone after {setting.steps(growth.memory_length)}")
        for name, growth in alone.items()
    ]
    yield (
        f"the loss reads {seen.steps_read} steps itself; of the newest alone the recurrence carries {'; '.join(said)}; "
        "what lies further back is learnt only if one loss reads many steps, as a mean or attention does"
    )


def _tables(seen: Observation, setting: Setting) -> Iterator[str]:
    yield f"{'adjoints through time':<28}{'per step':>10}{'+-':>9}{'memory':>8}{'at most':>10}{'at the end':>12}"
    for name, layer in seen.layers.items():
        for part, growth in (("dL/dh", layer.h), ("dL/dc", layer.c), ("of the newest", layer.alone)):
            if growth is not None:
                memory = "-" if growth.memory_length is None else str(growth.memory_length)
                ends = (times(peak(growth)[1]), times(growth.log_factor))
                row = f"  {f'{part} {name}':<26}{growth.rate:>10.3g}{growth.rate_error:>9.1g}{memory:>8}"
                yield f"{row}{ends[0]:>10}{ends[1]:>12}"
    yield f"{'recurrent matrices':<28}{'radius':>10}{'norm':>9}{'departure':>11}{'flat units':>12}"
    for name, each in seen.spectra.items():
        flat = f"{100 * (seen.flat[name] >= 0.95).double().mean().item():.0f} %" if name in seen.flat else "-"
        yield f"  {name:<26}{each.radius:>10.3g}{each.norm:>9.3g}{each.departure:>11.3g}{flat:>12}"
        yield from (f"    {threshold}" for threshold in each.thresholds)
    for name, found in seen.exponents.items():
        value, error = found.values[0].item(), found.standard_error[0].item()
        yield f"largest Lyapunov exponent of {name or 'the layer'}: {value:+.3g} +- {error:.1g} per step"
    yield f"{'gradient by role':<28}" + "  ".join(f"{role} {norm:.3g}" for role, norm in seen.role_norms().items())
    for one in seen.parameters:
        yield f"  {one.name:<40}{one.role:>10}{one.gradient_norm:>12.3g}  of weights {one.weight_norm:.3g}"
    if seen.horizon_gradients:
        steps = "  ".join(f"{step}: {norm:.3g}" for step, norm in seen.horizon_gradients.items())
        yield f"{'gradient by horizon step':<28}{steps}"
    for window, norm in sorted(seen.window_gradients.items(), key=lambda item: -item[1])[:MOST_WINDOWS]:
        yield f"{'gradient of one window':<28}{norm:.3g}  {setting.name_window(window)}"


def _plain(value: Any) -> Any:
    if isinstance(value, Mapping):
        return {str(name): _plain(inner) for name, inner in value.items()}
    if isinstance(value, list | tuple):
        return [_plain(inner) for inner in value]
    if isinstance(value, torch.Tensor):
        return _plain(value.tolist())
    return str(value) if isinstance(value, float) and not math.isfinite(value) else value
