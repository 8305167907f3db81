"""What a forecast is made of, and how wide its intervals are: decided on held-out windows from rolling cutoffs.

Shapes: V validation windows, F horizon steps, M forecasts that are mixed, G mixtures that are tried, L levels.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from holdfast.forecasting.heldout import HeldOut, block_means, hold_out, standard_error
from holdfast.forecasting.metrics import naive_title
from holdfast.networks import ERROR_LEVELS, MIXED, ForecastNetwork, NegativeBinomialHead, SigmoidHead, random_walk
from holdfast.training import Split
from holdfast.windows import Windows

Floats = NDArray[np.float64]
Weights = tuple[float, float, float]

TENTHS = 10
MIXTURES: tuple[Weights, ...] = tuple(
    (a / TENTHS, b / TENTHS, (TENTHS - a - b) / TENTHS) for a in range(TENTHS + 1) for b in range(TENTHS + 1 - a)
)
ALONE: Weights = (1.0, 0.0, 0.0)
EVEN: Weights = (0.5, 0.5, 0.0)  # where nothing says that another mixture is better
WIDTH_LEVEL = 80.0  # percent; few windows say little about higher levels, and lower ones little about the tails
PRIOR_WIDTH = 3  # windows apart that it takes for half of the measured width to count
FOLDS = 5  # each measures the coverage of what the others chose


@dataclass(frozen=True)
class Choice:
    """A mixture and its intervals.

    Attributes:
        weights: Of `MIXED`.
        width: Factor of the intervals.
        growth_F: Size of the others' errors at each step, in units of a window's scale.
        size_L: The largest error among each share `ERROR_LEVELS`, in units of that.
    """

    weights: Weights
    width: float
    growth_F: Floats
    size_L: Floats

    def point(self, held_out: HeldOut) -> Floats:
        """Forecasts [V, F]."""
        mixed_VF: Floats = np.einsum("m,mvf->vf", np.array(self.weights), held_out.forecast_MVF)
        return mixed_VF

    def distance(self, held_out: HeldOut) -> Floats:
        """How far out what came is [V, F]: 0 at the forecast, 1 at the border on its side; nan where missing."""
        own, size = self.weights[0], np.interp(held_out.level / 100, ERROR_LEVELS, self.size_L)
        error_VF = held_out.target_VF - self.point(held_out)
        own_VF = np.where(error_VF < 0, held_out.low_VF, held_out.high_VF)
        others_VF = held_out.scale_V[:, None] * self.growth_F * size
        half_VF = self.width * (own * own_VF + (1 - own) * others_VF)
        away_VF = np.abs(error_VF)
        outside_VF = np.where(away_VF > 0, np.inf, away_VF)  # of an interval without a width
        distance_VF: Floats = np.where(half_VF > 0, away_VF / np.where(half_VF > 0, half_VF, 1.0), outside_VF)
        return distance_VF


@dataclass(frozen=True)
class Blending:
    """What was decided, and what it is worth.

    Attributes:
        weights: Of the network, exponential smoothing and the naive forecast.
        width: Factor of the intervals.
        windows: Held-out windows that decided.
        errors: Their mean scaled errors: of the mixture, then of each forecast alone; empty without a window.
        names: Of these forecasts: network, or anchors where training brought nothing; smoothing; the naive forecast.
        level: Of the interval whose coverage was measured, in percent.
        coverage: Share of points inside intervals that other windows had chosen; None where nothing was measured.
        doubt: Two standard errors of it.
        points: Values that it was measured on.
    """

    weights: Weights
    width: float
    windows: int
    errors: tuple[float, ...]
    names: tuple[str, ...]
    level: float
    coverage: float | None
    doubt: float
    points: int

    def __str__(self) -> str:
        """What forecasts are made of, in a line, and how well intervals hold, in another.

        Example:
            >>> names = ("network", "exponential smoothing", "last value")
            >>> print(Blending((0.6, 0.4, 0.0), 1.1, 256, (0.9, 0.95, 1.0, 1.2), names, 80, 0.79, 0.05, 1240))
            forecasts: 60 % network, 40 % exponential smoothing; errors on 256 held-out windows: 5 % below network,
            10 % below exponential smoothing, 25 % below last value
            80 % intervals covered 79 % (74 to 84) of 1,240 points in windows that had no part in choosing them
        """
        each = list(zip(self.weights, self.errors[1:] or self.weights, self.names, strict=True))
        made = ", ".join(f"{weight:.0%} {name}".replace("%", " %") for weight, _, name in each if weight)
        if not self.errors:
            return f"forecasts: {made}; nothing could be held out to choose by"
        windows = f"{self.windows:,} held-out window{'s' * (self.windows > 1)}"
        against = [f"{compared(self.errors[0], error)} {name}" for weight, error, name in each if name and weight < 1]
        line = f"forecasts: {made}; errors on {windows}: {', '.join(against)}"
        return line if self.coverage is None else f"{line}\n{self._covered}"

    @property
    def _covered(self) -> str:
        share, doubt = 100 * (self.coverage or 0.0), 100 * self.doubt
        low, high = max(share - doubt, 0.0), min(share + doubt, 100.0)
        return (
            f"{self.level:g} % intervals covered {share:.0f} % ({low:.0f} to {high:.0f}) of {self.points:,} points "
            "in windows that had no part in choosing them"
        )


def compared(error: float, other: float) -> str:
    """How far an error is from another one, in words.

    Example:
        >>> compared(0.9, 1.0), compared(1.0, 1.0), compared(1.2, 1.0)
        ('10 % below', 'as large as', '20 % above')
    """
    percent = round(100 * abs(1 - error / other)) if other > 0 else 0
    return f"{percent} % {'below' if error < other else 'above'}" if percent else "as large as"


def can_blend(network: ForecastNetwork) -> bool:
    """Whether the head's forecasts may be mixed with others: not where values are counts or have bounds."""
    return not isinstance(network.head, NegativeBinomialHead | SigmoidHead)


