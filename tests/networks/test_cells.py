"""The recurrent layers against PyTorch's, against a hand-written twin, and against what their formulas promise."""

from __future__ import annotations

import copy
import io

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from tests.reference.recurrent import gru_step, lstm_bptt, lstm_step, rnn_bptt, rnn_step, run_layers
from torch import Tensor, nn

from holdfast.errors import OptionError
from holdfast.networks.cells import CELLS, GRU, LSTM, NONLINEARITIES, RNN, make_cell

FUSED = ("lstm", "gru", "rnn-tanh", "rnn-relu")
SCANNED = ("rnn-sigmoid", "rnn-linear")
# B, T, D, N, L: several layers, one step, one window, one feature, one unit, wider than long
SHAPES = [(3, 6, 2, 4, 2), (2, 1, 3, 5, 3), (1, 7, 4, 3, 1), (4, 5, 1, 1, 2), (1, 1, 1, 1, 1), (2, 12, 3, 9, 2)]

every_cell = pytest.mark.parametrize("name", CELLS)
every_shape = pytest.mark.parametrize("shape", SHAPES, ids=str)
both_biases = pytest.mark.parametrize("bias", [True, False], ids=["bias", "no bias"])


@pytest.fixture(autouse=True)
def seed():
    torch.manual_seed(0)


def build(name: str, D: int, N: int, L: int = 1, bias: bool = True, dropout: float = 0.0):
    """A float64 layer with random biases: a zero bias would hide mistakes."""
    options = {"bias": bias, "dropout": dropout}
    if name == "lstm":
        layer = LSTM(D, N, L, **options)
    elif name == "gru":
        layer = GRU(D, N, L, **options)
    else:
        layer = RNN(D, N, L, nonlinearity=name.removeprefix("rnn-"), **options)
    layer = layer.double()
    with torch.no_grad():
        for parameter in layer.parameters():
            parameter.add_(0.3 * torch.randn_like(parameter))
    return layer


def torch_twin(name: str, layer) -> nn.RNNBase:
    """PyTorch's layer with the same weights, loaded strictly."""
    D, N, L = layer.input_size, layer.hidden_size, layer.num_layers
    options = {"bias": layer.bias, "dropout": layer.dropout, "batch_first": True}
    if name == "lstm":
        twin = nn.LSTM(D, N, L, **options)
    elif name == "gru":
        twin = nn.GRU(D, N, L, **options)
    else:
        twin = nn.RNN(D, N, L, nonlinearity=name.removeprefix("rnn-"), **options)
    twin = twin.double()
    twin.load_state_dict(layer.state_dict(), strict=True)
    return twin


def inputs(name: str, shape: tuple[int, ...]) -> tuple[Tensor, Tensor | tuple[Tensor, Tensor]]:
    B, T, D, N, L = shape
    x_BTD = torch.randn(B, T, D, dtype=torch.float64, requires_grad=True)
    h_LBN = torch.randn(L, B, N, dtype=torch.float64, requires_grad=True)
    c_LBN = torch.randn(L, B, N, dtype=torch.float64, requires_grad=True)
    return x_BTD, (h_LBN, c_LBN) if name == "lstm" else h_LBN


def parts(state) -> tuple[Tensor, ...]:
    return state if isinstance(state, tuple) else (state,)


def loss_of(h_BTN: Tensor, state) -> Tensor:
    """A loss that every output and every part of the final state enters with its own weight."""
    total = torch.zeros((), dtype=torch.float64)
    for k, part in enumerate((h_BTN, *parts(state))):
        weights = torch.linspace(-1 - k, 2 + k, part.numel(), dtype=part.dtype).reshape(part.shape)
        total = total + (weights * part).sum() + (part**2).sum() / (k + 1)
    return total


def close(actual: Tensor, expected: Tensor, rtol: float = 1e-12) -> None:
    """Relative to the largest entry: entries that cancel to nearly nothing have no digits of their own."""
    assert actual.shape == expected.shape
    assert (actual - expected).abs().max() <= rtol * (expected.abs().max() + 1e-300)


