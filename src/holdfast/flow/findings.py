"""What is wrong with the flow of gradients, rule by rule, and what to do about it: plain words from an observation."""

from __future__ import annotations

import math
import statistics
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

from holdfast.flow.growth import Growth, calendar_time
from holdfast.flow.observation import LayerFlow, Observation
from holdfast.gradients.norms import combine_norms

Kind = Literal[
    "not finite",
    "exploding through time",
    "exploding data",
    "exploding head",
    "vanishing",
    "short context",
    "saturated",
]

PATH = ("input", "recurrent", "bias")  # the roles that the adjoints of a recurrent layer lead to
GAIN = math.log(10.0)  # from this growth over all steps on, an adjoint counts as exploding
STEEP = 100.0  # from this norm on, a gradient that did not grow through time counts as exploding at its source
OUTLIER, MOST_OUTLIERS = 20.0, 1 / 8  # times the median window; of all windows, or they are no outliers
MAIN = 0.2  # of an adjoint, for a unit to be named
FLAT = 0.95  # of the steps, for a unit to count as saturated
FLAT_UNITS = {"relu": 0.9}  # of the units, for a layer to: half of all ReLU are off at any time


@dataclass(frozen=True)
class Advice:
    """One thing to do.

    Attributes:
        text: In words.
        evidence: What was measured that speaks for it.
        line: The line of Python that does it; the model is `model`, a batch is `x`, `y`, windows first.
        option: What to add to `holdfast fit`, or to change in the table; None where that does not apply.

    Example:
        >>> print(Advice("start orthogonal", "spectral radius 1.3", "init_recurrent_(model.rnn)", "--init orthogonal"))
        start orthogonal (spectral radius 1.3): init_recurrent_(model.rnn)
    """

    text: str
    evidence: str
    line: str
    option: str | None = None

    def __str__(self) -> str:
        return f"{self.text} ({self.evidence}): {self.line}"


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


