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

from holdfast.errors import OptionError, Problem
from holdfast.flow import Growth, adjoints, growth, omega
from holdfast.gradients import (
    ROLES,
    ClipAdjoint,
    ClipNorm,
    ClipResult,
    GradientGuard,
    Role,
    combine_norms,
    find_roles,
    parse_rule,
)
from holdfast.networks import init_recurrent_, make_cell
from holdfast.studies.grid import Trial
from holdfast.studies.tasks import HEADS, TASKS, Examples, SequenceTask, head_answer, head_loss

EVALUATE_EVERY, EVALUATED = 50, 512  # steps; sequences, the same in every trial of a task and length
HELD_OUT_SEED = 2**31 - 1
MOST_BAD_STEPS = 10  # in a row, before a run counts as lost
PILOT_STEPS, PILOT_EVERY = 300, 5  # updates by which `share:` chooses a bound; adjoints are looked at each fifth
SMALLEST_BOUND = 1e-30  # of `share:`, where the gradients themselves are zero
USUAL_BOUND = 1.0  # that `starved` is counted against where the rule names none
STARVED = 0.5  # of its own size: a head left shorter than this by a norm that is not its own
PLACEMENTS, OPTIMIZERS = ("update", "backprop"), ("sgd", "adamw")
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
        trial: On a task of `TASKS`. A rule `share:0.5` clips at the bound that half of the first 300 steps of a run
            without clipping exceed, by the norm of the gradients of its scope (of all for none; for per-role the
            largest norm of a role), or for `backprop` by the largest adjoint. Steps that are not finite do not count.

    Returns:
        solved_step: The step after which the error on held-out sequences was first seen below what counts as solved;
            it is looked at each 50 steps, and training ends there. nan where it is not solved.
        final_error: The last error seen; nan for a run that was lost: 10 steps in a row that were not finite.
        relative_error: Of the best answer without a memory. Classes cannot be much worse than 1.
        diverged: Whether a step was not finite (the guard leaves it out, a plain loop would be lost), or the relative
            error is above 2 or nan. A run that the guard saved can have diverged and solved its task.
        nonfinite_steps, done_steps: How many.
        clip_fraction: Share of the finite steps with a clipped gradient; for `backprop` of all backward passes with a
            clipped adjoint.
        cosine: Mean over steps, between the gradient that was used and the exact one; for `backprop` of the recurrent
            layer.
        flipped: Mean share of its weights whose gradient changed sign, for `backprop`; else 0.
        starved: Share of the finite steps in which one norm over everything would leave the head less than half of a
            gradient that is within the bound by itself; the bound is 1 where the rule has no fixed one.
        head_share: Median of head norm over total norm.
        total_norm: Median.
        growth_before, growth_after: Of the adjoint (of c for an LSTM) per step back, at both ends of the training.
        memory_before, memory_after: Steps back until that adjoint has lost 99 % of its norm; the length where it has
            not.
        bound: Of a rule that has one, inf for none, nan for rules without one fixed norm.
        seconds: All of it.

    Raises:
        OptionError: With all settings that no run is made of.

    Example:
        >>> row = train_trial(Trial(study="s", task="adding", length=10, hidden_size=4, steps=50, lr=0.01))
        >>> row["diverged"], row["done_steps"], 0 < row["relative_error"] < 2
        (False, 50, True)
    """
    check_trial(trial)
    started = time.perf_counter()
    task, model = TASKS[trial.task], Recaller(trial, TASKS[trial.task])
    bound = choose_bound(trial, task, model)
    held_out = task.draw(EVALUATED, trial.length, torch.Generator().manual_seed(HELD_OUT_SEED))
    before = adjoint_growth(trial, model, held_out)
    guard, layer = guarded(trial, model, bound)
    optimizer = make_optimizer(trial, model)
    data = batches_of(trial)
    results: list[ClipResult] = []
    error, solved_step = math.nan, math.nan
    for step in range(1, trial.steps + 1):
        batch = task.draw(trial.batch_size, trial.length, data)
        optimizer.zero_grad()
        loss = penalised(trial, model, batch)
        loss.backward()  # type: ignore[no-untyped-call]
        results.append(guard.step(optimizer, loss=loss))
        if guard.bad_in_a_row == MOST_BAD_STEPS:
            error = math.nan  # weights that nothing moves any more
            break
        if step % EVALUATE_EVERY == 0 or step == trial.steps:
            error = evaluate(trial, task, model, held_out)
            if error < task.solved:
                solved_step = float(step)
                break
    after = adjoint_growth(trial, model, held_out)
    return {
        **outcome(task, error, solved_step, results),
        **distortion(results, layer, bound),
        **{f"growth_{when}": math.nan if found is None else found.rate for when, found in at_ends(before, after)},
        **{f"memory_{when}": memory_of(found, trial.length) for when, found in at_ends(before, after)},
        "bound": bound,
        "seconds": time.perf_counter() - started,
    }


def check_trial(trial: Trial) -> None:
    """Refuse settings that would be passed over in silence, or fail far from here; all in one pass.

    Raises:
        OptionError: With all of them.
    """
    known = {
        "task": tuple(TASKS),
        "head": HEADS,
        "scope": tuple(SCOPES),
        "placement": PLACEMENTS,
        "optimizer": OPTIMIZERS,
        "scale": (1.0,),
    }
    problems = [
        Problem(f"{name} of a trial", f"one of {', '.join(map(str, values))}", repr(given), f"write {values[0]}")
        for name, values in known.items()
        if (given := getattr(trial, name)) not in values
    ]
    shortest = TASKS[trial.task].shortest if trial.task in TASKS else 1
    if trial.length < shortest:
        expected, fix = f"at least {shortest} for {trial.task}", f"write {shortest}"
        problems.append(Problem("length of a trial", expected, str(trial.length), fix))
    if not 0 <= strength_of(trial.penalty) < math.inf:
        problems.append(Problem("penalty of a trial", "none or omega:STRENGTH", trial.penalty, "write omega:1"))
    if trial.rule.startswith("share:") and share_of(trial.rule) is None:
        problems.append(Problem("rule of a trial", "share:Q with 0 < Q < 1", trial.rule, "write share:0.5"))
    if problems:
        raise OptionError(problems)


def share_of(rule: str) -> float | None:
    """The share of the steps that a rule share:Q is to clip; None for another rule, and where Q is no share.

    Example:
        >>> share_of("share:0.25"), share_of("norm:1"), share_of("share:2")
        (0.25, None, None)
    """
    kind, _, text = rule.partition(":")
    try:
        share = float(text) if kind == "share" else math.nan
    except ValueError:
        share = math.nan
    return share if 0 < share < 1 else None


def batches_of(trial: Trial) -> torch.Generator:
    """Where the batches of a trial come from, from the first one on."""
    return torch.Generator().manual_seed(trial.seed + 1)


def make_optimizer(trial: Trial, model: nn.Module) -> Optimizer:
    """Plain gradient descent, or AdamW with torch's defaults."""
    make = torch.optim.SGD if trial.optimizer == "sgd" else torch.optim.AdamW
    return make(model.parameters(), lr=trial.lr)


