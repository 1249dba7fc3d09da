"""Solve from interruption to interruption: each one ends a step, and the next segment starts afresh."""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

import torch
from torch import Tensor

from scidyn.errors import NonFiniteError
from scidyn.solvers.adjoint.capture import captured
from scidyn.solvers.adjoint.checkpoints import Checkpoints
from scidyn.solvers.adjoint.reversible import Marks, reversible
from scidyn.solvers.adjoint.times import move
from scidyn.solvers.arguments import Problem
from scidyn.solvers.crossing import settle, side_of
from scidyn.solvers.failure import report
from scidyn.solvers.interruptions import Interruptions
from scidyn.solvers.loop import Trace
from scidyn.solvers.request import Request, check, differentiable, march, start_rows
from scidyn.solvers.solution import Solution
from scidyn.solvers.status import Status
from scidyn.solvers.surfaces import Jump, check_values
from scidyn.solvers.travelled import Travelled
from scidyn.solvers.watch import Watch

__all__ = ["solve_in_segments"]

SUCCESS, EVENT, STUCK = Status.SUCCESS.value, Status.EVENT.value, Status.EVENT_STUCK.value


class _Front(NamedTuple):
    """Where the samples are at the start of a segment; time-like entries have shape (1,) or (batch,).

    Attributes
    ----------
    t : Tensor
        Times; those of samples that have ended are their first.
    y : Tensor, shape (batch, D)
        States, attached to the graph; those of samples that have ended are their first, where f is finite.
    alive : Tensor of bool, shape (batch,)
        Samples that have not ended.
    counts : Tensor of int64, shape (events, batch)
        Crossings so far.
    past : tuple of three Tensors, or None
        Accepted and rejected attempts so far, and the step to try first.
    """

    t: Tensor
    y: Tensor
    alive: Tensor
    counts: Tensor
    past: tuple[Tensor, Tensor, Tensor] | None


class _Segment(NamedTuple):
    """One segment, solved.

    Attributes
    ----------
    end : Tensor, shape (1,) or (batch,)
        Its last time.
    following : Tensor
        The next jump at or after it, infinite if there is none; attached to the caller's graph.
    y : Tensor, shape (batch, D)
        States at the end.
    arrived : Tensor of bool, shape (batch,)
        Samples that reached it.
    """

    end: Tensor
    following: Tensor
    y: Tensor
    arrived: Tensor


def solve_in_segments(problem: Problem, request: Request, plan: Interruptions) -> Solution:
    """Solve between interruptions and join the segments."""
    check(problem, request)
    with torch.set_grad_enabled(torch.is_grad_enabled() and request.adjoint is not None):
        journey = _Journey(problem, request, plan)
        front = journey.begin()
        while True:
            front = journey.advance(front)
            journey.past.reads += 1
            if not bool(front.alive.any()):
                break
        solution = journey.past.solution(problem, plan, request)
    return report(solution, journey.past.last_size, request.on_failure)


