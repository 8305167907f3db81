"""Draw docs/benchmarks/peers-*.png from benchmarks/results/peers.json.

python benchmarks/draw_peers.py [--out docs/benchmarks]
"""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from common import read_results
from peers.jobs import COUNTS, FAST, FORECASTERS, LENGTHS, PEERS
from peers.tables import Row, scores_by, sizes

from holdfast.reports.axes import COLOURS, DASHES, MARKERS, finish
from holdfast.reports.figures import NAIVE, blank_figure

OUT = Path(__file__).parents[1] / "docs" / "benchmarks"
PACKAGES = ("holdfast", "neuralforecast", "gluonts", "darts")


def style(name: str) -> dict[str, Any]:
    """One colour per library, one mark and dash for each of its models."""
    package = FORECASTERS[name].package
    models = [other for other in FORECASTERS if FORECASTERS[other].package == package]
    library, model = (0, 2, 3, 4)[PACKAGES.index(package)], models.index(name)  # red is for naive forecasts
    return {"color": COLOURS[library], "marker": MARKERS[model], "markersize": 5, "linestyle": DASHES[model]}


def draw_error(rows: Sequence[Row], path: Path) -> None:
    """OWA against the seconds of the whole fit, one line per forecaster; a bar from the best to the worst seed."""
    figure = blank_figure((9, 5.2))
    panel = figure.subplots()
    for name in ("holdfast", *PEERS):
        scores = [score for score in scores_by(rows, name) if score.mean("owa") is not None]
        if not scores:
            continue
        owas = [[run["owa"] for run in score.runs if "owa" in run] for score in scores]
        means = [score.mean("owa") for score in scores]
        bars = [
            [mean - min(own) for mean, own in zip(means, owas, strict=True)],
            [max(own) - mean for mean, own in zip(means, owas, strict=True)],
        ]
        seconds = [score.mean("fit_seconds") for score in scores]
        panel.errorbar(seconds, means, yerr=bars, label=FORECASTERS[name].title, capsize=2, **style(name))
    for score in scores_by(rows, "naive"):
        panel.axhline(score.mean("owa"), color=NAIVE, linewidth=1, linestyle=":", label="seasonal naive")
    log_scales(panel)
    panel.legend(frameon=False, fontsize=9)
    finish(panel, "M4 Hourly: error against the seconds of a fit", "seconds of the whole fit", "OWA (lower is better)")
    figure.savefig(path, dpi=110)


def log_scales(panel: Any) -> None:
    """Both axes, with 0.4 and 30 instead of powers of ten; a panel without a point has no logarithm."""
    from matplotlib.ticker import FuncFormatter, LogLocator

    if not any(len(line.get_xdata()) for line in panel.lines):
        return
    panel.set_xscale("log")
    panel.set_yscale("log")
    for axis in (panel.xaxis, panel.yaxis):
        axis.set_major_locator(LogLocator(subs=(1, 2, 5)))
        axis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:,.10g}"))
        axis.set_minor_locator(LogLocator(subs=()))


def draw_growth(rows: Sequence[Row], path: Path) -> None:
    """Seconds and memory of a short fit against the number of series and against their length."""
    figure = blank_figure((9, 6.4))
    panels = figure.subplots(2, 2)
    kinds = (("fit_seconds", "seconds of the fit"), ("peak_gb", "peak memory, GB"))
    for column, (across, at) in enumerate((("series", COUNTS), ("steps of each of few series", LENGTHS))):
        for line, (value, up) in enumerate(kinds):
            panel = panels[line, column]
            for name in FAST:
                known = zip(at, sizes(rows, name)[column], strict=True)
                points = [(size, row[value]) for size, row in known if row and row.get(value) is not None]
                xy = zip(*points, strict=True) if points else ([], [])  # for the legend
                panel.plot(*xy, label=FORECASTERS[name].title, **style(name))
            log_scales(panel)
            panel.set_xticks(at)
            finish(panel, "", across, up)
    panels[0, 0].legend(frameon=False, fontsize=8)
    figure.suptitle("A short fit as the data grow; a line that ends was cut off", fontsize=12)
    figure.savefig(path, dpi=110)


def draw(out: Path = OUT) -> None:
    """Draw all that was measured."""
    facts = read_results("peers")
    if facts is None:
        return
    out.mkdir(parents=True, exist_ok=True)
    draw_error(facts["rows"], out / "peers-error.png")
    draw_growth(facts["rows"], out / "peers-growth.png")


def main() -> None:
    """Draw."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, default=OUT)
    draw(parser.parse_args().out)


if __name__ == "__main__":
    main()
