"""Advice on a clip rule after a fit, from the norms that were measured and the optimiser that took the steps."""

from __future__ import annotations

from collections.abc import Sequence

import torch

from holdfast.gradients import ClipNorm, Rule, combine_norms, parse_clip
from holdfast.telemetry import StepRecord
from holdfast.training.task import TrainingConfig

ALWAYS = 0.9  # share of clipped steps from which a bound counts as always binding
FEWEST_STEPS = 100  # finite ones, before a bound that was never met is worth a word


def clip_advice(finite: Sequence[StepRecord], config: TrainingConfig) -> str | None:
    """What to know about a bound that nearly every step met, or none, and the option that cuts only the largest.

    AdamW divides gradients by a running measure of their own scale, so that a bound which always binds cancels out;
    SGD steps as far as the gradient is long, so that there it is the length of the step.

    Args:
        finite: The records of the finite steps of a fit.
        config: How it was trained.

    Returns:
        Some sentences; None where there is nothing to advise.

    Example:
        >>> record = StepRecord(step=1, loss=0.5, lr=0.01, total_norm=5.0, clipped_norm=1.0, clip_coef=0.2,
        ...     cosine=1.0, role_norms={"recurrent": 5.0}, role_coefs={"recurrent": 0.2},
        ...     role_clipped_norms={"recurrent": 1.0}, clipped=True, skipped=False, nonfinite=(), seconds=0.01)
        >>> clip_advice([record], TrainingConfig(clip="norm:1")).split(": ")[-1]
        '--clip norm:5'
        >>> "0.05 (learning rate) x 1 = 0.05" in clip_advice([record], TrainingConfig(clip="norm:1", optimizer="sgd"))
        True
    """
    seen = _Seen(finite, config)
    if not finite or not seen.roles:
        return None
    clipped = sum(record.clipped for record in finite) / len(finite)
    said = f"clip {config.clip} cut the gradient in {100 * clipped:.3g} % of the steps"
    if clipped >= ALWAYS and config.optimizer == "sgd":
        lr, short, long = config.peak_rate, seen.norm(0.5, after=True), seen.norm(0.9)
        return (
            f"{said}. Under SGD the clipped norm is the step length of the clipped weights, whatever the gradient: at "
            f"the peak {lr:.3g} (learning rate) x {short:.3g} = {lr * short:.3g}, before momentum. To cut only the "
            f"largest 10 %, for steps of up to {lr * long:.3g}: {seen.option(0.9)}"
        )
    if clipped >= ALWAYS:
        return (
            f"{said}. The updates of AdamW do not depend on the scale of the gradient, so a bound that always binds "
            f"changes little. To cut only the largest 10 %: {seen.option(0.9)}"
        )
    if clipped == 0 and len(finite) >= FEWEST_STEPS:
        return (
            f"clip {config.clip} never cut a gradient: the largest norm of {len(finite)} steps was "
            f"{seen.norm(1.0):.3g}. That is harmless. To cut the largest 1 %: {seen.option(0.99)}, the largest 10 %: "
            f"{seen.option(0.9)}"
        )
    return None


class _Seen:
    """The norms of the finite steps of a fit, and the option that would have cut only the largest of them."""

    def __init__(self, finite: Sequence[StepRecord], config: TrainingConfig) -> None:
        self.finite, self.config = finite, config
        self.plan = parse_clip(config.clip)
        self.rules = self.plan.rules(config.covered)
        everything = list(finite[0].role_norms) if finite else []
        ruled = [role for role in everything if any(role in roles for roles in self.rules)]
        self.roles = everything if self.plan.cap else ruled

    def norm(self, q: float, roles: Sequence[str] | None = None, *, after: bool = False) -> float:
        """Quantile of the joint norm of some roles, or of all that are bounded, before or after clipping."""
        joint = self._joint(self.roles if roles is None else roles, after=after)
        return float(torch.tensor(joint, dtype=torch.float64).quantile(q))

    def option(self, q: float) -> str:
        """What to type so that norms above quantile `q` are cut."""
        rules = {roles: self._rule(rule, roles, q) for roles, rule in self.rules.items()}
        texts = [f"{roles[0]}={text}" if self.plan.by_role else text for roles, text in rules.items()]
        if self.plan.cap is not None:
            texts.append(f"cap={self._rule(self.plan.cap, self.roles, q)}")
        chosen = None if self.plan.by_role else self.config.clip_roles
        return f"--clip {','.join(texts)}" + (f" --clip-roles {','.join(chosen)}" if chosen else "")

    def _joint(self, roles: Sequence[str], *, after: bool = False) -> list[float]:
        by_role = [record.role_clipped_norms if after else record.role_norms for record in self.finite]
        return [combine_norms([norms.get(role, 0.0) for role in roles], self.plan.norm_type) for norms in by_role]

    def _rule(self, rule: Rule, roles: Sequence[str], q: float) -> str:
        """A bound at quantile `q`; the rule itself where it is another one that binds, or where there is no norm."""
        bound = float(f"{self.norm(q, roles):.3g}")
        other_binds = any(record.clipped for record in self.finite) and self._share_cut(rule, roles) < ALWAYS
        return str(rule if bound == 0 or other_binds else ClipNorm(bound, self.plan.norm_type))

    def _share_cut(self, rule: Rule, roles: Sequence[str]) -> float:
        """Share of the steps in which the rule itself cut something, told apart from a cap that did."""
        if rule is self.plan.cap:
            cut = [norm >= 0.999 * self.plan.cap.max_norm for norm in self._joint(roles, after=True)]
        elif isinstance(rule, ClipNorm) and not rule.per_tensor:
            cut = [norm > rule.max_norm for norm in self._joint(roles)]
        else:
            cut = [min(record.role_coefs.get(role, 1.0) for role in roles) < 1 for record in self.finite]
        return sum(cut) / len(cut)
