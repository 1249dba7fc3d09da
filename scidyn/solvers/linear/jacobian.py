"""Derivatives of a vector field at a point: forward differences, or reverse mode."""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

import torch
from torch import Tensor

__all__ = ["TimeAndState", "difference_columns", "difference_time", "exact_rows", "increments"]

Rate = Callable[[Tensor, Tensor], Tensor]
LOOP_LIMIT = 12


class TimeAndState(NamedTuple):
    """Where a Jacobian is wanted.

    Attributes
    ----------
    t, h : Tensor, shape (1,) or (batch,)
        Time and step.
    y, k1 : Tensor, shape (batch, D)
        State and its rate.
    scale : Tensor, shape (batch, D) or broadcastable
        Allowed error of each entry.
    """

    t: Tensor
    h: Tensor
    y: Tensor
    k1: Tensor
    scale: Tensor


def increments(where: TimeAndState) -> Tensor:
    r"""Steps of forward differences, shape (batch, D).

    ``sqrt(eps) |y|``, but not below the size at which rounding of f would show:
    :math:`1000\,|h|\,\epsilon\,D\,\|f\|` in units of the allowed error (Hindmarsh et al., ACM Trans.
    Math. Softw. 31, 2005, section 2.1).
    """
    y, k1 = where.y, where.k1
    eps = torch.finfo(y.dtype).eps
    weighted = (k1 / where.scale).square().mean(dim=-1, keepdim=True).sqrt()
    floor = (1000.0 * eps * y.shape[-1]) * where.h.to(y.dtype).abs().unsqueeze(-1) * weighted
    floor = torch.where(floor > 0, floor, torch.ones_like(floor)) * where.scale
    step = torch.maximum(eps**0.5 * y.abs(), floor)
    return (y + step) - y


def difference_columns(rate: Rate, where: TimeAndState, shifts: Tensor) -> Tensor:
    """Changes of the rate for each displacement in ``shifts`` (count, batch, D), same shape."""
    y = where.y
    moved = y + shifts
    if shifts.shape[0] <= LOOP_LIMIT:
        values = torch.stack([rate(where.t, row) for row in moved.unbind(0)])
    else:
        values = torch.func.vmap(lambda row: rate(where.t, row))(moved)
    return values - where.k1


def difference_time(rate: Rate, where: TimeAndState) -> Tensor:
    """Slope of the rate in time at a fixed state, shape (batch, D)."""
    t, h = where.t, where.h
    eps = torch.finfo(t.dtype).eps
    reach = torch.maximum(eps**0.5 * torch.maximum(t.abs(), (t + h).abs()), eps**0.5 * h.abs())
    reach = torch.where(reach > 0, reach, torch.full_like(reach, eps**0.5))
    reach = (t + reach) - t
    return (rate(t + reach, where.y) - where.k1) / reach.to(where.y.dtype).unsqueeze(-1)


def exact_rows(rate: Rate, where: TimeAndState, cotangents: Tensor, *, time: bool) -> tuple[Tensor, Tensor | None]:
    """Products of ``cotangents`` (count, D) with the Jacobian, shape (batch, count, D), by reverse mode.

    With ``time`` the slope in time is returned too. The graph is kept where gradients are being recorded.
    """
    keep = torch.is_grad_enabled()
    with torch.enable_grad():
        y = where.y.view_as(where.y) if keep and where.y.requires_grad else where.y.detach().requires_grad_()
        t = where.t
        if time:
            t = t.view_as(t) if keep and t.requires_grad else t.detach().requires_grad_()
        out = rate(t, y)
        if not out.requires_grad:
            zero = torch.zeros_like(where.y)
            return zero.unsqueeze(1).expand(-1, len(cotangents), -1), zero if time else None
        rows = _pull_back(out, y, cotangents, keep)
        slope = _time_slope(out, t, keep) if time else None
    return (rows, slope) if keep else (rows.detach(), None if slope is None else slope.detach())


def _pull_back(out: Tensor, y: Tensor, cotangents: Tensor, keep: bool) -> Tensor:
    """Rows ``v^T J`` for each cotangent."""
    options = {"create_graph": keep, "allow_unused": True, "materialize_grads": True}
    if len(cotangents) <= LOOP_LIMIT:
        rows = [torch.autograd.grad(out, y, v.expand_as(out), retain_graph=True, **options)[0] for v in cotangents]
        return torch.stack(rows, dim=1)
    many = cotangents.unsqueeze(1).expand(-1, *out.shape)
    (stacked,) = torch.autograd.grad(out, y, many, retain_graph=True, is_grads_batched=True, **options)
    return stacked.movedim(0, 1)


def _time_slope(out: Tensor, t: Tensor, keep: bool) -> Tensor:
    """Slope of ``out`` in time by the transpose of a transposed product: two sweeps for any D."""
    dummy = torch.zeros_like(out, requires_grad=True)
    (product,) = torch.autograd.grad(
        out, t, dummy, create_graph=True, retain_graph=True, allow_unused=True, materialize_grads=True
    )
    if not product.requires_grad:
        return torch.zeros_like(out)
    (slope,) = torch.autograd.grad(
        product.sum(), dummy, create_graph=keep, retain_graph=True, allow_unused=True, materialize_grads=True
    )
    return slope
