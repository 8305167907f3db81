"""What is wrong with the flow of gradients, rule by rule, and what to do about it: plain words from an observation."""

from __future__ import annotations

import math
import statistics
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Literal

from holdfast.flow.layers import LayerFlow
from holdfast.flow.observation import Observation
from holdfast.flow.remedies import (
    Advice,
    Setting,
    anew,
    bound,
    calm,
    path_norm,
    peak,
    remember,
    times,
    without,
    worst_of,
)
from holdfast.gradients.norms import combine_norms

Kind = Literal[
    "not finite",
    "exploding through time",
    "exploding data",
    "exploding head",
    "exploding states",
    "vanishing",
    "short context",
    "saturated",
]

STEEP = 100.0  # from this norm on, a gradient that did not grow through time counts as exploding at its source
OUTLIER, MOST_OUTLIERS = 20.0, 1 / 8  # times the median window; of all windows, or they are no outliers
MAIN = 0.2  # of an adjoint, for a unit to be named
FLAT = 0.95  # of the steps, for a unit to count as saturated
FLAT_UNITS = {"relu": 0.9}  # of the units, for a layer to: half of all ReLU are off at any time


@dataclass(frozen=True)
class Finding:
    """One thing that is wrong.

    Attributes:
        kind: In one or two words.
        text: In a sentence with its numbers.
        advice: What to do, the first thing first.

    Example:
        >>> Finding("vanishing", "Vanishing through time: after 3 steps 99 % of the gradient is gone.").advice
        ()
    """

    kind: Kind
    text: str
    advice: tuple[Advice, ...] = ()


def find_all(seen: Observation, setting: Setting) -> tuple[Finding, ...]:
    """Everything that is wrong, the cause before what follows from it; empty for a healthy model."""
    rules = (_not_finite, _exploding, _saturated, _outliers, _steep, _short_context, _vanishing)
    return tuple(finding for rule in rules for finding in rule(seen, setting))


def _not_finite(seen: Observation, setting: Setting) -> Iterator[Finding]:
    """The first place in the order of the computation that is not finite: what comes after follows from it."""
    place, names = next(iter(seen.broken.items()), ("", ()))
    windows = [setting.name_window(at) for at in names if isinstance(at, int)]
    said = _some([*windows, *(str(name) for name in names if not isinstance(name, int))])
    said = f"all {len(windows)} windows" if 1 < len(windows) == len(seen.window_peaks) else said
    skip = Advice(
        "let the guard leave such steps out, each costs one step then and no weight",
        f"not finite: {said}",
        "guard = GradientGuard(model, ClipNorm(1.0))",
    )
    kept = Advice(
        "leave these windows out", f"not finite: {said}", without(names), "leave these values empty (missing)"
    )
    every = len(windows) == len(seen.window_peaks)  # then nothing would be left
    if place == "weights":
        text = f"The weights are not finite any more: {said}. Go back to weights that were saved before"
        yield Finding("not finite", text, (skip,))
    elif place == "inputs":
        filled = replace(kept, text="fill what is missing, here with 0", line="x = x.nan_to_num(0.0, 0.0, 0.0)")
        text = f"The inputs of the recurrent layer are not finite, in {said}"
        yield Finding("not finite", text, (filled if every else kept,))
    elif place == "states":
        promise = "so that states grow by what is added to them alone"
        capped = bound(seen, seen.modules[0], "its states leave the range of numbers", promise)
        norms = ", ".join(f"{one.name} {one.weight_norm:.3g}" for one in seen.parameters if one.role == "recurrent")
        text = f"The states overflow on their way forward, in {said}: the recurrence is not bounded (norm of {norms})"
        yield Finding("not finite", text, (*capped, skip))
    elif place == "loss" and windows and not every:
        text = f"The loss is not finite in {said}, with states that are: the target, or the head at these windows"
        yield Finding("not finite", text, (kept, skip))
    elif place == "loss":
        text = f"The loss is {seen.loss}, with states that are finite: the cause is the target, the head or the loss"
        yield Finding("not finite", text, (skip,))
    elif place == "gradients" and worst_of(seen) is None:
        text = f"The loss is finite and its gradient is not, in {said}; adjoints do not grow through time"
        text += ": a derivative inside the head or the loss is infinite (a root or a logarithm at 0)"
        yield Finding("not finite", text, (skip,))


