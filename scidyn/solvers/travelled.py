"""The segments of a solve that lie behind: joined to one solution."""

from __future__ import annotations

from dataclasses import replace
from functools import partial

import torch
from torch import Tensor

from scidyn.solvers.adjoint.local_regularisation import Grid, local_regulariser
from scidyn.solvers.adjoint.regularisation import regularised
from scidyn.solvers.adjoint.times import move_outputs
from scidyn.solvers.arguments import Problem
from scidyn.solvers.events import EventRecord
from scidyn.solvers.interruptions import Interruptions
from scidyn.solvers.loop import Trace
from scidyn.solvers.request import Request, make_solution
from scidyn.solvers.solution import Solution
from scidyn.solvers.status import Status

__all__ = ["Travelled"]


class Travelled:
    """What the segments gave so far.

    Parameters
    ----------
    problem : Problem
        The whole problem.
    events : int
        Number of events.

    Attributes
    ----------
    events : list
        For each event the rows, times, states before and states after of its crossings.
    nodes : list of Tensor
        States at the starts of steps, if they are measured.
    grazing : Tensor of bool, shape (batch,)
        Samples with a crossing along which the solution runs.
    code : Tensor of int8, shape (batch,)
        How the last segment of each sample ended.
    last_size : Tensor, shape (batch,)
        Last accepted step of each sample.
    evaluations, reads : int
        Calls of the vector field and values copied to the host, outside of steps.
    """

    def __init__(self, problem: Problem, events: int) -> None:
        batch, device = len(problem.y0), problem.y0.device
        self.events: list[list[tuple[Tensor, Tensor, Tensor, Tensor]]] = [[] for _ in range(events)]
        self.nodes: list[Tensor] = []
        self.grazing = torch.zeros(batch, dtype=torch.bool, device=device)
        self.code = torch.zeros(batch, dtype=torch.int8, device=device)
        self.last_size = problem.start.detach().new_zeros(batch)
        self.evaluations = self.reads = 0
        self._status = torch.zeros(batch, dtype=torch.int8, device=device)
        self._reached = problem.start.detach().expand(batch).clone()
        self._accepted = torch.zeros(batch, dtype=torch.int32, device=device)
        self._rejected = torch.zeros_like(self._accepted)
        self._traces: list[Trace] = []
        self._times: list[Tensor] = []
        self._pieces: list[Tensor] = []
        self._source = torch.full((batch, problem.times.shape[1]), -1, dtype=torch.int64, device=device)
        self._width = 0
        self._cumulative = problem.stepping != "fixed"

    def keep(self, trace: Trace, alive: Tensor, y: Tensor, columns: Tensor, reached: Tensor) -> None:
        """Add a segment whose states ``y`` (batch, columns, D) are those of the wanted ``columns``.

        ``reached`` (batch, T) tells which of all wanted times the segment covers.
        """
        batch, final = len(alive), trace.final
        self._traces.append(trace)
        own = trace.times.shape[1] == batch
        # samples that have ended stand at their last time
        self._times.append(torch.where(alive, trace.times, self._reached) if own else trace.times)
        self._pieces.append(y)
        place = torch.full_like(self._source[0], -1)
        place[columns] = self._width + torch.arange(len(columns), device=columns.device)
        self._source = torch.where(reached, place, self._source)
        self._width += len(columns)
        self.code = torch.where(alive, final.status.expand(batch), self.code).to(torch.int8)
        self._reached = torch.where(alive, final.t.expand(batch), self._reached)
        size = trace.last_size.expand(batch)
        self.last_size = torch.where(alive & (size > 0), size, self.last_size)
        before = (0, 0) if self._cumulative else (self._accepted, self._rejected)
        self._accepted = (before[0] + final.accepted.expand(batch)).to(torch.int32)
        self._rejected = (before[1] + final.rejected.expand(batch)).to(torch.int32)

    def finish(self, rows: Tensor, code: Tensor) -> None:
        """Note how the samples in ``rows`` ended."""
        self._status = torch.where(rows, code, self._status).to(torch.int8)

    def joined(self) -> Trace:
        """All steps, one after the other."""
        last = self._traces[-1]
        kept = [(trace, times) for trace, times in zip(self._traces, self._times, strict=True) if len(trace.size)]
        if not kept:
            return last
        traces = [trace for trace, _ in kept]
        return last._replace(
            times=torch.cat([*(times[:-1] for _, times in kept), kept[-1][1][-1:]]),
            size=torch.cat([t.size for t in traces]),
            states=torch.cat([t.states for t in traces]),
            coef=torch.cat([t.coef for t in traces if t.coef is not None]) if traces[0].coef is not None else None,
        )

    def solution(self, problem: Problem, plan: Interruptions, request: Request) -> Solution:
        """Report the wanted times and the events."""
        y = torch.cat(self._pieces, dim=1) if self._width else problem.y0.detach().unsqueeze(1)
        index = self._source.clamp_min(0).unsqueeze(-1).expand(-1, -1, y.shape[-1])
        y = y.gather(1, index).masked_fill((self._source < 0).unsqueeze(-1), torch.nan)
        if problem.times.requires_grad and torch.is_grad_enabled():
            y = move_outputs(problem.field, problem.times, y, problem.y0)
        trace, status = self.joined(), self._status
        touched = self.grazing & ((status == Status.SUCCESS.value) | (status == Status.EVENT.value))
        status = torch.where(touched, Status.EVENT_GRAZING.value, status)
        reached = self._reached[: trace.times.shape[1]]
        work = [t.final.work for t in self._traces if t.final.work is not None]
        total = (
            (torch.stack([w[0] for w in work]).sum(dim=0), torch.stack([w[1] for w in work]).sum(dim=0))
            if work
            else None
        )
        final = trace.final._replace(
            work=total, t=reached, status=status, accepted=self._accepted, rejected=self._rejected
        )
        trace = trace._replace(
            coef=trace.coef if request.dense else None,
            final=final,
            nfe=sum(t.nfe for t in self._traces) + self.evaluations,
            host_reads=sum(t.host_reads for t in self._traces) + self.reads,
        )
        solution = make_solution(problem, trace, y)
        if len(trace.states) == len(trace.size) and request.adjoint != "reversible":
            local = partial(local_regulariser, problem, Grid(trace.times, trace.size, trace.states))
            solution = replace(solution, _local=local)
        if request.regularize is not None and len(trace.size):
            solution = replace(solution, reg=regularised(problem, trace, request.regularize, torch.cat(self.nodes)))
        if not plan.surfaces:
            return solution
        records = tuple(self._record(problem, entries) for entries in self.events)
        return replace(solution, events=records[0] if plan.alone else records)

    def _record(self, problem: Problem, entries: list[tuple[Tensor, Tensor, Tensor, Tensor]]) -> EventRecord:
        """Crossings of one event, those of each sample at the start of its row."""
        batch, state = len(problem.y0), problem.state
        if not entries:
            y = torch.full_like(problem.y0.detach(), torch.nan).reshape(batch, 1, *state)
            t = torch.full_like(self._reached, torch.nan).unsqueeze(1)
            return EventRecord(torch.zeros(batch, dtype=torch.int64, device=y.device), t, y, y.clone())
        rows, time, before, after = (torch.stack(parts, dim=1) for parts in zip(*entries, strict=True))
        count = rows.sum(dim=1)
        width = max(1, int(count.max()))
        order = (~rows).to(torch.int8).argsort(dim=1, stable=True)[:, :width]
        empty = torch.arange(width, device=count.device) >= count.unsqueeze(1)
        wide = order.unsqueeze(-1).expand(-1, -1, before.shape[-1])
        states = (
            y.gather(1, wide).masked_fill(empty.unsqueeze(-1), torch.nan).reshape(batch, width, *state)
            for y in (before, after)
        )
        return EventRecord(count, (problem.field.sign * time.gather(1, order)).masked_fill(empty, torch.nan), *states)
