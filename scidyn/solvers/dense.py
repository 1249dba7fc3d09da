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
    # products of matrices may round a sample differently beside other samples
    if index.shape[0] == 1 and records.y.shape[1] > 1 and records.y.device.type == "cpu":
        return _evaluate_shared(records, index[0], theta[0])
    dtype = records.y.real.dtype
    rows = torch.arange(records.y.shape[1], device=index.device).unsqueeze(1)
    index = index.expand(len(rows), -1)
    y = records.y[index, rows]
    coef = records.coef.transpose(1, 2)[index, rows].permute(2, 0, 1, 3)
    size = records.size.T.expand(len(rows), -1).gather(1, index).to(dtype).unsqueeze(-1)
    x = theta.to(dtype).unsqueeze(-1)
    polynomial = coef[-1]
    for power in range(coef.shape[0] - 2, -1, -1):
        polynomial = polynomial * x + coef[power]
    return y + size * x * polynomial


def _evaluate_shared(records: Records, index: Tensor, theta: Tensor) -> Tensor:
    """States at increasing times located in steps that all samples share: one product of matrices for each step."""
    powers = torch.arange(1, records.coef.shape[1] + 1, device=theta.device)
    weights = (records.size[index] * theta.unsqueeze(1) ** powers).to(records.y.dtype)
    steps, counts = (x.tolist() for x in torch.unique_consecutive(index, return_counts=True))
    parts = [
        torch.addmm(records.y[n].reshape(1, -1), w, records.coef[n].reshape(w.shape[1], -1))
        for n, w in zip(steps, weights.split(counts), strict=True)
    ]
    return torch.cat(parts).reshape(len(index), *records.y.shape[1:]).transpose(0, 1)
