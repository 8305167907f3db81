"""A study on a user's own series: its trials, and the option of `fit` that it ends with."""

from __future__ import annotations

import hashlib
import json
from dataclasses import replace
from pathlib import Path
from shlex import quote
from typing import Any

import polars as pl

from holdfast.errors import OptionError, Problem
from holdfast.forecasting import Config
from holdfast.forecasting.backtest import check_windows
from holdfast.forecasting.config import config_facts
from holdfast.forecasting.prepared import prepare
from holdfast.series import open_table
from holdfast.studies.catalogue import FIT, Study
from holdfast.studies.grid import Trial, grid
from holdfast.studies.statistics import capped, paired
from holdfast.studies.verdicts import Verdict, lost

ARM = ("scope", "rule")
USUAL = ("all", "norm:1")  # what `fit` does when nobody says anything
ROLES_OF = {"recurrent": "recurrent", "all-but-head": "input,recurrent,bias,other", "head": "head"}


def check_own(study: Study, data: Path, config: Config) -> dict[str, Any]:
    """Read a user's table as the trials will, so that what is wrong with it is said before anything runs.

    Args:
        study: Which; not all can be run on other data.
        data: CSV or Parquet.
        config: Columns, horizon and season.

    Returns:
        What tells these series and options from others.

    Raises:
        OptionError: The study measures something that is not in a user's series.
        DataError: With everything that is wrong with the table, or if it is too short for a window to be kept back.
    """
    if study.own is None:
        fix = f"leave --data out, or run: holdfast study clip-scope --data {data}"
        raise OptionError(Problem("option --data", "a study of fits: clip-scope or threshold", study.name, fix))
    prepared = prepare(config, open_table(data, config), kept_back=1)
    check_windows(prepared.store, 1)
    digest = hashlib.sha256(data.read_bytes()).hexdigest()
    return {"data": str(data.resolve()), "sha256": digest, "options": _given(config)}


def own_study(study: Study, data: Path) -> Study:
    """The study with what it asks of a user's table.

    Example:
        >>> from holdfast.studies.catalogue import STUDIES
        >>> own_study(STUDIES["threshold"], Path("sales.csv")).claim
        'Which --clip is best on sales.csv?'
    """
    measured = "Fits that do not see the last horizon of every series, scored on it beside seasonal naive."
    return replace(study, claim=f"Which --clip is best on {data.name}?", measured=measured)


def own_options(data: Path, config: Config) -> str:
    """What to type for a table, with a blank before it.

    Example:
        >>> own_options(Path("my sales.csv"), Config(horizon=4, season_length=(7, 365)))
        " --data 'my sales.csv' --horizon 4 --season-length 7,365"
    """
    words = [f"--data {quote(str(data))}"]
    for name, value in _given(config).items():
        text = ",".join(map(str, value)) if isinstance(value, tuple | list) else str(value)
        words.append(f"--{name.replace('_', '-')} {quote(text)}")
    return " " + " ".join(words)


def own_trials(study: Study, data: Path, config: Config, full: bool) -> list[Trial]:
    """The arms of a study as fits to a user's series, each seed with all of them.

    Args:
        study: clip-scope or threshold.
        data: CSV or Parquet.
        config: Columns, horizon and season.
        full: 1200 steps, as a fit takes them, and 3 seeds rather than 300 and 2.

    Returns:
        The trials.
    """
    common = {**FIT, "study": study.name, "task": "data", "head": "quantile", "steps": 1200 if full else 300}
    where = {"data": str(data.resolve()), "options": json.dumps(_given(config))}
    arms = study.own(full) if study.own is not None else []
    return list(grid({**common, **where}, {"arm": arms, "seed": range(3 if full else 2)}))


def _given(config: Config) -> dict[str, Any]:
    usual = config_facts(Config())
    return {name: value for name, value in config_facts(config).items() if value != usual[name]}


def advise(rows: pl.DataFrame) -> Verdict:
    """The option to use on these series: the usual one, unless another is better in its whole interval.

    Args:
        rows: One per run of `own_trials`.

    Returns:
        The option, and what it rests on.

    Example:
        >>> row = {"scope": "all", "rule": "norm:1", "seed": 0, "diverged": False, "relative_error": 0.7}
        >>> advise(pl.DataFrame([row, {**row, "scope": "none", "rule": "none", "relative_error": 0.6}])).answer
        'use --clip none'
    """
    less = paired(rows, [], ARM, USUAL)
    better = less.filter(pl.col("high") < 0).sort("difference")
    best = better.select(ARM).row(0) if better.height else USUAL
    errors = rows.group_by(ARM, maintain_order=True).agg(capped().mean().alias("error"))
    told = ", ".join(f"{option_of(scope, rule)} {error:.3f}" for scope, rule, error in errors.rows())
    text = f"Errors of the last window over those of seasonal naive: {told}. {lost(rows)} runs diverged. "
    if errors["error"].n_unique() == 1:
        text += "All are the same: validation kept the untrained network, the mean of its anchors, in all of them"
    elif best == USUAL:
        text += f"No option is better than {option_of(*USUAL)}, the default, in all of its interval"
    else:
        mean, low, high = better.select("difference", "low", "high").row(0)
        text += f"Its error less that of {option_of(*USUAL)}, the default: {mean:+.3f} [{low:+.3f}, {high:+.3f}]"
    return Verdict(f"use {option_of(*best)}", text + ".")


def option_of(scope: str, rule: str) -> str:
    """What to type for an arm.

    Example:
        >>> option_of("all", "norm:1"), option_of("head", "norm:1")
        ('--clip norm:1', '--clip norm:1 --clip-roles head')
    """
    if scope == "none":
        return "--clip none"
    if scope == "per-role":
        return "--clip " + ",".join(f"{role}={rule}" for role in ("input", "recurrent", "bias", "head", "other"))
    return f"--clip {rule}" + (f" --clip-roles {ROLES_OF[scope]}" if scope in ROLES_OF else "")
