"""PDEBench HDF5 archives: one array per archive, one group per sample, or Darcy pairs."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from scidyn.data.io.safety import BUDGET, MAGIC, check_hdf5, opened
from scidyn.data.readers.finish import finish, taken_rows
from scidyn.data.schema import CONVENTIONS, SPACE
from scidyn.errors import ArtifactError, DataError, ScidynError

if TYPE_CHECKING:
    import h5py
    import xarray as xr

__all__ = ["read", "sniff"]

_FLOW = ("density", "pressure", "Vx", "Vy", "Vz")
_PARAMETERS = ("Nu", "nu", "beta", "eta", "zeta", "M", "rho", "cs", "epsilon")


def sniff(path: Path, head: bytes) -> float:
    """Probability that a file is PDEBench's, by the names at its root."""
    if not head.startswith(MAGIC):
        return 0.0
    try:
        with opened(path) as file:
            if "x-coordinate" in file and ("tensor" in file or "density" in file):
                return 0.95
            if "nu" in file and "tensor" in file:
                return 0.9
            groups = [k for k in file if str(k).isdigit()]
            return 0.9 if groups and "data" in file[groups[0]] and "grid" in file[groups[0]] else 0.0
    except (ArtifactError, KeyError, TypeError):
        return 0.0


def read(
    path: Path,
    *,
    values: Sequence[str] | None = None,
    units: Mapping[str, str] | str | None = None,
    rows: tuple[int, int] | None = None,
) -> xr.Dataset:
    """Read an archive; its quantities have no dimension, so units are 1 where none are stated.

    Parameters
    ----------
    path : Path
        The file.
    values : sequence of str, optional
        Variables to keep.
    units : mapping, optional
        Name to units.
    rows : (int, int), optional
        First and one past the last sample; needed where the whole is larger than memory.

    Raises
    ------
    ArtifactError
        If the file is truncated, damaged, unsafe, or the samples asked for are larger than 8 GiB.
    """
    check_hdf5(path, budget=None)
    try:
        with opened(path) as file:
            if "nu" in file and "tensor" in file:
                ds = _pairs(file, rows, path)
            elif any(str(k).isdigit() for k in file):
                ds = _groups(file, rows, path)
            else:
                ds = _arrays(file, rows, path)
            found = {k: v for k, v in file.attrs.items() if k in _PARAMETERS}
    except (KeyError, RuntimeError, ValueError, OSError, TypeError) as error:
        if isinstance(error, ScidynError):
            raise
        raise ArtifactError(f"{path} is truncated or damaged: {error}; restore it from a copy.") from error
    unit = "trajectory" if "trajectory" in ds.dims else "sample"
    for name, value in found.items():
        number = float(np.asarray(value).ravel()[0])
        ds[name.lower() if name == "Nu" else name] = (
            unit, np.full(ds.sizes[unit], number), {"units": "1", "role": "parameter"}
        )  # fmt: skip
    ds.attrs |= {"Conventions": CONVENTIONS, "source": path.name}
    return finish(ds, values=values, units=units)


def _taken(dataset: h5py.Dataset, rows: Any, path: Path) -> np.ndarray:
    chosen = taken_rows(rows, dataset.shape[0])
    size = (chosen.stop - chosen.start) * int(np.prod(dataset.shape[1:], dtype=object)) * dataset.dtype.itemsize
    if size > BUDGET:
        raise ArtifactError(
            f"{path}: {dataset.name} is larger than {BUDGET / 2**30:g} GiB; read a part with rows=(start, stop)."
        )
    return np.asarray(dataset[chosen])


def _clock(raw: np.ndarray, steps: int, path: Path) -> tuple[np.ndarray, str]:
    """Times of the saved states; the generator writes one edge more, which is left out and noted."""
    if raw.size == steps:
        return raw.astype(float), ""
    if raw.size == steps + 1:
        return raw[:-1].astype(float), f"the last of {raw.size} t-coordinates has no state and was left out"
    raise DataError(f"{path}: {raw.size} t-coordinates for {steps} states.")


