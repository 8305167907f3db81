"""Pictures of gradients on their way through time. Panels that `flow_figure` puts on one page, from plain numbers.

Needs the extra `report` (matplotlib); no window is opened, no global state is touched.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, Protocol

import numpy as np
from numpy.typing import ArrayLike, NDArray

from holdfast.errors import OptionError, Problem
from holdfast.reports.axes import COLOURS, DASHES, MARKERS, decades, edges, finish, limits, powers_of_ten, whole
from holdfast.reports.figures import FORECAST, INK, NAIVE, blank_figure

Panel = Callable[[Any], None]  # draws into the axes it is given

VANISHING, EXPLODING = (FORECAST, "#04312f"), (NAIVE, "#5c1a0e")  # pale to dark, on either side of white
FORGOTTEN = -2.0  # 1 % of the norm at lag 0, in powers of ten


class LagProfile(Protocol):
    """Natural logs of adjoint norms by lag: what `holdfast.flow.Profile` holds."""

    @property
    def quantiles(self) -> Mapping[float, Sequence[float]]:
        """By probability, at lag 0, 1, ...: at least 0.1, 0.5 and 0.9."""


class LagGrowth(Protocol):
    """How adjoints grow with lag: what `holdfast.flow.Growth` holds."""

    @property
    def per_lag(self) -> LagProfile:
        """Log norms at each lag."""

    @property
    def rate(self) -> float:
        """Growth rate per step back; nan if unknown."""

    @property
    def memory_length(self) -> int | None:
        """Steps back until `fraction` is left; None if more is left throughout."""

    @property
    def fraction(self) -> float:
        """The share that counts as forgotten."""


class FlowAtStep(Protocol):
    """Adjoint norms at one step of training."""

    @property
    def step(self) -> int:
        """The step of the optimiser."""

    @property
    def lags(self) -> Mapping[str, Sequence[int]]:
        """By layer, rising."""

    @property
    def log_norms(self) -> Mapping[str, Sequence[float]]:
        """By layer, the natural log of the norm at each of its lags."""


def flow_figure(path: Path, panels: Sequence[Panel], *, title: str = "", columns: int = 1) -> None:
    """Draw panels on one page, row by row.

    Args:
        path: .png or .svg file to write.
        panels: What `adjoint_panel`, `eigenvalue_panel`, `history_panel` and `surface_panel` return.
        title: Over the page; none by default.
        columns: How many panels stand side by side.

    Raises:
        OptionError: matplotlib is not installed, there is no panel, or fewer columns than one.

    Example:
        >>> import tempfile
        >>> path = Path(tempfile.mkdtemp()) / "a.png"
        >>> flow_figure(path, [eigenvalue_panel({"h": [0.5j, -0.5j]})])
        >>> path.read_bytes()[1:4]
        b'PNG'
    """
    if not panels or columns < 1:
        got = f"{len(panels)} panels in {columns} columns"
        raise OptionError(Problem("flow_figure", "at least one panel and one column", got, "give a panel"))
    rows = math.ceil(len(panels) / columns)
    figure = blank_figure((8.0 if columns == 1 else 5.6 * columns, 5.0 * rows + (0.4 if title else 0.0)))
    places = figure.subplots(rows, columns, squeeze=False).flatten()
    for place, panel in zip(places, panels, strict=False):
        panel(place)
    for place in places[len(panels) :]:
        place.set_axis_off()
    if title:
        figure.suptitle(title, fontsize=13)
    figure.savefig(path, dpi=110)


def adjoint_panel(
    growths: Mapping[str, LagGrowth], *, season: int | None = None, title: str = "How far back the loss reaches"
) -> Panel:
    """Adjoint norms over lag, on a scale of powers of ten: a line and a band per layer.

    The line is the median over windows, the band reaches from 10 to 90 %. A ring marks the memory length, a triangle on
    the floor the first lag at which the median is exactly zero. Norms of any size are drawn: 1e-400 too.

    Args:
        growths: By name of the layer, as `holdfast.flow.growth` returns it.
        season: Steps in one season, marked if given.
        title: Over the panel.

    Returns:
        A panel for `flow_figure`.

    Raises:
        OptionError: A growth without the quantiles 0.1, 0.5 and 0.9.

    Example:
        >>> from types import SimpleNamespace
        >>> logs = [0.0, -1.0, -2.0]
        >>> profile = SimpleNamespace(quantiles={0.1: logs, 0.5: logs, 0.9: logs})
        >>> growth = SimpleNamespace(per_lag=profile, rate=0.37, memory_length=None, fraction=0.01)
        >>> panel = adjoint_panel({"rnn.l0": growth}, season=24)
    """
    wanted = (0.1, 0.5, 0.9)
    for name, growth in growths.items():
        given = growth.per_lag.quantiles
        if any(p not in given for p in wanted):
            fix = "call growth with its default probabilities"
            raise OptionError(Problem(f"growth of {name!r}", "quantiles 0.1, 0.5 and 0.9", str(list(given)), fix))

    def draw(panel: Any) -> None:
        bands = {name: [decades(each.per_lag.quantiles[p]) for p in wanted] for name, each in growths.items()}
        floor, ceiling = limits(values for band in bands.values() for values in band)
        for number, (name, (low, median, high)) in enumerate(bands.items()):
            colour, dash = COLOURS[number % len(COLOURS)], DASHES[number % len(DASHES)]
            growth, lags = growths[name], np.arange(len(median))
            panel.fill_between(
                lags, np.maximum(low, floor), np.maximum(high, floor), color=colour, alpha=0.15, linewidth=0
            )
            line = np.where(np.isneginf(median), np.nan, median)
            single = {"marker": "o"} if len(lags) == 1 else {}
            label = _growth_label(name, growth, median)
            panel.plot(lags, line, color=colour, linestyle=dash, linewidth=1.8, label=label, **single)
            memory = growth.memory_length
            if memory is not None and memory < len(line) and np.isfinite(line[memory]):
                panel.plot(memory, line[memory], "o", color=colour, markerfacecolor="white", markersize=8, zorder=4)
            zeros = np.flatnonzero(np.isneginf(median))
            if len(zeros):
                panel.plot(zeros[0], floor, "v", color=colour, markersize=8, clip_on=False, zorder=4)
        if any(growth.memory_length is not None for growth in growths.values()):
            ring = {"color": INK, "markerfacecolor": "white", "markersize": 8, "linestyle": "none"}
            panel.plot([], [], "o", label="memory length", **ring)
        if season is not None:
            panel.axvline(
                season,
                color=INK,
                linewidth=0.9,
                linestyle=(0, (2, 3)),
                label=f"one season: {season} step" + ("" if season == 1 else "s"),
            )
        panel.set_ylim(floor, ceiling)
        panel.margins(x=0.01)
        whole(panel.xaxis)
        powers_of_ten(panel.yaxis)
        panel.grid(axis="y", color=INK, alpha=0.12, linewidth=0.6)
        finish(panel, title, "lag: steps back from the loss", "norm of the adjoint")
        if growths or season is not None:
            panel.legend(loc="upper center", bbox_to_anchor=(0.5, -0.14), frameon=False, fontsize=10)

    return draw


def eigenvalue_panel(
    eigenvalues: Mapping[str, Sequence[complex]], *, radius: float = 1.0, title: str = "Eigenvalues of the recurrence"
) -> Panel:
    """Eigenvalues in the complex plane with the circle inside which a linear recurrence vanishes.

    Args:
        eigenvalues: By name, a gate or a layer: all eigenvalues of its recurrent matrix.
        radius: Of the circle: 1 over the steepest slope of the activation, so 1 for tanh and ReLU, 4 for a sigmoid.
        title: Over the panel.

    Returns:
        A panel for `flow_figure`. Values that are not finite are left out.

    Example:
        >>> panel = eigenvalue_panel({"h": [0.9, 0.5 + 0.5j, 0.5 - 0.5j]}, radius=4.0)
    """

    def draw(panel: Any) -> None:
        from matplotlib.ticker import MaxNLocator

        turn, edge = np.linspace(0, 2 * math.pi, 361), radius
        panel.axhline(0, color=INK, linewidth=0.5, alpha=0.3)
        panel.axvline(0, color=INK, linewidth=0.5, alpha=0.3)
        for number, (name, values) in enumerate(eigenvalues.items()):
            points = np.asarray(values, dtype=np.complex128)
            points = points[np.isfinite(points)]
            largest = float(np.abs(points).max(initial=0.0))
            edge = max(edge, largest)
            panel.scatter(
                points.real,
                points.imag,
                s=22,
                marker=MARKERS[number % len(MARKERS)],
                color=COLOURS[number % len(COLOURS)],
                alpha=0.75,
                linewidth=0,
                zorder=3,
                label=f"{name}: spectral radius {largest:.3g}",
            )
        x, y = radius * np.cos(turn), radius * np.sin(turn)
        panel.fill(x, y, color=FORECAST, alpha=0.07, linewidth=0)
        panel.plot(x, y, color=INK, linewidth=1.3, label=f"circle of radius {radius:g}: neither grows nor vanishes")
        panel.set_xlim(-1.12 * edge, 1.12 * edge)
        panel.set_ylim(-1.12 * edge, 1.12 * edge)
        panel.set_aspect("equal")
        for axis in (panel.xaxis, panel.yaxis):
            axis.set_major_locator(MaxNLocator(nbins=5))
        finish(panel, title, "real part", "imaginary part")
        panel.legend(loc="upper center", bbox_to_anchor=(0.5, -0.14), frameon=False, fontsize=10)

    return draw


def history_panel(records: Sequence[FlowAtStep], layer: str, *, title: str = "") -> Panel:
    """Heat map of adjoint norms, relative to lag 0, over lag and training step.

    White is what it is at lag 0, green is less, red is more, black is exactly zero, grey is not known. The line goes
    along the first lag at which less than 1 % is left.

    Args:
        records: One for each step at which the flow was measured; those without the layer are left out.
        layer: Which one.
        title: Over the panel; by default it names the layer.

    Returns:
        A panel for `flow_figure`.

    Raises:
        OptionError: No record holds the layer.

    Example:
        >>> from types import SimpleNamespace
        >>> lags, logs = {"l0": (0, 1, 2)}, {"l0": (0.0, -2.0, -4.0)}
        >>> panel = history_panel([SimpleNamespace(step=step, lags=lags, log_norms=logs) for step in (0, 100)], "l0")
    """
    kept = sorted((record for record in records if record.lags.get(layer)), key=lambda record: record.step)
    if not kept:
        known = sorted({name for record in records for name in record.lags})
        raise OptionError(Problem(f"layer {layer!r}", "a layer of the records", f"layers {known}", "name one of them"))
    lags = sorted({lag for record in kept for lag in record.lags[layer]})
    steps = [record.step for record in kept]
    share = np.full((len(lags), len(steps)), np.nan)
    for column, record in enumerate(kept):
        powers = decades(record.log_norms[layer])
        if np.isfinite(powers[0]):
            share[[lags.index(lag) for lag in record.lags[layer]], column] = powers - powers[0]

    def draw(panel: Any) -> None:
        from matplotlib.colors import LinearSegmentedColormap

        reach = float(np.abs(share[np.isfinite(share)]).max(initial=1.0))
        ends = (*VANISHING[::-1], "white", *EXPLODING)
        colours = LinearSegmentedColormap.from_list("flow", ends).with_extremes(under="black", bad="#d0d0d0")
        shown = np.ma.masked_invalid(np.where(np.isneginf(share), -2 * reach, share))
        mesh = panel.pcolormesh(
            edges(steps), edges(lags), shown, cmap=colours, vmin=-reach, vmax=reach, rasterized=True
        )
        extend = "min" if np.isneginf(share).any() else "neither"
        bar = panel.figure.colorbar(mesh, ax=panel, extend=extend, label="norm of dL/dh, relative to lag 0")
        powers_of_ten(bar.ax.yaxis)
        forgotten = [next((lags[i] for i in np.flatnonzero(column < FORGOTTEN)), math.nan) for column in share.T]
        if not np.isnan(forgotten).all():
            panel.plot(steps, forgotten, color=INK, linewidth=1.6, marker="o", markersize=3, label="1 % left")
            panel.legend(loc="upper right", fontsize=10)
        finish(panel, title or f"Adjoints of {layer} while it learns", "training step", "lag: steps back from the loss")
        whole(panel.xaxis)
        whole(panel.yaxis)

    return draw


def surface_panel(
    w: ArrayLike,
    b: ArrayLike,
    error: ArrayLike,
    gradient_norm: ArrayLike,
    *,
    steps: Mapping[str, tuple[float, float]] | None = None,
    title: str = "The error of one recurrent unit",
) -> Panel:
    """The error of one unit over its weight and bias, the wall in it, and steps that start at its steepest point.

    Args:
        w: Weights [W].
        b: Biases [B].
        error: The error at each of them [W, B].
        gradient_norm: Norm of its gradient there [W, B], drawn as lines of 1, 10, 100, ...
        steps: By name, the change (dw, db) that a step from the steepest point makes: an arrow each, up to the frame.
        title: Over the panel.

    Returns:
        A panel for `flow_figure`.

    Example:
        >>> panel = surface_panel([4, 5], [-2, -1], [[0.1, 0.2], [0.0, 0.1]], [[1, 9], [2, 3]], steps={"plain": (3, 1)})
    """
    w_W, b_B, error_WB, norm_WB = (np.asarray(values, dtype=np.float64) for values in (w, b, error, gradient_norm))

    def draw(panel: Any) -> None:
        from matplotlib.colors import LinearSegmentedColormap

        colours = LinearSegmentedColormap.from_list("error", ("#ffffff", "#b9dcd9", FORECAST, "#04312f"))
        mesh = panel.pcolormesh(w_W, b_B, error_WB.T, cmap=colours, shading="nearest", rasterized=True)
        panel.figure.colorbar(mesh, ax=panel, label="error")
        known_WB = np.where(np.isfinite(norm_WB), norm_WB, -1.0)
        top = float(known_WB.max())
        levels = [10.0**power for power in range(math.ceil(math.log10(top)))] if top > 1 else []
        if levels and min(norm_WB.shape) > 1:
            panel.contour(w_W, b_B, norm_WB.T, levels=levels, colors=INK, linewidths=0.7)
            panel.plot([], [], color=INK, linewidth=0.7, label=f"gradient norm {', '.join(f'{x:g}' for x in levels)}")
        i, j = np.unravel_index(known_WB.argmax(), known_WB.shape)
        start = (w_W[i], b_B[j])
        if top >= 0:
            panel.plot(*start, "*", color="white", markeredgecolor=INK, markersize=15, zorder=5, linestyle="none")
            text = f"steepest: gradient norm {top:.4g}"
            # On the side where there is more room, and without a say in the layout.
            away, side = (24, "left") if i < len(w_W) / 2 else (-24, "right")
            note = panel.annotate(text, start, (away, 0), textcoords="offset points", ha=side, va="center")
            note.set_in_layout(False)
        for number, (name, change) in enumerate((steps or {}).items()):
            _arrow(panel, start, change, COLOURS[1 + number % 4], name)
        if panel.get_legend_handles_labels()[0]:
            panel.legend(loc="upper center", bbox_to_anchor=(0.5, -0.14), frameon=False, fontsize=10)
        finish(panel, title, "recurrent weight w", "bias b")

    return draw


def _arrow(panel: Any, start: tuple[float, float], change: tuple[float, float], colour: str, name: str) -> None:
    """An arrow that ends at the frame where the step goes beyond it."""
    (left, right), (low, high) = panel.get_xlim(), panel.get_ylim()
    share = 1.0
    for at, by, least, most in ((start[0], change[0], left, right), (start[1], change[1], low, high)):
        if by:
            share = min(share, ((most if by > 0 else least) - at) / by)
    end = (start[0] + share * change[0], start[1] + share * change[1])
    arrow = {"arrowstyle": "-|>", "color": colour, "linewidth": 2.4, "shrinkA": 0, "shrinkB": 0, "mutation_scale": 16}
    panel.annotate("", end, start, arrowprops=arrow, zorder=4)
    panel.plot([], [], color=colour, linewidth=2.4, label=f"{name}: {math.hypot(*change):.3g} long")


def _growth_label(name: str, growth: LagGrowth, median: NDArray[np.float64]) -> str:
    parts = [] if math.isnan(growth.rate) else [f"x {growth.rate:.3g} per step"]
    if growth.memory_length is not None:
        parts.append(f"{100 * growth.fraction:g} % left after {growth.memory_length} steps")
    zeros = np.flatnonzero(np.isneginf(median))
    if len(zeros):
        parts.append(f"zero from lag {zeros[0]}")
    return f"{name}: {', '.join(parts)}" if parts else name
