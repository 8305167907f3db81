"""One study on one page: in markdown, and as a single HTML file that needs no network and no script."""

from __future__ import annotations

import base64
import io
import math
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from html import escape
from typing import Any

import polars as pl

Columns = Mapping[str, tuple[str, str]]
UNKNOWN = "-"
DOTS_PER_INCH = 160  # drawn sharper than shown, for screens with two dots per point

STYLE = """
:root { color-scheme: light dark; --ink: #1b2a34; --paper: #fff; --soft: #5b6b75; --line: #d5dde1; --tint: #eef6f5;
  --accent: #0b7a75; }
@media (prefers-color-scheme: dark) { :root { --ink: #e4eaed; --paper: #12191e; --soft: #9fb0ba; --line: #33414a;
  --tint: #17282a; --accent: #58c4bd; } }
* { box-sizing: border-box; }
body { margin: 0 auto; max-width: 66rem; padding: 1.2rem; background: var(--paper); color: var(--ink);
  font: 1rem/1.55 system-ui, sans-serif; overflow-wrap: break-word; }
p, h1, blockquote { max-width: 46rem; }
h1 { font-size: 1.7rem; line-height: 1.2; margin: .4rem 0; }
h2 { font-size: 1.15rem; margin: 2rem 0 .5rem; }
blockquote { margin: 1rem 0; padding-left: .9rem; border-left: .25rem solid var(--line); color: var(--soft); }
.verdict { max-width: 46rem; padding: .8rem 1rem; background: var(--tint); border-left: .3rem solid var(--accent); }
.wide { overflow-x: auto; margin: 1rem 0; }
.wide:focus-visible { outline: 2px solid var(--accent); }
table { border-collapse: collapse; font-size: .9rem; font-variant-numeric: tabular-nums; }
caption { text-align: left; font-weight: 600; padding: .3rem 0; }
th, td { padding: .3rem .7rem; text-align: left; white-space: nowrap; border-bottom: 1px solid var(--line); }
thead th { border-bottom: 2px solid var(--ink); vertical-align: bottom; }
.number { text-align: right; }
figure { margin: 1.5rem 0; }
figure img { display: block; max-width: 100%; height: auto; background: #fff; border-radius: .4rem; }
figcaption { max-width: 46rem; margin-top: .5rem; color: var(--soft); }
dl { display: grid; grid-template-columns: max-content 1fr; gap: .2rem 1rem; }
dt { color: var(--soft); } dd { margin: 0; }
code, pre { font-family: ui-monospace, monospace; font-size: .92em; }
pre { overflow-x: auto; padding: .6rem .8rem; border: 1px solid var(--line); }
@media (max-width: 40rem) { body { padding: .8rem; } figure img { max-width: none; width: 44rem; } }
@media print { :root { --ink: #000; --paper: #fff; --soft: #444; --line: #bbb; --tint: #f3f3f3; --accent: #444; }
  body { max-width: none; padding: 0; font-size: 9.5pt; } .wide { overflow: visible; } table { font-size: 7.5pt; }
  th, td { padding: .15rem .35rem; white-space: normal; } figure, tr, .verdict { break-inside: avoid; }
  figure img { max-width: 100%; width: auto; } thead { display: table-header-group; } h2 { break-after: avoid; } }
"""
# Even if a text held an address: this page may load nothing but what is in it.
POLICY = "default-src 'none'; img-src data:; style-src 'unsafe-inline'"


