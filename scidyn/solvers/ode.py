"""Solve and differentiate initial value problems of ordinary differential equations."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor
from torch.utils import _pytree as pytree

from scidyn._check.values import integer
from scidyn.errors import OptionError
from scidyn.solvers.arguments import check_choices, prepare
from scidyn.solvers.backends.scipy import gradient_method
from scidyn.solvers.controller import Controller
from scidyn.solvers.events import Event
from scidyn.solvers.interruptions import find_interruptions
from scidyn.solvers.methods.stepper import Method
from scidyn.solvers.packing import solve_packed
from scidyn.solvers.penalties import Regularization
from scidyn.solvers.precision import under_autocast
from scidyn.solvers.predictive import Gustafsson
from scidyn.solvers.progress import Bar
from scidyn.solvers.request import Request, solve
from scidyn.solvers.saving import present
from scidyn.solvers.segments import solve_in_segments
from scidyn.solvers.solution import Solution
from scidyn.solvers.transformed_solve import solve_transformed
from scidyn.solvers.transforms import transforming

__all__ = ["solve_ode"]


def solve_ode(
    f: Callable[..., Any],
    y0: Any,
    t: Any,
    *,
    args: Any = None,
    method: str | Method = "tsit5",
    rtol: float | None = None,
    atol: Any = None,
    controller: Controller | Gustafsson | str | None = None,
    norm: str = "max",
    dt0: float | None = None,
    dt_min: float | None = None,
    dt_max: float | None = None,
    max_steps: int = 4096,
    stepping: str | None = None,
    step_times: Any = None,
    compact: bool = False,
    adjoint: str | None = "auto",
    checkpoints: int | None = None,
    regularize: Callable[[Regularization], Tensor] | None = None,
    backend: str = "native",
    dense: bool = False,
    save: str | None = None,
    save_fn: Callable[[Tensor, Any], Tensor] | None = None,
    time_first: bool = False,
    params: Sequence[Tensor] | None = None,
    compile: bool | str = False,
    on_failure: str = "raise",
    progress: Callable[[float], None] | bool | None = None,
    events: Event | Sequence[Event] | None = None,
    jump_times: Sequence[float] | Tensor | None = None,
    jump: Callable[..., Any] | None = None,
) -> Solution:
    r"""Solve an initial value problem and make its solution differentiable.

    .. math:: \frac{dy}{dt} = f(t, y, \mathrm{args}), \qquad y(t_0) = y_0 .

    Parameters
    ----------
    f : callable
        ``f(t, y)``, or ``f(t, y, args)`` if ``args`` is given: the rate of change, of the shape, dtype and
        device of ``y``, per unit of ``t``. ``t`` is a scalar tensor; with ``stepping="per_sample"`` and a
        batch it has shape (batch,): see :func:`expand_time` and :func:`batch_time`. Rates of half precision, as
        under :func:`torch.autocast`, are brought to the dtype of ``y``.
    y0 : Tensor, shape (batch, *state) or (D,), or dict, tuple or list of tensors (batch, *state)
        Initial state, real or complex. The tensors of a structure have the same batch axis, precision and device;
        ``f`` gets and returns the same structure, and so does ``Solution.y``. States of half precision need fixed
        steps or an ``rtol`` of at least 1e-2; a method of low order, such as ``"bosh3"``, loses least to rounding.
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
        units of ``y``, or the structure of ``y0`` with a number or such a tensor for each leaf. Defaults: 1e-6 and
        1e-9 in double, 1e-4 and 1e-6 in single precision. The error of a sample is the root mean square over its
        state, for a structure that of the worst leaf.
    controller : str, Controller or Gustafsson, optional
        How the step adapts: ``"i"``, ``"pi"`` (default), ``"pid"``, ``"gustafsson"``, or a
        :class:`scidyn.solvers.Controller` or :class:`scidyn.solvers.Gustafsson`. The predictive one saves implicit
        methods most of their rejected steps; its longer steps are best reported with ``save="step_to"``.
    norm : str
        With shared steps, ``"max"`` lets the sample with the largest error decide, so a batch cannot hide
        it; ``"rms_all"`` takes the root mean square over the whole batch.
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
    step_times : array_like, shape (K,) or (batch, K), optional
        Times on which a step ends exactly, in units of ``t``; the step size goes on from there. Use it where
        ``f`` is not smooth, as at the knots of a measured input. Times outside the span have no effect.
    compact : bool
        True lets samples that have arrived leave the batch once half of it has, which saves time if their numbers
        of steps differ much. The rate of a sample must not depend on the rest of the batch; parameters of single
        samples belong in ``args``, as tensors whose first axis is the batch (any such tensor is taken for one).
        This is checked at every reduction, and the batch stays whole, with a warning, if it does not hold. Needs
        ``stepping="per_sample"``.
    adjoint : str, optional
        How gradients are found. ``"discrete"``: the exact gradient of the computed solution from
        (t, h, y) per accepted step, N·batch·(D + 2) numbers; every step is evaluated again.
        ``"timeparallel"``: the same gradient with all steps in one batch, for real states and an f that does not mix
        samples, which is checked. ``"direct"``: the same gradient by autograd through the accepted steps, with much
        more memory.
        ``"auto"`` (default): the same gradient; explicit methods keep the graphs of their steps, so that none is
        evaluated again, as long as the graphs hold less than 256 MiB (``Solution.stats.graph_bytes``); beyond,
        for other methods, and for states so small that evaluating all steps at once is faster, it is
        ``"discrete"``. All four can be differentiated again.

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
        schedule, which gives the same gradient. Left out, the state at every step is kept. Events and jumps
        divide the solve into segments, each with that many states.
    regularize : LocalError, Stiffness, a sum of them, or callable, optional
        Measure how hard the steps were: ``Solution.reg`` holds the error and stiffness estimates of every step
        and their differentiable ``value`` to add to a loss. A callable makes the value of a
        :class:`scidyn.solvers.Regularization` itself. Its gradient through the repeated steps is kept by
        autograd. One random step, for every native adjoint: :meth:`scidyn.solvers.Solution.local_regulariser`.
    backend : str
        ``"native"``; ``"scipy"`` with ``method="Radau"``, ``"BDF"``, ``"LSODA"``, ``"DOP853"``, ``"RK45"`` or
        ``"RK23"``, sample by sample on the host; or ``"torchdiffeq"`` for a comparison with that package
        (explicit methods, shared or
        fixed steps); its gradient is backpropagation through its steps, or its own with ``adjoint="backsolve"``.
    dense : bool
        Keep the polynomials of all steps, so that :meth:`scidyn.solvers.Solution.dense` can be called.
    save : str, optional
        ``"step_to"``: steps end on the times ``t`` in place of interpolation. ``"steps"``: report the start and
        the end of every accepted step in place of ``t``, as ``Solution.t`` and ``Solution.y`` with rows padded by
        NaN; ``t`` then has no gradient. Left out: ``t`` by interpolation.
    save_fn : callable, optional
        ``save_fn(t, y)`` is called at each reported time with ``y`` of all samples; the tensors it returns, first
        axis batch, take the place of the states in ``Solution.y``.
    time_first : bool
        True gives ``Solution.y`` as (time, batch, *state).
    params : sequence of Tensor, optional
        Tensors that ``f`` uses and that need gradients. Left out, they are found: leaves of ``args``,
        parameters of a module, and every tensor met in one watched call of ``f`` at the start, closed-over
        and computed ones included. Give them if a branch not taken at the start uses others.
    compile : bool or str
        True compiles. On a CPU the whole solve becomes one C++ program if the method is explicit Runge–Kutta or
        ``"rodas5p"`` and ``f`` is a moderate number of operations on single samples: a few seconds the first
        time, kept on disk, and tens to hundreds of times faster. Everything else compiles the adaptive step with
        :func:`torch.compile`: several times faster, after about half a minute. ``"auto"`` compiles once steps of
        this kind have taken as long as compiling would. False (default) never: rounding then does not depend on
        what ran before, as resuming a training bit by bit requires. If compiling fails there is a warning and
        the solve goes on without.
    on_failure : str
        If a sample does not arrive: ``"raise"``, ``"warn"``, or ``"return"`` silently. Its unreached rows
        are NaN and have no gradient; see ``Solution.status``.
    progress : bool or callable, optional
        Called with the fraction of the span that the slowest sample has covered; True shows a bar.
    events : Event or sequence of Event, optional
        Surfaces at which a sample stops, jumps or is recorded: see :class:`scidyn.solvers.Event`. Each sample
        meets them at times of its own, so a batch of more than one needs ``stepping="per_sample"``; fixed steps
        have none. A sample ended by an event has the status EVENT and NaN in the rows behind it.
        ``Solution.events`` holds the differentiable times and states. Of events at the same time all are
        recorded and the first in the sequence acts.
    jump_times : sequence of float or Tensor, shape (J,) or (batch, J), optional
        Times at which ``f`` or the state jumps, in units of ``t``: a step ends at each and the next starts
        afresh. Rows of their own, padded with NaN, need ``stepping="per_sample"``. A tensor receives gradients.
        A reported time equal to a jump shows the state after it.
    jump : callable, optional
        ``jump(t, y)``, or ``jump(t, y, args)`` if it takes three arguments, gives the states after the jump at
        ``t``, of the shape or structure of ``y``: a dose, a reset.

    Returns
    -------
    Solution
        ``y`` of shape (batch, time, *state), with ``t``, ``status``, ``stats`` and ``dense``.

    Raises
    ------
    scidyn.errors.OptionError
        If an option is unknown, out of range, or does not go with another.
    scidyn.errors.ShapeError
        If ``y0``, ``t``, ``atol`` or what ``f``, an event or a jump returns has a wrong shape, dtype or device.
    scidyn.errors.NonFiniteError
        If ``y0`` or ``t`` holds NaN or infinity, or an event or a jump returns it.
    scidyn.errors.TimeGridError
        If the times are not sorted, or a jump is outside of them.
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
    options: dict[str, Any] = {"args": args, "method": method, "rtol": rtol, "atol": atol, "controller": controller}
    options |= {"norm": norm, "dt0": dt0, "dt_min": dt_min, "dt_max": dt_max, "max_steps": max_steps}
    options |= {"stepping": stepping, "step_times": step_times, "compact": compact, "adjoint": adjoint}
    options |= {"checkpoints": checkpoints, "regularize": regularize}
    options |= {"backend": backend, "dense": dense, "save": save, "params": params, "compile": compile}
    options |= {"on_failure": on_failure, "events": events, "jump_times": jump_times, "jump": jump}
    options["progress"] = Bar() if progress is True else progress or None
    solution = _in_own_precision(solve_packed if isinstance(y0, (dict, tuple, list)) else _solve, f, y0, t, options)
    return present(solution, save_fn, time_first)


