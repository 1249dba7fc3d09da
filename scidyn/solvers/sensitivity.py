"""Forward sensitivities: the Jacobian of a solution with respect to parameters and initial state."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor
from torch.utils import _pytree as pytree

from scidyn._check.tensors import finite, floating
from scidyn._check.values import choice
from scidyn.errors import ShapeError
from scidyn.solvers.adjoint.forward import Inputs, sensitivities
from scidyn.solvers.adjoint.timeparallel import check_real
from scidyn.solvers.arguments import check_choices, prepare
from scidyn.solvers.failure import report
from scidyn.solvers.fixed_steps import integrate_fixed
from scidyn.solvers.loop import integrate
from scidyn.solvers.methods.stepper import Method, repeatable
from scidyn.solvers.request import make_solution
from scidyn.solvers.solution import Solution

__all__ = ["sol_jacobian", "solve_sensitivities"]


def solve_sensitivities(
    f: Callable[..., Tensor],
    y0: Tensor,
    t: Any,
    args: Tensor | None = None,
    *,
    method: str | Method = "tsit5",
    rtol: float | None = None,
    atol: float | Tensor | None = None,
    dt0: float | None = None,
    dt_max: float | None = None,
    max_steps: int = 4096,
    stepping: str | None = None,
    on_failure: str = "raise",
) -> tuple[Solution, Tensor, Tensor]:
    r"""Solve and differentiate the solution forwards, for few parameters and many residuals.

    With ``S = ∂y/∂(args, y0)`` each accepted step ``y_{n+1} = Ψ_n(y_n, args)`` gives

    .. math:: S_{n+1} = \frac{∂Ψ_n}{∂y} S_n + \frac{∂Ψ_n}{∂\mathrm{args}},

    the exact derivative of the computed solution on its grid of steps. The Jacobians of all steps
    are evaluated together, so the cost is a few batched evaluations, not a loop.

    Parameters
    ----------
    f : callable
        ``f(t, y, args)``, or ``f(t, y)`` if ``args`` is None. The rate of one sample may depend on
        that sample only, and ``f`` may use tensor operations only (no ``.item()``, no branch on a value).
    y0 : Tensor, shape (batch, D) or (D,)
        Initial state.
    t : array_like, shape (time,) or (batch, time)
        Times to report; rows of their own need ``stepping="per_sample"``.
    args : Tensor, shape (P,) or (batch, P), optional
        Parameters, shared or one row per sample.
    method, rtol, atol, dt0, dt_max, max_steps, stepping, on_failure
        As in :func:`scidyn.solvers.solve_ode`.

    Returns
    -------
    solution : Solution
        The solution, without a graph.
    d_args : Tensor, shape (batch, time, D, P)
        ``∂y/∂args``, with respect to each sample's own row; NaN where ``solution.y`` is NaN.
    d_y0 : Tensor, shape (batch, time, D, D)
        ``∂y/∂y0``; NaN where ``solution.y`` is NaN.

    Raises
    ------
    scidyn.errors.ShapeError
        If the state is not a vector or ``args`` has another shape.
    scidyn.errors.OptionError
        If ``f`` cannot be differentiated forwards.
    scidyn.errors.SolverError
        If a sample does not reach its last time and ``on_failure="raise"``.

    Notes
    -----
    Every method serves; the stages of implicit ones are differentiated as implicit functions. Good for up to
    about 50 parameters (Gauss–Newton fits of mechanistic models); use the gradient of
    :func:`scidyn.solvers.solve_ode` for networks. :func:`sol_jacobian` takes states of any shape and
    nested parameters.

    Examples
    --------
    >>> import torch
    >>> from scidyn.solvers import solve_sensitivities
    >>> y0 = torch.ones(1, 1, dtype=torch.float64)
    >>> rate = torch.tensor([2.0], dtype=torch.float64)
    >>> solution, d_args, d_y0 = solve_sensitivities(lambda t, y, k: -k * y, y0, [0.0, 1.0], rate)
    >>> [round(x, 4) for x in (d_args[0, 1, 0, 0].item(), d_y0[0, 1, 0, 0].item())]
    [-0.1353, 0.1353]

    References
    ----------
    E. Hairer, S. P. Nørsett, G. Wanner, Solving Ordinary Differential Equations I, section II.6.
    """
    theta = _parameters(args, y0)
    if isinstance(y0, Tensor) and y0.ndim > 2:
        raise ShapeError(f"the state must be a vector, y0 of shape (batch, D); one sample has {tuple(y0.shape[1:])}.")
    rows = theta is not None and theta.ndim > 1
    used = () if theta is None else (theta,)
    setup = {"method": method, "rtol": rtol, "atol": atol, "dt0": dt0, "dt_max": dt_max}
    setup |= {"max_steps": max_steps, "stepping": stepping}
    solution, full = _solve(f, y0, t, theta, Inputs(used, (rows,) * len(used), True), setup, on_failure)
    width = full.shape[2]
    return solution, full[..., width:], full[..., :width]


def sol_jacobian(
    f: Callable[..., Tensor],
    y0: Tensor,
    t: Any,
    *,
    args: Any = None,
    wrt: Sequence[str] = ("y0", "args"),
    method: str | Method = "tsit5",
    rtol: float | None = None,
    atol: float | Tensor | None = None,
    dt0: float | None = None,
    dt_max: float | None = None,
    max_steps: int = 4096,
    stepping: str | None = None,
    on_failure: str = "raise",
) -> tuple[Solution, dict[str, Any]]:
    r"""Solve and give the Jacobian of the solution with respect to its initial state and its arguments.

    .. math:: \frac{\partial y(t_j)}{\partial y_0}, \qquad \frac{\partial y(t_j)}{\partial \mathrm{args}}

    by forward sensitivities, exact for the computed solution on its grid of steps.

    Parameters
    ----------
    f : callable
        ``f(t, y)``, or ``f(t, y, args)`` if ``args`` is given, as for :func:`scidyn.solvers.solve_ode`. The rate
        of one sample may depend on that sample only, and ``f`` may use tensor operations only.
    y0 : Tensor, shape (batch, *state) or (D,)
        Initial state, real.
    t : array_like, shape (time,) or (batch, time)
        Times to report; rows of their own need ``stepping="per_sample"``.
    args : object, optional
        Tensors in nested tuples, lists and dicts.
    wrt : sequence of str
        ``"y0"``, ``"args"`` or both.
    method, rtol, atol, dt0, dt_max, max_steps, stepping, on_failure
        As in :func:`scidyn.solvers.solve_ode`.

    Returns
    -------
    solution : Solution
        The solution, without a graph.
    jacobian : dict
        ``"y0"``: Tensor of shape (batch, time, *state, *state), of each sample by its own initial state.
        ``"args"``: nested as ``args``, each Tensor replaced by one of shape (batch, time, *state, *its shape).
        NaN where the solution is NaN.

    Raises
    ------
    scidyn.errors.OptionError
        If ``wrt`` is unknown, or ``f`` cannot be differentiated forwards.
    scidyn.errors.ShapeError
        If there are no tensors of floating point in ``args`` to differentiate with respect to.
    scidyn.errors.SolverError
        If a sample does not reach its last time and ``on_failure="raise"``.

    Examples
    --------
    >>> import torch
    >>> from scidyn.solvers import sol_jacobian
    >>> y0 = torch.ones(1, 1, dtype=torch.float64)
    >>> args = {"rate": torch.tensor(2.0, dtype=torch.float64)}
    >>> solution, jacobian = sol_jacobian(lambda t, y, a: -a["rate"] * y, y0, [0.0, 1.0], args=args)
    >>> round(jacobian["args"]["rate"][0, 1, 0].item(), 4)
    -0.1353

    References
    ----------
    E. Hairer, S. P. Nørsett, G. Wanner, Solving Ordinary Differential Equations I, section II.6.
    """
    for name in wrt:
        choice("wrt", name, ("y0", "args"))
    leaves, structure = pytree.tree_flatten(args)
    chosen = [i for i, x in enumerate(leaves) if isinstance(x, Tensor) and x.is_floating_point() and "args" in wrt]
    if "args" in wrt and args is not None and not chosen:
        raise ShapeError("args holds no tensor of floating point: pass the parameters as tensors, or wrt=('y0',).")
    bare = [x.detach() if isinstance(x, Tensor) else x for x in leaves]
    used = tuple(finite("args", bare[i]) for i in chosen)
    inputs = Inputs(used, (False,) * len(used), "y0" in wrt)
    setup = {"method": method, "rtol": rtol, "atol": atol, "dt0": dt0, "dt_max": dt_max}
    setup |= {"max_steps": max_steps, "stepping": stepping}
    given = None if args is None else pytree.tree_unflatten(bare, structure)
    solution, full = _solve(f, y0, t, given, inputs, setup, on_failure)
    state = solution.y.shape[2:]
    first = full.shape[2] if inputs.start else 0
    parts = list(full[..., first:].split(inputs.sizes, dim=-1)) if used else []
    found: dict[str, Any] = {}
    if inputs.start:
        found["y0"] = full[..., :first].reshape(*solution.y.shape, *state)
    if "args" in wrt:
        for i, p, part in zip(chosen, used, parts, strict=True):
            bare[i] = part.reshape(*solution.y.shape, *p.shape)
        found["args"] = pytree.tree_unflatten(bare, structure)
    return solution, found


def _solve(
    f: Callable[..., Tensor], y0: Any, t: Any, args: Any, inputs: Inputs, setup: dict[str, Any], on_failure: str
) -> tuple[Solution, Tensor]:
    """Solve, and carry the sensitivities along; shape (batch, time, D, columns), NaN where not reached."""
    check_choices(None, "native", on_failure, False)
    problem = prepare(f, y0.detach() if isinstance(y0, Tensor) else y0, t, args=args, **setup)
    check_real(problem, "forward")
    problem = problem._replace(method=repeatable(problem.method))
    with torch.no_grad():
        k1 = problem.field.probe(problem.start, problem.y0)
        solver = integrate_fixed if problem.stepping == "fixed" else integrate
        trace = solver(problem, k1, keep_states=True, keep_coef=False)
        full = sensitivities(problem, trace, inputs, inputs.params)
    missing = torch.isnan(trace.y).all(dim=-1)[..., None, None]
    solution = report(make_solution(problem, trace, trace.y), trace.last_size, on_failure)
    return solution, full.masked_fill(missing, torch.nan)


def _parameters(args: Tensor | None, y0: Any) -> Tensor | None:
    """Check ``args``: a vector, or one row per sample."""
    if args is None:
        return None
    if not isinstance(args, Tensor):
        raise ShapeError(f"args must be a tensor of shape (P,) or (batch, P); got {type(args).__name__}.")
    batched = isinstance(y0, Tensor) and y0.ndim > 1
    if args.ndim != 1 and not (args.ndim == 2 and batched and args.shape[0] == y0.shape[0]):
        raise ShapeError(
            f"args must have shape (P,) or (batch, P); got {tuple(args.shape)} for y0 of shape "
            f"{tuple(getattr(y0, 'shape', ()))}."
        )
    return finite("args", floating("args", args.detach()))
