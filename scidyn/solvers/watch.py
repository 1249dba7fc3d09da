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
        Those of the block; whether a value is not finite; whether any sample crosses, per attempt and event.
    found : Tensor of bool, shape (K, events, batch)
        Which samples cross.
    sides : list of K + 1 Tensors, shape (events, batch)
        Side of each surface before the first attempt and after each.
    values : list of K Tensors, shape (events, batch)
        Values at the ends.
    """

    flags: Tensor
    found: Tensor
    sides: list[Tensor]
    values: list[Tensor]


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
    tried : tuple of two Tensors of int32, or None
        Accepted and rejected attempts made before, which count towards the largest number.
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
        tried: tuple[Tensor, Tensor] | None,
        sign: float,
    ) -> None:
        self.surfaces, self.side, self.counts, self.tried, self.sign = surfaces, side, counts, tried, sign
        self.pending = torch.full(side.shape[1:], -1, dtype=torch.int64, device=side.device)
        self.crossings: list[Crossing] = []
        self.reads = 0
        self._rising = self._column([s.rising for s in surfaces])
        self._falling = self._column([s.falling for s in surfaces])
        self._limits = self._column([UNLIMITED if s.limit is None else s.limit for s in surfaces])

    def _column(self, entries: Sequence[int]) -> Tensor:
        """One entry per event, shape (events, 1)."""
        kind = torch.bool if all(isinstance(x, bool) for x in entries) else torch.int64
        return torch.tensor(entries, dtype=kind, device=self.side.device).reshape(-1, 1)

    def begin(self, state: LoopState) -> LoopState:
        """Count the attempts made before."""
        if self.tried is None:
            return state
        # copies, because compiled steps are specialised to tensors that are all different
        return state._replace(accepted=self.tried[0].clone(), rejected=self.tried[1].clone())

    def __call__(self, before: LoopState, bounds: Bounds, block: Outcome) -> tuple[Outcome, Bounds]:
        """Look at a block; gives it with the samples that must stop put back, and with their new last times."""
        if not self.surfaces:
            return block, bounds
        seen = self.look(block)
        marks = seen.flags.tolist()
        *flags, bad = marks[: len(block.flags) + 1]
        wide, crossed = len(self.surfaces), marks[len(block.flags) + 1 :]
        # the host knows the flags now: the loop need not wait for them again
        block = block._replace(flags=torch.tensor(flags, device="cpu"))
        if bad:
            for size, t, value in zip(block.size, block.times, seen.values, strict=True):
                check_values(value, size > 0, t, self.sign)
        if not any(crossed):
            self.side = seen.sides[-1]
            return block, bounds
        self.reads += 1
        which = [[e for e in range(wide) if crossed[k * wide + e]] for k in range(len(seen.values))]
        starts = [before.t, *block.times[:-1]]
        pieces = [Piece(*p) for p in zip(starts, block.size, block.states, block.coef, strict=True)]
        stopped, end = self._locate(pieces, which, seen, bounds.end)
        self.side = torch.where(stopped, self.side, seen.sides[-1])
        return put_back(before, block, stopped), bounds._replace(end=end)

    def look(self, block: Outcome) -> Seen:
        """Evaluate the events at the ends of the attempts; the host reads nothing."""
        ends = [*block.states[1:], block.state.y]
        values, sides, crossed, bad = [], [self.side], [], torch.zeros_like(self.pending, dtype=torch.bool)
        for size, t, y in zip(block.size, block.times, ends, strict=True):
            side, moved = sides[-1], size > 0
            value = torch.stack([s.value(t, y) for s in self.surfaces])
            bad = bad | (moved & ~torch.isfinite(value)).any(dim=0)
            changed = moved & (((side < 0) & (value >= 0)) | ((side > 0) & (value <= 0)))
            counted = (self._rising & (side < 0)) | (self._falling & (side > 0))
            crossed.append(changed & counted & (self.pending < 0) & (self.counts < self._limits))
            # a value of zero at the end of a step is already on the other side
            other = torch.where(value == 0, torch.where(changed, -side, side), value.sign().to(side.dtype))
            sides.append(torch.where(moved, other, side))
            values.append(value)
        found = torch.stack(crossed)
        flags = torch.cat([block.flags, bad.any().reshape(1), found.any(dim=2).reshape(-1)])
        return Seen(flags, found, sides, values)

    def _locate(
        self,
        pieces: Sequence[Piece],
        which: Sequence[Sequence[int]],
        seen: Seen,
        end: Tensor,
    ) -> tuple[Tensor, Tensor]:
        """Find the times of crossings: note those that stop nothing, give the others as new last times."""
        stopped = torch.zeros_like(self.pending, dtype=torch.bool)
        for k, (piece, chosen) in enumerate(zip(pieces, which, strict=True)):
            if not chosen:
                continue
            rows, theta, until = [], [], []
            for e in chosen:
                surface, counts, limit = self.surfaces[e], self.counts[e], self._limits[e]
                row = seen.found[k, e] & ~stopped & (counts < limit)
                position, reads = on_step(surface.value, piece, seen.sides[k][e], seen.values[k][e], row)
                self.reads += reads
                stops = row if surface.jump is not None else row & (counts + 1 >= limit) if surface.ends else ~row & row
                rows.append(row & ~stops)
                theta.append(position)
                until.append(torch.where(stops, position, torch.inf))
            limits = torch.stack(until)
            first = limits.amin(dim=0)
            stopping = torch.isfinite(first)
            # of events at the same time the first in the sequence acts
            acting = (limits <= first + TOGETHER).to(torch.int8).argmax(dim=0)
            self.pending = torch.where(stopping, self._events(chosen)[acting], self.pending)
            end = torch.where(stopping, torch.addcmul(piece.t, torch.where(stopping, first, 0.0), piece.h), end)
            stopped = stopped | stopping
            for e, row, position in zip(chosen, rows, theta, strict=True):
                if self.surfaces[e].jump is None:
                    self._note(e, piece, row & (position <= first + TOGETHER), torch.minimum(position, first))
        return stopped, end

    def _note(self, event: int, piece: Piece, rows: Tensor, theta: Tensor) -> None:
        """Keep crossings that stop nothing."""
        theta = torch.where(rows, theta, 0.0)
        self.crossings.append(Crossing(event, rows, torch.addcmul(piece.t, theta, piece.h), piece.at(theta)))
        self.counts = self.counts.index_add(0, self._events([event]), rows.to(torch.int64).unsqueeze(0))

    def _events(self, chosen: Sequence[int]) -> Tensor:
        """Indices on the device."""
        return torch.tensor(chosen, dtype=torch.int64, device=self.side.device)


def put_back(before: LoopState, block: Outcome, rows: Tensor) -> Outcome:
    """Undo a block of attempts in some rows, which then count as rejected."""
    column = rows.unsqueeze(-1)
    now = block.state
    carry = tuple(
        torch.where(rows.reshape(-1, *[1] * (new.ndim - 1)), old, new)
        for old, new in zip(before.carry, now.carry, strict=True)
    )
    tried = now.accepted + now.rejected - before.accepted
    state = LoopState(
        t=torch.where(rows, before.t, now.t),
        h=torch.where(rows, before.h, now.h),
        y=torch.where(column, before.y, now.y),
        carry=carry,
        previous=(
            torch.where(rows, before.previous[0], now.previous[0]),
            torch.where(rows, before.previous[1], now.previous[1]),
        ),
        status=torch.where(rows, Status.RUNNING.value, now.status).to(now.status.dtype),
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
    )
