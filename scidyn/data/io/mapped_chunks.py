"""Windows copied straight out of a mapped HDF5 file: where the chunks lie, and one copy per run inside a chunk."""

from __future__ import annotations

from itertools import product
from math import prod
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

from scidyn.errors import ArtifactError

if TYPE_CHECKING:
    import h5py

__all__ = ["Crop", "MappedChunks", "chunk_offsets"]

Crop = tuple[tuple[int, int], ...]
"""First and one past the last grid point along every dim of space."""


class _Box(NamedTuple):
    """The part of a crop that lies in one chunk of space."""

    corner: np.ndarray  # file offset of the corner of the box in every (trajectory, time) chunk
    size: tuple[int, ...]
    target: tuple[slice, ...]  # its place in the crop
    sources: dict[int, np.ndarray]  # by number of rows: the block that begins at any byte of the file


class MappedChunks:
    """The chunks of one array in the bytes of its file, for copying windows.

    A window of L rows, cropped to a box of space, touches a few chunks; inside each of them it is one strided
    block. The block that begins at byte b is item b of a view of the whole file whose first stride is
    one byte, so that NumPy copies it in one call and checks that it lies inside the file.

    Parameters
    ----------
    raw : numpy.ndarray of uint8
        The bytes of the file.
    offsets : numpy.ndarray of int, one axis per dim of the array
        File offset of every chunk.
    chunk : tuple of int
        Shape of a chunk.
    dtype : numpy.dtype
        Of the array.
    """

    def __init__(self, raw: np.ndarray, offsets: np.ndarray, chunk: tuple[int, ...], dtype: np.dtype) -> None:
        self.raw, self.offsets, self.chunk, self.dtype = raw, offsets, chunk, dtype
        self.strides = tuple(dtype.itemsize * prod(chunk[k + 1 :]) for k in range(len(chunk)))
        self._boxes: dict[Crop, list[_Box]] = {}

    def copy(self, y: np.ndarray, rows: np.ndarray, trajectory: np.ndarray, start: np.ndarray, crop: Crop) -> None:
        """Fill ``y[rows]``, y of shape (window, time, *space), with the windows from ``start`` on, cut to ``crop``."""
        deep, block = self.chunk[:2]
        runs, cells, within = [], [], []
        for row, n, begin in zip(rows.tolist(), trajectory.tolist(), start.tolist(), strict=True):
            outer, inside = divmod(n, deep)
            low, stop = begin, begin + y.shape[1]
            while low < stop:
                k = low // block
                high = min(stop, (k + 1) * block)
                runs.append((row, low - begin, high - begin, high - low))
                cells.append(outer * self.offsets.shape[1] + k)
                within.append(inside * self.strides[0] + (low - k * block) * self.strides[1])
                low = high
        cell, at = np.array(cells), np.array(within)
        lengths = {n for *_, n in runs}
        for box in self._in_space(crop):
            for n in lengths - box.sources.keys():
                box.sources[n] = self._anywhere((n, *box.size))
            target, sources = y[:, :, *box.target], box.sources
            for (row, a, b, n), byte in zip(runs, (box.corner[cell] + at).tolist(), strict=True):
                target[row, a:b] = sources[n][byte]

    def _in_space(self, crop: Crop) -> list[_Box]:
        """The boxes into which the borders of chunks cut a crop."""
        if crop not in self._boxes:
            along = [
                [(k, max(low, k * c), min(high, (k + 1) * c), low) for k in range(low // c, (high - 1) // c + 1)]
                for (low, high), c in zip(crop, self.chunk[2:], strict=True)
            ]
            self._boxes[crop] = [self._box(pieces) for pieces in product(*along)]
        return self._boxes[crop]

    def _box(self, pieces: tuple[tuple[int, int, int, int], ...]) -> _Box:
        steps = zip(pieces, self.chunk[2:], self.strides[2:], strict=True)
        skip = sum((low - k * c) * s for (k, low, _, _), c, s in steps)
        here: tuple[Any, ...] = (slice(None), slice(None), *(k for k, *_ in pieces))
        return _Box(
            corner=self.offsets[here].ravel() + skip,
            size=tuple(high - low for _, low, high, _ in pieces),
            target=tuple(slice(low - first, high - first) for _, low, high, first in pieces),
            sources={},
        )

    def _anywhere(self, size: tuple[int, ...]) -> np.ndarray:
        """Blocks of this size, one for each byte of the file at which one can begin."""
        extent = sum((n - 1) * s for n, s in zip(size, self.strides[1:], strict=True)) + self.dtype.itemsize
        places = self.raw.nbytes - extent + 1
        return np.ndarray((places, *size), self.dtype, self.raw, 0, (1, *self.strides[1:]))


def chunk_offsets(item: h5py.Dataset, path: Path) -> np.ndarray | None:
    """File offset of every chunk; None where the bytes of the file are not the values.

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
        _inside(offset, item.size * item.dtype.itemsize, size, item, path)
        return np.full((1,) * item.ndim, offset, dtype=np.int64)  # one chunk as large as the array
    if item.id.get_create_plist().get_nfilters():
        return None
    grid = tuple(-(-n // c) for n, c in zip(item.shape, item.chunks, strict=True))
    if item.id.get_num_chunks() != prod(grid):
        return None  # chunks that were never written have no place in the file
    table = np.full(grid, -1, dtype=np.int64)
    width = item.dtype.itemsize * prod(item.chunks)

    def note(info: Any) -> None:
        if info.size != width:
            raise ArtifactError(f"{path}: a chunk of {item.name} is said to have {info.size} bytes instead of {width}.")
        table[tuple(n // c for n, c in zip(info.chunk_offset, item.chunks, strict=True))] = info.byte_offset

    item.id.chunk_iter(note)
    _inside(int(table.min()), 0, size, item, path)
    _inside(int(table.max()), width, size, item, path)
    return table


def _inside(offset: int, width: int, size: int, item: h5py.Dataset, path: Path) -> None:
    if offset < 0 or offset + width > size:
        raise ArtifactError(f"{path}: {item.name} is said to lie outside the file, which is truncated.")
