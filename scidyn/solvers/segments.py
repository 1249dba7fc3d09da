"""Solve from jump to jump: every jump is the end of a step, and the next one starts afresh."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor

from scidyn.errors import OptionError, ShapeError, TimeGridError
from scidyn.solvers.solution import Solution, Stats

__all__ = ["solve_with_jumps"]


def solve_with_jumps(
    solve: Callable[..., Solution],
    f: Callable[..., Tensor],
    y0: Tensor,
    t: Any,
    jump_times: Sequence[float],
    jump: Callable[[Tensor, Tensor], Tensor] | None,
    options: dict[str, Any],
) -> Solution:
    """Solve between the jumps and join the pieces; a time equal to a jump reports the state after it."""
    if options["on_failure"] != "raise" or options["dense"]:
        raise OptionError("jump_times need on_failure='raise' and dense=False: leave the other options out.")
    device = y0.device
    wide = torch.float32 if device.type == "mps" else torch.float64
    times = (t if isinstance(t, Tensor) else torch.as_tensor(t, dtype=wide)).to(device=device, dtype=wide)
    if times.ndim != 1 or times.numel() == 0:
        raise ShapeError(f"jump_times need t of shape (time,); got {tuple(times.shape)}.")
    known = times.detach()
    first, last = known[0].item(), known[-1].item()
    sign = -1.0 if last < first else 1.0
    jumps = sorted({float(x) for x in jump_times}, key=lambda x: sign * x)
    outside = [x for x in jumps if not sign * first <= sign * x <= sign * last]
    if outside:
        raise TimeGridError(f"jump time {outside[0]:g} is outside the span {first:g} to {last:g}: leave it out.")
    marks = [first, *(x for x in jumps if x not in (first, last)), last]
    y, pieces, parts = y0, [], []
    for begin, end in itertools.pairwise(marks):
        y = _jumped(y, begin, jumps, jump, known)
        final = end == last
        chosen = (sign * known >= sign * begin) & (sign * known < sign * end)
        inside = times[chosen]
        own = known[chosen]
        ahead = inside if own.numel() and own[0] == begin else torch.cat([known.new_tensor([begin]), inside])
        stop = known.new_tensor([end])
        # an f that switches at the jump is not to see its new value in the step that ends there
        stop = stop if final and end not in jumps else torch.nextafter(stop, known.new_tensor([begin]))
        piece = solve(f, y, torch.cat([ahead, times[-1:] if final and end not in jumps else stop]), **options)
        rows = piece.y
        parts.append(rows[:, len(ahead) - len(inside) : len(ahead)])
        pieces.append(piece)
        y = rows[:, -1].reshape(y0.shape)
    y = _jumped(y, last, jumps, jump, known) if last != first else y
    tail = int((known == last).sum())
    parts.append(y.reshape(rows[:, :1].shape))
    joined = torch.cat([*parts, *[parts[-1]] * (tail - 1)], dim=1)
    return Solution(times, joined, pieces[-1].status, _total([p.stats for p in pieces]))


def _jumped(
    y: Tensor, time: float, jumps: Sequence[float], jump: Callable[[Tensor, Tensor], Tensor] | None, like: Tensor
) -> Tensor:
    """State after the jump at ``time``, if there is one."""
    if jump is None or time not in jumps:
        return y
    after = jump(like.new_tensor(time).to(y.real.dtype), y)
    if after.shape != y.shape:
        raise ShapeError(f"jump returned shape {tuple(after.shape)}, the state has {tuple(y.shape)}.")
    return after


def _total(stats: Sequence[Stats]) -> Stats:
    """Work of all pieces."""
    return Stats(
        n_accepted=torch.stack([s.n_accepted for s in stats]).sum(dim=0),
        n_rejected=torch.stack([s.n_rejected for s in stats]).sum(dim=0),
        nfe=sum(s.nfe for s in stats),
        host_reads=sum(s.host_reads for s in stats),
        reached=stats[-1].reached,
        n_jac=_sum([s.n_jac for s in stats]),
        n_lu=_sum([s.n_lu for s in stats]),
    )


def _sum(counts: Sequence[Tensor | None]) -> Tensor | None:
    """Total of counts that an explicit method does not have."""
    known = [count for count in counts if count is not None]
    return torch.stack(known).sum(dim=0) if known else None
