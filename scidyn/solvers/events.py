"""Surfaces that a solution crosses: what happens there, and when it did."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, NamedTuple

from torch import Tensor

__all__ = ["Event", "EventRecord"]


class Event(NamedTuple):
    r"""A surface that each sample may cross, and what the crossing does.

    .. math:: g(t, y) = 0

    A crossing is a change of sign of ``g`` between the ends of two steps, at a time of the sample's own. It
    ends the solve of this sample (``terminal``), changes its state (``jump``), or is only recorded. Two
    crossings within one step are not seen: bound the step with ``dt_max`` if they may lie that close. A start
    on the surface is not a crossing, neither is that of a jump which leaves the state there: the direction in
    which the solution leaves the surface decides on which side it is.

    Parameters
    ----------
    fn : callable
        ``fn(t, y)``, or ``fn(t, y, args)`` if it takes three arguments: ``g`` of shape (batch,), or a scalar if
        ``y0`` has no batch. It receives ``t`` and ``y`` in the shapes that ``f`` receives, and the value for one
        sample may depend on that sample only. Tensors that it uses receive gradients.
    direction : int
        +1 for crossings at which ``g`` rises with ``t``, −1 for those at which it falls, 0 (default) for both.
    terminal : bool, optional
        True ends the solve of the sample at the crossing. Left out: True without a jump, False with one.
    jump : callable, optional
        ``jump(t, y)`` or ``jump(t, y, args)`` gives the states after the crossing, of the shape of ``y``. It is
        called with all samples; those that are not at the event keep their state.
    max_count : int, optional
        A terminal event ends the solve at this crossing, by default the first, and until then acts as one that
        is not terminal. Any other event ignores crossings beyond this number; by default there is no limit.

    Examples
    --------
    A ball that keeps 0.8 of its speed at each impact; the time of the second impact and how it depends on the
    height:

    >>> import torch
    >>> from scidyn.solvers import Event, solve_ode
    >>> fall = lambda t, y: torch.stack([y[:, 1], torch.full_like(y[:, 1], -9.81)], dim=1)
    >>> bounce = lambda t, y: torch.stack([y[:, 0], -0.8 * y[:, 1]], dim=1)
    >>> height = torch.tensor([10.0, 20.0], dtype=torch.float64, requires_grad=True)
    >>> start = torch.stack([height, torch.zeros(2, dtype=torch.float64)], dim=1)
    >>> ground = Event(lambda t, y: y[:, 0], direction=-1, jump=bounce)
    >>> solution = solve_ode(fall, start, [0.0, 5.0], stepping="per_sample", events=ground)
    >>> solution.events.count.tolist()
    [2, 1]
    >>> second = solution.events.t[0, 1]
    >>> round(second.item(), 4), round(torch.autograd.grad(second, height)[0][0].item(), 4)
    (3.7124, 0.1856)
    """

    fn: Callable[..., Tensor]
    direction: int = 0
    terminal: bool | None = None
    jump: Callable[..., Tensor] | None = None
    max_count: int | None = None

    @property
    def ends(self) -> bool:
        """True if the event ends the solve of a sample."""
        return self.jump is None if self.terminal is None else self.terminal


@dataclass(frozen=True)
class EventRecord:
    """The crossings of one event, in the order in which they were met.

    K is the largest number that a sample has met, at least one; missing entries hold NaN.

    Attributes
    ----------
    count : Tensor of int64, shape (batch,)
        Number of crossings.
    t : Tensor, shape (batch, K)
        Their times, differentiable.
    before : Tensor, shape (batch, K, *state)
        States at these times, differentiable.
    after : Tensor, shape (batch, K, *state)
        States after the jump; equal to ``before`` if the event has none. Both have the structure of ``y0``.

    Examples
    --------
    >>> import torch
    >>> from scidyn.solvers import Event, solve_ode
    >>> y0 = torch.tensor([[1.0], [8.0]], dtype=torch.float64)
    >>> half = Event(lambda t, y: y[:, 0] - 2.0)
    >>> solution = solve_ode(lambda t, y: -y, y0, [0.0, 4.0], stepping="per_sample", events=half)
    >>> solution.events.count.tolist(), round(solution.events.t[1, 0].item(), 5)
    ([0, 1], 1.38629)
    """

    count: Tensor
    t: Tensor
    before: Any
    after: Any
