"""How far tau-leaping may leap: the step selection of Cao, Gillespie and Petzold."""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor

from scidyn.solvers.ctmc.reaction_network import ReactionNetwork

__all__ = ["LeapBound", "species_factors"]


class LeapBound(NamedTuple):
    """What the step selection needs to know of a network.

    Attributes
    ----------
    epsilon : float
        Largest relative change of a propensity during a leap.
    critical_count : float
        A reaction within this many firings of exhausting a reactant is critical.
    stoichiometry : Tensor, shape (R, S)
        Net change of each reaction.
    order : Tensor, shape (S,)
        Highest order of a reaction that consumes the species; 0 if none does.
    same : Tensor, shape (S,)
        Largest number of molecules of the species among its reactions of that order.
    mass_action : bool
        True if propensities vanish by construction where a reactant is missing.
    """

    epsilon: float
    critical_count: float
    stoichiometry: Tensor
    order: Tensor
    same: Tensor
    mass_action: bool

    @classmethod
    def of(cls, network: ReactionNetwork, epsilon: float, critical_count: float) -> LeapBound:
        """Collect the orders of ``network``."""
        takes = network.reactants > 0
        total = network.reactants.sum(-1, keepdim=True)
        order = torch.where(takes, total, 0.0).amax(0)
        highest = takes & (total == order)
        same = torch.where(highest, network.reactants, 0.0).amax(0)
        return cls(epsilon, critical_count, network.stoichiometry, order, same, network.mass_action)

    def critical(self, x: Tensor, rates: Tensor) -> Tensor:
        """Reactions that could exhaust a reactant within a few firings, (B, R)."""
        return (rates > 0) & (self._firings(x) < self.critical_count)

    def starved(self, x: Tensor, rates: Tensor) -> Tensor:
        """Rows (B,) where a reaction has a rate although it lacks molecules; never so with mass action."""
        if self.mass_action:
            return torch.zeros(len(x), dtype=torch.bool, device=x.device)
        return ((rates > 0) & (self._firings(x) < 1)).any(-1)

    def _firings(self, x: Tensor) -> Tensor:
        """How often each reaction could fire before a reactant runs out, (B, R)."""
        used = -self.stoichiometry
        return torch.where(used > 0, torch.floor(x.unsqueeze(-2) / used.clamp_min(1.0)), torch.inf).amin(-1)

    def leap(self, x: Tensor, rates: Tensor, critical: Tensor) -> Tensor:
        """Longest leap (B,) that keeps the mean and spread of every propensity's change within bounds."""
        calm = torch.where(critical, 0.0, rates)
        mean = (calm @ self.stoichiometry).abs()
        spread = calm @ self.stoichiometry**2
        allowed = (self.epsilon * x / species_factors(x, self.order, self.same)).clamp_min(1.0)
        both = torch.minimum(allowed / mean, allowed**2 / spread)
        counted = (self.order > 0) & (spread > 0)
        return torch.where(counted, both, torch.inf).amin(-1)


def species_factors(x: Tensor, order: Tensor, same: Tensor) -> Tensor:
    """The factors g_s(x): relative change of a propensity per relative change of the species' count."""
    one = 1.0 / (x - 1.0).clamp_min(1.0)
    two = 2.0 / (x - 2.0).clamp_min(1.0)
    pair = torch.where(same >= 2, 2.0 + one, 2.0)
    triple = torch.where(same >= 3, 3.0 + one + two, torch.where(same == 2, 1.5 * (2.0 + one), 3.0))
    factors = torch.where(order >= 3, triple, torch.where(order == 2, pair, 1.0))
    return torch.where(order > 3, order * factors / 3.0, factors)
