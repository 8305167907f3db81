"""What one step measured: before clipping, and before and after it."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from typing_extensions import Self


class _Fetched:
    """A record whose numbers may still lie on a GPU; the first look at one of them fetches all."""

    @classmethod
    def later(cls, waiting: object, fetch: Callable[[], Self]) -> Self:
        """A record that `fetch` fills when it is first read.

        Args:
            waiting: What it will be made of; given back by `waiting` until then.
            fetch: Makes the record.

        Returns:
            The record, still without its numbers.
        """
        record = cls.__new__(cls)
        record.__dict__.update(_waiting=waiting, _fetch=fetch)
        return record

    @property
    def waiting(self) -> Any:
        """What the record will be made of; None when it has its numbers."""
        return self.__dict__.get("_waiting")

    def fill(self, record: Self) -> None:
        """Take the numbers of another record; nothing is waited for any more."""
        for name in ("_waiting", "_fetch"):
            self.__dict__.pop(name, None)
        self.__dict__.update(record.__dict__)

    def __getattr__(self, name: str) -> Any:
        # Python asks here only for what is not there yet.
        if "_fetch" not in self.__dict__:
            raise AttributeError(f"{type(self).__name__!r} object has no attribute {name!r}")
        self.fill(self.__dict__["_fetch"]())
        return getattr(self, name)


@dataclass(frozen=True)
class Measured(_Fetched):
    """The norms of one set of gradients, before any clipping.

    Attributes:
        total_norm: Norm of all gradients as one vector.
        role_norms: Norm of each role (or other group) by itself.
        tensor_norms: Norm of each gradient by itself, by parameter name.
        nonfinite: Names of the tensors whose norm is nan or inf, because they hold such a value or because the
            norm is beyond float64; `loss` for the loss, `total_norm` where only all tensors together are beyond it.
        norm_type: p of these norms.

    Example:
        >>> Measured(5.0, {"recurrent": 3.0, "head": 4.0}, {"w": 3.0, "v": 4.0}, (), 2.0).total_norm
        5.0
    """

    total_norm: float
    role_norms: Mapping[str, float]
    tensor_norms: Mapping[str, float]
    nonfinite: tuple[str, ...]
    norm_type: float


@dataclass(frozen=True)
class ClipResult(_Fetched):
    """Everything that was measured in one step, before and after clipping.

    On a GPU the numbers stay there until one of them is read.

    Attributes:
        total_norm: Norm of all gradients as one vector, before clipping.
        clip_coef: The smallest of `role_coefs`: with one rule over several roles their joint coefficient.
        clipped_norm: Norm of all gradients as one vector, after clipping.
        role_norms: Norm of each role before clipping.
        role_coefs: Norm of each role after clipping / before; 1 where nothing was clipped.
        role_clipped_norms: Norm of each role after clipping.
        tensor_norms: Norm of each gradient before clipping, by parameter name.
        clipped: Whether any gradient was changed.
        skipped: Whether the step was non-finite: gradients, weights and optimiser state were left as they were.
        calibration: Whether it was skipped because a `GradScaler` was still looking for its scale.
        nonfinite: What was non-finite: names of parameters, `loss`, or `total_norm`.
        cosine: Cosine between the clipped and the unclipped gradient over all parameters; nan for a skipped step
            or where the clipped one is 0.
        norm_type: p of all these norms.

    Example:
        >>> import torch
        >>> from holdfast.gradients import ClipNorm, GradientGuard
        >>> layer = torch.nn.Linear(2, 1, bias=False)
        >>> layer(torch.tensor([3.0, 4.0])).backward()
        >>> guard = GradientGuard(layer, ClipNorm(1.0))
        >>> result = guard.clip(guard.measure())
        >>> result.total_norm, result.clip_coef, result.clipped_norm, result.cosine
        (5.0, 0.2, 1.0, 1.0)
    """

    total_norm: float
    clip_coef: float
    clipped_norm: float
    role_norms: Mapping[str, float]
    role_coefs: Mapping[str, float]
    role_clipped_norms: Mapping[str, float]
    tensor_norms: Mapping[str, float]
    clipped: bool
    skipped: bool
    calibration: bool
    nonfinite: tuple[str, ...]
    cosine: float
    norm_type: float

    def take_ride(self) -> Any:
        """What `GradientGuard.update` hands to the optimiser's step, once; None if nothing is left to do."""
        return self.__dict__.pop("_ride", None)

    @property
    def finite(self) -> tuple[str, ...]:
        """Names of the parameters whose gradients were finite."""
        return tuple(name for name, norm in self.tensor_norms.items() if math.isfinite(norm))
