"""Scores of quantile forecasts of a whole set; S series, C cutoffs, H horizon steps, Q quantiles."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

Array = NDArray[np.float64]
QUANTILES = tuple(tenth / 10 for tenth in range(1, 10))


def scale_of(values: Array, season: int) -> float:
    """In-sample mean of |y_t - y_{t-m}| over the pairs without a missing value; nan where there is none."""
    steps = np.abs(values[season:] - values[:-season])
    return float(steps[np.isfinite(steps)].mean()) if np.isfinite(steps).any() else float("nan")


def mean_errors(actual_SCH: Array, point_SCH: Array) -> Array:
    """Mean absolute error of each series over what was observed; nan where nothing was."""
    seen_SCH = np.isfinite(actual_SCH)
    sums_S = np.where(seen_SCH, np.abs(actual_SCH - point_SCH), 0.0).sum(axis=(1, 2))
    counts_S = seen_SCH.sum(axis=(1, 2))
    return np.where(counts_S > 0, sums_S / np.maximum(counts_S, 1), np.nan)


def mean_or_none(values: Array) -> float | None:
    """A mean; None of nothing."""
    return float(values.mean()) if len(values) else None


def scores_of(
    actual_SCH: Array,
    forecast_SCHQ: Array,
    naive_SCH: Array,
    scale_S: Array,
    quantiles: Sequence[float] = QUANTILES,
) -> dict[str, Any]:
    """All scores of one forecaster on one set.

    MASE = mean over series of (mean |y - f| / scale), without series whose scale is 0 or undefined or whose test part
    is missing (`without_scale` of them). Relative MASE = geometric mean over these series of MASE / MASE of seasonal
    naive, without those in which one of the two is 0 (`zero_errors` of them).
    WQL = sum over points and the Q quantiles q of 2 max(q (y - f_q), (q - 1) (y - f_q)) / (Q sum |y|), over all points
    of all series (GIFT-Eval). Coverage is the share of points from the first to the last quantile.
    A step whose value is missing counts nowhere; a score that nothing is left for is None.

    Args:
        actual_SCH: What came, nan where missing.
        forecast_SCHQ: Forecasts of the quantiles, finite; that in the middle is the point forecast.
        naive_SCH: Seasonal naive forecasts.
        scale_S: In-sample scales.
        quantiles: Rising from .1 to .9, with .5 in the middle.

    Returns:
        `mase`, `relative_mase`, `wql`, `coverage`, `without_scale`, `zero_errors`.
    """
    error_S, naive_S = (
        mean_errors(actual_SCH, forecast_SCHQ[..., len(quantiles) // 2]),
        mean_errors(actual_SCH, naive_SCH),
    )
    scaled_S = np.isfinite(scale_S) & (scale_S > 0) & np.isfinite(error_S)
    both_S = scaled_S & (error_S > 0) & (naive_S > 0)
    ratios = mean_or_none(np.log(error_S[both_S]) - np.log(naive_S[both_S]))
    seen = np.isfinite(actual_SCH)
    y_n, f_nQ = actual_SCH[seen], forecast_SCHQ[seen]
    miss_nQ, q_Q = y_n[:, None] - f_nQ, np.array(quantiles)
    loss, total = 2 * np.maximum(q_Q * miss_nQ, (q_Q - 1) * miss_nQ).sum(), np.abs(y_n).sum()
    return {
        "mase": mean_or_none(error_S[scaled_S] / scale_S[scaled_S]),
        "relative_mase": None if ratios is None else float(np.exp(ratios)),
        "wql": float(loss / (len(quantiles) * total)) if total > 0 else None,
        "coverage": mean_or_none((f_nQ[:, 0] <= y_n) & (y_n <= f_nQ[:, -1])),
        "without_scale": int((~scaled_S).sum()),
        "zero_errors": int((scaled_S & ~both_S).sum()),
    }
