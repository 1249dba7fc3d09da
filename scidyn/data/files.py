"""The two doors for files: ``open`` and ``save``."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from scidyn._check.values import choice
from scidyn.data.io import atomic
from scidyn.data.io.netcdf_writer import write_netcdf
from scidyn.data.readers.headers import join_units
from scidyn.data.readers.registry import read
from scidyn.data.schema import time_dim
from scidyn.errors import ArtifactError, DataError

if TYPE_CHECKING:
    import xarray as xr

__all__ = ["open", "save"]

_TABLES = {".csv": ",", ".tsv": "\t", ".txt": "\t"}
_NETCDF = (".nc", ".h5", ".hdf5", ".nc4")


def open(
    path: str | Path,
    *,
    time: str | None = None,
    id: str | None = None,
    values: Sequence[str] | None = None,
    units: Mapping[str, str] | str | None = None,
    layout: str = "auto",
    decimal: str | None = None,
    **hints: Any,
) -> xr.Dataset:
    r"""Open a lab file as a checked Dataset; the format is recognised by content, not by name.

    Parameters
    ----------
    path : str or Path
        CSV or TSV table (wide or long), Excel, Parquet, NetCDF, HDF5 of AnnData, PDEBench and The
        Well, MATLAB 5 and 7.3, npz, Zarr.
    time : str, optional
        Column or array of times; default: the one whose name is a word for time.
    id : str, optional
        Column that names the replicate.
    values : sequence of str, optional
        Variables to keep; default all.
    units : mapping or str, optional
        Name to units; ``"time"`` is the time axis. Wins over units in headers. One word is the units
        of everything that has none, such as ``"1"``.
    layout : {"auto", "wide", "long"}
        Shape of a table.
    decimal : str, optional
        Decimal sign of a table; default: seen from its cells.
    **hints
        What one format needs: ``sheet`` (Excel); ``rep``, ``weight``, ``time_map`` (AnnData);
        ``rows=(start, stop)`` (PDEBench, The Well, Parquet); ``dims`` (npz, MATLAB);
        ``memory_limit`` in bytes, 8 GiB where not given (NetCDF, Parquet);
        ``kind="snapshots"`` (tables, npz, MATLAB): a row is a cell, times repeat.

    Returns
    -------
    xarray.Dataset
        One variable per quantity with ``units``, along ``time``; NaN means missing.

    Raises
    ------
    scidyn.errors.ArtifactError
        If the file is missing, truncated, damaged, or refers to other files.
    scidyn.errors.DataError
        If its content cannot be used; row and column are named.
    scidyn.errors.OptionError
        If a hint names nothing in the file, or the format has no such hint.
    scidyn.errors.MissingDependencyError
        If the format needs a package that is not installed.

    Examples
    --------
    >>> import scidyn
    >>> from pathlib import Path
    >>> _ = Path("dye.csv").write_text("time (h),dye (mg/L)\n0,1.0\n1,0.6\n2,0.4\n")
    >>> scidyn.open("dye.csv").sizes["time"]
    3
    """
    given = {"time": time, "id": id, "values": values, "units": units, "decimal": decimal, **hints}
    chosen = {name: value for name, value in given.items() if value is not None}
    if layout != "auto":
        chosen["layout"] = layout
    return read(Path(path), chosen)


def save(
    ds: xr.Dataset,
    path: str | Path,
    *,
    overwrite: bool = False,
    codec: str = "none",
    checksum: bool = True,
    window: int | None = None,
    bits: int = 14,
) -> Path:
    """Save a Dataset so that :func:`open` gives it back; the file is complete or absent.

    Parameters
    ----------
    ds : xarray.Dataset
        A checked Dataset.
    path : str or Path
        ``.nc`` or ``.h5`` keeps everything; ``.csv`` or ``.tsv`` keeps values, names and units.
    overwrite : bool
        Replace a file that is there.
    codec : {"none", "fast", "small"}
        ``none`` stores values as they are; ``fast`` compresses with Blosc-LZ4 where hdf5plugin is
        installed; ``small`` rounds measured values to ``bits`` bits of mantissa and compresses with
        gzip, which every HDF5 reader opens. The bits kept are written to the attributes.
    checksum : bool
        Keep a checksum on every chunk, so that a changed byte is noticed on reading.
    window : int, optional
        Times per chunk: the windows that will be drawn from the file. Files for training are read
        fastest with ``checksum=False``, ``codec="none"`` and the window's length.
    bits : int
        For ``codec="small"``: 14 keeps a relative error of 3e-5. Round no data whose derivatives
        will be taken.

    Returns
    -------
    Path

    Raises
    ------
    scidyn.errors.ArtifactError
        If the file exists and ``overwrite`` is False, another process is writing it, or the disk
        refuses; nothing is changed then.
    scidyn.errors.DataError
        If the format cannot hold the Dataset.

    Examples
    --------
    >>> import scidyn
    >>> record = scidyn.datasets.load("lynx_hare")
    >>> scidyn.open(scidyn.save(record, "pelts.nc")).identical(record)
    True
    """
    path = Path(path)
    suffix = choice("the suffix of path", path.suffix.lower(), (*_NETCDF, *_TABLES))
    if path.exists() and not overwrite:
        raise ArtifactError(f"{path} exists; nothing was changed. Pass overwrite=True to replace it.")
    if suffix in _NETCDF:
        return write_netcdf(ds, path, codec=codec, checksum=checksum, window=window, bits=bits)
    return atomic.write_bytes(path, _table_bytes(ds, _TABLES[suffix]))


def _table_bytes(ds: xr.Dataset, delimiter: str) -> bytes:
    """Wide table with units in the header; replicates get a column ``trajectory``."""
    along = time_dim(ds)
    names = [str(n) for n in ds.data_vars]
    odd = [n for n in names if set(ds[n].dims) - {"trajectory", along} or along not in ds[n].dims]
    if odd:
        raise DataError(f"Variable {odd[0]!r} has dims {ds[odd[0]].dims}, which a table cannot hold; save as .nc.")

    def header(name: str, fallback: str) -> str:
        return join_units(name, str(ds[fallback].attrs.get("units", "")))

    columns: dict[str, Any] = {}
    many = "trajectory" in ds.dims
    order = ("trajectory", along) if many else (along,)
    pattern = ds[names[0]] if not many else next(ds[n] for n in names if "trajectory" in ds[n].dims)
    pattern = pattern.transpose(*order)
    time = ds["time"].broadcast_like(pattern).transpose(*order).values.ravel()
    keep = time == time
    if many:
        labels = ds["trajectory"].broadcast_like(pattern).transpose(*order).values.ravel()
        columns["trajectory"] = labels[keep]
    columns[header("time", "time")] = time[keep]
    for name in names:
        columns[header(name, name)] = ds[name].broadcast_like(pattern).transpose(*order).values.ravel()[keep]
    import pandas as pd

    return pd.DataFrame(columns).to_csv(index=False, sep=delimiter, lineterminator="\n").encode()
