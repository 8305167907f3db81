"""The verdict: what is found in models whose flow is known, and that every piece of advice helps."""

from __future__ import annotations

import copy
import json
import math
import re

import pytest
import torch
from torch import nn

import holdfast
from holdfast.errors import OptionError
from holdfast.flow import adjoints, diagnose, growth
from holdfast.networks import LSTM, RNN, constrain_recurrent_, init_recurrent_

T, B, D, N = 40, 12, 3, 16


class Model(nn.Module):
    """A recurrent layer and a linear head on its newest state."""

    def __init__(self, rnn, size=N, out=2):
        super().__init__()
        self.rnn, self.head = rnn, nn.Linear(size, out)

    def forward(self, x_BTD):
        return self.head(self.rnn(x_BTD)[0][:, -1])


class Case:
    """A model with its batch, as a user's script has them: `model`, `x`, `y`."""

    def __init__(self, model, x=None, y=None, loss=None):
        generator = torch.Generator().manual_seed(1)
        self.model = model
        self.x = torch.randn(B, T, D, generator=generator) if x is None else x
        self.y = torch.randn(B, 2, generator=generator) if y is None else y
        self.loss = loss or (lambda out, y: (out - y).square())

    def losses(self):
        return self.loss(self.model(self.x), self.y)

    def diagnose(self, **given):
        return diagnose(self.model, self.losses, **given)

    def follow(self, advice):
        """Run the line of an advice, as it is printed."""
        names = {name: getattr(holdfast, name) for name in ("GradientGuard", "ClipNorm")}
        names |= {"init_recurrent_": init_recurrent_, "constrain_recurrent_": constrain_recurrent_, "torch": torch}
        names |= {"model": self.model, "x": self.x, "y": self.y}
        exec(advice.line, names)
        self.x, self.y = names["x"], names["y"]
        return names

    def train(self, guard=None, steps=60, lr=0.05):
        """Losses of a plain SGD loop, with the guard or without."""
        optimizer = torch.optim.SGD(self.model.parameters(), lr=lr)
        losses = []
        for _ in range(steps):
            optimizer.zero_grad()
            loss = self.losses().mean()
            loss.backward()
            losses.append(loss.item())
            optimizer.step() if guard is None else guard.step(optimizer, loss=loss)
        return losses


def seeded(make, *args, **given):
    with torch.random.fork_rng():
        torch.manual_seed(0)
        return Case(make(*args), **given)


def stock(kind, **options):
    return Model(kind(D, N, batch_first=True, **options))


def rnn_of(scheme, nonlinearity="relu"):
    model = Model(RNN(D, N, nonlinearity=nonlinearity))
    init_recurrent_(model.rnn, torch.Generator().manual_seed(0), scheme=scheme)
    return model


def exploding():
    """h_t = 1.2 Q h_{t-1} + U x_t with an orthogonal Q."""
    model = rnn_of("orthogonal", "linear")
    model.rnn.weight_hh_l0.data *= 1.2
    model.rnn.weight_ih_l0.data *= 1e-3  # states, and with them the loss, stay moderate
    return model


def chaotic():
    """h_t = tanh(1.5 Q h_{t-1} + U x_t) near the origin."""
    model = rnn_of("orthogonal", "tanh")
    model.rnn.weight_hh_l0.data *= 1.5
    model.rnn.weight_ih_l0.data *= 1e-2
    return model


def gaussian(out, y):
    """Negative log-likelihood with a sigma of 1e-3."""
    return 0.5 * ((y - out) / 1e-3).square()


def with_value(at, value):
    x = torch.randn(B, T, D, generator=torch.Generator().manual_seed(1))
    x[at] = value
    return x


def target_with(at, value):
    y = torch.randn(B, 2, generator=torch.Generator().manual_seed(2))
    y[at] = value
    return y


def broken_weights():
    model = stock(nn.LSTM)
    model.head.weight.data[0, 0] = math.nan
    return model


def large_weights():
    model = stock(nn.RNN)
    model.rnn.weight_hh_l0.data *= 300
    return model


def overflowing():
    model = rnn_of("orthogonal", "relu")
    model.rnn.weight_hh_l0.data.copy_(20.0 * torch.eye(N))
    return model


def root_at_zero(out, y):
    return (0 * out).abs().sqrt() + (out - y).square()


