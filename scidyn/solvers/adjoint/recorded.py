r"""The discrete adjoint without a second evaluation: the graph of every step is kept from the forward solve.

A step gives :math:`(y_{n+1}, k_s, c) = \Psi(y_n, k_1)`: its end, its last rate, which is the first of the next
step, and its polynomial. Each graph begins anew at :math:`(y_n, k_1)`, and the sweep pulls the gradients
of the three back through one graph after the other.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial
from typing import NamedTuple

import torch
from torch import Tensor

from scidyn.solvers.adjoint.discrete import Sweep, repeat
from scidyn.solvers.adjoint.records import Cotangents, SharedCotangents, Steps, add
from scidyn.solvers.arguments import Problem
from scidyn.solvers.controller import Tolerance
from scidyn.solvers.methods.explicit_rk import ExplicitRK
from scidyn.solvers.methods.stepper import Rate, Step

__all__ = ["Recorder", "recordable"]


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


class Recorder:
    """An explicit Runge–Kutta method that keeps the graphs of the steps it takes, up to a size.

    Parameters
    ----------
    method : ExplicitRK
        The method; steps and rounding are its own.
    limit : int or None
        Largest number of bytes that the graphs may hold; beyond it all are dropped. None: no limit.
    held : sequence of Tensor
        Tensors that the graphs share with the caller, such as weights: not counted.
    """

    def __init__(self, method: ExplicitRK, limit: int | None, held: Sequence[Tensor]) -> None:
        self.method = method
        self.limit = limit
        self.graphs: list[Graph] | None = []
        self._held = {x.untyped_storage().data_ptr() for x in held}
        self._each = 0
        self._last: Tensor | float | None = None

    def __getattr__(self, name: str) -> object:
        return getattr(self.method, name)

    def begin(self, rate: Rate, t: Tensor, y: Tensor, k1: Tensor) -> tuple[Tensor, ...]:
        """Start from the known rate."""
        return self.method.begin(rate, t, y, k1)

    def replay(self, rate: Rate, t: Tensor, h: Tensor, y: Tensor, *, dense: bool = True) -> Step:
        """Take a step again."""
        return self.method.replay(rate, t, h, y, dense=dense)

    def step(
        self, rate: Rate, t: Tensor, h: Tensor, y: Tensor, carry: tuple[Tensor, ...], tolerance: Tolerance
    ) -> Step:
        """Take a step and keep its graph; one that begins where the last one began replaces it."""
        return self._kept(t, y, carry[0], lambda y, k1: self.method.step(rate, t, h, y, (k1,), tolerance))

    def _kept(self, t: Tensor | float, y: Tensor, k1: Tensor, take: Callable[[Tensor, Tensor], Step]) -> Step:
        if self.graphs is None:
            return take(y, k1)
        self._drop_if_rejected(t)
        with torch.enable_grad():
            start, first = (x.detach().requires_grad_() for x in (y, k1))
            if not self._each:
                measured = _Measured(self._held)
                with measured:
                    taken = take(start, first)
                self._each = measured.bytes + y.nbytes + k1.nbytes
            else:
                taken = take(start, first)
        self.graphs.append(Graph(start, first, taken.y1, taken.carry[0], taken.coef))
        self._last = t
        if self.limit is not None and self.bytes > self.limit:
            self.graphs = None
        err = None if taken.err is None else taken.err.detach()
        coef = tuple(c.detach() for c in taken.coef)
        return Step(taken.y1.detach(), (taken.carry[0].detach(),), err, coef)

    def shared_step(self, rate: Rate, t: float, h: float, y: Tensor, k1: Tensor) -> Step:
        """The same with a step that all samples share, its start and size known to the host."""
        return self._kept(t, y, k1, lambda y, k1: self.method.shared_step(rate, t, h, y, k1))

    @property
    def bytes(self) -> int:
        """Memory of the graphs kept."""
        return 0 if self.graphs is None else len(self.graphs) * self._each

    def sweep(self, end: Tensor, count: int) -> Sweep | None:
        """Sweep over the graphs of a solve that reached ``end`` in ``count`` steps, if they were kept."""
        if self.graphs is not None:
            self._drop_if_rejected(end)
        if self.graphs is None or len(self.graphs) != count:
            return None
        return partial(_sweep, self.graphs)

    def _drop_if_rejected(self, t: Tensor | float) -> None:
        last = self._last
        if self.graphs and last is not None and _equal(t, last):
            self.graphs.pop()


def _equal(a: Tensor | float, b: Tensor | float) -> bool:
    """Compare times, of all samples or one for all."""
    if isinstance(a, Tensor) and isinstance(b, Tensor):
        return a.shape == b.shape and torch.equal(a, b)
    return float(a) == float(b)


class _Measured(torch.autograd.graph.saved_tensors_hooks):
    """Count the bytes of the tensors that a graph keeps alive."""

    def __init__(self, held: set[int]) -> None:
        self._held, self._kept = held, dict[int, int]()
        super().__init__(self._pack, lambda x: x)

    def _pack(self, x: Tensor) -> Tensor:
        storage = x.untyped_storage()
        if storage.data_ptr() not in self._held:
            self._kept[storage.data_ptr()] = storage.nbytes()
        return x

    @property
    def bytes(self) -> int:
        """Sum over the tensors seen so far."""
        return sum(self._kept.values())


def _sweep(
    graphs: list[Graph], problem: Problem, steps: Steps, outer: Cotangents | SharedCotangents, params: Sequence[Tensor]
) -> list[Tensor | None]:
    """Pull the gradient back through the kept graphs, which are used up unless the caller keeps his."""
    if len(graphs) < len(steps.size):
        return repeat(problem, steps, outer, params)
    again = torch._C._autograd._get_current_graph_task_keep_graph()
    moved = (steps.size > 0).unsqueeze(-1)
    all_move = moved.shape[1] == 1 or bool(moved.all())
    totals: list[Tensor | None] = [None] * len(params)
    state_grad, rate_grad = outer.nodes[-1], None
    for n in range(len(graphs) - 1, -1, -1):
        graph = graphs[n] if again else graphs.pop()
        arriving, at_last, passing, waiting = state_grad, rate_grad, outer.nodes[n], None
        if not all_move:
            arriving, passing = torch.where(moved[n], state_grad, 0.0), passing + torch.where(moved[n], 0.0, state_grad)
            if rate_grad is not None:
                # the rate that a step begins with belongs to the last step in which the sample moved
                at_last, waiting = torch.where(moved[n], rate_grad, 0.0), torch.where(moved[n], 0.0, rate_grad)
        outputs, weights = [graph.y1], [arriving]
        if at_last is not None and graph.last.requires_grad:
            outputs, weights = [*outputs, graph.last], [*weights, at_last]
        if outer.inside[n]:
            outputs, weights = [*outputs, *graph.coef], [*weights, *outer.coef(n, len(graph.coef))]
        wanted = [graph.y, graph.first, *params]
        found = torch.autograd.grad(outputs, wanted, weights, allow_unused=True, retain_graph=again)
        state_grad = passing + found[0]
        rate_grad = add(found[1], waiting)
        _accumulate(totals, found[2:])
    if rate_grad is not None:
        with torch.enable_grad():
            y = steps.states[0].detach().requires_grad_()
            rate = problem.field(steps.times[0], y)
        if rate.requires_grad:
            own, *found = torch.autograd.grad(rate, [y, *params], rate_grad, allow_unused=True)
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
