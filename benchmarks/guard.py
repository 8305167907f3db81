"""Clip and update: the guard beside `torch.nn.utils.clip_grad_norm_` and the same optimiser's step.

    python benchmarks/guard.py [--steps 60] [--runs 3] [--threads 1 2]

Equal LSTM models with equal gradients on both sides, which take turns in one run; medians. The guard's time holds all
of its telemetry: norms by tensor and role, coefficients, cosine, counts. Writes benchmarks/results/guard.json.
"""

from __future__ import annotations

import argparse
import copy
import statistics
import time
from collections.abc import Callable, Sequence
from typing import Any

import torch
from common import machine_facts, write_results
from torch import nn
from write_results_page import write_page

from holdfast.gradients import ROLES, ClipNorm, GradientGuard

SIZES = {"0.2M": (64, 128, 2), "3M": (64, 512, 2), "20M": (64, 1296, 2)}  # inputs, hidden units, layers
OPTIMISERS: dict[str, Callable[[Any], torch.optim.Optimizer]] = {
    "AdamW, fused": lambda parameters: torch.optim.AdamW(parameters, lr=1e-6, fused=True),
    "SGD with momentum, fused": lambda parameters: torch.optim.SGD(parameters, lr=1e-6, momentum=0.9, fused=True),
    "AdamW, not fused": lambda parameters: torch.optim.AdamW(parameters, lr=1e-6),
}
WARM_UP = 5


class Side:
    """One model with gradients that are put back before every step."""

    def __init__(self, model: nn.Module) -> None:
        self.model = model
        self.parameters = list(model.parameters())
        generator = torch.Generator().manual_seed(0)
        self.source = [torch.randn(each.shape, generator=generator) * 0.01 for each in self.parameters]
        for parameter, gradient in zip(self.parameters, self.source, strict=True):
            parameter.grad = gradient.clone()

    def renew(self) -> None:
        """The gradients as backward would leave them."""
        for parameter, gradient in zip(self.parameters, self.source, strict=True):
            parameter.grad.copy_(gradient)


def make_model(size: str) -> nn.Module:
    """An LSTM with a linear head."""
    inputs, hidden, layers = SIZES[size]
    return nn.ModuleDict({"rnn": nn.LSTM(inputs, hidden, layers), "head": nn.Linear(hidden, 96)})


def take_turns(sides: Sequence[tuple[Callable[[], None], Callable[[], None]]], steps: int) -> list[float]:
    """Median seconds of each (prepare, do) pair; only `do` is timed, and who goes first changes."""
    seconds: list[list[float]] = [[] for _ in sides]
    for step in range(WARM_UP + steps):
        for turn in range(len(sides)):
            place = (turn + step) % len(sides)
            prepare, do = sides[place]
            prepare()
            started = time.perf_counter()
            do()
            seconds[place].append(time.perf_counter() - started)
    return [statistics.median(times[WARM_UP:]) for times in seconds]


def clip_and_update(size: str, optimiser: str, clipped: bool, steps: int) -> dict[str, Any]:
    """Both calls of torch beside the guard's one."""
    theirs = Side(make_model(size))
    ours = Side(copy.deepcopy(theirs.model))
    max_norm = 0.1 if clipped else 1e6
    their_optimizer, our_optimizer = (OPTIMISERS[optimiser](side.parameters) for side in (theirs, ours))
    guard = GradientGuard(ours.model, ClipNorm(max_norm))

    def torch_step() -> None:
        nn.utils.clip_grad_norm_(theirs.parameters, max_norm)
        their_optimizer.step()

    one, other = take_turns(
        [(theirs.renew, torch_step), (ours.renew, lambda: guard.step(our_optimizer) and None)], steps
    )
    return {
        "size": size,
        "parameters": sum(each.numel() for each in ours.parameters),
        "optimiser": optimiser,
        "clipped": clipped,
        "threads": torch.get_num_threads(),
        "torch_ms": 1000 * one,
        "guard_ms": 1000 * other,
        "ratio": other / one,
    }


def norms_by_role(size: str, steps: int) -> dict[str, Any]:
    """Measuring five roles beside measuring one."""
    side = Side(make_model(size))
    names = [name for name, _ in side.model.named_parameters()]
    one_role = GradientGuard(side.model, ClipNorm(1.0), overrides=dict.fromkeys(names, "other"))
    by_role = GradientGuard(side.model, {role: ClipNorm(1.0) for role in ROLES})
    one, other = take_turns(
        [(side.renew, lambda: one_role.measure() and None), (side.renew, lambda: by_role.measure() and None)], steps
    )
    return {
        "size": size,
        "threads": torch.get_num_threads(),
        "one_ms": 1000 * one,
        "roles_ms": 1000 * other,
        "ratio": other / one,
    }


def measure(steps: int, threads: list[int]) -> dict[str, Any]:
    """One run over all models, optimisers and numbers of threads."""
    updates, roles = [], []
    for count in threads:
        torch.set_num_threads(count)
        for size in SIZES:
            own = steps * (5 if size == "0.2M" else 1)
            for optimiser in OPTIMISERS:
                for clipped in (True, False):
                    updates.append(clip_and_update(size, optimiser, clipped, own))
                    print(updates[-1], flush=True)
            roles.append(norms_by_role(size, own))
            print(roles[-1], flush=True)
    return {"updates": updates, "roles": roles}


def main() -> None:
    """Measure, print, write."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--steps", type=int, default=60)
    parser.add_argument("--runs", type=int, default=3)
    parser.add_argument("--threads", type=int, nargs="+", default=[1, 2])
    options = parser.parse_args()
    runs: list[dict[str, Any]] = []
    for _ in range(options.runs):
        runs.append(measure(options.steps, options.threads))
        write_results("guard", {"machine": machine_facts(), "steps": options.steps, "runs": runs})
    write_page()


if __name__ == "__main__":
    main()
