"""The demo, with a budget of half a second instead of fifty."""

from __future__ import annotations

import math
import struct

import pytest

from holdfast.forecasting.demo import run_demo
from holdfast.forecasting.metrics import skill


@pytest.fixture(scope="module")
def demo(tmp_path_factory):
    folder, elsewhere = tmp_path_factory.mktemp("out"), tmp_path_factory.mktemp("cwd")
    said, shown = [], []
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(elsewhere)
        result = run_demo(folder / "new" / "demo", show=shown.append, say=said.append, time_budget=0.5)
    return result, folder, elsewhere, said, shown


def test_one_picture_is_written_where_asked_and_nothing_elsewhere(demo):
    result, folder, elsewhere, _, _ = demo
    assert [path for path in folder.rglob("*") if path.is_file()] == [result.picture]
    assert result.picture.parent == folder / "new" / "demo"
    assert list(elsewhere.iterdir()) == []
    data = result.picture.read_bytes()
    assert data[:8] == b"\x89PNG\r\n\x1a\n"
    width, height = struct.unpack(">II", data[16:24])
    assert width > 800
    assert height > 600
    assert 50_000 < len(data) < 1_000_000


def test_scores_stand_beside_seasonal_naive(demo):
    result, *_ = demo
    for name in ("mase", "smape", "rmse"):
        assert math.isfinite(result.scores[name]["holdfast"])
    # seasonal naive does not depend on the training: the published figures
    assert round(result.scores["mase"]["seasonal_naive"], 3) == 1.193
    assert round(result.scores["smape"]["seasonal_naive"], 3) == 13.912
    assert result.skill == skill(result.scores)
    assert 0 < result.scores["coverage_level80"]["holdfast"] < result.scores["coverage_level95"]["holdfast"] < 1


def test_it_tells_its_story_and_its_progress(demo):
    _, _, _, said, shown = demo
    assert "kept back" in said[0]
    assert "skill" in said[1]
    assert shown
    assert shown[0].step == 1
