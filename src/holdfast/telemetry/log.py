"""The telemetry of one run: every record in memory, and one JSON line per record in a file if there is one."""

from __future__ import annotations

import json
from pathlib import Path
from types import TracebackType
from typing import TextIO

from holdfast.errors import Problem, RunDirectoryError
from holdfast.telemetry.records import FlowRecord, News, Record, StepRecord, ValidationRecord, from_json, to_json


class TelemetryLog:
    """Keeps records, and appends them to a JSONL file as they come.

    Args:
        path: The file, in a directory that exists; None keeps them in memory only.
        keep_until: Continue an existing file after this step; later records are dropped, for they will come again.
            None starts the file anew.

    Raises:
        RunDirectoryError: The file to continue is damaged; it was not changed.

    Example:
        >>> with TelemetryLog() as log:
        ...     log.append(ValidationRecord(step=0, loss=1.0, error=0.8, naive_error=1.0, skill=0.2, seconds=0.1))
        >>> log.validations[0].error
        0.8
    """

    def __init__(self, path: Path | None = None, keep_until: int | None = None) -> None:
        self.path = path
        self.records: list[Record] = []
        if path is not None and keep_until is not None and path.exists():
            self.records = [record for record in read_telemetry(path) if record.step <= keep_until]
        self._file: TextIO | None = None
        if path is not None:
            part = path.with_suffix(".part")
            part.write_text("".join(_line(record) for record in self.records), encoding="utf-8")
            part.replace(path)
            self._file = path.open("a", encoding="utf-8", buffering=1)

    def __enter__(self) -> TelemetryLog:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def append(self, record: Record) -> None:
        """Keep one record."""
        self.records.append(record)
        if self._file is not None:
            self._file.write(_line(record))

    def close(self) -> None:
        """Close the file; what was appended is in it."""
        if self._file is not None:
            self._file.close()
            self._file = None

    @property
    def steps(self) -> list[StepRecord]:
        """The records of the optimiser steps."""
        return [record for record in self.records if isinstance(record, StepRecord)]

    @property
    def validations(self) -> list[ValidationRecord]:
        """The records of the validations."""
        return [record for record in self.records if isinstance(record, ValidationRecord)]

    @property
    def flows(self) -> list[FlowRecord]:
        """The records of how gradients flowed back through time."""
        return [record for record in self.records if isinstance(record, FlowRecord)]

    @property
    def news(self) -> list[News]:
        """The records of what changed the course of the run."""
        return [record for record in self.records if isinstance(record, News)]


def read_telemetry(path: Path) -> list[Record]:
    """All records of a telemetry file; a last line cut off by a crash is left out.

    Args:
        path: The file.

    Returns:
        All records in the order in which they were written.

    Raises:
        RunDirectoryError: The file cannot be read, or a line is not a record.

    Example:
        >>> import tempfile
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     path = Path(folder) / "telemetry.jsonl"
        ...     with TelemetryLog(path) as log:
        ...         log.append(ValidationRecord(step=0, loss=1.0, error=0.8, naive_error=1.0, skill=0.2, seconds=0.1))
        ...     read_telemetry(path) == log.records
        True
    """
    try:
        lines = path.read_text(encoding="utf-8", errors="replace").splitlines(keepends=True)
    except OSError as error:
        problem = Problem(str(path), "a telemetry file", str(error), "give the file of a run, or fit again with --out")
        raise RunDirectoryError(problem) from error
    records: list[Record] = []
    for number, line in enumerate(lines, start=1):
        try:
            records.append(from_json(json.loads(line)))
        except (ValueError, KeyError, TypeError) as error:
            if number == len(lines) and not line.endswith("\n"):
                break
            raise RunDirectoryError(
                Problem(f"{path}, line {number}", "one telemetry record", repr(line[:60]), "restore or delete the file")
            ) from error
    return records


def _line(record: Record) -> str:
    return json.dumps(to_json(record), separators=(",", ":")) + "\n"
