"""Samples that have arrived leave the batch: the rest goes on in a smaller one and is put back at the end."""

from __future__ import annotations

import warnings
from typing import Any

import torch
from torch import Tensor
from torch.utils import _pytree as pytree

from scidyn.errors import SolverWarning
from scidyn.solvers.arguments import Problem
from scidyn.solvers.attempt import Bounds, LoopState
from scidyn.solvers.dense import Records
from scidyn.solvers.field import Field
from scidyn.solvers.status import Status

__all__ = ["Crew"]

SMALLEST = 16
ROUNDING = 1e3


class Crew:
    """The samples that are still stepped, and where the results of all are collected.

    Parameters
    ----------
    problem : Problem
        The whole problem.
    state, bounds
        Loop of the whole batch.
    output : Tensor, shape (batch, T, D)
        States at the wanted times, written in place.
    """

    def __init__(self, problem: Problem, state: LoopState, bounds: Bounds, output: Tensor) -> None:
        self.problem, self.field, self.bounds = problem, problem.field, bounds
        self.wanted, self.output = problem.times.detach(), output
        self.rows: Tensor | None = None
        self.calls = 0
        self._all_bounds, self.all_output, self._all_state = bounds, output, state
        self._possible = True

    def smaller(self, state: LoopState) -> LoopState:
        """Leave finished samples behind once half of the batch is done; else give ``state`` back."""
        size = len(state.status)
        left = int((state.status == Status.RUNNING.value).sum())
        if not self._possible or size <= SMALLEST or left == 0 or 2 * left > size:
            return state
        order = torch.argsort((state.status != Status.RUNNING.value).to(torch.int8), stable=True)
        here = order[: max(SMALLEST, 1 << (left - 1).bit_length())].sort().values
        rows = here if self.rows is None else self.rows[here]
        whole = self.whole(state)
        field = self._field(whole, rows)
        if field is None:
            self._possible = False
            return state
        self._put(state)
        self.calls += 0 if self.field is self.problem.field else self.field.calls
        self.field, self.rows, self._all_state = field, rows, whole
        self.bounds, self.wanted = _bounds(self._all_bounds, rows), self.problem.times.detach()[rows]
        self.output = self.all_output[rows]
        return _state(whole, rows)

    def whole(self, state: LoopState) -> LoopState:
        """Loop of the whole batch, in which those left behind stand still."""
        return state if self.rows is None else _put(self._all_state, state, self.rows)

    def widen(self, chunk: Records) -> Records:
        """Records of the whole batch, in which those left behind have steps of size zero."""
        if self.rows is None:
            return chunk
        t, y, count = self._all_state.t, self._all_state.y, len(chunk.size)
        times = t.expand(count + 1, -1).index_copy(1, self.rows, chunk.times)
        size = torch.zeros_like(times[1:]).index_copy(1, self.rows, chunk.size)
        states = y.expand(len(chunk.y), -1, -1).index_copy(1, self.rows, chunk.y)
        coef = chunk.coef.new_zeros((*chunk.coef.shape[:2], *y.shape)).index_copy(2, self.rows, chunk.coef)
        choice = chunk.choice
        if choice is not None:
            choice = choice.new_zeros((count, len(y))).index_copy(1, self.rows, choice)
        return Records(times, size, states, coef, choice)

    def row(self, whole: Tensor) -> Tensor:
        """Entries of those that are stepped."""
        return whole if self.rows is None else whole[self.rows]

    def widen_row(self, part: Tensor, whole: Tensor) -> Tensor:
        """Put entries back among those of all."""
        return part if self.rows is None else whole.index_copy(0, self.rows, part)

    def finish(self, state: LoopState) -> LoopState:
        """Put the last results back."""
        whole = self.whole(state)
        self._put(state)
        self.calls += 0 if self.field is self.problem.field else self.field.calls
        return whole

    def _put(self, state: LoopState) -> None:
        if self.rows is not None:
            self.all_output.index_copy_(0, self.rows, self.output)

    def _field(self, whole: LoopState, rows: Tensor) -> Field | None:
        """Field of some rows, or None with a warning if ``f`` does not give them the same rates."""
        field, count = self.problem.field, len(whole.t)
        expected = field(whole.t, whole.y)[rows]
        shape = torch.Size((len(rows), *field.shape[1:]))
        chosen = pytree.tree_map(lambda x: _rows(x, rows, count), field.args)
        for args in (chosen, field.args):
            candidate = Field(field.f, args, shape, field.sign, field.per_sample)
            if _same(candidate, whole.t[rows], whole.y[rows], expected):
                return candidate
        warnings.warn(
            "compact=True has no effect: f gives samples other rates when the rest of the batch is left out. Pass "
            "parameters of single samples in args, as tensors whose first axis is the batch, or leave compact out.",
            SolverWarning,
            stacklevel=2,
        )
        return None


def _same(field: Field, t: Tensor, y: Tensor, expected: Tensor) -> bool:
    """True if the field gives the expected rates up to rounding."""
    try:
        rate = field(t, y)
    except (RuntimeError, ValueError, IndexError, TypeError):
        # sizes that do not fit: f knows about its batch
        return False
    allowed = ROUNDING * torch.finfo(y.dtype).eps * expected.abs().amax(dim=-1, keepdim=True)
    close = (rate - expected).abs() <= allowed
    return bool((close | ~torch.isfinite(expected)).all())


def _rows(value: Any, rows: Tensor, count: int) -> Any:
    """Rows of a tensor whose first axis is the batch."""
    per_sample = isinstance(value, Tensor) and value.ndim > 0 and len(value) == count
    return value[rows] if per_sample else value


def _state(state: LoopState, rows: Tensor) -> LoopState:
    """Rows of a loop's state."""
    count = len(state.t)
    return pytree.tree_map(lambda x: _rows(x, rows, count), state)


def _bounds(bounds: Bounds, rows: Tensor) -> Bounds:
    """Rows of what each sample has of its own."""
    return bounds._replace(
        end=bounds.end[rows],
        dt_min=bounds.dt_min[rows],
        dt_max=bounds.dt_max[rows],
        slack=bounds.slack[rows],
        targets=None if bounds.targets is None else bounds.targets[rows],
    )


def _put(whole: LoopState, part: LoopState, rows: Tensor) -> LoopState:
    """Replace rows of the whole by those of the part."""
    count = len(whole.t)

    def one(old: Any, new: Any) -> Any:
        if not isinstance(old, Tensor):
            return new
        return old.index_copy(0, rows, new) if old.ndim > 0 and len(old) == count else new

    return pytree.tree_map(one, whole, part)
