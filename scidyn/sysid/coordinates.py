"""How parameters and initial states are coordinates of a least-squares problem."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, NamedTuple

import torch
from torch import Tensor

from scidyn.sysid.observations import Observations
from scidyn.sysid.units import unit_factors

if TYPE_CHECKING:
    from scidyn.systems import System

__all__ = ["Coordinates", "coordinates_of"]


class Coordinates(NamedTuple):
    """How the parameters and initial states of a fit are coordinates of a least-squares problem.

    A problem's vector is ``(g(θ), g(y0 of row 1), g(y0 of row 2), …)`` with ``g`` the logarithm where
    flagged and the identity elsewhere.

    Attributes
    ----------
    log_parameters : Tensor of bool, shape (parameter,)
        Parameters with the lower bound zero.
    log_states : Tensor of bool, shape (state,)
        States that cannot be negative.
    lower, upper : Tensor, shape (parameter,)
        Bounds of the parameters, already in coordinates.
    """

    log_parameters: Tensor
    log_states: Tensor
    lower: Tensor
    upper: Tensor

    @property
    def sizes(self) -> tuple[int, int]:
        """Numbers of parameters and states."""
        return len(self.log_parameters), len(self.log_states)

    def pack(self, theta: Tensor, y0: Tensor) -> Tensor:
        """Coordinates (*K, P) of parameters (*K, parameter) and initial states (*K, row, state)."""
        parts = _forward(theta, self.log_parameters), _forward(y0, self.log_states).flatten(-2)
        return torch.cat(parts, dim=-1)

    def unpack(self, z: Tensor) -> tuple[Tensor, Tensor]:
        """Parameters (*K, parameter) and initial states (*K, row, state) of coordinates."""
        count, states = self.sizes
        theta, y0 = z[..., :count], z[..., count:]
        return _back(theta, self.log_parameters), _back(y0.unflatten(-1, (-1, states)), self.log_states)

    def bounds(self, rows: int) -> tuple[Tensor, Tensor]:
        """Bounds (P,) of a problem with ``rows`` initial states."""
        free = self.lower.new_full((rows * len(self.log_states),), torch.inf)
        return torch.cat([self.lower, -free]), torch.cat([self.upper, free])


def _forward(x: Tensor, log: Tensor) -> Tensor:
    return torch.where(log, torch.where(log, x, 1.0).log(), x)


def _back(z: Tensor, log: Tensor) -> Tensor:
    return torch.where(log, torch.where(log, z, 0.0).exp(), z)


def coordinates_of(system: System, obs: Observations, columns: Sequence[int], scale: Tensor) -> Coordinates:
    """Logarithms where values cannot be negative, and the system's bounds in the units of the record."""
    parameters = system.parameters
    log = torch.tensor([p.lower == 0.0 for p in parameters])
    # bounds hold in the system's own units; a bound on a rate per state moves with the state's units
    factors = unit_factors(system, scale).clamp_min(1.0)
    lower = torch.tensor([p.lower for p in parameters], dtype=scale.dtype)
    upper = torch.tensor([p.upper for p in parameters], dtype=scale.dtype) * factors
    lower = torch.where(lower < 0, lower * factors, lower)
    positive = [s.positive for s in system.states]
    for k, column in enumerate(columns):
        seen = obs.batch.y[..., k][obs.batch.mask[..., k]]
        positive[column] = obs.noise == "lognormal" or (positive[column] and bool((seen > 0).all()))
    return Coordinates(
        log,
        torch.tensor(positive),
        torch.where(log, torch.full_like(lower, -torch.inf), lower),
        torch.where(log, upper.log(), upper),
    )
