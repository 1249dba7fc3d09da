"""How large the next step is: error norm, proportional–integral control, first step."""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

import torch
from torch import Tensor

__all__ = ["Tolerance", "error_ratio", "first_step", "resize"]

SAFETY = 0.9
SHRINK = 0.2
GROW = 10.0
PROPORTIONAL = 0.4
INTEGRAL = 0.3


class Tolerance(NamedTuple):
    """Local error allowed: ``atol + rtol * |y|``, entry by entry.

    Attributes
    ----------
    rtol, atol : Tensor
        Scalars, or ``atol`` of shape (D,).
    together : bool
        True if all samples take the same step: the worst sample decides.
    """

    rtol: Tensor
    atol: Tensor
    together: bool

    def norm(self, value: Tensor, scale: Tensor) -> Tensor:
        """Root mean square of ``value / scale`` per sample, shape (batch,), or its maximum, shape (1,)."""
        ratio = (value / scale).abs()
        each = (ratio * ratio).mean(dim=-1).sqrt()
        return each.amax(dim=0, keepdim=True) if self.together else each

    def scale(self, size: Tensor) -> Tensor:
        """Allowed error where the state has magnitude ``size``; never zero."""
        return (self.atol + self.rtol * size).clamp_min(torch.finfo(size.dtype).tiny)


def error_ratio(tolerance: Tolerance, y: Tensor, y1: Tensor, err: Tensor) -> Tensor:
    """Error estimate over allowed error; a step is accepted at 1 or below, NaN counts as infinite."""
    ratio = tolerance.norm(err, tolerance.scale(torch.maximum(y.abs(), y1.abs())))
    return torch.where(torch.isfinite(ratio), ratio, torch.full_like(ratio, torch.inf))


def resize(ratio: Tensor, previous: Tensor, accepted: Tensor, order: int) -> Tensor:
    """Factor for the next step: ``0.9 r^(-0.7/k) r_previous^(0.4/k)``, within [0.2, 10].

    An accepted step never shrinks and a rejected one never grows.
    """
    small = torch.finfo(ratio.dtype).tiny
    factor = (
        SAFETY * ratio.clamp_min(small) ** (-(PROPORTIONAL + INTEGRAL) / order) * previous ** (PROPORTIONAL / order)
    )
    return torch.where(accepted, factor.clamp(1.0, GROW), factor.clamp(SHRINK, SAFETY))


def first_step(
    rate: Callable[[Tensor, Tensor], Tensor],
    tolerance: Tolerance,
    order: int,
    t: Tensor,
    y: Tensor,
    k1: Tensor,
    span: Tensor,
) -> Tensor:
    """Guess a first step from the sizes of y, y' and a difference quotient of y'.

    One evaluation of ``rate``; shape of ``t``.

    References
    ----------
    E. Hairer, S. P. Nørsett, G. Wanner, Solving Ordinary Differential Equations I, section II.4.
    """
    scale = tolerance.scale(y.abs())
    d0, d1 = tolerance.norm(y, scale), tolerance.norm(k1, scale)
    flat = (d0 < 1e-5) | (d1 < 1e-5)
    h0 = torch.where(flat, torch.full_like(d0, 1e-6), 0.01 * d0 / d1)
    h0 = torch.minimum(h0.to(span.dtype), span)
    column = h0.to(y.real.dtype).unsqueeze(-1)
    k2 = rate(t + h0, y + column * k1)
    d2 = tolerance.norm(k2 - k1, scale).to(span.dtype) / h0.clamp_min(torch.finfo(h0.dtype).tiny)
    largest = torch.maximum(d1.to(span.dtype), d2)
    h1 = torch.where(largest <= 1e-15, (h0 * 1e-3).clamp_min(1e-6), (0.01 / largest) ** (1.0 / order))
    guess = torch.minimum(100.0 * h0, h1)
    return torch.where(torch.isfinite(guess), guess, h0)
