"""The sweep of the discrete adjoint with the work of many steps done in one batch."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from scidyn.solvers.adjoint.at_once import Coupled, replay_steps
from scidyn.solvers.adjoint.pull import pull
from scidyn.solvers.adjoint.records import Outer, Steps, add
from scidyn.solvers.arguments import Problem
from scidyn.solvers.precision import is_autocast

__all__ = ["Coupled", "small", "sweep_together", "worthwhile"]

WIDEST_STATE = 8
ROWS = 4096
ENTRIES = 2**23
WIDEST_PRODUCT = 512


def worthwhile(problem: Problem, steps: Steps) -> bool:
    """True if Jacobians of single samples are small enough and launches of small kernels dominate."""
    return small(problem)


def small(problem: Problem) -> bool:
    """The same, known before the first step."""
    batch, width = problem.y0.shape
    # D + 1 products with every step's Jacobian: beyond this they cost more than one launch per step saves
    narrow = width <= WIDEST_STATE and batch * (width + 1) <= WIDEST_PRODUCT
    return narrow and not is_autocast(problem.field.f) and not problem.y0.is_complex()


def sweep_together(problem: Problem, steps: Steps, outer: Outer, params: Sequence[Tensor]) -> list[Tensor | None]:
    r"""Evaluate the steps together, chain their Jacobians, then pull all cotangents back together.

    The chain assumes that samples do not mix. The last product does not: it gives
    :math:`\Psi_y^\top \lambda_{n+1}` with every coupling, so a difference from the chain proves a
    coupling and the caller sweeps step by step instead.

    Raises
    ------
    Coupled
        If samples mix, or f cannot be evaluated for many steps at once.
    """
    count, batch, width = steps.states.shape
    length = max(1, min(ROWS, ENTRIES // width**2) // batch)
    totals: list[Tensor | None] = [None] * len(params)
    state_grad = outer.nodes[-1]
    for high in range(count, 0, -length):
        low = max(0, high - length)
        state_grad, found = _segment(problem, steps, outer, params, low, high, state_grad)
        totals = [add(total, new) for total, new in zip(totals, found, strict=True)]
    return [state_grad, *totals]


def _segment(
    problem: Problem,
    steps: Steps,
    outer: Outer,
    params: Sequence[Tensor],
    low: int,
    high: int,
    last: Tensor,
) -> tuple[Tensor, Sequence[Tensor | None]]:
    """Sweep over the steps low to high; gives the gradient at the first node and those of ``params``."""
    moved = (steps.size[low:high] > 0).unsqueeze(-1)
    inner = outer.nodes[low:high]
    added, from_inside = _inside(problem, steps, outer, params, low, high)
    source = inner if added is None else inner + added
    y, y1, _ = replay_steps(problem, steps, slice(low, high), dense=False)
    eye = torch.eye(y.shape[-1], dtype=y.dtype, device=y.device)
    chain = torch.where(moved.unsqueeze(-1), _jacobians(y1, y), eye)
    following, state_grad = [], last.unsqueeze(1)
    for matrix, q in zip(chain.flip(0), source.unsqueeze(2).flip(0), strict=True):
        following.append(state_grad)
        state_grad = torch.baddbmm(q, state_grad, matrix)
    later = torch.stack(following[::-1]).squeeze(2)
    from_end, *found = pull([y1], [y, *params], [torch.where(moved, later, 0.0)])
    before = torch.cat([state_grad.squeeze(1).unsqueeze(0), later[:-1]]) - source
    _verify(torch.where(moved, before if from_end is None else from_end - before, 0.0), before)
    totals = [add(one, other) for one, other in zip(found, from_inside, strict=True)]
    return state_grad.squeeze(1), totals


def _inside(
    problem: Problem, steps: Steps, outer: Outer, params: Sequence[Tensor], low: int, high: int
) -> tuple[Tensor | None, Sequence[Tensor | None]]:
    """Gradient at the nodes and of ``params`` from the times reported inside steps."""
    chosen = [n for n in range(low, high) if outer.inside[n]]
    if not chosen:
        return None, [None] * len(params)
    index = torch.tensor(chosen, device=steps.size.device)
    y, _, coef = replay_steps(problem, steps, index, dense=True)
    weights = outer.coefs(low, high, coef.shape[1])[index - low]
    own, *found = pull([coef], [y, *params], [weights])
    added = torch.zeros_like(outer.nodes[low:high])
    if own is not None:
        added[index - low] = own
    return added, found


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
