"""Gradients of the reversible Heun method at constant memory: undo the steps, then pull back through them."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from scidyn.solvers.sde.capture import Leaves
from scidyn.solvers.sde.engine import Tick, _accumulate, _stack, advance, solve_direct
from scidyn.solvers.sde.methods.reversible_heun import ReversibleHeun
from scidyn.solvers.sde.plan import Plan
from scidyn.solvers.sde.second_order import gradient_twice
from scidyn.solvers.sde.terms import Terms

__all__ = ["reconstruct", "solve_reversible"]


def solve_reversible(
    terms: Terms, method: ReversibleHeun, plan: Plan, y0: Tensor, params: Sequence[Tensor], tick: Tick = None
) -> Tensor:
    """Solve; backwards only the end is kept, whatever the number of steps."""
    result: Tensor = _Reversible.apply(terms, method, plan, tick, y0, *params)
    return result


def reconstruct(terms: Terms, method: ReversibleHeun, plan: Plan, y: Tensor, z: Tensor) -> Tensor:
    """Undo all steps from the end ``(y, ẑ)`` and give the first state."""
    f, g = terms.f(plan.starts[-1], z), terms.g(plan.starts[-1], z)
    for n in range(len(plan.sizes) - 1, -1, -1):
        (noise,) = plan.noises(n, n + 1)
        t, h = plan.starts[n], plan.sizes[n]
        z, y = method.undo(terms, t, h, y, (z, f, g), noise)
        f, g = terms.f(t, z), terms.g(t, z)
        y = terms.move(y.sub(f, alpha=0.5 * h), g, noise.W, -0.5)
    return y


class _Reversible(torch.autograd.Function):
    """One evaluation with a graph for each step backwards, shared by undoing and pulling back."""

    @staticmethod
    def forward(
        ctx: Any, terms: Terms, method: ReversibleHeun, plan: Plan, tick: Tick, y0: Tensor, *params: Tensor
    ) -> Tensor:
        """Solve without a graph."""
        carry = method.begin(terms, plan.starts[0], y0)
        y, carry, kept = advance(terms, method, plan, (0, len(plan.sizes)), y0, carry, tick)
        ctx.terms, ctx.method, ctx.plan, ctx.ids = terms, method, plan, [id(p) for p in params]
        ctx.save_for_backward(y, carry[0], y0, *params)
        return _stack(y0, kept)

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Any, ...]:
        """Sweep backwards; a bar marks a cotangent."""
        (grad,) = grads
        terms, method, plan = ctx.terms, ctx.method, ctx.plan
        y, z, start, *saved = ctx.saved_tensors
        if torch.is_grad_enabled():
            first, seed = gradient_twice(lambda y: solve_direct(terms, method, plan, y), start, ctx.ids, saved, grad)
            return None, None, None, None, first, *seed
        leaves = Leaves(ctx.ids, saved)
        params = leaves.tensors
        total: list[Tensor | None] = [None] * len(params)
        z, f, g = _evaluate(terms, plan.starts[-1], z, leaves)
        y_bar, z_bar = torch.zeros_like(y), torch.zeros_like(y)
        f_bar, g_bar = torch.zeros_like(f), torch.zeros_like(g)
        for n in range(len(plan.sizes) - 1, -1, -1):
            place = plan.report.get(n + 1)
            if place is not None:
                y_bar = y_bar + grad[:, place]
            (noise,) = plan.noises(n, n + 1)
            t, h, W = plan.starts[n], plan.sizes[n], noise.W
            half_f, half_g = y_bar * (0.5 * h), terms.outer(y_bar, 0.5 * W)
            z_bar = z_bar + _pull(f, g, z, f_bar + half_f, g_bar + half_g, params, total)
            y_bar = y_bar.add(z_bar, alpha=2.0)
            f_bar, g_bar = half_f.add(z_bar, alpha=h), half_g + terms.outer(z_bar, W)
            z_bar = -z_bar
            before, y = method.undo(terms, t, h, y, (z.detach(), f.detach(), g.detach()), noise)
            z, f, g = _evaluate(terms, t, before, leaves)
            y = terms.move(y.sub(f.detach(), alpha=0.5 * h), g.detach(), W, -0.5)
        first = y_bar + z_bar + _pull(f, g, z, f_bar, g_bar, params, total) + grad[:, 0]
        return None, None, None, None, first, *total


def _evaluate(terms: Terms, t: Tensor, z: Tensor, leaves: Leaves) -> tuple[Tensor, Tensor, Tensor]:
    """Drift and diffusion with a graph that starts at ``z``."""
    with leaves.recording():
        leaf = z.detach().requires_grad_()
        return leaf, terms.f(t, leaf), terms.g(t, leaf)


def _pull(
    f: Tensor,
    g: Tensor,
    z: Tensor,
    f_bar: Tensor,
    g_bar: Tensor,
    params: Sequence[Tensor],
    total: list[Tensor | None],
) -> Tensor:
    """Pull cotangents of ``f`` and ``g`` back to ``z``, adding those of the parameters to ``total``."""
    pairs = [(x, c) for x, c in ((f, f_bar), (g, g_bar)) if x.requires_grad]
    if not pairs:
        return torch.zeros_like(z)
    outputs, weights = zip(*pairs, strict=True)
    found = torch.autograd.grad(outputs, [z, *params], weights, allow_unused=True)
    _accumulate(total, found[1:])
    return torch.zeros_like(z) if found[0] is None else found[0]
