"""The demo: bundled data, one fit, scores on hours that training never saw, one picture."""

from __future__ import annotations

import tempfile
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import polars as pl

from holdfast.forecasting.backtest import backtest_table
from holdfast.forecasting.fitted import Fitted
from holdfast.forecasting.forecaster import Forecaster
from holdfast.forecasting.metrics import naive_title, score_table, skill, summary_scores
from holdfast.reports import forecast_figure
from holdfast.series import RawTable, TableOptions, check_table
from holdfast.series.datasets import m4_hourly
from holdfast.telemetry import Outlook

HORIZON, SEASON = 48, 24
TIME_BUDGET = 50.0  # seconds of training
PICTURED = ("H1", "H150", "H400")


@dataclass(frozen=True)
class DemoResult:
    """What the demo found.

    Attributes:
        scores: Those of the 414 series on the last 48 hours, which were kept back from the fit.
        skill: 1 - MASE / MASE of the best naive forecast.
        baseline: Which naive forecast that is.
        picture: PNG file.
    """

    scores: dict[str, dict[str, float]]
    skill: float
    baseline: str
    picture: Path


def run_demo(
    out: Path | None,
    *,
    show: Callable[[Outlook], None] | None = None,
    say: Callable[[str], None] = lambda line: None,
    time_budget: float = TIME_BUDGET,
) -> DemoResult:
    """Fit M4 Hourly without its last 48 hours, score those, forecast 48 hours more, and draw both.

    Args:
        out: Folder for the picture; None makes a new temporary one.
        show: Called after each step.
        say: Called with each line of the story.
        time_budget: Seconds of training.
    """
    folder = Path(tempfile.mkdtemp(prefix="holdfast-demo-")) if out is None else out
    folder.mkdir(parents=True, exist_ok=True)
    everything = m4_hourly("all")
    say("M4 Hourly: 414 series; the last 48 hours of each are kept back from the fit")
    forecaster = Forecaster(horizon=HORIZON, season_length=SEASON, max_steps=100_000, time_budget=time_budget)
    forecaster.fit(m4_hourly("train"), show=show)
    say(forecaster.summary())
    say(forecaster.diagnose().verdict)
    held_out = _held_out(forecaster.fitted, everything)
    each = score_table(held_out, everything, SEASON, forecaster.levels)
    scores = summary_scores(each, held_out, forecaster.levels)
    picture = folder / "forecast.png"
    forecast_figure(
        picture,
        everything,
        [held_out, forecaster.predict(everything)],
        PICTURED,
        steps=9 * SEASON,
        title="M4 Hourly: 48 hours kept back from the fit, and the 48 hours after them",
    )
    baseline = naive_title(forecaster.fitted.network.config.baseline_season)
    return DemoResult(scores, skill(scores), baseline, picture)


def _held_out(fitted: Fitted, everything: pl.DataFrame) -> pl.DataFrame:
    store = check_table(RawTable(everything), TableOptions(horizon=HORIZON)).store
    windows = fitted.windows_of(store)
    cutoff_n: np.ndarray[tuple[int], np.dtype[np.int64]] = store.lengths - HORIZON
    return backtest_table(
        fitted.networks, store, windows, cutoff_n, fitted.prepared.config.levels, floored=fitted.floored
    )