def twin_weights(layer) -> list[tuple[Tensor, ...]]:
    rows = layer.weight_hh_l0.shape[0]
    zero = torch.zeros(rows, dtype=torch.float64)
    return [
        tuple(getattr(layer, f"{key}_l{k}", zero) for key in ("weight_ih", "weight_hh", "bias_ih", "bias_hh"))
        for k in range(layer.num_layers)
    ]


def run_twin(name: str, layer, x_BTD: Tensor, state):
    steps = {"lstm": lstm_step, "gru": gru_step}
    step = steps[name] if name in steps else rnn_step(name.removeprefix("rnn-"))
    h_BTN, final = run_layers(step, twin_weights(layer), x_BTD, parts(state))
    return h_BTN, final if name == "lstm" else final[0]


# Equal to PyTorch


@pytest.mark.parametrize("name", FUSED)
@every_shape
@both_biases
@pytest.mark.parametrize("given_state", [True, False], ids=["state", "no state"])
def test_equals_torch_in_outputs_state_and_every_gradient(name, shape, bias, given_state):
    _, _, D, N, L = shape
    layer = build(name, D, N, L, bias)
    twin = torch_twin(name, layer)
    x_BTD, state = inputs(name, shape)
    wanted = [x_BTD, *(parts(state) if given_state else ())]
    found = []
    for module in (layer, twin):
        h_BTN, final = module(x_BTD, state if given_state else None)
        gradients = torch.autograd.grad(loss_of(h_BTN, final), [*wanted, *module.parameters()])
        found.append([h_BTN, *parts(final), *gradients])
    for actual, expected in zip(*found, strict=True):
        close(actual, expected)


@pytest.mark.parametrize("name", FUSED)
@both_biases
def test_state_dicts_load_strictly_both_ways(name, bias):
    layer = build(name, 3, 4, 2, bias)
    twin = torch_twin(name, layer)
    assert [key for key, _ in layer.named_parameters()] == [key for key, _ in twin.named_parameters()]
    back = build(name, 3, 4, 2, bias)
    back.load_state_dict(twin.state_dict(), strict=True)
    for key, weight in layer.state_dict().items():
        assert torch.equal(back.state_dict()[key], weight)


@pytest.mark.parametrize("name", FUSED)
def test_dropout_is_torchs_mask_for_mask_and_off_in_evaluation(name):
    layer = build(name, 3, 8, 3, dropout=0.4)
    twin = torch_twin(name, layer)
    x_BTD, state = inputs(name, (2, 5, 3, 8, 3))
    torch.manual_seed(1)
    dropped, _ = layer(x_BTD, state)
    torch.manual_seed(1)
    close(dropped, twin(x_BTD, state)[0])
    whole, _ = layer.eval()(x_BTD, state)
    close(whole, twin.eval()(x_BTD, state)[0])
    assert (whole - dropped).abs().max() > 1e-3


# Equal to the hand-written twin


@every_cell
@every_shape
@both_biases
def test_equals_the_hand_written_layer_and_its_gradients(name, shape, bias):
    _, _, D, N, L = shape
    layer = build(name, D, N, L, bias)
    x_BTD, state = inputs(name, shape)
    wanted = [x_BTD, *parts(state), *layer.parameters()]
    found = []
    for h_BTN, final in (layer(x_BTD, state), run_twin(name, layer, x_BTD, state)):
        gradients = torch.autograd.grad(loss_of(h_BTN, final), wanted)
        found.append([h_BTN, *parts(final), *gradients])
    for actual, expected in zip(*found, strict=True):
        close(actual, expected)


@pytest.mark.parametrize("nonlinearity", NONLINEARITIES)
@pytest.mark.parametrize("T", [1, 2, 9])
def test_rnn_gradients_equal_hand_written_backpropagation_through_time(nonlinearity, T):
    layer = build(f"rnn-{nonlinearity}", 3, 4)
    x_BTD, h_LBN = inputs("rnn", (1, T, 3, 4, 1))
    g_TN = torch.randn(T, 4, dtype=torch.float64)
    h_BTN, _ = layer(x_BTD, h_LBN)
    actual = torch.autograd.grad(h_BTN, [*layer.parameters(), x_BTD, h_LBN], g_TN[None])
    with torch.no_grad():
        expected = rnn_bptt(twin_weights(layer)[0], x_BTD[0], h_LBN[0, 0], g_TN, nonlinearity)
    for a, e in zip(actual, expected, strict=True):
        close(a.reshape(e.shape), e)