def choose_weights(held_out: HeldOut, mixtures: Sequence[Weights] = MIXTURES) -> Weights:
    """The weights by mean scaled absolute error, with a one-standard-error rule.

    Of the mixtures whose error is within one standard error of the difference to the best, the one nearest to half
    network, half exponential smoothing: few windows leave that, many decide. Windows that overlap count as one.

    Args:
        held_out: Forecasts and what came.
        mixtures: What to choose from.

    Example:
        >>> target_VF = np.array([[1.0], [2.0], [3.0], [5.0]])
        >>> forecast_MVF = np.stack([target_VF + 1, target_VF - 3, target_VF - 9])
        >>> rest = (target_VF, target_VF, target_VF, np.ones(4), np.arange(4), np.zeros((0, 1)), 80.0)
        >>> choose_weights(HeldOut(forecast_MVF, *rest))
        (0.9, 0.0, 0.1)
    """
    mixed = (np.einsum("m,mvf->vf", np.array(weights), held_out.forecast_MVF) for weights in mixtures)
    error_GV = np.stack([held_out.errors(mixed_VF) for mixed_VF in mixed])
    near = list(mixtures)
    if np.isfinite(error_GV).any():
        best = int(np.nanmean(error_GV, axis=1).argmin())
        gap_GB = [block_means(error_V - error_GV[best], held_out.apart_V) for error_V in error_GV]
        near = [w for w, gap_B in zip(mixtures, gap_GB, strict=True) if gap_B.mean() <= standard_error(gap_B)]
    return min(near, key=lambda weights: sum((one - two) ** 2 for one, two in zip(weights, EVEN, strict=True)))


def error_sizes(scaled_EF: Floats) -> tuple[Floats, Floats]:
    """How errors grow over the horizon, c k^b with b from 0 to 1, and the sizes of what is left.

    Args:
        scaled_EF: Absolute errors in units of their scales, nan where unknown.

    Returns:
        growth_F and size_L; those of a random walk where no error is known.

    Example:
        >>> growth_F, size_L = error_sizes(np.sqrt([[1.0, 2.0, 3.0, 4.0]] * 9))
        >>> growth_F.round(2).tolist(), size_L[[9, 79]].round(2).tolist()
        ([1.0, 1.41, 1.73, 2.0], [1.0, 1.0])
    """
    seen_EF = np.isfinite(scaled_EF)
    count_F = seen_EF.sum(0)
    mean_F = np.where(seen_EF, scaled_EF, 0.0).sum(0) / np.maximum(count_F, 1)
    known_F = (count_F > 0) & (mean_F > 0)
    if not known_F.any():
        return random_walk(scaled_EF.shape[1])
    log_k_F = np.log(np.arange(1.0, scaled_EF.shape[1] + 1))
    x, y = log_k_F[known_F], np.log(mean_F[known_F])
    spread = float(((x - x.mean()) ** 2).sum())
    power = min(max(float(((x - x.mean()) * y).sum()) / spread, 0.0), 1.0) if spread > 0 else 0.5
    growth_F = np.exp(y.mean() + power * (log_k_F - x.mean()))
    return growth_F, np.quantile((scaled_EF / growth_F)[seen_EF], ERROR_LEVELS)


