"""One step of an explicit Runge–Kutta method, as a pure function."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import NamedTuple

import torch
from torch import Tensor

from scidyn.solvers.tableaus import Tableau

__all__ = ["Step", "advance", "step"]

Rate = Callable[[Tensor, Tensor], Tensor]


class Step(NamedTuple):
    """What a step gives.

    Attributes
    ----------
    y1 : Tensor, shape (batch, D)
        State at the end.
    k_last : Tensor, shape (batch, D)
        Rate at the end, the first rate of the next step.
    err : Tensor, shape (batch, D), or None
        Estimate of the local error.
    coef : tuple of Tensor, each (batch, D)
        ``y(t + θh) = y + h Σ_p θ^(p+1) coef[p]``.
    """

    y1: Tensor
    k_last: Tensor
    err: Tensor | None
    coef: tuple[Tensor, ...]


def step(rate: Rate, tableau: Tableau, t: Tensor, h: Tensor, y: Tensor, k1: Tensor) -> Step:
    """Take one step of size ``h`` from ``(t, y)``, where ``k1 = rate(t, y)``.

    ``t`` and ``h`` have shape (1,) or (batch,). Nothing is read by the host and no input is changed.
    """
    scale = h.to(k1.real.dtype).unsqueeze(-1)
    stages = [k1]
    y1 = y
    for node, row in zip(tableau.c[1:], tableau.a[1:], strict=True):
        y1 = y + scale * _combine(row, stages)
        stages.append(rate(t + node * h, y1))
    err = None if tableau.error is None else scale * _combine(tableau.error, stages)
    coef = tuple(_combine(column, stages) for column in zip(*tableau.dense, strict=True))
    return Step(y1, stages[-1], err, coef)


def advance(rate: Rate, tableau: Tableau, t: Tensor, h: Tensor, y: Tensor) -> Tensor:
    """Give only ``y1``: no reused rate, no error estimate, one evaluation less than :func:`step`."""
    stages = [rate(t, y)]
    scale = h.to(y.real.dtype).unsqueeze(-1)
    for node, row in zip(tableau.c[1:-1], tableau.a[1:-1], strict=True):
        stages.append(rate(t + node * h, y + scale * _combine(row, stages)))
    return y + scale * _combine(tableau.a[-1], stages)


def _combine(weights: Sequence[float], stages: Sequence[Tensor]) -> Tensor:
    """Sum ``weights[i] * stages[i]``, skipping the zeros."""
    total: Tensor | None = None
    for weight, stage in zip(weights, stages, strict=True):
        if weight != 0.0:
            total = stage * weight if total is None else torch.add(total, stage, alpha=weight)
    return torch.zeros_like(stages[0]) if total is None else total
