"""The family of errors: four parts each, all problems in one, and the same after a copy."""

from __future__ import annotations

import copy
import dataclasses
import pickle

import pytest
from hypothesis import given
from hypothesis import strategies as st

from holdfast.errors import DataError, HoldfastError, OptionError, Problem, RunDirectoryError, TrainingError

FAMILY = (HoldfastError, DataError, OptionError, RunDirectoryError, TrainingError)
ROW = Problem("sales.csv, row 7", "a number", "'n/a'", "leave the field empty")
SEED = Problem("option seed", "a whole number of at least 0", "-1", "give --seed 0 or more")

problems = st.builds(Problem, *(st.text(st.characters(codec="ascii")) for _ in range(4)))


def escaped(text):
    """One character at a time."""
    return "".join(letter if letter.isprintable() else letter.encode("unicode_escape").decode() for letter in text)


def twin(several):
    """The message, letter by letter: where on a line of its own, the other parts indented below it."""
    message = ""
    for number, problem in enumerate(several):
        message += "\n" if number else ""
        message += escaped(problem.where)
        message += "\n  expected: " + escaped(problem.expected)
        message += "\n  got:      " + escaped(problem.got)
        message += "\n  to do:    " + escaped(problem.fix)
    return message


@given(st.lists(problems, max_size=4))
def test_the_message_tells_all_four_parts_of_every_problem_in_order(several):
    error = DataError(several)
    assert str(error) == twin(several)
    assert error.problems == tuple(several)


@pytest.mark.parametrize("kind", FAMILY)
def test_one_problem_several_and_a_generator_are_taken_alike(kind):
    assert kind(ROW).problems == kind([ROW]).problems == kind(p for p in (ROW,)).problems == (ROW,)
    assert kind(iter([ROW, SEED])).problems == (ROW, SEED)
    assert str(kind([ROW, SEED])) == f"{ROW}\n{SEED}"


@pytest.mark.parametrize("kind", FAMILY)
def test_every_error_of_the_family_is_caught_by_its_root_and_by_nothing_narrower(kind):
    with pytest.raises(HoldfastError) as caught:
        raise kind(ROW)
    assert type(caught.value) is kind
    others = tuple(other for other in FAMILY[1:] if other is not kind)
    assert not isinstance(caught.value, (*others, ValueError, RuntimeError, OSError))


def test_exit_codes_tell_a_failed_run_from_a_user_who_can_mend_it():
    assert [kind.exit_code for kind in FAMILY] == [1, 1, 1, 1, 3]


def sent(error):
    """As `multiprocessing` hands an error of a worker to its parent."""
    return pickle.loads(pickle.dumps(error))  # noqa: S301 - our own bytes


@pytest.mark.parametrize("again", [copy.copy, copy.deepcopy, sent])
def test_an_error_that_crosses_to_another_process_still_says_the_same(again):
    for kind in FAMILY:
        error = kind([ROW, SEED])
        twice = again(again(error))
        assert (type(twice), str(twice), twice.problems) == (kind, str(error), (ROW, SEED))


def test_a_problem_is_a_value():
    assert Problem(*dataclasses.astuple(ROW)) == ROW
    assert {ROW, Problem(*dataclasses.astuple(ROW))} == {ROW}
    with pytest.raises(dataclasses.FrozenInstanceError):
        ROW.fix = "nothing"
    with pytest.raises(TypeError, match="fix"):
        Problem("where", "expected", "got")
