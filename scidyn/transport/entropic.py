"""Entropic optimal transport: the front door of the Sinkhorn iterations."""

from __future__ import annotations

import warnings
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from scidyn._check.values import choice, integer, number
from scidyn.errors import ShapeError, SolverError, SolverWarning
from scidyn.transport.arguments import Inputs, make_problem, read_inputs
from scidyn.transport.coarse import starting_potential
from scidyn.transport.fixed_point import DEPTH, Iterations, iterate, iterate_symmetric
from scidyn.transport.gradients import attach
from scidyn.transport.kernel import StoredKernel, StreamedKernel
from scidyn.transport.memory import choose_storage, estimate_memory
from scidyn.transport.plan import EntropicPlan
from scidyn.transport.problem import Problem

__all__ = ["sinkhorn"]


def sinkhorn(
    x: Any = None,
    y: Any = None,
    a: Any = None,
    b: Any = None,
    *,
    cost: Any = "sqeuclidean",
    epsilon: float | None = None,
    epsilon_relative: float | None = None,
    tau_a: float = 1.0,
    tau_b: float = 1.0,
    tolerance: float = 1e-4,
    max_iterations: int = 2000,
    start: EntropicPlan | Tensor | None = None,
    method: str = "auto",
    memory_limit: float | None = None,
    dtype: torch.dtype | None = None,
    accelerate: bool = True,
    coarse: bool = True,
    on_failure: str = "raise",
    report: Callable[[int, float], None] | None = None,
) -> EntropicPlan:
    r"""Solve the entropic optimal transport problem, balanced or with soft marginals.

    .. math::

        \min_\pi \langle C, \pi\rangle + \varepsilon\,\mathrm{KL}(\pi \,|\, a\otimes b)
        + \lambda_a \mathrm{KL}(\pi 1 \,|\, a) + \lambda_b \mathrm{KL}(\pi^\top 1 \,|\, b),
        \qquad \lambda = \varepsilon\tau/(1-\tau)

    A marginal with τ = 1 is met exactly. Sinkhorn's iterations run on potentials in double precision with a
    kernel in ``dtype``, start from the solution of a sample of the points, and are accelerated by Anderson
    mixing; each reads the kernel once. A set against itself (``y is x`` and ``b is a``) takes the symmetric
    iteration, which halves the error in every sweep.

    Parameters
    ----------
    x, y : array_like, shapes (n, d) and (m, d), optional
        Points; leave out if ``cost`` is a matrix.
    a, b : array_like, shapes (n,) and (m,), optional
        Weights ≥ 0; default uniform. Their sums must be 1 if both marginals are to be met.
    cost : {"sqeuclidean", "euclidean"} or array_like of shape (n, m)
        ``|x - y|²``, ``|x - y|``, or the costs themselves.
    epsilon : float, optional
        Regularisation > 0 in units of the cost. For a Brownian reference of diffusion σ over a time Δ and the
        squared cost it is 2 σ² Δ.
    epsilon_relative : float, optional
        The same as a share of the median cost (over at most 512 × 512 pairs); default 0.05 if neither is given.
    tau_a, tau_b : float
        In (0, 1]: how strictly the marginals bind. One below 1: semi-relaxed; both: unbalanced.
    tolerance : float
        Largest L1 distance of the plan's column sums from their target, over the mass. Row sums are exact
        (a set against itself: both sums are as close).
    max_iterations : int
        Sweeps over all points.
    start : EntropicPlan or Tensor of shape (m,), optional
        A plan of a similar problem, or a potential g, to start from.
    method : {"auto", "stored", "streamed"}
        Hold the kernel matrix, or form it tile by tile in every sweep with memory that grows with n + m.
        ``"auto"`` stores it if it fits.
    memory_limit : float, optional
        Bytes that the run may allocate; default half of the free memory for a stored kernel.
    dtype : torch.dtype, optional
        Of the kernel and of the result; default that of the points, at least float32.
    accelerate : bool
        False runs plain Sinkhorn iterations.
    coarse : bool
        False starts from zero potentials (or ``start``).
    on_failure : {"raise", "warn", "return"}
        What to do if the tolerance is not met.
    report : callable, optional
        Called as ``report(iteration, marginal_error)`` after every sweep.

    Returns
    -------
    EntropicPlan
        Potentials, value, status and the lazily evaluated plan. ``value`` is differentiable in the points, the
        cost and the weights; so is what :meth:`EntropicPlan.apply` gives, and the potentials up to the constant
        that a balanced problem leaves free. First derivatives only; ε is a constant.

    Raises
    ------
    scidyn.errors.NonFiniteError, scidyn.errors.DataError, scidyn.errors.ShapeError
        If points, costs or weights cannot be used.
    scidyn.errors.OptionError
        If an option is out of range, ε is too small for ``dtype``, or ``memory_limit`` cannot be kept.
    scidyn.errors.SolverError
        If the tolerance is not met and ``on_failure="raise"``; ``error.solution`` holds the plan.

    Examples
    --------
    >>> import torch
    >>> from scidyn.transport import sinkhorn
    >>> generator = torch.Generator().manual_seed(0)
    >>> x = torch.randn(200, 2, generator=generator)
    >>> plan = sinkhorn(x, x + 1.0, epsilon_relative=0.05)
    >>> plan.status.name, plan.marginal_error < 1e-4
    ('CONVERGED', True)
    >>> shift = plan.barycentric() - x
    >>> bool((shift.mean(0) - 1.0).abs().max() < 1e-3)
    True

    References
    ----------
    M. Cuturi (2013), Sinkhorn distances, NeurIPS; L. Chizat et al. (2018), Scaling algorithms for unbalanced
    optimal transport problems, Math. Comp. 87; D. G. Anderson (1965), Iterative procedures for nonlinear
    integral equations, J. ACM 12; G. Peyré, M. Cuturi (2019), Computational optimal transport.
    """
    taus = [number(k, v, above=0.0, at_most=1.0) for k, v in (("tau_a", tau_a), ("tau_b", tau_b))]
    tolerance = number("tolerance", tolerance, above=0.0)
    max_iterations = integer("max_iterations", max_iterations, at_least=1)
    choice("method", method, ("auto", "stored", "streamed"))
    choice("on_failure", on_failure, ("raise", "warn", "return"))
    inputs = read_inputs(x, y, a, b, cost, dtype, balanced=taus[0] == taus[1] == 1.0)
    problem, scale = make_problem(inputs, epsilon, epsilon_relative, *taus)
    method = _storage(problem, inputs, method, memory_limit)
    kernel = (StoredKernel if method == "stored" else StreamedKernel)(problem)
    limits = {"tolerance": tolerance, "max_sweeps": max_iterations, "report": report}
    if y is not None and y is x and b is a and tau_a == tau_b:
        psi, coarse_sweeps = _start(problem, scale, start, coarse=False)
        done = iterate_symmetric(kernel, problem, psi, **limits)
    else:
        psi, coarse_sweeps = _start(problem, scale, start, coarse)
        done = iterate(kernel, problem, psi, depth=DEPTH if accelerate else 0, **limits)
    plan = _as_plan(problem, inputs, done, coarse_sweeps, method)
    return _judge(plan, tolerance, on_failure)


