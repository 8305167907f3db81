"""What the last layer means: how raw outputs become a distribution, its loss, its quantiles.

Every head starts at the mixture of anchors: with raw = 0 the point forecast *is* the mixture.

Shapes: B windows, F horizon steps, P raw outputs per step, Q quantiles. `mix_BF` is in window-normalised units z,
`unit_B` is the error of the seasonal naive forecast inside the context, in the same units: corrections and widths
are counted in it, so that a window which repeats itself to a hair is corrected by a hair.
"""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from torch import Tensor

from holdfast.errors import OptionError, Problem
from holdfast.networks.quantiles import UNIT_SOFTPLUS, QuantileSteps
from holdfast.networks.scaling import WindowScale

SMALLEST_WIDTH = 1e-3  # of the width that a head starts with; a floor with a slope, so that no width gets stuck there
SMALLEST_SHARE = 1e-4  # distance of a bounded mixture from its bounds; at the bounds a sigmoid has no slope to learn by
LOGIT_UNITS = (1e-3, 4.0)  # narrowest and widest unit on the logit scale
SMALLEST_MEAN = 1e-3  # of a count
LARGEST_EXACT_MEAN = 1e6  # of a count, for its quantiles
START_DISPERSIONS = (1e-3, 10.0)  # least and most that a window's error can say about a count's dispersion
LARGEST_LOG_RATIO = 10.0  # a count's mean stays within e^10 of its anchors, whatever the network says


@dataclass(frozen=True)
class HeadParameters:
    """What a head says about B windows.

    Attributes:
        values_BFP: Parameters of the distribution at each step, in the units that the head states.
        scale: The windows' normalisation.

    Example:
        >>> scale = WindowScale(torch.tensor([10.0]), torch.tensor([2.0]))
        >>> GaussianHead().point(HeadParameters(torch.tensor([[[0.5, 1.0]]]), scale)).tolist()
        [[11.0]]
    """

    values_BFP: Tensor
    scale: WindowScale


@dataclass(frozen=True)
class Target:
    """What the heads learn from.

    Attributes:
        y_BF: Values in the units of the data (float64), 0 where missing.
        error_scale_B: In-sample error of the seasonal naive forecast of each series, in the units of the data:
            losses in these units weigh every series alike, as MASE does (Hyndman and Koehler 2006).

    Example:
        >>> Target(torch.tensor([[3.0, 5.0]]), error_scale_B=torch.tensor([2.0])).y_BF.shape
        torch.Size([1, 2])
    """

    y_BF: Tensor
    error_scale_B: Tensor


class Head(ABC):
    """A probabilistic output layer."""

    @property
    @abstractmethod
    def raw_size(self) -> int:
        """P, the raw outputs per horizon step."""

    @abstractmethod
    def parameters(self, mix_BF: Tensor, unit_B: Tensor, raw_BFP: Tensor, scale: WindowScale) -> HeadParameters:
        """Parameters of the distribution from the mixture of anchors and the raw outputs."""

    @abstractmethod
    def loss(self, parameters: HeadParameters, target: Target) -> Tensor:
        """Loss of each step [B, F], also at missing targets, which the caller leaves out."""

    @abstractmethod
    def point(self, parameters: HeadParameters) -> Tensor:
        """Point forecast [B, F] in the units of the data (float64)."""

    @abstractmethod
    def quantiles(self, parameters: HeadParameters, probabilities: Sequence[float]) -> NDArray[np.float64]:
        """Quantiles [B, F, Q] in the units of the data, at probabilities in rising order."""


@dataclass(frozen=True)
class QuantileHead(Head):
    """Quantiles that cannot cross, trained on the pinball loss.

    median = mix + unit * raw_median, and the quantiles step outwards from it by unit * gap * softplus(raw).

    Attributes:
        levels: Interval levels in percent.

    Example:
        >>> QuantileHead((80.0, 95.0)).raw_size
        5
    """

    levels: tuple[float, ...]

    @cached_property
    def _steps(self) -> QuantileSteps:
        return QuantileSteps(self.levels)

    @property
    def raw_size(self) -> int:
        """One median, two borders per level."""
        return len(self._steps.probabilities)

    def parameters(self, mix_BF: Tensor, unit_B: Tensor, raw_BFP: Tensor, scale: WindowScale) -> HeadParameters:
        """Quantiles in units of z."""
        unit_B1 = unit_B[:, None]
        median_BF = mix_BF + unit_B1 * raw_BFP[..., self._steps.middle]
        return HeadParameters(self._steps.spread(median_BF, unit_B1, raw_BFP), scale)

    def loss(self, parameters: HeadParameters, target: Target) -> Tensor:
        """Pinball loss in units of the series' seasonal naive error."""
        scale = parameters.scale
        pinball_BF = self._steps.pinball(parameters.values_BFP, scale.normalise(target.y_BF))
        return pinball_BF * (scale.scale_B / target.error_scale_B).float()[:, None]

    def point(self, parameters: HeadParameters) -> Tensor:
        """The median."""
        return parameters.scale.restore(parameters.values_BFP[..., self._steps.middle])

    def quantiles(self, parameters: HeadParameters, probabilities: Sequence[float]) -> NDArray[np.float64]:
        """The fitted quantiles, and others by interpolation (see `QuantileSteps.at`)."""
        return _numpy(self._steps.at(parameters.values_BFP, probabilities, parameters.scale.restore))


