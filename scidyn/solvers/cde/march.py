"""Take steps that are known in advance, with or without keeping what they computed."""

from __future__ import annotations

import math
from collections.abc import Callable

import torch
from torch import Tensor
from torch.utils.checkpoint import checkpoint

from scidyn.solvers.failure import report
from scidyn.solvers.solution import Solution, Stats
from scidyn.solvers.status import Status

__all__ = ["make_solution", "march"]


def march(step: Callable[[int, Tensor], Tensor], z0: Tensor, count: int, adjoint: str | None) -> list[Tensor]:
    """States after 0, 1, … steps; "discrete" keeps those alone and reruns √N steps at a time for the gradient."""

    def segment(z: Tensor, a: int, b: int) -> tuple[Tensor, ...]:
        states = []
        for k in range(a, b):
            z = step(k, z)
            states.append(z)
        return tuple(states)

    if adjoint is None:
        with torch.no_grad():
            return [z0, *segment(z0, 0, count)]
    if adjoint == "direct" or not torch.is_grad_enabled():
        return [z0, *segment(z0, 0, count)]
    length = max(1, math.isqrt(count))
    states = [z0]
    for a in range(0, count, length):
        states.extend(checkpoint(segment, states[-1], a, min(count, a + length), use_reentrant=False))
    return states


def make_solution(times: Tensor, y: Tensor, steps: int, on_failure: str) -> Solution:
    """Look once at the states and report rows that became infinite."""
    batch = y.shape[0]
    good = torch.isfinite(y.detach()).all(-1)
    alive = good.to(torch.int64).cumprod(1)
    host = alive.cpu()
    codes = tuple(Status.SUCCESS if ok else Status.NON_FINITE_STATE for ok in host.amin(1).tolist())
    stamps = times.detach().to("cpu", torch.float64).expand(batch, -1)
    reached = stamps.gather(1, (host.sum(1, keepdim=True) - 1).clamp_min(0)).squeeze(1)
    if not all(c.success for c in codes):
        y = torch.where(alive.to(torch.bool).unsqueeze(-1), y, torch.nan)
    count = torch.full((batch,), steps, dtype=torch.int32, device="cpu")
    stats = Stats(count, torch.zeros_like(count), steps, 1, reached)
    solution = Solution(times, y, codes, stats)
    return report(solution, torch.zeros(1, dtype=torch.float64, device="cpu"), on_failure)
