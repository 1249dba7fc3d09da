"""Linearly implicit methods: a fixed number of linear solves in a step, and no iteration."""

from __future__ import annotations

import itertools
import math
from dataclasses import dataclass, field, replace
from typing import Self

import torch
from torch import Tensor

from scidyn.solvers.controller import Tolerance
from scidyn.solvers.linear.choice import LinearAlgebra
from scidyn.solvers.linear.jacobian import TimeAndState
from scidyn.solvers.linear.linearisation import Point
from scidyn.solvers.methods.esdirk import combine, fallback_scale
from scidyn.solvers.methods.stepper import Rate, Step
from scidyn.solvers.stiff_tableaus import RodasTableau

__all__ = ["Rodas", "Rosenbrock23"]


@dataclass(frozen=True)
class _Linearised:
    """What the Rosenbrock methods share: a new Jacobian in each step, and its derivative in a replay.

    Parameters
    ----------
    algebra : LinearAlgebra
        How the Jacobian is found and the linear systems are solved. In single precision the Jacobian
        is taken by automatic differentiation, since differences would cost accuracy.
    exact : bool
        Take it so in double precision too, as a replay does: the two then are the same step.
    """

    algebra: LinearAlgebra = field(default_factory=LinearAlgebra)
    exact: bool = False

    @property
    def adaptive(self) -> bool:
        """True: the embedded solution gives an error estimate."""
        return True

    @property
    def implicit(self) -> bool:
        """True: linear systems are solved in each stage."""
        return True

    def repeatable(self) -> Self:
        """Give the method with exact Jacobians; products alone stay inexact, which would cost many of them."""
        return self if self.algebra.linear_solver == "krylov" else replace(self, exact=True)

    def linearise(self, rate: Rate, where: TimeAndState, exact: bool) -> tuple[Point, Tensor]:
        """Give the Jacobian at a point and the slope of the rate in time."""
        exact = exact or self.exact or where.y.dtype == torch.float32
        point = self.algebra.linearisation.at(rate, where, exact=exact, time=True)
        return point, torch.zeros_like(where.y) if point.time_slope is None else point.time_slope


@dataclass(frozen=True)
class Rosenbrock23(_Linearised):
    """The pair of orders 2 and 3 by Shampine and Reichelt, L-stable, for loose tolerances."""

    @property
    def name(self) -> str:
        """What ``method=`` calls it."""
        return "rosenbrock23"

    @property
    def order(self) -> int:
        """Order of the advancing solution."""
        return 2

    @property
    def error_order(self) -> int:
        """Power of the step size in the error estimate."""
        return 3

    @property
    def dense_order(self) -> int:
        """Order of the continuous extension."""
        return 2

    @property
    def evaluations(self) -> int:
        """Evaluations in a step besides those for the Jacobian."""
        return 3

    def begin(self, rate: Rate, t: Tensor, y: Tensor, k1: Tensor) -> tuple[Tensor, ...]:
        """Start from the known rate."""
        self.algebra.check(self.name, y)
        return (k1,)

    def step(
        self, rate: Rate, t: Tensor, h: Tensor, y: Tensor, carry: tuple[Tensor, ...], tolerance: Tolerance
    ) -> Step:
        """Take one step of size ``h`` from ``(t, y)``."""
        where = TimeAndState(t, h, y, carry[0], tolerance.scale(y.abs()))
        return self.advance(rate, where, *self.linearise(rate, where, exact=False))

    def replay(self, rate: Rate, t: Tensor, h: Tensor, y: Tensor, *, dense: bool = True) -> Step:
        """Take the same step; autograd differentiates through the Jacobian."""
        where = TimeAndState(t, h, y, rate(t, y), fallback_scale(y.detach()))
        return self.advance(rate, where, *self.linearise(rate, where, exact=True))

    def advance(self, rate: Rate, where: TimeAndState, point: Point, slope: Tensor) -> Step:
        """Take one step from a point where the field is linearised."""
        t, y, k1 = where.t, where.y, where.k1
        d, e = 1.0 / (2.0 + math.sqrt(2.0)), 6.0 + math.sqrt(2.0)
        h = where.h.to(y.dtype).unsqueeze(-1)
        matrix = point.factored(where.h * d)
        drift = h * d * slope
        first = matrix.solve(k1 + drift)
        middle = rate(t + 0.5 * where.h, y + 0.5 * h * first)
        second = matrix.solve(middle - first) + first
        y1 = y + h * second
        k_last = rate(t + where.h, y1)
        third = matrix.solve(k_last - e * (second - middle) - 2.0 * (first - k1) + drift)
        err = h / 6.0 * (first - 2.0 * second + third)
        start = (first - 2.0 * d * second) / (1.0 - 2.0 * d)
        return Step(y1, (k_last,), err, (start, second - start), *_solved_with(matrix.singular))


