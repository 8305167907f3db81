"""What all tests of studies share."""

from __future__ import annotations

import pytest

from holdfast.studies.runner import run_trial


@pytest.fixture
def here(monkeypatch):
    """Trials run in this process: to start another takes longer than the trials do."""
    monkeypatch.setattr("holdfast.studies.runner._finished", lambda trials, workers: map(run_trial, trials))
