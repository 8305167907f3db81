"""Roles of the parameters of real models, by hand."""

from __future__ import annotations

import pytest
import torch
from torch import nn
from torch.nn.utils import parametrizations, parametrize

from holdfast.errors import OptionError
from holdfast.gradients import ROLES, find_roles


class Forecaster(nn.Module):
    """Embedding, a layer before, two recurrent modules with a layer between, norm, head of two layers."""

    def __init__(self, rnn=nn.LSTM):
        super().__init__()
        self.embed = nn.Embedding(5, 3)
        self.before = nn.Linear(3, 4)
        self.encoder = rnn(4, 6)
        self.between = nn.Linear(6, 6)
        self.decoder = rnn(6, 6)
        self.norm = nn.LayerNorm(6)
        self.head = nn.Sequential(nn.Linear(6, 6), nn.ReLU(), nn.Linear(6, 1))
        self.scale = nn.Parameter(torch.ones(1))


def expected_roles(prefix=""):
    roles = {"scale": "other", "embed.weight": "embedding"}
    for layer, role in {
        "before": "input",
        "between": "other",
        "norm": "other",
        "head.0": "head",
        "head.2": "head",
    }.items():
        roles |= {f"{layer}.weight": role, f"{layer}.bias": role}
    for layer in ("encoder", "decoder"):
        roles |= {f"{layer}.weight_ih_l0": "input", f"{layer}.weight_hh_l0": "recurrent"}
        roles |= {f"{layer}.bias_ih_l0": "bias", f"{layer}.bias_hh_l0": "bias"}
    return {prefix + name: role for name, role in roles.items()}


@pytest.mark.parametrize("rnn", [nn.RNN, nn.GRU, nn.LSTM])
def test_a_whole_forecaster(rnn):
    model = Forecaster(rnn)
    assert find_roles(model) == expected_roles()
    assert list(find_roles(model)) == [name for name, _ in model.named_parameters()]


def test_bidirectional_stacks_with_projection():
    roles = find_roles(nn.LSTM(3, 6, num_layers=2, bidirectional=True, proj_size=2))
    assert roles["weight_hr_l1_reverse"] == roles["weight_hh_l0_reverse"] == "recurrent"
    assert roles["weight_ih_l1_reverse"] == "input"
    assert roles["bias_hh_l1"] == "bias"
    assert len(roles) == 20 and set(roles.values()) == {"input", "recurrent", "bias"}


@pytest.mark.parametrize("cell", [nn.RNNCell, nn.GRUCell, nn.LSTMCell])
def test_cells(cell):
    roles = find_roles(nn.ModuleDict({"cell": cell(2, 3), "out": nn.Linear(3, 1)}))
    assert list(roles.values()) == ["input", "recurrent", "bias", "bias", "head", "head"]


class OwnLayer(nn.Module):
    """Not one of torch's, but with the names of torch's parameters."""

    def __init__(self):
        super().__init__()
        self.weight_ih_l0 = nn.Parameter(torch.ones(3, 2))
        self.weight_hh_l0 = nn.Parameter(torch.eye(3))
        self.bias_ih_l0 = nn.Parameter(torch.zeros(3))
        self.gain = nn.Parameter(torch.ones(1))


def test_own_layers_are_known_by_their_names():
    roles = find_roles(nn.ModuleList([nn.Linear(2, 2, bias=False), OwnLayer(), nn.Linear(3, 1, bias=False)]))
    assert list(roles.values()) == ["input", "input", "recurrent", "bias", "other", "head"]


def test_without_recurrent_module_the_last_linear_is_head():
    roles = find_roles(nn.Sequential(nn.Linear(2, 3), nn.Conv1d(3, 3, 1), nn.Linear(3, 1), nn.PReLU()))
    assert list(roles.values()) == ["other", "other", "other", "other", "head", "head", "other"]


def test_through_parametrisations():
    model = nn.ModuleDict({"rnn": nn.RNN(3, 4, bias=False), "out": nn.Linear(4, 1)})
    parametrizations.orthogonal(model["rnn"], "weight_hh_l0")
    parametrizations.weight_norm(model["rnn"], "weight_ih_l0")
    parametrizations.weight_norm(model["out"], "weight")
    assert find_roles(model) == {
        "rnn.parametrizations.weight_hh_l0.original": "recurrent",
        "rnn.parametrizations.weight_ih_l0.original0": "input",
        "rnn.parametrizations.weight_ih_l0.original1": "input",
        "out.bias": "head",
        "out.parametrizations.weight.original0": "head",
        "out.parametrizations.weight.original1": "head",
    }
    assert find_roles(model, {"rnn.weight_hh_l0": "other"})["rnn.parametrizations.weight_hh_l0.original"] == "other"


def test_own_layer_with_a_parametrisation_that_has_parameters_itself():
    class Scaled(nn.Module):
        def __init__(self):
            super().__init__()
            self.factor = nn.Parameter(torch.ones(1))

        def forward(self, weight):
            return self.factor * weight

    layer = OwnLayer()
    parametrize.register_parametrization(layer, "weight_hh_l0", Scaled())
    roles = find_roles(layer)
    assert roles["parametrizations.weight_hh_l0.original"] == "recurrent"
    assert roles["parametrizations.weight_hh_l0.0.factor"] == "recurrent"
    assert roles["weight_ih_l0"] == "input"


