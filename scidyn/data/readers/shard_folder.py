"""Folders that :class:`scidyn.data.ShardWriter` wrote."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from scidyn.data.io.safety import BUDGET
from scidyn.data.io.shards import MANIFEST, shard_paths
from scidyn.data.readers import netcdf
from scidyn.data.readers.finish import finish
from scidyn.errors import ArtifactError, DataError

if TYPE_CHECKING:
    import xarray as xr

__all__ = ["read", "sniff"]


def sniff(path: Path, head: bytes) -> float:
    """Probability that a folder holds shards, by its manifest."""
    return 1.0 if path.is_dir() and (path / MANIFEST).is_file() else 0.0


def read(
    path: Path, *, values: Sequence[str] | None = None, units: Mapping[str, str] | str | None = None
) -> xr.Dataset:
    """Read all shards into one Dataset, each checked against the manifest.

    Raises
    ------
    ArtifactError
        If a shard is missing, truncated or altered, or all together are larger than 8 GiB.
    DataError
        If no shard has been finished yet.
    """
    import xarray as xr

    files = shard_paths(path, checksums=True)
    if not files:
        raise DataError(f"{path} holds no finished shard.")
    if sum(file.stat().st_size for file in files) > BUDGET:
        raise ArtifactError(f"{path} is larger than {BUDGET / 2**30:g} GiB; draw windows with scidyn.data.loader.")
    parts = [netcdf.read(file, values=values, units=units) for file in files]
    ds = xr.concat(parts, "trajectory", data_vars="minimal", join="exact", combine_attrs="override")
    return finish(ds, values=None, units=None)