@dataclass(frozen=True)
class Picture:
    """A picture with the sentence that says what to see in it.

    Attributes:
        png: The file.
        caption: The point of it, which is also what a screen reader says.

    Example:
        >>> from holdfast.reports.figures import blank_figure
        >>> Picture.of(blank_figure((2, 1)), "nothing to see").png[1:4]
        b'PNG'
    """

    png: bytes
    caption: str

    @classmethod
    def of(cls, figure: Any, caption: str) -> Picture:
        """Draw a figure of matplotlib.

        Args:
            figure: As `error_figure` returns it.
            caption: What to see.

        Returns:
            The picture.
        """
        file = io.BytesIO()
        figure.savefig(file, format="png", dpi=DOTS_PER_INCH, metadata={"Software": None})  # the same bytes again
        return cls(file.getvalue(), caption)

    def to_html(self) -> str:
        """A figure with its file inside."""
        width, height = (int.from_bytes(self.png[at : at + 4], "big") * 96 // DOTS_PER_INCH for at in (16, 20))
        data = base64.b64encode(self.png).decode("ascii")
        # Its caption says it all: an alternative text would have it read twice.
        image = f'<img src="data:image/png;base64,{data}" width="{width}" height="{height}" alt="">'
        label = escape(self.caption)
        region = f'<div class="wide" tabindex="0" role="region" aria-label="{label}">{image}</div>'
        return f"<figure>{region}<figcaption>{_inline(self.caption)}</figcaption></figure>"


@dataclass(frozen=True, eq=False)
class Table:
    """A table with its title.

    Attributes:
        title: What it shows.
        frame: The numbers.
        columns: Which columns, in which order: their titles and formats, as for `markdown_table`; None: all of them.

    Example:
        >>> Table("Errors", pl.DataFrame({"error": [0.123]}), {"error": ("error", ".2f")}).to_html().count("<td")
        1
    """

    title: str
    frame: pl.DataFrame
    columns: Columns | None = None

    def to_markdown(self) -> str:
        """Title and table."""
        return f"### {self.title}\n\n{markdown_table(self.frame, self.columns)}"

    def to_html(self) -> str:
        """A table that scrolls by itself where it is too wide."""
        columns = _chosen(self.frame, self.columns)
        kinds = [' class="number"' if number else "" for number in _numeric(self.frame, columns)]
        titles = [title for title, _ in columns.values()]
        head = "".join(f'<th scope="col"{kind}>{escape(title)}</th>' for kind, title in zip(kinds, titles, strict=True))
        rows = [
            "<tr>"
            + "".join(f"<td{kind}>{escape(cell)}</td>" for kind, cell in zip(kinds, cells, strict=True))
            + "</tr>"
            for cells in _cells(self.frame, columns)
        ]
        body = "\n".join(rows)
        caption = f"<caption>{_inline(self.title)}</caption>"
        table = f"<table>{caption}<thead><tr>{head}</tr></thead>\n<tbody>\n{body}\n</tbody></table>"
        return f'<div class="wide" tabindex="0" role="region" aria-label="{escape(self.title)}">{table}</div>'


def markdown_table(frame: pl.DataFrame, columns: Columns | None = None) -> str:
    r"""A table in markdown, numbers to the right.

    Args:
        frame: The numbers.
        columns: By the name of a column its title and format: a format specification as `.2f` or `.0%`, "" for the
            value as it is; or a text with fields in braces, `{error:.2f} [{low:.2f}, {high:.2f}]`, of any columns of
            the row. None: all columns, by their own names, floats with three digits. null and nan are a dash.

    Returns:
        Lines, the last one without an end.

    Example:
        >>> frame = pl.DataFrame({"arm": ["a|b", "c"], "error": [0.123, None], "low": [0.1, None]})
        >>> print(markdown_table(frame, {"arm": ("arm", ""), "error": ("error", "{error:.2f} from {low:.1f}")}))
        | arm | error |
        | --- | ---: |
        | a\|b | 0.12 from 0.1 |
        | c | - |
    """
    columns = _chosen(frame, columns)
    titles = [_marked(title) for title, _ in columns.values()]
    rules = ["---:" if number else "---" for number in _numeric(frame, columns)]
    rows = [[_marked(cell) for cell in cells] for cells in _cells(frame, columns)]
    return "\n".join(f"| {' | '.join(row)} |" for row in (titles, rules, *rows))


@dataclass(frozen=True, kw_only=True, eq=False)
class StudyPage:
    """What a study asks, what came of it, and what can be seen. In all texts `backticks` set code apart.

    Attributes:
        title: Of the page.
        question: In a sentence.
        claim: What people say.
        verdict: What the runs say to that.
        paragraphs: How it was measured, and how to read it.
        tables: With their titles.
        pictures: With their captions.
        facts: Of the machine and the time, by name.
        command: What makes this page anew.

    Example:
        >>> page = StudyPage(title="Bounds", question="Which?", claim="Any.", verdict="No.", command="holdfast study")
        >>> page.to_html().startswith("<!DOCTYPE html>"), page.to_markdown().splitlines()[0]
        (True, '# Bounds')
    """

    title: str
    question: str
    claim: str
    verdict: str
    command: str
    paragraphs: Sequence[str] = ()
    tables: Sequence[Table] = ()
    pictures: Sequence[Picture] = ()
    facts: Mapping[str, str] | None = None

    def to_markdown(self) -> str:
        """Words and tables; of pictures, which markdown cannot hold, the captions.

        Returns:
            The text, with an end of line.
        """
        parts = [f"# {self.title}", self.question, f"> {self.claim}", f"**{self.verdict}**", *self.paragraphs]
        parts += [table.to_markdown() for table in self.tables]
        if self.pictures:
            parts.append("### Pictures, in the HTML page\n\n" + "\n".join(f"* {one.caption}" for one in self.pictures))
        parts.append(f"```\n{self.command}\n```")
        if self.facts:
            parts.append("\n".join(f"* {name}: {value}" for name, value in self.facts.items()))
        return "\n\n".join(parts) + "\n"

    def to_html(self) -> str:
        """One file for a browser: nothing is loaded, nothing runs, and it can be printed.

        Returns:
            The text of the file, in UTF-8.
        """
        facts = "".join(
            f"<dt>{escape(name)}</dt><dd>{escape(value)}</dd>" for name, value in (self.facts or {}).items()
        )
        parts = [
            f"<h1>{_inline(self.title)}</h1>",
            f"<p>{_inline(self.question)}</p>",
            f"<blockquote>{_inline(self.claim)}</blockquote>",
            f'<p class="verdict"><strong>{_inline(self.verdict)}</strong></p>',
            *(picture.to_html() for picture in self.pictures[:1]),  # the point first, in one look
            *(f"<p>{_inline(text)}</p>" for text in self.paragraphs),
            *(picture.to_html() for picture in self.pictures[1:]),
            *(table.to_html() for table in self.tables),
            "<h2>Run it again</h2>",
            f"<pre><code>{escape(self.command)}</code></pre>",
            *([f"<dl>{facts}</dl>"] if facts else []),
        ]
        body = "\n".join(parts)
        return (
            '<!DOCTYPE html>\n<html lang="en">\n<head>\n<meta charset="utf-8">\n'
            f'<meta http-equiv="Content-Security-Policy" content="{POLICY}">\n'
            '<meta name="viewport" content="width=device-width, initial-scale=1">\n'
            f"<title>{escape(self.title)}</title>\n<style>{STYLE}</style>\n</head>\n<body>\n<main>\n{body}\n</main>\n"
            "</body>\n</html>\n"
        )


def _chosen(frame: pl.DataFrame, columns: Columns | None) -> Columns:
    if columns is not None:
        return columns
    return {name: (name, ".3g" if kind.is_float() else "") for name, kind in frame.schema.items()}


def _cells(frame: pl.DataFrame, columns: Columns) -> list[list[str]]:
    return [[_cell(row, name, form) for name, (_, form) in columns.items()] for row in frame.iter_rows(named=True)]


def _cell(row: Mapping[str, Any], name: str, form: str) -> str:
    if _unknown(row[name]):
        return UNKNOWN
    if "{" not in form:
        return _shown(row[name], form)
    return re.sub(r"\{(\w+):?([^}]*)\}", lambda found: _shown(row[found[1]], found[2]), form)


def _shown(value: Any, form: str) -> str:
    if _unknown(value):
        return UNKNOWN
    if isinstance(value, bool):
        return "yes" if value else "no"
    return format(value, form) if form else str(value)


def _unknown(value: Any) -> bool:
    return value is None or (isinstance(value, float) and math.isnan(value))


def _numeric(frame: pl.DataFrame, columns: Columns) -> list[bool]:
    return [frame.schema[name].is_numeric() for name in columns]


def _marked(text: str) -> str:
    """A text as one cell of a table: nothing in it ends the cell or the row, or becomes a tag."""
    for sign in "\\|<*`":
        text = text.replace(sign, f"\\{sign}")
    return " ".join(text.split())


def _inline(text: str) -> str:
    return re.sub(r"`([^`]+)`", r"<code>\1</code>", escape(text))
