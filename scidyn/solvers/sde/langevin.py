"""Underdamped Langevin dynamics: integrators that keep its structure and its stationary law."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from functools import partial
from typing import Any

import torch
from torch import Tensor

from scidyn._check.values import choice, number
from scidyn.errors import ShapeError
from scidyn.solvers.sde.adjoint import direct, discrete
from scidyn.solvers.sde.arguments import check_state, check_times
from scidyn.solvers.sde.capture import dependencies
from scidyn.solvers.sde.engine import Run
from scidyn.solvers.sde.methods.method import Carry, Method, Outcome, no_carry
from scidyn.solvers.sde.terms import Terms

__all__ = ["solve_langevin"]

SERIES_BELOW = 0.05
LEFT, RIGHT = (3.0 - math.sqrt(3.0)) / 6.0, (3.0 + math.sqrt(3.0)) / 6.0


def _first(a: float) -> float:
    """``(1 - e^-a) / a``."""
    return -math.expm1(-a) / a if a else 1.0


def _second(a: float) -> float:
    """``(e^-a + a - 1) / a²``."""
    if a < SERIES_BELOW:
        return 1 / 2 - a / 6 * (1 - a / 4 * (1 - a / 5 * (1 - a / 6 * (1 - a / 7))))
    return (math.expm1(-a) + a) / (a * a)


def _third(a: float) -> float:
    """``6 (e^-a (a + 2) + a - 2) / a³``."""
    if a < SERIES_BELOW:
        return 1 - a / 2 + 3 * a**2 / 20 - a**3 / 30 + a**4 / 168
    return 6 * (math.exp(-a) * (a + 2) + a - 2) / a**3


def _align(
    friction: float,
    u: float,
    terms: Terms,
    ts: tuple[Tensor, ...],
    h: float,
    y: Tensor,
    noise: tuple[Tensor, ...],
    carry: Carry,
) -> Outcome:
    """Exponential integrator with both noise integrals; strong order two, one gradient a step."""
    x, v = y.chunk(2, dim=-1)
    W, H = noise[0], noise[1]
    a, sigma = friction * h, math.sqrt(2.0 * friction * u)
    one, two, three = _first(a), _second(a), _third(a)
    (force,) = carry
    x1 = x + (one * h) * v - (u * h * h * two) * force + (sigma * h) * (two * W + three * H)
    force1 = terms.f(ts[0], x1)
    drive = (one - two) * force + two * force1
    v1 = math.exp(-a) * v - (u * h) * drive + sigma * (one * W - (a * three) * H)
    return torch.cat([x1, v1], dim=-1), (force1,), None


def _quicsort(
    friction: float,
    u: float,
    terms: Terms,
    ts: tuple[Tensor, ...],
    h: float,
    y: Tensor,
    noise: tuple[Tensor, ...],
    carry: Carry,
) -> Outcome:
    """Shifted ODE over the step, then two Gauss points; strong order three, two gradients a step."""
    x, v = y.chunk(2, dim=-1)
    W, H, K = noise
    a, sigma = friction * h, math.sqrt(2.0 * friction * u)
    line = sigma * (W - 12.0 * K)
    v = v + sigma * (H + 6.0 * K)

    def drift(c: float) -> Tensor:
        return (c * h * _first(c * a)) * v + (c * c * h * _second(c * a)) * line

    f1 = terms.f(ts[0], x + drift(LEFT))
    f2 = terms.f(ts[1], x + drift(RIGHT) - (u * h * h / 3.0 * _first(a / 3.0)) * f1)
    reach = (RIGHT * _first(RIGHT * a), LEFT * _first(LEFT * a))
    x1 = x + drift(1.0) - (0.5 * u * h * h) * (reach[0] * f1 + reach[1] * f2)
    fade = (math.exp(-RIGHT * a), math.exp(-LEFT * a))
    v1 = math.exp(-a) * v - (0.5 * u * h) * (fade[0] * f1 + fade[1] * f2) + _first(a) * line - sigma * (H - 6.0 * K)
    return torch.cat([x1, v1], dim=-1), (), None


def _baoab(
    friction: float,
    u: float,
    terms: Terms,
    ts: tuple[Tensor, ...],
    h: float,
    y: Tensor,
    noise: tuple[Tensor, ...],
    carry: Carry,
) -> Outcome:
    """Kick, drift, exact friction and noise, drift, kick; one gradient a step."""
    x, v = y.chunk(2, dim=-1)
    (force,) = carry
    v = v - (0.5 * h * u) * force
    x = x + (0.5 * h) * v
    fade = math.exp(-friction * h)
    v = fade * v + math.sqrt(u * (1.0 - fade * fade) / h) * noise[0]
    x = x + (0.5 * h) * v
    force = terms.f(ts[0], x)
    return torch.cat([x, v - (0.5 * h * u) * force], dim=-1), (force,), None


def _start(terms: Terms, t: Tensor, y: Tensor) -> Carry:
    """The force at the start."""
    return (terms.f(t, y.chunk(2, dim=-1)[0]),)


STEPS = {"align": (_align, "WH", 2.0), "quicsort": (_quicsort, "WHK", 3.0), "baoab": (_baoab, "W", 1.0)}


def solve_langevin(
    gradient: Callable[[Tensor], Tensor],
    x0: Tensor,
    v0: Tensor,
    t: Any,
    *,
    friction: float,
    u: float = 1.0,
    method: str = "quicsort",
    dt: float | None = None,
    seed: int | None = None,
    bm: Any = None,
    adjoint: str | None = "discrete",
    params: Sequence[Tensor] | None = None,
    on_failure: str = "raise",
) -> Any:
    """Solve ``dx = v dt, dv = -γ v dt - u ∇U(x) dt + √(2γu) dW``.

    Its stationary density is ``exp(-U(x) - |v|² / (2u))`` up to a constant.

    Parameters
    ----------
    gradient : callable
        ``∇U(x)``, (batch, D) to (batch, D).
    x0, v0 : Tensor, shape (batch, D)
        Initial positions and velocities.
    t : array_like, shape (T,)
        Strictly increasing times to report.
    friction : float
        γ > 0, 1/time.
    u : float
        Temperature over mass, > 0.
    method : str
        "align" (strong order 2, one gradient a step), "quicsort" (3, two), "baoab" (splitting, one; its
        positions are accurate to fourth order at stationarity for a quadratic U).
    dt : float, optional
        Largest step.
    seed : int, optional
        Seed of the path; needed unless ``bm`` is given.
    bm : BrownianIncrements or BrownianTree, optional
        A path of shape (batch, D).
    adjoint : str or None
        "discrete", "direct" or None.
    params : sequence of Tensor, optional
        Tensors that receive gradients; found by one call of ``gradient`` if not given.
    on_failure : str
        "raise", "warn" or "return".

    Returns
    -------
    SDESolution
        ``y`` has shape (batch, T, 2 D): positions, then velocities.

    Raises
    ------
    scidyn.errors.OptionError, scidyn.errors.ShapeError
        If options or shapes do not fit.

    Examples
    --------
    >>> import torch
    >>> from scidyn.solvers import solve_langevin
    >>> zero = torch.zeros(4000, 1, dtype=torch.float64)
    >>> sol = solve_langevin(lambda x: x, zero, zero, [0.0, 10.0], friction=1.0, dt=0.25, seed=0)
    >>> [round(s, 1) for s in sol.y[:, -1].var(0).tolist()]
    [1.0, 1.0]

    References
    ----------
    J. Foster, T. Lyons, H. Oberhauser (2021), The shifted ODE method for underdamped Langevin MCMC.
    B. Leimkuhler, C. Matthews (2013), Rational construction of stochastic numerical methods for
    molecular sampling.
    """
    from scidyn.solvers.sde.adaptive import Found
    from scidyn.solvers.sde.solve import _finish, _fixed

    step, levels, strong = STEPS[choice("method", method, STEPS)]
    choice("adjoint", adjoint, ("discrete", "direct", None))
    x0, times = check_state(x0), check_times(t)
    if v0.shape != x0.shape or x0.ndim != 2:
        raise ShapeError(f"x0 and v0 must both be (batch, D); got {tuple(x0.shape)} and {tuple(v0.shape)}.")
    rub, heat = number("friction", friction, above=0.0), number("u", u, above=0.0)
    keeps = method != "quicsort"
    scheme = Method(
        method,
        partial(step, rub, heat),
        ("ito", "stratonovich"),
        ("additive",),
        levels,
        strong,
        2.0,
        nodes=(1.0,) if keeps else (LEFT, RIGHT),
        evaluations=1 if keeps else 2,
        begin=_start if keeps else no_carry,
    )
    terms = Terms(lambda _t, x: gradient(x), lambda _t, x: x, None, False)
    plan, source = _fixed(bm, times, tuple(x0.shape), seed, None if dt is None else float(dt), (), scheme, x0)
    run, y0 = Run(scheme, terms, plan, source), torch.cat([x0, v0], dim=-1)
    if adjoint is None or not torch.is_grad_enabled():
        with torch.no_grad():
            y = direct(run, y0.detach())
    elif adjoint == "direct":
        y = direct(run, y0)
    else:
        probe = x0.detach()
        tensors = dependencies((lambda: gradient(probe),), (gradient,)) if params is None else list(params)
        y = discrete(run, y0, tensors) if tensors or y0.requires_grad else direct(run, y0)
    return _finish(y.transpose(0, 1), t, times, plan, scheme, Found([], 0, 0, False, False), None, on_failure)