CASES = {
    "exploding through time: linear": lambda: seeded(exploding),
    "exploding through time: tanh": lambda: seeded(chaotic),
    "exploding head": lambda: seeded(stock, nn.LSTM, loss=gaussian),
    "exploding data: an input": lambda: seeded(rnn_of, "orthogonal", "linear", x=with_value((3, 39), 3e3)),
    "exploding data: a target": lambda: seeded(stock, nn.LSTM, y=target_with(5, 1e4)),
    "vanishing: tanh": lambda: seeded(stock, nn.RNN),
    "vanishing: relu": lambda: seeded(rnn_of, "radius:0.9", "relu"),
    "vanishing: sigmoid": lambda: seeded(rnn_of, "orthogonal", "sigmoid"),
    "vanishing: orthogonal tanh": lambda: seeded(rnn_of, "orthogonal", "tanh", x=with_value((0, 0), 1.0) * 4),
    "vanishing: LSTM": lambda: seeded(stock, nn.LSTM),
    "vanishing: GRU": lambda: seeded(stock, nn.GRU),
    "saturated: inputs": lambda: seeded(stock, nn.RNN, x=1e5 * with_value((0, 0), 1.0)),
    "saturated: weights": lambda: seeded(large_weights),
    "not finite: weights": lambda: seeded(broken_weights),
    "not finite: inputs": lambda: seeded(stock, nn.GRU, x=with_value((7, 2), math.nan)),
    "not finite: states": lambda: seeded(overflowing),
    "not finite: target": lambda: seeded(stock, nn.LSTM, y=target_with(4, math.nan)),
    "not finite: gradients": lambda: seeded(stock, nn.LSTM, loss=root_at_zero),
}


@pytest.mark.parametrize("name", CASES)
def test_the_cause_is_named(name):
    found = CASES[name]().diagnose(reach=30)
    assert found.kind == name.split(":")[0]
    assert found.verdict in str(found)
    assert found.advice
    assert all(one.line and one.evidence and one.text for one in found.advice)


def worst_gain(case):
    found = adjoints(case.model, lambda: case.losses().mean())["rnn.l0"]
    return growth(found.log_norm_BT).log_factor


def reach_back(case):
    """The carrier's log factor over the whole context: how much of the gradient is left at its far end."""
    return next(iter(case.diagnose().observation.layers.values())).carrier.log_factor


def test_clipping_helps_against_an_explosion_through_time():
    case = CASES["exploding through time: tanh"]()
    clip = case.diagnose().advice[0]
    assert clip.option.startswith("--clip norm:")
    assert clip.option.endswith(" --clip-roles input,recurrent,bias")
    loose = case.train(lr=0.2, steps=150)
    case = CASES["exploding through time: tanh"]()
    tight = case.train(case.follow(clip)["guard"], lr=0.2, steps=150)
    assert tight[-1] < 1e-3 * loose[-1]
    assert loose[-1] < loose[0]


@pytest.mark.parametrize("name", ["exploding through time: linear", "exploding through time: tanh"])
@pytest.mark.parametrize("option", ["--init orthogonal", "--constraint cap:1"])
def test_another_start_or_a_bound_on_the_recurrence_helps_against_an_explosion_through_time(name, option):
    case = CASES[name]()
    advice = next(one for one in case.diagnose().advice if one.option == option)
    before = worst_gain(case)
    case.follow(advice)
    assert before > math.log(100)
    assert worst_gain(case) < 1e-3
    assert case.diagnose().kind != "exploding through time"


def test_states_without_a_bound_are_not_told_to_clip():
    """The step can be bounded and the states explode none the less: such a run stays finite and learns nothing."""
    found = CASES["exploding through time: linear"]().diagnose()
    assert [one.option for one in found.advice] == ["--init orthogonal", "--constraint cap:1"]


def test_an_exploding_head_is_held_by_clipping_all_roles():
    case = CASES["exploding head"]()
    found = case.diagnose()
    assert "not through time" in found.verdict
    loose = case.train()
    assert not loose[-1] < loose[0]
    case = CASES["exploding head"]()
    tight = case.train(case.follow(found.advice[0])["guard"], lr=0.01)
    assert tight[-1] < 0.9 * tight[0]


