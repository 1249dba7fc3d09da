"""What came out of a stochastic solve: which rows stayed finite, and for how long."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import torch
from torch import Tensor

from scidyn.solvers.sde.adaptive import AdaptiveResult
from scidyn.solvers.sde.row_loop import RowResult
from scidyn.solvers.sde.solution import SDESolution
from scidyn.solvers.sde.task import Task
from scidyn.solvers.solution import Stats
from scidyn.solvers.status import Status

__all__ = ["conclude", "last_size", "split_divergence"]


def conclude(
    task: Task, y: Tensor, grid: Any, found: AdaptiveResult | RowResult | None, hard: Any = None
) -> SDESolution:
    """Look once at the result of steps known beforehand; adaptive steps know it already."""
    batch = y.shape[0]
    stamps = grid if isinstance(grid, Tensor) else torch.tensor(grid, dtype=torch.float64, device="cpu")
    taken = torch.full((batch,), stamps.shape[-1] - 1, dtype=torch.int32, device="cpu")
    rejected: Tensor | int = 0
    if found is None:
        y, codes, reached = _look(task, y)
    else:
        codes, reached, rejected = [Status(c) for c in found.code.tolist()], found.reached.cpu(), found.rejected
        if stamps.ndim == 2:
            taken = (torch.isfinite(stamps).sum(1) - 1).to(torch.int32)
    stats = Stats(
        n_accepted=taken,
        n_rejected=torch.zeros_like(taken) + torch.as_tensor(rejected, dtype=torch.int32, device="cpu"),
        nfe=0,
        host_reads=1 if found is None else found.reads,
        reached=reached,
    )
    times = task.times.to(task.y0.real.dtype).to(task.y0.device)
    return SDESolution(times, y, tuple(codes), stats, reg=hard, grid=stamps)


def _look(task: Task, y: Tensor) -> tuple[Tensor, list[Status], Tensor]:
    """States with NaN behind the first value that is not finite, status of each row, and the time it reached."""
    batch = y.shape[0]
    if bool(torch.isfinite(y.detach().sum())):  # one number tells of all
        return y, [Status.SUCCESS] * batch, task.times[-1:].expand(batch)
    good = torch.isfinite(y.detach()).flatten(2).all(-1).cpu()
    alive = good.to(torch.int64).cumprod(1)
    reached = task.times[(alive.sum(1) - 1).clamp_min(0)]
    codes = [Status.SUCCESS if ok else Status.NON_FINITE_STATE for ok in good.all(1).tolist()]
    mask = alive.to(torch.bool).to(y.device)
    return torch.where(mask.view(*mask.shape, *([1] * (y.ndim - 2))), y, torch.nan), codes, reached


def split_divergence(solution: SDESolution) -> SDESolution:
    """Take the divergence off the state."""
    y = solution.y
    return replace(solution, y=y[..., :-1], logqp=y[..., -1].diff(dim=1))


def last_size(solution: SDESolution) -> float:
    """Length of the last step; the smallest of the rows' if each has its own."""
    grid = solution.grid
    if grid is None or grid.shape[-1] < 2:
        return 0.0
    if grid.ndim == 1:
        return float(grid[-1] - grid[-2])
    count = torch.isfinite(grid).sum(1)
    sizes = [float(row[n - 1] - row[n - 2]) for row, n in zip(grid, count.tolist(), strict=True) if n > 1]
    return min(sizes, default=0.0)
