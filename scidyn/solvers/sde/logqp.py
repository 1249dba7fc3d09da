"""The path divergence of two processes that share their diffusion, as one more state."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor
from torch.nn.functional import pad

from scidyn.errors import ShapeError
from scidyn.solvers.brownian.noise import Noise
from scidyn.solvers.sde.terms import Terms

__all__ = ["PaddedNoise", "with_divergence"]

SMALLEST = 1e-7


class PaddedNoise:
    """A source of elementwise noise with one more channel, which stands still."""

    def __init__(self, source: Any, grid: list[float]) -> None:
        self.source, self.grid = source, grid

    def block(self, start: int, stop: int) -> Noise:
        """Noise of a range of steps."""
        noise: Noise = self.source.block(start, stop)
        return noise.each(lambda x: pad(x, (0, 1)))

    def increment(self, s: float, t: float) -> Noise:
        """Noise of one step."""
        noise: Noise = self.source.increment(s, t)
        return noise.each(lambda x: pad(x, (0, 1)))


def with_divergence(terms: Terms, prior: Callable[..., Tensor], like: Tensor) -> Terms:
    """Append ``dℓ = ½ ‖g⁻¹ (f - h)‖² dt`` to the state; a matrix takes its pseudo-inverse."""
    if like.ndim != 2:
        raise ShapeError(f"the path divergence needs a state of shape (batch, D); got {tuple(like.shape)}.")
    call = prior if terms.args is None else lambda t, y: prior(t, y, terms.args)

    def drift(t: Tensor, state: Tensor) -> Tensor:
        y = state[:, :-1]
        f, g = terms.f(t, y), terms.g(t, y)
        gap = f - call(t, y)
        if terms.matrix:
            u = (
                torch.linalg.lstsq(g, gap.unsqueeze(-1)).solution.squeeze(-1)
                if g.shape[1] >= g.shape[2]
                else (torch.linalg.pinv(g) @ gap.unsqueeze(-1)).squeeze(-1)
            )
        else:
            bounded = torch.where(g.abs() < SMALLEST, torch.where(g < 0, -SMALLEST, SMALLEST).to(g.dtype), g)
            u = gap / bounded
        return torch.cat([f, 0.5 * (u * u).sum(-1, keepdim=True)], dim=-1)

    def diffusion(t: Tensor, state: Tensor) -> Tensor:
        g = terms.g(t, state[:, :-1])
        return pad(g, (0, 0, 0, 1)) if terms.matrix else pad(g, (0, 1))

    return Terms(drift, diffusion, None, terms.noise, terms.calculus, terms.matrix, terms.channels)
