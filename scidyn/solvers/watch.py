"""Look for crossings while the solver steps; a sample that must stop at one is led to it."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import torch
from torch import Tensor

from scidyn.solvers.attempt import Bounds, LoopState, Outcome
from scidyn.solvers.crossing import Piece, on_step
from scidyn.solvers.status import Status
from scidyn.solvers.surfaces import Surface, check_values

__all__ = ["Crossing", "Seen", "Watch", "put_back"]

# crossings this close, in units of the step, are at the same time
TOGETHER = 1e-9
UNLIMITED = 2**62


class Crossing(NamedTuple):
    """Crossings of one event that do not stop a sample.

    Attributes
    ----------
    event : int
        Which.
    rows : Tensor of bool, shape (batch,)
        The samples that cross.
    t : Tensor, shape (batch,)
        When.
    y : Tensor, shape (batch, D)
        States there, on the polynomial of the step.
    """

    event: int
    rows: Tensor
    t: Tensor
    y: Tensor


class Seen(NamedTuple):
    """What the ends of K attempts say about the events.

    Attributes
    ----------
    flags : Tensor of bool
        Whether a value is not finite; whether any sample crosses, per attempt and event.
    found : Tensor of bool, shape (K, events, batch)
        Which samples cross.
    sides : list of K + 1 Tensors, shape (events, batch)
        Side of each surface before the first attempt and after each.
    """

    flags: Tensor
    found: Tensor
    sides: list[Tensor]


class Watch:
    """Called after every block of attempts of a solve; a sample's end moves to the event that stops it.

    A sample that crosses a stopping event goes back to the start of the block and its last time becomes that of
    the event, so that its last step is an ordinary step which ends there, for every method and every adjoint.

    Parameters
    ----------
    surfaces : sequence of Surface
        The events.
    side : Tensor, shape (events, batch)
        Side of each surface at the start: −1, +1, or 0 if not known yet.
    counts : Tensor of int64, shape (events, batch)
        Crossings met before.
    past : tuple of three Tensors, or None
        Accepted and rejected attempts made before, which count towards the largest number, and the step to try
        first, zero where it is to be chosen anew.
    ended : Tensor of bool, shape (batch,)
        Samples that need no looking at.
    sign : float
        −1.0 if the caller's times decrease.

    Attributes
    ----------
    pending : Tensor of int64, shape (batch,)
        The event at which each sample stops, −1 if none.
    crossings : list of Crossing
        Those that do not stop the sample.
    reads : int
        Values copied to the host.
    """

    def __init__(
        self,
        surfaces: Sequence[Surface],
        side: Tensor,
        counts: Tensor,
        past: tuple[Tensor, Tensor, Tensor] | None,
        ended: Tensor,
        sign: float,
    ) -> None:
        self.surfaces, self.side, self.counts, self.past, self.sign = surfaces, side, counts, past, sign
        self.pending = torch.full(side.shape[1:], -1, dtype=torch.int64, device=side.device)
        self.ended = ended
        self.crossings: list[Crossing] = []
        self.reads = 0

    def begin(self, state: LoopState) -> LoopState:
        """Go on from the attempts made before."""
        if self.past is None:
            return state
        accepted, rejected, size = self.past
        # copies, because compiled steps are specialised to tensors that are all different
        h = torch.where(size > 0, size, state.h)
        return state._replace(h=h, accepted=accepted.clone(), rejected=rejected.clone())

    def __call__(self, before: LoopState, bounds: Bounds, block: Outcome) -> tuple[Outcome, Bounds]:
        """Look at a block; gives it with the samples that must stop put back, and with their new last times."""
        if not self.surfaces:
            return block, bounds
        flags, values = self.look(block)
        *marks, calm = flags.tolist()
        # the host knows the flags now: the loop need not wait for them again
        block = block._replace(flags=torch.tensor(marks, device="cpu"))
        if calm:
            return block, bounds
        seen = self.sort(block, values)
        bad, *crossed = seen.flags.tolist()
        self.reads += 1
        if bad:
            for size, t, value in zip(block.size, block.times, values, strict=True):
                check_values(value, size > 0, t, self.sign)
        if not any(crossed):
            self.side = seen.sides[-1]
            return block, bounds
        wide = len(self.surfaces)
        which = [[e for e in range(wide) if crossed[k * wide + e]] for k in range(len(values))]
        starts = [before.t, *block.times[:-1]]
        pieces = [Piece(*p) for p in zip(starts, block.size, block.states, block.coef, strict=True)]
        stopped, end = self._locate(pieces, which, seen, values, bounds.end)
        if not any(self.surfaces[e].ends or self.surfaces[e].jump is not None for row in which for e in row):
            self.side = seen.sides[-1]
            return block, bounds
        self.reads += 1
        self.side = torch.where(stopped, self.side, seen.sides[-1])
        return put_back(before, block, stopped, bounds.max_steps), bounds._replace(end=end)

    def look(self, block: Outcome) -> tuple[Tensor, Tensor]:
        """Evaluate the events at the ends of the attempts; the host reads nothing.

        Gives the flags of the block with one more, True if every value has the sign it had before, and the
        values, shape (K, events, batch).
        """
        ends = [*block.states[1:], block.state.y]
        each = [torch.stack([s.value(t, y) for s in self.surfaces]) for t, y in zip(block.times, ends, strict=True)]
        values = torch.stack(each)
        calm = ((self.side * values > 0) | (self.pending >= 0) | self.ended).all()
        return torch.cat([block.flags, calm.reshape(1)]), values

    def sort(self, block: Outcome, values: Tensor) -> Seen:
        """Tell which samples cross which surface in which attempt; the host reads nothing."""
        sides, crossed, bad = [self.side], [], torch.zeros_like(self.pending, dtype=torch.bool)
        for size, value in zip(block.size, values, strict=True):
            side, moved = sides[-1], size > 0
            bad = bad | (moved & ~torch.isfinite(value)).any(dim=0)
            up, down = moved & (side < 0) & (value >= 0), moved & (side > 0) & (value <= 0)
            counted = [self._counted(e, up[e], down[e]) for e in range(len(self.surfaces))]
            crossed.append(torch.stack(counted) & (self.pending < 0))
            # a value of zero at the end of a step is already on the other side
            other = torch.where(value == 0, torch.where(up | down, -side, side), value.sign().to(side.dtype))
            sides.append(torch.where(moved, other, side))
        found = torch.stack(crossed)
        return Seen(torch.cat([bad.any().reshape(1), found.any(dim=2).reshape(-1)]), found, sides)

    def _counted(self, event: int, up: Tensor, down: Tensor) -> Tensor:
        """Crossings of one event in the direction that counts, before its limit."""
        surface = self.surfaces[event]
        crossing = up | down if surface.rising and surface.falling else up if surface.rising else down
        return crossing & self._before_limit(event)

    def _before_limit(self, event: int, ahead: int = 0) -> Tensor:
        """Whether the next crossing, or one so many ahead of it, is within the event's limit."""
        limit = self.surfaces[event].limit
        return self.counts[event] + ahead < (UNLIMITED if limit is None else limit)

    def _locate(
        self,
        pieces: Sequence[Piece],
        which: Sequence[Sequence[int]],
        seen: Seen,
        values: Tensor,
        end: Tensor,
    ) -> tuple[Tensor, Tensor]:
        """Find the times of crossings: note those that stop nothing, give the others as new last times."""
        stopped = torch.zeros_like(self.pending, dtype=torch.bool)
        for k, (piece, chosen) in enumerate(zip(pieces, which, strict=True)):
            if not chosen:
                continue
            rows, theta, until = [], [], []
            for e in chosen:
                surface = self.surfaces[e]
                row = seen.found[k, e] & ~stopped & self._before_limit(e)
                position, reads = on_step(surface.value, piece, seen.sides[k][e], values[k, e], row)
                self.reads += reads
                stops = row if surface.jump is not None else row & ~self._before_limit(e, 1)
                stops = stops if surface.jump is not None or surface.ends else torch.zeros_like(row)
                rows.append(row & ~stops)
                theta.append(position)
                until.append(torch.where(stops, position, torch.inf))
            limits = torch.stack(until)
            first = limits.amin(dim=0)
            stopping = torch.isfinite(first)
            # of events at the same time the first in the sequence acts
            acting = (limits <= first + TOGETHER).to(torch.int8).argmax(dim=0)
            for i, e in enumerate(chosen):
                self.pending = torch.where(stopping & (acting == i), e, self.pending)
            end = torch.where(stopping, torch.addcmul(piece.t, torch.where(stopping, first, 0.0), piece.h), end)
            stopped = stopped | stopping
            for e, row, position in zip(chosen, rows, theta, strict=True):
                surface = self.surfaces[e]
                if surface.jump is None and not (surface.ends and surface.limit == 1):
                    self._note(e, piece, row & (position <= first + TOGETHER), torch.minimum(position, first))
        return stopped, end

    def _note(self, event: int, piece: Piece, rows: Tensor, theta: Tensor) -> None:
        """Keep crossings that stop nothing."""
        theta = torch.where(rows, theta, 0.0)
        self.crossings.append(Crossing(event, rows, torch.addcmul(piece.t, theta, piece.h), piece.at(theta)))
        added = torch.zeros_like(self.counts)
        added[event] = rows.to(added.dtype)
        self.counts = self.counts + added


