"""Pages and pictures of studies: what is drawn is what is in the table, and the page needs nothing but itself."""

from __future__ import annotations

import base64
import math
import re
import struct
import sys
from dataclasses import replace
from html.parser import HTMLParser

import matplotlib as mpl
import numpy as np
import polars as pl
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from matplotlib import pyplot
from matplotlib.colors import to_hex

from holdfast import OptionError
from holdfast.reports import (
    Picture,
    StudyPage,
    Table,
    bound_figure,
    error_figure,
    growth_figure,
    markdown_table,
)
from holdfast.reports.figures import FORECAST, NAIVE, blank_figure

NAN, INF = math.nan, math.inf
VOID = {"meta", "img", "br", "hr", "link", "input"}
LOADING = ("src", "href", "srcset", "action", "data", "poster", "background", "style")


class Page(HTMLParser):
    """Every tag with its attributes; text by the tag around it; an error for tags that do not match."""

    def __init__(self, text):
        super().__init__(convert_charrefs=True)
        self.open, self.tags, self.texts = [], [], {}
        self.feed(text)
        self.close()
        assert self.open == []

    def handle_starttag(self, tag, attributes):
        assert len({name for name, _ in attributes}) == len(attributes)
        self.tags.append((tag, dict(attributes)))
        if tag not in VOID:
            self.open.append(tag)
            self.texts.setdefault(tag, []).append("")

    def handle_endtag(self, tag):
        assert self.open.pop() == tag

    def handle_data(self, data):
        for tag in set(self.open):
            self.texts[tag][-1] += data

    def all(self, tag):
        return [attributes for name, attributes in self.tags if name == tag]


def page(**fields):
    frame = pl.DataFrame({"arm": ["all", "none"], "error": [0.5, NAN], "low": [0.25, NAN], "runs": [5, 4]})
    columns = {"arm": ("whose", ""), "error": ("error", "{error:.2f} [{low:.2f}]"), "runs": ("runs", "")}
    figure = blank_figure((3, 1))
    figure.subplots().plot([0, 1], [0, 1])
    usual = {
        "title": "Bounds & norms",
        "question": "Does `--clip` matter?",
        "claim": "It must be < 1.",
        "verdict": "Not here.",
        "paragraphs": ("First `a < b`.", "Second."),
        "tables": (Table("Errors", frame, columns),),
        "pictures": (Picture.of(figure, "A line."), Picture.of(figure, "The same.")),
        "facts": {"machine": "2 cores", "time": "1 minute"},
        "command": "holdfast study threshold --full",
    }
    return StudyPage(**{**usual, **fields})


def test_the_page_is_whole_and_in_its_order():
    text = page().to_html()
    found = Page(text)
    assert text.startswith("<!DOCTYPE html>\n") and found.all("html") == [{"lang": "en"}]
    assert found.texts["title"] == found.texts["h1"] == ["Bounds & norms"]
    assert found.texts["p"] == ["Does --clip matter?", "Not here.", "First a < b.", "Second."]
    assert found.texts["blockquote"] == ["It must be < 1."]
    assert found.texts["code"] == ["--clip", "a < b", "holdfast study threshold --full"]
    assert found.texts["th"] == ["whose", "error", "runs"] and found.texts["caption"] == ["Errors"]
    assert found.texts["td"] == ["all", "0.50 [0.25]", "5", "none", "-", "4"]
    assert found.texts["figcaption"] == ["A line.", "The same."]
    assert list(zip(found.texts["dt"], found.texts["dd"], strict=True)) == [
        ("machine", "2 cores"),
        ("time", "1 minute"),
    ]
    places = [text.index(part) for part in ("Not here.", "A line.", "Second.", "The same.", "<table", "--full")]
    assert places == sorted(places)


def test_nothing_is_loaded_and_nothing_runs():
    found = Page(page().to_html())
    assert {tag for tag, _ in found.tags}.isdisjoint({"script", "link", "iframe", "object", "base", "a", "form"})
    for _, attributes in found.tags:
        assert not any(name.startswith("on") for name in attributes)
        for name in LOADING:
            assert attributes.get(name, "data:").startswith("data:image/png;base64,") or attributes.get(name) is None
    (style,) = found.texts["style"]
    assert "url(" not in style and "@import" not in style and "//" not in style
    (policy,) = [meta["content"] for meta in found.all("meta") if "http-equiv" in meta]
    assert policy.startswith("default-src 'none'")
    assert "http://" not in page().to_html() and "https://" not in page().to_html()


