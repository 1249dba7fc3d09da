"""Banded linear systems: LAPACK on a CPU, block cyclic reduction anywhere; differentiable.

A band matrix with ``lower`` and ``upper`` diagonals is stored as ``(batch, lower + upper + 1, D)``
with ``bands[:, upper + i - j, j] = A[i, j]``, the storage of LAPACK and of SciPy.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

__all__ = ["BandedMatrix", "transpose_bands"]


class BandedMatrix:
    r"""A factored batch of band matrices.

    On a CPU each sample is factored by LAPACK with partial pivoting (``gbtrf``); elsewhere the rows
    are grouped to a block tridiagonal matrix, which is solved by cyclic reduction: every second
    block row is eliminated at once, so that :math:`\log_2` (blocks) batched steps are enough.
    Cyclic reduction pivots only inside a block.

    Parameters
    ----------
    bands : Tensor, shape (batch, lower + upper + 1, D)
        ``bands[:, upper + i - j, j] = A[i, j]``; entries outside the matrix must be zero.
    lower, upper : int
        Diagonals below and above the main one.

    Attributes
    ----------
    singular : Tensor of bool, shape (batch,)
        True where a pivot is zero.

    Examples
    --------
    >>> import torch
    >>> from scidyn.solvers.linear import BandedMatrix
    >>> bands = torch.tensor([[[0.0, 1.0, 1.0], [2.0, 2.0, 2.0], [1.0, 1.0, 0.0]]])
    >>> BandedMatrix(bands, 1, 1).solve(torch.tensor([[3.0, 4.0, 3.0]]))
    tensor([[1., 1., 1.]])
    """

    def __init__(self, bands: Tensor, lower: int, upper: int) -> None:
        self._bands = bands
        self._lower, self._upper = lower, upper
        plain = bands.detach()
        use_lapack = plain.device.type == "cpu" and plain.dtype in (torch.float32, torch.float64)
        self._factors: _Lapack | _CyclicReduction = (
            _Lapack(plain, lower, upper) if use_lapack else _CyclicReduction(plain, lower, upper)
        )
        self.singular: Tensor = self._factors.singular

    def solve(self, b: Tensor) -> Tensor:
        """Solve for right-hand sides of shape (batch, D); differentiable in ``b`` and in the bands."""
        if torch.is_grad_enabled() and (b.requires_grad or self._bands.requires_grad):
            return _Solve.apply(self._bands, b, self)
        return self._factors.solve(b)

    def solve_transposed(self, b: Tensor) -> Tensor:
        """Solve with the transposed matrix."""
        if torch.is_grad_enabled() and (b.requires_grad or self._bands.requires_grad):
            bands, lower, upper = transpose_bands(self._bands, self._lower, self._upper)
            return BandedMatrix(bands, lower, upper).solve(b)
        return self._factors.solve_transposed(b)

    def detach(self) -> BandedMatrix:
        """The same factors, seen as constants by autograd."""
        copy = object.__new__(BandedMatrix)
        copy._bands = self._bands.detach()
        copy._lower, copy._upper = self._lower, self._upper
        copy._factors, copy.singular = self._factors, self.singular
        return copy


def transpose_bands(bands: Tensor, lower: int, upper: int) -> tuple[Tensor, int, int]:
    """Give the bands of the transposed matrix and its numbers of lower and upper diagonals."""
    rows = [_shift(bands[:, upper + k], k) for k in range(-upper, lower + 1)]
    return torch.stack(rows[::-1], dim=1), upper, lower


def _shift(row: Tensor, k: int) -> Tensor:
    """Move the entries of the last axis by ``k`` places to higher indices and fill with zeros."""
    out = torch.nn.functional.pad(row, (max(k, 0), max(-k, 0)))
    return out[..., : row.shape[-1]] if k >= 0 else out[..., -k:]


class _Solve(torch.autograd.Function):
    """Solution of a band system; its adjoint is one solve with the transposed matrix."""

    @staticmethod
    def forward(ctx: Any, bands: Tensor, b: Tensor, matrix: BandedMatrix) -> Tensor:
        x = matrix._factors.solve(b)
        ctx.matrix = matrix
        ctx.save_for_backward(x)
        return x

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> Any:
        matrix = ctx.matrix
        (x,) = ctx.saved_tensors
        w = matrix.solve_transposed(grad)
        d_bands = None
        if ctx.needs_input_grad[0]:
            lower, upper = matrix._lower, matrix._upper
            d_bands = torch.stack([-_shift(w, -k) * x for k in range(-upper, lower + 1)], dim=1)
        return d_bands, w, None


class _Lapack:
    """Factors of each sample by LAPACK's band routines, on a CPU."""

    def __init__(self, bands: Tensor, lower: int, upper: int) -> None:
        from scipy.linalg import get_lapack_funcs

        array = bands.numpy()
        factor, self._gbtrs = get_lapack_funcs(("gbtrf", "gbtrs"), (array[0],))
        self._lower, self._upper = lower, upper
        self._samples = []
        singular = []
        for sample in array:
            work = torch.zeros(2 * lower + upper + 1, sample.shape[-1], dtype=bands.dtype).numpy().copy("F")
            work[lower:] = sample
            lu, pivots, info = factor(work, lower, upper, overwrite_ab=True)
            self._samples.append((lu, pivots))
            singular.append(info > 0)
        self.singular = torch.tensor(singular, device=bands.device)

    def _solve(self, b: Tensor, trans: int) -> Tensor:
        out = b.detach().clone()
        for row, (lu, pivots) in zip(out.numpy(), self._samples, strict=True):
            row[:] = self._gbtrs(lu, self._lower, self._upper, row, pivots, trans=trans)[0]
        return out

    def solve(self, b: Tensor) -> Tensor:
        return self._solve(b, 0)

    def solve_transposed(self, b: Tensor) -> Tensor:
        return self._solve(b, 1)


