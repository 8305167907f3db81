"""Another machine's rounding: what each optimiser step writes is moved by at most one unit in the last place.

    python -m pytest -p tests.jitter --jitter 1

Processors and builds of torch sum in different orders, so the weights after a step differ in the last bit, and in more
bits with each further step. A test that passes under several seeds does not depend on the bits of this machine.

The noise is a function of the seed and of a value's own digits. So what runs twice in one process still ends with the
same bits, whatever optimiser, tensor or process the values live in; no random state is touched; and what is exact
on every machine stays exact: the sign, multiplication by powers of two, and numbers of few digits.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor
from torch.optim import Optimizer
from torch.optim.optimizer import register_optimizer_step_post_hook, register_optimizer_step_pre_hook

# The integer of the same size, and how many of its bits are the digits of the number.
LAYOUT = {
    torch.float64: (torch.int64, 52),
    torch.float32: (torch.int32, 23),
    torch.float16: (torch.int16, 10),
    torch.bfloat16: (torch.int16, 7),
}
VARIABLE = "HOLDFAST_JITTER"  # for the processes that a test starts


def moved(values: Tensor, seed: int) -> Tensor:
    """The same values, each at most one unit in the last place further from zero or nearer to it.

    Zero and non-finite values stay, and so does a number of few digits, whose lower half is 0: it is a result without
    rounding, as 1 - 0.25 is.
    """
    kind, width = LAYOUT[values.dtype]
    bits = values.detach().contiguous().view(kind)
    digits = bits & (2**width - 1)
    noise = digits.long() + (seed + 1) * 0x9E3779B97F4A7C15 % 2**62
    for factor in (0x3F58476D1CE4E5B9, 0x14D049BB133111EB):  # the finaliser of splitmix64
        noise = (noise ^ (noise >> 30)) * factor
    noise = (noise ^ (noise >> 31)).remainder(3) - 1
    exact = digits & (2 ** (width // 2) - 1) == 0
    after = torch.where(exact, bits, bits + noise.to(kind)).view(values.dtype)
    return torch.where(values.detach().isfinite() & after.isfinite(), after, values.detach())


def parameters(optimizer: Optimizer) -> Iterator[Tensor]:
    """The dense numbers of each parameter of an optimiser, of a sharded one those of this process."""
    for group in optimizer.param_groups:
        for parameter in group["params"]:
            local = getattr(parameter.detach(), "_local_tensor", parameter.detach())
            if local.dtype in LAYOUT and local.layout is torch.strided:
                yield local


class Jitter:
    """From now on move what the steps of all optimisers of this process change, and leave alone what they do not."""

    def __init__(self, seed: int) -> None:
        self.seed = seed
        self.before: dict[int, list[Tensor]] = {}
        self.hooks = [
            register_optimizer_step_pre_hook(self.remember),
            register_optimizer_step_post_hook(self.move),
        ]

    @torch.no_grad()
    def remember(self, optimizer: Optimizer, *_: Any) -> None:
        self.before[id(optimizer)] = [
            values.clone() for values in parameters(optimizer)
        ]  # the last one may have raised

    @torch.no_grad()
    def move(self, optimizer: Optimizer, *_: Any) -> None:
        # Inside a step that calls the step of its base class, only the inner one finds something.
        for values, before in zip(parameters(optimizer), self.before.pop(id(optimizer), ()), strict=False):
            values.copy_(torch.where(values == before, values, moved(values, self.seed)))

    def remove(self) -> None:
        for hook in self.hooks:
            hook.remove()


running: list[Jitter] = []


def start(seed: int) -> None:
    running.append(Jitter(seed))


@contextmanager
def paused() -> Iterator[None]:
    """No noise inside this context, as in the processes that the package starts by itself."""
    seeds = [each.seed for each in running]
    stop()
    try:
        yield
    finally:
        stop()
        for seed in seeds:
            start(seed)


def stop() -> None:
    while running:
        running.pop().remove()


def follow() -> None:
    """In a process that a test starts: the same noise as in the test."""
    if VARIABLE in os.environ:
        start(int(os.environ[VARIABLE]))


def pytest_addoption(parser: Any) -> None:
    parser.addoption("--jitter", type=int, metavar="SEED", help="move weights by a unit in the last place at each step")


def pytest_configure(config: Any) -> None:
    if config.getoption("--jitter") is not None:
        os.environ[VARIABLE] = str(config.getoption("--jitter"))
        follow()
