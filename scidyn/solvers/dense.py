"""The solution between steps: locate a time in the accepted steps, evaluate its polynomial."""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor

__all__ = ["Records", "evaluate", "locate"]


class Records(NamedTuple):
    """Consecutive steps of a solve; a sample that did not move in a step has size zero there.

    Attributes
    ----------
    times : Tensor, shape (N + 1, 1 or batch)
        Start of each step, then the end of the last.
    size : Tensor, shape (N, 1 or batch)
        Step sizes.
    y : Tensor, shape (N, batch, D)
        State at the start of each step.
    coef : Tensor, shape (N, P, batch, D)
        Coefficients of the continuous extension.
    choice : Tensor, shape (N, batch), or None
        Formulas used, of a method that has several.
    """

    times: Tensor
    size: Tensor
    y: Tensor
    coef: Tensor
    choice: Tensor | None = None


def locate(times: Tensor, wanted: Tensor) -> tuple[Tensor, Tensor]:
    """Step index and position in it, ``θ`` in [0, 1], of each wanted time.

    ``times`` (N + 1, b) and ``wanted`` (b, T) give two tensors of shape (b, T). Wanted times outside
    the steps are placed in the nearest one; the caller masks them.
    """
    ends = times[1:].T.contiguous()
    index = torch.searchsorted(ends, wanted.contiguous()).clamp_max(ends.shape[1] - 1)
    start = times[:-1].T.gather(1, index)
    width = ends.gather(1, index) - start
    theta = (wanted - start) / torch.where(width > 0, width, torch.ones_like(width))
    return index, torch.where(width > 0, theta, torch.zeros_like(theta))


def evaluate(records: Records, index: Tensor, theta: Tensor) -> Tensor:
    """States at the located times, shape (batch, T, D); differentiable in ``y`` and ``coef``."""
    dtype = records.y.real.dtype
    if index.shape[0] == 1:
        y = records.y[index[0]].transpose(0, 1)
        coef = records.coef[index[0]].permute(1, 2, 0, 3)
    else:
        rows = torch.arange(index.shape[0], device=index.device).unsqueeze(1)
        y = records.y[index, rows]
        coef = records.coef.transpose(1, 2)[index, rows].permute(2, 0, 1, 3)
    size = records.size.T.gather(1, index).to(dtype).unsqueeze(-1)
    x = theta.to(dtype).unsqueeze(-1)
    polynomial = coef[-1]
    for power in range(coef.shape[0] - 2, -1, -1):
        polynomial = polynomial * x + coef[power]
    return y + size * x * polynomial