@dataclass(frozen=True)
class SigmoidHead(Head):
    """Quantiles of a target bounded in [low, high]: the output layer is sigmoid(V h + c).

    The quantiles are those of `QuantileHead` on the logit scale, around the logit of the mixture s of anchors; the
    sigmoid is monotone, so they neither cross nor leave the bounds. A unit of the data is unit / (s (1 - s)) there
    (the slope of the logit), so that an error of 0.01 at the share 0.02 counts for what it is.

    Attributes:
        levels: Interval levels in percent.
        low: Lower bound, in the units of the data.
        high: Upper bound.

    Example:
        >>> SigmoidHead((80.0,), 0.0, 1.0).raw_size
        3
    """

    levels: tuple[float, ...]
    low: float
    high: float

    @cached_property
    def _steps(self) -> QuantileSteps:
        return QuantileSteps(self.levels)

    @property
    def raw_size(self) -> int:
        """One median, two borders per level."""
        return len(self._steps.probabilities)

    def parameters(self, mix_BF: Tensor, unit_B: Tensor, raw_BFP: Tensor, scale: WindowScale) -> HeadParameters:
        """Logits of the quantiles, as shares of the way from low to high."""
        width = self.high - self.low
        share_BF = ((scale.restore(mix_BF) - self.low) / width).clamp(SMALLEST_SHARE, 1 - SMALLEST_SHARE)
        unit_share_B1 = (unit_B * scale.scale_B / width)[:, None]
        unit_BF = (unit_share_B1 / (share_BF * (1 - share_BF))).clamp(*LOGIT_UNITS).to(raw_BFP.dtype)
        median_BF = torch.logit(share_BF).to(raw_BFP.dtype) + unit_BF * raw_BFP[..., self._steps.middle]
        return HeadParameters(self._steps.spread(median_BF, unit_BF, raw_BFP), scale)

    def loss(self, parameters: HeadParameters, target: Target) -> Tensor:
        """Pinball loss in units of the series' seasonal naive error."""
        share_BF = ((target.y_BF - self.low) / (self.high - self.low)).float()
        pinball_BF = self._steps.pinball(torch.sigmoid(parameters.values_BFP), share_BF)
        return pinball_BF * ((self.high - self.low) / target.error_scale_B).float()[:, None]

    def _restore(self, logit: Tensor) -> Tensor:
        # clamped, because rounding alone can carry low + (high - low) past high
        return (self.low + (self.high - self.low) * torch.sigmoid(logit).double()).clamp(self.low, self.high)

    def point(self, parameters: HeadParameters) -> Tensor:
        """The median."""
        return self._restore(parameters.values_BFP)[..., self._steps.middle]

    def quantiles(self, parameters: HeadParameters, probabilities: Sequence[float]) -> NDArray[np.float64]:
        """The fitted quantiles, and others by interpolation on the logit scale (see `QuantileSteps.at`)."""
        return _numpy(self._steps.at(parameters.values_BFP, probabilities, self._restore))


