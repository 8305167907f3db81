"""The guard between backward and the optimiser: it measures, clips, and updates or refuses to."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, Literal

import torch
from torch import Tensor, nn
from torch.optim import Optimizer

from holdfast.errors import OptionError, Problem, TrainingError
from holdfast.gradients.norms import Measured, combine_norms, grad_norms
from holdfast.gradients.roles import ROLES, Role, find_roles
from holdfast.gradients.rules import ClipNorm, ClipValue, Effect, Rule, clamp_role, clauses, scale_
from holdfast.gradients.summary import Counters, GuardSummary


@dataclass(frozen=True)
class ClipResult:
    """Everything that was measured in one step, before and after clipping.

    Attributes:
        total_norm: Norm of all gradients as one vector, before clipping.
        clip_coef: The smallest of `role_coefs`: with one rule over several roles their joint coefficient.
        clipped_norm: Norm of all gradients as one vector, after clipping.
        role_norms: Norm of each role before clipping.
        role_coefs: Norm of each role after clipping / before; 1 where nothing was clipped.
        role_clipped_norms: Norm of each role after clipping.
        clipped: Whether any gradient was changed.
        skipped: Whether the step was non-finite: gradients, weights and optimiser state were left as they were.
        nonfinite: What was non-finite: names of parameters, `loss`, or `total_norm`.
        cosine: Cosine between the clipped and the unclipped gradient over all parameters; nan for a skipped step
            or where the clipped one is 0.
        norm_type: p of all these norms.

    Example:
        >>> import torch
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
    clipped: bool
    skipped: bool
    nonfinite: tuple[str, ...]
    cosine: float
    norm_type: float


