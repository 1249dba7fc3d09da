"""Finding the tensors that drift and diffusion depend on, closures included."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode
from torch.utils._pytree import tree_leaves

__all__ = ["dependencies"]


class _Watch(TorchFunctionMode):
    """Record tensors that need a gradient and enter an operation without having been made inside."""

    def __init__(self) -> None:
        super().__init__()
        self.found: dict[int, Tensor] = {}
        self.made: dict[int, Tensor] = {}

    def __torch_function__(
        self, func: Callable[..., Any], types: Any, args: Sequence[Any] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        for x in tree_leaves((args, kwargs or {})):
            if isinstance(x, Tensor) and x.requires_grad and id(x) not in self.made:
                self.found[id(x)] = x
        result = func(*args, **(kwargs or {}))
        for x in tree_leaves(result):
            if isinstance(x, Tensor) and id(x) not in self.found:
                self.made[id(x)] = x
        return result


def _modules(functions: Iterable[Any]) -> Iterable[nn.Module]:
    """Modules among the functions, the objects they are methods of, and their closures."""
    for f in functions:
        for candidate in (f, getattr(f, "__self__", None), *(_cells(f))):
            if isinstance(candidate, nn.Module):
                yield candidate


def _cells(f: Any) -> Iterable[Any]:
    """What a closure holds; empty cells are passed over."""
    for cell in getattr(f, "__closure__", None) or ():
        try:
            yield cell.cell_contents
        except ValueError:  # a name that is not bound yet
            continue


def dependencies(calls: Iterable[Callable[[], Any]], functions: Iterable[Any]) -> list[Tensor]:
    """Tensors that need a gradient and on which the results of ``calls`` depend."""
    found = {id(p): p for module in _modules(functions) for p in module.parameters() if p.requires_grad}
    with torch.enable_grad(), _Watch() as watch:
        for call in calls:
            call()
    return list({**found, **watch.found}.values())
