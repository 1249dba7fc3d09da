"""NetCDF-4 (HDF5) files, checked before a byte of data is read."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from scidyn.data.io.safety import MAGIC, check_hdf5
from scidyn.errors import ArtifactError, DataError

if TYPE_CHECKING:
    import xarray as xr

__all__ = ["read_netcdf", "sniff_netcdf", "to_netcdf_bytes"]


def sniff_netcdf(head: bytes) -> float:
    """Probability that a file starting with ``head`` is HDF5."""
    return 1.0 if head.startswith(MAGIC) else 0.0


def read_netcdf(path: Path) -> xr.Dataset:
    """Read a NetCDF-4 file into memory.

    Raises
    ------
    ArtifactError
        If the file is truncated or damaged, links to other files, or declares more than 8 GiB.
    DataError
        If it holds no Dataset.
    """
    import xarray as xr

    check_hdf5(path)
    try:
        with xr.open_dataset(
            path, engine="h5netcdf", decode_times=False, decode_timedelta=False, phony_dims="sort"
        ) as ds:
            loaded = ds.load()
    except (OSError, KeyError, RuntimeError, ValueError) as error:
        raise ArtifactError(f"{path} is truncated or damaged: {error}; restore it from a copy.") from error
    if not loaded.data_vars:
        raise DataError(f"{path} holds no variable at its root.")
    loaded.encoding = {}
    for variable in loaded.variables.values():
        variable.encoding = {}
    if "time" in loaded.variables and "time" not in loaded.coords:
        loaded = loaded.set_coords("time")
    return loaded


def to_netcdf_bytes(ds: xr.Dataset) -> bytes:
    """A Dataset as the bytes of a NetCDF-4 file with a checksum on every variable.

    Raises
    ------
    DataError
        If a name, dtype or attribute has no place in the format.
    """
    encoding: dict[Any, dict[str, Any]] = {}
    for name, variable in ds.variables.items():
        if "/" in str(name):
            raise DataError(f"The name {name!r} holds '/', which separates groups in the file; rename it.")
        if variable.dtype in (np.float16, np.dtype("O")) and not _is_text(variable):
            raise DataError(
                f"Variable {name!r} has dtype {variable.dtype}, which other readers cannot open; "
                f"convert it: ds[{name!r}].astype('float32')."
            )
        if variable.ndim and variable.dtype.kind in "fiub":
            encoding[name] = {"fletcher32": True, "chunksizes": variable.shape if min(variable.shape) > 0 else None}
            if variable.dtype.kind == "f":
                encoding[name]["_FillValue"] = np.nan
            if encoding[name]["chunksizes"] is None:
                del encoding[name]
    for where, attrs in [("the Dataset", ds.attrs), *((f"variable {n!r}", v.attrs) for n, v in ds.variables.items())]:
        for key, value in attrs.items():
            if not isinstance(value, str | int | float | np.number | np.ndarray | list | tuple) or isinstance(
                value, bool
            ):
                raise DataError(
                    f"The attribute {key!r} of {where} is {value!r}; files keep strings, numbers and lists."
                )
    return bytes(ds.to_netcdf(engine="h5netcdf", encoding=encoding))


def _is_text(variable: xr.Variable) -> bool:
    return variable.dtype.kind == "O" and all(isinstance(v, str) for v in variable.values.ravel())
