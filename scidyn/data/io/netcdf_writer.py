"""Datasets to NetCDF-4: in memory where they are small, block by block where they are not."""

from __future__ import annotations

import errno
import os
import shutil
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from scidyn.data.io import atomic
from scidyn.data.io.codecs import chunk_shape, encoding, round_bits
from scidyn.errors import DataError

if TYPE_CHECKING:
    import xarray as xr

__all__ = ["check_storable", "to_netcdf_bytes", "write_netcdf"]

_IN_MEMORY = 256 << 20


def write_netcdf(
    ds: xr.Dataset,
    path: Path,
    *,
    codec: str = "none",
    checksum: bool = True,
    window: int | None = None,
    bits: int = 14,
) -> Path:
    """Write a Dataset, complete or not at all; above 256 MiB block by block with the free space watched."""
    check_storable(ds)
    if codec == "small":
        ds = _rounded(ds, bits)
    options: dict[str, Any] = {"codec": codec, "checksum": checksum, "window": window}
    if ds.nbytes <= _IN_MEMORY:
        return atomic.write_bytes(path, to_netcdf_bytes(ds, **options))
    return atomic.write_file(path, lambda temporary: _stream(ds, temporary, options), size=ds.nbytes)


def to_netcdf_bytes(ds: xr.Dataset, **options: Any) -> bytes:
    """A Dataset as the bytes of a NetCDF-4 file; options as in :func:`encoding`."""
    check_storable(ds)
    layout = {name: encoding(variable, **options) for name, variable in ds.variables.items()}
    return bytes(ds.to_netcdf(engine="h5netcdf", encoding={n: e for n, e in layout.items() if e}))


def check_storable(ds: xr.Dataset) -> None:
    """Refuse names, dtypes and attributes that have no place in the format.

    Raises
    ------
    DataError
        The variable or attribute is named.
    """
    for name, variable in ds.variables.items():
        if "/" in str(name):
            raise DataError(f"The name {name!r} holds '/', which separates groups in the file; rename it.")
        if str(variable.dtype) in ("float16", "bfloat16") or (variable.dtype.kind == "O" and not _is_text(variable)):
            raise DataError(
                f"Variable {name!r} has dtype {variable.dtype}, which other readers cannot open; "
                f"convert it: ds[{name!r}].astype('float32')."
            )
    for where, attrs in [("the Dataset", ds.attrs), *((f"variable {n!r}", v.attrs) for n, v in ds.variables.items())]:
        for key, value in attrs.items():
            if isinstance(value, bool) or not isinstance(
                value, str | int | float | np.number | np.ndarray | list | tuple
            ):
                raise DataError(
                    f"The attribute {key!r} of {where} is {value!r}; files keep strings, numbers and lists."
                )


def _is_text(variable: xr.Variable) -> bool:
    return all(isinstance(v, str) for v in variable.values.ravel())


def _rounded(ds: xr.Dataset, bits: int) -> xr.Dataset:
    """Measured values rounded; coordinates and parameters keep every bit."""
    out = ds.copy()
    for name, variable in ds.data_vars.items():
        if variable.dtype.kind == "f" and variable.attrs.get("role", "state") in ("state", "input", "output"):
            values = round_bits(variable.values, bits)
            out[name] = variable.copy(data=values).assign_attrs(kept_mantissa_bits=bits)
    return out


def _stream(ds: xr.Dataset, path: Path, options: dict[str, Any]) -> None:
    """Write block by block without HDF5's chunk cache, which would turn a full disk into a crash at close."""
    import h5netcdf

    _probe(path, int(1.02 * ds.nbytes) + (1 << 20))
    with h5netcdf.File(path, "w", rdcc_nbytes=0) as file:
        file.dimensions = {str(d): n for d, n in ds.sizes.items()}
        file.attrs.update(ds.attrs)
        small = {n: v for n, v in ds.variables.items() if v.dtype.kind not in "fiub" or not v.ndim}
        for name, variable in ds.variables.items():
            if name in small and variable.dtype.kind not in "fiub":
                item = file.create_variable(str(name), variable.dims, dtype=_string())
                item[...] = variable.values.astype(object)
                item.attrs.update(variable.attrs)
                continue
            kind = {k: v for k, v in encoding(variable, **options).items() if k not in ("contiguous", "_FillValue")}
            if "chunksizes" in kind:
                kind["chunks"] = kind.pop("chunksizes")
            boolean = variable.dtype.kind == "b"
            stored = np.dtype("i1") if boolean else variable.dtype
            filler = {"fillvalue": stored.type(np.nan)} if stored.kind == "f" else {}
            item = file.create_variable(str(name), variable.dims, dtype=stored, **kind, **filler)
            item.attrs.update(variable.attrs | ({"dtype": "bool"} if boolean else {}))
            _blocks(item, variable, path)
        coordinates = [str(n) for n in ds.coords if n not in ds.dims]
        for name in ds.data_vars if coordinates else ():
            along = [c for c in coordinates if set(ds[c].dims) <= set(ds[name].dims)]
            if along:
                file.variables[str(name)].attrs["coordinates"] = " ".join(along)


def _probe(path: Path, size: int) -> None:
    """Ask the disk for the whole size first, where it can say no; HDF5 crashes when it hears that midway."""
    if not hasattr(os, "posix_fallocate"):
        return
    probe = path.with_name(f"{path.name}-probe")
    handle = os.open(probe, os.O_CREAT | os.O_WRONLY, 0o600)
    try:
        os.posix_fallocate(handle, 0, size)
    finally:
        os.close(handle)
        probe.unlink(missing_ok=True)


def _string() -> Any:
    import h5py

    return h5py.string_dtype()


def _blocks(item: Any, variable: xr.Variable, path: Path) -> None:
    if not variable.ndim:
        item[...] = variable.values
        return
    step = max(1, chunk_shape(variable.sizes, variable.dtype.itemsize, None)[0])
    for start in range(0, variable.shape[0], step):
        block = variable[start : start + step].values
        if shutil.disk_usage(path.parent).free < 2 * block.nbytes + (1 << 20):
            raise OSError(errno.ENOSPC, "No space left on device")
        item[start : start + step] = block