# torch.compile imports modules of torch that use torch's own deprecated functions.
@pytest.mark.filterwarnings("ignore:.*torch.jit:DeprecationWarning")
def test_through_compile_and_data_parallel():
    compiled = torch.compile(Forecaster())
    assert find_roles(compiled) == expected_roles("_orig_mod.")
    assert find_roles(compiled, {"head.2": "other"})["_orig_mod.head.2.bias"] == "other"
    wrapped = nn.DataParallel(compiled)
    assert find_roles(wrapped) == expected_roles("module._orig_mod.")
    assert find_roles(wrapped, {"encoder.weight_hh_l0": "input"})["module._orig_mod.encoder.weight_hh_l0"] == "input"
    inner = Forecaster()
    inner.encoder = torch.compile(inner.encoder)
    assert find_roles(inner)["encoder._orig_mod.weight_hh_l0"] == "recurrent"
    assert find_roles(inner, {"encoder.weight_hh_l0": "head"})["encoder._orig_mod.weight_hh_l0"] == "head"


def test_through_distributed_data_parallel(tmp_path):
    torch.distributed.init_process_group("gloo", init_method=f"file://{tmp_path}/store", rank=0, world_size=1)
    try:
        model = nn.parallel.DistributedDataParallel(Forecaster())
        assert find_roles(model) == expected_roles("module.")
        assert find_roles(model, {"head": "other"})["module.head.0.weight"] == "other"
    finally:
        torch.distributed.destroy_process_group()


def test_overrides_win_and_the_longest_match_wins():
    roles = find_roles(Forecaster(), {"head": "other", "head.2": "recurrent", "head.2.bias": "bias", "scale": "head"})
    assert [roles[name] for name in ("head.0.weight", "head.2.weight", "head.2.bias", "scale")] == [
        "other", "recurrent", "bias", "head",
    ]  # fmt: skip
    untouched = {"encoder.weight_hh_l0", "before.weight"}
    assert all(roles[name] == expected_roles()[name] for name in untouched)


def test_wrong_overrides_are_refused_all_at_once():
    with pytest.raises(OptionError) as caught:
        find_roles(Forecaster(), {"hea": "head", "head.1": "head", "encoder": "hidden", "norm": "other"})
    assert [problem.where for problem in caught.value.problems] == [
        "role override 'hea'", "role override 'head.1'", "role override 'encoder'",
    ]  # fmt: skip
    assert "embed.weight" in caught.value.problems[0].got


def test_shared_parameters_appear_once_and_answer_to_every_name():
    model = nn.ModuleDict({"embed": nn.Embedding(4, 3), "rnn": nn.GRU(3, 3, bias=False), "out": nn.Linear(3, 4)})
    model["out"].weight = model["embed"].weight
    model["again"] = model["rnn"]
    assert find_roles(model) == {
        "embed.weight": "embedding",
        "rnn.weight_ih_l0": "input",
        "rnn.weight_hh_l0": "recurrent",
        "out.bias": "head",
    }
    assert find_roles(model, {"out.weight": "head"})["embed.weight"] == "head"


def test_frozen_parameters_have_roles_too():
    model = Forecaster()
    model.encoder.requires_grad_(False)
    assert find_roles(model) == expected_roles()
    assert set(expected_roles().values()) == set(ROLES)


def test_a_model_without_parameters_and_a_bare_layer():
    assert find_roles(nn.ReLU()) == {}
    assert find_roles(nn.Linear(2, 1)) == {"weight": "head", "bias": "head"}


def test_a_head_that_is_registered_first_is_found_by_its_sizes():
    model = nn.ModuleDict(
        {
            "projection": nn.ModuleList([nn.Linear(8, 1), nn.Linear(8, 3)]),
            "embed": nn.Linear(5, 4),
            "rnn": nn.LSTM(4, 4, bidirectional=True),
        }
    )
    roles = find_roles(model)
    assert roles["projection.0.weight"] == roles["projection.1.bias"] == "head"
    assert roles["embed.weight"] == "input"


def test_a_first_layer_that_fits_both_ends_is_input():
    model = nn.ModuleDict({"embed": nn.Linear(4, 4), "rnn": nn.GRU(4, 4), "out": nn.Linear(4, 1)})
    assert find_roles(model)["embed.weight"] == "input"
    projected = nn.ModuleDict({"out": nn.Linear(2, 1), "rnn": nn.LSTM(3, 6, proj_size=2)})
    assert find_roles(projected)["out.weight"] == "head"
    orthogonal = nn.ModuleDict({"out": nn.Linear(6, 1), "rnn": nn.RNN(3, 6)})
    nn.utils.parametrizations.orthogonal(orthogonal["rnn"], "weight_hh_l0")
    assert find_roles(orthogonal)["out.weight"] == "head"