class _Journey:
    """The samples on their way from segment to segment."""

    def __init__(self, problem: Problem, request: Request, plan: Interruptions) -> None:
        if request.adjoint == "reversible":
            problem = problem._replace(method=reversible(problem.method))
        self.problem, self.request, self.plan = problem, request, plan
        self.start, self.safe = problem.start.detach(), problem.y0.detach()
        self.end, self.wanted = problem.end.detach(), problem.times.detach()
        self.past = Travelled(problem, len(plan.surfaces))
        self.inputs: tuple[Tensor, ...] = ()

    def begin(self) -> _Front:
        """Check f, find what it depends on, and carry out a jump at the first time."""
        problem = self.problem
        with torch.no_grad():
            problem.field.probe(self.start, self.safe)
        if torch.is_grad_enabled():
            self.inputs = captured(problem.field, self.start, self.safe, self.request.params)
        y, batch = start_rows(problem), len(problem.y0)
        for time in self.plan.times.unbind(dim=1):
            now = time.detach() == self.start
            if bool(now.any()):
                y = self._scheduled(torch.where(now, time, self.start), y, now.expand(batch))
                break
        alive = torch.ones(batch, dtype=torch.bool, device=y.device)
        counts = torch.zeros((len(self.plan.surfaces), len(self.start)), dtype=torch.int64, device=y.device)
        if self.plan.surfaces:
            values = torch.stack([s.value(self.start, y.detach()) for s in self.plan.surfaces])
            check_values(values, alive, self.start, problem.field.sign)
        return _Front(self.start, y, alive, counts, None)

    def advance(self, front: _Front) -> _Front:
        """Solve one segment and carry out what happens at its end."""
        open_rows = front.alive if len(self.start) == len(front.alive) else front.alive.any().reshape(1)
        stop, following = self._stop(front.t, open_rows)
        columns = (self.wanted >= front.t.unsqueeze(1)) & (self.wanted <= stop.unsqueeze(1)) & open_rows.unsqueeze(1)
        chosen = columns.any(dim=0).nonzero().squeeze(1)
        inner = torch.minimum(torch.maximum(self.wanted[:, chosen], front.t.unsqueeze(1)), stop.unsqueeze(1))
        inner = torch.where(torch.isnan(inner), stop.unsqueeze(1), inner)
        times = torch.cat([front.t.unsqueeze(1), inner, stop.unsqueeze(1)], dim=1)
        part = self.problem._replace(y0=front.y, times=times)
        with torch.no_grad():
            rate = part.field(front.t, front.y.detach())
        watch = self._watch(front)
        request = self.request._replace(progress=self._progress(front.t, open_rows))
        differentiate = torch.is_grad_enabled() and bool(self.inputs or front.y.requires_grad)
        adaptive = part.stepping != "fixed"
        trace, marks = march(part, rate, request, differentiate=differentiate, watch=watch if adaptive else None)
        arrived = (trace.final.status == SUCCESS).expand(len(front.alive)) & front.alive
        stopped = arrived & (watch.pending >= 0)
        end = torch.where(stopped, trace.final.t, stop) if self.plan.surfaces else stop
        y, noted = self._attach(part, trace, marks, watch, stopped, differentiate)
        reached = (self.wanted >= front.t.unsqueeze(1)) & (self.wanted <= end.unsqueeze(1)) & open_rows.unsqueeze(1)
        self.past.reads += watch.reads + 1
        self.past.keep(trace, front.alive, y[:, 1:-1], chosen, reached & front.alive.unsqueeze(1))
        for crossing, row in zip(watch.crossings, noted, strict=True):
            self._settled(crossing.event, crossing.rows, crossing.t, row)
        past = None
        if adaptive:
            # behind an event the step before it is a better guess than none; behind a dose nothing is known
            longest = trace.size.amax(dim=0) if len(trace.size) else torch.zeros_like(stop)
            past = (trace.final.accepted, trace.final.rejected, torch.where(watch.pending >= 0, longest, 0.0))
        segment = _Segment(end, following, y[:, -1], arrived)
        return self._onward(front._replace(counts=watch.counts, past=past), segment, watch.pending, stopped)

    def _stop(self, t: Tensor, open_rows: Tensor) -> tuple[Tensor, Tensor]:
        """Last time of the segment that begins at ``t``, and the jump that follows it."""
        times = self.plan.times
        following = torch.full_like(t, torch.inf)
        if times.shape[1]:
            ahead = torch.where(times.detach() > t.unsqueeze(1), times.detach(), torch.inf).argmin(dim=1, keepdim=True)
            following = times.gather(1, ahead)[:, 0]
            following = torch.where(following.detach() > t, following, torch.inf)
        # an f that switches at the jump is not to see its new value in the step that ends there
        before = torch.nextafter(following.detach(), torch.full_like(t, -torch.inf))
        stop = torch.where(following.detach() <= self.end, before, self.end)
        return torch.where(open_rows, stop, t), following

    def _watch(self, front: _Front) -> Watch:
        """Set up the search for events of this segment."""
        problem, tolerance = self.problem, None if front.past is None else self.problem.tolerance
        sides = [
            side_of(s.value, problem.field, front.t, front.y.detach(), tolerance).to(torch.int8)
            for s in self.plan.surfaces
        ]
        side = torch.stack(sides) if sides else torch.zeros_like(front.counts, dtype=torch.int8)
        return Watch(self.plan.surfaces, side, front.counts, front.past, ~front.alive, problem.field.sign)

    def _attach(
        self,
        part: Problem,
        trace: Trace,
        marks: Marks | Checkpoints | None,
        watch: Watch,
        stopped: Tensor,
        differentiate: bool,
    ) -> tuple[Tensor, list[Tensor]]:
        """States at the segment's times and at the crossings noted in it, with their gradient."""
        times, y = part.times, trace.y
        if self.plan.surfaces:
            late = stopped.unsqueeze(1) & (times > trace.final.t.unsqueeze(1))
            late[:, -1] |= stopped
            times = torch.where(late, trace.final.t.unsqueeze(1), times)
            y = torch.where(late.unsqueeze(-1), trace.final.y.unsqueeze(1), y)
        extra, states = [], []
        for crossing in watch.crossings:
            extra.append(torch.where(crossing.rows, crossing.t, part.start).unsqueeze(1))
            states.append(torch.where(crossing.rows.unsqueeze(1), crossing.y, part.y0.detach()).unsqueeze(1))
        nodes = self.request.regularize is not None and len(trace.size) > 0
        if nodes:
            extra.append(trace.times[:-1, : len(times)].T)
            states.append(trace.states.transpose(0, 1))
        count, order = times.shape[1], None
        if extra:
            times, order = torch.cat([times, *extra], dim=1).sort(dim=1, stable=True)
            y = torch.cat([y, *states], dim=1)
            y = y.gather(1, _wide(order, y))
        if differentiate and len(trace.size):
            whole = part._replace(times=times)
            y = differentiable(whole, trace._replace(y=y), self.inputs, self.request.adjoint, marks)
        elif differentiate:
            y = part.y0.unsqueeze(1) + torch.where(torch.isnan(y), torch.nan, torch.zeros_like(y))
        if order is not None:
            y = y.gather(1, _wide(order.argsort(dim=1), y))
        crossings = len(watch.crossings)
        if self.request.regularize is not None:
            self.past.nodes.append(y[:, count + crossings :].transpose(0, 1) if nodes else trace.states)
        return y[:, :count], list(y[:, count : count + crossings].unbind(dim=1))

    def _onward(self, front: _Front, segment: _Segment, pending: Tensor, stopped: Tensor) -> _Front:
        """Carry out the events and jumps at the end of a segment."""
        y, counts = segment.y, front.counts
        ended = stuck = torch.zeros_like(segment.arrived)
        at_event = [stopped & (pending == e) for e in range(len(self.plan.surfaces))]
        happened = torch.stack([rows.any() for rows in at_event]).tolist() if at_event else []
        for e, rows in enumerate(at_event):
            if not happened[e]:
                continue
            time, after = self._settled(e, rows, segment.end, segment.y)
            surface = self.plan.surfaces[e]
            counts = torch.stack([c + rows if i == e else c for i, c in enumerate(counts)])
            if surface.ends and surface.limit is not None:
                ended = ended | (rows & (counts[e] >= surface.limit))
            begin = torch.where(rows, segment.end, self.start)
            after = torch.where(rows.unsqueeze(1), move(self.rate, time, begin, after), self.safe)
            side = side_of(surface.value, self.problem.field, begin, after.detach(), self.problem.tolerance)
            stuck = stuck | (rows & (side == 0) & ~ended)
            y = torch.where(rows.unsqueeze(1), after, y)
        self.past.reads += 1 + bool(at_event)
        due = segment.arrived & ~stopped & (segment.following.detach() <= self.end)
        time = segment.following if bool(due.any()) else segment.end
        if time is segment.following:
            y = self._scheduled(time, y, due)
        alive = (stopped & ~ended & ~stuck) | due
        finished = front.alive & ~alive
        code = torch.where(stuck, STUCK, torch.where(ended, EVENT, self.past.code))
        self.past.finish(finished, code)
        t = torch.where(stopped, segment.end, time.detach()) if len(self.start) == len(alive) else time.detach()
        t = torch.where(alive, t, self.start) if len(self.start) == len(alive) else t
        return front._replace(t=t, y=torch.where(alive.unsqueeze(1), y, self.safe), alive=alive, counts=counts)

    def _settled(self, event: int, rows: Tensor, t: Tensor, y: Tensor) -> tuple[Tensor, Tensor]:
        """Time of an event and state after it, differentiable; the rest of the rows stand at their start."""
        surface, column = self.plan.surfaces[event], rows.unsqueeze(1)
        t, y = torch.where(rows, t, self.start), torch.where(column, y, self.safe)
        time, before, grazing = settle(surface.value, self.rate, t, y, rows)
        self.past.grazing |= rows & grazing
        after = (
            before if surface.jump is None else self._jumped(surface.jump, f"jump of event {event}", time, before, rows)
        )
        self.past.events[event].append((rows, time, before, after))
        return time, after

    def _scheduled(self, time: Tensor, y: Tensor, rows: Tensor) -> Tensor:
        """States after a jump at given times, in the ``rows`` that have one."""
        column = rows.unsqueeze(1)
        own = rows if len(time) == len(rows) else rows.any().reshape(1)
        time, state = torch.where(own, time, self.start), torch.where(column, y, self.safe)
        moves = time.requires_grad and torch.is_grad_enabled()
        if moves:
            state = move(self.rate, time.detach(), time, state)
        if self.plan.jump is not None:
            state = self._jumped(self.plan.jump, "jump", time, state, rows)
        if moves:
            state = move(self.rate, time, time.detach(), state)
        return torch.where(column, state, y)

    def _jumped(self, jump: Jump, name: str, time: Tensor, y: Tensor, rows: Tensor) -> Tensor:
        """Carry out a jump and refuse a state that is not finite."""
        after = jump(time, y)
        self.past.reads += 1
        bad = rows & ~torch.isfinite(after.detach()).all(dim=-1)
        if bool(bad.any()):
            sample = int(bad.to(torch.int8).argmax())
            at = self.problem.field.sign * time.detach().expand(len(rows))[sample].item()
            raise NonFiniteError(
                f"{name} returned NaN or infinity for sample {sample} at t={at:.6g}: give it a finite value there."
            )
        return torch.where(rows.unsqueeze(1), after, y)

    def rate(self, t: Tensor, y: Tensor) -> Tensor:
        """Evaluate the field, counted."""
        self.past.evaluations += 1
        return self.problem.field(t, y)

    def _progress(self, t: Tensor, open_rows: Tensor) -> Callable[[float], None] | None:
        """Report the part of the whole span, not of the segment."""
        tell = self.request.progress
        if tell is None:
            return None
        span = (self.end - self.start).clamp_min(torch.finfo(t.dtype).tiny)
        done = torch.where(open_rows, (t - self.start) / span, 1.0).min().item()
        return lambda fraction: tell(done + (1.0 - done) * fraction)


def _wide(order: Tensor, y: Tensor) -> Tensor:
    """Indices of columns for ``y`` (batch, T, D)."""
    return order.unsqueeze(-1).expand(len(y), -1, y.shape[-1])
