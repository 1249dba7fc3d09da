"""Backtests: nothing of the future leaks, and the baselines are what they say."""

import numpy as np
import pytest
import torch

from scidyn.data import from_arrays
from scidyn.sysid import MechanisticODE, backtest
from scidyn.sysid.backtest import split_at
from scidyn.sysid.baselines import linear_autoregression, persistence
from scidyn.sysid.observations import observe
from scidyn.systems import LotkaVolterra


@pytest.fixture(scope="module")
def trial(record):
    return backtest(MechanisticODE(LotkaVolterra(), starts=2), record, at=1914)


def test_parts_and_errors(trial, record):
    assert trial.train["time"].values.max() == 1913
    assert trial.test["time"].values.tolist() == list(range(1914, 1921))
    assert trial.model.times_.max() == 1913
    assert trial.errors["model"].values.tolist() == ["MechanisticODE", "persistence", "linear autoregression"]
    for name, forecast in trial.forecasts.items():
        assert forecast["time"].values.tolist() == trial.test["time"].values.tolist()
        for variable in ("hare", "lynx"):
            difference = forecast[variable].values - trial.test[variable].values
            row = trial.errors.sel(model=name, variable=variable)
            assert float(row["rmse"]) == pytest.approx(np.sqrt((difference**2).mean()))
            assert float(row["mae"]) == pytest.approx(np.abs(difference).mean())
    band = trial.forecasts["MechanisticODE"]
    inside = (trial.test["hare"] >= band["hare_lower"]) & (trial.test["hare"] <= band["hare_upper"])
    assert float(trial.coverage.sel(variable="hare")) == pytest.approx(float(inside.mean()))


def test_the_future_does_not_leak(trial, record):
    changed = record.copy()
    changed["hare"] = changed["hare"].where(changed["time"] < 1914, 999.0)
    other = backtest(MechanisticODE(LotkaVolterra(), starts=2), changed, at=1914)
    for name in trial.forecasts:
        assert other.forecasts[name].equals(trial.forecasts[name]), name


def test_persistence_repeats_the_last_value(trial):
    assert bool((trial.forecasts["persistence"]["hare"] == 76.6).all())
    assert bool((trial.forecasts["persistence"]["lynx"] == 19.5).all())


def test_autoregression_recovers_a_linear_recursion():
    matrix, shift = np.array([[0.9, -0.3], [0.2, 0.8]]), np.array([0.1, -0.05])
    x = [np.array([1.0, 0.5])]
    for _ in range(29):
        x.append(matrix @ x[-1] + shift)
    y = np.exp(np.array(x))
    ds = from_arrays(y, np.arange(30.0), names=["a", "b"], units=["1", "1"], time_units="d")
    train, test = split_at(ds, 20)
    forecast = linear_autoregression(observe(train, "auto"), observe(test, "auto").batch.t)
    np.testing.assert_allclose(forecast[0], y[20:], rtol=1e-8)


def test_irregular_records_are_split_by_time(predator_prey):
    _, ds = predator_prey
    train, test = split_at(ds, 8.0)
    assert np.nanmax(train["time"]) < 8.0 <= np.nanmin(test["time"])
    total = np.isfinite(train["u"].values).sum() + np.isfinite(test["u"].values).sum()
    assert total == np.isfinite(ds["u"].values).sum()
    repeat = persistence(observe(train, "auto"), torch.zeros(3, 2, dtype=torch.float64))
    last = [row[np.isfinite(row)][-1] for row in train["v"].values]
    np.testing.assert_allclose(repeat[:, 0, 1], last)
    trial = backtest(MechanisticODE(LotkaVolterra(), starts=2), ds, at=8.0)
    rmse = trial.errors["rmse"].sum("variable")
    assert float(rmse.sel(model="MechanisticODE")) < 0.7 * float(rmse.sel(model="persistence"))


def test_the_last_third_is_held_out_by_default(record):
    model = MechanisticODE(LotkaVolterra(), starts=1)
    trial = backtest(model, record)
    assert trial.at == 1914
    assert not model.is_fitted
    assert model.profile
    assert trial.model.profiles_.sizes["point"] == 0
