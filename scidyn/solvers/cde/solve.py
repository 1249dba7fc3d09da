"""Solve controlled differential equations, by their path's derivative or by its increments."""

from __future__ import annotations

import itertools
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from scidyn._check.tensors import floating
from scidyn._check.values import choice, integer
from scidyn.errors import OptionError, ShapeError, TimeGridError
from scidyn.solvers.cde.march import make_solution, march
from scidyn.solvers.cde.paths import ControlPath
from scidyn.solvers.cde.signature import log_signature
from scidyn.solvers.cde.steps import STEPS, walk
from scidyn.solvers.solution import Solution

__all__ = ["log_ode", "solve_cde"]

Field = Callable[..., Tensor]


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
    path if it is piecewise linear and handles rows with times of their own.

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
    _check_state(z0)
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
    _check_field(f, X, z0)
    steps, starts, sizes = _increments(X)

    def step(k: int, z: Tensor) -> Tensor:
        dx, a, h = steps[k], starts[k], sizes[k]
        return walk(name, lambda theta, z: _apply(f(a + theta * h, z), dx), z, count)

    states = march(step, z0, len(steps), adjoint)
    times, places = _reported(X, t)
    y = torch.stack([states[i] for i in places], dim=1)
    return make_solution(times, y, len(steps) * count, on_failure)


def log_ode(
    f: Field,
    X: ControlPath,
    z0: Tensor,
    *,
    window: int,
    depth: int = 2,
    method: str = "rk4",
    substeps: int = 1,
    require_time: bool = True,
    adjoint: str | None = "discrete",
    on_failure: str = "raise",
) -> Solution:
    """Solve ``dz = f(z) dX`` by the log-ODE method: one step over many samples.

    Over a window of knots the path enters through its log-signature L only::

        dz/dθ = Σ_i L^i f_i(z) + Σ_ij L^ij (f_i · ∇) f_j(z) + Σ_ijk L^ijk (f_i · ∇)((f_j · ∇) f_k)(z)

    which for the Lie element L is the same as the sum over brackets of the columns of ``f``.

    Parameters
    ----------
    f : callable
        ``f(t, z)`` of shape (B, H, C), smooth in ``z``; ``t`` is the start of the window.
    X : ControlPath
        Path whose knots are joined by straight lines.
    z0 : Tensor, shape (B, H)
        Initial states.
    window : int
        Knot intervals in a step; the last window may be shorter.
    depth : int
        1, 2 or 3: levels of the log-signature.
    method : str
        "euler", "heun", "midpoint" or "rk4" within a window.
    substeps : int
        Steps within a window.
    require_time : bool
        Refuse a path none of whose channels rises as time does.
    adjoint : str or None
        "discrete", "direct" or None.
    on_failure : str
        "raise", "warn" or "return".

    Returns
    -------
    Solution
        ``y`` of shape (B, windows + 1, H) at the ends of the windows.

    Raises
    ------
    scidyn.errors.OptionError
        If no channel can be time, or options are out of range.
    scidyn.errors.ShapeError
        If shapes do not fit.

    Examples
    --------
    >>> import torch
    >>> from scidyn.solvers import LinearPath, log_ode, with_time
    >>> t = torch.linspace(0, 1, 101, dtype=torch.float64)
    >>> X = LinearPath(with_time(torch.sin(6 * t).view(1, -1, 1), t), t)
    >>> z = log_ode(lambda t, z: torch.stack([-z, z], -1), X, torch.ones(1, 1, dtype=torch.float64), window=10)
    >>> z.y.shape
    torch.Size([1, 11, 1])

    References
    ----------
    J. Morrill, C. Salvi, P. Kidger, J. Foster, T. Lyons (2021), Neural rough differential equations for long
    time series.
    """
    _check_state(z0)
    choice("adjoint", adjoint, ("discrete", "direct", None))
    choice("depth", depth, (1, 2, 3))
    choice("method", method, STEPS)
    width = integer("window", window, at_least=1)
    count = integer("substeps", substeps, at_least=1)
    if not isinstance(X, ControlPath):
        raise OptionError(f"X must be a ControlPath; got {type(X).__name__}.")
    if require_time and not X.time_channels():
        raise OptionError(
            "no channel of X rises in every row, so the path does not carry time: add it by with_time(x, t), "
            "or pass require_time=False."
        )
    _check_field(f, X, z0)
    steps, starts, _ = _increments(X)
    edges = [*range(0, len(steps), width), len(steps)]
    stacked = torch.stack(steps, dim=1)
    logs = [log_signature(stacked[:, a:b], depth) for a, b in itertools.pairwise(edges)]

    def step(k: int, z: Tensor) -> Tensor:
        time = starts[edges[k]]
        return walk(method, lambda _, z: _along(lambda y: f(time, y), z, logs[k]), z, count)

    states = march(step, z0, len(logs), adjoint)
    times = X.knots[..., edges]
    return make_solution(times, torch.stack(states, dim=1), len(logs) * count, on_failure)


