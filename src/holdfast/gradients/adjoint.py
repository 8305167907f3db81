"""Clip the adjoint dL/dh_t at every step of backpropagation through time, and record what that does to the gradient.

B windows, T steps, D features, N hidden units, L layers times directions.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any, final

import torch
from torch import Tensor, nn
from torch.autograd.function import once_differentiable

from holdfast.errors import OptionError, Problem
from holdfast.gradients.rules import ClipNorm, ClipValue
from holdfast.gradients.unrolled import Unrolled, layer_problem


@dataclass(frozen=True)
class AdjointResult:
    """What clipping adjoints did in one backward pass. The gradients are those of all weights of the layer.

    Attributes:
        clip_fraction: Share of adjoints that were clipped; an adjoint is one dL/dh_t of one layer, step and window,
            and counts if it is finite.
        layer_fractions: The same by layer and direction: `l0`, `l0_reverse`, `l1`, ...
        exact_norm: Euclidean norm of the exact gradient.
        clipped_norm: Euclidean norm of the gradient from clipped adjoints.
        cosine: Cosine between both gradients; nan where one of them is 0 or not finite.
        flipped: Share of weights whose two gradients point in opposite directions.

    Example:
        >>> AdjointResult(0.5, {"l0": 0.5}, 9.0, 1.0, cosine=0.8, flipped=0.0).cosine
        0.8
    """

    clip_fraction: float
    layer_fractions: Mapping[str, float]
    exact_norm: float
    clipped_norm: float
    cosine: float
    flipped: float


@dataclass(frozen=True)
class AdjointSummary:
    """What clipping adjoints did in all backward passes so far. Shares and means are nan where there is nothing yet.

    Attributes:
        backwards: Backward passes seen.
        distorted: Backward passes in which an adjoint was clipped.
        clip_fraction: Share of all finite adjoints that were clipped.
        layer_fractions: The same by layer and direction.
        cosine_mean: Mean cosine between the exact gradient and the one from clipped adjoints, where there is one.
        cosine_min: The lowest of these cosines.
        flipped: Mean share of weights whose gradient changed its sign.

    Example:
        >>> print(AdjointSummary(40, 10, 0.125, {"l0": 0.125}, 0.9, -0.25, 0.03))
        12.5 % of adjoints clipped, in 10 of 40 backward passes; this changes the direction of the gradient: cosine 0.9
        on average, -0.25 at worst; 3 % of its signs flipped
    """

    backwards: int
    distorted: int
    clip_fraction: float
    layer_fractions: Mapping[str, float]
    cosine_mean: float
    cosine_min: float
    flipped: float

    def __str__(self) -> str:
        return (
            f"{100 * self.clip_fraction:.3g} % of adjoints clipped, in {self.distorted} of {self.backwards} backward "
            f"passes; this changes the direction of the gradient: cosine {self.cosine_mean:.3g} on average, "
            f"{self.cosine_min:.3g} at worst; {100 * self.flipped:.3g} % of its signs flipped"
        )


@final
class ClipAdjoint(nn.Module):
    """A recurrent layer whose adjoints are clipped in the middle of backpropagation, at each step, window by window.

    With a_t = dL/dh_t, total, that is from the output at t and from step t+1 (whose own adjoint is already clipped):
    a_t <- a_t * min(1, max_norm / ||a_t||_p) for `ClipNorm`, each value into [-max_value, max_value] for `ClipValue`.
    An adjoint that is not finite stays as it is, for whoever guards the update to see. The cell c_t of an LSTM has no
    bound of its own: dc_t/dc_{t-1} is a forget gate and at most 1, so every explosion passes through some h_t.

    This changes the direction of the weights' gradient, not only its length: the sum over steps and windows is made of
    terms that were shortened by different factors, and may even change its sign. Clipping once before the update, with
    a `GradientGuard`, keeps the direction and is the better default. So every backward pass in training mode also
    computes the exact gradient, and `last` and `summary()` tell how far apart the two are.

    Outputs are the layer's own, bit for bit; where no adjoint passes the bound, gradients are too. In evaluation mode
    nothing is clipped. The backward pass repeats the layer step by step and takes a few times as long.

    Args:
        layer: A `torch.nn.RNN`, `GRU` or `LSTM`, or one of `holdfast.networks`, also with parametrised weights.
        rule: The bound on each adjoint, in units of the loss as it is backpropagated: a mean over B windows makes
            adjoints B times smaller than a sum, and a loss scale makes them larger by its factor.

    Raises:
        OptionError: The layer is none of these or has projections or dropout, or the rule is none.

    Example:
        >>> _ = torch.manual_seed(0)
        >>> layer = ClipAdjoint(nn.GRU(1, 8), ClipNorm(0.1))
        >>> h_TBN, h_LBN = layer(torch.randn(20, 4, 1))
        >>> h_TBN.sum().backward()
        >>> layer.last.clip_fraction, 0 < layer.last.cosine < 1
        (1.0, True)

    Reference:
        Mikolov, "Statistical language models based on neural networks", PhD thesis, Brno 2012: by value, in his
        RNNLM toolkit at dL/dh_t. Graves, "Generating sequences with recurrent neural networks", arXiv 1308.0850, 2013:
        by value, at the inputs of the gates instead of h_t. Pascanu, Mikolov and Bengio, "On the difficulty of
        training recurrent neural networks", ICML 2013: once before the update, all gradients by one factor.
    """

    def __init__(self, layer: nn.Module, rule: ClipNorm | ClipValue) -> None:
        super().__init__()
        problems = [problem for problem in (layer_problem(layer), _rule_problem(rule)) if problem]
        if problems:
            raise OptionError(problems)
        self.layer = layer
        self.rule = rule
        self.last: AdjointResult | None = None
        self._unrolled = Unrolled.of(layer)
        self._tally = _Tally(self._unrolled.places)

    def extra_repr(self) -> str:
        """The rule, as it is written in a call."""
        return f"rule={self.rule!r}"

    def forward(self, x: Tensor, state: Any = None) -> tuple[Tensor, Any]:
        """Run the layer.

        Args:
            x: Inputs, three-dimensional, laid out as the layer wants them.
            state: State before the first step, as the layer wants it; zero by default.

        Returns:
            What the layer returns.

        Raises:
            OptionError: The inputs are a packed sequence or have no dimension for windows.

        Example:
            >>> layer = nn.LSTM(1, 8)
            >>> x_TBD = torch.randn(20, 4, 1)
            >>> torch.equal(ClipAdjoint(layer, ClipValue(0.1))(x_TBD)[0], layer(x_TBD)[0])
            True
        """
        if not isinstance(x, Tensor) or x.dim() != 3:
            got = f"a tensor {list(x.shape)}" if isinstance(x, Tensor) else type(x).__name__
            fix = "pad the windows, or add a dimension for a single one"
            raise OptionError(Problem("input of ClipAdjoint", "a tensor of windows, steps and features", got, fix))
        h, final = self.layer(x, state)
        if not (self.training and h.requires_grad):
            return h, final
        finals = final if isinstance(final, tuple) else (final,)
        starts = [torch.zeros_like(part) for part in finals] if state is None else state
        starts = list(starts) if isinstance(starts, list | tuple) else [starts]
        # By name, after the run: a parametrisation may stand in for a parameter.
        weights = [getattr(self.layer, name) for name in self._unrolled.weights]
        h, *finals = _Detour.apply(self, 1 + len(finals), h, *finals, x, *starts, *weights)  # type: ignore[no-untyped-call]
        return h, tuple(finals) if isinstance(final, tuple) else finals[0]

    def summary(self) -> AdjointSummary:
        """What clipping did in all backward passes so far.

        Returns:
            Counts, shares and cosines; it prints as a sentence.

        Example:
            >>> ClipAdjoint(nn.LSTM(1, 8), ClipValue(0.1)).summary().backwards
            0
        """
        return self._tally.summary()

    def _gradients(self, leaves: list[Tensor], grads: Sequence[Tensor]) -> list[Tensor | None] | None:
        """Gradients of inputs, starts and weights from clipped adjoints; None where no adjoint was clipped."""
        clip = _Clip(self.rule)
        x, *rest = leaves
        # At least float32, and no autocast: the bound is kept where a half would overflow.
        dtype = torch.promote_types(rest[-1].dtype, torch.float32)
        wanted = [leaf for leaf in leaves if leaf.requires_grad]
        with torch.enable_grad(), torch.autocast(x.device.type, enabled=False):
            outputs = self._unrolled([leaf.to(dtype) for leaf in leaves], clip.watch)
            towards = [grad.to(dtype) for grad in grads]
            exact = torch.autograd.grad(outputs, wanted, towards, retain_graph=True)
            clip.on = True
            clipped = torch.autograd.grad(outputs, wanted, towards)
        weights = {id(leaf) for leaf in leaves[-len(self._unrolled.weights) :]}
        both = [(e, c) for leaf, e, c in zip(wanted, exact, clipped, strict=True) if id(leaf) in weights]
        self.last = self._tally.add(clip.counts(), both)
        if not self.last.clip_fraction > 0:
            return None
        found = iter(clipped)
        return [next(found) if leaf.requires_grad else None for leaf in leaves]


class _Detour(torch.autograd.Function):
    """The identity on a layer's outputs; backwards the way round its kernel, where an adjoint passes the bound."""

    @staticmethod
    def forward(ctx: Any, owner: ClipAdjoint, count: int, *tensors: Tensor) -> tuple[Tensor, ...]:
        ctx.owner = owner
        ctx.save_for_backward(*tensors[count:])
        return tuple(output.clone() for output in tensors[:count])

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, *grads: Tensor) -> tuple[Any, ...]:
        inputs = ctx.saved_tensors
        needed = ctx.needs_input_grad[-len(inputs) :]
        leaves = [tensor.detach().requires_grad_(need) for tensor, need in zip(inputs, needed, strict=True)]
        gradients = ctx.owner._gradients(leaves, grads)
        if gradients is None:
            return (None, None, *grads, *[None] * len(inputs))
        # The kernel's own backward pass still runs behind this one, and adds zeros.
        return (None, None, *[torch.zeros_like(grad) for grad in grads], *gradients)


