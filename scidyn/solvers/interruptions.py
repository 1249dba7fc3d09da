"""What interrupts a solve on its way: events and jumps at given times, checked."""

from __future__ import annotations

from typing import Any, NamedTuple

import torch
from torch import Tensor

from scidyn._check.tensors import finite
from scidyn.errors import OptionError, ShapeError, TimeGridError
from scidyn.solvers.arguments import Problem
from scidyn.solvers.events import Event
from scidyn.solvers.surfaces import Jump, Surface, check_events, jump_on_rows, surfaces_of

__all__ = ["Interruptions", "find_interruptions"]


class Interruptions(NamedTuple):
    """Events and jumps in the solver's own coordinates.

    Attributes
    ----------
    surfaces : tuple of Surface
        The events.
    alone : bool
        True if the caller gave one event, not a sequence.
    times : Tensor, shape (1, J) or (batch, J)
        Increasing times of jumps, infinite where a row has no more; attached to the caller's graph.
    jump : callable or None
        What happens to the state there.
    """

    surfaces: tuple[Surface, ...]
    alone: bool
    times: Tensor
    jump: Jump | None


def find_interruptions(problem: Problem, backend: str, events: Any, jump_times: Any, jump: Any) -> Interruptions | None:
    """Check what interrupts the solve; None if nothing does.

    Raises
    ------
    OptionError
        If the options do not go together.
    ShapeError
        If ``jump_times`` has a wrong shape.
    TimeGridError
        If a jump lies outside the span.
    """
    if jump is not None and jump_times is None:
        raise OptionError("jump needs jump_times, the times at which it acts: pass them, or an Event with a jump.")
    if events is None and jump_times is None:
        return None
    if backend != "native":
        raise OptionError(f"events and jump_times need backend='native'; got {backend!r}.")
    surfaces = () if events is None else _surfaces(problem, events)
    times = problem.start.new_zeros((len(problem.start), 0)) if jump_times is None else _times(problem, jump_times)
    if jump is not None and not callable(jump):
        raise OptionError(f"jump must be a function jump(t, y); got {type(jump).__name__}.")
    on_rows = None if jump is None else jump_on_rows(jump, problem.field, "jump")
    return Interruptions(surfaces, isinstance(events, Event), times, on_rows)


def _surfaces(problem: Problem, events: Any) -> tuple[Surface, ...]:
    """Check the events and that each sample can have times of its own."""
    known = check_events(events)
    batch = len(problem.y0)
    if problem.stepping == "fixed":
        raise OptionError(
            f"events need adaptive steps, which can end at an event; got stepping='fixed' with method "
            f"{problem.method.name!r}: use method='tsit5'."
        )
    if problem.stepping != "per_sample" and batch > 1:
        raise OptionError(
            f"events need stepping='per_sample' with a batch of {batch}: shared steps keep all samples at one time, "
            "but each meets an event at its own."
        )
    return surfaces_of(known, problem.field)


def _times(problem: Problem, jump_times: Any) -> Tensor:
    """Bring the times of jumps into increasing rows."""
    start, end = problem.start.detach(), problem.end.detach()
    try:
        known = isinstance(jump_times, Tensor)
        given = torch.as_tensor(jump_times, dtype=None if known else start.dtype).to(start)
    except (TypeError, ValueError, RuntimeError) as reason:
        raise ShapeError(f"jump_times must be numbers; got {type(jump_times).__name__}: {reason}") from None
    own = given.ndim == 2
    if given.ndim not in (1, 2) or (own and given.shape[0] != len(problem.y0)):
        raise ShapeError(f"jump_times must have shape (J,) or (batch, J); got {tuple(given.shape)}.")
    if own and problem.stepping != "per_sample":
        raise OptionError(
            f"jump_times of shape {tuple(given.shape)} give each sample its own jumps: pass stepping='per_sample'."
        )
    if not own:
        finite("jump_times", given.detach())
    rows = problem.field.sign * (given if own else given.expand(len(start), -1))
    values = rows.detach()
    outside = (values < start.unsqueeze(1)) | (values > end.unsqueeze(1))
    # samples with times of their own may end before a jump that all have
    wrong = outside if own else outside.all(dim=0, keepdim=True)
    if bool(wrong.any()):
        row, column = wrong.nonzero()[0].tolist()
        first, last = (problem.field.sign * x[row].item() for x in (start, end))
        raise TimeGridError(
            f"jump time {problem.field.sign * values[row, column].item():g} is outside the span {first:g} to {last:g}: "
            "leave it out."
        )
    return torch.where(outside | torch.isnan(values), torch.inf, rows).sort(dim=1).values
