"""Losses that read several steps themselves: what the recurrence alone does is told apart from what they add."""

from __future__ import annotations

import math

import pytest
import torch
from tests.flow.test_verdict import CASES, B, Case, D, N, T, rnn_of
from torch import nn

from holdfast.flow import adjoints, diagnose


class Each(nn.Module):
    """A recurrent layer and a head on every step, or on their mean."""

    def __init__(self, rnn, mean=False):
        super().__init__()
        self.rnn, self.head, self.mean = rnn, nn.Linear(N, 1), mean

    def forward(self, x_BTD):
        h_BTN = self.rnn(x_BTD)[0]
        return self.head(h_BTN.mean(1, keepdim=True) if self.mean else h_BTN)[..., 0]


class Decoder(nn.Module):
    """An encoder whose last state a cell starts from, that reads its own forecasts."""

    def __init__(self):
        super().__init__()
        self.encoder = nn.GRU(D, N, batch_first=True)
        self.decoder, self.head = nn.GRUCell(1, N), nn.Linear(N, 1)

    def forward(self, x_BTD):
        h, y, outputs = self.encoder(x_BTD)[1][0], x_BTD[:, -1, :1], []
        for _ in range(8):
            h = self.decoder(y, h)
            y = self.head(h)
            outputs.append(y)
        return torch.cat(outputs, 1)


def case_of(make, width, loss=None):
    with torch.random.fork_rng():
        torch.manual_seed(0)
        model = make()
        return Case(model, y=torch.randn(B, width), loss=loss)


def mean_loss(out, y):
    return (out - y).square().mean()


def test_a_loss_of_every_step_does_not_hide_that_the_recurrence_forgets():
    case = case_of(lambda: Each(nn.LSTM(D, N, batch_first=True)), T)
    found = case.diagnose()
    assert found.kind == "vanishing"
    assert found.observation.layers["rnn.l0"].carrier.memory_length is None
    case.follow(found.advice[0])
    assert case.diagnose().kind == "healthy"


def test_of_one_number_it_cannot_be_told_and_a_note_says_so():
    case = case_of(lambda: Each(nn.LSTM(D, N, batch_first=True)), T, loss=mean_loss)
    found = case.diagnose()
    assert found.kind == "healthy"
    assert f"the loss reads {T} steps itself; of the newest alone" in found.notes[0]
    assert "99 % of it gone after 9 steps" in found.notes[0]


def test_a_mean_over_steps_is_a_way_back_too():
    case = case_of(lambda: Each(nn.LSTM(D, N, batch_first=True), mean=True), 1)
    case.y = case.y.expand(B, 2)
    assert case.diagnose().kind == "healthy"


@pytest.mark.parametrize("loss", [None, mean_loss])
def test_what_adds_up_without_growth_is_no_explosion(loss):
    """h_t = Q h_{t-1} + U x_t, read at every step: k + 1 contributions of one size after k steps."""
    case = case_of(lambda: Each(rnn_of("identity", "linear").rnn), T, loss=loss)
    case.loss = (lambda out, y: out) if loss is None else (lambda out, y: out.mean())
    found = case.diagnose()
    layer = found.observation.layers["rnn.l0"]
    assert layer.h.log_factor == pytest.approx(math.log(T), rel=1e-5)
    assert layer.alone.log_factor == pytest.approx(0.0, abs=1e-6)
    assert found.kind == "healthy"


@pytest.mark.parametrize("loss", [None, mean_loss])
def test_an_explosion_shows_through_a_loss_of_every_step(loss):
    model = CASES["exploding through time: linear"]().model
    case = case_of(lambda: Each(model.rnn), T, loss=loss)
    found = case.diagnose()
    assert found.kind == "exploding through time"
    assert f"from the newest step alone, grows 1.2x per step over {T - 1} steps" in found.verdict


def test_an_encoder_that_forgets_is_not_hidden_by_its_decoder():
    case = case_of(Decoder, 8)
    found = case.diagnose()
    assert found.kind == "vanishing"
    assert "the adjoint of encoder.l0" in found.verdict
    case.follow(found.advice[0])
    assert case.diagnose().kind == "healthy"


