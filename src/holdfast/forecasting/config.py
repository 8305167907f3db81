"""Every option of a fit, with unit and default, checked when made."""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass, fields
from functools import partial
from typing import Any

from holdfast.errors import OptionError, Problem
from holdfast.gradients import ROLES, Role, parse_clip
from holdfast.networks import CELLS, HEADS, Constraint, check_init
from holdfast.series import TableOptions
from holdfast.series.options import (
    flag,
    flag_problem,
    is_number,
    refusal,
    refuse,
    settle,
    table_problems,
    whole_problem,
    wrong,
)
from holdfast.training import parse_penalty

LARGEST_SEED = 2**63 - 1
PRESETS = ("fast", "default", "best")


@dataclass(frozen=True, kw_only=True, repr=False)
class Config(TableOptions):
    """What to forecast, with which network, trained how; with the options of `TableOptions`.

    Attributes:
        preset: default, one network; fast, naive and linear forecasts alone, without training; or best, six networks of
            different contexts, cells and seeds, whose quantiles are averaged: more accurate, and six times the work.
            Other options hold for all of them.
        context_length: Past steps fed, rounded up to whole segments. None: two of the longest season, at least four of
            the first, or as far as a linear forecast of training windows gains from more, but at most 16384 steps;
            longer seasons are left out then.
        cell: lstm, gru, rnn-tanh, rnn-relu, rnn-sigmoid or rnn-linear.
        init: How the recurrent weights start: orthogonal, identity or critical (rnn), chrono (gru, lstm), uniform
            (as torch), or radius:0.9 (spectral radius).
        constraint: What the recurrent matrices are held to while training: none, orthogonal, or cap:1 (spectral norm),
            gate by gate.
        hidden_size: Units per recurrent layer.
        layers: Recurrent layers.
        segment: Steps fed as one recurrent step. None: one season where it fits into the context four times, else 1;
            more where that would be more than 512 recurrent steps, or without a season more than 16.
        dropout: Share of hidden values dropped while training, at least 0 and below 1.
        head: quantile, gaussian, student-t, negative-binomial (counts) or sigmoid (bounded targets).
        levels: Prediction intervals in percent, from 1 to 99.99.
        allow_negative: Let forecasts and intervals fall below 0 where no past value did.
        bounds: Lower and upper bound of the target, for the sigmoid head.
        clip: A rule such as norm:1.0 or auto, or rules by role such as recurrent=norm:1,head=none; with cap=norm:5
            last, the norm of everything is bounded too. All kinds of rules: `holdfast.gradients.parse_clip`.
        clip_roles: Whose gradients one rule is over: input, recurrent, bias, head, other. None, or "all": all of them.
        penalty: What is added to the loss to keep gradients flowing through time: omega:0.1 (Pascanu's penalty on
            adjoints that grow or shrink from step to step) or floss:0.1 (gradient flossing: Lyapunov exponents near
            zero), with a strength; or none.
        optimizer: adamw or sgd.
        lr: Peak learning rate. None: 2e-3 for adamw, 5e-2 for sgd.
        batch_size: Windows per step.
        max_steps: Most optimiser steps of each network; 0 leaves the mean of the anchors. None: 50 to 1200, by the
            number of windows to learn from. Training stops before where validation says so.
        time_budget: Most seconds of training, of all networks together. None: no limit.
        seed: Of weights, windows and dropout.

    Raises:
        OptionError: With every option that cannot work.

    Example:
        >>> Config(horizon=48, season_length=24)
        Config(horizon=48, season_length=(24,))
        >>> Config(horizon=0)
        Traceback (most recent call last):
        ...
        holdfast.errors.OptionError: option horizon
          expected: a whole number of at least 1
          got:      0
          to do:    give --horizon 1 or more
    """

    preset: str = "default"
    context_length: int | None = None
    cell: str = "lstm"
    init: str = "orthogonal"
    constraint: str = "none"
    hidden_size: int = 128
    layers: int = 1
    segment: int | None = None
    dropout: float = 0.4
    head: str = "quantile"
    levels: tuple[float, ...] = (80, 95)
    allow_negative: bool = False
    bounds: tuple[float, float] = (0.0, 1.0)
    clip: str = "norm:1.0"
    clip_roles: tuple[Role, ...] | None = None
    penalty: str = "none"
    optimizer: str = "adamw"
    lr: float | None = None
    batch_size: int = 128
    max_steps: int | None = None
    time_budget: float | None = None
    seed: int = 0

    def __post_init__(self) -> None:
        """Bring lists and single values into tuples, numpy's numbers into Python's, then check everything at once."""
        settle(self)
        if self.clip_roles == ("all",):
            object.__setattr__(self, "clip_roles", ROLES)
        refuse(_problems(self))


