"""What a guard remembers of all its steps: counts, shares, and quantiles of norms."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from holdfast.errors import OptionError, Problem
from holdfast.gradients.result import ClipResult

SCHEMA = 2
QUANTILES = {"min": 0.0, "p10": 0.1, "p50": 0.5, "p90": 0.9, "p99": 0.99, "max": 1.0}


@dataclass(frozen=True)
class RoleSummary:
    """What a guard saw of one role.

    Attributes:
        clip_fraction: Share of finite steps with a role coefficient below 1; nan before the first.
        norms: Quantiles of the norm before clipping: min, p10, p50, p90, p99, max (the inner ones to 1 per cent).

    Example:
        >>> RoleSummary(0.25, {"p50": 1.5}).clip_fraction
        0.25
    """

    clip_fraction: float
    norms: Mapping[str, float]


@dataclass(frozen=True)
class GuardSummary:
    """How often a guard engaged, and on which norms.

    Attributes:
        steps: Steps seen, the skipped ones included.
        skipped: Non-finite steps, in which nothing was updated.
        calibrations: Steps that a `GradScaler` left out while it looked for its scale; they count nowhere else.
        bad_in_a_row: Non-finite steps since the last finite one.
        clip_fraction: Share of finite steps with `clip_coef < 1`; nan before the first.
        cosine: Mean cosine between clipped and unclipped gradient over the finite steps; 1 if no direction changed.
        norms: Quantiles of `total_norm`: min, p10, p50, p90, p99, max (the inner ones to 1 per cent).
        roles: The same by role.

    Example:
        >>> print(Counters(["head"]).summary())
        0 steps, 0 skipped as not finite, clipped nan %, mean cosine nan
        role   clipped      min      p10      p50      p90      p99      max
        all      nan %      nan      nan      nan      nan      nan      nan
        head     nan %      nan      nan      nan      nan      nan      nan
    """

    steps: int
    skipped: int
    calibrations: int
    bad_in_a_row: int
    clip_fraction: float
    cosine: float
    norms: Mapping[str, float]
    roles: Mapping[str, RoleSummary]

    def __str__(self) -> str:
        rows = {"all": RoleSummary(self.clip_fraction, self.norms), **self.roles}
        width = max(len(name) for name in rows)
        calibrations = f", {self.calibrations} calibrations" if self.calibrations else ""
        return "\n".join(
            [
                f"{self.steps} steps, {self.skipped} skipped as not finite{calibrations}, "
                f"clipped {100 * self.clip_fraction:.3g} %, mean cosine {self.cosine:.3g}",
                f"{'role':<{width}}  clipped" + "".join(f" {name:>8}" for name in QUANTILES),
                *(
                    f"{name:<{width}} {100 * row.clip_fraction:>5.3g} %"
                    + "".join(f" {norm:>8.3g}" for norm in row.norms.values())
                    for name, row in rows.items()
                ),
            ]
        )


class NormHistogram:
    """Counts of past norms in bins of 2 per cent, so that quantiles of any number of steps need little memory.

    Norm x falls into bin floor(log x / log 1.02). A quantile is within 1 per cent of the true one; the smallest
    and the largest norm are exact.

    Example:
        >>> histogram = NormHistogram()
        >>> for norm in (1.0, 2.0, 4.0):
        ...     histogram.add(norm)
        >>> histogram.count, histogram.quantile(0.0), round(histogram.quantile(0.5), 1), histogram.quantile(1.0)
        (3, 1.0, 2.0, 4.0)
    """

    _GROWTH = 1.02

    def __init__(self) -> None:
        self._bins: dict[int | None, int] = {}  # None holds the norms that are exactly 0
        self._low = math.inf
        self._high = 0.0

    @property
    def count(self) -> int:
        """How many norms were added."""
        return sum(self._bins.values())

    def add(self, norm: float) -> None:
        """Count one finite norm."""
        place = math.floor(math.log(norm) / math.log(self._GROWTH)) if norm > 0 else None
        self._bins[place] = self._bins.get(place, 0) + 1
        self._low = min(self._low, norm)
        self._high = max(self._high, norm)

    def quantile(self, q: float) -> float:
        """The smallest norm that a share `q` of all norms does not exceed; nan when there are none.

        Args:
            q: Share of the norms, 0 to 1.

        Returns:
            The norm, to 1 per cent; exact for 0 and 1.
        """
        if not self._bins:
            return math.nan
        if q in (0.0, 1.0):
            return self._high if q else self._low
        missing = max(1, math.ceil(q * self.count))
        for place in sorted(self._bins, key=lambda key: -math.inf if key is None else key):
            missing -= self._bins[place]
            if missing <= 0:
                break
        middle = 0.0 if place is None else math.exp((place + 0.5) * math.log(self._GROWTH))
        return min(max(middle, self._low), self._high)

    def state_dict(self) -> dict[str, Any]:
        """Everything in it, as plain JSON values."""
        bins = [[place, count] for place, count in self._bins.items()]
        return {"bins": bins, "low": self._low if self._bins else None, "high": self._high}

    @classmethod
    def from_state_dict(cls, state: Mapping[str, Any]) -> NormHistogram:
        """A histogram that goes on counting from `state_dict()`."""
        histogram = cls()
        histogram._bins = dict(state["bins"])
        histogram._low = math.inf if state["low"] is None else state["low"]
        histogram._high = state["high"]
        return histogram


class Counters:
    """Counts the steps of a guard, for the summary and for an exact resume.

    Args:
        roles: The roles that every step reports.

    Attributes:
        bad_in_a_row: Non-finite steps since the last finite one.

    Example:
        >>> from holdfast.gradients.clipping import skipped_result
        >>> from holdfast.gradients.result import Measured
        >>> counters = Counters(["head"])
        >>> counters.add(skipped_result(Measured(5.0, {"head": 5.0}, {"w": 5.0}, (), 2.0), calibration=True))
        >>> counters.summary().calibrations
        1
    """

    def __init__(self, roles: Sequence[str]) -> None:
        self.bad_in_a_row = 0
        self._finite = 0
        self._skipped = 0
        self._calibrations = 0
        self._clipped = 0
        self._cosines = 0.0
        self._role_clipped = dict.fromkeys(roles, 0)
        self._norms = NormHistogram()
        self._role_norms = {role: NormHistogram() for role in roles}

    def add(self, result: ClipResult) -> None:
        """Count one step; of one that was left out only that it was."""
        if result.calibration:
            self._calibrations += 1
            return
        if result.skipped:
            self._skipped += 1
            self.bad_in_a_row += 1
            return
        self.bad_in_a_row = 0
        self._finite += 1
        self._clipped += result.clipped
        self._cosines += 0.0 if math.isnan(result.cosine) else result.cosine
        self._norms.add(result.total_norm)
        for role, histogram in self._role_norms.items():
            self._role_clipped[role] += result.role_coefs[role] < 1.0
            histogram.add(result.role_norms[role])

    def summary(self) -> GuardSummary:
        """Counts, shares and quantiles of all steps so far."""
        return GuardSummary(
            steps=self._finite + self._skipped + self._calibrations,
            skipped=self._skipped,
            calibrations=self._calibrations,
            bad_in_a_row=self.bad_in_a_row,
            clip_fraction=self._share(self._clipped),
            cosine=self._share(self._cosines),
            norms=_quantiles(self._norms),
            roles={
                role: RoleSummary(self._share(self._role_clipped[role]), _quantiles(histogram))
                for role, histogram in self._role_norms.items()
            },
        )

    def state_dict(self) -> dict[str, Any]:
        """Everything counted, as plain JSON values."""
        return {
            "schema": SCHEMA,
            "finite": self._finite,
            "skipped": self._skipped,
            "bad_in_a_row": self.bad_in_a_row,
            "calibrations": self._calibrations,
            "clipped": self._clipped,
            "cosines": self._cosines,
            "norms": self._norms.state_dict(),
            "role_clipped": dict(self._role_clipped),
            "role_norms": {role: histogram.state_dict() for role, histogram in self._role_norms.items()},
        }

    @classmethod
    def from_state_dict(cls, state: Mapping[str, Any], roles: Sequence[str]) -> Counters:
        """Counters that go on from `state_dict()`, also after a round trip through JSON.

        Raises:
            OptionError: The state is of another kind, or over other roles.
        """
        counters = cls(roles)
        own = counters.state_dict()
        if state.keys() != own.keys() or state["schema"] != SCHEMA or state["role_norms"].keys() != set(roles):
            got_roles = ", ".join(state.get("role_norms", {}))
            raise OptionError(
                Problem(
                    "state of a GradientGuard",
                    f"keys {', '.join(own)} with schema {SCHEMA} and roles {', '.join(roles)}",
                    f"keys {', '.join(state)} with schema {state.get('schema')} and roles {got_roles}",
                    "load the state_dict() of a guard over a model of the same kind",
                )
            )
        counters.bad_in_a_row = state["bad_in_a_row"]
        counters._finite = state["finite"]
        counters._skipped = state["skipped"]
        counters._calibrations = state["calibrations"]
        counters._clipped = state["clipped"]
        counters._cosines = state["cosines"]
        counters._role_clipped = dict(state["role_clipped"])
        counters._norms = NormHistogram.from_state_dict(state["norms"])
        counters._role_norms = {
            role: NormHistogram.from_state_dict(norms) for role, norms in state["role_norms"].items()
        }
        return counters

    def _share(self, count: float) -> float:
        return count / self._finite if self._finite else math.nan


def _quantiles(histogram: NormHistogram) -> dict[str, float]:
    return {name: histogram.quantile(q) for name, q in QUANTILES.items()}
