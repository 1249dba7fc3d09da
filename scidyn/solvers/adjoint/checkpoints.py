"""The discrete adjoint with a bound on the states kept: segments of steps are taken again in the sweep."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch
from torch import Tensor

from scidyn.errors import OptionError
from scidyn.solvers.adjoint.records import Steps, add
from scidyn.solvers.arguments import Problem
from scidyn.solvers.methods.explicit_rk import ExplicitRK
from scidyn.solvers.methods.stepper import Method

__all__ = ["Checkpoints", "by_segments", "check_checkpoints"]

Sweep = Callable[[Steps, int, Tensor], list[Tensor | None]]


class Checkpoints:
    """At most ``limit`` states on the way; when they are full every second one is dropped.

    Parameters
    ----------
    limit : int
        Largest number of states, at least 2.
    start : Tensor, shape (batch, D)
        Initial state, the first of them.
    """

    def __init__(self, limit: int, start: Tensor) -> None:
        self.limit = limit
        self.spacing = 1
        self.states: dict[int, Tensor] = {0: start.detach()}

    def __call__(self, count: int, y: Tensor, carry: tuple[Tensor, ...]) -> None:
        """Store the state after ``count`` recorded steps if it is due."""
        if count - max(self.states) < self.spacing:
            return
        if len(self.states) == self.limit:
            self.spacing = 2 * max(self.spacing, count // self.limit)
            last = -self.spacing
            for n in list(self.states):
                if n - last < self.spacing:
                    del self.states[n]
                else:
                    last = n
            if count - max(self.states) < self.spacing:
                return
        if len(self.states) < self.limit:
            self.states[count] = y.detach().clone()


def check_checkpoints(method: Method, adjoint: str | None) -> None:
    """Refuse what the segments cannot repeat exactly.

    Raises
    ------
    OptionError
        If the adjoint is not the discrete one, or the method not an explicit Runge–Kutta method.
    """
    if adjoint not in ("auto", "discrete", None):
        raise OptionError(f"checkpoints bounds the memory of adjoint='discrete'; got adjoint={adjoint!r}.")
    if not isinstance(method, ExplicitRK):
        raise OptionError(
            f"checkpoints needs an explicit Runge-Kutta method, whose steps can be repeated; got {method.name!r}: "
            "leave it out, or use method='tsit5'."
        )


def by_segments(
    problem: Problem, times: Tensor, size: Tensor, kept: dict[int, Tensor], last: Tensor, sweep: Sweep
) -> list[Tensor | None]:
    """Sweep from the last segment to the first.

    ``sweep(steps, low, state_grad)`` goes over one segment that begins at step ``low``; ``last`` is the
    gradient at the end of the last one. Gives the gradient at the start, then those of the parameters.
    """
    totals: list[Tensor | None] = []
    high = len(size)
    for low in sorted(kept, reverse=True):
        if low >= high:
            continue
        states, y = [], kept[low]
        for n in range(low, high):
            states.append(y)
            if n + 1 < high:
                y = _again(problem, times[n], size[n], y)
        steps = Steps(times[low : high + 1], size[low:high], torch.stack(states))
        found = sweep(steps, low, last)
        last, high = found[0] if found[0] is not None else last, low
        parts: Sequence[Tensor | None] = totals or [None] * (len(found) - 1)
        totals = [add(total, new) for total, new in zip(parts, found[1:], strict=True)]
    return [last, *totals]


@torch.no_grad()
def _again(problem: Problem, t: Tensor, h: Tensor, y: Tensor) -> Tensor:
    """Take one recorded step again; a sample that did not move stays."""
    y1 = problem.method.replay(problem.field, t, h, y, dense=False).y1
    return torch.where((h > 0).unsqueeze(-1), y1, y)