class _Clip:
    """Hooks that clip the adjoint of each tensor they watch, once `on`, and count."""

    def __init__(self, rule: ClipNorm | ClipValue) -> None:
        self.on = False
        self._rule = rule
        self._seen: dict[str, list[Tensor]] = {}

    def watch(self, place: str, h_BN: Tensor) -> None:
        if h_BN.requires_grad:
            h_BN.register_hook(partial(self._hook, place))  # type: ignore[no-untyped-call]

    def counts(self) -> dict[str, tuple[int, int]]:
        """Clipped and finite adjoints by place."""
        sums = {place: torch.stack(seen).sum(0).tolist() for place, seen in self._seen.items()}
        return {place: (int(clipped), int(finite)) for place, (clipped, finite) in sums.items()}

    def _hook(self, place: str, adjoint_BN: Tensor) -> Tensor | None:
        if not self.on:
            return None
        rule = self._rule
        norm_type, bound = (rule.norm_type, rule.max_norm) if isinstance(rule, ClipNorm) else (math.inf, rule.max_value)
        norm_B1 = _norms(adjoint_BN, norm_type)
        finite_B1 = norm_B1.isfinite()
        beyond_B1 = finite_B1 & (norm_B1 > bound)
        self._seen.setdefault(place, []).append(torch.stack((beyond_B1.sum(), finite_B1.sum())))
        if isinstance(rule, ClipNorm):
            clipped_BN = (adjoint_BN.double() * (bound / norm_B1)).to(adjoint_BN.dtype)
        else:
            largest = min(bound, torch.finfo(adjoint_BN.dtype).max)
            clipped_BN = adjoint_BN.clamp(-largest, largest)
        return torch.where(beyond_B1, clipped_BN, adjoint_BN)


