"""Solve and differentiate initial value problems of stochastic differential equations."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor

from scidyn._check.values import choice, integer, number
from scidyn.errors import OptionError
from scidyn.solvers.brownian import FractionalIncrements, MarkovFBM
from scidyn.solvers.failure import report
from scidyn.solvers.penalties import Regularization
from scidyn.solvers.sde.adaptive_solve import solve_adaptively
from scidyn.solvers.sde.arguments import (
    check_dependence,
    check_method,
    check_rows,
    check_start,
    check_terms,
    check_times,
    make_terms,
)
from scidyn.solvers.sde.capture import needed
from scidyn.solvers.sde.engine import Tick
from scidyn.solvers.sde.fractional import check_fractional, driven
from scidyn.solvers.sde.grid_solve import solve_on_grid
from scidyn.solvers.sde.logqp import with_divergence
from scidyn.solvers.sde.methods.reversible_heun import ReversibleHeun
from scidyn.solvers.sde.outcome import conclude, last_size, split_divergence
from scidyn.solvers.sde.plan import make_grid
from scidyn.solvers.sde.regularisation import check_regularize
from scidyn.solvers.sde.solution import SDESolution
from scidyn.solvers.sde.task import Task, check_seed, check_tolerance
from scidyn.solvers.sde.terms import Terms
from scidyn.solvers.sde.torchsde_backend import solve_with_torchsde
from scidyn.solvers.status import Status

__all__ = ["solve_sde"]

ADJOINT = ("discrete", "direct", "reversible", "backsolve", None)


def solve_sde(
    drift: Any,
    diffusion: Callable[..., Tensor] | None,
    y0: Tensor,
    t: Any,
    *,
    args: Any = None,
    noise: str | None = None,
    calculus: str | None = None,
    method: str | None = None,
    dt: float | None = None,
    seed: int | None = None,
    bm: Any = None,
    adaptive: bool = False,
    stepping: str = "shared",
    rtol: float | None = None,
    atol: float | None = None,
    dt_min: float | None = None,
    max_steps: int = 100_000,
    jump_times: Sequence[float] = (),
    prior_drift: Any = None,
    adjoint: str | None = "discrete",
    regularize: Callable[[Regularization], Tensor] | None = None,
    backend: str = "native",
    params: Sequence[Tensor] | None = None,
    check: bool = True,
    compile: bool | str = False,
    on_failure: str = "raise",
    progress: Callable[[float], None] | None = None,
) -> SDESolution:
    """Sample ``dy = f(t, y) dt + g(t, y) dW`` (Itô) or ``∘ dW`` (Stratonovich), ``y(t[0]) = y0``.

    Parameters
    ----------
    drift : callable or object
        ``f(t, y)`` or ``f(t, y, args)`` of the shape of ``y``, with a scalar ``t``; or, with
        ``diffusion=None``, an object with methods ``f`` and ``g`` and attributes ``sde_type`` and ``noise_type``.
    diffusion : callable or None
        ``g(t, y)``: the shape of ``y`` for diagonal noise, (B, D, 1) for scalar, (B, D, m) for general
        noise, either for additive noise.
    y0 : Tensor, shape (B, *state)
        Initial states.
    t : array_like, shape (T,)
        Increasing times to report; the first is the start. Every one is the end of a step.
    args : object, optional
        Passed on to ``drift`` and ``diffusion`` if not None.
    noise : str, optional
        "diagonal" (default), "additive", "scalar" or "general".
    calculus : str, optional
        "ito" (default) or "stratonovich".
    method : str, optional
        Itô: "euler", "milstein", "milstein_free", "sriw1", "platen". Stratonovich: "heun", "euler_heun",
        "midpoint", "spark", "general_shark", "reversible_heun", "milstein", "milstein_free". Additive noise: also
        "sea", "sra1", "shark". Default "euler", "heun" or "shark".
    dt : float, optional
        Largest step; the first step if adaptive. Each gap between reported times is cut into equal steps.
    seed : int, optional
        Seed of the Brownian path; needed unless ``bm`` is given.
    bm : BrownianIncrements, BrownianTree, FractionalIncrements or MarkovFBM, optional
        The path to use. The grid of increments is the grid of the steps. A MarkovFBM is a law: with ``dt`` and
        ``seed`` its path drives the equation in the place of W; ``calculus`` is that of the Brownian motion in it.
    adaptive : bool
        Choose steps by an error estimate.
    stepping : str
        "shared": the row with the largest error decides for all. "per_sample": each row takes steps of its own,
        ``t`` has shape (B,), and a row's result does not depend on the others.
    rtol, atol : float, optional
        Allowed local error; default 1e-3 and 1e-4 (float32) or 1e-5.
    dt_min : float, optional
        Smallest adaptive step; default 1e-4 of the span.
    max_steps : int
        Largest number of attempted adaptive steps.
    jump_times : sequence of float
        Times at which drift or diffusion jump; steps end there.
    prior_drift : callable or True, optional
        ``h(t, y)`` of a process with the same diffusion; ``logqp`` of the solution then holds the path divergence.
        True takes the object's method ``h``.
    adjoint : str or None
        "discrete": exact gradient of the steps taken, a few steps rerun at a time. "direct": autograd through all
        steps. "reversible": memory of one step, for "reversible_heun". "backsolve": the continuous adjoint of
        torchsde. None: no gradient. The first three can be differentiated again, at the memory of all steps.
    regularize : LocalError, Stiffness, a sum of them, or callable, optional
        Measure how hard the steps were: ``Solution.reg`` holds error estimates ("sra1", "shark", "spark", "sriw1")
        and stiffness of the drift at every step, and their differentiable ``value`` to add to a loss.
    backend : str
        "native" or "torchsde".
    params : sequence of Tensor, optional
        Tensors that need gradients; found by themselves if not given.
    check : bool
        Look whether the diffusion depends on the state as declared (two or three evaluations).
    compile : bool or str
        True compiles the noise and a few steps of a known grid with :func:`torch.compile`: several times faster for
        cheap equations, after a first call of some ten seconds. ``"auto"`` compiles once plain steps of this kind
        have taken as long as compiling would; results change by rounding. A carry between steps
        ("reversible_heun") and adaptive steps stay plain. If compiling fails there is a warning and the solve goes on.
    on_failure : str
        "raise", "warn" or "return" if a row becomes infinite; such rows are NaN from there on.
    progress : callable, optional
        Called with the fraction done at each reported time.

    Returns
    -------
    SDESolution
        ``y`` of shape (B, T, *state), ``t``, ``status``, ``stats``, ``logqp``, ``grid``.

    Raises
    ------
    scidyn.errors.OptionError
        If options contradict each other or the declared noise or calculus.
    scidyn.errors.ShapeError
        If shapes, dtypes or devices do not fit.
    scidyn.errors.TimeGridError
        If times do not increase or are not on the path's grid.
    scidyn.errors.SolverError
        If a row fails and ``on_failure="raise"``.

    Examples
    --------
    >>> import torch
    >>> from scidyn.solvers import solve_sde
    >>> y0 = torch.ones(1000, 1, dtype=torch.float64)
    >>> solution = solve_sde(
    ...     lambda t, y: -y, lambda t, y: 0.5 * torch.ones_like(y), y0, [0.0, 1.0], noise="additive", dt=0.1, seed=0
    ... )
    >>> solution.y.shape
    torch.Size([1000, 2, 1])
    >>> round(solution.y[:, -1].mean().item(), 1)         # exp(-1) = 0.37
    0.4

    References
    ----------
    P. E. Kloeden, E. Platen (1992), Numerical solution of stochastic differential equations.
    """
    choice("adjoint", adjoint, ADJOINT)
    choice("backend", backend, ("native", "torchsde"))
    choice("on_failure", on_failure, ("raise", "warn", "return"))
    choice("stepping", stepping, ("shared", "per_sample"))
    choice("compile", compile, (True, False, "auto"))
    equation = make_terms(drift, diffusion, args, noise, calculus, prior_drift)
    check_start(y0)
    times = check_times(t)
    first = torch.full((), float(times[0]), dtype=y0.real.dtype, device=y0.device)
    if stepping == "per_sample":
        if not adaptive:
            raise OptionError("stepping='per_sample' is for adaptive=True: fixed steps are the same for all rows.")
        first = first.expand(y0.shape[0])
    with torch.no_grad():
        if stepping == "per_sample" and check:
            check_rows(equation.terms, first, y0.detach())
        terms = check_terms(equation.terms, first, y0.detach())
    stepper = check_method(method, terms)
    if check:
        with torch.no_grad():
            check_dependence(terms, stepper, first, y0.detach())
    if adjoint == "reversible" and not isinstance(stepper, ReversibleHeun):
        raise OptionError(
            f"adjoint='reversible' undoes steps of method='reversible_heun' only; the method is {stepper.about.name!r}."
        )
    check_regularize(regularize, stepper, adjoint, backend)
    start, padded = y0, False
    if isinstance(bm, MarkovFBM | FractionalIncrements):
        check_fractional(equation.prior, adaptive, backend, adjoint)
        terms, stepper = driven(terms, stepper, bm, y0)
    elif equation.prior is not None:
        terms, padded = with_divergence(terms, equation.prior, y0), not terms.matrix
        start = torch.cat([y0, y0.new_zeros(y0.shape[0], 1)], dim=-1)
    nodes = make_grid(times.tolist(), None, jump_times)
    gradient = adjoint is not None and torch.is_grad_enabled()
    tensors = _parameters(terms, equation.owners, params, first, start) if gradient else []
    gradient = gradient and (y0.requires_grad or bool(tensors))
    task = Task(terms, stepper, start, times, nodes, tensors, adjoint if gradient else None, padded, _tick(progress))
    if backend == "torchsde" or task.adjoint == "backsolve":
        solution = conclude(task, _by_torchsde(task, dt, seed, bm), nodes, None)
    elif adaptive:
        limit = integer("max_steps", max_steps, at_least=1)
        tolerance = check_tolerance(rtol, atol, y0)
        solution = solve_adaptively(task, dt, seed, bm, tolerance, dt_min, limit, stepping, regularize)
    else:
        tolerance = check_tolerance(rtol, atol, y0)
        solution = solve_on_grid(task, dt, seed, bm, jump_times, compile, regularize, tolerance)
    if equation.prior is not None:
        solution = split_divergence(solution)
    if solution.status.count(Status.SUCCESS) < len(solution.status):
        size = torch.tensor([last_size(solution)], dtype=torch.float64, device="cpu")
        report(solution, size, on_failure)
    return solution


def _tick(progress: Callable[[float], None] | None) -> Tick:
    """Check the callback."""
    if progress is not None and not callable(progress):
        raise OptionError(f"progress must be a callable of the fraction done; got {type(progress).__name__}.")
    return progress


def _parameters(terms: Terms, owners: Any, params: Any, t: Tensor, y: Tensor) -> list[Tensor]:
    """Tensors to differentiate beside the start."""
    state = y.detach()
    return needed(lambda: (terms.f(t, state), terms.g(t, state)), owners, params)


def _by_torchsde(task: Task, dt: float | None, seed: int | None, bm: Any) -> Tensor:
    """Hand over to torchsde."""
    if dt is None:
        raise OptionError("torchsde needs dt=, the size of its steps.")
    if bm is not None:
        raise OptionError("torchsde draws its own Brownian path: pass seed= in place of bm=.")
    if task.padded:
        raise OptionError("the path divergence is computed by the native backend only: drop backend='torchsde'.")
    method, levels = task.method.about.name, task.method.about.levels
    return solve_with_torchsde(
        task.terms,
        method,
        task.y0,
        task.times,
        number("dt", dt, above=0.0),
        check_seed(seed),
        task.params,
        task.adjoint == "backsolve",
        levels,
    )
