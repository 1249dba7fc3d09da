"""Batched LU factors of small dense matrices."""

from __future__ import annotations

import torch
from torch import Tensor

from scidyn.solvers.linear.elimination import Elimination

__all__ = ["DenseMatrix"]

WRITTEN_OUT = 4  # sizes that a compiled step eliminates entry by entry


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
        self._written_out: Elimination | None = None
        if torch.compiler.is_compiling() and matrix.shape[-1] <= WRITTEN_OUT:
            self._written_out = Elimination(matrix)
            self.singular: Tensor = self._written_out.singular
            return
        self._lu, self._pivots, info = torch.linalg.lu_factor_ex(matrix)
        self.singular = info != 0

    def solve(self, b: Tensor) -> Tensor:
        """Solve for right-hand sides of shape (batch, D); differentiable."""
        if self._written_out is not None:
            return self._written_out.solve(b)
        return torch.linalg.lu_solve(self._lu, self._pivots, b.unsqueeze(-1)).squeeze(-1)
