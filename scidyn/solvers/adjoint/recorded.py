r"""The discrete adjoint without a second evaluation: the graph of every step is kept from the forward solve.

A step gives :math:`(y_{n+1}, k_s, c) = \Psi(y_n, k_1)`: its end, its last rate, which is the first of the next
step, and its polynomial. Each graph begins anew at :math:`(y_n, k_1)`, and the sweep pulls the gradients
of the three back through one graph after the other.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from typing import NamedTuple

import torch
from torch import Tensor

from scidyn.solvers.adjoint.discrete import Sweep, repeat
from scidyn.solvers.adjoint.measured import Measured
from scidyn.solvers.adjoint.pull import pull
from scidyn.solvers.adjoint.records import Outer, Steps, add
from scidyn.solvers.arguments import Problem
from scidyn.solvers.controller import Tolerance
from scidyn.solvers.methods.explicit_rk import ExplicitRK
from scidyn.solvers.methods.stepper import Rate, Step

__all__ = ["Graphs", "Recorder", "recordable"]


class Graph(NamedTuple):
    """One step: where it began and what it gave, with the graph between them."""

    y: Tensor
    first: Tensor
    y1: Tensor
    last: Tensor
    coef: tuple[Tensor, ...]


def recordable(problem: Problem) -> bool:
    """True if the graphs of this problem's steps can be kept."""
    return isinstance(problem.method, ExplicitRK) and torch._C._functorch.peek_interpreter_stack() is None


class Graphs:
    """The graphs of the accepted steps, up to a size.

    Parameters
    ----------
    limit : int or None
        Largest number of bytes that they may hold; beyond it all are dropped. None: no limit.
    """

    def __init__(self, limit: int | None) -> None:
        self.limit = limit
        self.kept: list[Graph] | None = []
        self._each = 0
        self._last: Tensor | None = None

    @property
    def bytes(self) -> int:
        """Memory of the graphs, counted in the first step."""
        return 0 if self.kept is None else len(self.kept) * self._each

    def take(self, t: Tensor, y: Tensor, k1: Tensor, step: Callable[[Tensor, Tensor], Step]) -> Step:
        """Take a step from ``(t, y, k1)`` and keep its graph; one that begins where the last began replaces it."""
        if self.kept is None:
            return step(y, k1)
        self._drop_refused(t)
        with torch.enable_grad():
            start, first = (x.detach().requires_grad_() for x in (y, k1))
            if self._each:
                taken = step(start, first)
            else:
                with (measured := Measured(y, k1)):
                    taken = step(start, first)
                self._each = max(1, measured.bytes)
        self.kept.append(Graph(start, first, taken.y1, taken.carry[0], taken.coef))
        self._last = t
        if self.limit is not None and self.bytes > self.limit:
            self.kept = None
        err = None if taken.err is None else taken.err.detach()
        return Step(taken.y1.detach(), (taken.carry[0].detach(),), err, tuple(c.detach() for c in taken.coef))

    def sweep(self, end: Tensor, count: int) -> Sweep | None:
        """Sweep over the graphs of a solve that reached ``end`` in ``count`` steps, if they were kept."""
        if self.kept is not None:
            self._drop_refused(end)
        if self.kept is None or len(self.kept) != count:
            return None
        return partial(_sweep, self.kept)

    def _drop_refused(self, t: Tensor) -> None:
        last = self._last
        if self.kept and last is not None and t.shape == last.shape and torch.equal(t, last):
            self.kept.pop()


@dataclass(frozen=True)
class Recorder(ExplicitRK):
    """An explicit Runge–Kutta method that keeps the graphs of the steps it takes.

    Parameters
    ----------
    graphs : Graphs
        Where they are kept.
    """

    graphs: Graphs

    def step(
        self, rate: Rate, t: Tensor, h: Tensor, y: Tensor, carry: tuple[Tensor, ...], tolerance: Tolerance
    ) -> Step:
        """Take a step and keep its graph."""
        plain = super().step
        return self.graphs.take(t, y, carry[0], lambda y, k1: plain(rate, t, h, y, (k1,), tolerance))


def _sweep(
    graphs: list[Graph], problem: Problem, steps: Steps, outer: Outer, params: Sequence[Tensor]
) -> list[Tensor | None]:
    """Pull the gradient back through the kept graphs, which are used up unless the caller keeps his."""
    if len(graphs) < len(steps.size):
        return repeat(problem, steps, outer, params)
    again = torch._C._autograd._get_current_graph_task_keep_graph()
    moved = (steps.size > 0).unsqueeze(-1)
    all_move = moved.shape[1] == 1 or bool(moved.all())
    totals: list[Tensor | None] = [None] * len(params)
    state_grad = outer.nodes[-1]
    rate_grad: Tensor | None = None
    for n in range(len(graphs) - 1, -1, -1):
        graph = graphs[n] if again else graphs.pop()
        arriving, at_last, passing = state_grad, rate_grad, outer.nodes[n]
        waiting: Tensor | None = None
        if not all_move:
            arriving, passing = torch.where(moved[n], state_grad, 0.0), passing + torch.where(moved[n], 0.0, state_grad)
            if rate_grad is not None:
                # the rate that a step begins with belongs to the last step in which the sample moved
                at_last, waiting = torch.where(moved[n], rate_grad, 0.0), torch.where(moved[n], 0.0, rate_grad)
        outputs, weights = [graph.y1], [arriving]
        if at_last is not None:
            outputs, weights = [*outputs, graph.last], [*weights, at_last]
        if outer.inside[n]:
            outputs, weights = [*outputs, *graph.coef], [*weights, *outer.coef(n, len(graph.coef))]
        wanted = [graph.y, graph.first, *params]
        found = pull(outputs, wanted, weights, retain_graph=again)
        state_grad = passing if found[0] is None else passing + found[0]
        rate_grad = add(found[1], waiting)
        _accumulate(totals, found[2:])
    if rate_grad is not None:
        with torch.enable_grad():
            y = steps.states[0].detach().requires_grad_()
            rate = problem.field(steps.times[0], y)
        own, *found = pull([rate], [y, *params], [rate_grad])
        state_grad = state_grad if own is None else state_grad + own
        _accumulate(totals, found)
    if not all_move and not all(bool(x.isfinite().all()) for x in (state_grad, *totals) if x is not None):
        # zero times an infinite slope where a sample failed or a step was refused
        return repeat(problem, steps, outer, params)
    return [state_grad, *totals]


def _accumulate(totals: list[Tensor | None], found: Sequence[Tensor | None]) -> None:
    """Add in place; the first of the terms is copied because it may be shared or expanded."""
    for i, new in enumerate(found):
        total = totals[i]
        if new is not None and total is None:
            totals[i] = new.clone()
        elif new is not None and total is not None:
            total.add_(new)
