"""Gradient of reversible Heun that runs the steps backwards: memory independent of their number."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

from scidyn.solvers.sde.engine import Run, advance
from scidyn.solvers.sde.methods.method import Carry

__all__ = ["invert", "reversible"]


def invert(run: Run, y: Tensor, carry: Carry, stop: int, start: int) -> tuple[Tensor, Carry]:
    """Go back from node ``stop`` to node ``start``: the exact inverse of the steps, up to rounding."""
    terms, plan = run.terms, run.plan
    while stop > start:
        low = max(start, (stop - 1) // run.block * run.block)
        noises = run.noise(low, stop)
        times = plan.stage_times(low, stop, (0.0,), y)
        for n in range(stop - 1, low - 1, -1):
            (W, *_), h = noises[n - low], plan.size(n)
            z, f, g = carry
            back = terms.add(2.0 * y - z, g, W, -1.0).sub_(f, alpha=h)
            f0, g0 = terms.f(times[n - low][0], back), terms.g(times[n - low][0], back)
            y = terms.add(y, g0 + g, W, -0.5).sub_(f0 + f, alpha=0.5 * h)
            carry = (back, f0, g0)
        stop = low
    return y, carry


def reversible(run: Run, y0: Tensor, params: list[Tensor]) -> Tensor:
    """Solve by reversible Heun; shape (T, batch, *state)."""
    result: Tensor = _Reversible.apply(run, len(params), y0, *params)
    return result


class _Reversible(torch.autograd.Function):
    """Reconstruct each state from the next one and differentiate that step alone."""

    @staticmethod
    def forward(ctx: Any, run: Run, count: int, y0: Tensor, *params: Tensor) -> Tensor:
        start = torch.full((), run.plan.nodes[0], dtype=y0.real.dtype, device=y0.device)
        carry = begun = run.method.begin(run.terms, start, y0)
        wanted, states, y = set(run.plan.wanted), {0: y0}, y0
        for n, y, carry in advance(run, y0, begun, 0, len(run.plan)):  # noqa: B007
            if n in wanted:
                states[n] = y
        ctx.run, ctx.count = run, count
        ctx.save_for_backward(y0, y, *carry, *params)
        return torch.stack([states[n] for n in run.plan.wanted])

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, *upstream: Tensor) -> tuple[Tensor | None, ...]:
        (grad,) = upstream
        run: Run = ctx.run
        y0, y, z, f, g, *params = ctx.saved_tensors
        plan, step = run.plan, run.step
        arriving: dict[int, Tensor] = {}
        for row, n in enumerate(plan.wanted):
            arriving[n] = arriving[n] + grad[row] if n in arriving else grad[row]
        steps = len(plan)
        zero = torch.zeros_like(y)
        cotangents = [arriving.get(steps, zero), zero, zero, torch.zeros_like(g)]
        totals = [torch.zeros_like(p) for p in params]
        carry: Carry = (z, f, g)
        for n in range(steps - 1, -1, -1):
            y, carry = invert(run, y, carry, n + 1, n)
            low = n // run.block * run.block
            noise = run.noise(low, min(low + run.block, steps))[n - low]
            time = plan.stage_times(n, n + 1, run.method.nodes, y)[0]
            with torch.enable_grad():
                inputs = [x.detach().requires_grad_() for x in (y, *carry)]
                y1, carry1, _ = step(run.terms, time, plan.size(n), inputs[0], noise, tuple(inputs[1:]))
                pairs = [(o, c) for o, c in zip((y1, *carry1), cotangents, strict=True) if o.requires_grad]
            outputs, weights = zip(*pairs, strict=True)
            got = torch.autograd.grad(outputs, [*inputs, *params], weights, allow_unused=True)
            cotangents = [torch.zeros_like(x) if c is None else c for c, x in zip(got[:4], inputs, strict=True)]
            for total, part in zip(totals, got[4:], strict=True):
                if part is not None:
                    total.add_(part)
            if n in arriving:
                cotangents[0] = cotangents[0] + arriving[n]
        start = torch.full((), plan.nodes[0], dtype=y0.real.dtype, device=y0.device)
        with torch.enable_grad():
            first = y0.detach().requires_grad_()
            begun = run.method.begin(run.terms, start, first)
            pairs = [(o, c) for o, c in zip(begun, cotangents[1:], strict=True) if o.requires_grad]
        outputs, weights = zip(*pairs, strict=True)
        got = torch.autograd.grad(outputs, [first, *params], weights, allow_unused=True)
        for total, part in zip(totals, got[1:], strict=True):
            if part is not None:
                total.add_(part)
        last = cotangents[0] if got[0] is None else cotangents[0] + got[0]
        return (None, None, last, *totals)
