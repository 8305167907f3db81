"""What all tests of training share."""

from __future__ import annotations

import os

import pytest


@pytest.fixture(autouse=True)
def fsynced(monkeypatch):
    """Which file descriptors were synced; the disk itself is not waited for."""
    descriptors: list[int] = []
    monkeypatch.setattr(os, "fsync", descriptors.append)
    return descriptors
