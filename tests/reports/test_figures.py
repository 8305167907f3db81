"""Pictures: what is drawn is what is in the tables, and the file is what its name says."""

from __future__ import annotations

import datetime as dt
import struct
import sys

import numpy as np
import polars as pl
import pytest
from matplotlib.figure import Figure

from holdfast import OptionError
from holdfast.reports import forecast_figure


@pytest.fixture
def drawn(monkeypatch):
    """The figures that were saved, beside their files."""
    figures, save = [], Figure.savefig

    def keep(figure, *arguments, **options):
        figures.append(figure)
        save(figure, *arguments, **options)

    monkeypatch.setattr(Figure, "savefig", keep)
    return figures


def tables():
    history = pl.DataFrame(
        {"unique_id": [3] * 6 + [1] * 4, "ds": [*range(6), *range(4)], "y": [1.0, 2, 3, None, 5, 6, 9, 8, 7, 6]}
    )
    ahead = pl.DataFrame(
        {
            "unique_id": [3, 3, 1, 1],
            "ds": [6, 7, 4, 5],
            "holdfast": [7.0, 8, 5, 4],
            "holdfast-lo-80": [6.0, 6, 4, 3],
            "holdfast-hi-80": [8.0, 10, 6, 5],
            "seasonal_naive": [5.0, 6, 7, 6],
        }
    )
    return history, ahead


def test_every_line_is_a_column_of_its_table(tmp_path, drawn):
    history, ahead = tables()
    second = ahead.select("unique_id", "ds", "holdfast").filter(pl.col("unique_id") == 3)
    forecast_figure(tmp_path / "a.png", history, [ahead, second], [3, 1], steps=5, title="sales [net]")
    (figure,) = drawn
    assert figure.get_suptitle() == "sales [net]"
    assert [panel.get_title(loc="left") for panel in figure.axes] == ["3", "1"]
    first, other = figure.axes
    lines = {line.get_label(): line for line in first.get_lines() if not line.get_label().startswith("_")}
    assert set(lines) == {"observed", "best naive forecast", "holdfast"}
    np.testing.assert_array_equal(lines["observed"].get_xydata(), [[1, 2], [2, 3], [3, np.nan], [4, 5], [5, 6]])
    np.testing.assert_array_equal(lines["holdfast"].get_xydata(), [[6, 7], [7, 8]])
    np.testing.assert_array_equal(lines["best naive forecast"].get_xydata(), [[6, 5], [7, 6]])
    band = first.collections[0].get_paths()[0].vertices
    assert {tuple(point) for point in band} == {(6, 6), (6, 8), (7, 6), (7, 10)}
    assert [text.get_text() for text in first.get_legend().get_texts()] == [
        "observed",
        "80 %",
        "best naive forecast",
        "holdfast",
    ]
    np.testing.assert_array_equal(other.get_lines()[0].get_xydata(), [[0, 9], [1, 8], [2, 7], [3, 6]])
    assert len(first.get_lines()) == len(other.get_lines()) + 2  # the second table has series 3 only


def test_a_png_has_the_size_of_its_panels(tmp_path):
    history, ahead = tables()
    sizes = []
    for ids in ([3], [3, 1]):
        path = tmp_path / f"{len(ids)}.png"
        forecast_figure(path, history, [ahead], ids, steps=9, title="t")
        data = path.read_bytes()
        assert data[:8] == b"\x89PNG\r\n\x1a\n"
        sizes.append(struct.unpack(">II", data[16:24]))
    assert sizes == [(1210, 363), (1210, 638)]


def test_an_svg_is_one(tmp_path):
    history, ahead = tables()
    days = pl.col("ds").replace_strict({k: dt.date(2024, 1, 1 + k) for k in range(8)})
    forecast_figure(tmp_path / "a.svg", history.with_columns(days), [ahead.with_columns(days)], [3], steps=9, title="t")
    assert "<svg" in (tmp_path / "a.svg").read_text()


def test_without_matplotlib_it_says_what_to_install(tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "matplotlib.figure", None)
    history, ahead = tables()
    with pytest.raises(OptionError, match=r"pip install 'holdfast\[report\]'"):
        forecast_figure(tmp_path / "a.png", history, [ahead], [3], steps=9, title="t")
    assert list(tmp_path.iterdir()) == []


def test_no_state_of_matplotlib_is_touched(tmp_path):
    import matplotlib as mpl
    from matplotlib import pyplot

    before = dict(mpl.rcParams)
    history, ahead = tables()
    forecast_figure(tmp_path / "a.png", history, [ahead], [3], steps=9, title="t")
    assert pyplot.get_fignums() == []
    assert dict(mpl.rcParams) == before
