"""What it costs to look at the flow of gradients while a model trains.

    python benchmarks/probe.py [--steps 200] [--repeats 5] [--loop-repeats 2]

A fit of M4 Hourly with the defaults, one thread, and a plain loop over an LSTM of two layers of 128, context 336, batch
128, each with the probe and without in turns; medians over the turns of the seconds per step, of their ratio within a
turn, and of the share that the probe says it took. The first sample comes at step 131. Writes
benchmarks/results/probe.json.
"""

from __future__ import annotations

import argparse
import statistics
import time
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import torch
from common import machine_facts, write_results
from write_results_page import write_page

from flow import BATCH, CONTEXT, INPUTS, Model
from holdfast import Config
from holdfast.flow import FlowProbe
from holdfast.forecasting.members import plan
from holdfast.forecasting.plan import training_config
from holdfast.forecasting.prepared import prepare
from holdfast.series import RawTable, m4_hourly
from holdfast.telemetry import TelemetryLog
from holdfast.training import train

Side = Callable[[bool], tuple[float, int, float]]  # with the probe or without: seconds per step, samples, share


def fit_side(steps: int) -> Side:
    """A fit with the defaults, without what comes before and after its loop."""
    prepared = prepare(Config(horizon=48, season_length=24, max_steps=steps), RawTable(m4_hourly("train")))
    config = training_config(prepared.config, plan(prepared))

    def run(probed: bool) -> tuple[float, int, float]:
        task = plan(prepared)
        with TelemetryLog() as log:
            progress = train(task, config if probed else replace(config, probe_share=0.0), log)
        seconds = progress.seconds - log.validations[0].seconds
        return seconds / steps, len(log.flows), sum(record.seconds for record in log.flows) / seconds

    return run


def loop_side(steps: int) -> Side:
    """A loop as users write it."""

    def run(probed: bool) -> tuple[float, int, float]:
        torch.manual_seed(0)
        model, x_BTD = Model(), torch.randn(BATCH, CONTEXT, INPUTS)
        optimizer = torch.optim.AdamW(model.parameters(), fused=True)
        probe = FlowProbe(model, budget=0.03 if probed else 0.0)
        started = time.perf_counter()
        for _ in range(steps):
            optimizer.zero_grad()
            model(x_BTD).square().mean().backward()
            optimizer.step()
            probe.step(lambda: model(x_BTD).square().mean())
        return (time.perf_counter() - started) / steps, probe.samples, probe.share

    return run


def take_turns(side: Side, repeats: int) -> dict[str, Any]:
    """Medians of both ways; who goes first changes from turn to turn."""
    found: dict[bool, list[tuple[float, int, float]]] = {True: [], False: []}
    for turn in range(repeats):
        for probed in (turn % 2 == 0, turn % 2 == 1):
            found[probed].append(side(probed))
            print(f"probe {'on' if probed else 'off'}: {found[probed][-1]}", flush=True)
    seconds, samples, share = (statistics.median(column) for column in zip(*found[True], strict=True))
    ratio = statistics.median(one[0] / other[0] for one, other in zip(found[True], found[False], strict=True))
    without = statistics.median(each for each, *_ in found[False])
    facts = {"with_ms": 1000 * seconds, "without_ms": 1000 * without, "ratio": ratio}
    return {**facts, "samples": samples, "share": share, "turns": repeats}


def main() -> None:
    """Measure, print, write."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--steps", type=int, default=200)
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--loop-repeats", type=int, default=2)
    options = parser.parse_args()
    torch.set_num_threads(1)
    rows = {
        "`fit` of M4 Hourly with the defaults": take_turns(fit_side(options.steps), options.repeats),
        "a plain loop, LSTM of two layers of 128": take_turns(loop_side(options.steps), options.loop_repeats),
    }
    write_results("probe", {"machine": machine_facts(), "steps": options.steps, "rows": rows})
    write_page()


if __name__ == "__main__":
    main()
