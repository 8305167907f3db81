"""What the commands do with files."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import polars as pl

from holdfast.errors import OptionError, Problem
from holdfast.flow import Diagnosis
from holdfast.forecasting.config import Config
from holdfast.forecasting.diagnosis import case_of_run, diagnose_case, diagnosis_panels
from holdfast.forecasting.forecaster import Forecaster, backtest_fitted, forecaster_of
from holdfast.forecasting.metrics import naive_title, score_table, summary_scores
from holdfast.forecasting.prepared import user_names
from holdfast.reports import flow_figure
from holdfast.series import DIALECT, TableOptions, open_table, table_options_of, write_table
from holdfast.telemetry import Outlook

Show = Callable[[Outlook], None]


def fit_file(config: Config, data: Path, out: Path | None, *, show: Show | None = None) -> Forecaster:
    """Fit a file; with `out` the run is kept there."""
    return forecaster_of(config).fit(data, out=out, show=show)


def predict_run(
    run: Path,
    data: Path | None,
    future: Path | None,
    out: Path | None,
    *,
    levels: tuple[float, ...] | None = None,
    written: TableOptions | None = None,
    safe: bool = False,
) -> pl.DataFrame:
    """Forecast with a kept run, and write the forecasts to `out`, with `safe` for a spreadsheet.

    `levels` are those of the intervals, where they are not as in the fit; `written` says the same of how the tables are
    written.
    """
    forecaster = Forecaster.load(run)
    options = table_options_of(forecaster)
    given = {name: getattr(written, name, None) for name in DIALECT}
    options = replace(options, **{name: value for name, value in given.items() if value is not None})
    opened = [None if path is None else open_table(path, options) for path in (data, future)]
    table: pl.DataFrame = forecaster.predict(opened[0], future=opened[1], levels=levels)
    if out is not None:
        write_table(table, out, safe=safe)
    return table


def backtest_file(
    config: Config,
    data: Path,
    n_windows: int,
    out: Path | None,
    *,
    show: Show | None = None,
    safe: bool = False,
) -> tuple[dict[str, dict[str, float]], str]:
    """Backtest a file; with `out` the scores of each series and cutoff are written there.

    Returns:
        Scores as they are printed, and the name of the naive forecast in them.
    """
    if out is not None:
        check_place(out)
    fitted, table = backtest_fitted(forecaster_of(config), data, n_windows, show=show)
    scores = score_table(table, fitted.prepared.checked.table, fitted.network.config.naive_season, config.levels)
    if out is not None:
        write_table(user_names(config, scores), out, safe=safe)
    return summary_scores(scores, table, config.levels), naive_title(fitted.network.config.baseline_season)


def diagnose_run(run: Path | str, data: Path | str | None = None, picture: Path | None = None) -> Diagnosis:
    """Look at a kept run, with other series if they are given; a run that broke down at the step where it did.

    Args:
        run: Directory of a fit, complete or not.
        data: CSV or Parquet file with newer or other series, for a complete run; None: those of the fit.
        picture: .png or .svg file to draw adjoints, eigenvalues and their course in training to; None: no picture.

    Returns:
        Verdict, findings, advice as options of a fit, and numbers.

    Raises:
        OptionError: The picture cannot be drawn there, or matplotlib is not installed.
        RunDirectoryError: The directory is not a run, or a file in it is damaged or not the original.
        DataError: With everything that is wrong with the table.

    Example:
        >>> import tempfile
        >>> table = pl.DataFrame({"ds": range(60), "y": [10.0, 20.0, 30.0, 45.0] * 15})
        >>> folder = Path(tempfile.mkdtemp()) / "run"
        >>> _ = Forecaster(horizon=4, season_length=4, hidden_size=8, max_steps=1).fit(table, out=folder)
        >>> diagnose_run(folder).kind
        'healthy'
    """
    if picture is not None:
        check_place(picture, (".png", ".svg"), "--picture")
    case = case_of_run(Path(run))
    found = diagnose_case(case) if data is None else Forecaster.load(run).diagnose(data)
    if picture is not None:
        flow_figure(picture, diagnosis_panels(found, case.records), title=found.kind.capitalize())
    return found


def check_place(out: Path, endings: tuple[str, str] = (".csv", ".parquet"), option: str = "--out") -> None:
    """Refuse a file that could not be written, before the work whose result it is to hold."""
    if out.suffix not in endings or not out.parent.is_dir():
        expected, got = f"a file that ends in {' or '.join(endings)}, in a folder that is there", repr(str(out))
        raise OptionError(Problem(f"option {option}", expected, got, "change its name, or create the folder first"))
