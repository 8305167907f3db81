"""The public face: a table in, forecasts out."""

from __future__ import annotations

import warnings
from collections.abc import Callable
from dataclasses import dataclass, field, fields, replace
from pathlib import Path
from typing import Any

import polars as pl

from holdfast.errors import DataError, DataWarning, OptionError, Problem, RunDirectoryError
from holdfast.flow import Diagnosis
from holdfast.forecasting import rundir
from holdfast.forecasting.backtest import backtest_table, check_windows, rolling_cutoffs
from holdfast.forecasting.config import Config
from holdfast.forecasting.diagnosis import case_after, case_before, diagnose_case
from holdfast.forecasting.fitted import (
    Fitted,
    read_fitted,
    read_prepared,
    run_training,
    start_run,
    summary_lines,
    write_fitted,
    write_telemetry,
)
from holdfast.forecasting.fork import refuse_fork
from holdfast.forecasting.members import plan_again, plan_members
from holdfast.forecasting.notes import history_notes
from holdfast.forecasting.predict import forecast_table
from holdfast.forecasting.prepared import Prepared, prepare, user_names
from holdfast.series import (
    Checked,
    Kind,
    RawTable,
    TableOptions,
    check_table,
    like,
    open_table,
    table_options_of,
    write_table,
)
from holdfast.telemetry import Outlook

Show = Callable[[Outlook], None]


