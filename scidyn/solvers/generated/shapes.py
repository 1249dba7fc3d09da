"""Views, joins and other arrangements of the scalar expressions of one sample."""

from __future__ import annotations

import itertools
import math
from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor

from scidyn.solvers.generated.pointwise import aligned, mapped, recorder_of
from scidyn.solvers.generated.tracing import Symbol, Unsupported

__all__ = [
    *("cat", "copy", "expand", "filled", "flip", "index", "index_select", "new_filled", "not_samples", "pad"),
    *("permute", "reshape", "roll", "select", "slice_", "split", "squeeze", "stack", "transpose", "unbind"),
    *("unsqueeze", "without"),
]


def like(source: Symbol, nodes: np.ndarray, axis: int | None) -> Symbol:
    """Make a symbol of the kind of ``source``."""
    return Symbol(nodes, axis, source.recorder, boolean=source.dtype == torch.bool)


def positive_axis(dim: int, rank: int) -> int:
    """Count an axis from the front."""
    return dim + rank if dim < 0 else dim


def not_samples(source: Symbol, dim: int) -> int:
    """Count an axis from the front and refuse that of the samples."""
    dim = positive_axis(dim, source.ndim)
    if dim == source.axis:
        raise Unsupported("samples are told apart or joined")
    return dim


def without(axis: int | None, dim: int) -> int | None:
    """Axis of the samples once another is gone."""
    return axis - 1 if axis is not None and axis > dim else axis


def select(source: Symbol, dim: int, index: int) -> Symbol:
    """Take one entry of an axis."""
    dim = not_samples(source, dim)
    place: Any = (slice(None),) * dim + (index, ...)
    return like(source, source.nodes[place], without(source.axis, dim))


def slice_(source: Symbol, dim: int = 0, start: int | None = None, end: int | None = None, step: int = 1) -> Symbol:
    """Take a range of an axis."""
    dim = positive_axis(dim, source.ndim)
    if dim == source.axis:
        if (start or 0) != 0 or (end is not None and end < source.shape[dim]) or step != 1:
            raise Unsupported("a part of the samples")
        return like(source, source.nodes, source.axis)
    end = None if end is None or end >= source.shape[dim] else end
    return like(source, source.nodes[(slice(None),) * dim + (slice(start, end, step),)], source.axis)


def unbind(source: Symbol, dim: int = 0) -> list[Symbol]:
    """Take an axis apart."""
    return [select(source, dim, i) for i in range(source.shape[not_samples(source, dim)])]


def split(source: Symbol, size: int | Sequence[int], dim: int = 0) -> list[Symbol]:
    """Cut an axis into pieces."""
    dim = not_samples(source, dim)
    total = source.shape[dim]
    sizes = [min(size, total - i) for i in range(0, total, size)] if isinstance(size, int) else list(size)
    starts = np.concatenate([[0], np.cumsum(sizes)]).tolist()
    return [slice_(source, dim, a, b) for a, b in itertools.pairwise(starts)]


def permute(source: Symbol, dims: Sequence[int]) -> Symbol:
    """Reorder the axes."""
    order = [positive_axis(d, source.ndim) for d in dims]
    axis = None if source.axis is None else order.index(source.axis)
    return like(source, source.nodes.transpose(order), axis)


def transpose(source: Symbol, first: int, second: int) -> Symbol:
    """Exchange two axes."""
    order = list(range(source.ndim))
    a, b = positive_axis(first, source.ndim), positive_axis(second, source.ndim)
    order[a], order[b] = order[b], order[a]
    return permute(source, order)


def unsqueeze(source: Symbol, dim: int) -> Symbol:
    """Add an axis of length one."""
    dim = positive_axis(dim, source.ndim + 1)
    axis = source.axis + 1 if source.axis is not None and source.axis >= dim else source.axis
    return like(source, np.expand_dims(source.nodes, dim), axis)


def squeeze(source: Symbol, dim: int | Sequence[int] | None = None) -> Symbol:
    """Drop axes of length one."""
    chosen = range(source.ndim) if dim is None else [dim] if isinstance(dim, int) else dim
    dims = sorted({positive_axis(d, source.ndim) for d in chosen}, reverse=True)
    out = source
    for d in dims:
        if out.shape[d] == 1:
            out = select(out, d, 0)
    return out


