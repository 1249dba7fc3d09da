"""Batches of windows drawn from HDF5 files that are larger than memory."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch

from scidyn._check.values import choice
from scidyn.data.batch import Batch
from scidyn.data.buffers import Buffers
from scidyn.data.io.mapped_chunks import Crop
from scidyn.data.io.safety import check_hdf5
from scidyn.data.io.shards import shard_paths
from scidyn.data.io.windows_on_disk import DiskArray
from scidyn.data.schema import state_variables, time_dim
from scidyn.data.windows import WindowIndex
from scidyn.errors import DataError, OptionError, ShapeError

if TYPE_CHECKING:
    import xarray as xr

__all__ = ["HDF5Windows"]

_MOST_IN_MEMORY = 256 << 20


class HDF5Windows:
    """Windows of the trajectories in one file or shard folder, read when they are drawn.

    Times, controls and parameters stay in memory; measured values stay in the file. The store can be
    forked, pickled and shared by threads of which one reads. The memory of a batch is used again for a
    later one once nothing refers to it any more; a batch that is kept, or a view of it, stays as it is.

    Parameters
    ----------
    path : str or Path
        NetCDF-4/HDF5 file with dims ``(trajectory, time, …)``, or a folder of shards.
    index : WindowIndex, optional
        Windows; set later with ``store.index = store.windows(…)`` where the sizes are not known before.
    crop : mapping of str to (int, int), optional
        First and one past the last grid point along a dim of space, such as ``{"x": (32, 96)}``.
    mapped : bool
        Map uncompressed chunks at their place in the file instead of reading them through h5py.

    Examples
    --------
    >>> import numpy as np, scidyn
    >>> from scidyn.data import HDF5Windows, WindowIndex
    >>> ds = scidyn.data.from_arrays(np.ones((3, 20, 1)), np.arange(20), units=["m"], time_units="s")
    >>> path = scidyn.save(ds, "ones.nc", window=5, checksum=False)
    >>> store = HDF5Windows(path, scidyn.data.windows(ds, 4))
    >>> store.gather(np.array([0, 20])).y.shape
    torch.Size([2, 5, 1])
    """

    def __init__(
        self,
        path: str | Path,
        index: WindowIndex | None = None,
        *,
        crop: Mapping[str, tuple[int, int]] | None = None,
        mapped: bool = True,
    ) -> None:
        self.path = Path(path)
        files = shard_paths(self.path) if self.path.is_dir() else [self.path]
        for file in files:
            check_hdf5(file, budget=None)
        parts = [_Part(file, mapped) for file in files]
        if not parts:
            raise DataError(f"{path} holds no finished shard.")
        for part in parts[1:]:
            if part.names != parts[0].names or part.inner != parts[0].inner:
                raise ShapeError(f"{part.path} holds {part.names} with {part.inner}, {parts[0].path} something else.")
        self.parts = parts
        self.crop = _cropped(crop, parts[0])
        self.inner = tuple(high - low for low, high in self.crop)
        self.names = parts[0].names
        self._first = np.concatenate([[0], np.cumsum([len(part.steps) for part in parts])])
        self.steps = np.concatenate([part.steps for part in parts])
        self._index = index
        self._check_index()
        self._buffers = Buffers()

    @property
    def index(self) -> WindowIndex:
        """Which windows there are."""
        if self._index is None:
            raise OptionError(
                "The store has no windows yet; set store.index = scidyn.data.WindowIndex(store.steps, …)."
            )
        return self._index

    @index.setter
    def index(self, index: WindowIndex) -> None:
        self._index = index
        self._check_index()

    @property
    def nbytes(self) -> int:
        """Bytes of all measured values."""
        return sum(int(np.prod(a.shape, dtype=object)) * a.dtype.itemsize for part in self.parts for a in part.arrays)

    @property
    def mapped(self) -> bool:
        """True if every variable is read through a mapping."""
        return all(a.mapped for part in self.parts for a in part.arrays)

    def blocks(self) -> np.ndarray:
        """Chunk in which each window starts, for ``shuffle="chunk"``."""
        trajectory, start = self.index.locate(np.arange(len(self)))
        length = self.parts[0].arrays[0].chunk[1]
        return trajectory * (int(self.steps.max()) // length + 1) + start // length

    def __len__(self) -> int:
        return len(self.index)

    def gather(self, windows: np.ndarray) -> Batch:
        """The windows with these numbers; read in the order of the file, returned in the order asked."""
        trajectory, start = self.index.locate(np.asarray(windows))
        dtype = self.parts[0].dtype
        y = self._buffers.take((len(trajectory), self.index.span, *self.inner, len(self.names)), dtype)
        shares = list(self._shares(trajectory, start))
        for part, rows, local in shares:
            for f, array in enumerate(part.arrays):
                array.fill(y[..., f], rows, local, start[rows], self.crop)
        suspect = not _finite(y.reshape(-1))
        return self._batch(self._buffers.lend(y), shares, trajectory, start, suspect)

    def _batch(
        self,
        y: torch.Tensor,
        shares: list[tuple[_Part, np.ndarray, np.ndarray]],
        trajectory: np.ndarray,
        start: np.ndarray,
        suspect: bool,
    ) -> Batch:
        if suspect:
            mask = torch.isfinite(y)
            y.masked_fill_(~mask, 0)
        else:
            mask = torch.ones((), dtype=torch.bool, device=y.device).expand(y.shape)
        at = start[:, None] + np.arange(self.index.span)
        t = np.empty(at.shape)
        control = _blank(at.shape, self.parts[0].control)
        parameter = _blank(at.shape[:1], self.parts[0].parameter)
        for part, rows, local in shares:
            t[rows] = part.times[local[:, None], at[rows]]
            if control is not None and part.control is not None:
                control[rows] = part.control[local[:, None], at[rows]]
            if parameter is not None and part.parameter is not None:
                parameter[rows] = part.parameter[local]
        return Batch(torch.from_numpy(t), y, mask, _tensor(control), _tensor(parameter), torch.from_numpy(trajectory))

    def _shares(self, trajectory: np.ndarray, start: np.ndarray) -> Iterator[tuple[_Part, np.ndarray, np.ndarray]]:
        """Of every file that is touched: which rows of the batch it fills, in the order of the file, and from what."""
        order = np.lexsort((start, trajectory))
        if len(self.parts) == 1:
            yield self.parts[0], order, trajectory[order]
            return
        number = np.searchsorted(self._first, trajectory[order], side="right") - 1
        for k in np.unique(number).tolist():
            rows = order[number == k]
            yield self.parts[k], rows, trajectory[rows] - self._first[k]

    def _check_index(self) -> None:
        index = self._index
        if index is not None and (len(index.steps) != len(self.steps) or bool((index.steps > self.steps).any())):
            raise OptionError(
                f"index was made for {len(index.steps)} trajectories; {self.path} has {len(self.steps)}, or shorter."
            )


class _Part:
    """One file: its arrays on the disk, its times, controls and parameters in memory."""

    def __init__(self, path: Path, mapped: bool) -> None:
        import xarray as xr

        self.path = path
        with xr.open_dataset(path, engine="h5netcdf", decode_times=False, decode_timedelta=False) as ds:
            along = time_dim(ds)
            if "time" not in ds.coords:
                raise ShapeError(f"{path} has no coordinate 'time'; convert it with scidyn.open and scidyn.save.")
            self.names = state_variables(ds)
            for name in self.names:
                _usable(ds, name, along, path)
            pattern = ds[self.names[0]]
            self.inner = tuple(pattern.shape[2:])
            self.space = tuple(str(d) for d in pattern.dims[2:])
            rows = ds.sizes["trajectory"]
            time = ds["time"].values.astype(float)
            self.times = time if time.ndim == 2 else np.broadcast_to(time, (rows, time.size))
            self.steps = np.isfinite(self.times).sum(1)
            self.control = _small(ds, "control", ("trajectory", along), path)
            self.parameter = _small(ds, "parameter", ("trajectory",), path)
        self.arrays = [DiskArray(path, name, mapped=mapped) for name in self.names]
        self.dtype = np.result_type(*(a.dtype for a in self.arrays))
        if self.dtype.kind != "f":
            self.dtype = np.dtype(float)


def _blank(shape: tuple[int, ...], pattern: np.ndarray | None) -> np.ndarray | None:
    return None if pattern is None else np.empty((*shape, pattern.shape[-1]))


def _tensor(array: np.ndarray | None) -> torch.Tensor | None:
    return None if array is None else torch.from_numpy(array)


def _finite(flat: np.ndarray) -> bool:
    """False if there is a NaN or an infinity, or, rarely, if squares overflow.

    Products of 8,192 numbers are below the size at which BLAS would start threads.
    """
    whole = flat.size - flat.size % 8192
    pieces = flat[:whole].reshape(-1, 1, 8192)
    rest = flat[whole:]
    with np.errstate(over="ignore", invalid="ignore"):
        total = np.matmul(pieces, pieces.transpose(0, 2, 1)).sum() + np.dot(rest, rest)
    return math.isfinite(total)


def _cropped(crop: Mapping[str, tuple[int, int]] | None, part: _Part) -> Crop:
    """First and one past the last grid point along every dim of space."""
    for d in crop or {}:
        choice("crop names a dim that", d, part.space)
    bounds = []
    for d, n in zip(part.space, part.inner, strict=True):
        low, high = (int(k) for k in (crop or {}).get(d, (0, n)))
        if not 0 <= low < high <= n:
            raise OptionError(f"crop of {d!r} must satisfy 0 <= first < last <= {n}; got {(low, high)}.")
        bounds.append((low, high))
    return tuple(bounds)


def _usable(ds: xr.Dataset, name: str, along: str, path: Path) -> None:
    variable = ds[name]
    if variable.dims[:2] != ("trajectory", along) or variable.shape[2:] != ds[state_variables(ds)[0]].shape[2:]:
        raise ShapeError(
            f"{path}: {name!r} has dims {variable.dims}; windows are drawn from ('trajectory', {along!r}, …) with one "
            "shape of space for all variables."
        )
    if variable.encoding.get("scale_factor") is not None or variable.encoding.get("add_offset") is not None:
        raise DataError(f"{path}: {name!r} is packed; convert the file with scidyn.open and scidyn.save first.")


def _small(ds: xr.Dataset, role: str, dims: Sequence[str], path: Path) -> np.ndarray | None:
    chosen: list[Any] = [v for v in ds.data_vars.values() if v.attrs.get("role") == role]
    if not chosen:
        return None
    sizes = {d: ds.sizes[d] for d in dims}
    if int(np.prod(list(sizes.values()), dtype=object)) * 8 * len(chosen) > _MOST_IN_MEMORY:
        raise DataError(f"{path}: the {role}s are larger than 256 MiB; keep them as measured variables.")
    parts = [v.variable.set_dims(sizes).transpose(*dims).values.astype(float) for v in chosen]
    return np.stack(parts, axis=-1)
