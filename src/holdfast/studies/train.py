"""One run on a synthetic task: a recurrent layer and a linear head, trained by a plain loop with the guard in it.

B windows, T steps, D features, N hidden units, S answers, K outputs.
"""

from __future__ import annotations

import copy
import math
import statistics
import time
from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch.optim import Optimizer

from holdfast.flow import adjoints, growth
from holdfast.gradients import (
    ROLES,
    ClipAdjoint,
    ClipNorm,
    ClipResult,
    GradientGuard,
    Role,
    combine_norms,
    find_roles,
    parse_clip,
)
from holdfast.networks import init_recurrent_, make_cell
from holdfast.studies.grid import Trial
from holdfast.studies.tasks import TASKS, Examples, SequenceTask, head_answer, head_loss

EVALUATE_EVERY, EVALUATED = 50, 512  # steps; sequences, the same in every trial of a task and length
HELD_OUT_SEED = 2**31 - 1
MOST_BAD_STEPS = 10  # in a row, before a run counts as lost
PILOT_STEPS, PILOT_EVERY = 300, 5  # updates by which `share:` chooses a bound; adjoints are looked at each fifth
STARVED = 0.5  # of its own size: a head left shorter than this by a norm that is not its own
SCOPES: Mapping[str, Sequence[Role]] = {
    "none": (),
    "all": ROLES,
    "recurrent": ("recurrent",),
    "all-but-head": tuple(role for role in ROLES if role != "head"),
    "head": ("head",),
    "per-role": ROLES,
}


class Recaller(nn.Module):
    """A recurrent layer, and a linear head on its last states.

    Args:
        trial: Says which.
        task: Says how many inputs, outputs and answers.

    Example:
        >>> model = Recaller(Trial(study="s", task="adding", hidden_size=4), TASKS["adding"])
        >>> model(torch.zeros(3, 20, 2)).shape
        torch.Size([3, 1])
    """

    def __init__(self, trial: Trial, task: SequenceTask) -> None:
        super().__init__()
        self.answers = task.answers
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(trial.seed)
            self.recurrent: nn.Module = make_cell(trial.cell, task.inputs, trial.hidden_size)
            init_recurrent_(self.recurrent, scheme=trial.init)
            self.head = nn.Linear(trial.hidden_size, task.outputs * (2 if trial.head == "gaussian" else 1))

    def forward(self, x_BTD: Tensor) -> Tensor:
        """Raw outputs [B, K], or [B, S, K] for more than one answer."""
        h_BSN = self.recurrent(x_BTD)[0][:, -self.answers :]
        raw: Tensor = self.head(h_BSN[:, 0] if self.answers == 1 else h_BSN)
        return raw


def train_trial(trial: Trial) -> dict[str, Any]:
    """Train as a trial asks, until the task is solved or its steps are done, and say what came of it.

    Args:
        trial: On a task of `TASKS`. A rule `share:0.5` clips at the norm that half of the first steps of a run
            without clipping exceed: the norm of the gradients of its scope, or for `backprop` the largest adjoint.

    Returns:
        solved_step (nan where it is not solved), final_error and relative_error (over the baseline), diverged (a step
        that was not finite, or an error of more than twice the baseline), nonfinite_steps, done_steps, clip_fraction,
        cosine (mean, with the exact gradient), flipped (mean share of signs, for `backprop`), starved (share of the
        steps in which one norm over everything would leave the head less than half of a gradient that is below the
        bound by itself), head_share (median of head norm over total norm), total_norm (median), growth_before and
        growth_after (of the adjoint per step back), bound, seconds.

    Example:
        >>> row = train_trial(Trial(study="s", task="adding", length=10, hidden_size=4, steps=50, lr=0.01))
        >>> row["diverged"], row["done_steps"], 0 < row["relative_error"] < 2
        (False, 50, True)
    """
    started = time.perf_counter()
    task, model = TASKS[trial.task], Recaller(trial, TASKS[trial.task])
    bound = choose_bound(trial, task, model)
    held_out = task.draw(EVALUATED, trial.length, torch.Generator().manual_seed(HELD_OUT_SEED))
    before = growth_rate(trial, model, held_out)
    guard, layer = guarded(trial, model, bound)
    optimizer = make_optimizer(trial, model)
    data = torch.Generator().manual_seed(trial.seed + 1)
    results: list[ClipResult] = []
    error, solved_step = math.nan, math.nan
    for step in range(1, trial.steps + 1):
        batch = task.draw(trial.batch_size, trial.length, data)
        optimizer.zero_grad()
        loss = head_loss(trial.head, model(batch.x_BTD), batch.y)
        loss.backward()  # type: ignore[no-untyped-call]
        results.append(guard.step(optimizer, loss=loss))
        if step % EVALUATE_EVERY == 0 or step == trial.steps:
            error = evaluate(trial, task, model, held_out)
            solved_step = step if error < task.solved else math.nan
        if solved_step == step or guard.bad_in_a_row == MOST_BAD_STEPS:
            break
    if guard.bad_in_a_row:
        error = math.nan  # weights that nothing moves any more
    return {
        **outcome(task, error, solved_step, results),
        **distortion(results, layer, bound),
        "growth_before": before,
        "growth_after": growth_rate(trial, model, held_out),
        "bound": bound,
        "seconds": time.perf_counter() - started,
    }