def _exploding(seen: Observation, setting: Setting) -> Iterator[Finding]:
    worst = worst_of(seen)
    if worst is None:
        return
    name, layer, lag, gain = worst
    text = (
        f"Exploding through time: the adjoint of {_part(name, layer.alone)} grows {math.exp(gain / lag):.3g}x per step "
        f"over {setting.steps(lag)}, {times(gain)} in all"
    )
    text += ", and its gradient leaves the range of numbers" if "gradients" in seen.broken else ""
    radius = seen.spectra.get(f"{name}.h")
    evidence = [f"{times(gain)} over {lag} steps"]
    if radius is not None:
        text += f"; spectral radius {radius.radius:.3g}, spectral norm {radius.norm:.3g}"
        evidence = [f"spectral radius {radius.radius:.3g}, spectral norm {radius.norm:.3g}", *evidence]
    exponent = seen.exponents.get(layer.module)
    if exponent is not None:
        text += f"; Lyapunov exponent {exponent.values[0].item():+.2g} per step"
    text += "".join(
        f"; unit {unit} carries {100 * share:.0f} % of it" for unit, share in layer.units[:1] if share > MAIN
    )
    since = _since_start(setting.history, "head")
    if since is not None:
        text += f"; the output layer's gradient is {times(since)} what it was at the start"
    yield Finding("exploding through time", text, tuple(calm(seen, setting, worst, evidence)))


def _outliers(seen: Observation, setting: Setting) -> Iterator[Finding]:
    logs = seen.window_norms
    if len(logs) < 4 or seen.by_readout or any(_saturated(seen, setting)):
        return
    middle = statistics.median(logs)
    far = sorted((b for b, log in enumerate(logs) if log > middle + math.log(OUTLIER)), key=lambda b: -logs[b])
    if not 0 < len(far) <= max(1, len(logs) * MOST_OUTLIERS):
        return
    top = max(logs)
    share = sum(math.exp(logs[b] - top) for b in far) / sum(math.exp(log - top) for log in logs)
    if share < 0.5:
        return
    names = _some([setting.name_window(b) for b in far])
    make, its = ("makes", "its") if len(far) == 1 else ("make", "the first one's")
    text = (
        f"Exploding by its data: {names} {make} {100 * share:.0f} % of the gradient, {times(top - middle)} the median"
    )
    peaks = seen.window_peaks
    if len(peaks) == len(logs):
        usual = statistics.median(peaks)
        larger = peaks[far[0]] > 10 * usual
        text += f"; {its} largest input is {peaks[far[0]]:.3g}, of others {usual:.3g}"
        text += "" if larger else f": look at {its} target"
    evidence = f"{100 * share:.0f} % of the gradient"
    option = f"leave the outlying values of {names} empty (missing)"
    yield Finding("exploding data", text, (Advice("leave these windows out", evidence, without(far), option),))


def _steep(seen: Observation, setting: Setting) -> Iterator[Finding]:
    roles = seen.role_norms()
    total = combine_norms(list(roles.values()))
    if worst_of(seen) is not None or not STEEP < total < math.inf or seen.broken or any(_outliers(seen, setting)):
        return
    gain = times(max(peak(each)[1] for layer in seen.layers.values() for each in layer.flows))
    arriving = 0.0 if seen.by_readout else max(_arriving(layer) for layer in seen.layers.values())
    measured = (
        f"the gradient has norm {total:.3g} at a loss of {seen.loss:.3g} (head {roles.get('head', 0.0):.3g}, recurrent "
        f"{roles.get('recurrent', 0.0):.3g}), and its way back through time makes it {gain} at most"
    )
    line = "guard = GradientGuard(model, ClipNorm(1.0))"
    clip = Advice(
        "clip all roles, the head too", f"norm {total:.3g}; {gain} through time", line, "--clip norm:1 --clip-roles all"
    )
    if arriving > STEEP or roles.get("head", 0.0) >= path_norm(roles):
        text = f"Exploding in the head, not through time: {measured}: the loss is steep, as of targets that are not "
        text += "scaled, of a sum over many windows, or of a Gaussian whose sigma is far smaller than its errors"
        yield Finding("exploding head", text, (clip,))
        return
    text = f"Exploding by its states: {measured}, and starts with {arriving:.3g}: the states or inputs that it meets "
    text += f"there are large, or add up over the steps; inputs reach {statistics.median(seen.window_peaks):.3g}"
    yield Finding("exploding states", text, (clip,))


