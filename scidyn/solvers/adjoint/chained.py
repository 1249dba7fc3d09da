"""Autograd through shared steps as they are taken: one forward pass, refused steps leave no trace in the graph."""

from __future__ import annotations

from typing import Any, NamedTuple

import torch
from torch import Tensor

from scidyn.solvers.adjoint.compiled_step import SharedStep
from scidyn.solvers.adjoint.measured import Measured
from scidyn.solvers.adjoint.records import SharedCotangents, Steps
from scidyn.solvers.dense import locate
from scidyn.solvers.loop import Trace
from scidyn.solvers.methods.stepper import Rate, Step

__all__ = ["Chain"]


class _Link(NamedTuple):
    """One step: its time, its start and what it gave, all with their graphs."""

    t: float
    y: Tensor
    taken: Step


class Chain:
    """Takes each shared step from the graph of the last one, up to a size.

    Parameters
    ----------
    take : callable
        ``take(rate, t, h, y, k1)`` takes a step of the host's numbers ``t`` and ``h``.
    y0, k1 : Tensor, shape (batch, D)
        Initial state and rate with their graphs.
    limit : int or None
        Largest number of bytes that the graphs may hold; beyond it all are dropped. None: no limit.
    each : int
        Bytes of the graph of one step; zero if they are to be counted in the first.
    """

    def __init__(self, take: SharedStep, y0: Tensor, k1: Tensor, limit: int | None, each: int = 0) -> None:
        self._take = take
        self.limit = limit
        self.links: list[_Link] | None = []
        self._start = (y0, k1)
        self._each = each

    @property
    def bytes(self) -> int:
        """Memory of the graphs kept, counted in the first step."""
        return 0 if self.links is None else len(self.links) * self._each

    def __call__(self, rate: Rate, t: float, h: float, y: Tensor, k1: Tensor) -> Step:
        """Take a step; one that begins where the last one began replaces it."""
        if self.links is None:
            return self._take(rate, t, h, y, k1)
        if self.links and self.links[-1].t == t:
            self.links.pop()
        y, k1 = (self.links[-1].taken.y1, self.links[-1].taken.carry[0]) if self.links else self._start
        with torch.enable_grad():
            if self._each:
                taken = self._take(rate, t, h, y, k1)
            else:
                with (measured := Measured(y, k1)):
                    taken = self._take(rate, t, h, y, k1)
                self._each = max(1, measured.bytes)
        self.links.append(_Link(t, y, taken))
        if self.limit is not None and self.bytes > self.limit:
            self.links = None
        err = None if taken.err is None else taken.err.detach()
        return Step(taken.y1.detach(), (taken.carry[0].detach(),), err, tuple(c.detach() for c in taken.coef))

    def attach(self, trace: Trace, wanted: Tensor) -> Tensor | None:
        """Give ``trace.y`` its gradient, or None if the graphs were dropped."""
        count = len(trace.size)
        if self.links is not None and len(self.links) == count + 1:
            self.links.pop()
        if self.links is None or len(self.links) != count:
            return None
        index, theta = locate(trace.times, wanted)
        pieces: list[Tensor] = []
        for link in self.links:
            pieces += [link.y, torch.stack(link.taken.coef)]
        steps = Steps(trace.times, trace.size, trace.states)
        return _Reported.apply((trace.y,), steps, index, theta, self.links[-1].taken.y1, *pieces)


class _Reported(torch.autograd.Function):
    """The reported states as a function of where the steps start, of the last end and of the polynomials."""

    @staticmethod
    def forward(
        ctx: Any, y: tuple[Tensor], steps: Steps, index: Tensor, theta: Tensor, end: Tensor, *pieces: Tensor
    ) -> Tensor:
        ctx.steps, ctx.powers = steps._replace(states=end.new_empty(0)), len(pieces[1])
        ctx.save_for_backward(index, theta)
        return y[0]

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
        index, theta = ctx.saved_tensors
        outer = SharedCotangents.of(ctx.steps, index, theta, grad)
        found: list[Tensor | None] = []
        for n in range(len(ctx.steps.size)):
            found += [outer.nodes[n], outer.coefs(n, n + 1, ctx.powers)[0] if outer.inside[n] else None]
        return None, None, None, None, outer.nodes[-1], *found
