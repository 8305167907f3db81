"""The guard between backward and the optimiser: it measures, clips, and updates or refuses to."""

from __future__ import annotations

import math
import warnings
from collections.abc import Mapping, Sequence
from contextlib import nullcontext
from typing import Any, Literal

from torch import Tensor, nn
from torch.amp.grad_scaler import GradScaler
from torch.optim import Optimizer

from holdfast.errors import OptionError, Problem
from holdfast.gradients.attach import Attachment, attachment_of, innermost
from holdfast.gradients.clauses import Clause, Rule, clauses, common_norm_type, load_memories, saved_memories
from holdfast.gradients.core import Core
from holdfast.gradients.ledger import Ledger
from holdfast.gradients.result import ClipResult, Measured
from holdfast.gradients.riding import still_scaled
from holdfast.gradients.roles import ROLES, Role
from holdfast.gradients.rules import ClipNorm
from holdfast.gradients.summary import GuardSummary
from holdfast.gradients.table import ParameterTable

SUSPICIOUS = 100.0  # a norm from which on gradients may be scaled ones; a GradScaler starts at 65536
STILL_SCALED = (
    "gradients are measured while a GradScaler has scaled a loss and not unscaled them: give it to "
    "guard.step(optimizer, scaler=scaler), or call scaler.unscale_(optimizer) first"
)