def _storage(problem: Problem, inputs: Inputs, method: str, limit: float | None) -> str:
    d = 1 if inputs.x is None else inputs.x.shape[1]
    limit = None if limit is None else number("memory_limit", limit, above=0.0)
    need = estimate_memory(*problem.cost.shape, d, problem.cost.dtype)
    return choose_storage(need, method, limit, problem.cost.device)


def _start(problem: Problem, scale: float, start: EntropicPlan | Tensor | None, coarse: bool) -> tuple[Tensor, int]:
    """ψ to begin with, and the sweeps it took."""
    if start is not None:
        g = start.g if isinstance(start, EntropicPlan) else torch.as_tensor(start)
        if g.shape != problem.b.shape:
            raise ShapeError(
                f"start must hold one potential per target, shape {tuple(problem.b.shape)}; got {tuple(g.shape)}."
            )
        return g.detach().to(problem.b) / problem.epsilon, 0
    if not coarse:
        return torch.zeros_like(problem.b), 0
    return starting_potential(problem, scale, torch.Generator().manual_seed(0))


def _as_plan(problem: Problem, inputs: Inputs, done: Iterations, coarse_sweeps: int, method: str) -> EntropicPlan:
    value = torch.as_tensor(done.dual * problem.epsilon, dtype=problem.a.dtype, device=problem.a.device)
    f, g, value = attach(problem, inputs, done.phi, done.psi, value)
    return EntropicPlan(
        problem=problem,
        inputs=inputs,
        f=f,
        g=g,
        value=value,
        status=done.status,
        marginal_error=done.error,
        iterations=done.sweeps,
        coarse_iterations=coarse_sweeps,
        method=method,
    )


def _judge(plan: EntropicPlan, tolerance: float, on_failure: str) -> EntropicPlan:
    """Return the plan, or raise or warn as asked if it did not converge."""
    if plan.status.success or on_failure == "return":
        return plan
    message = (
        f"Sinkhorn stopped after {plan.iterations} iterations with a marginal error of {plan.marginal_error:.2e} "
        f"(tolerance {tolerance:.2e}, epsilon {plan.epsilon:.3g}): {plan.status.name}, {plan.status.sentence}. "
        f"Cure: {plan.status.cure}."
    )
    if on_failure == "raise":
        raise SolverError(message, plan)
    warnings.warn(message, SolverWarning, stacklevel=3)
    return plan
