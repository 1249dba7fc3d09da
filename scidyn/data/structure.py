"""What Datasets without trajectories must look like: snapshots of cells, and pairs of fields."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING

import numpy as np

from scidyn.data.schema import SPACE
from scidyn.errors import DataError, NonFiniteError, ShapeError, TimeGridError

if TYPE_CHECKING:
    import xarray as xr

__all__ = ["pair_structure", "snapshot_structure"]

Finding = tuple[type[Exception], str]


def snapshot_structure(ds: xr.Dataset) -> Iterator[Finding]:
    """Findings about dims, times and weights of cells that were each measured once."""
    if "time" not in ds.coords or ds["time"].dims != ("cell",):
        found = ds["time"].dims if "time" in ds.variables else "no coordinate 'time'"
        yield ShapeError, f"Snapshots need the coordinate time(cell); the Dataset has {found}."
        return
    states = [n for n, v in ds.data_vars.items() if v.dims == ("cell", "feature")]
    if not states:
        yield ShapeError, f"Snapshots need a variable with dims ('cell', 'feature'); there are {list(ds.data_vars)}."
    for name, variable in ds.data_vars.items():
        if not set(variable.dims) <= {"cell", "feature"}:
            yield ShapeError, f"Variable {name!r} has dims {tuple(variable.dims)}; known: cell, feature."
        elif {"cell", "feature"} == set(variable.dims) and variable.dims[0] != "cell":
            yield ShapeError, f"Variable {name!r} has its cells last; use ds.transpose('cell', 'feature')."
        if variable.dtype.kind not in "fiub" and variable.attrs.get("role") != "auxiliary":
            yield DataError, f"Variable {name!r} has dtype {variable.dtype}; numbers are needed."
    times = ds["time"].values
    if times.dtype.kind not in "fiu":
        yield TimeGridError, f"time has dtype {times.dtype}; numbers are needed: pass time_map or convert them."
        return
    bad = np.flatnonzero(~np.isfinite(times.astype(float)))
    if bad.size:
        yield TimeGridError, f"time[{bad[0]}] is {times[bad[0]]} ({bad.size} such cells); every cell needs a time."
    elif np.unique(times).size < 2:
        yield DataError, f"All {times.size} cells have one time; snapshots at 2 or more times are needed."
    if "weight" in ds.variables:
        weight = ds["weight"].values.astype(float)
        wrong = np.flatnonzero(~(np.isfinite(weight) & (weight >= 0)))
        if wrong.size:
            yield NonFiniteError, f"weight[{wrong[0]}] is {weight[wrong[0]]}; weights are finite and not negative."


def pair_structure(ds: xr.Dataset) -> Iterator[Finding]:
    """Findings about samples of an input and an output each."""
    if "sample" not in ds.dims:
        yield ShapeError, f"Pairs need the dim 'sample'; the Dataset has {list(ds.dims)}."
        return
    roles = {role: [n for n, v in ds.data_vars.items() if v.attrs.get("role") == role] for role in ("input", "output")}
    for role, names in roles.items():
        if not names:
            yield DataError, f"Pairs need a variable with the role {role!r}; set ds[name].attrs['role'] = {role!r}."
    for name, variable in ds.data_vars.items():
        strange = [d for d in variable.dims if d not in ("sample", "time", *SPACE, "feature")]
        if strange:
            yield ShapeError, f"Variable {name!r} has the unknown dim {strange[0]!r}; known: sample, x, y, z, feature."
        elif "sample" in variable.dims and variable.dims[0] != "sample":
            yield ShapeError, f"Variable {name!r} has dims {tuple(variable.dims)}; use ds.transpose('sample', ...)."
        if variable.dtype.kind not in "fiub" and variable.attrs.get("role") != "auxiliary":
            yield DataError, f"Variable {name!r} has dtype {variable.dtype}; numbers are needed."
