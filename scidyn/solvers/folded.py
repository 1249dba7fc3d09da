"""A vector field on several copies of its batch at once: rows of many steps, or of a mapped axis."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor

from scidyn.solvers.split import SemilinearField, SeparableField, SplitField

__all__ = ["folded"]

Function = Callable[..., Tensor]
Call = Callable[[Function, Sequence[Tensor], Tensor, Tensor, tuple[Any, ...]], Tensor]


def plain(f: Function, inputs: Sequence[Tensor], t: Tensor, y: Tensor, args: tuple[Any, ...]) -> Tensor:
    """Call ``f`` itself."""
    return f(t, y, *args)


def folded(
    f: Function,
    count: int,
    shape: Sequence[int],
    *,
    own_times: bool,
    inputs: Sequence[Tensor] = (),
    call: Call = plain,
) -> Function:
    """Give the field that sees ``count`` copies of a batch as one batch.

    Parameters
    ----------
    f : callable
        ``f(t, y)`` or ``f(t, y, args)``; the fields in parts give a field in parts.
    count : int
        Number of copies.
    shape : sequence of int
        Shape of the state that ``f`` takes, with its batch if it has one.
    own_times : bool
        True if ``f`` takes one time per sample, False if one for all.
    inputs : sequence of Tensor, each of leading axis ``count``
        What differs from copy to copy beside the state.
    call : callable
        ``call(f, inputs, t, y, args)`` evaluates ``f`` for one copy with its share of ``inputs``.

    Returns
    -------
    callable
        ``g(t, y)`` or ``g(t, y, args)`` with ``t`` a scalar or of shape (count * batch,), and ``y`` of
        leading axis ``count * batch``.
    """

    def again(part: Function, of: Sequence[int] = shape) -> Function:
        return folded(part, count, of, own_times=own_times, inputs=inputs, call=call)

    if isinstance(f, SplitField):
        return SplitField(again(f.explicit), again(f.implicit))
    if isinstance(f, SemilinearField):
        return SemilinearField(f.diagonal, again(f.nonlinear))
    if isinstance(f, SeparableField):
        half = (*shape[:-1], shape[-1] // 2)
        return SeparableField(again(f.velocity, half), again(f.force, half))

    def many(t: Tensor, y: Tensor, *args: Any) -> Tensor:
        rows = y.reshape(count, *shape)
        time = t if t.ndim == 0 else t.reshape(count, -1)
        if t.ndim > 0 and not own_times:
            time = time[:, 0]

        def one(when: Tensor, state: Tensor, *own: Tensor) -> Tensor:
            return call(f, own, when, state, args)

        dims = (None if t.ndim == 0 else 0, 0, *(0 for _ in inputs))
        return torch.func.vmap(one, in_dims=dims)(time, rows, *inputs).reshape(y.shape)

    return many
