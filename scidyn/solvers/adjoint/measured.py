"""How much memory the graph of a computation keeps."""

from __future__ import annotations

import torch
from torch import Tensor

__all__ = ["Measured"]


class Measured(torch.autograd.graph.saved_tensors_hooks):
    """Count the bytes of the tensors that graphs built inside keep alive; leaves, such as weights, are the caller's.

    Parameters
    ----------
    inputs : Tensor
        Tensors to count besides.
    """

    def __init__(self, *inputs: Tensor) -> None:
        self._kept: dict[int, int] = {}
        super().__init__(self._pack, lambda x: x)
        for x in inputs:
            self._note(x)

    def _pack(self, x: Tensor) -> Tensor:
        base = x if x._base is None else x._base
        if not (base.is_leaf and base.requires_grad):
            self._note(x)
        return x

    def _note(self, x: Tensor) -> None:
        storage = x.untyped_storage()
        self._kept[storage.data_ptr()] = storage.nbytes()

    @property
    def bytes(self) -> int:
        """Sum over the storages seen so far."""
        return sum(self._kept.values())
