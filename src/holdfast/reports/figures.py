"""Pictures of forecasts. Needs the extra `report` (matplotlib); no window is opened, no global state is touched."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import polars as pl

from holdfast.errors import OptionError, Problem

INK, FORECAST, NAIVE = "#1b2a34", "#0b7a75", "#c8553d"


def blank_figure(inches: tuple[float, float]) -> Any:
    """A figure that belongs to no window system.

    Args:
        inches: Width and height.

    Returns:
        A `matplotlib.figure.Figure` that lays itself out.

    Raises:
        OptionError: matplotlib is not installed.
    """
    try:
        from matplotlib.figure import Figure
    except ImportError as error:
        fix = "pip install 'holdfast[report]'"
        raise OptionError(Problem("pictures", "the extra `report`", "matplotlib is not installed", fix)) from error
    return Figure(figsize=inches, layout="constrained")


def forecast_figure(
    path: Path,
    history: pl.DataFrame,
    forecasts: Sequence[pl.DataFrame],
    ids: Sequence[Any],
    *,
    steps: int,
    title: str,
) -> None:
    """Draw one panel per series: what was, what was forecast, and the intervals.

    Args:
        path: .png or .svg file to write.
        history: Columns `unique_id`, `ds`, `y`.
        forecasts: Tables with `unique_id`, `ds`, `holdfast`, two columns per level, and perhaps `seasonal_naive`; each
            is drawn from its own cutoff.
        ids: Which series, in this order.
        steps: How many of the last steps of the history to draw.
        title: Over the picture.

    Raises:
        OptionError: matplotlib is not installed.

    Example:
        >>> import tempfile
        >>> history = pl.DataFrame({"unique_id": "a", "ds": [1, 2, 3], "y": [1.0, 2.0, 1.0]})
        >>> ahead = pl.DataFrame({"unique_id": "a", "ds": [4, 5], "holdfast": [2.0, 1.0]})
        >>> path = Path(tempfile.mkdtemp()) / "a.png"
        >>> forecast_figure(path, history, [ahead], ["a"], steps=3, title="one series")
        >>> path.read_bytes()[1:4]
        b'PNG'
    """
    figure = blank_figure((11, 2.5 * len(ids) + 0.8))
    panels = figure.subplots(len(ids), 1, squeeze=False)[:, 0]
    for panel, unique_id in zip(panels, ids, strict=True):
        past = history.filter(pl.col("unique_id") == unique_id).tail(steps)
        panel.plot(past["ds"], past["y"], color=INK, linewidth=1.2, zorder=3, label="observed")
        for number, table in enumerate(forecasts):
            _draw(panel, table.filter(pl.col("unique_id") == unique_id), first=number == 0)
        panel.set_title(str(unique_id), loc="left", fontsize=10)
        panel.spines[["top", "right"]].set_visible(False)
        panel.margins(x=0.01)
    panels[0].legend(loc="upper left", bbox_to_anchor=(0.08, 1.22), ncols=5, frameon=False, fontsize=9)
    figure.suptitle(title, fontsize=12)
    figure.savefig(path, dpi=110)


def _draw(panel: Any, rows: pl.DataFrame, *, first: bool) -> None:
    def label(text: str) -> str | None:
        return text if first else None

    if rows.is_empty():  # too short a series for this forecast
        return
    lower = [name for name in rows.columns if name.startswith("holdfast-lo-")]
    for shade, name in enumerate(lower):
        level = name.removeprefix("holdfast-lo-")
        borders = (rows[name], rows[f"holdfast-hi-{level}"])
        alpha = 0.15 + 0.15 * shade
        panel.fill_between(rows["ds"], *borders, color=FORECAST, alpha=alpha, linewidth=0, label=label(f"{level} %"))
    if "seasonal_naive" in rows.columns:
        naive = rows["seasonal_naive"]
        panel.plot(rows["ds"], naive, color=NAIVE, linewidth=1, linestyle=":", label=label("best naive forecast"))
    panel.plot(rows["ds"], rows["holdfast"], color=FORECAST, linewidth=1.6, label=label("holdfast"))
    panel.axvline(rows["ds"][0], color=INK, linewidth=0.6, alpha=0.4)
