"""Gaussian elimination written out entry by entry, for compilers that fuse it into one kernel."""

from __future__ import annotations

import torch
from torch import Tensor

__all__ = ["Elimination"]


class Elimination:
    """Factors of a batch of small matrices by elimination with partial pivoting, without branches.

    Parameters
    ----------
    matrix : Tensor, shape (batch, D, D)
    """

    def __init__(self, matrix: Tensor) -> None:
        size = matrix.shape[-1]
        rows = [[matrix[:, i, j] for j in range(size)] for i in range(size)]
        self._swaps: list[list[Tensor]] = []
        self._multipliers: list[list[Tensor]] = []
        for k in range(size):
            swaps, multipliers = [], []
            for i in range(k + 1, size):
                swap = rows[i][k].abs() > rows[k][k].abs()
                pairs = [_exchange(swap, a, b) for a, b in zip(rows[k], rows[i], strict=True)]
                rows[k], rows[i] = [a for a, _ in pairs], [b for _, b in pairs]
                swaps.append(swap)
            for i in range(k + 1, size):
                multiplier = rows[i][k] / rows[k][k]
                rows[i] = [
                    b - multiplier * a if j > k else b for j, (a, b) in enumerate(zip(rows[k], rows[i], strict=True))
                ]
                multipliers.append(multiplier)
            self._swaps.append(swaps)
            self._multipliers.append(multipliers)
        self._upper = rows
        self.singular: Tensor = torch.stack([rows[k][k] == 0 for k in range(size)]).any(dim=0)

    def solve(self, b: Tensor) -> Tensor:
        """Solve for right-hand sides of shape (batch, D)."""
        size = len(self._upper)
        side = [b[:, i] for i in range(size)]
        for k, (swaps, multipliers) in enumerate(zip(self._swaps, self._multipliers, strict=True)):
            for i, swap in enumerate(swaps, start=k + 1):
                side[k], side[i] = _exchange(swap, side[k], side[i])
            for i, multiplier in enumerate(multipliers, start=k + 1):
                side[i] = side[i] - multiplier * side[k]
        for k in reversed(range(size)):
            for j in range(k + 1, size):
                side[k] = side[k] - self._upper[k][j] * side[j]
            side[k] = side[k] / self._upper[k][k]
        return torch.stack(side, dim=-1)


def _exchange(swap: Tensor, a: Tensor, b: Tensor) -> tuple[Tensor, Tensor]:
    return torch.where(swap, b, a), torch.where(swap, a, b)
