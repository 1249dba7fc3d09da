"""Windows or whole trajectories gathered from tensors in memory."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import Tensor

from scidyn.data.batch import Batch
from scidyn.data.convert import to_batch
from scidyn.data.windows import WindowIndex
from scidyn.errors import OptionError

if TYPE_CHECKING:
    import xarray as xr

__all__ = ["MemoryWindows"]


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
