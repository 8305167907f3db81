"""The rules of the house as functions: each reads parsed sources and yields one finding per broken rule."""

from __future__ import annotations

import ast
import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path, PurePosixPath

FORECASTING = (
    "training",
    "networks",
    "windows",
    "gradients",
    "flow",
    "telemetry",
    "series",
    "smoothing",
    "reports",
)
# Which rooms each room may import; `errors` is open to all of them, and no other direction is allowed.
ROOMS: dict[str, tuple[str, ...]] = {
    "series": (),
    "telemetry": (),
    "smoothing": (),
    "gradients": (),
    "flow": ("gradients",),
    "windows": ("series",),
    "networks": ("windows",),
    "training": ("networks", "windows", "gradients", "flow", "telemetry"),
    "reports": ("telemetry", "series"),
    "forecasting": FORECASTING,
    "studies": ("forecasting", *FORECASTING),
}
WITHOUT_TORCH = ("series", "telemetry", "smoothing", "reports")

MOST_PARAMETERS, MOST_FUNCTION_LINES, MOST_CLASS_LINES, MOST_FILE_LINES, DEEPEST = 8, 60, 250, 400, 2
FRAMEWORK_BASES = {
    "ABC",
    "Exception",
    "UserWarning",
    "Protocol",
    "nn.Module",
    "torch.nn.Module",
    "torch.autograd.Function",
}
BARE_ERRORS = {"BaseException", "Exception", "ValueError", "TypeError", "RuntimeError", "AssertionError"}
FORBIDDEN_CALLS = {
    "print": "return the text, or hand it to the console of cli.py",
    "eval": "no text is ever run as code",
    "exec": "no text is ever run as code",
    "hasattr": "inside the boundary, trust: type the argument",
    "__import__": "write an import statement",
    "torch.load": "weights are safetensors: training.load_tensors",
    "torch.save": "weights are safetensors: training.save_tensors",
    "yaml.load": "files are JSON",
    "pd.read_pickle": "tables are Parquet or CSV",
    "pandas.read_pickle": "tables are Parquet or CSV",
}
PICKLES = {"pickle", "cPickle", "_pickle", "dill", "cloudpickle", "joblib", "shelve", "marshal"}
STEP_IN_ORDER = ("network", "batch_loss", ".backward", ".measure", ".clip", ".update", "StepRecord")
FOREIGN_WORDS = re.compile(
    r"(?<![\w.~])/(?:work|root|tmp|home|mnt|Users)\b(?!\.)"  # absolute paths of somebody's machine
    r"|\b(?:claude|anthropic|openai|chatgpt|copilot)\b|\ban? (?:ai|llm)\b|\bsub-?agents?\b"
    r"|\bco-authored-by\b|\bshared/docs\b|\b(?:the|your|this) (?:brief|prompt|lead|workplace)\b"
    r"|\b(?:issue|ticket|milestone) #?\d+|\bTODO\b|\bFIXME\b|\bXXX\b",
    re.IGNORECASE,
)

Function = ast.FunctionDef | ast.AsyncFunctionDef


@dataclass(frozen=True)
class Source:
    """One Python file: its path inside the repository, as `src/holdfast/series/grid.py`, and its text."""

    path: str
    text: str

    @cached_property
    def tree(self) -> ast.Module:
        return ast.parse(self.text, self.path)

    @property
    def module(self) -> str:
        parts = PurePosixPath(self.path).with_suffix("").parts[1:]
        return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)

    @property
    def room(self) -> str:
        """Name of the room, or of the single file beside the rooms; "" for the package itself."""
        return [*self.module.split("."), ""][1]

    def finding(self, node: ast.AST | int, wrong: str, to_do: str) -> str:
        line = node if isinstance(node, int) else getattr(node, "lineno", 1)
        return f"{self.path}:{line}: {wrong}; {to_do}"


def read_sources(root: Path) -> list[Source]:
    paths = sorted((root / "src" / "holdfast").rglob("*.py"))
    return [Source(path.relative_to(root).as_posix(), path.read_text(encoding="utf-8")) for path in paths]


def _dotted(node: ast.AST) -> str:
    """`a.b.c` of a name or attribute, "" of anything else; a subscript is read through."""
    if isinstance(node, ast.Subscript):
        return _dotted(node.value)
    if isinstance(node, ast.Attribute):
        return f"{_dotted(node.value)}.{node.attr}"
    return node.id if isinstance(node, ast.Name) else ""


