"""What it costs to look at the flow of gradients, in training steps of the same model.

    python benchmarks/flow.py [--repeats 5]

An LSTM of two layers of 128, context 336, batch 128, one thread. All ways take turns in one run; medians: a training
step, `adjoints` with `growth`, the same by an unrolled layer in autograd with a hook on every h_t, and a step that logs
the norm of every parameter's gradient. Writes benchmarks/results/flow.json.
"""

from __future__ import annotations

import argparse
import statistics
import time
from collections.abc import Callable, Mapping

import torch
from common import machine_facts, write_results
from torch import nn
from write_results_page import write_page

from holdfast.flow import adjoints, diagnose, growth, spectrum

CONTEXT, BATCH, HIDDEN, INPUTS = 336, 128, 128, 8


class Model(nn.Module):
    """Two LSTM layers and a head on the last state."""

    def __init__(self) -> None:
        super().__init__()
        self.rnn = nn.LSTM(INPUTS, HIDDEN, num_layers=2, batch_first=True)
        self.head = nn.Linear(HIDDEN, 1)

    def forward(self, x_BTD: torch.Tensor) -> torch.Tensor:
        """The head's value for each window."""
        return self.head(self.rnn(x_BTD)[0][:, -1])


def unrolled_norms(model: Model, x_BTD: torch.Tensor) -> torch.Tensor:
    """Norms of dL/dh_t of both layers by a loop of cells in autograd."""
    states: list[torch.Tensor] = []
    below = list(x_BTD.unbind(1))
    for layer in range(2):
        weights = [getattr(model.rnn, f"{name}_l{layer}") for name in ("weight_ih", "weight_hh", "bias_ih", "bias_hh")]
        h = c = x_BTD.new_zeros(len(x_BTD), HIDDEN)
        above = []
        for x in below:
            h, c = torch.lstm_cell(x, (h, c), *weights)
            h.retain_grad()
            above.append(h)
        states, below = states + above, above
    model.head(below[-1]).square().mean().backward()
    return torch.stack([h.grad.norm(dim=1) for h in states])


def take_turns(ways: Mapping[str, Callable[[], object]], repeats: int) -> dict[str, float]:
    """Median seconds of each way, in one run."""
    seconds: dict[str, list[float]] = {name: [] for name in ways}
    for turn in range(repeats + 1):
        for name, way in ways.items():
            started = time.perf_counter()
            way()
            if turn:
                seconds[name].append(time.perf_counter() - started)
    return {name: statistics.median(times) for name, times in seconds.items()}


def main() -> None:
    """Measure, print, write."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--repeats", type=int, default=5)
    repeats = parser.parse_args().repeats
    torch.set_num_threads(1)
    torch.manual_seed(0)
    model = Model()
    optimizer = torch.optim.AdamW(model.parameters(), fused=True)
    x_BTD = torch.randn(BATCH, CONTEXT, INPUTS)
    W_NN = torch.randn(512, 512) / 512**0.5

    def step(log: bool) -> None:
        optimizer.zero_grad()
        model(x_BTD).square().mean().backward()
        if log:
            _ = {name: parameter.grad.norm().item() for name, parameter in model.named_parameters()}
        optimizer.step()

    def probe(steps: int) -> None:
        found = adjoints(model, lambda: model(x_BTD[:, -steps:]).square().mean())
        _ = {name: growth(each.log_norm_BT, each.mask_BT) for name, each in found.items()}

    ways = {
        "training step": lambda: step(False),
        "training step that logs the norm of every gradient": lambda: step(True),
        "adjoints and growth of both layers": lambda: probe(CONTEXT),
        "the same over a quarter of the context": lambda: probe(CONTEXT // 4),
        "a whole diagnosis, with spectra, exponents and the verdict": lambda: diagnose(
            model, lambda: model(x_BTD).square().mean()
        ),
        "norms of dL/dh_t by an unrolled loop in autograd": lambda: unrolled_norms(model, x_BTD),
        "spectrum of a recurrent matrix of 512 units": lambda: spectrum(W_NN, "tanh"),
    }
    seconds = take_turns(ways, repeats)
    for name, value in seconds.items():
        print(f"{name:<60}{value:>8.3f} s  {value / seconds['training step']:>6.2f} steps")
    write_results("flow", {"machine": machine_facts(), "repeats": repeats, "seconds": seconds})
    write_page()


if __name__ == "__main__":
    main()
