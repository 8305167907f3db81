"""Everything an exact resume needs, in one file that is replaced atomically."""

from __future__ import annotations

import json
import os
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save
from torch import Tensor, nn
from torch.optim import Optimizer

from holdfast.errors import Problem, RunDirectoryError
from holdfast.gradients import GradientGuard

SCHEMA = 1


@dataclass
class Progress:
    """How far a run is.

    Attributes:
        step: Optimiser steps done.
        planned_steps: Steps of the whole run, as far as known.
        seconds: Wall time spent, over all sessions of the run.
        best_loss: Lowest validation loss so far.
        best_step: Steps done when it was measured.
        best_weights: The network's state at that point.
    """

    step: int
    planned_steps: int
    seconds: float = 0.0
    best_loss: float = float("inf")
    best_step: int = 0
    best_weights: dict[str, Tensor] = field(default_factory=dict)


def save_tensors(path: Path, tensors: Mapping[str, Tensor], facts: Mapping[str, Any]) -> None:
    """Write tensors and JSON facts to a safetensors file; readers see the old file or the new one, never a part."""
    part = path.with_suffix(".part")
    plain = {name: tensor.detach().cpu().contiguous() for name, tensor in tensors.items()}
    with part.open("wb") as handle:
        handle.write(save(plain, metadata={"holdfast": json.dumps({"schema": SCHEMA, **facts})}))
        handle.flush()
        os.fsync(handle.fileno())
    part.replace(path)


def load_tensors(path: Path) -> tuple[dict[str, Tensor], dict[str, Any]]:
    """Read what `save_tensors` wrote. Runs no code from the file.

    Raises:
        RunDirectoryError: The file is missing, truncated, of another kind or of a newer schema.
    """
    try:
        with safe_open(path, framework="pt") as handle:
            facts = json.loads((handle.metadata() or {})["holdfast"])
            tensors = {name: handle.get_tensor(name) for name in handle.keys()}  # noqa: SIM118
    except (OSError, SafetensorError, KeyError, ValueError) as error:
        expected = "a whole safetensors file that holdfast wrote"
        problem = Problem(str(path), expected, str(error) or type(error).__name__, "fit again, or restore the file")
        raise RunDirectoryError(problem) from error
    if facts.get("schema") != SCHEMA:
        problem = Problem(str(path), f"schema {SCHEMA}", f"schema {facts.get('schema')}", "use a matching holdfast")
        raise RunDirectoryError(problem)
    return tensors, facts


def save_checkpoint(
    path: Path, progress: Progress, network: nn.Module, optimizer: Optimizer, guard: GradientGuard
) -> None:
    """Write the state of a run between two steps."""
    tensors = {f"network.{name}": tensor for name, tensor in network.state_dict().items()}
    tensors |= {f"best.{name}": tensor for name, tensor in progress.best_weights.items()}
    for index, state in optimizer.state_dict()["state"].items():
        tensors |= {f"optimizer.{index}.{name}": torch.as_tensor(value) for name, value in state.items()}
    facts = {
        "step": progress.step,
        "planned_steps": progress.planned_steps,
        "seconds": progress.seconds,
        "best_loss": progress.best_loss,
        "best_step": progress.best_step,
        "guard": guard.state_dict(),
    }
    save_tensors(path, tensors, facts)


def load_checkpoint(path: Path, network: nn.Module, optimizer: Optimizer, guard: GradientGuard) -> Progress:
    """Put a run back to where `save_checkpoint` left it.

    Raises:
        RunDirectoryError: The file is not a checkpoint of this network.
    """
    tensors, facts = load_tensors(path)
    part: dict[str, dict[str, Tensor]] = {"network": {}, "best": {}, "optimizer": {}}
    for name, tensor in tensors.items():
        room, _, rest = name.partition(".")
        part[room][rest] = tensor
    load_weights(path, network, part["network"])
    optimizer_state: dict[int, dict[str, Tensor]] = {}
    for name, tensor in part["optimizer"].items():
        index, _, key = name.partition(".")
        optimizer_state.setdefault(int(index), {})[key] = tensor
    groups = optimizer.state_dict()["param_groups"]
    optimizer.load_state_dict({"state": optimizer_state, "param_groups": groups})
    guard.load_state_dict(facts["guard"])
    return Progress(
        step=facts["step"],
        planned_steps=facts["planned_steps"],
        seconds=facts["seconds"],
        best_loss=facts["best_loss"],
        best_step=facts["best_step"],
        best_weights=part["best"],
    )


def load_weights(path: Path, network: nn.Module, weights: Mapping[str, Tensor]) -> None:
    """Load weights into a network of exactly that shape.

    Raises:
        RunDirectoryError: Names, shapes or values do not fit.
    """
    expected = {name: tuple(tensor.shape) for name, tensor in network.state_dict().items()}
    got = {name: tuple(tensor.shape) for name, tensor in weights.items()}
    if expected != got:
        different = sorted(name for name in expected.keys() | got.keys() if expected.get(name) != got.get(name))
        problem = Problem(
            f"{path}, tensors {', '.join(different[:5])}",
            f"{', '.join(str(expected.get(name, 'none')) for name in different[:5])}",
            f"{', '.join(str(got.get(name, 'none')) for name in different[:5])}",
            "the file belongs to another run: restore the one that this manifest was written with",
        )
        raise RunDirectoryError(problem)
    broken = [name for name, tensor in weights.items() if not torch.isfinite(tensor).all()]
    if broken:
        problem = Problem(f"{path}, tensors {', '.join(broken[:5])}", "finite weights", "nan or inf", "fit again")
        raise RunDirectoryError(problem)
    network.load_state_dict(dict(weights))
