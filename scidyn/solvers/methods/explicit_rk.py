"""Explicit Runge–Kutta methods: one step as a pure function of its tableau."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from scidyn.solvers.controller import Tolerance
from scidyn.solvers.methods.stepper import Rate, Step
from scidyn.solvers.tableaus import Tableau

__all__ = ["ExplicitRK"]


@dataclass(frozen=True)
class ExplicitRK:
    """An explicit method whose last stage is the first of the next step; its carry is that rate.

    Parameters
    ----------
    tableau : Tableau
        Coefficients.
    """

    tableau: Tableau

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
        return self.tableau.error_order

    @property
    def dense_order(self) -> int:
        """Order of the continuous extension."""
        return self.tableau.dense_order

    @property
    def adaptive(self) -> bool:
        """True if the tableau has an error estimate."""
        return self.tableau.error is not None

    @property
    def implicit(self) -> bool:
        """False: stages are evaluated one after the other."""
        return False

    @property
    def evaluations(self) -> int:
        """New evaluations of the vector field in a step."""
        return self.tableau.stages - 1

    def begin(self, rate: Rate, t: Tensor, y: Tensor, k1: Tensor) -> tuple[Tensor, ...]:
        """Start from the known rate."""
        return (k1,)

    def step(
        self, rate: Rate, t: Tensor, h: Tensor, y: Tensor, carry: tuple[Tensor, ...], tolerance: Tolerance
    ) -> Step:
        """Take one step of size ``h`` from ``(t, y)``; ``t`` and ``h`` have shape (1,) or (batch,)."""
        return self._advance(rate, t, h, y, carry[0])

    def replay(self, rate: Rate, t: Tensor, h: Tensor, y: Tensor, *, dense: bool = True) -> Step:
        """Take the same step from ``(t, h, y)`` alone; without ``dense`` the last stage is not evaluated."""
        if dense:
            return self._advance(rate, t, h, y, rate(t, y))
        stages, scale = [rate(t, y)], h.to(y.real.dtype).unsqueeze(-1)
        for node, row in zip(self.tableau.c[1:-1], self.tableau.a[1:-1], strict=True):
            stages.append(rate(t + node * h, y + scale * _combine(row, stages)))
        return Step(y + scale * _combine(self.tableau.a[-1], stages), (), None, ())

    def shared_step(self, rate: Rate, t: float, h: float, y: Tensor, k1: Tensor) -> Step:
        """Take one step that all samples share, its start and size known to the host."""
        tableau = self.tableau
        nodes = torch.tensor([[t + c * h] for c in tableau.c[1:]], dtype=torch.float64, device=y.device)
        stages, y1 = [k1], y
        for time, row in zip(nodes, tableau.a[1:], strict=True):
            y1 = y + _combine(row, stages).mul_(h)
            stages.append(rate(time, y1))
        rows = torch.stack(stages).reshape(len(stages), -1)
        coef = (_weights(tableau, rows.dtype, rows.device) @ rows).reshape(-1, *y.shape).unbind()
        with torch.no_grad():
            err = _combine(tableau.error or (), stages).mul_(h)
        return Step(y1, (stages[-1],), err, coef)

    def _advance(self, rate: Rate, t: Tensor, h: Tensor, y: Tensor, k1: Tensor) -> Step:
        tableau = self.tableau
        scale = h.to(k1.real.dtype).unsqueeze(-1)
        stages, y1 = [k1], y
        for node, row in zip(tableau.c[1:], tableau.a[1:], strict=True):
            y1 = y + scale * _combine(row, stages)
            stages.append(rate(t + node * h, y1))
        err = None if tableau.error is None else scale * self._error(stages)
        return Step(y1, (stages[-1],), err, self._coef(stages, own_steps=len(h) == len(y)))

    def _coef(self, stages: Sequence[Tensor], *, own_steps: bool) -> tuple[Tensor, ...]:
        """Coefficients of the continuous extension."""
        columns = list(zip(*self.tableau.dense, strict=True))
        if own_steps or torch.compiler.is_compiling() or stages[0].device.type != "cpu":
            # a product of matrices may round a sample differently beside other samples, and compiled code needs none
            return tuple(_combine(column, stages) for column in columns)
        rows = torch.stack(tuple(stages)).reshape(len(stages), -1)
        return (_weights(self.tableau, rows.dtype, rows.device) @ rows).reshape(-1, *stages[0].shape).unbind()

    def _error(self, stages: Sequence[Tensor]) -> Tensor:
        """Estimate over the step size; with a second estimate the first is reduced where both are small."""
        err = _combine(self.tableau.error or (), stages)
        if self.tableau.second_error is None:
            return err
        second = _combine(self.tableau.second_error, stages)
        size = torch.hypot(err.abs(), 0.1 * second.abs())
        return err * (err.abs() / torch.where(size > 0, size, torch.ones_like(size)))


def _weights(tableau: Tableau, dtype: torch.dtype, device: torch.device) -> Tensor:
    """Weights of the continuous extension, shape (powers, stages)."""
    return torch.tensor(tableau.dense, dtype=dtype, device=device).T.contiguous()


def _combine(weights: Sequence[float], stages: Sequence[Tensor]) -> Tensor:
    """Sum ``weights[i] * stages[i]``, skipping the zeros."""
    total: Tensor | None = None
    for weight, stage in zip(weights, stages, strict=True):
        if weight != 0.0:
            total = stage * weight if total is None else torch.add(total, stage, alpha=weight)
    return torch.zeros_like(stages[0]) if total is None else total