def choose_width(distance_VF: Floats, level: float, blocks: int) -> float:
    """The factor with which intervals of a level cover as many of the held-out values as they say.

    The level's quantile of how far out values are, in half widths, as in split conformal prediction, to the power of
    n / (n + 3) for n windows that do not overlap: few change little. The correction for finite samples is left out: of
    two windows it would make the largest error the border.

    Args:
        distance_VF: Errors in half widths on their side, nan where unknown.
        level: In percent.
        blocks: n, windows that do not overlap.

    Example:
        >>> choose_width(np.arange(1.0, 101)[:, None] / 40, level=80, blocks=10_000)
        1.999...

    Reference: Lei, G'Sell, Rinaldo, Tibshirani and Wasserman, Distribution-free predictive inference (2018).
    """
    known = distance_VF[~np.isnan(distance_VF)]
    if not len(known):
        return 1.0
    factor = float(np.quantile(known, level / 100, method="inverted_cdf"))
    return factor ** (blocks / (blocks + PRIOR_WIDTH)) if 0 < factor < np.inf else 1.0


def choose(held_out: HeldOut, mixtures: Sequence[Weights] = MIXTURES) -> Choice:
    """Weights, then the sizes of errors, then the width that is missing.

    Args:
        held_out: Forecasts and what came; there may be none.
        mixtures: What to choose from; of one alone, the intervals are kept too.
    """
    scaled_VF = np.abs(held_out.forecast_MVF[1] - held_out.target_VF) / held_out.scale_V[:, None]
    sizes = error_sizes(np.concatenate([scaled_VF, held_out.earlier_EF]))
    plain = Choice(choose_weights(held_out, mixtures), 1.0, *sizes)
    if len(mixtures) == 1:
        return plain
    width = choose_width(plain.distance(held_out), held_out.level, max(held_out.blocks, 1))
    return Choice(plain.weights, width, *sizes)


def measure_coverage(held_out: HeldOut, mixtures: Sequence[Weights] = MIXTURES) -> tuple[float | None, float, int]:
    """The share of held-out values inside intervals that other windows chose.

    Blocks of windows are dealt into five folds; each fold is judged by what the others chose, a single block by what is
    chosen without any.

    Args:
        held_out: Forecasts and what came.
        mixtures: What to choose from.

    Returns:
        Share, two standard errors of it, and the number of values; None where there is no value.
    """
    blocks, block_V = np.unique(held_out.apart_V, return_inverse=True)
    fold_V = block_V % max(min(FOLDS, len(blocks)), 1)
    distance_VF = np.full(held_out.target_VF.shape, np.nan)
    for fold in np.unique(fold_V):
        distance_VF[fold_V == fold] = choose(held_out.part(fold_V != fold), mixtures).distance(
            held_out.part(fold_V == fold)
        )
    known_VF = ~np.isnan(distance_VF)
    points = int(known_VF.sum())
    if not points:
        return None, 0.0, 0
    inside = (distance_VF[known_VF] <= 1).astype(np.float64)
    doubt = standard_error(block_means(inside, np.repeat(block_V, known_VF.sum(1))))
    return float(inside.mean()), min(2 * doubt, 1.0), points


def measure_blend(
    network: ForecastNetwork,
    windows: Windows,
    split: Split,
    levels: Sequence[float],
    *,
    trained: bool = True,
    smoothing: bool = True,
) -> Blending:
    """Decide what forecasts are made of and how wide their intervals are, and set both in the network.

    Args:
        network: A trained network; until now its forecasts are its own.
        windows: The series.
        split: Which windows to look at.
        levels: Interval levels in percent; the one nearest to 80 decides the width.
        trained: Whether training brought anything; if not, the network is the mean of its anchors.
        smoothing: Whether exponential smoothing may take part.
    """
    level = min(levels, key=lambda each: abs(each - WIDTH_LEVEL))
    held_out = hold_out(network, windows, split, level, smoothing=smoothing)
    mixtures: Sequence[Weights] = MIXTURES if smoothing else [weights for weights in MIXTURES if not weights[1]]
    if not can_blend(network):
        mixtures = (ALONE,)
    choice = choose(held_out, mixtures)
    network.blend.set(choice.weights, choice.width)
    network.blend.learn(choice.growth_F, choice.size_L)
    coverage, doubt, points = measure_coverage(held_out, mixtures)
    error_MV = [held_out.errors(each_VF) for each_VF in (choice.point(held_out), *held_out.forecast_MVF)]
    known_V = np.isfinite(error_MV[0])
    return Blending(
        weights=choice.weights,
        width=choice.width,
        windows=int(known_V.sum()),
        errors=tuple(float(error_V[known_V].mean()) for error_V in error_MV) if known_V.any() else (),
        names=(
            MIXED[0] if trained else "mean of naive and linear forecasts",
            MIXED[1] if smoothing else "",
            naive_title(network.config.baseline_season),
        ),
        level=level,
        coverage=coverage,
        doubt=doubt,
        points=points,
    )
