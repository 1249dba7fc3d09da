"""Steady states of a vector field by pseudo-transient continuation or Newton's method."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from scidyn._check.values import choice, integer, number
from scidyn.solvers.implicit import Map, SteadyState, as_rows, differentiable, finished, under_transform, within
from scidyn.solvers.linear.choice import LinearAlgebra
from scidyn.solvers.linear.jacobian import TimeAndState
from scidyn.solvers.methods.esdirk import fallback_scale
from scidyn.solvers.newton import reads_are_cheap

__all__ = ["solve_steady_state"]

LONGEST = 1e10


def solve_steady_state(
    f: Callable[..., Tensor],
    y0: Tensor,
    *,
    args: Any = None,
    t: float = 0.0,
    method: str = "transient",
    rtol: float = 1e-8,
    atol: float = 1e-10,
    max_iterations: int = 200,
    algebra: LinearAlgebra | None = None,
    on_failure: str = "raise",
) -> SteadyState:
    r"""Solve ``f(t, y) = 0`` for y near ``y0``.

    Each iteration solves :math:`(I - \delta J)\,\Delta = \delta f`. With ``"transient"`` the pseudo-time step
    δ starts small and grows as the residual falls, so that the iteration follows the dynamics to a stable
    state before it turns into Newton's; with ``"newton"`` δ is infinite from the start. The gradient with
    respect to everything that f depends on is that of the implicit function,
    :math:`\mathrm{d}y = -J^{-1} \mathrm{d}f`, and costs one transposed solve.

    Parameters
    ----------
    f : callable
        ``f(t, y)`` or ``f(t, y, args)``, as for :func:`~scidyn.solvers.solve_ode`.
    y0 : Tensor, shape (batch, *state)
        First guess.
    args : object, optional
        Third argument of f.
    t : float
        Time at which f is evaluated.
    method : str
        ``"transient"`` or ``"newton"``.
    rtol, atol : float
        A sample has converged once ``norm(f) <= atol + rtol * norm(y)``.
    max_iterations : int
        Largest number of iterations.
    algebra : LinearAlgebra, optional
        How the Jacobian is found and the linear systems are solved; default: full matrices.
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
    >>> from scidyn.solvers import solve_steady_state
    >>> theta = torch.tensor(2.0, dtype=torch.float64, requires_grad=True)
    >>> steady = solve_steady_state(lambda t, y: theta - y**2, torch.ones(1, 1, dtype=torch.float64))
    >>> steady.y.sum().backward()
    >>> round(theta.grad.item(), 6)  # 1 / (2 sqrt(2))
    0.353553

    References
    ----------
    C. T. Kelley, D. E. Keyes, SIAM J. Numer. Anal. 35, 508–523, 1998.
    """
    options: dict[str, Any] = {"args": args, "method": method, "rtol": rtol, "atol": atol}
    options |= {"max_iterations": max_iterations, "algebra": algebra, "on_failure": on_failure}
    plain = options | {"args": None, "t": t}
    mapped = under_transform(lambda g, rows: solve_steady_state(g, rows, **plain), f, y0, t, options)
    if mapped is not None:
        return mapped
    choice("method", method, ("transient", "newton"))
    rows, rate = as_rows(f, y0, args, number("t", t))
    algebra = algebra or LinearAlgebra()
    algebra.check("steady state", rows)
    tolerance = number("rtol", rtol, at_least=0), number("atol", atol, at_least=0)
    limit = integer("max_iterations", max_iterations, at_least=1)
    y, converged, residual, count = _relax(rate, rows.detach(), algebra, method, tolerance, limit)
    y = differentiable(lambda z: z + rate(z), y, algebra)
    return finished(y, y0, converged, residual, count, on_failure, "steady state")


@torch.no_grad()
def _relax(
    rate: Map, y: Tensor, algebra: LinearAlgebra, method: str, tolerance: tuple[float, float], limit: int
) -> tuple[Tensor, Tensor, Tensor, int]:
    """Pseudo-transient continuation; samples that have converged stand still."""
    value = rate(y)
    size, done = within(value, y, tolerance)
    reach = 0.1 * (torch.linalg.vector_norm(y, dim=-1) + 1e-3) / size.clamp_min(torch.finfo(y.dtype).tiny)
    step = torch.full_like(size, LONGEST) if method == "newton" else reach.clamp(1e-8, LONGEST)
    allowed_growth = torch.inf if method == "newton" else 2.0
    count = 0
    zero = torch.zeros_like(size)
    for count in range(1, limit + 1):
        if reads_are_cheap(y) and bool(done.all()):
            count -= 1
            break
        where = TimeAndState(zero, step, y, value, fallback_scale(y))
        matrix = algebra.linearisation.at(lambda _, z: rate(z), where, exact=False, time=False).factored(step)
        trial = y + matrix.solve(step.unsqueeze(-1) * value)
        new_value = rate(trial)
        new_size, new_done = within(new_value, trial, tolerance)
        good = torch.isfinite(new_size) & (new_size <= allowed_growth * size)
        take = good & ~done
        growth = torch.where(good, (size / new_size.clamp_min(torch.finfo(y.dtype).tiny)).clamp(0.5, 10.0) * 1.5, 0.25)
        if method == "transient":
            step = torch.where(done, step, (step * growth).clamp(1e-14, LONGEST))
        y = torch.where(take.unsqueeze(-1), trial, y)
        value = torch.where(take.unsqueeze(-1), new_value, value)
        size, done = torch.where(take, new_size, size), done | (take & new_done)
    return y, done, size, count
