"""What the operations on tensors mean for the scalar expressions of one sample."""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor

from scidyn.solvers.generated.expression import BOOLEAN
from scidyn.solvers.generated.tracing import Recorder, Symbol, Unsupported

__all__ = ["apply"]

Handler = Callable[..., Any]


def apply(func: Any, args: Sequence[Any], kwargs: dict[str, Any]) -> Any:
    """Carry out one operation on symbols.

    Raises
    ------
    Unsupported
        If it has no meaning for one sample, or none is written here.
    """
    name = func.overloadpacket.__name__
    if name in UNARY or name in BINARY:
        return _pointwise(name, args, kwargs)
    if name[-1] == "_" and (name[:-1] in UNARY or name[:-1] in BINARY):
        return _store(args[0], _pointwise(name[:-1], args, kwargs))
    handler = HANDLERS.get(name)
    if handler is None:
        raise Unsupported(f"no expression for {name}")
    return handler(*args, **kwargs)


def _recorder(values: Sequence[Any]) -> Recorder:
    for value in values:
        if isinstance(value, Symbol):
            return value.recorder
        if isinstance(value, list | tuple) and any(isinstance(x, Symbol) for x in value):
            return _recorder(value)
    raise Unsupported("an operation without a symbol")


def _aligned(values: Sequence[Any], recorder: Recorder) -> tuple[list[np.ndarray], int | None]:
    """Nodes of operands that broadcast with each other, and the axis of the samples in the result."""
    rank = max((v.ndim for v in values if isinstance(v, Tensor)), default=0)
    axes = {v.axis + rank - v.ndim for v in values if isinstance(v, Symbol) and v.axis is not None}
    if len(axes) > 1:
        raise Unsupported("samples along two axes")
    axis = axes.pop() if axes else None
    nodes = []
    for value in values:
        if not isinstance(value, Tensor):
            array = np.empty((), dtype=object)
            array[()] = recorder.number(value)
        elif isinstance(value, Symbol):
            array = value.nodes
            own = None if axis is None else axis - rank + value.ndim
            if own is not None and own >= 0 and value.axis is None and array.shape[own] != 1:
                raise Unsupported("entries along the axis of the samples")
        else:
            array = _plain(value, None if axis is None else axis - rank, recorder)
        nodes.append(array)
    return nodes, axis


def _plain(value: Tensor, from_end: int | None, recorder: Recorder) -> np.ndarray:
    """Nodes of a tensor that the field uses; ``from_end`` is the axis of the samples, counted from the end."""
    if from_end is None or value.ndim + from_end < 0 or value.shape[from_end] == 1:
        return recorder.constant(value, None)
    if value.shape[from_end] != recorder.batch:
        raise Unsupported("a tensor that does not broadcast")
    return recorder.constant(value, value.ndim + from_end)


def _pointwise(name: str, args: Sequence[Any], kwargs: dict[str, Any]) -> Symbol:
    recorder = _recorder(args)
    graph = recorder.graph
    if name in UNARY:
        (source,) = args[:1]
        rule = UNARY[name]
        nodes = [source.nodes]
        axis = source.axis
    else:
        if kwargs.get("rounding_mode") is not None or len(args) > 2:
            raise Unsupported(f"{name} with options")
        values = list(args)
        exponent = values[1] if name == "pow" else None
        if isinstance(exponent, int | float):
            return _power(values[0], float(exponent))
        alpha = kwargs.get("alpha", 1)
        rule = BINARY[name]
        nodes, axis = _aligned(values, recorder)
        if alpha != 1:
            scale = recorder.number(alpha)
            nodes[1] = _map(lambda x: graph.add("mul", x, scale), nodes[1])
    out = _map(lambda *x: rule(graph, *x), *nodes)
    return Symbol(out, axis, recorder, boolean=name in BOOLEAN_NAMES)


