"""From a checked problem to a solution with steps known beforehand."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor

from scidyn.solvers.penalties import Regularization
from scidyn.solvers.sde.compiling import fused_steps
from scidyn.solvers.sde.fractional import FractionalSteps
from scidyn.solvers.sde.gradients import run, run_every
from scidyn.solvers.sde.outcome import conclude
from scidyn.solvers.sde.plan import make_plan
from scidyn.solvers.sde.regularisation import local_regulariser, measured
from scidyn.solvers.sde.solution import SDESolution
from scidyn.solvers.sde.source import make_source
from scidyn.solvers.sde.task import Task

__all__ = ["solve_on_grid"]


def solve_on_grid(
    task: Task,
    dt: float | None,
    seed: int | None,
    bm: Any,
    jumps: Sequence[float],
    compile: bool | str,
    penalty: Callable[[Regularization], Tensor] | None,
    tolerance: tuple[float, float],
) -> SDESolution:
    """Draw the noise of the grid, compile if asked for, and take the steps."""
    source = make_source(task, dt, seed, bm, jumps)
    plan = make_plan(task.times.tolist(), source, task.y0)
    if not isinstance(task.method, FractionalSteps):
        y = task.y0.detach()
        steps = fused_steps(task.terms, task.method, plan.starts[0], y, compile)
        plan = plan._replace(compiled=steps)
    hard = None
    if penalty is None:
        y = run(task, plan)
    else:
        with torch.set_grad_enabled(task.adjoint is not None and torch.is_grad_enabled()):
            y, every = run_every(task, plan)
            hard = measured(task, plan, every, penalty, tolerance)
    solution = conclude(task, y, source.grid, None, hard)
    return replace(solution, _local=local_regulariser(task, plan, tolerance))
