"""Many steps of a solve evaluated again as one batch, with the graph that leads from their starts to their ends."""

from __future__ import annotations

import torch
from torch import Tensor

from scidyn.solvers.adjoint.records import Steps
from scidyn.solvers.arguments import Problem
from scidyn.solvers.field import Field
from scidyn.solvers.folded import folded
from scidyn.solvers.methods.stepper import pinned

__all__ = ["Coupled", "replay_steps"]


class Coupled(Exception):
    """The rate of one sample depends on another, or f cannot be evaluated for all steps at once."""


def replay_steps(problem: Problem, steps: Steps, chosen: slice | Tensor, dense: bool) -> tuple[Tensor, Tensor, Tensor]:
    """Repeat steps under autograd; gives the states they start from, their ends and their polynomials."""
    if problem.method.implicit or steps.choice is not None:
        return _replay_folded(problem, steps, chosen, dense)

    def take(t: Tensor, h: Tensor, y: Tensor) -> tuple[Tensor, Tensor]:
        taken = problem.method.replay(problem.field, t, h, y, dense=dense)
        return taken.y1, torch.stack(taken.coef) if dense else taken.y1

    with torch.enable_grad():
        y = steps.states[chosen].detach().requires_grad_()
        try:
            y1, coef = torch.func.vmap(take)(steps.times[:-1][chosen], steps.size[chosen], y)
        except (RuntimeError, ValueError, NotImplementedError) as reason:
            raise Coupled from reason
    return y, y1, coef


def _replay_folded(
    problem: Problem, steps: Steps, chosen: slice | Tensor, dense: bool
) -> tuple[Tensor, Tensor, Tensor]:
    """Do the same with the rows of all steps as one batch, for methods that look at the values of a batch."""
    inner, states = problem.field, steps.states[chosen]
    count, batch, width = states.shape
    own_times = inner.per_sample and len(inner.shape) > 1
    f = folded(lambda own: inner.f, inner.f, count, inner.shape, own_times=own_times)
    rows = torch.Size((count * batch, *problem.state))
    field = Field(f, inner.args, rows, inner.sign, per_sample=True)
    t, h = (x[chosen].expand(count, batch).reshape(-1) for x in (steps.times[:-1], steps.size))
    method = problem.method if steps.choice is None else pinned(problem.method, steps.choice[chosen].reshape(-1))
    with torch.enable_grad():
        y = states.detach().requires_grad_()
        try:
            taken = method.replay(field, t, h, y.reshape(-1, width), dense=dense)
        except (RuntimeError, ValueError, NotImplementedError) as reason:
            raise Coupled from reason
        y1 = taken.y1.reshape(y.shape)
        coef = torch.stack(taken.coef).reshape(-1, *y.shape).transpose(0, 1) if dense else y1
    return y, y1, coef
