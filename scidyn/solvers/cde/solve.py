"""Solve controlled differential equations, by their path's derivative or by its increments."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from scidyn._check.values import choice, integer
from scidyn.errors import OptionError
from scidyn.solvers.cde.control_path import ControlPath
from scidyn.solvers.cde.increments import Field, apply_field, check_field, check_state, path_increments, reported_knots
from scidyn.solvers.cde.march import make_solution, march
from scidyn.solvers.cde.steps import STEPS, walk
from scidyn.solvers.solution import Solution

__all__ = ["solve_cde"]


def solve_cde(
    f: Field,
    X: Any,
    z0: Tensor,
    t: Any = None,
    *,
    route: str | None = None,
    method: str | None = None,
    substeps: int = 1,
    adjoint: str | None = "discrete",
    on_failure: str = "raise",
    **options: Any,
) -> Solution:
    """Solve ``dz = f(t, z) dX(t)``, ``z(t_0) = z0``.

    Two routes: ``"ode"`` hands ``dz/dt = f(t, z) dX/dt`` to :func:`solve_ode`; ``"increments"`` takes
    fixed steps from knot to knot, ``dz/dθ = f(t, z) (X(t_{k+1}) - X(t_k))``, which is exact in the
    path if it is piecewise linear and handles rows with times of their own. On the ODE route steps end at the
    knots of a path with kinks, if all rows share them and the options allow it (``jump_times`` of :func:`solve_ode`).

    Parameters
    ----------
    f : callable
        ``f(t, z)`` of shape (B, H, C) for ``z`` of shape (B, H); ``t`` is a scalar, or of shape (B,) on the increments
        route if each row has its own knots.
    X : ControlPath
        Path of C channels; or any object with ``derivative(t)`` on the ODE route.
    z0 : Tensor, shape (B, H)
        Initial states.
    t : array_like, shape (T,), optional
        Times to report. Default: both ends of the path ("ode"), all knots ("increments"), where given times
        must be knots. A row that has ended stands still, so its last state stays available.
    route : str, optional
        "ode" or "increments"; default "increments" if the derivative jumps at the knots.
    method : str, optional
        "euler", "heun", "midpoint" or "rk4" (default) for increments; any of :func:`solve_ode`'s for the other.
    substeps : int
        Steps between neighbouring knots on the increments route.
    adjoint : str or None
        "discrete": segments of steps are rerun for the gradient. "direct": all steps are kept. None: no gradient.
    on_failure : str
        "raise", "warn" or "return" if a row becomes infinite.
    **options : object
        Passed on to :func:`solve_ode` on the ODE route.

    Returns
    -------
    Solution
        ``y`` of shape (B, T, H).

    Raises
    ------
    scidyn.errors.OptionError, scidyn.errors.ShapeError
        If options or shapes do not fit.
    scidyn.errors.TimeGridError
        If a time to report is not a knot on the increments route.

    Examples
    --------
    >>> import torch
    >>> from scidyn.solvers import LinearPath, solve_cde
    >>> X = LinearPath(torch.tensor([[[0.0], [1.0], [3.0]]], dtype=torch.float64))
    >>> z = solve_cde(lambda t, z: z.unsqueeze(-1), X, torch.ones(1, 1, dtype=torch.float64), substeps=8)
    >>> [round(v, 2) for v in z.y[0, :, 0].tolist()]                 # exp(X(t) - X(0))
    [1.0, 2.72, 20.08]

    References
    ----------
    P. Kidger, J. Morrill, J. Foster, T. Lyons (2020), Neural controlled differential equations for irregular
    time series.
    """
    check_state(z0)
    choice("adjoint", adjoint, ("discrete", "direct", None))
    fallback = "increments" if getattr(X, "kinked", False) else "ode"
    if choice("route", fallback if route is None else route, ("ode", "increments")) == "ode":
        return _by_ode(f, X, z0, t, method, adjoint, on_failure, options)
    if options:
        raise OptionError(
            f"the increments route takes no option {next(iter(options))!r}: set substeps=, or route='ode'."
        )
    if not isinstance(X, ControlPath):
        raise OptionError(f"the increments route needs a ControlPath; got {type(X).__name__}: use route='ode'.")
    name = choice("method", "rk4" if method is None else method, STEPS)
    count = integer("substeps", substeps, at_least=1)
    check_field(f, X, z0)
    steps, starts, sizes = path_increments(X)

    def step(k: int, z: Tensor) -> Tensor:
        dx, a, h = steps[k], starts[k], sizes[k]
        return walk(name, lambda theta, z: apply_field(f(a + theta * h, z), dx), z, count)

    states = march(step, z0, len(steps), adjoint)
    times, places = reported_knots(X, t)
    y = torch.stack([states[i] for i in places], dim=1)
    return make_solution(times, y, len(steps) * count, on_failure)


def _by_ode(
    f: Field,
    X: Any,
    z0: Tensor,
    t: Any,
    method: str | None,
    adjoint: str | None,
    on_failure: str,
    options: dict[str, Any],
) -> Solution:
    """Hand ``dz/dt = f(t, z) dX/dt`` to the solver of ordinary equations."""
    from scidyn.solvers.ode import solve_ode

    if not callable(getattr(X, "derivative", None)):
        raise OptionError(f"X must have a method derivative(t); got {type(X).__name__}.")
    if isinstance(X, ControlPath):
        check_field(f, X, z0)
    if t is None:
        ends = X.interval
        t = ends if ends.ndim == 1 else torch.stack([ends[:, 0].amin(), ends[:, 1].amax()])

    def rate(time: Tensor, z: Tensor) -> Tensor:
        return apply_field(f(time, z), X.derivative(time).to(z.dtype))

    chosen: dict[str, Any] = {} if method is None else {"method": method}
    if adjoint in ("discrete", "direct", None) and on_failure == "raise":
        chosen |= _kinks(X, t, options)
    return solve_ode(rate, z0, t, adjoint=adjoint, on_failure=on_failure, **chosen, **options)


def _kinks(X: Any, t: Any, options: dict[str, Any]) -> dict[str, Any]:
    """Knots at which the derivative jumps, for steps to end at, unless another option of the solver forbids it."""
    alone = {"jump_times", "jump", "events", "dense", "regularize", "checkpoints", "backend"}
    knots = getattr(X, "knots", None)
    if not getattr(X, "kinked", False) or alone & options.keys() or not isinstance(knots, Tensor) or knots.ndim != 1:
        return {}
    times = torch.as_tensor(t, dtype=torch.float64, device="cpu")
    if times.ndim != 1 or len(times) < 2:
        return {}
    low, high = sorted((float(times[0]), float(times[-1])))
    inside = [k for k in knots.detach().to("cpu", torch.float64).tolist() if low < k < high]
    return {"jump_times": inside} if inside else {}
