"""Find the tensors that a vector field depends on, also those that it closes over."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import torch
from torch import Tensor
from torch.overrides import TorchFunctionMode
from torch.utils import _pytree as pytree

from scidyn.errors import OptionError
from scidyn.solvers.field import Field

__all__ = ["Gate", "Swapped", "captured", "met", "own_shares", "tangled"]


class _Watch(TorchFunctionMode):
    """Note the tensors that enter an operation and were not made inside; by default those with gradients."""

    def __init__(self, every: bool = False) -> None:
        super().__init__()
        self.every = every
        self.found: dict[int, Tensor] = {}
        self.made: dict[int, Tensor] = {}

    def __torch_function__(
        self, func: Callable[..., Any], types: Any, args: tuple[Any, ...] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        for tensor in _tensors((*args, *(kwargs or {}).values())):
            if id(tensor) not in self.made and (self.every or tensor.requires_grad):
                self.found.setdefault(id(tensor), tensor)
        result = func(*args, **(kwargs or {}))
        for tensor in _tensors(result):
            if id(tensor) not in self.found:
                self.made[id(tensor)] = tensor
        return result


def captured(field: Field, t: Tensor, y: Tensor, params: Sequence[Tensor] | None) -> tuple[Tensor, ...]:
    """Tensors with gradients that one evaluation of the field uses.

    They are the leaves of ``args``, the parameters of a module, and what a watched call meets; ``params``
    replaces the watched call. A leaf that only compiled code sees is found in the graph of the result.
    """
    if params is not None:
        _check(params)
    owned = list(_tensors(field.args)) if params is None else [*params, *_tensors(field.args)]
    if isinstance(field.f, torch.nn.Module):
        owned += list(field.f.parameters())
    found = {id(x): x for x in owned if x.requires_grad}
    if params is None:
        with torch.enable_grad(), _Watch() as watch:
            rate = field(t.detach(), y.detach())
        found |= {i: x for i, x in watch.found.items()}
        if rate.requires_grad:
            for leaf in _leaves(rate, list(found.values())):
                found.setdefault(id(leaf), leaf)
    return tuple(found.values())


def met(f: Callable[..., Tensor], t: Tensor, y: Tensor, args: Any) -> list[Tensor]:
    """Tensors that one call of ``f`` uses beside its time and state, and the leaves of ``args``."""
    with torch.no_grad(), _Watch(every=True) as watch:
        f(t, y) if args is None else f(t, y, args)
    found = {id(x): x for x in _tensors(args)}
    found |= {id(x): x for x in watch.found.values() if x is not t and x is not y}
    return list(found.values())


def _check(params: Sequence[Tensor]) -> None:
    """Refuse a ``params`` that is not a sequence of tensors."""
    if isinstance(params, Tensor) or not all(isinstance(p, Tensor) for p in params):
        raise OptionError("params must be a sequence of tensors, such as list(model.parameters()).")


def _tensors(tree: Any) -> Iterator[Tensor]:
    """Tensors among the leaves of nested tuples, lists and dicts."""
    for x in tree if type(tree) in (tuple, list) else (tree,):
        if isinstance(x, Tensor):
            yield x
        elif type(x) in (tuple, list):
            yield from _tensors(x)
        elif not isinstance(x, (int, float, str, type(None), torch.dtype, torch.device)):
            yield from (y for y in pytree.tree_leaves(x) if isinstance(y, Tensor))


def _leaves(result: Tensor, known: Sequence[Tensor]) -> Iterator[Tensor]:
    """Leaves of the graph of ``result``, not looking behind tensors that are known."""
    stop = {x.grad_fn for x in known if x.grad_fn is not None}
    seen, waiting = set(stop), [result.grad_fn]
    while waiting:
        node = waiting.pop()
        if node is None or node in seen:
            continue
        seen.add(node)
        if hasattr(node, "variable"):
            yield node.variable
        waiting += [following for following, _ in node.next_functions]


def tangled(tensors: Sequence[Tensor]) -> bool:
    """True if one of the tensors was computed from another, so that a gradient would pass through both."""
    computed = [x.grad_fn for x in tensors if x.grad_fn is not None]
    leaves = {id(x) for x in tensors if x.grad_fn is None}
    seen: set[Any] = set()
    waiting = [following for node in computed for following, _ in node.next_functions]
    known = set(computed)
    while waiting:
        node = waiting.pop()
        if node is None or node in seen:
            continue
        if node in known or id(getattr(node, "variable", None)) in leaves:
            return True
        seen.add(node)
        waiting += [following for following, _ in node.next_functions]
    return False


class Swapped(TorchFunctionMode):
    """Let operations see ``substitutes`` wherever they are given ``originals``."""

    def __init__(self, originals: Sequence[Tensor], substitutes: Sequence[Tensor]) -> None:
        super().__init__()
        self._by_id = {id(a): b for a, b in zip(originals, substitutes, strict=True)}

    def __torch_function__(
        self, func: Callable[..., Any], types: Any, args: tuple[Any, ...] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        return func(*map(self._swap, args), **{name: self._swap(x) for name, x in (kwargs or {}).items()})

    def _swap(self, x: Any) -> Any:
        """Swap a tensor, or those in the sequences that operations take."""
        if type(x) in (list, tuple):
            return type(x)(map(self._swap, x))
        return self._by_id.get(id(x), x)


def own_shares(params: Sequence[Tensor]) -> tuple[Sequence[Tensor], contextlib.AbstractContextManager[Any]]:
    """Give tensors to differentiate by, and a context in which the field uses them.

    Of tensors that were computed from each other, each is to get its own share only: the field sees copies.
    """
    if not tangled(params):
        return params, contextlib.nullcontext()
    bare = [p.detach().requires_grad_() for p in params]
    return bare, Swapped(params, bare)


class Gate:
    """Copies of tensors through which no gradient passes while the gate is closed."""

    def __init__(self) -> None:
        self.closed = False

    def __call__(self, x: Tensor) -> Tensor:
        """Copy a tensor; the copy is connected to it while the gate is open."""
        return _Gated.apply(x, self)


class _Gated(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor, gate: Gate) -> Tensor:
        ctx.gate = gate
        return x.view_as(x)

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, None]:
        return (None if ctx.gate.closed else grad), None
