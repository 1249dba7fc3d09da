"""Step from the first time to the last: masked attempts, records of the accepted ones, statuses."""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable
from typing import NamedTuple

import torch
from torch import Tensor

from scidyn.errors import OptionError
from scidyn.solvers.arguments import Problem
from scidyn.solvers.controller import Tolerance, error_ratio, first_step, resize
from scidyn.solvers.dense import Records, evaluate, locate
from scidyn.solvers.diagnosis import diagnose
from scidyn.solvers.methods.stepper import Method, Rate
from scidyn.solvers.status import Status

__all__ = ["Attempt", "LoopState", "Trace", "attempt", "fixed_grid", "integrate", "integrate_fixed"]

CHUNK = 32
SMALLEST_PREVIOUS_RATIO = 1e-4
UNSOLVED = 0.25


class LoopState(NamedTuple):
    """Where the loop is; time-like entries have shape (1,) or (batch,).

    Attributes
    ----------
    t, h : Tensor
        Time reached and step to try next.
    y : Tensor, shape (batch, D)
        State.
    carry : tuple of Tensor
        What the method's next step starts from.
    previous : Tensor
        Error ratio of the last accepted step.
    status : Tensor of int8
        Codes of :class:`Status`.
    accepted, rejected : Tensor of int32
        Attempts so far.
    """

    t: Tensor
    h: Tensor
    y: Tensor
    carry: tuple[Tensor, ...]
    previous: Tensor
    status: Tensor
    accepted: Tensor
    rejected: Tensor


