"""What it costs to hold the recurrent matrices of an LSTM to a constraint, per training step.

    python benchmarks/constraint.py [--repeats 30]

One layer of 128 units, batch 128, one thread, AdamW, over 14 and over 168 recurrent steps; and computing the weights of
four gates alone, forth and back, beside what else could compute them. All ways take turns in one run; medians. Writes
benchmarks/results/constraint.json.
"""

from __future__ import annotations

import argparse
from collections.abc import Callable

import torch
from common import machine_facts, write_results
from torch import Tensor
from write_results_page import write_page

from flow import take_turns
from holdfast.networks import LSTM, constrain_recurrent_

BATCH, HIDDEN, INPUTS, STEPS = 128, 128, 32, (14, 168)
CONSTRAINTS = ("none", "orthogonal", "cap:1")


def training_step(constraint: str, steps: int) -> Callable[[], object]:
    """One step of AdamW on a layer under that constraint."""
    layer = constrain_recurrent_(LSTM(INPUTS, HIDDEN), constraint)
    optimizer = torch.optim.AdamW(layer.parameters(), fused=True)
    x_BTD = torch.randn(BATCH, steps, INPUTS)

    def step() -> None:
        optimizer.zero_grad()
        layer(x_BTD)[0][:, -1].square().mean().backward()
        optimizer.step()

    return step


def weights(compute: Callable[[Tensor], Tensor], X: Tensor) -> Callable[[], object]:
    """The weights of all gates once, and the gradient of X."""
    return lambda: torch.autograd.grad(compute(X).sum(), X)


def main() -> None:
    """Measure, print, write."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--repeats", type=int, default=30)
    repeats = parser.parse_args().repeats
    torch.set_num_threads(1)
    torch.manual_seed(0)
    facts = {}
    for steps in STEPS:
        facts[str(steps)] = take_turns({name: training_step(name, steps) for name in CONSTRAINTS}, repeats)
    X = (0.1 * torch.randn(4 * HIDDEN, HIDDEN)).requires_grad_()
    held = {name: constrain_recurrent_(LSTM(INPUTS, HIDDEN), name).parametrizations for name in CONSTRAINTS[1:]}

    def exponential(X: Tensor) -> Tensor:
        X_GNN = X.unflatten(0, (4, HIDDEN))
        return torch.matrix_exp((X_GNN - X_GNN.mT) / 2)

    def singular_values(X: Tensor) -> Tensor:
        X_GNN = X.unflatten(0, (4, HIDDEN))
        return X_GNN / torch.linalg.matrix_norm(X_GNN, 2, keepdim=True).clamp(min=1)

    ways = {
        "orthogonal": weights(held["orthogonal"]["weight_hh_l0"][0], X),
        "orthogonal by a matrix exponential": weights(exponential, X),
        "cap:1": weights(held["cap:1"]["weight_hh_l0"][0], X),
        "cap:1 by all singular values": weights(singular_values, X),
    }
    alone = take_turns(ways, repeats)
    for title, seconds in {**facts, "weights alone": alone}.items():
        for name, value in seconds.items():
            print(f"{title:<16}{name:<38}{1e3 * value:>8.2f} ms")
    write_results(
        "constraint", {"machine": machine_facts(), "repeats": repeats, "training_step": facts, "weights": alone}
    )
    write_page()


if __name__ == "__main__":
    main()