def choose_bound(trial: Trial, task: SequenceTask, model: nn.Module) -> float:
    """The bound of a rule; of `share:Q` from the first batches, inf for none, nan for rules without one fixed norm."""
    share = share_of(trial.rule)
    if share is None:
        rule = parse_rule(trial.rule)
        return math.inf if rule is None else rule.max_norm if isinstance(rule, ClipNorm) else math.nan
    norms = [norm for norm in pilot_norms(trial, task, model) if math.isfinite(norm)]
    return max(float(torch.tensor(norms or [USUAL_BOUND], dtype=torch.float64).quantile(1 - share)), SMALLEST_BOUND)


def pilot_norms(trial: Trial, task: SequenceTask, model: nn.Module) -> list[float]:
    """What the rule of a trial would bound, in the first steps of a copy of the model that nothing clips."""
    pilot, norms = copy.deepcopy(model), []
    guard, optimizer = GradientGuard(pilot, None, give_up_after=None), make_optimizer(trial, pilot)
    data = batches_of(trial)
    roles = SCOPES[trial.scope] or ROLES
    for step in range(PILOT_STEPS):
        batch = task.draw(trial.batch_size, trial.length, data)

        def loss_fn(batch: Examples = batch) -> Tensor:
            return head_loss(trial.head, pilot(batch.x_BTD), batch.y)

        if trial.placement == "backprop" and step % PILOT_EVERY == 0:
            norms.append(adjoints(pilot, loss_fn)["recurrent.l0"].log_norm_BT.max().exp().item())
        optimizer.zero_grad()
        loss = loss_fn()
        loss.backward()  # type: ignore[no-untyped-call]
        result = guard.step(optimizer, loss=loss)
        if guard.bad_in_a_row == MOST_BAD_STEPS:
            break
        if trial.placement == "update":
            found = [result.role_norms.get(role, 0.0) for role in roles]
            norms.append(max(found) if trial.scope == "per-role" else combine_norms(found))
    return norms


