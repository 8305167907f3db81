"""One run of a study, with every setting; and grids of them."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from itertools import product
from typing import Any


@dataclass(frozen=True, kw_only=True)
class Trial:
    """Every setting of one run.

    Trials of one seed that differ only in rule, scope, placement, optimiser, learning rate and steps start from the
    same weights and see the same batches.

    Attributes:
        study: Which study it belongs to.
        task: adding, temporal-order or copy; m4-hourly or data for a forecaster; spectrum or surface, where nothing
            is trained.
        length: Steps of a sequence.
        cell: As `--cell`.
        init: As `--init`.
        hidden_size: Recurrent units.
        head: squared, sigmoid or gaussian; for a forecaster as `--head`.
        rule: One rule as `--clip` takes it, or share:Q on a task of `TASKS`, see `train_trial`.
        scope: Whose gradients the rule is over: none, all, recurrent, all-but-head, head, or per-role, where the rule
            holds for each role by itself. With none nothing is clipped before the update, whatever the rule.
        penalty: What is added to the loss of a task of `TASKS`: none, or omega:STRENGTH, as `--penalty`.
        placement: update (once, right before it) or backprop (each adjoint of the recurrent layer on its way back,
            whatever the scope).
        optimizer: sgd or adamw.
        lr: Learning rate.
        steps: Updates.
        batch_size: Sequences per update.
        scale: Of the recurrent matrix or of the inputs, where a study changes it; else 1.
        seed: Of weights and data.
        data: File of a user's own series, for the task data.
        options: Further options of the fit of the task data, as JSON: its columns, horizon and season.

    Example:
        >>> Trial(study="clip-scope", task="adding").key == Trial(study="clip-scope", task="adding").key
        True
    """

    study: str
    task: str
    length: int = 50
    cell: str = "rnn-tanh"
    init: str = "orthogonal"
    hidden_size: int = 32
    head: str = "squared"
    rule: str = "none"
    scope: str = "none"
    penalty: str = "none"
    placement: str = "update"
    optimizer: str = "sgd"
    lr: float = 0.1
    steps: int = 1000
    batch_size: int = 32
    scale: float = 1.0
    seed: int = 0
    data: str = ""
    options: str = "{}"

    @property
    def key(self) -> str:
        """The same for the same settings, in every process and version of Python."""
        # A whole number and the float that equals it are one setting, and are written differently.
        settings = {**asdict(self), "lr": float(self.lr), "scale": float(self.scale)}
        return hashlib.sha256(json.dumps(settings, sort_keys=True).encode()).hexdigest()[:16]


def grid(common: Mapping[str, Any], axes: Mapping[str, Sequence[Any]]) -> Iterator[Trial]:
    """All combinations of the axes; an axis whose values are dictionaries sets several fields together.

    Args:
        common: Fields that are the same in all trials.
        axes: Field, or any name for dictionaries, and its values. The last one changes fastest; where two set one
            field, the later one holds, and an axis holds before `common`.

    Returns:
        The trials, in the order of the product.

    Example:
        >>> axes = {"arm": [{"scope": "none"}, {"scope": "all", "rule": "norm:1"}], "seed": [0, 1]}
        >>> [(trial.scope, trial.seed) for trial in grid({"study": "s", "task": "adding"}, axes)]
        [('none', 0), ('none', 1), ('all', 0), ('all', 1)]
    """
    for values in product(*axes.values()):
        fields = dict(common)
        for name, value in zip(axes, values, strict=True):
            fields |= value if isinstance(value, Mapping) else {name: value}
        yield Trial(**fields)
