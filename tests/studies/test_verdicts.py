"""A verdict follows from the rows: each can come out either way."""

from __future__ import annotations

import math

import polars as pl
import pytest

from holdfast.studies.verdicts import judge

SETTINGS = {"task": "adding", "cell": "lstm", "head": "squared", "optimizer": "sgd", "lr": 0.1, "length": 50}
MEASURED = {"clip_fraction": 0.5, "cosine": 1.0, "flipped": 0.0, "diverged": False}


def row(error, seed, **fields):
    return {**SETTINGS, **MEASURED, "relative_error": error, "seed": seed, **fields}


def scopes(steep, tame):
    """Errors of the head left out, in hard and in tame problems; one norm over all gives 0.5."""
    found = []
    for seed in range(6):
        for scope in ("none", "all", "per-role", "all-but-head"):
            for cell, own in (("rnn-relu", steep), ("lstm", tame)):
                error = own if scope == "all-but-head" else 0.5
                found.append(row(error + 0.01 * seed, seed, scope=scope, cell=cell, diverged=error > 2))
    return pl.DataFrame(found)


@pytest.mark.parametrize(
    ("steep", "tame", "answer"),
    [
        (0.5, 0.5, "true"),
        (9.0, 0.5, "true if states and the derivative of the loss are bounded"),
        (9.0, 0.9, "false"),
        (0.4, 0.5, "true"),
    ],
)
def test_clip_scope(steep, tame, answer):
    found = judge("clip-scope", scopes(steep, tame))
    assert found.answer == answer
    lost = 6 if steep > 2 else 0
    assert f"{lost} of 6 runs diverged with the head left out, 0 of 6 with one norm over everything" in found.text


@pytest.mark.parametrize(
    ("update", "backprop", "answer"),
    [(0.5, 0.9, "true"), (0.9, 0.5, "false"), (0.5, 0.5, "true of the direction, without a difference in the error")],
)
def test_placement(update, backprop, answer):
    found = []
    for seed in range(5):
        for placement, error in (("update", update), ("backprop", backprop)):
            cosine = 1.0 if placement == "update" else 0.8
            noise = 0.01 * (seed if placement == "update" else 4 - seed)
            found.append(row(error + noise, seed, rule="share:0.5", placement=placement, cosine=cosine))
    verdict = judge("placement", pl.DataFrame(found))
    assert verdict.answer == answer
    assert "a cosine of 1.000 with the exact one before the update and of 0.800 inside" in verdict.text


@pytest.mark.parametrize(("auto", "answer"), [(0.31, "false: auto is near the best"), (0.9, "true: auto is not")])
def test_threshold(auto, answer):
    errors = {"none": 1.0, "norm:0.1": 0.3, "norm:1": 0.6, "norm:10": 1.0, "auto": auto}
    found = [row(error, seed, rule=rule) for rule, error in errors.items() for seed in range(3)]
    verdict = judge("threshold", pl.DataFrame(found))
    assert verdict.answer.startswith(answer)
    assert (
        f"0.30 of the baseline's at the best bound (0.1), 1.00 at the worst (10), 1.00 without one and {auto:.2f}"
        in (verdict.text)
    )


def test_spectrum_counts_what_each_rule_gets_wrong():
    def layer(radius, norm, factor, exponent, cell="rnn-tanh"):
        return {
            "cell": cell,
            "scaled_radius": radius,
            "scaled_norm": norm,
            "peak_log_factor": factor,
            "rate": math.exp(exponent),
            "exponent": exponent,
        }

    rows = [
        layer(1.2, 1.2, 9.0, 0.2),  # explodes as it should
        layer(0.5, 2.0, 9.0, 0.2),  # explodes below an eigenvalue of 1
        layer(1.2, 1.2, 0.0, -0.1, "rnn-sigmoid"),  # does not above it
        layer(0.5, 0.9, 0.0, -0.5),
        layer(0.5, 0.9, 0.0, 0.1),  # an exponent that errs
    ]
    found = judge("spectrum", pl.DataFrame(rows))
    assert "wrong 2 times: 1 exploded below it, 1 above it did not" in found.text
    assert "Of 1 sigmoid layers above 4, 0 exploded" in found.text
    assert "all but 1 of 2 cases" in found.text
    assert "exponent was wrong 1 times" in found.text


def test_studies_that_only_measure_have_no_verdict():
    assert judge("cells", pl.DataFrame()) is None
