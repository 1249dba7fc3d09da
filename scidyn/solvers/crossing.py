"""Where an event function first changes sign: bracketed by steps, located on the step's polynomial."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

from scidyn.solvers.dense import Records, evaluate
from scidyn.solvers.methods.stepper import Rate

__all__ = ["first_crossing", "newton_time"]

BISECTIONS = 54

Value = Callable[[Tensor, Tensor], Tensor]


@torch.no_grad()
def first_crossing(value: Value, records: Records, last: Tensor, direction: int = 0) -> tuple[Tensor, Tensor]:
    """First sign change of ``value(t, y)`` in each row; the number of bisections is fixed.

    Parameters
    ----------
    value : callable
        ``t`` (batch,) and ``y`` (batch, D) to (batch,).
    records : Records
        Accepted steps, with times of their own for every row.
    last : Tensor, shape (batch, D)
        State at the end of the last step.
    direction : int
        +1 for rising crossings only, −1 for falling ones, 0 for both.

    Returns
    -------
    tuple of two Tensors, shape (batch,)
        The time, NaN if there is none, and whether there is one.
    """
    times, count = records.times, len(records.size)
    if count == 0:
        return torch.full_like(times[0], torch.nan), torch.zeros_like(times[0], dtype=torch.bool)
    states = torch.cat([records.y, last.unsqueeze(0)])
    sign = torch.stack([torch.sign(value(t, y)) for t, y in zip(times, states, strict=True)])
    before, after = sign[:-1], sign[1:]
    rising, falling = (before < 0) & (after >= 0), (before > 0) & (after <= 0)
    crossed = {1: rising, -1: falling, 0: rising | falling}[direction]
    found, index = crossed.any(dim=0), crossed.to(torch.int8).argmax(dim=0)
    start, size = times.gather(0, index.unsqueeze(0))[0], records.size.gather(0, index.unsqueeze(0))[0]
    side = before.gather(0, index.unsqueeze(0))[0]
    low, high = torch.zeros_like(start), torch.ones_like(start)
    for _ in range(BISECTIONS):
        middle = 0.5 * (low + high)
        y = evaluate(records, index.unsqueeze(1), middle.unsqueeze(1))[:, 0]
        same = torch.sign(value(start + middle * size, y)) == side
        low, high = torch.where(same, middle, low), torch.where(same, high, middle)
    return torch.where(found, start + high * size, torch.nan), found


def newton_time(value: Value, rate: Rate, t: Tensor, y: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    r"""Make a located time and its state differentiable by one Newton step.

    .. math:: \tau = t - g(t, y) / \dot g, \qquad y(\tau) = y + (\tau - t) f(t, y), \qquad
        \dot g = g_t + g_y f,

    with the slope :math:`\dot g` held constant. Where the solution runs along the event's surface there is no
    slope to divide by; the third result marks these rows, whose time and state stay without a gradient.
    """
    with torch.enable_grad():
        time, state = t.detach().requires_grad_(), y.detach().requires_grad_()
        slopes = torch.autograd.grad(value(time, state).sum(), (time, state), allow_unused=True)
    with torch.no_grad():
        along, normal = rate(t, y), torch.zeros_like(y) if slopes[1] is None else slopes[1]
        drift = torch.zeros_like(y[:, 0]) if slopes[0] is None else slopes[0].to(y.dtype)
        slope = (normal * along).sum(dim=-1) + drift
        scale = normal.norm(dim=-1) * along.norm(dim=-1) + drift.abs()
        grazing = slope.abs() <= torch.finfo(y.dtype).eps ** 0.5 * scale
    correction = -value(t, y) / torch.where(grazing, 1.0, slope)
    correction = torch.where(grazing, 0.0, correction)
    return t + correction.to(t.dtype), y + correction.unsqueeze(-1) * rate(t, y), grazing
