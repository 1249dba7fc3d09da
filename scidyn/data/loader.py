"""Batches of windows or whole trajectories, from memory or from the disk."""

from __future__ import annotations

import math
import os
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

import numpy as np
import torch

from scidyn._check.values import choice
from scidyn.data.batch import Batch
from scidyn.data.disk import HDF5Windows
from scidyn.data.memory import MemoryWindows
from scidyn.data.pinned import PinnedRing
from scidyn.data.prefetch import prefetched
from scidyn.data.sampler import Sampler
from scidyn.data.windows import WindowIndex
from scidyn.errors import OptionError

if TYPE_CHECKING:
    import xarray as xr

__all__ = ["Loader", "loader"]


class Store(Protocol):
    """Where batches come from: numbers of windows in, a Batch out."""

    def __len__(self) -> int:
        """How many windows there are."""

    def gather(self, windows: np.ndarray) -> Batch:
        """The windows with these numbers, in this order."""


class Loader:
    """An iterable of batches; each iteration is one epoch, and the place in it can be saved.

    Parameters
    ----------
    store : Store
        Where batches come from.
    sampler : Sampler
        Which windows, in which order.
    prefetch : int
        Batches that a thread makes ahead.
    device : torch.device or str, optional
        Where batches go; from page-locked memory where it is a CUDA device.

    Examples
    --------
    >>> import scidyn
    >>> record = scidyn.datasets.load("lynx_hare")
    >>> batches = scidyn.data.loader(record, scidyn.data.windows(record, 4), batch=8)
    >>> [tuple(batch.y.shape) for batch in batches]
    [(8, 5, 2), (8, 5, 2), (1, 5, 2)]
    """

    def __init__(self, store: Store, sampler: Sampler, *, prefetch: int = 0, device: Any = None) -> None:
        self.store = store
        self.sampler = sampler
        self.prefetch = prefetch
        self.device = None if device is None else torch.device(device)
        self._ring: PinnedRing | None = None

    def __len__(self) -> int:
        return len(self.sampler)

    def __iter__(self) -> Iterator[Batch]:
        for batch in prefetched(self._made, self.sampler.rest(), self.prefetch):
            self.sampler.advance()  # only now is the batch drawn, however far ahead the thread is
            yield batch
        self.sampler.finish()

    def _made(self, numbers: np.ndarray) -> Batch:
        batch = self.store.gather(numbers)
        if self.device is None or batch.y.device == self.device:
            return batch
        if self.device.type != "cuda":
            return Batch(*(None if x is None else x.to(self.device) for x in batch))  # type: ignore[arg-type]
        if self._ring is None:
            self._ring = PinnedRing(self.device)
        return self._ring.send(batch)

    def state(self) -> dict[str, int]:
        """Seed, epoch and position: store it with the checkpoint."""
        return self.sampler.state()

    def resume(self, state: dict[str, Any]) -> None:
        """Go on with the batch after the last one that was drawn when ``state`` was taken."""
        self.sampler.resume(state)


