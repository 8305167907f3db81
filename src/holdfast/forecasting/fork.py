"""A process that was forked from one that had computed already cannot compute: the threads of the parent are gone."""

from __future__ import annotations

import os

from holdfast.errors import OptionError, Problem


class _Process:
    """Whether this process has computed, and whether it was forked from one that had."""

    watched = False
    forked = False


def refuse_fork() -> None:
    """Raise in a process that was forked after its parent had fitted or forecast; call before computing.

    The thread pools of torch and polars do not survive a fork: the first parallel operation would wait for ever.

    Raises:
        OptionError: With the way to start a process that works.

    Example:
        >>> refuse_fork()  # this process was not forked since
    """
    if _Process.forked:
        raise OptionError(
            Problem(
                "this process",
                "a process that was started, not forked, after the first fit or forecast",
                "one that was forked (multiprocessing's way on Linux before Python 3.14): it would hang",
                'start workers with multiprocessing.get_context("spawn"), or fit in the workers only',
            )
        )
    if not _Process.watched and os.name == "posix":
        os.register_at_fork(after_in_child=_mark)
        _Process.watched = True


def _mark() -> None:
    _Process.forked = True
