"""Solves inside the transforms of ``torch.func``: a mapped axis becomes part of the batch.

A solve reads values to decide its steps, which a transform forbids. So it is made one function of all tensors
that it depends on: mapped, it is the solve of a larger batch; differentiated, it is the solve's own adjoint.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor
from torch.utils import _pytree as pytree

from scidyn.errors import OptionError
from scidyn.solvers.adjoint.capture import Swapped, met
from scidyn.solvers.adjoint.times import move, move_outputs
from scidyn.solvers.field import Field
from scidyn.solvers.folded import folded, in_parts
from scidyn.solvers.functional import Transformed

__all__ = ["Solver", "transformed", "transforming", "wrapped"]

Run = Callable[[Any, Tensor, Tensor, Sequence[Tensor]], Any]


def transforming() -> bool:
    """True inside a function that ``torch.func`` transforms."""
    return bool(torch._C._are_functorch_transforms_active())


def wrapped(tree: Any) -> bool:
    """True if a tensor in nested tuples, lists and dicts belongs to a transform."""
    leaves = [x for x in pytree.tree_leaves(tree) if isinstance(x, Tensor)]
    return any(torch.func.debug_unwrap(x, recurse=False) is not x for x in leaves)


class Solver(NamedTuple):
    """How to solve without transforms.

    Attributes
    ----------
    run : callable
        ``run(f, y0, t, params)`` gives a solution with ``y`` of shape (batch, …), ``status`` and ``stats`` if
        it has them.
    own_times : bool
        True if ``f`` takes one time per sample.
    """

    run: Run
    own_times: bool


def transformed(solver: Solver, f: Any, y0: Tensor, t: Tensor, args: Any) -> Any:
    """Solve as a transform wants it, or give None if no tensor of the solve belongs to one.

    ``f(t, y)`` or ``f(t, y, args)`` is watched for the tensors that it uses.
    """
    given = (f, args)
    start = t.reshape(-1, t.shape[-1])[:, 0] if t.ndim else t.reshape(1)
    rows = 1 if y0.ndim < 2 else y0.shape[0]
    time = start.expand(rows) if solver.own_times and y0.ndim > 1 else start[0]
    found = met(f, time.to(y0.real.dtype), y0, args)
    used = [x for x in found if x.requires_grad or wrapped(x)]
    if not wrapped((y0, t, used)):
        return None
    if wrapped(getattr(f, "diagonal", None)):
        raise OptionError("the diagonal of a SemilinearField cannot be mapped or differentiated by torch.func.")
    seen: list[Any] = []
    plain = _Plain(solver, given, tuple(used), seen, tuple(y0.shape), ())
    y = Transformed.apply(plain, y0, t, *used)
    return _reported(seen[-1], t, y)


def _reported(solution: Any, t: Tensor, y: Tensor) -> Any:
    """Give the solution of the whole batch in the shape that the transformed function sees."""
    rows, batch = solution.y.shape[0], y.shape[0]
    changed: dict[str, Any] = {"y": y}

    def worst(x: Any) -> Any:
        mine = isinstance(x, Tensor) and x.shape == (rows,)
        return x.reshape(-1, batch).amax(dim=0) if mine and x.dtype != torch.bool else x

    names = {field.name for field in dataclasses.fields(solution)}
    if "t" in names:
        changed["t"] = t
    if "status" in names:
        statuses = [solution.status[i::batch] for i in range(batch)]
        changed["status"] = tuple(next((s for s in group if not s.success), group[0]) for group in statuses)
    if "stats" in names:
        stats = solution.stats
        changed["stats"] = dataclasses.replace(
            stats, **{x.name: worst(getattr(stats, x.name)) for x in dataclasses.fields(stats)}
        )
    if "converged" in names:
        changed["converged"] = solution.converged.reshape(-1, batch).all(dim=0)
        changed["residual"] = worst(solution.residual)
    return dataclasses.replace(solution, **changed)


@dataclasses.dataclass(frozen=True, eq=False)
class _Plain:
    """The solve as a function of ``(y0, t, *used)``, each with the leading axes ``counts``.

    Not a tuple, whose tensors a transform would replace.
    """

    solver: Solver
    given: tuple[Any, Any]
    used: tuple[Tensor, ...]
    seen: list[Any]
    shape: tuple[int, ...]
    counts: tuple[int, ...]
    single: bool = True

    def over(self, count: int) -> _Plain:
        """Add a leading axis."""
        return dataclasses.replace(self, counts=(count, *self.counts))

    def __call__(self, y0: Tensor, t: Tensor, *inputs: Tensor) -> Tensor:
        counts = self.counts
        copies = 1
        for count in counts:
            copies *= count
        params = [x for x in inputs if x.requires_grad]
        f = self._field(counts, inputs)
        rows = y0.reshape(-1, *(self.shape[1:] if len(self.shape) > 1 else self.shape)) if counts else y0
        batch = rows.shape[0] // copies if counts and len(self.shape) > 1 else 1
        if not counts:
            solution = self.solver.run(f, rows, t, params)
        elif self.solver.own_times and t.ndim > len(counts):
            own = t.reshape(copies, -1, t.shape[-1]).expand(-1, batch, -1).reshape(-1, t.shape[-1])
            solution = self.solver.run(f, rows, own, params)
        else:
            solution = self._at_common_times(f, rows, t.reshape(copies, *t.shape[len(counts) :]), batch, params)
        self.seen[:] = [solution]
        y: Tensor = solution.y
        return y if not counts else y.reshape(*counts, batch, *y.shape[1:])

    def _at_common_times(self, f: Any, rows: Tensor, t: Tensor, batch: int, params: Sequence[Tensor]) -> Any:
        """Solve at times that all copies share, and let each have its own derivative with respect to them."""
        common = t[0].detach()
        if bool((t.detach() != common).any()):
            raise OptionError("a mapped axis of times needs stepping='per_sample': the copies share their steps here.")
        if not t.requires_grad or common.ndim == 0:
            return self.solver.run(f, rows, common, params)
        sign = -1.0 if bool(common[-1] < common[0]) else 1.0
        field = Field(f, None, rows.shape, sign, per_sample=True)
        times = (sign * t).repeat_interleave(batch, dim=0)
        flat = rows.reshape(len(rows), -1)
        moved = move(field, times[:, 0], times[:, 0].detach(), flat)
        solution = self.solver.run(f, moved.reshape(rows.shape), common, params)
        y = move_outputs(field, times, solution.y.reshape(len(rows), len(common), -1), flat)
        return dataclasses.replace(solution, y=y.reshape(solution.y.shape))

    def _field(self, counts: tuple[int, ...], inputs: Sequence[Tensor]) -> Any:
        """Give the field of the rows of all copies from what differs between them."""
        f, args = self.given
        if not counts:
            return in_parts(f, lambda select, half: _bound(select(f), args, self.used, inputs))
        inner, shape = counts[1:], self.shape
        if inner:
            copies = 1
            for count in inner:
                copies *= count
            shape = (copies * shape[0], *shape[1:]) if len(shape) > 1 else (copies, *shape)
        return folded(
            lambda own: self._field(inner, own),
            f,
            counts[0],
            shape,
            own_times=self.solver.own_times and len(shape) > 1,
            inputs=inputs,
        )


def _bound(f: Callable[..., Tensor], args: Any, used: Sequence[Tensor], inputs: Sequence[Tensor]) -> Any:
    """Give ``f(t, y)`` that sees ``inputs`` in place of ``used``, closed over or in ``args``."""
    by_id = {id(a): b for a, b in zip(used, inputs, strict=True)}
    own = pytree.tree_map(lambda x: by_id.get(id(x), x), args)

    def g(t: Tensor, y: Tensor) -> Tensor:
        with Swapped(used, inputs):
            return f(t, y) if args is None else f(t, y, own)

    return g
