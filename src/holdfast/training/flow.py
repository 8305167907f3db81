"""What a fit tells of the flow of gradients: samples on some windows of the batch, as records and in words."""

from __future__ import annotations

import math
from dataclasses import fields

from torch import Tensor

from holdfast.flow import FlowProbe, FlowSample, Growth
from holdfast.networks import batch_loss
from holdfast.telemetry import FlowRecord, TelemetryLog
from holdfast.training.task import Task
from holdfast.windows import Batch

PROBED_WINDOWS = 16  # enough for a standard error; the adjoints of a window do not depend on the others
MOST_LAGS = 64  # that a record keeps, however long the context


def probe_flow(probe: FlowProbe, task: Task, batch: Batch, step: int, log: TelemetryLog) -> None:
    """Count a step, and keep a record of the flow of gradients if the probe samples it.

    The first 16 windows of the batch go through the network as it is after the step, with dropout as in training: that
    is the flow which training sees. Its masks go on from the random state of the step.

    Args:
        probe: Of the network.
        task: Network and data.
        batch: B windows.
        step: Number of the step, for the record.
        log: Where the record goes.
    """

    def loss() -> Tensor:
        few = Batch(*(getattr(batch, field.name)[:PROBED_WINDOWS] for field in fields(batch)))
        return batch_loss(task.network.head, task.network(few), few, task.error_scale_n[few.series_B])

    sample = probe.step(loss)
    if sample is not None:
        log.append(flow_record(sample, step))


def flow_record(sample: FlowSample, step: int) -> FlowRecord:
    """A sample in the numbers that are kept, with the profile at up to 64 lags.

    Example:
        >>> import torch
        >>> from holdfast.flow import growth
        >>> halving_BT = math.log(2.0) * torch.arange(200.0).expand(3, -1)
        >>> record = flow_record(FlowSample(1, {"l0": growth(halving_BT)}, 0.1), step=1)
        >>> round(record.rates["l0"], 6), record.memory_lengths["l0"], len(record.lags["l0"]), record.lags["l0"][-1]
        (0.5, 7.0, 64, 199)
    """
    found = sample.growth
    lags = {name: _spread(len(each.per_lag.mean)) for name, each in found.items()}
    return FlowRecord(
        step=step,
        rates={name: each.rate for name, each in found.items()},
        rate_errors={name: each.rate_error for name, each in found.items()},
        log_factors={name: each.log_factor for name, each in found.items()},
        memory_lengths={name: _memory(each) for name, each in found.items()},
        lags=lags,
        log_norms={name: tuple(found[name].per_lag.mean[lag] for lag in own) for name, own in lags.items()},
        seconds=sample.seconds,
    )


def flow_notes(log: TelemetryLog, seconds: float) -> list[str]:
    """How gradients flowed back through time at the end of a fit, and what it cost to look.

    Args:
        log: The records of the whole fit.
        seconds: That the fit took.

    Returns:
        One sentence; nothing where no sample was taken, or where there is only one recurrent step.

    Example:
        >>> log = TelemetryLog()
        >>> log.append(FlowRecord(step=131, rates={"recurrent.l0": 0.5}, rate_errors={}, log_factors={},
        ...     memory_lengths={}, lags={"recurrent.l0": (0, 1)}, log_norms={}, seconds=0.01))
        >>> flow_notes(log, seconds=2.0)
        ['gradients flow back through time at 0.5 per recurrent step (l0); 1 sample, 0.5 % of the time']
    """
    if not log.flows:
        return []
    last, count = log.flows[-1], len(log.flows)
    told = [f"{_told(last, name)} ({name.rpartition('.')[2]})" for name, lags in last.lags.items() if lags != (0,)]
    if not told:
        return []
    share = sum(record.seconds for record in log.flows) / seconds
    samples = "1 sample" if count == 1 else f"{count} samples"
    return [f"gradients flow back through time {', '.join(told)}; {samples}, {100 * share:.2g} % of the time"]


def _told(record: FlowRecord, name: str) -> str:
    rate = record.rates[name]
    if math.isnan(rate):
        return "in numbers that are not finite" if record.lags[name] else "not at all"
    return f"at {rate:.3g} per recurrent step"


def _spread(count: int) -> tuple[int, ...]:
    """Up to 64 of the lags from 0 to `count` - 1, the first and the last among them."""
    most = min(count, MOST_LAGS)
    return tuple(i * (count - 1) // (most - 1) if most > 1 else 0 for i in range(most))


def _memory(found: Growth) -> float:
    if found.memory_length is None:
        return math.nan if math.isnan(found.log_factor) else math.inf
    return float(found.memory_length)