@dataclass(frozen=True)
class GaussianHead(Head):
    """Normal distribution: mu = mix + unit * raw_0, sigma = unit * width(raw_1), in units of z.

    width(raw) = softplus(raw), shifted to be 1 at raw = 0 and kept above a floor.

    -log p(z) = log sigma + (z - mu)^2 / (2 sigma^2) + log(2 pi) / 2.

    Example:
        >>> GaussianHead().raw_size
        2
    """

    @property
    def raw_size(self) -> int:
        """Mean and deviation."""
        return 2

    def parameters(self, mix_BF: Tensor, unit_B: Tensor, raw_BFP: Tensor, scale: WindowScale) -> HeadParameters:
        """(mu, sigma) in units of z."""
        return HeadParameters(_location_scale(mix_BF, unit_B, raw_BFP), scale)

    def loss(self, parameters: HeadParameters, target: Target) -> Tensor:
        """Negative log likelihood of z."""
        mu_BF, sigma_BF = parameters.values_BFP.unbind(-1)
        standardised_BF = (parameters.scale.normalise(target.y_BF) - mu_BF) / sigma_BF
        return sigma_BF.log() + standardised_BF**2 / 2 + math.log(2 * math.pi) / 2

    def point(self, parameters: HeadParameters) -> Tensor:
        """The mean."""
        return parameters.scale.restore(parameters.values_BFP[..., 0])

    def quantiles(self, parameters: HeadParameters, probabilities: Sequence[float]) -> NDArray[np.float64]:
        """Mu + sigma Phi^-1(p)."""
        from scipy.special import ndtri

        mu_BF, sigma_BF = _in_data_units(parameters)
        result: NDArray[np.float64] = mu_BF[..., None] + sigma_BF[..., None] * ndtri(np.asarray(probabilities))
        return result


@dataclass(frozen=True)
class StudentTHead(Head):
    """Student's t: location and scale as `GaussianHead`, nu = 2 + 3 width(raw_2) degrees of freedom, 5 at the start.

    -log p(z) = log(sigma) - log Gamma((nu + 1) / 2) + log Gamma(nu / 2) + log(nu pi) / 2
                + (nu + 1) / 2 log(1 + (z - mu)^2 / (nu sigma^2)).

    Example:
        >>> StudentTHead().raw_size
        3
    """

    @property
    def raw_size(self) -> int:
        """Location, scale and degrees of freedom."""
        return 3

    def parameters(self, mix_BF: Tensor, unit_B: Tensor, raw_BFP: Tensor, scale: WindowScale) -> HeadParameters:
        """(mu, sigma, nu), the first two in units of z; nu stays above 2, so that the variance exists."""
        nu_BF = 2 + 3 * _width(raw_BFP[..., 2])
        location_scale_BF2 = _location_scale(mix_BF, unit_B, raw_BFP)
        return HeadParameters(torch.cat([location_scale_BF2, nu_BF[..., None]], -1), scale)

    def loss(self, parameters: HeadParameters, target: Target) -> Tensor:
        """Negative log likelihood of z."""
        mu_BF, sigma_BF, nu_BF = parameters.values_BFP.unbind(-1)
        standardised_BF = (parameters.scale.normalise(target.y_BF) - mu_BF) / sigma_BF
        return (
            sigma_BF.log()
            - torch.lgamma((nu_BF + 1) / 2)
            + torch.lgamma(nu_BF / 2)
            + (nu_BF * math.pi).log() / 2
            + (nu_BF + 1) / 2 * torch.log1p(standardised_BF**2 / nu_BF)
        )

    def point(self, parameters: HeadParameters) -> Tensor:
        """The location, which is mean and median."""
        return parameters.scale.restore(parameters.values_BFP[..., 0])

    def quantiles(self, parameters: HeadParameters, probabilities: Sequence[float]) -> NDArray[np.float64]:
        """Mu + sigma F_nu^-1(p)."""
        from scipy.special import stdtrit

        mu_BF, sigma_BF = _in_data_units(parameters)
        nu_BF = _numpy(parameters.values_BFP[..., 2])
        standard_BFQ = stdtrit(nu_BF[..., None], np.asarray(probabilities))
        result: NDArray[np.float64] = mu_BF[..., None] + sigma_BF[..., None] * standard_BFQ
        return result


