"""Clip rules from the text of an option: KIND[:NUMBER[:P]], alone or for each role, and a cap behind them."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial

from holdfast.errors import OptionError, Problem
from holdfast.gradients.blocks import ClipAGC, ClipBlockRMS
from holdfast.gradients.clauses import Rule, clauses, common_norm_type
from holdfast.gradients.history import ClipAuto, ClipMedian, ClipPercentile, ClipZScore
from holdfast.gradients.roles import ROLES, Role
from holdfast.gradients.rules import ClipNorm, ClipValue

CAP = "cap"


@dataclass(frozen=True)
class RuleKind:
    """One kind of rule as it is written.

    Attributes:
        name: The word before the first colon.
        make: Makes the rule, given its numbers by name.
        numbers: Names of the numbers behind the colons, in their order.
        required: How many of them have no default.
        example: The whole text of a rule of this kind.

    Example:
        >>> KINDS[1].form, KINDS[1].make(max_norm=2.0)
        ('norm:NUMBER[:P]', ClipNorm(max_norm=2.0, norm_type=2.0, per_tensor=False))
    """

    name: str
    make: Callable[..., Rule | None]
    numbers: tuple[str, ...]
    required: int
    example: str

    @property
    def form(self) -> str:
        """How it is written, with its optional parts in brackets."""
        words = [":P" if name == "norm_type" else ":NUMBER" for name in self.numbers]
        optional = "[".join(["", *words[self.required :]]) + "]" * (len(words) - self.required)
        return self.name + "".join(words[: self.required]) + optional


KINDS = (
    RuleKind("none", lambda: None, (), 0, "none"),
    RuleKind("norm", ClipNorm, ("max_norm", "norm_type"), 1, "norm:1.0"),
    RuleKind("tensor", partial(ClipNorm, per_tensor=True), ("max_norm", "norm_type"), 1, "tensor:1.0"),
    RuleKind("value", ClipValue, ("max_value",), 1, "value:0.5"),
    RuleKind("rms", ClipBlockRMS, ("max_rms",), 1, "rms:0.1"),
    RuleKind("agc", ClipAGC, ("ratio",), 0, "agc:0.01"),
    RuleKind("percentile", ClipPercentile, ("percentile", "norm_type"), 0, "percentile:90"),
    RuleKind("zscore", ClipZScore, ("z", "norm_type"), 0, "zscore:2.5"),
    RuleKind("median", ClipMedian, ("factor", "norm_type"), 0, "median:3"),
    RuleKind("auto", ClipAuto, ("percentile", "norm_type"), 0, "auto"),
)
EXAMPLES = ", ".join(kind.example for kind in KINDS)


@dataclass(frozen=True)
class ClipPlan:
    """What the text of a clip option asks for, as a `GradientGuard` takes it.

    Attributes:
        rule: One rule, or a rule for each role, or None.
        cap: A bound on the norm of everything, after the rules.

    Example:
        >>> ClipPlan(ClipNorm(1.0)).by_role
        False
    """

    rule: Rule | Mapping[Role, Rule | None] | None
    cap: ClipNorm | None = None

    @property
    def by_role(self) -> bool:
        """Whether there is a rule for each role by itself."""
        return isinstance(self.rule, Mapping)

    @property
    def norm_type(self) -> float:
        """The one p of all norms; 2 where no rule says any."""
        return common_norm_type(clauses(self.rule, ROLES, ROLES), self.cap)

    def rules(self, covered: Sequence[Role]) -> dict[tuple[Role, ...], Rule]:
        """The rules by the roles that each is over, roles without one left out.

        Args:
            covered: The roles that one rule is over.

        Returns:
            Empty where nothing but a cap bounds gradients.
        """
        if isinstance(self.rule, Mapping):
            return {(role,): rule for role, rule in self.rule.items() if rule is not None}
        return {} if self.rule is None else {tuple(covered): self.rule}


def parse_rule(text: str) -> Rule | None:
    """Read one rule: KIND[:NUMBER[:P]], where P is the type of the norm.

    Args:
        text: For instance `norm:1.0`, `norm:1.0:inf`, `percentile:90`, or `none` for a guard that only measures.

    Returns:
        The rule, or None.

    Raises:
        OptionError: The text is of no known kind, or its numbers cannot work.

    Example:
        >>> parse_rule("norm:1.0:inf")
        ClipNorm(max_norm=1.0, norm_type=inf, per_tensor=False)
        >>> str(parse_rule("auto"))
        'auto'
        >>> parse_rule("none") is None
        True
    """
    name, *texts = text.strip().split(":") if isinstance(text, str) else [""]
    kind = next((kind for kind in KINDS if kind.name == name), None)
    if kind is None or not kind.required <= len(texts) <= len(kind.numbers):
        raise OptionError(_no_rule(text))
    try:
        numbers = [float(number) for number in texts]
        return kind.make(**dict(zip(kind.numbers, numbers, strict=False)))
    except ValueError as error:
        raise OptionError(_no_rule(text)) from error
    except OptionError as error:
        (problem,) = error.problems
        raise OptionError(_no_rule(text, f"{kind.form} with {problem.expected}; else ")) from error


def parse_clip(text: str) -> ClipPlan:
    """Read the text of a clip option: RULE, or ROLE=RULE for each role with commas between, and cap=norm:NUMBER.

    Args:
        text: For instance `norm:1.0`, `norm:1.0,cap=norm:5` or `recurrent=norm:1,input=norm:1,head=none`. A role
            that is not named is not clipped where others are.

    Returns:
        Rule and cap for a `GradientGuard`.

    Raises:
        OptionError: With everything that is wrong with the text.

    Example:
        >>> plan = parse_clip("recurrent=norm:1,head=none,cap=norm:5")
        >>> {role: str(rule) for role, rule in plan.rule.items()}, str(plan.cap)
        ({'recurrent': 'norm:1', 'head': 'None'}, 'norm:5')
    """
    if not isinstance(text, str):
        raise OptionError(_no_rule(text))
    problems: list[Problem] = []
    found: dict[str, Rule | None] = {}
    for part in text.split(","):
        key, equals, rule_text = part.rpartition("=")
        key = key.strip()
        if key in found or key not in ((CAP, *ROLES) if equals else ("",)):
            problems.append(_wrong_key(text, key, key in found))
            continue
        found[key] = None
        try:
            found[key] = parse_rule(rule_text)
        except OptionError as error:
            problems += error.problems
    by_role = {role: found[role] for role in ROLES if role in found}
    if "" in found and by_role:
        expected, fix = "one rule, or ROLE=RULE for each role", "write for instance recurrent=norm:1,head=none"
        problems.append(Problem("clip option", expected, f"both, in {text!r}", fix))
    if problems:
        raise OptionError(problems)
    return _checked(text, by_role or found.get(""), found.get(CAP), capped=CAP in found)


def _checked(text: str, rule: Rule | Mapping[Role, Rule | None] | None, cap: Rule | None, *, capped: bool) -> ClipPlan:
    if capped and not (isinstance(cap, ClipNorm) and not cap.per_tensor):
        problem = Problem("clip option", "cap=norm:NUMBER[:P]", repr(text), "write for instance norm:1,cap=norm:5")
        raise OptionError(problem)
    plan = ClipPlan(rule, cap if isinstance(cap, ClipNorm) else None)
    try:
        _ = plan.norm_type
    except OptionError as error:
        fix = "give all norms the same P"
        raise OptionError(
            [Problem("clip option", p.expected, f"{p.got} in {text!r}", fix) for p in error.problems]
        ) from error
    return plan


def _no_rule(text: object, closest: str = "") -> Problem:
    kinds = ", ".join(f"{kind.form} ({kind.example})" for kind in KINDS if kind.numbers)
    expected = f"{closest}none or one of {kinds}, with finite numbers above 0, P also inf"
    return Problem("clip rule", expected, repr(text), "write for instance norm:1.0")


def _wrong_key(text: str, key: str, twice: bool) -> Problem:
    expected = f"RULE, or ROLE=RULE with roles among {', '.join(ROLES)}, and {CAP}=norm:NUMBER; each once"
    got = f"{key or 'a rule'} twice in {text!r}" if twice else f"{key!r} in {text!r}"
    return Problem("clip option", expected, got, "write for instance recurrent=norm:1,head=none,cap=norm:5")
