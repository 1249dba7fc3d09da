"""Adaptive steps without the host: each row on its own, or all rows with the step of the worst."""

from __future__ import annotations

from typing import Any, NamedTuple

import torch
from torch import Tensor

from scidyn.solvers.brownian.noise import Noise, join
from scidyn.solvers.sde.engine import Tick
from scidyn.solvers.sde.rows import RowGrid, RowSteps, column
from scidyn.solvers.sde.terms import Terms
from scidyn.solvers.status import Status

__all__ = ["Control", "RowResult", "RowState", "attempt", "begin", "march_rows"]

SAFETY, LARGEST, SMALLEST = 0.9, 5.0, 0.2
PROPORTIONAL, INTEGRAL = 0.1, 0.3
RUNNING, SUCCESS = int(Status.RUNNING), int(Status.SUCCESS)
MAX_STEPS, UNDERFLOW = int(Status.MAX_STEPS), int(Status.STEP_UNDERFLOW)


class Control(NamedTuple):
    """What steers the steps; constant over a solve.

    Attributes
    ----------
    nodes : Tensor, shape (M,)
        Times at which steps must end, without the first.
    place : Tensor of int, shape (M,)
        Column of the output that each of these nodes fills; the last column takes what nobody asked for.
    rtol, atol, smallest, order : float
        Allowed error, smallest step, order of the estimate.
    together : bool
        True if all rows take one step.
    """

    nodes: Tensor
    place: Tensor
    rtol: float
    atol: float
    smallest: float
    order: float
    together: bool


class RowState(NamedTuple):
    """Where the rows are; ``t``, ``h``, ``before`` and ``pointer`` have shape (1,) or (B,)."""

    t: Tensor
    h: Tensor
    before: Tensor
    pointer: Tensor
    y: Tensor
    output: Tensor
    status: Tensor
    reached: Tensor
    rejected: Tensor


class RowResult(NamedTuple):
    """Accepted steps, reported states, and how each row fared."""

    grid: RowGrid
    y: Tensor
    rejected: Tensor
    reads: int
    code: Tensor
    reached: Tensor


@torch.no_grad()
def march_rows(
    terms: Terms,
    steps: RowSteps,
    tree: Any,
    start: RowState,
    control: Control,
    limit: int,
    tick: Tick,
) -> RowResult:
    """March until every row has arrived or failed; one value is read per chunk of attempts."""
    state = start
    on_host = state.y.device.type == "cpu"
    chunk = 8 if on_host else 16
    log: list[tuple[Tensor, Tensor]] = []
    tried = reads = 0
    waiting: Tensor | None = None
    while tried < limit:
        for _ in range(min(chunk, limit - tried)):
            state, taken = attempt(terms, steps, tree, control, state)
            log.extend(taken)
            tried += 1
        running = (state.status == RUNNING).any()
        # elsewhere the flag of the chunk before is read, which has arrived while this one was queued
        flag, waiting = (running if on_host else waiting), running
        reads += 1
        if flag is not None and not bool(flag):
            break
        if tick is not None:
            span = control.nodes[-1] - start.t[0]
            tick(float((state.t.min() - start.t[0]) / span))
    left = state.status == RUNNING
    status = torch.where(left, MAX_STEPS, state.status)
    reached = torch.where(left, state.t, state.reached)
    return RowResult(_packed(log), state.output[:, :-1], state.rejected, reads, status, reached)


def begin(y: Tensor, control: Control, times: int, first: float, h: float) -> RowState:
    """All rows at the first time, with room for the states at ``times`` times."""
    rows, lanes = y.shape[0], 1 if control.together else y.shape[0]
    wide: dict[str, Any] = {"dtype": control.nodes.dtype, "device": y.device}
    output = torch.full((rows, times + 1, *y.shape[1:]), torch.nan, dtype=y.dtype, device=y.device)
    output[:, 0] = y
    count = torch.zeros(lanes, dtype=torch.int32, device=y.device)
    return RowState(
        t=torch.full((lanes,), first, **wide),
        h=torch.full((lanes,), h, **wide),
        before=torch.ones(lanes, **wide),
        pointer=torch.zeros(lanes, dtype=torch.int64, device=y.device),
        y=y,
        output=output,
        status=torch.full((rows,), RUNNING, dtype=torch.int8, device=y.device),
        reached=torch.full((rows,), first, **wide),
        rejected=count,
    )


