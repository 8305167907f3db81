"""Everything that one look at a model and its loss measures, before anybody calls it good or bad.

B windows, T steps, F horizon steps, N hidden units, L layers, X features that enter a layer, H outputs.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.utils import parametrize

from holdfast.errors import OptionError, Problem
from holdfast.flow.adjoints import Adjoints, check_loss, propagated, steps_read
from holdfast.flow.capture import Call, captured, untouched
from holdfast.flow.cells import read_layer
from holdfast.flow.jacobians import saturation
from holdfast.flow.layers import LayerFlow, layer_flow
from holdfast.flow.lyapunov import LyapunovExponents, lyapunov_exponents
from holdfast.flow.spectra import Spectrum, spectra
from holdfast.gradients.norms import combine_norms, tensor_norms
from holdfast.gradients.roles import Role, find_roles

MOST_PARTS = 8  # windows, and horizon steps, whose own gradients are measured: one backward pass each
MOST_WORK = 3e11  # weights, times steps of all windows, of all these passes; but two of each are always taken
MOST_ALONG = (8, 64, 512)  # windows, last steps, and numbers in the state, for what is measured along the states


@dataclass(frozen=True)
class ParameterGradient:
    """One parameter and the gradient of the loss there.

    Attributes:
        name: As in `model.named_parameters()`.
        role: As `find_roles` tells it.
        weight_norm: Euclidean norm of the parameter.
        gradient_norm: Of its gradient; 0 where the loss does not depend on it, nan or inf where it is not finite.
    """

    name: str
    role: Role
    weight_norm: float
    gradient_norm: float


@dataclass(frozen=True, eq=False)
class Observation:
    """What one look at a model and its loss measured.

    Attributes:
        loss: Mean loss.
        by_readout: Whether adjoints are those of a fixed random readout of the newest state, because none reached the
            recurrence from the loss itself, or the loss was not finite.
        steps_read: The most steps of any window that the loss reads itself, past the recurrence; 1 where a head reads
            the newest state.
        apart: Whether each horizon step reads one of them: the loss is unreduced, and its last step shows it.
        modules: Names of the recurrent modules that were called.
        parameters: Each with its gradient.
        broken: What is not finite, by place in the order of the computation: "weights", "inputs", "states", "loss",
            "gradients"; each with the names, or windows, concerned.
        layers: By name as `adjoints` gives it; empty where inputs, weights or states are not finite.
        spectra: By layer and gate: "rnn.l0.h".
        flat: Share of steps at which each unit passes next to nothing back [N], by layer and gate.
        exponents: The largest Lyapunov exponent by module.
        window_norms: Natural log of the norm of all adjoints of each window.
        window_peaks: Largest |input| of each window.
        window_gradients: Gradient norm of the loss of single windows, those with the largest adjoints; empty for a
            loss that is one number.
        horizon_gradients: Gradient norm of the loss of single horizon steps; empty unless the loss is [B, F].
        left_out: What could not be measured, and why.
    """

    loss: float
    by_readout: bool
    steps_read: int
    apart: bool
    modules: tuple[str, ...]
    parameters: tuple[ParameterGradient, ...]
    broken: Mapping[str, tuple[str | int, ...]]
    layers: Mapping[str, LayerFlow]
    spectra: Mapping[str, Spectrum]
    flat: Mapping[str, Tensor]
    exponents: Mapping[str, LyapunovExponents]
    window_norms: tuple[float, ...]
    window_peaks: tuple[float, ...]
    window_gradients: Mapping[int, float]
    horizon_gradients: Mapping[int, float]
    left_out: tuple[str, ...]

    def role_norms(self) -> dict[str, float]:
        """Gradient norm by role."""
        roles = dict.fromkeys(one.role for one in self.parameters)
        return {
            role: combine_norms([one.gradient_norm for one in self.parameters if one.role == role]) for role in roles
        }


def observe(
    model: nn.Module, loss_fn: Callable[[], Tensor], overrides: Mapping[str, Role] | None = None
) -> Observation:
    """Look at a model once: two calls of `loss_fn`, and some backward passes. Nothing about the model changes.

    Args:
        model: What holds the recurrent layers.
        loss_fn: Runs the model and returns the loss: one number, or unreduced [B] or [B, F], whose mean it is.
        overrides: Roles, see `find_roles`.

    Raises:
        OptionError: As `adjoints` raises it.
    """
    broken: dict[str, tuple[str | int, ...]] = {}
    named = dict(model.named_parameters())
    weights = tuple(name for name, weight in named.items() if not torch.isfinite(weight).all())
    with untouched(model), torch.enable_grad(), parametrize.cached():
        with captured(model) as calls:
            losses = loss_fn()
        loss = losses.mean() if isinstance(losses, Tensor) and losses.numel() else losses
        check_loss(loss, calls)
        _note(broken, "weights", weights)
        _note(broken, "inputs", _broken_windows([call.x_TBX for call in _first(calls)], by_window=1))
        _note(broken, "states", () if broken else _broken_windows([call.leaves[0] for call in calls], by_window=1))
        _note(broken, "loss", _broken_windows([losses], by_window=0) if losses.dim() else ("loss",) * _bad(loss))
        found: dict[str, Adjoints] = {}
        by_readout = False
        alone = _Alone(1, False, {})
        if not broken.keys() & {"weights", "inputs", "states"}:
            found, by_readout = _adjoints(loss, calls)
            alone = alone if by_readout else _Alone.of(losses, loss, calls)
    gradients = _Gradients.of(model, loss_fn, named, sum(call.x_TBX[..., 0].numel() for call in calls))
    _note(broken, "gradients", tuple(name for name, norm in gradients.by_name.items() if not math.isfinite(norm)))
    window_norms = _window_norms(found)
    along = _Along({}, {}, {}, ()) if weights else _Along.of(model, calls, with_states=bool(found))
    windows, horizon = gradients.parts(() if by_readout else window_norms) if not broken else ({}, {})
    roles = find_roles(model, overrides)
    return Observation(
        loss=loss.item(),
        by_readout=by_readout,
        steps_read=alone.steps_read,
        apart=alone.apart,
        modules=tuple(dict.fromkeys(call.module for call in calls)),
        parameters=tuple(
            ParameterGradient(name, roles[name], norm, gradients.by_name.get(name, 0.0))
            for name, norm in zip(named, tensor_norms([weight.detach() for weight in named.values()]), strict=True)
        ),
        broken=broken,
        layers={name: layer_flow(model, each, alone.found.get(name), calls, name) for name, each in found.items()},
        spectra=along.spectra,
        flat=along.flat,
        exponents=along.exponents,
        window_norms=window_norms,
        window_peaks=_window_peaks(calls),
        window_gradients=windows,
        horizon_gradients=horizon,
        left_out=along.left_out,
    )


def _note(broken: dict[str, tuple[str | int, ...]], place: str, names: tuple[str | int, ...]) -> None:
    if names:
        broken[place] = names


def _bad(value: Tensor) -> int:
    return int(not torch.isfinite(value).all())


def _first(calls: Sequence[Call]) -> list[Call]:
    """The calls that read what the first one of them reads: data, and not what another layer made of them."""
    return [call for call in calls if call.module == calls[0].module]


def _broken_windows(tensors: Sequence[Tensor], by_window: int) -> tuple[int, ...]:
    """The windows with a value that is not finite; dimension `by_window` counts them."""
    found: set[int] = set()
    for tensor in tensors:
        flat = tensor.detach().movedim(by_window, 0).flatten(1) if tensor.dim() > 1 else tensor.detach()[:, None]
        found |= set((~torch.isfinite(flat).all(1)).nonzero().flatten().tolist())
    return tuple(sorted(found))


def _adjoints(loss: Tensor, calls: Sequence[Call]) -> tuple[dict[str, Adjoints], bool]:
    """Adjoints of the loss, or of a readout where the loss has none that say anything."""
    found = propagated(loss, calls) if torch.isfinite(loss) else {}
    log_norms = torch.cat([each.log_norm_BT[each.mask_BT] for each in found.values()]) if found else torch.empty(0)
    if len(log_norms) and not log_norms.isnan().any() and (log_norms > -math.inf).any():
        return found, False
    return propagated(_readout(calls[-1]), calls), True


def _readout(call: Call) -> Tensor:
    """A fixed random weighting of the newest state of each window."""
    y_TBH = call.leaves[0]
    generator = torch.Generator("cpu").manual_seed(0)
    weight_BH = torch.randn(y_TBH.shape[1:], generator=generator, device="cpu").to(y_TBH)
    last_B = torch.full((y_TBH.shape[1],), len(y_TBH) - 1, device=y_TBH.device)
    last_B = last_B if call.mask_TB is None else call.mask_TB.sum(0) - 1
    newest_BH = y_TBH[last_B, torch.arange(len(last_B), device=y_TBH.device)]
    return (newest_BH * weight_BH).sum()


@dataclass(frozen=True, eq=False)
class _Alone:
    """What the recurrence makes of the newest step that the loss reads, where it reads several."""

    steps_read: int
    apart: bool
    found: Mapping[str, Adjoints]

    @classmethod
    def of(cls, losses: Tensor, loss: Tensor, calls: Sequence[Call]) -> _Alone:
        read = steps_read(loss, calls)
        if read < 2:
            return cls(read, False, {})
        last = loss
        if losses.dim() > 1:
            losses_BF = losses.flatten(1)
            weighing = losses_BF.detach().any(0).nonzero().flatten().tolist()  # not where all targets are missing
            last = losses_BF[:, weighing[-1]].mean() if weighing else loss
        apart = last is not loss and steps_read(last, calls) == 1
        return cls(read, apart, propagated(last, calls, newest=True))


def _window_norms(found: Mapping[str, Adjoints]) -> tuple[float, ...]:
    """Natural log of the norm over steps and layers, where all layers count the same windows."""
    counts = {len(each.log_norm_BT) for each in found.values()}
    if len(counts) != 1:
        return ()
    logs = [each.log_norm_BT.masked_fill(~each.mask_BT, -math.inf) for each in found.values()]
    return tuple((torch.cat([2 * log.cpu() for log in logs], 1).logsumexp(1) / 2).tolist())


def _window_peaks(calls: Sequence[Call]) -> tuple[float, ...]:
    first = [call.x_TBX.detach().abs() for call in _first(calls) if call.x_TBX.shape[1] == calls[0].x_TBX.shape[1]]
    return tuple(torch.stack([x_TBX.amax((0, 2)) for x_TBX in first]).amax(0).tolist())


@dataclass(frozen=True, eq=False)
class _Gradients:
    """Gradients of a loss by name, and of its parts."""

    losses: Tensor
    weights: tuple[Tensor, ...]
    by_name: Mapping[str, float]
    work: int

    @classmethod
    def of(
        cls, model: nn.Module, loss_fn: Callable[[], Tensor], named: Mapping[str, nn.Parameter], steps: int
    ) -> _Gradients:
        trained = {name: weight for name, weight in named.items() if weight.requires_grad}
        with untouched(model), torch.enable_grad():
            losses = loss_fn()
        norms = _norms(losses.mean(), tuple(trained.values()))
        weights = tuple(trained.values())
        work = steps * sum(weight.numel() for weight in weights)
        return cls(losses, weights, dict(zip(trained, norms, strict=True)), work)

    def parts(self, window_norms: Sequence[float]) -> tuple[dict[int, float], dict[int, float]]:
        """Gradient norms of the mean loss of single windows and of single horizon steps, as far as it is unreduced.

        Of the windows those with the largest `window_norms`, or where these are not known the largest losses.
        """
        if self.losses.dim() == 0:
            return {}, {}
        losses_BF = self.losses.flatten(1) if self.losses.dim() > 1 else self.losses[:, None]
        B, F = losses_BF.shape
        most = max(2, min(MOST_PARTS, int(MOST_WORK / max(self.work, 1) / 2)))
        sizes = list(window_norms) if len(window_norms) == B else losses_BF.detach().mean(1).tolist()
        order = sorted(range(B), key=sizes.__getitem__, reverse=True)
        windows = {b: self._norm(losses_BF[b]) for b in order[:most]}
        steps = sorted({round(k * (F - 1) / (most - 1)) for k in range(most)}) if F > 1 else []
        return windows, {f + 1: self._norm(losses_BF[:, f]) for f in steps}

    def _norm(self, losses: Tensor) -> float:
        return combine_norms(_norms(losses.mean(), self.weights))


def _norms(loss: Tensor, weights: Sequence[Tensor]) -> list[float]:
    if not weights or not loss.requires_grad:  # all weights that it depends on are frozen
        return [0.0] * len(weights)
    grads = torch.autograd.grad(loss, weights, retain_graph=True, allow_unused=True)
    there = [k for k, grad in enumerate(grads) if grad is not None]
    norms = dict(zip(there, tensor_norms([grad for grad in grads if grad is not None]), strict=True))
    return [norms.get(k, 0.0) for k in range(len(grads))]


@dataclass(frozen=True, eq=False)
class _Along:
    """What is measured of each recurrent module by itself, along the inputs that it got."""

    spectra: dict[str, Spectrum]
    flat: dict[str, Tensor]
    exponents: dict[str, LyapunovExponents]
    left_out: tuple[str, ...]

    @classmethod
    def of(cls, model: nn.Module, calls: Sequence[Call], with_states: bool) -> _Along:
        left_out: list[str] = []
        found = cls({}, {}, {}, ())
        with untouched(model):
            model.eval()  # nothing is dropped between the layers of a stack
            for name, layer in _modules(model, calls).items():
                try:
                    found._of_weights(name, layer)
                    if with_states:
                        found._of_states(name, layer, [call for call in calls if call.module == name])
                except OptionError as error:
                    left_out += [f"not measured for {name or 'the layer'}: {each.got}" for each in error.problems]
        return cls(found.spectra, found.flat, found.exponents, tuple(left_out))

    def _of_weights(self, name: str, layer: Any) -> None:
        for (place, gate), each in spectra(layer).items():
            self.spectra[f"{name}.{place}.{gate}".removeprefix(".")] = each

    def _of_states(self, name: str, layer: Any, own: Sequence[Call]) -> None:
        x_BTX, starts = _sequence(layer, own)
        for (place, gate), share_N in saturation(layer, x_BTX, starts).items():
            self.flat[f"{name}.{place}.{gate}".removeprefix(".")] = share_N
        if (size := read_layer(layer).size) > MOST_ALONG[2]:
            expected, fix = f"at most {MOST_ALONG[2]} numbers in the state", "call lyapunov_exponents for a few windows"
            raise OptionError(Problem("Lyapunov exponent", expected, f"a state of {size} numbers", fix))
        self.exponents[name] = lyapunov_exponents(layer, x_BTX, k=1, h0=starts)


def _modules(model: nn.Module, calls: Sequence[Call]) -> dict[str, nn.Module]:
    modules = dict(model.named_modules())
    return {name: modules[name] for name in dict.fromkeys(call.module for call in calls)}


def _sequence(layer: Any, own: Sequence[Call]) -> tuple[Tensor, tuple[Tensor, ...]]:
    """The last steps of some windows, and the state before them, from the calls of one module."""
    windows, steps, _ = MOST_ALONG
    first = max(own, key=lambda call: len(call.x_TBX))
    x_TBX = first.x_TBX
    if len(x_TBX) == 1:  # a loop over steps
        own = [call for call in own if call.x_TBX.shape[1] == x_TBX.shape[1]]
        first, x_TBX = own[0], torch.cat([call.x_TBX for call in own])
    whole = slice(None) if first.mask_TB is None else first.mask_TB.all(0)
    x_BTX = x_TBX.detach()[:, whole][:, :windows].transpose(0, 1)
    starts = tuple(start.detach()[:, whole][:, :windows] for start in first.starts)
    if x_BTX.shape[1] > steps:
        _, starts = list(read_layer(layer).states(x_BTX, starts))[-steps]
    return x_BTX[:, -steps:], starts