@pytest.mark.parametrize("name", ["exploding data: an input", "exploding data: a target"])
def test_leaving_the_outlying_window_out_helps(name):
    case = CASES[name]()
    found = case.diagnose(name_window="row {}".format)
    at = 3 if "input" in name else 5
    assert f"row {at} makes" in found.verdict
    before = math.hypot(*found.observation.role_norms().values())
    case.follow(found.advice[0])
    assert len(case.x) == B - 1
    after = case.diagnose()
    assert "data" not in after.kind
    assert math.hypot(*after.observation.role_norms().values()) < before / 10


@pytest.mark.parametrize("name", [name for name in CASES if name.startswith("vanishing")])
def test_every_advice_against_vanishing_lengthens_memory(name):
    found = CASES[name]().diagnose(reach=30)
    for advice in found.advice:
        case = CASES[name]()
        before = reach_back(case)
        with torch.random.fork_rng():
            torch.manual_seed(0)
            case.model.rnn = case.follow(advice).get("lstm", case.model.rnn)
        assert reach_back(case) > before + 0.3 * abs(before), advice


def test_an_orthogonal_tanh_layer_that_vanishes_is_told_to_become_an_lstm_at_once():
    found = CASES["vanishing: orthogonal tanh"]().diagnose(reach=30)
    assert [advice.option for advice in found.advice] == ["--cell lstm --init chrono:60"]


@pytest.mark.parametrize("name", ["saturated: inputs", "saturated: weights"])
def test_advice_against_saturation_helps(name):
    case = CASES[name]()
    found = next(finding for finding in case.diagnose().findings if finding.kind == "saturated")
    before = case.diagnose().observation.flat["rnn.l0.h"].mean()
    case.follow(found.advice[0])
    assert before > 0.9
    assert case.diagnose().observation.flat["rnn.l0.h"].mean() < 0.2


@pytest.mark.parametrize("name", ["not finite: inputs", "not finite: target"])
def test_leaving_out_the_windows_that_are_not_finite_helps(name):
    case = CASES[name]()
    found = case.diagnose()
    assert ("window 7" if "inputs" in name else "window 4") in found.verdict
    case.follow(found.advice[0])
    assert case.diagnose().kind != "not finite"


def test_states_that_overflow_stay_finite_with_a_bound_on_the_recurrence():
    case = CASES["not finite: states"]()
    found = case.diagnose()
    assert "states overflow" in found.verdict
    case.follow(found.advice[0])
    assert case.diagnose().kind != "not finite"


@pytest.mark.parametrize("name", ["not finite: gradients", "not finite: target"])
def test_the_guard_of_the_advice_leaves_broken_steps_out(name):
    case = CASES[name]()
    advice = case.diagnose().findings[0].advice[-1]
    before = copy.deepcopy(case.model.state_dict())
    guard = case.follow(advice)["guard"]
    case.train(guard, steps=3)
    assert guard.summary().skipped == 3
    assert all(torch.equal(value, before[name]) for name, value in case.model.state_dict().items())


def test_weights_that_are_not_finite_are_named():
    found = CASES["not finite: weights"]().diagnose()
    assert "head.weight" in found.verdict
    assert "saved before" in found.verdict


def test_a_season_beyond_the_context_and_a_context_that_holds_two():
    case = CASES["vanishing: LSTM"]()
    found = case.diagnose(reach=T, step_seconds=3600.0)
    assert found.kind == "short context"
    assert "40 steps (1.7 days) back, and 40 steps (1.7 days) are fed" in found.verdict
    length = case.follow(found.advice[0])["context_length"]
    case.x = torch.randn(B, length, D, generator=torch.Generator().manual_seed(1))
    assert case.diagnose(reach=T).kind != "short context"


def test_a_healthy_model_is_told_so_in_one_line():
    case = seeded(stock, nn.LSTM)
    init_recurrent_(case.model.rnn, torch.Generator().manual_seed(0), scheme="chrono:80")
    found = case.diagnose(reach=10)
    assert found.kind == "healthy"
    assert found.verdict.startswith("Healthy: gradients flow back through time (rnn.l0 0.")
    assert found.advice == ()
    assert str(found).splitlines()[1] == ""


def test_before_training_a_zero_head_is_replaced_by_a_readout():
    case = seeded(stock, nn.RNN)
    nn.init.zeros_(case.model.head.weight)
    nn.init.zeros_(case.model.head.bias)
    found = case.diagnose(reach=24)
    assert found.observation.by_readout
    assert "readout of the newest state" in found.notes[0]
    assert found.kind == "vanishing"
    assert "the season is 24 steps" in found.verdict


