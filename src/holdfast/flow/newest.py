"""The steps of a recurrence that a loss reads itself, past the recurrence, and the newest of them alone.

A loss of every step, a mean over steps or attention hold adjoints up however little the recurrence carries, and add up
where it carries all of them. What the recurrence does by itself shows in what arrives at the newest step.

B windows, T steps, L layers times directions, W directions.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence

import torch
from torch import Tensor

from holdfast.flow.capture import Call
from holdfast.flow.scaled import Scaled

Arrived = Mapping[int, Scaled]  # gradients of a loss at the outputs of calls, by id


def most_read(arrived: Arrived, calls: Sequence[Call], chains: Sequence[int]) -> int:
    """The most steps that the loss reads of any window, in one direction of one sequence of calls."""
    counts: dict[int, Tensor] = {}
    for at, read_WTB in _read(arrived, calls):
        counts[chains[at]] = counts.get(chains[at], torch.zeros((), dtype=torch.long)) + read_WTB.sum(1).cpu()
    return max((int(count_WB.max()) for count_WB in counts.values()), default=0)


def only_newest(arrived: Arrived, calls: Sequence[Call], chains: Sequence[int]) -> dict[int, Scaled]:
    """What arrives at the newest step that is read, window by window, in each direction of each sequence of calls."""
    kept: dict[int, Scaled] = {}
    behind: dict[int, Tensor] = {}  # windows of which a later call is read
    for at, read_WTB in reversed(list(_read(arrived, calls))):
        call = calls[at]
        done_WB = behind.get(chains[at], torch.zeros_like(read_WTB[:, 0]))
        behind[chains[at]] = done_WB | read_WTB.any(1)
        # Counted from the step at which each direction ends.
        turned = [side.flip(0) if way == 0 else side for way, side in enumerate(read_WTB)]
        first = [side & (side.cumsum(0) == 1) & ~done_WB[way] for way, side in enumerate(turned)]
        newest = [side.flip(0) if way == 0 else side for way, side in enumerate(first)]
        y, *finals = (arrived.get(id(leaf)) for leaf in call.leaves)
        if y is not None:
            sides = y.mantissa.chunk(call.directions, -1)
            pairs = zip(sides, newest, strict=True)
            kept[id(call.leaves[0])] = Scaled.of(
                torch.cat([_where(keep, side) for side, keep in pairs], -1), y.exponent
            )
        for leaf, final in zip(call.leaves[1:], finals, strict=True):
            if final is not None:
                keep_LB = ~done_WB.repeat(len(leaf) // call.directions, 1)
                kept[id(leaf)] = Scaled.of(_where(keep_LB, final.mantissa), final.exponent)
    return kept


def _read(arrived: Arrived, calls: Sequence[Call]) -> Iterator[tuple[int, Tensor]]:
    """The number of each call that the loss reads, and at which steps it does [W, T, B], the last state included."""
    for at, call in enumerate(calls):
        y_TBH, W = call.leaves[0], call.directions
        T, B = y_TBH.shape[:2]
        found = arrived.get(id(y_TBH))
        read_WTB = torch.zeros(W, T, B, dtype=torch.bool, device=y_TBH.device)
        if found is not None:
            read_WTB = torch.stack([(side != 0).any(-1) for side in found.mantissa.chunk(W, -1)])
        last_B = torch.full((B,), T - 1, device=y_TBH.device) if call.mask_TB is None else call.mask_TB.sum(0) - 1
        ends_WB = torch.stack([last_B, torch.zeros_like(last_B)][:W])
        for leaf in call.leaves[1:]:
            if id(leaf) in arrived:
                read_WB = (arrived[id(leaf)].mantissa != 0).any(-1).reshape(-1, W, B).any(0)
                at_end_WTB = torch.zeros_like(read_WTB).scatter_(1, ends_WB[:, None], read_WB[:, None])
                read_WTB = read_WTB | at_end_WTB
        if read_WTB.any():
            yield at, read_WTB


def _where(keep: Tensor, vectors: Tensor) -> Tensor:
    return torch.where(keep.unsqueeze(-1), vectors, 0.0)