def _map(function: Callable[..., int], *nodes: np.ndarray) -> np.ndarray:
    """Apply to every entry, with broadcasting; always an array."""
    shapes = {n.shape for n in nodes if n.ndim}
    if len(shapes) > 1:
        nodes = tuple(np.broadcast_arrays(*nodes))
    shape = nodes[0].shape if len(shapes) != 1 else shapes.pop()
    flat = [n.ravel().tolist() if n.ndim else itertools.repeat(n.item()) for n in nodes]
    count = math.prod(shape)
    out = np.empty(count, dtype=object)
    out[:] = [function(*entries) for entries in itertools.islice(zip(*flat, strict=False), count)]
    return out.reshape(shape)


def _power(base: Symbol, exponent: float) -> Symbol:
    """A power with a fixed exponent; small integers become products."""
    graph = base.recorder.graph

    def entry(x: int) -> int:
        if exponent == 0.5:
            return graph.add("sqrt", x)
        if exponent == round(exponent) and 0 < abs(exponent) <= 8:
            total = x
            for _ in range(int(abs(exponent)) - 1):
                total = graph.add("mul", total, x)
            return total if exponent > 0 else graph.add("div", graph.value(1.0), total)
        return graph.add("pow", x, base.recorder.number(exponent))

    return Symbol(_map(entry, base.nodes), base.axis, base.recorder)


def _store(target: Any, value: Symbol) -> Symbol:
    """Write into a symbol, which may be a view of another."""
    if not isinstance(target, Symbol):
        raise Unsupported("a tensor that is written to")
    if value.axis is not None and (target.axis is None or value.ndim - value.axis != target.ndim - target.axis):
        raise Unsupported("samples written along another axis")
    target.nodes[...] = value.nodes
    return target


# -- pointwise rules -------------------------------------------------------------------------------------------


def _op(operation: str) -> Callable[..., int]:
    return lambda g, *x: g.add(operation, *x)


UNARY: dict[str, Callable[..., int]] = {
    **{n: _op(n) for n in ("neg", "exp", "log", "sqrt", "sin", "cos", "tan", "tanh", "sinh", "cosh", "abs", "sign")},
    **{n: _op(n) for n in ("floor", "asin", "acos", "atan", "erf", "expm1", "log1p")},
    "logical_not": _op("not"),
    "bitwise_not": _op("not"),
    "reciprocal": lambda g, x: g.add("div", g.value(1.0), x),
    "rsqrt": lambda g, x: g.add("div", g.value(1.0), g.add("sqrt", x)),
    "square": lambda g, x: g.add("mul", x, x),
    "sigmoid": lambda g, x: g.add("div", g.value(1.0), g.add("add", g.value(1.0), g.add("exp", g.add("neg", x)))),
    "silu": lambda g, x: g.add("div", x, g.add("add", g.value(1.0), g.add("exp", g.add("neg", x)))),
    "relu": lambda g, x: g.add("max", x, g.value(0.0)),
    "isnan": lambda g, x: g.add("ne", x, x),
}
BINARY: dict[str, Callable[..., int]] = {
    **{n: _op(n) for n in ("add", "sub", "mul", "div", "pow", "lt", "le", "gt", "ge", "eq", "ne")},
    "true_divide": _op("div"),
    "rsub": lambda g, a, b: g.add("sub", b, a),
    "maximum": _op("max"),
    "minimum": _op("min"),
    "fmod": _op("fmod"),
    "atan2": _op("atan2"),
    "logical_and": _op("and"),
    "logical_or": _op("or"),
    "bitwise_and": _op("and"),
    "bitwise_or": _op("or"),
}
BOOLEAN_NAMES = frozenset(BOOLEAN | {"logical_not", "logical_and", "logical_or", "isnan"}) | {
    "bitwise_not",
    "bitwise_and",
    "bitwise_or",
}


# -- shapes ----------------------------------------------------------------------------------------------------


def _like(source: Symbol, nodes: np.ndarray, axis: int | None) -> Symbol:
    return Symbol(nodes, axis, source.recorder, boolean=source.dtype == torch.bool)


def _positive(dim: int, rank: int) -> int:
    return dim + rank if dim < 0 else dim


def _not_samples(source: Symbol, dim: int) -> int:
    dim = _positive(dim, source.ndim)
    if dim == source.axis:
        raise Unsupported("samples are told apart or joined")
    return dim


