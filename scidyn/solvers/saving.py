"""What of a solve is kept: the states at the steps themselves, functions of the states, time as first axis."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor
from torch.utils import _pytree as pytree

from scidyn.errors import ShapeError
from scidyn.solvers.arguments import Problem
from scidyn.solvers.loop import Trace
from scidyn.solvers.solution import Solution

__all__ = ["at_steps", "present"]


def at_steps(problem: Problem, trace: Trace) -> tuple[Problem, Trace]:
    """Report the ends of the accepted steps in place of the wanted times; shorter rows are padded with NaN."""
    columns = problem.times.shape[0]
    moved, times = trace.size[:, :columns] > 0, trace.times[:, :columns]
    states = torch.cat([trace.states, trace.final.y.unsqueeze(0)])
    first = torch.ones_like(moved[:1])
    kept = torch.cat([first, moved])
    # step n leads to node n + 1; where a sample did not move its node is dropped
    order = torch.argsort((~kept).to(torch.int8), dim=0, stable=True)
    longest = int(kept.sum(dim=0).max())
    order, kept = order[:longest], kept.gather(0, order)[:longest]
    grid = torch.where(kept, times.gather(0, order), torch.nan).T
    batch = states.shape[1]
    rows = torch.arange(batch, device=order.device)
    y = torch.where(kept.expand(-1, batch).unsqueeze(-1), states[order.expand(-1, batch), rows], torch.nan)
    shown = grid * problem.field.sign
    user_times = shown if problem.user_times.ndim == 2 or problem.stepping == "per_sample" else shown[0]
    return problem._replace(times=grid, user_times=user_times), trace._replace(y=y.transpose(0, 1))


def present(solution: Solution, save_fn: Callable[[Tensor, Any], Tensor] | None, time_first: bool) -> Solution:
    """Apply ``save_fn`` at every time, and put time first if wanted."""
    if save_fn is not None:
        solution = dataclasses.replace(solution, y=_mapped(solution, save_fn), valid=solution.mask)
    if time_first:
        solution = dataclasses.replace(solution, y=_swapped(solution.y), valid=_swapped(solution.mask), time_first=True)
    return solution


def _mapped(solution: Solution, save_fn: Callable[[Tensor, Any], Tensor]) -> Tensor:
    """Give ``save_fn(t, y)`` at every time, shape (batch, time, …); NaN where there is no state."""
    mask, parts = solution.mask, []
    start = pytree.tree_map(lambda x: x[:, 0], solution.y)
    dtype = pytree.tree_leaves(solution.y)[0].real.dtype
    for j in range(mask.shape[1]):
        known = mask[:, j]

        def usable(x: Tensor, first: Tensor, j: int = j, known: Tensor = known) -> Tensor:
            # zero times the slope of save_fn at NaN would be NaN
            return torch.where(known.reshape(-1, *[1] * (first.ndim - 1)), x[:, j], first.detach())

        value = save_fn(solution.t[..., j].to(dtype), pytree.tree_map(usable, solution.y, start))
        if not isinstance(value, Tensor) or value.shape[:1] != known.shape:
            found = tuple(value.shape) if isinstance(value, Tensor) else type(value).__name__
            raise ShapeError(f"save_fn returned {found}; a tensor with first axis {len(known)}, the batch, is needed.")
        if value.is_floating_point() or value.is_complex():
            value = value.masked_fill(~known.reshape(-1, *[1] * (value.ndim - 1)), torch.nan)
        parts.append(value)
    return torch.stack(parts, dim=1)


def _swapped(tree: Any) -> Any:
    """Exchange the first two axes of every tensor."""
    return pytree.tree_map(lambda x: x.transpose(0, 1), tree)
