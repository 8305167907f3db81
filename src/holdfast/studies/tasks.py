"""Sequences that cannot be learned without a memory, drawn anew for each step, with what a model without one scores.

B windows, T steps, D features, K outputs.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass

import torch
from torch import Tensor

from holdfast.errors import OptionError, Problem

SYMBOLS, DISTRACTORS = 2, 4  # of the temporal order problem
LETTERS, COPIED = 4, 3  # of the copy problem


@dataclass(frozen=True, eq=False)
class Examples:
    """Inputs and targets of one batch.

    Attributes:
        x_BTD: Inputs.
        y: Targets in [0, 1]: [B, K] at the last step, or [B, S, K] at the last S steps.
    """

    x_BTD: Tensor
    y: Tensor


@dataclass(frozen=True)
class SequenceTask:
    """A problem of Hochreiter and Schmidhuber (1997), or of Arjovsky, Shah and Bengio (2016).

    Attributes:
        name: As in `TASKS`.
        inputs: D.
        outputs: K.
        answers: Last steps that carry a target.
        classes: Whether the K outputs are a class in one-hot form; else one number.
        shortest: Least T.
        baseline: Error of the best answer that has no memory: mean squared error of the constant mean for numbers,
            share of wrong answers of a guess for classes.
        solved: Error below which the problem counts as solved.
        draw: A batch of a size and a length from a generator.

    Example:
        >>> task = TASKS["adding"]
        >>> batch = task.draw(4, 20, torch.Generator().manual_seed(0))
        >>> batch.x_BTD.shape, batch.y.shape, round(task.baseline, 4)
        (torch.Size([4, 20, 2]), torch.Size([4, 1]), 0.0417)
    """

    name: str
    inputs: int
    outputs: int
    answers: int
    classes: bool
    shortest: int
    baseline: float
    solved: float
    draw: Callable[[int, int, torch.Generator], Examples]

    def error(self, answer: Tensor, y: Tensor) -> float:
        """Mean squared error, or share of wrong classes.

        Args:
            answer: Means or probabilities, shaped as the targets.
            y: Targets.

        Returns:
            The error; nan where an answer is not finite, which has no largest class either.
        """
        if not answer.isfinite().all():
            return math.nan
        if self.classes:
            return (answer.argmax(-1) != y.argmax(-1)).double().mean().item()
        return (answer - y).double().square().mean().item()


def _adding(B: int, T: int, generator: torch.Generator) -> Examples:
    """Two of T numbers from [0, 1] are marked, one in each half; the target is their mean, of variance 1/24."""
    value_BT = torch.rand(B, T, generator=generator)
    first_B = torch.randint(0, T // 2, (B,), generator=generator)
    second_B = torch.randint(T // 2, T, (B,), generator=generator)
    rows = torch.arange(B)
    mark_BT = torch.zeros(B, T)
    mark_BT[rows, first_B] = mark_BT[rows, second_B] = 1.0
    y_B1 = (value_BT * mark_BT).sum(1, keepdim=True) / 2
    return Examples(torch.stack([value_BT, mark_BT], -1), y_B1)


def _temporal_order(B: int, T: int, generator: torch.Generator) -> Examples:
    """Two symbols, each one of two, among distractors, in the second and the fifth tenth: which, in which order?

    The tenths are those of Pascanu, Mikolov and Bengio (ICML 2013); there are no symbols for start and end.
    """
    symbol_BT = torch.randint(SYMBOLS, SYMBOLS + DISTRACTORS, (B, T), generator=generator)
    rows = torch.arange(B)
    pair_B2 = torch.randint(0, SYMBOLS, (B, 2), generator=generator)
    for which, start in enumerate((1, 4)):
        low = start * T // 10
        high = max((start + 1) * T // 10, low + 1)
        symbol_BT[rows, torch.randint(low, high, (B,), generator=generator)] = pair_B2[:, which]
    x_BTD = torch.nn.functional.one_hot(symbol_BT, SYMBOLS + DISTRACTORS).float()
    return Examples(x_BTD, torch.nn.functional.one_hot(SYMBOLS * pair_B2[:, 0] + pair_B2[:, 1], SYMBOLS**2).float())


def _copy(B: int, T: int, generator: torch.Generator) -> Examples:
    """Three letters, a blank time, a signal: then the letters again. T counts all of these steps."""
    blank, signal = LETTERS, LETTERS + 1
    letter_BS = torch.randint(0, LETTERS, (B, COPIED), generator=generator)
    symbol_BT = torch.full((B, T), blank)
    symbol_BT[:, :COPIED] = letter_BS
    symbol_BT[:, -COPIED - 1] = signal
    x_BTD = torch.nn.functional.one_hot(symbol_BT, LETTERS + 2).float()
    return Examples(x_BTD, torch.nn.functional.one_hot(letter_BS, LETTERS).float())


def _named(*tasks: SequenceTask) -> Mapping[str, SequenceTask]:
    return {task.name: task for task in tasks}


TASKS = _named(
    SequenceTask("adding", 2, 1, 1, False, 2, 1 / 24, 1 / 240, _adding),
    SequenceTask(
        "temporal-order", SYMBOLS + DISTRACTORS, SYMBOLS**2, 1, True, 3, 1 - SYMBOLS**-2, 0.01, _temporal_order
    ),
    SequenceTask("copy", LETTERS + 2, LETTERS, COPIED, True, 2 * COPIED + 1, 1 - 1 / LETTERS, 0.01, _copy),
)
HEADS = ("squared", "sigmoid", "gaussian")


def head_loss(head: str, raw: Tensor, y: Tensor) -> Tensor:
    """Loss of what a linear layer puts out, mean over all targets.

    squared: (raw - y)^2. sigmoid: cross-entropy of sigmoid(raw), whose gradient is bounded. gaussian: negative log
    likelihood with raw holding means and log sigmas, whose gradient is the error over sigma squared.

    Args:
        head: One of `HEADS`.
        raw: As the targets, for a Gaussian with twice as many in the last dimension.
        y: Targets in [0, 1].

    Raises:
        OptionError: An unknown head.

    Example:
        >>> head_loss("squared", torch.tensor([[1.0]]), torch.tensor([[0.5]])).item()
        0.25
    """
    if head == "squared":
        return (raw - y).square().mean()
    if head == "sigmoid":
        return torch.nn.functional.binary_cross_entropy_with_logits(raw, y)
    if head == "gaussian":
        mean, log_sigma = raw.chunk(2, -1)
        return (((y - mean) * torch.exp(-log_sigma)).square() / 2 + log_sigma).mean() + math.log(2 * math.pi) / 2
    raise OptionError(Problem("head", f"one of {', '.join(HEADS)}", repr(head), "give one of these"))


def head_answer(head: str, raw: Tensor) -> Tensor:
    """The mean, or probabilities, that a head stands for.

    Example:
        >>> head_answer("sigmoid", torch.zeros(1, 1)).item()
        0.5
    """
    if head == "sigmoid":
        return torch.sigmoid(raw)
    return raw.chunk(2, -1)[0] if head == "gaussian" else raw