def test_a_loss_that_is_not_finite_still_tells_how_the_recurrence_is():
    found = CASES["not finite: target"]().diagnose()
    assert found.observation.by_readout
    assert 0 < found.observation.layers["rnn.l0"].h.rate < 1


def test_the_rate_and_factor_of_a_linear_layer_are_exact():
    case = seeded(exploding)
    case.model.double()
    case.model.rnn.weight_hh_l0.data = 1.2 * torch.eye(N, dtype=torch.float64)
    case.x, case.y = case.x.double(), case.y.double()
    found = case.diagnose()
    assert f"grows 1.2x per step over {T - 1} steps, 1.2e3x in all; spectral radius 1.2" in found.verdict
    assert found.observation.layers["rnn.l0"].h.log_factor == pytest.approx((T - 1) * math.log(1.2), rel=1e-9)


def test_gradients_beyond_the_range_of_numbers_are_still_an_explosion_through_time():
    case = seeded(exploding)
    case.model.rnn.weight_hh_l0.data *= 10.0
    case.model.rnn.weight_ih_l0.data.zero_()
    found = case.diagnose()
    assert found.kind == "exploding through time"
    assert "grows 12x per step" in found.verdict


def test_a_transient_of_a_nonnormal_layer_is_an_explosion():
    """Eigenvalues of 1/2, and powers that grow a thousandfold before they shrink."""
    case = seeded(rnn_of, "orthogonal", "linear")
    case.model.rnn.weight_hh_l0.data = 0.5 * torch.eye(N) + 3 * torch.diag(torch.ones(N - 1), 1)
    found = case.diagnose()
    assert found.kind == "exploding through time"
    assert "spectral radius 0.5" in found.verdict


def test_gradient_norms_equal_those_of_a_backward_pass():
    case = seeded(stock, nn.GRU)
    seen = case.diagnose().observation
    case.losses().mean().backward()
    for one in seen.parameters:
        assert one.gradient_norm == pytest.approx(case.model.get_parameter(one.name).grad.norm().item(), rel=1e-5)
    role = [p.grad.norm() for name, p in case.model.named_parameters() if name.startswith("head")]
    assert seen.role_norms()["head"] == pytest.approx(torch.stack(role).norm().item(), rel=1e-5)


def test_gradients_of_windows_and_horizon_steps_equal_those_of_their_own_losses():
    case = seeded(stock, nn.RNN)
    seen = case.diagnose().observation

    def norm(loss):
        case.model.zero_grad()
        loss.backward()
        return torch.stack([p.grad.norm() for p in case.model.parameters()]).norm().item()

    assert len(seen.window_gradients) == 8
    for window, found in seen.window_gradients.items():
        assert found == pytest.approx(norm(case.losses()[window].mean()), rel=1e-5)
    assert list(seen.horizon_gradients) == [1, 2]
    for step, found in seen.horizon_gradients.items():
        assert found == pytest.approx(norm(case.losses()[:, step - 1].mean()), rel=1e-5)


def test_windows_are_measured_by_all_their_adjoints():
    case = seeded(stock, nn.LSTM, x=None)
    seen = case.diagnose().observation
    log_norm_BT = adjoints(case.model, lambda: case.losses().mean())["rnn.l0"].log_norm_BT
    assert seen.window_norms == pytest.approx(log_norm_BT.exp().square().sum(1).sqrt().log().tolist(), rel=1e-6)


def test_the_bound_is_the_norm_without_growth_or_what_nine_steps_in_ten_stay_below():
    case = CASES["exploding through time: tanh"]()
    found = case.diagnose()
    norms = found.observation.role_norms()
    logs = [value - found.observation.layers["rnn.l0"].h.per_lag.mean[0] for value in means(found)]
    flat = math.hypot(norms["input"], norms["recurrent"], norms["bias"]) * T / sum(map(math.exp, logs))
    roles = "roles=('input', 'recurrent', 'bias')"
    assert found.advice[0].line == f"guard = GradientGuard(model, ClipNorm({float(f'{flat:.2g}'):g}), {roles})"
    history = [{"recurrent": 1e-3 * flat * k, "head": 2.0 if k > 50 else 1.0} for k in range(1, 101)]
    told = case.diagnose(history=history)
    bound = float(re.search(r"ClipNorm\((.*?)\)", told.advice[0].line)[1])
    share = sum(norms["recurrent"] > bound for norms in history)
    assert 8 <= share <= 11
    assert f"expected clip fraction {share} %, as of the last 100 steps" in str(told)
    assert "the output layer's gradient is 2x what it was at the start" in told.verdict


