"""The same recurrences as in statsforecast: from its parameters and first state follow its last state and forecast."""

from __future__ import annotations

import numpy as np
import pytest

from holdfast.smoothing.recurrence import Parameters, State, ahead, states

models = pytest.importorskip("statsforecast.models", reason="a peer, installed by the extra `bench`")


@pytest.mark.parametrize("model", ["ANN", "AAN", "ANA", "AAA"])
@pytest.mark.parametrize("damped", [False, True])
@pytest.mark.parametrize("seed", [0, 1])
def test_equal_at_its_parameters(model: str, damped: bool, seed: int) -> None:
    if damped and model[1] == "N":
        pytest.skip("no trend to damp")
    rng, t, season = np.random.default_rng(seed), np.arange(63), 4
    y_T = 20 + 0.3 * t + 4 * np.sin(2 * np.pi * t / season) + rng.normal(size=len(t))
    theirs = models.AutoETS(season_length=season, model=model, damped=damped).fit(y_T)
    alpha, beta, gamma, phi = np.nan_to_num(theirs.model_["par"][:4], nan=np.nan)
    trend, seasonal = model[1] == "A", model[2] == "A"
    ours = Parameters(
        np.array([alpha]),
        np.array([beta / alpha if trend else 0.0]),  # ours are shares: of alpha, and of 1 - alpha
        np.array([gamma / (1 - alpha) if seasonal else 0.0]),
        np.array([phi if damped else 1.0]),
    )

    def state(row: np.ndarray) -> tuple[float, float, np.ndarray]:
        """Level, trend and season by phase of a row of theirs, where the newest phase comes first."""
        return row[0], row[1] if trend else 0.0, row[1 + trend :][::-1] if seasonal else np.zeros(season)

    level, slope, phases = state(theirs.model_["states"][0])
    begin = State(np.full((1, 1), level), np.full((1, 1), slope), phases[:, None, None])
    *_, last = states(y_T[None], begin, ours)
    level, slope, _ = state(theirs.model_["states"][-1])
    assert (last.level_NL.item(), last.trend_NL.item()) == pytest.approx((level, slope), rel=1e-9)
    damping_FL = ours.damping(9)
    if damped:  # statsforecast 2.1.1 sums phi + phi + phi^2 + ... where the book has phi + phi^2 + phi^3 + ...
        damping_FL = phi + np.append(0.0, np.cumsum(phi ** np.arange(1, 9)))[:, None]
    forecast = [ahead(last, damping_FL[k], (len(y_T) + k) % season).item() for k in range(9)]
    assert forecast == pytest.approx(theirs.predict(9)["mean"].tolist(), rel=1e-9)
