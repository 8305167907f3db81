"""The error surface of one unit: the figure of the paper, autograd of the recurrence, and the throw at the wall."""

from __future__ import annotations

import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from holdfast.errors import OptionError
from holdfast.flow import ErrorSurface, error_surface
from holdfast.gradients import ClipNorm, GradientGuard


def tensor(*values: float) -> torch.Tensor:
    return torch.tensor(values, dtype=torch.float64)


class Unit(torch.nn.Module):
    """The recurrence as it is written, one w and b."""

    def __init__(self, w: float, b: float) -> None:
        super().__init__()
        self.w, self.b = (torch.nn.Parameter(torch.tensor(value, dtype=torch.float64)) for value in (w, b))

    def forward(self, steps: int = 50, x0: float = 0.5, target: float = 0.7) -> torch.Tensor:
        x = torch.tensor(x0, dtype=torch.float64)
        for _ in range(steps):
            x = self.w * torch.sigmoid(x) + self.b
        return (torch.sigmoid(x) - target) ** 2

    @property
    def place(self) -> tuple[float, float]:
        return self.w.item(), self.b.item()


def by_autograd(w: float, b: float, steps: int, x0: float, target: float) -> tuple[float, float, float]:
    unit = Unit(w, b)
    error = unit(steps, x0, target)
    error.backward()
    return error.item(), unit.w.grad.item(), unit.b.grad.item()


def test_the_figure_of_the_paper() -> None:
    found = error_surface()
    assert (len(found.w_W), len(found.b_B)) == (301, 301)
    assert (found.w_W[[0, -1]].tolist(), found.b_B[[0, -1]].tolist()) == ([4, 7], [-4, -1])
    torch.testing.assert_close(found.w_W.diff(), torch.full((300,), 0.01, dtype=torch.float64), atol=1e-14, rtol=0)
    assert f"{found.largest_norm:.3f}" == "439.964"
    assert [f"{value:.2f}" for value in found.steepest] == ["4.69", "-2.42"]
    # Away from the wall the land is flat.
    assert found.gradient_norm_WB.median() < 0.1 and (found.gradient_norm_WB > 1).double().mean() < 0.05


def test_the_details_that_the_figure_hangs_on() -> None:
    """Steps, start and target: with any of them one off, another number comes out."""
    assert f"{error_surface(steps=49).largest_norm:.3f}" == "482.399"
    assert f"{error_surface(steps=51).largest_norm:.3f}" == "365.913"
    from_half = error_surface(x0=0.0)  # h_0 = 0.5 lies on a fixed point that repels, wherever b = -w / 2
    assert from_half.largest_norm > 1e11 and from_half.steepest == (7.0, -3.5)


@settings(max_examples=60, deadline=None)
@given(st.floats(-12, 12), st.floats(-6, 6), st.integers(1, 60), st.floats(-3, 3), st.floats(0, 1))
def test_equal_to_autograd(w: float, b: float, steps: int, x0: float, target: float) -> None:
    found = error_surface(tensor(w, w / 2), tensor(b), steps=steps, x0=x0, target=target)
    for i, weight in enumerate((w, w / 2)):
        error, dw, db = by_autograd(weight, b, steps, x0, target)
        size = math.hypot(dw, db)
        assert math.isclose(found.error_WB[i, 0].item(), error, rel_tol=1e-9, abs_tol=1e-15)
        assert math.isclose(found.gradient_norm_WB[i, 0].item(), size, rel_tol=1e-6, abs_tol=1e-12)
        torch.testing.assert_close(found.gradient_WB2[i, 0], tensor(dw, db), atol=max(1e-12, 1e-6 * size), rtol=0)


def test_at_the_wall_too() -> None:
    w, b = 4.69, -2.42
    found = error_surface(tensor(w), tensor(b))
    error, dw, db = by_autograd(w, b, 50, 0.5, 0.7)
    torch.testing.assert_close(found.gradient_WB2[0, 0], tensor(dw, db), atol=0, rtol=1e-11)
    assert math.isclose(found.error_WB.item(), error, rel_tol=1e-11)


def test_one_step_is_a_formula() -> None:
    """x_1 = w s(x_0) + b."""
    found = error_surface(tensor(2.0), tensor(-1.0), steps=1, x0=0.0, target=0.25)
    h, h0 = 1 / (1 + math.exp(0.0)), 0.5
    slope = 2 * (h - 0.25) * h * (1 - h)
    torch.testing.assert_close(found.error_WB, tensor(0.0625)[None])
    torch.testing.assert_close(found.gradient_WB2[0, 0], tensor(slope * h0, slope))


def test_the_gradient_is_that_of_the_drawn_surface() -> None:
    """Differences of neighbours, where the surface is smooth."""
    w_W, b_B = torch.linspace(2, 3, 201, dtype=torch.float64), torch.linspace(-1, 0, 201, dtype=torch.float64)
    found = error_surface(w_W, b_B)
    by_w, by_b = torch.gradient(found.error_WB, spacing=0.005)
    inner = slice(1, -1)
    torch.testing.assert_close(
        found.gradient_WB2[inner, inner], torch.stack([by_w, by_b], 2)[inner, inner], atol=2e-4, rtol=0
    )


def step_from_the_wall(max_norm: float | None) -> Unit:
    unit = Unit(*error_surface().steepest)
    optimizer = torch.optim.SGD(unit.parameters(), lr=0.1)
    guard = GradientGuard(unit, None if max_norm is None else ClipNorm(max_norm))
    loss = unit()
    loss.backward()
    assert f"{guard.step(optimizer, loss=loss).total_norm:.3f}" == "439.964"
    return unit


def test_a_step_from_the_wall_throws_and_a_clipped_one_stays() -> None:
    start = error_surface().steepest
    thrown, stayed = step_from_the_wall(None), step_from_the_wall(1.0)
    assert math.isclose(math.dist(thrown.place, start), 43.9964, abs_tol=1e-4)
    assert math.isclose(math.dist(stayed.place, start), 0.1, rel_tol=1e-9)
    w, b = thrown.place
    assert not (4 <= w <= 7 or -4 <= b <= -1)  # off the map
    far = error_surface(tensor(w), tensor(b))
    assert far.gradient_norm_WB.item() < 1e-6 < far.error_WB.item()  # where nothing can be learned any more
    # Both go the same way.
    away = [[now - then for now, then in zip(unit.place, start, strict=True)] for unit in (thrown, stayed)]
    assert math.isclose(math.atan2(*away[0]), math.atan2(*away[1]), abs_tol=1e-9)


def test_refusals() -> None:
    assert isinstance(error_surface(tensor(5.0), tensor(0.0)), ErrorSurface)
    with pytest.raises(OptionError, match="a row of finite numbers"):
        error_surface(torch.zeros(2, 2))
    with pytest.raises(OptionError, match="nan or inf"):
        error_surface(tensor(math.nan))
    with pytest.raises(OptionError) as both:
        error_surface(torch.zeros(0), steps=0)
    assert [problem.where for problem in both.value.problems] == ["w_W", "steps"]
