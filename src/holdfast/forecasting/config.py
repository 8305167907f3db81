"""Every option of a fit, with unit and default, checked when made."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass, fields
from functools import partial
from typing import Any

import numpy as np

from holdfast.errors import HoldfastError, OptionError, Problem
from holdfast.gradients import ROLES, Role, parse_clip
from holdfast.networks import CELLS, HEADS, Constraint, check_init
from holdfast.series import Freq
from holdfast.training import parse_penalty

LARGEST_SEED = 2**63 - 1
PRESETS = ("default", "best")


@dataclass(frozen=True, kw_only=True, repr=False)
class Config:
    """What to forecast, with which network, trained how.

    Attributes:
        preset: default, one network; or best, six networks of different contexts, cells and seeds, whose quantiles are
            averaged: more accurate, and six times the work. What is given beside it holds for all of them.
        horizon: Steps to forecast. None: the usual number for the frequency (48 hours, 14 days, 18 months, ...).
        season_length: Steps in one season, or several of them; the first is that of the seasonal naive forecast.
            None: the usual ones of the frequency. Further seasons are looked for in the data.
        context_length: Past steps fed, rounded up to whole segments. None: two of the longest season, at least four of
            the first.
        cell: lstm, gru, rnn-tanh, rnn-relu, rnn-sigmoid or rnn-linear.
        init: How the recurrent weights start: orthogonal, identity or critical (rnn), chrono (gru, lstm), uniform
            (as torch), or radius:0.9 (spectral radius).
        constraint: What the recurrent matrices are held to while training: none, orthogonal, or cap:1 (spectral norm),
            gate by gate.
        hidden_size: Units per recurrent layer.
        layers: Recurrent layers.
        segment: Steps fed as one recurrent step. None: one season where it fits into the context four times, else 1.
        dropout: Share of hidden values dropped while training, at least 0 and below 1.
        head: quantile, gaussian, student-t, negative-binomial (counts) or sigmoid (bounded targets).
        levels: Prediction intervals in percent, from 0.01 to 99.99.
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
        max_steps: Most optimiser steps of each network; 0 leaves the mean of the anchors.
        time_budget: Most seconds of training, of all networks together. None: no limit.
        seed: Of weights, windows and dropout.
        id_col: Column that tells series apart; a table without it is one series.
        time_col: Column of the timestamps.
        target_col: Column to forecast.
        freq: Calendar step (1h, D, MS, ...). None: read off the timestamps.
        static: Columns that are constant within a series.
        future: Columns that are known ahead.
        past: Columns that are known up to now.
        fill_gaps: Insert the rows that are missing between two rows, with a missing value.

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
    horizon: int | None = None
    season_length: int | tuple[int, ...] | None = None
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
    bounds: tuple[float, float] = (0.0, 1.0)
    clip: str = "norm:1.0"
    clip_roles: tuple[Role, ...] | None = None
    penalty: str = "none"
    optimizer: str = "adamw"
    lr: float | None = None
    batch_size: int = 128
    max_steps: int = 1200
    time_budget: float | None = None
    seed: int = 0
    id_col: str = "unique_id"
    time_col: str = "ds"
    target_col: str = "y"
    freq: str | int | None = None
    static: tuple[str, ...] = ()
    future: tuple[str, ...] = ()
    past: tuple[str, ...] = ()
    fill_gaps: bool = False

    def __post_init__(self) -> None:
        """Bring lists and single values into tuples, numpy's numbers into Python's, then check everything at once."""
        for option in fields(Config):
            value = getattr(self, option.name)
            several = option.name in _TUPLES and not (option.name in _OPTIONAL and value is None)
            object.__setattr__(self, option.name, _as_tuple(value) if several else _as_plain(value))
        if self.clip_roles == ("all",):
            object.__setattr__(self, "clip_roles", ROLES)
        problems = list(_problems(self))
        if problems:
            raise OptionError(problems)

    def __repr__(self) -> str:
        """The options that are not at their default, as they were written."""
        values = [(option, getattr(self, option.name)) for option in fields(Config)]
        said = [f"{option.name}={value!r}" for option, value in values if value != option.default]
        return f"{type(self).__name__}({', '.join(said)})"

    @property
    def seasons_given(self) -> tuple[int, ...] | None:
        """The seasons that the user named; None if they are to be the usual ones."""
        seasons = self.season_length
        return seasons if isinstance(seasons, tuple) or seasons is None else (seasons,)


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


_TUPLES = ("season_length", "levels", "bounds", "clip_roles", "static", "future", "past")
_CHOICES: dict[str, tuple[str, ...]] = {"cell": CELLS, "head": HEADS, "preset": PRESETS, "optimizer": ("adamw", "sgd")}
_WHOLE_NUMBERS = {"horizon": 1, "context_length": 1, "hidden_size": 1, "layers": 1, "segment": 1, "batch_size": 1}
_WHOLE_NUMBERS |= {"max_steps": 0, "seed": 0}
_OPTIONAL = ("horizon", "season_length", "context_length", "segment", "clip_roles", "lr", "time_budget")