def make_optimizer(trial: Trial, model: nn.Module) -> Optimizer:
    """Plain gradient descent, or AdamW with torch's defaults."""
    make = torch.optim.SGD if trial.optimizer == "sgd" else torch.optim.AdamW
    return make(model.parameters(), lr=trial.lr)


def choose_bound(trial: Trial, task: SequenceTask, model: nn.Module) -> float:
    """The bound of a rule; of `share:Q` from the first batches, inf without one, nan for a rule that chooses itself."""
    if not trial.rule.startswith("share:"):
        plan = parse_clip(trial.rule)
        return math.inf if plan.rule is None else plan.rule.max_norm if isinstance(plan.rule, ClipNorm) else math.nan
    pilot, norms = copy.deepcopy(model), []
    guard, optimizer = GradientGuard(pilot, None, give_up_after=None), make_optimizer(trial, pilot)
    data = torch.Generator().manual_seed(trial.seed + 1)
    for step in range(PILOT_STEPS):
        batch = task.draw(trial.batch_size, trial.length, data)

        def loss_fn(batch: Examples = batch) -> Tensor:
            return head_loss(trial.head, pilot(batch.x_BTD), batch.y)

        if trial.placement == "backprop" and step % PILOT_EVERY == 0:
            norms.append(adjoints(pilot, loss_fn)["recurrent.l0"].log_norm_BT.max().exp().item())
        optimizer.zero_grad()
        loss = loss_fn()
        loss.backward()  # type: ignore[no-untyped-call]
        role_norms = guard.step(optimizer, loss=loss).role_norms
        if trial.placement == "update":
            norms.append(combine_norms([role_norms.get(role, 0.0) for role in SCOPES[trial.scope]]))
    quantile = 1 - float(trial.rule.removeprefix("share:"))
    known = [norm for norm in norms if 0 < norm < math.inf]  # without clipping some runs do not last so long
    return float(torch.tensor(known, dtype=torch.float64).quantile(quantile))


def guarded(trial: Trial, model: Recaller, bound: float) -> tuple[GradientGuard, ClipAdjoint | None]:
    """The guard that clips as a trial asks, and the layer that clips its adjoints; both measure all steps."""
    rule: Any = ClipNorm(bound) if trial.rule.startswith("share:") else parse_clip(trial.rule).rule
    present = set(find_roles(model).values())
    roles = [role for role in SCOPES[trial.scope] if role in present]
    if trial.placement == "backprop" and isinstance(rule, ClipNorm):
        layer = ClipAdjoint(model.recurrent, rule)
        model.recurrent = layer
        return GradientGuard(model, None, give_up_after=None), layer
    if not roles or rule is None:
        return GradientGuard(model, None, give_up_after=None), None
    if trial.scope == "per-role":
        return GradientGuard(model, dict.fromkeys(roles, rule), give_up_after=None), None
    return GradientGuard(model, rule, roles=roles, give_up_after=None), None


def evaluate(trial: Trial, task: SequenceTask, model: nn.Module, held_out: Examples) -> float:
    """Error on sequences that training does not see."""
    with torch.no_grad():
        return task.error(head_answer(trial.head, model(held_out.x_BTD)), held_out.y)


def growth_rate(trial: Trial, model: nn.Module, held_out: Examples) -> float:
    """Growth of the adjoint per step back, from the last answer on."""
    few = Examples(held_out.x_BTD[: trial.batch_size], held_out.y[: trial.batch_size])
    found = adjoints(model, lambda: head_loss(trial.head, model(few.x_BTD), few.y))
    first = next(iter(found.values()))
    log_norm_BT = first.log_norm_BT if first.c_log_norm_BT is None else first.c_log_norm_BT
    return math.nan if log_norm_BT.isnan().any() else growth(log_norm_BT).rate


def outcome(task: SequenceTask, error: float, solved_step: float, results: Sequence[ClipResult]) -> dict[str, Any]:
    """What came of the training."""
    bad = sum(result.skipped for result in results)
    relative = error / task.baseline
    return {
        "solved_step": solved_step,
        "final_error": error,
        "relative_error": relative,
        "diverged": bool(bad) or not relative <= 2,
        "nonfinite_steps": bad,
        "done_steps": len(results),
    }


def distortion(results: Sequence[ClipResult], layer: ClipAdjoint | None, bound: float) -> dict[str, float]:
    """What clipping did to the gradients of the finite steps."""
    finite = [result for result in results if not result.skipped]
    reference = bound if 0 < bound < math.inf else 1.0
    head = [result.role_norms.get("head", 0.0) for result in finite]
    total = [result.total_norm for result in finite]
    starved = [norm <= reference < STARVED * whole for norm, whole in zip(head, total, strict=True)]
    found = {
        "clip_fraction": mean([result.clipped for result in finite]),
        "cosine": mean([result.cosine for result in finite]),
        "flipped": 0.0,
        "starved": mean(starved),
        "head_share": statistics.median([a / b for a, b in zip(head, total, strict=True) if b] or [math.nan]),
        "total_norm": statistics.median(total or [math.nan]),
    }
    if layer is not None:
        seen = layer.summary()
        share = seen.distorted / seen.backwards if seen.backwards else math.nan
        found |= {"clip_fraction": share, "cosine": seen.cosine_mean, "flipped": seen.flipped}
    return found


def mean(values: Sequence[float]) -> float:
    """Mean; nan of nothing.

    Example:
        >>> mean([True, False])
        0.5
    """
    return sum(values) / len(values) if values else math.nan