def means(found):
    return found.observation.layers["rnn.l0"].h.per_lag.mean


@pytest.mark.parametrize("factor", [1e-6, 1e3])
def test_the_scale_of_the_loss_changes_no_rate(factor):
    case = seeded(stock, nn.LSTM)
    plain = case.diagnose().observation.layers["rnn.l0"].h.rate
    scaled = seeded(stock, nn.LSTM, loss=lambda out, y: factor * (out - y).square())
    assert scaled.diagnose().observation.layers["rnn.l0"].h.rate == pytest.approx(plain, rel=1e-4)


def test_the_order_of_the_windows_changes_nothing_but_their_names():
    case = CASES["exploding data: a target"]()
    order = torch.randperm(B, generator=torch.Generator().manual_seed(3))
    first = case.diagnose()
    case.x, case.y = case.x[order], case.y[order]
    assert f"window {order.tolist().index(5)} makes" in case.diagnose().verdict
    assert "window 5 makes" in first.verdict


@pytest.mark.parametrize("name", CASES)
def test_nothing_about_the_model_changes(name):
    case = CASES[name]()
    case.model.train()
    case.losses().nan_to_num().mean().backward()
    before = copy.deepcopy(case.model.state_dict())
    grads = [p.grad.clone() for p in case.model.parameters()]
    state = torch.get_rng_state()
    case.diagnose()
    after = case.model.state_dict()
    assert all(torch.equal(value.nan_to_num(), after[key].nan_to_num()) for key, value in before.items())
    assert all(
        torch.equal(g.nan_to_num(), p.grad.nan_to_num()) for g, p in zip(grads, case.model.parameters(), strict=True)
    )
    assert torch.equal(torch.get_rng_state(), state)
    assert all(module.training for module in case.model.modules())


@pytest.mark.parametrize("name", ["exploding through time: tanh", "not finite: inputs", "vanishing: LSTM"])
def test_the_json_holds_every_number(name):
    found = CASES[name]().diagnose()
    facts = json.loads(found.to_json())
    assert facts["kind"] == found.kind
    assert facts["verdict"] == found.verdict
    assert [one["line"] for one in facts["advice"]] == [one.line for one in found.advice]
    for key, layer in found.observation.layers.items():
        assert facts["numbers"]["layers"][key]["h"]["rate"] == layer.h.rate
        assert len(facts["numbers"]["layers"][key]["h"]["log_norm_by_lag"]) == T
    assert set(facts["numbers"]["spectra"]) == set(found.observation.spectra)


class Looping(nn.Module):
    """A cell in a loop, with a head."""

    def __init__(self):
        super().__init__()
        self.cell, self.head = nn.GRUCell(D, N), nn.Linear(N, 2)

    def forward(self, x_BTD):
        h = x_BTD.new_zeros(len(x_BTD), N)
        for x_BD in x_BTD.unbind(1):
            h = self.cell(x_BD, h)
        return self.head(h)


def test_a_loop_of_cells_is_seen_as_the_layer_that_it_is():
    looping = seeded(Looping)
    layered = seeded(stock, nn.GRU)
    layered.model.head.load_state_dict(looping.model.head.state_dict())
    layered.model.rnn.load_state_dict({f"{k}_l0": v for k, v in looping.model.cell.state_dict().items()})
    one, other = looping.diagnose().observation, layered.diagnose().observation
    assert one.layers["cell.l0"].h.rate == pytest.approx(other.layers["rnn.l0"].h.rate, rel=1e-4)
    assert one.exponents["cell"].values.item() == pytest.approx(other.exponents["rnn"].values.item(), rel=1e-6)
    assert torch.equal(one.flat["cell.l0.n"], other.flat["rnn.l0.n"])


def packed_forward(self, x_BTD):
    lengths = [T - k for k in range(B)]
    packed = nn.utils.rnn.pack_padded_sequence(x_BTD, lengths, batch_first=True)
    _, state = self.rnn(packed)
    return self.head(state[-1])


