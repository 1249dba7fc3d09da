"""Solve and differentiate initial value problems of ordinary differential equations."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor

from scidyn._check.values import integer
from scidyn.errors import OptionError
from scidyn.solvers.adjoint.capture import captured
from scidyn.solvers.adjoint.checkpoints import Checkpoints, check_checkpoints
from scidyn.solvers.adjoint.continuous import attach_continuous, check_backsolve
from scidyn.solvers.adjoint.direct import replay
from scidyn.solvers.adjoint.discrete import attach
from scidyn.solvers.adjoint.regularisation import check_regularize, regularised, with_nodes
from scidyn.solvers.adjoint.reversible import Marks, attach_reversible, reversible
from scidyn.solvers.adjoint.times import move, move_outputs
from scidyn.solvers.arguments import Problem, check_choices, prepare
from scidyn.solvers.backends import torchdiffeq
from scidyn.solvers.backends.scipy import gradient_method, integrate_scipy
from scidyn.solvers.compiling import stepper
from scidyn.solvers.controller import Controller
from scidyn.solvers.dense import Records, evaluate, locate
from scidyn.solvers.event_solve import check_events, solve_to_event
from scidyn.solvers.events import Event
from scidyn.solvers.failure import report
from scidyn.solvers.fixed_steps import integrate_fixed
from scidyn.solvers.loop import Trace, integrate
from scidyn.solvers.methods.stepper import Method
from scidyn.solvers.segments import solve_with_jumps
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
    checkpoints: int | None = None,
    regularize: str | None = None,
    regularize_seed: int = 0,
    backend: str = "native",
    dense: bool = False,
    params: Sequence[Tensor] | None = None,
    compile: bool | str = False,
    on_failure: str = "raise",
    progress: Callable[[float], None] | None = None,
    events: Event | None = None,
    jump_times: Sequence[float] | None = None,
    jump: Callable[[Tensor, Tensor], Tensor] | None = None,
) -> Solution:
    r"""Solve an initial value problem and make its solution differentiable.

    .. math:: \frac{dy}{dt} = f(t, y, \mathrm{args}), \qquad y(t_0) = y_0 .

    Parameters
    ----------
    f : callable
        ``f(t, y)``, or ``f(t, y, args)`` if ``args`` is given: the rate of change, of the shape, dtype and
        device of ``y``, per unit of ``t``. ``t`` is a scalar tensor; with ``stepping="per_sample"`` and a
        batch it has shape (batch,).
    y0 : Tensor, shape (batch, *state) or (D,)
        Initial state, real or complex, of single or double precision.
    t : array_like, shape (time,) or (batch, time)
        Times to report, the first of them that of ``y0``; decreasing times solve backwards. Rows of their
        own need ``stepping="per_sample"``; NaN may pad the end of a row.
    args : object, optional
        Third argument of ``f``; tensors inside nested tuples, lists and dicts receive gradients.
    method : str
        ``"tsit5"`` (default, order 5), ``"dopri5"`` (order 5), ``"rk4"`` (order 4, fixed steps), or any
        other name in ``scidyn.solvers.methods.METHODS``.
    rtol, atol : float or Tensor, optional
        Allowed local error ``atol + rtol * |y|``; ``atol`` may have the shape of one sample's state, in the
        units of ``y``. Defaults: 1e-6 and 1e-9 in double, 1e-4 and 1e-6 in single precision.
    controller : str or Controller, optional
        How the step adapts: ``"i"``, ``"pi"`` (default), ``"pid"``, or a :class:`scidyn.solvers.Controller`.
    norm : str
        With shared steps, ``"max"`` lets the sample with the largest error decide, so a batch cannot hide
        it; ``"rms"`` takes the root mean square over the whole batch.
    dt0 : float, optional
        First step, or the longest step if steps are fixed (each interval of ``t`` is cut into equal
        steps); in units of ``t``, positive. Chosen automatically if left out; fixed steps then take one
        step per interval.
    dt_min, dt_max : float, optional
        Smallest and largest adaptive step, positive. A sample that would need a smaller step fails.
    max_steps : int
        Largest number of attempted steps of a sample.
    stepping : str, optional
        ``"shared"`` (default of adaptive methods): one step for all samples, right also if ``f`` mixes
        samples. ``"per_sample"``: each sample has its own steps and its result does not depend on the rest
        of the batch. ``"fixed"``: a grid known beforehand.
    adjoint : str, optional
        How gradients are found. ``"discrete"`` (default): the exact gradient of the computed solution from
        (t, h, y) per accepted step, N·batch·(D + 2) numbers; can be differentiated again. ``"direct"``:
        autograd through every step, much more memory, the same gradient. ``"reversible"``: explicit
        Runge–Kutta methods in a form whose steps can be undone, the exact gradient of the computed solution
        with memory independent of the number of steps beyond their times; samples that fail get none.

        ``"interpolating"``: the gradient of the exact flow by solving backwards along the kept polynomials,
        its error of the size of the tolerances. ``"backsolve"``: the same without keeping anything but the
        reported states, the path is solved backwards too; a last resort, explicit methods only. The last
        three cannot be differentiated again. None: no gradient.
    checkpoints : int, optional
        Largest number of states that the discrete adjoint keeps, at least 2; the times and sizes of all steps are
        kept besides. Steps between them are taken again in the backward sweep, which gives the same
        gradient. Left out, the state at every step is kept. Explicit Runge–Kutta methods only.
    regularize : str, optional
        Measure how hard the steps were, as ``Solution.regularization`` with a differentiable ``value``:
        ``"error"`` sums the scaled error estimate times the step size over the steps, ``"stiffness"`` an
        estimate of the largest eigenvalue of the Jacobian; ``"local_error"`` and ``"local_stiffness"`` take one
        random accepted step per sample (one in all if steps are shared) from a state without gradient, and go
        with every native adjoint. Its gradient through the repeated steps is kept by autograd.
    regularize_seed : int
        Seed of the random steps.
    backend : str
        ``"native"``; ``"scipy"`` with ``method="Radau"``, ``"BDF"``, ``"LSODA"``, ``"DOP853"``, ``"RK45"`` or
        ``"RK23"``, sample by sample on the host; or ``"torchdiffeq"`` for a comparison with that package
        (explicit methods, shared or
        fixed steps); its gradient is backpropagation through its steps, or its own with ``adjoint="backsolve"``.
    dense : bool
        Keep the polynomials of all steps, so that :meth:`scidyn.solvers.Solution.dense` can be called.
    params : sequence of Tensor, optional
        Tensors that ``f`` uses and that need gradients. Left out, they are found: leaves of ``args``,
        parameters of a module, and every tensor met in one watched call of ``f`` at the start, closed-over
        and computed ones included. Give them if a branch not taken at the start uses others.
    compile : bool or str
        True compiles the adaptive step with :func:`torch.compile`: several times faster, after a first
        call of about half a minute. ``"auto"`` compiles once steps of this kind have taken as long as compiling
        would. False (default) never: rounding then does not depend on what ran before, as resuming a
        training bit by bit requires. If compiling fails there is a warning and the solve goes on without.
    on_failure : str
        If a sample does not arrive: ``"raise"``, ``"warn"``, or ``"return"`` silently. Its unreached rows
        are NaN and have no gradient; see ``Solution.status``.
    progress : callable, optional
        Called with the fraction of the span that the slowest sample has covered.
    events : Event, optional
        Where a sample stops: see :class:`scidyn.solvers.Event`. Needs ``stepping="per_sample"``. The status
        becomes EVENT, rows after the event are NaN, and ``Solution.events`` holds its differentiable time
        and state.
    jump_times : sequence of float, optional
        Times at which ``f`` or the state jumps, in units of ``t``: a step ends at each and the next starts
        afresh. Needs ``t`` of shape (time,). A time equal to a jump reports the state after it.
    jump : callable, optional
        ``jump(t, y)`` gives the state after the jump at ``t``, of the shape of ``y0``: a dose, a reset.

    Returns
    -------
    Solution
        ``y`` of shape (batch, time, *state), with ``t``, ``status``, ``stats`` and ``dense``.

    Raises
    ------
    scidyn.errors.OptionError
        If an option is unknown, out of range, or does not go with another.
    scidyn.errors.ShapeError
        If ``y0``, ``t``, ``atol`` or what ``f`` returns has a wrong shape, dtype or device.
    scidyn.errors.NonFiniteError
        If ``y0`` or ``t`` holds NaN or infinity.
    scidyn.errors.TimeGridError
        If the times are not sorted.
    scidyn.errors.SolverError
        If a sample fails and ``on_failure="raise"``; its ``solution`` holds what was computed.

    Notes
    -----
    The grid of steps is a constant of the gradient. Reported times move along ``f``, and the first time
    against it, so ``t`` receives the gradient of the exact flow. With up to eight states per sample the
    discrete adjoint evaluates many steps in one batch; it checks the result for mixing of samples and then
    goes step by step.

    Examples
    --------
    >>> import torch
    >>> from scidyn.solvers import solve_ode
    >>> y0 = torch.tensor([[1.0], [2.0]], dtype=torch.float64)
    >>> decay = torch.tensor(0.5, dtype=torch.float64, requires_grad=True)
    >>> solution = solve_ode(lambda t, y: -decay * y, y0, [0.0, 1.0, 2.0])
    >>> solution.y.shape
    torch.Size([2, 3, 1])
    >>> solution.y[0, -1].backward()
    >>> round(decay.grad.item(), 4)
    -0.7358

    References
    ----------
    E. Hairer, S. P. Nørsett, G. Wanner, Solving Ordinary Differential Equations I, Springer, 1993.
    A. Sandu, On the properties of Runge–Kutta discrete adjoints, ICCS 2006, 550–557.
    S. McCallum, J. Foster, Efficient, accurate and stable gradients for neural ODEs, arXiv:2410.11648, 2024.
    """
    check_choices(adjoint, backend, on_failure, compile)
    limit = None if checkpoints is None else integer("checkpoints", checkpoints, at_least=2)
    if (events is not None or jump_times is not None) and (
        checkpoints is not None or regularize is not None or adjoint not in ("discrete", "direct", None)
    ):
        raise OptionError(
            "events and jump_times take adjoint='discrete', 'direct' or None, without checkpoints and regularize."
        )
    if jump_times is not None and events is None and backend == "native":
        options = {"args": args, "method": method, "rtol": rtol, "atol": atol, "controller": controller, "norm": norm}
        options |= {"dt0": dt0, "dt_min": dt_min, "dt_max": dt_max, "max_steps": max_steps, "stepping": stepping}
        options |= {"adjoint": adjoint, "dense": dense, "params": params, "compile": compile, "on_failure": on_failure}
        return solve_with_jumps(solve_ode, f, y0, t, jump_times, jump, options)
    if jump_times is not None or jump is not None:
        raise OptionError("jump needs jump_times, with backend='native' and without events: pass jump_times alone.")
    if events is not None:
        options = {"method": method, "rtol": rtol, "atol": atol, "controller": controller, "norm": norm, "dt0": dt0}
        options |= {"dt_min": dt_min, "dt_max": dt_max, "max_steps": max_steps, "stepping": stepping}
        extra = {"adjoint": adjoint, "params": params, "compile": compile, "on_failure": on_failure}
        check_events(events, backend, stepping, dense)
        return solve_to_event(solve_ode, events, f, y0, t, args, options, extra)
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
    if regularize is not None:
        if backend != "native" or limit is not None:
            raise OptionError("regularize needs backend='native' and every state: leave out backend and checkpoints.")
        check_regularize(problem, regularize, adjoint)
    plain = problem
    if adjoint == "reversible":
        problem = problem._replace(method=reversible(problem.method))
    elif adjoint == "backsolve":
        check_backsolve(problem.method)
    if limit is not None:
        if backend != "native":
            raise OptionError(f"checkpoints needs backend='native'; got {backend!r}.")
        check_checkpoints(problem.method, adjoint)
    if backend == "torchdiffeq":
        torchdiffeq.suits(problem, dense, compile, controller)
    with torch.no_grad():
        k1 = problem.field.probe(problem.start, problem.y0.detach())
    inputs = _inputs(problem, params) if adjoint is not None and torch.is_grad_enabled() else None
    if backend == "torchdiffeq":
        trace = _with_torchdiffeq(problem, adjoint, inputs)
        return report(make_solution(problem, trace, trace.y), trace.last_size, on_failure)
    along = inputs is not None and adjoint == "interpolating"
    keep = along or (inputs is not None and adjoint == "discrete")
    marks: Marks | Checkpoints | None = None
    if inputs is not None and adjoint == "reversible":
        marks = Marks()
    elif keep and limit is not None:
        keep, marks = False, Checkpoints(limit, problem.y0)
    keep = keep or regularize is not None
    if foreign is not None:
        trace = integrate_scipy(problem, foreign, keep_states=keep, keep_coef=dense or along, progress=progress)
    elif problem.stepping == "fixed":
        trace = integrate_fixed(
            problem, k1, keep_states=keep, keep_coef=dense or along, progress=progress, observe=marks
        )
    else:
        trace = integrate(
            problem,
            k1,
            keep_states=keep,
            keep_coef=dense or along,
            try_step=stepper(problem, compile),
            progress=progress,
            observe=marks,
        )
    nodes = regularize in ("error", "stiffness") and len(trace.size) > 0
    whole, longer = with_nodes(problem, trace) if nodes else (problem, trace)
    y = longer.y if inputs is None else _differentiable(whole, longer, inputs, adjoint, marks)
    y, states = y[:, : trace.y.shape[1]], y[:, trace.y.shape[1] :].transpose(0, 1) if nodes else trace.states
    solution = report(make_solution(problem, trace, y), trace.last_size, on_failure)
    if regularize is None or not len(trace.size):
        return solution
    return replace(solution, regularization=regularised(plain, trace, regularize, states, regularize_seed))


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
    if adjoint == "discrete":
        y = attach(problem, trace, y0, inputs, marks if isinstance(marks, Checkpoints) else None)
    elif adjoint in ("backsolve", "interpolating"):
        y = attach_continuous(problem, trace, y0, inputs, adjoint)
    elif isinstance(marks, Marks):
        y = attach_reversible(problem, trace, marks, y0, inputs)
    else:
        grid, fixed = (trace.times, trace.size), problem.stepping == "fixed"
        y = replay(problem.field, problem.method, y0, *grid, times.detach(), fixed)
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
