"""Batches of windows or whole trajectories, gathered from tensors in memory."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

import numpy as np
import torch
from torch import Tensor

from scidyn._check.values import choice
from scidyn.data.batch import Batch
from scidyn.data.convert import to_batch
from scidyn.data.sampler import Sampler
from scidyn.data.windows import WindowIndex
from scidyn.errors import OptionError

if TYPE_CHECKING:
    import xarray as xr

__all__ = ["Loader", "MemoryWindows", "loader"]


class Store(Protocol):
    """Where batches come from: numbers of windows in, a Batch out."""

    def __len__(self) -> int:
        """How many windows there are."""

    def gather(self, windows: np.ndarray) -> Batch:
        """The windows with these numbers, in this order."""


class MemoryWindows:
    """All data as tensors; whole batches are gathered by one indexing each.

    Parameters
    ----------
    ds : xarray.Dataset
        Kind ``trajectories`` or ``irregular``.
    index : WindowIndex or None
        Windows; None takes whole trajectories, cut to the longest of each batch.
    dtype : torch.dtype or None
        Floating dtype; None keeps that of the data.
    device : torch.device or str, optional
        Where the tensors live.

    Examples
    --------
    >>> import numpy as np, scidyn
    >>> from scidyn.data import MemoryWindows, windows
    >>> record = scidyn.datasets.load("lynx_hare")
    >>> store = MemoryWindows(record, windows(record, 4))
    >>> store.gather(np.array([0, 3])).t[:, 0].tolist()
    [1900.0, 1903.0]
    """

    def __init__(
        self,
        ds: xr.Dataset,
        index: WindowIndex | None,
        *,
        dtype: torch.dtype | None = None,
        device: Any = None,
    ) -> None:
        self.all = to_batch(ds, dtype=dtype, device=device)
        self.index = index
        rows, time = self.all.t.shape
        if index is not None and (len(index.steps) != rows or int(index.steps.max()) > time):
            raise OptionError(
                f"index was made for {len(index.steps)} trajectories of up to {int(index.steps.max())} steps; "
                f"the data have {rows} of {time}."
            )
        self.complete = bool(self.all.mask.all())
        self.length = torch.isfinite(self.all.t).sum(1).cpu().numpy()
        if index is not None:
            self._views = [_windows_of(x, index.span) for x in (self.all.t, self.all.y, self.all.mask)]
            self._control = None if self.all.control is None else _windows_of(self.all.control, index.span)

    def __len__(self) -> int:
        return len(self.length) if self.index is None else len(self.index)

    def gather(self, windows: np.ndarray) -> Batch:
        """The windows with these numbers, in this order."""
        if self.index is None:
            return self._trajectories(windows)
        trajectory, start = self.index.locate(windows)
        device = self.all.t.device
        flat = torch.from_numpy(trajectory * self.all.t.shape[1] + start).to(device)
        rows = torch.from_numpy(trajectory).to(device)
        t, y = self._views[0].index_select(0, flat), self._views[1].index_select(0, flat)
        mask = _true(y) if self.complete else self._views[2].index_select(0, flat)
        control = None if self._control is None else self._control.index_select(0, flat)
        parameter = None if self.all.parameter is None else self.all.parameter.index_select(0, rows)
        return Batch(t, y, mask, control, parameter, rows)

    def _trajectories(self, rows: np.ndarray) -> Batch:
        longest = int(self.length[rows].max())
        pick = torch.from_numpy(np.asarray(rows)).to(self.all.t.device)

        def taken(x: Tensor) -> Tensor:
            return x[:, :longest].index_select(0, pick)

        everything = self.all
        return Batch(
            taken(everything.t),
            taken(everything.y),
            taken(everything.mask),
            None if everything.control is None else taken(everything.control),
            None if everything.parameter is None else everything.parameter.index_select(0, pick),
            pick,
        )


class Loader:
    """An iterable of batches; each iteration is one epoch, and the place in it can be saved.

    Parameters
    ----------
    store : Store
        Where batches come from.
    sampler : Sampler
        Which windows, in which order.

    Examples
    --------
    >>> import scidyn
    >>> record = scidyn.datasets.load("lynx_hare")
    >>> batches = scidyn.data.loader(record, scidyn.data.windows(record, 4), batch=8)
    >>> [tuple(batch.y.shape) for batch in batches]
    [(8, 5, 2), (8, 5, 2), (1, 5, 2)]
    """

    def __init__(self, store: Store, sampler: Sampler) -> None:
        self.store = store
        self.sampler = sampler

    def __len__(self) -> int:
        return len(self.sampler)

    def __iter__(self) -> Iterator[Batch]:
        for numbers in self.sampler:
            yield self.store.gather(numbers)

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
    shuffle: str = "full",
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
        Data, or a file for :func:`scidyn.open`.
    index : WindowIndex, optional
        Windows from :func:`windows`; None gives whole trajectories.
    batch : int
        Windows per batch.
    seed : int
        Seed of the order; epoch e is a function of (seed, e) alone.
    shuffle : {"full", "none"}
        Order of the windows.
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
    choice("shuffle", shuffle, ("full", "none"))
    if isinstance(source, str | Path):
        from scidyn.data.files import open as open_file

        source = open_file(source)
    store = MemoryWindows(source, index, dtype=dtype, device=device)
    sampler = Sampler(len(store), batch, seed=seed, shuffle=shuffle, drop_last=drop_last, rank=rank, world=world)
    return Loader(store, sampler)


def _windows_of(x: Tensor, span: int) -> Tensor:
    """All runs of ``span`` rows of (trajectory, time, …) as a view (trajectory·time − span + 1, span, …).

    Runs that cross from one trajectory to the next are in the view, and no window index points at them.
    """
    rows = x.contiguous().flatten(0, 1)
    count = max(rows.shape[0] - span + 1, 0)
    return rows.as_strided((count, span, *rows.shape[1:]), (rows.stride(0), *rows.stride()))


def _true(like: Tensor) -> Tensor:
    """An all-True mask that takes one byte."""
    return torch.ones((), dtype=torch.bool, device=like.device).expand(like.shape)