def test_pictures_are_inside_with_their_sizes():
    sent = page()
    images = Page(sent.to_html()).all("img")
    for image, picture in zip(images, sent.pictures, strict=True):
        png = base64.b64decode(image["src"].removeprefix("data:image/png;base64,"), validate=True)
        assert png == picture.png and png[:8] == b"\x89PNG\r\n\x1a\n"
        width, height = struct.unpack(">II", png[16:24])
        assert (int(image["width"]), int(image["height"])) == (width * 96 // 160, height * 96 // 160) == (288, 96)
    assert sent.to_html() == page().to_html()  # no time of day in it: the same page again is the same file


def test_it_is_for_phones_the_dark_and_paper():
    found = Page(page().to_html())
    assert {"name": "viewport", "content": "width=device-width, initial-scale=1"} in found.all("meta")
    (style,) = found.texts["style"]
    assert style.count("{") == style.count("}")
    for part in ("prefers-color-scheme: dark", "@media print", "max-width: 40rem", "overflow-x: auto"):
        assert part in style
    colours = re.findall(r"--(\w+): (#\w+)", style)
    light, dark = dict(colours[:6]), dict(colours[6:12])
    assert light.keys() == dark.keys() == {"ink", "paper", "soft", "line", "tint", "accent"}
    for theme in (light, dark):
        for paper in ("paper", "tint"):  # AA of WCAG 2 for text
            assert contrast(theme["ink"], theme[paper]) > 7 and contrast(theme["soft"], theme["paper"]) > 4.5
    wide = [each for each in found.all("div") if each["class"] == "wide"]
    assert len(wide) == 3  # each table and picture scrolls by itself, with the keyboard too
    assert all(each["tabindex"] == "0" and each["role"] == "region" and each["aria-label"] for each in wide)
    assert [head["scope"] for head in found.all("th")] == ["col"] * 3


def contrast(one, other):
    def luminance(colour):
        parts = [int(colour * 2 if len(colour) == 1 else colour, 16) / 255 for colour in channels(colour)]
        linear = [part / 12.92 if part <= 0.04045 else ((part + 0.055) / 1.055) ** 2.4 for part in parts]
        return 0.2126 * linear[0] + 0.7152 * linear[1] + 0.0722 * linear[2]

    low, high = sorted((luminance(one), luminance(other)))
    return (high + 0.05) / (low + 0.05)


def channels(colour):
    digits = colour[1:]
    return list(digits) if len(digits) == 3 else [digits[:2], digits[2:4], digits[4:]]


PLAIN = page()
TEXTS = st.text(st.characters(exclude_categories=("C",), exclude_characters="`"), min_size=1, max_size=20)
NASTY = "</style><script>alert(1)</script><img src=x onerror='a' alt=\"b\">&amp;"


@settings(deadline=None, max_examples=30)
@given(text=TEXTS | st.just(NASTY))
def test_no_text_becomes_anything_but_text(text):
    frame = pl.DataFrame({"a": [text]})
    fields = dict.fromkeys(("title", "question", "claim", "verdict", "command"), text)
    found = Page(
        replace(
            PLAIN,
            **fields,
            paragraphs=(text, text),
            tables=(Table(text, frame, {"a": (text, "")}),),
            pictures=(Picture(PLAIN.pictures[0].png, text),) * 2,
            facts={text: text},
        ).to_html()
    )
    plain = Page(PLAIN.to_html()).tags
    assert {tag for tag, _ in found.tags} == {tag for tag, _ in plain}
    for tag in ("title", "h1", "blockquote", "strong", "caption", "figcaption", "dt", "dd", "td", "th"):
        assert {one.replace("\r", "\n") for one in found.texts[tag]} == {text.replace("\r", "\n")}
    assert all(each["aria-label"] == text for each in found.all("div") if each.get("class") == "wide")


def test_little_makes_a_page_too():
    bare = StudyPage(title="t", question="q", claim="c", verdict="v", command="x")
    assert {"table", "figure", "dl"}.isdisjoint(tag for tag, _ in Page(bare.to_html()).tags)
    assert bare.to_markdown() == "# t\n\nq\n\n> c\n\n**v**\n\n```\nx\n```\n"


def test_the_markdown_holds_the_same_words_and_numbers():
    text = page().to_markdown()
    assert text == (
        "# Bounds & norms\n\nDoes `--clip` matter?\n\n> It must be < 1.\n\n**Not here.**\n\n"
        "First `a < b`.\n\nSecond.\n\n"
        "### Errors\n\n| whose | error | runs |\n| --- | ---: | ---: |\n| all | 0.50 [0.25] | 5 |\n| none | - | 4 |\n\n"
        "### Pictures, in the HTML page\n\n* A line.\n* The same.\n\n```\nholdfast study threshold --full\n```\n\n"
        "* machine: 2 cores\n* time: 1 minute\n"
    )


def test_cells_of_all_kinds():
    frame = pl.DataFrame(
        {
            "x": [0.5, None, NAN, INF],
            "n": [1, 2, None, 4],
            "b": [True, False, None, True],
            "t": ["a|b", "<i>", "*", "\n"],
        }
    )
    columns = {"x": ("x", ".0%"), "n": ("n", "{n:03d} of {x:.1f}"), "b": ("b", ""), "t": ("t|", "")}
    assert markdown_table(frame, columns).splitlines() == [
        "| x | n | b | t\\| |",
        "| ---: | ---: | --- | --- |",
        "| 50% | 001 of 0.5 | yes | a\\|b |",
        "| - | 002 of - | no | \\<i> |",
        "| - | - | - | \\* |",
        "| inf% | 004 of inf | yes |  |",
    ]
    assert markdown_table(frame.head(0), {"x": ("x", "")}) == "| x |\n| ---: |"


@settings(deadline=None, max_examples=50)
@given(texts=st.lists(st.text(max_size=12), min_size=1, max_size=4))
def test_no_cell_ends_its_row(texts):
    lines = markdown_table(pl.DataFrame({"t": texts}), {"t": ("title", "")}).split("\n")
    assert len(lines) == 2 + len(texts)
    for line in lines[2:]:
        inner = re.sub(r"\\.", "", line.removeprefix("| ").removesuffix(" |"))
        assert "|" not in inner and "<" not in inner


# Pictures.


def summary(**fields):
    usual = {
        "cell": ["gru"] * 3 + ["rnn"] * 2,
        "scope": ["none", "all", "head", "none", "head"],
        "error": [2.0, 0.5, 1.0, 1.25, 0.0],
        "error_low": [2.0, 0.25, 0.75, 1.0, 0.0],
        "error_high": [2.0, 1.0, 1.5, 1.5, 0.0],
        "diverged": [1.0, 0.0, 0.25, 0.0, 0.0],
        "runs": [4] * 5,
    }
    return pl.DataFrame({**usual, **fields})


def intervals(axes):
    """By place of the dot: both ends of the bar, its colour and its marker."""
    found = {}
    for bar in axes.containers:
        ((x, y),) = bar.lines[0].get_xydata()
        (segments,) = bar.lines[2][0].get_segments()
        found[(x, y)] = (segments.ravel().tolist(), to_hex(bar.lines[0].get_color()), bar.lines[0].get_marker())
    return found


def ticks(axis):
    return [label.get_text() for label in axis.get_ticklabels()]


def test_errors_stand_with_their_intervals_and_lost_runs_are_told():
    gru, rnn = error_figure(summary(), ["cell"], ["scope"]).axes
    assert [each.get_title(loc="left") for each in (gru, rnn)] == ["gru", "rnn"]
    assert intervals(gru) == {
        (2.0, 0): ([2, 0, 2, 0], NAIVE, "X"),
        (0.5, 1): ([0.25, 1, 1, 1], FORECAST, "o"),
        (1.0, 2): ([0.75, 2, 1.5, 2], NAIVE, "X"),
    }
    assert intervals(rnn) == {(1.25, 0): ([1, 0, 1.5, 0], FORECAST, "o"), (0.0, 2): ([0, 2, 0, 2], FORECAST, "o")}
    assert ticks(gru.yaxis) == ["none", "all", "head"] and gru.get_ylim()[0] > gru.get_ylim()[1]
    assert [(text.get_text(), text.get_position()[1]) for text in gru.texts] == [("4 of 4 lost", 0), ("1 of 4 lost", 2)]
    assert not rnn.texts and gru.get_xlim() == rnn.get_xlim()
    assert gru.get_lines()[0].get_xdata() == [1, 1] and "1: learned nothing" in gru.get_xlabel()


def test_groups_and_arms_of_several_fields_and_a_place_left_over():
    table = summary().with_columns(lr=pl.Series([0.1, 0.1, 1.0, 0.1, 0.1]), head=pl.lit("squared"))
    axes = error_figure(table, ["cell", "lr"], ["head", "scope"]).axes
    assert [each.get_title(loc="left") for each in axes[:3]] == ["gru, 0.1", "gru, 1.0", "rnn, 0.1"]
    assert [each.axison for each in axes] == [True, True, True, False]
    assert [each.get_xlabel() != "" for each in axes[:3]] == [False, True, True]  # below each column
    assert ticks(axes[0].yaxis)[0] == "squared, none"
    assert len(error_figure(table, [], ["cell", "lr", "scope"]).axes) == 1
    with pytest.raises(OptionError, match="at least one row"):
        error_figure(table.head(0), ["cell"], ["scope"])


def bounds():
    rules = ["none", "norm:10", "norm:1", "norm:0.1", "auto", "value:3"]
    rows = []
    for cell in ("gru", "rnn"):
        for which, optimizer in enumerate(("sgd", "adamw")):
            for k, rule in enumerate(rules):
                error = 0.25 * k + 0.125 * which
                rows.append((cell, optimizer, rule, error, error - 0.0625, error + 0.125, k / 5))
    names = ("cell", "optimizer", "rule", "error", "error_low", "error_high", "clip_fraction")
    return pl.DataFrame(rows, schema=names, orient="row")


def test_errors_over_bounds_and_what_stands_beside_them():
    figure = bound_figure(bounds(), ["cell"], "optimizer")
    upper, other, lower, _ = figure.axes
    assert (upper.get_title(loc="left"), other.get_title(loc="left")) == ("gru", "rnn")
    lines = {line.get_label(): line for line in upper.get_lines() if not line.get_label().startswith("_")}
    assert list(lines) == ["sgd", "sgd with auto", "adamw", "adamw with auto"]
    np.testing.assert_allclose(lines["sgd"].get_xydata(), [[0.1, 0.75], [1, 0.5], [10, 0.25]])
    np.testing.assert_allclose(lines["adamw"].get_xydata(), [[0.1, 0.875], [1, 0.625], [10, 0.375]])
    assert lines["sgd with auto"].get_ydata() == [1.0, 1.0] and lines["adamw with auto"].get_ydata() == [1.125, 1.125]
    band = upper.collections[0].get_paths()[0].vertices
    assert {(round(x, 6), round(y, 6)) for x, y in band} >= {(0.1, 0.6875), (0.1, 0.875), (10, 0.1875), (10, 0.375)}
    assert upper.get_xscale() == "log" and lower.get_xlim() == upper.get_xlim()
    assert ticks(lower.xaxis) == ["0.1", "1", "10", "none", "auto"]
    none, auto = lower.xaxis.get_majorticklocs()[-2:]
    assert 10 < none < auto < upper.get_xlim()[1]
    beside = {(y, marker): ends for (_, y), (ends, _, marker) in intervals(upper).items()}
    assert {y: ends[1::2] for (y, _), ends in beside.items()} == {
        0.0: [-0.0625, 0.125],
        1.0: [0.9375, 1.125],
        0.125: [0.0625, 0.25],
        1.125: [1.0625, 1.25],
    }
    assert [marker for _, marker in beside].count("*") == 2
    shares = [line.get_xydata().tolist() for line in lower.get_lines()]
    assert [[0.1, 0.6], [1.0, 0.4], [10.0, 0.2]] in shares and [[none, 0.0]] in shares and [[auto, 0.8]] in shares
    (legend,) = figure.legends
    assert [text.get_text() for text in legend.get_texts()] == list(lines)


def test_one_bound_and_a_missing_line():
    table = bounds().filter(~((pl.col("cell") == "gru") & (pl.col("optimizer") == "sgd")))
    figure = bound_figure(table.filter(pl.col("rule") == "norm:1"), ["cell"], "optimizer")
    gru, rnn = figure.axes[:2]
    assert [line.get_label() for line in gru.get_lines()][:1] == ["adamw"]
    colours = [{line.get_label(): line.get_color() for line in axes.get_lines()}["adamw"] for axes in (gru, rnn)]
    assert colours[0] == colours[1]  # a line keeps its colour where another one is missing
    with pytest.raises(OptionError, match=r"(?s)norm:NUMBER.*none, auto"):
        bound_figure(table.filter(pl.col("rule").is_in(["none", "auto"])), ["cell"], "optimizer")


def layers():
    return pl.DataFrame(
        {
            "cell": ["tanh"] * 5 + ["relu"] * 3,
            "radius": [0.5, 0.5, 2.0, 4.0, 1.0 + 1e-9, 8.0, NAN, 0.0],
            "rate": [0.25, 2.0, 0.5, 4.0, 1.0 - 1e-9, INF, 3.0, 0.0],
        }
    )


def test_growth_beside_what_was_said_of_it():
    figure = growth_figure(layers(), {"radius": "spectral radius"})
    (axes,) = figure.axes
    counts = {text.get_text().replace("\n", " ") for text in axes.texts}
    assert counts == {
        "said to vanish, vanishes: 3",  # 1 up to errors of rounding is not above 1
        "said to vanish, explodes: 1",
        "said to explode, vanishes: 1",
        "said to explode, explodes: 2",
    }
    assert axes.get_title(loc="left") == "spectral radius: wrong for 2 of 7"
    red = [text.get_text() for text in axes.texts if text.get_color() == NAIVE]
    assert sorted(red) == ["said to explode,\nvanishes: 1", "said to vanish,\nexplodes: 1"]
    (low, high), (least, most) = axes.get_ylim(), axes.get_xlim()
    tanh, relu = (each for each in axes.collections if len(each.get_offsets()) in (5, 3) and each.get_label()[0] != "_")
    np.testing.assert_allclose(tanh.get_offsets(), layers().select("radius", "rate").head(5).to_numpy())
    shown = np.ma.getdata(relu.get_offsets())
    np.testing.assert_allclose(shown[0], [8.0, high])  # beyond all numbers: at the edge
    np.testing.assert_allclose(shown[2], [least, low])
    assert least < 0.5 < 8 < most and low < 0.25 < 4 < high
    assert axes.get_xscale() == axes.get_yscale() == "log"
    ones = [line.get_xydata().tolist() for line in axes.get_lines()]
    assert [[0, 1], [1, 1]] in ones and [[1, 0], [1, 1]] in ones


def test_corners_are_named_where_their_points_are():
    (axes,) = growth_figure(layers(), {"radius": "r"}).axes
    for text in axes.texts:
        x, y = text.get_position()
        assert (x > 0.5) == text.get_text().startswith("said to explode")
        assert (y > 0.5) == ("explodes" in text.get_text())


def test_several_predictors_share_what_was_measured():
    figure = growth_figure(layers(), {"radius": "r", "rate": "itself"})
    first, second = figure.axes
    assert first.get_ylim() == second.get_ylim() and second.get_title(loc="left") == "itself: wrong for 0 of 8"
    for call in (lambda: growth_figure(layers(), {}), lambda: growth_figure(layers().head(0), {"radius": "r"})):
        with pytest.raises(OptionError, match="a predictor and a row"):
            call()


def test_without_matplotlib_it_says_what_to_install(monkeypatch):
    monkeypatch.setitem(sys.modules, "matplotlib.figure", None)
    with pytest.raises(OptionError, match=r"pip install 'holdfast\[report\]'"):
        error_figure(summary(), ["cell"], ["scope"])


def test_no_state_of_matplotlib_is_touched():
    before = dict(mpl.rcParams)
    figures = [
        error_figure(summary(), ["cell"], ["scope"]),
        bound_figure(bounds(), ["cell"], "optimizer"),
        growth_figure(layers(), {"radius": "r"}),
    ]
    assert all(Picture.of(figure, "x").png[:4] == b"\x89PNG" for figure in figures)
    assert pyplot.get_fignums() == [] and dict(mpl.rcParams) == before