def _dropped(axis: int | None, dim: int) -> int | None:
    return axis - 1 if axis is not None and axis > dim else axis


def select(source: Symbol, dim: int, index: int) -> Symbol:
    dim = _not_samples(source, dim)
    place = (slice(None),) * dim + (index, ...)
    return _like(source, source.nodes[place], _dropped(source.axis, dim))


def slice_(source: Symbol, dim: int = 0, start: int | None = None, end: int | None = None, step: int = 1) -> Symbol:
    dim = _positive(dim, source.ndim)
    if dim == source.axis:
        if (start or 0) != 0 or (end is not None and end < source.shape[dim]) or step != 1:
            raise Unsupported("a part of the samples")
        return _like(source, source.nodes, source.axis)
    end = None if end is None or end >= source.shape[dim] else end
    return _like(source, source.nodes[(slice(None),) * dim + (slice(start, end, step),)], source.axis)


def unbind(source: Symbol, dim: int = 0) -> list[Symbol]:
    return [select(source, dim, i) for i in range(source.shape[_not_samples(source, dim)])]


def split(source: Symbol, size: int | Sequence[int], dim: int = 0) -> list[Symbol]:
    dim = _not_samples(source, dim)
    total = source.shape[dim]
    sizes = [min(size, total - i) for i in range(0, total, size)] if isinstance(size, int) else list(size)
    starts = np.concatenate([[0], np.cumsum(sizes)]).tolist()
    return [slice_(source, dim, a, b) for a, b in zip(starts, starts[1:], strict=False)]


def permute(source: Symbol, dims: Sequence[int]) -> Symbol:
    order = [_positive(d, source.ndim) for d in dims]
    axis = None if source.axis is None else order.index(source.axis)
    return _like(source, source.nodes.transpose(order), axis)


def transpose(source: Symbol, first: int, second: int) -> Symbol:
    order = list(range(source.ndim))
    a, b = _positive(first, source.ndim), _positive(second, source.ndim)
    order[a], order[b] = order[b], order[a]
    return permute(source, order)


def unsqueeze(source: Symbol, dim: int) -> Symbol:
    dim = _positive(dim, source.ndim + 1)
    axis = source.axis + 1 if source.axis is not None and source.axis >= dim else source.axis
    return _like(source, np.expand_dims(source.nodes, dim), axis)


def squeeze(source: Symbol, dim: int | Sequence[int] | None = None) -> Symbol:
    chosen = range(source.ndim) if dim is None else [dim] if isinstance(dim, int) else dim
    dims = sorted({_positive(d, source.ndim) for d in chosen}, reverse=True)
    out = source
    for d in dims:
        if out.shape[d] == 1:
            out = select(out, d, 0)
    return out


