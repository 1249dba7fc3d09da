"""Memory of batches that is used again once nobody holds the batch."""

from __future__ import annotations

import sys
from collections import deque
from typing import Any

import numpy as np
import torch
from torch import Tensor

__all__ = ["Buffers"]

# what counts as "nobody": the local name and the argument of getrefcount
_ALONE = 2


class Buffers:
    """A small stock of arrays; one is lent again only when no tensor, view or array refers to it.

    A tensor made by ``torch.from_numpy`` holds a reference to the array until its storage is freed, and
    every view of it, every graph that saved it and every array made from it holds the storage. The
    number of references to the array therefore says whether it is free; nothing has to be given back.
    New pages cost as much as filling them, which is what the stock saves.

    Parameters
    ----------
    most : int
        Arrays kept. More may be lent; those are forgotten and freed as usual.

    Examples
    --------
    >>> import numpy as np
    >>> from scidyn.data.buffers import Buffers
    >>> buffers = Buffers()
    >>> first = buffers.lend(buffers.take((2, 3), np.dtype(float)))
    >>> kept = buffers.lend(buffers.take((2, 3), np.dtype(float)))
    >>> kept.data_ptr() == first.data_ptr()
    False
    """

    def __init__(self, most: int = 8) -> None:
        self.most = most
        self._stock: deque[np.ndarray] = deque()
        # without the global lock, counts of references are estimates; then every batch is new
        self._counts = getattr(sys, "_is_gil_enabled", lambda: True)() and hasattr(sys, "getrefcount")

    def __getstate__(self) -> dict[str, Any]:
        return {"most": self.most, "_stock": deque(), "_counts": self._counts}

    def take(self, shape: tuple[int, ...], dtype: np.dtype) -> np.ndarray:
        """An array with any content: a free one of this shape, else a new one."""
        for _ in range(len(self._stock)):
            try:
                array = self._stock.popleft()  # out of the stock, so that no other thread finds it
            except IndexError:
                break
            if sys.getrefcount(array) == _ALONE:
                if array.shape == shape and array.dtype == dtype:
                    return array
                continue  # free and of another shape: an end of an epoch, not worth keeping
            self._stock.append(array)
        return np.empty(shape, dtype=dtype)

    def lend(self, array: np.ndarray) -> Tensor:
        """The array as a tensor; it comes back to the stock by itself."""
        tensor = torch.from_numpy(array)
        if self._counts and len(self._stock) < self.most:
            self._stock.append(array)
        return tensor