@dataclass(frozen=True)
class Rodas(_Linearised):
    """A stiffly accurate Rosenbrock method of order 5 or less, given by its table.

    Parameters
    ----------
    tableau : RodasTableau
        Coefficients.
    """

    tableau: RodasTableau = field(kw_only=True)

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
        return self.tableau.error_order

    @property
    def evaluations(self) -> int:
        """Evaluations in a step besides those for the Jacobian."""
        return len(self.tableau.c)

    def begin(self, rate: Rate, t: Tensor, y: Tensor, k1: Tensor) -> tuple[Tensor, ...]:
        """Nothing is carried but the shape of the batch: each step evaluates its first rate."""
        self.algebra.check(self.name, y)
        return ()

    def step(
        self, rate: Rate, t: Tensor, h: Tensor, y: Tensor, carry: tuple[Tensor, ...], tolerance: Tolerance
    ) -> Step:
        """Take one step of size ``h`` from ``(t, y)``."""
        where = TimeAndState(t, h, y, rate(t, y), tolerance.scale(y.abs()))
        return self.advance(rate, where, *self.linearise(rate, where, exact=False))

    def replay(self, rate: Rate, t: Tensor, h: Tensor, y: Tensor, *, dense: bool = True) -> Step:
        """Take the same step; autograd differentiates through the Jacobian."""
        where = TimeAndState(t, h, y, rate(t, y), fallback_scale(y.detach()))
        return self.advance(rate, where, *self.linearise(rate, where, exact=True))

    def advance(self, rate: Rate, where: TimeAndState, point: Point, slope: Tensor) -> Step:
        """Take one step from a point where the field is linearised."""
        tableau, t, y = self.tableau, where.t, where.y
        h = where.h.to(y.dtype).unsqueeze(-1)
        scaled, squared = h * tableau.gamma, h * h * tableau.gamma * slope
        matrix = point.factored(where.h * tableau.gamma)
        stages: list[Tensor] = []
        state = y
        for i, (node, drift) in enumerate(zip(tableau.c, tableau.d, strict=True)):
            state = y + combine(tableau.a[i], stages) if i else y
            side = scaled * (rate(t + node * where.h, state) if i else where.k1)
            if i:
                side = torch.add(side, combine(tableau.coupling[i], stages), alpha=tableau.gamma)
            if drift != 0.0:
                side = torch.add(side, squared, alpha=drift)
            stages.append(matrix.solve(side))
        err = stages[-1]
        y1 = state + err
        return Step(y1, (), err, self._polynomial(stages, y1 - y, h), *_solved_with(matrix.singular))

    def _polynomial(self, stages: list[Tensor], change: Tensor, h: Tensor) -> tuple[Tensor, ...]:
        """Expand ``θ change + θ (1 - θ) (K_1 + θ K_2 + θ² K_3)`` in powers of θ, over h."""
        inner = [combine(row, stages) for row in self.tableau.dense]
        ends = [change + inner[0], *(b - a for a, b in itertools.pairwise(inner)), -inner[-1]]
        divisor = torch.where(h > 0, h, torch.ones_like(h))
        return tuple(row / divisor for row in ends)


def _solved_with(singular: Tensor) -> tuple[Tensor, None, Tensor, tuple[Tensor, Tensor]]:
    """Where a step failed, no other carry, why it failed, and its one Jacobian and factorisation."""
    one = torch.ones_like(singular, dtype=torch.int32)
    return singular, None, singular, (one, one)
