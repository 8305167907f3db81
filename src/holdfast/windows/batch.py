"""The one value that crosses from the table to the network.

Shapes: B windows, T context steps, F horizon steps, K known features, P past covariates, S static features.
"""

from __future__ import annotations

from dataclasses import dataclass

from torch import Tensor


@dataclass(frozen=True)
class Batch:
    """B windows, each a context and the horizon that follows its cutoff.

    Attributes:
        series_B: Which series each window comes from (int64).
        cutoff_B: How many rows of the series the window may see: the context is the T rows before it (int64).
        y_BT: Context values in the units of the data, 0 where missing (float64). Rows after the newest observed one
            repeat the season before it.
        mask_BT: True where the context holds a value; False for gaps and for the padding of short series.
        recent_BT: The T rows that end with the newest observed one: level and spread are read from them (float64). The
            context itself where its last row was observed.
        recent_mask_BT: True where these were observed.
        age_B: Rows between the newest observed one and the cutoff; 0 where the last row was observed (int64).
        past_BTP: Past covariates of the context (float32).
        known_BTK: Future covariates and calendar features of the context (float32).
        known_BFK: The same for the horizon.
        static_BS: Features of the series (float32).
        target_BF: Values to forecast, 0 where missing or not to be learned from (float64).
        target_mask_BF: True where a target was observed and may be learned from; nowhere in a window that saw no value,
            since nothing tells its level.

    Example:
        >>> import numpy as np
        >>> from holdfast.windows import Windows
        >>> windows = Windows.from_arrays(np.arange(10.0), offsets=[0, 10], lengths=[8])
        >>> batch = windows.gather([0], [6], context_length=3, horizon=2)
        >>> batch.y_BT.tolist(), batch.target_BF.tolist()
        ([[3.0, 4.0, 5.0]], [[6.0, 7.0]])
    """

    series_B: Tensor
    cutoff_B: Tensor
    y_BT: Tensor
    mask_BT: Tensor
    recent_BT: Tensor
    recent_mask_BT: Tensor
    age_B: Tensor
    past_BTP: Tensor
    known_BTK: Tensor
    known_BFK: Tensor
    static_BS: Tensor
    target_BF: Tensor
    target_mask_BF: Tensor
