"""Records of what training measured, and the file they are kept in."""

from holdfast.telemetry.log import TelemetryLog, read_telemetry
from holdfast.telemetry.records import (
    FlowRecord,
    News,
    Outlook,
    Record,
    RetreatRecord,
    StepRecord,
    ThresholdRecord,
    ValidationRecord,
    from_json,
    some_of,
    to_json,
)
from holdfast.telemetry.sinks import ProgressLine

__all__ = [
    "FlowRecord",
    "News",
    "Outlook",
    "ProgressLine",
    "Record",
    "RetreatRecord",
    "StepRecord",
    "TelemetryLog",
    "ThresholdRecord",
    "ValidationRecord",
    "from_json",
    "read_telemetry",
    "some_of",
    "to_json",
]
