"""Find each sample's event without a graph, then solve up to it with one."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from scidyn._check.values import choice
from scidyn.errors import OptionError, ShapeError
from scidyn.solvers.arguments import Problem, prepare
from scidyn.solvers.crossing import Value, first_crossing, newton_time
from scidyn.solvers.dense import Records
from scidyn.solvers.events import Event, EventRecord
from scidyn.solvers.failure import report
from scidyn.solvers.loop import integrate
from scidyn.solvers.solution import Solution
from scidyn.solvers.status import Status

__all__ = ["check_events", "solve_to_event"]


def check_events(events: Event, backend: str, stepping: str | None, dense: bool) -> None:
    """Refuse options that events do not go with."""
    choice("direction", events.direction, (-1, 0, 1))
    if stepping != "per_sample":
        raise OptionError(f"events need stepping='per_sample', as samples end at different times; got {stepping!r}.")
    if backend != "native" or dense:
        raise OptionError("events need backend='native' and dense=False: leave the other options out.")


def solve_to_event(
    solve: Callable[..., Solution],
    event: Event,
    f: Callable[..., Tensor],
    y0: Tensor,
    t: Any,
    args: Any,
    options: dict[str, Any],
    extra: dict[str, Any],
) -> Solution:
    """Solve every sample up to its event, or to its last time."""
    problem = prepare(f, y0, t, args=args, **options)
    sign, count = problem.field.sign, problem.times.shape[1]
    value = _value(event, problem)
    found, met = _search(problem, value, event.direction if sign > 0 else -event.direction)
    met = met & (found <= problem.end)
    stop = torch.where(met, found, problem.end.detach())
    inside = problem.times.detach() <= stop.unsqueeze(1)
    columns = torch.where(inside, problem.times, torch.inf)
    ordered = torch.cat([columns, stop.unsqueeze(1)], dim=1).sort(dim=1, stable=True).values
    wanted = sign * torch.where(torch.isinf(ordered), stop.unsqueeze(1), ordered)
    silent = {**extra, "on_failure": "return"}
    solution = solve(f, y0.reshape(-1, *problem.state), wanted, args=args, **options, **silent)
    last = inside.sum(dim=1)
    rows = torch.arange(len(last), device=last.device)
    end = solution.y[rows, last].reshape(len(last), -1)
    arrived = met & torch.isfinite(end.detach()).all(dim=-1)
    safe = torch.where(arrived.unsqueeze(1), end, problem.y0.detach())
    time, state, grazing = newton_time(value, problem.field, stop, safe)
    times = (sign * time).masked_fill(~arrived, torch.nan)
    states = state.masked_fill(~arrived.unsqueeze(1), torch.nan).reshape(-1, *problem.state)
    y = solution.y[:, :count].masked_fill(~inside.reshape(*inside.shape, *[1] * len(problem.state)), torch.nan)
    status = tuple(
        (Status.EVENT_GRAZING if touch else Status.EVENT) if hit else old
        for hit, touch, old in zip(arrived.tolist(), grazing.tolist(), solution.status, strict=True)
    )
    shown = dataclasses.replace(solution, t=problem.user_times, y=y, status=status, events=EventRecord(times, states))
    return report(shown, torch.zeros_like(stop), extra["on_failure"])


def _value(event: Event, problem: Problem) -> Value:
    """The event function on rows in increasing time."""

    def value(t: Tensor, y: Tensor) -> Tensor:
        g = event.fn((problem.field.sign * t).to(y.real.dtype), y.reshape(-1, *problem.state))
        if g.shape != t.shape:
            raise ShapeError(f"the event function returned shape {tuple(g.shape)}; {tuple(t.shape)} is needed.")
        return g

    return value


@torch.no_grad()
def _search(problem: Problem, value: Value, direction: int) -> tuple[Tensor, Tensor]:
    """Time of the first crossing of each sample; samples that fail later keep theirs."""
    k1 = problem.field.probe(problem.start, problem.y0)
    trace = integrate(problem, k1, keep_states=True, keep_coef=True)
    if trace.coef is None:
        return torch.full_like(trace.final.t, torch.nan), torch.zeros_like(trace.final.t, dtype=torch.bool)
    return first_crossing(value, Records(trace.times, trace.size, trace.states, trace.coef), trace.final.y, direction)
