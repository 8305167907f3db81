"""The run directory: what is in it, and how it is read and written."""

from __future__ import annotations

import hashlib
import importlib.metadata
import json
import platform
from collections.abc import Mapping
from dataclasses import asdict, dataclass, fields
from pathlib import Path
from typing import Any

import polars as pl

from holdfast.errors import Problem, RunDirectoryError

SCHEMA = 1
MANIFEST, SERIES, MODEL_FILE = "manifest.json", "series.parquet", "model.safetensors"
TELEMETRY, METRICS, FORECAST = "telemetry.jsonl", "metrics.json", "forecast.parquet"
CHECKPOINT = "checkpoint/state.safetensors"


@dataclass(frozen=True, kw_only=True)
class Manifest:
    """What a run was: enough to build its network and to check its data.

    Attributes:
        config: The options (see `config_facts`).
        network: The shapes of the network.
        seasons: Season lengths with the reason for each, the first that of the seasonal naive forecast.
        notes: What was noticed while reading the table.
        freq: Calendar step.
        kind: Kind of dataframe that went in.
        categories: Values of each static text column.
        fingerprint: SHA-256 of the series file.
        complete: Whether training came to its end.
        libraries: Versions that wrote it.
    """

    config: Mapping[str, Any]
    network: Mapping[str, Any]
    seasons: tuple[tuple[int, str], ...]
    notes: tuple[str, ...]
    freq: str | int
    kind: str
    categories: Mapping[str, list[str]]
    fingerprint: str
    complete: bool
    libraries: Mapping[str, str]


def library_versions() -> dict[str, str]:
    """Versions of what a result depends on."""
    names = ("holdfast", "torch", "numpy", "polars")
    return {"python": platform.python_version()} | {name: importlib.metadata.version(name) for name in names}


def new_run(path: Path) -> Path:
    """Make a run directory; refuse one that holds anything.

    Raises:
        RunDirectoryError: The path is a file, or a directory that is not empty.
    """
    if path.exists() and (not path.is_dir() or any(path.iterdir())):
        got = "a directory with files in it" if path.is_dir() else "a file"
        fix = f"choose another --out, or continue it with: holdfast resume {path}"
        raise RunDirectoryError(Problem(str(path), "a new or empty directory", got, fix))
    path.mkdir(parents=True, exist_ok=True)
    return path


def fingerprint(run: Path) -> str:
    """SHA-256 of the series of a run."""
    with (run / SERIES).open("rb") as handle:
        return hashlib.sha256(handle.read()).hexdigest()


def read_series(run: Path, expected: str) -> pl.DataFrame:
    """The series of a run.

    Raises:
        RunDirectoryError: The file is missing or is not the one that was written.
    """
    path = run / SERIES
    got = fingerprint(run) if path.is_file() else "no such file"
    if got != expected:
        fix = "restore the file that the run was started with, or fit again"
        raise RunDirectoryError(Problem(str(path), f"SHA-256 {expected[:16]}...", got[:16], fix))
    return pl.read_parquet(path)


def write_json(path: Path, facts: Mapping[str, Any]) -> None:
    """Write JSON atomically; a number that is not finite becomes null."""
    part = path.with_suffix(".part")
    part.write_text(json.dumps({"schema": SCHEMA, **_finite(facts)}, indent=2) + "\n", encoding="utf-8")
    part.replace(path)


def read_json(path: Path) -> dict[str, Any]:
    """Read what `write_json` wrote; a missing file is empty.

    Raises:
        RunDirectoryError: The file is damaged.
    """
    if not path.is_file():
        return {}
    try:
        facts = json.loads(path.read_text(encoding="utf-8"))
        return {name: value for name, value in facts.items() if name != "schema"}
    except (ValueError, AttributeError) as error:
        raise RunDirectoryError(Problem(str(path), "a JSON object", str(error), "restore it, or delete it")) from error


def write_manifest(run: Path, manifest: Manifest) -> None:
    """Write the manifest of a run."""
    write_json(run / MANIFEST, asdict(manifest))


def read_manifest(run: Path) -> Manifest:
    """The manifest of a run.

    Raises:
        RunDirectoryError: The directory or its manifest is missing, damaged or of another schema.
    """
    path = run / MANIFEST
    expected = "a run directory, as `holdfast fit --out` or `Forecaster.save` writes it"
    if not path.is_file():
        got = "no manifest.json in it" if run.is_dir() else "a file" if run.exists() else "no such directory"
        raise RunDirectoryError(Problem(str(run), expected, got, "give the directory of a fit"))
    try:
        facts = json.loads(path.read_text(encoding="utf-8"))
        schema = facts.pop("schema")
        if schema != SCHEMA:
            fix = "use the holdfast that wrote it, or fit again"
            raise RunDirectoryError(Problem(str(path), f"schema {SCHEMA}", f"schema {schema}", fix))
        wanted = {field.name for field in fields(Manifest)}
        if facts.keys() != wanted:
            raise KeyError(", ".join(sorted(facts.keys() ^ wanted)))
        facts["seasons"] = tuple((int(length), str(reason)) for length, reason in facts["seasons"])
        return Manifest(**{**facts, "notes": tuple(facts["notes"])})
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        problem = Problem(str(path), "a whole manifest", f"{type(error).__name__}: {error}", "restore it, or fit again")
        raise RunDirectoryError(problem) from error


def _finite(value: Any) -> Any:
    if isinstance(value, Mapping):
        return {name: _finite(inner) for name, inner in value.items()}
    if isinstance(value, list | tuple):
        return [_finite(inner) for inner in value]
    return None if isinstance(value, float) and (value != value or abs(value) == float("inf")) else value
