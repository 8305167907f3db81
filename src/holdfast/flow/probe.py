"""Looks at the flow of gradients while a model trains, as often as a share of the run time allows."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from holdfast.errors import OptionError, Problem
from holdfast.flow.adjoints import adjoints
from holdfast.flow.capture import captured, untouched
from holdfast.flow.growth import Growth, growth

FIRST_COST = 4.0  # training steps that a first sample counts as before it is taken: adjoints cost 2 to 3
STEPS_APART = 10  # at least, between two samples that a budget allows: weights change little in fewer

_clock: Callable[[], float] = time.perf_counter  # the only clock here


@dataclass(frozen=True)
class FlowSample:
    """One look at the flow of gradients.

    Attributes:
        step: Number of the call of `FlowProbe.step`, from 1.
        growth: How adjoints go with lag, by the names that `adjoints` gives. Nothing is raised over numbers: a layer
            that no gradient reaches has `windows` 0, one in which anything is not finite a `rate` of nan. Empty where
            the device had no memory left for a sample.
        seconds: Wall time of the sample.

    Example:
        >>> sample = FlowSample(step=131, growth={"l0": growth(torch.tensor([[-2.0, -1.0, 0.0]]))}, seconds=0.1)
        >>> round(sample.growth["l0"].rate, 6)
        0.367879
    """

    step: int
    growth: Mapping[str, Growth]
    seconds: float


class FlowProbe:
    """Samples `adjoints` and their `growth` in a training loop, and leaves the training as it is, bit for bit.

    A sample is taken when all samples so far and the next one, which counts as the longest of them, stay within
    `budget` of the run time, at most once in 10 steps. Before the first it counts as 4 training steps, so that with 3 %
    the first one comes at step 131. Should one take longer than that, later ones wait until the share is kept again.

    Weights, gradients that wait in `.grad`, modes, buffers and random states are bit-identical with and without.
    Where a model communicates with other ranks as it runs, give `every`: their clocks do not agree on a step.

    Args:
        model: What holds the recurrent layers, as for `adjoints`.
        every: Sample each n-th step instead, whatever it costs.
        budget: Largest share of the run time for samples, from 0 (none) to 1. The run time goes from the first call
            of `step` to the last.

    Attributes:
        samples: How many were taken.

    Raises:
        OptionError: No recurrent layer whose forward is known; `every` or `budget` outside its range.

    Example:
        >>> layer = nn.RNN(1, 1, nonlinearity="relu", bias=False).double()
        >>> _ = [nn.init.constant_(weight, 0.5) for weight in layer.parameters()]
        >>> x_TBD = torch.ones(100, 8, 1, dtype=torch.float64)
        >>> probe = FlowProbe(layer, every=2)
        >>> for _ in range(4):  # the training step itself is left out here
        ...     sample = probe.step(lambda: layer(x_TBD)[0][-1].square().mean())
        ...     if sample:
        ...         print(sample.step, round(sample.growth["l0"].rate, 9))
        2 0.5
        4 0.5
    """

    def __init__(self, model: nn.Module, *, every: int | None = None, budget: float = 0.03) -> None:
        _check(every, budget)
        with untouched(model), captured(model):
            pass  # a model without a layer to look at is refused now, not in the middle of a run
        self.model, self.every, self.budget = model, every, budget
        self.samples = 0
        self._calls = self._sampled_at = 0
        self._started = self._seconds = 0.0  # of the run, until the end of the newest call
        self._spent = self._longest = 0.0  # on samples

    def step(self, loss_fn: Callable[[], Tensor]) -> FlowSample | None:
        """Count one training step, and look at the flow if it is time to. It may stand anywhere in the step.

        Args:
            loss_fn: Runs the model on the windows of the step, or some of them, and returns the loss, one number with a
                graph; it calls no `backward`. Not called where no sample is taken.

        Returns:
            The sample, or None.

        Raises:
            OptionError: What `loss_fn` returns is no number with a graph, or it called no recurrent layer of the model.
        """
        now = _clock()
        self._calls += 1
        if self._calls == 1:
            self._started = now
        self._seconds = now - self._started
        if not self._due():
            return None
        found = self._look(loss_fn)
        taken = _clock() - now
        self.samples += 1
        self._sampled_at = self._calls
        self._seconds += taken
        self._spent += taken
        self._longest = max(self._longest, taken)
        return FlowSample(self._calls, found, taken)

    @property
    def share(self) -> float:
        """Share of the run time that went into samples, until the newest call of `step`."""
        return self._spent / self._seconds if self._spent else 0.0

    def _due(self) -> bool:
        """Whether this step is to be sampled."""
        if self.every is not None:
            return self._calls % self.every == 0
        if self._calls - self._sampled_at < STEPS_APART:
            return False
        cost = self._longest if self.samples else FIRST_COST * self._seconds / (self._calls - 1)
        return self._spent + cost < self.budget * (self._seconds + cost)

    def _look(self, loss_fn: Callable[[], Tensor]) -> dict[str, Growth]:
        try:
            found = adjoints(self.model, loss_fn)
        except torch.OutOfMemoryError:  # the training itself fits: it is not to end over a look at it
            return {}
        return {name: growth(each.log_norm_BT, each.mask_BT, reverse=each.reverse) for name, each in found.items()}


def _check(every: int | None, budget: float) -> None:
    problems = []
    if every is not None and (not isinstance(every, int) or isinstance(every, bool) or every < 1):
        fix = "give every=100, or leave it out"
        problems.append(Problem("every of FlowProbe", "a whole number of at least 1", repr(every), fix))
    if not 0 <= budget <= 1:
        problems.append(Problem("budget of FlowProbe", "a share from 0 to 1", repr(budget), "give budget=0.03"))
    if problems:
        raise OptionError(problems)
