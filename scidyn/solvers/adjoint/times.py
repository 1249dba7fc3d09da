"""Gradients with respect to times: the solution moves along the vector field."""

from __future__ import annotations

import torch
from torch import Tensor

from scidyn.solvers.methods.stepper import Rate

__all__ = ["move", "move_outputs"]


def move(rate: Rate, start: Tensor, end: Tensor, y: Tensor) -> Tensor:
    """Follow the field from ``start`` to ``end``, equal numbers of which one carries a gradient.

    The state does not change. One midpoint step of size zero gives it the derivatives of the flow with
    respect to the times, exact to second order.
    """
    size = end - start
    wide = size.to(y.real.dtype).unsqueeze(-1)
    middle = y + 0.5 * wide * rate(start, y)
    return y + wide * rate(start + 0.5 * size, middle)


def move_outputs(rate: Rate, times: Tensor, y: Tensor, y0: Tensor) -> Tensor:
    """Give states (batch, T, D) their derivative with respect to ``times`` (b, T); NaN rows have none."""
    missing = torch.isnan(y.detach()).all(dim=-1)
    first = times.detach()[:, :1]
    usable = torch.isfinite(times.detach())
    known = torch.where(usable, times, first)
    safe = torch.where(missing.unsqueeze(-1), y0.detach().unsqueeze(1), y)
    moved = [move(rate, known[:, j].detach(), known[:, j], safe[:, j]) for j in range(y.shape[1])]
    return torch.stack(moved, dim=1).masked_fill(missing.unsqueeze(-1), torch.nan)
