"""The gates of the house: direction of imports, size and shape of the code, the public surface, and the pages."""

from __future__ import annotations

import difflib
import importlib.util
import os
import re
import subprocess
import sys
from collections.abc import Callable, Iterator, Sequence
from dataclasses import fields
from graphlib import TopologicalSorter
from pathlib import Path

import pytest
from tests.house import (
    GATES,
    ROOMS,
    WITHOUT_TORCH,
    Source,
    ascii_only,
    examples,
    forbidden,
    foreign_words,
    import_direction,
    inheritance,
    read_sources,
    room_faces,
    signatures,
    sizes,
    step_order,
    torch_free,
)
from tests.lowest import lowest
from tests.surface import real_surface, unknown_commands, written_surface

ROOT = Path(__file__).parents[1]
Gate = Callable[[Sequence[Source]], Iterator[str]]

# Findings that stay, each with its reason; an entry that no longer fits anything must go.
ALLOWED = {
    "run takes **given": "typer hands options over by keyword; the signature that it reads is made from the table",
    "class Forecaster inherits from Config": "its fields are the options: docs/decisions/02-forecaster-dataclass.md",
    "class Forecaster stands on Config, TableOptions": "options in two floors: those of a table need no torch",
    "class Config inherits from TableOptions": "options in two floors: those of a table need no torch",
}


def findings_of(gate: Gate, sources: Sequence[Source]) -> list[str]:
    return list(dict.fromkeys(gate(sources)))


@pytest.fixture(scope="module")
def sources() -> list[Source]:
    return read_sources(ROOT)


@pytest.fixture(scope="module")
def findings(sources: list[Source]) -> dict[Gate, list[str]]:
    return {gate: findings_of(gate, sources) for gate in GATES}


@pytest.mark.parametrize("gate", GATES, ids=lambda gate: gate.__name__)
def test_the_code_keeps_the_rules(gate: Gate, findings: dict[Gate, list[str]]) -> None:
    broken = [line for line in findings[gate] if not any(text in line for text in ALLOWED)]
    assert not broken, f"{gate.__doc__ or gate.__name__}\n" + "\n".join(broken)


def test_no_allowance_is_left_over(findings: dict[Gate, list[str]]) -> None:
    found = "\n".join(line for lines in findings.values() for line in lines)
    assert [text for text in ALLOWED if text not in found] == []