@dataclass(frozen=True, kw_only=True, repr=False)
class Forecaster(Config):
    """A recurrent forecaster: its fields are the options (see `Config`), all by keyword, none needed.

    `fit` trains one network (the preset best: six) on all series of a long table with the columns `unique_id`, `ds`
    and `y` (options rename them), and mixes it with exponential smoothing of each series as far as held-out windows
    say; `predict` continues every series by `horizon` steps with prediction intervals. The
    frame that comes out is of the kind that went in: pandas, polars or pyarrow; ids and times are always columns.

    Raises:
        OptionError: With every option that cannot work.

    Example:
        >>> import polars as pl
        >>> table = pl.DataFrame({"ds": range(40), "y": [10.0, 20.0, 30.0, 40.0] * 10})
        >>> forecaster = Forecaster(horizon=4, season_length=4, levels=(80,), max_steps=0).fit(table)
        >>> forecaster.predict().columns
        ['unique_id', 'ds', 'holdfast', 'holdfast-lo-80', 'holdfast-hi-80']
        >>> forecaster.predict()["holdfast"].round(3).to_list()
        [10.0, 20.0, 30.0, 40.0]
    """

    _fitted: Fitted | None = field(default=None, init=False, repr=False, compare=False)

    def fit(self, df: Any, *, out: Path | str | None = None, show: Show | None = None) -> Forecaster:
        """Train on a table.

        Args:
            df: pandas, polars or pyarrow, or the path of a CSV or Parquet file (forecasts are polars then); one row
                per series and time, or with `wide` one column per series. Missing values of `y` are masked.
            out: Directory to keep the run in (see `resume`); nothing is written without it.
            show: Called after each step with how far training is.

        Returns:
            This forecaster, now fitted.

        Raises:
            DataError: With everything that is wrong with the table; nothing was written.
            RunDirectoryError: `out` holds something already.
            TrainingError: Training was not finite beyond recovery.
            KeyboardInterrupt: Ctrl-C; with `out` the run was saved and `resume` goes on with it.
        """
        refuse_fork()
        run = Path(out) if out is not None else None
        if run is not None:
            rundir.check_new(run)
        prepared = prepare(self.config, open_table(df, self))
        members = plan_members(prepared)
        if run is not None:
            start_run(run, prepared, members)
        return self._become(run_training(prepared, members, run=run, show=show))

    def predict(self, df: Any = None, *, future: Any = None, levels: tuple[float, ...] | None = None) -> Any:
        """Forecast the `horizon` steps behind the end of every series.

        Args:
            df: Newer or other series, with the columns of the fit; None: the series of the fit.
            future: Future covariates, one row per series and step of the horizon; needed if the fit had some.
            levels: Prediction intervals in percent, from 1 to 99.99; None: those of the fit. The quantile and sigmoid
                heads interpolate other levels between their fitted quantiles, and continue them with normal tails.

        Returns:
            Columns `unique_id` (or those of `id_col`), `ds`, `holdfast` (the median, or the mean of a count),
            `holdfast-lo-80`, ... in the units of `y`, one row per series and step, sorted by id and time.

        Raises:
            OptionError: The forecaster is not fitted, a level is not valid, or this process was forked from one that
                had computed.
            DataError: With everything that is wrong with the tables.

        Warns:
            DataWarning: With each thing that makes a forecast of newer data less certain: an outage at its end, a short
                history, a new category, a gap in a covariate.

        Example:
            >>> import polars as pl
            >>> table = pl.DataFrame({"ds": range(40), "y": [10.0, 20.0, 30.0, 40.0] * 10})
            >>> forecaster = Forecaster(horizon=4, season_length=4, max_steps=0).fit(table)
            >>> forecaster.predict(levels=(50, 99)).columns[3:]
            ['holdfast-lo-99', 'holdfast-lo-50', 'holdfast-hi-50', 'holdfast-hi-99']
        """
        refuse_fork()
        fitted = self.fitted
        asked = self.config if levels is None else replace(self.config, levels=levels)
        kind, store = fitted.prepared.kind, fitted.prepared.store
        if df is not None or future is not None:
            kind, checked = self._check_again(fitted.prepared, df, future)
            store, known = checked.store, summary_lines(fitted)
            for note in (*checked.concerns, *history_notes(store, fitted.network.config.context_length)):
                if note not in known:
                    warnings.warn(note, DataWarning, stacklevel=2)
        windows = fitted.windows_of(store)
        table = forecast_table(fitted.networks, store, windows, asked.levels, floored=fitted.floored)
        return like(user_names(self, table), kind)

    def backtest(self, df: Any, n_windows: int = 3, *, show: Show | None = None) -> Any:
        """Fit before the last windows of a table, then forecast each of them from its own cutoff.

        The preset is trained on what lies before the first cutoff and not refitted; each forecast sees the data
        up to its cutoff. The forecaster itself stays as it was.

        Args:
            df: As for `fit`.
            n_windows: Windows of `horizon` steps, end to end, the last one at the end of each series.
            show: Called after each step with how far training is.

        Returns:
            Columns `unique_id`, `ds`, `cutoff` (last time that the forecast saw), `y`, `holdfast`, two per level,
            `seasonal_naive`.

        Raises:
            DataError: With everything that is wrong with the table, or if it is too short.
            OptionError: `n_windows` is not a whole number of at least 1.
        """
        fitted, table = backtest_fitted(self, df, n_windows, show=show)
        return like(user_names(self, table), fitted.prepared.kind)

    def diagnose(self, df: Any = None) -> Diagnosis:
        """Say in words how gradients flow back through time, and what to do if they explode or vanish.

        A fitted forecaster is looked at on the batch that training would have taken next; one that is not fitted as it
        would start on this table: whether the season lies beyond its memory shows before training.

        Args:
            df: Newer or other series, with the columns of the fit; None: the series of the fit. Needed before a fit.

        Returns:
            Verdict, findings, advice and numbers; print it. The forecaster stays as it was.

        Raises:
            OptionError: Neither a fit nor a table.
            DataError: With everything that is wrong with the table, or if no series is long enough to train on.

        Example:
            >>> import polars as pl
            >>> table = pl.DataFrame({"ds": range(60), "y": [10.0, 20.0, 30.0, 45.0] * 15})
            >>> forecaster = Forecaster(horizon=4, season_length=4, context_length=16, cell="rnn-sigmoid", segment=1)
            >>> forecaster.diagnose(table).kind
            'vanishing'
        """
        refuse_fork()
        if self._fitted is None and df is not None:
            return diagnose_case(case_before(prepare(self.config, open_table(df, self))))
        fitted = self.fitted
        store = self._check_again(fitted.prepared, df, None)[1].store if df is not None else None
        return diagnose_case(case_after(fitted, store, fitted.log.records))

    def save(self, path: Path | str) -> None:
        """Write a new run directory, from which `load` makes this forecaster again; it cannot be trained further.

        Raises:
            OptionError: The forecaster is not fitted.
            RunDirectoryError: The directory holds something already.
        """
        fitted = self.fitted
        run = Path(path)
        rundir.new_run(run)
        write_table(fitted.prepared.checked.table, run / rundir.SERIES)
        write_telemetry(run, fitted)
        write_fitted(run, fitted)

    @classmethod
    def load(cls, path: Path | str) -> Forecaster:
        """The forecaster of a run directory. Runs no code from it.

        Raises:
            RunDirectoryError: The directory is not a complete run, or a file in it is damaged or not the original.
        """
        run = Path(path)
        if not rundir.read_manifest(run).complete:
            fix = f"finish it with: holdfast resume {run}"
            raise RunDirectoryError(Problem(str(run), "a complete run", "one that was stopped in training", fix))
        fitted = read_fitted(run)
        return forecaster_of(fitted.prepared.config)._become(fitted)

    @classmethod
    def resume(cls, path: Path | str, *, max_steps: int | None = None, show: Show | None = None) -> Forecaster:
        """Go on with a run that was stopped, or train a complete one for longer.

        On the same machine with as many threads, a run that was killed and resumed ends with the same bits as one
        that was not (not under a time budget, whose plan depends on the clock).

        Args:
            path: Run directory.
            max_steps: Steps in all; None: as planned. Another number changes the rest of the learning-rate schedule
                and puts an end to a time budget.
            show: Called after each step with how far training is.

        Raises:
            RunDirectoryError: The directory is not a run, or a file in it is damaged or not the original.
        """
        run = Path(path)
        prepared, members, manifest = read_prepared(run)
        places = rundir.places(run, len(members))
        if manifest.complete and not all((place / rundir.CHECKPOINT).exists() for place in places):
            expected = "a run with its training state, as `fit` with --out keeps it"
            fix = "load it to forecast, or fit again with --out"
            raise RunDirectoryError(Problem(str(run), expected, "a saved forecaster, or a fit without training", fix))
        changes: dict[str, Any] = {} if max_steps is None else {"max_steps": max_steps, "time_budget": None}
        prepared = replace(prepared, config=replace(prepared.config, **changes))
        again = [plan_again(replace(prepared, config=replace(config, **changes)), shapes) for config, shapes in members]
        fitted = run_training(prepared, again, run=run, resume=True, show=show)
        return forecaster_of(fitted.prepared.config)._become(fitted)

    @property
    def fitted(self) -> Fitted:
        """What the fit left behind.

        Raises:
            OptionError: There was no fit yet.
        """
        if self._fitted is None:
            fix = "call fit(df) first, or Forecaster.load(path)"
            raise OptionError(Problem("Forecaster", "a fitted forecaster", "one that was never fitted", fix))
        return self._fitted

    def summary(self) -> str:
        """Seasons with their reasons, context, and skill against seasonal naive, in words."""
        return "\n".join(summary_lines(self.fitted))

    @property
    def config(self) -> Config:
        """The options alone."""
        return Config(**{option.name: getattr(self, option.name) for option in fields(Config)})

    def _become(self, fitted: Fitted) -> Forecaster:
        """Options are frozen; what was learned with them is the one thing that changes."""
        object.__setattr__(self, "_fitted", fitted)
        return self

    def _check_again(self, prepared: Prepared, df: Any, future: Any) -> tuple[Kind, Checked]:
        own = RawTable(user_names(self, prepared.checked.table), prepared.kind, "the table of the fit")
        table = own if df is None else open_table(df, self)
        ahead = open_table(future, self, "the future table") if future is not None else None
        wide = prepared.config.wide and df is not None  # the table of the fit is long by now
        options = replace(table_options_of(prepared.config), freq=prepared.store.freq.text, wide=wide)
        check_columns(options, table)
        return table.kind, check_table(table, options, future=ahead, categories=prepared.checked.categories)


