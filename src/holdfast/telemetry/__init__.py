"""Records of what training measured, and the file they are kept in."""

from holdfast.telemetry.log import TelemetryLog, read_telemetry
from holdfast.telemetry.records import Outlook, Record, StepRecord, ValidationRecord, from_json, to_json
from holdfast.telemetry.sinks import ProgressLine

__all__ = [
    "Outlook",
    "ProgressLine",
    "Record",
    "StepRecord",
    "TelemetryLog",
    "ValidationRecord",
    "from_json",
    "read_telemetry",
    "to_json",
]
