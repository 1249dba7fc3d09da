r"""The discrete adjoint: the exact gradient of the computed solution from (t, h, y) per accepted step.

With the step :math:`y_{n+1} = \Psi(t_n, h_n, y_n, p)` and the gradient :math:`\lambda` with respect to the
states, the sweep backwards is

.. math:: \lambda_n = \Psi_y^\top \lambda_{n+1} + q_n, \qquad g_p = \sum_n \Psi_p^\top \lambda_{n+1} + r_n,

where :math:`q_n` and :math:`r_n` come from reported times inside step n. Every step is evaluated again
from its record, so no graph of the solve is kept.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor

from scidyn.solvers.adjoint.at_once import Coupled
from scidyn.solvers.adjoint.capture import Gate, Swapped, tangled
from scidyn.solvers.adjoint.checkpoints import Checkpoints, Kept, by_segments
from scidyn.solvers.adjoint.direct import replay
from scidyn.solvers.adjoint.mapped import mapped
from scidyn.solvers.adjoint.pull import pull
from scidyn.solvers.adjoint.records import Cotangents, Outer, Steps, add, distribute
from scidyn.solvers.adjoint.together import sweep_together, worthwhile
from scidyn.solvers.arguments import Problem
from scidyn.solvers.dense import locate
from scidyn.solvers.loop import Trace

__all__ = ["attach", "repeat"]

Sweep = Callable[[Problem, Steps, Outer, Sequence[Tensor]], list[Tensor | None]]


def attach(
    problem: Problem,
    trace: Trace,
    y0: Tensor,
    params: Sequence[Tensor],
    checkpoints: Checkpoints | None = None,
    sweep: Sweep | None = None,
) -> Tensor:
    """Give ``trace.y`` a gradient with respect to ``y0`` and ``params``; failed rows get none.

    Without a ``sweep`` the way to go over the steps is chosen by their number and size.
    """
    bare = problem._replace(y0=problem.y0.detach(), times=problem.times.detach())
    states, kept = trace.states, None
    if checkpoints is not None:
        kept = Kept(tuple(checkpoints.states), checkpoints.limit)
        states = torch.stack(list(checkpoints.states.values()))
    path = (trace.times, trace.size, states, trace.choice)
    return _DiscreteAdjoint.apply(bare, sweep or repeat, kept, trace.y, *path, y0, *params)


class _DiscreteAdjoint(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any,
        problem: Problem,
        sweep: Sweep,
        kept: Kept | None,
        y: Tensor,
        times: Tensor,
        size: Tensor,
        states: Tensor,
        choice: Tensor | None,
        y0: Tensor,
        *params: Tensor,
    ) -> Tensor:
        ctx.problem, ctx.sweep, ctx.kept = problem, sweep, kept
        ctx.whole = bool(torch.isfinite(y.detach().sum()))
        ctx.save_for_backward(y, times, size, states, choice, y0, *params)
        return y.clone()

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
        y, times, size, states, choice, y0, *params = ctx.saved_tensors
        steps, needed = Steps(times, size, states, choice), ctx.needs_input_grad[8:]
        if not ctx.whole:
            grad = grad.masked_fill(torch.isnan(y).all(dim=-1, keepdim=True), 0.0)
        if torch.is_grad_enabled():
            found = _twice(ctx.problem, steps, y0, params, needed, grad)
        elif tangled(params):
            # of tensors computed from each other each gets its own share only
            bare = [p.detach().requires_grad_() for p in params]
            with Swapped(params, bare):
                found = _once(ctx.problem, steps, bare, grad, ctx.kept, ctx.sweep)
        else:
            found = _once(ctx.problem, steps, params, grad, ctx.kept, ctx.sweep)
        found_or_none = [g if need else None for g, need in zip(found, needed, strict=True)]
        return *[None] * 8, *found_or_none


def _twice(
    problem: Problem,
    steps: Steps,
    y0: Tensor,
    params: Sequence[Tensor],
    needed: Sequence[bool],
    grad: Tensor,
) -> list[Tensor | None]:
    """Gradient that can be differentiated again: repeat the steps under autograd."""
    gate = Gate()
    inputs = [gate(y0), *map(gate, params)]
    path, fixed = (inputs[0], steps.times, steps.size, problem.times), problem.stepping == "fixed"
    with Swapped(params, inputs[1:]):
        y = replay(problem.field, problem.method, *path, fixed, steps.choice)
    chosen = [x for x, need in zip(inputs, needed, strict=True) if need]
    gate.closed = True
    found = iter(torch.autograd.grad(y, chosen, grad, create_graph=True, allow_unused=True))
    gate.closed = False
    return [next(found) if need else None for need in needed]


def _once(
    problem: Problem, steps: Steps, params: Sequence[Tensor], grad: Tensor, kept: Kept | None, sweep: Sweep
) -> list[Tensor | None]:
    """Sweep over the steps from the last to the first."""
    if len(steps.size) == 0:
        return [grad.sum(dim=1), *[None] * len(params)]
    index, theta = locate(steps.times, problem.times.expand(steps.times.shape[1], -1))
    theta = torch.where(theta > 0.5, 1.0, 0.0) if problem.stepping == "fixed" else theta
    if mapped(grad):
        # the sweep that reads no value serves all gradients at once
        sweep = _one_by_one
    if kept is None:
        found = (
            Cotangents.of(steps, index, theta, grad) if sweep is _one_by_one else distribute(steps, index, theta, grad)
        )
        return sweep(problem, steps, found, params)

    def segment(part: Steps, low: int, last: Tensor) -> list[Tensor | None]:
        local = index - low
        here = ((local >= 0) & (local < len(part.size))).unsqueeze(-1)
        outer = Cotangents.of(part, local.clamp(0, len(part.size) - 1), theta, torch.where(here, grad, 0.0))
        outer.nodes[-1] += last
        return sweep(problem, part, outer, params)

    return by_segments(problem, steps, kept, torch.zeros_like(steps.states[0]), segment)


def repeat(problem: Problem, steps: Steps, outer: Outer, params: Sequence[Tensor]) -> list[Tensor | None]:
    """Take the steps again in whichever way suits the problem."""
    steps = steps.at_safe_states()
    if worthwhile(problem, steps):
        try:
            return sweep_together(problem, steps, outer, params)
        except Coupled:
            pass
    return _sweep(problem, steps, outer, params)


def _one_by_one(problem: Problem, steps: Steps, outer: Outer, params: Sequence[Tensor]) -> list[Tensor | None]:
    """Take the steps again one by one."""
    return _sweep(problem, steps.at_safe_states(), outer, params)


def _sweep(problem: Problem, steps: Steps, outer: Outer, params: Sequence[Tensor]) -> list[Tensor | None]:
    """One vector–Jacobian product per step."""
    totals: list[Tensor | None] = [None] * len(params)
    state_grad = outer.nodes[-1]
    for n in range(len(steps.size) - 1, -1, -1):
        moved = (steps.size[n] > 0).unsqueeze(-1)
        with torch.enable_grad():
            y = steps.states[n].detach().requires_grad_()
            formula = steps.formula(problem.method, n)
            taken = formula.replay(problem.field, steps.times[n], steps.size[n], y, dense=outer.inside[n])
        outputs, weights = [taken.y1], [torch.where(moved, state_grad, 0.0)]
        if outer.inside[n]:
            outputs += taken.coef
            weights += outer.coef(n, len(taken.coef))
        own, *found = pull(outputs, [y, *params], weights)
        kept = torch.where(moved, 0.0 if own is None else own, state_grad)
        state_grad = outer.nodes[n] + kept
        totals = [add(total, new) for total, new in zip(totals, found, strict=True)]
    return [state_grad, *totals]
