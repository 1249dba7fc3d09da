"""Solve and differentiate initial value problems of ordinary differential equations."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor

from scidyn.solvers.adjoint.capture import captured
from scidyn.solvers.adjoint.direct import replay
from scidyn.solvers.adjoint.discrete import attach
from scidyn.solvers.adjoint.times import move_with_time
from scidyn.solvers.arguments import Problem, check_choices, prepare
from scidyn.solvers.backends.scipy import gradient_method, integrate_scipy
from scidyn.solvers.compiling import stepper
from scidyn.solvers.controller import Controller
from scidyn.solvers.dense import Records, evaluate, locate
from scidyn.solvers.failure import report
from scidyn.solvers.fixed_steps import integrate_fixed
from scidyn.solvers.loop import Trace, integrate
from scidyn.solvers.methods.stepper import Method
from scidyn.solvers.solution import Solution, Stats
from scidyn.solvers.status import Status

__all__ = ["solve_ode"]


def solve_ode(
    f: Callable[..., Tensor],
    y0: Tensor,
    t: Any,
    *,
    args: Any = None,
    method: str | Method = "tsit5",
    rtol: float | None = None,
    atol: float | Tensor | None = None,
    controller: Controller | str | None = None,
    norm: str = "max",
    dt0: float | None = None,
    dt_min: float | None = None,
    dt_max: float | None = None,
    max_steps: int = 4096,
    stepping: str | None = None,
    adjoint: str | None = "discrete",
    backend: str = "native",
    dense: bool = False,
    params: Sequence[Tensor] | None = None,
    compile: bool | str = False,
    on_failure: str = "raise",
    progress: Callable[[float], None] | None = None,
) -> Solution:
    """Solve ``dy/dt = f(t, y, args)``, ``y(t[0]) = y0``.

    Examples
    --------
    >>> import torch
    >>> from scidyn.solvers import solve_ode
    >>> y0 = torch.tensor([[1.0], [2.0]], dtype=torch.float64)
    >>> solution = solve_ode(lambda t, y: -y, y0, [0.0, 1.0], adjoint=None)
    >>> solution.y.shape
    torch.Size([2, 2, 1])
    """
    check_choices(adjoint, backend, on_failure, compile)
    foreign = str(method) if backend == "scipy" else None
    if foreign is not None:
        method, stepping = gradient_method(foreign), stepping or "per_sample"
    problem = prepare(
        f,
        y0,
        t,
        args=args,
        method=method,
        rtol=rtol,
        atol=atol,
        controller=controller,
        norm=norm,
        dt0=dt0,
        dt_min=dt_min,
        dt_max=dt_max,
        max_steps=max_steps,
        stepping=stepping,
    )
    with torch.no_grad():
        k1 = problem.field.probe(problem.start, problem.y0.detach())
    inputs = _inputs(problem, params) if adjoint is not None and torch.is_grad_enabled() else None
    keep = inputs is not None and adjoint == "discrete"
    if foreign is not None:
        trace = integrate_scipy(problem, foreign, keep_states=keep, keep_coef=dense, progress=progress)
    elif problem.stepping == "fixed":
        trace = integrate_fixed(problem, k1, keep_states=keep, keep_coef=dense, progress=progress)
    else:
        trace = integrate(
            problem,
            k1,
            keep_states=keep,
            keep_coef=dense,
            try_step=stepper(problem, compile),
            progress=progress,
        )
    y = trace.y if inputs is None else _differentiable(problem, trace, inputs, adjoint)
    return report(make_solution(problem, trace, y), trace.last_size, on_failure)


def _inputs(problem: Problem, params: Sequence[Tensor] | None) -> tuple[Tensor, ...] | None:
    """Tensors that the field depends on, or None if nothing needs a gradient."""
    found = captured(problem.field, problem.start, problem.y0, params)
    needed = bool(found) or problem.y0.requires_grad or problem.times.requires_grad
    return found if needed else None


def _differentiable(problem: Problem, trace: Trace, inputs: Sequence[Tensor], adjoint: str | None) -> Tensor:
    """Attach the gradient to the solution; times not reached hold NaN without one."""

    def rates(t: Tensor, y: Tensor) -> Tensor:
        known = t.nan_to_num(nan=0.0)
        return torch.stack([problem.field(known[:, j], y[:, j]) for j in range(y.shape[1])], dim=1)

    y0, times = problem.y0, problem.times
    if times.requires_grad:
        y0 = move_with_time(rates, -1.0, y0.unsqueeze(1), times[:, :1]).squeeze(1)
    if adjoint == "discrete":
        y = attach(problem, trace, y0, inputs)
    else:
        grid, fixed = (trace.times, trace.size), problem.stepping == "fixed"
        y = replay(problem.field, problem.method, y0, *grid, times.detach(), fixed)
        y = y.masked_fill(torch.isnan(trace.y).all(dim=-1, keepdim=True), torch.nan)
    return move_with_time(rates, 1.0, y, times) if times.requires_grad else y


def make_solution(problem: Problem, trace: Trace, y: Tensor) -> Solution:
    """Bring the trace into the caller's shapes and direction of time."""
    batch, count = y.shape[:2]
    final, sign = trace.final, problem.field.sign
    status = tuple(Status(code) for code in final.status.expand(batch).tolist())
    stats = Stats(
        n_accepted=final.accepted.expand(batch),
        n_rejected=final.rejected.expand(batch),
        evaluations=trace.evaluations,
        host_reads=trace.host_reads,
        reached=sign * final.t.expand(batch),
    )
    shaped = y.reshape(batch, count, *problem.state)
    return Solution(problem.user_times, shaped, status, stats, _interpolant(problem, trace))


def _interpolant(problem: Problem, trace: Trace) -> Callable[[Tensor], Tensor] | None:
    """Continuous extension in the caller's shapes, if the polynomials were kept."""
    if trace.coef is None:
        return None
    records = Records(trace.times, trace.size, trace.states, trace.coef)
    batch, sign = problem.y0.shape[0], problem.field.sign

    def interpolant(t: Tensor) -> Tensor:
        wanted = sign * (t.unsqueeze(0) if t.ndim == 1 else t)
        rows = max(records.times.shape[1], wanted.shape[0])
        wide = records._replace(times=records.times.expand(-1, rows), size=records.size.expand(-1, rows))
        wanted = wanted.expand(rows, -1)
        y = evaluate(wide, *locate(wide.times, wanted))
        late = (wanted > trace.final.t.expand(rows).unsqueeze(1)).unsqueeze(-1)
        return torch.where(late, torch.nan, y).reshape(batch, wanted.shape[1], *problem.state)

    return interpolant