# A gate that never fires proves nothing: each must find what is planted here, at the line that is named.
PLANTED: list[tuple[Gate, str, str, str]] = [
    (import_direction, "series/a.py", "from holdfast.windows import Batch", "1: series imports holdfast.windows.Batch"),
    (import_direction, "series/a.py", "def f():\n    import holdfast.training", "2: series imports holdfast.training"),
    (import_direction, "windows/a.py", "if TYPE_CHECKING:\n    from ..networks import RNN", "2: windows imports"),
    (import_direction, "networks/a.py", "from holdfast import Config", "1: networks imports holdfast.Config"),
    (import_direction, "networks/a.py", "import holdfast", "1: networks imports holdfast;"),
    (import_direction, "gradients/a.py", "from holdfast.telemetry.log import x", "1: gradients imports"),
    (import_direction, "errors.py", "from holdfast.series import Freq", "1: errors imports holdfast.series.Freq"),
    (import_direction, "training/a.py", "from importlib import import_module", "1: training imports by text"),
    (import_direction, "attic/a.py", "from holdfast.series import Freq", "1: attic imports holdfast.series.Freq"),
    (torch_free, "telemetry/a.py", "def f():\n    from torch import nn", "2: telemetry imports torch"),
    (room_faces, "series/__init__.py", '"""S."""\nVERSION = 1\n', "2: a room's __init__.py only re-exports"),
    (room_faces, "series/__init__.py", '"""S."""\nfrom holdfast.series.a import f\n__all__ = ["g"]', "differ: f, g"),
    (room_faces, "series/__init__.py", "from holdfast.series.a import f\n__all__ = ['f']", "1: no docstring"),
    (signatures, "series/a.py", "def f(a, b, c, d, e, g, h, i, *j): ...", "1: f has 9 parameters"),
    (signatures, "series/a.py", "class A:\n    def f(self, a, b, c, d, e, g, h, i, j): ...", "2: f has 9 parameters"),
    (signatures, "cli.py", "def f(a, b, c, d, e, g, h, i, j): ...", "1: f has 9 parameters"),
    (signatures, "series/a.py", "async def f(**options): ...", "1: f takes **options"),
    (sizes, "series/a.py", "x = 1\n" * 401, "401: 401 lines"),
    (sizes, "series/a.py", "def f():\n" + "    x = 1\n" * 60, "1: f has 61 lines"),
    (sizes, "series/a.py", "class A:\n" + "    x = 1\n" * 250, "1: class A has 251 lines"),
    (inheritance, "series/a.py", "class A(nn.GRU): ...", "1: class A inherits from nn.GRU"),
    (inheritance, "series/a.py", "class A: ...\nclass B(A): ...", "2: class B inherits from A, which can be used"),
    (inheritance, "series/a.py", "class _A: ...\nclass _B(_A): ...\nclass C(_B): ...", "3: class C stands on _B, _A"),
    (
        inheritance,
        "series/a.py",
        "class _A:\n    def f(self): ...\nclass B(_A):\n    def f(self): ...",
        "3: class B overrides _A.f",
    ),
    (inheritance, "series/a.py", "class A: ...\nif x:\n    class A: ...", "1: class A is also defined in"),
    (forbidden, "series/a.py", "assert x", "1: assert"),
    (forbidden, "series/a.py", "print(x)", "1: print()"),
    (forbidden, "series/a.py", "import pickle", "1: pickle runs"),
    (forbidden, "series/a.py", "from torch import load", "1: torch.load runs"),
    (forbidden, "series/a.py", "x = torch.load(path)", "1: torch.load()"),
    (forbidden, "series/a.py", "x = np.load(path, allow_pickle=True)", "1: allow_pickle"),
    (forbidden, "series/a.py", "eval(text)", "1: eval()"),
    (forbidden, "series/a.py", "raise ValueError", "1: raise ValueError"),
    (forbidden, "series/a.py", "raise RuntimeError(x) from y", "1: raise RuntimeError"),
    (forbidden, "series/a.py", "try:\n    f()\nexcept (OSError, Exception):\n    f()", "3: an except that catches"),
    (forbidden, "series/a.py", "try:\n    f()\nexcept:\n    f()", "3: an except that catches"),
    (step_order, "training/loop.py", "def train_step(): ...", "step.py:1: train_step must be there"),
    (
        step_order,
        "training/step.py",
        "def train_step():\n    guard.clip(guard.measure(batch_loss(network(batch))))\n    loss.backward()",
        "step.py:1: train_step tells",
    ),
    (examples, "series/a.py", "def f():\n    '''Text.'''", "1: public f has no example"),
    (examples, "series/a.py", "class f: ...", "1: public f has no docstring"),
    (examples, "series/a.py", "# doctest: +SKIP", "1: an example that is not executed"),
    (ascii_only, "series/a.py", 'x = "\u03c3"', r"1: letters beyond ASCII: '\u03c3'"),
    (foreign_words, "series/a.py", "path = '/" + "root/x'", "1: '/" + "root' is not of this project"),
    (foreign_words, "series/a.py", "# as the " + "brief says", "is not of this project"),
]


@pytest.mark.parametrize(("gate", "path", "text", "finding"), PLANTED)
def test_each_gate_finds_what_is_planted(gate: Gate, path: str, text: str, finding: str) -> None:
    face = Source("src/holdfast/series/__init__.py", '"""S."""\nfrom holdfast.series.a import f\n__all__ = ["f"]\n')
    planted = Source(f"src/holdfast/{path}", text)
    found = findings_of(gate, [planted] if path.endswith("__init__.py") else [face, planted])
    assert finding in "\n".join(found)


CLEAN = '''"""What the gates must let pass."""
from abc import ABC, abstractmethod
from holdfast.errors import OptionError, Problem


class Shape(ABC):
    """An interface needs no example."""

    @abstractmethod
    def area(self, a, b, c, d, e, f, g, h): ...


class Square(Shape):
    """A leaf.

    Example:
        >>> 1 + 1
        2
    """

    def area(self, a, b, c, d, e, f, g, h):
        self.model.eval()
        try:
            return a
        except ValueError as error:
            raise OptionError(Problem("a", "b", "c", "d")) from error
'''


