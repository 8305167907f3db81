"""Penalties on the flow of gradients through time, to be added to a loss: Pascanu's Omega, and gradient flossing.

B windows, T steps, D features, N hidden units, K exponents, S numbers in the state of one layer, R steps that count.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.utils import parametrize

from holdfast.errors import OptionError, Problem
from holdfast.flow.adjoints import no_call, propagate
from holdfast.flow.backward import Weights, forward
from holdfast.flow.capture import Track, captured, untouched
from holdfast.flow.cells import read_layer
from holdfast.flow.lyapunov import log_stretch
from holdfast.flow.scaled import Scaled


def omega(model: nn.Module, loss_fn: Callable[[], Tensor]) -> Tensor:
    """Pascanu's penalty: how far each step back through time is from keeping the norm of the adjoint that takes it.

    Omega = mean over t of (||dE/dx_t dx_t/dx_{t-1}|| / ||dE/dx_t|| - 1)^2, with x_t the state and dE/dx_t its total
    adjoint. Only the direction that the loss sends back is asked to keep its norm, where a bound on singular values
    asks all. As in the paper only the immediate derivative counts: x_{t-1}, the inputs of the step and dE/dx_t are
    constants, and the gradient goes to the weights in dx_t/dx_{t-1} alone: W, and U and b through slopes and gates.

    The mean is over windows, steps, layers and directions, so that a strength means the same for every batch and
    length; the paper writes a sum over steps, its code divides by their number. A step that no adjoint reaches, or
    that is padding of a packed sequence, counts nowhere; where none counts, Omega is 0 and so is its gradient.

    The state of an LSTM is (h_t, c_t), and its adjoint has two parts: dE/dh_t, and dE/dc_t with h_t held fixed (what
    h_t gets from c_t belongs to dx_t/dx_{t-1}); the norms are over both. Layers of a stack count by themselves: the
    way from one layer into the next is no step in time. Adjoints are computed as in `adjoints`, with norms that
    nothing overflows, and the model stays as it is.

    Args:
        model: As for `adjoints`: whatever holds recurrent layers or cells of torch.nn or holdfast.networks.
        loss_fn: Runs the model and returns the loss, one number with a graph; it calls no `backward`.

    Returns:
        A scalar with a graph to the weights of the recurrent layers, to add to the loss times a strength.

    Raises:
        OptionError: As for `adjoints`.

    Example:
        >>> layer = nn.RNN(1, 1, nonlinearity="relu", bias=False)
        >>> _ = [nn.init.constant_(weight, 3.0) for weight in layer.parameters()]
        >>> x_TBD = torch.ones(5, 1, 1)
        >>> penalty = omega(layer, lambda: layer(x_TBD)[0][-1].sum())
        >>> penalty.backward()
        >>> penalty.item(), layer.weight_hh_l0.grad.item()  # (3 - 1)^2 and 2 (3 - 1)
        (4.0, 4.0)

    Reference:
        Pascanu, Mikolov and Bengio, "On the difficulty of training recurrent neural networks", ICML 2013, section 3.3,
        eq. 9 and 10.
    """
    ratio_R = torch.cat(
        [
            _ratios(place.weights, track, source)
            for found in propagate(model, loss_fn)
            for place, track, source in zip(found.call.places, found.tracks, found.sources, strict=True)
        ]
    )
    return (ratio_R - 1).square().sum() / max(len(ratio_R), 1)


def _ratios(weights: Weights, track: Track, source: Scaled) -> Tensor:
    """||dE/dx_t dx_t/dx_{t-1}|| / ||dE/dx_t|| of all steps that count [R], as one batch of single steps."""
    alive_TB = source.mantissa.ne(0).any(-1)  # what is not a number counts, so that it shows
    alive_TB = alive_TB if track.mask_TB is None else alive_TB & track.mask_TB
    direction_RS = Scaled.of(source.mantissa[alive_TB]).direction()
    before = [torch.stack(part)[alive_TB] for part in zip(*track.states[:-1], strict=True)]
    with torch.enable_grad(), torch.autocast(direction_RS.device.type, enabled=False):
        _, (pull,) = forward(weights, track.x_TBX[alive_TB][None], before, None)
        ratio_R: Tensor = torch.linalg.vector_norm(pull(direction_RS)[2], dim=-1)
    return ratio_R


def flossing(
    layer: Any,
    x_BTD: Tensor,
    k: int,
    h0: Tensor | Sequence[Tensor] | None = None,
    *,
    warmup: int | None = None,
) -> Tensor:
    """Gradient flossing: the mean square of the k largest Lyapunov exponents of a layer along its inputs.

    (1/k) sum_i lambda_i^2, with lambda_i as `lyapunov_exponents` measures them, from the same frame and after the same
    warm-up, but with a graph through the QR decompositions, the Jacobians and the states, to the weights, inputs
    and first state. At 0 Jacobian products neither grow nor shrink along k directions, whatever the loss sends back.
    The frame goes from step to step as J_t Q, never as J_t itself. Computed in the number format of the layer, at
    least in float32; nothing of the layer is changed, and dropout between its layers is left out.

    Args:
        layer: An RNN, GRU or LSTM of torch.nn or holdfast.networks in one direction, or a cell of torch.nn.
        x_BTD: Inputs [B, T, D], whatever the layer's `batch_first`; see `layer_inputs`. A few windows do.
        k: How many exponents, 1 to M = L N, for an LSTM 2 L N. Time and memory grow as B T M N k.
        h0: The state before the first step as the layer takes it; zero by default.
        warmup: Steps not counted, fewer than T; a quarter of them by default.

    Returns:
        A scalar with a graph, to add to a loss times a strength; inf where a step puts out one of the k directions
        altogether, nan where inputs or weights are not finite.

    Raises:
        OptionError: Another kind of layer, inputs, state, k or warmup.

    Example:
        >>> layer = nn.RNN(1, 1, nonlinearity="relu", bias=False)
        >>> _ = nn.init.ones_(layer.weight_ih_l0), nn.init.constant_(layer.weight_hh_l0, 0.5)
        >>> penalty = flossing(layer, torch.ones(1, 8, 1), k=1)
        >>> penalty.backward()
        >>> penalty.sqrt(), layer.weight_hh_l0.grad / 2  # |log w| and log(w) / w
        (tensor(0.6931, grad_fn=<SqrtBackward0>), tensor([[-1.3863]]))

    Reference:
        Engelken, "Gradient flossing: improving gradient descent through dynamic control of Jacobians", NeurIPS 2023.
    """
    recurrence = read_layer(layer, live=True)
    if isinstance(x_BTD, Tensor) and not torch.isfinite(x_BTD).all():
        return x_BTD.new_full((), torch.nan)
    with torch.autocast(recurrence.weights[0][1].device.type, enabled=False):
        log_TBK, _ = log_stretch(recurrence, *recurrence.begin(x_BTD, h0), k, warmup)
        return log_TBK.mean((0, 1)).square().mean()


def layer_inputs(model: nn.Module, run: Callable[[], Any]) -> dict[str, Tensor]:
    """What the recurrent layers of a model read while it runs, as `flossing` takes it.

    Args:
        model: As for `adjoints`.
        run: Runs the model; what it returns does not matter. Modes that it sets are put back.

    Returns:
        x_BTD [B, T, D] of each call by the name of its layer, as constants, and for further calls of a layer "name#2"
        and so on. A cell reads one step.

    Raises:
        OptionError: As for `adjoints`; or a packed sequence, whose windows have no common length.

    Example:
        >>> model = nn.Sequential(nn.Linear(3, 2), nn.GRU(2, 4, batch_first=True))
        >>> x_BTD = layer_inputs(model, lambda: model(torch.ones(5, 7, 3)))["1"]
        >>> x_BTD.shape, flossing(model[1], x_BTD, k=2).requires_grad
        (torch.Size([5, 7, 2]), True)
    """
    with untouched(model), torch.enable_grad(), parametrize.cached(), captured(model) as calls:
        run()
    if not calls:
        raise OptionError(no_call("run"))
    counts: Counter[str] = Counter()
    found = {}
    for call in calls:
        if call.mask_TB is not None:
            where, fix = f"inputs of layer {call.module!r}", "give windows of one length as a plain tensor"
            raise OptionError(Problem(where, "a tensor", "a packed sequence", fix))
        counts[call.module] += 1
        suffix = f"#{counts[call.module]}" if counts[call.module] > 1 else ""
        found[call.module + suffix] = call.x_TBX.detach().transpose(0, 1)
    return found
