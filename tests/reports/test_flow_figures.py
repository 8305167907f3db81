"""Pictures of gradient flow: what is drawn is what was given, zeros, unknowns and 1e400 included."""

from __future__ import annotations

import math
import struct
import sys
from types import SimpleNamespace

import matplotlib as mpl
import numpy as np
import pytest
import torch
from matplotlib import pyplot
from matplotlib.figure import Figure

from holdfast import OptionError
from holdfast.flow import adjoints, error_surface, growth, spectra
from holdfast.reports import adjoint_panel, eigenvalue_panel, flow_figure, history_panel, surface_panel

INF, NAN, TEN = math.inf, math.nan, math.log(10)


@pytest.fixture
def draw(tmp_path, monkeypatch):
    """Draw panels to a file, and give back their axes."""
    figures, save = [], Figure.savefig

    def keep(figure, *arguments, **options):
        figures.append(figure)
        save(figure, *arguments, **options)

    monkeypatch.setattr(Figure, "savefig", keep)

    def drawn(*panels, **options):
        flow_figure(tmp_path / "a.png", panels, **options)
        return figures[-1].axes

    return drawn


def grown(median, low=None, high=None, rate=0.5, memory_length=None):
    """As `growth` gives it, from powers of ten."""
    quantiles = {
        p: tuple(TEN * power for power in row or median) for p, row in ((0.1, low), (0.5, median), (0.9, high))
    }
    per_lag = SimpleNamespace(quantiles=quantiles)
    return SimpleNamespace(per_lag=per_lag, rate=rate, memory_length=memory_length, fraction=0.01)


def record(step, lags, powers, layer="l0"):
    return SimpleNamespace(step=step, lags={layer: lags}, log_norms={layer: tuple(TEN * power for power in powers)})


def lines(axes):
    """Points of the lines that have a name, by name."""
    return {line.get_label(): line.get_xydata() for line in axes.get_lines() if not line.get_label().startswith("_")}


def corners(collection):
    return {(x, round(y, 9)) for path in collection.get_paths() for x, y in path.vertices}


def ticks(axis):
    return [label.get_text() for label in axis.get_ticklabels()]


def test_adjoints_are_drawn_in_powers_of_ten(draw):
    growths = {
        "rnn.l0": grown((0, -1, -2, -3), (-1, -2, -3, -4), (0, 0, -1, -2), rate=0.1, memory_length=3),
        "rnn.l1": grown((1, 2, 3), rate=10.0),
    }
    (axes,) = draw(adjoint_panel(growths, season=24, title="seen"))
    found = lines(axes)
    assert list(found) == [
        "rnn.l0: x 0.1 per step, 1 % left after 3 steps",
        "rnn.l1: x 10 per step",
        "memory length",
        "one season: 24 steps",
    ]
    first, second, _, season = found.values()
    np.testing.assert_allclose(first, [[0, 0], [1, -1], [2, -2], [3, -3]])
    np.testing.assert_allclose(second, [[0, 1], [1, 2], [2, 3]])
    assert season[:, 0].tolist() == [24, 24]
    assert corners(axes.collections[0]) >= {(k, float(y)) for k in range(4) for y in (-1 - k, min(0, 1 - k))}
    (ring,) = [line for line in axes.get_lines() if line.get_marker() == "o" and len(line.get_xdata())]
    np.testing.assert_allclose(ring.get_xydata(), [[3, -3]])
    assert ring.get_color() == axes.get_lines()[0].get_color() != axes.get_lines()[2].get_color()
    assert axes.get_title(loc="left") == "seen"
    assert "lag" in axes.get_xlabel() and "adjoint" in axes.get_ylabel()
    assert [text.get_text() for text in axes.get_legend().get_texts()] == list(found)
    low, high = axes.get_ylim()
    assert low < -4 and high > 3 and axes.get_xlim()[1] > 24
    assert ticks(axes.yaxis)[1:3] == ["$10^{-4}$", "$10^{-2}$"]


