"""What ends a solve before its last time, and when it did."""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

from torch import Tensor

__all__ = ["Event", "EventRecord"]


class Event(NamedTuple):
    r"""A surface at which a sample's solve ends.

    .. math:: g(t, y) = 0

    The first change of sign of ``g`` between the ends of steps counts; a double crossing within one step is
    not seen, so bound the step with ``dt_max`` if crossings may lie close together.

    Parameters
    ----------
    fn : callable
        ``fn(t, y)`` with ``t`` (batch,) and ``y`` (batch, *state) gives ``g`` of shape (batch,).
    direction : int
        +1 for rising crossings only, −1 for falling ones, 0 (default) for both.

    Examples
    --------
    >>> import torch
    >>> from scidyn.solvers import Event, solve_ode
    >>> fall = lambda t, y: torch.stack([y[:, 1], torch.full_like(t, -9.81)], dim=1)
    >>> height = torch.tensor([10.0, 20.0], dtype=torch.float64, requires_grad=True)
    >>> start = torch.stack([height, torch.zeros(2, dtype=torch.float64)], dim=1)
    >>> ground = Event(lambda t, y: y[:, 0], direction=-1)
    >>> solution = solve_ode(fall, start, [0.0, 5.0], stepping="per_sample", events=ground)
    >>> [round(time, 4) for time in solution.events.t.tolist()]
    [1.4278, 2.0193]
    """

    fn: Callable[[Tensor, Tensor], Tensor]
    direction: int = 0


class EventRecord(NamedTuple):
    """The event of each sample; NaN where none was met.

    Parameters
    ----------
    t : Tensor, shape (batch,)
        Times, differentiable.
    y : Tensor, shape (batch, *state)
        States at these times.

    Examples
    --------
    >>> import torch
    >>> from scidyn.solvers import EventRecord
    >>> EventRecord(torch.tensor([1.0]), torch.tensor([[0.0]])).t.item()
    1.0
    """

    t: Tensor
    y: Tensor
