"""The lowest versions that pyproject.toml allows, as constraints for pip: what `make test-lowest` installs.

torch, the formatter and the type checker stay those of constraints.txt.
"""

from __future__ import annotations

import re
from pathlib import Path

ROOT = Path(__file__).parents[1]
PINNED = ("torch", "neuralforecast", "ruff", "mypy")


def lowest(pyproject: str) -> list[str]:
    """Each lower bound as a pin, in the order of the file."""
    bounds = re.findall(r'^    "([\w-]+)>=([\d.]+)', pyproject, re.MULTILINE)
    bounds += re.findall(r'^report = \["([\w-]+)>=([\d.]+)"\]$', pyproject, re.MULTILINE)
    return [f"{name}=={version}" for name, version in bounds if name not in PINNED]


if __name__ == "__main__":
    print("\n".join(lowest((ROOT / "pyproject.toml").read_text(encoding="utf-8"))))
