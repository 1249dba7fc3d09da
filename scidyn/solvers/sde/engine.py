"""Take the steps of a plan: plainly, or for gradients by recomputing short segments."""

from __future__ import annotations

import itertools
import time
from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor

from scidyn.solvers.sde.capture import Leaves
from scidyn.solvers.sde.compiling import Fused
from scidyn.solvers.sde.methods.stepper import Carry, SDEMethod
from scidyn.solvers.sde.plan import Plan
from scidyn.solvers.sde.second_order import gradient_twice
from scidyn.solvers.sde.terms import Terms

__all__ = ["advance", "solve_direct", "solve_discrete"]

SHARE, LONGEST = 16, 16
Tick = Callable[[float], None] | None


def advance(
    terms: Terms, method: SDEMethod, plan: Plan, span: tuple[int, int], y: Tensor, carry: Carry, tick: Tick = None
) -> tuple[Tensor, Carry, dict[int, Tensor]]:
    """Take the steps ``start … stop - 1``; give the end and the states to report by place."""
    choice = plan.compiled
    if choice is None:
        return _plainly(terms, method, plan, span, y, carry, tick)
    if choice.wait:
        begin = time.perf_counter()
        result = _plainly(terms, method, plan, span, y, carry, tick)
        choice.fused.seconds += time.perf_counter() - begin
        return result
    at, y, kept = _compiled(terms, choice.fused, plan, span, y, tick)
    y, carry, rest = _plainly(terms, method, plan, (at, span[1]), y, carry, tick)
    return y, carry, kept | rest


def _plainly(
    terms: Terms, method: SDEMethod, plan: Plan, span: tuple[int, int], y: Tensor, carry: Carry, tick: Tick
) -> tuple[Tensor, Carry, dict[int, Tensor]]:
    """Take steps one by one."""
    start, stop = span
    kept: dict[int, Tensor] = {}
    step, starts, sizes, report = method.step, plan.starts, plan.sizes, plan.report
    for n, noise in enumerate(plan.noises(start, stop), start):
        y, carry, _ = step(terms, starts[n], sizes[n], y, carry, noise)
        if n + 1 in report:
            kept[report[n + 1]] = y
            if tick is not None:
                tick((n + 1) / len(sizes))
    return y, carry, kept


def _compiled(
    terms: Terms, fused: Fused, plan: Plan, span: tuple[int, int], y: Tensor, tick: Tick
) -> tuple[int, Tensor, dict[int, Tensor]]:
    """Take whole blocks of compiled steps; give where they end, the state there, and those to report."""
    at, stop = span
    kept: dict[int, Tensor] = {}
    report, size = plan.report, fused.steps
    hashes = getattr(plan.source, "hashes", None)
    stamps, lengths, more = plan.stamps[at:stop], plan.sizes[at:stop], 0
    if hashes is not None and not torch.is_grad_enabled():  # fill the last block; its further states are dropped
        more = -len(lengths) % size
        stamps = torch.cat([stamps, stamps[-1:].expand(more)])
    sizes = torch.tensor(lengths + lengths[-1:] * more, dtype=stamps.dtype, device="cpu").to(stamps.device)
    for start, h in zip(stamps.split(size), sizes.split(size), strict=True):
        if len(h) < size:
            break
        drawn = None if hashes is None else hashes(at, at + size)
        if drawn is None and at + size > stop:
            break
        states = fused(terms, start, h, y, plan.source.block(at, at + size) if drawn is None else drawn)
        if states is None:
            break
        end = min(at + size, stop)
        y = states[end - at - 1]
        for n in range(at + 1, end + 1):
            if n in report:
                kept[report[n]] = states[n - at - 1]
                if tick is not None:
                    tick(n / len(plan.sizes))
        at = end
    return at, y, kept


def solve_direct(terms: Terms, method: SDEMethod, plan: Plan, y0: Tensor, tick: Tick = None) -> Tensor:
    """All states to report, (B, T, *state), with autograd's graph of every step if it is recording."""
    carry = method.begin(terms, plan.starts[0], y0)
    _, _, kept = advance(terms, method, plan, (0, len(plan.sizes)), y0, carry, tick)
    return _stack(y0, kept)


def _stack(y0: Tensor, kept: dict[int, Tensor]) -> Tensor:
    """Reported states in order of time."""
    return torch.stack([y0, *(kept[i] for i in sorted(kept))], dim=1)


def solve_discrete(
    terms: Terms, method: SDEMethod, plan: Plan, y0: Tensor, params: Sequence[Tensor], tick: Tick = None
) -> Tensor:
    """As :func:`solve_direct`; the gradient is that of the steps taken, at the memory of a few of them."""
    result: Tensor = _Discrete.apply(terms, method, plan, tick, y0, *params)
    return result


