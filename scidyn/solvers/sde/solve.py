"""Solve and differentiate stochastic differential equations."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor

from scidyn._check.values import choice, integer, number
from scidyn.errors import OptionError, ShapeError
from scidyn.solvers.brownian.increments import BrownianIncrements, CoarseIncrements
from scidyn.solvers.brownian.tree import BrownianTree
from scidyn.solvers.failure import report
from scidyn.solvers.sde.adaptive import Control, Found, choose_steps
from scidyn.solvers.sde.adjoint import direct, discrete
from scidyn.solvers.sde.arguments import check_declaration, check_state, check_times, make_terms, select_method
from scidyn.solvers.sde.capture import dependencies
from scidyn.solvers.sde.engine import Run, Source, TreeSteps
from scidyn.solvers.sde.logqp import PaddedSource, with_divergence
from scidyn.solvers.sde.methods import Method
from scidyn.solvers.sde.plan import Plan, nodes_between
from scidyn.solvers.sde.reversible import reversible
from scidyn.solvers.sde.terms import Terms
from scidyn.solvers.solution import Solution, Stats
from scidyn.solvers.status import Status

__all__ = ["SDESolution", "solve_sde"]

ADJOINT = ("discrete", "direct", "reversible", "backsolve", None)
Brownian = BrownianIncrements | CoarseIncrements | BrownianTree


@dataclass(frozen=True)
class SDESolution(Solution):
    """A solved stochastic problem.

    Attributes
    ----------
    t : Tensor, shape (time,)
        The times asked for.
    y : Tensor, shape (batch, time, *state)
        States at those times; NaN where a sample failed.
    status : tuple of Status
        One per sample.
    stats : Stats
        Steps, rejections, evaluations and host reads.
    regularization : None
        Only ``solve_ode`` measures steps.
    log_ratio : Tensor or None, shape (batch, time)
        ``½ ∫ |g⁻¹ (f - h)|² ds`` from the first time, if a prior drift h was given.
    grid : tuple of float
        Ends of the steps taken.
    """

    log_ratio: Tensor | None = None
    grid: tuple[float, ...] = field(default=(), repr=False)


def solve_sde(
    drift: Any,
    diffusion: Callable[..., Tensor] | None,
    y0: Tensor,
    t: Any,
    *,
    args: Any = None,
    noise: str = "diagonal",
    calculus: str = "ito",
    method: str | None = None,
    dt: float | None = None,
    seed: int | None = None,
    bm: Any = None,
    adaptive: bool = False,
    rtol: float = 1e-3,
    atol: float = 1e-3,
    dt_min: float | None = None,
    max_steps: int = 100_000,
    jump_times: Sequence[float] = (),
    prior_drift: Callable[..., Tensor] | None = None,
    adjoint: str | None = "discrete",
    backend: str = "native",
    params: Sequence[Tensor] | None = None,
    check: bool = True,
    on_failure: str = "raise",
) -> SDESolution:
    """Solve ``dy = f(t, y) dt + g(t, y) dW`` (Itô) or ``… ∘ dW`` (Stratonovich).

    Parameters
    ----------
    drift, diffusion : callable
        ``f(t, y)`` and ``g(t, y)``, or with ``args`` third; t is a 0-d tensor. ``drift`` may instead be
        an object with methods ``f``, ``g`` and attributes ``noise_type``, ``sde_type``; then
        ``diffusion`` is None. g returns (batch, *state) for diagonal noise, (batch, D, m) for general,
        either for scalar and additive noise.
    y0 : Tensor, shape (batch, *state)
        Initial states.
    t : array_like, shape (T,)
        Strictly increasing times to report; the first is that of ``y0``.
    args : object, optional
        Third argument of drift and diffusion.
    noise : str
        "diagonal", "additive", "scalar" or "general".
    calculus : str
        "ito" or "stratonovich".
    method : str, optional
        Default: "sriw1" or "sra1" (Itô), "midpoint" (Stratonovich), "euler_maruyama" for general Itô noise.
    dt : float, optional
        Largest step, or the first if adaptive; default one step between two times.
    seed : int, optional
        Seed of the Brownian path; needed unless ``bm`` is given.
    bm : BrownianIncrements or BrownianTree, optional
        A path to drive the equation, shared between runs or with other code.
    adaptive : bool
        Choose the steps by the local error; needs a tree path, which is made if only a seed is given.
    rtol, atol : float
        Tolerances of the local error, for adaptive steps.
    dt_min : float, optional
        Smallest step; default 1e-5 of the span. The tree made for adaptive steps resolves it.
    max_steps : int
        Largest number of attempts, for adaptive steps.
    jump_times : sequence of float
        Times at which f or g are discontinuous; the steps land on them.
    prior_drift : callable, optional
        h(t, y) of a prior with the same g: also integrate the path divergence into ``log_ratio``.
    adjoint : str or None
        "discrete" (exact, states every few steps), "direct" (autograd's tape; twice differentiable),
        "reversible" (reversible Heun, memory independent of the steps), "backsolve" (torchsde's
        continuous adjoint), or None for no gradient.
    backend : str
        "native" or "torchsde".
    params : sequence of Tensor, optional
        Tensors that receive gradients; found by one call of f and g if not given.
    check : bool
        Test the declared kind of noise by three calls of g.
    on_failure : str
        "raise", "warn" or "return" when a state stops being finite.

    Returns
    -------
    SDESolution

    Raises
    ------
    scidyn.errors.OptionError
        If options do not fit each other, or the noise is not of the declared kind.
    scidyn.errors.ShapeError, scidyn.errors.TimeGridError, scidyn.errors.NonFiniteError
        If shapes, times or the initial state cannot be used.
    scidyn.errors.SolverError
        If a sample's state stopped being finite or the step became too small.

    Examples
    --------
    >>> import torch
    >>> from scidyn.solvers import solve_sde
    >>> y0 = torch.ones(1000, 1, dtype=torch.float64)
    >>> sol = solve_sde(lambda t, y: -y, lambda t, y: 0.5 * torch.ones_like(y), y0, [0.0, 1.0, 4.0],
    ...                 noise="additive", dt=0.05, seed=0)
    >>> sol.y.shape, abs(sol.y[:, -1].std().item() - 0.354) < 0.03      # stationary: 0.5 / √2
    (torch.Size([1000, 3, 1]), True)

    References
    ----------
    P. Kloeden, E. Platen (1992), Numerical solution of stochastic differential equations.
    A. Rößler (2010), Runge–Kutta methods for the strong approximation of solutions of SDEs.
    """
    choice("adjoint", adjoint, ADJOINT)
    choice("backend", backend, ("native", "torchsde"))
    choice("on_failure", on_failure, ("raise", "warn", "return"))
    functions: list[Any] = [drift, diffusion, prior_drift]
    if diffusion is None:
        drift, diffusion, noise, calculus = _unpack(drift)
    y0, times = check_state(y0), check_times(t)
    if adjoint == "reversible":
        method = "reversible_heun" if method is None else method
        if method != "reversible_heun":
            raise OptionError(f"adjoint='reversible' needs method='reversible_heun'; got {method!r}.")
    chosen = select_method(method, calculus, noise)
    step = None if dt is None else number("dt", dt, above=0.0)
    terms, shape = make_terms(drift, diffusion, args, times[0], y0, noise)
    if check:
        check_declaration(terms, noise, times[0], y0, chosen)
    if backend == "torchsde" or adjoint == "backsolve":
        from scidyn.solvers.sde.torchsde_backend import solve_by_torchsde

        y = solve_by_torchsde(terms, noise, calculus, chosen, y0, times, step, seed, bm, shape, adjoint, functions)
        plan = Plan.on(nodes_between(times, step), times)
        return _finish(y, t, times, plan, chosen, Found([], 0, 0, False, False), None, on_failure)
    if prior_drift is not None and y0.ndim != 2:
        raise ShapeError(f"prior_drift needs a state of shape (batch, D); got {tuple(y0.shape)}.")
    found = Found([], 0, 0, False, False)
    if adaptive:
        tree = _tree(bm, times, shape, seed, chosen, y0, dt_min)
        smallest = (times[-1] - times[0]) * 1e-5 if dt_min is None else number("dt_min", dt_min, above=0.0)
        control = Control(
            number("rtol", rtol, at_least=0.0),
            number("atol", atol, above=0.0),
            (times[-1] - times[0]) / 100 if step is None else step,
            smallest,
            integer("max_steps", max_steps, at_least=1),
        )
        stops = nodes_between(times, None, jump_times)
        found = choose_steps(chosen, terms, tree, y0.detach(), stops, jump_times, control)
        nodes = [*found.nodes, *(s for s in stops if s > found.nodes[-1])]
        plan = Plan.on(nodes, times, jump_times)
        source: Source = TreeSteps(tree, plan)
    else:
        plan, source = _fixed(bm, times, shape, seed, step, jump_times, chosen, y0)
    return _solve(terms, chosen, plan, source, y0, prior_drift, adjoint, params, functions, found, t, times, on_failure)


def _unpack(sde: Any) -> tuple[Callable[..., Tensor], Callable[..., Tensor], str, str]:
    """Drift, diffusion, noise and calculus of an object in torchsde's form."""
    missing = [name for name in ("f", "g", "noise_type", "sde_type") if not hasattr(sde, name)]
    if missing:
        raise OptionError(
            f"diffusion is None, so drift must be an object with f, g, noise_type and sde_type; "
            f"{type(sde).__name__} lacks {', '.join(missing)}."
        )
    return sde.f, sde.g, sde.noise_type, sde.sde_type


def _fixed(
    bm: Any,
    times: list[float],
    shape: tuple[int, ...],
    seed: int | None,
    dt: float | None,
    jumps: Sequence[float],
    method: Method,
    y0: Tensor,
) -> tuple[Plan, Source]:
    """Grid and noise of a solve with fixed steps."""
    if isinstance(bm, BrownianIncrements | CoarseIncrements):
        _fits(bm, shape, y0)
        plan = Plan.on(bm.grid, times, jumps)
        if dt is not None or -1 in plan.wanted or plan.wanted[0] != 0:
            raise OptionError(
                "the grid of bm sets the steps: leave dt away, and let the grid start at t[0] and hold every "
                f"time of t; it runs from {bm.grid[0]:g} to {bm.grid[-1]:g} in {len(bm)} steps."
            )
        return Plan(bm.grid[: plan.wanted[-1] + 1], plan.wanted, plan.jumps), bm.with_levels(method.levels)
    plan = Plan.on(nodes_between(times, dt, jumps), times, jumps)
    if bm is not None:
        _levels(bm, method)
        if isinstance(bm, BrownianTree):
            _fits(bm, shape, y0)
        return plan, TreeSteps(bm, plan)
    if seed is None:
        raise OptionError("pass seed=<int> or a Brownian path bm, so that the run can be repeated.")
    return plan, BrownianIncrements(
        plan.nodes, shape, seed=seed, levels=method.levels, dtype=y0.dtype, device=y0.device
    )


def _tree(
    bm: Any, times: list[float], shape: tuple[int, ...], seed: int | None, method: Method, y0: Tensor, least: Any
) -> BrownianTree:
    """The path of an adaptive solve."""
    if isinstance(bm, BrownianIncrements | CoarseIncrements):
        raise OptionError("adaptive steps need a path that can be asked for at any time: pass a BrownianTree as bm.")
    if bm is not None:
        _levels(bm, method)
        return bm
    if seed is None:
        raise OptionError("pass seed=<int> or a Brownian path bm, so that the run can be repeated.")
    tol = (times[-1] - times[0]) * 1e-5 if least is None else least
    return BrownianTree(
        times[0], times[-1], shape, seed=seed, tol=0.5 * tol, levels=method.levels, dtype=y0.dtype, device=y0.device
    )


def _levels(bm: Any, method: Method) -> None:
    """Refuse a path without the time integrals that the method needs."""
    has = getattr(bm, "levels", "W")
    if len(has) < len(method.levels):
        raise OptionError(
            f"method {method.name!r} needs the space-time area of the path, but bm was made with levels={has!r}: "
            f"make it with levels={method.levels!r}."
        )


def _fits(bm: Brownian, shape: tuple[int, ...], y0: Tensor) -> None:
    """Refuse a path of another shape, dtype or device."""
    if bm.shape != shape or bm.dtype != y0.dtype or bm.device.type != y0.device.type:
        raise ShapeError(
            f"bm has shape {bm.shape}, {bm.dtype} on {bm.device}; the problem needs {shape}, {y0.dtype} on {y0.device}."
        )


def _solve(
    terms: Terms,
    method: Method,
    plan: Plan,
    source: Source,
    y0: Tensor,
    prior: Callable[..., Tensor] | None,
    adjoint: str | None,
    params: Sequence[Tensor] | None,
    functions: list[Any],
    found: Found,
    t: Any,
    times: list[float],
    on_failure: str,
) -> SDESolution:
    """Run the plan with the gradient asked for."""
    state = y0
    if prior is not None:
        if not terms.matrix:
            source = PaddedSource(source)
        terms = with_divergence(terms, prior)
        state = torch.cat([y0, torch.zeros_like(y0[:, :1])], dim=1)
    run = Run(method, terms, plan, source)
    if adjoint is None or not torch.is_grad_enabled():
        with torch.no_grad():
            y = direct(run, state.detach())
    elif adjoint == "direct":
        y = direct(run, state)
    else:
        first = torch.full((), plan.nodes[0], dtype=y0.real.dtype, device=y0.device)
        probe = state.detach()
        tensors = (
            dependencies((lambda: terms.f(first, probe), lambda: terms.g(first, probe)), functions)
            if params is None
            else list(params)
        )
        solver = reversible if adjoint == "reversible" else discrete
        y = solver(run, state, tensors) if tensors or state.requires_grad else direct(run, state)
    y = y.transpose(0, 1)
    ratio = None
    if prior is not None:
        y, ratio = y[..., :-1], y[..., -1]
    return _finish(y, t, times, plan, method, found, ratio, on_failure)


def _finish(
    y: Tensor,
    t: Any,
    times: list[float],
    plan: Plan,
    method: Method,
    found: Found,
    ratio: Tensor | None,
    on_failure: str,
) -> SDESolution:
    """Judge each sample by its last finite state; one host read."""
    rows, steps = y.shape[0], len(plan)
    wanted = torch.tensor(times, dtype=torch.float64, device=y.device)
    sound = torch.isfinite(y.detach()).flatten(2).all(-1)
    early = wanted <= (found.nodes[-1] if found.too_small or found.exhausted else times[-1])
    sound = (sound & early).cumprod(1)
    count = sound.sum(1)
    stopped = Status.MAX_STEPS if found.exhausted else Status.STEP_UNDERFLOW
    late = (~early).any()
    code = torch.where(count == len(times), 1, torch.where(late, int(stopped), int(Status.NON_FINITE_STATE)))
    complete = bool((code == 1).all())
    if complete:
        status: tuple[Status, ...] = (Status.SUCCESS,) * rows
    else:
        status = tuple(Status(c) for c in code.tolist())
        mask = sound.bool().reshape(*sound.shape, *([1] * (y.ndim - 2)))
        y = torch.where(mask, y, torch.nan)
    taken = torch.full((rows,), steps, dtype=torch.int32, device=y.device)
    stats = Stats(
        n_accepted=taken,
        n_rejected=torch.full_like(taken, found.rejected),
        evaluations=steps * method.evaluations,
        host_reads=found.host_reads + 1,
        reached=wanted[(count - 1).clamp_min(0)],
    )
    solution = SDESolution(
        t=t if isinstance(t, Tensor) else wanted,
        y=y,
        status=status,
        stats=stats,
        log_ratio=ratio,
        grid=tuple(plan.nodes),
    )
    if not complete:
        size = torch.full((1,), plan.size(steps - 1), dtype=torch.float64, device=y.device)
        report(solution, size, on_failure)
    return solution