def check_columns(options: TableOptions, table: RawTable) -> None:
    """Refuse a table that lacks a column of the fit (an id column may be missing where it has its usual name)."""
    named = () if options.id_col == TableOptions.id_col else options.id_cols
    long = (*named, options.time_col, options.target_col, *options.covariates)
    needed, given = (options.time_col,) if options.wide else long, table.frame.columns
    lost = [name for name in needed if name not in given]
    if lost:
        got = f"{', '.join(map(repr, given))}, without {', '.join(map(repr, lost))}"
        expected = f"the columns of the fit: {', '.join(map(repr, needed))}"
        raise DataError(Problem(table.source, expected, got, "rename the columns, or add those that are missing"))


def backtest_fitted(
    forecaster: Forecaster, df: Any, n_windows: int, *, show: Show | None = None
) -> tuple[Fitted, pl.DataFrame]:
    """Train before the last windows, and forecast each from its own cutoff (see `Forecaster.backtest`)."""
    refuse_fork()
    if not isinstance(n_windows, int) or isinstance(n_windows, bool) or n_windows < 1:
        problem = Problem("option windows", "a whole number of at least 1", repr(n_windows), "give --windows 3")
        raise OptionError(problem)
    prepared = prepare(forecaster.config, open_table(df, forecaster), kept_back=n_windows)
    store = prepared.store
    check_windows(store, n_windows)
    fitted = run_training(prepared, plan_members(prepared, kept_back=n_windows), show=show)
    windows, levels = fitted.windows, prepared.config.levels
    tables = [
        backtest_table(fitted.networks, store, windows, cutoff_n, levels, floored=not prepared.config.allow_negative)
        for cutoff_n in rolling_cutoffs(store.lengths, store.horizon, n_windows)
    ]
    return fitted, pl.concat(tables).sort("unique_id", "cutoff", "ds", maintain_order=True)


def forecaster_of(config: Config) -> Forecaster:
    """An unfitted forecaster with these options."""
    return Forecaster(**{option.name: getattr(config, option.name) for option in fields(Config)})
