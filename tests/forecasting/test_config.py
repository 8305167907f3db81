"""Options: what is refused and how it is said, what is brought into shape, what a file gives back."""

from __future__ import annotations

import json
import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from holdfast import Config, Forecaster, OptionError
from holdfast.forecasting.config import LARGEST_SEED, config_facts, config_of

WHOLE = ("horizon", "context_length", "hidden_size", "layers", "segment", "batch_size")

# option, bad value, words that the refusal must hold
REFUSED = [
    *[(name, value, "whole number of at least 1") for name in WHOLE for value in (0, -1, 2.5, "3", True, np.int64(0))],
    *[(name, value, "whole number of at least 0") for name in ("max_steps", "seed") for value in (-1, 1.0, False)],
    ("hidden_size", None, "whole number"),
    ("seed", LARGEST_SEED + 1, "below 2^63"),
    *[("season_length", value, "whole numbers, or none") for value in (-1, (7, -1), "24", 24.0, (True,), (24, None))],
    *[("dropout", value, "at least 0 and below 1") for value in (-0.1, 1, math.nan, "x", None)],
    *[
        (name, value, "a number above 0")
        for name in ("lr", "time_budget")
        for value in (0, -1, math.inf, math.nan, "2m")
    ],
    *[("levels", value, "percentages") for value in ((), 0, 1e-9, 100, (80, 99.9999), math.nan, "80", None)],
    *[("bounds", value, "two numbers") for value in ((1, 0), (0, 0), (1,), (0, 1, 2), (0, math.inf), (0, "1"), None)],
    *[("cell", value, "one of lstm") for value in ("LSTM", "", None, 3)],
    *[("constraint", value, "cap:NUMBER") for value in ("cap", "cap:0", "cap:-1", "unitary", "", None, 1.0)],
    *[("head", value, "one of quantile") for value in ("normal", None)],
    *[("optimizer", value, "one of adamw") for value in ("adam", None)],
    *[
        ("clip", value, "norm:NUMBER")
        for value in ("norm", "norm:0", "norm:-1", "norm:nan", "value:inf", "agc:0", "auto:101", "clip:1", 1.0, None)
    ],
    *[("clip", value, "ROLE=RULE") for value in ("heads=norm:1", "norm:1,norm:2", "head=none,head=none", "=norm:1")],
    *[("clip", value, "for each role") for value in ("norm:1,head=none", "cap=norm:1,head=none,none")],
    *[("clip", value, "cap=norm:NUMBER") for value in ("cap=value:1", "norm:1,cap=none", "cap=tensor:1")],
    ("clip", "recurrent=norm:1:1,input=norm:1", "one norm_type"),
    *[("clip_roles", value, "roles among input") for value in ((), "weights", ("head", "al"), ("all", "head"), "")],
    *[
        ("penalty", value, "omega:STRENGTH")
        for value in ("omega", "omega:", "omega:0", "floss:-1", "floss:inf", "omega:nan", "l2:1", "omega:1:2", "", None)
    ],
    *[("freq", value, "15m") for value in ("fortnight", "0h", "", True, 0)],
    *[
        (name, value, "names of columns")
        for name in ("id_col", "time_col", "target_col")
        for value in ("", None, 1.5, True)
    ],
    *[(name, value, "names of columns") for name in ("static", "future", "past") for value in ("", None, ("a", 1.5))],
    *[(name, "y", "one part only") for name in ("id_col", "time_col", "static", "future", "past")],
    ("future", ("a", "a"), "one part only"),
    ("fill_gaps", "no", "True or False"),
]


@pytest.mark.parametrize(("name", "value", "words"), REFUSED)
def test_a_bad_value_is_refused_in_four_parts(name, value, words):
    with pytest.raises(OptionError) as caught:
        Config(**{name: value})
    (problem,) = caught.value.problems
    assert words in problem.expected
    assert all([problem.where, problem.expected, problem.got, problem.fix])


