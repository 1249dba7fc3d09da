"""What the operations on tensors mean for the scalar expressions of one sample."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

from scidyn.solvers.generated import shapes, sums
from scidyn.solvers.generated.pointwise import (
    BINARY,
    UNARY,
    addcmul,
    clamp,
    lerp,
    plain_nodes,
    pointwise,
    recorder_of,
    softplus,
    store,
    where,
)
from scidyn.solvers.generated.tracing import Symbol, Unsupported

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
        return pointwise(name, args, kwargs)
    if name[-1] == "_" and (name[:-1] in UNARY or name[:-1] in BINARY):
        return store(args[0], pointwise(name[:-1], args, kwargs))
    handler = HANDLERS.get(name)
    if handler is None:
        raise Unsupported(f"no expression for {name}")
    return handler(*args, **kwargs)


def write(target: Any, value: Any, *_: Any) -> Symbol:
    """Write symbols, or a tensor that the field uses, into a symbol."""
    recorder = recorder_of((target, value))
    if not isinstance(target, Symbol):
        raise Unsupported("a tensor that is written to")
    if isinstance(value, Symbol):
        return store(target, value)
    from_end = None if target.axis is None else target.axis - target.ndim
    target.nodes[...] = plain_nodes(value, from_end, recorder)
    return target


HANDLERS: dict[str, Handler] = {
    "select": shapes.select,
    "slice": shapes.slice_,
    "unbind": shapes.unbind,
    "split": shapes.split,
    "split_with_sizes": shapes.split,
    "permute": shapes.permute,
    "transpose": shapes.transpose,
    "t": lambda x: shapes.transpose(x, 0, 1) if x.ndim == 2 else x,
    "unsqueeze": shapes.unsqueeze,
    "squeeze": shapes.squeeze,
    "view": shapes.reshape,
    "reshape": shapes.reshape,
    "_unsafe_view": shapes.reshape,
    "_reshape_alias": lambda x, shape, *_: shapes.reshape(x, shape),
    "expand": shapes.expand,
    "clone": shapes.copy,
    "_to_copy": shapes.copy,
    "detach": lambda x: x,
    "alias": lambda x: x,
    "lift_fresh": lambda x: x,
    "real": lambda x: x,
    "cat": shapes.cat,
    "stack": shapes.stack,
    "where": where,
    "constant_pad_nd": shapes.pad,
    "roll": shapes.roll,
    "flip": shapes.flip,
    "index_select": shapes.index_select,
    "index": shapes.index,
    "linalg_vector_norm": sums.vector_norm,
    "clamp": clamp,
    "clamp_min": lambda x, low: clamp(x, low),
    "clamp_max": lambda x, high: clamp(x, None, high),
    "softplus": softplus,
    "lerp": lerp,
    "addcmul": addcmul,
    "sum": sums.total,
    "mean": sums.mean,
    "prod": sums.product,
    "amax": sums.largest,
    "amin": sums.smallest,
    "mm": sums.matmul,
    "bmm": sums.matmul,
    "addmm": sums.addmm,
    "mv": sums.matrix_vector,
    "dot": sums.dot,
    "zeros_like": lambda x, **_: shapes.filled(x, 0.0),
    "ones_like": lambda x, **_: shapes.filled(x, 1.0),
    "empty_like": lambda x, **_: shapes.filled(x, 0.0),
    "full_like": lambda x, value, **_: shapes.filled(x, float(value)),
    "new_zeros": lambda x, shape, **_: shapes.new_filled(x, shape, 0.0),
    "new_ones": lambda x, shape, **_: shapes.new_filled(x, shape, 1.0),
    "new_empty": lambda x, shape, **_: shapes.new_filled(x, shape, 0.0),
    "copy_": write,
    "fill_": lambda x, value: store(x, shapes.filled(x, float(value))),
    "zero_": lambda x: store(x, shapes.filled(x, 0.0)),
}