def put_back(before: LoopState, block: Outcome, rows: Tensor, max_steps: Tensor) -> Outcome:
    """Undo a block of attempts in some rows, which then count as rejected."""
    column = rows.unsqueeze(-1)
    now = block.state
    carry = tuple(
        torch.where(rows.reshape(-1, *[1] * (new.ndim - 1)), old, new)
        for old, new in zip(before.carry, now.carry, strict=True)
    )
    tried = now.accepted + now.rejected - before.accepted
    status = torch.where(before.accepted + tried >= max_steps, Status.MAX_STEPS.value, Status.RUNNING.value)
    state = now._replace(
        t=torch.where(rows, before.t, now.t),
        h=torch.where(rows, before.h, now.h),
        y=torch.where(column, before.y, now.y),
        carry=carry,
        previous=(
            torch.where(rows, before.previous[0], now.previous[0]),
            torch.where(rows, before.previous[1], now.previous[1]),
        ),
        status=torch.where(rows, status, now.status).to(now.status.dtype),
        accepted=torch.where(rows, before.accepted, now.accepted),
        rejected=torch.where(rows, tried, now.rejected),
    )
    size = torch.where(rows, 0.0, block.size)
    running = (state.status == Status.RUNNING.value).any().reshape(1)
    return Outcome(
        state,
        torch.where(rows, before.t, block.times),
        size,
        torch.where(column, before.y, block.states),
        block.coef,
        torch.cat([(size > 0).any(dim=1), running]),
        block.choice,
    )