def _arriving(layer: LayerFlow) -> float:
    """About the norm of the adjoints of all windows where they start."""
    mean = layer.through.per_lag.mean
    return math.sqrt(layer.through.windows) * math.exp(mean[0]) if mean else 0.0


def _short_context(seen: Observation, setting: Setting) -> Iterator[Finding]:
    longest = max((len(layer.carrier.per_lag.mean) for layer in seen.layers.values()), default=0)
    if setting.reach is not None and longest and setting.reach >= longest:
        wanted, fed = setting.steps(setting.reach), setting.steps(longest)
        text = f"The season lies beyond the context: {wanted} back, and {fed} are fed"
        evidence = f"{longest} steps against {setting.reach}"
        line = f"context_length = {2 * setting.reach}"
        yield Finding("short context", text, (Advice("feed two seasons", evidence, line, None),))


def _vanishing(seen: Observation, setting: Setting) -> Iterator[Finding]:
    # Where attention or a mean may join the steps that a loss reads, that is a way back in time too.
    judged = {name: layer.through if seen.apart else layer.carrier for name, layer in seen.layers.items()}
    # Layers side by side remember as long as the best of them. In a row, as encoder and decoder, the longest decides.
    longest = max((len(growth.per_lag.mean) for growth in judged.values()), default=0)
    flows = {name: growth for name, growth in judged.items() if len(growth.per_lag.mean) == longest}
    if longest < 2 or any(growth.memory_length is None for growth in flows.values()):
        return
    name, growth = max(flows.items(), key=lambda item: item[1].memory_length or 0)
    lags, length = len(growth.per_lag.mean), growth.memory_length or 0
    needed = setting.needed(lags)
    if length > needed or needed >= lags:
        return
    wanted = "the season is" if setting.reach else "a quarter of the context is"
    part = _part(name, seen.layers[name].alone if seen.apart else None)
    text = (
        f"Vanishing through time: the adjoint of {part} goes back at {growth.rate:.3g}x per step, and after "
        f"{setting.steps(length)} {100 * (1 - growth.fraction):.0f} % of it is gone; {wanted} {setting.steps(needed)}"
    )
    yield Finding("vanishing", text, tuple(remember(seen, name, seen.layers[name], max(needed, 3))))


def _saturated(seen: Observation, setting: Setting) -> Iterator[Finding]:
    del setting
    for name, share_N in seen.flat.items():
        flat = (share_N >= FLAT).double().mean().item()
        layer = next((each for key, each in seen.layers.items() if name.startswith(f"{key}.")), None)
        most = FLAT_UNITS.get(layer.nonlinearity if layer is not None else "", 0.5)
        if name.rpartition(".")[2] not in ("h", "n", "g") or flat < most:
            continue
        word = "dead (never active)" if layer is not None and layer.nonlinearity == "relu" else "saturated"
        peak = statistics.median(seen.window_peaks)
        text = f"{100 * flat:.0f} % of the units of {name} are {word}, and pass nothing back; inputs reach {peak:.3g}"
        line = "x = (x - x.mean((0, 1))) / x.std((0, 1)).clamp_min(1e-6)"
        scale = Advice("standardise the inputs", f"inputs reach {peak:.3g}", line)
        again = anew(seen, name.rpartition(".")[0].rpartition(".")[0], f"{100 * flat:.0f} % {word}")
        yield Finding("saturated", text, (scale,) if peak > 10 else tuple(again))


def _part(name: str, alone: object) -> str:
    return name if alone is None else f"{name}, from the newest step alone,"


def _since_start(history: Sequence[Mapping[str, float]], role: str) -> float | None:
    """Natural log of the median norm of a role in the last tenth of the steps over that in the first."""
    norms = [each[role] for each in history if 0 < each.get(role, 0.0) < math.inf]
    tenth = len(norms) // 10
    if not tenth:
        return None
    return math.log(statistics.median(norms[-tenth:]) / statistics.median(norms[:tenth]))


def _some(names: Sequence[str], most: int = 5) -> str:
    more = f" and {len(names) - most} more" if len(names) > most else ""
    return ", ".join(names[:most]) + more
