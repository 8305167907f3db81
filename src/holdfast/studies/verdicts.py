"""What the rows of a study say about its claim: true, true if, or false, in words with the numbers."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass

import polars as pl

from holdfast.studies.statistics import bootstrap_interval, capped

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


def judge(name: str, rows: pl.DataFrame) -> Verdict | None:
    """The verdict of a study on its rows; None for a study that only measures.

    Args:
        name: Of the study.
        rows: One per run, as `run_study` returns them.

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
    }
    return judged[name](rows) if name in judged else None


def _lost(rows: pl.DataFrame) -> str:
    return f"{rows['diverged'].sum()} of {rows.height}"


def _difference(rows: pl.DataFrame, arm: str, reference: str) -> tuple[float, float, float]:
    """Mean difference of the capped error of two scopes, paired by all settings but scope and rule, with interval."""
    keys = ["task", "cell", "head", "optimizer", "lr", "length", "seed"]
    sides = [rows.filter(pl.col("scope") == scope).select(*keys, capped().alias(scope)) for scope in (arm, reference)]
    values = sides[0].join(sides[1], on=keys).select(pl.col(arm) - pl.col(reference)).to_series().to_list()
    low, high = bootstrap_interval(values)
    return sum(values) / len(values), low, high


def _clip_scope(rows: pl.DataFrame) -> Verdict:
    steep = (pl.col("cell") == "rnn-relu") | (pl.col("head") == "gaussian")
    parts = {"steep": rows.filter(steep), "tame": rows.filter(~steep)}
    lost = {
        (part, scope): each.filter(pl.col("scope") == scope) for part, each in parts.items() for scope in SCOPES_TOLD
    }
    tame, tame_low, tame_high = _difference(parts["tame"], "all-but-head", "all")
    hard, low, high = _difference(parts["steep"], "all-but-head", "all")
    text = (
        f"With ReLU states or a Gaussian head, {_lost(lost['steep', 'all-but-head'])} runs diverged with the head left "
        f"out, {_lost(lost['steep', 'all'])} with one norm over everything, {_lost(lost['steep', 'per-role'])} with a "
        f"norm for each role, {_lost(lost['steep', 'none'])} without clipping; the error with the head left out is "
        f"larger by {hard:.2f} [{low:.2f}, {high:.2f}] of the baseline's. With bounded states and a bounded loss "
        f"{_lost(lost['tame', 'all-but-head'])} and {_lost(lost['tame', 'all'])} diverged, and the error differs by "
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
    differences = (both["backprop"] - both["update"]).to_list()
    low, high = bootstrap_interval(differences)
    means = {name: both[name].fill_nan(None).mean() for name in both.columns if name not in keys}
    text = (
        f"Over {both.height} pairs that clip {100 * _float(means['clip_fraction_update']):.0f} % and "
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
    said, regrets = [], []
    for (optimizer,), part in rows.group_by("optimizer", maintain_order=True):
        means = part.group_by("task", "cell", "rule").agg(capped().mean().alias("error"))
        bounds = means.filter(pl.col("rule").str.starts_with("norm:"))
        by_rule = bounds.group_by("rule").agg(pl.col("error").mean()).sort("error")
        best, worst = by_rule.row(0, named=True), by_rule.row(-1, named=True)
        auto = means.filter(pl.col("rule") == "auto")["error"].mean()
        none = means.filter(pl.col("rule") == "none")["error"].mean()
        regret = _float(auto) - best["error"]
        regrets.append(regret)
        said.append(
            f"{optimizer}: errors of {best['error']:.2f} of the baseline's at the best bound ({best['rule'][5:]}), "
            f"{worst['error']:.2f} at the worst ({worst['rule'][5:]}), {_float(none):.2f} without one and "
            f"{_float(auto):.2f} with auto"
        )
    near = max(regrets) < 0.1
    answer = "false: auto is near the best" if near else "true: auto is not always near the best"
    return Verdict(answer, "; ".join(said) + ".")


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