class GradientGuard:
    """Measure and clip the gradients of a model once per step, right before the update, and refuse bad updates.

    Rules apply in this order: each rule to its own roles, then the cap to all gradients together.

    Args:
        model: Any module. Its parameters are the ones that are measured and clipped.
        rule: One rule for all gradients of `roles` as one vector; or a rule for each role by itself, where a role
            that is absent or None stays untouched; or None to measure only.
        cap: A bound on the norm of all gradients together, after the rules.
        roles: The roles that one rule covers; the others stay untouched.
        overrides: Role by parameter name or module prefix, see `find_roles`.
        nonfinite: What a nan or inf in loss or gradients does: `skip` leaves out the update and counts it, `raise`
            raises before anything changes.
        give_up_after: So many non-finite steps in a row are an error; None: never.

    Raises:
        OptionError: An argument cannot work, or the rule covers no parameter.

    Example:
        >>> import torch
        >>> model = torch.nn.Linear(2, 1, bias=False)
        >>> optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
        >>> guard = GradientGuard(model, ClipNorm(1.0))
        >>> loss = model(torch.tensor([30.0, 40.0])).sum()
        >>> loss.backward()
        >>> result = guard.step(optimizer, loss=loss)
        >>> result.total_norm, result.clip_coef, result.clipped_norm
        (50.0, 0.02, 1.0)
        >>> guard.summary().clip_fraction
        1.0
    """

    def __init__(
        self,
        model: nn.Module,
        rule: Rule | Mapping[Role, Rule | None] | None,
        *,
        cap: ClipNorm | None = None,
        roles: Sequence[Role] = ROLES,
        overrides: Mapping[str, Role] | None = None,
        nonfinite: Literal["skip", "raise"] = "skip",
        give_up_after: int | None = 10,
    ) -> None:
        if nonfinite not in ("skip", "raise"):
            fix = "write nonfinite='skip'"
            raise OptionError(Problem("GradientGuard(nonfinite=...)", "'skip' or 'raise'", repr(nonfinite), fix))
        if give_up_after is not None and not (isinstance(give_up_after, int) and give_up_after > 0):
            expected, fix = "a whole number above 0, or None", "write give_up_after=10"
            raise OptionError(Problem("GradientGuard(give_up_after=...)", expected, repr(give_up_after), fix))
        if any(type(module).__name__ == "FullyShardedDataParallel" for module in model.modules()):
            expected, fix = "gradients with their own names and shapes", "shard with torch.distributed.fsdp.fully_shard"
            raise OptionError(Problem("model of a GradientGuard", expected, "FullyShardedDataParallel (FSDP1)", fix))
        parameters = ParameterTable(model, overrides)
        found = clauses(rule, roles, parameters.roles)
        self._core = Core(
            model=model,
            parameters=parameters,
            clauses=found,
            cap=cap,
            norm_type=common_norm_type(found, cap),
            raises=nonfinite == "raise",
            ledger=Ledger(parameters.roles, found, cap, give_up_after),
        )
        self._looked_for_scaler = False

    @property
    def last(self) -> ClipResult | None:
        """What the newest step measured; None before the first."""
        return self._core.ledger.last

    @property
    def bad_in_a_row(self) -> int:
        """Non-finite steps since the last finite one."""
        return self._core.ledger.counters.bad_in_a_row

    @property
    def clauses(self) -> tuple[Clause, ...]:
        """The rules, the roles that each is over, and what each remembers."""
        return self._core.clauses

    def measure(self, loss: Tensor | float | None = None, optimizer: Optimizer | None = None) -> Measured:
        """The norms of the gradients as they are; writes nothing.

        Args:
            loss: The loss of the step, a scalar; if it is nan or inf, the step counts as non-finite.
            optimizer: Measure only the gradients of its parameters; None: all of the model.

        Returns:
            Total norm, norm of each role and tensor, and what is non-finite.

        Raises:
            TrainingError: No parameter has a gradient, or one is sparse.

        Example:
            >>> import torch
            >>> layer = torch.nn.Linear(2, 1, bias=False)
            >>> layer(torch.tensor([3.0, 4.0])).backward()
            >>> GradientGuard(layer, None).measure().role_norms
            {'head': 5.0}
        """
        measured = self._core.measure(self._core.gather(optimizer), loss)
        if not self._looked_for_scaler:
            self._looked_for_scaler = measured.waiting is not None  # on a GPU only the first step is looked at
            if SUSPICIOUS <= measured.total_norm < math.inf:
                self._looked_for_scaler = True
                if still_scaled(optimizer, measured.total_norm):
                    warnings.warn(STILL_SCALED, stacklevel=2)
        return measured

    def clip(self, measured: Measured, optimizer: Optimizer | None = None) -> ClipResult:
        """Clip the gradients in place by the rules; within the bound, and in a non-finite step, no bit changes.

        Args:
            measured: What `measure` returned for these gradients.
            optimizer: The optimiser that will be given to `update` with the result. If it is a fused one, the
                coefficient may ride in its update: the gradients are clipped when `update` returns, not before.

        Returns:
            The norms before and after, coefficients, and the cosine between both gradients.

        Raises:
            TrainingError: The step is non-finite and the guard was made with `nonfinite="raise"`; or the gradients
                have changed since they were measured.

        Warns:
            UserWarning: The gradients were clipped already and have grown since without an update: this is not the
                end of an accumulation window.

        Example:
            >>> import torch
            >>> from holdfast.gradients import ClipValue
            >>> layer = torch.nn.Linear(2, 1, bias=False)
            >>> layer(torch.tensor([3.0, 4.0])).backward()
            >>> guard = GradientGuard(layer, ClipValue(3.0))
            >>> result = guard.clip(guard.measure())
            >>> layer.weight.grad
            tensor([[3., 3.]])
            >>> round(result.clipped_norm, 3), round(result.cosine, 3)
            (4.243, 0.99)
        """
        return self._core.clip(measured, optimizer)

    def update(self, optimizer: Optimizer, result: ClipResult) -> None:
        """Take the optimiser's step and count it; a skipped step changes no weight and no optimiser state.

        Args:
            optimizer: An optimiser over parameters of the guard's model.
            result: What `clip` returned for these gradients.

        Raises:
            OptionError: The optimiser has parameters that the guard does not know.
            TrainingError: This was the last of too many non-finite steps in a row.

        Example:
            >>> import torch
            >>> layer = torch.nn.Linear(1, 1, bias=False)
            >>> optimizer = torch.optim.SGD(layer.parameters(), lr=0.1)
            >>> layer(torch.tensor([torch.inf])).backward()
            >>> guard = GradientGuard(layer, None)
            >>> guard.update(optimizer, guard.clip(guard.measure()))
            >>> bool(layer.weight.isfinite()), guard.bad_in_a_row
            (True, 1)
        """
        self._core.parameters.check_known(optimizer)
        self._update(optimizer, result)

    def _update(self, optimizer: Optimizer, result: ClipResult) -> None:
        if result.waiting is not None or not result.skipped:
            ride = result.take_ride()
            with nullcontext() if ride is None else ride.on(optimizer):
                optimizer.step()
        self._core.ledger.add(result)

    def step(
        self, optimizer: Optimizer, *, loss: Tensor | float | None = None, scaler: GradScaler | None = None
    ) -> ClipResult:
        """Measure, clip and update in one call, after `loss.backward()` and instead of `optimizer.step()`.

        Args:
            optimizer: An optimiser over parameters of the guard's model. Only their gradients are clipped.
            loss: The loss of the step, a scalar, so that a non-finite loss is noticed too.
            scaler: The `GradScaler` that scaled the loss; `scaler.update()` stays with the caller.

        Returns:
            Everything that was measured.

        Raises:
            OptionError: The optimiser has parameters that the guard does not know, or is attached already.
            TrainingError: There is no gradient, the step is non-finite with `nonfinite="raise"`, or it was the last
                of too many in a row.

        Example:
            >>> import torch
            >>> layer = torch.nn.Linear(1, 1, bias=False)
            >>> optimizer = torch.optim.SGD(layer.parameters(), lr=0.1)
            >>> layer(torch.tensor([torch.nan])).backward()
            >>> GradientGuard(layer, ClipNorm(1.0)).step(optimizer).nonfinite
            ('weight',)
        """
        inner = innermost(optimizer)
        if attachment_of(inner) is not None or inner is not optimizer:
            expected, got = "a plain optimiser", "one that is attached or wrapped"
            fix = "attach the guard to it, and call its own step()"
            raise OptionError(Problem("GradientGuard.step", expected, got, fix))
        if scaler is not None and scaler.is_enabled():
            return self._step_with(scaler, optimizer, loss)
        self._core.parameters.check_known(optimizer)  # before clipping changes a gradient
        result = self.clip(self.measure(loss, optimizer), optimizer)
        self._update(optimizer, result)
        return result

    def attach(self, optimizer: Any) -> Attachment:
        """From now on let the optimiser's own `step()` measure, clip, and update or skip, wherever it is called from.

        Args:
            optimizer: An optimiser over parameters of the guard's model, also inside the wrappers of Accelerate or
                Lightning. Several optimisers can be attached, one after the other.

        Returns:
            The tie; its `remove()` cuts it. What each step measured is in `last`.

        Raises:
            OptionError: It is attached already, has parameters that the guard does not know, or evaluates its loss
                several times per step.

        Example:
            >>> import torch
            >>> layer = torch.nn.Linear(2, 1, bias=False)
            >>> optimizer = torch.optim.SGD(layer.parameters(), lr=0.1)
            >>> guard = GradientGuard(layer, ClipNorm(1.0))
            >>> tie = guard.attach(optimizer)
            >>> layer(torch.tensor([3.0, 4.0])).backward()
            >>> optimizer.step()
            >>> guard.last.total_norm, guard.last.clipped_norm
            (5.0, 1.0)
        """
        inner = innermost(optimizer)
        self._core.parameters.check_known(inner)
        self._looked_for_scaler = True  # behind step() gradients are unscaled, or the scale is known
        return Attachment(self._core, inner)

    def summary(self) -> GuardSummary:
        """How often the guard clipped and skipped so far, and quantiles of the norms before clipping.

        Returns:
            Counts, shares and quantiles; shares and quantiles are nan before the first finite step.

        Example:
            >>> import torch
            >>> layer = torch.nn.Linear(1, 1, bias=False)
            >>> guard = GradientGuard(layer, ClipNorm(1.0))
            >>> layer(torch.tensor([4.0])).backward()
            >>> result = guard.step(torch.optim.SGD(layer.parameters(), lr=0.1))
            >>> guard.summary().clip_fraction, guard.summary().norms["max"]
            (1.0, 4.0)
        """
        return self._core.ledger.counters.summary()

    def describe(self) -> str:
        """A table of the parameters: name, shape, role, and the rule that it falls under.

        Returns:
            One line per parameter below a header.

        Example:
            >>> from torch import nn
            >>> model = nn.ModuleDict({"rnn": nn.RNN(2, 3, bias=False), "out": nn.Linear(3, 1, bias=False)})
            >>> print(GradientGuard(model, ClipNorm(1.0), roles=("input", "recurrent")).describe())
            parameter         shape  role       rule
            rnn.weight_ih_l0  3 x 2  input      norm:1 over input, recurrent
            rnn.weight_hh_l0  3 x 3  recurrent  norm:1 over input, recurrent
            out.weight        1 x 3  head       none
        """
        return self._core.parameters.describe(self._core.clauses, self._core.cap)

    def state_dict(self) -> dict[str, Any]:
        """Counts, norms and what the rules remember, as plain JSON values, so that a resumed run goes on as it was.

        Returns:
            A dictionary for `load_state_dict`.

        Example:
            >>> from torch import nn
            >>> GradientGuard(nn.Linear(1, 1), None).state_dict()["finite"]
            0
        """
        return {**self._core.ledger.counters.state_dict(), "memories": saved_memories(self._core.clauses)}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Go on from a `state_dict` of a guard with the same rules over the same roles.

        Args:
            state: What `state_dict` gave, also after a round trip through JSON.

        Raises:
            OptionError: The state is of another kind, of other rules, or over other roles; nothing changes then.

        Example:
            >>> from torch import nn
            >>> guard = GradientGuard(nn.Linear(1, 1), None)
            >>> guard.load_state_dict({**guard.state_dict(), "finite": 7, "skipped": 1})
            >>> guard.summary().steps
            8
        """
        counted = {name: value for name, value in state.items() if name != "memories"}
        Ledger(self._core.parameters.roles, (), None, None).load_state_dict(counted)  # refuses before anything changes
        load_memories(self._core.clauses, state.get("memories"))
        self._core.ledger.load_state_dict(counted)

    def _step_with(self, scaler: GradScaler, optimizer: Optimizer, loss: Tensor | float | None) -> ClipResult:
        core, before, scale = self._core, self.last, scaler.get_scale()
        self._looked_for_scaler = True
        core.parameters.check_known(optimizer)
        tie = Attachment(core, optimizer, loss, scale)
        try:
            scaler.step(optimizer)
        finally:
            tie.remove()
        newest = core.ledger.last
        if newest is not None and newest is not before:
            return newest
        result = core.skipped_by_scaler(optimizer, scale)  # the scaler has not even called the optimiser
        core.ledger.add(result)
        return result