def test_zeros_end_a_line_at_the_floor(draw):
    (axes,) = draw(adjoint_panel({"dead": grown((0, -2, -INF, -INF), (0, -INF, -INF, -INF), memory_length=2)}))
    ((label, points),) = [item for item in lines(axes).items() if item[0] != "memory length"]
    assert label == "dead: x 0.5 per step, 1 % left after 2 steps, zero from lag 2"
    np.testing.assert_allclose(points, [[0, 0], [1, -2], [2, NAN], [3, NAN]])
    (triangle,) = [line for line in axes.get_lines() if line.get_marker() == "v"]
    floor = axes.get_ylim()[0]
    np.testing.assert_allclose(triangle.get_xydata(), [[2, floor]])
    assert (1.0, round(floor, 9)) in corners(axes.collections[0])  # the band falls to the floor before the line does


def test_norms_beyond_all_numbers(draw):
    (axes,) = draw(adjoint_panel({"up": grown((0, 200, 400)), "down": grown((0, -450, -900))}))
    up, down = lines(axes).values()
    assert (up[-1].tolist(), down[-1].tolist()) == ([2, pytest.approx(400)], [2, pytest.approx(-900)])
    assert "$10^{250}$" in ticks(axes.yaxis) and "$10^{-750}$" in ticks(axes.yaxis)


def test_one_lag_nothing_known_and_nothing_at_all(draw):
    panels = [
        adjoint_panel({"one": grown((-2,), rate=NAN)}),
        adjoint_panel({"unknown": grown((NAN, NAN, NAN), rate=NAN)}),
        adjoint_panel({"zero": grown((-INF, -INF), rate=NAN)}),
        adjoint_panel({}),
    ]
    one, unknown, zero, nothing = draw(*panels, columns=2)
    assert one.get_lines()[0].get_marker() == "o" and lines(one)["one"].tolist() == [[0, -2]]
    assert np.isnan(lines(unknown)["unknown"][:, 1]).all()
    assert list(lines(zero)) == ["zero: zero from lag 0"]
    assert nothing.get_legend() is None
    for axes in (one, unknown, zero, nothing):  # no power of ten is named twice
        assert len(set(ticks(axes.yaxis))) == len(ticks(axes.yaxis)) > 1


def test_a_real_layer(draw):
    layer = torch.nn.RNN(2, 8, batch_first=True)
    x_BTD = torch.randn(5, 30, 2, generator=torch.Generator().manual_seed(0))
    found = growth(adjoints(layer, lambda: layer(x_BTD)[0][:, -1].sum())["l0"].log_norm_BT)
    (axes,) = draw(adjoint_panel({"l0": found}))
    (name, points), *_ = lines(axes).items()
    assert name.startswith(f"l0: x {found.rate:.3g} per step, 1 % left after {found.memory_length} steps")
    np.testing.assert_allclose(points[:, 1], np.asarray(found.per_lag.quantiles[0.5]) / TEN)


def test_growths_without_a_band_are_refused():
    found = growth(torch.zeros(2, 3), probabilities=(0.5,))
    with pytest.raises(OptionError, match=r"quantiles 0\.1, 0\.5 and 0\.9"):
        adjoint_panel({"l0": found})


def test_eigenvalues_stand_where_they_are(draw):
    values = {"r": [1, 2j, -2j], "z": [3 + 1j, complex(NAN, 0)], "n": []}
    (axes,) = draw(eigenvalue_panel(values, radius=4.0, title="seen"))
    points = [collection.get_offsets() for collection in axes.collections]
    np.testing.assert_array_equal(points[0], [[1, 0], [0, 2], [0, -2]])
    np.testing.assert_array_equal(points[1], [[3, 1]])
    assert [text.get_text() for text in axes.get_legend().get_texts()] == [
        "r: spectral radius 2",
        "z: spectral radius 3.16",
        "n: spectral radius 0",
        "circle of radius 4: neither grows nor vanishes",
    ]
    (circle,) = lines(axes).values()
    np.testing.assert_allclose(np.hypot(*circle.T), 4)
    assert len({tuple(collection.get_facecolor()[0][:3]) for collection in axes.collections}) == 3
    assert axes.get_aspect() == 1 and axes.get_xlim() == axes.get_ylim() == (-4.48, 4.48)
    assert (axes.get_xlabel(), axes.get_ylabel()) == ("real part", "imaginary part")


