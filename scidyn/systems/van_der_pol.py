"""The Van der Pol oscillator."""

from __future__ import annotations

import torch
from torch import Tensor

from scidyn.systems.system import Parameter, StateVariable, System

__all__ = ["VanDerPol"]


class VanDerPol(System):
    """Relaxation oscillator: ``x' = v``, ``v' = μ (1 − x²) v − x``.

    State ``(x, v)``, shape ``(*batch, 2)``. Every orbit but the origin tends to one limit cycle
    of amplitude near 2; its period tends to ``(3 − 2 ln 2) μ`` for large μ, where the equation
    is stiff.

    Good values: μ 1 to 5 for explicit methods, 1000 as a stiff test problem.

    Parameters
    ----------
    mu : float
        Strength of the nonlinear damping, 1/time.

    Raises
    ------
    scidyn.errors.OptionError
        If a parameter is unknown or not a finite number.

    Examples
    --------
    >>> import torch
    >>> from scidyn.systems import VanDerPol
    >>> VanDerPol(mu=5.0)(torch.tensor(0.0), torch.tensor([2.0, 1.0]))
    tensor([  1., -17.])

    References
    ----------
    B. van der Pol, On relaxation-oscillations, Phil. Mag. 2, 978–992, 1926.
    """

    states = (StateVariable("x", "displacement"), StateVariable("v", "velocity"))
    parameters = (Parameter("mu", 5.0, 0.0, 1e6, {"time": -1}, "μ", "nonlinear damping"),)
    initial = (2.0, 0.0)
    equation = "x' = v,  v' = μ (1 − x²) v − x"
    reference = "van der Pol 1926"

    def vector_field(self, t: Tensor, y: Tensor, theta: Tensor) -> Tensor:
        """Evaluate ``(v, μ (1 − x²) v − x)``; shapes as in :meth:`System.vector_field`."""
        (mu,) = theta.unbind(-1)
        x, v = y.unbind(-1)
        return torch.stack([v, mu * (1 - x * x) * v - x], dim=-1)
