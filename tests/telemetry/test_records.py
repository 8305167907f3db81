"""Records survive JSON, whatever was measured."""

from __future__ import annotations

import json
import math
from dataclasses import fields, replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from holdfast.telemetry import (
    FlowRecord,
    RetreatRecord,
    StepRecord,
    ThresholdRecord,
    ValidationRecord,
    from_json,
    some_of,
    to_json,
)

NUMBERS = st.floats(allow_nan=True, allow_infinity=True)
BY_ROLE = st.dictionaries(st.sampled_from(["input", "recurrent", "head"]), NUMBERS)
STEPS = st.builds(
    StepRecord,
    step=st.integers(1, 10**9),
    loss=NUMBERS,
    lr=NUMBERS,
    total_norm=NUMBERS,
    clipped_norm=NUMBERS,
    clip_coef=NUMBERS,
    cosine=NUMBERS,
    role_norms=BY_ROLE,
    role_coefs=BY_ROLE,
    role_clipped_norms=BY_ROLE,
    clipped=st.booleans(),
    skipped=st.booleans(),
    nonfinite=st.lists(st.text()).map(tuple),
    seconds=NUMBERS,
    penalty=NUMBERS,
)
VALIDATIONS = st.builds(
    ValidationRecord,
    step=st.integers(0, 10**9),
    loss=NUMBERS,
    error=NUMBERS,
    naive_error=NUMBERS,
    skill=NUMBERS,
    seconds=NUMBERS,
)
BY_LAYER = st.dictionaries(st.sampled_from(["recurrent.l0", "recurrent.l1#2"]), NUMBERS)
FLOWS = st.builds(
    FlowRecord,
    step=st.integers(1, 10**9),
    rates=BY_LAYER,
    rate_errors=BY_LAYER,
    log_factors=BY_LAYER,
    memory_lengths=BY_LAYER,
    lags=st.dictionaries(st.text(), st.lists(st.integers(0, 10**6)).map(tuple)),
    log_norms=st.dictionaries(st.text(), st.lists(NUMBERS).map(tuple)),
    seconds=NUMBERS,
)
RETREATS = st.builds(
    RetreatRecord,
    step=st.integers(10, 10**9),
    first_bad_step=st.integers(1, 10**9),
    to_step=st.integers(0, 10**9),
    retreats=st.integers(1, 3),
    lr_factor=st.sampled_from([0.25, 0.0625]),
    nonfinite=st.lists(st.text()).map(tuple),
)
THRESHOLDS = st.builds(
    ThresholdRecord,
    step=st.integers(1, 10**9),
    rule=st.text(),
    roles=st.lists(st.sampled_from(["input", "recurrent"])).map(tuple),
    max_norm=NUMBERS,
    expected_clip_fraction=NUMBERS,
)


def refuse(constant):
    raise AssertionError(f"{constant} is not JSON")


@given(STEPS | VALIDATIONS | FLOWS | RETREATS | THRESHOLDS)
def test_what_strict_json_gives_back_is_the_record(record):
    text = json.dumps(to_json(record), allow_nan=False)
    again = from_json(json.loads(text, parse_constant=refuse))
    assert repr(again) == repr(record)  # nan equals nothing, but reads the same
    assert [type(getattr(again, f.name)) for f in fields(again)] == [
        type(getattr(record, f.name)) for f in fields(record)
    ]


@given(STEPS)
def test_no_measured_value_is_left_out(record):
    row = to_json(record)
    assert row.pop("kind") == "step"
    assert list(row) == [field.name for field in fields(record)]
    for name, value in row.items():
        measured = getattr(record, name)
        if isinstance(measured, float):
            assert repr(float(value)) == repr(measured)


def test_numbers_that_json_has_no_word_for_are_words():
    record = ValidationRecord(step=1, loss=math.nan, error=math.inf, naive_error=-math.inf, skill=-0.0, seconds=1e-320)
    row = to_json(record)
    assert [row[name] for name in ("loss", "error", "naive_error", "skill", "seconds")] == [
        "nan",
        "inf",
        "-inf",
        -0.0,
        1e-320,
    ]


