"""The record, the stand-in model and its backtest."""

import pytest
from stand_in import StandIn, backtest_of

import scidyn


@pytest.fixture(scope="session")
def record():
    return scidyn.datasets.load("lynx_hare")


@pytest.fixture(scope="session")
def model(record):
    return StandIn(record)


@pytest.fixture(scope="session")
def trial(model, record):
    return backtest_of(model, record)