@pytest.mark.parametrize("T", [1, 2, 9])
def test_lstm_gradients_equal_hand_written_backpropagation_through_time(T):
    layer = build("lstm", 3, 4)
    x_BTD, state = inputs("lstm", (1, T, 3, 4, 1))
    g_TN = torch.randn(T, 4, dtype=torch.float64)
    h_BTN, _ = layer(x_BTD, state)
    actual = torch.autograd.grad(h_BTN, [*layer.parameters(), x_BTD, *state], g_TN[None])
    with torch.no_grad():
        expected = lstm_bptt(twin_weights(layer)[0], x_BTD[0], state[0][0, 0], state[1][0, 0], g_TN)
    for a, e in zip(actual, expected, strict=True):
        close(a.reshape(e.shape), e)


@pytest.mark.parametrize("name", SCANNED)
def test_dropout_of_the_scan_masks_between_layers_only(name):
    p = 0.4
    layer = build(name, 3, 8, 2, dropout=p)
    x_BTD, h_LBN = inputs(name, (2, 5, 3, 8, 2))
    torch.manual_seed(1)
    dropped, _ = layer(x_BTD, h_LBN)
    torch.manual_seed(1)
    mask_TBN = nn.functional.dropout(torch.ones(5, 2, 8, dtype=torch.float64), p)
    step, weights = rnn_step(layer.nonlinearity), twin_weights(layer)
    below_BTN, _ = run_layers(step, weights[:1], x_BTD, (h_LBN[:1],))
    above_BTN, _ = run_layers(step, weights[1:], below_BTN * mask_TBN.transpose(0, 1), (h_LBN[1:],))
    close(dropped, above_BTN)
    assert set(mask_TBN.unique().tolist()) == {0.0, 1 / (1 - p)}
    close(layer.eval()(x_BTD, h_LBN)[0], run_twin(name, layer, x_BTD, h_LBN)[0])


def test_the_linear_rnn_is_its_closed_form():
    layer = build("rnn-linear", 2, 3, bias=False)
    x_BTD, h_LBN = inputs("rnn-linear", (1, 6, 2, 3, 1))
    U, W = layer.weight_ih_l0, layer.weight_hh_l0
    powers = [torch.linalg.matrix_power(W, k) for k in range(7)]
    expected = powers[6] @ h_LBN[0, 0] + sum(powers[5 - t] @ U @ x_BTD[0, t] for t in range(6))
    close(layer(x_BTD, h_LBN)[0][0, -1], expected)


# Derivatives of the scan


@pytest.mark.parametrize("name", SCANNED)
@pytest.mark.parametrize("shape", [(2, 3, 2, 3, 2), (1, 1, 1, 2, 1)], ids=str)
def test_scan_is_right_to_the_second_derivative(name, shape):
    _, _, D, N, L = shape
    layer = build(name, D, N, L)
    x_BTD, h_LBN = inputs(name, shape)

    def function(x_BTD: Tensor, h_LBN: Tensor, *weights: Tensor) -> tuple[Tensor, Tensor]:
        parameters = dict(zip(dict(layer.named_parameters()), weights, strict=True))
        return torch.func.functional_call(layer, parameters, (x_BTD, h_LBN))

    arguments = (x_BTD, h_LBN, *layer.parameters())
    assert torch.autograd.gradcheck(function, arguments)
    assert torch.autograd.gradgradcheck(function, arguments)


@every_cell
def test_jacobians_from_torch_func_equal_those_of_the_twin(name):
    layer = build(name, 2, 3)
    x_BTD, state = inputs(name, (2, 3, 2, 3, 1))

    def ours(W: Tensor) -> Tensor:
        return torch.func.functional_call(layer, {"weight_hh_l0": W}, (x_BTD, state))[0]

    def twins(W: Tensor) -> Tensor:
        probe = copy.deepcopy(layer)
        del probe.weight_hh_l0
        probe.weight_hh_l0 = W
        return run_twin(name, probe, x_BTD, state)[0]

    W = layer.weight_hh_l0.detach()
    expected = torch.autograd.functional.jacobian(twins, W)
    close(torch.func.jacrev(ours)(W), expected)
    close(torch.func.jacrev(ours, chunk_size=1)(W), expected)


