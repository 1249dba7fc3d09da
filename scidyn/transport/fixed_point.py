"""Sinkhorn's fixed point with Anderson acceleration, guarded by the dual objective.

A plain iteration never lowers the dual objective; an accelerated one that does is undone, so the
acceleration cannot do worse than Sinkhorn by more than the undone sweeps.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Protocol

import torch
from torch import Tensor

from scidyn.transport.problem import Problem
from scidyn.transport.status import SinkhornStatus

__all__ = ["Iterations", "iterate", "iterate_symmetric"]

DEPTH = 6
PATIENCE = 50


class Kernel(Protocol):
    """What a sweep needs: φ given ψ, and the log sums of the columns."""

    rebuilds: int

    def sweep(self, psi: Tensor) -> tuple[Tensor, Tensor]:
        """Give φ and s."""

    def rows(self, psi: Tensor) -> Tensor:
        """Give φ alone."""


@dataclass(frozen=True)
class Iterations:
    """Where a run ended: potentials and dual objective in units of ε, the L1 marginal error, and why it stopped."""

    phi: Tensor
    psi: Tensor
    dual: float
    error: float
    sweeps: int
    status: SinkhornStatus


class _Anderson:
    """The last few iterates and residuals, and the combination of least residual."""

    def __init__(self, depth: int) -> None:
        self.depth = depth
        self.points: list[Tensor] = []
        self.residuals: list[Tensor] = []

    def clear(self) -> None:
        self.points.clear()
        self.residuals.clear()

    def next(self, point: Tensor, residual: Tensor, weights: Tensor) -> Tensor:
        """Give the next iterate; residuals are compared in the norm of ``weights``."""
        if self.points:
            dx = torch.stack([point - old for old in self.points])
            df = torch.stack([residual - old for old in self.residuals])
            scaled = df * weights
            gram = scaled @ df.T
            ridge = 1e-10 * gram.diagonal().mean()
            gram = gram + ridge * torch.eye(len(gram), dtype=gram.dtype, device=gram.device)
            mix, info = torch.linalg.solve_ex(gram, scaled @ residual)
            correction = torch.where(info == 0, mix, 0.0) @ (dx + df)
        else:
            correction = torch.zeros_like(point)
        self.points.append(point)
        self.residuals.append(residual)
        del self.points[: -self.depth], self.residuals[: -self.depth]
        return point + residual - correction


def marginal_error(problem: Problem, psi: Tensor, residual: Tensor) -> Tensor:
    """``Σ_j |c_j - b_j exp(-ψ_j / stiffness)|`` over the mass: the columns' sums against what they should be."""
    tau = problem.tau_b
    goal = problem.b if tau == 1.0 else problem.b * torch.exp(-psi * (1.0 - tau) / tau)
    return (goal * torch.expm1(-residual / tau)).abs().sum() / goal.sum()


def iterate(
    kernel: Kernel,
    problem: Problem,
    psi: Tensor,
    *,
    tolerance: float,
    max_sweeps: int,
    depth: int = DEPTH,
    report: Callable[[int, float], None] | None = None,
) -> Iterations:
    """Sweep until the marginal error is at most ``tolerance``."""
    history = _Anderson(depth)
    safe: Tensor | None = None
    best_dual, best_error, since = -math.inf, math.inf, 0
    here = Iterations(psi, psi, -math.inf, math.inf, 0, SinkhornStatus.MAX_ITERATIONS)
    weights = problem.b / problem.b.sum()
    # a rounding error of the kernel moves the dual by this much
    slack = 8 * torch.finfo(problem.cost.dtype).eps
    for sweep in range(1, max_sweeps + 1):
        phi, sums = kernel.sweep(psi)
        residual = -problem.tau_b * sums - psi
        error, dual = torch.stack(
            [marginal_error(problem, psi, residual), problem.dual(phi, psi, problem.mass_by_rows(phi))]
        ).tolist()
        here = Iterations(phi, psi, dual, error, sweep, SinkhornStatus.MAX_ITERATIONS)
        if report is not None:
            report(sweep, error)
        if error <= tolerance:
            return replace(here, status=SinkhornStatus.CONVERGED)
        finite = math.isfinite(error) and math.isfinite(dual)
        if not finite and safe is None:
            return replace(here, status=SinkhornStatus.NON_FINITE)
        since = 0 if error < 0.99 * best_error else since + 1
        best_error = min(best_error, error)
        if since > PATIENCE and error < 1e3 * torch.finfo(problem.cost.dtype).eps:
            return replace(here, status=SinkhornStatus.PRECISION_REACHED)
        if safe is not None and not (finite and dual >= best_dual - slack * max(1.0, abs(best_dual))):
            psi, safe, best_dual = safe, None, -math.inf
            history.clear()
            continue
        best_dual, safe = dual, psi + residual
        psi = history.next(psi, residual, weights) if depth else safe
    return here


def iterate_symmetric(
    kernel: Kernel,
    problem: Problem,
    phi: Tensor,
    *,
    tolerance: float,
    max_sweeps: int,
    report: Callable[[int, float], None] | None = None,
) -> Iterations:
    """Solve a problem between a set and itself by ``φ ← (φ + T(φ)) / 2``.

    The eigenvalues of T's derivative lie in [-1, 0], so the error halves at the least in every sweep, at any ε.
    """
    best, since = math.inf, 0
    here = Iterations(phi, phi, -math.inf, math.inf, 0, SinkhornStatus.MAX_ITERATIONS)
    for sweep in range(1, max_sweeps + 1):
        residual = kernel.rows(phi) - phi
        # exp(phi + log sums) per unit of weight, where the log sums are -T / τ
        mass = (problem.a * torch.exp(phi - (phi + residual) / problem.tau_a)).sum()
        error, dual = torch.stack([marginal_error(problem, phi, residual), problem.dual(phi, phi, mass)]).tolist()
        here = Iterations(phi, phi, dual, error, sweep, SinkhornStatus.MAX_ITERATIONS)
        if report is not None:
            report(sweep, error)
        if error <= tolerance:
            return replace(here, status=SinkhornStatus.CONVERGED)
        if not math.isfinite(error):
            return replace(here, status=SinkhornStatus.NON_FINITE)
        since = 0 if error < 0.99 * best else since + 1
        best = min(best, error)
        if since > PATIENCE:
            return replace(here, status=SinkhornStatus.PRECISION_REACHED)
        phi = phi + 0.5 * residual
    return here