def _in_own_precision(
    solve: Callable[..., Solution], f: Callable[..., Any], y0: Any, t: Any, options: dict[str, Any]
) -> Solution:
    """Keep autocast for ``f`` alone: steps, errors and linear systems are computed as if it were not set."""
    tensor = next((x for x in pytree.tree_leaves(y0) if isinstance(x, Tensor)), None)
    first = (_solve,) if solve is solve_packed else ()
    if tensor is None or not callable(f) or not torch.is_autocast_enabled(tensor.device.type):
        return solve(*first, f, y0, t, **options)
    kept = under_autocast(f, tensor.device.type)
    with torch.autocast(tensor.device.type, enabled=False):
        return solve(*first, kept, y0, t, **options)


def _solve(
    f: Callable[..., Tensor],
    y0: Tensor,
    t: Any,
    *,
    checkpoints: int | None,
    regularize: Callable[[Regularization], Tensor] | None,
    backend: str,
    dense: bool,
    save: str | None,
    progress: Callable[[float], None] | None,
    events: Event | Sequence[Event] | None,
    jump_times: Sequence[float] | Tensor | None,
    jump: Callable[..., Tensor] | None,
    adjoint: str | None,
    params: Sequence[Tensor] | None,
    compile: bool | str,
    compact: bool,
    on_failure: str,
    **setup: Any,
) -> Solution:
    """Solve on tensors; ``setup`` holds what describes the problem."""
    gradient: dict[str, Any] = {"adjoint": adjoint, "params": params, "compile": compile, "on_failure": on_failure}
    gradient["compact"] = compact
    setup["save"] = save
    foreign = str(setup["method"]) if backend == "scipy" else None
    if foreign is not None:
        setup |= {"method": gradient_method(foreign), "stepping": setup["stepping"] or "per_sample"}
    problem = prepare(f, y0, t, **setup)
    limit = None if checkpoints is None else integer("checkpoints", checkpoints, at_least=2)
    request = Request(
        backend,
        foreign,
        limit,
        regularize,
        setup["controller"],
        dense,
        progress,
        **gradient,
        save=save,
    )
    plan = find_interruptions(problem, backend, events, jump_times, jump)
    if plan is None:
        return solve(problem, request)
    if compact or save == "steps":
        raise OptionError("compact=True or save='steps' does not go with events and jump_times: leave one of them out.")
    return solve_in_segments(problem, request, plan)
