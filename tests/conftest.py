"""What holds for all tests.

Properties are looked for along the same examples in every run; `--hypothesis-profile=default` draws new ones.
"""

from __future__ import annotations

import signal
from collections.abc import Iterator

import pytest
from hypothesis import settings

settings.register_profile("repeatable", derandomize=True, deadline=None)  # a busy machine is no failure
settings.load_profile("repeatable")


@pytest.fixture(autouse=True)
def ctrl_c() -> Iterator[None]:
    """Ctrl-C interrupts, also where the shell that started the tests in its background has them ignore it.

    A process that a test starts inherits that.
    """
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    yield
    signal.signal(signal.SIGINT, before)


@pytest.fixture
def no_onednn(monkeypatch: pytest.MonkeyPatch) -> None:
    """Without oneDNN, whose LSTM knows bfloat16 on some processors only and raises on the others."""
    import torch

    monkeypatch.setattr(torch.backends.mkldnn, "enabled", False)
