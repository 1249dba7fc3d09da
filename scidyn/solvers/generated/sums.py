"""Sums and products over axes of the scalar expressions of one sample."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np

from scidyn.solvers.generated.pointwise import mapped, plain_nodes, pointwise, recorder_of
from scidyn.solvers.generated.shapes import not_samples, select, unsqueeze, without
from scidyn.solvers.generated.tracing import Symbol, Unsupported

__all__ = [
    *("addmm", "dot", "largest", "matmul", "matrix_vector", "mean", "product", "smallest", "total", "vector_norm"),
]


def _reduce(source: Symbol, dims: Any, keepdim: bool, rule: Callable[[int, int], int]) -> Symbol:
    """Combine the entries of axes by ``rule``."""
    rank = source.ndim
    chosen = range(rank) if dims is None or dims == [] else [dims] if isinstance(dims, int) else dims
    positive = sorted({not_samples(source, d) for d in chosen}, reverse=True)
    nodes, axis = source.nodes, source.axis
    for d in positive:
        if nodes.shape[d] == 1 and not keepdim:
            nodes, axis = nodes[(slice(None),) * d + (0, ...)], without(axis, d)
            continue
        parts = np.moveaxis(nodes, d, 0)
        total = parts[0:1]
        for part in parts[1:]:
            total = mapped(rule, total, part[np.newaxis])
        nodes = np.moveaxis(total, 0, d)
        if not keepdim:
            nodes = nodes[(slice(None),) * d + (0, ...)]
            axis = without(axis, d)
    return Symbol(np.asarray(nodes, dtype=object), axis, source.recorder)


def total(source: Symbol, dims: Any = None, keepdim: bool = False, dtype: Any = None) -> Symbol:
    """Sum."""
    graph = source.recorder.graph
    return _reduce(source, dims, keepdim, lambda a, b: graph.add("add", a, b))


def mean(source: Symbol, dims: Any = None, keepdim: bool = False, dtype: Any = None) -> Symbol:
    """Mean."""
    out = total(source, dims, keepdim)
    return pointwise("mul", (out, out.nodes.size / source.nodes.size), {})


def product(source: Symbol, dim: Any = None, keepdim: bool = False, dtype: Any = None) -> Symbol:
    """Product."""
    graph = source.recorder.graph
    return _reduce(source, dim, keepdim, lambda a, b: graph.add("mul", a, b))


def largest(source: Symbol, dims: Any = None, keepdim: bool = False) -> Symbol:
    """Largest entry."""
    graph = source.recorder.graph
    return _reduce(source, dims, keepdim, lambda a, b: graph.add("max", a, b))


def smallest(source: Symbol, dims: Any = None, keepdim: bool = False) -> Symbol:
    """Smallest entry."""
    graph = source.recorder.graph
    return _reduce(source, dims, keepdim, lambda a, b: graph.add("min", a, b))


def matmul(first: Any, second: Any) -> Symbol:
    """Product of matrices or stacks of them; the samples are rows of the first, columns of the second, or a stack."""
    recorder = recorder_of((first, second))
    graph = recorder.graph
    stacks = first.ndim == 3
    sample_axes = [v.axis if isinstance(v, Symbol) else None for v in (first, second)]
    nodes = []
    for value, other in ((first, sample_axes[1]), (second, sample_axes[0])):
        if isinstance(value, Symbol):
            nodes.append(value.nodes)
        else:
            nodes.append(plain_nodes(value, -3 if stacks and other == 0 else None, recorder))
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
    """Product of matrices and a term."""
    if beta != 1 or alpha != 1:
        raise Unsupported("a scaled product")
    return pointwise("add", (base, matmul(first, second)), {})


def matrix_vector(first: Any, second: Any) -> Symbol:
    """Product of a matrix and a vector."""
    column = unsqueeze(second, 1) if isinstance(second, Symbol) else second.unsqueeze(1)
    out = matmul(first, column)
    return select(out, 1, 0)


def dot(first: Any, second: Any) -> Symbol:
    """Product of two vectors."""
    return total(pointwise("mul", (first, second), {}))


def vector_norm(source: Symbol, order: float = 2, dims: Any = None, keepdim: bool = False, dtype: Any = None) -> Symbol:
    """Euclidean norm."""
    if order != 2:
        raise Unsupported(f"a norm of order {order}")
    return pointwise("sqrt", (total(pointwise("square", (source,), {}), dims, keepdim),), {})
