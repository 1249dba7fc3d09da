"""Stiffly accurate diagonally implicit Runge–Kutta methods with simplified Newton iterations."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from typing import NamedTuple

import torch
from torch import Tensor

from scidyn.solvers.controller import Tolerance
from scidyn.solvers.linear.choice import LinearAlgebra
from scidyn.solvers.linear.jacobian import TimeAndState
from scidyn.solvers.linear.linearisation import Factored, Linearisation, Point
from scidyn.solvers.methods.stepper import Rate, Step
from scidyn.solvers.newton import NewtonSettings, Stage, StageSolution, attach_stage, reads_are_cheap, solve_stage
from scidyn.solvers.stiff_tableaus import EsdirkTableau

__all__ = ["ESDIRK", "combine", "fallback_scale", "hermite", "renew_jacobian"]

SLOW = 0.2
CLOSE = 1e-6
ROUNDING = 1e4


class _Tried(NamedTuple):
    """Solved stages: increments, end state, where the solution failed and why, contraction, iterations, matrices."""

    stages: list[Tensor]
    y1: Tensor
    failed: Tensor
    singular: Tensor
    factor: Tensor
    slowest: Tensor
    iterations: Tensor
    point: Point


@dataclass(frozen=True)
class ESDIRK:
    """An ESDIRK method: for each stage the increment ``u = h f(t + c h, base + γ u)`` is solved for.

    The Jacobian of a sample is kept until the iterations of that sample slow down or fail; the matrix
    ``I - h γ J`` is factored once per step and serves all stages.

    Parameters
    ----------
    tableau : EsdirkTableau
        Coefficients.
    algebra : LinearAlgebra
        How the Jacobian is found and the linear systems are solved.
    newton : NewtonSettings
        When an iteration stops.
    close : bool
        Go on until the error left is near rounding, as a replay does.
    """

    tableau: EsdirkTableau
    algebra: LinearAlgebra = field(default_factory=LinearAlgebra)
    newton: NewtonSettings = field(default_factory=NewtonSettings)
    close: bool = False

    @property
    def name(self) -> str:
        """What ``method=`` calls it."""
        return self.tableau.name

    @property
    def order(self) -> int:
        """Order of the advancing solution."""
        return self.tableau.order

    @property
    def error_order(self) -> int:
        """Power of the step size in the error estimate."""
        return self.tableau.error_order + 1

    @property
    def dense_order(self) -> int:
        """Order of the continuous extension."""
        return 3 if self.tableau.dense is None else self.tableau.error_order

    @property
    def adaptive(self) -> bool:
        """True: the embedded solution gives an error estimate."""
        return True

    @property
    def implicit(self) -> bool:
        """True: stages are equations to solve."""
        return True

    @property
    def evaluations(self) -> int:
        """Typical evaluations of the vector field in a step: two or three for each implicit stage."""
        return 5 * (len(self.tableau.c) - 1) // 2

    def repeatable(self) -> ESDIRK:
        """Give the method that solves its stages nearly to rounding.

        A replay starts at the rate of the recorded state. What an iteration leaves of the error of that state, the
        rate multiplies by the stiffness: on long steps the stages of the replay would have other solutions or none.
        """
        return replace(self, close=True)

    def begin(self, rate: Rate, t: Tensor, y: Tensor, k1: Tensor) -> tuple[Tensor, ...]:
        """Start with the rate, a Jacobian that must be renewed, and no knowledge of the convergence."""
        self.algebra.check(self.name, y)
        everywhere = y.new_ones(y.shape[0])
        h = torch.zeros_like(t)
        point = self.algebra.linearisation.at(
            rate, TimeAndState(t, h, y, k1, fallback_scale(y)), exact=False, time=False
        )
        return (k1, everywhere > 0, everywhere, *point.tensors)

    def step(
        self, rate: Rate, t: Tensor, h: Tensor, y: Tensor, carry: tuple[Tensor, ...], tolerance: Tolerance
    ) -> Step:
        """Take one step; a sample whose stages were not solved is marked as failed."""
        k1, stale, factor, *kept = carry
        where = TimeAndState(t, h, y, k1, tolerance.scale(y.abs()))
        tried = self._try(rate, where, stale, factor, tuple(kept))
        work = stale.to(torch.int32), torch.ones_like(stale, dtype=torch.int32)
        if reads_are_cheap(y) and bool((tried.failed & ~stale).any()):
            again = tried.failed & ~stale
            tried = self._try(rate, where, stale | again, factor, tuple(kept))
            work = work[0] + again, work[1] + 1
        column = h.to(y.dtype).unsqueeze(-1)
        moved = column > 0
        divisor = torch.where(moved, column, torch.ones_like(column))
        k_last = torch.where(moved, tried.stages[-1] / divisor, k1)
        fresh = torch.ones_like(factor)
        factor = torch.where(tried.failed, fresh, tried.factor.clamp_max(1.0))
        following = (k_last, tried.slowest > SLOW, factor, *tried.point.tensors)
        retry = (k1, tried.failed, fresh, *tried.point.tensors)
        coef = self._polynomial(tried.stages, divisor)
        err = combine(self.tableau.error, tried.stages)
        how = (tried.singular, work, tried.iterations, self.newton.iterations)
        return Step(tried.y1, following, err, coef, tried.failed, retry, *how)

    def replay(self, rate: Rate, t: Tensor, h: Tensor, y: Tensor, *, dense: bool = True) -> Step:
        """Take the same step, differentiable by the implicit function theorem at each stage."""
        tableau, column = self.tableau, h.to(y.dtype).unsqueeze(-1)
        k1 = rate(t, y)
        scale = fallback_scale(y.detach())
        with torch.no_grad():
            where = TimeAndState(t, h, y.detach(), k1.detach(), scale)
            matrix = self.algebra.linearisation.at(rate, where, exact=False, time=False).factored(h * tableau.gamma)
        stages, state = [column * k1], y
        for node, row, guess in zip(tableau.c[1:], tableau.a[1:], tableau.predictor[1:], strict=True):
            stage = Stage(t + node * h, column, y + combine(row, stages), tableau.gamma)
            u = attach_stage(rate, stage, matrix, self.algebra.linearisation, combine(guess, stages), scale)
            stages.append(u)
            state = torch.add(stage.base, u, alpha=tableau.gamma)
        divisor = torch.where(column > 0, column, torch.ones_like(column))
        coef = self._polynomial(stages, divisor) if dense else ()
        return Step(state, (), combine(tableau.error, stages), coef)

    def _try(self, rate: Rate, where: TimeAndState, stale: Tensor, factor: Tensor, kept: tuple[Tensor, ...]) -> _Tried:
        """Solve the stages one after the other, with new Jacobians for the samples where ``stale``."""
        t, h, y, k1, scale = where
        tableau, column = self.tableau, h.to(y.dtype).unsqueeze(-1)
        point = renew_jacobian(self.algebra.linearisation, rate, where, stale, kept)
        matrix = point.factored(h * tableau.gamma)
        solved, slowest = torch.ones_like(stale), torch.zeros_like(factor)
        iterations = torch.zeros_like(stale, dtype=torch.int32)
        stages, state = [column * k1], y
        for node, row, guess in zip(tableau.c[1:], tableau.a[1:], tableau.predictor[1:], strict=True):
            stage = Stage(t + node * h, column, y + combine(row, stages), tableau.gamma)
            found = solve_stage(rate, stage, matrix, combine(guess, stages), scale, factor, self.newton)
            slowest, iterations = torch.maximum(slowest, found.factor), torch.maximum(iterations, found.iterations)
            factor, solved = found.factor, solved & found.converged
            stages.append(self._closer(rate, stage, matrix, found, where) if self.close else found.u)
            state = torch.add(stage.base, stages[-1], alpha=tableau.gamma)
        singular = matrix.singular
        return _Tried(stages, state, ~solved | singular, singular, factor, slowest, iterations, point)

    def _closer(self, rate: Rate, stage: Stage, matrix: Factored, found: StageSolution, where: TimeAndState) -> Tensor:
        """Go on from a solved stage towards rounding; a sample that does not get there keeps what it has."""
        scale = torch.maximum(CLOSE * where.scale, ROUNDING * torch.finfo(where.y.dtype).eps * near(where.y))
        u = solve_stage(rate, stage, matrix, found.u, scale, found.factor.clamp_max(1.0), self.newton).u
        return torch.where(torch.isfinite(u).all(dim=-1, keepdim=True), u, found.u)

    def _polynomial(self, stages: list[Tensor], divisor: Tensor) -> tuple[Tensor, ...]:
        """Coefficients of the continuous extension; the cubic Hermite polynomial if the table has none."""
        dense = self.tableau.dense or hermite(self.tableau.a[-1], self.tableau.gamma)
        return tuple(combine(row, stages) / divisor for row in dense)


def renew_jacobian(
    linearisation: Linearisation, rate: Rate, where: TimeAndState, stale: Tensor, kept: tuple[Tensor, ...]
) -> Point:
    """Renew the Jacobian of the samples that need it; where reads are dear, of all samples."""
    cheap = reads_are_cheap(where.y)
    if kept and cheap and not bool(stale.any()):
        return linearisation.restore(kept, rate, where)
    # the carried rate is the slope of the last stage, which differs from f by the error of the iteration
    where = where._replace(k1=rate(where.t, where.y))
    point = linearisation.at(rate, where, exact=False, time=False)
    if not kept or not cheap:
        return point
    merged = tuple(
        torch.where(stale.reshape(-1, *[1] * (new.ndim - 1)), new, old)
        for new, old in zip(point.tensors, kept, strict=True)
    )
    return linearisation.restore(merged, rate, where)


def hermite(row: Sequence[float], gamma: float) -> tuple[tuple[float, ...], ...]:
    """Weights of the cubic through the states and the slopes at both ends of a stiffly accurate step."""
    weights = (*row, gamma)
    first = (1.0, *(0.0 for _ in row))
    last = (*(0.0 for _ in row), 1.0)
    second = tuple(3 * b - 2 * f - e for b, f, e in zip(weights, first, last, strict=True))
    third = tuple(-2 * b + f + e for b, f, e in zip(weights, first, last, strict=True))
    return first, second, third


def combine(weights: Sequence[float], stages: Sequence[Tensor]) -> Tensor:
    """Sum ``weights[i] * stages[i]``, skipping the zeros."""
    total: Tensor | None = None
    for weight, stage in zip(weights, stages, strict=False):
        if weight != 0.0:
            total = stage * weight if total is None else torch.add(total, stage, alpha=weight)
    return torch.zeros_like(stages[0]) if total is None else total


def fallback_scale(y: Tensor) -> Tensor:
    """Allowed error where no tolerance is given: the square root of the rounding error."""
    eps = torch.finfo(y.dtype).eps
    return eps**0.5 * (near(y) + eps)


def near(y: Tensor) -> Tensor:
    """Size of each component, of the small ones a thousandth of that of the largest."""
    size = y.abs()
    return size + 1e-3 * size.amax(dim=-1, keepdim=True)
