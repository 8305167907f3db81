"""What the panels share: colours that everybody can tell apart, scales of powers of ten, frames."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from holdfast.reports.figures import FORECAST, INK, NAIVE

COLOURS = (FORECAST, NAIVE, "#e0a526", "#6b4c9a", "#5aa9e6", INK)
DASHES = ("-", "--", "-.", ":", (0, (5, 1)), (0, (1, 1)))
MARKERS = ("o", "^", "s", "D", "v", "P")


def decades(log_norms: Sequence[float]) -> NDArray[np.float64]:
    """Powers of ten, from natural logs."""
    return np.asarray(log_norms, dtype=np.float64) / math.log(10)


def limits(rows: Iterable[NDArray[np.float64]]) -> tuple[float, float]:
    """A little beyond all finite values; at least two powers of ten."""
    values = np.concatenate([np.empty(0), *rows])
    values = values[np.isfinite(values)]
    low, high = (float(values.min()), float(values.max())) if len(values) else (0.0, 0.0)
    margin = max(0.05 * (high - low), 1 - (high - low) / 2)
    return low - margin, high + margin


def edges(centres: Sequence[int]) -> NDArray[np.float64]:
    """Borders of cells around rising centres."""
    values = np.asarray(centres, dtype=np.float64)
    if len(values) == 1:
        return np.array([values[0] - 0.5, values[0] + 0.5])
    middle = (values[1:] + values[:-1]) / 2
    return np.array([2 * values[0] - middle[0], *middle, 2 * values[-1] - middle[-1]])


def powers_of_ten(axis: Any) -> None:
    """Name whole numbers as the powers of ten that they are: a scale without end, where floats stop at 1e308."""
    from matplotlib.ticker import FuncFormatter

    whole(axis)
    axis.set_major_formatter(FuncFormatter(lambda power, _: f"$10^{{{power:.0f}}}$"))


def whole(axis: Any) -> None:
    """Ticks at whole numbers only."""
    from matplotlib.ticker import MaxNLocator

    axis.set_major_locator(MaxNLocator(nbins=7, integer=True, min_n_ticks=1))


def finish(panel: Any, title: str, across: str, up: str) -> None:
    """Title, names of the axes, no frame above and at the right."""
    panel.set_title(title, loc="left", fontsize=12)
    panel.set_xlabel(across)
    panel.set_ylabel(up)
    panel.spines[["top", "right"]].set_visible(False)
