"""What a stochastic solve returns beside the states."""

from __future__ import annotations

from dataclasses import dataclass

from torch import Tensor

from scidyn.solvers.solution import Solution

__all__ = ["SDESolution"]


@dataclass(frozen=True)
class SDESolution(Solution):
    """Sample paths of a stochastic differential equation.

    Attributes
    ----------
    t, y, status, stats, events, reg, valid, time_first
        As in :class:`Solution`.
    logqp : Tensor or None, shape (batch, time - 1)
        ``½ ∫ ‖g⁻¹ (f - h)‖² ds`` between neighbouring times, if a prior drift h was given; its mean
        over samples estimates the divergence of the two path measures.
    grid : Tensor, shape (steps + 1,)
        Times between which steps were taken.
    """

    logqp: Tensor | None = None
    grid: Tensor | None = None