def _along(f: Callable[[Tensor], Tensor], z: Tensor, log: list[Tensor]) -> Tensor:
    """The vector field of a log-signature at ``z``."""
    result = _apply(f(z), log[0])
    if len(log) > 1:
        result = result + _second(f, z, log[1])
    if len(log) > 2:
        for i in range(log[0].shape[-1]):
            part = log[2][:, i]
            direction = f(z)[..., i]
            result = result + torch.func.jvp(lambda y, part=part: _second(f, y, part), (z,), (direction,))[1]
    return result


def _second(f: Callable[[Tensor], Tensor], z: Tensor, weights: Tensor) -> Tensor:
    """``Σ_ij weights_ij (f_i · ∇) f_j``: one directional derivative for each channel i."""
    columns = f(z)
    result = torch.zeros_like(z)
    for i in range(columns.shape[-1]):
        change = torch.func.jvp(f, (z,), (columns[..., i],))[1]
        result = result + _apply(change, weights[:, i])
    return result


def _apply(matrix: Tensor, dx: Tensor) -> Tensor:
    """``f dX`` for each row."""
    return torch.bmm(matrix, dx.unsqueeze(-1)).squeeze(-1)


def _check_state(z0: Any) -> None:
    """Refuse states that are not rows."""
    if not isinstance(z0, Tensor) or z0.ndim != 2:
        found = tuple(z0.shape) if isinstance(z0, Tensor) else type(z0).__name__
        raise ShapeError(f"z0 must be a tensor of shape (batch, hidden); got {found}.")
    floating("z0", z0)


def _check_field(f: Field, X: ControlPath, z0: Tensor) -> None:
    """Evaluate once and compare shapes."""
    wanted = (*z0.shape, X.channels)
    if X.values.shape[0] != z0.shape[0]:
        raise ShapeError(f"z0 has {z0.shape[0]} rows, the path has {X.values.shape[0]}.")
    if X.values.dtype != z0.dtype:
        raise ShapeError(f"z0 has dtype {z0.dtype}, the path has {X.values.dtype}: convert one of them.")
    with torch.no_grad():
        value = f(_starts(X)[..., 0].to(z0.dtype), z0.detach())
    if not isinstance(value, Tensor) or value.shape != wanted:
        found = tuple(value.shape) if isinstance(value, Tensor) else type(value).__name__
        raise ShapeError(f"f must return shape {wanted}, (batch, hidden, channels of X); it returned {found}.")


def _starts(X: ControlPath) -> Tensor:
    """Knots with padding replaced by the row's last time."""
    knots = X.knots
    return knots if knots.ndim == 1 else knots.nan_to_num(nan=-torch.inf).cummax(dim=1).values


def _increments(X: ControlPath) -> tuple[list[Tensor], list[Tensor], list[Tensor]]:
    """Increments (B, C), start times and lengths of every knot interval; rows that ended stand still."""
    knots, values = _starts(X), X.values
    moves = values.diff(dim=1)
    if knots.ndim == 2:
        moves = torch.where((knots.diff(dim=1) > 0).unsqueeze(-1), moves, torch.zeros_like(moves))
    times = knots.to(values.dtype)
    return list(moves.unbind(1)), list(times[..., :-1].unbind(-1)), list(times.diff(dim=-1).unbind(-1))


def _reported(X: ControlPath, t: Any) -> tuple[Tensor, list[int]]:
    """Times to report and their places among the knots."""
    knots = X.knots
    if t is None:
        return knots, list(range(knots.shape[-1]))
    if knots.ndim == 2:
        raise OptionError("rows with knots of their own are reported at all knots: leave t out, or use route='ode'.")
    times = torch.as_tensor(t, dtype=knots.dtype, device=knots.device)
    places = (times.unsqueeze(-1) - knots).abs().argmin(-1)
    gap = (knots[places] - times).abs()
    if bool((gap > 1e-6 * (knots[-1] - knots[0])).any()):
        late = times[gap.argmax()].item()
        raise TimeGridError(f"t={late:g} is not a knot of the path, where the increments route stops: use route='ode'.")
    return times, places.tolist()


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
        _check_field(f, X, z0)
    if t is None:
        ends = X.interval
        t = ends if ends.ndim == 1 else torch.stack([ends[:, 0].amin(), ends[:, 1].amax()])

    def rate(time: Tensor, z: Tensor) -> Tensor:
        return _apply(f(time, z), X.derivative(time).to(z.dtype))

    chosen: dict[str, Any] = {} if method is None else {"method": method}
    return solve_ode(rate, z0, t, adjoint=adjoint, on_failure=on_failure, **chosen, **options)
