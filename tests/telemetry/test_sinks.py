"""What a person sees of a run, on a terminal and in a log file."""

from __future__ import annotations

import io
import math
import threading
from dataclasses import replace

import pytest
from rich.console import Console
from tests.telemetry.test_log import step, validation

from holdfast.telemetry import Outlook, ProgressLine
from holdfast.telemetry.sinks import BEFORE, progress_text


def outlook(number=5, planned=10, **changes):
    plain = Outlook(number, planned, replace(step(number), loss=0.51234, total_norm=2.345), validation(0), 0.25, 65.4)
    return replace(plain, **changes)


@pytest.fixture
def make_console(monkeypatch):
    """A console that writes into a string: a terminal, or a file."""
    monkeypatch.setenv("TERM", "xterm-256color")
    for name in ("FORCE_COLOR", "NO_COLOR", "TTY_COMPATIBLE", "TTY_INTERACTIVE", "COLUMNS"):
        monkeypatch.delenv(name, raising=False)

    def make(terminal, width=100):
        return Console(force_terminal=terminal, file=io.StringIO(), width=width)

    return make


def wait_for_others(threads):
    """Until only these are left; none of the others may write any more."""
    for thread in set(threading.enumerate()) - threads:
        thread.join(timeout=10)
        assert not thread.is_alive()


def test_the_line_holds_everything():
    assert progress_text(outlook()) == "step 5/10  loss 0.5123  skill 0.200  grad norm 2.35  clip 25 %  1:05 left"


@pytest.mark.parametrize(
    "changes, words",
    [
        ({"validation": None}, "skill -"),
        ({"clip_fraction": math.nan}, "clip -"),
        ({"record": replace(step(1), skipped=True, loss=math.nan)}, "loss nan"),
        ({"record": replace(step(1), skipped=True)}, "SKIPPED: not finite"),
        ({"record": replace(step(1), total_norm=1.5e30)}, "grad norm 1.5e+30"),
        ({"seconds_left": 59.6}, "1:00 left"),
        ({"seconds_left": 0.0}, "0:00 left"),
        ({"seconds_left": 7199.0}, "119:59 left"),
    ],
)
def test_odd_moments_read_well(changes, words):
    assert words in progress_text(outlook(**changes))


def test_an_ordinary_line_fits_into_80_columns():
    assert len(progress_text(outlook(1200, 1200, record=replace(step(1200), loss=0.12345, total_norm=0.0123)))) <= 80


def test_a_terminal_shows_each_outlook_on_one_line_and_keeps_the_last(make_console):
    console, threads = make_console(True), set(threading.enumerate())
    with ProgressLine(console) as show:
        for number in range(1, 11):
            show(outlook(number))
    seen = console.file.getvalue()
    assert progress_text(outlook(10)) in seen
    assert seen.count("\n") == 1 and seen.rstrip("\x1b[?25h").endswith("\n")
    wait_for_others(threads)
    show(outlook(11))
    assert console.file.getvalue() == seen  # nothing after the end


@pytest.mark.parametrize("width", [20, 40, 79])
def test_a_narrow_terminal_cuts_the_line_instead_of_wrapping_it(make_console, width):
    console = make_console(True, width)
    with ProgressLine(console) as show:
        show(outlook(1199, 1200, record=replace(step(1199), skipped=True)))
    assert console.file.getvalue().count("\n") == 1


@pytest.mark.parametrize("planned", [1, 3, 7, 10, 60, 1200])
def test_a_file_gets_about_ten_lines_over_the_whole_run(make_console, planned):
    console = make_console(False, width=30)
    with ProgressLine(console) as show:
        for number in range(1, planned + 1):
            show(outlook(number, planned))
    before, *lines = console.file.getvalue().splitlines()
    assert before == BEFORE
    assert len(lines) <= 11 and len(lines) >= min(planned, 10)
    assert lines[0] == progress_text(outlook(1, planned))
    assert lines[-1] == progress_text(outlook(planned, planned))
    assert "\x1b" not in console.file.getvalue()


def test_a_resumed_run_and_a_shrinking_plan_print_no_line_twice(make_console):
    console = make_console(False)
    with ProgressLine(console) as show:
        for number in range(63, 81):
            show(outlook(number, 100 if number < 70 else 80))
    _, *lines = console.file.getvalue().splitlines()
    assert lines[0].startswith("step 63/100") and lines[-1].startswith("step 80/80")
    assert len(lines) == len(set(lines)) <= 5


def test_a_terminal_that_cannot_rewrite_is_treated_like_a_file(make_console, monkeypatch):
    monkeypatch.setenv("TERM", "dumb")
    console = make_console(True)
    with ProgressLine(console) as show:
        show(outlook(1))
        assert console.file.getvalue() == BEFORE + "\n" + progress_text(outlook(1)) + "\n"  # at once, not at the end


@pytest.mark.parametrize("terminal", [True, False])
def test_an_error_leaves_the_terminal_as_it_was(make_console, terminal):
    console, threads = make_console(terminal), set(threading.enumerate())
    with pytest.raises(KeyboardInterrupt), ProgressLine(console) as show:
        show(outlook(1))
        raise KeyboardInterrupt
    wait_for_others(threads)
    seen = console.file.getvalue()
    assert seen.count("\x1b[?25l") == seen.count("\x1b[?25h") == int(terminal)  # the cursor comes back


@pytest.mark.parametrize("terminal", [True, False])
def test_what_happens_before_the_first_step_is_said_at_once(make_console, terminal):
    console, threads = make_console(terminal), set(threading.enumerate())
    with ProgressLine(console):
        assert BEFORE in console.file.getvalue()
    wait_for_others(threads)
    assert "step" not in console.file.getvalue()


@pytest.mark.parametrize("terminal", [True, False])
def test_news_is_printed_once_on_lines_of_its_own(make_console, terminal):
    console, threads = make_console(terminal, width=60), set(threading.enumerate())
    news = "went back to [b]the weights[/b] of step 50, in a sentence that is longer than the line"
    with ProgressLine(console) as show:
        show(outlook(1, 100))
        show(outlook(2, 100, news=(news, "and another thing")))
        show(outlook(3, 100))
    wait_for_others(threads)
    seen = console.file.getvalue()
    assert seen.count(news + "\n") == seen.count("and another thing\n") == 1
    assert seen.index(news) < seen.index("and another thing")
