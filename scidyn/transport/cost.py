"""Costs between two sets of points, held as points or as a matrix, and read out in tiles of rows."""

from __future__ import annotations

from abc import ABC, abstractmethod

import torch
from torch import Tensor

__all__ = ["Cost", "EuclideanCost", "MatrixCost", "SquaredCost", "tiles"]

TILE = 1 << 20
"""Entries of a tile: it stays within the cache of one core complex."""


def tiles(rows: int, columns: int, entries: int = TILE) -> list[slice]:
    """Cut ``rows`` into slices of about ``entries / columns`` rows."""
    size = max(1, min(rows, entries // max(columns, 1)))
    return [slice(start, min(start + size, rows)) for start in range(0, rows, size)]


class Cost(ABC):
    """A cost ``C`` of shape (n, m), split as ``C_ij = p_i + q_j + R_ij`` with cheap ``p`` and ``q``.

    Attributes
    ----------
    shape : tuple of int
        ``(n, m)``.
    dtype, device
        Of the tiles.
    """

    shape: tuple[int, int]
    dtype: torch.dtype
    device: torch.device

    @abstractmethod
    def offsets(self) -> tuple[Tensor, Tensor]:
        """``p`` (n,) and ``q`` (m,)."""

    @abstractmethod
    def fill(self, out: Tensor, rows: slice | Tensor, bias: Tensor, epsilon: float) -> Tensor:
        """Write ``bias_j - R_ij / epsilon`` for the given rows into ``out`` and return it."""

    @abstractmethod
    def take(self, rows: Tensor | None, columns: Tensor | None) -> Cost:
        """Keep the given rows and columns; None keeps all."""

    @property
    @abstractmethod
    def T(self) -> Cost:
        """The transposed cost."""

    def tile(self, rows: slice | Tensor) -> Tensor:
        """``C`` itself for the given rows, shape (k, m)."""
        p, q = self.offsets()
        part = p[rows]
        out = torch.empty(len(part), self.shape[1], dtype=self.dtype, device=self.device)
        return self.fill(out, rows, -q, 1.0).neg_().add_(part.unsqueeze(1))


class SquaredCost(Cost):
    """``|x_i - y_j|²``; one matrix product per tile."""

    def __init__(self, x: Tensor, y: Tensor) -> None:
        self.x, self.y = x, y
        self.shape = (len(x), len(y))
        self.dtype, self.device = x.dtype, x.device

    def offsets(self) -> tuple[Tensor, Tensor]:
        """Squared lengths of the points."""
        return self.x.square().sum(1), self.y.square().sum(1)

    def fill(self, out: Tensor, rows: slice | Tensor, bias: Tensor, epsilon: float) -> Tensor:
        """Write ``bias_j + 2 x_i·y_j / epsilon``."""
        return torch.addmm(bias, self.x[rows], self.y.T, alpha=2.0 / epsilon, out=out)

    def take(self, rows: Tensor | None, columns: Tensor | None) -> SquaredCost:
        """Keep some of the points."""
        return SquaredCost(self.x if rows is None else self.x[rows], self.y if columns is None else self.y[columns])

    @property
    def T(self) -> SquaredCost:
        """The two sets exchanged."""
        return SquaredCost(self.y, self.x)


class EuclideanCost(SquaredCost):
    """``|x_i - y_j|``."""

    def offsets(self) -> tuple[Tensor, Tensor]:
        """Zero: the distance does not split."""
        return self.x.new_zeros(self.shape[0]), self.y.new_zeros(self.shape[1])

    def fill(self, out: Tensor, rows: slice | Tensor, bias: Tensor, epsilon: float) -> Tensor:
        """Write ``bias_j - |x_i - y_j| / epsilon``."""
        part = self.x[rows]
        torch.addmm(self.y.square().sum(1), part, self.y.T, alpha=-2.0, out=out)
        out.add_(part.square().sum(1, keepdim=True)).clamp_(min=0.0).sqrt_()
        return out.mul_(-1.0 / epsilon).add_(bias)

    def take(self, rows: Tensor | None, columns: Tensor | None) -> EuclideanCost:
        """Keep some of the points."""
        return EuclideanCost(self.x if rows is None else self.x[rows], self.y if columns is None else self.y[columns])

    @property
    def T(self) -> EuclideanCost:
        """The two sets exchanged."""
        return EuclideanCost(self.y, self.x)


class MatrixCost(Cost):
    """A cost that is given as a matrix."""

    def __init__(self, matrix: Tensor) -> None:
        self.matrix = matrix
        self.shape = (matrix.shape[0], matrix.shape[1])
        self.dtype, self.device = matrix.dtype, matrix.device

    def offsets(self) -> tuple[Tensor, Tensor]:
        """Zero: the matrix is used as it is."""
        return self.matrix.new_zeros(self.shape[0]), self.matrix.new_zeros(self.shape[1])

    def fill(self, out: Tensor, rows: slice | Tensor, bias: Tensor, epsilon: float) -> Tensor:
        """Write ``bias_j - C_ij / epsilon``."""
        return torch.add(bias, self.matrix[rows], alpha=-1.0 / epsilon, out=out)

    def take(self, rows: Tensor | None, columns: Tensor | None) -> MatrixCost:
        """Keep some rows and columns."""
        matrix = self.matrix if rows is None else self.matrix[rows]
        return MatrixCost(matrix if columns is None else matrix[:, columns])

    @property
    def T(self) -> MatrixCost:
        """The transposed matrix, without a copy."""
        return MatrixCost(self.matrix.T)
