"""The Well HDF5 archives: scalar, vector and tensor fields with boundary conditions."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from itertools import product
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from scidyn.data.io.safety import BUDGET, MAGIC, check_hdf5, opened
from scidyn.data.readers.finish import finish, taken_rows
from scidyn.data.schema import CONVENTIONS
from scidyn.errors import ArtifactError, DataError, ScidynError

if TYPE_CHECKING:
    import h5py
    import xarray as xr

__all__ = ["read", "sniff"]


def sniff(path: Path, head: bytes) -> float:
    """Probability that a file is The Well's, by the attributes at its root."""
    if not head.startswith(MAGIC):
        return 0.0
    try:
        with opened(path) as file:
            return 0.97 if {"n_trajectories", "n_spatial_dims"} <= set(file.attrs) and "t0_fields" in file else 0.0
    except ArtifactError:
        return 0.0


def read(
    path: Path,
    *,
    values: Sequence[str] | None = None,
    units: Mapping[str, str] | str | None = None,
    rows: tuple[int, int] | None = None,
) -> xr.Dataset:
    """Read an archive; vectors become ``velocity_x``, …, units are 1 where none are stated.

    Parameters
    ----------
    path : Path
        The file.
    values : sequence of str, optional
        Variables to keep.
    units : mapping, optional
        Name to units.
    rows : (int, int), optional
        First and one past the last trajectory.

    Raises
    ------
    ArtifactError
        If the file is truncated, damaged, unsafe, or larger than 8 GiB.
    DataError
        If its grid differs between trajectories.
    """
    check_hdf5(path, budget=None)
    try:
        with opened(path) as file:
            ds = _dataset(file, rows, path)
    except (KeyError, RuntimeError, ValueError, OSError, TypeError) as error:
        if isinstance(error, ScidynError):
            raise
        raise ArtifactError(f"{path} is truncated or damaged: {error}; restore it from a copy.") from error
    ds.attrs |= {"Conventions": CONVENTIONS, "source": path.name}
    return finish(ds, values=values, units=units)


def _dataset(file: h5py.File, rows: Any, path: Path) -> xr.Dataset:
    import xarray as xr

    chosen = taken_rows(rows, int(file.attrs["n_trajectories"]))
    space = [_text(d) for d in file["dimensions"].attrs["spatial_dims"]]
    coords = _space(file["dimensions"], space, chosen, path)
    time = file["dimensions"]["time"]
    varying = bool(time.attrs.get("sample_varying", time.ndim == 2))
    times = np.asarray(time[()], dtype=float)
    shared = times if not varying else times[chosen]
    if varying and (shared == shared[:1]).all():
        shared, varying = shared[0], False
    along = "obs" if varying else "time"
    coords |= {
        "time": (("trajectory", "obs") if varying else ("time",), shared, {"units": "1"}),
        "trajectory": np.arange(chosen.start, chosen.stop),
    }
    steps = shared.shape[-1]
    data = _fields(file, chosen, (along, *space), (steps, *(file["dimensions"][d].shape[-1] for d in space)), path)
    for name, item in file["scalars"].items() if "scalars" in file else ():
        data |= _scalar(name, item, chosen, along, steps)
    attrs = {"scidyn_kind": "irregular" if varying else "trajectories"}
    if "dataset_name" in file.attrs:
        attrs["title"] = _text(file.attrs["dataset_name"])
    ds = xr.Dataset(data, coords, attrs)
    for name, kind in _boundaries(file, space).items():
        ds[name].attrs["boundary"] = kind
    return ds


def _text(value: Any) -> str:
    return value.decode() if isinstance(value, bytes) else str(value)


def _space(group: h5py.Group, names: Sequence[str], chosen: slice, path: Path) -> dict[str, Any]:
    coords: dict[str, Any] = {}
    for d in names:
        values = np.asarray(group[d][()], dtype=float)
        if values.ndim == 2:  # one grid per trajectory
            values = values[chosen]
            if not (values == values[:1]).all():
                raise DataError(
                    f"{path}: the grid {d!r} differs between trajectories; read them one at a time with rows=."
                )
            values = values[0]
        coords[d] = (d, values, {"units": "1", "axis": d.upper()})
    return coords


def _fields(
    file: h5py.File, chosen: slice, dims: tuple[str, ...], sizes: tuple[int, ...], path: Path
) -> dict[str, Any]:
    """Every field as (trajectory, time, space…) variables; axes that do not vary are repeated without copying."""
    data: dict[str, Any] = {}
    count = chosen.stop - chosen.start
    directions = dims[1:]
    total = 0
    for order in range(3):
        for name, item in file.get(f"t{order}_fields", {}).items():
            total += item.size * item.dtype.itemsize
            if total > BUDGET:
                raise ArtifactError(
                    f"{path} is larger than {BUDGET / 2**30:g} GiB; read a part with rows=(start, stop)."
                )
            per_sample = bool(item.attrs.get("sample_varying", True))
            per_time = bool(item.attrs.get("time_varying", True))
            varies = np.asarray(item.attrs.get("dim_varying", [True] * len(directions)), dtype=bool)
            values = np.asarray(item[chosen] if per_sample else item[()])
            kept = [per_sample, per_time, *varies]
            components = values.shape[sum(kept) :]
            shape = [n if k else 1 for n, k in zip((count, *sizes), kept, strict=True)]
            full = np.broadcast_to(values.reshape(*shape, *components), (count, *sizes, *components))
            for parts in product(range(len(directions)), repeat=order):
                label = "_".join([name, "".join(directions[p] for p in parts)]) if parts else name
                data[label] = (("trajectory", *dims), _component(full, parts), {"units": "1"})
    return data


def _component(full: np.ndarray, parts: tuple[int, ...]) -> np.ndarray:
    """One entry of a vector or tensor field whose components are the last axes."""
    for part in reversed(parts):
        full = full[..., part]
    return full


def _scalar(name: str, item: h5py.Dataset, chosen: slice, along: str, steps: int) -> dict[str, Any]:
    """Constants of a trajectory are parameters, series are controls."""
    per_sample = bool(item.attrs.get("sample_varying", item.ndim > 0))
    per_time = bool(item.attrs.get("time_varying", False))
    values = np.asarray(item[chosen] if per_sample else item[()], dtype=float)
    count = chosen.stop - chosen.start
    if per_time:
        full = np.broadcast_to(values, (count, steps))
        return {name: (("trajectory", along), full, {"units": "1", "role": "control"})}
    return {name: ("trajectory", np.broadcast_to(values, (count,)), {"units": "1", "role": "parameter"})}


def _boundaries(file: h5py.File, space: Sequence[str]) -> dict[str, str]:
    found: dict[str, str] = {}
    for item in file.get("boundary_conditions", {}).values():
        kind = _text(item.attrs.get("bc_type", "")).lower()
        for d in item.attrs.get("associated_dims", []):
            if _text(d) in space and kind:
                found[_text(d)] = kind
    return found
