"""Exponential time differencing for fields with a diagonal linear part."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from scidyn.solvers.controller import Tolerance
from scidyn.solvers.methods.stepper import Rate, Step
from scidyn.solvers.newton import reads_are_cheap
from scidyn.solvers.phi import phi_functions
from scidyn.solvers.split import SemilinearField, part

__all__ = ["ETDRK4"]


@dataclass(frozen=True)
class ETDRK4:
    r"""The fourth-order method of Cox and Matthews for :math:`y' = \Lambda y + N(t, y)`.

    The linear part is solved exactly; steps are fixed. The coefficients are kept while the step keeps its size.

    References
    ----------
    S. M. Cox, P. C. Matthews, J. Comput. Phys. 176, 430–455, 2002.
    """

    name: str = "etdrk4"
    order: int = 4
    error_order: int = 4
    dense_order: int = 3
    adaptive: bool = False
    implicit: bool = False
    evaluations: int = 4

    def begin(self, rate: Rate, t: Tensor, y: Tensor, k1: Tensor) -> tuple[Tensor, ...]:
        """Start with the nonlinear part and with the coefficients of a step of size zero."""
        h = torch.zeros_like(t)
        return (_nonlinear(rate)(t, y), h, *_coefficients(_diagonal(rate, y), h, y))

    def step(
        self, rate: Rate, t: Tensor, h: Tensor, y: Tensor, carry: tuple[Tensor, ...], tolerance: Tolerance
    ) -> Step:
        """Take one step of size ``h`` from ``(t, y)``."""
        start, size, *kept = carry
        if not reads_are_cheap(y) or size.shape != h.shape or bool((size != h).any()):
            kept = list(_coefficients(_diagonal(rate, y), h, y))
        return self._advance(rate, t, h, y, start, tuple(kept))

    def replay(self, rate: Rate, t: Tensor, h: Tensor, y: Tensor, *, dense: bool = True) -> Step:
        """Take the same step from ``(t, h, y)`` alone."""
        coefficients = _coefficients(_diagonal(rate, y), h, y)
        return self._advance(rate, t, h, y, _nonlinear(rate)(t, y), coefficients)

    def _advance(
        self, rate: Rate, t: Tensor, h: Tensor, y: Tensor, start: Tensor, coefficients: tuple[Tensor, ...]
    ) -> Step:
        whole, half, quotient, first, middle, last = coefficients
        nonlinear, diagonal = _nonlinear(rate), _diagonal(rate, y)
        centre = t + 0.5 * h
        a = half * y + quotient * start
        at_a = nonlinear(centre, a)
        at_b = nonlinear(centre, half * y + quotient * at_a)
        at_c = nonlinear(t + h, half * a + quotient * (2.0 * at_b - start))
        y1 = whole * y + first * start + middle * (at_a + at_b) + last * at_c
        end = nonlinear(t + h, y1)
        k1, k_last = diagonal * y + start, diagonal * y1 + end
        column = h.to(y.real.dtype).unsqueeze(-1)
        slope = (y1 - y) / torch.where(column > 0, column, torch.ones_like(column))
        coef = (k1, 3.0 * slope - 2.0 * k1 - k_last, k1 + k_last - 2.0 * slope)
        return Step(y1, (end, h, *coefficients), None, coef)


def _nonlinear(rate: Rate) -> Rate:
    return part(rate, SemilinearField, "nonlinear", "etdrk4")


def _diagonal(rate: Rate, y: Tensor) -> Tensor:
    """Entries of the linear part as a row, in the solver's direction of time."""
    field: Any = getattr(rate, "f", rate)
    row = torch.as_tensor(field.diagonal, device=y.device).reshape(1, -1)
    return row.to(y.dtype) * getattr(rate, "sign", 1.0)


def _coefficients(diagonal: Tensor, h: Tensor, y: Tensor) -> tuple[Tensor, ...]:
    """Factors of the step, each of shape (1 or batch, D)."""
    column = h.to(y.real.dtype).unsqueeze(-1)
    z = column * diagonal
    half, quotient = phi_functions(0.5 * z, 1)
    whole, one, two, three = phi_functions(z, 3)
    factors = (0.5 * quotient, one - 3.0 * two + 4.0 * three, 2.0 * two - 4.0 * three, 4.0 * three - two)
    return (whole, half, *(column * factor for factor in factors))