@dataclass(frozen=True)
class NegativeBinomialHead(Head):
    """Counts with mean mu = mix * exp(raw_0) and variance mu + alpha mu^2, alpha = alpha_0 * width(raw_1).

    alpha_0 = (unit^2 - mix) / mix^2, within bounds, starts the deviation at the unit, as in the other heads.
    With r = 1 / alpha: log p(y) = log Gamma(y + r) - log Gamma(r) - log Gamma(y + 1)
    + r log(r / (r + mu)) + y log(mu / (r + mu)) (the NB2 form; Cameron and Trivedi 1986).

    Example:
        >>> NegativeBinomialHead().raw_size
        2
    """

    @property
    def raw_size(self) -> int:
        """Mean and dispersion."""
        return 2

    def parameters(self, mix_BF: Tensor, unit_B: Tensor, raw_BFP: Tensor, scale: WindowScale) -> HeadParameters:
        """(mu, alpha), both float64; mu in the units of the data, above 0."""
        anchor_BF = scale.restore(mix_BF).clamp(min=SMALLEST_MEAN)
        start_BF = ((unit_B * scale.scale_B)[:, None] / anchor_BF) ** 2 - 1 / anchor_BF
        raw_BFP = raw_BFP.double()
        mu_BF = anchor_BF * (LARGEST_LOG_RATIO * torch.tanh(raw_BFP[..., 0] / LARGEST_LOG_RATIO)).exp()
        alpha_BF = start_BF.clamp(*START_DISPERSIONS) * _width(raw_BFP[..., 1])
        return HeadParameters(torch.stack([mu_BF, alpha_BF], -1), scale)

    def loss(self, parameters: HeadParameters, target: Target) -> Tensor:
        """Negative log likelihood of the count."""
        mu_BF, alpha_BF = parameters.values_BFP.unbind(-1)
        y_BF, r_BF = target.y_BF, 1 / alpha_BF
        log_share_BF = torch.log(mu_BF) - torch.log(r_BF + mu_BF)
        return -(
            torch.lgamma(y_BF + r_BF)
            - torch.lgamma(r_BF)
            - torch.lgamma(y_BF + 1)
            - r_BF * torch.log1p(mu_BF / r_BF)
            + y_BF * log_share_BF
        )

    def point(self, parameters: HeadParameters) -> Tensor:
        """The mean."""
        return parameters.values_BFP[..., 0]

    def quantiles(self, parameters: HeadParameters, probabilities: Sequence[float]) -> NDArray[np.float64]:
        """The smallest count k with P(Y <= k) >= p; above a mean of a million that of the gamma distribution."""
        from scipy.special import gammaincinv
        from scipy.stats import nbinom

        p = np.asarray(probabilities)
        mu_BF1, alpha_BF1 = (_numpy(part[..., None]) for part in parameters.values_BFP.unbind(-1))
        r_BF1, small_BF1 = 1 / alpha_BF1, np.minimum(mu_BF1, LARGEST_EXACT_MEAN)
        exact_BFQ = nbinom.ppf(p, r_BF1, r_BF1 / (r_BF1 + small_BF1))
        # same mean and variance; there within a thousandth of a deviation, while the exact search may never end
        gamma_BFQ = np.ceil(gammaincinv(1 / (1 / mu_BF1 + alpha_BF1), p) * (1 + alpha_BF1 * mu_BF1))
        result: NDArray[np.float64] = np.where(mu_BF1 > LARGEST_EXACT_MEAN, gamma_BFQ, exact_BFQ)
        return result


def _location_scale(mix_BF: Tensor, unit_B: Tensor, raw_BFP: Tensor) -> Tensor:
    unit_B1 = unit_B[:, None]
    mu_BF = mix_BF + unit_B1 * raw_BFP[..., 0]
    return torch.stack([mu_BF, unit_B1 * _width(raw_BFP[..., 1])], -1)


def _width(raw: Tensor) -> Tensor:
    return SMALLEST_WIDTH + (1 - SMALLEST_WIDTH) * F.softplus(raw + UNIT_SOFTPLUS)


def _in_data_units(parameters: HeadParameters) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    values_BFP, scale = parameters.values_BFP, parameters.scale
    return _numpy(scale.restore(values_BFP[..., 0])), _numpy(scale.scale_B[:, None] * values_BFP[..., 1].double())


def _numpy(values: Tensor) -> NDArray[np.float64]:
    result: NDArray[np.float64] = values.detach().cpu().double().numpy()
    return result


HEADS = ("quantile", "gaussian", "student-t", "negative-binomial", "sigmoid")


def make_head(name: str, levels: tuple[float, ...], bounds: tuple[float, float]) -> Head:
    """The head of this name.

    Args:
        name: One of `HEADS`.
        levels: Interval levels in percent (quantile and sigmoid are trained on them).
        bounds: Bounds of the target (sigmoid only).

    Raises:
        OptionError: An unknown name.

    Example:
        >>> make_head("quantile", (80.0,), (0.0, 1.0))
        QuantileHead(levels=(80.0,))
    """
    if name not in HEADS:
        raise OptionError(Problem("head", f"one of {', '.join(HEADS)}", repr(name), "give one of these, say quantile"))
    made: dict[str, Head] = {
        "quantile": QuantileHead(levels),
        "gaussian": GaussianHead(),
        "student-t": StudentTHead(),
        "negative-binomial": NegativeBinomialHead(),
        "sigmoid": SigmoidHead(levels, *bounds),
    }
    return made[name]
