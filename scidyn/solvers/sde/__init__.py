"""Stochastic differential equations: solver, methods, gradients, Langevin dynamics."""

from __future__ import annotations

from scidyn.solvers.sde.langevin import LangevinSolution, solve_langevin
from scidyn.solvers.sde.solution import SDESolution
from scidyn.solvers.sde.solve import solve_sde

__all__ = ["LangevinSolution", "SDESolution", "solve_langevin", "solve_sde"]