def test_no_gate_finds_fault_with_clean_code() -> None:
    face = '"""S."""\nfrom holdfast.series.a import Shape, Square\n__all__ = ["Shape", "Square"]\n'
    clean = [Source("src/holdfast/series/a.py", CLEAN), Source("src/holdfast/series/__init__.py", face)]
    assert [line for gate in GATES if gate is not step_order for line in gate(clean)] == []


def test_docstrings_do_not_count_as_lines_of_code() -> None:
    text = '''def f():\n    """Line.\n''' + "\n" * 80 + '''    """\n''' + "    x = 1\n" * 59
    assert findings_of(sizes, [Source("src/holdfast/series/a.py", text)]) == []


def test_no_two_rooms_can_import_each_other() -> None:
    order = list(TopologicalSorter(ROOMS).static_order())
    assert sorted(order) == sorted(ROOMS)


def test_rooms_directories_and_contributing_agree() -> None:
    directories = {path.parent.name for path in (ROOT / "src/holdfast").glob("*/__init__.py")}
    assert directories == set(ROOMS), "a new room needs its line in ROOMS of tests/house.py and in CONTRIBUTING.md"
    rows = re.findall(r"^\| `(\w+)/` \|[^|]*\|([^|]*)\|$", (ROOT / "CONTRIBUTING.md").read_text(), re.MULTILINE)
    told = {room: set(re.findall(r"\w+", may)) - {"errors"} for room, may in rows}
    assert told == {room: set(may) for room, may in ROOMS.items()}


FRESH = """
import os, sys
import holdfast
loaded = {"torch", "polars", "pandas", "matplotlib", "typer", "rich", "scipy"} & sys.modules.keys()
assert not loaded, f"import holdfast loads {sorted(loaded)}: import them where they are used"

import holdfast.errors
assert "numpy" not in sys.modules, "holdfast.errors loads numpy"
for room in WITHOUT_TORCH:
    __import__(f"holdfast.{room}")
    assert "torch" not in sys.modules, f"holdfast.{room} loads torch"

import pkgutil, random, signal
import numpy, torch

def state():
    return {
        "working directory": os.getcwd(),
        "environment": dict(os.environ),
        "signal handler": signal.getsignal(signal.SIGINT),
        "hooks": (sys.excepthook, sys.displayhook, sys.unraisablehook),
        "random state": (random.getstate(), str(numpy.random.get_state()), torch.get_rng_state().tolist()),
        "dtype": torch.get_default_dtype(),
        "threads": (torch.get_num_threads(), torch.get_num_interop_threads()),
        "gradients": (torch.is_grad_enabled(), torch.is_anomaly_enabled()),
        "determinism": (torch.are_deterministic_algorithms_enabled(), torch.backends.cudnn.benchmark),
        "precision": torch.get_float32_matmul_precision(),
        "denormals": float(torch.tensor(1e-39) * 0.5),
        "files": os.listdir(),
    }

before = state()
for module in pkgutil.walk_packages(holdfast.__path__, "holdfast."):
    __import__(module.name)
after = state()
changed = [name for name in before if before[name] != after[name]]
assert not changed, f"importing holdfast changes {changed}"
assert "matplotlib" not in sys.modules, "a module of holdfast loads matplotlib when it is imported"
assert not os.listdir(), f"importing holdfast writes {os.listdir()} into the home or working directory"
"""