def loader(
    source: xr.Dataset | str | Path,
    index: WindowIndex | None = None,
    *,
    batch: int = 64,
    seed: int = 0,
    shuffle: str = "auto",
    memory: str = "auto",
    prefetch: int = 2,
    drop_last: bool = False,
    dtype: torch.dtype | None = None,
    device: Any = None,
    rank: int = 0,
    world: int = 1,
) -> Loader:
    """Batches of windows for training.

    Parameters
    ----------
    source : xarray.Dataset, str or Path
        Data, a file for :func:`scidyn.open`, or a folder of shards.
    index : WindowIndex, optional
        Windows from :func:`windows`; None gives whole trajectories.
    batch : int
        Windows per batch.
    seed : int
        Seed of the order; epoch e is a function of (seed, e) alone.
    shuffle : {"auto", "full", "chunk", "length", "none"}
        Order of the windows; ``auto`` is ``full`` in memory and ``chunk`` on disk, which shuffles chunks
        of the file and then windows inside groups of chunks. Whole trajectories of different lengths
        are drawn by ``length``: shuffled, and those of one batch about equally long, so that little
        of a batch is padding.
    memory : {"auto", "load", "disk"}
        Load a file whole or draw its windows from the disk; ``auto`` loads what fits in a quarter of
        the free memory.
    prefetch : int
        Batches that one thread reads ahead from the disk.
    drop_last : bool
        Leave out a last batch that is not full.
    dtype : torch.dtype, optional
        Floating dtype; default that of the data (times float64).
    device : torch.device or str, optional
        Where the tensors live.
    rank, world : int
        This process and how many share each epoch.

    Returns
    -------
    Loader
        Iterable of :class:`Batch` with ``state()`` and ``resume(state)``.

    Raises
    ------
    scidyn.errors.DataError
        If the data are not valid or no batch can be made.
    scidyn.errors.OptionError
        If an argument does not fit the data.

    Examples
    --------
    >>> import scidyn
    >>> record = scidyn.datasets.load("lynx_hare")
    >>> batches = scidyn.data.loader(record, scidyn.data.windows(record, 8, horizon=2), batch=4, seed=1)
    >>> next(iter(batches)).t.shape
    torch.Size([4, 10])
    """
    choice("shuffle", shuffle, ("auto", "full", "chunk", "length", "none"))
    choice("memory", memory, ("auto", "load", "disk"))
    if isinstance(source, str | Path):
        disk = _on_disk(Path(source), index, memory)
        if disk is not None:
            if dtype is not None:
                raise OptionError("dtype is for data in memory; windows on disk keep the dtype of the file.")
            if shuffle == "length":
                raise OptionError("shuffle='length' is for whole trajectories; windows are equally long.")
            order = "chunk" if shuffle == "auto" else shuffle
            blocks = disk.blocks() if order == "chunk" else None
            drawn = Sampler(
                len(disk), batch, seed=seed, shuffle=order, blocks=blocks, drop_last=drop_last, rank=rank, world=world
            )
            return Loader(disk, drawn, prefetch=prefetch, device=device)
        from scidyn.data.files import open as open_file

        source = open_file(source)
    elif memory == "disk":
        raise OptionError("memory='disk' needs a path; the data given are in memory.")
    if shuffle == "chunk":
        raise OptionError("shuffle='chunk' is for windows on disk; in memory take 'full'.")
    if shuffle == "length" and index is not None:
        raise OptionError("shuffle='length' is for whole trajectories; windows are equally long.")
    store = MemoryWindows(source, index, dtype=dtype, device=device)
    lengths = store.length if index is None else None
    if shuffle == "auto":
        shuffle = "full" if lengths is None or (lengths == lengths[0]).all() else "length"
    sampler = Sampler(
        len(store),
        batch,
        seed=seed,
        shuffle=shuffle,
        lengths=lengths if shuffle == "length" else None,
        drop_last=drop_last,
        rank=rank,
        world=world,
    )
    return Loader(store, sampler)


def _on_disk(path: Path, index: WindowIndex | None, memory: str) -> HDF5Windows | None:
    """A store on the disk if it is asked for, or if the file is too large to load."""
    if index is None or memory == "load":
        if memory == "disk":
            raise OptionError("Windows on disk need an index; make one with scidyn.data.WindowIndex(steps, length).")
        return None
    if memory == "auto" and _bytes_of(path) < _free_memory() / 4:
        return None
    return HDF5Windows(path, index)


def _bytes_of(path: Path) -> int:
    files = path.glob("shard-*.nc") if path.is_dir() else [path]
    return sum(file.stat().st_size for file in files if file.exists())


def _free_memory() -> float:
    """Bytes that are free now, or infinity where the system does not say."""
    try:
        return float(os.sysconf("SC_AVPHYS_PAGES")) * os.sysconf("SC_PAGE_SIZE")
    except (ValueError, OSError, AttributeError):
        return math.inf
