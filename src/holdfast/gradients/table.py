"""The parameters of a model with their roles, and the gradients of one step."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.optim import Optimizer

from holdfast.errors import OptionError, Problem, TrainingError
from holdfast.gradients.clauses import Clause
from holdfast.gradients.roles import ROLES, Role, find_roles
from holdfast.gradients.rules import ClipNorm


@dataclass(frozen=True)
class GradTable:
    """The gradients of one step, each once, with what is known about each.

    Attributes:
        names: Parameter names.
        roles: Role of each.
        parameters: The parameters.
        grads: Their gradients.

    Example:
        >>> import torch
        >>> GradTable(("w",), ("head",), (torch.ones(2),), (torch.zeros(2),)).of(("head", "bias"))
        [0]
    """

    names: tuple[str, ...]
    roles: tuple[Role, ...]
    parameters: tuple[Tensor, ...]
    grads: tuple[Tensor, ...]

    def of(self, roles: Collection[str]) -> list[int]:
        """The places of the gradients of these roles."""
        return [k for k, role in enumerate(self.roles) if role in roles]


class ParameterTable:
    """The parameters of a model, with their roles.

    Args:
        model: Any module.
        overrides: Role by parameter name or module prefix, see `find_roles`.

    Raises:
        OptionError: An override matches nothing.

    Example:
        >>> import torch
        >>> layer = nn.Linear(2, 1, bias=False)
        >>> layer(torch.ones(2)).backward()
        >>> ParameterTable(layer, None).gather().names
        ('weight',)
    """

    def __init__(self, model: nn.Module, overrides: Mapping[str, Role] | None) -> None:
        role_of = find_roles(model, overrides)
        self._rows = [(name, role_of[name], parameter) for name, parameter in model.named_parameters()]
        self._known = {id(parameter) for _, _, parameter in self._rows}
        self.roles: tuple[Role, ...] = tuple(role for role in ROLES if role in role_of.values())

    def __setstate__(self, state: dict[str, Any]) -> None:
        self.__dict__.update(state)
        self._known = {id(parameter) for _, _, parameter in self._rows}  # a copy has parameters of its own

    def __len__(self) -> int:
        return len(self._rows)

    def gather(self, optimizer: Optimizer | None = None, names: Collection[str] | None = None) -> GradTable:
        """The gradients that are there now.

        Args:
            optimizer: Only those of parameters that it holds.
            names: Only those of these parameters.

        Returns:
            Each gradient once, also where two parameters hold the same one.

        Raises:
            TrainingError: A gradient is sparse or complex.
        """
        held = self._known if optimizer is None else ids_of(optimizer)
        rows, seen = [], set()
        for row in self._rows:
            grad = row[2].grad
            if grad is None or id(row[2]) not in held or (names is not None and row[0] not in names):
                continue
            if grad.layout is not torch.strided or grad.is_complex():
                raise _not_dense(row[0], grad)
            place = _place(grad)
            if place not in seen:
                seen.add(place)
                rows.append((*row, grad))
        return GradTable(*zip(*rows, strict=True)) if rows else GradTable((), (), (), ())

    def check_known(self, optimizer: Optimizer) -> None:
        """Refuse an optimiser that would change parameters which nobody measures.

        Args:
            optimizer: Any optimiser.

        Raises:
            OptionError: It has a parameter that the model does not have.
        """
        if ids_of(optimizer) <= self._known:
            return
        unknown = [
            f"param_groups[{g}]['params'][{i}] of shape {tuple(parameter.shape)}"
            for g, group in enumerate(optimizer.param_groups)
            for i, parameter in enumerate(group["params"])
            if id(parameter) not in self._known
        ]
        raise OptionError(
            Problem(
                "optimizer of a GradientGuard",
                "only parameters of the model that the guard was made for",
                f"unknown to the guard: {', '.join(unknown)}",
                "make the guard for the module that holds all of them, after the last change of its parameters",
            )
        )

    def describe(self, clauses: Collection[Clause], cap: ClipNorm | None) -> str:
        """One line per parameter below a header: name, shape, role, rule."""
        rule_of = {role: str(clause) for clause in clauses for role in clause.roles}
        rows = [("parameter", "shape", "role", "rule")]
        for name, role, parameter in self._rows:
            frozen = "frozen" if not parameter.requires_grad else rule_of.get(role, "none")
            rows.append((name, " x ".join(map(str, parameter.shape)) or "1", role, frozen))
        widths = [max(len(row[column]) for row in rows) for column in range(3)]
        lines = [
            "  ".join([*(cell.ljust(width) for cell, width in zip(row, widths, strict=False)), row[3]]) for row in rows
        ]
        return "\n".join(lines + ([f"then {cap} over all"] if cap is not None else []))


def ids_of(optimizer: Optimizer) -> set[int]:
    """Identities of the parameters of an optimiser."""
    return {id(parameter) for group in optimizer.param_groups for parameter in group["params"]}


def _place(grad: Tensor) -> int:
    """The same number for gradients that are the same memory, whether or not they are the same object."""
    return grad.data_ptr() if type(grad) is Tensor and grad.numel() else id(grad)


def _not_dense(name: str, grad: Tensor) -> TrainingError:
    kind, fix = f"{grad.layout}, {grad.dtype}", "set sparse=False in the nn.Embedding"
    return TrainingError(Problem(f"gradient of {name}", "a dense real tensor", kind, fix))
