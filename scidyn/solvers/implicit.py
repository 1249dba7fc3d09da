"""States defined by an equation: what steady states and fixed points share."""

from __future__ import annotations

import warnings
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from scidyn._check.tensors import finite, floating
from scidyn._check.values import choice
from scidyn.errors import OptionError, ShapeError, SolverError, SolverWarning
from scidyn.solvers.linear.choice import LinearAlgebra
from scidyn.solvers.linear.jacobian import TimeAndState
from scidyn.solvers.methods.esdirk import fallback_scale
from scidyn.solvers.newton import SecondOrderOnly
from scidyn.solvers.transforms import Solver, transformed, transforming

__all__ = ["Map", "SteadyState", "as_rows", "differentiable", "finished", "under_transform", "within"]

Map = Callable[[Tensor], Tensor]


@dataclass(frozen=True)
class SteadyState:
    """A solved steady state or fixed point.

    Attributes
    ----------
    y : Tensor, shape (batch, *state)
        The states; NaN for a sample that did not converge.
    converged : Tensor of bool, shape (batch,)
        Whether each sample converged.
    residual : Tensor, shape (batch,)
        Norm of the rate, or of the change that the map makes, at the state.
    iterations : int
        Iterations of the sample that took most.

    Examples
    --------
    >>> import torch
    >>> from scidyn.solvers import solve_steady_state
    >>> solve_steady_state(lambda t, y: 2.0 - y, torch.zeros(1, 1)).converged
    tensor([True])
    """

    y: Tensor
    converged: Tensor
    residual: Tensor
    iterations: int


def as_rows(f: Callable[..., Tensor], y0: Tensor, args: Any, t: float) -> tuple[Tensor, Map]:
    """Check the guess; give it as rows, and f as a function of rows."""
    if not callable(f):
        raise OptionError(f"f must be callable; got {type(f).__name__}.")
    if not isinstance(y0, Tensor) or y0.ndim < 2:
        raise ShapeError("the first guess must be a tensor of shape (batch, *state).")
    floating("y0", y0)
    finite("y0", y0.detach(), "Give a finite first guess.")
    time = torch.full((), t, dtype=y0.real.dtype, device=y0.device)

    def rate(rows: Tensor) -> Tensor:
        state = rows.reshape(y0.shape)
        value = f(time, state) if args is None else f(time, state, args)
        if value.shape != y0.shape:
            raise ShapeError(f"f returned shape {tuple(value.shape)}, the state has {tuple(y0.shape)}.")
        return value.reshape(rows.shape)

    return y0.reshape(y0.shape[0], -1), rate


def within(change: Tensor, y: Tensor, tolerance: tuple[float, float]) -> tuple[Tensor, Tensor]:
    """Norm of each sample's residual, and whether it is within the tolerance."""
    size = torch.linalg.vector_norm(change, dim=-1)
    return size, size <= tolerance[1] + tolerance[0] * torch.linalg.vector_norm(y, dim=-1)


def differentiable(g: Map, z: Tensor, algebra: LinearAlgebra) -> Tensor:
    """Give a fixed point of g the derivatives of the implicit function, up to the second."""
    if not torch.is_grad_enabled():
        return z
    one = torch.ones(1, dtype=z.dtype, device=z.device)

    def rate(t: Tensor, y: Tensor) -> Tensor:
        return g(y)

    where = TimeAndState(torch.zeros_like(one), one, z, g(z).detach(), fallback_scale(z))
    with torch.no_grad():
        matrix = algebra.linearisation.at(rate, where, exact=True, time=False).factored(one)
    first = z + matrix.solve(g(z) - z)
    if not first.requires_grad:
        return z
    first = SecondOrderOnly.apply(first)
    return first + matrix.solve(g(first) - first)


def finished(
    y: Tensor, y0: Tensor, converged: Tensor, residual: Tensor, count: int, on_failure: str, what: str
) -> SteadyState:
    """Put NaN where a sample failed, and say so as asked."""
    choice("on_failure", on_failure, ("raise", "warn", "return"))
    shaped = torch.where(converged.unsqueeze(-1), y, torch.nan).reshape(y0.shape)
    found = SteadyState(shaped, converged, residual, count)
    if on_failure == "return" or bool(converged.all()):
        return found
    failed = (~converged).nonzero().flatten().tolist()
    message = (
        f"{len(failed)} of {len(converged)} samples found no {what} in {count} iterations (first: sample {failed[0]}, "
        f"residual {residual[failed[0]].item():.2g}): give a better first guess, loosen rtol and atol, or raise "
        "max_iterations."
    )
    if on_failure == "raise":
        raise SolverError(message, found)
    warnings.warn(message, SolverWarning, stacklevel=3)
    return found


def under_transform(
    solve: Callable[..., SteadyState], f: Callable[..., Tensor], y0: Any, t: float, options: dict[str, Any]
) -> SteadyState | None:
    """Solve inside a transform of ``torch.func`` as one batch; None if no tensor of the equation belongs to one.

    ``solve(g, y0)`` solves for the field ``g(t, y)``; ``options["args"]`` is the third argument of ``f``.
    """
    if not transforming() or not callable(f) or not isinstance(y0, Tensor):
        return None
    time = torch.full((), t, dtype=y0.real.dtype, device=y0.device)
    solver = Solver(lambda g, rows, when, params: solve(g, rows), own_times=False)
    found: SteadyState | None = transformed(solver, f, y0, time, options["args"])
    return found
