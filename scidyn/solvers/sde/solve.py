"""Solve and differentiate initial value problems of stochastic differential equations."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor

from scidyn._check.values import choice, integer, number
from scidyn.errors import OptionError, ShapeError
from scidyn.solvers.brownian import BrownianIncrements, BrownianTree
from scidyn.solvers.failure import report
from scidyn.solvers.sde.adaptive import AdaptiveResult, TreeOnGrid, solve_adaptive
from scidyn.solvers.sde.arguments import (
    check_dependence,
    check_method,
    check_start,
    check_terms,
    check_times,
    make_terms,
)
from scidyn.solvers.sde.capture import needed
from scidyn.solvers.sde.engine import Tick, solve_direct, solve_discrete
from scidyn.solvers.sde.logqp import PaddedNoise, with_divergence
from scidyn.solvers.sde.methods import SDEMethod
from scidyn.solvers.sde.methods.reversible_heun import ReversibleHeun
from scidyn.solvers.sde.plan import Plan, make_grid, make_plan
from scidyn.solvers.sde.reversible import solve_reversible
from scidyn.solvers.sde.solution import SDESolution
from scidyn.solvers.sde.terms import Terms
from scidyn.solvers.sde.torchsde_backend import solve_with_torchsde
from scidyn.solvers.solution import Stats
from scidyn.solvers.status import Status

__all__ = ["solve_sde"]

ADJOINT = ("discrete", "direct", "reversible", "backsolve", None)
TOLERANCE = {torch.float32: (1e-3, 1e-4), torch.float64: (1e-3, 1e-5)}


class _Task(NamedTuple):
    """A checked problem."""

    terms: Terms
    method: SDEMethod
    y0: Tensor
    times: Tensor
    nodes: list[float]
    params: list[Tensor]
    adjoint: str | None
    padded: bool
    tick: Tick


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
    rtol: float | None = None,
    atol: float | None = None,
    dt_min: float | None = None,
    max_steps: int = 100_000,
    jump_times: Sequence[float] = (),
    prior_drift: Any = None,
    adjoint: str | None = "discrete",
    backend: str = "native",
    params: Sequence[Tensor] | None = None,
    check: bool = True,
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
    bm : BrownianIncrements or BrownianTree, optional
        The path to use. The grid of increments is the grid of the steps.
    adaptive : bool
        Choose steps, one for all rows, by an error estimate.
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
        steps, of any order. "reversible": memory of one step, for "reversible_heun". "backsolve": the continuous
        adjoint of torchsde. None: no gradient.
    backend : str
        "native" or "torchsde".
    params : sequence of Tensor, optional
        Tensors that need gradients; found by themselves if not given.
    check : bool
        Look whether the diffusion depends on the state as declared (two or three evaluations).
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
    equation = make_terms(drift, diffusion, args, noise, calculus, prior_drift)
    check_start(y0)
    times = check_times(t)
    first = torch.full((), float(times[0]), dtype=y0.real.dtype, device=y0.device)
    with torch.no_grad():
        terms = check_terms(equation.terms, first, y0.detach())
    stepper = check_method(method, terms)
    if check:
        with torch.no_grad():
            check_dependence(terms, stepper, first, y0.detach())
    if adjoint == "reversible" and not isinstance(stepper, ReversibleHeun):
        raise OptionError(
            f"adjoint='reversible' undoes steps of method='reversible_heun' only; the method is {stepper.about.name!r}."
        )
    start, padded = y0, False
    if equation.prior is not None:
        terms, padded = with_divergence(terms, equation.prior, y0), not terms.matrix
        start = torch.cat([y0, y0.new_zeros(y0.shape[0], 1)], dim=-1)
    nodes = make_grid(times.tolist(), None, jump_times)
    gradient = adjoint is not None and torch.is_grad_enabled()
    tensors = _parameters(terms, equation.owners, params, first, start) if gradient else []
    gradient = gradient and (y0.requires_grad or bool(tensors))
    task = _Task(terms, stepper, start, times, nodes, tensors, adjoint if gradient else None, padded, _tick(progress))
    if backend == "torchsde" or task.adjoint == "backsolve":
        y = _by_torchsde(task, dt, seed, bm, backend)
        solution = _finish(task, y, nodes, None)
    elif adaptive:
        tolerance = _tolerance(rtol, atol, y0)
        solution = _adaptive(task, dt, seed, bm, tolerance, dt_min, integer("max_steps", max_steps, at_least=1))
    else:
        plan = make_plan(times.tolist(), _source(task, dt, seed, bm, jump_times), y0)
        solution = _finish(task, _run(task, plan), plan.source.grid, None)
    if equation.prior is not None:
        solution = _split(solution)
    if solution.status.count(Status.SUCCESS) < len(solution.status):
        size = torch.tensor([_last_size(solution)], dtype=torch.float64, device="cpu")
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


def _tolerance(rtol: Any, atol: Any, y0: Tensor) -> tuple[float, float]:
    """Check the tolerances and fill in the defaults of the dtype."""
    relative, absolute = TOLERANCE.get(y0.dtype, TOLERANCE[torch.float32])
    return (
        relative if rtol is None else number("rtol", rtol, at_least=0.0),
        absolute if atol is None else number("atol", atol, above=0.0),
    )


def _seed(seed: int | None) -> int:
    """Refuse to draw without a seed."""
    if seed is None:
        raise OptionError("a stochastic solve needs seed=, or bm= with a Brownian path of your own.")
    return integer("seed", seed, at_least=0)


def _source(task: _Task, dt: float | None, seed: int | None, bm: Any, jumps: Sequence[float]) -> Any:
    """Noise on a known grid, with the quantities that the method needs."""
    about, terms = task.method.about, task.terms
    shape = (task.y0.shape[0], *terms.channels)
    area = about.area and terms.noise == "general" and terms.channels[-1] > 1
    if bm is None:
        if dt is None:
            raise OptionError("a solve with fixed steps needs dt=, the largest step, or bm= with a path on a grid.")
        grid = make_grid(task.times.tolist(), dt, jumps)
        kind: dict[str, Any] = {"dtype": task.y0.dtype, "device": task.y0.device}
        source: Any = BrownianIncrements(grid, shape, seed=_seed(seed), levels=about.levels, **kind)
    elif isinstance(bm, BrownianTree):
        if dt is None:
            raise OptionError("a solve with fixed steps on a BrownianTree needs dt=, the largest step.")
        if area:
            raise OptionError(
                f"method {about.name!r} with general noise needs Lévy areas, which a BrownianTree lacks: "
                "pass BrownianIncrements(...).with_area(), or use method='euler' or 'heun'."
            )
        _check_levels(bm.levels, about.levels, about.name)
        source = TreeOnGrid(bm, make_grid(task.times.tolist(), dt, jumps))
    elif hasattr(bm, "block"):
        source = bm.with_levels(about.levels) if len(bm.levels) < len(about.levels) else bm
    else:
        raise OptionError(f"bm must be BrownianIncrements or a BrownianTree; got {type(bm).__name__}.")
    if area and getattr(source, "area", None) is None:
        source = source.with_area()
    if bm is not None and tuple(bm.shape) != shape:
        raise ShapeError(f"the Brownian path has increments of shape {tuple(bm.shape)}; the noise needs {shape}.")
    return PaddedNoise(source, source.grid) if task.padded else source


def _check_levels(have: str, need: str, name: str) -> None:
    """Refuse a path that lacks the space-time area."""
    if len(have) < len(need):
        raise OptionError(
            f"method {name!r} needs the space-time area H, which the Brownian path lacks: make it with levels={need!r}."
        )


def _run(task: _Task, plan: Plan) -> Tensor:
    """Solve on a plan with the gradient that was asked for."""
    terms, method, y0 = task.terms, task.method, task.y0
    if task.adjoint is None:
        with torch.no_grad():
            return solve_direct(terms, method, plan, y0, task.tick)
    if task.adjoint == "direct":
        return solve_direct(terms, method, plan, y0, task.tick)
    if task.adjoint == "reversible" and isinstance(method, ReversibleHeun):
        return solve_reversible(terms, method, plan, y0, task.params, task.tick)
    return solve_discrete(terms, method, plan, y0, task.params, task.tick)


def _adaptive(
    task: _Task,
    dt: float | None,
    seed: int | None,
    bm: Any,
    tolerance: tuple[float, float],
    dt_min: float | None,
    max_steps: int,
) -> SDESolution:
    """Find the steps without a graph, then take them again with one if a gradient is wanted."""
    times = task.times.tolist()
    span = times[-1] - times[0]
    smallest = 1e-4 * span if dt_min is None else number("dt_min", dt_min, above=0.0, at_most=span)
    if bm is not None and not isinstance(bm, BrownianTree):
        raise OptionError("adaptive steps need a path that can be asked anywhere: pass a BrownianTree as bm.")
    about, terms = task.method.about, task.terms
    if about.strong < 1.0 and terms.noise != "additive" and about.calculus == {"ito"}:
        raise OptionError(
            f"method {about.name!r} may converge to a wrong process when steps depend on the path: "
            "use method='milstein' or 'sriw1' with adaptive=True."
        )
    if about.area and terms.noise == "general" and terms.channels[-1] > 1:
        raise OptionError(f"method {about.name!r} with general noise needs Lévy areas, which a BrownianTree lacks.")
    shape = (task.y0.shape[0], *terms.channels)
    kind: dict[str, Any] = {"dtype": task.y0.dtype, "device": task.y0.device}
    tree = bm
    if tree is None:
        tree = BrownianTree(
            times[0], times[-1], shape, seed=_seed(seed), tol=0.5 * smallest, levels=about.levels, **kind
        )
    elif tuple(tree.shape) != shape:
        raise ShapeError(f"the Brownian path has increments of shape {tuple(tree.shape)}; the noise needs {shape}.")
    _check_levels(tree.levels, about.levels, about.name)
    path = PaddedNoise(tree, times) if task.padded else tree
    h = span / 100 if dt is None else number("dt", dt, above=0.0)
    terms.estimating = True
    with torch.no_grad():
        found = solve_adaptive(
            terms,
            task.method,
            path,
            task.y0.detach(),
            times,
            task.nodes,
            tolerance,
            (h, smallest),
            max_steps,
            task.tick,
        )
    terms.estimating = False
    y = found.y
    if task.adjoint is not None and len(found.grid) > 1:
        seen = [t for t in times if t <= found.grid[-1]]
        graph = _run(task._replace(tick=None), make_plan(seen, TreeOnGrid(path, found.grid), task.y0))
        rest = graph.new_full((graph.shape[0], len(times) - len(seen), *graph.shape[2:]), torch.nan)
        y = torch.where(torch.isnan(found.y), torch.nan, torch.cat([graph, rest], dim=1))
    return _finish(task, y, found.grid, found)


def _by_torchsde(task: _Task, dt: float | None, seed: int | None, bm: Any, backend: str) -> Tensor:
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
        _seed(seed),
        task.params,
        task.adjoint == "backsolve",
        levels,
    )


def _finish(task: _Task, y: Tensor, grid: list[float], found: AdaptiveResult | None) -> SDESolution:
    """Look once at the result: which rows stayed finite, and for how long."""
    batch, sizes = y.shape[0], len(grid) - 1
    if found is None and bool(torch.isfinite(y.detach().sum())):  # one number tells of all
        codes = [Status.SUCCESS] * batch
        reached = task.times[-1:].expand(batch)
    elif found is None:
        good = torch.isfinite(y.detach()).flatten(2).all(-1).cpu()
        whole = bool(good.all())
        last = good.to(torch.int64).cumprod(1).sum(1) - 1
        reached = task.times[last.clamp_min(0)]
        codes = [Status.SUCCESS] * batch
        if not whole:
            alive = good.to(torch.int64).cumprod(1).to(torch.bool).to(y.device)
            y = torch.where(alive.view(*alive.shape, *([1] * (y.ndim - 2))), y, torch.nan)
            codes = [Status.SUCCESS if ok else Status.NON_FINITE_STATE for ok in good.all(1).tolist()]
    else:
        codes = [Status(c) for c in found.code.tolist()]
        reached = found.reached.cpu()
    stats = Stats(
        n_accepted=torch.full((batch,), sizes, dtype=torch.int32, device="cpu"),
        n_rejected=torch.full((batch,), 0 if found is None else found.rejected, dtype=torch.int32, device="cpu"),
        nfe=0,
        host_reads=1 if found is None else found.reads,
        reached=reached,
    )
    stamps = torch.tensor(grid, dtype=torch.float64, device="cpu")
    return SDESolution(task.times.to(task.y0.real.dtype).to(task.y0.device), y, tuple(codes), stats, grid=stamps)


def _split(solution: SDESolution) -> SDESolution:
    """Take the divergence off the state."""
    y = solution.y
    return SDESolution(
        solution.t,
        y[..., :-1],
        solution.status,
        solution.stats,
        logqp=y[..., -1].diff(dim=1),
        grid=solution.grid,
    )


def _last_size(solution: SDESolution) -> float:
    """Length of the last step."""
    grid = solution.grid
    return 0.0 if grid is None or len(grid) < 2 else float(grid[-1] - grid[-2])
