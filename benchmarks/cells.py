"""RNN and GRU of holdfast beside those of torch.nn on a CPU: forward and backward, and forward alone.

    python benchmarks/cells.py [--turns 9] [--threads 1 2]

Equal layers of 128 units and 32 inputs, batch 128. Each side has a process of its own, as in a training run, for what
one side frees would be memory at hand for the other; they take turns, and who goes first changes. Medians of the turns,
by the clock and by the time that the processor gave: on a busy machine the first holds what others did. Writes
benchmarks/results/cells.json.
"""

from __future__ import annotations

import argparse
import multiprocessing
import os
import statistics
import time
from multiprocessing.connection import Connection
from typing import Any

import torch
from common import machine_facts, write_results
from torch import Tensor, nn
from write_results_page import write_page

from holdfast.networks import GRU, RNN

BATCH, HIDDEN, INPUTS = 128, 128, 32
STEPS, LAYERS, KINDS = (14, 96, 336), (1, 2), ("RNN tanh", "RNN relu", "GRU")
SIDES = ("torch", "holdfast")
REPEATS = {14: 6, 96: 2, 336: 1}  # of one turn


def make_layer(side: str, kind: str, layers: int) -> nn.Module:
    """One layer; nothing that is measured depends on its weights."""
    nonlinearity = kind.removeprefix("RNN ")
    if side == "holdfast":
        return GRU(INPUTS, HIDDEN, layers) if kind == "GRU" else RNN(INPUTS, HIDDEN, layers, nonlinearity=nonlinearity)
    if kind == "GRU":
        return nn.GRU(INPUTS, HIDDEN, layers, batch_first=True)
    return nn.RNN(INPUTS, HIDDEN, layers, nonlinearity=nonlinearity, batch_first=True)


def train(layer: nn.Module, x_BTD: Tensor, g_BTN: Tensor) -> None:
    """Forward and backward."""
    layer(x_BTD)[0].backward(g_BTN)


@torch.no_grad()
def predict(layer: nn.Module, x_BTD: Tensor, _: Tensor) -> None:
    """Forward alone."""
    layer(x_BTD)


def serve(connection: Connection, side: str, threads: int) -> None:
    """Answer each (kind, layers, steps, whether to start afresh) with (clock, processor) seconds of both tasks."""
    torch.set_num_threads(threads)
    torch.manual_seed(0)
    while (request := connection.recv()) is not None:
        kind, layers, steps, afresh = request
        if afresh:
            layer = make_layer(side, kind, layers)
            x_BTD, g_BTN = torch.randn(BATCH, steps, INPUTS), torch.randn(BATCH, steps, HIDDEN)
        seconds = []
        for task in (train, predict):
            task(layer, x_BTD, g_BTN)  # what the other side left in the cache is not to count
            started = time.perf_counter(), time.process_time()
            for _ in range(REPEATS[steps]):
                task(layer, x_BTD, g_BTN)
            ended = time.perf_counter(), time.process_time()
            seconds.append([(end - start) / REPEATS[steps] for start, end in zip(started, ended, strict=True)])
        connection.send(seconds)


def compare(connections: list[Connection], case: tuple[str, int, int], turns: int) -> dict[str, float]:
    """Medians of both sides, in milliseconds, and their ratios."""
    answers: dict[str, list[Any]] = {side: [] for side in SIDES}
    for turn in range(turns + 1):
        for place in ((0, 1), (1, 0))[turn % 2]:
            connections[place].send((*case, turn == 0))
            answers[SIDES[place]].append(connections[place].recv())
    row = {}
    for t, task in enumerate(("train", "predict")):
        for c, clock in enumerate(("", "_cpu")):
            theirs, ours = (statistics.median(answer[t][c] for answer in answers[side][1:]) for side in SIDES)
            row |= {f"{task}{clock}_torch_ms": 1000 * theirs, f"{task}{clock}_ms": 1000 * ours}
            row[f"{task}{clock}_ratio"] = ours / theirs
    return row


def main() -> None:
    """Measure, print, write."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--turns", type=int, default=9)
    parser.add_argument("--threads", type=int, nargs="+", default=[1, 2])
    options = parser.parse_args()
    spawn = multiprocessing.get_context("spawn")
    rows = []
    for threads in options.threads:
        pipes = [spawn.Pipe() for _ in SIDES]
        for (_, end), side in zip(pipes, SIDES, strict=True):
            spawn.Process(target=serve, args=(end, side, threads), daemon=True).start()
        for kind in KINDS:
            for layers in LAYERS:
                for steps in STEPS:
                    row = compare([own for own, _ in pipes], (kind, layers, steps), options.turns)
                    rows.append({"kind": kind, "layers": layers, "steps": steps, "threads": threads, **row})
                    print({key: round(each, 2) if isinstance(each, float) else each for key, each in rows[-1].items()})
        for own, _ in pipes:
            own.send(None)
    load = os.getloadavg()[1]  # over five minutes
    write_results("cells", {"machine": machine_facts(), "turns": options.turns, "load": load, "rows": rows})
    write_page()


if __name__ == "__main__":
    main()
