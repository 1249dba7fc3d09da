"""Solve and differentiate equations driven by a control path."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor

from scidyn._check.tensors import floating
from scidyn._check.values import choice, integer, number
from scidyn.errors import OptionError, ShapeError, TimeGridError
from scidyn.solvers.brownian.noise import Noise
from scidyn.solvers.cde.log_ode import LOG_ODE
from scidyn.solvers.cde.paths import ControlPath
from scidyn.solvers.cde.signature import log_signature
from scidyn.solvers.ode import solve_ode
from scidyn.solvers.sde.adaptive import Found
from scidyn.solvers.sde.adjoint import direct, discrete
from scidyn.solvers.sde.capture import dependencies
from scidyn.solvers.sde.engine import Run
from scidyn.solvers.sde.methods import METHODS
from scidyn.solvers.sde.plan import Plan, nodes_between
from scidyn.solvers.sde.solve import _finish
from scidyn.solvers.sde.terms import Terms
from scidyn.solvers.solution import Solution

__all__ = ["solve_cde"]

ROUTES = ("auto", "ode", "increments", "log_ode")
STEPPERS = {"euler": "euler_heun", "heun": "heun", "midpoint": "midpoint", "rk4": "rk4"}


class _Increments:
    """What the path does in each step, in the slots of a noise."""

    def __init__(self, *levels: Tensor) -> None:
        self.levels = levels

    def block(self, start: int, stop: int) -> Noise:
        """Increments (and areas) of the steps ``start … stop - 1``."""
        return Noise(*(x[start:stop] for x in self.levels))


def solve_cde(
    field: Callable[..., Tensor],
    path: ControlPath,
    z0: Tensor,
    t: Any = None,
    *,
    route: str = "auto",
    method: str | None = None,
    dt: float | None = None,
    depth: int = 2,
    window: int = 8,
    adjoint: str | None = "discrete",
    params: Sequence[Tensor] | None = None,
    needs_time: bool = True,
    on_failure: str = "raise",
    **options: Any,
) -> Solution:
    """Solve ``dz = f(t, z) dX(t)``.

    Parameters
    ----------
    field : callable
        ``f(t, z)``: (B, H) to (B, H, C).
    path : ControlPath
        The control X with C channels.
    z0 : Tensor, shape (B, H)
        Initial states, at the start of the path.
    t : array_like, shape (T,), optional
        Increasing times to report, from the start of the path; default its first and last time. Rows of
        a ragged batch stand still after their own last time.
    route : str
        "ode" solves ``dz/dt = f dX/dt`` by :func:`solve_ode`; "increments" steps along the path's
        increments and lands on the knots; "log_ode" takes one step per window of knots along the
        window's log-signature; "auto" is "increments" for kinked paths and "ode" for smooth ones.
    method : str, optional
        "euler", "heun", "midpoint" or "rk4" (default) for increments; a method of solve_ode for "ode".
    dt : float, optional
        Largest step between knots; default one step from knot to knot. For "log_ode", unused.
    depth : int
        Depth 1, 2 or 3 of the log-signatures.
    window : int
        Knots per step of the log-ODE.
    adjoint : str or None
        "discrete", "direct" or None.
    params : sequence of Tensor, optional
        Tensors that receive gradients; found by one call of ``field`` if not given. The path's data are
        always included.
    needs_time : bool
        Refuse a log-ODE on a path without a channel that rises with time; False if that is meant.
    on_failure : str
        "raise", "warn" or "return".
    **options
        Passed to :func:`solve_ode`.

    Returns
    -------
    Solution
        ``y`` has shape (B, T, H).

    Raises
    ------
    scidyn.errors.ShapeError, scidyn.errors.OptionError, scidyn.errors.TimeGridError
        If shapes, options or times do not fit the path.

    Examples
    --------
    >>> import torch
    >>> from scidyn.solvers import LinearPath, solve_cde
    >>> x = torch.tensor([[[0.0], [1.0], [3.0]]], dtype=torch.float64)
    >>> z0 = torch.ones(1, 1, dtype=torch.float64)
    >>> sol = solve_cde(lambda t, z: z.unsqueeze(-1), LinearPath(x), z0, dt=0.01)     # z = exp(X)
    >>> round(sol.y[0, -1, 0].item(), 4)
    20.0855

    References
    ----------
    P. Kidger, J. Morrill, J. Foster, T. Lyons (2020), Neural controlled differential equations for
    irregular time series.
    J. Morrill, C. Salvi, P. Kidger, J. Foster (2021), Neural rough differential equations for long time series.
    """
    choice("route", route, ROUTES)
    choice("adjoint", adjoint, ("discrete", "direct", None))
    _check(field, path, z0)
    route = ("increments" if path.kinked else "ode") if route == "auto" else route
    times = _times(path, t)
    if route == "ode":

        def rate(s: Tensor, z: Tensor) -> Tensor:
            return torch.matmul(field(s, z), path.derivative(s).unsqueeze(-1)).squeeze(-1)

        extra: dict[str, Any] = {} if params is None else {"params": params}
        return solve_ode(
            rate, z0, times, method=method or "tsit5", adjoint=adjoint, on_failure=on_failure, **extra, **options
        )
    if options:
        raise OptionError(f"route={route!r} takes no {', '.join(options)}; these are options of route='ode'.")
    if route == "log_ode":
        plan, levels = _windows(path, times, depth, integer("window", window, at_least=1), needs_time)
        scheme = LOG_ODE
    else:
        scheme = METHODS["stratonovich"][STEPPERS[choice("method", method or "rk4", STEPPERS)]]
        knots = path.knots.detach().reshape(-1)
        stops = knots[~torch.isnan(knots)].unique().tolist()
        step = None if dt is None else number("dt", dt, above=0.0)
        plan = Plan.on(nodes_between(times, step, stops), times)
        nodes = torch.tensor(plan.nodes, dtype=torch.float64, device=z0.device)
        levels = (path.evaluate(nodes).diff(dim=1).transpose(0, 1),)
    terms = Terms(lambda s, z: torch.zeros_like(z), field, None, True)
    run = Run(scheme, terms, plan, _Increments(*levels))
    y = _run(run, z0, levels, field, adjoint, params)
    return _finish(y.transpose(0, 1), t, times, plan, scheme, Found([], 0, 0, False, False), None, on_failure)


def _run(
    run: Run,
    z0: Tensor,
    levels: tuple[Tensor, ...],
    field: Callable[..., Tensor],
    adjoint: str | None,
    params: Sequence[Tensor] | None,
) -> Tensor:
    """Step with the gradient asked for."""
    if adjoint is None or not torch.is_grad_enabled():
        with torch.no_grad():
            return direct(run, z0.detach())
    if adjoint == "direct":
        return direct(run, z0)
    first, probe = torch.full((), run.plan.nodes[0], dtype=z0.dtype, device=z0.device), z0.detach()
    tensors = dependencies((lambda: field(first, probe),), (field,)) if params is None else list(params)
    tensors += [x for x in levels if x.requires_grad]
    return discrete(run, z0, tensors) if tensors or z0.requires_grad else direct(run, z0)


def _check(field: Callable[..., Tensor], path: ControlPath, z0: Tensor) -> None:
    """Check types and shapes, by one call of the field."""
    if not isinstance(path, ControlPath):
        raise OptionError(f"path must be a ControlPath such as HermiteCubicPath(x, t); got {type(path).__name__}.")
    floating("z0", z0)
    rows, channels = path.values.shape[0], path.channels
    if z0.ndim != 2 or z0.shape[0] != rows:
        raise ShapeError(f"z0 must have shape ({rows}, H) to fit the path's {rows} rows; got {tuple(z0.shape)}.")
    with torch.no_grad():
        value = field(path.interval.reshape(-1)[0].to(z0.dtype), z0.detach())
    wanted = (*z0.shape, channels)
    if value.shape != wanted:
        raise ShapeError(
            f"field returned shape {tuple(value.shape)}; a matrix per row is needed, {wanted}: "
            "(batch, state, channels of the path)."
        )


def _times(path: ControlPath, t: Any) -> list[float]:
    """Times to report, inside the path's span."""
    ends = path.interval.detach().reshape(-1, 2)
    first, last = ends[:, 0].min().item(), ends[:, 1].max().item()
    if t is None:
        return [first, last]
    values: list[float] = torch.as_tensor(t, dtype=torch.float64).detach().cpu().tolist()
    if len(values) < 2 or any(b <= a for a, b in itertools.pairwise(values)):
        raise TimeGridError(f"t must hold two or more increasing times; got {values[:6]}.")
    slack = 1e-6 * (last - first)
    if values[0] < first - slack or values[-1] > last + slack:
        raise TimeGridError(
            f"t runs from {values[0]:g} to {values[-1]:g}, the path from {first:g} to {last:g}: stay inside it."
        )
    return values