@dataclass(frozen=True, kw_only=True)
class Setting:
    """What the caller knows beside the model.

    Attributes:
        reach: Steps back that the gradient should get to, a season for instance; None: a quarter of the steps.
        step_seconds: Duration of one recurrent step; None: steps are told without the calendar.
        history: Gradient norm by role of earlier steps.
        name_window: The words for a window of the batch.
    """

    reach: int | None
    step_seconds: float | None
    history: Sequence[Mapping[str, float]]
    name_window: Callable[[int], str]

    def steps(self, count: float) -> str:
        """A number of steps, with the time they take."""
        said = f"{count:g} step" + ("" if count == 1 else "s")
        return said if self.step_seconds is None else f"{said} ({calendar_time(count, self.step_seconds)})"

    def needed(self, lags: int) -> int:
        """Steps back that count as needed, of so many lags."""
        return max(lags // 4, 1) if self.reach is None else self.reach


def find_all(seen: Observation, setting: Setting) -> tuple[Finding, ...]:
    """Everything that is wrong, the cause before what follows from it; empty for a healthy model."""
    rules = (_not_finite, _exploding, _saturated, _outliers, _steep, _short_context, _vanishing)
    return tuple(finding for rule in rules for finding in rule(seen, setting))


def times(log_factor: float) -> str:
    """A factor from its natural logarithm, however large: "1.4x", "4.2e5x".

    Example:
        >>> times(math.log(1.4)), times(1000 * math.log(10)), times(-math.inf)
        ('1.4x', '1e1000x', '0x')
    """
    if not math.isfinite(log_factor):
        return "0x" if log_factor == -math.inf else f"{log_factor}x"
    if abs(log_factor) < math.log(1000):
        return f"{math.exp(log_factor):.2g}x" if log_factor < math.log(100) else f"{math.exp(log_factor):.0f}x"
    power = math.floor(log_factor / math.log(10))
    digits = f"{math.exp(log_factor - power * math.log(10)):.2g}"
    return f"1e{power + 1}x" if digits == "10" else f"{digits}e{power}x"


def peak(growth: Growth) -> tuple[int, float]:
    """The lag at which the mean adjoint is largest, and the log of its factor over lag 0 there."""
    mean = growth.per_lag.mean
    gains = [value - mean[0] if value > -math.inf < mean[0] else -math.inf for value in mean]
    lag = max(range(len(gains)), key=gains.__getitem__, default=0)
    return lag, gains[lag] if gains else -math.inf


_Worst = tuple[str, LayerFlow, int, float]


def _worst(seen: Observation) -> _Worst | None:
    """The layer whose adjoints grow most, with the lag and log factor of their peak."""
    found = [
        (name, layer, *peak(growth))
        for name, layer in seen.layers.items()
        for growth in (layer.h, layer.c)
        if growth is not None
    ]
    worst = max(found, key=lambda each: each[3], default=None)
    return worst if worst is not None and worst[3] > GAIN and worst[2] > 0 else None


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
        "leave these windows out", f"not finite: {said}", _without(names), "leave these values empty (missing)"
    )
    if place == "weights":
        text = f"The weights are not finite any more: {said}. Go back to weights that were saved before"
        yield Finding("not finite", text, (skip,))
    elif place == "inputs":
        yield Finding("not finite", f"The inputs of the recurrent layer are not finite, in {said}", (kept,))
    elif place == "states":
        norms = ", ".join(f"{one.name} {one.weight_norm:.3g}" for one in seen.parameters if one.role == "recurrent")
        text = f"The states overflow on their way forward, in {said}: the recurrence is not bounded (norm of {norms})"
        yield Finding("not finite", text, (_cap(seen, "its states leave the range of numbers"), skip))
    elif place == "loss" and windows:
        text = f"The loss is not finite in {said}, with states that are: the target, or the head at these windows"
        yield Finding("not finite", text, (kept, skip))
    elif place == "loss":
        text = f"The loss is {seen.loss}, with states that are finite: the cause is the target, the head or the loss"
        yield Finding("not finite", text, (skip,))
    elif place == "gradients" and _worst(seen) is None:
        text = f"The loss is finite and its gradient is not, in {said}; adjoints do not grow through time"
        text += ": a derivative inside the head or the loss is infinite (a root or a logarithm at 0)"
        yield Finding("not finite", text, (skip,))


def _exploding(seen: Observation, setting: Setting) -> Iterator[Finding]:
    worst = _worst(seen)
    if worst is None:
        return
    name, layer, lag, gain = worst
    text = (
        f"Exploding through time: the adjoint of {name} grows {math.exp(gain / lag):.3g}x per step over "
        f"{setting.steps(lag)}, {times(gain)} in all"
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
        f"; unit {unit} carries {100 * share:.0f} % of it" for unit, share in layer.units[:1] if share > 0.2
    )
    since = _since_start(setting.history, "head")
    if since is not None:
        text += f"; the output layer's gradient is {times(since)} what it was at the start"
    yield Finding("exploding through time", text, tuple(_calm(seen, setting, worst, evidence)))


def _calm(seen: Observation, setting: Setting, worst: _Worst, evidence: Sequence[str]) -> Iterator[Advice]:
    """What holds an explosion through time: a bound on the step, another start, or a bound on the recurrence."""
    name, layer, lag, gain = worst
    spectrum = seen.spectra.get(f"{name}.h")
    if layer.nonlinearity not in ("relu", "linear"):  # there states explode too, which no bound on a step can hold
        yield _clip(seen, setting, layer, lag, gain)
    if spectrum is None or max(spectrum.radius, spectrum.norm) > 1.05:
        line = f"init_recurrent_({_python(layer.module)})"
        yield Advice("start orthogonal", "; ".join(evidence), line, "--init orthogonal")
    if layer.kind == "RNN":
        yield _cap(seen, evidence[0])


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
    text = f"Exploding by its data: {names} makes {100 * share:.0f} % of the gradient, {times(top - middle)} the median"
    peaks = seen.window_peaks
    if len(peaks) == len(logs):
        usual = statistics.median(peaks)
        larger = peaks[far[0]] > 10 * usual
        text += f"; its largest input is {peaks[far[0]]:.3g}, of others {usual:.3g}"
        text += "" if larger else ": look at its target"
    evidence = f"{100 * share:.0f} % of the gradient"
    option = f"leave the outlying values of {names} empty (missing)"
    yield Finding("exploding data", text, (Advice("leave these windows out", evidence, _without(far), option),))


