"""Solve and differentiate initial value problems of ordinary differential equations."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor

from scidyn.errors import OptionError
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
    compile: bool | str = "auto",
    on_failure: str = "raise",
    progress: Callable[[float], None] | None = None,
) -> Solution:
    r"""Solve :math:`dy/dt = f(t, y)`, :math:`y(t_0) = y_0`, and differentiate the solution.

    Parameters
    ----------
    f : callable
        ``f(t, y)``, or ``f(t, y, args)`` if ``args`` is given; returns dy/dt with the shape, dtype and device
        of ``y``. ``t`` is a scalar, or has shape (batch,) with ``stepping="per_sample"``. A function or a module.
    y0 : Tensor, shape (batch, *state) or (D,)
        Initial state, floating or complex. One axis is a single sample.
    t : array_like, shape (time,) or (batch, time)
        Times to report, sorted; the first is the time of ``y0``; decreasing times solve backwards. Rows of
        their own (NaN-padded at the end) need ``stepping="per_sample"``.
    args : object, optional
        Third argument of ``f``: a tensor, or nested tuples, lists and dicts of tensors.
    method : str or Method
        Name of a method, by default ``"tsit5"``, or a method object with its own options: explicit
        ``"euler"``, ``"midpoint"``, ``"heun"``, ``"ralston"``, ``"ssp33"``, ``"rk4"``, ``"bosh3"``,
        ``"dopri5"``, ``"tsit5"``, ``"vern7"``, ``"dopri8"``, ``"rkc2"``; for stiff problems ``"kvaerno3"``,
        ``"kvaerno5"``, ``"rosenbrock23"``, ``"rodas5p"``; ``"auto"`` switches when a problem turns out stiff.
    rtol, atol : float, optional
        Local error allowed in a step, ``atol + rtol * |y|``. Default 1e-6 and 1e-9 in double precision,
        1e-4 and 1e-6 in single. ``atol`` may be a tensor with the shape of one state.
    controller : Controller or str, optional
        How the step adapts: ``"pi"`` (default), ``"i"``, ``"pid"``, or a :class:`Controller`.
    norm : str
        With shared steps: ``"max"``, the worst sample decides; ``"rms"``, the mean over all samples does,
        as in torchdiffeq.
    dt0 : float, optional
        First step; with fixed steps, the largest step. Chosen automatically by default.
    dt_min, dt_max : float, optional
        Smallest and largest step. A sample that needs a smaller step fails.
    max_steps : int
        Largest number of attempted steps of each sample.
    stepping : str, optional
        ``"shared"`` (default): one step for all samples, always valid. ``"per_sample"``: each sample has its
        own steps and result, whatever its batch mates; samples may not interact in ``f``. ``"fixed"``: the
        times and ``dt0`` are the grid; the default for methods without an error estimate.
    adjoint : str or None
        ``"discrete"`` (default): the exact gradient of the computed solution from the stored steps, memory
        of N·batch·(D + 2) numbers. ``"direct"``: autograd through the accepted steps, which stores every
        stage. None: no gradient. Step sizes are constants of either gradient.
    backend : str
        ``"native"``; ``"torchdiffeq"`` or ``"scipy"`` for that library's solvers.
    dense : bool
        Keep the polynomials of all steps for ``solution.dense(t)``.
    params : sequence of Tensor, optional
        Tensors that ``f`` depends on. By default the parameters of a module, the tensors in ``args`` and
        whatever ``f`` is seen to close over.
    compile : bool or str
        ``True`` compiles the step now, ``"auto"`` (default) once plain steps of this kind have taken as long
        as compiling would, ``False`` never. What cannot be compiled runs uncompiled, after one warning if
        compiling was asked for.
    on_failure : str
        ``"raise"`` (default), ``"warn"`` or ``"return"`` if a sample does not arrive.
    progress : callable, optional
        Called now and then with the fraction of the span that the slowest sample has covered.

    Returns
    -------
    Solution
        ``.t``, ``.y`` of shape (batch, time, *state), ``.status`` per sample, ``.stats``, ``.dense(t)``. Rows
        that were not reached are NaN and have no gradient.

    Raises
    ------
    scidyn.errors.ShapeError
        If shapes, dtypes or devices do not fit.
    scidyn.errors.NonFiniteError
        If ``y0`` is not finite.
    scidyn.errors.TimeGridError
        If times are unsorted or not finite.
    scidyn.errors.OptionError
        If an option is unknown or out of range.
    scidyn.errors.SolverError
        If a sample does not arrive and ``on_failure="raise"``; it holds the partial solution.

    Notes
    -----
    A problem on which an explicit method creeps is stiff. Double precision is worth its price for
    tolerances below 1e-5.

    Examples
    --------
    >>> import torch
    >>> from scidyn.solvers import solve_ode
    >>> rate = torch.tensor(0.5, dtype=torch.float64, requires_grad=True)
    >>> y0 = torch.tensor([[1.0], [2.0]], dtype=torch.float64)
    >>> solution = solve_ode(lambda t, y: -rate * y, y0, [0.0, 1.0])
    >>> solution.y.shape
    torch.Size([2, 2, 1])
    >>> solution.y[:, -1].sum().backward()
    >>> round(rate.grad.item(), 4)
    -1.8196

    References
    ----------
    Ch. Tsitouras, Runge–Kutta pairs of order 5(4) satisfying only the first column simplifying assumption,
    Comput. Math. Appl. 62, 770–775, 2011. E. Hairer, S. P. Nørsett, G. Wanner, Solving Ordinary Differential
    Equations I, sections II.4–II.6.
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
    if backend == "torchdiffeq":
        if dense:
            raise OptionError("backend='torchdiffeq' keeps no polynomials; leave out dense=True.")
        from scidyn.solvers.backends.torchdiffeq import solve

        solution = solve(problem, adjoint)
        return report(solution, solution.stats.reached.new_zeros(1), on_failure)
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
