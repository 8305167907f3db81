"""Clip rules that take their bound from the norms of the steps before."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from numbers import Integral

from holdfast.errors import OptionError, Problem
from holdfast.gradients.memory import Calibration, NormHistory, NormSpread
from holdfast.gradients.rules import norm_type, threshold

MOST = 10**6  # norms remembered at most, so that a saved memory stays small
MEASURED_AT = 1.0  # the usual bound, held while ClipAuto has none of its own


@dataclass(frozen=True)
class ClipPercentile:
    """Shorten gradients to a percentile of the norms of the last steps, this one included (AutoClip).

    g <- g * min(1, P / ||g||_p), with P the given percentile of the last `history` norms, as they were before
    clipping, interpolated linearly between two of them.

    About 100 - `percentile` per cent of the steps are clipped, whatever the scale of the gradients, and the bound
    follows them up and down. The paper keeps the norms of the whole run and found the 10th percentile best; here
    memory is bounded, and over the last 1000 norms the authors' own library takes the 90th. A norm that is not finite,
    or 0, says nothing about how long gradients are and is left out, so that no bound is ever 0.

    Attributes:
        percentile: Which one, above 0 and up to 100.
        history: How many norms are remembered.
        warmup: The first so many norms are only remembered; from 1 to `history` - 1. At 1 as in the paper.
        norm_type: p of the norm, above 0 or `inf`.

    Raises:
        OptionError: A value is not such a number.

    Example:
        >>> rule = ClipPercentile(percentile=50, warmup=2)
        >>> memory = rule.start()
        >>> [rule.bound(memory, norm) for norm in (1.0, 3.0, 2.0, 100.0)]
        [inf, inf, 2.0, 2.5]

    Reference:
        Seetharaman, Wichern, Pardo, Le Roux, "AutoClip: Adaptive gradient clipping for source separation networks",
        MLSP 2020; https://github.com/pseeth/autoclip for percentile and history.
    """

    percentile: float = 90.0
    history: int = 1000
    warmup: int = 25
    norm_type: float = 2.0

    def __post_init__(self) -> None:
        _settle(self, {"percentile": _percentile, "history": _whole(2), "norm_type": norm_type})
        _settle(self, {"warmup": _whole(1, self.history - 1)})

    def __str__(self) -> str:
        return _text("percentile", self.percentile, self.norm_type)

    def start(self) -> NormHistory:
        """A memory without norms.

        Returns:
            What `bound` takes the norms into.
        """
        return NormHistory(repr(self), self.history)

    def bound(self, memory: NormHistory, norm: float) -> float:
        """The largest norm allowed in this step.

        Args:
            memory: What `start` gave; takes in a norm that is finite and above 0.
            norm: The norm of this step's gradients.

        Returns:
            The percentile, above 0; inf during the warm-up and for a norm that is not taken in.
        """
        if not _has_scale(norm):
            return math.inf
        memory.add(norm)
        return memory.percentile(self.percentile) if len(memory) > self.warmup else math.inf


@dataclass(frozen=True)
class ClipMedian:
    """Shorten gradients to a multiple of the median norm of the last steps, this one left out.

    g <- g * min(1, factor * M / ||g||_p), with M the median of the last `history` norms, as they were before clipping.

    Where norms are all of one kind nothing is clipped, and up to half of them may be spikes before the bound follows.
    This step's own norm is not in the median, so that no spike moves the bound that it is held to. A norm that is not
    finite, or 0, is left out.

    Attributes:
        factor: Multiple of the median, above 0.
        history: How many norms are remembered.
        warmup: The first so many steps are not clipped; from 1 to `history` - 1.
        norm_type: p of the norm, above 0 or `inf`.

    Raises:
        OptionError: A value is not such a number.

    Example:
        >>> rule = ClipMedian(factor=3, warmup=2)
        >>> memory = rule.start()
        >>> [rule.bound(memory, norm) for norm in (1.0, 3.0, 100.0, 2.0)]
        [inf, inf, 6.0, 9.0]

    Reference:
        Yao et al., "Zipformer: A faster and better encoder for automatic speech recognition", ICLR 2024: its optimiser
        ScaledAdam (https://github.com/k2-fsa/icefall) clips at 2 times the median norm of 100 steps. It renews that
        median every 100 steps, here each step does, and it weighs gradients by the size of their parameters first.
    """

    factor: float = 2.0
    history: int = 100
    warmup: int = 25
    norm_type: float = 2.0

    def __post_init__(self) -> None:
        _settle(self, {"factor": threshold, "history": _whole(2), "norm_type": norm_type})
        _settle(self, {"warmup": _whole(1, self.history - 1)})

    def __str__(self) -> str:
        return _text("median", self.factor, self.norm_type)

    def start(self) -> NormHistory:
        """A memory without norms.

        Returns:
            What `bound` takes the norms into.
        """
        return NormHistory(repr(self), self.history)

    def bound(self, memory: NormHistory, norm: float) -> float:
        """The largest norm allowed in this step.

        Args:
            memory: What `start` gave; takes in a norm that is finite and above 0, after the bound is found.
            norm: The norm of this step's gradients.

        Returns:
            `factor` times the median so far; inf during the warm-up and for a norm that is not taken in.
        """
        if not _has_scale(norm):
            return math.inf
        bound = self.factor * memory.percentile(50.0) if len(memory) >= self.warmup else math.inf
        memory.add(norm)
        return bound


@dataclass(frozen=True)
class ClipZScore:
    """Shorten gradients whose norm lies far above a moving mean, the more the farther (ZClip).

    With z_t = (||g_t||_p - mu) / sigma, a gradient with z_t > z is shortened to the norm mu + z^2 / z_t * sigma. Then,
    with n the norm after clipping, mu <- alpha mu + (1 - alpha) n and
    sigma^2 <- alpha sigma^2 + (1 - alpha) (n - mu)^2 with the new mu. Before, `warmup` norms, which are not clipped,
    give their mean and their (population) deviation.

    Clipped norms go into the statistics: a single spike leaves no trace, and a lasting jump beyond the threshold is
    held down to mu for good. Where norms may settle on another level, `ClipMedian` and `ClipPercentile` follow them.

    It differs from the authors' code in three ways: no 1e-6 is added to sigma, which would be no small number where
    gradients are small (where sigma is 0, the bound is mu, the limit of the formula); no second, constant bound of 1
    (a cap of its own can be given to the guard); and a norm that is not finite, or 0, is left out instead of turning
    the statistics to nan for ever.

    Attributes:
        z: The largest z-score that is not clipped, above 0.
        alpha: Weight of the past, between 0 and 1.
        warmup: How many norms give the first mean and deviation; at least 2.
        norm_type: p of the norm, above 0 or `inf`.

    Raises:
        OptionError: A value is not such a number.

    Example:
        >>> rule = ClipZScore(z=2, warmup=2)
        >>> memory = rule.start()
        >>> [rule.bound(memory, norm) for norm in (1.0, 3.0, 6.0)]
        [inf, inf, 3.0]

    Reference:
        Kumar, Owen, Chowdhury, Guera, "ZClip: Adaptive spike mitigation for LLM pre-training", arXiv:2504.02507, 2025;
        https://github.com/bluorion-com/ZClip, mode "zscore" with "adaptive_scaling".
    """

    z: float = 2.5
    alpha: float = 0.97
    warmup: int = 25
    norm_type: float = 2.0

    def __post_init__(self) -> None:
        _settle(self, {"z": threshold, "alpha": _weight, "warmup": _whole(2), "norm_type": norm_type})

    def __str__(self) -> str:
        return _text("zscore", self.z, self.norm_type)

    def start(self) -> NormSpread:
        """A memory without norms.

        Returns:
            What `bound` takes the norms into.
        """
        return NormSpread(repr(self), self.warmup, self.alpha)

    def bound(self, memory: NormSpread, norm: float) -> float:
        """The largest norm allowed in this step.

        Args:
            memory: What `start` gave; takes in the clipped norm of a step whose norm is finite and above 0.
            norm: The norm of this step's gradients.

        Returns:
            mu + z sigma up to there, the shortened norm beyond; inf during the warm-up and for a norm that is not
            taken in.
        """
        if not _has_scale(norm):
            return math.inf
        bound = math.inf
        if memory.deviation is not None:
            reach = self.z * memory.deviation
            bound = memory.mean + reach
            if norm > bound:
                bound = memory.mean + reach * (reach / (norm - memory.mean))
        memory.add(min(norm, bound))
        return bound


@dataclass(frozen=True)
class ClipAuto:
    """Measure the first steps, then clip at a percentile of their norms, which stays as it is from then on.

    g <- g * min(1, P / ||g||_p), with P the given percentile of the first `steps` norms as they were before clipping,
    interpolated linearly; in these first steps with P = 1.

    For users who want the constant bound of `ClipNorm` and cannot know its scale. Unlike a rule that follows the norms,
    it does not let them grow. While it measures, the usual bound of 1 holds: the first gradients of a recurrent network
    are often its largest, and one of them spoils plain gradient descent at once, and the second moments of Adam for a
    thousand steps. Where all gradients are far longer than 1, plain gradient descent is slow for these steps.

    The share of steps that it will clip is as expected only as far as later norms are like the first: measure more
    steps where a warm-up of the learning rate, or a last layer that starts at zero, keeps them small. Norms that are
    not finite, or 0, are left out and do not count as steps.

    Attributes:
        percentile: Which one, above 0 and up to 100.
        steps: How many steps are measured; at least 1.
        norm_type: p of the norm, above 0 or `inf`.

    Raises:
        OptionError: A value is not such a number.

    Example:
        >>> rule = ClipAuto(percentile=50, steps=3)
        >>> memory = rule.start()
        >>> [rule.bound(memory, norm) for norm in (1.0, 5.0, 2.0, 8.0)]
        [1.0, 1.0, 1.0, 2.0]
        >>> memory.chosen, round(memory.expected_clip_fraction, 2)
        (2.0, 0.33)

    Reference:
        Pascanu, Mikolov, Bengio, "On the difficulty of training recurrent neural networks", ICML 2013, section 3.2: the
        threshold from statistics of the norm over many updates. There it is the average, and half to ten times of it
        still converges; a percentile is not moved by single spikes.
    """

    percentile: float = 90.0
    steps: int = 100
    norm_type: float = 2.0

    def __post_init__(self) -> None:
        _settle(self, {"percentile": _percentile, "steps": _whole(1), "norm_type": norm_type})

    def __str__(self) -> str:
        plain = (self.percentile, self.norm_type) == (90.0, 2.0)
        return "auto" if plain else _text("auto", self.percentile, self.norm_type)

    def start(self) -> Calibration:
        """A memory without norms.

        Returns:
            What `bound` takes the first norms into.
        """
        return Calibration(repr(self), self.steps, self.percentile)

    def bound(self, memory: Calibration, norm: float) -> float:
        """The largest norm allowed in this step.

        Args:
            memory: What `start` gave; takes in the first norms that are finite and above 0.
            norm: The norm of this step's gradients.

        Returns:
            What was chosen; 1 as long as steps are measured, inf for a norm that is not finite or 0.
        """
        if not _has_scale(norm):
            return math.inf
        if memory.chosen is not None:
            return memory.chosen
        memory.add(norm)
        return MEASURED_AT


def _has_scale(norm: float) -> bool:
    return 0 < norm < math.inf


def _text(kind: str, number: float, p: float) -> str:
    return f"{kind}:{number:g}" + ("" if p == 2.0 else f":{p:g}")


def _settle(rule: object, checks: Mapping[str, Callable[[str, object], float]]) -> None:
    """Replace each field by the plain number that its check makes of it."""
    for field, check in checks.items():
        object.__setattr__(rule, field, check(f"{type(rule).__name__}({field}=...)", getattr(rule, field)))


def _percentile(where: str, value: object) -> float:
    return _up_to(100.0, where, value, "a number above 0 and up to 100", "give for instance 90")


def _weight(where: str, value: object) -> float:
    return _up_to(math.nextafter(1.0, 0.0), where, value, "a number above 0 and below 1", "give for instance 0.97")


def _up_to(most: float, where: str, value: object, expected: str, fix: str) -> float:
    try:
        number = threshold(where, value)
    except OptionError:
        number = math.inf
    if number > most:
        raise OptionError(Problem(where, expected, repr(value), fix))
    return number


def _whole(least: int, most: int = MOST) -> Callable[[str, object], int]:
    def check(where: str, value: object) -> int:
        if not isinstance(value, bool) and isinstance(value, Integral) and least <= int(value) <= most:
            return int(value)
        reason = "" if most == MOST else ", one less than history"
        expected = f"a whole number from {least} to {most}{reason}"
        raise OptionError(Problem(where, expected, repr(value), f"give for instance {least}"))

    return check
