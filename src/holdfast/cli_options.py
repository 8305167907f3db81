"""The options of the commands: what the shell hands over, what each says, and how its text is read."""

from __future__ import annotations

import inspect
from collections.abc import Callable
from functools import wraps
from typing import Annotated, Any, get_type_hints

import typer

from holdfast.errors import OptionError, Problem

# Every option of a fit: the type that the shell hands over, and what it says. Names and defaults are those of Config.
OPTIONS: dict[str, tuple[type, str]] = {
    "preset": (
        str,
        "fast (naive and linear forecasts, no training), default (one network) or best (six of different contexts and "
        "cells, whose quantiles are averaged). "
        "[default: default]",
    ),
    "horizon": (int, "Steps to forecast. [default: the usual number for the frequency]"),
    "season_length": (
        str,
        "Steps in one season, or several (24,168); more are looked for, 1: without a usual one; none: no season. "
        "[default: by frequency]",
    ),
    "context_length": (int, "Past steps fed. [default: two of the longest season or more, at most 16384]"),
    "cell": (str, "lstm, gru, rnn-tanh, rnn-relu, rnn-sigmoid or rnn-linear. [default: lstm]"),
    "init": (str, "orthogonal, identity, critical, chrono, uniform or radius:0.9. [default: orthogonal]"),
    "constraint": (
        str,
        "Of recurrent matrices while training: none, orthogonal, cap:1 (spectral norm). [default: none]",
    ),
    "hidden_size": (int, "Units per recurrent layer. [default: 128]"),
    "layers": (int, "Recurrent layers. [default: 1]"),
    "segment": (int, "Steps fed as one recurrent step. [default: one season where it fits]"),
    "dropout": (float, "Share of hidden values dropped while training. [default: 0.4]"),
    "head": (str, "quantile, gaussian, student-t, negative-binomial (counts) or sigmoid. [default: quantile]"),
    "levels": (str, "Prediction intervals in percent. [default: 80,95]"),
    "allow_negative": (bool, "Let forecasts fall below 0 where no past value did."),
    "bounds": (str, "Bounds of the target, for the sigmoid head. [default: 0,1]"),
    "clip": (
        str,
        # the kinds of rules as holdfast.gradients.parse lists them; to import them would load torch for a --help
        "none, norm:1.0, tensor:1.0, value:0.5, rms:0.1, agc:0.01, percentile:90, zscore:2.5, median:3, auto; by role: "
        "recurrent=norm:1,head=none; last of all a bound on everything: norm:1,cap=norm:5. [default: norm:1.0]",
    ),
    "clip_roles": (
        str,
        "Whose gradients one rule is over: input, recurrent, bias, head, other; or all. [default: all]",
    ),
    "penalty": (
        str,
        "Added to the loss to keep gradients flowing through time: omega:STRENGTH (adjoints that keep their norm) or "
        "floss:STRENGTH (Lyapunov exponents near zero), about 0.1. [default: none]",
    ),
    "optimizer": (str, "adamw or sgd. [default: adamw]"),
    "lr": (float, "Peak learning rate. [default: 0.002 for adamw, 0.05 for sgd]"),
    "batch_size": (int, "Windows per step. [default: 128]"),
    "max_steps": (int, "Most optimiser steps of each network. [default: 50 to 1200, by the number of windows]"),
    "time_budget": (str, "Most time for training, of all networks: 120s, 2m, 1h. [default: no limit]"),
    "seed": (int, "Of weights, windows and dropout. [default: 0]"),
    "id_col": (str, "Column that tells series apart, or several: store,item. [default: unique_id]"),
    "time_col": (str, "Column of the timestamps. [default: ds]"),
    "target_col": (str, "Column to forecast. [default: y]"),
    "freq": (str, "Calendar step: 1h, D, MS, ...; rows: each row is one step. [default: read off the timestamps]"),
    "static": (str, "Columns that are constant within a series: a,b."),
    "future": (str, "Columns that are known ahead: c,d."),
    "past": (str, "Columns that are known up to now: e,f."),
    "fill_gaps": (bool, "Insert the rows that are missing, with a missing value."),
    "wide": (bool, "The table has one column per series, instead of an id column."),
    "snap": (bool, "Round timestamps to the nearest step of the grid."),
    "tz": (str, "Time zone of local timestamps: Europe/Vienna. [default: none]"),
    "sep": (str, "Character between fields. [default: detected]"),
    "decimal": (str, "Decimal mark, . or a comma. [default: detected]"),
    "thousands": (str, "Thousands separator. [default: detected]"),
    "date_format": (str, "Format of the timestamps: %d.%m.%Y. [default: detected]"),
    "encoding": (str, "Encoding of a text file. [default: UTF-8]"),
    "max_rows": (int, "Largest number of rows to read. [default: 100000000, less of packed files]"),
}
# Those of TableOptions: all that a command needs which reads a table and trains nothing.
TABLE_OPTIONS = ("horizon", "season_length", *list(OPTIONS)[list(OPTIONS).index("id_col") :])
TEXT_OPTIONS = TABLE_OPTIONS[TABLE_OPTIONS.index("sep") :]  # how one more table is written, unlike that of the fit


