"""Forecasts of held-out windows from rolling cutoffs, next to what came.

Shapes: V validation windows, E earlier windows, F horizon steps, M forecasts that are mixed.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from holdfast.forecasting.baselines import other_forecasts
from holdfast.forecasting.predict import predict_windows
from holdfast.networks import ForecastNetwork
from holdfast.training import Split
from holdfast.windows import Windows

Floats = NDArray[np.float64]
Ints = NDArray[np.int64]

FEW_APART = 50  # windows; with fewer, earlier cutoffs say how the errors of smoothing grow over the horizon
EARLIER = 4  # such cutoffs per series, a horizon apart


@dataclass(frozen=True)
class HeldOut:
    """Forecasts of held-out windows, and what came.

    Attributes:
        forecast_MVF: Of the network, exponential smoothing and the best naive forecast.
        low_VF: How far the lower border of the network's interval is below its forecast.
        high_VF: How far the upper border is above it.
        target_VF: What came, nan where missing.
        scale_V: Mean error of seasonal naive in the history of each window.
        apart_V: Number of each window's block: those of a series whose cutoffs are less than a horizon apart.
        earlier_EF: Errors of exponential smoothing from earlier cutoffs, in units of their scales.
        level: Of the interval, in percent.
    """

    forecast_MVF: Floats
    low_VF: Floats
    high_VF: Floats
    target_VF: Floats
    scale_V: Floats
    apart_V: Ints
    earlier_EF: Floats
    level: float

    def part(self, some_V: NDArray[np.bool_]) -> HeldOut:
        """Some of the windows."""
        return replace(
            self,
            forecast_MVF=self.forecast_MVF[:, some_V],
            low_VF=self.low_VF[some_V],
            high_VF=self.high_VF[some_V],
            target_VF=self.target_VF[some_V],
            scale_V=self.scale_V[some_V],
            apart_V=self.apart_V[some_V],
        )

    @property
    def blocks(self) -> int:
        """Blocks: as many windows as do not overlap."""
        return len(np.unique(self.apart_V))

    def errors(self, forecast_VF: Floats) -> Floats:
        """Mean absolute error of each window in units of its scale [V]; nan where nothing was observed."""
        error_VF = np.abs(forecast_VF - self.target_VF)
        seen_VF = np.isfinite(error_VF)
        count_V = seen_VF.sum(1)
        total_V = np.where(seen_VF, error_VF, 0.0).sum(1)
        return np.where(count_V > 0, total_V / np.maximum(count_V, 1), np.nan) / self.scale_V


def hold_out(
    network: ForecastNetwork, windows: Windows, split: Split, level: float, *, smoothing: bool = True
) -> HeldOut:
    """The forecasts of the validation windows.

    Args:
        network: Whose forecasts are its own.
        windows: The series.
        split: Says which windows.
        level: Of the interval, in percent.
        smoothing: Whether smoothing is wanted; the naive forecast stands in its place if not.
    """
    config, series_V, cutoff_V = network.config, split.validated_V, split.cutoff_V
    apart_V = series_V * (int(cutoff_V.max(initial=0)) + 1) + (cutoff_V - split.until_n[series_V]) // config.horizon
    point_VF, border_VFQ = predict_windows([network], windows, series_V, cutoff_V, (level,))
    others = other_forecasts(windows, series_V, cutoff_V, config, smoothing=smoothing)
    few = smoothing and len(np.unique(apart_V)) < FEW_APART
    return HeldOut(
        forecast_MVF=np.stack([point_VF, others.smoothed_BF, others.naive_BF]),
        low_VF=point_VF - border_VFQ[..., 0],
        high_VF=border_VFQ[..., 1] - point_VF,
        target_VF=_targets(windows, series_V, cutoff_V, config.horizon),
        scale_V=others.scale_B,
        apart_V=apart_V,
        earlier_EF=_earlier_errors(network, windows, split) if few else np.zeros((0, config.horizon)),
        level=level,
    )


def _earlier_errors(network: ForecastNetwork, windows: Windows, split: Split) -> Floats:
    """Absolute errors of exponential smoothing from cutoffs before those of the validation windows [E, F]."""
    horizon, series_n = network.config.horizon, np.unique(split.validated_V)
    series_E = np.repeat(series_n, EARLIER)
    cutoff_E = split.until_n[series_E] - horizon * np.tile(np.arange(1, EARLIER + 1), len(series_n))
    enough_E = cutoff_E >= split.first_n[series_E]
    series_E, cutoff_E = series_E[enough_E], cutoff_E[enough_E]
    others = other_forecasts(windows, series_E, cutoff_E, network.config)
    error_EF: Floats = np.abs(others.smoothed_BF - _targets(windows, series_E, cutoff_E, horizon))
    return error_EF / others.scale_B[:, None]


def _targets(windows: Windows, series_V: Ints, cutoff_V: Ints, horizon: int) -> Floats:
    """What came after each cutoff [V, F], nan where missing."""
    row_VF = (windows.start_n.cpu().numpy()[series_V] + cutoff_V)[:, None] + np.arange(horizon)
    values: Floats = windows.y_R.cpu().numpy()[row_VF]
    return values


def block_means(values_V: Floats, apart_V: Ints) -> Floats:
    """The mean of each block of windows that overlap; windows without a value do not count.

    Example:
        >>> block_means(np.array([1.0, 3.0, 7.0, np.nan]), np.array([0, 0, 4, 5])).tolist()
        [2.0, 7.0]
    """
    known_V = np.isfinite(values_V)
    _, block_V = np.unique(apart_V[known_V], return_inverse=True)
    means: Floats = np.bincount(block_V, weights=values_V[known_V]) / np.bincount(block_V)
    return means


def standard_error(means: Floats) -> float:
    """Of the mean of some independent values; infinite of one.

    Example:
        >>> standard_error(np.array([1.0, 3.0])), standard_error(np.array([1.0]))
        (1.0, inf)
    """
    return float(means.std(ddof=1) / np.sqrt(len(means))) if len(means) > 1 else np.inf
