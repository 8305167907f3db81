"""Cost of a training step over the bare forward, backward and update, and its independence of the length of series.

    python benchmarks/training_step.py [--steps 200]

One thread, batch 128, context 336 in segments of 24, horizon 48, one LSTM layer of 128. Both sides of a comparison
take turns in one run, on equal networks and the same windows; medians. Writes benchmarks/results/training_step.json.
"""

from __future__ import annotations

import argparse
import statistics
import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import torch
from common import machine_facts, write_results
from write_results_page import write_page

from holdfast.gradients import GradientGuard
from holdfast.networks import ForecastNetwork, NetworkConfig, QuantileHead, batch_loss, candidate_anchors
from holdfast.training import TrainingConfig, error_scales, split_series, train_step
from holdfast.training.loop import make_guard, make_optimizer
from holdfast.windows import Batch, Sampler, Windows

BATCH, CONTEXT, SEGMENT, HORIZON, HIDDEN, SEASONS = 128, 336, 24, 48, 128, (24, 168)
WARM_UP = 20  # steps that are not counted


@dataclass
class Side:
    """One network in training, and the windows that it trains on."""

    network: ForecastNetwork
    optimizer: torch.optim.Optimizer
    guard: GradientGuard
    windows: Windows
    sampler: Sampler
    until_n: torch.Tensor
    error_scale_n: torch.Tensor

    def batch(self, step: int) -> Batch:
        """The windows of one step."""
        return self.windows.gather(
            *self.sampler.draw(step), context_length=CONTEXT, horizon=HORIZON, until_n=self.until_n
        )

    def full_step(self, step: int) -> None:
        """What the fit loop does in one step."""
        batch = self.batch(step)
        train_step(self.network, batch, self.error_scale_n[batch.series_B], self.optimizer, self.guard, step)

    def bare_step(self, batch: Batch) -> None:
        """Forward, backward and update, and nothing else."""
        loss = batch_loss(self.network.head, self.network(batch), batch, self.error_scale_n[batch.series_B])
        self.optimizer.zero_grad()
        loss.backward()
        self.optimizer.step()


def make_side(n_series: int, observations: int) -> Side:
    """A fresh network over series with a daily season, a weekly season and noise."""
    random, length_n = np.random.default_rng(0), np.full(n_series, observations)
    rows = observations + HORIZON
    hour = 2 * np.pi * np.arange(rows) / 24
    y_nR = 100 + 10 * np.sin(hour) + 5 * np.sin(hour / 7) + random.normal(size=(n_series, rows))
    y_nR[:, observations:] = np.nan
    offsets = [rows * i for i in range(n_series + 1)]
    split = split_series(length_n, CONTEXT, HORIZON)
    scales = error_scales(y_nR.ravel(), np.array(offsets[:-1]), split.until_n, SEASONS[0])
    size = NetworkConfig(
        horizon=HORIZON,
        context_length=CONTEXT,
        segment=SEGMENT,
        seasons=SEASONS,
        anchors=candidate_anchors(SEASONS, HORIZON),
        hidden_size=HIDDEN,
        num_layers=1,
    )
    network, config = ForecastNetwork(size, QuantileHead((80.0, 95.0))), TrainingConfig(batch_size=BATCH)
    return Side(
        network=network,
        optimizer=make_optimizer(network, config),
        guard=make_guard(network, config),
        windows=Windows.from_arrays(y_nR.ravel(), offsets, length_n.tolist()),
        sampler=Sampler(split.first_n, split.last_n, BATCH, config.seed),
        until_n=torch.from_numpy(split.until_n),
        error_scale_n=torch.from_numpy(scales),
    )


def take_turns(first: Callable[[int], None], second: Callable[[int], None], steps: int) -> tuple[float, float]:
    """Median seconds of both, in one run; who goes first changes from step to step."""
    seconds: dict[Callable[[int], None], list[float]] = {first: [], second: []}
    for step in range(1, WARM_UP + steps + 1):
        for turn in (first, second) if step % 2 else (second, first):
            started = time.perf_counter()
            turn(step)
            seconds[turn].append(time.perf_counter() - started)
    one, other = (statistics.median(times[WARM_UP:]) for times in seconds.values())
    return one, other


def overhead(steps: int) -> list[dict[str, str]]:
    """The whole step beside the bare one."""
    bare, full = make_side(414, 960), make_side(414, 960)
    batches = [bare.batch(step) for step in range(1, WARM_UP + steps + 1)]
    one, other = take_turns(lambda step: bare.bare_step(batches[step - 1]), full.full_step, steps)
    return [
        {"what": "bare forward, backward and update", "value": f"{1000 * one:.2f} ms"},
        {"what": "draw, gather and train_step", "value": f"{1000 * other:.2f} ms"},
        {"what": "overhead", "value": f"{100 * (other / one - 1):.1f} %"},
    ]


def lengths(steps: int) -> list[dict[str, str]]:
    """The whole step over short and over long series."""
    short, long = make_side(16, 1_000), make_side(16, 1_000_000)
    one, other = take_turns(short.full_step, long.full_step, steps)
    return [
        {"what": "step with 16 series of 1,000 observations", "value": f"{1000 * one:.2f} ms"},
        {"what": "step with 16 series of 1,000,000 observations", "value": f"{1000 * other:.2f} ms"},
        {"what": "difference", "value": f"{100 * (other / one - 1):+.1f} %"},
    ]


def import_time(repeats: int = 7) -> list[dict[str, str]]:
    """What `import holdfast` costs after `import torch`, in fresh processes."""
    code = "import time, torch; start = time.perf_counter(); import holdfast; print(time.perf_counter() - start)"
    seconds = [
        float(subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout)
        for _ in range(repeats)
    ]
    return [{"what": "import holdfast after import torch", "value": f"{1000 * statistics.median(seconds):.1f} ms"}]


def main() -> None:
    """Measure, print, write."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--steps", type=int, default=200)
    steps = parser.parse_args().steps
    torch.set_num_threads(1)
    rows = overhead(steps) + lengths(steps) + import_time()
    for row in rows:
        print(f"{row['what']:<48}{row['value']:>12}")
    write_results("training_step", {"machine": machine_facts(), "steps": steps, "rows": rows})
    write_page()


if __name__ == "__main__":
    main()
