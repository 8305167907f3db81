"""What the rows of a study say about its claim: true, true if, or false, in words with the numbers."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import polars as pl

from holdfast.studies.statistics import bootstrap_interval, capped

KEYS = ("task", "cell", "init", "head", "optimizer", "lr", "length", "seed")  # settings that pairs of runs share
NEAR = 0.1  # of the baseline's error: how far from the best bound still counts as near it
EXPLODES = math.log(10.0)  # natural log of the factor from which on an adjoint counts as exploding


@dataclass(frozen=True)
class Verdict:
    """A claim, measured.

    Attributes:
        answer: true, false, or "true if ..." with the condition.
        text: In some sentences with their numbers.

    Example:
        >>> print(Verdict("true if states are bounded", "None of 20 runs diverged."))
        True if states are bounded. None of 20 runs diverged.
    """

    answer: str
    text: str

    def __str__(self) -> str:
        return f"{self.answer[:1].upper()}{self.answer[1:]}. {self.text}"

    def words(self, full: bool) -> str:
        """All of it, with a warning where it rests on a sketch.

        Args:
            full: Whether the whole grid was run.
        """
        return str(self) if full else f"No more than a hint, for this is a sketch: {self}"


def judge(name: str, rows: pl.DataFrame) -> Verdict:
    """The verdict of a study on its rows.

    Args:
        name: Of the study.
        rows: One per run, as `run_study` returns them.

    Returns:
        The verdict.

    Example:
        >>> layer = {"cell": "rnn-tanh", "scaled_radius": 0.5, "scaled_norm": 2.0, "rate": 1.2, "exponent": 0.2}
        >>> judge("spectrum", pl.DataFrame([{**layer, "peak_log_factor": 9.0}])).text.split(":")[1].split(",")[0]
        ' 1 exploded below it'
    """
    judged: Mapping[str, Callable[[pl.DataFrame], Verdict]] = {
        "clip-scope": _clip_scope,
        "placement": _placement,
        "threshold": _threshold,
        "spectrum": _spectrum,
        "cells": _cells,
        "init": _init,
        "pascanu": _pascanu,
    }
    return judged[name](rows)


def lost(rows: pl.DataFrame) -> str:
    """How many of the runs diverged, in words."""
    return f"{rows['diverged'].sum()} of {rows.height}"


def _difference(
    rows: pl.DataFrame, field: str, arm: str, reference: str, beside: Sequence[str] = ()
) -> tuple[float, float, float] | None:
    """Mean difference of the capped error of two arms, paired by all other settings, with interval; None without pairs.

    Args:
        rows: One per run.
        field: The column that tells the arms apart.
        arm: The one.
        reference: The other.
        beside: Further columns that differ between the two arms.
    """
    keys = [key for key in KEYS if key in rows.columns and key not in (field, *beside)]
    sides = [rows.filter(pl.col(field) == name).select(*keys, capped().alias(name)) for name in (arm, reference)]
    values = sides[0].join(sides[1], on=keys).select(pl.col(arm) - pl.col(reference)).to_series().to_list()
    return (sum(values) / len(values), *bootstrap_interval(values)) if values else None


def _told(difference: tuple[float, float, float]) -> str:
    mean, low, high = difference
    return f"{mean:+.2f} [{low:+.2f}, {high:+.2f}]"


def _clip_scope(rows: pl.DataFrame) -> Verdict:
    steep = (pl.col("cell") == "rnn-relu") | (pl.col("head") == "gaussian")
    parts = {"steep": rows.filter(steep), "tame": rows.filter(~steep)}
    ran = {
        (part, scope): each.filter(pl.col("scope") == scope) for part, each in parts.items() for scope in SCOPES_TOLD
    }
    nothing = (math.nan, math.nan, math.nan)
    tame, tame_low, tame_high = _difference(parts["tame"], "scope", "all-but-head", "all") or nothing
    hard, low, high = _difference(parts["steep"], "scope", "all-but-head", "all") or nothing
    text = (
        f"With ReLU states or a Gaussian head, {lost(ran['steep', 'all-but-head'])} runs diverged with the head left "
        f"out, {lost(ran['steep', 'all'])} with one norm over everything, {lost(ran['steep', 'per-role'])} with a "
        f"norm for each role, {lost(ran['steep', 'none'])} without clipping; the error with the head left out is "
        f"larger by {hard:.2f} [{low:.2f}, {high:.2f}] of the baseline's. With bounded states and a bounded loss "
        f"{lost(ran['tame', 'all-but-head'])} and {lost(ran['tame', 'all'])} diverged, and the error differs by "
        f"{tame:+.3f} [{tame_low:+.3f}, {tame_high:+.3f}]"
    )
    if low <= 0:
        return Verdict("true", text + ".")
    if tame_low <= 0 <= tame_high:
        return Verdict("true if states and the derivative of the loss are bounded", text + ".")
    return Verdict("false", text + ".")


SCOPES_TOLD = ("none", "all", "all-but-head", "per-role")


def _placement(rows: pl.DataFrame) -> Verdict:
    keys = ["task", "cell", "head", "optimizer", "rule", "seed"]
    clipped = rows.filter(pl.col("rule") != "none")
    pairs = [
        clipped.filter(pl.col("placement") == placement).select(
            *keys, capped().alias(placement), *(pl.col(name).alias(f"{name}_{placement}") for name in TOLD)
        )
        for placement in ("update", "backprop")
    ]
    both = pairs[0].join(pairs[1], on=keys)
    seen = pl.any_horizontal(pl.col("clip_fraction_update", "clip_fraction_backprop").fill_nan(0) > 0)
    idle, both = both.filter(~seen).height, both.filter(seen)
    differences = (both["backprop"] - both["update"]).to_list()
    low, high = bootstrap_interval(differences)
    means = {name: both[name].fill_nan(None).mean() for name in both.columns if name not in keys}
    text = (
        f"Over {both.height} pairs ({idle} more clipped nothing) that clip "
        f"{100 * _float(means['clip_fraction_update']):.0f} % and "
        f"{100 * _float(means['clip_fraction_backprop']):.0f} % of the steps, the gradient keeps a cosine of "
        f"{_float(means['cosine_update']):.3f} with the exact one before the update and of "
        f"{_float(means['cosine_backprop']):.3f} inside backpropagation, where "
        f"{100 * _float(means['flipped_backprop']):.1f} % of its signs flip; the error inside backpropagation is "
        f"{sum(differences) / len(differences):+.3f} [{low:+.3f}, {high:+.3f}] of the baseline's beside that before "
        "the update"
    )
    if low > 0:
        return Verdict("true", text + ".")
    return Verdict("false" if high < 0 else "true of the direction, without a difference in the error", text + ".")


TOLD = ("clip_fraction", "cosine", "flipped")


def _float(value: object) -> float:
    return float(value) if isinstance(value, int | float) else math.nan


def _threshold(rows: pl.DataFrame) -> Verdict:
    said: list[str] = []
    near: list[str] = []
    far: list[str] = []
    for (optimizer,), part in rows.group_by("optimizer", maintain_order=True):
        means = part.group_by("task", "cell", "rule").agg(capped().mean().alias("error"))
        bounds = means.filter(pl.col("rule").str.starts_with("norm:"))
        by_rule = bounds.group_by("rule").agg(pl.col("error").mean()).sort("error")
        best, worst = by_rule.row(0, named=True), by_rule.row(-1, named=True)
        auto = means.filter(pl.col("rule") == "auto")["error"].mean()
        none = means.filter(pl.col("rule") == "none")["error"].mean()
        (near if _float(auto) - best["error"] < NEAR else far).append(str(optimizer))
        said.append(
            f"{optimizer}: errors of {best['error']:.2f} of the baseline's at the best bound ({best['rule'][5:]}), "
            f"{worst['error']:.2f} at the worst ({worst['rule'][5:]}), {_float(none):.2f} without one and "
            f"{_float(auto):.2f} with auto"
        )
    if near and far:
        answer = f"true for {', '.join(far)}; for {', '.join(near)} auto is near the best bound"
    else:
        answer = "true: auto is not near the best bound" if far else "false: auto is near the best bound"
    return Verdict(answer, _sentence(said))


def _spectrum(rows: pl.DataFrame) -> Verdict:
    explodes = pl.col("peak_log_factor") > EXPLODES
    said = rows.with_columns(
        explodes=explodes,
        eigenvalue=pl.col("scaled_radius") > 1,
        vanishing=pl.col("scaled_norm") < 1,
        exponent_says=pl.col("exponent") > 0,
    )
    wrong = said.filter(pl.col("eigenvalue") != pl.col("explodes"))
    missed = wrong.filter(pl.col("explodes")).height
    sure = said.filter(pl.col("vanishing"))
    broken = sure.filter((pl.col("rate") >= 1) | pl.col("explodes")).height
    exponent = said.filter(pl.col("exponent_says") != pl.col("explodes")).height
    sigmoid = said.filter((pl.col("cell") == "rnn-sigmoid") & pl.col("eigenvalue"))
    text = (
        f"In {rows.height} layers the eigenvalue rule was wrong {wrong.height} times: {missed} exploded below it, "
        f"{wrong.height - missed} above it did not. Of {sigmoid.height} sigmoid layers above 4, "
        f"{sigmoid['explodes'].sum()} exploded. A spectral norm below one over the slope vanished in all but {broken} "
        f"of {sure.height} cases: it is sufficient. The sign of the Lyapunov exponent was wrong {exponent} times"
    )
    return Verdict("true if the matrix is normal and the slope at its largest", text + ".")


def _cells(rows: pl.DataFrame) -> Verdict:
    said, helps = [], []
    for task, doing in (("adding", "recalling"), ("m4-hourly", "forecasting")):
        part = rows.filter(pl.col("task") == task)
        against = {cell: _difference(part, "cell", "lstm", cell, ["init"]) for cell in ("rnn-tanh", "rnn-relu", "gru")}
        known = {cell: found for cell, found in against.items() if found is not None}
        if not known:
            continue
        helps.append((doing, all(known[cell][2] < 0 for cell in ("rnn-tanh", "rnn-relu") if cell in known)))
        gone = ", ".join(f"{cell} {lost(own)}" for cell, own in _each(part, "cell"))
        beside = ", ".join(f"{cell} {_told(found)}" for cell, found in known.items())
        said.append(f"{doing} ({task}): error of an LSTM less that of {beside}; without clipping diverged {gone}")
    longest = rows.filter((pl.col("task") == "adding") & (pl.col("length") == pl.col("length").max()))
    memory = ", ".join(
        f"{cell} {_mean(own, 'memory_before'):.0f} before training and {_mean(own, 'memory_after'):.0f} after"
        for cell, own in _each(longest, "cell")
    )
    said.append(f"of {_float(rows['length'].max()):.0f} steps adjoints keep 1 % of their norm over: {memory}")
    good = [doing for doing, better in helps if better]
    bad = [doing for doing, better in helps if not better]
    answer = "true" if not bad else "false" if not good else f"true of {good[0]}, not of {bad[0]}"
    return Verdict(answer, _sentence(said))


def _init(rows: pl.DataFrame) -> Verdict:
    said, decided = [], []
    for cell, part in _each(rows, "cell"):
        starts = {init: own for init, own in _each(part, "init") if init != "uniform"}
        against = {init: _difference(part, "init", init, "uniform") for init in starts}
        known = {init: found for init, found in against.items() if found is not None}
        if any(low > 0 or high < 0 for _, low, high in known.values()):
            decided.append(cell)
        memory = ", ".join(
            f"{init} {_mean(own, 'memory_before'):.0f} to {_mean(own, 'memory_after'):.0f}"
            for init, own in _each(part, "init")
        )
        beside = ", ".join(f"{init} {_told(found)}" for init, found in known.items())
        said.append(f"{cell}: memory {memory}, error {beside}")
    cells = rows["cell"].n_unique()
    answer = "true" if len(decided) == cells else f"true of {', '.join(decided)}" if decided else "false"
    lead = "steps of memory before training to after it, by start, and the error less that of the start uniform. "
    return Verdict(answer, _sentence([lead + said[0], *said[1:]]))


def _pascanu(rows: pl.DataFrame) -> Verdict:
    trained = rows.filter(pl.col("task") == "temporal-order").with_columns(
        arm=pl.when(pl.col("penalty") != "none").then(pl.lit("clipping and Omega")).otherwise(pl.col("scope"))
    )
    gain = _difference(trained, "arm", "all", "none") or (math.nan, math.nan, math.nan)
    said = []
    for arm, own in _each(trained, "arm"):
        solved = own.filter(pl.col("solved_step").fill_nan(None).is_not_null())
        name = {"none": "without clipping", "all": "with one norm of 1"}.get(arm, f"with {arm}")
        reach = f", up to {_float(solved['length'].max()):.0f} steps" if solved.height else ""
        said.append(f"{name}, {solved.height} of {own.height} runs solved the problem{reach}")
    said.append(f"clipping changes the error by {_told(gain)}")
    for peak in rows.filter(pl.col("task") == "surface").iter_rows(named=True):
        said.append(
            f"on the error surface of one unit the gradient is largest, {peak['peak_norm']:.3f}, at w = "
            f"{peak['peak_w']:.2f}, b = {peak['peak_b']:.2f}"
        )
    row = trained.row(0, named=True)
    said.append(
        f"deviations from the paper: {row['hidden_size']} units, at most {row['steps']} updates of {row['batch_size']} "
        f"sequences, a learning rate of {row['lr']:g}, solved below 1 % of wrong answers on held-out sequences"
    )
    answer = "true" if gain[2] < 0 else "false" if gain[1] > 0 else "not seen: the interval holds 0"
    return Verdict(answer, _sentence(said))


def _each(rows: pl.DataFrame, field: str) -> list[tuple[str, pl.DataFrame]]:
    return [(str(name), part) for (name,), part in rows.group_by(field, maintain_order=True)]


def _mean(rows: pl.DataFrame, field: str) -> float:
    return _float(rows[field].fill_nan(None).mean())


def _sentence(parts: Sequence[str]) -> str:
    text = "; ".join(parts)
    return f"{text[:1].upper()}{text[1:]}."
