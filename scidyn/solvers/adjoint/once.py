"""A clear refusal of second derivatives where an adjoint gives first ones only."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from scidyn.errors import OptionError

__all__ = ["refuse_twice"]


def refuse_twice(kind: str, found: Sequence[Tensor | None], sources: Sequence[Tensor]) -> list[Tensor | None]:
    """Give the gradients ``found``, which raise an error if they are differentiated by one of ``sources``."""
    if not torch.is_grad_enabled():
        return list(found)
    return [None if x is None else _Refusal.apply(x, kind, *sources) for x in found]


class _Refusal(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, found: Tensor, kind: str, *sources: Tensor) -> Tensor:
        ctx.kind = kind
        return found.view_as(found)

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> None:
        raise OptionError(
            f"adjoint={ctx.kind!r} gives first derivatives only: pass adjoint='discrete' or 'direct' to differentiate "
            "a gradient."
        )