def reshape(source: Symbol, shape: Sequence[int]) -> Symbol:
    """Give another shape that keeps the samples apart."""
    total, known = source.numel(), math.prod(n for n in shape if n != -1)
    full = [total // known if n == -1 else n for n in shape]
    if source.axis is None:
        return like(source, source.nodes.reshape(full), None)
    before = math.prod(source.shape[: source.axis])
    for place, size in enumerate(full):
        if size == source.shape[source.axis] and math.prod(full[:place]) == before:
            full[place] = 1
            return like(source, source.nodes.reshape(full), place)
    raise Unsupported("samples joined with another axis")


def expand(source: Symbol, shape: Sequence[int], implicit: bool = False) -> Symbol:
    """Repeat axes of length one."""
    grown = len(shape) - source.ndim
    axis = None if source.axis is None else source.axis + grown
    full = [source.shape[i - grown] if n == -1 else n for i, n in enumerate(shape)]
    if axis is not None:
        full[axis] = 1
    elif source.recorder.batch > 1 and source.recorder.batch in full:
        return like(source, np.broadcast_to(source.nodes, full), None)
    return like(source, np.broadcast_to(source.nodes, full), axis)


def copy(source: Symbol, *args: Any, **kwargs: Any) -> Symbol:
    """Copy, and convert truth values to numbers."""
    wanted = kwargs.get("dtype")
    if wanted == torch.bool and source.dtype != torch.bool:
        raise Unsupported("a conversion to truth values")
    if wanted is not None and wanted not in (source.dtype, source.recorder.dtype):
        raise Unsupported(f"a conversion to {wanted}")
    nodes = source.nodes.copy()
    if wanted is not None and source.dtype == torch.bool and wanted != torch.bool:
        graph = source.recorder.graph
        nodes = mapped(lambda x: graph.add("where", x, graph.value(1.0), graph.value(0.0)), nodes)
        return Symbol(nodes, source.axis, source.recorder)
    return like(source, nodes, source.axis)


def cat(parts: Sequence[Any], dim: int = 0) -> Symbol:
    """Join along an axis."""
    return _joined(parts, dim, stacked=False)


def stack(parts: Sequence[Any], dim: int = 0) -> Symbol:
    """Join along a new axis."""
    return _joined(parts, dim, stacked=True)


def _joined(parts: Sequence[Any], dim: int, stacked: bool) -> Symbol:
    """Join, along a new axis if ``stacked``."""
    recorder = recorder_of(parts)
    rank = parts[0].ndim
    nodes, axis = aligned(parts, recorder)
    dim = positive_axis(dim, rank + stacked)
    if not stacked and dim == axis:
        raise Unsupported("samples are joined")
    wide = np.broadcast_arrays(*nodes) if stacked else nodes
    out = np.stack(wide, dim) if stacked else np.concatenate(wide, dim)
    if stacked and axis is not None and axis >= dim:
        axis += 1
    return Symbol(out, axis, recorder)


def pad(source: Symbol, widths: Sequence[int], value: float = 0.0) -> Symbol:
    """Surround with a number."""
    graph = source.recorder.graph
    around = [(0, 0)] * source.ndim
    for i, (before, after) in enumerate(zip(widths[::2], widths[1::2], strict=True)):
        around[source.ndim - 1 - i] = (before, after)
    if any(n < 0 for pair in around for n in pair):
        raise Unsupported("a negative padding")
    if source.axis is not None and around[source.axis] != (0, 0):
        raise Unsupported("more samples")
    filling = graph.value(value) if value == 0 else source.recorder.number(value)
    return Symbol(np.pad(source.nodes, around, constant_values=filling), source.axis, source.recorder)


def roll(source: Symbol, shifts: Any, dims: Any = ()) -> Symbol:
    """Move entries around an axis."""
    shifts = [shifts] if isinstance(shifts, int) else list(shifts)
    chosen = [not_samples(source, d) for d in ([dims] if isinstance(dims, int) else dims)]
    if not chosen:
        raise Unsupported("a roll of the flattened state")
    return like(source, np.roll(source.nodes, shifts, chosen), source.axis)


def flip(source: Symbol, dims: Sequence[int]) -> Symbol:
    """Reverse axes."""
    return like(source, np.flip(source.nodes, tuple(not_samples(source, d) for d in dims)), source.axis)


def index_select(source: Symbol, dim: int, index: Tensor) -> Symbol:
    """Take entries of an axis by number."""
    if isinstance(index, Symbol):
        raise Unsupported("an index that depends on the state")
    places = index.reshape(-1).tolist()
    return like(source, np.take(source.nodes, places, axis=not_samples(source, dim)), source.axis)


def index(source: Symbol, indices: Sequence[Any]) -> Symbol:
    """Take entries of one axis by a list of numbers."""
    given = [(dim, i) for dim, i in enumerate(indices) if i is not None]
    if len(given) != 1 or given[0][1].ndim != 1 or given[0][1].dtype == torch.bool:
        raise Unsupported("an index of several axes")
    return index_select(source, *given[0])


def filled(source: Symbol, value: float) -> Symbol:
    """A symbol of the same shape, full of one number."""
    graph = source.recorder.graph
    return Symbol(mapped(lambda _: graph.value(value), source.nodes), source.axis, source.recorder)


def new_filled(source: Symbol, shape: Sequence[int], value: float) -> Symbol:
    """A symbol of another shape, full of one number."""
    graph = source.recorder.graph
    full, axis = list(shape), None
    if source.recorder.batch > 1 and source.axis is not None and source.recorder.batch in full:
        axis = full.index(source.recorder.batch)
        full[axis] = 1
    nodes = np.empty(full, dtype=object)
    nodes[...] = graph.value(value)
    return Symbol(nodes, axis, source.recorder)
