"""Write the measured parts of README.md: what the demo prints, with its picture, and the scores.

    python benchmarks/write_readme.py [--demo]

With --demo the demo is run anew (about a minute); its output and picture are kept in docs/demo.
"""

from __future__ import annotations

import re
import statistics
import subprocess
import sys
from pathlib import Path

from common import RESULTS, read_results
from peers.collected.jobs import read_rows
from peers.collected.tables import claim, sets_of
from write_results_page import PUBLISHED, machine_line

ROOT = Path(__file__).parent.parent
DEMO = ROOT / "docs" / "demo"
SHOWN = 100  # columns of the terminal


def run_demo() -> None:
    """Run the demo as a user does and keep what it prints."""
    DEMO.mkdir(parents=True, exist_ok=True)
    command = [str(Path(sys.executable).with_name("holdfast")), "demo", "--out", "docs/demo"]
    done = subprocess.run(
        command, cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, check=True, env=_terminal()
    )
    (DEMO / "output.txt").write_text(done.stdout)


def _terminal() -> dict[str, str]:
    import os

    return {**os.environ, "COLUMNS": str(SHOWN), "PYTHONUNBUFFERED": "1"}


def demo_block() -> str:
    """Output and picture."""
    text = (DEMO / "output.txt").read_text().rstrip()
    return f"```\n{text}\n```\n\n![Forecasts of three series with their intervals](docs/demo/forecast.png)"


def m4_block() -> str:
    """The scores on M4 Hourly in one sentence."""
    facts = read_results("m4_hourly")
    if facts is None:
        return "Not measured yet."
    runs = [run for run in facts["runs"] if run.get("preset", "default") == "default"]
    best_runs = [run for run in facts["runs"] if run.get("preset") == "best"]
    owa = statistics.mean(run["owa"] for run in runs)
    seconds = statistics.median(run["training_seconds"] for run in runs)
    best = PUBLISHED["best submission on this part"][2]
    winner = PUBLISHED["ES-RNN (winner, an ensemble)"][2]
    naive = facts["baselines"]["seasonal naive 24"]["owa"]
    ensemble = f"; with `--preset best` {statistics.mean(run['owa'] for run in best_runs):.3f}" if best_runs else ""
    return (
        f"M4 Hourly with the defaults, mean of {len(runs)} seeds: OWA {owa:.3f} after {seconds:.0f} s of training "
        f"(seasonal naive {naive:.3f}; the competition's winner, an ensemble, {winner:.3f}; the best submission on "
        f"this part {best:.3f}; lower is better){ensemble}. {machine_line(facts['machine'])}"
    )


def fill(text: str, name: str, block: str) -> str:
    """Put a block between its marks."""
    pattern = rf"(<!-- {name}: [^\n]*-->\n).*?(<!-- /{name} -->)"
    return re.sub(pattern, lambda match: f"{match[1]}{block}\n{match[2]}", text, flags=re.DOTALL)


def main() -> None:
    """Fill the blocks."""
    if "--demo" in sys.argv:
        run_demo()
    page = ROOT / "README.md"
    text = page.read_text()
    if (DEMO / "output.txt").exists():
        text = fill(text, "demo", demo_block())
    text = fill(text, "collection", claim(sets_of(read_rows(RESULTS / "collection"))))
    page.write_text(fill(text, "m4", m4_block()))


if __name__ == "__main__":
    main()
