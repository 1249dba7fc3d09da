"""The sweep of the discrete adjoint with the work of many steps done in one batch."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from scidyn.solvers.adjoint.records import Cotangents, Steps
from scidyn.solvers.arguments import Problem

__all__ = ["Coupled", "sweep_together", "worthwhile"]

WIDEST_STATE = 8
ROWS = 4096
WIDEST_PRODUCT = 512


class Coupled(Exception):
    """The rate of one sample depends on another, or f cannot be evaluated for all steps at once."""


def worthwhile(problem: Problem, steps: Steps) -> bool:
    """True if Jacobians of single samples are small enough and launches of small kernels dominate."""
    _, batch, width = steps.states.shape
    # D + 1 products with every step's Jacobian: beyond this they cost more than one launch per step saves
    small = width <= WIDEST_STATE and batch * (width + 1) <= WIDEST_PRODUCT
    return small and not problem.method.implicit and not steps.states.is_complex()


def sweep_together(problem: Problem, steps: Steps, outer: Cotangents, params: Sequence[Tensor]) -> list[Tensor | None]:
    r"""Evaluate the steps together, chain their Jacobians, then pull all cotangents back together.

    The chain assumes that samples do not mix. The last product does not: it gives
    :math:`\Psi_y^\top \lambda_{n+1}` with every coupling, so a difference from the chain proves a
    coupling and the caller sweeps step by step instead.

    Raises
    ------
    Coupled
        If samples mix, or f cannot be evaluated for many steps at once.
    """
    count, batch, _ = steps.states.shape
    length = max(1, ROWS // batch)
    totals: list[Tensor | None] = [None] * len(params)
    state_grad = outer.nodes[-1]
    for high in range(count, 0, -length):
        low = max(0, high - length)
        state_grad, found = _segment(problem, steps, outer, params, low, high, state_grad)
        totals = [
            new if old is None else (old if new is None else old + new) for old, new in zip(totals, found, strict=True)
        ]
    return [state_grad, *totals]


def _segment(
    problem: Problem, steps: Steps, outer: Cotangents, params: Sequence[Tensor], low: int, high: int, last: Tensor
) -> tuple[Tensor, Sequence[Tensor | None]]:
    """Sweep over the steps low to high; gives the gradient at the first node and those of ``params``."""
    dense = any(outer.inside[low:high])
    size = steps.size[low:high]
    moved = (size > 0).unsqueeze(-1)

    def take(t: Tensor, h: Tensor, y: Tensor) -> tuple[Tensor, ...]:
        taken = problem.method.replay(problem.field, t, h, y, dense=dense)
        return (taken.y1, torch.stack(taken.coef)) if dense else (taken.y1,)

    with torch.enable_grad():
        y = steps.states[low:high].detach().requires_grad_()
        try:
            outputs = torch.func.vmap(take)(steps.times[low:high], size, y)
        except (RuntimeError, ValueError, NotImplementedError) as reason:
            raise Coupled from reason
    weights = [outer.coefs(low, high, outputs[1].shape[1])] if dense else []
    inner = outer.nodes[low:high]
    own = torch.zeros_like(inner)
    if dense:
        (own,) = torch.autograd.grad(outputs[1], y, weights[0], retain_graph=True)
    chain = torch.where(
        moved.unsqueeze(-1), _jacobians(outputs[0], y), torch.eye(y.shape[-1], dtype=y.dtype, device=y.device)
    )
    following, state_grad = [], last.unsqueeze(1)
    for matrix, q in zip(chain.flip(0), (inner + own).unsqueeze(2).flip(0), strict=True):
        following.append(state_grad)
        state_grad = torch.baddbmm(q, state_grad, matrix)
    later = torch.stack(following[::-1]).squeeze(2)
    found = torch.autograd.grad(outputs, [y, *params], [torch.where(moved, later, 0.0), *weights], allow_unused=True)
    before = torch.cat([state_grad.squeeze(1).unsqueeze(0), later[:-1]]) - inner
    _verify(torch.where(moved, found[0] - before, 0.0), before)
    return state_grad.squeeze(1), found[1:]


def _jacobians(y1: Tensor, y: Tensor) -> Tensor:
    """Jacobian of every sample in every step, shape (steps, batch, D, D)."""
    rows = []
    for i in range(y.shape[-1]):
        unit = torch.zeros_like(y1)
        unit[..., i] = 1.0
        rows.append(torch.autograd.grad(y1, y, unit, retain_graph=True)[0])
    return torch.stack(rows, dim=-2)


def _verify(difference: Tensor, expected: Tensor) -> None:
    """Raise Coupled if the chained gradients are not those of the full product."""
    allowed = 1e4 * torch.finfo(difference.dtype).eps * expected.abs().amax()
    if bool(difference.abs().amax() > allowed):
        raise Coupled