class _CyclicReduction:
    """Factors of a block tridiagonal matrix, eliminated level by level in batched operations."""

    def __init__(self, bands: Tensor, lower: int, upper: int) -> None:
        self._bands, self._lower, self._upper = bands, lower, upper
        self._size = max(lower, upper, 1)
        below, diagonal, above = _to_blocks(bands, lower, upper, self._size)
        self._levels: list[tuple[Tensor, ...]] = []
        self.singular = bands.new_zeros(bands.shape[0], dtype=torch.bool)
        while diagonal.shape[1] > 1:
            lu, pivots, info = torch.linalg.lu_factor_ex(diagonal[:, 1::2])
            self.singular = self.singular | (info != 0).any(dim=1)
            left = torch.linalg.lu_solve(lu, pivots, below[:, 1::2])
            right = torch.linalg.lu_solve(lu, pivots, above[:, 1::2])
            down, up = below[:, ::2], above[:, ::2]
            self._levels.append((lu, pivots, left, right, down, up))
            diagonal = diagonal[:, ::2] - down @ _before(right, down) - up @ _after(left, up)
            below, above = -down @ _before(left, down), -up @ _after(right, up)
        self._last = torch.linalg.lu_factor_ex(diagonal)
        self.singular = self.singular | (self._last.info != 0).any(dim=1)

    def solve(self, b: Tensor) -> Tensor:
        batch, width = b.shape
        blocks = -(-width // self._size)
        padded = torch.nn.functional.pad(b, (0, blocks * self._size - width))
        right_side = padded.reshape(batch, blocks, self._size, 1)
        odd_sides = []
        for lu, pivots, _left, _right, down, up in self._levels:
            odd = torch.linalg.lu_solve(lu, pivots, right_side[:, 1::2])
            odd_sides.append(odd)
            right_side = right_side[:, ::2] - down @ _before(odd, down) - up @ _after(odd, up)
        x = torch.linalg.lu_solve(self._last.LU, self._last.pivots, right_side)
        for (_lu, _pivots, left, right, _down, _up), odd in zip(
            reversed(self._levels), reversed(odd_sides), strict=True
        ):
            count = odd.shape[1]
            after = torch.nn.functional.pad(x, (0, 0, 0, 0, 0, 1))[:, 1 : count + 1]
            middle = odd - left @ x[:, :count] - right @ after
            both = torch.stack((x[:, :count], middle), dim=2).flatten(1, 2)
            x = torch.cat((both, x[:, count:]), dim=1)
        return x.reshape(batch, -1)[:, :width]

    def solve_transposed(self, b: Tensor) -> Tensor:
        return _CyclicReduction(*transpose_bands(self._bands, self._lower, self._upper)).solve(b)


def _before(odd: Tensor, even: Tensor) -> Tensor:
    """For each even block, the odd block before it (zero for the first)."""
    return torch.nn.functional.pad(odd, (0, 0, 0, 0, 1, 0))[:, : even.shape[1]]


def _after(odd: Tensor, even: Tensor) -> Tensor:
    """For each even block, the odd block after it (zero past the end)."""
    return torch.nn.functional.pad(odd, (0, 0, 0, 0, 0, 1))[:, : even.shape[1]]


def _to_blocks(bands: Tensor, lower: int, upper: int, size: int) -> tuple[Tensor, Tensor, Tensor]:
    """Sub-diagonal, diagonal and super-diagonal blocks; rows past the end are rows of the identity."""
    batch, _, width = bands.shape
    blocks = -(-width // size)
    full = blocks * size
    row = torch.arange(full, device=bands.device).reshape(blocks, size, 1)
    column = torch.arange(size, device=bands.device)
    parts = []
    for offset in (-1, 0, 1):
        j = row - row % size + offset * size + column
        place = upper + row - j
        inside = (place >= 0) & (place <= lower + upper) & (j >= 0) & (j < width) & (row < width)
        flat = place.clamp(0, lower + upper) * width + j.clamp(0, width - 1)
        block = bands.reshape(batch, -1)[:, flat.reshape(-1)].reshape(batch, blocks, size, size)
        block = torch.where(inside, block, torch.zeros_like(block))
        if offset == 0:
            block = block + ((row >= width) & (row == j)).to(bands.dtype)
        parts.append(block)
    return parts[0], parts[1], parts[2]
