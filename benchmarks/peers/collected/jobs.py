"""The jobs of the collection: which there are, the measuring of one, and the files that keep their rows."""

from __future__ import annotations

import json
import os
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from .forecasters import GROUPS, SEVERAL, forecast
from .scores import scale_of, scores_of
from .sets import EVERY, read_set

STAGES = ("naive 0", "holdfast 0", "ets-theta 0", "ces 0", "mstl 0")  # in this order, then the other seeds
Row = dict[str, Any]


class Job(NamedTuple):
    """Forecasters of one group on one set."""

    name: str
    group: str
    seed: int

    def done(self, rows: Iterable[Row]) -> bool:
        """Whether every forecaster of the group has its scores among the rows of the set."""
        have = {row["model"] for row in rows if row["seed"] == self.seed and "failed" not in row}
        return have.issuperset(GROUPS[self.group])


def all_jobs(names: Sequence[str], groups: Sequence[str], seeds: int) -> Iterator[Job]:
    """Every job: one stage over all sets, in their order, before the next stage."""
    later = [f"holdfast {seed}" for seed in range(1, seeds)]
    for group, seed in (stage.split() for stage in (*STAGES, *later)):
        if group in groups:
            yield from (Job(name, group, int(seed)) for name in names if group != "mstl" or name in SEVERAL)


def measure(folder: Path, machine: Mapping[str, Any], job: Job, back: int = 0) -> list[Row]:
    """The rows of one job: scores, or why there are none.

    Args:
        folder: Of the sets.
        machine: Facts to keep with every row.
        job: Which.
        back: As `read_set` takes it.
    """
    key = {"set": job.name, "seed": job.seed}
    try:
        data = read_set(folder, job.name, back)
        made = forecast(data, job.group, job.seed)
    except Exception as error:  # noqa: BLE001 - one job that fails does not end the others
        reason = f"{type(error).__name__}: {error}"
        return [{**key, "model": model, "failed": reason} for model in GROUPS[job.group]]
    scale_S = np.array([scale_of(y, data.season) for y in data.histories(0)])
    actual_SCH, naive_SCH = data.actual(), data.naive()
    facts = {
        "series": len(data.scored),
        "too_short": data.too_short,
        "every": EVERY.get(job.name, 1),
        "cutoffs": data.cutoffs,
        "season": data.season,
        "horizon": data.horizon,
        "machine": {**machine, "load": os.getloadavg()[0]},
    }
    return [
        {**key, "model": model}
        | scores_of(actual_SCH, each.forecast_SCHQ, naive_SCH, scale_S)
        | {"seconds": each.seconds, **each.facts, **facts}
        for model, each in made.items()
    ]


def read_rows(place: Path, name: str = "*") -> list[Row]:
    """The rows of a set, or of all, in the order of their names; none without a file."""
    return [row for path in sorted(place.glob(f"{name}.json")) for row in json.loads(path.read_text())["rows"]]


def keep(place: Path, rows: Sequence[Row]) -> None:
    """Put the rows of a job into the file of its set, in the place of older ones."""
    name = rows[0]["set"]
    new = {(row["model"], row["seed"]) for row in rows}
    others = [row for row in read_rows(place, name) if (row["model"], row["seed"]) not in new]
    place.mkdir(parents=True, exist_ok=True)
    (place / f"{name}.json").write_text(json.dumps({"rows": [*others, *rows]}, indent=1) + "\n")
