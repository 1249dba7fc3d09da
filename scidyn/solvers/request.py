"""Carry out a checked solve: integrate, attach the gradient, report."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from functools import partial
from typing import Any, NamedTuple

import torch
from torch import Tensor

from scidyn.errors import OptionError
from scidyn.solvers.adjoint.capture import captured, tangled
from scidyn.solvers.adjoint.chained import Chain
from scidyn.solvers.adjoint.checkpoints import Checkpoints, check_checkpoints
from scidyn.solvers.adjoint.compiled_step import watched_step
from scidyn.solvers.adjoint.continuous import attach_continuous, check_backsolve
from scidyn.solvers.adjoint.direct import replay
from scidyn.solvers.adjoint.discrete import attach
from scidyn.solvers.adjoint.forward import attach_forward
from scidyn.solvers.adjoint.local_regularisation import Grid, local_regulariser
from scidyn.solvers.adjoint.recorded import Graphs, Recorder, recordable
from scidyn.solvers.adjoint.regularisation import check_regularize, regularised, with_nodes
from scidyn.solvers.adjoint.reversible import Marks, attach_reversible, reversible
from scidyn.solvers.adjoint.timeparallel import check_real, sweep_or_refuse
from scidyn.solvers.adjoint.times import move, move_outputs
from scidyn.solvers.adjoint.together import small
from scidyn.solvers.arguments import Problem
from scidyn.solvers.attempt import Bounds, LoopState, Outcome
from scidyn.solvers.backends import torchdiffeq
from scidyn.solvers.backends.scipy import integrate_scipy
from scidyn.solvers.compiling import stepper, whole_solve
from scidyn.solvers.dense import Records, evaluate, locate
from scidyn.solvers.failure import report
from scidyn.solvers.fixed_steps import integrate_fixed
from scidyn.solvers.host_control import HostControl, controllable
from scidyn.solvers.loop import Trace, integrate
from scidyn.solvers.methods.explicit_rk import ExplicitRK
from scidyn.solvers.methods.stepper import repeatable
from scidyn.solvers.penalties import Regularization
from scidyn.solvers.saving import at_steps
from scidyn.solvers.solution import Solution, Stats
from scidyn.solvers.status import Status
from scidyn.solvers.watch import Watch

__all__ = ["Request", "check", "differentiable", "make_solution", "march", "solve", "start_rows"]

STATUSES = {status.value: status for status in Status}


# graphs that hold more are dropped, and the steps taken again
GRAPH_BYTES = 2**28


class Request(NamedTuple):
    """What is wanted of a solve beside its problem; the names are those of ``solve_ode``.

    ``foreign`` is the name of SciPy's method, ``checkpoints`` the largest number of states to keep.
    """

    backend: str
    foreign: str | None
    checkpoints: int | None
    regularize: Callable[[Regularization], Tensor] | None
    controller: object
    dense: bool
    progress: Callable[[float], None] | None
    adjoint: str | None
    params: Sequence[Tensor] | None
    compile: bool | str
    on_failure: str
    save: str | None = None
    compact: bool = False


def solve(problem: Problem, request: Request) -> Solution:
    """Solve ``problem`` as requested."""
    check(problem, request)
    plain, adjoint = problem, request.adjoint
    if adjoint == "reversible":
        problem = problem._replace(method=reversible(problem.method))
    if isinstance(problem.method, ExplicitRK) and _chainable(problem, request):
        watched = _solve_chained(problem, problem.method, request)
        if watched is not None:
            return watched
    whole = _in_one_call(problem, request)
    with torch.no_grad():
        k1 = problem.y0 if whole is not None else problem.field.probe(problem.start, problem.y0.detach())
    inputs = _inputs(problem, request.params) if adjoint is not None and torch.is_grad_enabled() else None
    if request.backend == "torchdiffeq":
        trace = _with_torchdiffeq(problem, adjoint, inputs)
        return report(make_solution(problem, trace, trace.y), trace.last_size, request.on_failure)
    if inputs is not None and request.compile is False:
        problem = problem._replace(method=repeatable(problem.method))
    recorder = _recorder(problem, request, inputs)
    stepped = problem if recorder is None else problem._replace(method=recorder)
    trace, marks = march(stepped, k1, request, whole, differentiate=inputs is not None)
    if request.save == "steps":
        problem, trace = at_steps(problem, trace)
    nodes = request.regularize is not None and len(trace.size) > 0
    extended, longer = with_nodes(problem, trace) if nodes else (problem, trace)
    kept_bytes = 0 if recorder is None else recorder.graphs.bytes
    y = longer.y if inputs is None else differentiable(extended, longer, inputs, adjoint, marks, recorder)
    y, states = y[:, : trace.y.shape[1]], y[:, trace.y.shape[1] :].transpose(0, 1) if nodes else trace.states
    if adjoint is None and request.regularize is None and request.save != "steps" and not request.dense:
        # the grid of steps was not kept: nothing needs it, and it may be large
        return report(make_solution(problem, trace, y), trace.last_size, request.on_failure)
    # a reversible pair of states is not what one plain step starts from
    kept = trace.states[:0].clone() if adjoint == "reversible" else trace.states
    solution = _finish(problem, plain, trace._replace(states=kept), y, request, kept_bytes)
    if request.regularize is None or not len(trace.size):
        return solution
    return replace(solution, reg=regularised(plain, trace, request.regularize, states))


def _finish(problem: Problem, plain: Problem, trace: Trace, y: Tensor, request: Request, kept_bytes: int) -> Solution:
    """Report failures and add what is needed to repeat a step."""
    solution = report(make_solution(problem, trace, y, kept_bytes), trace.last_size, request.on_failure)
    return replace(solution, _local=partial(local_regulariser, plain, Grid(trace.times, trace.size, trace.states)))


def _chainable(problem: Problem, request: Request) -> bool:
    """True if autograd may simply watch the steps."""
    plain = request.adjoint in ("auto", "direct") and torch.is_grad_enabled() and request.backend == "native"
    whole = request.params is None and request.checkpoints is None and request.regularize is None
    suits = controllable(problem) and recordable(problem) and request.save != "steps" and not request.compact
    return (
        plain and whole and suits and (not small(problem) or (request.adjoint == "direct" and request.compile is False))
    )


def _solve_chained(problem: Problem, method: ExplicitRK, request: Request) -> Solution | None:
    """Solve with autograd watching, if anything needs a gradient.

    If the graphs grow too large or a sample fails, the gradient is that of the discrete adjoint.
    """
    y0, bare = start_rows(problem), problem._replace(y0=problem.y0.detach(), times=problem.times.detach())
    with torch.no_grad():
        problem.field.probe(bare.start, bare.y0)
    k1 = problem.field(bare.start, y0)
    if not (k1.requires_grad or y0.requires_grad or problem.times.requires_grad):
        return None
    step, each = watched_step(problem, method, request.compile)
    chain = Chain(step, y0, k1, None if request.adjoint == "direct" else GRAPH_BYTES, each)
    options: dict[str, Any] = {"keep_states": True, "keep_coef": request.dense, "progress": request.progress}
    trace = integrate(bare, k1.detach(), try_step=HostControl(bare, chain), **options)
    reached = bool((trace.final.status == Status.SUCCESS.value).all())
    watched = chain.attach(trace, bare.times) if reached and len(trace.size) else None
    inputs = captured(problem.field, problem.start, problem.y0, None) if watched is None else ()
    y = attach(problem, trace, y0, inputs) if watched is None else watched
    y = move_outputs(problem.field, problem.times, y, problem.y0) if problem.times.requires_grad else y
    return _finish(problem, problem, trace, y, request, chain.bytes)


def check(problem: Problem, request: Request) -> None:
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
    if problem.targets is not None and not native:
        raise OptionError(f"step_times and save='step_to' need backend='native'; got {request.backend!r}.")
    if request.save == "steps" and (request.backend == "torchdiffeq" or request.checkpoints is not None):
        raise OptionError("save='steps' reports every state: leave out backend='torchdiffeq' and checkpoints.")
    if request.compact and (problem.stepping != "per_sample" or not native or request.compile is not False):
        raise OptionError("compact=True needs stepping='per_sample', backend='native' and compile=False.")
    if request.backend == "torchdiffeq":
        torchdiffeq.suits(problem, request.dense, request.compile, request.controller)


def _recorder(problem: Problem, request: Request, inputs: Sequence[Tensor] | None) -> Recorder | None:
    """Method that keeps the graphs of its steps, if that is wanted and possible."""
    wanted = request.backend == "native" and request.adjoint == "auto" and request.checkpoints is None
    wanted = wanted and request.save != "steps" and not request.compact
    if inputs is None or not wanted or request.compile is not False or not recordable(problem) or tangled(inputs):
        return None
    if not isinstance(problem.method, ExplicitRK) or small(problem):
        return None
    return Recorder(problem.method.tableau, Graphs(GRAPH_BYTES))


def _in_one_call(problem: Problem, request: Request) -> Callable[..., Trace] | None:
    """Give a function that solves without returning to the host's loop, if this request needs nothing in between."""
    plain = request.backend == "native" and request.foreign is None and request.checkpoints is None
    if not plain or request.progress is not None or request.adjoint == "reversible":
        return None
    return whole_solve(problem, request.compile)