def _steep(seen: Observation, setting: Setting) -> Iterator[Finding]:
    roles = seen.role_norms()
    total = combine_norms(list(roles.values()))
    if _worst(seen) is not None or not STEEP < total < math.inf or any(_outliers(seen, setting)):
        return
    gains = [peak(layer.carrier)[1] for layer in seen.layers.values()]
    text = (
        f"Exploding in the head, not through time: the gradient has norm {total:.3g} at a loss of {seen.loss:.3g} "
        f"(head {roles.get('head', 0.0):.3g}, recurrent {roles.get('recurrent', 0.0):.3g}), and its way back through "
        f"time makes it {times(max(gains))} at most: the loss is steep, as of targets that are not scaled, or of a "
        "Gaussian whose sigma is far smaller than its errors"
    )
    line = "guard = GradientGuard(model, ClipNorm(1.0))"
    evidence = f"norm {total:.3g}; {times(max(gains))} through time"
    option = "--clip norm:1 --clip-roles all"
    yield Finding("exploding head", text, (Advice("clip all roles, the head too", evidence, line, option),))


def _short_context(seen: Observation, setting: Setting) -> Iterator[Finding]:
    longest = max((len(layer.carrier.per_lag.mean) for layer in seen.layers.values()), default=0)
    if setting.reach is not None and longest and setting.reach >= longest:
        wanted, fed = setting.steps(setting.reach), setting.steps(longest)
        text = f"The season lies beyond the context: {wanted} back, and {fed} are fed"
        evidence = f"{longest} steps against {setting.reach}"
        line = f"context_length = {2 * setting.reach}"
        yield Finding("short context", text, (Advice("feed two seasons", evidence, line, None),))


def _vanishing(seen: Observation, setting: Setting) -> Iterator[Finding]:
    flows = {name: layer for name, layer in seen.layers.items() if len(layer.carrier.per_lag.mean) > 1}
    if not flows or any(layer.carrier.memory_length is None for layer in flows.values()):
        return
    name, layer = max(flows.items(), key=lambda item: item[1].carrier.memory_length or 0)
    growth = layer.carrier
    lags, length = len(growth.per_lag.mean), growth.memory_length or 0
    needed = setting.needed(lags)
    if length > needed or needed >= lags:
        return
    wanted = "the season is" if setting.reach else "a quarter of the context is"
    text = (
        f"Vanishing through time: the adjoint of {name} goes back at {growth.rate:.3g}x per step, and after "
        f"{setting.steps(length)} {100 * (1 - growth.fraction):.0f} % of it is gone; {wanted} {setting.steps(needed)}"
    )
    yield Finding("vanishing", text, tuple(_remember(seen, name, layer, max(needed, 3))))


