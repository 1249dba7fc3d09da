"""The difficulty of one random step, whose gradient needs no adjoint of the solve (LRNODE)."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, NamedTuple

import torch
from torch import Tensor
from torch.nn.modules.batchnorm import _BatchNorm
from torch.nn.modules.module import register_module_forward_pre_hook

from scidyn._check.values import choice
from scidyn.errors import OptionError
from scidyn.solvers.adjoint.regularisation import check_estimates, difficulty
from scidyn.solvers.arguments import Problem
from scidyn.solvers.controller import first_step

__all__ = ["Grid", "local_regulariser"]


class Grid(NamedTuple):
    """The accepted steps of a solve.

    Attributes
    ----------
    times, size : Tensor, shapes (N + 1, b) and (N, b)
        Starts and sizes; a size of zero marks a sample that did not move.
    states : Tensor, shape (N, batch, D) or (0, batch, D)
        State at the start of each step, if they were kept.
    """

    times: Tensor
    size: Tensor
    states: Tensor


def local_regulariser(
    problem: Problem, grid: Grid, kind: str, when: str, step: str, generator: torch.Generator
) -> Tensor:
    """Take one random step of each sample (one in all if steps are shared) from a state without gradient."""
    choice("kind", kind, ("error", "stiffness"))
    choice("when", when, ("accepted", "uniform"))
    choice("step", step, ("accepted", "initial"))
    if not isinstance(generator, torch.Generator):
        raise OptionError(f"generator must be a torch.Generator; got {type(generator).__name__}.")
    check_estimates(problem.method, stiffness=kind == "stiffness")
    batch = problem.y0.shape[0]
    if not bool((grid.size > 0).any()):
        return torch.zeros((), dtype=problem.y0.real.dtype, device=problem.y0.device)
    with torch.no_grad(), frozen_statistics():
        index, t = _draw(grid, when, generator)
        h = grid.size.gather(0, index.unsqueeze(0))[0]
        y = _state_at(problem, grid, index, t)
        if step == "initial":
            k1 = problem.field(t, y)
            h = first_step(problem.field, problem.tolerance, problem.method.error_order, t, y, k1, problem.end - t)
    with frozen_statistics():
        error, _, stiffness = difficulty(problem, t, h.to(t.dtype), y)
    measure = error * h.to(error.dtype) if kind == "error" or stiffness is None else stiffness
    moved = (grid.size > 0).any(dim=0).expand(batch)
    return torch.where(moved, measure, 0.0).sum() / moved.sum()


def _draw(grid: Grid, when: str, generator: torch.Generator) -> tuple[Tensor, Tensor]:
    """Index and start of a step for each column of the grid."""
    device, columns = grid.size.device, grid.size.shape[1]
    start = grid.times[:-1]
    if when == "accepted":
        weights = (grid.size > 0).T.to("cpu", torch.float64)
        weights = torch.where(weights.sum(dim=1, keepdim=True) > 0, weights, 1.0)
        index = torch.multinomial(weights, 1, generator=generator).squeeze(1).to(device)
        return index, start.gather(0, index.unsqueeze(0))[0]
    share = torch.rand(columns, generator=generator, dtype=torch.float64).to(device, start.dtype)
    first, last = grid.times[0], grid.times[-1]
    t = first + share * (last - first)
    index = torch.searchsorted(grid.times[1:].T.contiguous(), t.unsqueeze(1)).squeeze(1).clamp_max(len(grid.size) - 1)
    # the step may not leave the span, where f need not be defined
    return index, torch.minimum(t, last - grid.size.gather(0, index.unsqueeze(0))[0])


def _state_at(problem: Problem, grid: Grid, index: Tensor, t: Tensor) -> Tensor:
    """State at ``t``, which lies in or before step ``index``, from the kept states or by taking the steps again."""
    batch, width = problem.y0.shape[0], grid.size.shape[1]
    rows = torch.arange(batch, device=index.device)
    index, t = index.expand(batch), t.expand(batch)
    # a step that was moved back to stay in the span may start in an earlier one
    inside = torch.searchsorted(grid.times[1:].T.contiguous(), t[:width].unsqueeze(1), right=True).squeeze(1)
    index = torch.minimum(index, inside.clamp_max(len(grid.size) - 1).expand(batch))
    if len(grid.states):
        y = grid.states[index, rows]
    else:
        now = y = problem.y0.detach()
        for n in range(int(index.max())):
            now = problem.method.replay(problem.field, grid.times[n], grid.size[n], now, dense=False).y1
            y = torch.where((index == n + 1).unsqueeze(-1), now, y)
    columns = rows[:width]
    start, h = grid.times[index[:width], columns], grid.size[index[:width], columns]
    taken = problem.method.replay(problem.field, start, h, y)
    theta = ((t[:width] - start) / torch.where(h > 0, h, torch.ones_like(h))).to(y.real.dtype).unsqueeze(-1)
    polynomial = torch.zeros_like(y)
    for coef in reversed(taken.coef):
        polynomial = (polynomial + coef) * theta
    return y + h.to(y.real.dtype).unsqueeze(-1) * polynomial


@contextmanager
def frozen_statistics() -> Iterator[None]:
    """Let a batch normalisation that is called here leave its running statistics as they are."""
    met: dict[_BatchNorm, tuple[float | None, Any]] = {}

    def note(module: torch.nn.Module, inputs: Any) -> None:
        if isinstance(module, _BatchNorm) and module not in met:
            count = module.num_batches_tracked
            met[module] = (module.momentum, None if count is None else count.clone())
            module.momentum = 0.0

    handle = register_module_forward_pre_hook(note)
    try:
        yield
    finally:
        handle.remove()
        for module, (momentum, count) in met.items():
            module.momentum = momentum
            if count is not None:
                module.num_batches_tracked = count