def test_spectra_fit_in(draw):
    layer = torch.nn.GRU(1, 6)
    torch.nn.init.constant_(layer.weight_hh_l0, 1.0)  # eigenvalue 6 and zeros, beyond the circle
    values = {gate: found.eigenvalues.tolist() for (_, gate), found in spectra(layer).items()}
    axes, empty = draw(eigenvalue_panel(values), eigenvalue_panel({}), columns=2)
    assert [len(collection.get_offsets()) for collection in axes.collections] == [6, 6, 6]
    assert axes.get_xlim()[1] > 6 > empty.get_xlim()[1]


def test_history_is_relative_to_lag_0(draw):
    records = [
        record(20, (0, 2, 4), (5, 4, -1)),
        record(0, (0, 2, 4), (1, 0, -INF)),
        record(60, (0, 4), (0, 3)),
        record(80, (0, 2, 4), (-INF, -INF, -INF)),
        record(90, (0,), (0,), layer="other"),
    ]
    axes, bar = draw(history_panel(records, "l0"))
    mesh = axes.collections[0]
    shown = mesh.get_array().filled(99)
    np.testing.assert_allclose(
        shown, [[0, 0, 0, 99], [-1, -1, 99, 99], [-12, -6, 3, 99]]
    )  # -12: below the scale, black
    assert mesh.get_clim() == (pytest.approx(-6), pytest.approx(6))
    assert mesh.cmap(-0.1)[:3] == (0, 0, 0) and mesh.cmap(0.5)[:3] == pytest.approx((1, 1, 1), abs=0.01)
    coordinates = mesh.get_coordinates()
    assert coordinates[0, :, 0].tolist() == [-10, 10, 40, 70, 90] and coordinates[:, 0, 1].tolist() == [-1, 1, 3, 5]
    np.testing.assert_array_equal(lines(axes)["1 % left"], [[0, 4], [20, 4], [60, NAN], [80, NAN]])
    assert axes.get_title(loc="left") == "Adjoints of l0 while it learns"
    assert (axes.get_xlabel(), axes.get_ylabel()) == ("training step", "lag: steps back from the loss")
    assert bar.get_ylabel() == "norm of dL/dh, relative to lag 0" and "$10^{-6}$" in ticks(bar.yaxis)


def test_history_of_one_step_one_lag_and_1e400(draw):
    axes, flat, huge, *_ = draw(
        history_panel([record(3, (0,), (NAN,))], "l0"),
        history_panel([record(k, (0, 1), (7, 7)) for k in range(3)], "l0", title="flat"),
        history_panel([record(k, (0, 1), (0, 400 * (-1) ** k)) for k in range(3)], "l0"),
    )
    assert axes.collections[0].get_array().mask.all()
    assert flat.collections[0].get_clim() == (-1, 1) and flat.get_legend() is None
    np.testing.assert_allclose(huge.collections[0].get_array()[1], [400, -400, 400])


def test_a_layer_that_no_record_holds(draw):
    with pytest.raises(OptionError, match=r"layers \['l0'\]"):
        history_panel([record(0, (0,), (0,))], "l1")
    with pytest.raises(OptionError, match=r"layers \[\]"):
        history_panel([], "l1")


