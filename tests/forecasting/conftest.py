"""What most tests of forecasting look at: a small table, and a small forecaster fitted to it."""

from __future__ import annotations

import pytest
from tests.forecasting.small import small, table


@pytest.fixture(scope="module")
def data():
    return table()


@pytest.fixture(scope="module")
def fitted(data):
    return small(max_steps=20).fit(data)
