"""What is added to the loss of a step to keep gradients flowing through time.

Shapes: B windows, T recurrent steps, D features of a step.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, fields

from torch import Tensor

from holdfast.errors import OptionError, Problem
from holdfast.flow import flossing, layer_inputs, omega
from holdfast.networks import ForecastNetwork, batch_loss
from holdfast.windows import Batch

KINDS = ("omega", "floss")
WINDOWS = 16  # of a batch, the first: they were drawn at random, and each has adjoints and exponents of its own
EXPONENTS = 8  # the largest, but at most a quarter of the units: ReLU units that are off put out the directions left


@dataclass(frozen=True)
class Penalty:
    """A penalty on the flow of gradients, as it is written in an option.

    Attributes:
        kind: `omega` (Pascanu's penalty, see `holdfast.flow.omega`) or `floss` (see `holdfast.flow.flossing`).
        strength: What it is multiplied by.

    Example:
        >>> str(Penalty("omega", 0.5))
        'omega:0.5'
    """

    kind: str
    strength: float

    def __str__(self) -> str:
        return f"{self.kind}:{self.strength:g}"

    def of(self, network: ForecastNetwork, batch: Batch, error_scale_B: Tensor) -> Tensor:
        """What to add to the loss: the strength times the mean over the first windows of a batch.

        Args:
            network: The forecaster; it stays as it is.
            batch: B windows.
            error_scale_B: Seasonal naive error of each window's series, in the units of the data.

        Returns:
            A scalar with a graph to the recurrent weights; what is not finite in it is not finite here.
        """
        few = Batch(**{field.name: getattr(batch, field.name)[:WINDOWS] for field in fields(Batch)})
        value = _omega(network, few, error_scale_B[:WINDOWS]) if self.kind == "omega" else _floss(network, few)
        return self.strength * value


def parse_penalty(text: str) -> Penalty | None:
    """Read a penalty from the text of an option.

    Args:
        text: `none`, `omega:STRENGTH` or `floss:STRENGTH`.

    Returns:
        The penalty, or None.

    Raises:
        OptionError: The text is none of these, or the strength is not a number above 0.

    Example:
        >>> parse_penalty("floss:0.1"), parse_penalty("none")
        (Penalty(kind='floss', strength=0.1), None)
    """
    if text == "none":
        return None
    kind, _, rest = text.partition(":") if isinstance(text, str) else ("", "", "")
    try:
        strength = float(rest)
    except ValueError:
        strength = math.nan
    if kind not in KINDS or not 0 < strength < math.inf:
        expected = "none, omega:STRENGTH or floss:STRENGTH, the strength a number above 0"
        raise OptionError(Problem("penalty", expected, repr(text), "write for instance omega:0.1"))
    return Penalty(kind, strength)


def name_penalty(nonfinite: Sequence[str], loss: float, penalty: float) -> tuple[str, ...]:
    """What was not finite in a step, with the penalty by its own name rather than as a part of the loss.

    Args:
        nonfinite: Names, where `loss` stands for loss and penalty together.
        loss: The loss alone.
        penalty: What was added to it.

    Returns:
        The names.

    Example:
        >>> name_penalty(("loss", "recurrent.weight_hh_l0"), loss=0.5, penalty=math.nan)
        ('penalty', 'recurrent.weight_hh_l0')
    """
    if math.isfinite(penalty):
        return tuple(nonfinite)
    rest = [name for name in nonfinite if name != "loss"]
    return (*(() if math.isfinite(loss) else ("loss",)), "penalty", *rest)


def _omega(network: ForecastNetwork, batch: Batch, error_scale_B: Tensor) -> Tensor:
    return omega(network, lambda: batch_loss(network.head, network(batch), batch, error_scale_B))


def _floss(network: ForecastNetwork, batch: Batch) -> Tensor:
    def run() -> None:
        network.eval()  # without dropout, as the exponents are
        network(batch)

    x_BTD = layer_inputs(network, run)["recurrent"]
    return flossing(network.recurrent, x_BTD, max(1, min(EXPONENTS, network.config.hidden_size // 4)))
