"""Steps whose start and length are tensors: one for each row, or one for all that the host never reads.

In the time ``s = (τ - t) / h`` of the step itself, ``dy = h f ds + √h g dW̃`` with ``W̃ = W / √h``. So every method
takes a step of length one of the rescaled equation, which is the step of length h of the given one.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import torch
from torch import Tensor

from scidyn.solvers.brownian.noise import Noise
from scidyn.solvers.sde.methods.stepper import Advance, Carry, SDEMethod
from scidyn.solvers.sde.plan import Plan
from scidyn.solvers.sde.terms import Terms

__all__ = ["RowGrid", "RowNoise", "RowSteps", "column", "row_plan"]


def column(x: Tensor, like: Tensor, axes: int) -> Tensor:
    """``x`` (b,) in the dtype of ``like``, with as many axes."""
    return x.to(like.dtype).view(-1, *([1] * (axes - 1)))


class RowSteps:
    """A memoryless method with tensors (1,) or (B,) in the place of the start and the length of a step."""

    def __init__(self, inner: SDEMethod) -> None:
        self.inner, self.about = inner, inner.about

    def begin(self, terms: Terms, t: Tensor, y: Tensor) -> Carry:
        """Give nothing."""
        return ()

    def step(self, terms: Terms, t: Tensor, h: Any, y: Tensor, carry: Carry, noise: Noise) -> Advance:
        """Take one step; rows of length zero stand still."""
        moves = h > 0
        size = torch.where(moves, h, 1.0)
        root = size.sqrt()
        unit = noise.each(lambda x: x / column(root, x, x.ndim))
        zero = torch.zeros((), dtype=y.real.dtype, device=y.device)
        taken = self.inner.step(_rescaled(terms, t, size, root), zero, 1.0, y, (), unit)
        mask = moves.view(-1, *([1] * (y.ndim - 1)))
        err = None if taken.err is None else torch.where(mask, taken.err, 0.0)
        return Advance(torch.where(mask, taken.y, y), (), err)


def _rescaled(terms: Terms, t: Tensor, size: Tensor, root: Tensor) -> Terms:
    """``h f(t + s h, y)`` and ``√h g(t + s h, y)``; one time for all rows is passed on as a scalar."""

    def when(s: Tensor, y: Tensor) -> Tensor:
        time = (t + s.to(t.dtype) * size).to(y.real.dtype)
        return time[0] if time.shape[0] == 1 else time

    def drift(s: Tensor, y: Tensor) -> Tensor:
        value = terms.f(when(s, y), y)
        return column(size, value.real, value.ndim) * value

    def diffusion(s: Tensor, y: Tensor) -> Tensor:
        value = terms.g(when(s, y), y)
        return column(root, value.real, value.ndim) * value

    result = Terms(drift, diffusion, None, terms.noise, terms.calculus, terms.matrix, terms.channels)
    result.estimating = terms.estimating
    return result


class RowGrid(NamedTuple):
    """Accepted steps of each row: starts and ends (N, b); a row that stands still has a step of length zero."""

    starts: Tensor
    ends: Tensor

    def stamps(self, first: float, rows: int) -> Tensor:
        """Times between which each row stepped, (B, N + 1), NaN behind its last."""
        moved = self.ends > self.starts
        times = torch.where(moved, self.ends, torch.nan).T.cpu()
        start = torch.full((times.shape[0], 1), first, dtype=times.dtype, device="cpu")
        return torch.cat([start, times], dim=1).expand(rows, -1)


class RowNoise:
    """A tree seen on the steps of each row."""

    def __init__(self, tree: Any, grid: RowGrid) -> None:
        self.tree, self.rows = tree, grid
        self.grid: list[float] = []

    def block(self, start: int, stop: int) -> Noise:
        """Noise of a range of steps."""
        steps = [self.tree.increment(self.rows.starts[n], self.rows.ends[n]) for n in range(start, stop)]
        return Noise.of(None if p[0] is None else torch.stack(p) for p in zip(*steps, strict=True))


def row_plan(tree: Any, grid: RowGrid) -> Plan:
    """Steps of :class:`RowSteps`, all of whose ends are reported."""
    count = len(grid.starts)
    sizes: list[Any] = list((grid.ends - grid.starts).unbind(0))
    return Plan(grid.starts.unbind(0), sizes, RowNoise(tree, grid), {n: n for n in range(count + 1)}, grid.starts)