class _Discrete(torch.autograd.Function):
    """Keep the state at the start of each segment; sweep the segments backwards, each rerun with a graph."""

    @staticmethod
    def forward(
        ctx: Any, terms: Terms, method: SDEMethod, plan: Plan, tick: Tick, y0: Tensor, *params: Tensor
    ) -> Tensor:
        """Solve without a graph."""
        count = len(plan.sizes)
        length = max(1, min(LONGEST, count // SHARE))
        if plan.compiled is not None:  # whole blocks of compiled steps
            size = plan.compiled.fused.steps
            length = max(size, length // size * size)
        y, carry = y0, method.begin(terms, plan.starts[0], y0)
        bounds = [*range(0, count, length), count]
        reported: dict[int, Tensor] = {}
        states: list[Tensor] = []
        for a, b in itertools.pairwise(bounds):
            states.extend((y, *carry))
            y, carry, kept = advance(terms, method, plan, (a, b), y, carry, tick)
            reported.update(kept)
        ctx.terms, ctx.method, ctx.plan, ctx.bounds = terms, method, plan, bounds
        ctx.width, ctx.ids = 1 + len(carry), [id(p) for p in params]
        ctx.save_for_backward(*states, *params)
        return _stack(y0, reported)

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Any, ...]:
        """Sweep backwards."""
        (grad,) = grads
        terms, method, plan, width = ctx.terms, ctx.method, ctx.plan, ctx.width
        saved = ctx.saved_tensors
        if torch.is_grad_enabled():
            tensors, plain = saved[len(saved) - len(ctx.ids) :], plan._replace(compiled=None)
            first, seed = gradient_twice(
                lambda y: solve_direct(terms, method, plain, y), saved[0], ctx.ids, tensors, grad
            )
            return None, None, None, None, first, *seed
        leaves = Leaves(ctx.ids, saved[len(saved) - len(ctx.ids) :])
        if leaves.instead:  # what puts tensors in the place of others cannot be compiled
            plan = plan._replace(compiled=None)
        params = leaves.tensors
        total: list[Tensor | None] = [None] * len(params)
        cotangent: list[Tensor | None] = [None] * width
        for s in range(len(ctx.bounds) - 2, -1, -1):
            start = [x.detach().requires_grad_() for x in saved[s * width : (s + 1) * width]]
            with leaves.recording():
                y, carry, kept = advance(
                    terms, method, plan, (ctx.bounds[s], ctx.bounds[s + 1]), start[0], tuple(start[1:])
                )
            outputs, weights = [], []
            for x, c in zip((y, *carry), cotangent, strict=True):
                if c is not None and x.requires_grad:
                    outputs.append(x)
                    weights.append(c)
            for i, x in kept.items():
                outputs.append(x)
                weights.append(grad[:, i])
            if outputs:
                found = torch.autograd.grad(outputs, [*start, *params], weights, allow_unused=True)
                cotangent = list(found[:width])
                _accumulate(total, found[width:])
        first, seed = _through_the_start(ctx, saved[0], leaves, cotangent, grad, total)
        return None, None, None, None, first, *seed


def _through_the_start(
    ctx: Any,
    y0: Tensor,
    leaves: Leaves,
    cotangent: list[Tensor | None],
    grad: Tensor,
    total: list[Tensor | None],
) -> tuple[Tensor, list[Tensor | None]]:
    """Pull back through the evaluations at the first time, and add the cotangent of the reported start."""
    first = grad[:, 0] if cotangent[0] is None else grad[:, 0] + cotangent[0]
    if ctx.width > 1:
        with leaves.recording():
            start = y0.detach().requires_grad_()
            carry = ctx.method.begin(ctx.terms, ctx.plan.starts[0], start)
        pairs = [(x, c) for x, c in zip(carry, cotangent[1:], strict=True) if c is not None and x.requires_grad]
        if pairs:
            outputs, weights = zip(*pairs, strict=True)
            found = torch.autograd.grad(outputs, [start, *leaves.tensors], weights, allow_unused=True)
            first = first if found[0] is None else first + found[0]
            _accumulate(total, found[1:])
    return first, total


def _accumulate(total: list[Tensor | None], found: Sequence[Tensor | None]) -> None:
    """Add gradients, in place on those that this sweep owns."""
    for i, g in enumerate(found):
        if g is not None:
            known = total[i]
            total[i] = g.clone() if known is None else known.add_(g)
