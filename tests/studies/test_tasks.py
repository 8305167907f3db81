"""Each problem is the one that it says: targets by slow twins, baselines by their own derivation."""

from __future__ import annotations

import math

import pytest
import torch

from holdfast.errors import OptionError
from holdfast.studies.grid import Trial, grid
from holdfast.studies.tasks import COPIED, LETTERS, SYMBOLS, TASKS, head_answer, head_loss


def draw(name, B=64, T=30, seed=0):
    return TASKS[name].draw(B, T, torch.Generator().manual_seed(seed))


def slow_target(name, x_TD):
    """The target of one sequence, read off its inputs symbol by symbol."""
    if name == "adding":
        marked = [value for value, mark in x_TD.tolist() if mark == 1.0]
        assert len(marked) == 2
        return [sum(marked) / 2]
    symbols = x_TD.argmax(1).tolist()
    if name == "temporal-order":
        told = [symbol for symbol in symbols if symbol < SYMBOLS]
        assert len(told) == 2
        return [float(told == [a, b]) for a in range(SYMBOLS) for b in range(SYMBOLS)]
    assert symbols[COPIED : -COPIED - 1] == [LETTERS] * (len(symbols) - 2 * COPIED - 1)
    assert symbols.count(LETTERS + 1) == 1 and symbols[-COPIED - 1] == LETTERS + 1
    return [[float(letter == k) for k in range(LETTERS)] for letter in symbols[:COPIED]]


@pytest.mark.parametrize("name", TASKS)
def test_targets_are_those_of_a_slow_twin(name):
    batch = draw(name)
    assert batch.x_BTD.shape == (64, 30, TASKS[name].inputs)
    for x_TD, y in zip(batch.x_BTD, batch.y, strict=True):
        torch.testing.assert_close(y, torch.tensor(slow_target(name, x_TD)))


@pytest.mark.parametrize("name", TASKS)
def test_a_generator_gives_the_same_sequences_again(name):
    assert torch.equal(draw(name).x_BTD, draw(name).x_BTD)
    assert not torch.equal(draw(name).x_BTD, draw(name, seed=1).x_BTD)


def test_the_two_marks_of_the_adding_problem_lie_in_its_halves():
    mark_BT = draw("adding", 500, 20).x_BTD[..., 1]
    assert torch.equal(mark_BT[:, :10].sum(1), torch.ones(500))
    assert torch.equal(mark_BT[:, 10:].sum(1), torch.ones(500))
    assert (mark_BT.sum(0) > 0).all()


def test_the_symbols_that_count_stand_in_the_second_and_the_fifth_tenth():
    told_BT = draw("temporal-order", 500, 20).x_BTD[..., :SYMBOLS].sum(-1)
    assert told_BT.sum(0).nonzero().flatten().tolist() == [2, 3, 8, 9]


def test_baselines_are_what_an_answer_without_memory_reaches():
    adding = draw("adding", 50_000).y
    assert TASKS["adding"].error(torch.full_like(adding, 0.5), adding) == pytest.approx(
        TASKS["adding"].baseline, rel=0.02
    )
    for name in ("temporal-order", "copy"):
        y = draw(name, 20_000).y
        guess = torch.zeros_like(y)
        guess[..., 0] = 1.0
        assert TASKS[name].error(guess, y) == pytest.approx(TASKS[name].baseline, abs=0.02)
        assert TASKS[name].error(y, y) == 0.0


def test_losses_by_hand():
    raw, y = torch.tensor([[0.5, 2.0]]), torch.tensor([[1.0, 0.0]])
    assert head_loss("squared", raw, y).item() == pytest.approx((0.25 + 4) / 2)
    p = [1 / (1 + math.exp(-value)) for value in (0.5, 2.0)]
    assert head_loss("sigmoid", raw, y).item() == pytest.approx(-(math.log(p[0]) + math.log(1 - p[1])) / 2)
    mean, log_sigma, target = 0.5, 2.0, 1.0
    density = math.exp(-((target - mean) ** 2) / (2 * math.exp(log_sigma) ** 2)) / math.exp(log_sigma)
    expected = -math.log(density / math.sqrt(2 * math.pi))
    assert head_loss("gaussian", raw, torch.tensor([[target]])).item() == pytest.approx(expected)
    assert head_answer("gaussian", raw).tolist() == [[0.5]]
    assert head_answer("sigmoid", raw).flatten().tolist() == pytest.approx(p)


def test_an_unknown_head_is_refused():
    with pytest.raises(OptionError, match="squared, sigmoid, gaussian"):
        head_loss("softmax", torch.zeros(1, 1), torch.zeros(1, 1))


def test_keys_tell_trials_apart_and_stay():
    trials = list(grid({"study": "s", "task": "adding"}, {"lr": [0.1, 0.2], "seed": [0, 1]}))
    assert [(trial.lr, trial.seed) for trial in trials] == [(0.1, 0), (0.1, 1), (0.2, 0), (0.2, 1)]
    assert len({trial.key for trial in trials}) == 4
    assert Trial(study="s", task="adding", lr=0.1).key == trials[0].key
