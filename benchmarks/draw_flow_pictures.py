"""Draw docs/flow/*.png: what happens to gradients on their way through time, from real runs of the package.

    python benchmarks/draw_flow_pictures.py [--out docs/flow]

The same seeds every time. Four layers read the same inputs, and only the loss of the last step reaches back into them.
"""

from __future__ import annotations

import argparse
from collections.abc import Mapping
from pathlib import Path
from types import SimpleNamespace

import torch
from torch import nn

from holdfast.flow import adjoints, error_surface, growth, spectra
from holdfast.networks.cells import LSTM, RNN
from holdfast.networks.init import init_recurrent_
from holdfast.reports import adjoint_panel, eigenvalue_panel, flow_figure, history_panel, surface_panel

STEPS, WINDOWS, INPUTS, HIDDEN, SEASON = 168, 64, 4, 64, 24
LEARNING_RATE = 0.3
RECALL = 12


def draw_surface(path: Path) -> None:
    """Figure 6 of Pascanu, Mikolov and Bengio, with one step of descent from its wall, plain and clipped."""
    found = error_surface()
    at = int(found.gradient_norm_WB.argmax())
    plain = -LEARNING_RATE * found.gradient_WB2.flatten(0, 1)[at]
    clipped = plain / found.largest_norm
    steps = {"plain step": tuple(plain.tolist()), "step clipped to norm 1": tuple(clipped.tolist())}
    panel = surface_panel(
        found.w_W,
        found.b_B,
        found.error_WB,
        found.gradient_norm_WB,
        steps=steps,
        title="From the wall a plain step leaves the map, a clipped one stays",
    )
    flow_figure(path, [panel])


def layers() -> Mapping[str, nn.Module]:
    """Four layers that read the same inputs."""

    def generator() -> torch.Generator:
        return torch.Generator().manual_seed(0)

    torch.manual_seed(0)
    return {
        "tanh RNN as torch starts it": nn.RNN(INPUTS, HIDDEN, batch_first=True),
        "tanh RNN, orthogonal": init_recurrent_(RNN(INPUTS, HIDDEN), generator()),
        "ReLU RNN, spectral radius 1.3": init_recurrent_(
            RNN(INPUTS, HIDDEN, nonlinearity="relu"), generator(), "radius:1.3"
        ),
        "LSTM, forget bias 1": init_recurrent_(LSTM(INPUTS, HIDDEN), generator()),
    }


def draw_adjoints(path: Path) -> None:
    """Adjoint norms of four layers over lag."""
    x_BTD = torch.randn(WINDOWS, STEPS, INPUTS, generator=torch.Generator().manual_seed(1))
    growths = {}
    for name, layer in layers().items():
        (found,) = adjoints(layer, lambda layer=layer: layer(x_BTD)[0][:, -1].square().mean()).values()
        growths[name] = growth(found.log_norm_BT)
    first, *_, last = (each.memory_length for each in growths.values())
    title = f"A season has {SEASON} steps: the RNN of torch forgets in {first}, an LSTM with forget bias 1 in {last}"
    flow_figure(path, [adjoint_panel(growths, season=SEASON, title=title)])


def draw_eigenvalues(path: Path) -> None:
    """Spectra of a default and of an orthogonal layer of 128 units."""
    torch.manual_seed(0)
    default, orthogonal = nn.RNN(1, 128), nn.RNN(1, 128)
    init_recurrent_(orthogonal, torch.Generator().manual_seed(0))
    named = {"as torch starts it": default, "orthogonal": orthogonal}
    values = {name: spectra(layer)["l0", "h"].eigenvalues.tolist() for name, layer in named.items()}
    title = "Where a tanh RNN of 128 units starts: far inside the circle, or on it"
    flow_figure(path, [eigenvalue_panel(values, title=title)])


def draw_history(path: Path) -> None:
    """A tanh RNN as torch starts it learns to say again what it heard some steps before."""
    torch.manual_seed(0)
    generator = torch.Generator().manual_seed(2)
    layer, head = nn.RNN(1, 48, batch_first=True), nn.Linear(48, 1)
    parameters = [*layer.parameters(), *head.parameters()]
    optimizer = torch.optim.Adam(parameters, lr=3e-3)
    records = []
    for step in range(1201):
        x_BTD = torch.randn(64, 40, 1, generator=generator)

        def loss(x_BTD: torch.Tensor = x_BTD) -> torch.Tensor:
            return (head(layer(x_BTD)[0][:, -1]) - x_BTD[:, -1 - RECALL]).square().mean()

        if step % 20 == 0:
            mean = growth(adjoints(layer, loss)["l0"].log_norm_BT).per_lag.mean
            records.append(SimpleNamespace(step=step, lags={"l0": tuple(range(len(mean)))}, log_norms={"l0": mean}))
        optimizer.zero_grad()
        loss().backward()
        nn.utils.clip_grad_norm_(parameters, 1.0)
        optimizer.step()
    title = f"A tanh RNN learns to recall {RECALL} steps: its loss comes to reach that far back"
    flow_figure(path, [history_panel(records, "l0", title=title)])


def main() -> None:
    """Draw all of them."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, default=Path(__file__).parents[1] / "docs" / "flow")
    out = parser.parse_args().out
    torch.set_num_threads(1)
    out.mkdir(parents=True, exist_ok=True)
    draw_surface(out / "error-surface.png")
    draw_adjoints(out / "adjoints.png")
    draw_eigenvalues(out / "eigenvalues.png")
    draw_history(out / "training.png")


if __name__ == "__main__":
    main()
