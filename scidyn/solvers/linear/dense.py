"""Batched LU factors of small dense matrices."""

from __future__ import annotations

import torch
from torch import Tensor

__all__ = ["DenseMatrix"]


class DenseMatrix:
    """LU factors of a batch of square matrices, reused for many right-hand sides.

    Nothing is read by the host; a singular matrix is reported per sample in ``singular`` and its
    solutions are not finite.

    Parameters
    ----------
    matrix : Tensor, shape (batch, D, D)

    Examples
    --------
    >>> import torch
    >>> from scidyn.solvers.linear import DenseMatrix
    >>> factors = DenseMatrix(torch.tensor([[[2.0, 0.0], [1.0, 4.0]]]))
    >>> factors.solve(torch.tensor([[2.0, 5.0]]))
    tensor([[1., 1.]])
    """

    def __init__(self, matrix: Tensor) -> None:
        self._lu, self._pivots, info = torch.linalg.lu_factor_ex(matrix)
        self.singular: Tensor = info != 0

    def solve(self, b: Tensor) -> Tensor:
        """Solve for right-hand sides of shape (batch, D); differentiable."""
        return torch.linalg.lu_solve(self._lu, self._pivots, b.unsqueeze(-1)).squeeze(-1)

    def detach(self) -> DenseMatrix:
        """The same factors, seen as constants by autograd."""
        copy = object.__new__(DenseMatrix)
        copy._lu, copy._pivots, copy.singular = self._lu.detach(), self._pivots, self.singular
        return copy
