"""Path divergence of a posterior from a prior with the same diffusion, as one more state."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor
from torch.nn.functional import pad

from scidyn.solvers.brownian.noise import Noise
from scidyn.solvers.sde.engine import BLOCK, Source
from scidyn.solvers.sde.terms import Terms

__all__ = ["PaddedSource", "with_divergence"]

SMALLEST = 1e-7


class PaddedSource:
    """Noise with a channel of zeros for the added state of a diagonal problem."""

    def __init__(self, source: Source) -> None:
        self.source = source
        self.chunk: int = getattr(source, "chunk", BLOCK)

    def block(self, start: int, stop: int) -> Noise:
        """Noise of the steps ``start … stop - 1``, stacked."""
        return self.source.block(start, stop).map(lambda x: pad(x, (0, 1)))


def with_divergence(terms: Terms, prior: Callable[..., Tensor]) -> Terms:
    """Add the state ``q`` with ``dq = ½ |g⁻¹ (f - h)|² dt`` after the last one."""
    args = terms.args

    def h(t: Tensor, y: Tensor) -> Tensor:
        return prior(t, y) if args is None else prior(t, y, args)

    def drift(t: Tensor, z: Tensor, *_: Any) -> Tensor:
        y = z[..., :-1]
        f, g = terms.f(t, y), terms.g(t, y)
        gap = f - h(t, y)
        if terms.matrix:
            u = (torch.linalg.pinv(g) @ gap.unsqueeze(-1)).squeeze(-1)
        else:
            u = gap / torch.where(g.abs() < SMALLEST, torch.full_like(g, SMALLEST).copysign(g), g)
        return torch.cat([f, 0.5 * u.square().sum(-1, keepdim=True)], dim=-1)

    def diffusion(t: Tensor, z: Tensor, *_: Any) -> Tensor:
        g = terms.g(t, z[..., :-1])
        return pad(g, (0, 0, 0, 1)) if terms.matrix else pad(g, (0, 1))

    return Terms(drift, diffusion, None, terms.matrix)