def test_imports_are_light_and_have_no_side_effects(tmp_path: Path) -> None:
    code = f"WITHOUT_TORCH = {WITHOUT_TORCH!r}\n{FRESH}"
    environment = {**os.environ, "HOME": str(tmp_path), "PYTHONDONTWRITEBYTECODE": "1"}
    done = subprocess.run([sys.executable, "-c", code], cwd=tmp_path, env=environment, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr


@pytest.fixture(scope="module")
def surface() -> list[str]:
    return real_surface()


def test_the_public_surface_is_the_one_agreed_upon(surface: list[str]) -> None:
    difference = list(difflib.unified_diff(written_surface(), surface, "tests/surface.txt", "the package", lineterm=""))
    renew = "if this is meant, run `python tests/surface.py` and say it in a changelog fragment"
    assert not difference, "\n".join([*difference, renew])


def test_the_top_level_is_small_and_every_name_is_there() -> None:
    import holdfast

    assert len(holdfast.__all__) <= 30
    assert dir(holdfast) == sorted(holdfast.__all__) == list(holdfast.__all__)
    assert [name for name in holdfast.__all__ if getattr(holdfast, name, None) is None] == []
    with pytest.raises(AttributeError, match="nonesuch"):
        _ = holdfast.nonesuch


def test_options_say_the_default_that_they_have() -> None:
    from typer.main import get_command

    from holdfast.cli import app
    from holdfast.forecasting import Config

    said = {option.name: option.help or "" for option in get_command(app).commands["fit"].params}
    scalars = {field.name: field.default for field in fields(Config) if type(field.default) in (int, float, str)}
    assert [name for name, value in scalars.items() if f"[default: {value}]" not in said[name]] == []


def test_one_version_everywhere() -> None:
    import holdfast

    assert f'\nversion = "{holdfast.__version__}"\n' in (ROOT / "pyproject.toml").read_text()


def test_the_lowest_versions_are_those_of_pyproject() -> None:
    text = (
        '[x]\ndependencies = [\n    "torch>=2.6",\n    "a-b>=1.26",\n]\nreport = ["m>=3.8"]\ntest = [\n    "c>=8"\n]\n'
    )
    assert lowest(text) == ["a-b==1.26", "c==8", "m==3.8"]
    real = lowest((ROOT / "pyproject.toml").read_text())
    from importlib.metadata import requires

    needed = {re.split(r"[><=;\s]", line)[0] for line in requires("holdfast") or [] if "extra ==" not in line}
    assert needed - {pin.split("==")[0] for pin in real} == {"torch"}


def pages() -> list[Path]:
    folders = [ROOT.glob("*.md"), *((ROOT / name).rglob("*.md") for name in ("docs", "benchmarks", "changelog.d"))]
    return sorted(path for folder in folders for path in folder)


def dead_links(page: Path) -> list[str]:
    """Links of a page to files that are not there; code is not read."""

    def blank(match: re.Match[str]) -> str:
        return "\n" * match[0].count("\n")

    prose = re.sub(r"^```.*?^```|`[^`\n]*`", blank, page.read_text(encoding="utf-8"), flags=re.DOTALL | re.MULTILINE)
    dead = []
    for match in re.finditer(r"\]\(([^)\s]+)|(?:src|href)=\"([^\"]+)\"", prose):
        target, line = (match[1] or match[2]).split("#")[0], prose.count("\n", 0, match.start()) + 1
        if target and not re.match(r"[a-z]+:", target) and not (page.parent / target).exists():
            dead.append(f"{page}:{line}: no such file: {target}; mend the link or remove it")
    return dead


def test_a_dead_link_is_found(tmp_path: Path) -> None:
    (tmp_path / "there.png").touch()
    page = tmp_path / "page.md"
    code = "```\n[d](d.md)\n```\n`[e](e.md)`"
    page.write_text(f'[a](there.png) [b](#b) [c](https://x.org)\n{code}\n![f](f.png "F")\n<img src="g.png">')
    assert [line.split(": ", 1)[1].split(";")[0] for line in dead_links(page)] == [
        "no such file: f.png",
        "no such file: g.png",
    ]
    assert [line.split(":")[-3] for line in dead_links(page)] == ["6", "7"]


@pytest.mark.parametrize("page", pages(), ids=lambda page: page.relative_to(ROOT).as_posix())
def test_pages_link_to_what_is_there_and_name_real_commands(page: Path) -> None:
    named = unknown_commands(page.read_text(encoding="utf-8"), written_surface())
    wrong = [f"{page}:{line}: no such command or option: {text}; see tests/surface.txt" for line, text in named]
    wrong += dead_links(page)
    assert not wrong, "\n".join(wrong)


def test_errors_and_docstrings_name_real_commands(sources: list[Source]) -> None:
    surface = written_surface()
    named = [(source, found) for source in sources for found in unknown_commands(source.text, surface)]
    assert not named, "\n".join(
        source.finding(line, f"no such command: {text}", "name one") for source, (line, text) in named
    )


def test_all_of_the_project_speaks_of_the_project_alone() -> None:
    names = ("tests", "docs", "benchmarks", "changelog.d", "examples", ".ci", ".github")
    files = [
        path for name in names for path in (ROOT / name).rglob("*") if path.suffix in (".py", ".md", ".txt", ".yml", "")
    ]
    files += [*ROOT.glob("*.md"), ROOT / "Makefile", ROOT / "pyproject.toml", ROOT / "constraints.txt"]
    read = [
        Source(path.relative_to(ROOT).as_posix(), path.read_text(encoding="utf-8"))
        for path in files
        if path.is_file() and path.name not in ("house.py", "LICENSE")
    ]
    assert findings_of(foreign_words, read) == []


def test_an_unknown_command_or_option_on_a_page_is_found() -> None:
    shell = "holdfast fit x \\\n  --lr 1 --nope\n.venv/bin/holdfast demo # holdfast gone\n"
    page = f"holdfast trains\n```sh\n{shell}```\n`holdfast sing`"
    surface = ["holdfast fit", "holdfast fit --lr", "holdfast demo"]
    assert list(unknown_commands(page, surface)) == [(3, "holdfast fit --nope"), (7, "holdfast sing")]


def collector():
    spec = importlib.util.spec_from_file_location("collect", ROOT / "changelog.d/collect.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_changelog_fragments_have_their_form() -> None:
    pattern, wrong = collector().NAME, []
    for path in sorted((ROOT / "changelog.d").iterdir()):
        if path.name in ("README.md", "collect.py", "__pycache__"):
            continue
        if not pattern.fullmatch(path.name):
            wrong.append(f"{path}: the name must be <slug>.<added|changed|fixed|removed>.md")
        elif not re.search(
            r"^Effect on results: (none\Z|see the table$.*\|)", path.read_text().strip(), re.M | re.DOTALL
        ):
            wrong.append(f"{path}: it must end with its effect on results, see changelog.d/README.md")
    assert not wrong, "\n".join(wrong)


def test_a_release_collects_the_fragments(tmp_path: Path) -> None:
    (tmp_path / "changelog.d").mkdir()
    (tmp_path / "pyproject.toml").write_text('[project]\nname = "x"\nversion = "1.2.0"\n')
    (tmp_path / "CHANGELOG.md").write_text("# C\n\n" + collector().UNRELEASED + "\n## 1.1.0 - 2025-01-01\n")
    for name, text in {"b.fixed.md": "B.\n", "a.fixed.md": "A\nlong.\n", "z.added.md": "Z.\n"}.items():
        (tmp_path / "changelog.d" / name).write_text(text)
    collector().collect(tmp_path, "2026-01-31")
    assert (tmp_path / "CHANGELOG.md").read_text() == (
        "# C\n\n## Unreleased\n\nSee [changelog.d/](changelog.d/).\n\n## 1.2.0 - 2026-01-31\n\n### Added\n\n- Z.\n"
        "\n### Fixed\n\n- A\n  long.\n- B.\n\n## 1.1.0 - 2025-01-01\n"
    )
    assert list((tmp_path / "changelog.d").iterdir()) == []
    with pytest.raises(SystemExit, match=re.escape("1.2.0")):
        collector().collect(tmp_path, "2026-02-01")


def test_decisions_are_short_and_listed() -> None:
    folder = ROOT / "docs/decisions"
    index = (folder / "README.md").read_text()
    for path in sorted(folder.glob("[0-9]*.md")):
        text = path.read_text()
        assert len(text.splitlines()) <= 25, f"{path}: at most 25 lines"
        assert f"({path.name})" in index, f"{path}: list it in README.md"
        parts = re.findall(r"^\*\*(Question|Decision|Why|Cost)\.\*\*", text, re.MULTILINE)
        assert parts == ["Question", "Decision", "Why", "Cost"], f"{path}: question, decision, why, cost, in this order"
