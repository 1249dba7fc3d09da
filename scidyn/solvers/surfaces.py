"""The caller's events seen by the solver: functions of rows in increasing time, checked."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor

from scidyn._check.values import choice, integer
from scidyn.errors import NonFiniteError, OptionError, ShapeError
from scidyn.solvers.crossing import Value
from scidyn.solvers.events import Event
from scidyn.solvers.field import Field

__all__ = ["Jump", "Surface", "check_events", "check_values", "jump_on_rows", "surfaces_of", "takes_args"]

Jump = Callable[[Tensor, Tensor], Tensor]


class Surface(NamedTuple):
    """An event in the solver's own coordinates.

    Attributes
    ----------
    value : callable
        Times (batch,) and rows (batch, D) to values (batch,), in increasing time.
    rising, falling : bool
        Which crossings count.
    ends : bool
        True if the event ends a sample's solve.
    limit : int or None
        Crossing at which it ends it, or beyond which it is ignored.
    jump : callable or None
        Times and rows to rows.
    """

    value: Value
    rising: bool
    falling: bool
    ends: bool
    limit: int | None
    jump: Jump | None


def check_events(events: Any) -> tuple[Event, ...]:
    """Check events and give them as a tuple.

    Raises
    ------
    OptionError
        If one is not an Event, or an entry of it has a value that is not allowed.
    """
    given = (events,) if isinstance(events, Event) else tuple(events) if isinstance(events, Sequence) else ()
    if not given or not all(isinstance(e, Event) for e in given):
        raise OptionError(f"events must be an Event or a sequence of them; got {type(events).__name__}.")
    for i, event in enumerate(given):
        for name, function in (("fn", event.fn), ("jump", event.jump)):
            if not callable(function) and not (name == "jump" and function is None):
                raise OptionError(f"{name} of event {i} must be a function; got {type(function).__name__}.")
        choice(f"direction of event {i}", event.direction, (-1, 0, 1))
        choice(f"terminal of event {i}", event.terminal, (None, True, False))
        if event.max_count is not None:
            integer(f"max_count of event {i}", event.max_count, at_least=1)
    return given


def surfaces_of(events: Sequence[Event], field: Field) -> tuple[Surface, ...]:
    """Bring events into the solver's coordinates."""
    found = []
    for i, event in enumerate(events):
        direction = event.direction if field.sign > 0 else -event.direction
        limit = event.max_count if event.max_count is not None else 1 if event.ends else None
        jump = None if event.jump is None else jump_on_rows(event.jump, field, f"jump of event {i}")
        value = _on_rows(event.fn, field, f"the event function of event {i}")
        found.append(Surface(value, direction >= 0, direction <= 0, event.ends, limit, jump))
    return tuple(found)


def _on_rows(function: Callable[..., Tensor], field: Field, name: str) -> Value:
    """The event function on rows."""
    call = _with_args(function, field.args)

    def value(t: Tensor, y: Tensor) -> Tensor:
        g = call(*_as_seen(field, t, y))
        expected = (len(y),) if len(field.shape) > 1 else ()
        if not isinstance(g, Tensor):
            raise ShapeError(f"{name} returned a {type(g).__name__}; a tensor of shape {expected} is needed.")
        if g.shape != expected and not (expected == () and g.numel() == 1):
            raise ShapeError(
                f"{name} returned shape {tuple(g.shape)}; {expected} is needed: one number for each sample, "
                "whose sign tells the side."
            )
        if not g.is_floating_point():
            raise ShapeError(f"{name} returned dtype {g.dtype}; real numbers that change sign are needed.")
        return g.reshape(len(y))

    return value


def jump_on_rows(function: Callable[..., Tensor], field: Field, name: str) -> Jump:
    """A jump map on rows."""
    call = _with_args(function, field.args)

    def jump(t: Tensor, y: Tensor) -> Tensor:
        after = call(*_as_seen(field, t, y))
        if not isinstance(after, Tensor) or after.shape != field.shape:
            shown = tuple(after.shape) if isinstance(after, Tensor) else type(after).__name__
            raise ShapeError(f"{name} returned shape {shown}, the state has {tuple(field.shape)}.")
        if after.dtype != y.dtype or after.device != y.device:
            raise ShapeError(
                f"{name} returned {after.dtype} on {after.device}, the state is {y.dtype} on {y.device}: "
                "convert what it adds to the state's dtype and device."
            )
        return after.reshape(y.shape)

    return jump


def _as_seen(field: Field, t: Tensor, y: Tensor) -> tuple[Tensor, Tensor]:
    """Time and state in the shapes that f receives."""
    time = (field.sign * t).to(y.real.dtype)
    return time if field.per_sample and len(field.shape) > 1 else time[0], y.reshape(field.shape)


def _with_args(function: Callable[..., Tensor], args: Any) -> Callable[[Tensor, Tensor], Tensor]:
    """Give ``args`` to a function that takes three arguments."""
    return (lambda t, y: function(t, y, args)) if takes_args(function) else function


def takes_args(function: Callable[..., Any]) -> bool:
    """True if a function of an event or a jump takes three arguments."""
    target = function.forward if isinstance(function, torch.nn.Module) else function
    try:
        parameters = inspect.signature(target).parameters.values()
    except (TypeError, ValueError):
        return False
    positional = [p for p in parameters if p.kind in (p.POSITIONAL_ONLY, p.POSITIONAL_OR_KEYWORD)]
    return sum(p.default is inspect.Parameter.empty for p in positional) >= 3


def check_values(values: Tensor, moved: Tensor, t: Tensor, sign: float) -> None:
    """Refuse values (events, batch) that are not finite in the rows that ``moved``.

    Raises
    ------
    NonFiniteError
        With the event, the sample and the time of the first.
    """
    bad = (moved & ~torch.isfinite(values)).nonzero()
    if len(bad):
        event, sample = bad[0].tolist()
        raise NonFiniteError(
            f"the event function of event {event} returned {values[event, sample].item()} for sample {sample} at "
            f"t={sign * t[sample].item():.6g}: give it a finite value wherever the solution goes."
        )
