"""Which rule covers which gradients, and what each rule remembers of the steps before."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

from holdfast.errors import OptionError, Problem
from holdfast.gradients.blocks import ClipAGC, ClipBlockRMS
from holdfast.gradients.history import ClipAuto, ClipMedian, ClipPercentile, ClipZScore
from holdfast.gradients.roles import ROLES, Role
from holdfast.gradients.rules import ClipNorm, ClipValue

NormRule = ClipNorm | ClipPercentile | ClipZScore | ClipMedian | ClipAuto  # bounds one norm, keeps the direction
BlockRule = ClipValue | ClipAGC  # changes values or rows one by one
Rule = NormRule | ClipBlockRMS | BlockRule


class Memory(Protocol):
    """What a rule remembers of the steps before, as plain JSON values when it is saved."""

    def state_dict(self) -> dict[str, Any]:
        """Everything in it."""
        ...

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Go on from `state_dict()`."""
        ...


@dataclass(frozen=True)
class Clause:
    """A rule, the roles that it is over, and what it remembers of them.

    Attributes:
        rule: How gradients are clipped.
        roles: Whose gradients, jointly where the rule bounds a norm.
        memory: What `rule.start()` gave; None for a rule without history.

    Example:
        >>> print(Clause(ClipNorm(1.0), ("input", "recurrent"), None))
        norm:1 over input, recurrent
    """

    rule: Rule
    roles: tuple[Role, ...]
    memory: Any

    def __str__(self) -> str:
        joint = isinstance(self.rule, NormRule) and not (isinstance(self.rule, ClipNorm) and self.rule.per_tensor)
        return f"{self.rule} over {', '.join(self.roles)}" if joint else str(self.rule)


def clauses(
    rule: Rule | Mapping[Role, Rule | None] | None, roles: Sequence[Role], present: Sequence[Role]
) -> tuple[Clause, ...]:
    """Which rule covers which roles.

    Args:
        rule: One rule for `roles` together, a rule for each role by itself, or None.
        roles: The roles of one rule.
        present: The roles that the model has.

    Returns:
        The rules with the present roles that each covers and a fresh memory each.

    Raises:
        OptionError: Something is no rule or no role, norm types differ, or the rules cover no parameter.

    Example:
        >>> clauses(ClipNorm(1.0), ("input", "other"), ("input", "head"))
        (Clause(rule=ClipNorm(max_norm=1.0, norm_type=2.0, per_tensor=False), roles=('input',), memory=None),)
        >>> [clause.roles for clause in clauses({"input": ClipNorm(1.0), "head": None}, ROLES, ("input", "head"))]
        [('input',)]
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
    return tuple(Clause(each, chosen, _memory(each)) for each, chosen in found)


def common_norm_type(found: Sequence[Clause], cap: object) -> float:
    """The one p of all rules; one record holds one kind of norm, so that its numbers can be compared.

    Args:
        found: The clauses of a guard.
        cap: Its global cap, a `ClipNorm` over everything, or None.

    Returns:
        p; 2 where no rule says any.

    Raises:
        OptionError: The rules differ, or the cap is not a joint `ClipNorm`.

    Example:
        >>> common_norm_type(clauses(ClipNorm(1.0, 3), ROLES, ROLES), None)
        3.0
    """
    where = "rule of a GradientGuard"
    if cap is not None and not (isinstance(cap, ClipNorm) and not cap.per_tensor):
        expected, fix = "a ClipNorm over all gradients, or None", "write for instance cap=ClipNorm(5.0)"
        raise OptionError(Problem("GradientGuard(cap=...)", expected, repr(cap), fix))
    rules = [clause.rule for clause in found if not isinstance(clause.rule, BlockRule)]
    norm_types = {2.0 if isinstance(rule, ClipBlockRMS) else rule.norm_type for rule in rules}
    norm_types |= {cap.norm_type} if isinstance(cap, ClipNorm) else set()
    if len(norm_types) > 1:
        got = f"norm_type {', '.join(f'{p:g}' for p in sorted(norm_types))}"
        raise OptionError(Problem(where, "one norm_type for all rules", got, "give all rules the same norm_type"))
    return norm_types.pop() if norm_types else 2.0


def saved_memories(found: Sequence[Clause]) -> list[dict[str, Any]]:
    """What the rules remember, as plain JSON values."""
    return [
        {"rule": repr(clause.rule), "roles": list(clause.roles), "memory": clause.memory.state_dict()}
        for clause in found
        if clause.memory is not None
    ]


def load_memories(found: Sequence[Clause], saved: object) -> None:
    """Put back what `saved_memories` gave.

    Args:
        found: The clauses of the guard.
        saved: What was saved.

    Raises:
        OptionError: It was saved by other rules or over other roles; nothing changes then.
    """
    own = [clause for clause in found if clause.memory is not None]
    expected = [(repr(clause.rule), list(clause.roles)) for clause in own]
    rows = saved if isinstance(saved, list) else []
    got = [(row["rule"], list(row["roles"])) for row in rows]
    if got != expected:
        fix = "load the state_dict() of a guard with the same rules"
        raise OptionError(Problem("state of a GradientGuard", f"memories of {expected}", f"of {got}", fix))
    fresh = [_memory(clause.rule) for clause in own]
    for memory, row in zip(fresh, rows, strict=True):
        memory.load_state_dict(row["memory"])  # a state that does not fit is refused here, before anything changes
    for clause, row in zip(own, rows, strict=True):
        clause.memory.load_state_dict(row["memory"])


def _memory(rule: Rule) -> Any:
    return None if isinstance(rule, ClipBlockRMS | BlockRule) else rule.start()


def _rule_problem(rules: Sequence[object]) -> Problem | None:
    strange = [rule for rule in rules if not isinstance(rule, Rule)]
    if strange:
        expected = "ClipNorm(...), ClipValue(...) or another clip rule, None, or one of these by role"
        fix = "write ClipNorm(1.0), or parse_rule(...) around a text"
        return Problem("rule of a GradientGuard", expected, repr(strange[0]), fix)
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
