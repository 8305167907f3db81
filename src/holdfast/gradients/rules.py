"""Clip rules: how long a gradient, or how large one of its values, may be."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from numbers import Real

import torch
from torch import Tensor

from holdfast.errors import OptionError, Problem
from holdfast.gradients.norms import grad_norms
from holdfast.gradients.roles import ROLES, Role


@dataclass(frozen=True)
class ClipNorm:
    """Shorten gradients to a norm of at most `max_norm`, in their own direction.

    g <- g * min(1, max_norm / ||g||_p), with all gradients of the rule taken as one vector g.

    Attributes:
        max_norm: The bound, in units of the gradient; finite and above 0.
        norm_type: p of the norm, above 0 or `inf`.

    Raises:
        OptionError: `max_norm` or `norm_type` is not such a number.

    Example:
        >>> ClipNorm(1.0).coef(4.0)
        0.25
        >>> ClipNorm(1.0).coef(0.5)
        1.0

    Reference:
        Pascanu, Mikolov, Bengio, "On the difficulty of training recurrent neural networks", ICML 2013.
    """

    max_norm: float
    norm_type: float = 2.0

    def __post_init__(self) -> None:
        object.__setattr__(self, "max_norm", _threshold("ClipNorm(max_norm=...)", self.max_norm))
        if self.norm_type != math.inf:
            norm_type = _threshold("ClipNorm(norm_type=...)", self.norm_type, "a number above 0, or inf")
            object.__setattr__(self, "norm_type", norm_type)

    def __str__(self) -> str:
        return f"norm:{self.max_norm:g}" + ("" if self.norm_type == 2.0 else f" (p={self.norm_type:g})")

    def coef(self, norm: float) -> float:
        """The factor min(1, max_norm / norm) for gradients of this norm.

        Args:
            norm: A finite norm of the gradients, in the rule's `norm_type`.

        Returns:
            1.0 exactly up to and at the bound, else below 1.

        Example:
            >>> ClipNorm(2.0).coef(2.0)
            1.0
        """
        # No 1e-6 in the denominator: the quotient is only taken where norm > max_norm > 0, and a constant there
        # would scale gradients that lie within the bound and distort any bound that is itself small.
        return 1.0 if norm <= self.max_norm else self.max_norm / norm


@dataclass(frozen=True)
class ClipValue:
    """Bound every single value of the gradients to [-max_value, max_value]; the direction may change.

    g_i <- min(max(g_i, -max_value), max_value)

    Attributes:
        max_value: The bound, in units of the gradient; finite and above 0.

    Raises:
        OptionError: `max_value` is not such a number.

    Example:
        >>> import torch
        >>> gradient = torch.tensor([3.0, -0.1])
        >>> ClipValue(0.5).clamp_([gradient])
        >>> gradient
        tensor([ 0.5000, -0.1000])

    Reference:
        Mikolov, "Statistical language models based on neural networks", PhD thesis, Brno 2012.
    """

    max_value: float

    def __post_init__(self) -> None:
        object.__setattr__(self, "max_value", _threshold("ClipValue(max_value=...)", self.max_value))

    def __str__(self) -> str:
        return f"value:{self.max_value:g}"

    def clamp_(self, grads: Sequence[Tensor]) -> None:
        """Bound the values of these gradients in place; a value within the bound keeps its bits.

        Args:
            grads: Gradients of any shape.

        Example:
            >>> import torch
            >>> gradient = torch.tensor([-3.0])
            >>> ClipValue(2).clamp_([gradient])
            >>> gradient.item()
            -2.0
        """
        for grad in grads:
            bound = min(self.max_value, torch.finfo(grad.dtype).max)  # float16 cannot hold every bound
            grad.clamp_(-bound, bound)


Rule = ClipNorm | ClipValue


@dataclass(frozen=True)
class Effect:
    """What clipping did to the gradients of one role.

    Attributes:
        coef: Norm after / norm before; below 1 exactly when a gradient was changed.
        norm: Norm after, in the `norm_type` of the guard.
        l2: Euclidean norm after.
        cosine: Cosine between the gradients before and after; nan where nothing is left.

    Example:
        >>> Effect(coef=0.5, norm=1.0, l2=1.0, cosine=1.0).coef
        0.5
    """

    coef: float
    norm: float
    l2: float
    cosine: float


def parse_rule(text: str) -> ClipNorm | ClipValue | None:
    """Read a rule from the text of an option.

    Args:
        text: `norm:1.0`, `value:0.5`, or `none` for a guard that only measures.

    Returns:
        The rule, or None.

    Raises:
        OptionError: The text is none of these.

    Example:
        >>> parse_rule("norm:1.0")
        ClipNorm(max_norm=1.0, norm_type=2.0)
        >>> parse_rule("none") is None
        True
    """
    kind, _, number = text.strip().partition(":") if isinstance(text, str) else ("", "", "")
    if (kind, number) == ("none", ""):
        return None
    try:
        threshold = float(number)
        rules: dict[str, type[ClipNorm] | type[ClipValue]] = {"norm": ClipNorm, "value": ClipValue}
        return rules[kind](threshold)
    except (KeyError, ValueError, OptionError) as error:
        problem = Problem(
            "clip rule",
            "norm:NUMBER, value:NUMBER or none, with a finite number above 0",
            repr(text),
            "write for instance norm:1.0",
        )
        raise OptionError(problem) from error


def scale_(grads: Sequence[Tensor], coef: float) -> None:
    """Multiply gradients by a coefficient of 0 to 1 in place, whatever their range.

    Args:
        grads: Gradients of any shape, each listed once.
        coef: The factor.

    Example:
        >>> import torch
        >>> gradient = torch.tensor([1e38])
        >>> scale_([gradient], 1e-44)
        >>> f"{gradient.item():.6g}"
        '1e-06'
    """
    # Kernels of float32 and below round the factor to float32, where a coefficient this small is denormal and has
    # lost most of its digits. Two factors keep them, and underflow only what the product itself underflows.
    factors = (coef,) if coef > 2.0**-120 else (math.sqrt(coef), math.sqrt(coef))
    for factor in factors:
        torch._foreach_mul_(list(grads), factor)


def clamp_role(rule: ClipValue, grads: Sequence[Tensor], before: Effect, norm_type: float) -> Effect:
    """Apply `ClipValue` to the gradients of one role and measure what that did.

    Args:
        rule: The bound on single values.
        grads: Gradients of the role, each listed once, all finite.
        before: The role's norms before clipping.
        norm_type: p of `Effect.norm`.

    Returns:
        The norms after, and the cosine, from the values themselves.

    Example:
        >>> import torch
        >>> gradient = torch.tensor([3.0, 4.0])
        >>> clamp_role(ClipValue(3.0), [gradient], Effect(1.0, 5.0, 5.0, 1.0), 2.0).coef < 0.85
        True
    """
    named = {str(place): grad for place, grad in enumerate(grads)}
    if grad_norms({"": named}, math.inf).total_norm <= rule.max_value:
        return before
    originals = [grad.clone() for grad in grads]
    rule.clamp_(grads)
    if all(torch.equal(grad, original) for grad, original in zip(grads, originals, strict=True)):
        return before  # a bound between two float32 numbers can round to the value it bounds
    norm = grad_norms({"": named}, norm_type).total_norm
    l2 = norm if norm_type == 2.0 else grad_norms({"": named}, 2.0).total_norm
    cosine = sum(
        torch.sum((original.double() / before.l2) * (grad.double() / l2)).item()
        for grad, original in zip(grads, originals, strict=True)
    )
    # A change too small for the norm to show is still a change: coef stays below 1.
    return Effect(min(norm / before.norm, 1 - 2**-53), norm, l2, min(1.0, cosine) if l2 > 0 else math.nan)


def clauses(
    rule: Rule | Mapping[Role, Rule | None] | None, roles: Sequence[Role], present: Sequence[Role]
) -> tuple[tuple[Rule, tuple[Role, ...]], ...]:
    """Which rule covers which roles jointly.

    Args:
        rule: One rule for `roles` together, a rule for each role by itself, or None.
        roles: The roles of one rule.
        present: The roles that the model has.

    Returns:
        Pairs of a rule and the present roles that it covers.

    Raises:
        OptionError: Something is no rule or no role, norm types differ, or the rules cover no parameter.

    Example:
        >>> clauses(ClipNorm(1.0), ("input", "other"), ("input", "head"))
        ((ClipNorm(max_norm=1.0, norm_type=2.0), ('input',)),)
        >>> clauses({"input": ClipNorm(1.0), "head": None}, ROLES, ("input", "head"))
        ((ClipNorm(max_norm=1.0, norm_type=2.0), ('input',)),)
    """
    asked = [(each, (role,)) for role, each in rule.items()] if isinstance(rule, Mapping) else [(rule, tuple(roles))]
    wanted = [(each, chosen) for each, chosen in asked if each is not None]
    problem = _rule_problem([each for each, _ in wanted]) or _role_problem(rule, roles)
    if problem:
        raise OptionError(problem)
    found = [(each, tuple(role for role in present if role in chosen)) for each, chosen in wanted]
    found = [(each, chosen) for each, chosen in found if chosen]
    if wanted and not found:
        asked_roles = ", ".join(role for _, chosen in asked for role in chosen)
        raise OptionError(
            Problem("roles of a GradientGuard", f"some of the model's roles: {', '.join(present)}",
                    f"only {asked_roles}", "choose a role that the model has, or override the role of a parameter")
        )  # fmt: skip
    return tuple(found)


def _threshold(where: str, value: object, expected: str = "a finite number above 0") -> float:
    try:  # a numpy scalar or a whole number becomes a plain float, so that records and JSON look alike
        number = float(value) if not isinstance(value, bool) and isinstance(value, Real) else math.nan
    except OverflowError:
        number = math.inf
    if not 0 < number < math.inf:
        raise OptionError(Problem(where, expected, repr(value), "give for instance 1.0, or no rule to measure only"))
    return number


def _rule_problem(rules: Sequence[object]) -> Problem | None:
    where = "rule of a GradientGuard"
    strange = [rule for rule in rules if not isinstance(rule, ClipNorm | ClipValue)]
    if strange:
        expected = "ClipNorm(...), ClipValue(...), None, or one of these by role"
        return Problem(where, expected, repr(strange[0]), "write ClipNorm(1.0), or parse_rule(...) around a text")
    norm_types = {rule.norm_type for rule in rules if isinstance(rule, ClipNorm)}
    if len(norm_types) > 1:
        # One record holds one kind of norm, so that its numbers can be compared.
        got = f"norm_type {', '.join(f'{p:g}' for p in sorted(norm_types))}"
        return Problem(where, "one norm_type for all roles", got, "give every ClipNorm the same norm_type")
    return None


def _role_problem(rule: object, roles: Sequence[Role]) -> Problem | None:
    where = "roles of a GradientGuard"
    if isinstance(rule, Mapping) and tuple(roles) != ROLES:
        return Problem(where, "no `roles` beside a rule by role", repr(roles), "leave out `roles`")
    asked = list(rule) if isinstance(rule, Mapping) else [roles] if isinstance(roles, str) else list(roles)
    unknown = [role for role in asked if role not in ROLES]
    if unknown or isinstance(roles, str):
        got = repr(roles) if isinstance(roles, str) else ", ".join(map(repr, unknown))
        return Problem(where, f"a tuple of some of {', '.join(ROLES)}", got, "write for instance roles=('recurrent',)")
    return None
