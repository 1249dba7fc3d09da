"""Drift and diffusion of a stochastic differential equation as the steppers see them."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

__all__ = ["Terms"]


class Terms:
    """``dy = f(t, y) dt + g(t, y) dW`` on states of shape (B, *state).

    Parameters
    ----------
    drift, diffusion : callable
        ``f(t, y)`` or ``f(t, y, args)`` of the shape of ``y``; ``g`` of the same shape (elementwise
        noise) or of shape (B, D, m).
    args : object
        Third argument of both; None means that they take two.
    noise : str
        "diagonal", "additive", "scalar" or "general".
    calculus : str
        "ito" or "stratonovich".
    matrix : bool
        True if ``g`` has shape (B, D, m).
    channels : tuple of int
        Shape of one increment of the Brownian motion without the batch.
    """

    def __init__(
        self,
        drift: Callable[..., Tensor],
        diffusion: Callable[..., Tensor],
        args: Any,
        noise: str,
        calculus: str,
        matrix: bool = False,
        channels: tuple[int, ...] = (),
    ) -> None:
        self.drift, self.diffusion, self.args = drift, diffusion, args
        self.noise, self.calculus = noise, calculus
        self.matrix, self.channels = matrix, channels
        self.estimating = False  # True while steps are chosen by their error estimates
        if args is None:  # one call less for each evaluation
            self.f, self.g = drift, diffusion
        else:
            self.f = lambda t, y: drift(t, y, args)
            self.g = lambda t, y: diffusion(t, y, args)

    def move(self, y: Tensor, g: Tensor, x: Tensor, scale: float = 1.0) -> Tensor:
        """``y + scale · g x``."""
        if not self.matrix:
            return torch.addcmul(y, g, x, value=scale)
        return torch.baddbmm(y.unsqueeze(-1), g, x.unsqueeze(-1), alpha=scale).squeeze(-1)

    def product(self, g: Tensor, x: Tensor) -> Tensor:
        """``g x``."""
        return g * x if not self.matrix else torch.bmm(g, x.unsqueeze(-1)).squeeze(-1)

    def outer(self, y: Tensor, x: Tensor) -> Tensor:
        """Cotangent of ``g`` in ``y · (g x)``."""
        return y * x if not self.matrix else y.unsqueeze(-1) * x.unsqueeze(-2)

    def slope(self, t: Tensor, y: Tensor) -> tuple[Tensor, Tensor]:
        """``g`` and, for each noise channel, the derivative of ``g`` along that channel of ``g``.

        Elementwise noise gives ``g' g`` of the shape of ``y``; a matrix of shape (B, D, m) gives a
        list stacked to (B, D, m, m) whose entry [..., j, k] is ``(∂ g_j) g_k``.
        """
        if not self.matrix:
            g = self.g(t, y)
            return g, _directional(lambda state: self.g(t, state), y, g)
        g = self.g(t, y)
        columns = [_directional(lambda state: self.g(t, state), y, g[..., k]) for k in range(g.shape[-1])]
        return g, torch.stack(columns, dim=-1)


def _directional(function: Callable[[Tensor], Tensor], y: Tensor, direction: Tensor) -> Tensor:
    """Derivative of ``function`` at ``y`` along ``direction``; zero if it does not depend on ``y``."""
    result: Tensor = torch.func.jvp(function, (y,), (direction,))[1]
    return result