def march(
    problem: Problem,
    k1: Tensor,
    request: Request,
    whole: Callable[..., Trace] | None = None,
    *,
    differentiate: bool,
    watch: Watch | None = None,
) -> tuple[Trace, Marks | Checkpoints | None]:
    """Step to the end, keeping what the adjoint needs."""
    along = differentiate and request.adjoint == "interpolating"
    keep = along or (differentiate and request.adjoint in ("auto", "discrete", "timeparallel", "forward"))
    marks: Marks | Checkpoints | None = None
    if differentiate and request.adjoint == "reversible":
        marks = Marks()
    elif keep and request.checkpoints is not None:
        keep, marks = False, Checkpoints(request.checkpoints, problem.y0)
    keep, coef = keep or request.regularize is not None or request.save == "steps", request.dense or along
    if request.foreign is not None:
        trace = integrate_scipy(problem, request.foreign, keep_states=keep, keep_coef=coef, progress=request.progress)
    elif problem.stepping == "fixed":
        trace = integrate_fixed(problem, k1, keep_states=keep, keep_coef=coef, progress=request.progress, observe=marks)
    elif whole is not None:
        trace = whole(keep_states=keep, keep_coef=coef)
    else:
        trace = integrate(
            problem,
            k1,
            keep_states=keep,
            keep_coef=coef,
            try_step=_try_step(problem, request.compile),
            progress=request.progress,
            observe=marks,
            compact=request.compact,
            keep_grid=request.adjoint is not None or keep or watch is not None,
            watch=watch,
        )
    return trace, marks


