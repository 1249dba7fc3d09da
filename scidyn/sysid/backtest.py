"""Judge a model by forecasts of times that it has not seen, beside forecasts that cost nothing."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import Tensor

from scidyn._check.values import number
from scidyn.data import Batch
from scidyn.data.schema import time_dim
from scidyn.errors import SplitError
from scidyn.metrics import coverage, mae, rmse
from scidyn.sysid.baselines import linear_autoregression, persistence
from scidyn.sysid.estimator import Estimator, progress_of
from scidyn.sysid.observations import Observations, observe

if TYPE_CHECKING:
    import xarray as xr

    from scidyn.training import Progress

__all__ = ["Backtest", "backtest"]


@dataclass(frozen=True)
class Backtest:
    """A forecast of held-out times, and its errors.

    Attributes
    ----------
    errors : xarray.Dataset
        ``rmse`` and ``mae`` over ``model`` and ``variable``; models are the class of the fitted one,
        "persistence" and "linear autoregression".
    forecasts : dict of str to xarray.Dataset
        Forecasts at the held-out times by model; the fitted model's with bands.
    at : float
        First held-out time allowed: the fit saw times before it only.
    train, test : xarray.Dataset
        The two parts of the record.
    model : Estimator
        Fitted to ``train``.
    coverage : xarray.DataArray
        Share of held-out values inside the model's band, per variable; the band's probability is the
        attribute ``interval``.
    """

    errors: xr.Dataset
    forecasts: dict[str, xr.Dataset]
    at: float
    train: xr.Dataset
    test: xr.Dataset
    model: Any
    coverage: xr.DataArray


def backtest(
    model: Estimator,
    record: xr.Dataset,
    at: float | None = None,
    *,
    checkpoint: str | Path | None = None,
    progress: Progress | bool | None = None,
) -> Backtest:
    """Fit a copy of ``model`` to the times before ``at`` and forecast the rest.

    Parameters
    ----------
    model : Estimator
        Not changed; a copy is fitted, without profile likelihoods, which a forecast does not need.
    record : xarray.Dataset
        The whole record.
    at : float, optional
        First held-out time; default leaves the last third out.
    checkpoint : str or Path, optional
        As in the model's ``fit``: where the fit of the copy is kept and goes on from.
    progress : Progress or bool, optional
        Show how far the fit has come.

    Returns
    -------
    Backtest

    Raises
    ------
    scidyn.errors.SplitError
        If nothing, or too little, lies on one side of ``at``.
    scidyn.errors.DataError
        If the record cannot be used.

    Examples
    --------
    >>> import scidyn
    >>> from scidyn.sysid import MechanisticODE, backtest
    >>> from scidyn.systems import LotkaVolterra
    >>> record = scidyn.datasets.load("lynx_hare")
    >>> trial = backtest(MechanisticODE(LotkaVolterra()), record, at=1914)
    >>> trial.errors["model"].values.tolist()
    ['MechanisticODE', 'persistence', 'linear autoregression']
    """
    whole = observe(record, getattr(model, "noise", "auto"))
    border = _border(whole, at)
    clean = whole.dataset(
        {n: torch.where(whole.batch.mask[..., k], whole.batch.y[..., k], torch.nan) for k, n in enumerate(whole.names)},
        whole.units,
    )
    train, test = split_at(clean, border)
    _check(train, test, border)
    with progress_of(progress, "backtest") as bar:
        fitted = _without_profiles(model).fit(train, checkpoint=checkpoint, progress=bar)
    past = observe(train, fitted.noise_model_)
    future = held_out(test, whole)
    name = type(fitted).__name__
    values = fitted._predict(future.batch.t, fitted.confidence)
    variables = list(past.names)
    forecasts = {
        name: torch.stack([values[v] for v in variables], dim=-1),
        "persistence": persistence(past, future.batch.t),
        "linear autoregression": linear_autoregression(past, future.batch.t),
    }
    datasets = {
        n: future.dataset({v: f[..., k] for k, v in enumerate(variables)}, past.units) for n, f in forecasts.items()
    }
    bands = {n: v for n, v in values.items() if n not in past.units}
    units = {n: past.units[n.rsplit("_", 1)[0]] for n in bands}
    datasets[name] = datasets[name].merge(future.dataset(bands, units))
    return Backtest(
        errors=_errors(forecasts, future, past.units),
        forecasts=datasets,
        at=border,
        train=train,
        test=test,
        model=fitted,
        coverage=_coverage(values, future, variables, fitted.confidence),
    )


def _without_profiles(model: Estimator) -> Any:
    """An unfitted copy that skips profile likelihoods: a forecast needs none."""
    copy = model.clone()
    return copy.set_params(profile=False) if "profile" in copy.get_params() else copy


def split_at(record: xr.Dataset, at: float) -> tuple[xr.Dataset, xr.Dataset]:
    """The times before ``at`` and those from it on."""
    along = time_dim(record)
    if along == "time":
        early = record["time"].values < at
        return record.isel(time=early), record.isel(time=~early)
    return _irregular(record, at, before=True), _irregular(record, at, before=False)


def held_out(test: xr.Dataset, whole: Observations) -> Observations:
    """The held-out part as tensors; a trajectory may have one time there, or none."""
    rows = whole.batch.t.shape[0]
    time = torch.as_tensor(test["time"].values.astype(float))
    values = torch.stack([torch.as_tensor(test[n].values.astype(float)) for n in whole.names], dim=-1)
    values = values.unsqueeze(0) if whole.single else values
    seen = torch.isfinite(values)
    batch = Batch(time.expand(rows, -1), values.nan_to_num() * seen, seen, None, None, whole.batch.index)
    return Observations(batch, whole.names, whole.units, whole.noise, test.drop_vars(list(test.data_vars)))


def _irregular(record: xr.Dataset, at: float, *, before: bool) -> xr.Dataset:
    """One side of an irregular record, every row padded at its end again."""
    time = record["time"].values
    keep = np.isfinite(time) & ((time < at) if before else (time >= at))
    order = np.argsort(~keep, axis=1, kind="stable")[:, : max(int(keep.sum(axis=1).max()), 1)]
    kept = np.take_along_axis(keep, order, axis=1)
    out = record.isel(obs=np.arange(order.shape[1])).copy()
    for name in (*[str(n) for n in record.data_vars], "time"):
        variable = record[name]
        if variable.dims[:2] != ("trajectory", "obs"):
            continue
        index = order.reshape(*order.shape, *([1] * (variable.ndim - 2)))
        values = np.take_along_axis(variable.values, np.broadcast_to(index, (*order.shape, *variable.shape[2:])), 1)
        blank = ~kept.reshape(*kept.shape, *([1] * (variable.ndim - 2)))
        values = np.where(blank, False if values.dtype == bool else np.nan, values)
        out[name] = (variable.dims, values, variable.attrs)
    return out.set_coords("time")


def _border(whole: Observations, at: float | None) -> float:
    if at is not None:
        return number("at", at)
    times = whole.times
    return float(times[-max(1, round(len(times) / 3))])


def _check(train: xr.Dataset, test: xr.Dataset, at: float) -> None:
    """Refuse a split with nothing on one side."""
    counts = []
    for part, where in ((train, "before"), (test, "from")):
        count = int(np.isfinite(part["time"].values.astype(float)).sum())
        observed = sum(int(np.isfinite(part[n].values.astype(float)).sum()) for n in part.data_vars if n != "mask")
        if count == 0 or observed == 0:
            raise SplitError(f"No observed value lies {where} at={at:g}; choose a time inside the record.")
        counts.append(count)
    if counts[0] < 2:
        raise SplitError(f"Only {counts[0]} time lies before at={at:g}; choose a later one.")


def _errors(forecasts: dict[str, Tensor], future: Observations, units: dict[str, str]) -> xr.Dataset:
    import xarray as xr

    data, mask = future.batch.y, future.batch.mask
    tables = {
        "rmse": [rmse(f, data, mask, dim=(0, 1)).tolist() for f in forecasts.values()],
        "mae": [mae(f, data, mask, dim=(0, 1)).tolist() for f in forecasts.values()],
    }
    return xr.Dataset(
        {k: (("model", "variable"), np.array(v)) for k, v in tables.items()},
        coords={
            "model": list(forecasts),
            "variable": list(future.names),
            "units": ("variable", [units[n] for n in future.names]),
        },
    )


def _coverage(values: dict[str, Tensor], future: Observations, names: list[str], interval: float) -> xr.DataArray:
    import xarray as xr

    lower, upper = (torch.stack([values[f"{n}_{side}"] for n in names], dim=-1) for side in ("lower", "upper"))
    share = coverage(lower, upper, future.batch.y, future.batch.mask, dim=(0, 1))
    return xr.DataArray(
        share.numpy(), dims="variable", coords={"variable": names}, name="coverage", attrs={"interval": interval}
    )
