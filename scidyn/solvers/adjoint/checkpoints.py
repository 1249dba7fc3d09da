"""The discrete adjoint with a bound on the states kept: steps are taken again in the sweep.

The forward solve keeps the states of every m-th step in half of the places. The backward sweep uses the
other half, and those it has finished with, for the states between: by the binomial schedule s free places
and r repetitions of a step serve C(s + r + 1, r) steps.

References
----------
A. Griewank, A. Walther, Algorithm 799: Revolve, ACM Trans. Math. Softw. 26, 19–45, 2000.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import NamedTuple

import torch
from torch import Tensor

from scidyn.errors import OptionError
from scidyn.solvers.adjoint.records import Steps, add
from scidyn.solvers.arguments import Problem

__all__ = ["Checkpoints", "Kept", "by_segments", "check_checkpoints"]

Sweep = Callable[[Steps, int, Tensor], list[Tensor | None]]


class Kept(NamedTuple):
    """Numbers of the steps at whose start a state was kept, and the largest number of states."""

    steps: tuple[int, ...]
    limit: int


class Checkpoints:
    """States on the way, in half of ``limit`` places; when they are full every second one is dropped.

    Parameters
    ----------
    limit : int
        Largest number of states, at least 2.
    start : Tensor, shape (batch, D)
        Initial state, the first of them.
    """

    def __init__(self, limit: int, start: Tensor) -> None:
        self.limit = limit
        self.places = (limit + 1) // 2
        self.spacing = 1
        self.states: dict[int, Tensor] = {0: start.detach()}

    def __call__(self, count: int, y: Tensor, carry: tuple[Tensor, ...]) -> None:
        """Store the state after ``count`` recorded steps if it is due."""
        if self.places == 1 or count - max(self.states) < self.spacing:
            return
        if len(self.states) == self.places:
            self.spacing = 2 * max(self.spacing, count // self.places)
            last = -self.spacing
            for n in list(self.states):
                if n - last < self.spacing:
                    del self.states[n]
                else:
                    last = n
            if count - max(self.states) < self.spacing:
                return
        if len(self.states) < self.places:
            self.states[count] = y.detach().clone()


def check_checkpoints(adjoint: str | None) -> None:
    """Refuse adjoints that keep no states, or all.

    Raises
    ------
    OptionError
        If the adjoint is not the discrete one.
    """
    if adjoint not in ("auto", "discrete", "timeparallel", None):
        raise OptionError(f"checkpoints bounds the memory of adjoint='discrete'; got adjoint={adjoint!r}.")


def by_segments(problem: Problem, steps: Steps, kept: Kept, last: Tensor, sweep: Sweep) -> list[Tensor | None]:
    """Sweep from the last segment to the first.

    ``steps.states`` are those kept. ``sweep(steps, low, state_grad)`` goes over consecutive steps that begin
    at step ``low``; ``last`` is the gradient at the end of the last one. Gives the gradient at the start,
    then those of the parameters.
    """
    backwards = _Backwards(problem, steps, last, sweep)
    high = len(steps.size)
    for place in reversed(range(len(kept.steps))):
        low = kept.steps[place]
        if low < high:
            backwards.go(low, high, steps.states[place], kept.limit - place - 1)
            high = low
    return [backwards.state_grad, *backwards.totals]


class _Backwards:
    """The sweep so far: gradients at the start of the steps done, and of the parameters."""

    def __init__(self, problem: Problem, steps: Steps, last: Tensor, sweep: Sweep) -> None:
        self.problem, self.steps, self.sweep = problem, steps, sweep
        self.state_grad = last
        self.totals: list[Tensor | None] = []

    def go(self, low: int, high: int, y: Tensor, free: int) -> None:
        """Sweep from ``high`` to ``low``, where the state is ``y``, with ``free`` places for states between."""
        while high - low - 1 > free:
            middle = low + _split(high - low, free)
            later = self._forward(low, middle, y, keep=False)[-1]
            if free:
                self.go(middle, high, later, free - 1)
            else:
                self._step(middle, high, [later])
            high = middle
        self._step(low, high, self._forward(low, high - 1, y))

    def _step(self, low: int, high: int, states: Sequence[Tensor]) -> None:
        """Pull the gradient back through consecutive steps whose states are known."""
        whole = self.steps
        used = None if whole.choice is None else whole.choice[low:high]
        part = Steps(whole.times[low : high + 1], whole.size[low:high], torch.stack(list(states)), used)
        first, *found = self.sweep(part, low, self.state_grad)
        self.state_grad = self.state_grad if first is None else first
        self.totals = [add(a, b) for a, b in zip(self.totals or [None] * len(found), found, strict=True)]

    @torch.no_grad()
    def _forward(self, low: int, high: int, y: Tensor, *, keep: bool = True) -> list[Tensor]:
        """Take steps ``low`` to ``high`` again; gives the states at the nodes, or the last only."""
        states = [y]
        for n in range(low, high):
            formula = self.steps.formula(self.problem.method, n)
            h = self.steps.size[n]
            y1 = formula.replay(self.problem.field, self.steps.times[n], h, y, dense=False).y1
            y = torch.where((h > 0).unsqueeze(-1), y1, y)
            if keep:
                states.append(y)
            else:
                states = [y]
        return states


def _split(count: int, free: int) -> int:
    """Number of steps before the next state to keep, by the binomial schedule."""
    if free == 0:
        return count - 1
    repeats = 0
    while math.comb(free + 1 + repeats, repeats) < count:
        repeats += 1
    return count - min(count - 1, math.comb(free + repeats, repeats))
