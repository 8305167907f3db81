"""One small training, told as plainly as can be, that every other loop must repeat: same norms, same weights.

B windows, T context steps, N hidden units; float64, so that what differs is the order of sums and nothing else.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass, field

import torch
from torch import Tensor, nn
from torch.optim import Optimizer

from holdfast.gradients import ClipNorm, GradientGuard

STEPS, B, T, N = 50, 8, 6, 4
MAX_NORM = 1.0
RULE = ClipNorm(MAX_NORM)
TORCH = 1e-5  # torch divides by the norm plus 1e-6; after 50 steps the weights and norms differ by a little more


class Network(nn.Module):
    """A recurrent layer and a head, called by the names of a batch, with the loss in what it returns."""

    def __init__(self, layer: type[nn.RNNBase]) -> None:
        super().__init__()
        self.rnn = layer(1, N, batch_first=True)
        self.out = nn.Linear(N, 1)

    def forward(self, x: Tensor, y: Tensor) -> dict[str, Tensor]:
        return {"loss": nn.functional.mse_loss(self.out(self.rnn(x)[0][:, -1]), y)}


def network(dtype: torch.dtype = torch.float64, layer: type[nn.RNNBase] = nn.LSTM) -> Network:
    """The same weights each time, without touching the generator that others draw from."""
    model = Network(layer).to(dtype)
    generator = torch.Generator().manual_seed(3)
    for parameter in model.parameters():
        parameter.data = torch.randn(parameter.shape, generator=generator, dtype=torch.float64).mul(0.3).to(dtype)
    return model


def sgd(model: nn.Module, fused: bool = False) -> Optimizer:
    return torch.optim.SGD(model.parameters(), lr=0.05, momentum=0.9, fused=fused)


def batches(dtype: torch.dtype = torch.float64, parts: int = 1) -> list[dict[str, Tensor]]:
    """A sine to continue, every third time with larger targets, so that about half of the steps are clipped.

    One batch for each step, or each in equal parts.
    """
    generator = torch.Generator().manual_seed(4)
    made: list[dict[str, Tensor]] = []
    for step in range(STEPS):
        phase = torch.rand(B, 1, generator=generator, dtype=torch.float64) * 2 * math.pi
        wave = torch.sin(phase + torch.arange(T + 1)).to(dtype)
        x, y = wave[:, :-1, None], wave[:, -1:] * (4.0 if step % 3 == 0 else 1.0)
        made += [{"x": some, "y": others} for some, others in zip(x.chunk(parts), y.chunk(parts), strict=True)]
    return made


@dataclass
class Path:
    """Where a training went: all weights after each step as one vector, and the norm before clipping in each."""

    weights: list[Tensor] = field(default_factory=list)
    norms: list[float] = field(default_factory=list)

    def add(self, model: nn.Module, norm: float) -> None:
        self.weights.append(flat(model))
        self.norms.append(norm)


def flat(model: nn.Module) -> Tensor:
    return torch.cat([parameter.detach().double().flatten() for parameter in model.parameters()])


def check_same(path: Path, other: Path, tolerance: float = 0.0) -> None:
    """Equal after each of the steps; bit for bit unless another order of sums is allowed for."""
    assert len(path.norms) == len(other.norms) == STEPS
    for name in ("weights", "norms"):
        one, two = (torch.stack([torch.as_tensor(value) for value in getattr(each, name)]) for each in (path, other))
        torch.testing.assert_close(one, two, rtol=tolerance, atol=tolerance)


Update = Callable[[], float]  # clips, updates, and returns the norm before


def walk(start: Callable[[nn.Module, Optimizer], Update], parts: int = 1) -> Path:
    """The loop that all others are compared with."""
    model, path = network(), Path()
    optimizer = sgd(model)
    update = start(model, optimizer)
    for k, batch in enumerate(batches(parts=parts), start=1):
        (model(**batch)["loss"] / parts).backward()
        if k % parts == 0:
            path.add(model, update())
            optimizer.zero_grad()
    return path


def guarded(model: nn.Module, optimizer: Optimizer) -> Update:
    guard = GradientGuard(model, RULE)
    return lambda: guard.step(optimizer).total_norm


def attached(model: nn.Module, optimizer: Optimizer) -> Update:
    guard = GradientGuard(model, RULE)
    guard.attach(optimizer)

    def update() -> float:
        optimizer.step()
        return guard.last.total_norm

    return update


def torch_clipped(model: nn.Module, optimizer: Optimizer) -> Update:
    def update() -> float:
        total_norm = nn.utils.clip_grad_norm_(model.parameters(), MAX_NORM)
        optimizer.step()
        return total_norm.item()

    return update
