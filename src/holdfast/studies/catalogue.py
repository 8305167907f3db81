"""The studies: what people say, and the grid of trials that measures it, as a sketch and in full."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from holdfast.errors import OptionError, Problem
from holdfast.studies.grid import Trial, grid

Axes = Mapping[str, Sequence[Any]]

SCOPES = ("all", "recurrent", "all-but-head", "head", "per-role")
# What is learned by what: units without bounds on states, with bounds, and gated ones.
RELU = {"task": "adding", "cell": "rnn-relu", "init": "identity", "length": 50}
TANH = {"task": "temporal-order", "cell": "rnn-tanh", "init": "orthogonal", "length": 20}
LSTM = {"task": "adding", "cell": "lstm", "init": "orthogonal", "length": 50}
COPY = {"task": "copy", "cell": "gru", "init": "orthogonal", "length": 20}
FIT = {"cell": "lstm", "length": 0, "hidden_size": 128, "batch_size": 128, "optimizer": "adamw", "lr": 2e-3}
M4 = {**FIT, "task": "m4-hourly", "steps": 400}
SGD, ADAMW = ({"optimizer": "sgd", "lr": 0.1}), ({"optimizer": "adamw", "lr": 3e-3})


@dataclass(frozen=True)
class Study:
    """One study.

    Attributes:
        name: As in the command.
        claim: What people say, in a sentence.
        measured: What the trials measure, in a sentence.
        by: Fields that set groups of trials apart.
        arm: Fields that are compared inside a group, seed by seed.
        trials: All trials, of the sketch or of the full study.
        own: Arms that can be compared on a user's own series, if any, in the sketch or in full.

    Example:
        >>> len(STUDIES["spectrum"].trials(False))
        48
    """

    name: str
    claim: str
    measured: str
    by: tuple[str, ...]
    arm: tuple[str, ...]
    trials: Callable[[bool], Sequence[Trial]]
    own: Callable[[bool], Sequence[Mapping[str, Any]]] | None = None


def _arms(rule: str) -> list[dict[str, Any]]:
    return [{"scope": "none", "rule": "none"}, *({"scope": scope, "rule": rule} for scope in SCOPES)]


def _bounds(full: bool) -> list[dict[str, Any]]:
    bounds = ("0.01", "0.03", "0.1", "0.3", "1", "3", "10", "30", "100") if full else ("0.01", "0.1", "1", "10")
    rules = [*(f"norm:{bound}" for bound in bounds), "auto"]
    return [{"scope": "none", "rule": "none"}, *({"scope": "all", "rule": rule} for rule in rules)]


def _clip_scope(full: bool) -> Iterator[Trial]:
    problems = [
        {**RELU, "head": "squared"},
        {**RELU, "head": "gaussian"},
        {**TANH, "head": "sigmoid"},
        {**TANH, "head": "squared"},
        {**LSTM, "head": "squared"},
        {**LSTM, "head": "gaussian"},
        {**COPY, "head": "sigmoid"},
    ]
    optimizers = [
        {"optimizer": "sgd", "lr": 0.03},
        {"optimizer": "sgd", "lr": 0.3},
        {"optimizer": "adamw", "lr": 1e-3},
        {"optimizer": "adamw", "lr": 1e-2},
    ]
    if not full:
        problems, optimizers = [problems[0], problems[2]], optimizers[1::2]
    common = {"study": "clip-scope", "steps": 1500 if full else 400}
    seeds = range(5 if full else 2)
    yield from grid(common, {"problem": problems, "optimizer": optimizers, "arm": _arms("norm:1"), "seed": seeds})
    forecasts = [{**M4, "head": head} for head in ("quantile", "gaussian")]
    rates = [{"optimizer": "sgd", "lr": 5e-2}, {"optimizer": "adamw", "lr": 2e-3}]
    if full:
        axes = {"problem": forecasts, "optimizer": rates, "arm": _arms("norm:1"), "seed": range(3)}
        yield from grid({"study": "clip-scope"}, axes)


def _placement(full: bool) -> Iterator[Trial]:
    problems = [{**RELU, "head": "squared"}, {**TANH, "head": "sigmoid"}, {**LSTM, "head": "squared"}]
    shares = ("share:0.1", "share:0.5", "share:0.9")
    arms = [{"scope": "none", "rule": "none"}]
    for rule in shares if full else shares[1:2]:
        # Adjoints lead to all but the head; one norm over everything keeps the direction of everything.
        arms.append({"scope": "all", "rule": rule, "placement": "update"})
        arms.append({"scope": "all-but-head", "rule": rule, "placement": "backprop"})
    common = {"study": "placement", "steps": 1200 if full else 200}
    axes: Axes = {
        "problem": problems if full else problems[1:2],
        "optimizer": [SGD, ADAMW] if full else [SGD],
        "arm": arms,
        "seed": range(4 if full else 2),
    }
    yield from grid(common, axes)


def _threshold(full: bool) -> Iterator[Trial]:
    problems = [{**RELU, "head": "squared"}, {**TANH, "head": "sigmoid"}, {**LSTM, "head": "squared"}]
    common = {"study": "threshold", "steps": 1500 if full else 300}
    axes: Axes = {
        "problem": problems if full else problems[1:2],
        "optimizer": [SGD, ADAMW],
        "arm": _bounds(full),
        "seed": range(5 if full else 2),
    }
    yield from grid(common, axes)


def _spectrum(full: bool) -> Iterator[Trial]:
    scales = (0.5, 0.8, 1.0, 1.2, 1.5, 2.0, 3.0, 4.0, 5.0, 6.0, 8.0, 12.0) if full else (0.5, 1.0, 2.0, 5.0)
    common = {"study": "spectrum", "task": "spectrum", "length": 100, "hidden_size": 64}
    axes: Axes = {
        "cell": ("rnn-sigmoid", "rnn-tanh", "rnn-relu", "rnn-linear"),
        "init": ("normal", "orthogonal", "chain"),
        "scale": scales,
        "lr": (0.1, 1.0) if full else (1.0,),
        "seed": range(3 if full else 1),
    }
    yield from grid(common, axes)


def _cells(full: bool) -> Iterator[Trial]:
    cells = [{"cell": "rnn-tanh"}, {"cell": "rnn-relu", "init": "identity"}, {"cell": "gru"}, {"cell": "lstm"}]
    lengths = (24, 96, 336, 768) if full else (24, 96)
    adding = {"study": "cells", "task": "adding", "head": "squared", **ADAMW, "steps": 400 if full else 150}
    yield from grid(adding, {"length": lengths, "cell": cells, "seed": range(3 if full else 1)})
    if full:
        hours = {**M4, "study": "cells", "head": "quantile", "hidden_size": 64, "steps": 300}
        yield from grid(hours, {"length": lengths, "cell": cells, "seed": range(2)})


def _init(full: bool) -> Iterator[Trial]:
    common = {"study": "init", "length": 50, "steps": 1500 if full else 200}
    starts = [
        *({"cell": "rnn-tanh", "init": init} for init in ("uniform", "orthogonal", "identity")),
        *({"cell": "rnn-relu", "init": init} for init in ("uniform", "orthogonal", "identity")),
        *({"cell": "lstm", "init": init} for init in ("uniform", "orthogonal", "chrono:50")),
    ]
    clip = {"scope": "all", "rule": "norm:1"}
    axes: Axes = {"clip": [clip], "start": starts, "optimizer": [ADAMW], "seed": range(5 if full else 1)}
    yield from grid({**common, "task": "adding"}, axes)


def _pascanu(full: bool) -> Iterator[Trial]:
    starts = [
        {"cell": "rnn-sigmoid", "init": "uniform"},
        {"cell": "rnn-tanh", "init": "uniform"},
        {"cell": "rnn-tanh", "init": "radius:0.95"},
    ]
    arms = [
        {"scope": "none", "rule": "none"},
        {"scope": "all", "rule": "norm:1"},
        {"scope": "all", "rule": "norm:1", "penalty": "omega:1"},
    ]
    common = {"study": "pascanu", "task": "temporal-order", "head": "sigmoid", "optimizer": "sgd", "lr": 0.1}
    axes: Axes = {
        "start": starts if full else starts[2:],
        "length": (20, 50, 100) if full else (20,),
        "arm": arms,
        "seed": range(3 if full else 1),
    }
    yield from grid({**common, "hidden_size": 50, "steps": 2000 if full else 600}, axes)
    yield Trial(study="pascanu", task="surface")


def _listed(make: Callable[[bool], Iterator[Trial]]) -> Callable[[bool], Sequence[Trial]]:
    return lambda full: list(make(full))


_PROBLEM = ("task", "cell", "head", "optimizer", "lr")
STUDIES: Mapping[str, Study] = {
    study.name: study
    for study in (
        Study(
            "clip-scope",
            "The output layer's gradients need no clipping.",
            "Each scope of one bound of 1, beside none, on problems with bounded and unbounded states and three heads.",
            _PROBLEM,
            ("scope",),
            _listed(_clip_scope),
            lambda full: _arms("norm:1"),
        ),
        Study(
            "placement",
            "Clipping belongs right before the update, not inside backpropagation.",
            "Both, with bounds that cut as large a share of the steps, and what they do to the direction.",
            _PROBLEM,
            ("rule", "placement"),
            _listed(_placement),
        ),
        Study(
            "threshold",
            "The threshold has to be tuned.",
            "Four decades of it, for SGD and AdamW, and the rule that chooses it by the first steps.",
            _PROBLEM,
            ("rule",),
            _listed(_threshold),
            _bounds,
        ),
        Study(
            "spectrum",
            "Gradients explode where the largest eigenvalue is above 1, for a sigmoid above 4, and vanish below.",
            "The growth of adjoints along data beside spectral radius, spectral norm and Lyapunov exponent.",
            ("cell", "init"),
            ("scale", "lr"),
            _listed(_spectrum),
        ),
        Study(
            "cells",
            "An LSTM mostly helps.",
            "RNN, GRU and LSTM at lengths of 24 to 768: growth of adjoints, explosions without clipping, error.",
            ("task", "length"),
            ("cell",),
            _listed(_cells),
        ),
        Study(
            "init",
            "Initialisation decides whether gradients flow.",
            "Growth of adjoints before and after training, and what was learned, for each start.",
            ("task", "cell"),
            ("init",),
            _listed(_init),
        ),
        Study(
            "pascanu",
            "Clipping lets plain gradient descent learn long dependencies.",
            "The temporal order problem without clipping, with one norm of 1, and with the penalty Omega too, at "
            "rising lengths; and the error surface of one unit.",
            ("cell", "init", "length"),
            ("scope", "penalty"),
            _listed(_pascanu),
        ),
    )
}


def find_study(name: str) -> Study:
    """The study of that name.

    Raises:
        OptionError: There is none.

    Example:
        >>> find_study("spectrum").claim
        'Gradients explode where the largest eigenvalue is above 1, for a sigmoid above 4, and vanish below.'
    """
    if name not in STUDIES:
        expected = f"one of {', '.join(STUDIES)}"
        raise OptionError(Problem("study", expected, repr(name), "see them with: holdfast study list"))
    return STUDIES[name]
