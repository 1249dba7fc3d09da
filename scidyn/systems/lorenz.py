"""The Lorenz equation of 1963."""

from __future__ import annotations

import torch
from torch import Tensor

from scidyn.systems.system import Parameter, StateVariable, System

__all__ = ["Lorenz63"]


class Lorenz63(System):
    """Chaotic convection: ``x' = σ (y − x)``, ``y' = x (ρ − z) − y``, ``z' = x y − β z``.

    State ``(x, y, z)``, shape ``(*batch, 3)``. At the good values σ 10, ρ 28, β 8/3 the
    attractor is chaotic with largest Lyapunov exponent 0.906 per time unit.

    Parameters
    ----------
    sigma : float
        Prandtl number, 1/time.
    rho : float
        Relative Rayleigh number, 1/time.
    beta : float
        Aspect of the convection cell, 1/time.

    Raises
    ------
    scidyn.errors.OptionError
        If a parameter is unknown or not a finite number.

    Examples
    --------
    >>> import torch
    >>> from scidyn.systems import Lorenz63
    >>> Lorenz63()(torch.tensor(0.0), torch.tensor([1.0, 1.0, 1.0]))
    tensor([ 0.0000, 26.0000, -1.6667])

    References
    ----------
    E. N. Lorenz, Deterministic nonperiodic flow, J. Atmos. Sci. 20, 130–141, 1963.
    """

    states = (
        StateVariable("x", "intensity of convection"),
        StateVariable("y", "horizontal temperature difference"),
        StateVariable("z", "deviation of the vertical temperature profile"),
    )
    parameters = (
        Parameter("sigma", 10.0, 0.0, 100.0, {"time": -1}, "σ", "Prandtl number"),
        Parameter("rho", 28.0, 0.0, 500.0, {"time": -1}, "ρ", "relative Rayleigh number"),
        Parameter("beta", 8.0 / 3.0, 0.0, 100.0, {"time": -1}, "β", "aspect of the convection cell"),
    )
    initial = (1.0, 1.0, 1.0)
    equation = "x' = σ (y − x),  y' = x (ρ − z) − y,  z' = x y − β z"
    reference = "Lorenz 1963"

    def vector_field(self, t: Tensor, y: Tensor, theta: Tensor) -> Tensor:
        """Evaluate the three rates; shapes as in :meth:`System.vector_field`."""
        sigma, rho, beta = theta.unbind(-1)
        u, v, w = y.unbind(-1)
        return torch.stack([sigma * (v - u), u * (rho - w) - v, u * v - beta * w], dim=-1)