def attempt(
    terms: Terms, steps: RowSteps, tree: Any, control: Control, state: RowState
) -> tuple[RowState, list[tuple[Tensor, Tensor]]]:
    """One step of every running lane, kept or taken back; gives the parts of the step that count.

    Nothing is read by the host. A part that was taken back starts and ends at the same time.
    """
    t, h, y = state.t, state.h, state.y
    active = state.status == RUNNING
    lane = active.any().reshape(1) if control.together else active
    node = control.nodes[state.pointer.clamp_max(len(control.nodes) - 1)]
    last = t + h * (1 + 1e-9) >= node
    end = torch.where(lane, torch.where(last, node, t + h), t)
    y1, err, cuts = _step_and_error(terms, steps, tree, t, end, y)
    ratio = _ratio(control, y, y1, err)
    worst = torch.where(active, ratio, 0.0).amax().reshape(1) if control.together else ratio
    worst = worst.to(h.dtype)
    size = end - t
    reject = lane & (worst > 1.0) & (size > control.smallest * (1 + 1e-9))
    accept = lane & ~reject
    lost = active & accept & (ratio > 1.0)
    moved = active & accept & ~lost
    mask = moved.view(-1, *([1] * (y.ndim - 1)))
    y = torch.where(mask, y1, y)
    arrives = accept & last
    dump = state.output.shape[1] - 1
    place = control.place[state.pointer.clamp_max(len(control.place) - 1)]
    where = torch.where(moved & arrives, place, dump)
    state.output[torch.arange(len(y), device=y.device), where] = y
    pointer = state.pointer + arrives
    status = torch.where(lost, UNDERFLOW, state.status)
    status = torch.where(moved & (pointer == len(control.nodes)), SUCCESS, status).to(torch.int8)
    used = worst.clamp(1e-4, 1.0)
    later = RowState(
        t=torch.where(accept, end, t),
        h=_resize(control, state, size, worst, used, last, reject, accept),
        before=torch.where(accept, used, state.before),
        pointer=pointer,
        y=y,
        output=state.output,
        status=status,
        reached=torch.where(moved, end, state.reached),
        rejected=state.rejected + reject,
    )
    kept = [(a, torch.where(accept, b, a)) for a, b in cuts]
    return later, kept


def _step_and_error(
    terms: Terms, steps: RowSteps, tree: Any, t: Tensor, end: Tensor, y: Tensor
) -> tuple[Tensor, Tensor, list[tuple[Tensor, Tensor]]]:
    """A step and its error: the method's own estimate, or the gap to two steps of half the length."""
    if steps.about.estimate:
        taken = steps.step(terms, t, end - t, y, (), tree.increment(t, end))
        return taken.y, torch.zeros_like(y) if taken.err is None else taken.err, [(t, end)]
    middle = 0.5 * (t + end)
    a, b = middle - t, end - middle
    first, second = tree.increment(t, middle), tree.increment(middle, end)
    whole = _joined(first, second, a, b, y)
    coarse = steps.step(terms, t, end - t, y, (), whole).y
    halfway = steps.step(terms, t, a, y, (), first).y
    fine = steps.step(terms, middle, b, halfway, (), second).y
    return fine, fine - coarse, [(t, middle), (middle, end)]


def _joined(first: Noise, second: Noise, a: Tensor, b: Tensor, y: Tensor) -> Noise:
    """Noise of both halves together; lanes of length zero have none."""
    still = a + b <= 0
    half = torch.where(still, 0.5, a), torch.where(still, 0.5, b)
    axes = first.W.ndim
    return join(first, second, column(half[0], first.W, axes), column(half[1], first.W, axes))


def _ratio(control: Control, y: Tensor, y1: Tensor, err: Tensor) -> Tensor:
    """Error over allowed error of each row; infinite if a value is."""
    scale = control.atol + control.rtol * torch.maximum(y.abs(), y1.abs())
    ratio = (err / scale).flatten(1).square().mean(1).sqrt()
    return torch.where(torch.isfinite(ratio) & torch.isfinite(y1).flatten(1).all(1), ratio, torch.inf)


def _resize(
    control: Control,
    state: RowState,
    size: Tensor,
    worst: Tensor,
    used: Tensor,
    last: Tensor,
    reject: Tensor,
    accept: Tensor,
) -> Tensor:
    """Length of the next step."""
    order = control.order
    shrunk = size * (SAFETY * worst ** (-1.0 / order)).clamp(SMALLEST, SAFETY)
    factor = SAFETY * used ** (-(PROPORTIONAL + INTEGRAL) / order) * state.before ** (PROPORTIONAL / order)
    grown = size * factor.clamp(SMALLEST, LARGEST)
    # a step cut short by a node says little about the next
    grown = torch.where(last & (size < 0.5 * state.h), torch.maximum(state.h, grown), grown)
    proposed = torch.where(reject, shrunk, grown).clamp_min(control.smallest)
    return torch.where(reject | accept, proposed, state.h)


def _packed(log: list[tuple[Tensor, Tensor]]) -> RowGrid:
    """Accepted steps without gaps, for each lane in order of time."""
    starts, ends = (torch.stack(x) for x in zip(*log, strict=True))
    moved = ends > starts
    order = (~moved).to(torch.uint8).argsort(dim=0, stable=True)
    starts, ends = starts.gather(0, order), ends.gather(0, order)
    count = int(moved.sum(0).max())
    return RowGrid(starts[:count], ends[:count])
