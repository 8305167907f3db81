"""Recurrent layers whose exponents, Jacobian products and spectra are known in closed form."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass, field

import torch
from torch import Tensor, nn

from holdfast.networks.cells import GRU, LSTM, RNN

INF = math.inf


@dataclass(frozen=True, eq=False)
class FlowProblem:
    """A layer along inputs, and what must come out.

    Attributes:
        exponents: All Lyapunov exponents, largest first.
        log_norm: log ||ds_T / ds_{T-k}|| from k >= 1; None where no closed form is at hand.
        log_singular: All log singular values of that product, largest first; None likewise.
        spectrum: Radius, norm and departure of a recurrent matrix, by place and gate.
    """

    name: str
    layer: nn.Module
    exponents: tuple[float, ...]
    x_BTD: Tensor
    h0: Tensor | tuple[Tensor, Tensor] | None = None
    warmup: int = 0
    log_norm: Callable[[int], float] | None = None
    log_singular: Callable[[int], tuple[float, ...]] | None = None
    spectrum: dict[tuple[str, str], tuple[float, float, float]] = field(default_factory=dict)


def tensor(*values: object) -> Tensor:
    return torch.tensor(values, dtype=torch.float64)


def zeros(T: int, B: int = 1) -> Tensor:
    return torch.zeros(B, T, 1, dtype=torch.float64)


def state(*values: float) -> Tensor:
    return tensor(*values)[None, None]


def rnn(phi: str, W: Tensor, b: Tensor | None = None, U: Tensor | None = None) -> RNN:
    """A simple layer with these weights; U and b are zero unless given."""
    layer = RNN(1, len(W), nonlinearity=phi).double()
    given = {"weight_ih_l0": U, "weight_hh_l0": W, "bias_ih_l0": b, "bias_hh_l0": None}
    with torch.no_grad():
        for name, value in given.items():
            weight = getattr(layer, name)
            weight.copy_(torch.zeros_like(weight) if value is None else value)
    return layer


def gated(kind: type[LSTM] | type[GRU], gate: int, W: Tensor, gate_of_b: int = 0, b: Tensor | None = None) -> nn.Module:
    """A gated layer that is zero but for one gate's recurrent matrix, and one gate's bias."""
    layer, N = kind(1, len(W)).double(), len(W)
    with torch.no_grad():
        for weight in layer.parameters():
            weight.zero_()
        layer.weight_hh_l0[gate * N : (gate + 1) * N] = W
        if b is not None:
            layer.bias_ih_l0[gate_of_b * N : (gate_of_b + 1) * N] = b
    return layer


def norm_2x2(a: float, b: float, c: float, d: float) -> float:
    """log of the spectral norm of [[a, b], [c, d]] from its squares and its determinant."""
    square, det = a * a + b * b + c * c + d * d, a * d - b * c
    return math.log((square + math.sqrt(max(square**2 - 4 * det**2, 0.0))) / 2) / 2


def triangular(a: float, b: float, d: float) -> Callable[[int], float]:
    """log ||[[a, b], [0, d]]^k||."""
    return lambda k: norm_2x2(a**k, b * (a**k - d**k) / (a - d), 0.0, d**k)


def pair(norm: Callable[[int], float], log_det: float) -> Callable[[int], tuple[float, ...]]:
    """Both log singular values of a 2x2 product by its norm and log |det| per step."""
    return lambda k: (norm(k), k * log_det - norm(k))


def powers(*values: float) -> Callable[[int], tuple[float, ...]]:
    """Log singular values of diag(values)^k, the largest given first."""
    return lambda k: tuple(k * math.log(value) if value else -INF for value in values)


def sigmoid(a: float) -> float:
    return 1 / (1 + math.exp(-a))


def logs(*values: float) -> tuple[float, ...]:
    return tuple(math.log(abs(value)) if value else -INF for value in values)


def linear_problems() -> list[FlowProblem]:
    turn = math.pi / 7
    rotation = tensor([math.cos(turn), -math.sin(turn)], [math.sin(turn), math.cos(turn)])
    mirror = torch.eye(3, dtype=torch.float64) - 2 / 14 * torch.outer(tensor(1, 2, 3), tensor(1, 2, 3))
    shift = 5 * torch.diag(tensor(1, 1), 1)
    stack = RNN(1, 1, 2, nonlinearity="linear", bias=False).double()
    for name, value in {"ih_l0": 1.0, "hh_l0": 1.5, "ih_l1": 3.0, "hh_l1": 0.7}.items():
        nn.init.constant_(getattr(stack, f"weight_{name}"), value)
    h = ("l0", "h")
    return [
        FlowProblem(
            "diagonal",
            rnn("linear", torch.diag(tensor(0.1, 2, -0.5))),
            logs(2, 0.5, 0.1),
            zeros(80),
            warmup=40,
            log_norm=lambda k: k * math.log(2),
            log_singular=powers(2, 0.5, 0.1),
            spectrum={h: (2, 2, 0)},
        ),
        FlowProblem(
            "scaled rotation",
            rnn("linear", 0.9 * rotation),
            logs(0.9, 0.9),
            zeros(50),
            log_norm=lambda k: k * math.log(0.9),
            log_singular=powers(0.9, 0.9),
            spectrum={h: (0.9, 0.9, 0)},
        ),
        FlowProblem(
            "orthogonal",
            rnn("linear", mirror),
            (0, 0, 0),
            zeros(50),
            log_norm=lambda k: 0.0,
            log_singular=powers(1, 1, 1),
            spectrum={h: (1, 1, 0)},
        ),
        FlowProblem(
            "nilpotent",
            rnn("linear", shift),
            (-INF, -INF, -INF),
            zeros(12),
            warmup=3,
            log_norm=lambda k: k * math.log(5) if k < 3 else -INF,
            log_singular=lambda k: tuple(k * math.log(5) if i + k < 3 else -INF for i in range(3)),
            spectrum={h: (0, 5, math.sqrt(50))},
        ),
        FlowProblem(
            "non-normal",
            rnn("linear", tensor([0.9, 10], [0, 0.5])),
            logs(0.9, 0.5),
            zeros(100),
            warmup=60,
            log_norm=triangular(0.9, 10, 0.5),
            log_singular=pair(triangular(0.9, 10, 0.5), math.log(0.45)),
            spectrum={h: (0.9, math.exp(norm_2x2(0.9, 10, 0, 0.5)), 10)},
        ),
        FlowProblem(
            "zero",
            rnn("linear", torch.zeros(2, 2)),
            (-INF, -INF),
            zeros(5),
            log_norm=lambda k: -INF,
            log_singular=powers(0, 0),
            spectrum={h: (0, 0, 0)},
        ),
        FlowProblem(
            "1e30 per step",
            rnn("linear", 1e30 * rotation),
            (math.log(1e30),) * 2,
            zeros(40),
            log_norm=lambda k: k * math.log(1e30),
            log_singular=powers(1e30, 1e30),
            spectrum={h: (1e30, 1e30, 0)},
        ),
        FlowProblem(
            "1e-30 per step",
            rnn("linear", 1e-30 * rotation),
            (math.log(1e-30),) * 2,
            zeros(40),
            log_norm=lambda k: k * math.log(1e-30),
            log_singular=powers(1e-30, 1e-30),
            spectrum={h: (1e-30, 1e-30, 0)},
        ),
        FlowProblem(
            "two layers",
            stack,
            logs(1.5, 0.7),
            zeros(80),
            warmup=45,
            log_norm=triangular(0.7, 3 * 1.5, 1.5),  # transposed: the same norm
            log_singular=pair(triangular(0.7, 3 * 1.5, 1.5), math.log(1.05)),
            spectrum={h: (1.5, 1.5, 0), ("l1", "h"): (0.7, 0.7, 0)},
        ),
    ]


def tent_problem() -> FlowProblem:
    """x -> 2x below 1/2, 2 (1 - x) above, as x = u - v with u = relu(2x), v = relu(4x - 2)."""
    T, warmup = 40, 8
    generator = torch.Generator().manual_seed(1)
    while True:
        orbit = [torch.randint(1, 2**52, (), generator=generator).item() / 2**52]
        for _ in range(T):
            orbit.append(min(2 * orbit[-1], 2 - 2 * orbit[-1]))
        # The length of (u, v) beside that of x depends on the branch: let the counted steps start and end on one.
        if (orbit[warmup - 1] > 0.5) == (orbit[T - 1] > 0.5) and not {0.0, 0.5, 1.0} & set(orbit):
            break
    last = math.log(math.hypot(2, 4) if orbit[T - 1] > 0.5 else 2)
    layer = rnn("relu", tensor([2, -2], [4, -4]), tensor(0, -2))

    def norm(k: int) -> float:
        return last + (k - 1) * math.log(2) + math.log(2) / 2

    return FlowProblem(
        "tent map",
        layer,
        (math.log(2), -INF),
        zeros(T),
        h0=state(orbit[0], 0),
        warmup=warmup,
        log_norm=norm,
        log_singular=lambda k: (norm(k), -INF),
        spectrum={("l0", "h"): (2, math.sqrt(40), 6)},
    )


def simple_problems() -> list[FlowProblem]:
    h = ("l0", "h")
    # w = 8 at a = 10: the slope of the sigmoid there is e^-10 / (1 + e^-10)^2.
    saturated = math.log(8) - 10 - 2 * math.log1p(math.exp(-10))
    cycle = math.atanh(0.5) / 0.5
    p, q, w = 0.2, 0.7, 3.0
    # From p the input leads to q, and from q to p: a_t = w h_{t-1} + x_t.
    drive = torch.tensor([math.log(q / (1 - q)) - w * p, math.log(p / (1 - p)) - w * q], dtype=torch.float64)
    driven = math.log(w * math.sqrt(p * (1 - p) * q * (1 - q)))
    fixed = math.log(0.9 / math.cosh(2) ** 2)
    turns = torch.tensor([1.0, -1.0] * 5, dtype=torch.float64)[None, :, None]
    one = torch.ones(1, 1, dtype=torch.float64)
    return [
        FlowProblem(
            "saturated sigmoid, w = 8",
            rnn("sigmoid", 8 * one, tensor(10 - 8 * sigmoid(10))),
            (saturated,),
            zeros(40),
            h0=state(sigmoid(10)),
            log_norm=lambda k: k * saturated,
            spectrum={h: (8, 8, 0)},
        ),
        FlowProblem(
            "critical sigmoid, w = 4",
            rnn("sigmoid", 4 * one, tensor(-2)),
            (0.0,),
            zeros(30),
            h0=state(0.5),
            log_norm=lambda k: 0.0,
            spectrum={h: (4, 4, 0)},
        ),
        FlowProblem(
            "2-cycle of tanh",
            rnn("tanh", -cycle * one),
            (math.log(0.75 * cycle),),
            zeros(30),
            h0=state(0.5),
            log_norm=lambda k: k * math.log(0.75 * cycle),
        ),
        FlowProblem(
            "driven 2-cycle of a sigmoid",
            rnn("sigmoid", w * one, U=one),
            (driven,),
            drive.repeat(20)[None, :, None],
            h0=state(p),
            warmup=10,
            log_norm=lambda k: k // 2 * 2 * driven + k % 2 * math.log(w * p * (1 - p)),  # the last step arrives at p
        ),
        FlowProblem(
            "fixed point of tanh",
            rnn("tanh", 0.9 * one, tensor(2 - 0.9 * math.tanh(2))),
            (fixed,),
            zeros(30),
            h0=state(math.tanh(2)),
            log_norm=lambda k: k * fixed,
        ),
        FlowProblem(
            "tanh at the origin",
            rnn("tanh", tensor([1.2, 3], [0, 0.4])),
            logs(1.2, 0.4),
            zeros(60),
            warmup=30,
            log_norm=triangular(1.2, 3, 0.4),
            log_singular=pair(triangular(1.2, 3, 0.4), math.log(0.48)),
            spectrum={h: (1.2, math.exp(norm_2x2(1.2, 3, 0, 0.4)), 3)},
        ),
        FlowProblem(
            "identity ReLU",
            rnn("relu", torch.eye(3), U=torch.ones(3, 1)),
            (0.0, 0.0, 0.0),
            torch.ones(1, 30, 1, dtype=torch.float64),
            log_norm=lambda k: 0.0,
            log_singular=powers(1, 1, 1),
            spectrum={h: (1, 1, 0)},
        ),
        FlowProblem(
            "dead ReLU", rnn("relu", 0.5 * one, tensor(-1)), (-INF,), zeros(10), h0=state(1), log_norm=lambda k: -INF
        ),
        FlowProblem(
            "units dead in turn",
            rnn("relu", torch.eye(2), tensor(-0.5, -0.5), U=tensor([1], [-1])),
            (-INF, -INF),
            2 * turns,
            log_norm=lambda k: 0.0 if k == 1 else -INF,
            log_singular=lambda k: (0.0, -INF) if k == 1 else (-INF, -INF),
        ),
        tent_problem(),
    ]


def gated_problems() -> list[FlowProblem]:
    two = torch.diag(tensor(1, -1))
    keep = torch.zeros(2, 2)
    f = sigmoid(1)

    def lstm_origin(k: int) -> float:
        # J = [[I/2], [I]] [W/2, I/2], so that J^k = [[I/2], [I]] (I/2 + W/4)^(k - 1) [W/2, I/2].
        return math.log(math.sqrt(1.25) * 0.75 ** (k - 1) * math.sqrt(2) / 2)

    return [
        FlowProblem(
            "LSTM at the origin",
            gated(LSTM, 2, two),
            (*logs(0.75, 0.25), -INF, -INF),
            zeros(60),
            warmup=30,
            log_norm=lstm_origin,
            log_singular=lambda k: (lstm_origin(k), lstm_origin(k) + (k - 1) * math.log(1 / 3), -INF, -INF),
            spectrum={("l0", "g"): (1, 1, 0), ("l0", "i"): (0, 0, 0)},
        ),
        FlowProblem(
            "LSTM at the origin, forget bias 1",
            gated(LSTM, 2, two, 1, tensor(1, 1)),
            (*logs(f + 0.25, f - 0.25), -INF, -INF),
            zeros(80),
            warmup=40,
        ),
        FlowProblem(
            "LSTM that only remembers",
            gated(LSTM, 2, keep, 1, tensor(5, 1)),
            (*logs(sigmoid(5), f), -INF, -INF),
            zeros(140),
            warmup=100,
            log_norm=lambda k: k * math.log(sigmoid(5)) + math.log(1.25) / 2,
            log_singular=lambda k: (*(k * log + math.log(1.25) / 2 for log in logs(sigmoid(5), f)), -INF, -INF),
        ),
        FlowProblem(
            "GRU at the origin",
            gated(GRU, 2, torch.diag(tensor(4, -4))),
            logs(1.5, 0.5),
            zeros(60),
            warmup=30,
            log_norm=lambda k: k * math.log(1.5),
            log_singular=powers(1.5, 0.5),
            spectrum={("l0", "n"): (4, 4, 0), ("l0", "z"): (0, 0, 0)},
        ),
        FlowProblem(
            "GRU that only remembers",
            gated(GRU, 2, keep, 1, tensor(3, -1)),
            logs(sigmoid(3), sigmoid(-1)),
            zeros(60),
            warmup=30,
            log_norm=lambda k: k * math.log(sigmoid(3)),
            log_singular=powers(sigmoid(3), sigmoid(-1)),
        ),
        FlowProblem(
            "GRU at the origin, non-normal",
            gated(GRU, 2, tensor([1, 40], [0, -1])),
            logs(0.75, 0.25),
            zeros(60),
            warmup=30,
            log_norm=triangular(0.75, 10, 0.25),
            log_singular=pair(triangular(0.75, 10, 0.25), math.log(0.75 * 0.25)),
            spectrum={("l0", "n"): (1, math.exp(norm_2x2(1, 40, 0, -1)), 40)},
        ),
    ]


PROBLEMS = [*linear_problems(), *simple_problems(), *gated_problems()]
