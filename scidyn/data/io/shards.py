"""Ensembles larger than memory as a folder of NetCDF files and a manifest that grows with them."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from scidyn.data.io import atomic
from scidyn.data.io.lock import writing
from scidyn.data.io.netcdf_writer import to_netcdf_bytes
from scidyn.data.validate import validate
from scidyn.errors import ArtifactError, ShapeError, TimeGridError, UnitsError

if TYPE_CHECKING:
    import xarray as xr

__all__ = ["MANIFEST", "ShardWriter", "check_alike", "described", "read_manifest", "shard_paths"]

MANIFEST = "shards.json"


class ShardWriter:
    """Write trajectories shard by shard; a killed run leaves a correct beginning that can be continued.

    Parameters
    ----------
    path : str or Path
        Folder; an existing one is continued.
    codec, checksum, window
        As in :func:`scidyn.save`; by default every file also has a checksum in the manifest.

    Examples
    --------
    >>> import numpy as np, scidyn
    >>> from scidyn.data import ShardWriter, from_arrays
    >>> with ShardWriter("ensemble") as shards:
    ...     for k in range(3):
    ...         y = np.random.default_rng(k).normal(size=(2, 5, 1))
    ...         shards.write(from_arrays(y, np.arange(5), units=["m"], time_units="s"))
    >>> scidyn.open("ensemble").sizes["trajectory"]
    6
    """

    def __init__(
        self, path: str | Path, *, codec: str = "none", checksum: bool = True, window: int | None = None
    ) -> None:
        self.path = Path(path)
        self.options: dict[str, Any] = {"codec": codec, "checksum": checksum, "window": window}
        try:
            self.path.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise ArtifactError(f"{path} cannot be made: {error}.") from error
        there = (self.path / MANIFEST).exists()
        if not there and any(not p.name.startswith("shard-") for p in self.path.glob("[!.]*")):
            raise ArtifactError(f"{path} holds other files; name an empty folder.")
        self.entries: list[dict[str, Any]] = read_manifest(self.path)["shards"] if there else []
        self._lock = writing(self.path / MANIFEST.replace(".json", ".writer"))

    def __enter__(self) -> ShardWriter:
        self._lock.__enter__()
        return self

    def __exit__(self, *details: Any) -> None:
        self._lock.__exit__(*details)

    @property
    def trajectories(self) -> int:
        """How many trajectories are safely written."""
        return sum(int(entry["trajectories"]) for entry in self.entries)

    def write(self, ds: xr.Dataset) -> None:
        """Add one shard; when this returns, it is on the disk and in the manifest.

        Parameters
        ----------
        ds : xarray.Dataset
            Trajectories with the same variables, times and units as the shards before.

        Raises
        ------
        scidyn.errors.ShapeError
            If variables or sizes differ from the first shard.
        scidyn.errors.UnitsError
            If units differ from the first shard.
        scidyn.errors.TimeGridError
            If the times that all trajectories share differ from the first shard.
        scidyn.errors.ArtifactError
            If the disk refuses; the shards before are untouched.
        """
        validate(ds)
        if "trajectory" not in ds.dims:
            ds = ds.expand_dims("trajectory")
        count = ds.sizes["trajectory"]
        ds = ds.assign_coords(trajectory=self.trajectories + np.arange(count))
        name = f"shard-{len(self.entries):05d}.nc"
        facts = described(ds)
        if self.entries:
            check_alike({"file": name, **facts}, self.entries[0], self.path)
        content = to_netcdf_bytes(ds, **self.options)
        atomic.write_bytes(self.path / name, content)
        entry = {
            "file": name,
            "trajectories": count,
            "bytes": len(content),
            "sha256": hashlib.sha256(content).hexdigest(),
            **facts,
        }
        whole = {"format": 1, "shards": [*self.entries, entry]}
        atomic.write_bytes(self.path / MANIFEST, json.dumps(whole, indent=1).encode())
        self.entries.append(entry)


def described(ds: xr.Dataset) -> dict[str, Any]:
    """What shards of one ensemble share: layout and units by variable, and a checksum of the times of all."""
    time = ds["time"]
    shared = "trajectory" not in time.dims
    return {
        "layout": {str(name): _layout(ds[name]) for name in ds.data_vars},
        "units": {str(name): str(v.attrs["units"]) for name, v in ds.variables.items() if "units" in v.attrs},
        "times": hashlib.sha256(time.values.astype("<f8").tobytes()).hexdigest() if shared else None,
    }


def check_alike(entry: dict[str, Any], first: dict[str, Any], path: Path) -> None:
    """Refuse a shard that does not fit the first one of its folder.

    Raises
    ------
    ShapeError, UnitsError, TimeGridError
        If variables or sizes, units, or the shared times differ; manifests of old hold layouts only.
    """
    name = entry["file"]
    if entry["layout"] != first["layout"]:
        raise ShapeError(f"{name} has {entry['layout']}; the first of {path} has {first['layout']}.")
    for variable, units in first.get("units", {}).items():
        if entry["units"].get(variable) != units:
            raise UnitsError(
                f"{name} has {variable!r} in {entry['units'].get(variable)}; the first of {path} has it in {units}: "
                "convert one of them."
            )
    if "times" in first and entry["times"] != first["times"]:
        raise TimeGridError(
            f"The times of {name} are not those of the first of {path}; write it to another folder, or give every "
            "trajectory its own times (kind 'irregular')."
        )


def _layout(variable: xr.DataArray) -> list[Any]:
    """Dtype, dims, and all sizes but the number of trajectories."""
    sizes = [int(variable.sizes[d]) for d in variable.dims if d != "trajectory"]
    return [str(variable.dtype), *map(str, variable.dims), *sizes]


def read_manifest(path: Path) -> dict[str, Any]:
    """The manifest of a shard folder.

    Raises
    ------
    ArtifactError
        If it is missing, damaged, or names a file outside its folder.
    """
    file = path / MANIFEST
    try:
        manifest = json.loads(file.read_bytes())
    except (OSError, ValueError) as error:
        raise ArtifactError(f"{file} is missing or damaged: {error}; restore it from a copy.") from error
    if not isinstance(manifest, dict) or manifest.get("format") != 1 or not isinstance(manifest.get("shards"), list):
        raise ArtifactError(f"{file} is not a manifest that this scidyn reads; install a newer one.")
    for entry in manifest["shards"]:
        name = str(entry.get("file", "")) if isinstance(entry, dict) else ""
        if name != Path(name).name or not name.endswith(".nc"):
            raise ArtifactError(f"{file} names the file {name!r}, which lies outside its folder; refused.")
        if not isinstance(entry.get("trajectories"), int) or not isinstance(entry.get("bytes"), int):
            raise ArtifactError(f"{file} gives no size for {name!r}; restore it from a copy.")
    return manifest


def shard_paths(path: Path, *, checksums: bool = False) -> list[Path]:
    """The files of a shard folder, each present and of the right size (and checksum, if asked).

    Raises
    ------
    ArtifactError
        If one is missing, truncated or altered.
    """
    found = []
    for entry in read_manifest(path)["shards"]:
        file = path / entry["file"]
        if file.is_symlink() or not file.is_file():
            raise ArtifactError(f"{file} is missing; restore it from a copy.")
        if file.stat().st_size != entry["bytes"]:
            raise ArtifactError(f"{file} is truncated: {file.stat().st_size} bytes, {entry['bytes']} expected.")
        if checksums and hashlib.sha256(file.read_bytes()).hexdigest() != entry.get("sha256"):
            raise ArtifactError(f"{file} is damaged: its checksum is not that of the manifest.")
        found.append(file)
    return found
