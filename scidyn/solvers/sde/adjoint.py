"""Gradients of a solve: through stored states and regenerated noise, or through autograd's own tape."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

from scidyn.solvers.sde.engine import Run, advance
from scidyn.solvers.sde.methods.method import Carry

__all__ = ["direct", "discrete"]

LONGEST = 16


def direct(run: Run, y0: Tensor) -> Tensor:
    """Solve in the ambient gradient mode; shape (T, batch, *state)."""
    wanted = set(run.plan.wanted)
    states = {0: y0}
    for n, y, _ in advance(run, y0, _begin(run, y0), 0, len(run.plan)):
        if n in wanted:
            states[n] = y
    return torch.stack([states[n] for n in run.plan.wanted])


def _begin(run: Run, y: Tensor) -> Carry:
    """What a multistep or reversible method starts from."""
    first = torch.full((), run.plan.nodes[0], dtype=y.real.dtype, device=y.device)
    return run.method.begin(run.terms, first, y)


def segment_length(steps: int) -> int:
    """Steps taped at a time: a power of two that keeps the tape below a twentieth of the whole."""
    length = 1
    while length < LONGEST and length * 2 * 20 <= steps:
        length *= 2
    return length


def discrete(run: Run, y0: Tensor, params: list[Tensor]) -> Tensor:
    """Solve; the backward pass repeats a few steps at a time from stored states. (T, batch, *state)."""
    result: Tensor = _Discrete.apply(run, len(params), y0, *params)
    return result


class _Discrete(torch.autograd.Function):
    """Exact gradient of the steps taken: states every few steps are kept, noise is drawn again."""

    @staticmethod
    def forward(ctx: Any, run: Run, count: int, y0: Tensor, *params: Tensor) -> Tensor:
        length = segment_length(len(run.plan))
        wanted = set(run.plan.wanted)
        begun = carry = _begin(run, y0)
        states, kept, carries = {0: y0}, [y0], [begun]
        for n, y, carry in advance(run, y0, begun, 0, len(run.plan)):
            if n in wanted:
                states[n] = y
            if n % length == 0:
                kept.append(y)
                carries.append(carry)
        ctx.run, ctx.length, ctx.width = run, length, len(carry)
        ctx.starts = len(kept)
        ctx.save_for_backward(*params, *kept, *(x for c in carries for x in c))
        ctx.count = count
        return torch.stack([states[n] for n in run.plan.wanted])

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, *upstream: Tensor) -> tuple[Tensor | None, ...]:
        (grad,) = upstream
        run: Run = ctx.run
        saved = ctx.saved_tensors
        params, kept = saved[: ctx.count], saved[ctx.count : ctx.count + ctx.starts]
        flat = saved[ctx.count + ctx.starts :]
        carries = [flat[i * ctx.width : (i + 1) * ctx.width] for i in range(ctx.starts)]
        arriving: dict[int, Tensor] = {}
        for row, n in enumerate(run.plan.wanted):
            arriving[n] = arriving[n] + grad[row] if n in arriving else grad[row]
        steps, length = len(run.plan), ctx.length
        cotangents: list[Tensor | None] = [arriving.get(steps), *([None] * ctx.width)]
        totals: list[Tensor | None] = [None] * ctx.count
        for start in range((steps - 1) // length * length, -1, -length):
            stop = min(start + length, steps)
            i = start // length
            got = _segment(run, start, stop, kept[i], carries[i], params, cotangents, arriving)
            first = 1 + (0 if start == 0 else ctx.width)
            cotangents = list(got[:first])
            for j, g in enumerate(got[first:]):
                if g is not None:
                    known = totals[j]
                    totals[j] = g.clone() if known is None else known.add_(g)
            if start in arriving:
                known = cotangents[0]
                cotangents[0] = arriving[start] if known is None else known + arriving[start]
        return (None, None, cotangents[0], *totals)


def _segment(
    run: Run,
    start: int,
    stop: int,
    y: Tensor,
    carry: Carry,
    params: tuple[Tensor, ...],
    cotangents: list[Tensor | None],
    arriving: dict[int, Tensor],
) -> tuple[Tensor | None, ...]:
    """Repeat the steps ``start … stop - 1`` on a tape; cotangents of the state, the carry, the parameters."""
    with torch.enable_grad():
        y = y.detach().requires_grad_()
        if start == 0:
            inputs, begun = [y], _begin(run, y)
        else:
            begun = tuple(x.detach().requires_grad_() for x in carry)
            inputs = [y, *begun]
        outputs: list[Tensor] = []
        weights: list[Tensor] = []
        state, held = y, begun
        for n, state, held in advance(run, y, begun, start, stop):  # noqa: B007
            if n < stop and n in arriving:
                outputs.append(state)
                weights.append(arriving[n])
        for x, weight in zip((state, *held), cotangents, strict=True):
            if weight is not None and x.requires_grad:
                outputs.append(x)
                weights.append(weight)
    if not outputs:
        return (None,) * (len(inputs) + len(params))
    return torch.autograd.grad(outputs, [*inputs, *params], weights, allow_unused=True)
