"""How much wider intervals must be after an outage or for a short history: measured on the validation windows.

Shapes: V validation windows, F horizon steps, K sizes.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
from numpy.typing import NDArray

from holdfast.forecasting.predict import predict_windows
from holdfast.networks import SIZES, ForecastNetwork
from holdfast.training import Split
from holdfast.windows import Windows

WINDOWS_TRIED = 128  # validation windows, evenly spaced
Ints = NDArray[np.int64]


def measure_widening(network: ForecastNetwork, windows: Windows, split: Split, levels: Sequence[float]) -> None:
    """Fill in the network's `Widening` from validation windows that are forecast with values taken away.

    For each size on a grid of powers of two, once that many rows at the end of the history are hidden, and once all
    but that many are cut off. The factor is the ratio by which the error, in half widths of the narrowest interval and
    at that interval's level, exceeds that of the same windows as they are; it is at least 1, and never falls with less
    data. Without a window to measure on, intervals grow as those of a random walk:
    sqrt(1 + outage / horizon).

    Args:
        network: A trained network.
        windows: The series.
        split: Which windows to look at.
        levels: Interval levels in percent.
    """
    config, widening = network.config, network.widening
    widening.after_K.fill_(1.0)
    widening.short_K.fill_(1.0)
    chosen = np.unique(np.linspace(0, max(len(split.validated_V) - 1, 0), WINDOWS_TRIED).round().astype(int))
    series_V, cutoff_V = (part[chosen] if len(part) else part for part in (split.validated_V, split.cutoff_V))
    size_K = torch.tensor(SIZES, dtype=torch.float64)
    if not len(series_V):
        widening.after_K.copy_((1 + size_K / config.horizon).sqrt())
        return
    reach = 2 * config.context_length
    trial = _Trial(network, windows, min(levels), series_V, cutoff_V, reach)
    after = [trial.excess(reach + size, hidden=size) for size in SIZES]
    short = [trial.excess(size) if size < config.context_length else 1.0 for size in SIZES]
    after_K, short_K = (torch.tensor(np.fmax(factors, 1.0)) for factors in (after, short))
    widening.after_K.copy_(after_K.cummax(0).values)
    widening.short_K.copy_(short_K.flip(0).cummax(0).values.flip(0))


class _Trial:
    """Forecasts of windows that lack something, next to those of the same windows as they are."""

    def __init__(
        self, network: ForecastNetwork, windows: Windows, level: float, series_V: Ints, cutoff_V: Ints, reach: int
    ) -> None:
        self.network, self.windows, self.level = network, windows, level
        self.series_V, self.cutoff_V = series_V, cutoff_V
        self.whole_VF = self._errors(np.ones(len(series_V), dtype=bool), reach, 0)

    def excess(self, rows: int, hidden: int = 0) -> float:
        """By what factor errors exceed the intervals more than they do with everything there; nan if unknown."""
        enough_V = self.cutoff_V > (hidden or rows)
        if not enough_V.any():
            return float("nan")
        whole, less = self.whole_VF[enough_V], self._errors(enough_V, rows, hidden)
        both = np.isfinite(whole) & np.isfinite(less)
        if not both.any() or np.quantile(whole[both], self.level / 100) == 0:
            return float("nan")
        return float(np.quantile(less[both], self.level / 100) / np.quantile(whole[both], self.level / 100))

    def _errors(self, chosen_V: NDArray[np.bool_], rows: int, hidden: int) -> NDArray[np.float64]:
        """Errors in half widths of the interval [V, F]; nan where nothing was observed."""
        horizon, series_V, cutoff_V = self.network.config.horizon, self.series_V[chosen_V], self.cutoff_V[chosen_V]
        few = self.windows.excerpt(series_V, cutoff_V, rows=rows, horizon=horizon, hidden=hidden)
        cutoff = np.minimum(rows, cutoff_V)
        point_VF, border_VFQ = predict_windows([self.network], few, np.arange(len(cutoff)), cutoff, (self.level,))
        row_VF = (few.start_n.cpu().numpy() + cutoff)[:, None] + np.arange(horizon)
        half_VF = (border_VFQ[..., 1] - border_VFQ[..., 0]) / 2
        errors_VF: NDArray[np.float64] = np.abs(few.y_R.cpu().numpy()[row_VF] - point_VF)
        return errors_VF / np.where(half_VF > 0, half_VF, np.nan)
