"""Forecasts of tables with other calendars: at the right times, in the form that came in, and again after a reload."""

from __future__ import annotations

from datetime import date, datetime
from pathlib import Path

import numpy as np
import pandas as pd
import polars as pl
import polars.testing
import pytest

from holdfast import Forecaster
from holdfast.series import Freq


def table(ds: pl.Series) -> pl.DataFrame:
    return pl.DataFrame({"ds": ds, "y": 10 + np.sin(np.arange(len(ds)))})


HOLIDAYS = Freq("1b").range(date(2024, 1, 1), 60).gather([*range(20), *range(21, 60)])
VIENNA = Freq("1d").range(pl.Series([datetime(2024, 1, 31)]).dt.replace_time_zone("Europe/Vienna"), 62)
TRADING = Freq.parse("30m@mon-fri,09:00-14:30").range(datetime(2024, 1, 1, 9), 182)
WEEKS = Freq.parse("4-4-5@2020-02-02").range(date(2020, 2, 2), 47)
NUMBERS = pl.Series([int(f"{day:%Y%m%d}") for day in Freq("1d").range(date(2024, 1, 1), 61)])
OFFSETS = VIENNA[:60].dt.strftime("%Y-%m-%d %H:%M:%S%:z")
CASES = {
    "trading hours": (TRADING[:180], {}, TRADING[180:].to_list()),
    "4-4-5": (WEEKS[:45], {}, WEEKS[45:].to_list()),
    "rows": (HOLIDAYS, {"freq": "rows"}, [date(2024, 3, 25), date(2024, 3, 26)]),
    "numbered": (pl.Series(np.arange(50) ** 2), {"freq": "rows"}, [50, 51]),
    "days as numbers": (NUMBERS[:59], {}, [20240229, 20240301]),
    "offsets": (OFFSETS, {"tz": "Europe/Vienna"}, VIENNA[60:].to_list()),
}


@pytest.mark.parametrize(("ds", "options", "ahead"), CASES.values(), ids=CASES.keys())
def test_forecasts_fall_on_the_calendar_before_and_after_a_reload(
    ds: pl.Series, options: dict[str, str], ahead: list[object], tmp_path: Path
) -> None:
    forecaster = Forecaster(horizon=2, context_length=8, max_steps=0, **options).fit(table(ds))  # type: ignore[arg-type]
    forecast = forecaster.predict()
    assert forecast["ds"].to_list() == ahead
    forecaster.save(tmp_path / "run")
    loaded = Forecaster.load(tmp_path / "run")
    polars.testing.assert_frame_equal(loaded.predict(), forecast)
    newer = loaded.predict(table(ds).tail(30))
    assert newer["ds"].dtype == forecast["ds"].dtype
    if loaded.fitted.prepared.store.freq.text != "rows":
        assert newer["ds"].to_list() == ahead


def test_days_without_a_value_at_the_end_are_forecast_with_their_covariates(tmp_path: Path) -> None:
    days = pd.date_range("2024-01-01", periods=67)
    df = pd.DataFrame({"ds": days, "y": 10 + np.sin(np.arange(67)), "promo": np.arange(67) % 3})
    df.loc[60:, "y"] = np.nan
    forecaster = Forecaster(future=("promo",), season_length=7, context_length=14, max_steps=0).fit(df)
    forecast = forecaster.predict()
    assert forecast["ds"].tolist() == days[60:].tolist()
    assert (
        "no series has a value from 2024-03-01 00:00:00 on: these rows are the future, 7 for each"
        in forecaster.summary()
    )
    explicit = forecaster.predict(df[:60], future=df[60:].drop(columns="y"))
    pd.testing.assert_frame_equal(forecast, explicit)
    pd.testing.assert_frame_equal(forecaster.predict(df), forecast)
    forecaster.save(tmp_path / "run")
    pd.testing.assert_frame_equal(Forecaster.load(tmp_path / "run").predict(), forecast)


def test_a_backtest_of_rows_has_the_times_of_the_rows() -> None:
    scored = Forecaster(horizon=2, context_length=8, max_steps=0, freq="rows").backtest(table(HOLIDAYS), n_windows=2)
    assert scored["ds"].to_list() == HOLIDAYS[-4:].to_list()
    assert scored["cutoff"].unique(maintain_order=True).to_list() == HOLIDAYS.gather([54, 56]).to_list()