@pytest.mark.filterwarnings("ignore:LSTM with projections is not supported with oneDNN")
@pytest.mark.parametrize(
    ("options", "left_out"),
    [
        ({"bidirectional": True}, "bidirectional=True"),
        ({"proj_size": 8}, "proj_size=8"),
        ({"num_layers": 2, "dropout": 0.2}, ""),
    ],
)
def test_what_cannot_be_measured_of_a_layer_is_said(options, left_out):
    size = {"bidirectional": 2 * N, "proj_size": 8}.get(next(iter(options)), N)
    case = seeded(lambda: Model(nn.LSTM(D, N, batch_first=True, **options), size))
    found = case.diagnose()
    assert [left_out in note for note in found.notes] == [True] * bool(left_out)
    assert all(math.isfinite(layer.h.per_lag.mean[0]) for layer in found.observation.layers.values())


def test_packed_sequences_are_looked_at(monkeypatch):
    monkeypatch.setattr(Model, "forward", packed_forward)
    found = seeded(stock, nn.RNN).diagnose()
    assert found.observation.layers["rnn.l0"].h.windows == B
    assert found.observation.exponents["rnn"].by_window.shape == (1, 1)  # the one that has all steps


def test_ours_and_the_stock_layer_are_told_alike():
    ours = Model(LSTM(D, N))
    theirs = stock(nn.LSTM)
    theirs.load_state_dict(ours.state_dict())
    assert str(Case(ours).diagnose()) == str(Case(theirs).diagnose())


@pytest.mark.parametrize("given", [{"reach": 0}, {"step_seconds": -1.0}, {"step_seconds": math.inf}])
def test_settings_that_cannot_be_are_refused(given):
    case = seeded(stock, nn.RNN)
    with pytest.raises(OptionError, match="above 0"):
        case.diagnose(**given)


def looping(kind):
    case = seeded(Looping)
    with torch.random.fork_rng():
        torch.manual_seed(0)
        case.model.cell = kind(D, N)
    return case


def test_advice_for_a_cell_runs_as_printed():
    case = looping(nn.RNNCell)
    found = case.diagnose()
    assert found.kind == "vanishing"
    start, other = found.advice
    case.follow(start)
    assert case.diagnose().kind == "healthy"
    assert isinstance(case.follow(other)["lstm"], nn.LSTMCell)


def test_a_bound_on_a_cell_that_may_be_fed_back_promises_less():
    case = looping(nn.RNNCell)
    case.model.cell.weight_hh.data *= 4
    case.x = case.x * 1e-3
    found = case.diagnose()
    assert found.kind == "exploding through time"
    assert "so that W itself lets nothing grow" in found.advice[-1].text
    case.follow(found.advice[-1])
    assert case.diagnose().kind != "exploding through time"


@pytest.mark.parametrize(
    ("make", "options"),
    [
        (lambda: nn.RNN(D, N, 2), "num_layers=2"),
        (lambda: nn.RNN(D, N, batch_first=True), "batch_first=True"),
        (lambda: nn.RNN(D, N, bidirectional=True), "bidirectional=True"),
        (lambda: RNN(D, N), "batch_first=True"),
    ],
)
def test_the_lstm_of_an_advice_takes_the_place_of_the_layer(make, options):
    with torch.random.fork_rng():
        torch.manual_seed(0)
        model, x = nn.ModuleDict({"rnn": make()}), torch.randn(T, T, D)
        first = getattr(model["rnn"], "batch_first", True)
        found = diagnose(
            model, lambda: (model["rnn"](x)[0][:, -1] if first else model["rnn"](x)[0][-1]).sum(), reach=30
        )
        line = found.advice[-1].line
        names = {"torch": torch, "init_recurrent_": init_recurrent_}
        exec(line, names)
    assert f"torch.nn.LSTM({D}, {N}, {options})" in line
    assert names["lstm"](x)[0].shape == model["rnn"](x)[0].shape


@pytest.mark.parametrize("option", ["--init orthogonal", "--constraint cap:1"])
def test_a_constraint_that_is_too_loose_is_taken_off_first(option):
    case = CASES["exploding through time: tanh"]()
    constrain_recurrent_(case.model.rnn, "cap:1.5")
    advice = next(one for one in case.diagnose().advice if one.option == option)
    case.follow(advice)
    assert case.diagnose().kind != "exploding through time"


def test_above_other_layers_the_one_that_explodes_is_held():
    case = looping(nn.RNNCell)
    with torch.random.fork_rng():
        torch.manual_seed(0)
        first = case.model.first = nn.RNN(D, D, batch_first=True)
    case.model.cell.weight_hh.data *= 4
    plain, case.x = case.model.forward, case.x * 1e-3
    case.losses = lambda: (plain(first(case.x)[0]) - case.y).square()
    found = case.diagnose()
    assert "the adjoint of cell.l0 grows" in found.verdict
    assert found.advice[-1].line == 'constrain_recurrent_(model.get_submodule("cell"), "cap:1")'


