"""Functions of plain tensors under any stack of ``torch.func`` transforms, with rules of their own for each.

Mapped, such a function is another one of larger tensors. Differentiated, it is again such a function, which can
be mapped and differentiated in its turn.
"""

from __future__ import annotations

import dataclasses
from typing import Any, Protocol

import torch
from torch import Tensor

__all__ = ["Physical", "Transformed"]


class Physical(Protocol):
    """A differentiable function of plain tensors that knows its mapped version.

    Attributes
    ----------
    single : bool
        True if it gives one tensor, False if a tuple.
    """

    @property
    def single(self) -> bool: ...  # noqa: D102

    def __call__(self, *tensors: Tensor) -> Any:
        """Evaluate; differentiable by autograd where that records."""

    def over(self, count: int) -> Physical:
        """Give the function of tensors that all have a new leading axis of this size."""


@dataclasses.dataclass(frozen=True, eq=False)
class _Vjp:
    """Gradients of a function with respect to the ``wanted`` of its tensors, from that of its result."""

    inner: Physical
    wanted: tuple[bool, ...]
    single: bool = False

    def over(self, count: int) -> _Vjp:
        """Map the function."""
        return dataclasses.replace(self, inner=self.inner.over(count))

    def __call__(self, *tensors: Tensor) -> tuple[Tensor, ...]:
        again = torch.is_grad_enabled()
        count = len(self.wanted)
        with torch.enable_grad():
            inputs = [
                x if not need or (again and x.requires_grad) else x.detach().requires_grad_()
                for x, need in zip(tensors[:count], self.wanted, strict=True)
            ]
            results = _several(self.inner(*inputs))
            chosen = [x for x, need in zip(inputs, self.wanted, strict=True) if need]
            known = [(r, g) for r, g in zip(results, tensors[count:], strict=True) if r.requires_grad]
            if not known:
                return tuple(torch.zeros_like(x) for x in chosen)
            return torch.autograd.grad(
                [r for r, _ in known],
                chosen,
                [g for _, g in known],
                create_graph=again,
                allow_unused=True,
                materialize_grads=True,
            )


@dataclasses.dataclass(frozen=True, eq=False)
class _Jvp:
    """Tangents of the results of a function: the transpose of its transposed product."""

    inner: Physical
    count: int
    single: bool = False

    def over(self, count: int) -> _Jvp:
        """Map the function."""
        return dataclasses.replace(self, inner=self.inner.over(count))

    def __call__(self, *tensors: Tensor) -> tuple[Tensor, ...]:
        again = torch.is_grad_enabled()
        options: dict[str, Any] = {"allow_unused": True, "materialize_grads": True}
        with torch.enable_grad():
            inputs = [x if again and x.requires_grad else x.detach().requires_grad_() for x in tensors[: self.count]]
            results = _several(self.inner(*inputs))
            weights = [torch.zeros_like(r, requires_grad=True) for r in results]
            known = [(r, w) for r, w in zip(results, weights, strict=True) if r.requires_grad]
            if not known:
                return tuple(torch.zeros_like(r) for r in results)
            pulled = torch.autograd.grad(
                [r for r, _ in known], inputs, [w for _, w in known], create_graph=True, **options
            )
            linear = [(p, v) for p, v in zip(pulled, tensors[self.count :], strict=True) if p.requires_grad]
            return torch.autograd.grad(
                [p for p, _ in linear], weights, [v for _, v in linear], create_graph=again, **options
            )


def _several(result: Any) -> tuple[Tensor, ...]:
    """Results as a tuple."""
    return (result,) if isinstance(result, Tensor) else tuple(result)


class Transformed(torch.autograd.Function):
    """Evaluate a function of plain tensors under any stack of transforms.

    The function is not a tuple, whose tensors a transform would replace.
    """

    @staticmethod
    def forward(physical: Physical, *tensors: Tensor) -> Any:
        """Evaluate without recording."""
        result = physical(*tensors)
        return result.detach() if isinstance(result, Tensor) else tuple(x.detach() for x in result)

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Any, ...], output: Any) -> None:
        """Keep the tensors for either kind of derivative."""
        ctx.physical, *tensors = inputs
        ctx.save_for_backward(*tensors)
        ctx.save_for_forward(*tensors)

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor | None, ...]:
        """Pull back by the adjoint of the solve."""
        wanted = tuple(ctx.needs_input_grad[1:])
        if not any(wanted):
            return (None,) * (len(wanted) + 1)
        found = iter(Transformed.apply(_Vjp(ctx.physical, wanted), *ctx.saved_tensors, *grads))
        return None, *(next(found) if need else None for need in wanted)

    @staticmethod
    def jvp(ctx: Any, _: None, *tangents: Tensor | None) -> Any:
        """Push tangents forward."""
        saved = ctx.saved_tensors
        known = [torch.zeros_like(x) if v is None else v for x, v in zip(saved, tangents, strict=True)]
        found = Transformed.apply(_Jvp(ctx.physical, len(saved)), *saved, *known)
        return found[0] if ctx.physical.single else found

    @staticmethod
    def vmap(info: Any, in_dims: tuple[int | None, ...], physical: Physical, *tensors: Tensor) -> tuple[Any, Any]:
        """Solve for all copies as one batch."""
        count: int = info.batch_size
        rows = [
            x.unsqueeze(0).expand(count, *x.shape) if dim is None else x.movedim(dim, 0)
            for x, dim in zip(tensors, in_dims[1:], strict=True)
        ]
        result = Transformed.apply(physical.over(count), *rows)
        return result, 0 if isinstance(result, Tensor) else (0,) * len(result)
