"""Move the fragments into CHANGELOG.md, as the section of the version that pyproject.toml names.

Run `python changelog.d/collect.py` from anywhere, then commit; README.md beside this file says what a fragment is.
"""

from __future__ import annotations

import re
from datetime import datetime, timezone
from pathlib import Path

KINDS = ("added", "changed", "fixed", "removed")
NAME = re.compile(rf"[a-z0-9]+(?:-[a-z0-9]+)*\.({'|'.join(KINDS)})\.md")
UNRELEASED = "## Unreleased\n\nSee [changelog.d/](changelog.d/).\n"


def collect(root: Path, date: str) -> None:
    """Write the section of a release under `date`, and delete the fragments that it is made of.

    Args:
        root: The checkout.
        date: Day of the release, as 2026-01-31.
    """
    version = re.findall(r'^version = "(.+)"', (root / "pyproject.toml").read_text(encoding="utf-8"), re.MULTILINE)[0]
    section, taken = [f"\n## {version} - {date}\n"], []
    for kind in KINDS:
        fragments = sorted((root / "changelog.d").glob(f"*.{kind}.md"))
        if fragments:
            section.append(f"\n### {kind.capitalize()}\n\n")
        section += ["- " + path.read_text(encoding="utf-8").strip().replace("\n", "\n  ") + "\n" for path in fragments]
        taken += fragments
    log = root / "CHANGELOG.md"
    text = log.read_text(encoding="utf-8")
    if not taken or UNRELEASED not in text or f"## {version} " in text:
        raise SystemExit(f"nothing to collect, or {log} has a section {version} already: raise the version first")
    log.write_text(text.replace(UNRELEASED, UNRELEASED + "".join(section)), encoding="utf-8")
    for path in taken:
        path.unlink()


if __name__ == "__main__":
    collect(Path(__file__).parents[1], datetime.now(timezone.utc).date().isoformat())
