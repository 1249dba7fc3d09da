"""Fixed points by Anderson's acceleration, as implicit layers take them."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from scidyn._check.values import integer, number
from scidyn.solvers.implicit import Map, SteadyState, as_rows, differentiable, finished, under_transform, within
from scidyn.solvers.linear.choice import LinearAlgebra
from scidyn.solvers.newton import reads_are_cheap

__all__ = ["fixed_point"]

RIDGE = 1e-12


def fixed_point(
    g: Callable[..., Tensor],
    z0: Tensor,
    *,
    args: Any = None,
    memory: int = 5,
    damping: float = 1.0,
    rtol: float = 1e-6,
    atol: float = 1e-8,
    max_iterations: int = 100,
    algebra: LinearAlgebra | None = None,
    on_failure: str = "raise",
) -> SteadyState:
    r"""Solve ``z = g(z)`` by Anderson's acceleration, as an implicit layer does.

    The next iterate combines the last ``memory`` values of g with the weights, of sum one, that make the
    combined change smallest. The gradient is that of the implicit function,
    :math:`\mathrm{d}z = (I - \partial g/\partial z)^{-1} \mathrm{d}g`.

    Parameters
    ----------
    g : callable
        ``g(z)`` or ``g(z, args)``; gives the shape of z.
    z0 : Tensor, shape (batch, *state)
        First guess.
    args : object, optional
        Second argument of g.
    memory : int
        Iterates combined.
    damping : float
        Part of the change that is taken, in (0, 1].
    rtol, atol : float
        A sample has converged once ``norm(g(z) - z) <= atol + rtol * norm(z)``.
    max_iterations : int
        Largest number of evaluations.
    algebra : LinearAlgebra, optional
        How the adjoint system is solved; default: GMRES with products only.
    on_failure : str
        ``"raise"``, ``"warn"`` or ``"return"`` if a sample does not converge.

    Returns
    -------
    SteadyState

    Raises
    ------
    scidyn.errors.SolverError
        If a sample did not converge and ``on_failure="raise"``.
    scidyn.errors.OptionError, scidyn.errors.ShapeError
        If an argument cannot be used.

    Examples
    --------
    >>> import torch
    >>> from scidyn.solvers import fixed_point
    >>> round(fixed_point(torch.cos, torch.zeros(1, 1, dtype=torch.float64)).y.item(), 6)
    0.739085

    References
    ----------
    D. G. Anderson, J. ACM 12, 547–560, 1965. H. F. Walker, P. Ni, SIAM J. Numer. Anal. 49, 1715–1735, 2011.
    """
    options: dict[str, Any] = {"args": args, "memory": memory, "damping": damping, "rtol": rtol, "atol": atol}
    options |= {"max_iterations": max_iterations, "algebra": algebra, "on_failure": on_failure}
    plain = options | {"args": None}

    def solve(f: Callable[..., Tensor], rows: Tensor) -> SteadyState:
        return fixed_point(lambda z: f(rows.new_zeros(()), z), rows, **plain)

    mapped = under_transform(solve, lambda _, z, *rest: g(z, *rest), z0, 0.0, options)
    if mapped is not None:
        return mapped
    rows, rate = as_rows(lambda _, z, *rest: g(z, *rest), z0, args, 0.0)
    tolerance = number("rtol", rtol, at_least=0), number("atol", atol, at_least=0)
    limit = integer("max_iterations", max_iterations, at_least=1)
    kept = integer("memory", memory, at_least=1)
    part = number("damping", damping, above=0, at_most=1)
    z, converged, residual, count = _anderson(rate, rows.detach(), kept, part, tolerance, limit)
    z = differentiable(rate, z, algebra or LinearAlgebra("krylov"))
    return finished(z, z0, converged, residual, count, on_failure, "fixed point")


@torch.no_grad()
def _anderson(
    rate: Map, z: Tensor, memory: int, damping: float, tolerance: tuple[float, float], limit: int
) -> tuple[Tensor, Tensor, Tensor, int]:
    """Anderson's acceleration with its normal equations solved per sample."""
    states: list[Tensor] = []
    changes: list[Tensor] = []
    done = torch.zeros(z.shape[0], dtype=torch.bool, device=z.device)
    size = torch.zeros_like(z[:, 0])
    count = 0
    for _ in range(limit):
        count += 1
        change = rate(z) - z
        now, small = within(change, z, tolerance)
        size, done = torch.where(done, size, now), done | small
        if reads_are_cheap(z) and bool(done.all()):
            break
        states, changes = [*states, z][-memory:], [*changes, change][-memory:]
        past, moves = torch.stack(states, dim=1), torch.stack(changes, dim=1)
        gram = moves @ moves.transpose(1, 2)
        scale = torch.diagonal(gram, dim1=1, dim2=2).amax(dim=-1).clamp_min(torch.finfo(z.dtype).tiny)
        eye = torch.eye(gram.shape[-1], dtype=z.dtype, device=z.device)
        gram = gram / scale.reshape(-1, 1, 1) + RIDGE * eye
        weights = torch.linalg.solve_ex(gram, torch.ones_like(gram[..., :1]))[0]
        weights = weights / weights.sum(dim=1, keepdim=True)
        following = (weights * (past + damping * moves)).sum(dim=1)
        plain = z + damping * change
        following = torch.where(torch.isfinite(following).all(dim=-1, keepdim=True), following, plain)
        z = torch.where(done.unsqueeze(-1), z, following)
    return z, done, size, count