def _windows(
    path: ControlPath, times: list[float], depth: int, window: int, needs_time: bool
) -> tuple[Plan, tuple[Tensor, ...]]:
    """One step per window of knots, with its log-signature."""
    if needs_time and not path.time_channels():
        raise OptionError(
            "no channel of the path rises with time, and a log-ODE without time cannot see how fast the path is run "
            "through: build the path from with_time(x, t), or pass needs_time=False."
        )
    if path.knots.ndim == 1:
        knots = path.knots.detach().tolist()
    else:
        knots = path.knots.detach().nan_to_num(nan=-torch.inf).amax(0).tolist()
        knots = [max(knots[: i + 1]) for i in range(len(knots))]
    edges = sorted({*range(0, len(knots), window), len(knots) - 1})
    scale = max(abs(knots[0]), abs(knots[-1]))
    for s in times:
        near = [i for i in range(len(knots)) if abs(knots[i] - s) <= 1e-9 * scale]
        if not near:
            raise TimeGridError(f"a log-ODE reports at knots of the path; {s:g} is not one of them.")
        edges = sorted({*edges, near[0]})
    edges = [i for i in edges if knots[i] <= times[-1] + 1e-9 * scale and knots[i] >= times[0] - 1e-9 * scale]
    parts = [log_signature(path.values[:, a : b + 1], depth) for a, b in itertools.pairwise(edges)]
    levels = tuple(torch.stack(level) for level in zip(*parts, strict=True))
    return Plan.on([knots[i] for i in edges], times), levels
