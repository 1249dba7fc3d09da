"""Solve and differentiate initial value problems of ordinary differential equations."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor

from scidyn.solvers.adjoint.direct import replay
from scidyn.solvers.arguments import Problem, check_choices, prepare
from scidyn.solvers.dense import Records, evaluate, locate
from scidyn.solvers.failure import report
from scidyn.solvers.loop import Trace, integrate, integrate_fixed
from scidyn.solvers.solution import Solution, Stats
from scidyn.solvers.status import Status

__all__ = ["solve_ode"]


def solve_ode(
    f: Callable[..., Tensor],
    y0: Tensor,
    t: Any,
    *,
    args: Any = None,
    method: str = "tsit5",
    rtol: float | None = None,
    atol: float | Tensor | None = None,
    dt0: float | None = None,
    dt_max: float | None = None,
    max_steps: int = 4096,
    stepping: str | None = None,
    adjoint: str | None = "direct",
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
    problem = prepare(
        f,
        y0,
        t,
        args=args,
        method=method,
        rtol=rtol,
        atol=atol,
        dt0=dt0,
        dt_max=dt_max,
        max_steps=max_steps,
        stepping=stepping,
    )
    with torch.no_grad():
        k1 = problem.field.probe(problem.start, problem.y0.detach())
    solver = integrate_fixed if problem.stepping == "fixed" else integrate
    trace = solver(problem, k1, keep_states=False, keep_coef=dense, progress=progress)
    y = trace.y
    if adjoint is not None and torch.is_grad_enabled():
        y = _differentiable(problem, trace)
    return report(make_solution(problem, trace, y), trace.last_size, on_failure)


def _differentiable(problem: Problem, trace: Trace) -> Tensor:
    """Replay the solve under autograd; times not reached hold NaN without a gradient."""
    y = replay(
        problem.field,
        problem.method,
        problem.y0,
        trace.times,
        trace.size,
        problem.times,
        problem.stepping == "fixed",
    )
    missing = torch.isnan(trace.y.detach()) & torch.isnan(trace.y.detach()).all(dim=-1, keepdim=True)
    return y.masked_fill(missing, torch.nan)


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
