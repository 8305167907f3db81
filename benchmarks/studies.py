"""Run the studies in full and keep their rows: what docs/claims.md is written from.

    python benchmarks/studies.py NAME [NAME ...] [--out DIR]

Goes on in DIR where it was stopped. Writes benchmarks/results/studies/NAME.parquet and NAME.json, then docs/claims.md.
"""

from __future__ import annotations

import argparse
import json
import tempfile
from pathlib import Path

from common import RESULTS, machine_facts
from write_claims import write_page

from holdfast.studies.run import run_study

KEPT = RESULTS / "studies"


def main() -> None:
    """Run, keep, write."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("names", nargs="+")
    parser.add_argument("--out", type=Path, default=Path(tempfile.gettempdir()) / "holdfast-studies")
    arguments = parser.parse_args()
    KEPT.mkdir(parents=True, exist_ok=True)
    for name in arguments.names:
        result = run_study(name, arguments.out / name, full=True, say=print)
        result.rows.write_parquet(KEPT / f"{name}.parquet")
        facts = {**machine_facts(), "threads": 1}
        (KEPT / f"{name}.json").write_text(json.dumps(facts, indent=1) + "\n")
    write_page()


if __name__ == "__main__":
    main()