def _try_step(problem: Problem, compile: bool | str) -> Callable[[LoopState, Bounds], Outcome]:
    """Function that tries one step."""
    method, plain = problem.method, None
    if controllable(problem) and type(method) is ExplicitRK:
        plain = HostControl(problem, method.shared_step)
    return stepper(problem, compile, plain)


def _with_torchdiffeq(problem: Problem, adjoint: str | None, inputs: Sequence[Tensor] | None) -> Trace:
    """Solve with the other package; gradients with respect to times are attached here."""
    with torch.set_grad_enabled(inputs is not None):
        trace = torchdiffeq.solve(problem, start_rows(problem), adjoint, inputs or ())
    if inputs is None or not problem.times.requires_grad:
        return trace
    return trace._replace(y=move_outputs(problem.field, problem.times, trace.y, problem.y0))


def _inputs(problem: Problem, params: Sequence[Tensor] | None) -> tuple[Tensor, ...] | None:
    """Tensors that the field depends on, or None if nothing needs a gradient."""
    found = captured(problem.field, problem.start, problem.y0, params)
    needed = bool(found) or problem.y0.requires_grad or problem.times.requires_grad
    return found if needed else None


def differentiable(
    problem: Problem,
    trace: Trace,
    inputs: Sequence[Tensor],
    adjoint: str | None,
    marks: Marks | Checkpoints | None,
    recorder: Recorder | None = None,
) -> Tensor:
    """Attach the gradient to the solution; times not reached hold NaN without one."""
    y0, times = start_rows(problem), problem.times
    sweep = None if recorder is None else recorder.graphs.sweep(trace.times[-1], len(trace.size))
    if adjoint in ("auto", "discrete", "timeparallel"):
        kept = marks if isinstance(marks, Checkpoints) else None
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


def start_rows(problem: Problem) -> Tensor:
    """Initial rows; they move against the field with the first time if that needs a gradient."""
    start = problem.start
    if not (start.requires_grad and torch.is_grad_enabled()):
        return problem.y0
    return move(problem.field, start, start.detach(), problem.y0)


def make_solution(problem: Problem, trace: Trace, y: Tensor, graph_bytes: int = 0) -> Solution:
    """Bring the trace into the caller's shapes and direction of time."""
    batch, count = y.shape[:2]
    final, sign = trace.final, problem.field.sign
    found = tuple(map(STATUSES.__getitem__, final.status.tolist()))
    status = found if len(found) == batch else found * batch
    stats = Stats(
        n_accepted=final.accepted.expand(batch),
        n_rejected=final.rejected.expand(batch),
        nfe=trace.nfe,
        host_reads=trace.host_reads,
        reached=sign * final.t.expand(batch),
        n_jac=None if final.work is None else final.work[0],
        n_lu=None if final.work is None else final.work[1],
        graph_bytes=graph_bytes,
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
