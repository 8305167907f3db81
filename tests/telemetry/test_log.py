"""The log keeps every record, and its file is never worse than one line short."""

from __future__ import annotations

import json
import math
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from tests.telemetry.test_records import FLOWS, RETREATS, STEPS, THRESHOLDS, VALIDATIONS, refuse

from holdfast.errors import RunDirectoryError
from holdfast.telemetry import FlowRecord, RetreatRecord, StepRecord, TelemetryLog, ValidationRecord, read_telemetry

same_folder = settings(suppress_health_check=[HealthCheck.function_scoped_fixture], max_examples=30, deadline=None)


def step(number, loss=1.0):
    return StepRecord(
        step=number,
        loss=loss,
        lr=1e-3,
        total_norm=2.0,
        clipped_norm=1.0,
        clip_coef=0.5,
        cosine=1.0,
        role_norms={"recurrent": 2.0},
        role_coefs={"recurrent": 0.5},
        role_clipped_norms={"recurrent": 1.0},
        clipped=True,
        skipped=False,
        nonfinite=(),
        seconds=0.01,
    )


def validation(number):
    return ValidationRecord(step=number, loss=1.0, error=0.8, naive_error=1.0, skill=0.2, seconds=0.1)


def retreat(number):
    return RetreatRecord(
        step=number, first_bad_step=number - 9, to_step=0, retreats=1, lr_factor=0.25, nonfinite=("loss",)
    )


RECORDS = [validation(0), step(1), step(2), step(3), validation(3), step(4), step(5, math.inf)]


@pytest.fixture
def path(tmp_path):
    """A file with seven records."""
    with TelemetryLog(tmp_path / "telemetry.jsonl") as log:
        for record in RECORDS:
            log.append(record)
    return tmp_path / "telemetry.jsonl"


@given(st.lists(STEPS | VALIDATIONS | FLOWS | RETREATS | THRESHOLDS, max_size=8))
@same_folder
def test_the_file_holds_one_strict_json_line_per_record(tmp_path, records):
    path = tmp_path / "telemetry.jsonl"
    with TelemetryLog(path) as log:
        for record in records:
            log.append(record)
    lines = path.read_text().split("\n")
    assert lines.pop() == "" and len(lines) == len(records)
    for line in lines:
        json.loads(line, parse_constant=refuse)
    assert repr(read_telemetry(path)) == repr(records) == repr(log.records)
    kinds = [StepRecord, ValidationRecord, FlowRecord]
    expected = [[record for record in records if type(record) is kind] for kind in kinds]
    expected.append([record for record in records if type(record) not in kinds])
    assert repr([log.steps, log.validations, log.flows, log.news]) == repr(expected)


def test_a_record_is_in_the_file_as_soon_as_it_is_appended(tmp_path):
    path = tmp_path / "telemetry.jsonl"
    with TelemetryLog(path) as log:
        for count, record in enumerate(RECORDS, start=1):
            log.append(record)
            assert read_telemetry(path) == RECORDS[:count]


def test_a_last_line_cut_off_anywhere_is_left_out(path):
    whole = path.read_bytes()
    last = whole.rindex(b"\n", 0, len(whole) - 1) + 1
    for size in range(last, len(whole) - 1):
        path.write_bytes(whole[:size])
        assert read_telemetry(path) == RECORDS[:-1]
    path.write_bytes(whole[:-1])  # only the end of the line is missing
    assert read_telemetry(path) == RECORDS
    path.write_bytes(whole[:last] + b"\0\xff\xfe")  # what a file system may leave after a power cut
    assert read_telemetry(path) == RECORDS[:-1]


@pytest.mark.parametrize("wrong", ["", "{", "null", "[]", '{"kind":"step"}', '{"kind":"other"}', "\xff", '{"step":1}'])
@pytest.mark.parametrize("place", [0, 3, 6])
def test_any_other_line_that_is_no_record_is_refused_with_its_number(path, wrong, place):
    lines = path.read_text().splitlines()
    lines[place] = wrong
    path.write_text("\n".join(lines) + "\n", encoding="latin-1")
    before = path.read_bytes()
    with pytest.raises(RunDirectoryError) as caught:
        TelemetryLog(path, keep_until=9)
    (problem,) = caught.value.problems
    assert problem.where == f"{path}, line {place + 1}"
    assert all((problem.expected, problem.got, problem.fix))
    assert path.read_bytes() == before
    assert [file.name for file in path.parent.iterdir()] == [path.name]


def test_a_file_that_is_not_there_is_named(tmp_path):
    with pytest.raises(RunDirectoryError, match="nowhere"):
        read_telemetry(tmp_path / "nowhere")
    assert not any(tmp_path.iterdir())


@pytest.mark.parametrize("keep_until", range(7))
def test_a_resume_drops_what_will_come_again(path, keep_until):
    kept = [record for record in RECORDS if record.step <= keep_until]
    with TelemetryLog(path, keep_until) as log:
        assert log.records == kept == read_telemetry(path)
        log.append(step(99))
    assert read_telemetry(path) == [*kept, step(99)]


def test_a_torn_line_does_not_glue_to_the_next_record(path):
    path.write_bytes(path.read_bytes()[:-9])
    with TelemetryLog(path, 4) as log:
        log.append(step(5))
    assert read_telemetry(path) == [*RECORDS[:-1], step(5)]


def test_a_new_run_starts_a_new_file(path):
    TelemetryLog(path).close()
    assert read_telemetry(path) == []


def test_a_crash_while_an_old_file_is_taken_over_leaves_it(path, monkeypatch):
    before = path.read_bytes()

    def crash(self, target):
        raise OSError("disk is gone")

    monkeypatch.setattr(Path, "replace", crash)
    with pytest.raises(OSError, match="gone"):
        TelemetryLog(path, 2)
    assert path.read_bytes() == before


def test_without_a_path_nothing_is_written(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    with TelemetryLog() as log:
        log.append(step(1))
    log.close()
    assert log.records == [step(1)]
    assert not any(tmp_path.iterdir())


def test_an_error_closes_the_file_and_goes_on(tmp_path):
    path = tmp_path / "telemetry.jsonl"
    with pytest.raises(ZeroDivisionError), TelemetryLog(path) as log:
        log.append(step(1))
        1 / 0  # noqa: B018
    path.rename(tmp_path / "moved")  # and an open file would warn, which is an error here
    log.close()
    log.close()
    log.append(step(2))  # kept in memory, as before
    assert log.records == [step(1), step(2)]
    assert read_telemetry(tmp_path / "moved") == [step(1)]


def test_a_resume_keeps_the_retreats_up_to_its_step(tmp_path):
    path = tmp_path / "telemetry.jsonl"
    records = [step(11), retreat(11), step(12), step(22), retreat(22)]
    with TelemetryLog(path) as log:
        for record in records:
            log.append(record)
    with TelemetryLog(path, 21) as log:
        assert log.news == [retreat(11)]
    assert read_telemetry(path) == records[:3]
