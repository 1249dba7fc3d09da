"""Solve and differentiate initial value problems of ordinary differential equations."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

from torch import Tensor

from scidyn._check.values import integer
from scidyn.errors import OptionError
from scidyn.solvers.arguments import check_choices, prepare
from scidyn.solvers.backends.scipy import gradient_method
from scidyn.solvers.controller import Controller
from scidyn.solvers.event_solve import check_events, solve_to_event
from scidyn.solvers.events import Event
from scidyn.solvers.methods.stepper import Method
from scidyn.solvers.request import Request, solve
from scidyn.solvers.segments import solve_with_jumps
from scidyn.solvers.solution import Solution
from scidyn.solvers.transformed_solve import solve_transformed
from scidyn.solvers.transforms import transforming

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
        (t, h, y) per accepted step, N·batch·(D + 2) numbers. ``"timeparallel"``: the same gradient with all steps
        in one batch, for real states and an f that does not mix samples, which is checked. ``"direct"``:
        autograd through every step, much more memory, the same gradient. These three can be
        differentiated again.

        ``"forward"``: the same gradient by sensitivities carried along with the steps, one column per entry of
        the parameters and of one sample's state: for few parameters (about 50) and many losses.
        ``"reversible"``: explicit Runge–Kutta methods in a form whose steps can be undone, the exact gradient of
        the computed solution with memory independent of the number of steps beyond their times; samples
        that fail get none. ``"interpolating"``: the gradient of the exact flow by solving backwards along the kept
        polynomials, its error of the size of the tolerances. ``"backsolve"``: the same without keeping
        anything but the reported states, the path is solved backwards too; a last resort, explicit
        methods only. None: no gradient.
    checkpoints : int, optional
        Largest number of states that the discrete adjoint keeps at any time, at least 2; the times and sizes of all
        steps are kept besides. Steps between them are taken again in the backward sweep, by the binomial
        schedule, which gives the same gradient. Left out, the state at every step is kept.
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
    goes step by step. Inside the transforms of ``torch.func`` (``grad``, ``vmap``, ``jacrev``, ``jvp``, …) a mapped
    axis becomes part of the batch.

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
    A. Griewank, A. Walther, Algorithm 799: Revolve, ACM Trans. Math. Softw. 26, 19–45, 2000.
    A. Sandu, On the properties of Runge–Kutta discrete adjoints, ICCS 2006, 550–557.
    S. McCallum, J. Foster, Efficient, accurate and stable gradients for neural ODEs, arXiv:2410.11648, 2024.
    """
    if transforming():
        found = solve_transformed(solve_ode, dict(locals()))
        if found is not None:
            return found
    check_choices(adjoint, backend, on_failure, compile)
    setup: dict[str, Any] = {
        "args": args,
        "method": method,
        "rtol": rtol,
        "atol": atol,
        "controller": controller,
        "norm": norm,
    }
    setup |= {"dt0": dt0, "dt_min": dt_min, "dt_max": dt_max, "max_steps": max_steps, "stepping": stepping}
    gradient: dict[str, Any] = {"adjoint": adjoint, "params": params, "compile": compile, "on_failure": on_failure}
    interrupted = events is not None or jump_times is not None
    if interrupted and (
        checkpoints is not None or regularize is not None or adjoint not in ("discrete", "direct", None)
    ):
        raise OptionError(
            "events and jump_times take adjoint='discrete', 'direct' or None, without checkpoints and regularize."
        )
    if jump_times is not None or jump is not None:
        if jump_times is None or events is not None or backend != "native":
            raise OptionError("jump needs jump_times, with backend='native' and without events: pass jump_times alone.")
        return solve_with_jumps(solve_ode, f, y0, t, jump_times, jump, setup | gradient | {"dense": dense})
    if events is not None:
        check_events(events, backend, stepping, dense)
        return solve_to_event(solve_ode, events, f, y0, t, setup.pop("args"), setup, gradient)
    foreign = str(method) if backend == "scipy" else None
    if foreign is not None:
        setup |= {"method": gradient_method(foreign), "stepping": stepping or "per_sample"}
    problem = prepare(f, y0, t, **setup)
    limit = None if checkpoints is None else integer("checkpoints", checkpoints, at_least=2)
    request = Request(backend, foreign, limit, regularize, regularize_seed, controller, dense, progress, **gradient)
    return solve(problem, request)
