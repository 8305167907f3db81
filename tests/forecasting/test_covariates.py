"""Static, future and past covariates: that they matter, and what is refused."""

from __future__ import annotations

import numpy as np
import polars as pl
import pytest
import torch
from tests.forecasting.small import error

from holdfast import DataError, DataWarning, Forecaster


def driven(rows=160, seed=0):
    """Nothing but a covariate drives y; nothing in the past of y helps to see what comes."""
    rng = np.random.default_rng(seed)
    drive = rng.choice([-1.0, 1.0], rows)
    return pl.DataFrame(
        {"unique_id": "a", "ds": range(rows), "y": 10 + 3 * drive + rng.normal(0, 0.1, rows), "drive": drive}
    )


QUICK = {"horizon": 4, "season_length": 4, "hidden_size": 16, "batch_size": 32, "lr": 0.02, "dropout": 0.0, "seed": 1}


def test_a_future_covariate_that_drives_everything_is_learned():
    frame = driven()
    with_drive = Forecaster(**QUICK, max_steps=200, future="drive")
    without = Forecaster(**QUICK, max_steps=20)
    naive = error(without, frame, "seasonal_naive")
    assert error(with_drive, frame) < 0.3 * naive
    assert error(without, frame) > 0.6 * naive


def test_future_values_reach_the_forecast_and_only_that_of_their_step():
    frame = driven()
    forecaster = Forecaster(**QUICK, max_steps=200, future="drive").fit(frame)
    ahead = pl.DataFrame({"unique_id": "a", "ds": range(160, 164), "drive": [1.0, -1.0, -1.0, 1.0]})
    first = forecaster.predict(future=ahead)["holdfast"].to_numpy()
    assert (np.abs(first - [13, 7, 7, 13]) < 2).all()
    turned = forecaster.predict(future=ahead.with_columns(drive=-pl.col("drive")))["holdfast"].to_numpy()
    assert (np.abs(turned - [7, 13, 13, 7]) < 2).all()
    # columns, order and kind of the table of the future are free, and with the table of the fit it may be given again
    for future in (ahead.reverse().with_columns(spare=0), ahead.to_pandas(), ahead.to_arrow()):
        np.testing.assert_array_equal(forecaster.predict(future=future)["holdfast"], first)
        np.testing.assert_array_equal(forecaster.predict(frame, future=future)["holdfast"], first)


def test_future_covariates_work_under_own_column_names():
    names = {"unique_id": "shop", "ds": "day", "y": "sold"}
    plain, own = Forecaster(**QUICK, max_steps=2, future="drive"), None
    own = Forecaster(**QUICK, max_steps=2, future="drive", id_col="shop", time_col="day", target_col="sold")
    frame = driven(60)
    ahead = pl.DataFrame({"unique_id": "a", "ds": range(60, 64), "drive": [1.0, -1.0, -1.0, 1.0]})
    expected = plain.fit(frame).predict(future=ahead)
    got = own.fit(frame.rename(names)).predict(future=ahead.rename({"unique_id": "shop", "ds": "day"}))
    assert got.rename({"shop": "unique_id", "day": "ds"}).equals(expected)


def test_a_missing_future_is_refused_and_says_what_to_give():
    frame = pl.concat([driven(60), driven(3, seed=1).with_columns(unique_id=pl.lit("short"))])
    forecaster = Forecaster(**QUICK, max_steps=1, future="drive").fit(frame)
    with pytest.raises(DataError, match=r"future=") as caught:
        forecaster.predict()
    assert "drive" in caught.value.problems[0].where
    assert "series 'a'; series 'short'" in caught.value.problems[0].where
    some = pl.DataFrame({"unique_id": "a", "ds": range(60, 64), "drive": 1.0})
    with pytest.raises(DataError, match="4 steps of series 'short' missing, the first at 3"):
        forecaster.predict(future=some)
    # a backtest knows what came, and leaves out the series that is too short for it
    assert forecaster.backtest(frame, 1)["unique_id"].unique().to_list() == ["a"]


def test_future_that_nobody_asked_for_is_refused(data, fitted):
    with pytest.raises(DataError, match="none named"):
        fitted.predict(future=data)


def test_a_past_covariate_that_leads_is_learned():
    """y repeats a hidden sequence that the past covariate shows one horizon ahead."""
    rng = np.random.default_rng(0)
    steps = rng.choice([-1.0, 1.0], 404)
    columns = {"y": 10 + 3 * steps[:400] + rng.normal(0, 0.1, 400), "lead": steps[4:]}
    frame = pl.DataFrame({"unique_id": "a", "ds": range(400), **columns})
    forecaster = Forecaster(**QUICK, max_steps=200, past="lead")
    assert error(forecaster, frame) < 0.5 * error(Forecaster(**QUICK, max_steps=0), frame, "seasonal_naive")


