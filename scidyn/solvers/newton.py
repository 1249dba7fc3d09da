"""Simplified Newton iteration for the stage equations of implicit methods."""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

import torch
from torch import Tensor

from scidyn.solvers.linear.linearisation import Factored

__all__ = ["NewtonSettings", "Stage", "StageSolution", "solve_stage"]

Rate = Callable[[Tensor, Tensor], Tensor]


class NewtonSettings(NamedTuple):
    """When an iteration stops.

    Attributes
    ----------
    iterations : int
        Largest number of iterations.
    fraction : float
        The remaining error may be this part of the error allowed for the step.
    """

    iterations: int = 7
    fraction: float = 1e-2


class Stage(NamedTuple):
    """The equation ``u = h f(t, base + gamma u)`` for the increment u of one stage.

    Attributes
    ----------
    t : Tensor, shape (1,) or (batch,)
        Time of the stage.
    h : Tensor, shape (1, 1) or (batch, 1)
        Size of the step.
    base : Tensor, shape (batch, D)
        Part of the stage's state that is known.
    gamma : float
        Diagonal coefficient of the method.
    """

    t: Tensor
    h: Tensor
    base: Tensor
    gamma: float

    def residual(self, rate: Rate, u: Tensor) -> Tensor:
        """Give ``h f(t, base + gamma u) - u``."""
        return self.h * rate(self.t, torch.add(self.base, u, alpha=self.gamma)) - u


class StageSolution(NamedTuple):
    """Increment of a stage, whether each sample converged, and how fast (error left / last change)."""

    u: Tensor
    converged: Tensor
    factor: Tensor


def solve_stage(
    rate: Rate,
    stage: Stage,
    matrix: Factored,
    guess: Tensor,
    scale: Tensor,
    factor: Tensor,
    settings: NewtonSettings,
) -> StageSolution:
    r"""Iterate :math:`u \leftarrow u + M^{-1}(h f(t, z + \gamma u) - u)` until the error left is small.

    With the contraction :math:`\rho` of successive changes :math:`\delta`, the error left is
    :math:`\delta\,\rho / (1 - \rho)`. ``factor`` is :math:`\rho / (1 - \rho)` of the stage before, which
    allows the first change to be the last. Samples that have converged or diverged are frozen; on a
    CPU the loop ends once no sample is left, elsewhere it runs to the end and the host reads nothing.

    References
    ----------
    E. Hairer, G. Wanner, Solving Ordinary Differential Equations II, section IV.8.
    """
    u = guess
    on_host = u.device.type == "cpu"
    allowed = settings.fraction
    active = torch.ones(u.shape[0], dtype=torch.bool, device=u.device)
    converged = ~active
    before: Tensor | None = None
    for _ in range(settings.iterations):
        change = matrix.solve(stage.residual(rate, u))
        size = stage.gamma * (change / scale).square().mean(dim=-1).sqrt()
        if before is not None:
            ratio = size / before
            slow = ratio / (1.0 - ratio)
            factor = torch.where(active, torch.where(ratio < 1.0, slow, torch.inf), factor)
        # a change at the level of rounding cannot be improved
        done = (size * factor <= allowed) | (size <= 1e-3 * allowed)
        going = torch.isfinite(size) if before is None else size <= 2.0 * before
        u = torch.where(active.unsqueeze(-1), u + change, u)
        converged = converged | (active & done)
        active = active & going & ~done
        if on_host and not bool(active.any()):
            break
        before = size
    return StageSolution(u, converged, factor)