def takes_options(*names: str, table_only: bool = False) -> Callable[[Callable[..., None]], Callable[..., None]]:
    """Give a command these options of `Config` after its own parameters; it receives them as one `config`.

    Options of a table alone become `TableOptions`, which need no torch.
    """

    def decorate(command: Callable[..., None]) -> Callable[..., None]:
        hints = get_type_hints(command, include_extras=True)
        own = [
            parameter.replace(annotation=hints[parameter.name])
            for parameter in inspect.signature(command).parameters.values()
            if parameter.name != "config"
        ]
        options = [_parameter(name) for name in names]

        @wraps(command)
        def run(**given: Any) -> None:
            texts = {name: given.pop(name) for name in names}
            command(config=_options(texts, table_only=table_only), **given)

        parameters = [parameter.replace(kind=inspect.Parameter.KEYWORD_ONLY) for parameter in [*own, *options]]
        run.__signature__ = inspect.Signature(parameters)  # type: ignore[attr-defined]
        run.__annotations__ = {parameter.name: parameter.annotation for parameter in parameters}
        return run

    return decorate


def _parameter(name: str) -> inspect.Parameter:
    kind, text = OPTIONS[name]
    flag, default = "--" + name.replace("_", "-"), False if kind is bool else None
    annotation = Annotated[kind if kind is bool else kind | None, typer.Option(flag, help=text, show_default=False)]  # type: ignore[valid-type]
    return inspect.Parameter(name, inspect.Parameter.KEYWORD_ONLY, default=default, annotation=annotation)


def _options(texts: dict[str, Any], *, table_only: bool) -> Any:
    from holdfast.series import TableOptions

    parsers: dict[str, Callable[[str], Any]] = {
        "season_length": lambda text: text if text == "none" else _several("season-length", text, int),
        "levels": parse_levels,
        "bounds": lambda text: _several("bounds", text, float),
        "time_budget": _seconds,
        "sep": lambda text: text.replace("\\t", "\t"),
        **dict.fromkeys(("id_col", "clip_roles", "static", "future", "past"), _names),
    }
    given = {name: text for name, text in texts.items() if text is not None}
    values = {name: parsers[name](text) if name in parsers else text for name, text in given.items()}
    if table_only:
        return TableOptions(**values)
    from holdfast.forecasting import Config

    return Config(**values)


def parse_levels(text: str) -> tuple[float, ...]:
    """Numbers such as 80,95."""
    return _several("levels", text, float)


def _names(text: str) -> tuple[str, ...]:
    return tuple(name.strip() for name in text.split(",") if name.strip())


def _several(option: str, text: str, kind: type) -> tuple[Any, ...]:
    try:
        return tuple(kind(part) for part in text.split(","))
    except ValueError as error:
        problem = Problem(f"option --{option}", "numbers with commas between", repr(text), f"give --{option} 24,168")
        raise OptionError(problem) from error


def _seconds(text: str) -> float:
    units = {"s": 1, "m": 60, "h": 3600}
    number, unit = (text[:-1], units[text[-1]]) if text[-1:] in units else (text, 1)
    try:
        return float(number) * unit
    except ValueError as error:
        problem = Problem("option --time-budget", "a time such as 120s, 2m or 1h", repr(text), "give --time-budget 2m")
        raise OptionError(problem) from error
