"""Step on a grid that is known beforehand."""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable

import torch
from torch import Tensor

from scidyn.solvers.arguments import Problem
from scidyn.solvers.attempt import LoopState
from scidyn.solvers.diagnosis import diagnose
from scidyn.solvers.loop import Trace, write_start
from scidyn.solvers.status import Status

__all__ = ["fixed_grid", "integrate_fixed"]

REPORT = 32


def fixed_grid(times: Tensor, dt0: float | None) -> Tensor:
    """Node times of a fixed-step solve, shape (N + 1,): every wanted time is a node.

    An interval between wanted times is cut into the fewest equal steps not longer than ``dt0``,
    or taken in one step if ``dt0`` is None.
    """
    values = times.tolist()
    nodes = [values[0]]
    for start, stop in itertools.pairwise(values):
        if stop > start:
            count = 1 if dt0 is None else max(1, math.ceil((stop - start) / dt0 * (1 - 1e-12)))
            nodes += [start + (stop - start) * (i / count) for i in range(1, count)] + [stop]
    return torch.tensor(nodes, dtype=times.dtype, device=times.device)


def _landing(problem: Problem, wanted: Tensor) -> Tensor:
    """Times at which a step must end, in increasing order."""
    if problem.targets is None:
        return wanted
    targets = problem.targets[0]
    return torch.cat([wanted, targets[(targets > wanted[0]) & (targets < wanted[-1])]]).sort().values


@torch.no_grad()
def integrate_fixed(
    problem: Problem,
    k1: Tensor,
    *,
    keep_states: bool,
    keep_coef: bool,
    progress: Callable[[float], None] | None = None,
    observe: Callable[[int, Tensor, tuple[Tensor, ...]], None] | None = None,
) -> Trace:
    """Solve with fixed steps; a sample whose state stops being finite is frozen there."""
    wanted = problem.times[0].detach()
    nodes = fixed_grid(_landing(problem, wanted), problem.dt0)
    count, batch = len(nodes) - 1, problem.y0.shape[0]
    y, t = problem.y0.detach(), nodes[:1]
    output = torch.full((batch, problem.times.shape[1], y.shape[1]), torch.nan, dtype=y.dtype, device=y.device)
    write_start(output, problem)
    alive = torch.isfinite(k1).all(dim=-1)
    code = torch.where(alive, Status.SUCCESS.value, Status.NON_FINITE_STATE.value)
    before = problem.field.calls
    work: tuple[Tensor, Tensor] | None = None
    reached, columns = nodes[0].expand(batch).clone(), torch.searchsorted(wanted, nodes, right=True)
    first = torch.searchsorted(wanted, nodes)
    bounds = torch.stack([first, columns]).T.tolist()
    carry = problem.method.begin(problem.field, t, y, k1)
    steps, sizes, states, coefs = torch.zeros_like(alive, dtype=torch.int32), [], [], []
    choices: list[Tensor] = []
    for n in range(count):
        t, h = nodes[n : n + 1], nodes[n + 1] - nodes[n]
        size = torch.where(alive, h, torch.zeros_like(h))
        taken = problem.method.step(problem.field, t, size, y, carry, problem.tolerance)
        y1, carry = taken.y1, taken.carry
        if keep_coef:
            coefs.append(torch.stack(taken.coef))
        if taken.choice is not None:
            choices.append(taken.choice)
        was, alive = alive, alive & torch.isfinite(y1).all(dim=-1)
        cause = torch.full_like(code, Status.NON_FINITE_STATE.value)
        if taken.failed is not None:
            alive = alive & ~taken.failed
            cause = torch.where(taken.failed, Status.NEWTON_FAILED.value, cause)
        if taken.singular is not None:
            cause = torch.where(taken.singular, Status.LINEAR_SOLVE_FAILED.value, cause)
        code = torch.where(was & ~alive, cause, code)
        if taken.work is not None:
            work = (
                (taken.work[0], taken.work[1]) if work is None else (work[0] + taken.work[0], work[1] + taken.work[1])
            )
        if keep_states or keep_coef:
            states.append(y)
        sizes.append(torch.where(alive, h, torch.zeros_like(h)))
        y = torch.where(alive.unsqueeze(-1), y1, y)
        reached, steps = torch.where(alive, nodes[n + 1], reached), steps + alive
        low, high = bounds[n + 1]
        if high > low:
            output[:, low:high] = torch.where(alive.unsqueeze(-1), y, torch.nan).unsqueeze(1)
        if observe is not None:
            observe(n + 1, y, carry)
        if progress is not None and (n + 1) % REPORT == 0:
            progress((n + 1) / count)
    status = code.to(torch.int8)
    size = torch.stack(sizes) if sizes else nodes.new_zeros((0, batch))
    one = y.real.new_ones(batch)
    final = LoopState(reached, nodes.new_zeros(batch), y, carry, (one, one), status, steps, 0 * steps, work)
    return Trace(
        output,
        nodes.unsqueeze(1).expand(-1, batch),
        size,
        torch.stack(states) if states else y.new_zeros((0, *y.shape)),
        torch.stack(coefs) if coefs else None,
        final._replace(status=diagnose(problem, final, size[-1] if count else nodes.new_zeros(batch))),
        size[-1] if count else nodes.new_zeros(batch),
        1 + problem.field.calls - before,
        1,
        torch.stack(choices) if choices else None,
    )
