"""Every block of Python in the pages runs by itself, and every figure in their text comes from a block."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

PAGES = [Path(__file__).parents[1] / "docs" / name for name in ("clipping.md", "nan.md")]
BLOCK = re.compile(r"^```python\n(.*?)^```$", re.DOTALL | re.MULTILINE)
OPTIONAL = ("accelerate", "gluonts.torch", "lightning.pytorch", "neuralforecast", "transformers")


def blocks(page):
    """Each block with the nearest heading or bold sentence before it, on the lines where it stands in the page."""
    text = page.read_text(encoding="utf-8")
    for match in BLOCK.finditer(text):
        before = text[: match.start()]
        title = re.findall(r"^(?:#+ (.*)|\*\*(.*?)\*\*)", BLOCK.sub("", before), re.MULTILINE)[-1]
        yield pytest.param(page, before.count("\n") + 1, match[1], id=f"{page.name}: {''.join(title)}")


@pytest.mark.filterwarnings(
    "ignore:::(torch|lightning|lightning_utilities|pytorch_lightning|gluonts|neuralforecast)[.]"
)
@pytest.mark.parametrize(("page", "line", "code"), [block for page in PAGES for block in blocks(page)])
def test_a_block_runs_by_itself(page, line, code, tmp_path, monkeypatch):
    for package in OPTIONAL:
        if re.search(rf"^(?:import|from) {re.escape(package.split('.')[0])}\b", code, re.MULTILINE):
            pytest.importorskip(package, reason="an optional package, installed by the extra `test`")
    monkeypatch.chdir(tmp_path)  # frameworks leave files in the working directory
    exec(compile("\n" * line + code, str(page), "exec"), {"__name__": "page"})


@pytest.mark.parametrize("page", PAGES, ids=[page.name for page in PAGES])
def test_no_figure_stands_in_the_text_alone(page):
    text = page.read_text(encoding="utf-8")
    code = "".join(BLOCK.findall(text))
    prose = BLOCK.sub("", text)
    figures = set(re.findall(r"(?<![\w.])\d+(?:\.\d+)?(?![\w.]*\w)", prose))
    assert figures - set(re.findall(r"\d+(?:\.\d+)?", code)) == set()
    assert "%" not in prose
