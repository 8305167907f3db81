"""What one look measures of each recurrent layer, and what may stand in its place.

B windows, T steps, N hidden units.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import nn

from holdfast.flow.adjoints import Adjoints
from holdfast.flow.capture import Call
from holdfast.flow.growth import Growth, growth
from holdfast.gradients.unrolled import Unrolled


@dataclass(frozen=True)
class LayerFlow:
    """What was measured of one layer and direction.

    Attributes:
        kind: RNN, GRU or LSTM.
        nonlinearity: Of an RNN, else empty.
        module: Name of the module that holds it.
        h: Growth of dL/dh_t.
        c: Growth of dL/dc_t for an LSTM, else None.
        alone: Growth of what the recurrence makes of the newest step that the loss reads itself, where it reads several
            and adds to the adjoints on their way: of dL/dc_t for an LSTM, else dL/dh_t; None where h and c tell it.
        units: The units with the largest share of dL/dh_t at the lag where it is largest, with these shares.
        lstm: The LSTM that takes its place, in Python.
    """

    kind: str
    nonlinearity: str
    module: str
    h: Growth
    c: Growth | None
    alone: Growth | None
    units: tuple[tuple[int, float], ...]
    lstm: str

    @property
    def carrier(self) -> Growth:
        """Of the state that carries memory: c for an LSTM, else h."""
        return self.h if self.c is None else self.c

    @property
    def through(self) -> Growth:
        """What the recurrence carries by itself."""
        return self.carrier if self.alone is None else self.alone

    @property
    def flows(self) -> tuple[Growth, ...]:
        """All that can explode by the recurrence itself."""
        return tuple(each for each in ((self.h, self.c) if self.alone is None else (self.alone,)) if each is not None)


def layer_flow(
    model: nn.Module, found: Adjoints, alone: Adjoints | None, calls: Sequence[Call], name: str
) -> LayerFlow:
    """What was measured of one layer.

    Args:
        model: What holds it.
        found: Its adjoints.
        alone: Those of the newest step that the loss reads, where it reads several.
        calls: Of the model, as they were captured.
        name: Of the layer, as `adjoints` gives it.
    """
    plain, place = name.split("#")[0], name.split("#")[0].rpartition(".")[2]
    module = plain.removesuffix(place).removesuffix(".")
    weights = next(p.weights for call in calls if call.module == module for p in call.places if p.name == place)
    h, c = _growths(found)
    carried = None if alone is None else next(each for each in reversed(_growths(alone)) if each is not None)
    largest_B = found.log_norm_BT.nan_to_num(-math.inf, math.inf, -math.inf).argmax(1)
    share_N = found.direction_BTN[torch.arange(len(largest_B)), largest_B].double().square().mean(0)
    shares, units = share_N.topk(min(3, len(share_N)))
    layer: Any = model.get_submodule(module)
    return LayerFlow(
        weights.kind,
        weights.nonlinearity,
        module,
        h,
        c,
        carried if carried is not None and carried.windows else None,
        tuple(zip(units.tolist(), shares.tolist(), strict=True)),
        _lstm(layer),
    )


def _growths(found: Adjoints) -> tuple[Growth, Growth | None]:
    h = growth(found.log_norm_BT, found.mask_BT, reverse=found.reverse)
    c_BT = found.c_log_norm_BT
    return h, None if c_BT is None else growth(c_BT, found.mask_BT, reverse=found.reverse)


def python(module: str) -> str:
    """A module of the model, in Python."""
    return f'model.get_submodule("{module}")' if module else "model"


def _lstm(layer: Any) -> str:
    sizes = f"{layer.input_size}, {layer.hidden_size}"
    if isinstance(layer, nn.RNNCellBase):
        return f"torch.nn.LSTMCell({sizes})"
    plan = Unrolled.of(layer)
    options = {"num_layers": layer.num_layers, "batch_first": plan.batch_first, "dropout": layer.dropout}
    options["bidirectional"] = plan.directions == 2
    usual = {"num_layers": 1, "batch_first": False, "dropout": 0.0, "bidirectional": False}
    said = "".join(f", {name}={value}" for name, value in options.items() if value != usual[name])
    return f"torch.nn.LSTM({sizes}{said})"
