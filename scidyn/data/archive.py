"""Archives made and rechunked in pieces: in this process, or by a Dask cluster that shares the file system."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

from scidyn._check.values import integer
from scidyn.data.io import atomic
from scidyn.data.io.lock import writing
from scidyn.data.io.netcdf_writer import to_netcdf_bytes
from scidyn.data.io.shards import MANIFEST, check_alike, described, shard_paths
from scidyn.data.validate import validate
from scidyn.errors import ArtifactError, OptionError, ShapeError

if TYPE_CHECKING:
    import xarray as xr

__all__ = ["make_archive", "rechunk"]


def make_archive(
    make: Callable[[int], xr.Dataset],
    count: int,
    path: str | Path,
    *,
    client: Any = None,
    codec: str = "none",
    checksum: bool = True,
    window: int | None = None,
) -> Path:
    """Make a shard folder whose k-th shard is ``make(k)``; the same call after a broken-off run goes on with it.

    Every shard is written by whoever made it, and the manifest once all are there: the order, and with a
    seeded ``make`` every bit, does not depend on who does the work. No data pass through the scheduler.

    Parameters
    ----------
    make : callable
        ``make(k) -> Dataset`` for k = 0 … count − 1, with the same variables, times and units. Derive its
        random numbers from k, such as ``np.random.default_rng([seed, k])``.
    count : int
        How many shards.
    path : str or Path
        A folder, which all workers reach under this name.
    client : dask.distributed.Client, optional
        Of a cluster of any kind: ``Client(LocalCluster())``, ``Client("tcp://…:8786")``, or ``Client()`` with
        the address in Dask's configuration. Default: this process does the work.
    codec, checksum, window
        As in :func:`scidyn.save`.

    Returns
    -------
    Path
        The folder, for :func:`scidyn.open` and :func:`scidyn.data.loader`.

    Raises
    ------
    scidyn.errors.ArtifactError
        If the folder holds other files or the disk refuses.
    scidyn.errors.OptionError
        If ``client`` is no client of Dask.
    scidyn.errors.ShapeError
        If the shards differ in their variables or sizes (UnitsError, TimeGridError: in units or times).

    Examples
    --------
    >>> import numpy as np, scidyn
    >>> def make(k):
    ...     y = np.random.default_rng([0, k]).normal(size=(2, 5, 1))
    ...     return scidyn.data.from_arrays(y, np.arange(5), units=["m"], time_units="s")
    >>> scidyn.open(scidyn.data.make_archive(make, 3, "archive")).sizes["trajectory"]
    6
    """
    count = integer("count", count, at_least=1)
    if client is not None and not (hasattr(client, "map") and hasattr(client, "gather")):
        raise OptionError(f"client must be a dask.distributed.Client or None; got {type(client).__name__}.")
    path = Path(path).absolute()
    try:
        path.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise ArtifactError(f"{path} cannot be made: {error}.") from error
    if (path / MANIFEST).exists():
        raise ArtifactError(f"{path} holds a finished archive; nothing was changed. Name another folder.")
    if any(not p.name.startswith(("shard-", MANIFEST)) for p in path.glob("[!.]*")):
        raise ArtifactError(f"{path} holds other files; name an empty folder.")
    job: Callable[[int], dict[str, Any]] = _Shard(make, path, {"codec": codec, "checksum": checksum, "window": window})
    with writing(path / MANIFEST.replace(".json", ".writer")):
        if client is None:
            entries = [job(k) for k in range(count)]
        else:
            entries = client.gather(client.map(_AtWorker(job), range(count), pure=False))
        _finish(path, entries)
    return path


def rechunk(
    source: str | Path,
    path: str | Path,
    *,
    window: int,
    trajectories: int = 16,
    client: Any = None,
    codec: str = "none",
    checksum: bool = False,
) -> Path:
    """Write a file or shard folder anew as shards whose chunks suit windows of a given length.

    Parameters
    ----------
    source : str or Path
        A file with trajectories that scidyn saved, or a shard folder, of any size; never whole in memory.
    path : str or Path
        Folder of the new shards.
    window : int
        Times per chunk: the windows that will be drawn.
    trajectories : int
        Trajectories per shard: what one worker holds at a time.
    client, codec, checksum
        As in :func:`make_archive`; without checksums and compression, windows are read fastest.

    Returns
    -------
    Path

    Raises
    ------
    scidyn.errors.ArtifactError
        If a file is damaged, or the folder holds other files.

    Examples
    --------
    >>> import numpy as np, scidyn
    >>> ds = scidyn.data.from_arrays(np.ones((5, 20, 1)), np.arange(20), units=["m"], time_units="s")
    >>> path = scidyn.data.rechunk(scidyn.save(ds, "ones.nc"), "chunked", window=5, trajectories=2)
    >>> scidyn.open(path).sizes["trajectory"]
    5
    """
    source = Path(source).absolute()
    integer("window", window, at_least=1)
    step = integer("trajectories", trajectories, at_least=1)
    files = shard_paths(source) if source.is_dir() else [source]
    pieces = [piece for file in files for piece in _pieces(file, step)]
    job = _Piece(pieces)
    return make_archive(job, len(pieces), path, client=client, codec=codec, checksum=checksum, window=window)


class _Shard:
    """Make one shard and write it; what comes back is its line of the manifest."""

    def __init__(self, make: Callable[[int], xr.Dataset], path: Path, options: dict[str, Any]) -> None:
        self.make, self.path, self.options = make, path, options

    def __call__(self, k: int) -> dict[str, Any]:
        file = self.path / f"shard-{k:05d}.nc"
        if file.exists():  # complete, as all that is written here; made by a run that was broken off
            content = file.read_bytes()
        else:
            ds = self.make(k)
            validate(ds)
            ds = ds if "trajectory" in ds.dims else ds.expand_dims("trajectory")
            content = to_netcdf_bytes(ds.drop_vars("trajectory", errors="ignore"), **self.options)
            atomic.write_bytes(file, content)
        from scidyn.data.readers.registry import read

        ds = read(file, {})
        return {
            "file": file.name,
            "trajectories": ds.sizes["trajectory"],
            "bytes": len(content),
            "sha256": hashlib.sha256(content).hexdigest(),
            **described(ds),
        }


class _AtWorker:
    """A job in a worker of Dask, where xarray would ask the scheduler for a lock on every file it touches."""

    def __init__(self, job: Callable[[int], dict[str, Any]]) -> None:
        self.job = job

    def __call__(self, k: int) -> dict[str, Any]:
        import dask

        with dask.config.set(scheduler="synchronous"):
            return self.job(k)


class _Piece:
    """Some trajectories of a file."""

    def __init__(self, pieces: list[tuple[Path, int, int]]) -> None:
        self.pieces = pieces

    def __call__(self, k: int) -> xr.Dataset:
        import xarray as xr

        from scidyn.data.io.safety import check_hdf5

        file, start, stop = self.pieces[k]
        check_hdf5(file, budget=None)
        with xr.open_dataset(file, engine="h5netcdf", decode_times=False, decode_timedelta=False) as ds:
            part = ds.isel(trajectory=slice(start, stop)).load()
        for variable in part.variables.values():
            variable.encoding = {}
        return part


def _pieces(file: Path, step: int) -> Iterator[tuple[Path, int, int]]:
    import xarray as xr

    from scidyn.data.io.safety import check_hdf5

    check_hdf5(file, budget=None)
    with xr.open_dataset(file, engine="h5netcdf", decode_times=False, decode_timedelta=False) as ds:
        if "trajectory" not in ds.dims:
            raise ShapeError(f"{file} has no dim 'trajectory'; it holds one record and needs no shards.")
        rows = ds.sizes["trajectory"]
    for start in range(0, rows, step):
        yield file, start, min(start + step, rows)


def _finish(path: Path, entries: list[dict[str, Any]]) -> None:
    for entry in entries[1:]:
        check_alike(entry, entries[0], path)
    atomic.write_bytes(path / MANIFEST, json.dumps({"format": 1, "shards": entries}, indent=1).encode())
