"""What to do about the flow of gradients: one line of Python or option of a fit each, with what speaks for it."""

from __future__ import annotations

import math
import statistics
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass

from holdfast.flow.growth import Growth, calendar_time
from holdfast.flow.layers import LayerFlow, python
from holdfast.flow.observation import Observation
from holdfast.gradients.norms import combine_norms

PATH = ("input", "recurrent", "bias")  # the roles that the adjoints of a recurrent layer lead to
GAIN = math.log(10.0)  # from this growth over all steps on, an adjoint counts as exploding


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


Worst = tuple[str, LayerFlow, int, float]


def worst_of(seen: Observation) -> Worst | None:
    """The layer that makes adjoints grow, with the lag and log factor of their peak.

    A layer hands on its growth to the layers below: of these one counts only if it grows more than tenfold beyond that.
    """
    worst: Worst | None = None
    for name, layer in reversed(tuple(seen.layers.items())):
        lag, gain = max(map(peak, layer.flows), key=lambda found: found[1])
        if lag > 0 and gain > GAIN + (0.0 if worst is None else worst[3]):
            worst = name, layer, lag, gain
    return worst


def calm(seen: Observation, setting: Setting, worst: Worst, evidence: Sequence[str]) -> Iterator[Advice]:
    """What holds an explosion through time: a bound on the step, another start, or a bound on the recurrence."""
    name, layer, lag, gain = worst
    free = _free(seen, layer.module)
    spectrum = seen.spectra.get(f"{name}.h")
    if layer.nonlinearity not in ("relu", "linear"):  # there states explode too, which no bound on a step can hold
        yield _clip(seen, setting, layer, lag, gain)
    if free is not None and (spectrum is None or max(spectrum.radius, spectrum.norm) > 1.05):
        line = f"{free}init_recurrent_({python(layer.module)})"
        yield Advice("start orthogonal", "; ".join(evidence), line, "--init orthogonal")
    if layer.kind == "RNN":
        # A stack, or a loop that feeds its outputs back, has ways from state to state beside W.
        alone = len(seen.layers) == 1 and "Cell" not in layer.lstm
        promise = "which rules growth out" if alone else "so that W itself lets nothing grow"
        yield from bound(seen, layer.module, evidence[0], promise)


def remember(seen: Observation, name: str, layer: LayerFlow, needed: int) -> Iterator[Advice]:
    """What gives a layer a longer memory."""
    place, evidence, free = python(layer.module), f"{layer.through.rate:.3g}x per step", _free(seen, layer.module)
    if layer.kind != "RNN":
        scheme = f"chrono:{2 * needed}"
        line = f'{free}init_recurrent_({place}, scheme="{scheme}")'
        if free is not None:
            yield Advice("start with gates that remember so long", evidence, line, f"--init {scheme}")
        return
    spectrum = seen.spectra.get(f"{name}.h")
    start = {"sigmoid": "critical", "relu": "identity"}.get(layer.nonlinearity, "orthogonal")
    if spectrum is not None:
        evidence += f"; spectral radius {spectrum.radius:.3g}, spectral norm {spectrum.norm:.3g}"
    unlike = spectrum is None or spectrum.departure > 0.1 * spectrum.norm or spectrum.radius < 0.95
    if free is not None and unlike:
        line = f'{free}init_recurrent_({place}, scheme="{start}")'
        yield Advice("start with a W that keeps the norm", evidence, line, f"--init {start}")
    scheme = f"chrono:{2 * needed}"
    line = f'lstm = init_recurrent_({layer.lstm}, scheme="{scheme}")'
    yield Advice("take an LSTM, whose cell carries it", evidence, line, f"--cell lstm --init {scheme}")


def _clip(seen: Observation, setting: Setting, layer: LayerFlow, lag: int, gain: float) -> Advice:
    """A bound near the norm that the gradient would have if adjoints kept their size."""
    growth = next(each for each in layer.flows if peak(each) == (lag, gain))
    logs = [value - growth.per_lag.mean[0] for value in growth.per_lag.mean if value > -math.inf]
    top = max(logs)
    log_share = math.log(len(logs)) - top - math.log(sum(math.exp(log - top) for log in logs))
    norm = path_norm(seen.role_norms())
    measured = 0 < norm < math.inf and not seen.by_readout
    bound = math.exp(math.log(norm) + log_share) if measured else 1.0
    known = [norm for norm in map(path_norm, setting.history) if math.isfinite(norm)]
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


def path_norm(role_norms: Mapping[str, float]) -> float:
    """Gradient norm of what adjoints lead to: U, W and b of recurrent layers take the same adjoints."""
    return combine_norms([role_norms.get(role, 0.0) for role in PATH])


def bound(seen: Observation, module: str, evidence: str, promise: str) -> Iterator[Advice]:
    """A bound on the recurrence itself, which is sufficient where the slope of the activation is at most 1."""
    free = _free(seen, module)
    if free is not None:
        line = f'{free}constrain_recurrent_({python(module)}, "cap:1")'
        yield Advice(f"hold the spectral norm at 1, {promise}", evidence, line, "--constraint cap:1")


def anew(seen: Observation, module: str, evidence: str) -> Iterator[Advice]:
    """Other weights, where training has spoilt these."""
    free = _free(seen, module)
    if free is not None:
        yield Advice("start anew, with smaller steps", evidence, f"{free}init_recurrent_({python(module)})")


def _free(seen: Observation, module: str) -> str | None:
    """The Python that makes recurrent weights free; empty where they are, None where others hold them than torch.nn."""
    place = f"{module}." if module else ""
    own = [one.name.removeprefix(place).split(".") for one in seen.parameters if one.name.startswith(place)]
    if any(path[0] in ("weight_hh", "weight_hh_l0") for path in own):
        return ""
    remove = f"torch.nn.utils.parametrize.remove_parametrizations({python(module)}, name)"
    held = any(path[0] == "parametrizations" and path[1].startswith("weight_hh") for path in own)
    return f"[{remove} for name in list({python(module)}.parametrizations)]; " if held else None


def without(windows: Sequence[str | int]) -> str:
    """The Python that leaves windows out of a batch."""
    kept = tuple(at for at in windows if isinstance(at, int))
    return f"keep = [b for b in range(len(x)) if b not in {kept}]; x, y = x[keep], y[keep]"