def config_facts(config: Config) -> dict[str, Any]:
    """A configuration as plain JSON values.

    Example:
        >>> config_of(config_facts(Config(horizon=3, levels=(90,)))) == Config(horizon=3, levels=(90,))
        True
    """
    return {field.name: getattr(config, field.name) for field in fields(Config)}


def config_of(facts: dict[str, Any]) -> Config:
    """The configuration that `config_facts` wrote.

    Raises:
        OptionError: A name is not an option, or a value cannot work.
    """
    names = [field.name for field in fields(Config)]
    unknown = sorted(facts.keys() - set(names))
    if unknown:
        problem = Problem(f"options {', '.join(unknown)}", f"options among {', '.join(names)}", "others", "remove them")
        raise OptionError(problem)
    return Config(**facts)


_CHOICES: dict[str, tuple[str, ...]] = {"cell": CELLS, "head": HEADS, "preset": PRESETS, "optimizer": ("adamw", "sgd")}
OPTIONAL = ("context_length", "segment", "max_steps")
_WHOLE = {"context_length": 1, "hidden_size": 1, "layers": 1, "segment": 1, "batch_size": 1, "max_steps": 0, "seed": 0}


def _problems(config: Config) -> Iterator[Problem]:
    yield from table_problems(config)
    for name, choices in _CHOICES.items():
        value = getattr(config, name)
        if value not in choices:
            yield wrong(name, f"one of {', '.join(choices)}", value, f"give --{flag(name)} {choices[0]}")
    for name, least in _WHOLE.items():
        yield from whole_problem(name, getattr(config, name), least, optional=name in OPTIONAL)
    yield from _number_problems(config)
    yield from _sequence_problems(config)
    yield from _clip_problems(config)
    yield from refusal(parse_penalty, config.penalty)
    yield from refusal(Constraint.parse, config.constraint)
    if config.cell in CELLS:
        yield from refusal(partial(check_init, cell=config.cell), config.init)


def _number_problems(config: Config) -> Iterator[Problem]:
    if not is_number(config.dropout) or not 0 <= config.dropout < 1:
        yield wrong("dropout", "a number of at least 0 and below 1", config.dropout, "give dropout 0.1")
    for name, example in (("lr", "0.001"), ("time_budget", "120s")):
        value = getattr(config, name)
        if value is not None and (not is_number(value) or not 0 < value < math.inf):
            yield wrong(name, "a number above 0", value, f"give --{flag(name)} {example}")
    yield from flag_problem("allow_negative", config.allow_negative)
    bounds = config.bounds
    if len(bounds) != 2 or not all(map(_is_finite, bounds)) or not bounds[0] < bounds[1]:
        yield wrong("bounds", "two numbers, the lower first", bounds, "give --bounds 0,1")


def _sequence_problems(config: Config) -> Iterator[Problem]:
    levels = config.levels
    if levels and all(is_number(level) for level in levels) and any(0 < level < 1 for level in levels):
        percent = ",".join(f"{100 * level if level < 1 else level:g}" for level in levels)
        yield wrong("levels", "percentages from 1 to 99.99", levels, f"give --levels {percent}: in percent, not shares")
    elif not levels or not all(is_number(level) and 1 <= level <= 99.99 for level in levels):
        yield wrong("levels", "percentages from 1 to 99.99", levels, "give --levels 80,95")


def _clip_problems(config: Config) -> Iterator[Problem]:
    refused = refusal(parse_clip, config.clip)
    yield from refused
    if config.clip_roles is None:
        return
    unknown = [role for role in config.clip_roles if role not in ROLES]
    if unknown or not config.clip_roles:
        expected, got = f"roles among {', '.join(ROLES)}, or all", ", ".join(map(str, unknown)) or "none"
        yield wrong("clip_roles", expected, got, "give --clip-roles recurrent,input,bias")
    if not refused and parse_clip(config.clip).by_role:
        expected, got = "none beside a rule for each role", ", ".join(map(str, config.clip_roles))
        yield wrong("clip_roles", expected, got, f"leave it out: --clip {config.clip} names its roles itself")


def _is_finite(value: object) -> bool:
    return is_number(value) and abs(value) < math.inf  # type: ignore[arg-type]
