"""From rows of runs to tables: means with their uncertainty by group and arm, and differences paired by seed."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from typing import Any

import numpy as np
import polars as pl
from numpy.typing import NDArray

from holdfast.errors import OptionError, Problem

LOST = 2.0  # error, in units of the baseline's, that a run counts with at most; one that diverged counts with it
MEANS = (
    *("clip_fraction", "cosine", "flipped", "starved", "head_share"),
    *("growth_before", "growth_after", "memory_before", "memory_after"),
)
_NEEDED = ("diverged", "relative_error", "solved_step", *MEANS, "seconds")


def capped() -> pl.Expr:
    """The error over the baseline's, at most 2; 2 where a run diverged. So that lost runs weigh, and do not drown all.

    Example:
        >>> rows = pl.DataFrame({"relative_error": [0.5, 7.0, float("nan")], "diverged": [False, False, True]})
        >>> rows.select(capped()).to_series().to_list()
        [0.5, 2.0, 2.0]
    """
    error = pl.col("relative_error").cast(pl.Float64).fill_nan(None).fill_null(LOST)
    return pl.when(pl.col("diverged")).then(LOST).otherwise(error.clip(upper_bound=LOST)).alias("capped")


def bootstrap_interval(
    values: Iterable[float | None], level: float = 0.95, draws: int = 2000, seed: int = 0
) -> tuple[float, float]:
    """Percentile bootstrap interval of a mean, the same for the same values in any order.

    Of the means of `draws` samples of n of the n values, with replacement, the interval holds the middle share `level`.
    Both ends are means that were seen, never one in between.

    Values that are nan or None are left out, as runs without that number. A single value, and equal ones, have
    themselves as interval, exactly: they say nothing about spread. For few values the interval is too narrow: one of
    95 % around 5 normal values holds their mean about 84 times in 100, around 20 of them 92 times.

    Args:
        values: Finite numbers, nan or None.
        level: Share of the means inside, above 0 and below 1.
        draws: How many samples.
        seed: Of the samples.

    Returns:
        Low and high; both nan where there is no value.

    Raises:
        OptionError: A value that is infinite, a level or a number of draws outside its range.

    Example:
        >>> bootstrap_interval([3.0]), bootstrap_interval([]), bootstrap_interval([1.0, 3.0, math.nan])
        ((3.0, 3.0), (nan, nan), (1.0, 3.0))

    Reference:
        Efron, "Bootstrap methods: another look at the jackknife", Annals of Statistics 7 (1979).
    """
    known = np.sort(_known(values))
    problems = []
    if not np.isfinite(known).all():
        fix = "cap the values first"
        problems.append(Problem("values of bootstrap_interval", "finite, nan or None", "an infinite one", fix))
    if not 0 < level < 1:
        problems.append(Problem("level of bootstrap_interval", "above 0 and below 1", repr(level), "give 0.95"))
    if draws < 1:
        problems.append(Problem("draws of bootstrap_interval", "at least 1", repr(draws), "give 2000"))
    if problems:
        raise OptionError(problems)
    if not len(known):
        return math.nan, math.nan
    picked = np.random.default_rng(seed).integers(0, len(known), (draws, len(known)))
    # Counted from the least value, equal ones give themselves, without an error of rounding.
    means = known[0] + np.sort((known - known[0])[picked].mean(axis=1))
    outside = math.floor((1 - level) / 2 * (draws - 1))
    return float(means[outside]), float(means[draws - 1 - outside])


def summarise(rows: pl.DataFrame, by: Sequence[str]) -> pl.DataFrame:
    """One row for each combination of the fields `by`, in the order in which they come.

    Args:
        rows: Of trials with an error, as `train_trial` and `forecast_trial` return them beside their settings.
        by: Fields that tell groups and arms apart.

    Returns:
        The fields; runs; diverged and solved, shares of them (one run can be both); solved_step, the median over those
        that solved; error, the mean of `capped` over all runs, with its interval error_low to error_high: no arm makes
        it better by losing its worst runs; kept_error, kept_low and kept_high, the relative error itself of the runs
        that did not diverge; the means of clip_fraction, cosine, flipped, starved, head_share, growth_before,
        growth_after, memory_before and memory_after over the runs that have them; seconds, the median. null where there
        is nothing to count.

    Raises:
        OptionError: A column is missing.

    Example:
        >>> row = {"scope": "all", "diverged": False, "relative_error": 0.5, "solved_step": 100.0, "seconds": 1.0}
        >>> row |= dict.fromkeys(MEANS, 0.25)
        >>> rows = pl.DataFrame([row, {**row, "diverged": True, "relative_error": math.nan, "solved_step": math.nan}])
        >>> summarise(rows, ["scope"]).select("runs", "diverged", "solved", "error", "kept_error").row(0)
        (2, 0.5, 0.5, 1.25, 0.5)
    """
    _check_columns(rows, [*by, *_NEEDED])
    found = []
    for key, part in rows.group_by(by, maintain_order=True):
        found.append(
            {
                **dict(zip(by, key, strict=True)),
                "runs": part.height,
                "diverged": _mean(part["diverged"]),
                "solved": len(_known(part["solved_step"])) / part.height,
                "solved_step": _median(part["solved_step"]),
                **_interval("error", "error", part.select(capped()).to_series()),
                **_interval("kept_error", "kept", part.filter(~pl.col("diverged"))["relative_error"]),
                **{name: _mean(part[name]) for name in MEANS},
                "seconds": _median(part["seconds"]),
            }
        )
    return pl.DataFrame(found, infer_schema_length=None)


def paired(rows: pl.DataFrame, by: Sequence[str], arm: str | Sequence[str], reference: Any) -> pl.DataFrame:
    """What each arm does to the capped error, beside the reference arm's run of the same group and seed.

    Args:
        rows: As for `summarise`.
        by: Fields that set groups apart.
        arm: Field or fields that are compared within a group.
        reference: The arm that the others are compared with: its value, or its values in the order of `arm`.

    Returns:
        The fields, without the reference arm; pairs, how many seeds both have; difference, the mean of `capped` less
        that of the reference, below 0 where the arm is better, with its interval low to high; wins (pairs below 0),
        losses and ties. null where there is no pair.

    Raises:
        OptionError: A column is missing, no run is of the reference arm, or two runs share group, arm and seed.

    Example:
        >>> rows = pl.DataFrame({"scope": ["none", "all"], "seed": 0, "diverged": False, "relative_error": [0.9, 0.4]})
        >>> paired(rows, [], "scope", "none").row(0)
        ('all', 1, -0.5, -0.5, -0.5, 1, 0, 0)
    """
    arms = [arm] if isinstance(arm, str) else list(arm)
    wanted = (reference,) if isinstance(arm, str) else tuple(reference)
    _check_columns(rows, [*by, *arms, "seed", "diverged", "relative_error"])
    runs = rows.select(*by, *arms, "seed", capped()).with_row_index("place")
    _check_pairs(runs, [*by, *arms], arms, wanted)
    mine = pl.all_horizontal(pl.col(name).eq_missing(pl.lit(value)) for name, value in zip(arms, wanted, strict=True))
    partner = runs.filter(mine).select(*by, "seed", pl.col("capped").alias("reference"))
    both = runs.filter(~mine).join(partner, on=[*by, "seed"], how="left").sort("place")
    found = []
    for key, part in both.group_by([*by, *arms], maintain_order=True):
        less = _known(part["capped"] - part["reference"])
        found.append({**dict(zip((*by, *arms), key, strict=True)), **_compared(less)})
    kinds = {name: pl.Int64 if isinstance(value, int) else pl.Float64 for name, value in _compared(np.empty(0)).items()}
    schema = {name: rows.schema[name] for name in (*by, *arms)} | kinds
    return pl.DataFrame(found, schema=schema).with_columns(pl.col("difference", "low", "high").fill_nan(None))


def _compared(less: NDArray[np.float64]) -> dict[str, float | int]:
    low, high = bootstrap_interval(less)
    return {
        "pairs": len(less),
        "difference": float(less.mean()) if len(less) else math.nan,
        "low": low,
        "high": high,
        "wins": int((less < 0).sum()),
        "losses": int((less > 0).sum()),
        "ties": int((less == 0).sum()),
    }


def _interval(name: str, ends: str, values: pl.Series) -> dict[str, float | None]:
    mean = _mean(values)
    low, high = (None, None) if mean is None else bootstrap_interval(values)
    return {name: mean, f"{ends}_low": low, f"{ends}_high": high}


def _mean(values: Iterable[Any]) -> float | None:
    known = _known(values)
    return float(known.mean()) if len(known) else None


def _median(values: Iterable[Any]) -> float | None:
    known = _known(values)
    return float(np.median(known)) if len(known) else None


def _known(values: Iterable[Any]) -> NDArray[np.float64]:
    """The values that are there."""
    found = np.array([math.nan if value is None else float(value) for value in values], dtype=np.float64)
    return found[~np.isnan(found)]


def _check_columns(rows: pl.DataFrame, wanted: Sequence[str]) -> None:
    missing = [name for name in wanted if name not in rows.columns]
    if missing:
        got = f"only {', '.join(rows.columns) or 'none'}"
        raise OptionError(Problem("rows of a study", f"columns {', '.join(missing)}", got, "give the rows of its runs"))


def _check_pairs(runs: pl.DataFrame, names: Sequence[str], arms: Sequence[str], wanted: tuple[Any, ...]) -> None:
    """Each run has one partner at most, and there are some to be had."""
    known = runs.select(arms).unique(maintain_order=True).rows()
    problems = []
    if wanted not in known:
        told = ", ".join(map(repr, known))
        problems.append(Problem("reference of paired", f"one of {told}", repr(wanted), "name an arm that was run"))
    twice = runs.group_by([*names, "seed"], maintain_order=True).len().filter(pl.col("len") > 1)
    if twice.height:
        got = f"{twice['len'][0]} with {dict(zip(twice.columns[:-1], twice.row(0), strict=False))}"
        fix = "name the fields that set them apart in `by`"
        problems.append(Problem("rows of a study", "one run for each group, arm and seed", got, fix))
    if problems:
        raise OptionError(problems)
