"""Forward sensitivities: the Jacobian of a solution with respect to parameters and initial state."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from scidyn._check.tensors import finite, floating
from scidyn.errors import OptionError, ShapeError
from scidyn.solvers.arguments import Problem, check_choices, prepare
from scidyn.solvers.dense import Records, evaluate, locate
from scidyn.solvers.failure import report
from scidyn.solvers.field import Field
from scidyn.solvers.fixed_steps import integrate_fixed
from scidyn.solvers.loop import Trace, integrate
from scidyn.solvers.request import make_solution
from scidyn.solvers.solution import Solution

__all__ = ["solve_sensitivities"]

ENTRIES = 2**22


def solve_sensitivities(
    f: Callable[..., Tensor],
    y0: Tensor,
    t: Any,
    args: Tensor | None = None,
    *,
    method: str = "tsit5",
    rtol: float | None = None,
    atol: float | Tensor | None = None,
    dt0: float | None = None,
    dt_max: float | None = None,
    max_steps: int = 4096,
    stepping: str | None = None,
    on_failure: str = "raise",
) -> tuple[Solution, Tensor, Tensor]:
    r"""Solve and differentiate the solution forwards, for few parameters and many residuals.

    With ``S = ∂y/∂(args, y0)`` each accepted step ``y_{n+1} = Ψ_n(y_n, args)`` gives

    .. math:: S_{n+1} = \frac{∂Ψ_n}{∂y} S_n + \frac{∂Ψ_n}{∂\mathrm{args}},

    the exact derivative of the computed solution on its grid of steps. The Jacobians of all steps
    are evaluated together, so the cost is a few batched evaluations, not a loop.

    Parameters
    ----------
    f : callable
        ``f(t, y, args)``, or ``f(t, y)`` if ``args`` is None. The rate of one sample may depend on
        that sample only, and ``f`` may use tensor operations only (no ``.item()``, no branch on a value).
    y0 : Tensor, shape (batch, D) or (D,)
        Initial state.
    t : array_like, shape (time,) or (batch, time)
        Times to report; rows of their own need ``stepping="per_sample"``.
    args : Tensor, shape (P,) or (batch, P), optional
        Parameters, shared or one row per sample.
    method, rtol, atol, dt0, dt_max, max_steps, stepping, on_failure
        As in :func:`scidyn.solvers.solve_ode`.

    Returns
    -------
    solution : Solution
        The solution, without a graph.
    d_args : Tensor, shape (batch, time, D, P)
        ``∂y/∂args``, with respect to each sample's own row; NaN where ``solution.y`` is NaN.
    d_y0 : Tensor, shape (batch, time, D, D)
        ``∂y/∂y0``; NaN where ``solution.y`` is NaN.

    Raises
    ------
    scidyn.errors.ShapeError
        If the state is not a vector or ``args`` has another shape.
    scidyn.errors.OptionError
        If ``f`` cannot be differentiated forwards.
    scidyn.errors.SolverError
        If a sample does not reach its last time and ``on_failure="raise"``.

    Notes
    -----
    Good for up to about 50 parameters (Gauss–Newton fits of mechanistic models); use the gradient
    of :func:`scidyn.solvers.solve_ode` for networks.

    Examples
    --------
    >>> import torch
    >>> from scidyn.solvers import solve_sensitivities
    >>> y0 = torch.ones(1, 1, dtype=torch.float64)
    >>> rate = torch.tensor([2.0], dtype=torch.float64)
    >>> solution, d_args, d_y0 = solve_sensitivities(lambda t, y, k: -k * y, y0, [0.0, 1.0], rate)
    >>> [round(x, 4) for x in (d_args[0, 1, 0, 0].item(), d_y0[0, 1, 0, 0].item())]
    [-0.1353, 0.1353]

    References
    ----------
    E. Hairer, S. P. Nørsett, G. Wanner, Solving Ordinary Differential Equations I, section II.6.
    """
    check_choices(None, "native", on_failure, False)
    theta = _parameters(args, y0)
    problem = prepare(
        f,
        y0.detach() if isinstance(y0, Tensor) else y0,
        t,
        args=theta,
        method=method,
        rtol=rtol,
        atol=atol,
        dt0=dt0,
        dt_max=dt_max,
        max_steps=max_steps,
        stepping=stepping,
    )
    if len(problem.state) != 1:
        raise ShapeError(f"the state must be a vector, y0 of shape (batch, D); one sample has {problem.state}.")
    with torch.no_grad():
        k1 = problem.field.probe(problem.start, problem.y0)
        solver = integrate_fixed if problem.stepping == "fixed" else integrate
        trace = solver(problem, k1, keep_states=True, keep_coef=False)
        d_y0, d_args = _propagate(problem, trace, theta)
    missing = torch.isnan(trace.y).all(dim=-1)[..., None, None]
    solution = report(make_solution(problem, trace, trace.y), trace.last_size, on_failure)
    return solution, d_args.masked_fill(missing, torch.nan), d_y0.masked_fill(missing, torch.nan)


def _parameters(args: Tensor | None, y0: Any) -> Tensor | None:
    """Check ``args``: a vector, or one row per sample."""
    if args is None:
        return None
    if not isinstance(args, Tensor):
        raise ShapeError(f"args must be a tensor of shape (P,) or (batch, P); got {type(args).__name__}.")
    batched = isinstance(y0, Tensor) and y0.ndim > 1
    if args.ndim != 1 and not (args.ndim == 2 and batched and args.shape[0] == y0.shape[0]):
        raise ShapeError(
            f"args must have shape (P,) or (batch, P); got {tuple(args.shape)} for y0 of shape "
            f"{tuple(getattr(y0, 'shape', ()))}."
        )
    return finite("args", floating("args", args.detach()))


def _propagate(problem: Problem, trace: Trace, theta: Tensor | None) -> tuple[Tensor, Tensor]:
    """Multiply the Jacobians of the steps; returns ``d_y0`` (B, T, D, D) and ``d_args`` (B, T, D, P)."""
    batch, size = problem.y0.shape
    count = 0 if theta is None else theta.shape[-1]
    columns = size + count
    current = torch.eye(size, columns, dtype=problem.y0.dtype, device=problem.y0.device).expand(batch, -1, -1)
    nodes, polynomials = [current], []
    if len(trace.size) == 0:
        full = current.unsqueeze(1).expand(-1, problem.times.shape[1], -1, -1)
        return full[..., :size], full[..., size:]
    chunk = max(1, ENTRIES // (columns * batch * size * 6))
    for low in range(0, len(trace.size), chunk):
        part = slice(low, low + chunk)
        d_y1, d_coef = _step_jacobians(problem, trace.times[:-1][part], trace.size[part], trace.states[part], theta)
        for jacobian, jacobian_coef in zip(d_y1, d_coef, strict=True):
            # columns of the Jacobian: the state at the step's start, then the parameters
            polynomials.append(_chain(jacobian_coef, current, size))
            current = _chain(jacobian, current, size)
            nodes.append(current)
    wanted = problem.times.expand(trace.times.shape[1], -1)
    records = Records(
        trace.times,
        trace.size,
        torch.stack(nodes[:-1]).reshape(len(trace.size), batch, -1),
        torch.stack(polynomials).reshape(len(trace.size), -1, batch, size * columns),
    )
    index, shift = locate(trace.times, wanted)
    full = evaluate(records, index, shift)
    full = full.reshape(batch, -1, size, columns)
    return full[..., :size], full[..., size:]


def _chain(jacobian: Tensor, current: Tensor, size: int) -> Tensor:
    """Apply ``(∂Ψ/∂y, ∂Ψ/∂args)`` to the sensitivities at the start of the step."""
    moved = jacobian[..., :size] @ current
    moved[..., size:] += jacobian[..., size:]
    return moved


def _step_jacobians(
    problem: Problem, times: Tensor, sizes: Tensor, states: Tensor, theta: Tensor | None
) -> tuple[Tensor, Tensor]:
    """Jacobians of ``y1`` (N, B, D, C) and of the polynomial (N, P, B, D, C) for all steps at once."""
    field, size = problem.field, states.shape[-1]
    count = 0 if theta is None else theta.shape[-1]
    basis = torch.eye(size + count, dtype=states.dtype, device=states.device)
    parameters = states.new_zeros(0) if theta is None else theta

    def take(t: Tensor, h: Tensor, y: Tensor, p: Tensor) -> tuple[Tensor, Tensor]:
        rate = Field(field.f, None if theta is None else p, field.shape, field.sign, field.per_sample)
        result = problem.method.replay(rate, t, h, y)
        return result.y1, torch.stack(result.coef)

    def columns(t: Tensor, h: Tensor, y: Tensor) -> tuple[Tensor, Tensor]:
        def column(direction: Tensor) -> tuple[Tensor, Tensor]:
            tangents = direction[:size].expand_as(y), direction[size:].expand_as(parameters)
            return torch.func.jvp(lambda a, b: take(t, h, a, b), (y, parameters), tangents)[1]

        return torch.func.vmap(column, out_dims=-1)(basis)

    try:
        return torch.func.vmap(columns)(times, sizes, states)
    except RuntimeError as problem_found:
        raise OptionError(
            "f cannot be differentiated forwards for all steps at once; write it with tensor operations "
            f"only, without .item() and branches on values ({str(problem_found).splitlines()[0]})."
        ) from problem_found
