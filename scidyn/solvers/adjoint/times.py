"""Gradients with respect to times: the solution moves along the vector field."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

__all__ = ["Rates", "move_with_time"]

Rates = Callable[[Tensor, Tensor], Tensor]


def move_with_time(rates: Rates, sign: float, y: Tensor, t: Tensor) -> Tensor:
    """Return ``y`` with the derivative ``sign * rates(t, y)`` with respect to ``t``.

    ``rates`` maps times (b, T) and states (batch, T, D) to rates (batch, T, D).
    """
    return _Move.apply(rates, sign, y, t)


class _Move(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, rates: Rates, sign: float, y: Tensor, t: Tensor) -> Tensor:
        ctx.rates, ctx.sign = rates, sign
        moved = y.clone()
        ctx.save_for_backward(moved, t)
        return moved

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
        y, t = ctx.saved_tensors
        by_time = None
        if ctx.needs_input_grad[3]:
            missing = torch.isnan(y.detach()).all(dim=-1, keepdim=True)
            slope = ctx.rates(t, torch.where(missing, y.detach().nan_to_num(nan=0.0), y))
            each = (grad * slope.conj()).real if y.is_complex() else grad * slope
            each = torch.where(missing, 0.0, each).sum(dim=-1)
            by_time = ctx.sign * (each if t.shape == each.shape else each.sum(dim=0, keepdim=True)).to(t.dtype)
        return None, None, grad, by_time
