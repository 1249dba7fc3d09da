"""NetCDF-4 (HDF5) files, checked before a byte of data is read."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from scidyn._check.values import integer
from scidyn.data.io.safety import BUDGET, MAGIC, check_hdf5, no_room, opened
from scidyn.data.readers.finish import finish, kept
from scidyn.errors import ArtifactError, DataError, OptionError, TimeGridError

if TYPE_CHECKING:
    import xarray as xr

__all__ = ["read", "sniff"]

_CLASSIC = (b"CDF\x01", b"CDF\x02")


def sniff(path: Path, head: bytes) -> float:
    """Probability that a file is NetCDF: our own for sure, else HDF5 that no other format claims."""
    if not head.startswith(MAGIC):
        return 0.5 if head.startswith(_CLASSIC) else 0.0
    try:
        with opened(path) as file:
            return 1.0 if "scidyn_kind" in file.attrs else 0.5
    except ArtifactError:
        return 0.5


def read(
    path: Path,
    *,
    values: Sequence[str] | None = None,
    units: Mapping[str, str] | str | None = None,
    memory_limit: int | None = None,
) -> xr.Dataset:
    """Read a NetCDF file into memory; dims ``sample`` and ``ensemble`` of a time series are trajectories.

    Of the measured variables only those in ``values`` are read.

    Raises
    ------
    ArtifactError
        If the file is truncated or damaged, links to other files, or what is to be read is larger than
        ``memory_limit`` (8 GiB) or than the memory.
    DataError
        If it holds no Dataset.
    """
    import xarray as xr

    limit = BUDGET if memory_limit is None else integer("memory_limit", memory_limit, at_least=1)
    with path.open("rb") as file:
        classic = file.read(4) in _CLASSIC
    if not classic:
        check_hdf5(path, budget=None if values is not None or memory_limit is not None else BUDGET)
    options: dict[str, Any] = {"engine": "scipy"} if classic else {"engine": "h5netcdf", "phony_dims": "sort"}
    try:
        with xr.open_dataset(path, decode_times=False, decode_timedelta=False, **options) as ds:
            wanted = ds if values is None else kept(ds, values)
            if wanted.nbytes > limit:
                raise no_room(path, wanted.nbytes, limit)
            loaded = wanted.load()
    except (ArtifactError, OptionError):
        raise
    except (OSError, KeyError, RuntimeError, ValueError, TypeError, IndexError, OverflowError) as error:
        raise ArtifactError(f"{path} is truncated or damaged: {error}; restore it from a copy.") from error
    if not loaded.data_vars:
        raise DataError(f"{path} holds no variable at its root.")
    loaded.encoding = {}
    for variable in loaded.variables.values():
        variable.encoding = {}
    if "time" in loaded.variables and "time" not in loaded.coords:
        loaded = loaded.set_coords("time")
    for other in ("sample", "ensemble", "member", "realization"):
        if other in loaded.dims and "time" in loaded.dims and "trajectory" not in loaded.dims:
            loaded = loaded.rename({other: "trajectory"})
    return finish(_numbers_in_time(loaded, path), values=values, units=units, source=path.name)


def _numbers_in_time(ds: xr.Dataset, path: Path) -> xr.Dataset:
    """Refuse calendars of models, in which a day is no day of ours."""
    calendar = str(ds["time"].attrs.get("calendar", "")) if "time" in ds.variables else ""
    if calendar and calendar not in ("standard", "gregorian", "proleptic_gregorian"):
        raise TimeGridError(
            f"{path}: time counts in the calendar {calendar!r}, whose intervals are no physical time; convert it first."
        )
    return ds
