"""Intervals, summaries and paired differences, one run at a time."""

from __future__ import annotations

import itertools
import math

LOST = 2.0


def all_means(values):
    """The mean of every one of the n^n samples of n values, in rising order: what a bootstrap draws from."""
    return sorted(sum(sample) / len(sample) for sample in itertools.product(values, repeat=len(values)))


def interval(values, level):
    """The exact percentile interval: as many of all means lie below it as above, both together 1 - level of them."""
    means = all_means(values)
    outside = (1 - level) / 2 * len(means)
    return means[math.floor(outside)], means[len(means) - 1 - math.floor(outside)]


def mean(values):
    known = [value for value in values if value is not None and not math.isnan(value)]
    return sum(known) / len(known) if known else None


def median(values):
    known = sorted(value for value in values if value is not None and not math.isnan(value))
    if not known:
        return None
    return (known[(len(known) - 1) // 2] + known[len(known) // 2]) / 2


def capped(row):
    error = row["relative_error"]
    if row["diverged"] or error is None or math.isnan(error) or error > LOST:
        return LOST
    return error


def summary(rows, by):
    """By the values of the fields, in their order of appearance."""
    found = {}
    for row in rows:
        found.setdefault(tuple(row[name] for name in by), []).append(row)
    return {
        key: {
            "runs": len(own),
            "diverged": mean([float(row["diverged"]) for row in own]),
            "solved": mean([float(not math.isnan(row["solved_step"])) for row in own]),
            "solved_step": median([row["solved_step"] for row in own]),
            "error": mean([capped(row) for row in own]),
            "kept_error": mean([row["relative_error"] for row in own if not row["diverged"]]),
            "seconds": median([row["seconds"] for row in own]),
        }
        for key, own in found.items()
    }


def differences(rows, by, arm, reference):
    """Of the capped errors, by group and arm, over the seeds that both have."""
    found = {}
    for row in rows:
        if row[arm] == reference:
            continue
        group = found.setdefault((*(row[name] for name in by), row[arm]), [])
        for other in rows:
            same = all(row[name] == other[name] for name in (*by, "seed"))
            if same and other[arm] == reference:
                group.append(capped(row) - capped(other))
    return found
