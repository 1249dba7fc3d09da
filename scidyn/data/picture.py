"""A first look at any kind of Dataset: curves, fields, clouds of cells, pairs of functions."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

from scidyn.data.schema import SPACE, state_variables
from scidyn.errors import DataError, ShapeError

if TYPE_CHECKING:
    import xarray as xr

__all__ = ["draw"]

_PANELS = 4
_CURVES = 12
_CELLS = 20_000


def draw(ds: xr.Dataset, ax: Any = None) -> np.ndarray:
    """Draw the first variables of a Dataset, as its kind asks for.

    Series are curves, one colour a trajectory; fields over one dim of space are drawn over space and
    time, over more as the last map of the first trajectory; snapshots are clouds in their first two
    features, coloured by time; pairs show the input and the output of the first sample.

    Parameters
    ----------
    ds : xarray.Dataset
        Any kind.
    ax : array of matplotlib.axes.Axes, optional
        Where to draw, one for each panel; default a new figure.

    Returns
    -------
    numpy.ndarray of matplotlib.axes.Axes

    Raises
    ------
    scidyn.errors.DataError
        If there is nothing to draw.
    scidyn.errors.ShapeError
        If ``ax`` holds another number of axes.
    """
    kind = str(ds.attrs.get("scidyn_kind", "trajectories"))
    if kind == "snapshots":
        names = [str(n) for n, v in ds.data_vars.items() if v.dims == ("cell", "feature")][:_PANELS]
    elif kind == "pairs":
        names = [str(n) for n, v in ds.data_vars.items() if v.attrs.get("role") in ("input", "output")][:_PANELS]
    else:
        names = state_variables(ds)[:_PANELS]
    if not names:
        raise DataError(f"The Dataset has nothing to draw; its variables are {list(ds.data_vars)}.")
    axes = _axes(ax, len(names))
    for one, name in zip(axes, names, strict=True):
        if kind == "snapshots":
            _cloud(one, ds, name)
        elif kind == "pairs":
            _function(one, ds[name].isel(sample=0))
        else:
            _over_time(one, ds, name)
        one.set_title(_words(name, ds[name]), parse_math=False)
    return axes


def _axes(ax: Any, count: int) -> np.ndarray:
    if ax is not None:
        given = np.atleast_1d(np.asarray(ax, dtype=object)).ravel()
        if given.size != count:
            raise ShapeError(f"ax holds {given.size} axes; {count} are drawn, one for each variable.")
        return given
    from matplotlib.figure import Figure

    figure = Figure(figsize=(7.2, 2.6 * count), layout="constrained")
    return np.asarray(figure.subplots(count, 1, squeeze=False)[:, 0])


def _words(name: str, variable: xr.DataArray) -> str:
    units = str(variable.attrs.get("units", ""))
    return f"{name} ({units})" if units not in ("", "1") else name


def _over_time(ax: Any, ds: xr.Dataset, name: str) -> None:
    variable = ds[name]
    first = variable.isel(trajectory=0) if "trajectory" in variable.dims else variable
    space = [d for d in first.dims if d in SPACE]
    if not space:
        for k in range(min(ds.sizes.get("trajectory", 1), _CURVES)):
            one = variable.isel(trajectory=k) if "trajectory" in variable.dims else variable
            time = ds["time"].isel(trajectory=k) if ds["time"].ndim == 2 else ds["time"]
            ax.plot(time.values, one.values, marker=".", markersize=3, linewidth=1)
        ax.set_xlabel(_words("time", ds["time"]), parse_math=False)
        return
    first = first.isel({d: 0 for d in first.dims if d not in ("time", *SPACE)})
    if len(space) == 1:
        _map(ax, first.transpose(space[0], ...), "time", space[0])
        return
    last = float(np.nanmax(ds["time"].values))
    _function(ax, first.isel({first.dims[0]: -1}))
    ax.text(1, -0.14, f"at time {last:g}", transform=ax.transAxes, ha="right", parse_math=False)


def _function(ax: Any, variable: xr.DataArray) -> None:
    """A function of space: a curve, a map, or the middle of a volume."""
    space = [str(d) for d in variable.dims if d in SPACE]
    plain = variable.isel({d: 0 for d in variable.dims if d not in SPACE})
    if not space:
        ax.plot(plain.values.ravel(), marker=".", linestyle="none")
    elif len(space) == 1:
        ax.plot(_points(plain, space[0]), plain.values)
        ax.set_xlabel(space[0])
    else:
        middle = plain.isel({d: plain.sizes[d] // 2 for d in space[2:]})
        _map(ax, middle.transpose(space[1], space[0]), space[0], space[1])


def _map(ax: Any, values: xr.DataArray, across: str, up: str) -> None:
    seen = ax.pcolormesh(_points(values, across), _points(values, up), values.values.astype(float), shading="nearest")
    ax.figure.colorbar(seen, ax=ax)
    ax.set_xlabel(across)
    ax.set_ylabel(up)


def _points(variable: xr.DataArray, d: str) -> np.ndarray:
    return np.asarray(variable[d].values if d in variable.coords else np.arange(variable.sizes[d]), dtype=float)


def _cloud(ax: Any, ds: xr.Dataset, name: str) -> None:
    step = max(1, ds.sizes["cell"] // _CELLS)
    values = ds[name].values[::step]
    time = ds["time"].values[::step]
    order = np.random.default_rng(0).permutation(len(values))  # so that no time hides the others
    other = values[order, 1] if values.shape[1] > 1 else np.zeros(len(values))
    dots = ax.scatter(values[order, 0], other, c=time[order], s=4, linewidths=0, rasterized=True)
    ax.figure.colorbar(dots, ax=ax, label=_words("time", ds["time"]))
    labels = [str(v) for v in ds["feature"].values[:2]] if "feature" in ds.coords else ["0", "1"]
    ax.set_xlabel(labels[0], parse_math=False)
    ax.set_ylabel(labels[1] if len(labels) > 1 else "", parse_math=False)
