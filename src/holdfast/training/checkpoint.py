"""Everything an exact resume needs, in one file that is replaced atomically."""

from __future__ import annotations

import json
import os
from collections import defaultdict
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save
from torch import Tensor, nn
from torch.optim import Optimizer

from holdfast.errors import OptionError, Problem, RunDirectoryError
from holdfast.gradients import GradientGuard

SCHEMA = 1
COUNTS = ("step", "planned_steps", "seconds", "best_loss", "best_step", "bad_in_a_row", "retreats")  # of `Progress`


@dataclass
class Progress:
    """How far a run is.

    Attributes:
        step: Optimiser steps done.
        planned_steps: Steps of the whole run, as far as known.
        seconds: Wall time spent, over all sessions of the run.
        best_loss: Lowest validation loss so far.
        best_step: Steps done when it was measured.
        best_weights: The averaged weights at that point.
        average: The running average of the weights, see `follow`.
        bad_in_a_row: Steps that were not finite since the last finite step or retreat.
        retreats: How often the run went back to its best weights.

    Example:
        >>> Progress(step=0, planned_steps=1200).best_loss
        inf
    """

    step: int
    planned_steps: int
    seconds: float = 0.0
    best_loss: float = float("inf")
    best_step: int = 0
    best_weights: dict[str, Tensor] = field(default_factory=dict)
    average: dict[str, Tensor] = field(default_factory=dict)
    bad_in_a_row: int = 0
    retreats: int = 0


def save_tensors(path: Path, tensors: Mapping[str, Tensor], facts: Mapping[str, Any]) -> None:
    """Write tensors and JSON facts to a safetensors file; readers see the old file or the new one, never a part.

    Args:
        path: The file, in a directory that exists.
        tensors: By name, on any device.
        facts: Plain JSON values.

    Example:
        >>> import tempfile
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     save_tensors(Path(folder) / "w.safetensors", {"w": torch.ones(2)}, {"step": 3})
        ...     tensors, facts = load_tensors(Path(folder) / "w.safetensors")
        >>> tensors["w"].tolist(), facts["step"]
        ([1.0, 1.0], 3)
    """
    part = path.with_suffix(".part")
    plain = {name: tensor.detach().cpu().contiguous() for name, tensor in tensors.items()}
    with part.open("wb") as handle:
        handle.write(save(plain, metadata={"holdfast": json.dumps({"schema": SCHEMA, **facts})}))
        handle.flush()
        os.fsync(handle.fileno())
    part.replace(path)


def load_tensors(path: Path) -> tuple[dict[str, Tensor], dict[str, Any]]:
    """Read what `save_tensors` wrote. Runs no code from the file.

    Args:
        path: The file.

    Returns:
        The tensors by name, on the CPU, and the facts.

    Raises:
        RunDirectoryError: The file is missing, truncated, of another kind or of another schema.

    Example:
        >>> load_tensors(Path("nowhere.safetensors"))
        Traceback (most recent call last):
        holdfast.errors.RunDirectoryError: nowhere.safetensors
          expected: a whole safetensors file that holdfast wrote
        ...
    """
    try:
        with safe_open(path, framework="pt") as handle:
            facts = json.loads((handle.metadata() or {})["holdfast"])
            schema = facts["schema"]
            tensors = {name: handle.get_tensor(name) for name in handle.keys()}  # noqa: SIM118
    except (OSError, SafetensorError, KeyError, TypeError, ValueError) as error:
        expected, got = "a whole safetensors file that holdfast wrote", f"{type(error).__name__}: {error}"
        raise RunDirectoryError(Problem(str(path), expected, got, "restore the file, or fit again")) from error
    if schema != SCHEMA:
        fix = "use the holdfast that wrote it, or fit again"
        raise RunDirectoryError(Problem(str(path), f"schema {SCHEMA}", f"schema {schema}", fix))
    return tensors, facts


def save_checkpoint(
    path: Path, progress: Progress, network: nn.Module, optimizer: Optimizer, guard: GradientGuard
) -> None:
    """Write the state of a run between two steps."""
    tensors = {f"network.{name}": tensor for name, tensor in network.state_dict().items()}
    tensors |= {f"best.{name}": tensor for name, tensor in progress.best_weights.items()}
    tensors |= {f"average.{name}": tensor for name, tensor in progress.average.items()}
    for index, state in optimizer.state_dict()["state"].items():
        tensors |= {f"optimizer.{index}.{name}": torch.as_tensor(value) for name, value in state.items()}
    counts = {name: getattr(progress, name) for name in COUNTS}
    save_tensors(path, tensors, {**counts, "optimizer": type(optimizer).__name__, "guard": guard.state_dict()})


def load_checkpoint(path: Path, network: nn.Module, optimizer: Optimizer, guard: GradientGuard) -> Progress:
    """Put a run back to where `save_checkpoint` left it; a file that does not fit changes nothing.

    Raises:
        RunDirectoryError: The file is not a checkpoint of this network and this optimiser.
    """
    tensors, facts = load_tensors(path)
    wanted = type(optimizer).__name__
    lost = [name for name in (*COUNTS, "guard") if name not in facts]
    if facts.get("optimizer") != wanted or lost:
        expected = f"the state of a training run with {wanted}"
        got = f"optimizer {facts.get('optimizer', 'none')}" + (f", without {', '.join(lost)}" if lost else "")
        raise RunDirectoryError(Problem(str(path), expected, got, "restore the file, or fit again"))
    parts: defaultdict[str, dict[str, Tensor]] = defaultdict(dict)
    for name, tensor in tensors.items():
        kind, _, rest = name.partition(".")
        parts[kind][rest] = tensor
    for weights in (parts["best"], parts["average"], parts["network"]):
        _check_weights(path, network, weights)
    try:
        guard.load_state_dict(facts["guard"])
    except OptionError as error:
        refused = [Problem(str(path), p.expected, p.got, "restore the file, or fit again") for p in error.problems]
        raise RunDirectoryError(refused) from error
    network.load_state_dict(parts["network"])
    state: defaultdict[int, dict[str, Tensor]] = defaultdict(dict)
    for name, tensor in parts["optimizer"].items():
        index, _, key = name.partition(".")
        state[int(index)][key] = tensor
    groups = optimizer.state_dict()["param_groups"]
    optimizer.load_state_dict({"state": dict(state), "param_groups": groups})
    counts = {name: facts[name] for name in COUNTS}
    return Progress(**counts, best_weights=parts["best"], average=parts["average"])


def load_weights(path: Path, network: nn.Module, weights: Mapping[str, Tensor]) -> None:
    """Load weights into a network of exactly that shape; weights that do not fit change nothing.

    Args:
        path: Where they come from, for the error.
        network: Any module.
        weights: Its state by name.

    Raises:
        RunDirectoryError: Names, shapes or values do not fit.

    Example:
        >>> layer = nn.Linear(1, 1)
        >>> load_weights(Path("model.safetensors"), layer, {"weight": torch.ones(1, 1), "bias": torch.zeros(1)})
        >>> layer.weight.item()
        1.0
    """
    _check_weights(path, network, weights)
    network.load_state_dict(dict(weights))


def _check_weights(path: Path, network: nn.Module, weights: Mapping[str, Tensor]) -> None:
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
        problem = Problem(
            f"{path}, tensors {', '.join(broken[:5])}", "finite weights", "nan or inf", "restore the file, or fit again"
        )
        raise RunDirectoryError(problem)
