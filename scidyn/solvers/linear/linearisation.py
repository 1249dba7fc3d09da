"""Jacobians of a vector field, and the matrices ``I - shift * J`` that implicit steps solve with.

A :class:`Linearisation` says how a Jacobian is found and stored (dense, banded, only by products);
:meth:`Linearisation.at` evaluates it at a point and the result makes a :class:`Factored` matrix for a
shift. Every sample has its own Jacobian: the vector field must not mix samples.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Protocol

import torch
from torch import Tensor

from scidyn.solvers.linear.banded import BandedMatrix
from scidyn.solvers.linear.dense import DenseMatrix
from scidyn.solvers.linear.gmres import gmres
from scidyn.solvers.linear.jacobian import (
    TimeAndState,
    difference_columns,
    difference_time,
    exact_rows,
    increments,
)

__all__ = ["Banded", "Dense", "Factored", "JacobianFunction", "Linearisation", "MatrixFree", "Point"]

Rate = Callable[[Tensor, Tensor], Tensor]
JacobianFunction = Callable[[Tensor, Tensor], Tensor]


class Factored(Protocol):
    """A matrix ready to solve with."""

    singular: Tensor

    def solve(self, b: Tensor) -> Tensor:
        """Solve for right-hand sides of shape (batch, D); differentiable in ``b``."""


class Point(Protocol):
    """A Jacobian at one point."""

    time_slope: Tensor | None
    tensors: tuple[Tensor, ...]

    def factored(self, shift: Tensor) -> Factored:
        """Prepare ``I - shift * J``; ``shift`` has shape (1,) or (batch,)."""


class Linearisation(Protocol):
    """How Jacobians are found and stored."""

    def at(self, rate: Rate, where: TimeAndState, *, exact: bool, time: bool) -> Point:
        """Linearise at a point, with ``df/dt`` if ``time``; ``exact`` forbids differences."""

    def restore(self, tensors: tuple[Tensor, ...], rate: Rate, where: TimeAndState) -> Point:
        """Give the point whose ``tensors`` were kept; a Jacobian that has none is that of ``where``."""


class Dense:
    """Full matrices (batch, D, D), by differences, by reverse mode, or by the user's function."""

    def __init__(self, function: JacobianFunction | None = None) -> None:
        self._function = function

    def at(self, rate: Rate, where: TimeAndState, *, exact: bool, time: bool) -> _DensePoint:
        """Linearise at a point."""
        width = where.y.shape[-1]
        if self._function is not None:
            jacobian = self._function(where.t, where.y)
            slope = _time_only(rate, where, exact) if time else None
        elif exact:
            jacobian, slope = exact_rows(rate, where, _identity_rows(width, where.y), time=time)
        else:
            steps = increments(where)
            jacobian = difference_columns(rate, where, torch.diag_embed(steps).movedim(1, 0))
            jacobian = jacobian.movedim(0, -1) / steps.unsqueeze(-2)
            slope = difference_time(rate, where) if time else None
        return _DensePoint(jacobian, slope)

    def restore(self, tensors: tuple[Tensor, ...], rate: Rate, where: TimeAndState) -> _DensePoint:
        """Give the point of a kept matrix."""
        return _DensePoint(tensors[0], None)


class _DensePoint:
    def __init__(self, jacobian: Tensor, time_slope: Tensor | None) -> None:
        self.jacobian = jacobian
        self.time_slope = time_slope
        self.tensors: tuple[Tensor, ...] = (jacobian,)

    def factored(self, shift: Tensor) -> DenseMatrix:
        scaled = self.jacobian * (-shift.to(self.jacobian.dtype)).reshape(-1, 1, 1)
        eye = torch.eye(scaled.shape[-1], dtype=scaled.dtype, device=scaled.device)
        return DenseMatrix(scaled + eye)


class Banded:
    """Band matrices; ``lower + upper + 1`` evaluations of the vector field find all diagonals."""

    def __init__(self, lower: int, upper: int) -> None:
        self.lower, self.upper = lower, upper

    def at(self, rate: Rate, where: TimeAndState, *, exact: bool, time: bool) -> _BandedPoint:
        """Linearise at a point."""
        width = where.y.shape[-1]
        colours = min(self.lower + self.upper + 1, width)
        index = torch.arange(width, device=where.y.device)
        group = (index % colours == torch.arange(colours, device=where.y.device).unsqueeze(1)).to(where.y.dtype)
        offsets = torch.arange(self.lower + self.upper + 1, device=where.y.device).unsqueeze(1) - self.upper
        row = index + offsets
        inside = (row >= 0) & (row < width)
        row = row.clamp(0, width - 1)
        slope: Tensor | None = None
        if exact:
            compressed, slope = exact_rows(rate, where, group, time=time)
            bands = compressed[:, row % colours, index.expand_as(row)]
        else:
            steps = increments(where)
            compressed = difference_columns(rate, where, group.unsqueeze(1) * steps)
            bands = compressed.movedim(0, 1)[:, index % colours, row] / steps.unsqueeze(1)
            slope = difference_time(rate, where) if time else None
        return _BandedPoint(torch.where(inside, bands, torch.zeros_like(bands)), self.lower, self.upper, slope)

    def restore(self, tensors: tuple[Tensor, ...], rate: Rate, where: TimeAndState) -> _BandedPoint:
        """Give the point of kept bands."""
        return _BandedPoint(tensors[0], self.lower, self.upper, None)