@pytest.mark.parametrize("name", SCANNED)
def test_scan_gives_gradients_per_window_under_vmap(name):
    layer = build(name, 2, 3, 2)
    x_BTD = torch.randn(4, 5, 2, dtype=torch.float64)
    parameters = {key: value.detach() for key, value in layer.named_parameters()}

    def loss(parameters, x_TD):
        return torch.func.functional_call(layer, parameters, (x_TD[None],))[0].square().sum()

    per_window = torch.func.vmap(torch.func.grad(loss), in_dims=(None, 0))(parameters, x_BTD)
    for b in range(4):
        alone = torch.autograd.grad(layer(x_BTD[b : b + 1])[0].square().sum(), list(layer.parameters()))
        for key, gradient in zip(parameters, alone, strict=True):
            close(per_window[key][b], gradient)


# Properties


@settings(max_examples=25, deadline=None)
@given(
    name=st.sampled_from(CELLS),
    B=st.integers(1, 3),
    T=st.integers(2, 8),
    D=st.integers(1, 3),
    N=st.integers(1, 5),
    L=st.integers(1, 3),
    data=st.data(),
)
def test_cutting_the_steps_and_carrying_the_state_changes_nothing(name, B, T, D, N, L, data):
    torch.manual_seed(0)
    cut = data.draw(st.integers(1, T - 1))
    layer = build(name, D, N, L)
    x_BTD, state = inputs(name, (B, T, D, N, L))
    whole_BTN, final = layer(x_BTD, state)
    first_BTN, middle = layer(x_BTD[:, :cut], state)
    second_BTN, final_too = layer(x_BTD[:, cut:], middle)
    close(torch.cat([first_BTN, second_BTN], 1), whole_BTN)
    for actual, expected in zip(parts(final_too), parts(final), strict=True):
        close(actual, expected)
    close(parts(final)[0][-1], whole_BTN[:, -1])


@every_cell
def test_windows_do_not_mix_and_no_step_sees_the_future(name):
    layer = build(name, 2, 3, 2)
    x_BTD, state = inputs(name, (3, 4, 2, 3, 2))
    jacobian = torch.autograd.functional.jacobian(lambda x: layer(x, state)[0], x_BTD)  # [B, T, N, B, T, D]
    for b in range(3):
        for t in range(4):
            other = [k for k in range(3) if k != b]
            assert jacobian[b, t][:, other].abs().max() == 0
            assert jacobian[b, t][:, b, : t + 1].abs().amin(dim=(0, 2)).min() > 0 or name == "rnn-relu"
            assert t == 3 or jacobian[b, t][:, b, t + 1 :].abs().max() == 0


@every_cell
def test_repeats_are_bit_identical_and_looking_changes_no_gradient(name):
    layer = build(name, 3, 16, 2)
    x_BTD, state = inputs(name, (4, 20, 3, 16, 2))

    def gradients(look: bool) -> list[Tensor]:
        layer.zero_grad()
        h_BTN, final = layer(x_BTD if look else x_BTD.detach(), state)
        if look:
            h_BTN.retain_grad()
            h_BTN.register_hook(lambda g: None)
        loss_of(h_BTN, final).backward()
        return [h_BTN.detach(), *(parameter.grad.clone() for parameter in layer.parameters())]

    first = gradients(look=False)
    for look in (False, True):
        assert all(torch.equal(a, b) for a, b in zip(gradients(look), first, strict=True))
    with torch.no_grad():
        assert torch.equal(layer(x_BTD, state)[0], first[0])


@every_cell
def test_no_state_is_a_zero_state_and_the_layout_of_the_input_does_not_matter(name):
    layer = build(name, 3, 4, 2)
    x_BTD, state = inputs(name, (5, 6, 3, 4, 2))
    zero = tuple(torch.zeros_like(part) for part in parts(state))
    expected, _ = layer(x_BTD, zero if name == "lstm" else zero[0])
    assert torch.equal(layer(x_BTD)[0], expected)
    scattered_BTD = x_BTD.detach().permute(2, 1, 0).contiguous().permute(2, 1, 0)
    assert not scattered_BTD.is_contiguous()
    close(layer(scattered_BTD)[0], expected)


