"""The run directory: what is in it, and how it is read and written."""

from __future__ import annotations

import hashlib
import importlib.metadata
import json
import platform
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from holdfast.errors import Problem, RunDirectoryError
from holdfast.series import Kind

SCHEMA = 2
MANIFEST, SERIES, MODEL_FILE = "manifest.json", "series.parquet", "model.safetensors"
TELEMETRY, METRICS, FORECAST = "telemetry.jsonl", "metrics.json", "forecast.parquet"
CHECKPOINT = "checkpoint/state.safetensors"
MEMBERS = "members"


@dataclass(frozen=True, kw_only=True)
class Manifest:
    """What a run was: enough to build its network and to check its data.

    Attributes:
        config: The options (see `config_facts`).
        members: Options and shapes of each network.
        seasons: Season lengths with the reason for each, the first that of the seasonal naive forecast.
        notes: What was noticed while reading the table.
        freq: Calendar step.
        kind: Kind of dataframe that went in.
        categories: Values of each static text column.
        fingerprints: SHA-256 of the files that a load reads: the series, and once complete model and metrics.
        complete: Whether training came to its end.
        libraries: Versions that wrote it.
    """

    config: Mapping[str, Any]
    members: tuple[Mapping[str, Any], ...]
    seasons: tuple[tuple[int, str], ...]
    notes: tuple[str, ...]
    freq: str | int
    kind: Kind
    categories: Mapping[str, list[str]]
    fingerprints: Mapping[str, str]
    complete: bool
    libraries: Mapping[str, str]


def library_versions() -> dict[str, str]:
    """Versions of what a result depends on."""
    names = ("holdfast", "torch", "numpy", "polars")
    return {"python": platform.python_version()} | {name: importlib.metadata.version(name) for name in names}


def check_new(path: Path) -> None:
    """Refuse a run directory that holds anything.

    Raises:
        RunDirectoryError: The path is a file, or a directory that is not empty.
    """
    if path.exists() and (not path.is_dir() or any(path.iterdir())):
        got = "a directory with files in it" if path.is_dir() else "a file"
        resumable = (path / MANIFEST).is_file()
        fix = "choose another --out" + (f", or continue this run with: holdfast resume {path}" if resumable else "")
        raise RunDirectoryError(Problem(str(path), "a new or empty directory", got, fix))


def new_run(path: Path) -> None:
    """Make a run directory; refuse one that holds anything.

    Raises:
        RunDirectoryError: The path is a file, a directory that is not empty, or one that cannot be made.
    """
    check_new(path)
    try:
        path.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        got = error.strerror or str(error)
        raise RunDirectoryError(Problem(str(path), "a place to write to", got, "choose another --out")) from error


def places(run: Path, count: int) -> list[Path]:
    """Where checkpoint, model and telemetry of each network are: in the run, or, of several, in folders of their own.

    Example:
        >>> [place.as_posix() for place in places(Path("run"), 2)], places(Path("run"), 1)[0].as_posix()
        (['run/members/1', 'run/members/2'], 'run')
    """
    return [run] if count == 1 else [run / MEMBERS / str(number) for number in range(1, count + 1)]


def fingerprints(run: Path) -> dict[str, str]:
    """SHA-256 of the files that a load reads, as far as they are there, by their path in the run."""
    paths = [run / SERIES, run / MODEL_FILE, *sorted((run / MEMBERS).glob(f"*/{MODEL_FILE}")), run / METRICS]
    return {
        path.relative_to(run).as_posix(): hashlib.sha256(path.read_bytes()).hexdigest()
        for path in paths
        if path.is_file()
    }


def check_files(run: Path, expected: Mapping[str, str]) -> None:
    """Refuse files that are missing or are not the ones that were written.

    Raises:
        RunDirectoryError: With all of them.
    """
    found = fingerprints(run)
    fix = "restore the file that this manifest was written with, or fit again"
    problems = [
        Problem(str(run / name), f"SHA-256 {want[:16]}...", f"{found.get(name, 'no such file')[:16]}", fix)
        for name, want in expected.items()
        if found.get(name) != want
    ]
    if problems:
        raise RunDirectoryError(problems)


def write_json(path: Path, facts: Mapping[str, Any]) -> None:
    """Write JSON atomically; a number that is not finite becomes null."""
    part = path.with_suffix(".part")
    part.write_text(json.dumps({"schema": SCHEMA, **_finite(facts)}, indent=2) + "\n", encoding="utf-8")
    part.replace(path)


def read_json(path: Path) -> dict[str, Any]:
    """Read what `write_json` wrote, from a file that `check_files` has passed."""
    facts = json.loads(path.read_text(encoding="utf-8"))
    return {name: value for name, value in facts.items() if name != "schema"}


def write_manifest(run: Path, manifest: Manifest) -> None:
    """Write the manifest of a run, with a SHA-256 of its own content."""
    facts = asdict(manifest)
    write_json(run / MANIFEST, {**facts, "sha256": _digest(facts)})


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
    expected, fix = "the manifest as it was written", "restore it, or fit again"
    try:
        facts = json.loads(path.read_text(encoding="utf-8"))
        schema, digest = facts.pop("schema"), facts.pop("sha256")
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        problem = Problem(str(path), expected, f"{type(error).__name__}: {error}", fix)
        raise RunDirectoryError(problem) from error
    if schema != SCHEMA:
        fix = "use the holdfast that wrote it, or fit again"
        raise RunDirectoryError(Problem(str(path), f"schema {SCHEMA}", f"schema {schema}", fix))
    if digest != _digest(facts):
        raise RunDirectoryError(Problem(str(path), expected, "one that was changed since", fix))
    kind = facts["kind"]
    facts["kind"] = Kind(**(kind if isinstance(kind, dict) else {"library": kind}))  # once the library was all
    facts["seasons"] = tuple((length, reason) for length, reason in facts["seasons"])
    return Manifest(**{**facts, "notes": tuple(facts["notes"]), "members": tuple(facts["members"])})


def _digest(facts: Mapping[str, Any]) -> str:
    return hashlib.sha256(json.dumps(_finite(facts), sort_keys=True).encode()).hexdigest()


def _finite(value: Any) -> Any:
    if isinstance(value, Mapping):
        return {name: _finite(inner) for name, inner in value.items()}
    if isinstance(value, list | tuple):
        return [_finite(inner) for inner in value]
    return None if isinstance(value, float) and (value != value or abs(value) == float("inf")) else value
