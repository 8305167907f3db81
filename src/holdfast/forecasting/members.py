"""The networks of a forecaster: one by default, several whose quantiles are averaged with the preset best."""

from __future__ import annotations

from dataclasses import dataclass, replace
from fractions import Fraction

import numpy as np
import torch

from holdfast.forecasting.config import LARGEST_SEED, Config
from holdfast.forecasting.plan import make_network, plan_task, training_config
from holdfast.forecasting.prepared import Prepared
from holdfast.networks import NetworkConfig
from holdfast.series import LARGEST_CONTEXT
from holdfast.training import Task, make_guard

# What the members of the preset best have in turn: contexts as shares of the usual one, and cells.
CONTEXTS: tuple[Fraction | int, ...] = (1, 2, Fraction(1, 2))
CELLS = ("lstm", "gru")
MEMBERS = len(CONTEXTS) * len(CELLS)


@dataclass(frozen=True)
class Member:
    """One network of a forecaster, and what to train it on.

    Attributes:
        prepared: The series, with the options of this member.
        task: Network and data.
    """

    prepared: Prepared
    task: Task


def device() -> torch.device:
    """CUDA where there is one, else the CPU."""
    return torch.device("cuda" if torch.cuda.is_available() else "cpu")


def plan(prepared: Prepared, kept_back: int = 0) -> Task:
    """One network and what to train it on.

    Raises:
        OptionError: Nothing in the network has a role that is to be clipped; no file was written yet.
    """
    store = prepared.store
    length_n = np.maximum(store.lengths - kept_back * store.horizon, 1)
    seasons = [season.length for season in prepared.seasons]
    task = plan_task(prepared.config, store, seasons, length_n, device())
    make_guard(task.network, training_config(prepared.config, task))
    return task


def plan_members(prepared: Prepared, kept_back: int = 0) -> list[Member]:
    """All networks of the preset.

    The members of the preset best differ in seed and, as far as these options were not given, in the length of the
    context (the usual one, twice and half of it) and in the cell (LSTM and GRU).

    Args:
        prepared: The series, with the options that the user gave.
        kept_back: Windows at the end of each series that may not be looked at (a backtest).

    Raises:
        OptionError: As `plan`.
    """
    config = prepared.config
    if config.preset != "best":
        return [Member(prepared, plan(prepared, kept_back))]
    usual = plan(prepared, kept_back).network.config.context_length
    longest = int(prepared.store.lengths.max()) - kept_back * prepared.store.horizon
    alone = [replace(prepared, config=member_options(config, number, usual, longest)) for number in range(MEMBERS)]
    return [Member(one, plan(one, kept_back)) for one in alone]


def member_options(config: Config, number: int, usual_context: int, longest: int) -> Config:
    """The options of one member of the preset best.

    Args:
        config: As the user gave them.
        number: Of the member, from 0.
        usual_context: Steps of context that one network would have.
        longest: Rows of the longest series; no context is longer, or longer than 16384 steps.

    Example:
        >>> members = [member_options(Config(seed=2), number, 336, 960) for number in range(6)]
        >>> [(member.context_length, member.cell, member.seed) for member in members]
        [(336, 'lstm', 12), (672, 'gru', 13), (168, 'lstm', 14), (336, 'gru', 15), (672, 'lstm', 16), (168, 'gru', 17)]
        >>> {member_options(Config(cell="rnn-tanh"), number, 336, 960).cell for number in range(6)}
        {'rnn-tanh'}
    """
    share = CONTEXTS[number % len(CONTEXTS)]
    return replace(
        config,
        preset="default",
        cell=CELLS[number % len(CELLS)] if config.cell == Config.cell else config.cell,
        context_length=config.context_length or max(min(int(share * usual_context), longest, LARGEST_CONTEXT), 1),
        seed=(MEMBERS * config.seed + number) % LARGEST_SEED,
        time_budget=None if config.time_budget is None else config.time_budget / MEMBERS,
    )


def plan_again(prepared: Prepared, shapes: NetworkConfig) -> Member:
    """A member of a run that was planned before, to be trained further: its network has the shapes of then."""
    task = plan(prepared)
    if task.network.config != shapes:
        network = make_network(prepared.config, shapes).to(task.windows.y_R.device)
        task = replace(task, network=network)
    return Member(prepared, task)
