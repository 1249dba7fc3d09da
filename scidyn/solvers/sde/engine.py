"""Stepping over a plan: the loop that forward solves and gradients share."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Protocol

import torch
from torch import Tensor

from scidyn.solvers.brownian.noise import Noise, gather
from scidyn.solvers.brownian.tree import BrownianTree
from scidyn.solvers.sde.methods.method import Carry, Method, given
from scidyn.solvers.sde.plan import Plan
from scidyn.solvers.sde.terms import Terms

__all__ = ["BLOCK", "Run", "Source", "TreeSteps", "advance"]

BLOCK = 64


class Source(Protocol):
    """Noise by step number."""

    def block(self, start: int, stop: int) -> Noise:
        """Noise of the steps ``start … stop - 1``, stacked."""


class TreeSteps:
    """A tree, or any object with ``increment(s, t)``, asked for the steps of a plan."""

    def __init__(self, tree: BrownianTree, plan: Plan) -> None:
        self.tree, self.nodes = tree, plan.nodes

    def block(self, start: int, stop: int) -> Noise:
        """Noise of the steps ``start … stop - 1``, stacked."""
        steps = [self.tree.increment(self.nodes[n], self.nodes[n + 1]) for n in range(start, stop)]
        return gather(steps, torch.stack)


class Run:
    """What does not change during a solve."""

    def __init__(self, method: Method, terms: Terms, plan: Plan, source: Source) -> None:
        self.method, self.terms, self.plan, self.source = method, terms, plan, source
        self.step = method.step
        self.block: int = getattr(source, "chunk", BLOCK)

    def noise(self, start: int, stop: int) -> list[tuple[Tensor, ...]]:
        """What the method needs of the noise, step by step."""
        noise = self.source.block(start, stop)
        if self.method.derive is given:
            return list(zip(*(x.unbind(0) for x in noise if x is not None), strict=True))
        derived = self.method.derive(noise, self.plan.sizes(start, stop, noise.W))
        return list(zip(*(x.unbind(0) for x in derived), strict=True))


def advance(run: Run, y: Tensor, carry: Carry, start: int, stop: int) -> Iterator[tuple[int, Tensor, Carry]]:
    """Step from node ``start`` to node ``stop``, yielding each node with its state."""
    step, terms, plan = run.step, run.terms, run.plan
    while start < stop:
        end = min(stop, (start // run.block + 1) * run.block)
        noises = run.noise(start, end)
        times = plan.stage_times(start, end, run.method.nodes, y)
        sizes = [plan.size(n) for n in range(start, end)]
        for n, ts, h, noise in zip(range(start + 1, end + 1), times, sizes, noises, strict=True):
            y, carry, _ = step(terms, ts, h, y, noise, carry)
            yield n, y, carry
        start = end