def test_every_problem_is_told_at_once():
    bad = {"horizon": 0, "cell": "lstn", "lr": -1, "clip": "hard", "levels": 101, "freq": "x", "static": "y"}
    with pytest.raises(OptionError) as caught:
        Forecaster(**bad)
    assert len(caught.value.problems) == len(bad)


def test_a_typo_in_the_name_of_an_option_is_named():
    with pytest.raises(TypeError, match="horizn"):
        Forecaster(horizn=3)


def test_options_are_by_keyword_only_and_frozen():
    with pytest.raises(TypeError):
        Config(3)
    with pytest.raises(AttributeError):
        Config().horizon = 3


@pytest.mark.parametrize(
    ("name", "given", "kept"),
    [
        ("season_length", 24, (24,)),
        ("season_length", [24, 168], (24, 168)),
        ("season_length", None, None),
        ("season_length", (), ()),
        ("levels", 90, (90,)),
        ("levels", np.array([80, 95.5]), (80, 95.5)),
        ("static", "region", ("region",)),
        ("clip_roles", "recurrent", ("recurrent",)),
        ("clip_roles", None, None),
        ("clip_roles", "all", ("input", "recurrent", "bias", "head", "embedding", "other")),
        ("horizon", np.int64(3), 3),
        ("lr", np.float64(0.5), 0.5),
    ],
)
def test_single_values_lists_and_numpy_become_plain_tuples_and_numbers(name, given, kept):
    config = Config(**{name: given})
    assert getattr(config, name) == kept
    assert type(getattr(config, name)) is type(kept)
    assert config_of(json.loads(json.dumps(config_facts(config)))) == config


def test_the_seasons_that_were_given():
    assert [Config(season_length=given).seasons_given for given in (None, (), 1, 0, "none", 7, [24, 168])] == [
        None,
        (),
        (),
        (),
        (),
        (7,),
        (24, 168),
    ]


def test_a_representation_says_what_was_chosen_and_makes_the_same_again():
    forecaster = Forecaster(horizon=3, season_length=24, levels=[90])
    assert repr(forecaster) == "Forecaster(horizon=3, season_length=(24,), levels=(90,))"
    assert eval(repr(forecaster)) == forecaster
    assert repr(Config()) == "Config()"


@given(
    horizon=st.none() | st.integers(1, 10**6),
    season_length=st.none() | st.lists(st.integers(1, 999), max_size=3),
    dropout=st.floats(0, 1, exclude_max=True),
    levels=st.lists(st.floats(1, 99.99), min_size=1, max_size=4),
    bounds=st.tuples(st.floats(-1e9, 0), st.floats(1e-9, 1e9)),
    lr=st.none() | st.floats(1e-300, 1e300),
    seed=st.integers(0, LARGEST_SEED),
)
def test_json_gives_back_every_bit(**options):
    config = Config(**options)
    again = config_of(json.loads(json.dumps(config_facts(config))))
    assert again == config
    assert repr(again) == repr(config)


@given(st.integers(max_value=0) | st.floats() | st.text(max_size=3) | st.none() | st.booleans())
def test_no_value_but_a_whole_number_above_0_is_a_hidden_size(value):
    with pytest.raises(OptionError):
        Config(hidden_size=value)


def test_unknown_options_of_a_file_are_named():
    with pytest.raises(OptionError, match="options hidden, size"):
        config_of({"size": 1, "hidden": 2, "seed": 0})


@pytest.mark.parametrize("roles", ["recurrent", "all", ("input", "recurrent", "bias", "other")])
def test_roles_are_said_once(roles):
    with pytest.raises(OptionError) as caught:
        Config(clip="recurrent=norm:1,cap=norm:5", clip_roles=roles)
    (problem,) = caught.value.problems
    assert problem.where == "option clip_roles"
    assert "--clip recurrent=norm:1,cap=norm:5" in problem.fix
    assert Config(clip="norm:1,cap=norm:5", clip_roles=roles).clip_roles is not None
