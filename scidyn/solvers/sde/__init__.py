"""Stochastic differential equations: methods, gradients, adaptive steps, Langevin dynamics."""

from __future__ import annotations

from scidyn.solvers.sde.solve import SDESolution, solve_sde

__all__ = ["SDESolution", "solve_sde"]