def reshape(source: Symbol, shape: Sequence[int]) -> Symbol:
    total, known = source.numel(), math.prod(n for n in shape if n != -1)
    full = [total // known if n == -1 else n for n in shape]
    if source.axis is None:
        return _like(source, source.nodes.reshape(full), None)
    before = math.prod(source.shape[: source.axis])
    for place, size in enumerate(full):
        if size == source.shape[source.axis] and math.prod(full[:place]) == before:
            full[place] = 1
            return _like(source, source.nodes.reshape(full), place)
    raise Unsupported("samples joined with another axis")


def expand(source: Symbol, shape: Sequence[int], implicit: bool = False) -> Symbol:
    grown = len(shape) - source.ndim
    axis = None if source.axis is None else source.axis + grown
    full = [source.shape[i - grown] if n == -1 else n for i, n in enumerate(shape)]
    if axis is not None:
        full[axis] = 1
    elif source.recorder.batch > 1 and source.recorder.batch in full:
        return _like(source, np.broadcast_to(source.nodes, full), None)
    return _like(source, np.broadcast_to(source.nodes, full), axis)


def copy(source: Symbol, *args: Any, **kwargs: Any) -> Symbol:
    wanted = kwargs.get("dtype")
    if wanted == torch.bool and source.dtype != torch.bool:
        raise Unsupported("a conversion to truth values")
    if wanted is not None and wanted not in (source.dtype, source.recorder.dtype):
        raise Unsupported(f"a conversion to {wanted}")
    nodes = source.nodes.copy()
    if wanted is not None and source.dtype == torch.bool and wanted != torch.bool:
        graph = source.recorder.graph
        nodes = _map(lambda x: graph.add("where", x, graph.value(1.0), graph.value(0.0)), nodes)
        return Symbol(nodes, source.axis, source.recorder)
    return _like(source, nodes, source.axis)


def cat(parts: Sequence[Any], dim: int = 0) -> Symbol:
    return _joined(parts, dim, stacked=False)


def stack(parts: Sequence[Any], dim: int = 0) -> Symbol:
    return _joined(parts, dim, stacked=True)


def _joined(parts: Sequence[Any], dim: int, stacked: bool) -> Symbol:
    recorder = _recorder(parts)
    rank = parts[0].ndim
    nodes, axis = _aligned(parts, recorder)
    dim = _positive(dim, rank + stacked)
    if not stacked and dim == axis:
        raise Unsupported("samples are joined")
    wide = np.broadcast_arrays(*nodes) if stacked else nodes
    out = np.stack(wide, dim) if stacked else np.concatenate(wide, dim)
    if stacked and axis is not None and axis >= dim:
        axis += 1
    return Symbol(out, axis, recorder)


def pad(source: Symbol, widths: Sequence[int], value: float = 0.0) -> Symbol:
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
    shifts = [shifts] if isinstance(shifts, int) else list(shifts)
    chosen = [_not_samples(source, d) for d in ([dims] if isinstance(dims, int) else dims)]
    if not chosen:
        raise Unsupported("a roll of the flattened state")
    return _like(source, np.roll(source.nodes, shifts, chosen), source.axis)


def flip(source: Symbol, dims: Sequence[int]) -> Symbol:
    return _like(source, np.flip(source.nodes, [_not_samples(source, d) for d in dims]), source.axis)


def index_select(source: Symbol, dim: int, index: Tensor) -> Symbol:
    if isinstance(index, Symbol):
        raise Unsupported("an index that depends on the state")
    places = index.reshape(-1).tolist()
    return _like(source, np.take(source.nodes, places, axis=_not_samples(source, dim)), source.axis)


def index(source: Symbol, indices: Sequence[Any]) -> Symbol:
    given = [(dim, i) for dim, i in enumerate(indices) if i is not None]
    if len(given) != 1 or given[0][1].ndim != 1 or given[0][1].dtype == torch.bool:
        raise Unsupported("an index of several axes")
    return index_select(source, *given[0])


def vector_norm(source: Symbol, order: float = 2, dims: Any = None, keepdim: bool = False, dtype: Any = None) -> Symbol:
    if order != 2:
        raise Unsupported(f"a norm of order {order}")
    return _pointwise("sqrt", (total(_pointwise("square", (source,), {}), dims, keepdim),), {})


def where(condition: Any, first: Any, second: Any) -> Symbol:
    recorder = _recorder((condition, first, second))
    if not isinstance(condition, Symbol):
        raise Unsupported("a fixed mask")
    nodes, axis = _aligned((condition, first, second), recorder)
    return Symbol(_map(lambda *x: recorder.graph.add("where", *x), *nodes), axis, recorder)


def clamp(source: Symbol, low: Any = None, high: Any = None) -> Symbol:
    out = source
    for bound, rule in ((low, "maximum"), (high, "minimum")):
        if bound is not None:
            out = _pointwise(rule, (out, bound), {})
    return out


def softplus(source: Symbol, beta: float = 1.0, threshold: float = 20.0) -> Symbol:
    recorder, graph = source.recorder, source.recorder.graph
    scale, limit = recorder.number(beta), recorder.number(threshold)

    def entry(x: int) -> int:
        scaled = graph.add("mul", x, scale)
        curved = graph.add("div", graph.add("log1p", graph.add("exp", scaled)), scale)
        return graph.add("where", graph.add("gt", scaled, limit), x, curved)

    return Symbol(_map(entry, source.nodes), source.axis, recorder)


def lerp(first: Any, second: Any, weight: Any) -> Symbol:
    difference = _pointwise("sub", (second, first), {})
    return _pointwise("add", (first, _pointwise("mul", (difference, weight), {})), {})


def addcmul(base: Any, first: Any, second: Any, value: float = 1) -> Symbol:
    product = _pointwise("mul", (first, second), {})
    return _pointwise("add", (base, product), {"alpha": value})


# -- sums ------------------------------------------------------------------------------------------------------


def _reduce(source: Symbol, dims: Any, keepdim: bool, rule: Callable[[int, int], int]) -> Symbol:
    rank = source.ndim
    chosen = range(rank) if dims is None or dims == [] else [dims] if isinstance(dims, int) else dims
    positive = sorted({_not_samples(source, d) for d in chosen}, reverse=True)
    nodes, axis = source.nodes, source.axis
    for d in positive:
        parts = np.moveaxis(nodes, d, 0)
        total = parts[0:1]
        for part in parts[1:]:
            total = _map(rule, total, part[np.newaxis])
        nodes = np.moveaxis(total, 0, d)
        if not keepdim:
            nodes = nodes[(slice(None),) * d + (0, ...)]
            axis = _dropped(axis, d)
    return Symbol(np.asarray(nodes, dtype=object), axis, source.recorder)


def total(source: Symbol, dims: Any = None, keepdim: bool = False, dtype: Any = None) -> Symbol:
    graph = source.recorder.graph
    return _reduce(source, dims, keepdim, lambda a, b: graph.add("add", a, b))


def mean(source: Symbol, dims: Any = None, keepdim: bool = False, dtype: Any = None) -> Symbol:
    out = total(source, dims, keepdim)
    return _pointwise("mul", (out, out.nodes.size / source.nodes.size), {})


def product(source: Symbol, dim: Any = None, keepdim: bool = False, dtype: Any = None) -> Symbol:
    graph = source.recorder.graph
    return _reduce(source, dim, keepdim, lambda a, b: graph.add("mul", a, b))


def largest(source: Symbol, dims: Any = None, keepdim: bool = False) -> Symbol:
    graph = source.recorder.graph
    return _reduce(source, dims, keepdim, lambda a, b: graph.add("max", a, b))


def smallest(source: Symbol, dims: Any = None, keepdim: bool = False) -> Symbol:
    graph = source.recorder.graph
    return _reduce(source, dims, keepdim, lambda a, b: graph.add("min", a, b))


def matmul(first: Any, second: Any) -> Symbol:
    """Product of matrices or stacks of them; the samples are rows of the first, columns of the second, or a stack."""
    recorder = _recorder((first, second))
    graph = recorder.graph
    stacks = first.ndim == 3
    sample_axes = [v.axis if isinstance(v, Symbol) else None for v in (first, second)]
    nodes = []
    for value, other in ((first, sample_axes[1]), (second, sample_axes[0])):
        if isinstance(value, Symbol):
            nodes.append(value.nodes)
        else:
            nodes.append(_plain(value, -3 if stacks and other == 0 else None, recorder))
    a, b = nodes
    rank = a.ndim
    inner = sample_axes[0] == rank - 1 or sample_axes[1] == rank - 2
    if inner or (None not in sample_axes and not (rank == 3 and sample_axes == [0, 0])):
        raise Unsupported("samples are joined by a product")
    if a.shape[-1] != b.shape[-2] or a[..., 0].size * b.shape[-1] * b.shape[-2] > recorder.limit:
        raise Unsupported("a large product")
    batch = np.broadcast_shapes(a.shape[:-2], b.shape[:-2])
    left, right = np.broadcast_to(a, (*batch, *a.shape[-2:])), np.broadcast_to(b, (*batch, *b.shape[-2:]))
    out = np.empty((*batch, a.shape[-2], b.shape[-1]), dtype=object)
    for place in np.ndindex(*out.shape):
        *outer, row, column = place
        x, y = left[(*outer, row)], right[(*outer, slice(None), column)]
        terms = [graph.add("mul", p, q) for p, q in zip(x, y, strict=True)]
        entry = terms[0]
        for term in terms[1:]:
            entry = graph.add("add", entry, term)
        out[place] = entry
    found = {axis for axis in sample_axes if axis is not None}
    return Symbol(out, found.pop() if found else None, recorder)


def addmm(base: Any, first: Any, second: Any, beta: float = 1, alpha: float = 1) -> Symbol:
    if beta != 1 or alpha != 1:
        raise Unsupported("a scaled product")
    return _pointwise("add", (base, matmul(first, second)), {})


def matrix_vector(first: Any, second: Any) -> Symbol:
    if isinstance(second, Symbol):
        column = unsqueeze(second, 1)
    else:
        column = second.unsqueeze(1)
    out = matmul(first, column)
    return select(out, 1, 0)


def dot(first: Any, second: Any) -> Symbol:
    return total(_pointwise("mul", (first, second), {}))


def filled(source: Symbol, value: float) -> Symbol:
    graph = source.recorder.graph
    return Symbol(_map(lambda _: graph.value(value), source.nodes), source.axis, source.recorder)


def new_filled(source: Symbol, shape: Sequence[int], value: float) -> Symbol:
    graph = source.recorder.graph
    full, axis = list(shape), None
    if source.recorder.batch > 1 and source.axis is not None and source.recorder.batch in full:
        axis = full.index(source.recorder.batch)
        full[axis] = 1
    nodes = np.empty(full, dtype=object)
    nodes[...] = graph.value(value)
    return Symbol(nodes, axis, source.recorder)


def _write(target: Any, value: Any, *_: Any) -> Symbol:
    recorder = _recorder((target, value))
    if not isinstance(target, Symbol):
        raise Unsupported("a tensor that is written to")
    if isinstance(value, Symbol):
        return _store(target, value)
    from_end = None if target.axis is None else target.axis - target.ndim
    target.nodes[...] = _plain(value, from_end, recorder)
    return target


HANDLERS: dict[str, Handler] = {
    "select": select,
    "slice": slice_,
    "unbind": unbind,
    "split": split,
    "split_with_sizes": split,
    "permute": permute,
    "transpose": transpose,
    "t": lambda x: transpose(x, 0, 1) if x.ndim == 2 else x,
    "unsqueeze": unsqueeze,
    "squeeze": squeeze,
    "view": reshape,
    "reshape": reshape,
    "_unsafe_view": reshape,
    "_reshape_alias": lambda x, shape, *_: reshape(x, shape),
    "expand": expand,
    "clone": copy,
    "_to_copy": copy,
    "detach": lambda x: x,
    "alias": lambda x: x,
    "lift_fresh": lambda x: x,
    "real": lambda x: x,
    "cat": cat,
    "stack": stack,
    "where": where,
    "constant_pad_nd": pad,
    "roll": roll,
    "flip": flip,
    "index_select": index_select,
    "index": index,
    "linalg_vector_norm": vector_norm,
    "clamp": clamp,
    "clamp_min": lambda x, low: clamp(x, low),
    "clamp_max": lambda x, high: clamp(x, None, high),
    "softplus": softplus,
    "lerp": lerp,
    "addcmul": addcmul,
    "sum": total,
    "mean": mean,
    "prod": product,
    "amax": largest,
    "amin": smallest,
    "mm": matmul,
    "bmm": matmul,
    "addmm": addmm,
    "mv": matrix_vector,
    "dot": dot,
    "zeros_like": lambda x, **_: filled(x, 0.0),
    "ones_like": lambda x, **_: filled(x, 1.0),
    "empty_like": lambda x, **_: filled(x, 0.0),
    "full_like": lambda x, value, **_: filled(x, float(value)),
    "new_zeros": lambda x, shape, **_: new_filled(x, shape, 0.0),
    "new_ones": lambda x, shape, **_: new_filled(x, shape, 1.0),
    "new_empty": lambda x, shape, **_: new_filled(x, shape, 0.0),
    "copy_": _write,
    "fill_": lambda x, value: _store(x, filled(x, float(value))),
    "zero_": lambda x: _store(x, filled(x, 0.0)),
}
