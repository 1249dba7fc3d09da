"""Underdamped Langevin dynamics: paths and samples of a density known up to its constant."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from scidyn._check.values import choice, integer, number
from scidyn.errors import OptionError, ShapeError, SolverError
from scidyn.solvers.brownian import BrownianIncrements
from scidyn.solvers.sde.arguments import check_start, check_times
from scidyn.solvers.sde.capture import needed
from scidyn.solvers.sde.engine import solve_direct, solve_discrete
from scidyn.solvers.sde.methods.langevin import LANGEVIN_METHODS, Dynamics
from scidyn.solvers.sde.plan import make_grid, make_plan

__all__ = ["LangevinSolution", "solve_langevin"]


@dataclass(frozen=True)
class LangevinSolution:
    """Paths of underdamped Langevin dynamics.

    Attributes
    ----------
    t : Tensor, shape (time,)
        The times asked for.
    x, v : Tensor, shape (batch, time, *state)
        Positions and velocities.
    """

    t: Tensor
    x: Tensor
    v: Tensor


def solve_langevin(
    gradient: Callable[[Tensor], Tensor],
    x0: Tensor,
    v0: Tensor | None,
    t: Any,
    *,
    friction: float = 1.0,
    temperature: float = 1.0,
    method: str = "align",
    dt: float | None = None,
    seed: int | None = None,
    bm: Any = None,
    adjoint: str | None = "discrete",
    params: Sequence[Tensor] | None = None,
) -> LangevinSolution:
    """Sample ``dx = v dt, dv = -γ v dt - u ∇U(x) dt + √(2 γ u) dW``.

    Its stationary density is proportional to ``exp(-U(x) - ‖v‖² / 2u)``.

    Parameters
    ----------
    gradient : callable
        ``∇U(x)`` for ``x`` of shape (B, D).
    x0, v0 : Tensor, shape (B, D)
        Start; ``v0=None`` starts at rest.
    t : array_like, shape (T,)
        Increasing times to report.
    friction : float
        γ > 0, in 1 / time.
    temperature : float
        u > 0, the stationary variance of the velocity.
    method : str
        "align" (strong order 2), "quicsort" (strong order 3, two gradients a step), "baoab" (weak order 2).
    dt : float, optional
        Largest step; not needed with ``bm``.
    seed : int, optional
        Seed of the path; not needed with ``bm``.
    bm : BrownianIncrements, optional
        Path to use, of increments (B, D).
    adjoint : str or None
        "discrete", "direct" or None.
    params : sequence of Tensor, optional
        Tensors that need gradients; found by themselves if not given.

    Returns
    -------
    LangevinSolution
        Positions and velocities at the times.

    Raises
    ------
    scidyn.errors.OptionError
        If an option is out of range.
    scidyn.errors.ShapeError
        If shapes do not fit.
    scidyn.errors.SolverError
        If a path becomes infinite.

    Examples
    --------
    >>> import torch
    >>> from scidyn.solvers import solve_langevin
    >>> x0 = torch.zeros(20000, 1, dtype=torch.float64)
    >>> path = solve_langevin(lambda x: 4 * x, x0, None, [0.0, 10.0], dt=0.1, seed=0)
    >>> abs(path.x[:, -1].var().item() - 1 / 4) < 0.03
    True

    References
    ----------
    J. Foster, T. Lyons, H. Oberhauser (2021), The shifted ODE method for underdamped Langevin MCMC.
    B. Leimkuhler, C. Matthews (2013), Rational construction of stochastic numerical methods for molecular sampling.
    """
    step = LANGEVIN_METHODS[choice("method", method, LANGEVIN_METHODS)]
    choice("adjoint", adjoint, ("discrete", "direct", None))
    check_start(x0)
    velocity = torch.zeros_like(x0) if v0 is None else check_start(v0)
    if velocity.shape != x0.shape:
        raise ShapeError(f"x0 and v0 must have one shape; got {tuple(x0.shape)} and {tuple(velocity.shape)}.")
    terms = Dynamics(gradient, number("friction", friction, above=0.0), number("temperature", temperature, above=0.0))
    with torch.no_grad():
        force = gradient(x0.detach())
    if not isinstance(force, Tensor) or force.shape != x0.shape:
        found = tuple(force.shape) if isinstance(force, Tensor) else type(force).__name__
        raise ShapeError(f"gradient must return the shape of x, {tuple(x0.shape)}; it returned {found}.")
    times = check_times(t)
    path = _path(bm, times.tolist(), dt, seed, step.levels, x0)
    plan = make_plan(times.tolist(), path, x0)
    y0 = torch.cat([x0, velocity], dim=-1)
    solve: Any = solve_direct
    rest: tuple[Any, ...] = ()
    if adjoint == "discrete" and torch.is_grad_enabled():
        tensors = needed(lambda: gradient(x0.detach()), (gradient,), params)
        if tensors or y0.requires_grad:
            solve, rest = solve_discrete, (tensors,)
    with torch.set_grad_enabled(adjoint is not None and torch.is_grad_enabled()):
        y = solve(terms, step, plan, y0, *rest)
    if not bool(torch.isfinite(y.detach()).all()):
        row = int((~torch.isfinite(y.detach()).flatten(1).all(1)).to(torch.uint8).argmax())
        raise SolverError(f"sample {row} became NaN or infinite: use a smaller dt; the gradient may be too steep.")
    x, v = y.chunk(2, dim=-1)
    return LangevinSolution(times.to(x0.dtype).to(x0.device), x, v)


def _path(bm: Any, times: list[float], dt: float | None, seed: int | None, levels: str, x0: Tensor) -> Any:
    """Noise with the quantities that the method needs."""
    if bm is not None:
        if tuple(bm.shape) != tuple(x0.shape):
            raise ShapeError(f"the Brownian path has shape {tuple(bm.shape)}; the velocity has {tuple(x0.shape)}.")
        return bm.with_levels(levels) if len(bm.levels) < len(levels) else bm
    if dt is None or seed is None:
        raise OptionError("solve_langevin needs dt= and seed=, or bm= with a path on a grid.")
    grid = make_grid(times, dt, ())
    seed = integer("seed", seed, at_least=0)
    return BrownianIncrements(grid, tuple(x0.shape), seed=seed, levels=levels, dtype=x0.dtype, device=x0.device)
