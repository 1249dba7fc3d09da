"""Rows of one HDF5 array, read where they lie: through a mapping if nothing is encoded, else through h5py."""

from __future__ import annotations

import os
from collections import OrderedDict
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from scidyn.data.io.mapped_chunks import Crop, MappedChunks, chunk_offsets
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
        self._offsets = chunk_offsets(item, self.path) if mapped else None
        self._blank = _never_filled(item)
        self._identity = _identity(self.path)
        self._chunks: MappedChunks | None = None
        self._chunks_pid = -1
        self._item: tuple[h5py.File, h5py.Dataset] | None = None

    @property
    def mapped(self) -> bool:
        """True if rows are read through a mapping of the file."""
        return self._offsets is not None

    def __getstate__(self) -> dict[str, Any]:
        return self.__dict__ | {"_chunks": None, "_chunks_pid": -1, "_item": None}

    def fill(self, y: np.ndarray, rows: np.ndarray, trajectory: np.ndarray, start: np.ndarray, crop: Crop) -> None:
        """Fill ``y[rows]``, y of shape (window, time, *space), with the windows from ``start`` on, cut to ``crop``."""
        chunks = None if self._offsets is None else self._mapping(self._offsets)
        if chunks is None:
            self._read(y, rows, trajectory, start, crop)
        else:
            chunks.copy(y, rows, trajectory, start, crop)

    def _read(self, y: np.ndarray, rows: np.ndarray, trajectory: np.ndarray, start: np.ndarray, crop: Crop) -> None:
        """Through HDF5, into ``y`` without an array in between where a window is one run of memory."""
        from h5py import h5s, h5t

        item = self._dataset().id
        size = (1, *y.shape[1:])
        corner = tuple(low for low, _ in crop)
        memory, file, kind = h5s.create_simple(size), item.get_space(), h5t.py_create(y.dtype)
        between = None if y[0].flags.c_contiguous else np.empty(size[1:], dtype=y.dtype)
        for k, n, begin in zip(rows.tolist(), trajectory.tolist(), start.tolist(), strict=True):
            target = y[k] if between is None else between
            if self._blank:
                target[...] = 0
            file.select_hyperslab((n, begin, *corner), size)
            item.read(memory, file, target, kind)
            if between is not None:
                y[k] = between

    def _dataset(self) -> h5py.Dataset:
        """The open dataset of this process."""
        file = handles.get(self.path)
        if self._item is None or self._item[0] is not file:
            self._item = (file, file[self.name])
        return self._item[1]

    def _mapping(self, offsets: np.ndarray) -> MappedChunks | None:
        """The mapping of this process, if the file is as long as it was; None if there is no room for it."""
        now = _identity(self.path)
        if self._chunks is None or self._chunks_pid != os.getpid():
            if now != self._identity:
                raise ArtifactError(f"{self.path} was replaced after it was opened for windows; open it again.")
            try:
                raw = np.memmap(self.path, np.uint8, "r").view(np.ndarray)
            except OSError:  # the file is larger than the addresses that this process may use
                self._offsets = None
                return None
            self._chunks, self._chunks_pid = MappedChunks(raw, offsets, self.chunk, self.dtype), os.getpid()
        if now[0] == self._identity[0] and now[2] < self._identity[2]:  # reading past its end would kill the process
            raise ArtifactError(f"{self.path} was cut short after it was opened for windows; restore it from a copy.")
        return self._chunks


def _never_filled(item: h5py.Dataset) -> bool:
    """True if HDF5 leaves the memory as it is where nothing was written; h5py gives zeros there."""
    from h5py import h5d

    return bool(item.id.get_create_plist().get_fill_time() == h5d.FILL_TIME_NEVER)


def _identity(path: Path) -> tuple[int, int, int]:
    """What tells a file from one that took its place."""
    try:
        found = os.stat(path)
    except OSError as error:
        raise ArtifactError(f"{path} cannot be read: {error}.") from error
    return found.st_ino, found.st_mtime_ns, found.st_size
