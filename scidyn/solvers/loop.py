"""Step adaptively from the first time to the last: records of the accepted steps, statuses."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Sequence
from typing import NamedTuple

import torch
from torch import Tensor

from scidyn.solvers.arguments import Problem
from scidyn.solvers.attempt import Bounds, LoopState, Outcome, attempts, steps_per_read
from scidyn.solvers.compaction import Crew
from scidyn.solvers.controller import first_step
from scidyn.solvers.dense import Records, evaluate, locate
from scidyn.solvers.diagnosis import diagnose
from scidyn.solvers.status import Status
from scidyn.solvers.watch import Watch

__all__ = ["Trace", "integrate", "write_start"]

CHUNK = 32
# blocks that an accelerator may be ahead of the host
LAG = {"cpu": 0}
LAG_ELSEWHERE = 1


Observer = Callable[[int, Tensor, tuple[Tensor, ...]], None]


class Trace(NamedTuple):
    """A finished solve without its graph.

    Attributes
    ----------
    y : Tensor, shape (batch, T, D)
        States at the wanted times; NaN where they were not reached.
    times, size : Tensor, shapes (N + 1, b) and (N, b)
        The grid of accepted steps; a size of zero marks a sample that did not move.
    states : Tensor, shape (N, batch, D)
        State at the start of each step.
    coef : Tensor, shape (N, P, batch, D), or None
        Coefficients of the continuous extension, kept for dense output only.
    final : LoopState
        Where the loop ended.
    last_size : Tensor, shape (b,)
        Size of the last accepted step, for the diagnosis of a failure.
    nfe, host_reads : int
        Calls of the vector field, and values copied to the host.
    choice : Tensor, shape (N, batch), or None
        Formulas used in each step, of a method that has several.
    """

    y: Tensor
    times: Tensor
    size: Tensor
    states: Tensor
    coef: Tensor | None
    final: LoopState
    last_size: Tensor
    nfe: int
    host_reads: int
    choice: Tensor | None = None


class _Flags:
    """Flags of a block on their way to the host, which need not wait for them at once."""

    def __init__(self, flags: Tensor) -> None:
        self._event: torch.Event | None = None
        self._flags = flags
        if flags.device.type == "cuda":
            self._flags = torch.empty(flags.shape, dtype=flags.dtype, device="cpu", pin_memory=True)
            self._flags.copy_(flags, non_blocking=True)
            self._event = torch.Event(device=flags.device)
            self._event.record()

    def read(self) -> list[bool]:
        """Wait for the flags and give them."""
        if self._event is not None:
            self._event.synchronize()
        return self._flags.tolist()


@torch.no_grad()
def integrate(
    problem: Problem,
    k1: Tensor,
    *,
    keep_states: bool,
    keep_coef: bool,
    try_step: Callable[[LoopState, Bounds], Outcome] | None = None,
    progress: Callable[[float], None] | None = None,
    observe: Observer | None = None,
    compact: bool = False,
    keep_grid: bool = True,
    watch: Watch | None = None,
) -> Trace:
    """Solve with adaptive steps from ``k1``, the rate at the start; nothing is recorded for autograd.

    The host reads the flags of each block of attempts, on an accelerator while the next block is under way. With
    ``compact`` finished samples leave the batch; without ``keep_grid`` not even times and sizes of steps are kept.
    """
    calls = problem.field.calls
    state, bounds = _begin(problem, k1)
    if watch is not None:
        state = watch.begin(state)
    device = problem.y0.device
    count, lag = steps_per_read(device), 0 if compact or watch is not None else LAG.get(device.type, LAG_ELSEWHERE)
    crew = Crew(problem, state, bounds, _output(problem))
    kept = _Kept(crew, keep_states, keep_coef, keep_grid, observe)
    tried, reads, running = 0, 1, bool((state.status == Status.RUNNING.value).any())
    waiting: deque[tuple[Outcome, _Flags]] = deque()
    blocks: list[Outcome] = []
    moved: list[bool] = []
    before = state.t
    while running or waiting or moved:
        if running:
            if try_step is None or crew.rows is not None:
                block = attempts(count, crew.field, problem.method, problem.controller, crew.bounds, state)
            else:
                block = try_step(state, crew.bounds)
            if watch is not None:
                block, crew.bounds = watch(state, crew.bounds, block)
            waiting.append((block, _Flags(block.flags)))
            state = block.state
        if waiting and (len(waiting) > lag or not running):
            block, flags = waiting.popleft()
            *steps, more = flags.read()
            running, reads, tried = running and more, reads + 1, tried + len(steps)
            blocks, moved = [*blocks, block], moved + steps
        if len(moved) < CHUNK and (running or waiting):
            continue
        kept.add(before, blocks, moved)
        before = blocks[-1].state.t
        if progress is not None:
            progress(_fraction(problem, crew.whole(blocks[-1].state).t))
        if compact and running:
            state = crew.smaller(state)
            before, reads = state.t, reads + 1
        blocks, moved = [], []
    state = crew.finish(state)
    calls = problem.field.calls - calls + crew.calls
    # compiled steps are counted by what a step takes
    nfe = 1 + calls if calls > tried else 2 + problem.method.evaluations * tried
    return _trace(problem, crew.all_output, kept.chunks, state, kept.last_size, nfe, reads, keep_coef)


class _Kept:
    """What is kept of the steps: the wanted times, the size of the last one, and records as asked for."""

    def __init__(self, crew: Crew, states: bool, coef: bool, grid: bool, observe: Observer | None) -> None:
        self._crew, self._states, self._coef, self._observe = crew, states, coef, observe
        self._grid = grid or states or coef
        self._recorded = 0
        self.chunks: list[Records] = []
        self.last_size = torch.zeros_like(crew.problem.start)

    def add(self, before: Tensor, blocks: list[Outcome], moved: list[bool]) -> None:
        """Take over blocks of attempts that began at the times ``before``."""
        if not any(moved):
            return
        crew, chunk = self._crew, _join(before, blocks, moved)
        _write(crew.output, crew.wanted, chunk)
        self.last_size = crew.widen_row(_last_moved(chunk.size, crew.row(self.last_size)), self.last_size)
        self._recorded += len(chunk.size)
        if not self._coef:
            # a clone, because an empty view would keep all its numbers
            states = chunk.y if self._states else chunk.y[:0].clone()
            chunk = chunk._replace(coef=chunk.coef[:0].clone(), y=states)
        if self._grid:
            self.chunks.append(crew.widen(chunk))
        if self._observe is not None:
            known = crew.whole(blocks[-1].state)
            self._observe(self._recorded, known.y, known.carry)


def _output(problem: Problem) -> Tensor:
    """States at the wanted times, shape (batch, T, D): those at the first time, else NaN."""
    batch, width = problem.y0.shape
    shape = (batch, problem.times.shape[1], width)
    output = torch.full(shape, torch.nan, dtype=problem.y0.dtype, device=problem.y0.device)
    write_start(output, problem)
    return output


def _begin(problem: Problem, k1: Tensor) -> tuple[LoopState, Bounds]:
    """Set up the loop: first step, statuses of rows that need no step or cannot take one."""
    # a compiled step is specialised to strides and to which tensors are one: plain and all different
    y, k1, t, end = (
        x.detach().clone(memory_format=torch.contiguous_format) for x in (problem.y0, k1, problem.start, problem.end)
    )
    span = end - t
    dt_max = torch.full_like(t, torch.inf if problem.dt_max is None else problem.dt_max)
    if problem.dt0 is None:
        h = first_step(problem.field, problem.tolerance, problem.method.error_order, t, y, k1, span)
    else:
        h = torch.full_like(t, problem.dt0)
    h = torch.minimum(h.to(t.dtype), dt_max)
    status = torch.full(t.shape, Status.RUNNING.value, dtype=torch.int8, device=t.device)
    usable = torch.isfinite(k1).all(dim=-1)
    usable = usable.all().reshape(1) if problem.tolerance.together else usable
    status = torch.where(usable, status, Status.NON_FINITE_RHS.value).to(torch.int8)
    status = torch.where(span > 0, status, Status.SUCCESS.value).to(torch.int8)
    count = torch.zeros(t.shape, dtype=torch.int32, device=t.device)
    previous = problem.controller.begin(torch.ones(t.shape, dtype=problem.tolerance.rtol.dtype, device=t.device))
    carry = problem.method.begin(problem.field, t, y, k1)
    none = torch.zeros(len(y), dtype=torch.int32, device=t.device)
    work = (none, none.clone()) if problem.method.implicit else None
    state = LoopState(t, h, y, carry, previous, status, count, count.clone(), work)
    bounds = Bounds(
        tolerance=problem.tolerance,
        end=end,
        dt_min=torch.full_like(t, problem.dt_min or 0.0),
        dt_max=dt_max,
        max_steps=torch.full((), problem.max_steps, dtype=torch.int32, device=t.device),
        slack=100.0 * torch.finfo(t.dtype).eps * torch.maximum(t.abs(), end.abs()),
        targets=problem.targets,
    )
    return state, bounds


def _join(before: Tensor, blocks: list[Outcome], moved: list[bool]) -> Records:
    """Join the records of blocks of attempts, without those in which no sample moved."""
    times, size, states, coef = (
        torch.cat(parts) for parts in zip(*((b.times, b.size, b.states, b.coef) for b in blocks), strict=True)
    )
    choice = _cat([b.choice for b in blocks])
    if not all(moved):
        kept = torch.tensor([i for i, m in enumerate(moved) if m], device=times.device)
        times, size, states, coef = times[kept], size[kept], states[kept], coef[kept]
        choice = None if choice is None else choice[kept]
    return Records(torch.cat([before.unsqueeze(0), times]), size, states, coef, choice)


def _cat(parts: Sequence[Tensor | None]) -> Tensor | None:
    """Join the formulas used, if the method has several."""
    known = [p for p in parts if p is not None]
    return torch.cat(known) if known else None


def _last_moved(size: Tensor, before: Tensor) -> Tensor:
    """Size of the last step in which each sample moved."""
    count = len(size)
    order = torch.arange(1, count + 1, device=size.device).unsqueeze(1)
    last = (order * (size > 0)).amax(dim=0)
    return torch.where(last > 0, size.gather(0, (last - 1).clamp_min(0).unsqueeze(0))[0], before)


def write_start(output: Tensor, problem: Problem) -> None:
    """Write the initial state into every wanted time equal to the first."""
    at_start = (problem.times == problem.start.unsqueeze(1)).unsqueeze(-1)
    output.copy_(torch.where(at_start, problem.y0.detach().unsqueeze(1), output))


def columns_are_chosen(wanted: Tensor) -> bool:
    """True on a CPU: the host reads which times a chunk reached; elsewhere all are evaluated and most discarded."""
    return wanted.device.type == "cpu"


def _write(output: Tensor, wanted: Tensor, chunk: Records) -> None:
    """Write the wanted times that lie in the steps of ``chunk``."""
    wanted = wanted.detach()
    inside = (wanted > chunk.times[0].unsqueeze(1)) & (wanted <= chunk.times[-1].unsqueeze(1))
    if not columns_are_chosen(wanted):
        values = evaluate(chunk, *locate(chunk.times, wanted))
        output.copy_(torch.where(inside.unsqueeze(-1), values, output))
        return
    if chunk.times.shape[1] == 1:
        columns = inside[0].nonzero().squeeze(1)
        if columns.numel():
            index, theta = locate(chunk.times, wanted[:, columns])
            output[:, columns] = evaluate(chunk, index, theta)
        return
    columns = inside.any(dim=0).nonzero().squeeze(1)
    if columns.numel():
        index, theta = locate(chunk.times, wanted[:, columns])
        values = evaluate(chunk, index, theta)
        output[:, columns] = torch.where(inside[:, columns].unsqueeze(-1), values, output[:, columns])


def _fraction(problem: Problem, t: Tensor) -> float:
    """Part of the span that the slowest sample has covered."""
    span = (problem.end - problem.start).clamp_min(torch.finfo(t.dtype).tiny)
    return ((t - problem.start) / span).min().item()


def _trace(
    problem: Problem,
    output: Tensor,
    chunks: list[Records],
    state: LoopState,
    last_size: Tensor,
    nfe: int,
    host_reads: int,
    keep_coef: bool,
) -> Trace:
    """Join the chunks and find out why samples stopped."""
    if chunks:
        times = torch.cat([chunks[0].times[:1], *(c.times[1:] for c in chunks)])
        size = torch.cat([c.size for c in chunks])
        states = torch.cat([c.y for c in chunks])
        coef = torch.cat([c.coef for c in chunks]) if keep_coef else None
    else:
        times = state.t.unsqueeze(0)
        size = state.t.new_zeros((0, *state.t.shape))
        states, coef = state.y.new_zeros((0, *state.y.shape)), None
    status = diagnose(problem, state, last_size)
    final, choice = state._replace(status=status), _cat([c.choice for c in chunks])
    return Trace(output, times, size, states, coef, final, last_size, nfe, host_reads, choice)