def pieces(case):
    """The newest step's loss by itself, as a loss of its own."""
    return lambda: case.losses()[:, -1].mean()


@pytest.mark.parametrize(
    ("make", "width"),
    [
        (lambda: Each(nn.GRU(D, N, batch_first=True)), T),
        (lambda: Each(nn.RNN(D, N, 2, batch_first=True)), T),
        (Decoder, 8),
    ],
)
def test_alone_is_what_the_loss_of_the_newest_step_has_by_itself(make, width):
    case = case_of(make, width)
    seen = case.diagnose().observation
    own = diagnose(case.model, pieces(case)).observation
    assert seen.apart
    assert seen.steps_read == width
    for name, layer in seen.layers.items():
        assert layer.alone.per_lag.mean == pytest.approx(own.layers[name].carrier.per_lag.mean, rel=1e-5)


@pytest.mark.parametrize("kind", [nn.RNN, nn.GRU, nn.LSTM])
@pytest.mark.parametrize("ways", [1, 2])
def test_a_head_on_the_newest_state_reads_one_step(kind, ways):
    with torch.random.fork_rng():
        torch.manual_seed(0)
        layer, x_BTD = kind(D, N, 2, bidirectional=ways == 2), torch.randn(5, B, D)
    ends = (
        lambda: layer(x_BTD)[0][-1].square().mean(),
        lambda: sum(part.square().mean() for part in torch.utils._pytree.tree_leaves(layer(x_BTD)[1])),
    )
    for loss in ends[: 2 if kind is not nn.LSTM else 1]:
        seen = diagnose(layer, loss).observation
        assert seen.steps_read == 1
        assert all(each.alone is None for each in seen.layers.values())


def test_each_direction_has_a_newest_step_of_its_own():
    """Of a loss of every step, one direction alone tells as much as a layer that is run that way."""
    with torch.random.fork_rng():
        torch.manual_seed(0)
        both, x_TBD = nn.RNN(D, N, bidirectional=True), torch.randn(7, B, D)
    seen = diagnose(both, lambda: both(x_TBD)[0].square().mean()).observation
    ends = {"l0": lambda y: y[-1, :, :N], "l0_reverse": lambda y: y[0, :, N:]}
    for name, end in ends.items():
        own = adjoints(both, lambda end=end: end(both(x_TBD)[0]).square().mean())[name].log_norm_BT
        order = own if name.endswith("reverse") else own.flip(1)
        expected = (order - order[:, :1]).mean(0)
        mean = torch.tensor(seen.layers[name].alone.per_lag.mean, dtype=torch.float64)
        assert torch.allclose(mean - mean[0], expected, rtol=1e-5, atol=1e-6)


def test_windows_of_unlike_length_are_read_where_each_ends():
    with torch.random.fork_rng():
        torch.manual_seed(0)
        layer, x_BTD = nn.GRU(D, N, batch_first=True), torch.randn(3, 6, D)

    def loss():
        packed = nn.utils.rnn.pack_padded_sequence(x_BTD, [6, 4, 2], batch_first=True)
        y_BTN = nn.utils.rnn.pad_packed_sequence(layer(packed)[0], batch_first=True)[0]
        return y_BTN[[0, 1, 2], [5, 3, 1]].square().mean()

    assert diagnose(layer, loss).observation.steps_read == 1


def test_branches_side_by_side_are_sequences_of_their_own():
    with torch.random.fork_rng():
        torch.manual_seed(0)
        model, x_BTD = nn.ModuleDict({"a": nn.RNN(D, N), "b": nn.GRU(D, N)}), torch.randn(T, B, D)
    found = diagnose(model, lambda: (model["a"](x_BTD)[0][-1] * model["b"](x_BTD)[0][-1]).mean())
    assert found.observation.steps_read == 1


def test_missing_targets_of_the_newest_step_leave_the_step_before():
    case = case_of(lambda: Each(nn.GRU(D, N, batch_first=True)), T)
    plain = case.losses
    mask_BT = torch.ones(B, T)
    mask_BT[:, -3:] = 0
    case.losses = lambda: plain() * mask_BT
    seen = case.diagnose().observation
    assert seen.apart
    assert len(seen.layers["rnn.l0"].alone.per_lag.mean) == T - 3
