"""Additive Runge–Kutta methods: one part of the field explicit, the other by an ESDIRK method."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import NamedTuple

import torch
from torch import Tensor

from scidyn.solvers.controller import Tolerance
from scidyn.solvers.linear.choice import LinearAlgebra
from scidyn.solvers.linear.jacobian import TimeAndState
from scidyn.solvers.linear.linearisation import Point
from scidyn.solvers.methods.esdirk import SLOW, combine, fallback_scale, renew_jacobian
from scidyn.solvers.methods.stepper import Rate, Step
from scidyn.solvers.newton import NewtonSettings, Stage, attach_stage, reads_are_cheap, solve_stage
from scidyn.solvers.split import SplitField, part
from scidyn.solvers.stiff_tableaus import KENCARP4, AdditiveTableau

__all__ = ["AdditiveESDIRK"]


class _Tried(NamedTuple):
    """Increments of both parts, where the solution failed, contraction and Jacobian."""

    explicit: list[Tensor]
    implicit: list[Tensor]
    state: Tensor
    failed: Tensor
    singular: Tensor
    factor: Tensor
    slowest: Tensor
    iterations: Tensor
    point: Point


@dataclass(frozen=True)
class AdditiveESDIRK:
    r"""A pair of methods with common weights for :math:`y' = f_E(t, y) + f_I(t, y)`.

    Only :math:`f_I` enters the linear systems; f is a :class:`~scidyn.solvers.SplitField`.

    Parameters
    ----------
    tableau : AdditiveTableau
        Coefficients of both methods.
    algebra : LinearAlgebra
        How the Jacobian of the implicit part is found and the linear systems are solved.
    newton : NewtonSettings
        When an iteration stops.

    References
    ----------
    C. A. Kennedy, M. H. Carpenter, Appl. Numer. Math. 44, 139–181, 2003.
    """

    tableau: AdditiveTableau = KENCARP4
    algebra: LinearAlgebra = field(default_factory=LinearAlgebra)
    newton: NewtonSettings = field(default_factory=NewtonSettings)
    adaptive: bool = True
    implicit: bool = True
    dense_order: int = 3

    @property
    def name(self) -> str:
        """What ``method=`` calls it."""
        return self.tableau.implicit.name

    @property
    def order(self) -> int:
        """Order of the advancing solution."""
        return self.tableau.implicit.order

    @property
    def error_order(self) -> int:
        """Power of the step size in the error estimate."""
        return self.tableau.implicit.error_order + 1

    @property
    def evaluations(self) -> int:
        """Typical evaluations of the larger part in a step."""
        return 5 * (len(self.tableau.implicit.c) - 1) // 2

    def begin(self, rate: Rate, t: Tensor, y: Tensor, k1: Tensor) -> tuple[Tensor, ...]:
        """Start with the rates of both parts and a Jacobian that must be renewed."""
        self.algebra.check(self.name, y)
        explicit, implicit = self._parts(rate)
        slow = implicit(t, y)
        everywhere = y.new_ones(y.shape[0])
        where = TimeAndState(t, torch.zeros_like(t), y, slow, fallback_scale(y))
        point = self.algebra.linearisation.at(implicit, where, exact=False, time=False)
        return (explicit(t, y), slow, everywhere > 0, everywhere, *point.tensors)

    def step(
        self, rate: Rate, t: Tensor, h: Tensor, y: Tensor, carry: tuple[Tensor, ...], tolerance: Tolerance
    ) -> Step:
        """Take one step; a sample whose stages were not solved is marked as failed."""
        first, second, stale, factor, *kept = carry
        where = TimeAndState(t, h, y, second, tolerance.scale(y.abs()))
        tried = self._try(rate, where, first, stale, factor, tuple(kept))
        work = stale.to(torch.int32), torch.ones_like(stale, dtype=torch.int32)
        if reads_are_cheap(y) and bool((tried.failed & ~stale).any()):
            again = tried.failed & ~stale
            tried = self._try(rate, where, first, stale | again, factor, tuple(kept))
            work = work[0] + again, work[1] + 1
        fresh = torch.ones_like(factor)
        factor = torch.where(tried.failed, fresh, tried.factor.clamp_max(1.0))
        explicit, implicit = self._parts(rate)
        y1 = self._end(tried.state, tried.explicit)
        rates = explicit(t + h, y1), implicit(t + h, y1)
        following = (*rates, tried.slowest > SLOW, factor, *tried.point.tensors)
        retry = (first, second, tried.failed, fresh, *tried.point.tensors)
        both = [a + b for a, b in zip(tried.explicit, tried.implicit, strict=True)]
        err = combine(self.tableau.implicit.error, both)
        coef = _polynomial(y, y1, h, first + second, rates[0] + rates[1])
        how = (tried.singular, work, tried.iterations, self.newton.iterations)
        return Step(y1, following, err, coef, tried.failed, retry, *how)

    def replay(self, rate: Rate, t: Tensor, h: Tensor, y: Tensor, *, dense: bool = True) -> Step:
        """Take the same step, differentiable by the implicit function theorem at each stage."""
        explicit, implicit = self._parts(rate)
        tableau, column = self.tableau.implicit, h.to(y.dtype).unsqueeze(-1)
        first, second = explicit(t, y), implicit(t, y)
        scale = fallback_scale(y.detach())
        with torch.no_grad():
            where = TimeAndState(t, h, y.detach(), second.detach(), scale)
            point = self.algebra.linearisation.at(implicit, where, exact=False, time=False)
            matrix = point.factored(h * tableau.gamma)
        slow, fast, state = [column * first], [column * second], y
        for i, stage in self._stages(t, h, y, slow, fast):
            guess = combine(tableau.predictor[i], fast)
            fast.append(attach_stage(implicit, stage, matrix, self.algebra.linearisation, guess, scale))
            state = torch.add(stage.base, fast[-1], alpha=tableau.gamma)
            slow.append(column * explicit(stage.t, state))
        y1 = self._end(state, slow)
        both = [a + b for a, b in zip(slow, fast, strict=True)]
        coef = _polynomial(y, y1, h, first + second, rate(t + h, y1)) if dense else ()
        return Step(y1, (), combine(tableau.error, both), coef)

    def _parts(self, rate: Rate) -> tuple[Rate, Rate]:
        return part(rate, SplitField, "explicit", self.name), part(rate, SplitField, "implicit", self.name)

    def _stages(self, t: Tensor, h: Tensor, y: Tensor, slow: list[Tensor], fast: list[Tensor]):  # type: ignore[no-untyped-def]
        """Give the equations of the stages, one by one as the lists of increments grow."""
        tableau, column = self.tableau.implicit, h.to(y.dtype).unsqueeze(-1)
        for i in range(1, len(tableau.c)):
            base = y + combine(self.tableau.explicit[i], slow) + combine(tableau.a[i], fast)
            yield i, Stage(t + tableau.c[i] * h, column, base, tableau.gamma)

    def _try(
        self,
        rate: Rate,
        where: TimeAndState,
        first: Tensor,
        stale: Tensor,
        factor: Tensor,
        kept: tuple[Tensor, ...],
    ) -> _Tried:
        """Solve the stages one after the other, with new Jacobians for the samples where ``stale``."""
        t, h, y, second, scale = where
        tableau, column = self.tableau.implicit, h.to(y.dtype).unsqueeze(-1)
        explicit, implicit = self._parts(rate)
        point = renew_jacobian(self.algebra.linearisation, implicit, where, stale, kept)
        matrix = point.factored(h * tableau.gamma)
        solved, slowest = torch.ones_like(stale), torch.zeros_like(factor)
        iterations = torch.zeros_like(stale, dtype=torch.int32)
        slow, fast, state = [column * first], [column * second], y
        for i, stage in self._stages(t, h, y, slow, fast):
            guess = combine(tableau.predictor[i], fast)
            found = solve_stage(implicit, stage, matrix, guess, scale, factor, self.newton)
            slowest, iterations = torch.maximum(slowest, found.factor), torch.maximum(iterations, found.iterations)
            factor, solved = found.factor, solved & found.converged
            fast.append(found.u)
            state = torch.add(stage.base, found.u, alpha=tableau.gamma)
            slow.append(column * explicit(stage.t, state))
        singular = matrix.singular
        return _Tried(slow, fast, state, ~solved | singular, singular, factor, slowest, iterations, point)

    def _end(self, state: Tensor, slow: list[Tensor]) -> Tensor:
        """New state: that of the last stage, with the explicit weights in place of its row."""
        weights = (*self.tableau.implicit.a[-1], self.tableau.implicit.gamma)
        row = (*self.tableau.explicit[-1], 0.0)
        return state + combine([b - a for a, b in zip(row, weights, strict=True)], slow)


def _polynomial(y: Tensor, y1: Tensor, h: Tensor, k1: Tensor, k_last: Tensor) -> tuple[Tensor, ...]:
    """Coefficients of the cubic Hermite polynomial."""
    column = h.to(y.dtype).unsqueeze(-1)
    slope = (y1 - y) / torch.where(column > 0, column, torch.ones_like(column))
    return k1, 3.0 * slope - 2.0 * k1 - k_last, k1 + k_last - 2.0 * slope