def test_whole_numbers_become_floats_where_a_float_is_measured():
    row = to_json(ValidationRecord(step=1, loss=2.0, error=1.0, naive_error=1.0, skill=0.0, seconds=1.0))
    again = from_json({**row, "loss": 2})
    assert type(again.loss) is float and type(again.step) is int


def test_profiles_by_layer_come_back_as_tuples_of_numbers():
    numbers = {"l0": math.inf}
    record = FlowRecord(
        step=1,
        rates={"l0": math.nan},
        rate_errors=numbers,
        log_factors={"l0": -math.inf},
        memory_lengths=numbers,
        lags={"l0": (0, 7), "l1": ()},
        log_norms={"l0": (-1.5, -math.inf), "l1": ()},
        seconds=0.25,
    )
    row = json.loads(json.dumps(to_json(record)))
    assert row["lags"] == {"l0": [0, 7], "l1": []} and row["log_norms"] == {"l0": [-1.5, "-inf"], "l1": []}
    again = from_json({**row, "log_norms": {"l0": [-2, "-inf"]}})
    assert again.lags == record.lags and again.log_norms == {"l0": (-2.0, -math.inf)}
    assert type(again.log_norms["l0"][0]) is float and type(again.lags["l0"][1]) is int


ROW = to_json(ValidationRecord(step=1, loss=2.0, error=1.0, naive_error=1.0, skill=0.0, seconds=1.0))

FLOW = FlowRecord(
    step=1, rates={}, rate_errors={}, log_factors={}, memory_lengths={}, lags={}, log_norms={}, seconds=1.0
)


@pytest.mark.parametrize(
    "row, error",
    [
        ({}, KeyError),
        ({**ROW, "kind": "other"}, KeyError),
        ({name: value for name, value in ROW.items() if name != "skill"}, KeyError),
        ({**ROW, "loss": "high"}, ValueError),
        ({**ROW, "loss": None}, TypeError),
        ([1], TypeError),
        ({**to_json(FLOW), "rates": 3}, TypeError),
        ({**to_json(FLOW), "lags": {"l0": 3}}, TypeError),
        ({**to_json(FLOW), "log_norms": {"l0": ["low"]}}, ValueError),
    ],
)
def test_other_rows_are_refused(row, error):
    with pytest.raises(error):
        from_json(row)


@given(STEPS)
def test_a_row_from_before_there_were_penalties_had_none(record):
    row = to_json(record)
    del row["penalty"]
    again = from_json(row)
    assert again.penalty == 0.0
    assert repr(again) == repr(replace(record, penalty=0.0))


def test_records_cannot_be_changed():
    with pytest.raises(AttributeError):
        from_json(ROW).loss = 1.0


def test_news_is_told_in_words():
    facts = {"step": 70, "first_bad_step": 61, "to_step": 50, "nonfinite": ("loss", *"abcdef")}
    assert str(RetreatRecord(**facts, retreats=2, lr_factor=0.0625)) == (
        "went back to the weights of step 50, with 1/16 of the planned learning rate: "
        "steps 61-70 were not finite (loss, a, b, c, d and 2 more)"
    )
    chosen = ThresholdRecord(
        step=50, rule="auto:75", roles=("recurrent",), max_norm=12345.6, expected_clip_fraction=0.254
    )
    assert str(chosen) == (
        "clip auto:75 chose a norm of 1.23e+04 over recurrent at step 50, and expects to clip 25.4 % of the steps"
    )


@given(st.lists(st.text(min_size=1, alphabet="abc"), max_size=8), st.integers(1, 8))
def test_some_names_are_said_and_the_rest_counted(names, most):
    said, _, rest = some_of(names, most).partition(" and ")
    assert said.split(", ") == (names[:most] or [""])
    assert rest == (f"{len(names) - most} more" if len(names) > most else "")
