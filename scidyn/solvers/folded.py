"""A vector field on several copies of its batch at once: rows of many steps, or of a mapped axis."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor

from scidyn.errors import ShapeError
from scidyn.solvers.split import SemilinearField, SeparableField, SplitField

__all__ = ["folded", "in_parts"]

Function = Callable[..., Tensor]
Select = Callable[[Any], Function]


def in_parts(f: Any, make: Callable[[Select, bool], Function]) -> Function:
    """Give a field in the same parts as ``f``.

    ``make(select, half)`` makes one part; ``select`` finds it in a field of this kind, and ``half`` says
    whether it takes one half of the state only.
    """
    if isinstance(f, SplitField):
        return SplitField(make(lambda g: g.explicit, False), make(lambda g: g.implicit, False))
    if isinstance(f, SemilinearField):
        return SemilinearField(f.diagonal, make(lambda g: g.nonlinear, False))
    if isinstance(f, SeparableField):
        return SeparableField(make(lambda g: g.velocity, True), make(lambda g: g.force, True))
    return make(lambda g: g, False)


def folded(
    bind: Callable[[Sequence[Tensor]], Any],
    like: Any,
    count: int,
    shape: Sequence[int],
    *,
    own_times: bool,
    inputs: Sequence[Tensor] = (),
) -> Function:
    """Give the field that sees ``count`` copies of a batch as one batch.

    Parameters
    ----------
    bind : callable
        ``bind(own)`` gives the field ``f(t, y)`` or ``f(t, y, args)`` of one copy from its share of ``inputs``.
    like : callable
        A field of the same kind; a field in parts gives a field in parts.
    count : int
        Number of copies.
    shape : sequence of int
        Shape of the state of one copy, with its batch if it has one.
    own_times : bool
        True if the field takes one time per sample, False if one for all.
    inputs : sequence of Tensor, each of leading axis ``count``
        What differs from copy to copy beside the state.

    Returns
    -------
    callable
        ``g(t, y)`` or ``g(t, y, args)`` with ``t`` a scalar or of shape (count * batch,), and ``y`` of
        leading axis ``count * batch``.
    """

    def make(select: Select, half: bool) -> Function:
        state = (*shape[:-1], shape[-1] // 2) if half else tuple(shape)

        def many(t: Tensor, y: Tensor, *args: Any) -> Tensor:
            time = t if t.ndim == 0 else t.reshape(count, -1)
            if t.ndim > 0 and not own_times:
                time = time[:, 0]

            def one(when: Tensor, rows: Tensor, *own: Tensor) -> Tensor:
                return select(bind(own))(when, rows, *args)

            dims = (None if t.ndim == 0 else 0, 0, *(0 for _ in inputs))
            # an operation, so that whoever swaps tensors for others sees these
            each = [x.view_as(x) for x in inputs]
            rate = torch.func.vmap(one, in_dims=dims)(time, y.reshape(count, *state), *each)
            if rate.shape != (count, *state):
                raise ShapeError(f"f returned shape {tuple(rate.shape[1:])}, the state has shape {state}.")
            return rate.reshape(y.shape)

        return many

    return in_parts(like, make)
