"""Entry by entry operations on the scalar expressions of one sample."""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
from torch import Tensor

from scidyn.solvers.generated.expression import BOOLEAN
from scidyn.solvers.generated.tracing import Recorder, Symbol, Unsupported

__all__ = [
    *("BINARY", "UNARY", "addcmul", "aligned", "clamp", "lerp", "mapped", "plain_nodes", "pointwise", "recorder_of"),
    *("softplus", "store", "where"),
]


def recorder_of(values: Sequence[Any]) -> Recorder:
    """Where the symbols among ``values`` are recorded."""
    for value in values:
        if isinstance(value, Symbol):
            return value.recorder
        if isinstance(value, list | tuple) and any(isinstance(x, Symbol) for x in value):
            return recorder_of(value)
    raise Unsupported("an operation without a symbol")


def aligned(values: Sequence[Any], recorder: Recorder) -> tuple[list[np.ndarray], int | None]:
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
            array = plain_nodes(value, None if axis is None else axis - rank, recorder)
        nodes.append(array)
    return nodes, axis


def plain_nodes(value: Tensor, from_end: int | None, recorder: Recorder) -> np.ndarray:
    """Nodes of a tensor that the field uses; ``from_end`` is the axis of the samples, counted from the end."""
    if from_end is None or value.ndim + from_end < 0 or value.shape[from_end] == 1:
        return recorder.constant(value, None)
    if value.shape[from_end] != recorder.batch:
        raise Unsupported("a tensor that does not broadcast")
    return recorder.constant(value, value.ndim + from_end)


def pointwise(name: str, args: Sequence[Any], kwargs: dict[str, Any]) -> Symbol:
    """Apply an operation of ``UNARY`` or ``BINARY``."""
    recorder = recorder_of(args)
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
        nodes, axis = aligned(values, recorder)
        if alpha != 1:
            scale = recorder.number(alpha)
            nodes[1] = mapped(lambda x: graph.add("mul", x, scale), nodes[1])
    out = mapped(lambda *x: rule(graph, *x), *nodes)
    return Symbol(out, axis, recorder, boolean=name in BOOLEAN_NAMES)


def mapped(function: Callable[..., int], *nodes: np.ndarray) -> np.ndarray:
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

    return Symbol(mapped(entry, base.nodes), base.axis, base.recorder)


def store(target: Any, value: Symbol) -> Symbol:
    """Write into a symbol, which may be a view of another."""
    if not isinstance(target, Symbol):
        raise Unsupported("a tensor that is written to")
    if value.axis is not None and (target.axis is None or value.ndim - value.axis != target.ndim - target.axis):
        raise Unsupported("samples written along another axis")
    target.nodes[...] = value.nodes
    return target


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


def where(condition: Any, first: Any, second: Any) -> Symbol:
    """Choose entry by entry."""
    recorder = recorder_of((condition, first, second))
    if not isinstance(condition, Symbol):
        raise Unsupported("a fixed mask")
    nodes, axis = aligned((condition, first, second), recorder)
    return Symbol(mapped(lambda *x: recorder.graph.add("where", *x), *nodes), axis, recorder)


def clamp(source: Symbol, low: Any = None, high: Any = None) -> Symbol:
    """Keep within bounds."""
    out = source
    for bound, rule in ((low, "maximum"), (high, "minimum")):
        if bound is not None:
            out = pointwise(rule, (out, bound), {})
    return out


def softplus(source: Symbol, beta: float = 1.0, threshold: float = 20.0) -> Symbol:
    """Smooth ramp."""
    recorder, graph = source.recorder, source.recorder.graph
    scale, limit = recorder.number(beta), recorder.number(threshold)

    def entry(x: int) -> int:
        scaled = graph.add("mul", x, scale)
        curved = graph.add("div", graph.add("log1p", graph.add("exp", scaled)), scale)
        return graph.add("where", graph.add("gt", scaled, limit), x, curved)

    return Symbol(mapped(entry, source.nodes), source.axis, recorder)


def lerp(first: Any, second: Any, weight: Any) -> Symbol:
    """Point between two."""
    difference = pointwise("sub", (second, first), {})
    return pointwise("add", (first, pointwise("mul", (difference, weight), {})), {})


def addcmul(base: Any, first: Any, second: Any, value: float = 1) -> Symbol:
    """Add a scaled product."""
    product = pointwise("mul", (first, second), {})
    return pointwise("add", (base, product), {"alpha": value})
