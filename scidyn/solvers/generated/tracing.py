"""Watch one call of a field and write it down as scalar expressions of one sample."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor
from torch.overrides import TorchFunctionMode

from scidyn.solvers.field import Field
from scidyn.solvers.generated.expression import Graph

__all__ = ["Symbol", "Trace", "Unsupported", "trace"]


class Unsupported(Exception):
    """The field does something that has no scalar expression here; it is solved in another way."""


class Trace(NamedTuple):
    """What a field computes.

    Attributes
    ----------
    graph : Graph
        The expressions.
    outputs : list of int
        Nodes of the rates, one for each entry of the state.
    shared : list of float
        Constants of all samples: numbers in the code of the field and entries of tensors it uses.
    own : list of Tensor, each (batch,)
        Constants that differ between samples.
    """

    graph: Graph
    outputs: list[int]
    shared: list[float]
    own: list[Tensor]


class Recorder:
    """Where the expressions and constants of one trace are collected."""

    def __init__(self, batch: int, dtype: torch.dtype, limit: int) -> None:
        self.batch, self.dtype, self.limit = batch, dtype, limit
        self.graph = Graph(limit)
        self.shared: list[float] = []
        self.own: list[Tensor] = []
        self._known: dict[tuple[object, ...], tuple[Tensor, np.ndarray]] = {}

    def number(self, value: float) -> int:
        """Node of a number in the field's code: data of the solve, so that a new value compiles nothing."""
        if value in (0.0, 1.0, -1.0, 2.0, 0.5, 3.0):
            return self.graph.value(value)
        self.shared.append(float(value))
        return self.graph.add("shared", len(self.shared) - 1)

    def constant(self, value: Tensor, axis: int | None) -> np.ndarray:
        """Nodes of a tensor that the field uses; entries along ``axis`` belong to the samples."""
        if value.dtype not in (self.dtype, torch.bool, torch.int64, torch.int32) and value.ndim > 0:
            raise Unsupported(f"a tensor of {value.dtype} in a solve of {self.dtype}")
        if value.device.type != "cpu":
            raise Unsupported(f"a tensor on {value.device}")
        key = (value.data_ptr(), tuple(value.shape), tuple(value.stride()), axis)
        if key in self._known:
            return self._known[key][1]
        plain = value.detach().to(self.dtype)
        if axis is None:
            nodes = self._entries(plain)
        elif plain.ndim == 1:
            self.own.append(plain)
            nodes = np.array([self.graph.add("own", len(self.own) - 1)], dtype=object)
        else:
            nodes = np.empty([1 if i == axis else n for i, n in enumerate(plain.shape)], dtype=object)
            rows = plain.movedim(axis, -1).reshape(-1, self.batch)
            for place, row in zip(np.ndindex(*nodes.shape), rows, strict=True):
                self.own.append(row)
                nodes[place] = self.graph.add("own", len(self.own) - 1)
        self._known[key] = (value, nodes)
        return nodes

    def _entries(self, plain: Tensor) -> np.ndarray:
        nodes = np.empty(tuple(plain.shape), dtype=object)
        if plain.numel() > self.limit:
            raise Unsupported(f"a tensor of {plain.numel()} numbers")
        values = plain.reshape(-1).tolist()
        for place, value in zip(np.ndindex(*nodes.shape), values, strict=True):
            self.shared.append(value)
            nodes[place] = self.graph.add("shared", len(self.shared) - 1)
        return nodes


class Symbol(Tensor):
    """A tensor without numbers whose entries are expressions.

    ``nodes`` has its shape, but length one along ``axis``, that of the samples; ``axis`` is None for what
    does not differ between them.
    """

    nodes: np.ndarray
    axis: int | None
    recorder: Recorder

    @staticmethod
    def __new__(cls, nodes: np.ndarray, axis: int | None, recorder: Recorder, boolean: bool = False) -> Symbol:
        """Make a tensor of the full shape."""
        shape = [recorder.batch if i == axis else n for i, n in enumerate(nodes.shape)]
        dtype = torch.bool if boolean else recorder.dtype
        made = torch.Tensor._make_wrapper_subclass(cls, shape, dtype=dtype, device=torch.device("cpu"))
        made.nodes, made.axis, made.recorder = nodes, axis, recorder
        return made

    @classmethod
    def __torch_dispatch__(  # type: ignore[override]
        cls, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: Any = None
    ) -> Any:
        """Write the operation down."""
        from scidyn.solvers.generated.operations import apply

        return apply(func, args, kwargs or {})


class _Watch(TorchFunctionMode):
    """Refuse random numbers, which a field must draw anew in every call."""

    def __torch_function__(
        self, func: Callable[..., Any], types: Any, args: Sequence[Any] = (), kwargs: Any = None
    ) -> Any:
        # the default generator is watched by its state; another one is given by name
        if (kwargs or {}).get("generator") is not None or any(isinstance(x, torch.Generator) for x in args):
            raise Unsupported("random numbers")
        return func(*args, **(kwargs or {}))


def trace(field: Field, batch: int, width: int, dtype: torch.dtype, *, limit: int = 1000, watch: bool = False) -> Trace:
    """Call ``field`` once on symbols.

    ``limit`` is the largest number of scalar operations; ``watch`` looks for random numbers too, which takes longer.

    Raises
    ------
    Unsupported
        If the field has no scalar expressions: it mixes samples, reads values, or is too large.
    """
    recorder = Recorder(batch, dtype, limit)
    add = recorder.graph.add
    time = np.array([add("t")], dtype=object)
    state = np.array([[add("y", i) for i in range(width)]], dtype=object)
    samples = 0 if batch > 1 else None
    per_sample = field.per_sample
    t = Symbol(time, samples if per_sample else None, recorder)
    y = Symbol(state, samples, recorder)
    before = torch.get_rng_state() if watch else None
    try:
        with torch.no_grad(), _Watch() if watch else contextlib.nullcontext():
            rate = field(t, y)
    except Unsupported:
        raise
    except Exception as reason:  # whatever the field makes of symbols; the plain solve decides what is an error
        raise Unsupported(f"{type(reason).__name__}: {reason}") from None
    if before is not None and not torch.equal(before, torch.get_rng_state()):
        raise Unsupported("random numbers")
    if any(state[0, i] != add("y", i) for i in range(width)):
        raise Unsupported("a state changed in place")
    if not isinstance(rate, Symbol):
        rate = Symbol(recorder.constant(rate, 0 if batch > 1 else None), samples, recorder)
    if rate.nodes.size != width or (rate.axis is None and batch > 1):
        raise Unsupported("a rate of another shape than the state")
    return Trace(recorder.graph, list(rate.nodes.reshape(-1)), recorder.shared, recorder.own)