def _space(file: h5py.Group, count: int) -> dict[str, Any]:
    one = {"units": "1"}
    return {d: (d, np.asarray(file[f"{d}-coordinate"][()], dtype=float), one | {"axis": d.upper()})
            for d in SPACE[:count] if f"{d}-coordinate" in file}  # fmt: skip


def _arrays(file: h5py.File, rows: Any, path: Path) -> xr.Dataset:
    import xarray as xr

    names = ["tensor"] if "tensor" in file else [n for n in _FLOW if n in file]
    first = file[names[0]]
    space = SPACE[: first.ndim - 2]
    chosen = taken_rows(rows, first.shape[0])
    times, note = _clock(np.asarray(file["t-coordinate"][()]), first.shape[1], path)
    ds = xr.Dataset(
        {n: (("trajectory", "time", *space), _taken(file[n], rows, path), {"units": "1"}) for n in names},
        {
            "time": ("time", times, {"units": "1"}),
            "trajectory": np.arange(chosen.start, chosen.stop),
            **_space(file, len(space)),
        },
        {"scidyn_kind": "trajectories"},
    )
    return ds.assign_attrs(history=note) if note else ds


def _groups(file: h5py.File, rows: Any, path: Path) -> xr.Dataset:
    """One group per sample with data (time, space…, channel) and its own grid."""
    import xarray as xr

    names = sorted(k for k in file if str(k).isdigit())
    chosen = taken_rows(rows, len(names))
    names = names[chosen]
    first = file[names[0]]["data"]
    if len(names) * int(np.prod(first.shape, dtype=object)) * first.dtype.itemsize > BUDGET:
        raise ArtifactError(f"{path} is larger than {BUDGET / 2**30:g} GiB; read a part with rows=(start, stop).")
    different = next((n for n in names if file[n]["data"].shape != first.shape), None)
    if different:
        raise DataError(f"{path}: group {different} has shape {file[different]['data'].shape}, others {first.shape}.")
    data = np.stack([file[n]["data"][()] for n in names])
    space = SPACE[: first.ndim - 2]
    grid = file[names[0]]["grid"]
    times, note = _clock(np.asarray(grid["t"][()]).ravel(), first.shape[0], path)
    coords: dict[str, Any] = {
        d: (d, np.asarray(grid[d][()], dtype=float).ravel(), {"units": "1", "axis": d.upper()})
        for d in space
        if d in grid
    }
    coords |= {"time": ("time", times, {"units": "1"}), "trajectory": [int(n) for n in names]}
    channels = first.shape[-1]
    labels = ["data"] if channels == 1 else [f"data{k}" for k in range(channels)]
    ds = xr.Dataset(
        {n: (("trajectory", "time", *space), data[..., k], {"units": "1"}) for k, n in enumerate(labels)},
        coords,
        {"scidyn_kind": "trajectories"},
    )
    return ds.assign_attrs(history=note) if note else ds


def _pairs(file: h5py.File, rows: Any, path: Path) -> xr.Dataset:
    """Darcy flow: the coefficient ``nu`` (sample, x, y) in, the solution ``tensor`` (sample, 1, x, y) out."""
    import xarray as xr

    given, out = _taken(file["nu"], rows, path), _taken(file["tensor"], rows, path)
    out = out[:, 0] if out.ndim == given.ndim + 1 and out.shape[1] == 1 else out
    dims = ("sample", *SPACE[: given.ndim - 1])
    chosen = taken_rows(rows, file["nu"].shape[0])
    return xr.Dataset(
        {"nu": (dims, given, {"units": "1", "role": "input"}), "tensor": (dims, out, {"units": "1", "role": "output"})},
        {"sample": np.arange(chosen.start, chosen.stop), **_space(file, given.ndim - 1)},
        {"scidyn_kind": "pairs"},
    )