def _remember(seen: Observation, name: str, layer: LayerFlow, needed: int) -> Iterator[Advice]:
    """What gives a layer a longer memory."""
    place, evidence = _python(layer.module), f"{layer.carrier.rate:.3g}x per step"
    if layer.kind != "RNN":
        scheme = f"chrono:{2 * needed}"
        line = f'init_recurrent_({place}, scheme="{scheme}")'
        yield Advice("start with gates that remember so long", evidence, line, f"--init {scheme}")
        return
    spectrum = seen.spectra.get(f"{name}.h")
    start = {"sigmoid": "critical", "relu": "identity"}.get(layer.nonlinearity, "orthogonal")
    if spectrum is not None:
        evidence += f"; spectral radius {spectrum.radius:.3g}, spectral norm {spectrum.norm:.3g}"
    if spectrum is None or spectrum.departure > 0.1 * spectrum.norm or spectrum.radius < 0.95:
        line = f'init_recurrent_({place}, scheme="{start}")'
        yield Advice("start with a W that keeps the norm", evidence, line, f"--init {start}")
    scheme = f"chrono:{2 * needed}"
    sizes = f"{place}.input_size, {place}.hidden_size"
    line = f'lstm = init_recurrent_(torch.nn.LSTM({sizes}, batch_first=True), scheme="{scheme}")'
    yield Advice("take an LSTM, whose cell carries it", evidence, line, f"--cell lstm --init {scheme}")


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
        module = layer.module if layer is not None else ""
        scale = Advice("standardise the inputs", f"inputs reach {peak:.3g}", "x = (x - x.mean((0, 1))) / x.std((0, 1))")
        anew = Advice(
            "start anew, with smaller steps", f"{100 * flat:.0f} % {word}", f"init_recurrent_({_python(module)})"
        )
        yield Finding("saturated", text, (scale if peak > 10 else anew,))


def _clip(seen: Observation, setting: Setting, layer: LayerFlow, lag: int, gain: float) -> Advice:
    """A bound near the norm that the gradient would have if adjoints kept their size."""
    growth = layer.h if peak(layer.h) == (lag, gain) or layer.c is None else layer.c
    logs = [value - growth.per_lag.mean[0] for value in growth.per_lag.mean if value > -math.inf]
    top = max(logs)
    log_share = math.log(len(logs)) - top - math.log(sum(math.exp(log - top) for log in logs))
    norm = _path_norm(seen.role_norms())
    measured = 0 < norm < math.inf and not seen.by_readout
    bound = math.exp(math.log(norm) + log_share) if measured else 1.0
    known = [norm for norm in map(_path_norm, setting.history) if math.isfinite(norm)]
    if known:
        bound = min(bound, statistics.quantiles(known, n=10)[-1] if len(known) > 1 else known[0])
    bound = float(f"{bound or 1.0:.2g}")
    if known:
        share = sum(norm > bound for norm in known) / len(known)
        expected = f"expected clip fraction {100 * share:.0f} %, as of the last {len(known)} steps"
    else:
        expected = f"the norm is {norm:.3g} now" if math.isfinite(norm) else "the norm is not finite now"
    line = f"guard = GradientGuard(model, ClipNorm({bound:g}), roles={PATH})"
    option = f"--clip norm:{bound:g} --clip-roles {','.join(PATH)}"
    return Advice(f"clip what the adjoints lead to, all but the head, at {bound:g}", expected, line, option)


def _path_norm(role_norms: Mapping[str, float]) -> float:
    """Gradient norm of what adjoints lead to: U, W and b of recurrent layers take the same adjoints."""
    return combine_norms([role_norms.get(role, 0.0) for role in PATH])


def _cap(seen: Observation, evidence: str) -> Advice:
    """A bound on the recurrence itself, which is sufficient where the slope of the activation is at most 1."""
    module = seen.modules[0]
    line = f'constrain_recurrent_({_python(module)}, "cap:1")'
    return Advice("hold the spectral norm at 1, which rules growth out", evidence, line, "--constraint cap:1")


def _since_start(history: Sequence[Mapping[str, float]], role: str) -> float | None:
    """Natural log of the median norm of a role in the last tenth of the steps over that in the first."""
    norms = [each[role] for each in history if 0 < each.get(role, 0.0) < math.inf]
    tenth = len(norms) // 10
    if not tenth:
        return None
    return math.log(statistics.median(norms[-tenth:]) / statistics.median(norms[:tenth]))


def _python(module: str) -> str:
    return f'model.get_submodule("{module}")' if module else "model"


def _without(windows: Sequence[str | int]) -> str:
    kept = tuple(at for at in windows if isinstance(at, int))
    return f"keep = [b for b in range(len(x)) if b not in {kept}]; x, y = x[keep], y[keep]"


def _some(names: Sequence[str], most: int = 5) -> str:
    more = f" and {len(names) - most} more" if len(names) > most else ""
    return ", ".join(names[:most]) + more