class GradientGuard:
    """Measure and clip the gradients of a model once per step, right before the update, and refuse bad updates.

    Args:
        model: Any module. Its parameters are the ones that are measured and clipped.
        rule: One rule for all gradients of `roles` as one vector (values are bounded one by one); or a rule for
            each role by itself, where a role that is absent or None stays untouched; or None to measure only.
        roles: The roles that one rule covers; the others stay untouched.
        overrides: Role by parameter name or module prefix, see `find_roles`.
        nonfinite: What a nan or inf in loss or gradients does: `skip` leaves out the update and counts it, `raise`
            raises before anything changes.

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
        roles: Sequence[Role] = ROLES,
        overrides: Mapping[str, Role] | None = None,
        nonfinite: Literal["skip", "raise"] = "skip",
    ) -> None:
        if nonfinite not in ("skip", "raise"):
            fix = "write nonfinite='skip'"
            raise OptionError(Problem("GradientGuard(nonfinite=...)", "'skip' or 'raise'", repr(nonfinite), fix))
        role_of = find_roles(model, overrides)
        self._parameters = [(name, role_of[name], parameter) for name, parameter in model.named_parameters()]
        self._roles: list[Role] = [role for role in ROLES if role in role_of.values()]
        self._clauses = clauses(rule, roles, self._roles)
        self._norm_type = next((r.norm_type for r, _ in self._clauses if isinstance(r, ClipNorm)), 2.0)
        self._raises = nonfinite == "raise"
        self._counters = Counters(self._roles)

    @property
    def bad_in_a_row(self) -> int:
        """Non-finite steps since the last finite one."""
        return self._counters.bad_in_a_row

    def measure(self, loss: Tensor | float | None = None) -> Measured:
        """The norms of the gradients as they are; writes nothing.

        Args:
            loss: The loss of the step, a scalar; if it is nan or inf, the step counts as non-finite.

        Returns:
            Total norm, norm of each role, and what is non-finite.

        Raises:
            TrainingError: No parameter has a gradient, or one is sparse.

        Example:
            >>> import torch
            >>> layer = torch.nn.Linear(2, 1, bias=False)
            >>> layer(torch.tensor([3.0, 4.0])).backward()
            >>> GradientGuard(layer, None).measure().role_norms
            {'head': 5.0}
        """
        grads = self._grads()
        if not any(grads.values()):
            raise TrainingError(
                Problem(
                    "GradientGuard.measure",
                    "at least one parameter with a gradient",
                    f"no gradient on any of {len(self._parameters)} parameters",
                    "call loss.backward() before the step and zero_grad() after it, on the model given to the guard",
                )
            )
        measured = grad_norms(grads, self._norm_type)
        if loss is not None and not math.isfinite(loss.item() if isinstance(loss, Tensor) else loss):
            measured = replace(measured, nonfinite=("loss", *measured.nonfinite))
        return measured

    @torch.no_grad()
    def clip(self, measured: Measured) -> ClipResult:
        """Clip the gradients in place by the rule; within the bound, and in a non-finite step, no bit changes.

        Args:
            measured: What `measure` returned for these gradients.

        Returns:
            The norms before and after, coefficients, and the cosine between both gradients.

        Raises:
            TrainingError: The step is non-finite and the guard was made with `nonfinite="raise"`.

        Example:
            >>> import torch
            >>> layer = torch.nn.Linear(2, 1, bias=False)
            >>> layer(torch.tensor([3.0, 4.0])).backward()
            >>> guard = GradientGuard(layer, ClipValue(3.0))
            >>> result = guard.clip(guard.measure())
            >>> layer.weight.grad
            tensor([[3., 3.]])
            >>> round(result.clipped_norm, 3), round(result.cosine, 3)
            (4.243, 0.99)
        """
        norms = measured.role_norms
        if measured.nonfinite:
            if self._raises:
                raise _nonfinite_error(measured)
            unchanged: dict[str, Effect] = {role: Effect(1.0, norms[role], math.nan, math.nan) for role in self._roles}
            return _result(measured, unchanged, measured.total_norm, math.nan)
        grads = self._grads()
        l2 = norms if measured.norm_type == 2.0 else grad_norms(grads, 2.0).role_norms
        effects: dict[str, Effect] = {role: Effect(1.0, norms[role], l2[role], 1.0) for role in self._roles}
        for rule, roles in self._clauses:
            if isinstance(rule, ClipValue):
                for role in roles:
                    effects[role] = clamp_role(rule, list(grads[role].values()), effects[role], measured.norm_type)
            elif (coef := rule.coef(self._joint_norm(measured, roles))) < 1.0:
                scale_([grad for role in roles for grad in grads[role].values()], coef)
                effects.update({role: Effect(coef, coef * norms[role], coef * l2[role], 1.0) for role in roles})
        clipped_norm = measured.total_norm
        if any(effect.coef < 1.0 for effect in effects.values()):
            clipped_norm = combine_norms([effect.norm for effect in effects.values()], measured.norm_type)
        return _result(measured, effects, clipped_norm, _cosine(effects, l2))

    def update(self, optimizer: Optimizer, result: ClipResult) -> None:
        """Take the optimiser's step and count it; a skipped step changes no weight and no optimiser state.

        Args:
            optimizer: An optimiser over parameters of the guard's model.
            result: What `clip` returned for these gradients.

        Raises:
            OptionError: The optimiser has parameters that the guard does not know.

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
        self._check_known(optimizer)
        if not result.skipped:
            optimizer.step()
        self._counters.add(result.total_norm, result.role_norms, result.role_coefs, skipped=result.skipped)

    def step(self, optimizer: Optimizer, *, loss: Tensor | float | None = None) -> ClipResult:
        """Measure, clip and update in one call, after `loss.backward()` and instead of `optimizer.step()`.

        Args:
            optimizer: An optimiser over parameters of the guard's model.
            loss: The loss of the step, a scalar, so that a non-finite loss is noticed too.

        Returns:
            Everything that was measured.

        Raises:
            OptionError: The optimiser has parameters that the guard does not know.
            TrainingError: There is no gradient, or the step is non-finite with `nonfinite="raise"`.

        Example:
            >>> import torch
            >>> layer = torch.nn.Linear(1, 1, bias=False)
            >>> optimizer = torch.optim.SGD(layer.parameters(), lr=0.1)
            >>> layer(torch.tensor([torch.nan])).backward()
            >>> GradientGuard(layer, ClipNorm(1.0)).step(optimizer).nonfinite
            ('weight',)
        """
        self._check_known(optimizer)  # before clipping changes a gradient
        result = self.clip(self.measure(loss))
        self.update(optimizer, result)
        return result

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
        return self._counters.summary()

    def describe(self) -> str:
        """A table of the parameters: name, role, and the rule that it falls under.

        Returns:
            One line per parameter below a header.

        Example:
            >>> from torch import nn
            >>> model = nn.ModuleDict({"rnn": nn.RNN(2, 3, bias=False), "out": nn.Linear(3, 1, bias=False)})
            >>> print(GradientGuard(model, ClipNorm(1.0), roles=("input", "recurrent")).describe())
            parameter         role       rule
            rnn.weight_ih_l0  input      norm:1 over input, recurrent
            rnn.weight_hh_l0  recurrent  norm:1 over input, recurrent
            out.weight        head       none
        """
        rule_of: dict[str, str] = {}
        for rule, roles in self._clauses:
            over = f" over {', '.join(roles)}" if isinstance(rule, ClipNorm) else ""
            rule_of.update(dict.fromkeys(roles, f"{rule}{over}"))
        rows = [("parameter", "role", "rule")]
        rows += [(name, role, rule_of.get(role, "none")) for name, role, _ in self._parameters]
        name_width = max(len(name) for name, _, _ in rows)
        role_width = max(len(role) for _, role, _ in rows)
        return "\n".join(f"{name:<{name_width}}  {role:<{role_width}}  {rule}" for name, role, rule in rows)

    def state_dict(self) -> dict[str, Any]:
        """The counts and norms so far as plain JSON values, so that a resumed run goes on counting.

        Returns:
            A dictionary for `load_state_dict`.

        Example:
            >>> from torch import nn
            >>> GradientGuard(nn.Linear(1, 1), None).state_dict()["finite"]
            0
        """
        return self._counters.state_dict()

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Go on counting from a `state_dict` of a guard over the same roles.

        Args:
            state: What `state_dict` gave, also after a round trip through JSON.

        Raises:
            OptionError: The state is of another kind, or over other roles.

        Example:
            >>> from torch import nn
            >>> guard = GradientGuard(nn.Linear(1, 1), None)
            >>> guard.load_state_dict({**guard.state_dict(), "finite": 7, "skipped": 1})
            >>> guard.summary().steps
            8
        """
        self._counters = Counters.from_state_dict(state, self._roles)

    def _grads(self) -> dict[str, dict[str, Tensor]]:
        grads: dict[str, dict[str, Tensor]] = {role: {} for role in self._roles}
        seen: set[int] = set()
        for name, role, parameter in self._parameters:
            grad = parameter.grad
            if grad is not None and id(grad) not in seen:  # two parameters may hold one gradient: scaled once
                seen.add(id(grad))
                grads[role][name] = grad
        return grads

    def _joint_norm(self, measured: Measured, roles: Sequence[Role]) -> float:
        # Over all roles it is the total norm itself: summed by role it could round past a bound that is just met.
        if len(roles) == len(self._roles):
            return measured.total_norm
        return combine_norms([measured.role_norms[role] for role in roles], measured.norm_type)

    def _check_known(self, optimizer: Optimizer) -> None:
        known = {id(parameter) for _, _, parameter in self._parameters}
        unknown = [
            f"param_groups[{g}]['params'][{i}] of shape {tuple(parameter.shape)}"
            for g, group in enumerate(optimizer.param_groups)
            for i, parameter in enumerate(group["params"])
            if id(parameter) not in known
        ]
        if unknown:
            raise OptionError(
                Problem(
                    "optimizer of GradientGuard.step",
                    "only parameters of the model that the guard was made for",
                    f"unknown to the guard: {', '.join(unknown)}",
                    "make the guard for the module that holds all of them, after the last change of its parameters",
                )
            )


def _cosine(effects: Mapping[str, Effect], l2: Mapping[str, float]) -> float:
    """cos(g, c) = sum_r cos_r (|g_r| / |g|) (|c_r| / |c|), over the roles r."""
    moved = [effect for role, effect in effects.items() if l2[role] > 0]
    if len({effect.coef for effect in moved}) <= 1 and all(effect.cosine == 1.0 for effect in moved):
        return 1.0
    before = combine_norms([l2[role] for role in effects])
    after = combine_norms([effect.l2 for effect in effects.values()])
    if after == 0:
        return math.nan
    left = {role: effect for role, effect in effects.items() if effect.l2 > 0}
    terms = [effect.cosine * (l2[role] / before) * (effect.l2 / after) for role, effect in left.items()]
    return min(1.0, math.fsum(terms))


def _result(measured: Measured, effects: Mapping[str, Effect], clipped_norm: float, cosine: float) -> ClipResult:
    coefs = {role: effect.coef for role, effect in effects.items()}
    return ClipResult(
        total_norm=measured.total_norm,
        clip_coef=min(coefs.values()),
        clipped_norm=clipped_norm,
        role_norms=measured.role_norms,
        role_coefs=coefs,
        role_clipped_norms={role: effect.norm for role, effect in effects.items()},
        clipped=min(coefs.values()) < 1.0,
        skipped=bool(measured.nonfinite),
        nonfinite=measured.nonfinite,
        cosine=cosine,
        norm_type=measured.norm_type,
    )


def _nonfinite_error(measured: Measured) -> TrainingError:
    return TrainingError(
        Problem(
            "GradientGuard.clip",
            "a finite loss and finite gradients",
            f"nan or inf in {', '.join(measured.nonfinite)} (total norm {measured.total_norm})",
            "lower the learning rate or look at the data of this batch; nonfinite='skip' leaves such steps out",
        )
    )
