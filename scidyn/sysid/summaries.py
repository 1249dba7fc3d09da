"""The Datasets that a fit leaves: parameters, profiles, initial states, history."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np
import torch
from torch import Tensor

from scidyn.sysid.coordinates import Coordinates
from scidyn.sysid.observations import Observations
from scidyn.sysid.profiles import Profiles

if TYPE_CHECKING:
    import xarray as xr

    from scidyn.systems import System

__all__ = ["history_dataset", "initial_dataset", "parameter_dataset", "parameter_text", "profile_dataset", "unbounded"]


def parameter_dataset(
    names: Sequence[str],
    units: Sequence[str],
    system: System,
    estimate: Tensor,
    covariance: Tensor,
    coordinates: Coordinates,
    profiles: Profiles | None,
    confidence: float,
    freedom: int,
) -> xr.Dataset:
    """Estimates, standard errors and intervals; intervals from standard errors if there are no profiles."""
    import xarray as xr
    from scipy import stats

    count = len(names)
    log = coordinates.log_parameters.numpy()
    z = estimate[:count].cpu().numpy()
    deviation = covariance.diagonal()[:count].sqrt().cpu().numpy()
    if profiles is not None:
        low, high = profiles.lower, profiles.upper
    else:
        t = stats.t.ppf(0.5 + confidence / 2, freedom)
        low, high = z - t * deviation, z + t * deviation
    with np.errstate(over="ignore"):
        back = [np.where(log, np.exp(np.where(log, v, 0.0)), v) for v in (z, low, high)]
    return xr.Dataset(
        {
            "estimate": ("parameter", back[0]),
            "stderr": ("parameter", np.where(log, back[0], 1.0) * deviation),
            "lower": ("parameter", back[1]),
            "upper": ("parameter", back[2]),
            "units": ("parameter", np.array(units, dtype=object).astype(str)),
        },
        coords={"parameter": list(names), "description": ("parameter", [p.description for p in system.parameters])},
        attrs={
            "confidence": confidence,
            "interval": "standard errors" if profiles is None else "profile likelihood",
        },
    )


def parameter_text(table: xr.Dataset, system: System) -> str:
    """Symbols, estimates and units in one line."""
    symbols = {p.name: p.symbol or p.name for p in system.parameters}
    return ", ".join(
        f"{symbols[str(p)]} = {float(table['estimate'].sel(parameter=p)):.4g} {table['units'].sel(parameter=p).item()}"
        for p in table["parameter"].values
    )


def profile_dataset(
    names: Sequence[str],
    units: Sequence[str],
    coordinates: Coordinates,
    profiles: Profiles | None,
    threshold: float,
    confidence: float,
) -> xr.Dataset:
    """Curves over ``parameter`` and ``point``, NaN-padded at the end; no points without profiles."""
    import xarray as xr

    length = 0 if profiles is None else max(len(v) for v in profiles.value)
    value, deviance = np.full((len(names), length), np.nan), np.full((len(names), length), np.nan)
    for k in range(len(names) if profiles is not None else 0):
        v, d = profiles.value[k], profiles.deviance[k]  # type: ignore[union-attr]
        value[k, : len(v)] = np.exp(v) if bool(coordinates.log_parameters[k]) else v
        deviance[k, : len(d)] = d
    return xr.Dataset(
        {
            "value": (("parameter", "point"), value),
            "deviance": (("parameter", "point"), deviance, {"units": "1"}),
            "units": ("parameter", np.array(units, dtype=object).astype(str)),
        },
        coords={"parameter": list(names)},
        attrs={"threshold": threshold, "confidence": confidence},
    )


def initial_dataset(
    states: Sequence[str], obs: Observations, y0: Tensor, covariance: Tensor, coordinates: Coordinates
) -> xr.Dataset:
    """Initial states with standard errors over ``trajectory`` and ``state``."""
    import xarray as xr

    count = coordinates.sizes[0]
    deviation = covariance.diagonal()[count:].sqrt().reshape(y0.shape)
    deviation = deviation * torch.where(coordinates.log_states, y0, 1.0)
    labels = np.arange(y0.shape[0]) if obs.single else obs.template["trajectory"].values
    dims = ("trajectory", "state")
    return xr.Dataset(
        {"estimate": (dims, y0.cpu().numpy()), "stderr": (dims, deviation.cpu().numpy())},
        coords={"trajectory": labels, "state": list(states)},
    )


def history_dataset(loss: Tensor, validation: Tensor | None = None) -> xr.Dataset:
    """``loss`` and ``validation`` over ``iteration``."""
    import xarray as xr

    values = loss.detach().cpu().numpy()
    other = np.full(values.shape, np.nan) if validation is None else validation.detach().cpu().numpy()
    return xr.Dataset(
        {"loss": ("iteration", values), "validation": ("iteration", other)},
        coords={"iteration": np.arange(len(values))},
    )


def unbounded(table: xr.Dataset, profiles: Profiles | None) -> list[str]:
    """Parameters that the data do not bound on both sides."""
    return [
        str(p)
        for k, p in enumerate(table["parameter"].values)
        if (profiles is not None and not np.isfinite([profiles.lower[k], profiles.upper[k]]).all())
        or not np.isfinite(float(table["stderr"][k]))
    ]