@every_cell
def test_no_windows_give_no_outputs_and_zero_gradients(name):
    layer = build(name, 3, 4, 2)
    h_BTN, state = layer(torch.zeros(0, 5, 3, dtype=torch.float64))
    assert h_BTN.shape == (0, 5, 4) and all(part.shape == (2, 0, 4) for part in parts(state))
    h_BTN.sum().backward()
    assert all(parameter.grad.abs().max() == 0 for parameter in layer.parameters())


@pytest.mark.parametrize("name", SCANNED)
def test_scan_follows_autocast_down_and_returns_full_gradients(name):
    layer = build(name, 3, 8, 2).float()
    x_BTD = torch.randn(4, 6, 3)
    full_BTN, _ = layer(x_BTD)
    full = torch.autograd.grad(full_BTN.square().mean(), list(layer.parameters()))
    with torch.autocast("cpu", torch.bfloat16):
        low_BTN, _ = layer(x_BTD)
    low = torch.autograd.grad(low_BTN.float().square().mean(), list(layer.parameters()))
    assert low_BTN.dtype == torch.bfloat16
    close(low_BTN.float(), full_BTN, rtol=0.05)
    for actual, expected in zip(low, full, strict=True):
        assert actual.dtype == torch.float32
        close(actual, expected, rtol=0.1)


# A life in the framework


@every_cell
def test_copies_and_saved_weights_are_equal_and_independent(name):
    layer = build(name, 3, 4, 2)
    x_BTD, _ = inputs(name, (2, 5, 3, 4, 2))
    expected, _ = layer(x_BTD)
    copied = copy.deepcopy(layer)
    file = io.BytesIO()
    torch.save(layer.state_dict(), file)
    file.seek(0)
    loaded = build(name, 3, 4, 2)
    loaded.load_state_dict(torch.load(file, weights_only=True), strict=True)
    with torch.no_grad():
        layer.weight_hh_l0.zero_()
    assert torch.equal(copied(x_BTD)[0], expected)
    assert torch.equal(loaded(x_BTD)[0], expected)
    assert not torch.equal(layer(x_BTD)[0], expected)


@every_cell
def test_a_parametrised_matrix_is_used_and_learns(name):
    layer = build(name, 2, 3)
    torch.nn.utils.parametrizations.orthogonal(layer, "weight_hh_l0")
    x_BTD, state = inputs(name, (2, 4, 2, 3, 1))
    h_BTN, _ = layer.to(torch.float64)(x_BTD, state)
    close(h_BTN, run_twin(name, layer, x_BTD, state)[0])
    h_BTN.square().sum().backward()
    assert layer.parametrizations.weight_hh_l0.original.grad.abs().max() > 0


# Tracing a custom Function, PyTorch's compiler itself does what PyTorch deprecates.
@pytest.mark.filterwarnings("ignore:.*should not be instantiated:DeprecationWarning")
@pytest.mark.parametrize("name", SCANNED)
def test_scan_compiles_whole_to_the_same_numbers(name):
    layer = build(name, 2, 3, 2)
    x_BTD, _ = inputs(name, (2, 4, 2, 3, 2))
    compiled = torch.compile(layer, backend="aot_eager", fullgraph=True)
    found = [
        [h_BTN, *torch.autograd.grad(h_BTN.square().sum(), list(layer.parameters()))]
        for h_BTN in (compiled(x_BTD)[0], layer(x_BTD)[0])
    ]
    for actual, expected in zip(*found, strict=True):
        close(actual, expected)