class Attempt(NamedTuple):
    """What is fixed during a solve and every attempt needs: bounds on time, step and number of steps."""

    tolerance: Tolerance
    end: Tensor
    dt_max: Tensor
    max_steps: Tensor


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
    evaluations, host_reads : int
        Calls of the vector field, and values copied to the host.
    """

    y: Tensor
    times: Tensor
    size: Tensor
    states: Tensor
    coef: Tensor | None
    final: LoopState
    last_size: Tensor
    evaluations: int
    host_reads: int


def attempt(
    rate: Rate, method: Method, fixed: Attempt, state: LoopState
) -> tuple[LoopState, Tensor, tuple[Tensor, ...]]:
    """Try one step for every running sample; return the new state, the sizes accepted, the polynomial.

    A sample that is finished, failed or rejected moves by zero. No value is read by the host.
    """
    running = state.status == Status.RUNNING.value
    remaining = fixed.end - state.t
    slack = 100.0 * torch.finfo(state.t.dtype).eps * torch.maximum(state.t.abs(), fixed.end.abs())
    last = state.h >= remaining - slack
    h = torch.where(running, torch.where(last, remaining, state.h), torch.zeros_like(state.h))

    taken = method.step(rate, state.t, h, state.y, state.carry, fixed.tolerance)
    y1 = taken.y1
    if taken.err is None:
        raise OptionError(f"method {method.name!r} has no error estimate: use stepping='fixed'.")
    ratio = error_ratio(fixed.tolerance, state.y, y1, taken.err)
    accept = running & (ratio <= 1.0)
    factor = resize(ratio, state.previous, accept, method.error_order)
    if taken.failed is not None:
        failed = _agree(taken.failed, ratio)
        accept, factor = accept & ~failed, torch.where(failed, UNSOLVED, factor)
    proposal = torch.minimum(h * factor.to(h.dtype), fixed.dt_max)

    row = accept.unsqueeze(-1)
    reached = accept & last
    accepted, rejected = state.accepted + accept, state.rejected + (running & ~accept)
    smallest = 16.0 * torch.finfo(h.dtype).eps * torch.maximum(state.t.abs(), 1e-15 * fixed.end.abs())
    underflow = running & ~accept & (proposal <= smallest)
    exhausted = running & ~reached & (accepted + rejected >= fixed.max_steps)
    status = torch.where(exhausted, Status.MAX_STEPS.value, state.status)
    broken = underflow & ~torch.isfinite(ratio)
    status = torch.where(underflow, Status.STEP_UNDERFLOW.value, status)
    status = torch.where(broken, Status.NON_FINITE_STATE.value, status)
    status = torch.where(reached, Status.SUCCESS.value, status).to(torch.int8)
    following = LoopState(
        t=torch.where(accept, torch.where(last, fixed.end, state.t + h), state.t),
        h=torch.where(running, proposal, state.h),
        y=torch.where(row, y1, state.y),
        carry=tuple(
            torch.where(_aligned(accept, new), new, old)
            for new, old in zip(taken.carry, taken.retry or state.carry, strict=True)
        ),
        previous=torch.where(accept, ratio.clamp_min(SMALLEST_PREVIOUS_RATIO), state.previous),
        status=status,
        accepted=accepted,
        rejected=rejected,
    )
    return following, torch.where(accept, h, torch.zeros_like(h)), taken.coef


def _agree(flag: Tensor, like: Tensor) -> Tensor:
    """Reduce a flag per sample to the shape that all samples may share."""
    return flag if flag.shape == like.shape else flag.any().reshape(1).expand(like.shape)


def _aligned(flag: Tensor, value: Tensor) -> Tensor:
    """Give a flag of shape (1,) or (batch,) the trailing axes of ``value``."""
    return flag.reshape(-1, *[1] * (value.ndim - 1))


@torch.no_grad()
def integrate(
    problem: Problem,
    k1: Tensor,
    *,
    keep_states: bool,
    keep_coef: bool,
    try_step: Callable[[LoopState, Attempt], tuple[LoopState, Tensor, tuple[Tensor, ...]]] | None = None,
    progress: Callable[[float], None] | None = None,
) -> Trace:
    """Solve with adaptive steps from ``k1``, the rate at the start; nothing is recorded for autograd."""
    state, fixed = _begin(problem, k1)
    try_step = try_step or (lambda s, a: attempt(problem.field, problem.method, a, s))
    output = torch.full(
        (*problem.y0.shape[:1], problem.times.shape[1], problem.y0.shape[1]),
        torch.nan,
        dtype=problem.y0.dtype,
        device=problem.y0.device,
    )
    _write_start(output, problem)
    chunks: list[Records] = []
    last_size = torch.zeros_like(state.t)
    attempts = 0
    running = bool((state.status == Status.RUNNING.value).any())
    while running:
        times, sizes, states, coefs = [state.t], [], [], []
        for _ in range(CHUNK):
            following, size, coef = try_step(state, fixed)
            attempts += 1
            moved, running = torch.stack([(size > 0).any(), (following.status == Status.RUNNING.value).any()]).tolist()
            if moved:
                times.append(following.t)
                sizes.append(size)
                states.append(state.y)
                coefs.append(torch.stack(coef))
                last_size = torch.where(size > 0, size, last_size)
            state = following
            if not running:
                break
        if sizes:
            chunk = Records(torch.stack(times), torch.stack(sizes), torch.stack(states), torch.stack(coefs))
            _write(output, problem.times, chunk)
            if not keep_coef:
                chunk = chunk._replace(coef=chunk.coef[:0], y=chunk.y if keep_states else chunk.y[:0])
            chunks.append(chunk)
        if progress is not None:
            progress(_fraction(problem, state.t))
    each = problem.method.evaluations
    return _trace(problem, output, chunks, state, last_size, 2 + each * attempts, 1 + attempts, keep_coef)


def _begin(problem: Problem, k1: Tensor) -> tuple[LoopState, Attempt]:
    """Set up the loop: first step, statuses of rows that need no step or cannot take one."""
    y = problem.y0.detach()
    t = problem.start.clone()
    end = problem.end
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
    previous = torch.ones(t.shape, dtype=y.real.dtype, device=t.device)
    limit = torch.full((), problem.max_steps, dtype=torch.int32, device=t.device)
    carry = problem.method.begin(problem.field, t, y, k1)
    state = LoopState(t, h, y, carry, previous, status, count, count)
    return state, Attempt(problem.tolerance, end, dt_max, limit)


def _write_start(output: Tensor, problem: Problem) -> None:
    """Write the initial state into every wanted time equal to the first."""
    at_start = (problem.times == problem.start.unsqueeze(1)).unsqueeze(-1)
    output.copy_(torch.where(at_start, problem.y0.detach().unsqueeze(1), output))


def _write(output: Tensor, wanted: Tensor, chunk: Records) -> None:
    """Write the wanted times that lie in the steps of ``chunk``."""
    inside = (wanted > chunk.times[0].unsqueeze(1)) & (wanted <= chunk.times[-1].unsqueeze(1))
    if chunk.times.shape[1] == 1:
        columns = inside[0].nonzero().squeeze(1)
        if columns.numel():
            index, theta = locate(chunk.times, wanted[:, columns])
            output[:, columns] = evaluate(chunk, index, theta)
        return
    index, theta = locate(chunk.times, wanted)
    output.copy_(torch.where(inside.unsqueeze(-1), evaluate(chunk, index, theta), output))


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
    evaluations: int,
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
    return Trace(output, times, size, states, coef, state._replace(status=status), last_size, evaluations, host_reads)


def fixed_grid(times: Tensor, dt0: float | None) -> Tensor:
    """Node times of a fixed-step solve, shape (N + 1,): every wanted time is a node.

    An interval between wanted times is cut into the fewest equal steps not longer than ``dt0``,
    or taken in one step if ``dt0`` is None.
    """
    values = times.tolist()
    nodes = [values[0]]
    for start, stop in itertools.pairwise(values):
        if stop > start:
            count = 1 if dt0 is None else max(1, math.ceil((stop - start) / dt0 * (1 - 1e-12)))
            nodes += [start + (stop - start) * (i / count) for i in range(1, count)] + [stop]
    return torch.tensor(nodes, dtype=times.dtype, device=times.device)


@torch.no_grad()
def integrate_fixed(
    problem: Problem,
    k1: Tensor,
    *,
    keep_states: bool,
    keep_coef: bool,
    progress: Callable[[float], None] | None = None,
) -> Trace:
    """Solve with fixed steps; a sample whose state stops being finite is frozen there."""
    nodes = fixed_grid(problem.times[0], problem.dt0)
    count, batch = len(nodes) - 1, problem.y0.shape[0]
    y, t = problem.y0.detach(), nodes[:1]
    output = torch.full((batch, problem.times.shape[1], y.shape[1]), torch.nan, dtype=y.dtype, device=y.device)
    _write_start(output, problem)
    alive = torch.isfinite(k1).all(dim=-1)
    reached, columns = nodes[0].expand(batch).clone(), torch.searchsorted(problem.times[0], nodes, right=True)
    first = torch.searchsorted(problem.times[0], nodes)
    bounds = torch.stack([first, columns]).T.tolist()
    carry = problem.method.begin(problem.field, t, y, k1)
    steps, sizes, states, coefs = torch.zeros_like(alive, dtype=torch.int32), [], [], []
    for n in range(count):
        t, h = nodes[n : n + 1], nodes[n + 1] - nodes[n]
        size = torch.where(alive, h, torch.zeros_like(h))
        taken = problem.method.step(problem.field, t, size, y, carry, problem.tolerance)
        y1, carry = taken.y1, taken.carry
        if keep_coef:
            coefs.append(torch.stack(taken.coef))
        alive = alive & torch.isfinite(y1).all(dim=-1)
        if taken.failed is not None:
            alive = alive & ~taken.failed
        if keep_states or keep_coef:
            states.append(y)
        sizes.append(torch.where(alive, h, torch.zeros_like(h)))
        y = torch.where(alive.unsqueeze(-1), y1, y)
        reached, steps = torch.where(alive, nodes[n + 1], reached), steps + alive
        low, high = bounds[n + 1]
        if high > low:
            output[:, low:high] = torch.where(alive.unsqueeze(-1), y, torch.nan).unsqueeze(1)
        if progress is not None and (n + 1) % CHUNK == 0:
            progress((n + 1) / count)
    status = torch.where(alive, Status.SUCCESS.value, Status.NON_FINITE_STATE.value).to(torch.int8)
    size = torch.stack(sizes) if sizes else nodes.new_zeros((0, batch))
    final = LoopState(reached, nodes.new_zeros(batch), y, carry, y.real.new_ones(batch), status, steps, 0 * steps)
    return Trace(
        output,
        nodes.unsqueeze(1).expand(-1, batch),
        size,
        torch.stack(states) if states else y.new_zeros((0, *y.shape)),
        torch.stack(coefs) if coefs else None,
        final._replace(status=diagnose(problem, final, size[-1] if count else nodes.new_zeros(batch))),
        size[-1] if count else nodes.new_zeros(batch),
        1 + count * problem.method.evaluations,
        1,
    )
