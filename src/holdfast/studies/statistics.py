"""Means of runs with their uncertainty: bootstrap intervals, and summaries by arm."""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np
import polars as pl

LOST = 2.0  # error, in units of the baseline's, that a run counts with at most; one that diverged counts with it


def capped() -> pl.Expr:
    """The error over the baseline's, at most 2; 2 where a run diverged. So that lost runs weigh, and do not drown all.

    Example:
        >>> rows = pl.DataFrame({"relative_error": [0.5, 7.0, float("nan")], "diverged": [False, False, True]})
        >>> rows.select(capped()).to_series().to_list()
        [0.5, 2.0, 2.0]
    """
    return pl.when(pl.col("diverged")).then(LOST).otherwise(pl.col("relative_error").clip(upper_bound=LOST))


def bootstrap_interval(values: Sequence[float], level: float = 0.95, draws: int = 2000) -> tuple[float, float]:
    """Percentile bootstrap interval of the mean (Efron 1979), the same for the same values.

    Args:
        values: Of the runs; those that are nan are left out.
        level: Share of the resampled means inside, above 0 and below 1.
        draws: How many resampled means.

    Returns:
        Low and high; both the value itself for a single one, both nan for none.

    Example:
        >>> low, high = bootstrap_interval([1.0, 2.0, 3.0, 4.0])
        >>> 1.0 <= low < 2.5 < high <= 4.0
        True
    """
    known = np.array([value for value in values if not math.isnan(value)])
    if not len(known):
        return math.nan, math.nan
    random = np.random.default_rng(0)
    means = known[random.integers(len(known), size=(draws, len(known)))].mean(1)
    low, high = np.quantile(means, [(1 - level) / 2, (1 + level) / 2])
    return float(low), float(high)


def summarise(rows: pl.DataFrame, by: Sequence[str]) -> pl.DataFrame:
    """One row for each combination of the fields `by`, in the order in which they come.

    Args:
        rows: Of trials with an error.
        by: Fields that tell groups and arms apart.

    Returns:
        runs; diverged and solved, shares; solved_step, the median over those that solved; error, the mean of `capped`,
        with its interval error_low to error_high; clip_fraction, cosine, flipped, starved, head_share, growth_before
        and growth_after, means without nan; seconds, the median.
    """
    means = ("clip_fraction", "cosine", "flipped", "starved", "head_share", "growth_before", "growth_after")
    table = rows.group_by(by, maintain_order=True).agg(
        pl.len().alias("runs"),
        pl.col("diverged").mean(),
        pl.col("solved_step").is_not_nan().mean().alias("solved"),
        pl.col("solved_step").drop_nans().median(),
        capped().mean().alias("error"),
        capped().alias("errors"),
        *(pl.col(name).drop_nans().mean() for name in means),
        pl.col("seconds").median(),
    )
    intervals = [bootstrap_interval(errors) for errors in table["errors"].to_list()]
    low, high = ([pair[side] for pair in intervals] for side in (0, 1))
    table = table.drop("errors").with_columns(
        pl.Series("error_low", low, dtype=pl.Float64), pl.Series("error_high", high, dtype=pl.Float64)
    )
    order = [*by, "runs", "diverged", "solved", "solved_step", "error", "error_low", "error_high"]
    return table.select(*order, *means, "seconds")