@every_cell
def test_an_exported_layer_takes_any_number_of_windows(name):
    layer = build(name, 2, 3, 2).eval()
    x_BTD, _ = inputs(name, (5, 4, 2, 3, 2))
    exported = torch.export.export(layer, (x_BTD.detach()[:3],), dynamic_shapes=({0: torch.export.Dim("B")},))
    close(exported.module()(x_BTD)[0], layer(x_BTD)[0])


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")
@every_cell
def test_gpu_gives_the_same_numbers_and_no_warning(name):
    layer = build(name, 3, 4, 2)
    x_BTD, state = inputs(name, (2, 5, 3, 4, 2))
    expected = [layer(x_BTD, state)[0]]
    expected += torch.autograd.grad(expected[0].square().sum(), list(layer.parameters()))
    on_gpu = copy.deepcopy(layer).cuda()
    state_gpu = tuple(part.cuda() for part in parts(state))
    actual = [on_gpu(x_BTD.cuda(), state_gpu if name == "lstm" else state_gpu[0])[0]]
    actual += torch.autograd.grad(actual[0].square().sum(), list(on_gpu.parameters()))
    for a, e in zip(actual, expected, strict=True):
        close(a.cpu(), e, rtol=1e-10)


# What a layer says and refuses


def test_make_cell_builds_each_name_with_its_options():
    built = {name: repr(make_cell(name, 3, 4, 2, 0.1)) for name in CELLS}
    options = "input_size=3, hidden_size=4, num_layers=2, bias=True, dropout=0.1"
    assert built == {"lstm": f"LSTM({options})", "gru": f"GRU({options})"} | {
        f"rnn-{phi}": f"RNN({options}, nonlinearity='{phi}')" for phi in NONLINEARITIES
    }


@pytest.mark.parametrize(
    ("make", "told"),
    [
        (lambda: LSTM(0, 4), [("LSTM input_size", "0")]),
        (lambda: GRU(3, -1), [("GRU hidden_size", "-1")]),
        (lambda: RNN(3, 4, 0), [("RNN num_layers", "0")]),
        (lambda: LSTM(3, 4, dropout=1.0), [("LSTM dropout", "1.0")]),
        (lambda: LSTM(3, 4, dropout=-0.1), [("LSTM dropout", "-0.1")]),
        (lambda: LSTM(3, 4, dropout=float("nan")), [("LSTM dropout", "nan")]),
        (lambda: GRU(0, 0, 2, dropout=2), [("GRU input_size", "0"), ("GRU hidden_size", "0"), ("GRU dropout", "2")]),
        (lambda: RNN(3, 4, nonlinearity="Tanh"), [("RNN nonlinearity", "'Tanh'")]),
        (lambda: make_cell("lstn", 3, 4, 1, 0.0), [("cell", "'lstn'")]),
        (lambda: make_cell("rnn-sine", 3, 4, 1, 0.0), [("cell", "'rnn-sine'")]),
    ],
)
def test_impossible_options_are_refused_all_at_once(make, told):
    with pytest.raises(OptionError) as caught:
        make()
    assert [(problem.where, problem.got) for problem in caught.value.problems] == told
    assert all(problem.expected and problem.fix for problem in caught.value.problems)


@every_cell
@pytest.mark.parametrize("shape", [(5, 3), (2, 5, 4), (2, 0, 3), (2, 5, 3, 1), (3,)], ids=str)
def test_inputs_that_do_not_fit_are_refused_in_words(name, shape):
    with pytest.raises(OptionError, match=r"\[B, T, D\], T >= 1, D = 3") as caught:
        build(name, 3, 4)(torch.zeros(shape, dtype=torch.float64))
    assert caught.value.problems[0].got == str(list(shape))


@every_cell
@pytest.mark.parametrize("shape", [(1, 2, 4), (2, 1, 4), (2, 2, 5), (2, 4)], ids=str)
def test_states_that_do_not_fit_are_refused_even_where_they_would_broadcast(name, shape):
    state = torch.zeros(shape, dtype=torch.float64)
    with pytest.raises(OptionError, match=r"\[L, B, N\] = \[2, 2, 4\]") as caught:
        build(name, 3, 4, 2)(torch.zeros(2, 5, 3, dtype=torch.float64), (state, state) if name == "lstm" else state)
    assert caught.value.problems[0].got == str(list(shape))


def test_an_lstm_refuses_one_tensor_as_its_state():
    state = torch.zeros(2, 2, 4)
    with pytest.raises(OptionError, match="LSTM state"):
        LSTM(3, 4, 2)(torch.zeros(2, 5, 3), state)
