"""One window, row by row, out of plain lists."""

from __future__ import annotations

import math


def window(y, start, length, cutoff, context_length, horizon, until):
    """Context values and mask, target values and mask of one window of the series at rows start, start + 1, ...

    Rows before the series and from `length` on hold nothing; targets from row `until` on may not be learned from, and
    nothing may be learned from a window that saw no value; a target that may not be learned from is 0.
    """
    values, mask = [], []
    for row in range(cutoff - context_length, cutoff + horizon):
        inside = 0 <= row < length
        observed = inside and math.isfinite(y[start + row])
        values.append(y[start + row] if observed else 0.0)
        mask.append(observed)
    saw_something = any(mask[:context_length])
    target_mask = [
        observed and saw_something and cutoff + k < until for k, observed in enumerate(mask[context_length:])
    ]
    target = [y if learned else 0.0 for y, learned in zip(values[context_length:], target_mask, strict=True)]
    return values[:context_length], mask[:context_length], target, target_mask


def rows_of(features, start, cutoff, context_length, horizon):
    """Feature rows of one window; before the start of the series its first row stands in."""
    return [features[start + max(row, 0)] for row in range(cutoff - context_length, cutoff + horizon)]
