"""Drift and diffusion as the steppers see them."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

__all__ = ["Terms"]


class Terms:
    """``dy = f(t, y) dt + g(t, y) dW`` for a batch of states.

    Parameters
    ----------
    drift, diffusion : callable
        ``f(t, y)`` and ``g(t, y)``, or with ``args`` as a third argument.
    args : object
        Third argument; None means that the functions take two.
    matrix : bool
        True if g returns (B, D, m), to be multiplied with (B, m); False for an entry-wise product.
    """

    def __init__(self, drift: Callable[..., Tensor], diffusion: Callable[..., Tensor], args: Any, matrix: bool) -> None:
        self.drift, self.diffusion, self.args, self.matrix = drift, diffusion, args, matrix
        self.f: Callable[[Tensor, Tensor], Tensor] = drift if args is None else lambda t, y: drift(t, y, args)
        self.g: Callable[[Tensor, Tensor], Tensor] = diffusion if args is None else lambda t, y: diffusion(t, y, args)

    def add(self, y: Tensor, g: Tensor, w: Tensor, factor: float = 1.0) -> Tensor:
        """``y + factor g w`` as a new tensor."""
        if self.matrix:
            return torch.add(y, torch.matmul(g, w.unsqueeze(-1)).squeeze(-1), alpha=factor)
        return torch.addcmul(y, g, w, value=factor)

    def derivative(self, t: Tensor, y: Tensor, along: Tensor) -> tuple[Tensor, Tensor]:
        """``g`` and its directional derivative ``(∂g/∂y) · along``."""
        result: tuple[Any, ...] = torch.func.jvp(lambda state: self.g(t, state), (y,), (along,))
        return result[0], result[1]
