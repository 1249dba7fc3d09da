"""Stochastic differential equations: methods, gradients, adaptive steps, Langevin dynamics."""

from __future__ import annotations

from scidyn.solvers.sde.langevin import solve_langevin
from scidyn.solvers.sde.solve import SDESolution, solve_sde

__all__ = ["SDESolution", "solve_langevin", "solve_sde"]
