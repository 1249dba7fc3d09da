"""Steady states and fixed points, differentiable by the implicit function theorem."""

from __future__ import annotations

import warnings
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from scidyn._check.tensors import finite, floating
from scidyn._check.values import choice, integer, number
from scidyn.errors import OptionError, ShapeError, SolverError, SolverWarning
from scidyn.solvers.linear.choice import LinearAlgebra
from scidyn.solvers.linear.jacobian import TimeAndState
from scidyn.solvers.methods.esdirk import fallback_scale
from scidyn.solvers.newton import SecondOrderOnly, reads_are_cheap

__all__ = ["SteadyState", "fixed_point", "solve_steady_state"]

Map = Callable[[Tensor], Tensor]
LONGEST = 1e10
RIDGE = 1e-12


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
    choice("method", method, ("transient", "newton"))
    rows, rate = _rows(f, y0, args, number("t", t))
    algebra = algebra or LinearAlgebra()
    algebra.check("steady state", rows)
    tolerance = number("rtol", rtol, at_least=0), number("atol", atol, at_least=0)
    limit = integer("max_iterations", max_iterations, at_least=1)
    y, converged, residual, count = _relax(rate, rows.detach(), algebra, method, tolerance, limit)
    y = _attach(lambda z: z + rate(z), y, algebra)
    return _finish(y, y0, converged, residual, count, on_failure, "steady state")


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
    rows, rate = _rows(lambda _, z, *rest: g(z, *rest), z0, args, 0.0)
    tolerance = number("rtol", rtol, at_least=0), number("atol", atol, at_least=0)
    limit = integer("max_iterations", max_iterations, at_least=1)
    kept = integer("memory", memory, at_least=1)
    part = number("damping", damping, above=0, at_most=1)
    z, converged, residual, count = _anderson(rate, rows.detach(), kept, part, tolerance, limit)
    z = _attach(rate, z, algebra or LinearAlgebra("krylov"))
    return _finish(z, z0, converged, residual, count, on_failure, "fixed point")


def _rows(f: Callable[..., Tensor], y0: Tensor, args: Any, t: float) -> tuple[Tensor, Map]:
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


def _small(change: Tensor, y: Tensor, tolerance: tuple[float, float]) -> tuple[Tensor, Tensor]:
    """Norm of each sample's residual, and whether it is within the tolerance."""
    size = torch.linalg.vector_norm(change, dim=-1)
    return size, size <= tolerance[1] + tolerance[0] * torch.linalg.vector_norm(y, dim=-1)


@torch.no_grad()
def _relax(
    rate: Map, y: Tensor, algebra: LinearAlgebra, method: str, tolerance: tuple[float, float], limit: int
) -> tuple[Tensor, Tensor, Tensor, int]:
    """Pseudo-transient continuation; samples that have converged stand still."""
    value = rate(y)
    size, done = _small(value, y, tolerance)
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
        new_size, new_done = _small(new_value, trial, tolerance)
        good = torch.isfinite(new_size) & (new_size <= allowed_growth * size)
        take = good & ~done
        growth = torch.where(good, (size / new_size.clamp_min(torch.finfo(y.dtype).tiny)).clamp(0.5, 10.0) * 1.5, 0.25)
        if method == "transient":
            step = torch.where(done, step, (step * growth).clamp(1e-14, LONGEST))
        y = torch.where(take.unsqueeze(-1), trial, y)
        value = torch.where(take.unsqueeze(-1), new_value, value)
        size, done = torch.where(take, new_size, size), done | (take & new_done)
    return y, done, size, count


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
        now, small = _small(change, z, tolerance)
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


def _attach(g: Map, z: Tensor, algebra: LinearAlgebra) -> Tensor:
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


def _finish(
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