def _rule_problem(rule: object) -> Problem | None:
    if isinstance(rule, ClipValue) or (isinstance(rule, ClipNorm) and not rule.per_tensor):
        return None
    expected = "ClipNorm(...), not per_tensor, or ClipValue(...)"
    return Problem("rule of ClipAdjoint", expected, repr(rule), "write for instance ClipNorm(1.0)")


class _Tally:
    """Sums over backward passes."""

    def __init__(self, places: Sequence[str]) -> None:
        self._counts = dict.fromkeys(places, (0, 0))
        self._backwards = 0
        self._distorted = 0
        self._cosines = 0
        self._cosine_sum = 0.0
        self._cosine_min = math.nan
        self._flipped_sum = 0.0

    def add(self, counts: Mapping[str, tuple[int, int]], gradients: Sequence[tuple[Tensor, Tensor]]) -> AdjointResult:
        """Count one backward pass: its adjoints, and pairs of the exact and the clipped gradient of each weight."""
        exact_norm, clipped_norm, cosine, flipped = _compare(gradients)
        result = AdjointResult(_share(counts), _shares(counts), exact_norm, clipped_norm, cosine, flipped)
        for place, (clipped, finite) in counts.items():
            before = self._counts[place]
            self._counts[place] = (before[0] + clipped, before[1] + finite)
        self._backwards += 1
        self._distorted += result.clip_fraction > 0
        if math.isfinite(cosine):
            self._cosines += 1
            self._cosine_sum += cosine
            self._cosine_min = cosine if math.isnan(self._cosine_min) else min(self._cosine_min, cosine)
            self._flipped_sum += flipped
        return result

    def summary(self) -> AdjointSummary:
        return AdjointSummary(
            backwards=self._backwards,
            distorted=self._distorted,
            clip_fraction=_share(self._counts),
            layer_fractions=_shares(self._counts),
            cosine_mean=self._cosine_sum / self._cosines if self._cosines else math.nan,
            cosine_min=self._cosine_min,
            flipped=self._flipped_sum / self._cosines if self._cosines else math.nan,
        )