class _BandedPoint:
    def __init__(self, bands: Tensor, lower: int, upper: int, time_slope: Tensor | None) -> None:
        self.bands, self.lower, self.upper = bands, lower, upper
        self.time_slope = time_slope
        self.tensors: tuple[Tensor, ...] = (bands,)

    def factored(self, shift: Tensor) -> BandedMatrix:
        scaled = self.bands * (-shift.to(self.bands.dtype)).reshape(-1, 1, 1)
        main = torch.zeros(scaled.shape[1:], dtype=scaled.dtype, device=scaled.device)
        main[self.upper] = 1.0
        return BandedMatrix(scaled + main, self.lower, self.upper)


class MatrixFree:
    """No matrix: products with J by directional differences or by automatic differentiation, and GMRES.

    Parameters
    ----------
    tol : float
        Relative residual of the linear solves of a Newton iteration; gradients use ``1e-12``.
    preconditioner : callable, optional
        ``preconditioner(t, y, shift, v)`` gives an approximation of ``(I - shift J)^-1 v``.
    """

    def __init__(
        self,
        *,
        tol: float = 1e-3,
        preconditioner: Callable[[Tensor, Tensor, Tensor, Tensor], Tensor] | None = None,
    ) -> None:
        self._tol = tol
        self._preconditioner = preconditioner

    def at(self, rate: Rate, where: TimeAndState, *, exact: bool, time: bool) -> _FreePoint:
        """Linearise at a point."""
        slope = _time_only(rate, where, exact) if time else None
        return _FreePoint(rate, where, 1e-12 if exact else self._tol, exact, self._preconditioner, slope)

    def restore(self, tensors: tuple[Tensor, ...], rate: Rate, where: TimeAndState) -> _FreePoint:
        """Nothing is kept: products are taken at ``where``."""
        return self.at(rate, where, exact=False, time=False)


class _FreePoint:
    def __init__(
        self,
        rate: Rate,
        where: TimeAndState,
        tol: float,
        exact: bool,
        preconditioner: Callable[[Tensor, Tensor, Tensor, Tensor], Tensor] | None,
        time_slope: Tensor | None,
    ) -> None:
        self.rate, self.where, self.tol, self.exact = rate, where, tol, exact
        self.preconditioner = preconditioner
        self.time_slope = time_slope
        self.tensors: tuple[Tensor, ...] = ()

    def factored(self, shift: Tensor) -> _Krylov:
        return _Krylov(self, shift.to(self.where.y.dtype).unsqueeze(-1))


class _Krylov:
    """Solves with ``I - shift J`` by GMRES, and with its transpose in the backward pass."""

    def __init__(self, point: _FreePoint, shift: Tensor) -> None:
        self._point, self._shift = point, shift
        self.singular: Tensor = torch.zeros(point.where.y.shape[0], dtype=torch.bool, device=point.where.y.device)

    def solve(self, b: Tensor) -> Tensor:
        if torch.is_grad_enabled() and b.requires_grad:
            return _KrylovSolve.apply(b, self, False)
        return self._run(self._product, b)

    def run(self, b: Tensor, transposed: bool) -> Tensor:
        return self._run(self._transposed_product if transposed else self._product, b)

    def _run(self, operator: Callable[[Tensor], Tensor], b: Tensor) -> Tensor:
        point = self._point
        inverse: Callable[[Tensor], Tensor] | None = None
        if point.preconditioner is not None and operator == self._product:
            given, where = point.preconditioner, point.where

            def inverse(v: Tensor) -> Tensor:
                return given(where.t, where.y, self._shift.squeeze(-1), v)

        x, converged = gmres(operator, b, tol=point.tol, preconditioner=inverse, cycles=4)
        self.singular = self.singular | (~converged & torch.isfinite(b).all(-1))
        return x

    def _product(self, v: Tensor) -> Tensor:
        where = self._point.where
        if self._point.exact:
            change = torch.func.jvp(lambda y: self._point.rate(where.t, y), (where.y.detach(),), (v,))[1]
            return v - self._shift * change
        size = torch.linalg.vector_norm(v, dim=-1, keepdim=True)
        size = size.clamp_min(torch.finfo(v.dtype).tiny)
        reach = torch.finfo(v.dtype).eps ** 0.5 * (
            where.scale.amax(-1, keepdim=True) + torch.linalg.vector_norm(where.y, dim=-1, keepdim=True)
        )
        change = (self._point.rate(where.t, where.y + (reach / size) * v) - where.k1) * (size / reach)
        return v - self._shift * change

    def _transposed_product(self, v: Tensor) -> Tensor:
        where = self._point.where
        with torch.enable_grad():
            y = where.y.detach().requires_grad_()
            out = self._point.rate(where.t, y)
            if not out.requires_grad:
                return v
            (change,) = torch.autograd.grad(out, y, v, allow_unused=True, materialize_grads=True)
        return v - self._shift * change


class _KrylovSolve(torch.autograd.Function):
    """Matrix-free solution of ``(I - shift J) x = b`` or its transpose, differentiable in ``b`` any number of times."""

    @staticmethod
    def forward(ctx, b: Tensor, matrix: _Krylov, transposed: bool) -> Tensor:  # type: ignore[no-untyped-def]
        ctx.matrix, ctx.transposed = matrix, transposed
        return matrix.run(b, transposed)

    @staticmethod
    def backward(ctx, grad: Tensor):  # type: ignore[no-untyped-def]
        return _KrylovSolve.apply(grad, ctx.matrix, not ctx.transposed), None, None


def _identity_rows(width: int, like: Tensor) -> Tensor:
    return torch.eye(width, dtype=like.dtype, device=like.device)


def _time_only(rate: Rate, where: TimeAndState, exact: bool) -> Tensor:
    """Slope in time alone."""
    if not exact:
        return difference_time(rate, where)
    rows = _identity_rows(where.y.shape[-1], where.y)
    slope = exact_rows(rate, where, rows, time=True)[1]
    return torch.zeros_like(where.y) if slope is None else slope
