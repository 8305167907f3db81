"""The learning rate of each step: linear warm-up, then a cosine to zero."""

from __future__ import annotations

import math

WARM_UP_STEPS = 50


def learning_rate(step: int, planned_steps: int, peak: float) -> float:
    """Learning rate of step `step` = 1 .. `planned_steps`.

        peak * min(1, step / w) * (1 + cos(pi (step - 1) / planned_steps)) / 2,   w = max(1, min(50, planned_steps / 5))

    Cosine decay as in Loshchilov and Hutter (2017), without restarts.

    Args:
        step: From 1.
        planned_steps: Steps of the whole run.
        peak: The learning rate that warm-up leads to.

    Returns:
        A learning rate of at least 0 and at most `peak`.

    Example:
        >>> [round(learning_rate(step, 1000, 1.0), 3) for step in (1, 50, 501, 1000)]
        [0.02, 0.994, 0.5, 0.0]
    """
    warm_up = max(1.0, min(WARM_UP_STEPS, planned_steps / 5))
    decay = (1 + math.cos(math.pi * min(1.0, (step - 1) / planned_steps))) / 2
    return peak * min(1.0, step / warm_up) * decay
