"""From a checked problem to a solution with steps chosen by their errors."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor

from scidyn._check.values import number
from scidyn.errors import OptionError
from scidyn.solvers.brownian import BrownianTree
from scidyn.solvers.penalties import Regularization
from scidyn.solvers.sde.adaptive import TreeOnGrid, solve_adaptive
from scidyn.solvers.sde.gradients import run, run_every
from scidyn.solvers.sde.outcome import conclude
from scidyn.solvers.sde.plan import make_plan
from scidyn.solvers.sde.regularisation import local_regulariser, measured
from scidyn.solvers.sde.row_loop import Control, RowResult, begin, march_rows
from scidyn.solvers.sde.rows import RowSteps, row_plan
from scidyn.solvers.sde.solution import SDESolution
from scidyn.solvers.sde.source import make_tree
from scidyn.solvers.sde.task import Task

__all__ = ["solve_adaptively"]

# where a read by the host costs little: elsewhere steps for all rows are chosen on the device as well
HOST = ("cpu",)


def solve_adaptively(
    task: Task,
    dt: float | None,
    seed: int | None,
    bm: Any,
    tolerance: tuple[float, float],
    dt_min: float | None,
    max_steps: int,
    stepping: str,
    penalty: Callable[[Regularization], Tensor] | None,
) -> SDESolution:
    """Find the steps without a graph, then take them again with one if a gradient is wanted."""
    span = float(task.times[-1] - task.times[0])
    smallest = 1e-4 * span if dt_min is None else number("dt_min", dt_min, above=0.0, at_most=span)
    h = span / 100 if dt is None else number("dt", dt, above=0.0)
    about, terms = task.method.about, task.terms
    if about.strong < 1.0 and terms.noise != "additive" and about.calculus == {"ito"}:
        raise OptionError(
            f"method {about.name!r} may converge to a wrong process when steps depend on the path: "
            "use method='milstein' or 'sriw1' with adaptive=True."
        )
    path = make_tree(task, seed, bm, 0.5 * smallest)
    if stepping == "per_sample" or task.y0.device.type not in HOST:
        return _by_rows(task, path, bm, tolerance, (h, smallest), max_steps, stepping == "shared", penalty)
    times = task.times.tolist()
    terms.estimating = True
    with torch.no_grad():
        found = solve_adaptive(
            terms,
            task.method,
            path,
            task.y0.detach(),
            times,
            task.nodes,
            tolerance,
            (h, smallest),
            max_steps,
            task.tick,
        )
    terms.estimating = False
    y, hard = found.y, None
    if len(found.grid) < 2:
        return conclude(task, y, found.grid, found)
    again = task._replace(tick=None)
    seen = [t for t in times if t <= found.grid[-1]]
    plan = make_plan(seen, TreeOnGrid(path, found.grid), task.y0)
    if task.adjoint is not None or penalty is not None:
        if penalty is None:
            graph = run(again, plan)
        else:
            graph, every = run_every(again, plan)
            hard = measured(again, plan, every, penalty, tolerance)
        rest = graph.new_full((graph.shape[0], len(times) - len(seen), *graph.shape[2:]), torch.nan)
        y = torch.where(torch.isnan(found.y), torch.nan, torch.cat([graph, rest], dim=1))
    solution = conclude(task, y, found.grid, found, hard)
    return replace(solution, _local=local_regulariser(again, plan, tolerance))


def _by_rows(
    task: Task,
    path: Any,
    bm: Any,
    tolerance: tuple[float, float],
    sizes: tuple[float, float],
    max_steps: int,
    together: bool,
    penalty: Callable[[Regularization], Tensor] | None,
) -> SDESolution:
    """Steps that are tensors, one for each row or one for all."""
    stamp = torch.zeros((), dtype=task.y0.real.dtype, device=task.y0.device)
    if task.method.begin(task.terms, stamp, task.y0.detach()):
        raise OptionError(
            f"method {task.method.about.name!r} carries evaluations from step to step, which steps of each row's own "
            "do not allow: use method='heun', 'midpoint' or 'spark'."
        )
    if isinstance(bm, BrownianTree) and bm.antithetic and not together:
        raise OptionError(
            "an antithetic pair must see one path at the same times: use stepping='shared', or a tree without pairs."
        )
    steps, terms = RowSteps(task.method), task.terms
    control = _control(task, tolerance, sizes[1], together)
    first = float(task.times[0])
    terms.estimating = True
    with torch.no_grad():
        start = begin(task.y0.detach(), control, len(task.times), first, sizes[0])
        found = march_rows(terms, steps, path, start, control, max_steps, task.tick)
    terms.estimating = False
    y, hard = found.y, None
    stamps = found.grid.stamps(first, len(y))
    if not len(found.grid.starts):
        return conclude(task, y, stamps, found)
    again = task._replace(tick=None, method=steps)
    plan = row_plan(path, found.grid)
    if task.adjoint is not None or penalty is not None:
        every = run(again, plan)
        hard = None if penalty is None else measured(again, plan, every, penalty, tolerance)
        y = torch.where(torch.isnan(found.y), torch.nan, _reported(every, found, task.times))
    solution = conclude(task, y, stamps, found, hard)
    return replace(solution, _local=local_regulariser(again, plan, tolerance))


def _control(task: Task, tolerance: tuple[float, float], smallest: float, together: bool) -> Control:
    """Bring what steers the steps to the state's device."""
    device = task.y0.device
    wide = torch.float32 if device.type == "mps" else torch.float64
    nodes, times = task.nodes[1:], task.times.tolist()
    known = {t: i for i, t in enumerate(times)}
    place = torch.tensor([known.get(t, len(times)) for t in nodes], dtype=torch.int64, device="cpu").to(device)
    return Control(
        torch.tensor(nodes, dtype=torch.float64, device="cpu").to(wide).to(device),
        place,
        tolerance[0],
        tolerance[1],
        smallest,
        task.method.about.strong + 0.5,
        together,
    )


def _reported(every: Tensor, found: RowResult, times: Tensor) -> Tensor:
    """States at the times to report out of those at the ends of all steps (B, N + 1, *state)."""
    ends, starts = found.grid.ends, found.grid.starts
    stamps = torch.where(ends > starts, ends, torch.inf).T.contiguous()
    wanted = times.to(stamps.dtype).to(stamps.device).expand(len(stamps), -1).contiguous()
    index = torch.searchsorted(stamps, wanted, right=True).clamp_max(every.shape[1] - 1)
    index = index.expand(every.shape[0], -1)
    return every.gather(1, index.view(*index.shape, *([1] * (every.ndim - 2))).expand(-1, -1, *every.shape[2:]))