def _as_tuple(value: Any) -> tuple[Any, ...]:
    several = isinstance(value, tuple | list | np.ndarray)
    return tuple(map(_as_plain, value)) if several else (_as_plain(value),)


def _as_plain(value: Any) -> Any:
    return value.item() if isinstance(value, np.generic) else value


def _problems(config: Config) -> Iterator[Problem]:
    for name, choices in _CHOICES.items():
        value = getattr(config, name)
        if value not in choices:
            yield _wrong(name, f"one of {', '.join(choices)}", value, f"give --{_flag(name)} {choices[0]}")
    for name, least in _WHOLE_NUMBERS.items():
        value = getattr(config, name)
        if value is None and name in _OPTIONAL:
            continue
        if not _is_whole(value) or not least <= value <= LARGEST_SEED:
            expected = f"a whole number of at least {least}" + (" and below 2^63" if name == "seed" else "")
            yield _wrong(name, expected, value, f"give --{_flag(name)} {least} or more")
    yield from _number_problems(config)
    yield from _sequence_problems(config)
    yield from _column_problems(config)
    yield from _clip_problems(config)
    yield from _refusal(parse_penalty, config.penalty)
    if config.freq is not None:
        yield from _refusal(Freq.parse, config.freq)
    yield from _refusal(Constraint.parse, config.constraint)
    if config.cell in CELLS:
        yield from _refusal(partial(check_init, cell=config.cell), config.init)


def _number_problems(config: Config) -> Iterator[Problem]:
    if not _is_number(config.dropout) or not 0 <= config.dropout < 1:
        yield _wrong("dropout", "a number of at least 0 and below 1", config.dropout, "give dropout 0.1")
    for name, example in (("lr", "0.001"), ("time_budget", "120s")):
        value = getattr(config, name)
        if value is not None and (not _is_number(value) or not 0 < value < math.inf):
            yield _wrong(name, "a number above 0", value, f"give --{_flag(name)} {example}")
    bounds = config.bounds
    if len(bounds) != 2 or not all(map(_is_finite, bounds)) or not bounds[0] < bounds[1]:
        yield _wrong("bounds", "two numbers, the lower first", bounds, "give --bounds 0,1")
    if not _is_flag(config.fill_gaps):
        yield _wrong("fill_gaps", "True or False", config.fill_gaps, "give --fill-gaps, or leave it out")


def _sequence_problems(config: Config) -> Iterator[Problem]:
    seasons = config.seasons_given
    if seasons is not None and (not all(map(_is_whole, seasons)) or any(season < 1 for season in seasons)):
        yield _wrong("season_length", "whole numbers of at least 1", seasons, "give --season-length 24 or 24,168")
    if not config.levels or not all(_is_number(level) and 0.01 <= level <= 99.99 for level in config.levels):
        yield _wrong("levels", "percentages from 0.01 to 99.99", config.levels, "give --levels 80,95")


def _column_problems(config: Config) -> Iterator[Problem]:
    names = [config.id_col, config.time_col, config.target_col, *config.static, *config.future, *config.past]
    unnamed = [name for name in names if not isinstance(name, str) or not name]
    if unnamed:
        fix = "give the name of each column; a table of one series needs no id column"
        yield _wrong("columns", "names of columns", ", ".join(map(repr, unnamed)), fix)
        return
    twice = sorted({name for name in names if names.count(name) > 1})
    if twice:
        yield _wrong("columns", "each column in one part only", ", ".join(twice), "name each column once")


def _clip_problems(config: Config) -> Iterator[Problem]:
    refused = _refusal(parse_clip, config.clip)
    yield from refused
    if config.clip_roles is None:
        return
    unknown = [role for role in config.clip_roles if role not in ROLES]
    if unknown or not config.clip_roles:
        expected, got = f"roles among {', '.join(ROLES)}, or all", ", ".join(map(str, unknown)) or "none"
        yield _wrong("clip_roles", expected, got, "give --clip-roles recurrent,input,bias")
    if not refused and parse_clip(config.clip).by_role:
        expected, got = "none beside a rule for each role", ", ".join(map(str, config.clip_roles))
        yield _wrong("clip_roles", expected, got, f"leave it out: --clip {config.clip} names its roles itself")


def _refusal(parse: Callable[[Any], object], value: Any) -> tuple[Problem, ...]:
    try:
        parse(value)
    except HoldfastError as error:
        return error.problems
    return ()


def _wrong(name: str, expected: str, got: object, fix: str) -> Problem:
    return Problem(f"option {name}", expected, repr(got) if isinstance(got, str) else str(got), fix)


def _flag(name: str) -> str:
    return name.replace("_", "-")


def _is_whole(value: object) -> bool:
    return isinstance(value, int) and not isinstance(value, bool)


def _is_flag(value: object) -> bool:
    return isinstance(value, bool)


def _is_number(value: object) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool) and not math.isnan(value)


def _is_finite(value: object) -> bool:
    return _is_number(value) and abs(value) < math.inf  # type: ignore[arg-type]
