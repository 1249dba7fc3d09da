"""Zarr stores that xarray wrote; needs zarr."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from scidyn.data.io.safety import BUDGET
from scidyn.data.readers.finish import finish
from scidyn.errors import ArtifactError, DataError, MissingDependencyError

if TYPE_CHECKING:
    import xarray as xr

__all__ = ["read", "sniff"]


def sniff(path: Path, head: bytes) -> float:
    """Probability that a folder is a Zarr store, by its metadata files."""
    return 1.0 if path.is_dir() and ((path / "zarr.json").exists() or (path / ".zgroup").exists()) else 0.0


def read(
    path: Path, *, values: Sequence[str] | None = None, units: Mapping[str, str] | str | None = None
) -> xr.Dataset:
    """Read a store into memory.

    Raises
    ------
    MissingDependencyError
        Without zarr.
    ArtifactError
        If the store is damaged, declares more than 8 GiB, or links out of its folder.
    DataError
        If it holds no variable.
    """
    import xarray as xr

    try:
        import zarr  # noqa: F401
    except ImportError:
        raise MissingDependencyError("Zarr stores need zarr: pip install 'scidyn[zarr]'.") from None
    link = next((p for p in path.rglob("*") if p.is_symlink()), None)
    if link is not None:
        raise ArtifactError(f"{path}: {link.relative_to(path)} is a link; refused.")
    try:
        with xr.open_zarr(path, chunks=None, decode_times=False, decode_timedelta=False) as ds:
            if ds.nbytes > BUDGET:
                raise ArtifactError(f"{path} declares more than {BUDGET / 2**30:g} GiB; refused.")
            loaded = ds.load()
    except ArtifactError:
        raise
    except Exception as error:  # zarr raises many unrelated classes on damaged metadata
        raise ArtifactError(f"{path} is damaged: {error}; restore it from a copy.") from error
    if not loaded.data_vars:
        raise DataError(f"{path} holds no variable at its root.")
    loaded.encoding = {}
    for variable in loaded.variables.values():
        variable.encoding = {}
    if "time" in loaded.variables and "time" not in loaded.coords:
        loaded = loaded.set_coords("time")
    return finish(loaded, values=values, units=units, source=path.name)
