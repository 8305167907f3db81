"""Jittered times moved to the nearest step of a grid of fixed length."""

from __future__ import annotations

import numpy as np
import polars as pl
from numpy.typing import NDArray

from holdfast.series.calendar import MICROSECONDS, Freq
from holdfast.series.findings import Findings
from holdfast.series.wall import DAY, HOUR, Ints, from_wall, to_wall

_MINUTE = 60_000_000
_ROUND = [n * unit for unit in (1_000, 1_000_000, _MINUTE) for n in (1, 2, 5, 10, 15, 20, 30)]
_ROUND += [100_000, 200_000, 500_000, *(n * HOUR for n in (1, 2, 3, 4, 6, 8, 12)), DAY, 7 * DAY]
_PARTS = (1, 2, 4, 12, 60)


def snap(times: pl.Series, before: Ints, freq: Freq | None, findings: Findings) -> tuple[pl.Series, Freq] | None:
    """Times on the roundest grid near them, and its frequency.

    Args:
        times: Of all series.
        before: Rows that are followed by a later row of their series.
        freq: The frequency of the grid; None: the round duration that is nearest to the usual step.
        findings: Gets a note of the largest shift.

    Returns:
        None if steps of this frequency have no fixed length.
    """
    whole = times.dtype.is_integer()
    if freq is not None:
        known = freq
    else:
        wall = to_wall(times, local=False)
        steps = wall[before + 1] - wall[before]
        if not len(steps):
            return None
        known = _round_step(max(1.0, float(np.median(steps))), whole)
    if known.slots is not None or known.by_rows or known.unit not in ("", *MICROSECONDS):
        fix = "leave --snap out, or give a frequency of fixed length, for instance --freq 1h"
        findings.report("option --snap", expected="steps of fixed length", got=f"steps of {known.text}", fix=fix)
        return None
    if whole != (known.unit == "") or (times.dtype == pl.Date and known.sub_daily):
        return times, known
    local, step = not known.sub_daily, known.count * MICROSECONDS.get(known.unit, 1)
    wall = to_wall(times, local=local)
    phase = grid_phase(wall, step)
    moved = phase + np.rint((wall - phase) / step).astype(np.int64) * step
    shift = int(np.abs(moved - wall).max(initial=0))
    if shift:
        far = str(shift) if whole else span(shift)
        findings.notes.append(f"moved times by at most {far}, to steps of {known.text}")
    return from_wall(moved, times.dtype, local=local), known


def grid_phase(wall: Ints, step: int) -> int:
    """Where in a step the roundest grid lies that all times are as near to as they are to each other."""
    angle = (wall % step) * (2 * np.pi / step)
    centre = round(float(np.angle(np.exp(1j * angle).mean())) / (2 * np.pi) * step)
    jitter = int(np.abs(_wrapped(wall - centre, step)).max())
    for parts in _PARTS:
        unit = max(1, step // parts)
        nearest = round(centre / unit) * unit
        if abs(centre - nearest) <= jitter:
            return nearest % step
    return centre % step


def span(microseconds: int) -> str:
    """A duration in the largest unit that leaves a number of at least one.

    Example:
        >>> span(4_000_000), span(90_000_000)
        ('4 s', '1.5 min')
    """
    for size, name in ((DAY, "days"), (HOUR, "h"), (_MINUTE, "min"), (1_000_000, "s"), (1_000, "ms")):
        if microseconds >= size:
            return f"{microseconds / size:.3g} {name}"
    return f"{microseconds} microseconds"


def _round_step(usual: float, whole: bool) -> Freq:
    if whole:
        return Freq(round(usual))
    step = min(_ROUND, key=lambda each: abs(np.log(each / usual)))
    unit = next(unit for unit in ("w", "d", "h", "m", "s", "ms") if step % MICROSECONDS[unit] == 0)
    return Freq.parse(f"{step // MICROSECONDS[unit]}{unit}")


def _wrapped(offsets: Ints, step: int) -> NDArray[np.int64]:
    """Distance to the nearest multiple of a step, with its sign."""
    return np.asarray((offsets + step // 2) % step - step // 2)
