"""Take the steps of a plan with the gradient that was asked for."""

from __future__ import annotations

import torch
from torch import Tensor

from scidyn.solvers.sde.engine import solve_direct, solve_discrete
from scidyn.solvers.sde.methods.reversible_heun import ReversibleHeun
from scidyn.solvers.sde.plan import Plan
from scidyn.solvers.sde.reversible import solve_reversible
from scidyn.solvers.sde.task import Task

__all__ = ["run", "run_every"]


def run(task: Task, plan: Plan) -> Tensor:
    """States to report, (B, T, *state)."""
    terms, method, y0 = task.terms, task.method, task.y0
    if task.adjoint is None:
        with torch.no_grad():
            return solve_direct(terms, method, plan, y0, task.tick)
    if task.adjoint == "direct":
        return solve_direct(terms, method, plan, y0, task.tick)
    if task.adjoint == "reversible" and isinstance(method, ReversibleHeun):
        return solve_reversible(terms, method, plan, y0, task.params, task.tick)
    return solve_discrete(terms, method, plan, y0, task.params, task.tick)


def run_every(task: Task, plan: Plan) -> tuple[Tensor, Tensor]:
    """States to report, and those at the ends of all steps, (B, N + 1, *state), all with gradients."""
    every = run(task, plan._replace(report={n: n for n in range(len(plan.sizes) + 1)}))
    place = sorted(plan.report, key=plan.report.__getitem__)
    return every[:, place], every