def _imports(source: Source) -> Iterator[tuple[ast.AST, str]]:
    """Every imported thing as an absolute dotted name, wherever in the file the import stands."""
    package = source.module.split(".")
    package = package if source.path.endswith("/__init__.py") else package[:-1]
    for node in ast.walk(source.tree):
        if isinstance(node, ast.Import):
            yield from ((node, alias.name) for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            start = package[: len(package) + 1 - node.level] if node.level else []
            base = ".".join([*start, *([node.module] if node.module else [])])
            yield from ((node, f"{base}.{alias.name}") for alias in node.names)


def import_direction(sources: Sequence[Source]) -> Iterator[str]:
    """A room imports only the rooms below it, and never the package's own top level."""
    for source in sources:
        if source.room in ("", "cli", "cli_options"):
            continue
        may = {*ROOMS.get(source.room, ()), source.room, "errors"}
        may = {"errors"} if source.room == "errors" else may
        for node, name in _imports(source):
            first, second, *_ = [*name.split("."), ""]
            if first == "holdfast" and second not in may:
                wrong = f"{source.room} imports {name}"
                yield source.finding(
                    node, wrong, f"it may import {', '.join(sorted(may))}: hand the value down instead"
                )
            if first == "importlib" and name.endswith("import_module"):
                yield source.finding(node, f"{source.room} imports by text", "write an import statement")


def torch_free(sources: Sequence[Source]) -> Iterator[str]:
    for source in sources:
        if source.room in WITHOUT_TORCH:
            for node, name in _imports(source):
                if name.split(".")[0] == "torch":
                    yield source.finding(node, f"{source.room} imports torch", "numpy ends here: go through windows/")


def room_faces(sources: Sequence[Source]) -> Iterator[str]:
    """A room's `__init__.py` is a docstring, imports from the room, and an `__all__` that lists just these."""
    for source in sources:
        if not source.path.endswith("/__init__.py") or not source.room:
            continue
        imported: set[str] = set()
        listed: set[str] = set()
        for node in source.tree.body[1:]:
            if isinstance(node, ast.ImportFrom) and node.module == "__future__":
                continue
            if isinstance(node, ast.ImportFrom) and (node.module or "").startswith(f"{source.module}."):
                imported |= {alias.asname or alias.name for alias in node.names}
            elif isinstance(node, ast.Assign) and [_dotted(target) for target in node.targets] == ["__all__"]:
                listed = set(ast.literal_eval(node.value))
            else:
                yield source.finding(node, "a room's __init__.py only re-exports", "move this into a file of the room")
        if not ast.get_docstring(source.tree):
            yield source.finding(1, "no docstring", "say in one line what the room is for")
        if imported != listed or not listed:
            wrong = f"__all__ and imports differ: {', '.join(sorted(imported ^ listed)) or 'both are empty'}"
            yield source.finding(1, wrong, "re-export each public name of the room, and list it")


def signatures(sources: Sequence[Source]) -> Iterator[str]:
    """At most 8 parameters without self, and never **kwargs, but for `**_`: a hook that others call with more."""
    for source in sources:
        methods = {id(item) for node in ast.walk(source.tree) if isinstance(node, ast.ClassDef) for item in node.body}
        for node in ast.walk(source.tree):
            if not isinstance(node, Function):
                continue
            decorators = [_dotted(getattr(decorator, "func", decorator)) for decorator in node.decorator_list]
            arguments = node.args
            count = len(arguments.posonlyargs + arguments.args + arguments.kwonlyargs) + bool(arguments.vararg)
            count -= id(node) in methods and "staticmethod" not in decorators
            command = source.room == "cli" and any(name.endswith((".command", ".callback")) for name in decorators)
            if count > MOST_PARAMETERS and not command:
                wrong = f"{node.name} has {count} parameters, at most {MOST_PARAMETERS}"
                yield source.finding(node, wrong, "hand over a frozen dataclass whose fields say unit and default")
            if arguments.kwarg and arguments.kwarg.arg != "_":
                wrong = f"{node.name} takes **{arguments.kwarg.arg}"
                yield source.finding(node, wrong, "name each parameter")


def _lines(node: ast.AST) -> int:
    """Lines of a definition without the docstrings in it, which other rules ask to be long."""
    documented = ast.ClassDef | ast.FunctionDef | ast.AsyncFunctionDef
    texts = [inner.body[0] for inner in ast.walk(node) if isinstance(inner, documented) and ast.get_docstring(inner)]
    return _span(node) - sum(_span(text) for text in texts)


def _span(node: ast.AST) -> int:
    return int(getattr(node, "end_lineno", 0)) - int(getattr(node, "lineno", 0)) + 1


def sizes(sources: Sequence[Source]) -> Iterator[str]:
    """Functions of 60 lines and classes of 250 at most, docstrings not counted; files of 400."""
    for source in sources:
        count = len(source.text.splitlines())
        if count > MOST_FILE_LINES:
            wrong = f"{count} lines, at most {MOST_FILE_LINES}"
            yield source.finding(count, wrong, "split off a piece that has a name in the glossary")
        for node in ast.walk(source.tree):
            if isinstance(node, Function) and _lines(node) > MOST_FUNCTION_LINES:
                wrong = f"{node.name} has {_lines(node)} lines, at most {MOST_FUNCTION_LINES}"
                yield source.finding(node, wrong, "give a part of it a name")
            if isinstance(node, ast.ClassDef) and _lines(node) > MOST_CLASS_LINES:
                wrong = f"class {node.name} has {_lines(node)} lines, at most {MOST_CLASS_LINES}"
                yield source.finding(node, wrong, "split off a value or a policy")


@dataclass(frozen=True)
class _Class:
    source: Source
    node: ast.ClassDef
    bases: tuple[str, ...]

    def finding(self, wrong: str, to_do: str) -> str:
        return self.source.finding(self.node, f"class {self.node.name} {wrong}", to_do)

    @property
    def methods(self) -> dict[str, bool]:
        """Whether each method is abstract, by name; those with two leading underscores are Python's own affair."""
        protocol = "Protocol" in self.bases
        return {
            item.name: protocol or any(_dotted(mark).endswith("abstractmethod") for mark in item.decorator_list)
            for item in self.node.body
            if isinstance(item, Function) and not item.name.startswith("__")
        }

    @property
    def interface(self) -> bool:
        """Whether others may inherit from it: abstract, private (a shared part), or the root of a family of errors."""
        abstract = bool({"ABC", "Protocol", "Exception"} & set(self.bases)) or any(self.methods.values())
        return abstract or self.node.name.startswith("_")


def _lineage(name: str, classes: dict[str, _Class]) -> list[_Class]:
    """The class and everything of ours that it inherits from, nearest first, along the deepest line."""
    lines = [_lineage(base, classes) for base in classes[name].bases if base in classes and base != name]
    return [classes[name], *max(lines, key=len, default=[])]


def inheritance(sources: Sequence[Source]) -> Iterator[str]:
    """Abstract or final: a class is an interface or a leaf, and what it does is written down once."""
    found = [
        _Class(source, node, tuple(_dotted(base) for base in node.bases))
        for source in sources
        for node in ast.walk(source.tree)
        if isinstance(node, ast.ClassDef)
    ]
    classes = {one.node.name: one for one in found}
    for one in found:
        other = classes[one.node.name]
        if other is not one:
            yield one.finding(f"is also defined in {other.source.path}", "one word per concept: rename one of them")
        yield from _base_findings(one, classes)
        yield from _override_findings(one, _lineage(one.node.name, classes)[1:])


def _base_findings(one: _Class, classes: dict[str, _Class]) -> Iterator[str]:
    for base in one.bases:
        if base in classes and not classes[base].interface:
            to_do = "an interface or a leaf: wrap it, or make the base abstract"
            yield one.finding(f"inherits from {base}, which can be used by itself", to_do)
        elif base not in classes and base not in FRAMEWORK_BASES:
            to_do = f"wrap it; bases may be {', '.join(sorted(FRAMEWORK_BASES))} or ours"
            yield one.finding(f"inherits from {base}", to_do)


def _override_findings(one: _Class, above: list[_Class]) -> Iterator[str]:
    if len(above) >= DEEPEST:
        yield one.finding(f"stands on {', '.join(other.node.name for other in above)}", "one interface, one leaf")
    for method in one.methods:
        for other in above:
            if other.methods.get(method) is False:
                to_do = "write each method once: wrap, or make the first abstract"
                yield one.finding(f"overrides {other.node.name}.{method}, which is not abstract", to_do)


def forbidden(sources: Sequence[Source]) -> Iterator[str]:
    """No assert, print, pickle, code from text, bare errors, or error swallowed whole in the package."""
    for source in sources:
        for node, name in _imports(source):
            if name.split(".")[0] in PICKLES or name in ("torch.load", "torch.save"):
                yield source.finding(node, f"{name} runs or hides code from files", "safetensors and JSON only")
        for node in ast.walk(source.tree):
            yield from (source.finding(node, wrong, to_do) for wrong, to_do in _forbidden(node))


def _forbidden(node: ast.AST) -> Iterator[tuple[str, str]]:
    if isinstance(node, ast.Assert):
        yield "assert", "raise an error of holdfast.errors with where, expected, got and fix"
    elif isinstance(node, ast.Raise) and node.exc:
        name = _dotted(getattr(node.exc, "func", node.exc))
        if name in BARE_ERRORS:
            yield f"raise {name}", "raise an error of holdfast.errors with where, expected, got and fix"
    elif isinstance(node, ast.ExceptHandler):
        kinds = node.type.elts if isinstance(node.type, ast.Tuple) else [node.type]
        if any(kind is None or _dotted(kind) in ("Exception", "BaseException") for kind in kinds):
            yield "an except that catches everything", "name the errors that are expected here"
    elif isinstance(node, ast.Call):
        name = _dotted(node.func)
        if name in FORBIDDEN_CALLS:
            yield f"{name}()", FORBIDDEN_CALLS[name]
        if any(word.arg == "allow_pickle" and getattr(word.value, "value", True) for word in node.keywords):
            yield "allow_pickle", "store plain arrays"


def step_order(sources: Sequence[Source]) -> Iterator[str]:
    """`train_step` tells forward, loss, backward, measure, clip, update and record once each, in this order."""
    found = [
        (source, node)
        for source in sources
        for node in ast.walk(source.tree)
        if isinstance(node, ast.FunctionDef) and node.name == "train_step"
    ]
    if [source.path for source, _ in found] != ["src/holdfast/training/step.py"]:
        yield "src/holdfast/training/step.py:1: train_step must be there, and nowhere else; move it"
    for source, function in found:
        calls = [node for node in ast.walk(function) if isinstance(node, ast.Call)]
        calls.sort(key=lambda call: (call.lineno, call.col_offset))
        names = [_dotted(call.func) for call in calls]
        told = [
            word for name in names for word in STEP_IN_ORDER if name == word or (word[0] == "." and name.endswith(word))
        ]
        if told != list(STEP_IN_ORDER):
            yield source.finding(function, f"train_step tells {told}", f"tell {list(STEP_IN_ORDER)}, once each")


def examples(sources: Sequence[Source]) -> Iterator[str]:
    """Every class and function in the `__all__` of a room or of the package has an executed example.

    Interfaces need none, and helpers are better without one that shows nothing.
    """
    modules = {source.module: source for source in sources}
    for face in (source for source in sources if source.path.endswith("/__init__.py")):
        for node in ast.walk(face.tree):
            if isinstance(node, ast.ImportFrom) and node.module in modules:
                for alias in node.names:
                    yield from _undocumented(modules[node.module], alias.name, modules)
    for source in sources:
        for number, line in enumerate(source.text.splitlines(), start=1):
            if re.search(r"doctest:.*\+SKIP", line):
                yield source.finding(number, "an example that is not executed", "make it run, or leave it out")


def _undocumented(source: Source, name: str, modules: dict[str, Source]) -> Iterator[str]:
    for node in source.tree.body:
        if isinstance(node, ast.ImportFrom) and node.module in modules and name in [a.name for a in node.names]:
            yield from _undocumented(modules[node.module], name, modules)
        if not isinstance(node, ast.ClassDef | ast.FunctionDef) or node.name != name:
            continue
        text = ast.get_docstring(node) or ""
        interface = isinstance(node, ast.ClassDef) and {"ABC", "Protocol"} & {_dotted(base) for base in node.bases}
        if not text:
            yield source.finding(node, f"public {name} has no docstring", "say what it is in one line")
        elif ">>>" not in text and not interface:
            yield source.finding(node, f"public {name} has no example", "add an Example that doctest can run")


def ascii_only(sources: Sequence[Source]) -> Iterator[str]:
    for source in sources:
        for number, line in enumerate(source.text.splitlines(), start=1):
            strange = sorted({letter for letter in line if ord(letter) > 127})
            if strange:
                yield source.finding(number, f"letters beyond ASCII: {''.join(strange)!a}", "write it in ASCII")


def foreign_words(sources: Sequence[Source]) -> Iterator[str]:
    """The project speaks of the project alone."""
    for source in sources:
        for number, line in enumerate(source.text.splitlines(), start=1):
            for match in FOREIGN_WORDS.finditer(line):
                yield source.finding(number, f"{match[0]!r} is not of this project", "speak of the project alone")


GATES = (
    import_direction,
    torch_free,
    room_faces,
    signatures,
    sizes,
    inheritance,
    forbidden,
    step_order,
    examples,
    ascii_only,
    foreign_words,
)
