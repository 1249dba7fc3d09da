"""A discrete entropic transport problem in units of ε: cost, weights, and how strictly the marginals bind."""

from __future__ import annotations

from dataclasses import dataclass, replace

import torch
from torch import Tensor

from scidyn.transport.cost import Cost

__all__ = ["Problem", "wide"]


def wide(device: torch.device) -> torch.dtype:
    """The widest floating dtype of a device: float64 but for Apple's Metal."""
    return torch.float32 if device.type == "mps" else torch.float64


@dataclass(frozen=True)
class Problem:
    """Weights are in the widest dtype; the cost gives tiles in the dtype of the kernel.

    Attributes
    ----------
    cost : Cost
        Shape (n, m).
    a, b : Tensor, shapes (n,) and (m,)
        Weights ≥ 0.
    epsilon : float
        Entropic regularisation in units of the cost.
    tau_a, tau_b : float
        ``λ / (λ + ε)`` of the two marginal penalties; 1 for a marginal that must be met.
    """

    cost: Cost
    a: Tensor
    b: Tensor
    epsilon: float
    tau_a: float = 1.0
    tau_b: float = 1.0

    @property
    def balanced(self) -> bool:
        """True if both marginals must be met."""
        return self.tau_a == 1.0 and self.tau_b == 1.0

    @property
    def T(self) -> Problem:
        """The same problem seen from the other side."""
        return Problem(self.cost.T, self.b, self.a, self.epsilon, self.tau_b, self.tau_a)

    def at(self, epsilon: float) -> Problem:
        """The same problem, penalties included, at another ε."""
        taus = [
            1.0 if tau == 1.0 else (lam := tau * self.epsilon / (1.0 - tau)) / (lam + epsilon)
            for tau in (self.tau_a, self.tau_b)
        ]
        return replace(self, epsilon=epsilon, tau_a=taus[0], tau_b=taus[1])

    def offsets(self) -> tuple[Tensor, Tensor]:
        """The separable parts of ``C / ε`` in the widest dtype."""
        p, q = self.cost.offsets()
        return p.to(self.a.dtype) / self.epsilon, q.to(self.b.dtype) / self.epsilon

    def mass_by_rows(self, phi: Tensor) -> Tensor:
        """Mass of the plan if ``phi`` is optimal given the other potential."""
        if self.tau_a == 1.0:
            return self.a.sum()
        return (self.a * torch.exp(-phi * (1.0 - self.tau_a) / self.tau_a)).sum()

    def dual(self, phi: Tensor, psi: Tensor, mass: Tensor) -> Tensor:
        """Dual objective over ε, given the mass of the plan of these potentials."""
        gain = _gain(self.a, phi, self.tau_a) + _gain(self.b, psi, self.tau_b)
        return gain - mass + self.a.sum() * self.b.sum()


def _gain(weights: Tensor, potential: Tensor, tau: float) -> Tensor:
    """``Σ a φ``, or its concave version under a penalty."""
    if tau == 1.0:
        return torch.where(weights > 0, weights * potential, 0.0).sum()
    stiffness = tau / (1.0 - tau)
    return -stiffness * (weights * torch.expm1(-potential / stiffness)).sum()
