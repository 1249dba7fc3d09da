"""A method that turns to an implicit formula where a sample becomes stiff, and back."""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from typing import NamedTuple

import torch
from torch import Tensor

from scidyn.solvers.controller import Tolerance
from scidyn.solvers.linear.jacobian import TimeAndState
from scidyn.solvers.linear.linearisation import Point
from scidyn.solvers.methods.esdirk import combine, fallback_scale
from scidyn.solvers.methods.rosenbrock import Rodas
from scidyn.solvers.methods.stepper import Rate, Step
from scidyn.solvers.newton import reads_are_cheap
from scidyn.solvers.stiff_tableaus import RODAS5P
from scidyn.solvers.tableaus import TSIT5

__all__ = ["Automatic"]

REACH = 3.5068  # of Tsit5's region of stability along the negative real axis
CLOSE = 0.9


class _Explicit(NamedTuple):
    """An explicit step and h times the estimate of the largest eigenvalue, shape (batch,)."""

    step: Step
    product: Tensor


@dataclass(frozen=True)
class Automatic:
    r"""Tsit5 for samples that are not stiff and Rodas5P for those that are; both have order 5.

    The two last stages of Tsit5 share their time, so that :math:`S = \|k_7 - k_6\| / \|Y_7 - Y_6\|` estimates
    the largest eigenvalue. After ``patience`` accepted steps in which h S is near the end of the region of
    stability a sample turns to Rodas5P; it returns after ``relief`` steps in which h times the norm of the
    Jacobian is well inside.

    Parameters
    ----------
    stiff : Rodas
        The method for stiff samples, with its linear algebra.
    patience, relief : int
        Steps before a sample turns, and before it returns.
    stiff_samples : Tensor of bool, shape (batch,), optional
        Samples whose step a replay repeats by the stiff method.

    References
    ----------
    E. Hairer, G. Wanner, Solving Ordinary Differential Equations II, section IV.2.
    """

    stiff: Rodas = field(default_factory=lambda: Rodas(tableau=RODAS5P))
    patience: int = 10
    relief: int = 3
    name: str = "auto"
    order: int = 5
    error_order: int = 5
    dense_order: int = 4
    adaptive: bool = True
    implicit: bool = True
    stiff_samples: Tensor | None = field(default=None, repr=False, compare=False)

    @property
    def evaluations(self) -> int:
        """Evaluations in a step that is not stiff."""
        return TSIT5.stages - 1

    def begin(self, rate: Rate, t: Tensor, y: Tensor, k1: Tensor) -> tuple[Tensor, ...]:
        """Start explicitly, with no evidence of stiffness."""
        self.stiff.algebra.check(self.name, y)
        count = torch.zeros(y.shape[0], dtype=torch.int32, device=y.device)
        return (k1, count > 0, count)

    def step(
        self, rate: Rate, t: Tensor, h: Tensor, y: Tensor, carry: tuple[Tensor, ...], tolerance: Tolerance
    ) -> Step:
        """Take one step of each sample's formula; a formula that no sample uses is left out on a CPU."""
        k1, stiff, count = carry
        where = TimeAndState(t, h, y, k1, tolerance.scale(y.abs()))
        any_stiff = not reads_are_cheap(y) or bool(stiff.any())
        all_stiff = any_stiff and reads_are_cheap(y) and bool(stiff.all())
        if all_stiff:
            taken, product = self._implicit(rate, where, exact=False)
        else:
            taken, product = self._explicit(rate, where)
            if any_stiff:
                implicit, norm = self._implicit(rate, where, exact=False)
                taken, product = _merge(stiff, implicit, taken), torch.where(stiff, norm, product)
        hit = torch.where(stiff, product < CLOSE * REACH, product > CLOSE * REACH)
        count = torch.where(hit, count + 1, (count - 2 * (~stiff).to(count.dtype)).clamp_min(0) * (~stiff))
        turn = count >= torch.where(stiff, self.relief, self.patience)
        following = (taken.carry[0], stiff ^ turn, torch.where(turn, torch.zeros_like(count), count))
        solves = stiff.to(torch.int32)
        return taken._replace(carry=following, work=(solves, solves), choice=stiff)

    def repeatable(self) -> Automatic:
        """Give the method with exact Jacobians."""
        return replace(self, stiff=self.stiff.repeatable())

    def pinned(self, choice: Tensor) -> Automatic:
        """Give the method whose replay uses the stiff formula for the samples in ``choice``."""
        return replace(self, stiff_samples=choice)

    def replay(self, rate: Rate, t: Tensor, h: Tensor, y: Tensor, *, dense: bool = True) -> Step:
        """Take a step of the same size, differentiable by autograd.

        The formulas are those it was pinned to; if it was not, those that are stable.
        """
        where = TimeAndState(t, h, y, rate(t, y), fallback_scale(y.detach()))
        stiff = self.stiff_samples
        if stiff is None:
            with torch.no_grad():
                # the estimate from the stages fails on steps far beyond stability, which a replay may ask for
                point, _ = self.stiff.linearise(rate, where, exact=False)
                stiff = ~(_column_sums(point, where) <= REACH)
        if reads_are_cheap(y) and not bool(stiff.any()):
            return self._explicit(rate, where).step
        implicit = self._implicit(rate, where, exact=True)[0]
        if reads_are_cheap(y) and bool(stiff.all()):
            return implicit
        # an unstable step of size zero has no harmful derivative
        still = where._replace(h=torch.where(stiff, torch.zeros_like(h), h))
        return _merge(stiff, implicit, self._explicit(rate, still).step)

    def _explicit(self, rate: Rate, where: TimeAndState) -> _Explicit:
        t, h, y, k1, _ = where
        column = h.to(y.dtype).unsqueeze(-1)
        stages, state, before = [k1], y, y
        for node, row in zip(TSIT5.c[1:], TSIT5.a[1:], strict=True):
            before, state = state, y + column * combine(row, stages)
            stages.append(rate(t + node * h, state))
        err = column * combine(TSIT5.error or (), stages)
        coef = tuple(combine(weights, stages) for weights in zip(*TSIT5.dense, strict=True))
        apart = torch.linalg.vector_norm(state - before, dim=-1)
        spread = torch.linalg.vector_norm(stages[-1] - stages[-2], dim=-1)
        # differences at the level of rounding say nothing
        resolved = apart > 100.0 * torch.finfo(y.dtype).eps * torch.linalg.vector_norm(state, dim=-1)
        size = torch.where(resolved, spread / torch.where(resolved, apart, torch.ones_like(apart)), 0.0)
        return _Explicit(Step(state, (stages[-1],), err, coef), column.squeeze(-1) * size)

    def _implicit(self, rate: Rate, where: TimeAndState, *, exact: bool) -> tuple[Step, Tensor]:
        """Take a step of the stiff method; also h times the largest column sum of the Jacobian."""
        point, slope = self.stiff.linearise(rate, where, exact)
        taken = self.stiff.advance(rate, where, point, slope)
        k_last = rate(where.t + where.h, taken.y1)
        return taken._replace(carry=(k_last,)), _column_sums(point, where)


def _column_sums(point: Point, where: TimeAndState) -> Tensor:
    """Give h times the largest column sum of the Jacobian, shape (batch,); infinite if there is no matrix."""
    if not point.tensors:
        return where.y.new_full((where.y.shape[0],), torch.inf)
    return where.h.to(where.y.dtype) * point.tensors[0].detach().abs().sum(dim=1).amax(dim=-1)


def _merge(stiff: Tensor, implicit: Step, explicit: Step) -> Step:
    """Give each sample the step of its formula."""
    row = stiff.unsqueeze(-1)

    def choose(a: Tensor | None, b: Tensor | None) -> Tensor:
        return torch.where(row, a, b)  # type: ignore[arg-type]

    failed = None if implicit.failed is None else implicit.failed & stiff
    return Step(
        choose(implicit.y1, explicit.y1),
        (choose(implicit.carry[0], explicit.carry[0]),),
        choose(implicit.err, explicit.err),
        tuple(choose(a, b) for a, b in zip(implicit.coef, explicit.coef, strict=True)),
        failed,
        singular=failed,
    )
