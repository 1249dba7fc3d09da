"""``odeint``, ``odeint_adjoint`` and ``odeint_event`` with the signatures of torchdiffeq."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any, NamedTuple

import torch
from torch import Tensor

from scidyn._check.values import choice, known_keys
from scidyn.errors import OptionError, ShapeError, SolverError
from scidyn.solvers.events import Event
from scidyn.solvers.ode import solve_ode
from scidyn.solvers.status import Status

__all__ = ["odeint", "odeint_adjoint", "odeint_event"]

ADAPTIVE = {"dopri5": "dopri5", "dopri8": "dopri8", "bosh3": "bosh3", "tsit5": "tsit5"}
FIXED = {"euler": "euler", "midpoint": "midpoint", "heun2": "heun", "rk4": "rk4"}
REFUSED = {
    "adaptive_heun": "bosh3",
    "fehlberg2": "bosh3",
    "heun3": "rk4",
    "explicit_adams": "rk4",
    "implicit_adams": "rk4",
    "fixed_adams": "rk4",
    "scipy_solver": "dopri5",
}
OPTIONS_ADAPTIVE = ("first_step", "max_num_steps", "min_step", "max_step", "norm", "dtype")
OPTIONS_FIXED = ("step_size", "norm")
# an event ends the solve, so a long span costs nothing
FIRST_SPAN = 1024.0
DOUBLINGS = 50


class _State(NamedTuple):
    """A tensor, or a tuple of tensors joined to one vector."""

    y0: Tensor
    func: Callable[[Tensor, Tensor], Tensor]
    split: Callable[[Tensor], Any]


def odeint(
    func: Callable[..., Any],
    y0: Any,
    t: Tensor,
    *,
    rtol: float = 1e-7,
    atol: float = 1e-9,
    method: str | None = None,
    options: dict[str, Any] | None = None,
    event_fn: Callable[..., Tensor] | None = None,
) -> Any:
    """Solve an ODE with torchdiffeq's arguments and result; gradients are exact and cheap in memory.

    Parameters
    ----------
    func : callable
        ``func(t, y)``: rates of the shape of ``y``, a tuple if ``y0`` is one. ``t`` is a scalar tensor.
    y0 : Tensor or tuple of Tensor
        Initial state of any shape.
    t : Tensor, shape (time,)
        Times, increasing or decreasing; the first is that of ``y0``.
    rtol, atol : float
        Allowed local error, as a root mean square over the whole state.
    method : str, optional
        "dopri5" (default), "dopri8", "bosh3", "tsit5", or with fixed steps "euler", "midpoint", "heun2", "rk4".
    options : dict, optional
        "first_step", "min_step", "max_step", "max_num_steps" (adaptive), "step_size" (fixed: each interval of
        ``t`` is cut into equal steps no longer than this), "norm" ("rms" or "max").
    event_fn : callable, optional
        ``event_fn(t, y)``: stop where one of its entries first changes sign; later times of ``t`` are ignored.

    Returns
    -------
    Tensor or tuple of Tensor, shape (time, *y0.shape)
        The states; with ``event_fn``, the event's time and the states at the start and at the event.

    Raises
    ------
    scidyn.errors.OptionError
        If a method or an option is unknown or has no counterpart.
    scidyn.errors.ShapeError
        If a state or a rate has a wrong shape.
    scidyn.errors.SolverError
        If the solve fails, or the event is not met.

    Examples
    --------
    >>> import torch
    >>> from scidyn.solvers import odeint
    >>> y = odeint(lambda t, y: -y, torch.ones(2, 1, dtype=torch.float64), torch.tensor([0.0, 1.0]))
    >>> y.shape, round(y[1, 0].item(), 6)
    (torch.Size([2, 2, 1]), 0.367879)

    References
    ----------
    R. T. Q. Chen, torchdiffeq, 2018, https://github.com/rtqichen/torchdiffeq.
    """
    return _solve(func, y0, t, rtol, atol, method, options, event_fn, None)


def odeint_adjoint(
    func: Callable[..., Any],
    y0: Any,
    t: Tensor,
    *,
    rtol: float = 1e-7,
    atol: float = 1e-9,
    method: str | None = None,
    options: dict[str, Any] | None = None,
    event_fn: Callable[..., Tensor] | None = None,
    adjoint_rtol: float | None = None,
    adjoint_atol: float | None = None,
    adjoint_method: str | None = None,
    adjoint_options: dict[str, Any] | None = None,
    adjoint_params: Iterable[Tensor] | None = None,
) -> Any:
    """Solve as :func:`odeint` does; the gradient is the exact one of the computed solution.

    torchdiffeq solves a second equation backwards in time, with an error of its own. Here the steps taken are
    differentiated one after the other, from the states alone, so the options of that second equation have
    nothing to set: they are accepted and ignored.

    Parameters
    ----------
    func : callable
        ``func(t, y)``; it need not be a module.
    y0 : Tensor or tuple of Tensor
        Initial state.
    t : Tensor, shape (time,)
        Times.
    rtol, atol : float
        Allowed local error.
    method : str, optional
        As in :func:`odeint`.
    options : dict, optional
        As in :func:`odeint`.
    event_fn : callable, optional
        As in :func:`odeint`.
    adjoint_rtol, adjoint_atol : float, optional
        Ignored.
    adjoint_method : str, optional
        Ignored.
    adjoint_options : dict, optional
        Ignored.
    adjoint_params : iterable of Tensor, optional
        Tensors used by ``func`` that need gradients; found if left out.

    Returns
    -------
    Tensor or tuple of Tensor, shape (time, *y0.shape)
        As :func:`odeint`.

    Raises
    ------
    scidyn.errors.OptionError
        If a method or an option is unknown or has no counterpart.

    Examples
    --------
    >>> import torch
    >>> from scidyn.solvers import odeint_adjoint
    >>> rate = torch.tensor(-1.0, dtype=torch.float64, requires_grad=True)
    >>> y = odeint_adjoint(lambda t, y: rate * y, torch.ones(1, dtype=torch.float64), torch.tensor([0.0, 1.0]))
    >>> y[1].sum().backward()
    >>> round(rate.grad.item(), 6)
    0.367879
    """
    params = None if adjoint_params is None else tuple(adjoint_params)
    return _solve(func, y0, t, rtol, atol, method, options, event_fn, params)


def odeint_event(
    func: Callable[..., Any],
    y0: Any,
    t0: Tensor,
    *,
    event_fn: Callable[..., Tensor],
    reverse_time: bool = False,
    odeint_interface: Callable[..., Any] = odeint,
    **kwargs: Any,
) -> tuple[Tensor, Any]:
    """Solve until an event; its time and the state there are differentiable.

    Parameters
    ----------
    func : callable
        ``func(t, y)``.
    y0 : Tensor or tuple of Tensor
        State at ``t0``.
    t0 : Tensor, scalar
        Initial time.
    event_fn : callable
        ``event_fn(t, y)``: the event is where one of its entries first changes sign.
    reverse_time : bool
        Solve backwards in time.
    odeint_interface : callable
        :func:`odeint` or :func:`odeint_adjoint`.
    **kwargs
        Passed to ``odeint_interface``.

    Returns
    -------
    tuple
        The event's time, a scalar, and the states at ``t0`` and at the event, shape (2, *y0.shape).

    Raises
    ------
    scidyn.errors.SolverError
        If the solve fails before an event is met.

    Examples
    --------
    >>> import torch
    >>> from scidyn.solvers import odeint_event
    >>> fall = lambda t, y: torch.stack([y[1], torch.full_like(y[1], -9.81)])
    >>> start = torch.tensor([10.0, 0.0], dtype=torch.float64)
    >>> time, y = odeint_event(fall, start, torch.tensor(0.0), event_fn=lambda t, y: y[0])
    >>> round(time.item(), 5)
    1.42784
    """
    start = torch.as_tensor(t0)
    t = torch.stack([start, start.detach() + (-1.0 if reverse_time else 1.0)])
    event_time, states = odeint_interface(func, y0, t, event_fn=event_fn, **kwargs)
    return event_time, states


def _solve(
    func: Callable[..., Any],
    y0: Any,
    t: Tensor,
    rtol: float,
    atol: float,
    method: str | None,
    options: dict[str, Any] | None,
    event_fn: Callable[..., Tensor] | None,
    params: tuple[Tensor, ...] | None,
) -> Any:
    """Translate the arguments, solve, and put time first."""
    settings = {**_method("dopri5" if method is None else method, options or {}), "rtol": rtol, "atol": atol}
    state = _joined(func, y0)
    if event_fn is not None:
        time, rows = _until_event(state, t, event_fn, settings, params)
        return time.to(t.dtype), state.split(rows)
    solution = solve_ode(state.func, state.y0, t, params=params, **settings)
    y = solution.y
    first = y[0].reshape(len(t), *state.y0.shape) if state.y0.ndim < 2 else y.transpose(0, 1)
    return state.split(first)


def _method(name: str, options: dict[str, Any]) -> dict[str, Any]:
    """Translate the method and its options."""
    if name in REFUSED:
        raise OptionError(f"method {name!r} of torchdiffeq has no counterpart here: use method={REFUSED[name]!r}.")
    choice("method", name, (*ADAPTIVE, *FIXED))
    known_keys("options", options, OPTIONS_FIXED if name in FIXED else OPTIONS_ADAPTIVE)
    named = options.get("norm", "rms")
    if not isinstance(named, str):
        raise OptionError("options['norm'] as a function has no counterpart here: pass 'rms' or 'max'.")
    norm = "rms_all" if choice("norm", named, ("rms", "max")) == "rms" else "max"
    if name in FIXED:
        return {"method": FIXED[name], "dt0": options.get("step_size"), "stepping": "fixed", "norm": norm}
    return {
        "method": ADAPTIVE[name],
        "dt0": options.get("first_step"),
        "dt_min": options.get("min_step") or None,
        "dt_max": options.get("max_step"),
        "max_steps": options.get("max_num_steps", 2**31 - 1),
        "norm": norm,
    }


def _joined(func: Callable[..., Any], y0: Any) -> _State:
    """Join a tuple of tensors to one vector; a tensor stays as it is."""
    if isinstance(y0, Tensor):
        return _State(y0, func, lambda y: y)
    parts = tuple(y0)
    if not parts or not all(isinstance(p, Tensor) for p in parts):
        raise ShapeError(f"y0 must be a tensor or a tuple of tensors; got {type(y0).__name__}.")
    shapes, sizes = [p.shape for p in parts], [p.numel() for p in parts]

    def split(y: Tensor) -> tuple[Tensor, ...]:
        pieces = y.split(sizes, dim=-1)
        return tuple(p.reshape((*y.shape[:-1], *s)) for p, s in zip(pieces, shapes, strict=True))

    def joined(t: Tensor, y: Tensor) -> Tensor:
        rates = func(t, split(y))
        found = [tuple(r.shape) for r in rates]
        if found != [tuple(s) for s in shapes]:
            raise ShapeError(f"func returned shapes {found}, the state has {[tuple(s) for s in shapes]}.")
        return torch.cat([r.reshape(-1) for r in rates])

    return _State(torch.cat([p.reshape(-1) for p in parts]), joined, split)


def _until_event(
    state: _State, t: Tensor, event_fn: Callable[..., Tensor], settings: dict[str, Any], params: Any
) -> tuple[Tensor, Tensor]:
    """Solve over spans that double until the event is met."""
    if settings["method"] in FIXED.values():
        raise OptionError(f"event_fn needs an adaptive method; {settings['method']!r} takes fixed steps: use 'dopri5'.")
    shape = state.y0.shape
    sign = -1.0 if len(t) > 1 and bool(t[1] < t[0]) else 1.0
    origin = t[0].to(torch.float64)

    def flat(time: Tensor, y: Tensor) -> Tensor:
        return state.func(time, y.reshape(shape)).reshape(-1)

    def raw(time: Tensor, y: Tensor) -> Tensor:
        return torch.as_tensor(event_fn(time.to(y.real.dtype), state.split(y.reshape(shape)))).reshape(-1)

    start = state.y0.reshape(-1)
    with torch.no_grad():
        side = torch.sign(raw(origin, start.detach()))
    if bool((side == 0).any()):
        raise OptionError("event_fn is zero at the start: move the state off the event, then solve on.")
    event, y = Event(lambda time, y: (side * raw(time, y)).amin()), start
    for doubling in range(DOUBLINGS):
        times = torch.stack([origin, origin.detach() + sign * FIRST_SPAN * 2.0**doubling])
        solution = solve_ode(flat, y, times, params=params, events=event, **settings)
        if solution.status[0] is Status.EVENT:
            return solution.events.t[0, 0], torch.stack([start, solution.events.before[0, 0]]).reshape(2, *shape)
        origin, y = times[1].detach(), solution.y[0, -1]
    raise SolverError(f"no event was met up to t={float(origin):g}: check event_fn and its sign at the start.", None)