@pytest.mark.parametrize("layer", [0, 1])
def test_in_a_stack_the_layer_that_explodes_is_named(layer):
    case = seeded(lambda: stock(nn.RNN, num_layers=2))
    for k in (0, 1):
        case.model.rnn.get_parameter(f"weight_ih_l{k}").data *= 1e-1
        case.model.rnn.get_parameter(f"bias_ih_l{k}").data.zero_()
        case.model.rnn.get_parameter(f"bias_hh_l{k}").data.zero_()
    case.model.rnn.get_parameter(f"weight_hh_l{layer}").data *= 3.5
    case.x = case.x * 1e-3
    assert f"the adjoint of rnn.l{layer} grows" in case.diagnose().verdict


@pytest.mark.parametrize("spoil", ["x", "y"])
def test_where_all_windows_are_broken_none_are_left_out(spoil):
    case = seeded(stock, nn.GRU)
    setattr(case, spoil, getattr(case, spoil) * math.nan)
    found = case.diagnose()
    assert found.kind == "not finite"
    case.follow(found.advice[0])
    assert len(case.x) == B
    assert spoil == "y" or case.diagnose().kind != "not finite"


def test_states_that_add_up_are_told_from_a_steep_head():
    """h_t = relu(h_{t-1} + U x_t) on inputs of one sign: states of the size of T, adjoints of one size."""
    case = seeded(rnn_of, "identity", "relu", x=with_value((0, 0), 1.0).abs() * 3)
    case.model.rnn.weight_ih_l0.data.abs_()
    case.loss = lambda out, y: (out - out.detach() - 1.0).square()
    found = case.diagnose()
    assert found.kind == "exploding states"
    norms = found.observation.role_norms()
    assert norms["recurrent"] > norms["head"]


def test_standardised_inputs_stay_finite_where_a_feature_is_constant():
    case = CASES["saturated: inputs"]()
    case.x[..., 0] = 7e5
    case.follow(next(finding for finding in case.diagnose().findings if finding.kind == "saturated").advice[0])
    assert torch.isfinite(case.x).all()


def test_frozen_weights_have_no_gradient_and_a_verdict():
    case = seeded(stock, nn.RNN)
    plain = case.diagnose()
    case.model.requires_grad_(False)
    found = case.diagnose()
    assert found.verdict == plain.verdict
    assert set(found.observation.role_norms().values()) == {0.0}


def test_weights_in_half_precision_can_follow_the_advice():
    case = CASES["vanishing: tanh"]()
    case.model.bfloat16()
    case.x, case.y = case.x.bfloat16(), case.y.bfloat16()
    case.follow(case.diagnose().advice[0])
    W = case.model.rnn.weight_hh_l0.float()
    assert torch.allclose(W @ W.T, torch.eye(N), atol=2e-2)


def test_a_weight_that_nothing_reads_can_be_broken_in_a_steep_model():
    case = CASES["exploding head"]()
    case.model.unused = nn.Parameter(torch.tensor(math.nan))
    assert "unused" in case.diagnose().verdict


def test_large_models_are_told_of_fewer_windows(monkeypatch):
    monkeypatch.setattr("holdfast.flow.observation.MOST_WORK", 1.0)
    case = seeded(stock, nn.LSTM)
    seen = case.diagnose().observation
    assert len(seen.window_gradients) == 2
    assert list(seen.horizon_gradients) == [1, 2]


def test_a_loss_that_runs_backward_is_refused():
    case = seeded(stock, nn.RNN)

    def loss():
        found = case.losses().mean()
        found.backward()
        return found

    with pytest.raises(OptionError, match="call no backward"):
        diagnose(case.model, loss)


def test_a_model_without_recurrence_is_refused():
    model = nn.Linear(3, 1)
    with pytest.raises(OptionError, match="recurrent"):
        diagnose(model, lambda: model(torch.ones(2, 3)).sum())


def test_a_loss_without_a_graph_is_refused():
    case = seeded(stock, nn.RNN)
    with pytest.raises(OptionError, match="graph"):
        diagnose(case.model, lambda: case.losses().mean().detach())
