"""Windows by index: the work per batch depends on the batch, never on how long or how many the series are.

Shapes: n series, R rows of all series, B windows, T context steps, F horizon steps.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
import torch
from numpy.typing import ArrayLike, NDArray
from torch import Tensor

from holdfast.windows.batch import Batch
from holdfast.windows.bridge import bridge, newest_observed

if TYPE_CHECKING:
    from holdfast.series import SeriesStore


@dataclass(frozen=True)
class Windows:
    """The arrays of a `SeriesStore` as tensors on one device, and windows cut out of them.

    Attributes:
        y_R: Values, nan where missing and in the future rows behind each series (float64).
        past_RP: Past covariates (float32).
        known_RK: Future covariates and calendar features (float32).
        static_nS: Features of each series (float32).
        start_n: First row of each series (int64).
        length_n: Observed rows of each series (int64).
        newest_R: The newest observed row at or before each row (int64); None where no row is missing.
        bridge_R: Values with missing rows filled by the season before them (float64); None where no row is missing.
        seasons: Season lengths in steps that missing rows are filled by.

    Example:
        >>> import numpy as np
        >>> windows = Windows.from_arrays(np.arange(10.0), offsets=[0, 10], lengths=[8])
        >>> windows.gather([0], [2], context_length=4, horizon=2).mask_BT.tolist()
        [[False, False, True, True]]
    """

    y_R: Tensor
    past_RP: Tensor
    known_RK: Tensor
    static_nS: Tensor
    start_n: Tensor
    length_n: Tensor
    newest_R: Tensor | None = None
    bridge_R: Tensor | None = None
    seasons: tuple[int, ...] = ()

    @classmethod
    def from_store(
        cls, store: SeriesStore, device: torch.device | str = "cpu", *, seasons: Sequence[int] = ()
    ) -> Windows:
        """Move a store's arrays to `device` (on the CPU they are shared, not copied).

        Args:
            store: The series.
            device: Where to.
            seasons: Season lengths in steps: an outage at the end of a context repeats the longest of them, as far as
                it was observed.
        """
        newest_R, bridge_R = _bridges(store.y, store.offsets, store.lengths, seasons)
        return cls(
            y_R=torch.as_tensor(store.y, device=device),
            past_RP=torch.as_tensor(store.past, device=device),
            known_RK=torch.as_tensor(store.known, device=device),
            static_nS=torch.as_tensor(store.static, device=device),
            start_n=torch.as_tensor(store.offsets[:-1], device=device),
            length_n=torch.as_tensor(store.lengths, device=device),
            newest_R=_on(newest_R, device),
            bridge_R=_on(bridge_R, device),
            seasons=tuple(seasons),
        )

    @classmethod
    def from_arrays(
        cls, y: ArrayLike, offsets: Sequence[int], lengths: Sequence[int], *, seasons: Sequence[int] = ()
    ) -> Windows:
        """Windows over plain values without covariates; rows past a series' length are its future."""
        values = np.asarray(y, dtype=np.float64)
        newest_R, bridge_R = _bridges(values, np.asarray(offsets), np.asarray(lengths), seasons)
        y_R = torch.tensor(values)
        return cls(
            y_R=y_R,
            past_RP=torch.zeros(len(y_R), 0),
            known_RK=torch.zeros(len(y_R), 0),
            static_nS=torch.zeros(len(lengths), 0),
            start_n=torch.tensor(offsets[:-1], dtype=torch.int64),
            length_n=torch.tensor(lengths, dtype=torch.int64),
            newest_R=_on(newest_R, "cpu"),
            bridge_R=_on(bridge_R, "cpu"),
            seasons=tuple(seasons),
        )

    def gather(
        self,
        series: ArrayLike | Tensor,
        cutoff: ArrayLike | Tensor,
        *,
        context_length: int,
        horizon: int,
        until_n: Tensor | None = None,
    ) -> Batch:
        """Cut out one window per (series, cutoff) pair.

        Args:
            series: B series numbers.
            cutoff: B counts of rows that the forecast may see.
            context_length: T, rows of context; rows before the start of a series are masked.
            horizon: F, rows of target; at most the future rows of the store reach past the last observation.
            until_n: Per series, the first row that may not be learned from (targets from there on are masked).

        Returns:
            The batch, on the device of the store.
        """
        device = self.y_R.device
        series_B = torch.as_tensor(series, device=device)
        cutoff_B = torch.as_tensor(cutoff, device=device)
        row_BW = cutoff_B[:, None] + torch.arange(-context_length, horizon, device=device)
        flat_BW = self.start_n[series_B, None] + row_BW.clamp(min=0)
        y_BW = self.y_R[flat_BW]
        mask_BW = (row_BW >= 0) & (row_BW < self.length_n[series_B, None]) & torch.isfinite(y_BW)
        y_BW = torch.where(mask_BW, y_BW, 0.0)
        y_BT, mask_BT = y_BW[:, :context_length], mask_BW[:, :context_length]
        age_B = self._age(series_B, cutoff_B)
        recent_BT, recent_mask_BT = y_BT, mask_BT
        if self.bridge_R is not None and bool(age_B.any()):
            recent_BT, recent_mask_BT = self._context(series_B, cutoff_B - age_B, context_length)
            after_BT = torch.arange(-context_length, 0, device=device) >= -age_B[:, None]
            bridged_BT = self.bridge_R[flat_BW[:, :context_length]]
            after_BT = after_BT & torch.isfinite(bridged_BT) & (row_BW[:, :context_length] >= 0)
            y_BT, mask_BT = torch.where(after_BT, bridged_BT, y_BT), mask_BT | after_BT
        target_mask_BF = mask_BW[:, context_length:] & mask_BT.any(1, keepdim=True)
        if until_n is not None:
            target_mask_BF = target_mask_BF & (row_BW[:, context_length:] < until_n[series_B, None])
        known_BWK = self.known_RK[flat_BW]
        return Batch(
            series_B=series_B,
            cutoff_B=cutoff_B,
            y_BT=y_BT,
            mask_BT=mask_BT,
            recent_BT=recent_BT,
            recent_mask_BT=recent_mask_BT,
            age_B=age_B,
            past_BTP=self.past_RP[flat_BW[:, :context_length]],
            known_BTK=known_BWK[:, :context_length],
            known_BFK=known_BWK[:, context_length:],
            static_BS=self.static_nS[series_B],
            target_BF=torch.where(target_mask_BF, y_BW[:, context_length:], 0.0),
            target_mask_BF=target_mask_BF,
        )

    def excerpt(
        self, series: NDArray[np.int64], cutoff: NDArray[np.int64], *, rows: int, horizon: int, hidden: int = 0
    ) -> Windows:
        """Each window as a series of its own, to try it with less history or with an outage at its end.

        Args:
            series: B series numbers.
            cutoff: B counts of rows that the forecast may see.
            rows: Rows of history that are kept at most.
            horizon: Rows after the cutoff.
            hidden: Last rows of the history whose values are taken out.

        Returns:
            B series of `min(rows, cutoff)` rows, with their horizons after them.

        Example:
            >>> windows = Windows.from_arrays(np.arange(10.0), offsets=[0, 10], lengths=[8])
            >>> few = windows.excerpt(np.array([0]), np.array([6]), rows=3, horizon=2, hidden=1)
            >>> few.y_R.tolist()
            [3.0, 4.0, nan, 6.0, 7.0]
        """
        kept_n = np.minimum(rows, cutoff) + horizon
        first_n = self.start_n.cpu().numpy()[series] + cutoff + horizon - kept_n
        offsets = np.append(0, np.cumsum(kept_n))
        row_R = torch.from_numpy(np.repeat(first_n - offsets[:-1], kept_n) + np.arange(offsets[-1]))
        row_R = row_R.to(self.y_R.device)
        y_R = self.y_R[row_R].clone()
        for end in (offsets[1:] - horizon).tolist():
            y_R[max(end - hidden, 0) : end] = torch.nan
        newest_R, bridge_R = _bridges(y_R.cpu().numpy(), offsets, kept_n, self.seasons)
        return Windows(
            y_R=y_R,
            past_RP=self.past_RP[row_R],
            known_RK=self.known_RK[row_R],
            static_nS=self.static_nS[torch.from_numpy(series).to(self.y_R.device)],
            start_n=torch.as_tensor(offsets[:-1], device=y_R.device),
            length_n=torch.as_tensor(kept_n, device=y_R.device),
            newest_R=_on(newest_R, y_R.device),
            bridge_R=_on(bridge_R, y_R.device),
            seasons=self.seasons,
        )

    def _age(self, series_B: Tensor, cutoff_B: Tensor) -> Tensor:
        """Rows after the newest observed one, up to the cutoff; 0 where nothing was observed."""
        if self.newest_R is None:
            return torch.zeros_like(cutoff_B)
        last_B = self.start_n[series_B] + cutoff_B - 1
        age_B = last_B - self.newest_R[last_B]
        return torch.where((age_B >= 0) & (age_B < cutoff_B), age_B, 0)

    def _context(self, series_B: Tensor, cutoff_B: Tensor, context_length: int) -> tuple[Tensor, Tensor]:
        """The observed values before each cutoff, and where there are any."""
        row_BT = cutoff_B[:, None] + torch.arange(-context_length, 0, device=cutoff_B.device)
        y_BT = self.y_R[self.start_n[series_B, None] + row_BT.clamp(min=0)]
        mask_BT = (row_BT >= 0) & torch.isfinite(y_BT)
        return torch.where(mask_BT, y_BT, 0.0), mask_BT


def _bridges(
    y_R: NDArray[np.float64], offsets: NDArray[np.int64], lengths: NDArray[np.int64], seasons: Sequence[int]
) -> tuple[NDArray[np.int64], NDArray[np.float64]] | tuple[None, None]:
    """Newest observed rows and filled values, where any row of the series is missing."""
    first_R = np.repeat(offsets[:-1], np.diff(offsets))
    inside_R = np.arange(len(first_R)) - first_R < np.repeat(lengths, np.diff(offsets))
    if not (inside_R & ~np.isfinite(y_R[: len(first_R)])).any():
        return None, None
    newest_R = newest_observed(y_R, first_R)
    return newest_R, bridge(y_R, first_R, newest_R, seasons)


def _on(values: NDArray[np.int64] | NDArray[np.float64] | None, device: torch.device | str) -> Tensor | None:
    return None if values is None else torch.as_tensor(values, device=device)
