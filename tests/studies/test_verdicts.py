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


@pytest.mark.parametrize(
    ("auto", "adamw", "answer"),
    [
        (0.31, 0.35, "false: auto is near the best bound"),
        (0.9, 0.5, "true: auto is not near the best bound"),
        (0.9, 0.3, "true for sgd; for adamw auto is near the best bound"),
    ],
)
def test_threshold(auto, adamw, answer):
    errors = {"none": 1.0, "norm:0.1": 0.3, "norm:1": 0.6, "norm:10": 1.0}
    found = [
        row(error, seed, rule=rule, optimizer=optimizer)
        for optimizer, own in (("sgd", auto), ("adamw", adamw))
        for rule, error in (errors | {"auto": own}).items()
        for seed in range(3)
    ]
    verdict = judge("threshold", pl.DataFrame(found))
    assert verdict.answer == answer
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


def cell_rows(recalling, forecasting):
    """Errors of an LSTM in both tasks, beside 0.5 of all other cells."""
    found = []
    for task, own in (("adding", recalling), ("m4-hourly", forecasting)):
        for length in (24, 96):
            for cell in ("rnn-tanh", "rnn-relu", "gru", "lstm"):
                start = "identity" if cell == "rnn-relu" else "orthogonal"
                memory = {"memory_before": 10.0, "memory_after": float(length)}
                fields = {"task": task, "cell": cell, "length": length, "init": start, **memory}
                error = own if cell == "lstm" else 0.5
                found += [row(error + 0.01 * seed, seed, **fields) for seed in range(3)]
    return pl.DataFrame(found)


@pytest.mark.parametrize(
    ("recalling", "forecasting", "answer"),
    [
        (0.3, 0.3, "true"),
        (0.3, 0.5, "true of recalling, not of forecasting"),
        (0.7, 0.3, "true of forecasting, not of recalling"),
        (0.5, 0.7, "false"),
    ],
)
def test_cells(recalling, forecasting, answer):
    verdict = judge("cells", cell_rows(recalling, forecasting))
    assert verdict.answer == answer
    less = f"{recalling - 0.5:+.2f}"
    assert f"less that of rnn-tanh {less} [{less}, {less}], rnn-relu {less}" in verdict.text
    assert "of 96 steps adjoints keep 1 % of their norm over: rnn-tanh 10 before training and 96 after" in verdict.text
    assert judge("cells", cell_rows(0.3, 0.3).filter(pl.col("task") == "adding")).answer == "true"


@pytest.mark.parametrize(
    ("tanh", "lstm", "answer"), [(0.2, 0.2, "true"), (0.9, 0.5, "true of rnn-tanh"), (0.5, 0.5, "false")]
)
def test_init(tanh, lstm, answer):
    memory = {"memory_before": 8.0, "memory_after": 50.0}
    rows = [
        row(own if init == "orthogonal" else 0.5, seed, cell=cell, init=init, **memory)
        for cell, own in (("rnn-tanh", tanh), ("lstm", lstm))
        for init in ("uniform", "orthogonal")
        for seed in range(3)
    ]
    verdict = judge("init", pl.DataFrame(rows))
    assert verdict.answer == answer
    assert "rnn-tanh: memory uniform 8 to 50, orthogonal 8 to 50, error orthogonal" in verdict.text
    assert f"orthogonal {tanh - 0.5:+.2f}" in verdict.text


@pytest.mark.parametrize(
    ("clipped", "answer"), [(0.1, "true"), (0.9, "not seen: the interval holds 0"), (1.5, "false")]
)
def test_pascanu(clipped, answer):
    arms = {("none", "none"): 0.9, ("all", "none"): clipped, ("all", "omega:1"): 0.0}
    rows = [
        row(error + 0.001 * seed, seed, scope=scope, penalty=penalty, length=length, task="temporal-order", steps=9)
        | {"solved_step": 50.0 if error < 0.5 and length < 50 else math.nan, "hidden_size": 50, "batch_size": 32}
        for (scope, penalty), error in arms.items()
        for length in (20, 50)
        for seed in range(3)
    ]
    surface = dict.fromkeys(rows[0]) | {"task": "surface", "peak_norm": 439.9644, "peak_w": 4.69, "peak_b": -2.42}
    verdict = judge("pascanu", pl.DataFrame([*rows, surface], infer_schema_length=None))
    assert verdict.answer == answer
    solved = "3 of 6 runs solved the problem, up to 20 steps" if clipped < 0.5 else "0 of 6 runs solved the problem;"
    assert f"with one norm of 1, {solved}" in verdict.text
    assert "with clipping and Omega, 3 of 6 runs solved the problem, up to 20 steps" in verdict.text
    assert "439.964, at w = 4.69, b = -2.42" in verdict.text
    assert f"changes the error by {clipped - 0.9:+.2f} [" in verdict.text


def test_pairs_in_which_nothing_was_clipped_are_no_evidence():
    pairs = [
        row(error, seed, rule="share:0.5", placement=placement, clip_fraction=share)
        for seed, share in ((0, 0.5), (1, 0.0), (2, math.nan))
        for placement, error in (("update", 0.5), ("backprop", 0.5 if seed else 0.9))
    ]
    verdict = judge("placement", pl.DataFrame(pairs))
    assert verdict.text.startswith("Over 1 pairs (2 more clipped nothing) that clip 50 % and 50 % of the steps")
    assert verdict.answer == "true"


def test_a_sketch_is_no_more_than_a_hint():
    verdict = judge("cells", cell_rows(0.3, 0.3))
    assert verdict.words(full=True) == str(verdict)
    assert verdict.words(full=False) == f"No more than a hint, for this is a sketch: {verdict}"
