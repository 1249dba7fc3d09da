"""A Dataset as the curves that a figure draws: one per trajectory, with names and units."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING, NamedTuple

import numpy as np

from scidyn.data import state_variables

if TYPE_CHECKING:
    import xarray as xr
    from matplotlib.axes import Axes

__all__ = [
    "MOST",
    "Curve",
    "axis_label",
    "curves",
    "mean_names",
    "time_axis",
    "time_label",
    "trajectories",
    "with_units",
]

MOST = 4  # trajectories that one figure shows side by side


class Curve(NamedTuple):
    """One trajectory of one variable."""

    t: np.ndarray
    y: np.ndarray
    lower: np.ndarray | None
    upper: np.ndarray | None


def mean_names(ds: xr.Dataset) -> list[str]:
    """State variables that are not the edges of a band."""
    names = state_variables(ds)
    edges = {f"{name}_{edge}" for name in names for edge in ("lower", "upper")}
    return [name for name in names if name not in edges]


def trajectories(ds: xr.Dataset) -> list[str | None]:
    """Labels of the trajectories, or one None for a Dataset without that dim."""
    if "trajectory" not in ds.dims:
        return [None]
    labels = ds["trajectory"].values if "trajectory" in ds.coords else np.arange(ds.sizes["trajectory"])
    return [str(label) for label in labels]


def curves(ds: xr.Dataset, name: str) -> Iterator[Curve]:
    """The curves of one variable, padding removed, missing values left as NaN."""
    count = ds.sizes.get("trajectory", 1)
    for k in range(count):
        one = ds.isel(trajectory=k) if "trajectory" in ds.dims else ds
        t = np.asarray(one["time"].values, dtype=float)
        real = np.isfinite(t)
        edges = [
            np.asarray(one[f"{name}_{edge}"].values, dtype=float)[real] if f"{name}_{edge}" in one else None
            for edge in ("lower", "upper")
        ]
        yield Curve(t[real], np.asarray(one[name].values, dtype=float)[real], edges[0], edges[1])


def with_units(name: str, units: str) -> str:
    """``hare (thousand pelts)``; a number without dimension stands alone."""
    return name if units in ("", "1") else f"{name} ({units})"


def axis_label(ds: xr.Dataset, name: str) -> str:
    """A variable's name with its units."""
    return with_units(name, str(ds[name].attrs.get("units", "")))


def time_label(ds: xr.Dataset) -> str:
    """Name of the time axis with its units; ``year`` alone where name and unit are one word."""
    units = str(ds["time"].attrs.get("units", ""))
    name = str(ds["time"].attrs.get("long_name", "time"))
    return name if name.rstrip("s") == units.rstrip("s") else with_units(name, units)


def time_axis(ax: Axes, ds: xr.Dataset) -> None:
    """Label the time axis; whole-numbered times, as years are, get whole-numbered ticks."""
    from matplotlib.ticker import MaxNLocator

    times = np.asarray(ds["time"].values, dtype=float)
    whole = bool((times[np.isfinite(times)] % 1 == 0).all())
    ax.xaxis.set_major_locator(MaxNLocator(nbins=8, steps=[1, 2, 5, 10], integer=whole))
    ax.set_xlabel(time_label(ds))