def _compare(gradients: Sequence[tuple[Tensor, Tensor]]) -> tuple[float, float, float, float]:
    """Norms of the exact and of the clipped gradient, their cosine, and the share of opposite signs."""
    if not gradients:
        return 0.0, 0.0, math.nan, 0.0
    exact, clipped = (torch.cat([g.double().flatten() for g in side]) for side in zip(*gradients, strict=True))
    exact_norm, clipped_norm = _norms(exact, 2.0), _norms(clipped, 2.0)
    cosine = torch.dot(exact / exact_norm, clipped / clipped_norm).clamp(-1, 1)
    flipped = (exact.sign() * clipped.sign() < 0).double().mean()
    return exact_norm.item(), clipped_norm.item(), cosine.item(), flipped.item()


def _norms(vectors: Tensor, norm_type: float) -> Tensor:
    """p-norms over the last dimension, in float64, as m * ||v / m||_p with m the largest |v_i|: none overflows."""
    largest = torch.linalg.vector_norm(vectors, math.inf, dim=-1, keepdim=True, dtype=torch.float64)
    unit = torch.where((largest > 0) & largest.isfinite(), largest, 1.0)
    scaled: Tensor = torch.linalg.vector_norm(vectors.double() / unit, norm_type, dim=-1, keepdim=True)
    return unit * scaled


def _share(counts: Mapping[str, tuple[int, int]]) -> float:
    finite = sum(finite for _, finite in counts.values())
    return sum(clipped for clipped, _ in counts.values()) / finite if finite else math.nan


def _shares(counts: Mapping[str, tuple[int, int]]) -> dict[str, float]:
    return {place: _share({place: count}) for place, count in counts.items()}
