"""Rows of one HDF5 array, read where they lie: through a mapping if nothing is encoded, else through h5py."""

from __future__ import annotations

import os
from collections import OrderedDict
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from scidyn.data.io.safety import opened
from scidyn.errors import ArtifactError

if TYPE_CHECKING:
    import h5py

__all__ = ["DiskArray", "handles"]


class _Handles:
    """Open files of this process, at most sixteen; a forked child starts with none of its own."""

    most = 16

    def __init__(self) -> None:
        self._pid = os.getpid()
        self._open: OrderedDict[tuple[str, int, int, int], h5py.File] = OrderedDict()

    def get(self, path: Path) -> h5py.File:
        """The handle of ``path`` in this process, opened on first use."""
        if self._pid != os.getpid():  # handles of the parent are left to the parent
            self._pid, self._open = os.getpid(), OrderedDict()
        key = (str(path), *_identity(path))  # a file that was replaced is another file
        if key in self._open:
            self._open.move_to_end(key)
            return self._open[key]
        handle = self._open[key] = opened(path)
        while len(self._open) > self.most:
            self._open.popitem(last=False)[1].close()
        return handle

    def close(self) -> None:
        """Close all files of this process."""
        if self._pid == os.getpid():
            for handle in self._open.values():
                handle.close()
        self._open = OrderedDict()


handles = _Handles()


class DiskArray:
    """A numeric array (trajectory, time, …) of a file that has passed :func:`check_hdf5`.

    Chunks that are stored as they are get mapped at their offsets in the file, each checked to lie
    inside it; everything else (compressed, checksummed, other byte order) is read through h5py.

    Parameters
    ----------
    path : Path
        The file.
    name : str
        The variable.
    mapped : bool
        Allow the mapping.
    """

    def __init__(self, path: Path, name: str, *, mapped: bool = True) -> None:
        self.path, self.name = Path(path), name
        item = handles.get(self.path)[name]
        self.shape: tuple[int, ...] = tuple(item.shape)
        self.dtype = item.dtype
        self.chunk: tuple[int, ...] = tuple(item.chunks or item.shape)
        self._offsets = _offsets(item, self.path) if mapped else None
        self._identity = _identity(self.path)
        # bytes of one row of one trajectory; chunks hold all of space, so a row is one run
        self._bytes = self.dtype.itemsize * int(np.prod(self.shape[2:], dtype=np.int64))
        self._map: np.ndarray | None = None
        self._map_pid = -1
        self._item: tuple[h5py.File, h5py.Dataset] | None = None

    @property
    def mapped(self) -> bool:
        """True if rows are read through a mapping of the file."""
        return self._offsets is not None

    def __getstate__(self) -> dict[str, Any]:
        return self.__dict__ | {"_map": None, "_map_pid": -1, "_item": None}

    def read(self, trajectory: int, start: int, out: np.ndarray, crop: tuple[slice, ...] = ()) -> None:
        """Fill ``out`` (rows, …) with the rows from ``start`` on of one trajectory, cut to ``crop`` in space."""
        stop = start + out.shape[0]
        if self._offsets is None:
            out[...] = self._dataset()[
                (trajectory, slice(start, stop), *crop)
            ]  # faster than read_direct, copy included
            return
        raw = self._mapping()
        block, row = self.chunk[1], trajectory // self.chunk[0]
        inside = trajectory % self.chunk[0]
        for k in range(start // block, (stop - 1) // block + 1):
            low, high = max(start, k * block), min(stop, (k + 1) * block)
            at = self._offsets[row, k] + self._bytes * (inside * block + low - k * block)
            piece = raw[at : at + self._bytes * (high - low)].view(self.dtype)
            rows = piece.reshape(high - low, *self.shape[2:])
            out[low - start : high - start] = rows[(slice(None), *crop)] if crop else rows

    def _dataset(self) -> h5py.Dataset:
        """The open dataset of this process."""
        file = handles.get(self.path)
        if self._item is None or self._item[0] is not file:
            self._item = (file, file[self.name])
        return self._item[1]

    def _mapping(self) -> np.ndarray:
        if self._map is None or self._map_pid != os.getpid():
            if _identity(self.path) != self._identity:
                raise ArtifactError(f"{self.path} was replaced after it was opened for windows; open it again.")
            self._map, self._map_pid = np.memmap(self.path, np.uint8, "r").view(np.ndarray), os.getpid()
        return self._map


def _identity(path: Path) -> tuple[int, int, int]:
    """What tells a file from one that took its place."""
    try:
        found = os.stat(path)
    except OSError as error:
        raise ArtifactError(f"{path} cannot be read: {error}.") from error
    return found.st_ino, found.st_mtime_ns, found.st_size


def _offsets(item: h5py.Dataset, path: Path) -> np.ndarray | None:
    """File offset of every (trajectory, time) chunk; None where rows cannot be mapped.

    Raises
    ------
    ArtifactError
        If a chunk is said to lie outside the file.
    """
    native = item.dtype.isnative and item.dtype.kind in "fiu"
    if not native or item.file.userblock_size or item.ndim < 2 or item.size == 0 or item.external or item.is_virtual:
        return None
    size = path.stat().st_size
    if item.chunks is None:
        offset = item.id.get_offset()
        if offset is None:
            return None
        if offset < 0 or offset + item.size * item.dtype.itemsize > size:
            raise ArtifactError(f"{path}: {item.name} is said to lie outside the file, which is truncated.")
        row = item.dtype.itemsize * int(np.prod(item.shape[1:], dtype=np.int64))
        # one chunk as large as the array: its only offset, per block of trajectories
        return np.full((1, 1), offset, dtype=np.int64) if row else None
    plain = item.compression is None and not item.fletcher32 and not item.shuffle and item.scaleoffset is None
    plain = plain and item.id.get_create_plist().get_nfilters() == 0
    if not plain or item.chunks[2:] != item.shape[2:]:
        return None
    grid = tuple(-(-n // c) for n, c in zip(item.shape[:2], item.chunks[:2], strict=True))
    if item.id.get_num_chunks() != grid[0] * grid[1]:
        return None  # chunks that were never written have no place in the file
    table = np.full(grid, -1, dtype=np.int64)

    def note(info: Any) -> None:
        table[info.chunk_offset[0] // item.chunks[0], info.chunk_offset[1] // item.chunks[1]] = info.byte_offset

    item.id.chunk_iter(note)
    width = item.dtype.itemsize * int(np.prod(item.chunks, dtype=np.int64))
    if table.min() < 0 or int(table.max()) + width > size:
        raise ArtifactError(f"{path}: a chunk of {item.name} is said to lie outside the file, which is truncated.")
    return table
