"""A small fitted model with known values: the closed orbit of the record, so that figures need no fit."""

from types import SimpleNamespace

import numpy as np
import torch
import xarray as xr

import scidyn
from scidyn.systems import LotkaVolterra

CUT = 1914.0
SIGMA = 0.25
VALUES = {"alpha": 0.54, "beta": 0.0272, "gamma": 0.796, "delta": 0.0237}
SPREAD = {"alpha": 0.06, "beta": 0.0038, "gamma": 0.084, "delta": 0.0033}


class StandIn:
    """What figures read of a fitted estimator, with every number given by hand."""

    confidence = 0.9
    noise_model_ = "lognormal"
    variables_ = ("hare", "lynx")

    def __init__(self, record, units=None):
        self.record = record
        self.units_ = units or {"time": "year", "hare": "thousand pelts", "lynx": "thousand pelts"}
        self.system = LotkaVolterra(**VALUES)
        self.times_ = record["time"].values
        self.noise_std_ = xr.DataArray([SIGMA, SIGMA], dims="variable", coords={"variable": ["hare", "lynx"]})
        self.fitted_ = self.predict(self.times_, interval=0.9)
        names = list(VALUES)
        estimate, error = np.array(list(VALUES.values())), np.array(list(SPREAD.values()))
        self.parameters_ = xr.Dataset(
            {
                "estimate": ("parameter", estimate),
                "stderr": ("parameter", error),
                "lower": ("parameter", estimate - 1.645 * error),
                "upper": ("parameter", estimate + 1.645 * error),
                "units": ("parameter", ["1/year", "1/(year * thousand pelts)"] * 2),
            },
            coords={"parameter": names},
        )
        z = np.linspace(-2.5, 2.5, 31)
        self.profiles_ = xr.Dataset(
            {
                "value": (("parameter", "point"), estimate[:, None] + error[:, None] * z),
                "deviance": (("parameter", "point"), np.tile(z**2, (4, 1))),
            },
            coords={"parameter": names},
        )
        steps = np.arange(30)
        self.history_ = xr.Dataset(
            {"loss": ("iteration", 3.0 + 90.0 * np.exp(-0.5 * steps))}, coords={"iteration": steps}
        )
        self.provenance_ = {
            "versions": {"scidyn": scidyn.__version__, "torch": torch.__version__},
            "seed": 0,
            "date": "2026-11-25",
            "data checksum": "sha256:0011",
            "settings": {"noise": "auto", "confidence": 0.9},
        }

    def predict(self, times, interval=None):
        t = np.union1d([1900.0], np.asarray(times, dtype=float))
        path = self.system.simulate(t, [34.0, 5.9], rtol=1e-8, atol=1e-8).rename(prey="hare", predator="lynx")
        path = path.sel(time=np.asarray(times, dtype=float))
        for name in ("hare", "lynx"):
            if interval is not None:
                path[f"{name}_lower"] = path[name] * np.exp(-1.645 * SIGMA)
                path[f"{name}_upper"] = path[name] * np.exp(1.645 * SIGMA)
        for name in path.data_vars:
            path[name].attrs["units"] = "thousand pelts"
        path["time"].attrs["units"] = "year"
        return path

    def vector_field(self, t, y):
        return self.system(t, y)

    def equations(self):
        return "hare' = α hare − β hare lynx\nlynx' = δ hare lynx − γ lynx"

    def score(self, ds):
        return 0.75

    def __repr__(self):
        return "StandIn()"


def backtest_of(model, record, cut=CUT):
    """Forecasts of the model and two baselines at held-out times, with errors worked out here."""
    train, test = record.sel(time=record["time"] < cut), record.sel(time=record["time"] >= cut)
    model = StandIn(train, model.units_)
    last = train.isel(time=-1, drop=True)
    flat = test.copy()
    for name in ("hare", "lynx"):
        flat[name] = flat[name] * 0 + float(last[name])
    drift = test.copy()
    for name in ("hare", "lynx"):
        drift[name] = flat[name] * 0.5 + 12.0
    forecasts = {
        "StandIn": model.predict(test["time"].values, interval=0.9),
        "persistence": flat,
        "linear autoregression": drift,
    }
    rows = []
    for ds in forecasts.values():
        gap = np.stack([ds[n].values - test[n].values for n in ("hare", "lynx")])
        rows.append((np.sqrt((gap**2).mean(-1)), np.abs(gap).mean(-1)))
    errors = xr.Dataset(
        {
            "rmse": (("model", "variable"), np.stack([r for r, _ in rows])),
            "mae": (("model", "variable"), np.stack([m for _, m in rows])),
        },
        coords={"model": list(forecasts), "variable": ["hare", "lynx"]},
    )
    covered = xr.DataArray([0.86, 0.71], dims="variable", coords={"variable": ["hare", "lynx"]})
    return SimpleNamespace(
        errors=errors, forecasts=forecasts, at=cut, train=train, test=test, model=model, coverage=covered
    )
