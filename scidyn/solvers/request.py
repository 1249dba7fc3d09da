"""Carry out a checked solve: integrate, attach the gradient, report."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import NamedTuple

import torch
from torch import Tensor

from scidyn.errors import OptionError
from scidyn.solvers.adjoint.capture import captured
from scidyn.solvers.adjoint.checkpoints import Checkpoints, check_checkpoints
from scidyn.solvers.adjoint.continuous import attach_continuous, check_backsolve
from scidyn.solvers.adjoint.direct import replay
from scidyn.solvers.adjoint.discrete import attach
from scidyn.solvers.adjoint.forward import attach_forward
from scidyn.solvers.adjoint.regularisation import check_regularize, regularised, with_nodes
from scidyn.solvers.adjoint.reversible import Marks, attach_reversible, reversible
from scidyn.solvers.adjoint.timeparallel import check_real, sweep_or_refuse
from scidyn.solvers.adjoint.times import move, move_outputs
from scidyn.solvers.arguments import Problem
from scidyn.solvers.backends import torchdiffeq
from scidyn.solvers.backends.scipy import integrate_scipy
from scidyn.solvers.compiling import stepper
from scidyn.solvers.dense import Records, evaluate, locate
from scidyn.solvers.failure import report
from scidyn.solvers.fixed_steps import integrate_fixed
from scidyn.solvers.loop import Trace, integrate
from scidyn.solvers.methods.stepper import repeatable
from scidyn.solvers.solution import Solution, Stats
from scidyn.solvers.status import Status

__all__ = ["Request", "make_solution", "solve"]


class Request(NamedTuple):
    """What is wanted of a solve beside its problem; the names are those of ``solve_ode``.

    ``foreign`` is the name of SciPy's method, ``checkpoints`` the largest number of states to keep.
    """

    backend: str
    foreign: str | None
    checkpoints: int | None
    regularize: str | None
    regularize_seed: int
    controller: object
    dense: bool
    progress: Callable[[float], None] | None
    adjoint: str | None
    params: Sequence[Tensor] | None
    compile: bool | str
    on_failure: str


def solve(problem: Problem, request: Request) -> Solution:
    """Solve ``problem`` as requested."""
    _check(problem, request)
    plain, adjoint = problem, request.adjoint
    if adjoint == "reversible":
        problem = problem._replace(method=reversible(problem.method))
    with torch.no_grad():
        k1 = problem.field.probe(problem.start, problem.y0.detach())
    inputs = _inputs(problem, request.params) if adjoint is not None and torch.is_grad_enabled() else None
    if request.backend == "torchdiffeq":
        trace = _with_torchdiffeq(problem, adjoint, inputs)
        return report(make_solution(problem, trace, trace.y), trace.last_size, request.on_failure)
    if inputs is not None and request.compile is False:
        problem = problem._replace(method=repeatable(problem.method))
    trace, marks = _integrate(problem, k1, request, differentiate=inputs is not None)
    nodes = request.regularize in ("error", "stiffness") and len(trace.size) > 0
    whole, longer = with_nodes(problem, trace) if nodes else (problem, trace)
    y = longer.y if inputs is None else _differentiable(whole, longer, inputs, adjoint, marks)
    y, states = y[:, : trace.y.shape[1]], y[:, trace.y.shape[1] :].transpose(0, 1) if nodes else trace.states
    solution = report(make_solution(problem, trace, y), trace.last_size, request.on_failure)
    if request.regularize is None or not len(trace.size):
        return solution
    shown = regularised(plain, trace, request.regularize, states, request.regularize_seed)
    return replace(solution, regularization=shown)


def _check(problem: Problem, request: Request) -> None:
    """Refuse what the method, the adjoint and the backend cannot do together."""
    native = request.backend == "native"
    if request.regularize is not None:
        if not native or request.checkpoints is not None:
            raise OptionError("regularize needs backend='native' and every state: leave out backend and checkpoints.")
        check_regularize(problem, request.regularize, request.adjoint)
    if request.adjoint in ("timeparallel", "forward"):
        check_real(problem, request.adjoint)
    if request.adjoint == "backsolve":
        check_backsolve(problem.method)
    if request.checkpoints is not None:
        if not native:
            raise OptionError(f"checkpoints needs backend='native'; got {request.backend!r}.")
        check_checkpoints(request.adjoint)
    if request.backend == "torchdiffeq":
        torchdiffeq.suits(problem, request.dense, request.compile, request.controller)


def _integrate(
    problem: Problem, k1: Tensor, request: Request, *, differentiate: bool
) -> tuple[Trace, Marks | Checkpoints | None]:
    """Step to the end, keeping what the adjoint needs."""
    along = differentiate and request.adjoint == "interpolating"
    keep = along or (differentiate and request.adjoint in ("discrete", "timeparallel", "forward"))
    marks: Marks | Checkpoints | None = None
    if differentiate and request.adjoint == "reversible":
        marks = Marks()
    elif keep and request.checkpoints is not None:
        keep, marks = False, Checkpoints(request.checkpoints, problem.y0)
    keep, coef = keep or request.regularize is not None, request.dense or along
    if request.foreign is not None:
        trace = integrate_scipy(problem, request.foreign, keep_states=keep, keep_coef=coef, progress=request.progress)
    elif problem.stepping == "fixed":
        trace = integrate_fixed(problem, k1, keep_states=keep, keep_coef=coef, progress=request.progress, observe=marks)
    else:
        trace = integrate(
            problem,
            k1,
            keep_states=keep,
            keep_coef=coef,
            try_step=stepper(problem, request.compile),
            progress=request.progress,
            observe=marks,
        )
    return trace, marks


def _with_torchdiffeq(problem: Problem, adjoint: str | None, inputs: Sequence[Tensor] | None) -> Trace:
    """Solve with the other package; gradients with respect to times are attached here."""
    with torch.set_grad_enabled(inputs is not None):
        trace = torchdiffeq.solve(problem, _start(problem), adjoint, inputs or ())
    if inputs is None or not problem.times.requires_grad:
        return trace
    return trace._replace(y=move_outputs(problem.field, problem.times, trace.y, problem.y0))


def _inputs(problem: Problem, params: Sequence[Tensor] | None) -> tuple[Tensor, ...] | None:
    """Tensors that the field depends on, or None if nothing needs a gradient."""
    found = captured(problem.field, problem.start, problem.y0, params)
    needed = bool(found) or problem.y0.requires_grad or problem.times.requires_grad
    return found if needed else None


def _differentiable(
    problem: Problem, trace: Trace, inputs: Sequence[Tensor], adjoint: str | None, marks: Marks | Checkpoints | None
) -> Tensor:
    """Attach the gradient to the solution; times not reached hold NaN without one."""
    y0, times = _start(problem), problem.times
    if adjoint in ("discrete", "timeparallel"):
        kept, sweep = marks if isinstance(marks, Checkpoints) else None, None
        y = attach(problem, trace, y0, inputs, kept, sweep_or_refuse if adjoint == "timeparallel" else sweep)
    elif adjoint == "forward":
        y = attach_forward(problem, trace, y0, inputs)
    elif adjoint in ("backsolve", "interpolating"):
        y = attach_continuous(problem, trace, y0, inputs, adjoint)
    elif isinstance(marks, Marks):
        y = attach_reversible(problem, trace, marks, y0, inputs)
    else:
        grid, fixed = (trace.times, trace.size), problem.stepping == "fixed"
        y = replay(problem.field, problem.method, y0, *grid, times.detach(), fixed, trace.choice)
        y = y.masked_fill(torch.isnan(trace.y).all(dim=-1, keepdim=True), torch.nan)
    return move_outputs(problem.field, times, y, problem.y0) if times.requires_grad else y


def _start(problem: Problem) -> Tensor:
    """Initial rows; they move against the field with the first time if that needs a gradient."""
    start = problem.start
    if not (start.requires_grad and torch.is_grad_enabled()):
        return problem.y0
    return move(problem.field, start, start.detach(), problem.y0)


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
