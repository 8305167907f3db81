"""What users can name: the top level of the package, and every command with its options, one per line.

`python tests/surface.py` writes the list to surface.txt after a change that is meant.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from importlib import import_module
from pathlib import Path
from typing import Any

SURFACE = Path(__file__).with_name("surface.txt")
SHELLS = ("", "sh", "bash", "shell", "console", "text")


def written_surface() -> list[str]:
    """The list as it was last agreed upon."""
    return SURFACE.read_text(encoding="utf-8").splitlines()


def real_surface() -> list[str]:
    """The list as the package has it now, lines such as `holdfast.Config`, `holdfast fit` and `holdfast fit --lr`."""
    from typer.main import get_command

    names = [f"holdfast.{name}" for name in import_module("holdfast").__all__]
    return [*names, *_commands("holdfast", get_command(import_module("holdfast.cli").app))]


def _commands(line: str, command: Any) -> Iterator[str]:
    yield line
    for parameter in command.params:
        argument = parameter.param_type_name == "argument"
        words = [parameter.name.upper()] if argument else [*parameter.opts, *parameter.secondary_opts]
        yield from (f"{line} {word}" for word in words)
    for name, inner in getattr(command, "commands", {}).items():
        yield from _commands(f"{line} {name}", inner)


def unknown_commands(text: str, surface: list[str]) -> Iterator[tuple[int, str]]:
    """Line number and text of each command or option in a page's code that is not in the list.

    Commands stand at the start of a line of a shell block, or of a piece of code between backticks.
    """
    number, fence = 0, None
    for line in text.replace("\\\n", "\0").split("\n"):
        number += 1
        if line.lstrip().startswith("```"):
            fence = line.strip().strip("`") if fence is None else None
            continue
        pieces = re.findall(r"`([^`]+)`", line) if fence is None else [line] if fence in SHELLS else []
        for piece in pieces:
            yield from ((number, part) for part in _parts(piece) if part not in surface)
        number += line.count("\0")


def _parts(piece: str) -> list[str]:
    """`holdfast fit x.csv --lr 1` as `holdfast fit`, `holdfast fit --lr`."""
    match = re.match(r"\s*(?:\$ )?(?:\w+=\S+ )*(?:\S*/)?holdfast ([a-z][\w-]*)([^|;>&#]*)", piece)
    if match is None:
        return []
    verb = f"holdfast {match[1]}"
    return [
        verb,
        *(f"{verb} {option}" for option in re.findall(r"(?<!\S)--?[a-z][\w-]*", match[2]) if option != "--help"),
    ]


if __name__ == "__main__":
    SURFACE.write_text("\n".join(real_surface()) + "\n", encoding="utf-8")
