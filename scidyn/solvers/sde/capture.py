"""Find the tensors that drift and diffusion depend on and that need gradients."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode

__all__ = ["Leaves", "needed", "swapping"]


class _Recorder(TorchFunctionMode):
    """Keep every tensor with ``requires_grad`` that enters an operation and was not made inside."""

    def __init__(self) -> None:
        super().__init__()
        self.found: dict[int, Tensor] = {}
        self.made: dict[int, Tensor] = {}

    def __torch_function__(
        self, func: Callable[..., Any], types: Any, args: Sequence[Any] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        """Look at the arguments, call, and remember what came out."""
        kwargs = kwargs or {}
        for x in torch.utils._pytree.tree_leaves((args, kwargs)):
            if isinstance(x, Tensor) and x.requires_grad and id(x) not in self.made:
                self.found[id(x)] = x
        result = func(*args, **kwargs)
        for x in torch.utils._pytree.tree_leaves(result):
            if isinstance(x, Tensor) and id(x) not in self.found:
                self.made[id(x)] = x
        return result


def needed(call: Callable[[], Any], owners: Sequence[Any], given: Sequence[Tensor] | None) -> list[Tensor]:
    """Tensors to differentiate: those given, or the owners' parameters and what ``call`` touches."""
    if given is not None:
        return [p for p in given if p.requires_grad]
    found: dict[int, Tensor] = {}
    for owner in owners:
        module = getattr(owner, "__self__", owner)
        if isinstance(module, nn.Module):
            found.update((id(p), p) for p in module.parameters() if p.requires_grad)
    with torch.enable_grad(), _Recorder() as recorder:
        call()
    found.update(recorder.found)
    return list(found.values())


class _Swap(TorchFunctionMode):
    """Put other tensors in the place of some, wherever they enter an operation."""

    def __init__(self, instead: dict[int, Tensor]) -> None:
        super().__init__()
        self.instead = instead

    def __torch_function__(
        self, func: Callable[..., Any], types: Any, args: Sequence[Any] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        """Swap the arguments and call."""

        def swap(x: Any) -> Any:
            return self.instead.get(id(x), x) if isinstance(x, Tensor) else x

        args, kwargs = torch.utils._pytree.tree_map(swap, (tuple(args), kwargs or {}))
        return func(*args, **kwargs)


class Leaves:
    """The tensors of a solve as leaves of the graphs that the backward sweep makes.

    A tensor that was itself computed (the output of an encoder, say) is replaced by a copy cut
    off from its history while a step is rerun, so that its history is walked once, by autograd,
    after the sweep.
    """

    def __init__(self, ids: Sequence[int], tensors: Sequence[Tensor]) -> None:
        self.tensors = [x if x.is_leaf else x.detach().requires_grad_() for x in tensors]
        pairs = zip(ids, self.tensors, tensors, strict=True)
        self.instead = {key: leaf for key, leaf, x in pairs if leaf is not x}

    @contextlib.contextmanager
    def recording(self) -> Any:
        """Record a graph that ends at the leaves."""
        with torch.enable_grad(), swapping(self.instead):
            yield


def swapping(instead: dict[int, Tensor]) -> Any:
    """Context in which operations see other tensors in the place of those with these ids."""
    return _Swap(instead) if instead else contextlib.nullcontext()