def events():
    """An event, known ahead, lifts some series and lowers others; their kind tells which."""
    rng = np.random.default_rng(0)
    frames = []
    for number in range(12):
        kind, sign = ("up", 1) if number % 2 else ("down", -1)
        event = (rng.random(80) < 0.3) * 1.0
        y = 20 + 5 * sign * event + rng.normal(0, 1, 80)
        frames.append(pl.DataFrame({"unique_id": str(number), "ds": range(80), "y": y, "event": event, "kind": kind}))
    return pl.concat(frames)


def test_a_static_covariate_decides_what_the_past_does_not_show():
    forecaster = Forecaster(**QUICK, max_steps=200, future="event", static="kind").fit(events())
    quiet = 20 + np.random.default_rng(9).normal(0, 1, 30)
    new = pl.concat(
        pl.DataFrame({"unique_id": kind, "ds": range(30), "y": quiet, "event": 0.0, "kind": kind})
        for kind in ("up", "down")
    )
    days = {"ds": [30, 31, 32, 33] * 2, "event": [0.0, 1.0, 0.0, 1.0] * 2}
    ahead = pl.DataFrame({"unique_id": ["up"] * 4 + ["down"] * 4, **days})
    down, up = forecaster.predict(new, future=ahead)["holdfast"].to_numpy().reshape(2, 4)
    assert ((up - down)[[1, 3]] > 1.5).all()
    assert (np.abs(up - down)[[0, 2]] < 1).all()


@pytest.mark.filterwarnings("ignore::holdfast.errors.DataWarning")
def test_a_new_static_category_is_none_of_the_known_ones_and_is_said(tmp_path):
    forecaster = Forecaster(**QUICK, max_steps=20, static="kind").fit(events(), out=tmp_path / "run")
    new = events().filter(pl.col("unique_id") == "1").with_columns(kind=pl.lit("sideways"))
    for again in (forecaster, Forecaster.load(tmp_path / "run")):
        with pytest.warns(DataWarning, match="column 'kind': 'sideways' did not occur in the fit, and is read as no"):
            got = again.predict(new)["holdfast"].to_numpy()
    known = forecaster.predict(new.with_columns(kind=pl.lit("up")))["holdfast"].to_numpy()
    assert (got != known).all()
    forecaster.fitted.network.static.mean_C.zero_()  # no category is 0 in every feature, so this is all there is of it
    forecaster.fitted.network.static.deviation_C.fill_(1e30)
    silent = [forecaster.predict(new.with_columns(kind=pl.lit(kind)))["holdfast"] for kind in ("up", "sideways")]
    assert silent[0].equals(silent[1])


def test_a_gap_in_a_past_covariate_is_read_as_its_mean():
    frame = driven(60).with_columns(spare=pl.Series(np.random.default_rng(1).normal(5, 2, 60)))
    gaps = frame.with_columns(drive=pl.when(~pl.col("ds").is_in([3, 20, 57])).then("drive"))
    forecaster = Forecaster(**QUICK, max_steps=20, past=("drive", "spare")).fit(gaps)
    mean, _ = forecaster.fitted.network.past.mean_C.tolist()
    assert mean == pytest.approx(gaps["drive"][:48].mean(), rel=1e-6)  # the last rows choose the weights
    assert "column 'drive': missing in 3 rows, where the network reads its mean" in forecaster.summary()
    weight = forecaster.fitted.network.output.weight.data  # noise teaches the network to ignore it: now it cannot
    weight += 0.1 * torch.cos(torch.arange(weight.numel())).view_as(weight)
    filled = forecaster.predict(gaps.with_columns(pl.col("drive").fill_null(mean)))
    assert forecaster.predict()["holdfast"].to_numpy() == pytest.approx(filled["holdfast"].to_numpy(), rel=1e-6)
    assert (forecaster.predict(frame)["holdfast"] != filled["holdfast"]).all()


def test_a_future_covariate_of_text_is_learned_and_kept(tmp_path):
    names = {1.0: "high", -1.0: "low"}
    frame = driven().with_columns(pl.col("drive").replace_strict(names))
    forecaster = Forecaster(**QUICK, max_steps=200, future="drive").fit(frame, out=tmp_path / "run")
    ahead = pl.DataFrame({"unique_id": "a", "ds": range(160, 164), "drive": ["high", "low", "low", "high"]})
    for again in (forecaster, Forecaster.load(tmp_path / "run")):
        assert (np.abs(again.predict(future=ahead)["holdfast"].to_numpy() - [13, 7, 7, 13]) < 2).all()
    with pytest.raises(DataError, match="future covariates drive of series 'a'"):
        forecaster.predict()


@pytest.mark.parametrize("lost", ["ds", "y", "kind"])
def test_a_new_table_without_a_column_of_the_fit_is_refused(lost):
    forecaster = Forecaster(**QUICK, max_steps=1, static="kind").fit(events())
    with pytest.raises(DataError, match=f"without '{lost}'") as caught:
        forecaster.predict(events().drop(lost))
    assert "--" not in caught.value.problems[0].fix  # there is no option for it