def test_the_surface_its_wall_and_two_steps(draw):
    found = error_surface(torch.arange(450, 481).double() / 100, torch.arange(-260, -229).double() / 100)
    steps = {"plain": (-30.0, 40.0), "clipped": (-0.06, 0.08)}
    values = (found.w_W, found.b_B, found.error_WB, found.gradient_norm_WB)
    axes, bar = draw(surface_panel(*values, steps=steps))
    mesh = axes.collections[0]
    np.testing.assert_allclose(mesh.get_array(), found.error_WB.T)
    star = next(line for line in axes.get_lines() if line.get_marker() == "*")
    np.testing.assert_allclose(star.get_xydata(), [[4.69, -2.42]])
    note, plain, clipped = axes.texts
    assert note.get_text() == "steepest: gradient norm 440"
    # The clipped step ends on the map, the plain one at its border, in the same direction.
    np.testing.assert_allclose(clipped.xy, [4.63, -2.34])
    np.testing.assert_allclose(plain.xy, [4.69 - 0.125 * 0.75, -2.295], atol=1e-9)
    assert plain.arrow_patch.get_edgecolor() != clipped.arrow_patch.get_edgecolor()
    assert [text.get_text() for text in axes.get_legend().get_texts()] == [
        "gradient norm 1, 10, 100",
        "plain: 50 long",
        "clipped: 0.1 long",
    ]
    assert axes.collections[1].levels.tolist() == [1, 10, 100]
    assert (axes.get_xlabel(), axes.get_ylabel(), bar.get_ylabel()) == ("recurrent weight w", "bias b", "error")


def test_surfaces_with_little_on_them(draw):
    axes, holes, unknown, *_ = draw(
        surface_panel([1], [2], [[0.5]], [[0.0]]),
        surface_panel([1, 2], [3, 4], [[0.5, NAN], [1, 2]], [[0.0, NAN], [0.5, INF]], steps={"none": (0, 0)}),
        surface_panel([1, 2], [3, 4], [[NAN, NAN], [NAN, NAN]], [[NAN, NAN], [NAN, NAN]]),
    )
    assert (axes.texts[0].get_text(), axes.get_legend()) == ("steepest: gradient norm 0", None)
    assert holes.texts[0].xy == (2, 3) and holes.texts[0].get_horizontalalignment() == "right"
    assert list(lines(holes)) == ["none: 0 long"]
    assert not unknown.texts


def test_panels_share_a_page(tmp_path):
    sizes = []
    for columns in (1, 2):
        path = tmp_path / f"{columns}.png"
        flow_figure(path, [eigenvalue_panel({"h": [0.5]})] * 3, columns=columns, title="three")
        sizes.append(struct.unpack(">II", path.read_bytes()[16:24]))
    assert sizes == [(880, 1694), (1232, 1144)]
    flow_figure(tmp_path / "a.svg", [adjoint_panel({"l0": grown((0, -1))})])
    assert "<svg" in (tmp_path / "a.svg").read_text()
    for panels, columns in (([], 1), ([eigenvalue_panel({})], 0)):
        with pytest.raises(OptionError, match="at least one panel and one column"):
            flow_figure(tmp_path / "b.png", panels, columns=columns)
    assert not (tmp_path / "b.png").exists()


def test_the_place_left_over_stays_empty(draw):
    axes = draw(*[eigenvalue_panel({"h": [0.5]})] * 3, columns=2, title="three")
    assert [each.axison for each in axes] == [True, True, True, False]
    assert axes[0].figure.get_suptitle() == "three"


def test_without_matplotlib_it_says_what_to_install(tmp_path, monkeypatch):
    panel = eigenvalue_panel({"h": [0.5]})
    monkeypatch.setitem(sys.modules, "matplotlib.figure", None)
    with pytest.raises(OptionError, match=r"pip install 'holdfast\[report\]'"):
        flow_figure(tmp_path / "a.png", [panel])
    assert list(tmp_path.iterdir()) == []


def test_no_state_of_matplotlib_is_touched(draw):
    before = dict(mpl.rcParams)
    draw(adjoint_panel({"l0": grown((0, -1))}), history_panel([record(0, (0, 1), (0, -1))], "l0"))
    assert pyplot.get_fignums() == []
    assert dict(mpl.rcParams) == before
