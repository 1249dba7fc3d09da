"""The Lotka–Volterra predator–prey equation."""

from __future__ import annotations

import torch
from torch import Tensor

from scidyn.systems.system import Parameter, StateVariable, System

__all__ = ["LotkaVolterra"]


class LotkaVolterra(System):
    """Predator and prey: ``u' = α u − β u v``, ``v' = δ u v − γ v``.

    State ``(prey u, predator v)``, shape ``(*batch, 2)``. Orbits are closed curves around the
    fixed point ``(γ/δ, α/β)``; the quantity ``δ u − γ ln u + β v − α ln v`` is conserved.

    Good values: α 0.55, β 0.028, γ 0.80, δ 0.024 per year with abundances in thousands of
    pelts, a cycle of about ten years (the Hudson Bay lynx–hare record).

    Parameters
    ----------
    alpha : float
        Growth rate of the prey, 1/time.
    beta : float
        Predation rate, 1/(time * predator).
    gamma : float
        Death rate of the predator, 1/time.
    delta : float
        Growth of the predator per prey eaten, 1/(time * prey).

    Raises
    ------
    scidyn.errors.OptionError
        If a parameter is unknown or not a finite number.

    Examples
    --------
    >>> import torch
    >>> from scidyn.systems import LotkaVolterra
    >>> LotkaVolterra(1.0, 0.1, 1.5, 0.075)(torch.tensor(0.0), torch.tensor([20.0, 10.0]))
    tensor([0., 0.])

    References
    ----------
    A. J. Lotka, Elements of Physical Biology, 1925. V. Volterra, Nature 118, 558–560, 1926.
    """

    states = (
        StateVariable("prey", "abundance of the prey", positive=True),
        StateVariable("predator", "abundance of the predator", positive=True),
    )
    parameters = (
        Parameter("alpha", 0.55, 0.0, 10.0, {"time": -1}, "α", "growth rate of the prey"),
        Parameter("beta", 0.028, 0.0, 10.0, {"time": -1, "predator": -1}, "β", "predation rate"),
        Parameter("gamma", 0.80, 0.0, 10.0, {"time": -1}, "γ", "death rate of the predator"),
        Parameter("delta", 0.024, 0.0, 10.0, {"time": -1, "prey": -1}, "δ", "predator growth per prey eaten"),
    )
    initial = (30.0, 5.0)
    equation = "u' = α u − β u v,  v' = δ u v − γ v"
    reference = "Lotka 1925; Volterra 1926"

    def vector_field(self, t: Tensor, y: Tensor, theta: Tensor) -> Tensor:
        """Evaluate ``(α u − β u v, δ u v − γ v)``; shapes as in :meth:`System.vector_field`."""
        alpha, beta, gamma, delta = theta.unbind(-1)
        prey, predator = y.unbind(-1)
        return torch.stack([prey * (alpha - beta * predator), predator * (delta * prey - gamma)], dim=-1)