def guarded(trial: Trial, model: Recaller, bound: float) -> tuple[GradientGuard, ClipAdjoint | None]:
    """The guard that clips as a trial asks, and the layer that clips its adjoints; both measure all steps."""
    rule: Any = parse_rule(trial.rule) if share_of(trial.rule) is None else ClipNorm(bound)
    if trial.placement == "backprop" and rule is not None:
        layer = ClipAdjoint(model.recurrent, rule)
        model.recurrent = layer
        return GradientGuard(model, None, give_up_after=None), layer
    present = set(find_roles(model).values())
    roles = [role for role in SCOPES[trial.scope] if role in present]
    if not roles or rule is None:
        return GradientGuard(model, None, give_up_after=None), None
    if trial.scope == "per-role":
        return GradientGuard(model, dict.fromkeys(roles, rule), give_up_after=None), None
    return GradientGuard(model, rule, roles=roles, give_up_after=None), None


def evaluate(trial: Trial, task: SequenceTask, model: nn.Module, held_out: Examples) -> float:
    """Error on sequences that training does not see."""
    with torch.no_grad():
        return task.error(head_answer(trial.head, model(held_out.x_BTD)), held_out.y)


def penalised(trial: Trial, model: nn.Module, batch: Examples) -> Tensor:
    """The loss of a batch, and the penalty of the trial."""
    loss = head_loss(trial.head, model(batch.x_BTD), batch.y)
    strength = strength_of(trial.penalty)
    if not strength:
        return loss
    # Of the whole batch, as the paper has it.
    return loss + strength * omega(model, lambda: head_loss(trial.head, model(batch.x_BTD), batch.y))


def strength_of(penalty: str) -> float:
    """The strength of omega:STRENGTH, 0 for none; nan where it is neither.

    Example:
        >>> strength_of("omega:0.5"), strength_of("none")
        (0.5, 0.0)
    """
    kind, _, text = penalty.partition(":")
    try:
        return 0.0 if penalty == "none" else float(text) if kind == "omega" else math.nan
    except ValueError:
        return math.nan


def adjoint_growth(trial: Trial, model: nn.Module, held_out: Examples) -> Growth | None:
    """Growth of the adjoint per step back, from the last answer on; None where it is not finite."""
    few = Examples(held_out.x_BTD[: trial.batch_size], held_out.y[: trial.batch_size])
    found = adjoints(model, lambda: head_loss(trial.head, model(few.x_BTD), few.y))
    first = next(iter(found.values()))
    log_norm_BT = first.log_norm_BT if first.c_log_norm_BT is None else first.c_log_norm_BT
    return None if log_norm_BT.isnan().any() else growth(log_norm_BT)


def at_ends(before: Growth | None, after: Growth | None) -> Sequence[tuple[str, Growth | None]]:
    """Both ends of a training, with their names."""
    return ("before", before), ("after", after)


def memory_of(found: Growth | None, length: int) -> float:
    """Steps back until the adjoint has lost 99 % of its norm, at most the length; nan where it is not finite."""
    if found is None:
        return math.nan
    return float(length if found.memory_length is None else found.memory_length)


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
    reference = bound if bound < math.inf else USUAL_BOUND  # nan is not below
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
    """Mean; nan of nothing."""
    return sum(values) / len(values) if values else math.nan
